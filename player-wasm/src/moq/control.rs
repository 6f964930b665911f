//! Control messages on bidirectional streams: a subscription and its reply, announcements.

use bytes::{Buf, BufMut, BytesMut};
use media::varint;

use super::{Version, WireError};

/// The longest control message accepted. A path and a hop list need a few hundred bytes.
pub const MAX_CONTROL_BYTES: u64 = 16 * 1024;

/// The most hops accepted in an announcement (moq-net has the same bound).
pub const MAX_HOPS: u64 = 32;

const STREAM_ANNOUNCE: u64 = 1;
const STREAM_SUBSCRIBE: u64 = 2;
const REPLY_OK: u64 = 0;
const REPLY_DROP: u64 = 1;
const STATUS_ENDED: u8 = 0;
const STATUS_ACTIVE: u8 = 1;

/// Asks for a track from its newest group on. The first message on its own bidirectional stream.
#[derive(Clone, Copy, Debug)]
pub struct Subscribe<'a> {
    /// Chosen by us; group streams carry it.
    pub id: u64,
    /// Path of the broadcast, such as `demo`.
    pub broadcast: &'a str,
    /// Name of the track, such as `video/720p`.
    pub track: &'a str,
    /// Higher is sent first.
    pub priority: u8,
    /// How long the server keeps sending a group after a newer one has begun.
    pub max_age_millis: u64,
}

/// Asks to be told when broadcasts under a prefix come and go.
#[derive(Clone, Copy, Debug)]
pub struct AnnounceRequest<'a> {
    /// Path prefix.
    pub prefix: &'a str,
}

/// A broadcast came or went. `suffix` is its path after the requested prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// Rest of the path; empty for the prefix itself.
    pub suffix: String,
    /// It is there now.
    pub active: bool,
}

/// The server's words on a subscription's stream. A refusal is a stream reset instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Accepted.
    Ok,
    /// Groups `start..=end` will not come.
    Drop {
        /// First group.
        start: u64,
        /// Last group.
        end: u64,
    },
}

/// A message that comes from the server on a bidirectional stream.
pub trait Control: Sized {
    /// Takes one message from the front of `input`. `None`: more bytes are needed.
    fn take(input: &mut BytesMut, version: Version) -> Result<Option<Self>, WireError>;
}

impl Subscribe<'_> {
    /// The bytes, the stream's type included.
    pub fn encode(&self) -> BytesMut {
        let mut body = BytesMut::new();
        varint::put(self.id, &mut body);
        put_string(self.broadcast, &mut body);
        put_string(self.track, &mut body);
        body.put_u8(self.priority);
        // The retired "ordered" byte; the server ignores it.
        body.put_u8(0);
        varint::put(self.max_age_millis, &mut body);
        // No first group: the newest one. No last group: until the end.
        varint::put(0, &mut body);
        varint::put(0, &mut body);
        framed(STREAM_SUBSCRIBE, &body)
    }
}

impl AnnounceRequest<'_> {
    /// The bytes, the stream's type included.
    pub fn encode(&self, version: Version) -> BytesMut {
        let mut body = BytesMut::new();
        put_string(self.prefix, &mut body);
        if version == Version::Lite04 {
            // "Exclude hop" is for relays that fear loops.
            varint::put(0, &mut body);
        }
        framed(STREAM_ANNOUNCE, &body)
    }
}

impl Control for Reply {
    fn take(input: &mut BytesMut, _: Version) -> Result<Option<Self>, WireError> {
        let mut ahead = &input[..];
        let Some(kind) = varint::get(&mut ahead) else { return Ok(None) };
        let Some(body) = sized(&mut ahead)? else { return Ok(None) };
        let reply = match kind {
            // Its fields (priority, age, range) repeat what was asked.
            REPLY_OK => Reply::Ok,
            REPLY_DROP => {
                let mut body = body;
                let (start, end) = (need(&mut body)?, need(&mut body)?);
                need(&mut body)?;
                end_of(body)?;
                Reply::Drop { start, end }
            }
            other => return Err(WireError::UnknownType(other)),
        };
        let rest = ahead.len();
        input.advance(input.len() - rest);
        Ok(Some(reply))
    }
}

impl Control for Announce {
    fn take(input: &mut BytesMut, version: Version) -> Result<Option<Self>, WireError> {
        let mut ahead = &input[..];
        let Some(mut body) = sized(&mut ahead)? else { return Ok(None) };
        let active = match body.try_get_u8() {
            Ok(STATUS_ACTIVE) => true,
            Ok(STATUS_ENDED) => false,
            Ok(other) => return Err(WireError::UnknownType(other.into())),
            Err(_) => return Err(WireError::Malformed),
        };
        let length = need(&mut body)? as usize;
        let suffix = body.get(..length).ok_or(WireError::Malformed)?;
        let suffix = std::str::from_utf8(suffix).map_err(|_| WireError::Malformed)?.to_owned();
        body.advance(length);
        let hops = need(&mut body)?;
        if hops > MAX_HOPS {
            return Err(WireError::TooLarge(hops));
        }
        if version == Version::Lite04 {
            for _ in 0..hops {
                need(&mut body)?;
            }
        }
        end_of(body)?;
        let rest = ahead.len();
        input.advance(input.len() - rest);
        Ok(Some(Announce { suffix, active }))
    }
}

