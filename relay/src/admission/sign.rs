//! Keys that sign tickets, and how they are made.

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde::Serialize;

use super::claims::{Claims, Grant};
use super::jws;
use super::key::{Algorithm, Jwk, KeyError, MAX_SET, SCALAR, digest, part};

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
        if json.len() > MAX_SET {
            return Err(KeyError::TooLong);
        }
        let jwk: Jwk = serde_json::from_slice(json).map_err(|error| KeyError::Json(error.to_string()))?;
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
