//! Bytes as a ticket, as its claims (signed well, and not), and as a set of keys.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use relay::admission::claims::{Claims, Grant};
use relay::admission::key::{Algorithm, KeySet, MAX_KEYS};
use relay::admission::sign::SigningKey;
use relay::admission::{Refusal, jws};

struct Keys {
    all: Vec<SigningKey>,
    set: KeySet,
}

/// One of each kind. The same in each run, so that an input means the same.
fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let jwks = [
            r#"{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}"#,
            r#"{"kty":"EC","crv":"P-256","alg":"ES256","kid":"b","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}"#,
            r#"{"kty":"oct","alg":"HS256","kid":"c","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#,
        ];
        let all: Vec<_> = jwks.iter().map(|jwk| SigningKey::read(jwk.as_bytes()).unwrap()).collect();
        let sets = all.iter().map(|key| KeySet::read(key.public().to_string().as_bytes(), true).unwrap());
        let set = KeySet::join(sets);
        Keys { all, set }
    })
}

/// The first byte says what the others are.
pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 4 {
        0 => ticket(&String::from_utf8_lossy(rest)),
        1 => forged(*kind, rest),
        2 => claims(*kind, rest),
        _ => set(rest),
    }
}

/// Nobody can write a ticket that verifies: the secrets are not in the input.
fn ticket(text: &str) {
    let keys = keys();
    let _ = jws::has_form(text);
    assert!(keys.set.verify(text).is_err(), "{text} was let in");
    for end in [0, text.len() / 2] {
        if let Some(cut) = text.get(..end) {
            assert!(keys.set.verify(cut).is_err());
        }
    }
}

/// Any header over good claims, with a signature of anything, the public half of a key for a secret among it.
fn forged(kind: u8, header: &[u8]) {
    let payload = br#"{"get":"","exp":4000000000}"#;
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let public = keys().all[usize::from(kind / 4) % 2].public();
    let secret = match kind / 8 % 3 {
        0 => URL_SAFE_NO_PAD.decode(public["x"].as_str().unwrap()).unwrap(),
        1 => public.to_string().into_bytes(),
        _ => Vec::new(),
    };
    let tag = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret), signed.as_bytes());
    ticket(&format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag)));
}

/// Any claims: what is read can be written and read again as the same; what is signed is what is verified; and all of a
/// ticket counts: with one bit changed it is none.
fn claims(kind: u8, json: &[u8]) {
    let read = Claims::read(json);
    let keys = keys();
    let key = &keys.all[usize::from(kind / 4) % keys.all.len()];
    let text = String::from_utf8_lossy(json);
    let signed = key.sign_raw(&text).unwrap();
    match (keys.set.verify(&signed), read) {
        (Ok(verified), Ok(claims)) => {
            assert_eq!(verified.claims, claims);
            assert!(!claims.grant.is_empty() && claims.sessions != Some(0));
            assert!(Grant::all().covers(&claims.grant));
            let again = Claims::read(claims.to_json().as_bytes()).unwrap();
            assert_eq!(again, claims);
            let at = usize::from(kind) * 7 % signed.len();
            let mut changed = signed.clone().into_bytes();
            changed[at] ^= 1;
            if let Ok(changed) = String::from_utf8(changed) {
                assert!(keys.set.verify(&changed).is_err(), "{changed} was let in");
            }
        }
        (Err(Refusal::Malformed(_)), _) => {}
        // A lossy text is another one than the bytes.
        (Ok(_), Err(_)) if text.as_bytes() != json => {}
        (verified, read) => panic!("{verified:?}, but {read:?}"),
    }
}

/// Any set: never more keys than there may be, never a secret from elsewhere, and nothing verifies by accident.
fn set(json: &[u8]) {
    for local in [true, false] {
        let Ok(set) = KeySet::read(json, local) else { continue };
        assert!((1..=MAX_KEYS).contains(&set.len()));
        for key in &keys().all {
            let ticket = key.sign_raw(r#"{"get":"","exp":4000000000}"#).unwrap();
            let verified = set.verify(&ticket);
            assert!(local || key.algorithm() != Algorithm::Hs256 || verified.is_err());
        }
    }
    let _ = SigningKey::read(json);
}
