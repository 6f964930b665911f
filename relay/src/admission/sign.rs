//! Keys that sign tickets, and how they are made.

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde::Serialize;

use super::claims::{Claims, Grant};
use super::jws;
use super::key::{Algorithm, Jwk, KeyError, SCALAR, digest, json_of, part};

enum Pair {
    EdDsa(Ed25519KeyPair),
    Es256(EcdsaKeyPair),
    Hs256(hmac::Key),
}

/// A key that signs tickets.
pub struct SigningKey {
    jwk: Jwk,
    algorithm: Algorithm,
    pair: Pair,
    scope: Option<Grant>,
}

impl SigningKey {
    /// Reads a private JSON Web Key.
    pub fn read(json: &[u8]) -> Result<Self, KeyError> {
        let jwk: Jwk = jws::object(&json_of(json)?).map_err(|error| KeyError::Json(error.to_string()))?;
        let algorithm = jwk.algorithm()?;
        if algorithm != Algorithm::Hs256 && jwk.d.is_none() {
            return Err(KeyError::Public);
        }
        let public = jwk.material(algorithm)?;
        let pair = match algorithm {
            Algorithm::EdDsa => Ed25519KeyPair::from_seed_and_public_key(&part(&jwk.d, "d")?, &public)
                .map(Pair::EdDsa)
                .map_err(|_| KeyError::Damaged("d and x do not belong together"))?,
            Algorithm::Es256 => EcdsaKeyPair::from_private_key_and_public_key(
                &ECDSA_P256_SHA256_FIXED_SIGNING,
                &part(&jwk.d, "d")?,
                &public,
                &SystemRandom::new(),
            )
            .map(Pair::Es256)
            .map_err(|_| KeyError::Damaged("d, x and y do not belong together"))?,
            Algorithm::Hs256 => Pair::Hs256(hmac::Key::new(hmac::HMAC_SHA256, &public)),
        };
        let scope = jwk.scope()?;
        Ok(Self { jwk, algorithm, pair, scope })
    }

    /// Makes a new one. Without an `id` it gets one from its own digest.
    pub fn generate(algorithm: Algorithm, id: Option<String>) -> Result<Self, KeyError> {
        let no_chance = |_| KeyError::Damaged("the system gives no random numbers");
        let random = SystemRandom::new();
        let mut jwk = Jwk { alg: Some(algorithm.name().into()), ..Jwk::default() };
        match algorithm {
            Algorithm::EdDsa => {
                let mut seed = [0; SCALAR];
                random.fill(&mut seed).map_err(no_chance)?;
                let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::Damaged("d"))?;
                (jwk.kty, jwk.crv) = ("OKP".into(), Some("Ed25519".into()));
                jwk.x = Some(jws::encode(pair.public_key().as_ref()));
                jwk.d = Some(jws::encode(&seed));
            }
            Algorithm::Es256 => {
                let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
                let document = document.map_err(no_chance)?;
                // ring's PKCS#8 of P-256 has one shape: 36 bytes, the private key, 5 bytes, the public one.
                let (private, public) = (document.as_ref().get(36..68), document.as_ref().get(73..138));
                let (Some(private), Some([4, point @ ..])) = (private, public) else {
                    return Err(KeyError::Damaged("ring writes keys in another way"));
                };
                let (x, y) = point.split_at(SCALAR);
                (jwk.kty, jwk.crv) = ("EC".into(), Some("P-256".into()));
                (jwk.x, jwk.y) = (Some(jws::encode(x)), Some(jws::encode(y)));
                jwk.d = Some(jws::encode(private));
            }
            Algorithm::Hs256 => {
                let mut secret = [0; SCALAR];
                random.fill(&mut secret).map_err(no_chance)?;
                jwk.kty = "oct".into();
                jwk.k = Some(jws::encode(&secret));
            }
        }
        jwk.key_ops = Some(vec!["sign".into()]);
        let derived = || jws::encode(&digest(&[b"kid", &jwk.material(algorithm).unwrap_or_default()])[..6]);
        jwk.kid = Some(id.unwrap_or_else(derived));
        Self::read(&serde_json::to_vec(&jwk).unwrap_or_default())
    }

    /// Its name.
    pub fn id(&self) -> Option<&str> {
        self.jwk.kid.as_deref()
    }

    /// How it signs.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// With the secret in it.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(&self.jwk).unwrap_or_default()
    }

    /// What verifies its tickets, as a JSON Web Key. Of a shared secret that is the secret again.
    pub fn public(&self) -> serde_json::Value {
        let of = |member: &Option<String>| member.clone();
        let Jwk { kty, crv, alg, kid, x, y, k, scope, .. } = &self.jwk;
        let (crv, alg, kid, x, y, k) = (of(crv), of(alg), of(kid), of(x), of(y), of(k));
        let key_ops = Some(vec!["verify".into()]);
        let (kty, scope) = (kty.clone(), scope.clone());
        let public = Jwk { kty, crv, alg, kid, x, y, k, scope, key_ops, ..Jwk::default() };
        serde_json::to_value(public).unwrap_or_default()
    }

    /// A ticket.
    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        if self.scope.as_ref().is_some_and(|scope| !scope.covers(&claims.grant)) {
            return Err(KeyError::TooWide);
        }
        self.sign_raw(&claims.to_json())
    }

    /// Any payload, which nobody looked at: for tests of what must be refused.
    pub fn sign_raw(&self, payload: &str) -> Result<String, KeyError> {
        #[derive(Serialize)]
        struct Head<'a> {
            typ: &'static str,
            alg: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            kid: Option<&'a str>,
        }
        let head = Head { typ: "JWT", alg: self.algorithm.name(), kid: self.id() };
        let head = serde_json::to_vec(&head).unwrap_or_default();
        let signed = format!("{}.{}", jws::encode(&head), jws::encode(payload.as_bytes()));
        let message = signed.as_bytes();
        let signature = match &self.pair {
            Pair::EdDsa(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Es256(pair) => pair
                .sign(&SystemRandom::new(), message)
                .map_err(|_| KeyError::Damaged("the system gives no random numbers"))?
                .as_ref()
                .to_vec(),
            Pair::Hs256(key) => hmac::sign(key, message).as_ref().to_vec(),
        };
        Ok(format!("{signed}.{}", jws::encode(&signature)))
    }
}

