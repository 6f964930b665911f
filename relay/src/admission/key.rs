//! Keys that verify tickets: JSON Web Keys (RFC 7517, RFC 8037) of three kinds. The arithmetic is ring's.

use ring::hmac;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use super::claims::{Claims, Grant, WireGrant};
use super::jws::{self, Jws};
use super::refusal::Refusal;

/// Keys in one set: a ticket without a `kid` is tried against all of its kind.
pub const MAX_KEYS: usize = 16;

/// A longer file is no set of keys.
pub const MAX_SET: usize = 64 * 1024;

/// Bytes of a shared secret at least: as long as the tag (RFC 7518, section 3.2).
const MIN_SECRET: usize = 32;

/// Bytes of a coordinate, a secret or a seed.
pub(super) const SCALAR: usize = 32;

/// How tickets are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519.
    EdDsa,
    /// ECDSA over P-256 with SHA-256.
    Es256,
    /// HMAC with SHA-256: who can verify can sign.
    Hs256,
}

impl Algorithm {
    /// As `alg` says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Hs256 => "HS256",
        }
    }
}

impl std::str::FromStr for Algorithm {
    type Err = KeyError;

    fn from_str(name: &str) -> Result<Self, KeyError> {
        let all = [Self::EdDsa, Self::Es256, Self::Hs256];
        all.into_iter()
            .find(|one| one.name() == name)
            .ok_or_else(|| KeyError::Unknown(format!("algorithm {name:?}; there are EdDSA, ES256 and HS256")))
    }
}

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not the JSON that it should be.
    #[error("it is neither a JSON Web Key nor a set of them: {0}")]
    Json(String),
    /// Larger than any set.
    #[error("it is longer than {} kB, or has more than {MAX_KEYS} keys", MAX_SET / 1024)]
    TooLong,
    /// Something that we do not do.
    #[error("it has an unknown {0}")]
    Unknown(String),
    /// Wrong numbers.
    #[error("the key is damaged: {0}")]
    Damaged(&'static str),
    /// It belongs elsewhere.
    #[error("this is a private key, which belongs to who signs tickets: give the public set here")]
    Private,
    /// It belongs elsewhere.
    #[error("this is a public key, and only the private one can sign")]
    Public,
    /// Who can read it can sign.
    #[error("a shared secret (HS256) is taken from a file on this machine only")]
    Shared,
    /// There is none.
    #[error("there is no key in it that can verify tickets")]
    Empty,
    /// The key itself is limited.
    #[error("the key's scope is wrong: {0}")]
    Scope(String),
    /// The key itself is limited.
    #[error("the key may not sign for so much: its scope is narrower")]
    TooWide,
}

/// A key as JSON. Members that we do not know are others' business.
#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
pub(super) struct Jwk {
    pub kty: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    pub usage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_ops: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub d: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k: Option<String>,
    /// The most that its tickets may grant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<serde_json::Value>,
}

impl Jwk {
    /// What kind of key it is by its own material; what it says of itself must agree.
    pub fn algorithm(&self) -> Result<Algorithm, KeyError> {
        let algorithm = match (self.kty.as_str(), self.crv.as_deref()) {
            ("OKP", Some("Ed25519")) => Algorithm::EdDsa,
            ("EC", Some("P-256")) => Algorithm::Es256,
            ("oct", None) => Algorithm::Hs256,
            (kty, crv) => {
                return Err(KeyError::Unknown(format!("kind of key, {kty} {}", crv.unwrap_or_default())));
            }
        };
        match self.alg.as_deref() {
            // The name that newer documents give to it (RFC 9864).
            Some("Ed25519") if algorithm == Algorithm::EdDsa => {}
            Some(alg) if alg != algorithm.name() => return Err(KeyError::Damaged("alg is not of its kind")),
            _ => {}
        }
        Ok(algorithm)
    }

    /// Keys for encryption are passed over.
    fn is_for(&self, operation: &str) -> bool {
        let usage = self.usage.as_deref().is_none_or(|usage| usage == "sig");
        usage && self.key_ops.as_ref().is_none_or(|all| all.iter().any(|one| one == operation))
    }

    pub fn scope(&self) -> Result<Option<Grant>, KeyError> {
        let read = |scope: &serde_json::Value| {
            let wire = WireGrant::deserialize(scope).map_err(|error| KeyError::Scope(error.to_string()))?;
            wire.read().map_err(|error| KeyError::Scope(error.to_string()))
        };
        self.scope.as_ref().map(read).transpose()
    }

    /// What verifies: 32 bytes, the point with its leading 4, or the secret.
    pub fn material(&self, algorithm: Algorithm) -> Result<Vec<u8>, KeyError> {
        match algorithm {
            Algorithm::EdDsa => part(&self.x, "x"),
            Algorithm::Es256 => Ok([&[4][..], &part(&self.x, "x")?, &part(&self.y, "y")?].concat()),
            Algorithm::Hs256 => {
                let secret = bytes(&self.k, "k")?;
                if secret.len() < MIN_SECRET {
                    return Err(KeyError::Damaged("its secret is shorter than 32 bytes"));
                }
                Ok(secret)
            }
        }
    }
}

