//! The datagrams of the bond, as in `docs/protocol.md`.

/// A datagram that is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// It ends too early.
    #[error("the datagram ends inside a field: it was cut on the way, or is not from a bond")]
    Truncated,
    /// The version byte is not ours.
    #[error("bond version {0} is not understood: update the older of the two ends")]
    Version(u8),
    /// The kind byte has no meaning here.
    #[error("datagram kind {0} is not understood here: sender and receiver may be mixed up")]
    Kind(u8),
    /// A field is out of range.
    #[error("the field `{0}` is out of range: the other end is broken or hostile")]
    Field(&'static str),
    /// Bytes follow the end.
    #[error("{0} bytes follow the end of the datagram: the other end is broken or hostile")]
    Trailing(usize),
}
