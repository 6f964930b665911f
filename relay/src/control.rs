//! The control stream of the bond: one bidirectional QUIC stream per uplink, opened by the venue,
//! carrying small JSON messages, each behind its length (u32, big-endian). See `docs/protocol.md`.

use media::Track;
use media::catalog::Catalog;
use serde::{Deserialize, Serialize};

/// A longer `hello` ends the connection. The largest catalog, of 64 renditions, has about 16 KB.
pub const MAX_HELLO: usize = 64 * 1024;

/// The same for every other message: a refusal is the longest.
pub const MAX_MESSAGE: usize = 4 * 1024;

/// The ALPN that every version of both ends knows, below its real ones. An edge that has no other in
/// common with a venue answers on it by closing the connection with [`Close::Versions`], naming in the
/// reason those that it speaks.
pub const VERSIONS_ALPN: &[u8] = b"roadie-bond";

/// Why one end closes the connection: QUIC's application error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Close {
    /// The show is over, or the uplink is not wanted any more.
    Done = 0,
    /// No common version; the reason lists the ALPNs that the edge speaks, with spaces between.
    Versions = 1,
    /// The same uplink has come back on another connection.
    Replaced = 2,
    /// Another session has taken the broadcast over.
    TakenOver = 3,
    /// The edge is being stopped; its successor may be there at once.
    Stopped = 4,
    /// The ticket has expired.
    Expired = 5,
    /// There are too many connections from this address.
    Crowded = 6,
}

impl From<Close> for quinn::VarInt {
    fn from(close: Close) -> Self {
        quinn::VarInt::from_u32(close as u32)
    }
}

/// How the refusal of a sync begins whose show is on the air. It may well be wanted a little later: an edge takes some
/// seconds to see that an encoder was killed.
pub const ON_AIR: &str = "the show is on the air";

/// A broadcast name is at most this long.
pub const MAX_NAME: usize = 128;

/// From the venue to the edge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToEdge {
    /// The first message on every uplink.
    Hello(Hello),
    /// How far the edge's clock is from the broadcast clock, as the venue measured it.
    Clock {
        /// Edge clock minus broadcast clock, microseconds.
        offset_micros: i64,
        /// Half the smallest round trip, microseconds.
        error_micros: u64,
    },
    /// The show is over: not a lost connection, the end.
    End,
}

/// Who is calling, and what the show is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The path under which viewers find the show.
    pub broadcast: String,
    /// 128 random bits in hex: uplinks with the same number belong to one bond.
    pub session: String,
    /// The bond's number for this uplink.
    pub path: u8,
    /// The creator's name for this uplink, for the status page.
    pub uplink: String,
    /// Shows the right to publish without telling it, see [`crate::proof`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// A ticket to publish under this name (a JWT), where the venue has one in place of a token that both ends know,
    /// see [`crate::admission`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// Track `n` of the bond is the `n`th of [`Catalog::tracks`].
    pub catalog: Catalog,
    /// A frame is worth nothing this long after its capture, milliseconds.
    pub deadline_ms: u32,
    /// The venue has a recording, and would heal the edge's copy from it, see [`crate::backfill`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backfill: bool,
    /// There is no live media, only backfill, of these tracks; the catalog is empty then, so that an edge that
    /// does not know this refuses it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sync: Vec<Track>,
    /// The venue wants to know how its viewers fare, see [`ToVenue::Audience`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audience: bool,
}

/// How the viewers of a show fare: those whose page reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audience {
    /// How many report.
    pub viewers: u32,
    /// From capture to screen: 95 of 100 pictures come within so many milliseconds, at the viewer for whom it
    /// is worst. `None` where nobody reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_ms: Option<u32>,
    /// Freezes, at the viewer who has had the most.
    #[serde(default)]
    pub stalls: u64,
}

/// From the edge to the venue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToVenue {
    /// The uplink is part of the bond now.
    Welcome(Welcome),
    /// The edge does not want this uplink; trying again with the same words will not help.
    Refused {
        /// For the creator to read.
        reason: String,
    },
    /// A frame was lost for good: please encode a keyframe.
    Keyframe,
    /// How the viewers fare, when it has changed; only to a venue that asked in its hello.
    Audience(Audience),
}

/// How the edge takes an uplink in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Shows that the edge knows the token too, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// Which receiver the uplink feeds now: another one than before has no memory of what came, and the venue
    /// begins a new bond with it. An edge that does not say it has no use for the lanes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiver: Option<String>,
    /// The edge keeps a copy of this show, and wants it healed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backfill: bool,
}

