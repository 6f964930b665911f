//! The part of moq-lite that a subscriber needs.
//!
//! Versions 03 and 04 are spoken. Both are negotiated by the WebTransport sub-protocol, so there is
//! no SETUP exchange: the first bytes on a stream are already a subscription. They differ only in the
//! hop list of an announcement. Later versions add a SETUP stream that the server waits for, and
//! per-frame timestamps that Roadie's container carries anyway.
//!
//! Wire source: `moq-net` 0.3.18, `src/lite/`. Integers are QUIC varints ([`media::varint`]).

mod control;
mod group;
pub mod qmux;

pub use control::{
    Announce, AnnounceRequest, Control, ControlReader, MAX_CONTROL_BYTES, MAX_HOPS, Reply, Subscribe,
};
pub use group::{GroupEvent, GroupHeader, GroupParser, MAX_FRAME_BYTES};

/// A negotiated protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `moq-lite-03`
    Lite03,
    /// `moq-lite-04`
    Lite04,
}

impl Version {
    /// What to offer in `new WebTransport(url, { protocols })`, best first.
    pub const OFFER: [&str; 2] = ["moq-lite-04", "moq-lite-03"];

    /// The version that the server chose. `None`: it speaks none of ours.
    pub fn from_protocol(name: &str) -> Option<Self> {
        match name {
            "moq-lite-03" => Some(Version::Lite03),
            "moq-lite-04" => Some(Version::Lite04),
            _ => None,
        }
    }

    /// Its sub-protocol name.
    pub fn name(self) -> &'static str {
        match self {
            Version::Lite03 => "moq-lite-03",
            Version::Lite04 => "moq-lite-04",
        }
    }
}

/// Bytes from the server that are not moq-lite, or more than the player is ready to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A message is longer than its bound.
    #[error("the server announced a message of {0} bytes, more than the player accepts")]
    TooLarge(u64),
    /// A stream or message type that a subscriber does not expect.
    #[error("the server sent the unknown type {0}")]
    UnknownType(u64),
    /// A message ends before its last field, or goes on after it.
    #[error("the server sent a message that does not add up")]
    Malformed,
}
