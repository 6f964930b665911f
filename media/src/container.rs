//! How a frame lies inside a MoQ frame: hang's "legacy" container, a varint of the capture time in
//! microseconds and then the codec's bytes.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Time, varint};

/// A frame that is too short to hold its own time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the frame ends inside its timestamp: the publisher does not use the legacy container")]
pub struct Truncated;

/// Puts the capture time before the payload.
pub fn encode(capture_time: Time, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(varint::len(capture_time.as_micros()) + payload.len());
    varint::put(capture_time.as_micros(), &mut out);
    out.put_slice(payload);
    out.freeze()
}

/// What [`encode`] puts before the payload.
pub fn time(capture_time: Time) -> Bytes {
    encode(capture_time, &[])
}

/// Splits a MoQ frame into capture time and payload, without a copy.
pub fn decode(mut frame: Bytes) -> Result<(Time, Bytes), Truncated> {
    let time = varint::get(&mut frame).ok_or(Truncated)?;
    Ok((Time::from_micros(time), frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let time = Time::from_micros(1_795_000_000_123_456);
        let frame = encode(time, b"abc");
        assert_eq!(frame.len(), 8 + 3);
        assert_eq!(decode(frame).unwrap(), (time, Bytes::from_static(b"abc")));
        assert_eq!(decode(Bytes::from_static(&[0xc0, 0])), Err(Truncated));
        assert_eq!(decode(Bytes::new()), Err(Truncated));
    }
}