#[cfg(test)]
mod tests {
    use media::Time;

    use super::super::claims::{Grant, pattern};
    use super::super::key::KeySet;
    use super::*;

    fn claims(subscribe: &str) -> Claims {
        Claims {
            grant: Grant {
                subscribe: [pattern(subscribe).unwrap()].into_iter().collect(),
                ..Grant::default()
            },
            expires: Time::from_millis(4_000_000_000_000),
            not_before: None,
            issued: None,
            id: None,
            sessions: None,
        }
    }

    #[test]
    fn what_a_new_key_signs_its_public_half_verifies() {
        for algorithm in [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Hs256] {
            let key = SigningKey::generate(algorithm, None).unwrap();
            let key = SigningKey::read(key.to_json().as_bytes()).unwrap();
            let ticket = key.sign(&claims("tour/london")).unwrap();
            let set = KeySet::read(key.public().to_string().as_bytes(), true).unwrap();
            assert_eq!(set.verify(&ticket).unwrap().claims, claims("tour/london"), "{algorithm:?}");
            let other = SigningKey::generate(algorithm, key.id().map(str::to_owned)).unwrap();
            let set = KeySet::read(other.public().to_string().as_bytes(), true).unwrap();
            set.verify(&ticket).unwrap_err();
            assert_eq!(key.public()["d"], serde_json::Value::Null, "{algorithm:?}");
        }
    }

    #[test]
    fn a_ticket_is_the_same_one_in_all_its_spellings() {
        let key = SigningKey::generate(Algorithm::Es256, None).unwrap();
        let set = KeySet::read(key.public().to_string().as_bytes(), true).unwrap();
        // ECDSA signs anew each time.
        let [one, other] = [0, 1].map(|_| key.sign(&claims("a")).unwrap());
        assert_ne!(one, other);
        assert_eq!(set.verify(&one).unwrap().identity, set.verify(&other).unwrap().identity);
        let named = |id: &str, subscribe| {
            let claims = Claims { id: Some(id.into()), ..claims(subscribe) };
            set.verify(&key.sign(&claims).unwrap()).unwrap().identity
        };
        assert_eq!(named("7", "a"), named("7", "b"));
        assert_ne!(named("7", "a"), named("8", "a"));
        // Bits that say nothing are not allowed to differ.
        let padded = format!("{one}=");
        assert!(set.verify(&padded).is_err());
    }

    #[test]
    fn a_key_signs_and_verifies_for_its_scope_only() {
        let key = SigningKey::generate(Algorithm::EdDsa, None).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(&key.to_json()).unwrap();
        json["scope"] = serde_json::json!({ "root": "tour", "get": [""] });
        let scoped = SigningKey::read(json.to_string().as_bytes()).unwrap();
        scoped.sign(&claims("tour/london")).unwrap();
        assert_eq!(scoped.sign(&claims("demo")), Err(KeyError::TooWide));
        let set = KeySet::read(scoped.public().to_string().as_bytes(), true).unwrap();
        set.verify(&key.sign(&claims("tour/london")).unwrap()).unwrap();
        set.verify(&key.sign(&claims("demo")).unwrap()).unwrap_err();
    }

    #[test]
    fn keys_that_cannot_sign_say_why() {
        let key = SigningKey::generate(Algorithm::EdDsa, None).unwrap();
        assert!(matches!(SigningKey::read(key.public().to_string().as_bytes()), Err(KeyError::Public)));
        let other = SigningKey::generate(Algorithm::EdDsa, None).unwrap();
        let mut mixed = key.public();
        mixed["d"] = serde_json::from_str::<serde_json::Value>(&other.to_json()).unwrap()["d"].take();
        assert!(matches!(SigningKey::read(mixed.to_string().as_bytes()), Err(KeyError::Damaged(_))));
        for bad in ["", "{}", "null", r#"{"keys":[]}"#, r#"{"kty":"RSA"}"#] {
            assert!(SigningKey::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