fn bytes(member: &Option<String>, name: &'static str) -> Result<Vec<u8>, KeyError> {
    let text = member.as_deref().ok_or(KeyError::Damaged(name))?;
    jws::decode(text).map_err(|_| KeyError::Damaged(name))
}

pub(super) fn part(member: &Option<String>, name: &'static str) -> Result<Vec<u8>, KeyError> {
    Some(bytes(member, name)?).filter(|bytes| bytes.len() == SCALAR).ok_or(KeyError::Damaged(name))
}

/// A key that verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
struct VerifyKey {
    id: Option<String>,
    algorithm: Algorithm,
    material: Vec<u8>,
    scope: Option<Grant>,
}

impl VerifyKey {
    fn read(jwk: &Jwk, local: bool) -> Result<Self, KeyError> {
        let algorithm = jwk.algorithm()?;
        if jwk.d.is_some() {
            return Err(KeyError::Private);
        }
        if algorithm == Algorithm::Hs256 && !local {
            return Err(KeyError::Shared);
        }
        let (material, scope) = (jwk.material(algorithm)?, jwk.scope()?);
        Ok(Self { id: jwk.kid.clone(), algorithm, material, scope })
    }

    fn verifies(&self, jws: &Jws<'_>) -> bool {
        let (message, signature) = (jws.signed.as_bytes(), jws.signature.as_slice());
        match self.algorithm {
            Algorithm::EdDsa => {
                UnparsedPublicKey::new(&ED25519, &self.material).verify(message, signature).is_ok()
            }
            Algorithm::Es256 => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.material)
                .verify(message, signature)
                .is_ok(),
            Algorithm::Hs256 => {
                hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &self.material), message, signature).is_ok()
            }
        }
    }
}

/// The JSON of a key file: moq's own are that in base64url.
pub(super) fn json_of(file: &[u8]) -> Result<std::borrow::Cow<'_, [u8]>, KeyError> {
    if file.len() > MAX_SET {
        return Err(KeyError::TooLong);
    }
    let text = file.trim_ascii();
    let coded = std::str::from_utf8(text).ok().filter(|text| text.starts_with("eyJ"));
    Ok(match coded.and_then(|text| jws::decode(text).ok()) {
        Some(json) => json.into(),
        None => text.into(),
    })
}

/// A set of keys that verify tickets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<VerifyKey>,
}

/// A ticket that was signed with one of the keys. Its time is not judged yet.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What it says.
    pub claims: Claims,
    /// Which ticket it is: the same for all that carry one `jti` and one key, or for one text.
    pub identity: [u8; 32],
}