/// Collects the bytes of one bidirectional stream and gives out its messages.
#[derive(Debug)]
pub struct ControlReader {
    version: Version,
    buffer: BytesMut,
}

impl ControlReader {
    /// A reader at the start of a stream.
    pub fn new(version: Version) -> Self {
        Self { version, buffer: BytesMut::new() }
    }

    /// Bytes as they come. What lies here is bounded: [`Self::next_message`] refuses long messages.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message.
    pub fn next_message<M: Control>(&mut self) -> Result<Option<M>, WireError> {
        M::take(&mut self.buffer, self.version)
    }
}

fn framed(stream: u64, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(body.len() + 9);
    varint::put(stream, &mut out);
    varint::put(body.len() as u64, &mut out);
    out.put_slice(body);
    out
}

fn put_string(text: &str, out: &mut BytesMut) {
    varint::put(text.len() as u64, out);
    out.put_slice(text.as_bytes());
}

/// A length-prefixed body at the front of `input`, which moves on behind it.
fn sized<'a>(input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, WireError> {
    let Some(length) = varint::get(input) else { return Ok(None) };
    if length > MAX_CONTROL_BYTES {
        return Err(WireError::TooLarge(length));
    }
    let Some((body, rest)) = input.split_at_checked(length as usize) else { return Ok(None) };
    *input = rest;
    Ok(Some(body))
}

fn need(body: &mut &[u8]) -> Result<u64, WireError> {
    varint::get(body).ok_or(WireError::Malformed)
}

fn end_of(body: &[u8]) -> Result<(), WireError> {
    if body.is_empty() { Ok(()) } else { Err(WireError::Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announce(status: u8, suffix: &str, hops: &[u64], version: Version) -> Vec<u8> {
        let mut body = BytesMut::new();
        body.put_u8(status);
        put_string(suffix, &mut body);
        varint::put(hops.len() as u64, &mut body);
        if version == Version::Lite04 {
            hops.iter().for_each(|&hop| varint::put(hop, &mut body));
        }
        let mut out = Vec::new();
        varint::put(body.len() as u64, &mut out);
        out.extend_from_slice(&body);
        out
    }

    #[test]
    fn subscribe_bytes() {
        let message =
            Subscribe { id: 1, broadcast: "demo", track: "audio", priority: 200, max_age_millis: 500 };
        let expected = b"\x02\x12\x01\x04demo\x05audio\xc8\x00\x41\xf4\x00\x00";
        assert_eq!(&message.encode()[..], expected);
    }

    #[test]
    fn announce_request_bytes() {
        let request = AnnounceRequest { prefix: "demo" };
        assert_eq!(&request.encode(Version::Lite03)[..], b"\x01\x05\x04demo");
        assert_eq!(&request.encode(Version::Lite04)[..], b"\x01\x06\x04demo\x00");
    }

    #[test]
    fn replies_byte_by_byte() {
        // OK with priority, order, age, start, end; then a drop of 7..=9 with code 0.
        let bytes = [0, 5, 200, 0, 0, 0, 0, 1, 3, 7, 9, 0];
        let mut reader = ControlReader::new(Version::Lite04);
        let mut seen = Vec::new();
        for byte in bytes {
            reader.push(&[byte]);
            while let Some(reply) = reader.next_message::<Reply>().unwrap() {
                seen.push(reply);
            }
        }
        assert_eq!(seen, [Reply::Ok, Reply::Drop { start: 7, end: 9 }]);
        reader.push(&[9, 0]);
        assert_eq!(reader.next_message::<Reply>(), Err(WireError::UnknownType(9)));
    }

    #[test]
    fn announcements_of_both_versions() {
        for version in [Version::Lite03, Version::Lite04] {
            let mut reader = ControlReader::new(version);
            reader.push(&announce(1, "", &[5, 70_000], version));
            reader.push(&announce(0, "/b", &[], version));
            let on = Announce { suffix: String::new(), active: true };
            let off = Announce { suffix: "/b".into(), active: false };
            assert_eq!(reader.next_message::<Announce>(), Ok(Some(on)));
            assert_eq!(reader.next_message::<Announce>(), Ok(Some(off)));
            assert_eq!(reader.next_message::<Announce>(), Ok(None));
        }
    }

    #[test]
    fn damage_is_an_error_not_a_panic() {
        let good = announce(1, "abc", &[1, 2], Version::Lite04);
        for at in 0..good.len() {
            for value in [0, 1, 0x3f, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                let mut reader = ControlReader::new(Version::Lite04);
                reader.push(&bytes);
                while let Ok(Some(_)) = reader.next_message::<Announce>() {}
            }
        }
        let mut reader = ControlReader::new(Version::Lite04);
        reader.push(&[0x80, 0xff, 0xff, 0xff]);
        assert!(matches!(reader.next_message::<Announce>(), Err(WireError::TooLarge(_))));
    }
}
