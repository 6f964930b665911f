//! A group stream: a header, then length-prefixed frames until the stream ends.

use bytes::{Buf, Bytes, BytesMut};
use media::varint;

use super::WireError;

/// The longest frame accepted. A keyframe of 4K at a venue's best bitrate is below 2 MiB.
pub const MAX_FRAME_BYTES: u64 = 4 * 1024 * 1024;

/// The longest group header accepted: two varints.
const MAX_HEADER_BYTES: u64 = 16;

const STREAM_GROUP: u64 = 0;

/// Which group of which subscription a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    /// The id that we gave the subscription.
    pub subscribe: u64,
    /// Group number.
    pub group: u64,
}

/// What a group stream holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupEvent {
    /// Always first.
    Header(GroupHeader),
    /// The next frame, still in its container.
    Frame(Bytes),
}

#[derive(Clone, Copy, Debug)]
enum Expect {
    Type,
    Header,
    Length,
    Body(usize),
}

/// Parses a group stream as its bytes come, in pieces of any size.
///
/// Call [`push`](Self::push) with bytes, then [`next_event`](Self::next_event) until it gives `None`.
#[derive(Debug)]
pub struct GroupParser {
    buffer: BytesMut,
    expect: Expect,
}

impl Default for GroupParser {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), expect: Expect::Type }
    }
}

impl GroupParser {
    /// Bytes of the stream, in order.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next event, or `None` until more bytes come.
    pub fn next_event(&mut self) -> Result<Option<GroupEvent>, WireError> {
        loop {
            match self.expect {
                Expect::Type => match varint::get(&mut self.buffer) {
                    Some(STREAM_GROUP) => self.expect = Expect::Header,
                    Some(other) => return Err(WireError::UnknownType(other)),
                    None => return Ok(None),
                },
                Expect::Header => return self.header(),
                Expect::Length => {
                    let Some(length) = varint::get(&mut self.buffer) else { return Ok(None) };
                    if length > MAX_FRAME_BYTES {
                        return Err(WireError::TooLarge(length));
                    }
                    self.buffer.reserve((length as usize).saturating_sub(self.buffer.len()));
                    self.expect = Expect::Body(length as usize);
                }
                Expect::Body(length) => {
                    if self.buffer.len() < length {
                        return Ok(None);
                    }
                    self.expect = Expect::Length;
                    return Ok(Some(GroupEvent::Frame(self.buffer.split_to(length).freeze())));
                }
            }
        }
    }

    fn header(&mut self) -> Result<Option<GroupEvent>, WireError> {
        let mut ahead = &self.buffer[..];
        let Some(length) = varint::get(&mut ahead) else { return Ok(None) };
        if length > MAX_HEADER_BYTES {
            return Err(WireError::TooLarge(length));
        }
        let Some((mut body, rest)) = ahead.split_at_checked(length as usize) else { return Ok(None) };
        let (Some(subscribe), Some(group)) = (varint::get(&mut body), varint::get(&mut body)) else {
            return Err(WireError::Malformed);
        };
        if !body.is_empty() {
            return Err(WireError::Malformed);
        }
        let rest = rest.len();
        self.buffer.advance(self.buffer.len() - rest);
        self.expect = Expect::Length;
        Ok(Some(GroupEvent::Header(GroupHeader { subscribe, group })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut;

    fn stream(frames: &[&[u8]]) -> Vec<u8> {
        let mut out = vec![0];
        let mut header = Vec::new();
        varint::put(3, &mut header);
        varint::put(7_000_000_000, &mut header);
        varint::put(header.len() as u64, &mut out);
        out.extend_from_slice(&header);
        for frame in frames {
            varint::put(frame.len() as u64, &mut out);
            out.put_slice(frame);
        }
        out
    }

    fn parse(bytes: &[u8], piece: usize) -> Vec<GroupEvent> {
        let mut parser = GroupParser::default();
        let mut events = Vec::new();
        for piece in bytes.chunks(piece) {
            parser.push(piece);
            while let Some(event) = parser.next_event().unwrap() {
                events.push(event);
            }
        }
        events
    }

    #[test]
    fn any_cut_gives_the_same_events() {
        let long = vec![9u8; 20_000];
        let bytes = stream(&[b"first", b"", &long]);
        let whole = parse(&bytes, bytes.len());
        assert_eq!(whole[0], GroupEvent::Header(GroupHeader { subscribe: 3, group: 7_000_000_000 }));
        assert_eq!(whole[1], GroupEvent::Frame(Bytes::from_static(b"first")));
        assert_eq!(whole[2], GroupEvent::Frame(Bytes::new()));
        assert_eq!(whole[3], GroupEvent::Frame(long.into()));
        for piece in [1, 2, 3, 7, 1000] {
            assert_eq!(parse(&bytes, piece), whole);
        }
    }

    #[test]
    fn a_truncated_frame_is_not_given_out() {
        let bytes = stream(&[b"first", b"second"]);
        assert_eq!(parse(&bytes[..bytes.len() - 1], 4).len(), 2);
    }

    #[test]
    fn bounds() {
        let mut parser = GroupParser::default();
        parser.push(&[5]);
        assert_eq!(parser.next_event(), Err(WireError::UnknownType(5)));

        let mut bytes = stream(&[]);
        varint::put(MAX_FRAME_BYTES + 1, &mut bytes);
        let mut parser = GroupParser::default();
        parser.push(&bytes);
        assert!(matches!(parser.next_event(), Ok(Some(GroupEvent::Header(_)))));
        assert_eq!(parser.next_event(), Err(WireError::TooLarge(MAX_FRAME_BYTES + 1)));

        for header in [&[0, 1, 1][..], &[0, 3, 1, 1, 1], &[0, 40]] {
            let mut parser = GroupParser::default();
            parser.push(header);
            assert!(parser.next_event().is_err());
        }
    }
}
