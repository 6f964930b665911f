//! A ticket's envelope: compact JWS (RFC 7515), read strictly. Nothing in it is believed here.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::refusal::Refusal;

/// A longer ticket is refused unread. One with ten paths has 600 bytes.
pub const MAX_TICKET: usize = 4096;

/// The header's members that mean something to us; others say nothing that narrows a ticket (RFC 7515, section 4).
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    pub alg: String,
    pub kid: Option<String>,
    /// Extensions that must be understood, and we understand none.
    crit: Option<IgnoredAny>,
}

/// A ticket taken apart.
#[derive(Debug)]
pub(super) struct Jws<'a> {
    pub header: Header,
    /// What the signature is over: the first two parts with the dot between.
    pub signed: &'a str,
    /// The claims, in JSON if all is well. To be read after the signature was verified.
    pub payload: Vec<u8>,
    pub signature: Vec<u8>,
}

impl<'a> Jws<'a> {
    pub fn read(ticket: &'a str) -> Result<Self, Refusal> {
        if ticket.len() > MAX_TICKET {
            return Err(Refusal::Malformed("it is too long"));
        }
        let (signed, signature) = ticket.rsplit_once('.').ok_or(Refusal::Malformed("it is no JWT"))?;
        let (header, payload) = signed.split_once('.').ok_or(Refusal::Malformed("it is no JWT"))?;
        let header = decode(header)?;
        // A dot in the payload is refused here: it is not in the alphabet.
        let (payload, signature) = (decode(payload)?, decode(signature)?);
        let header: Header = object(&header).map_err(|_| Refusal::Malformed("its header is wrong"))?;
        if header.crit.is_some() {
            return Err(Refusal::Malformed("it wants something that this relay does not know (crit)"));
        }
        Ok(Self { header, signed, payload, signature })
    }
}

/// Whether a text has the form of a ticket, and not of a shared word: three parts, the first of them a JSON object in
/// base64url.
pub fn has_form(text: &str) -> bool {
    text.starts_with("eyJ") && text.split('.').count() == 3
}

/// Reads a JSON object; serde would take a list for a struct, too.
pub(super) fn object<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    match json.trim_ascii_start().first() {
        Some(b'{') => serde_json::from_slice(json),
        _ => Err(serde::de::Error::custom("it is no JSON object")),
    }
}

/// Without padding, without bits left over: every sequence of bytes has one spelling only.
pub(super) fn decode(part: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed("it is not in base64url"))
}

pub(super) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