/// Why the control stream ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The connection is gone.
    #[error("the control stream broke: {0}")]
    Read(#[from] quinn::ReadError),
    /// The other end has nothing more to say.
    #[error("the control stream ended")]
    Ended,
    /// The connection is gone.
    #[error("the control stream broke: {0}")]
    Write(#[from] quinn::WriteError),
    /// Too long.
    #[error("a control message of {len} bytes is over the bound of {bound}")]
    TooLong {
        /// What it claims.
        len: usize,
        /// What is allowed here.
        bound: usize,
    },
    /// Not what the protocol says.
    #[error("a control message cannot be understood: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes one message.
pub async fn send(stream: &mut quinn::SendStream, message: &impl Serialize) -> Result<(), ControlError> {
    let json = serde_json::to_vec(message)?;
    if json.len() > MAX_HELLO {
        return Err(ControlError::TooLong { len: json.len(), bound: MAX_HELLO });
    }
    let mut framed = (json.len() as u32).to_be_bytes().to_vec();
    framed.extend_from_slice(&json);
    stream.write_all(&framed).await?;
    Ok(())
}

/// Reads one message of at most `bound` bytes; holds no more than has come. Not cancel-safe: give the
/// stream a task of its own.
pub async fn recv<T: for<'de> Deserialize<'de>>(
    stream: &mut quinn::RecvStream,
    bound: usize,
) -> Result<T, ControlError> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).await.map_err(|error| match error {
        quinn::ReadExactError::FinishedEarly(_) => ControlError::Ended,
        quinn::ReadExactError::ReadError(error) => error.into(),
    })?;
    let len = u32::from_be_bytes(len) as usize;
    if len > bound {
        return Err(ControlError::TooLong { len, bound });
    }
    let mut json = Vec::new();
    while json.len() < len {
        let chunk = stream.read_chunk(len - json.len(), true).await?.ok_or(ControlError::Ended)?;
        json.extend_from_slice(&chunk.bytes);
    }
    Ok(serde_json::from_slice(&json)?)
}

/// A broadcast name is made of path segments that need no escaping anywhere: in a URL, a file name,
/// a metric label.
pub fn check_name(name: &str) -> Result<(), String> {
    let good = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    if name.is_empty() || name.len() > MAX_NAME || !name.split('/').all(good) {
        return Err(format!(
            "{name:?} is not a broadcast name: use letters, digits, '-', '_', '.' and '/' between parts, \
             at most {MAX_NAME} characters, such as tour/london"
        ));
    }
    if matches!(
        name.split('/').next(),
        Some(
            "api"
                | "assets"
                | "hls"
                | "metrics"
                | "healthz"
                | "readyz"
                | "status"
                | "webrtc"
                | "whep"
                | "whip"
        )
    ) {
        return Err(format!(
            "the broadcast name {name:?} begins with a word that the relay keeps for itself"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["demo", "tour/london", "a.b-c_d/2026"] {
            check_name(good).unwrap();
        }
        for bad in
            ["", "/", "a//b", "../etc", "a/..", "a b", "api/x", "hls/x", "metrics", "ü", &"x".repeat(129)]
        {
            check_name(bad).unwrap_err();
        }
    }

    #[test]
    fn the_words_on_the_wire() {
        let json = serde_json::to_string(&ToVenue::Refused { reason: "no".into() }).unwrap();
        assert_eq!(json, r#"{"type":"refused","reason":"no"}"#);
        let json = serde_json::to_string(&ToVenue::Welcome(Welcome::default())).unwrap();
        assert_eq!(json, r#"{"type":"welcome"}"#);
        let audience = Audience { viewers: 3, p95_ms: Some(182), stalls: 1 };
        let json = serde_json::to_string(&ToVenue::Audience(audience)).unwrap();
        assert_eq!(json, r#"{"type":"audience","viewers":3,"p95_ms":182,"stalls":1}"#);
        let hello = ToEdge::Hello(Hello {
            broadcast: "demo".into(),
            session: "00".into(),
            path: 1,
            uplink: "usb0".into(),
            proof: None,
            ticket: None,
            catalog: Catalog::default(),
            deadline_ms: 400,
            backfill: false,
            sync: Vec::new(),
            audience: false,
        });
        let json = serde_json::to_string(&hello).unwrap();
        assert_eq!(
            json,
            r#"{"type":"hello","broadcast":"demo","session":"00","path":1,"uplink":"usb0","catalog":{"video":{"renditions":{}},"audio":{"renditions":{}}},"deadline_ms":400}"#
        );
        assert_eq!(serde_json::from_str::<ToEdge>(&json).unwrap(), hello);
    }

    /// Either end may be older than the other.
    #[test]
    fn what_is_new_in_a_word_is_no_trouble_to_who_does_not_know_it() {
        #[derive(Deserialize)]
        #[serde(tag = "type", rename_all = "snake_case")]
        enum Old {
            Welcome { proof: Option<String> },
        }
        let welcome = Welcome { proof: Some("p".into()), receiver: Some("r".into()), backfill: true };
        let json = serde_json::to_string(&ToVenue::Welcome(welcome.clone())).unwrap();
        assert_eq!(json, r#"{"type":"welcome","proof":"p","receiver":"r","backfill":true}"#);
        let Old::Welcome { proof } = serde_json::from_str(&json).unwrap();
        assert_eq!(proof, welcome.proof);
        let old = serde_json::from_str(r#"{"type":"welcome","proof":"p"}"#).unwrap();
        assert_eq!(ToVenue::Welcome(Welcome { receiver: None, backfill: false, ..welcome }), old);
    }
}