impl KeySet {
    /// Reads a set, or a single key. `local`: it comes from a file of this machine, and may be a shared secret.
    /// Keys of other kinds are passed over, for a set may serve others too.
    pub fn read(json: &[u8], local: bool) -> Result<Self, KeyError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let json = &*json_of(json)?;
        let bad = |error: serde_json::Error| KeyError::Json(error.to_string());
        let value: serde_json::Value = jws::object(json).map_err(bad)?;
        let all = match value.get("keys") {
            Some(_) => serde_json::from_value::<Set>(value).map_err(bad)?.keys,
            None => vec![value],
        };
        if all.len() > MAX_KEYS {
            return Err(KeyError::TooLong);
        }
        let mut keys = Vec::new();
        for value in all {
            if !value.is_object() {
                return Err(KeyError::Json("a key is no JSON object".into()));
            }
            let jwk: Jwk = serde_json::from_value(value).map_err(bad)?;
            match VerifyKey::read(&jwk, local) {
                Ok(key) if jwk.is_for("verify") => keys.push(key),
                Ok(_) | Err(KeyError::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if keys.is_empty() { Err(KeyError::Empty) } else { Ok(Self { keys }) }
    }

    /// All keys of several sets.
    pub fn join(sets: impl IntoIterator<Item = KeySet>) -> Self {
        Self { keys: sets.into_iter().flat_map(|set| set.keys).collect() }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// No key at all.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Who signed it, and what it says. The key says how it verifies; that the ticket says the same of itself is
    /// asked too, and nothing else follows from its `alg`.
    pub fn verify(&self, ticket: &str) -> Result<Verified, Refusal> {
        let jws = Jws::read(ticket)?;
        let fits = |key: &&VerifyKey| {
            key.algorithm.name() == jws.header.alg
                && jws.header.kid.as_ref().is_none_or(|kid| key.id.as_ref() == Some(kid))
        };
        let key = self.keys.iter().filter(fits).find(|key| key.verifies(&jws)).ok_or(Refusal::Untrusted)?;
        let claims = Claims::read(&jws.payload)
            .map_err(|_| Refusal::Malformed("this relay does not understand its claims"))?;
        if key.scope.as_ref().is_some_and(|scope| !scope.covers(&claims.grant)) {
            return Err(Refusal::Untrusted);
        }
        let identity = match &claims.id {
            Some(id) => digest(&[b"id", &key.material, id.as_bytes()]),
            // Not the signature: of one text there may be many.
            None => digest(&[b"text", jws.signed.as_bytes()]),
        };
        Ok(Verified { claims, identity })
    }
}

pub(super) fn digest(parts: &[&[u8]]) -> [u8; 32] {
    use sha2::Digest;
    let mut sha = sha2::Sha256::new();
    for part in parts {
        sha.update((part.len() as u64).to_be_bytes());
        sha.update(part);
    }
    sha.finalize().into()
}

/// What a ticket says of itself, without asking who signed it: for people who want to look. Gives the name of the
/// algorithm and of the key, too.
pub fn peek(ticket: &str) -> Result<(String, Option<String>, Vec<u8>), Refusal> {
    let jws = Jws::read(ticket)?;
    Ok((jws.header.alg, jws.header.kid, jws.payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The public key, the message and the signature of the standards' own examples.
    #[test]
    fn the_examples_of_the_standards_verify() {
        // RFC 8037, appendix A.
        let eddsa = (
            r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dW\
             bhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        );
        // RFC 7515, appendix A.3 and A.1.
        let es256 = (
            r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
            "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290\
             Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        );
        let hs256 = (
            r#"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#,
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt\
             cGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        );
        for (key, token) in [eddsa, es256, hs256] {
            let set = KeySet::read(key.as_bytes(), true).unwrap();
            let jws = Jws::read(token).unwrap();
            assert!(set.keys[0].verifies(&jws), "{token}");
            let (head, _) = token.rsplit_once('.').unwrap();
            assert!(!set.keys[0].verifies(&Jws::read(&format!("{head}.AAAA")).unwrap()));
            // Signed well, but none of them is a ticket.
            assert!(matches!(set.verify(token), Err(Refusal::Malformed(_))));
        }
    }

    /// Keys and tokens that the crates moq-auth 0.2.2 and moq-token 0.7.4 made: EdDSA, ES256, HS256 of the first, EdDSA
    /// and ES256 of the second.
    #[test]
    fn tickets_of_moqs_own_tools_are_read() {
        let mut key = None;
        let mut tickets = 0;
        for line in include_str!("../../tests/corpus/moq-tokens.txt").lines() {
            if !line.contains('.') {
                key = Some(KeySet::read(line.as_bytes(), true).unwrap());
                continue;
            }
            let Verified { claims, .. } = key.as_ref().unwrap().verify(line).unwrap();
            let Grant { publish, subscribe } = &claims.grant;
            if publish.is_empty() {
                assert!(subscribe.matches("tour/a/open") && !subscribe.matches("tour/open"));
            } else {
                assert!(publish.matches("tour/london/x") && !publish.matches("tour/paris"));
                assert!(subscribe.matches("tour/paris") && !subscribe.matches("demo"));
            }
            tickets += 1;
        }
        assert_eq!(tickets, 8);
    }

    #[test]
    fn what_is_no_set_of_keys_is_said() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let many = format!("{{\"keys\":[{}]}}", vec!["{}"; MAX_KEYS + 1].join(","));
        for (bad, word) in [
            ("", "neither"),
            ("{", "neither"),
            ("[]", "neither"),
            (r#"{"keys":[]}"#, "no key"),
            (r#"{"keys":{}}"#, "neither"),
            (r#"{"keys":[{"kty":"RSA","n":"","e":"AQAB"}]}"#, "no key"),
            (r#"{"kty":"OKP","crv":"Ed25519"}"#, "damaged: x"),
            (r#"{"kty":"OKP","crv":"Ed25519","x":"AAAA"}"#, "damaged: x"),
            (&format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","d":"{x}"}}"#), "private"),
            (&format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","alg":"HS256"}}"#), "alg"),
            (&format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","use":"enc"}}"#), "no key"),
            (&format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","scope":{{"puts":""}}}}"#), "scope"),
            (r#"{"kty":"oct","k":"c2hvcnQ"}"#, "shorter"),
            (&many, "more than 16"),
            (&"x".repeat(MAX_SET + 1), "longer"),
        ] {
            let words = KeySet::read(bad.as_bytes(), true).unwrap_err().to_string();
            assert!(words.contains(word), "{bad:.80}: {words}");
        }
        let shared = format!(r#"{{"kty":"oct","k":"{x}"}}"#);
        assert_eq!(KeySet::read(shared.as_bytes(), false), Err(KeyError::Shared));
        // Others' keys in a set do not matter.
        let mixed = format!(
            r#"{{"keys":[{{"kty":"RSA"}},{{"kty":"OKP","crv":"Ed25519","x":"{x}","scope":{{"get":""}}}}]}}"#
        );
        assert_eq!(KeySet::read(mixed.as_bytes(), false).unwrap().len(), 1);
    }
}
