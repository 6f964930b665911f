//! Streams over one ordered connection: the client's side of QMux (draft-ietf-quic-qmux-01), for networks that let no UDP
//! through.
//!
//! QMux has the frames of QUIC (RFC 9000, section 19) without its packets; over WebSocket one message is one record of
//! frames. Only what a subscriber needs is here: it opens bidirectional streams, and reads what the server opens. Pure: bytes
//! in, bytes and events out.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use media::varint;

use super::WireError;

/// Goes before the name of MoQ's version in the sub-protocol.
pub const PREFIX: &str = "qmux-01.";

/// Bytes of all streams together that the server may send before we have read them: what WebTransport in Chromium allows
/// is more.
const WINDOW: u64 = 4 << 20;

/// The same for one stream: a group is read as it comes, and a second of 6 Mb/s has 0.75 MB.
const STREAM_WINDOW: u64 = 2 << 20;

/// Streams that the server may have open.
const MAX_STREAMS: u64 = 128;

/// Streams of the server's that nobody reads, as a server that asks what we publish opens them.
const MAX_UNREAD: u64 = 16;

/// The least that a record may hold (`max_record_size` where none is told).
const MAX_RECORD: usize = 16_382;

const RESET_STREAM: u64 = 0x04;
const STOP_SENDING: u64 = 0x05;
const STREAM: u64 = 0x08;
const STREAM_END: u64 = 0x0f;
const OFFSET: u64 = 0x04;
const LENGTH: u64 = 0x02;
const FIN: u64 = 0x01;
const MAX_DATA: u64 = 0x10;
const MAX_STREAM_DATA: u64 = 0x11;
const MAX_STREAMS_BIDI: u64 = 0x12;
const MAX_STREAMS_UNI: u64 = 0x13;
const DATA_BLOCKED: u64 = 0x14;
const STREAM_DATA_BLOCKED: u64 = 0x15;
const STREAMS_BLOCKED_BIDI: u64 = 0x16;
const STREAMS_BLOCKED_UNI: u64 = 0x17;
const CONNECTION_CLOSE: u64 = 0x1c;
const APPLICATION_CLOSE: u64 = 0x1d;
const PARAMETERS: u64 = 0x3f51_5330_0d0a_0d0a;
const PING: u64 = 0x348c_6752_9ef8_c7bd;
const PONG: u64 = 0x348c_6752_9ef8_c7be;

/// Transport parameters (RFC 9000, section 18.2).
mod parameter {
    pub const MAX_DATA: u64 = 0x04;
    pub const STREAM_DATA_BIDI_LOCAL: u64 = 0x05;
    pub const STREAM_DATA_BIDI_REMOTE: u64 = 0x06;
    pub const STREAM_DATA_UNI: u64 = 0x07;
    pub const STREAMS_BIDI: u64 = 0x08;
    pub const STREAMS_UNI: u64 = 0x09;
}

/// A stream's number (RFC 9000, section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(u64);

impl StreamId {
    fn by_server(self) -> bool {
        self.0 & 1 == 1
    }

    fn one_way(self) -> bool {
        self.0 & 2 == 2
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server has told its limits: streams can be opened.
    Ready,
    /// The server opened a unidirectional stream.
    Opened(StreamId),
    /// Bytes of a stream, in order.
    Data(StreamId, Bytes),
    /// The stream has ended well.
    Ended(StreamId),
    /// The stream was broken off.
    Reset(StreamId),
    /// The server has closed the session, with these words.
    Closed(String),
}

#[derive(Debug, Default)]
struct Stream {
    received: u64,
    /// Of them, those that the reader has taken, and those that the server was told so of.
    read: u64,
    told: u64,
    sent: u64,
    may_send: u64,
    /// Nobody reads it any more.
    stopped: bool,
}

/// The client. What [`Client::poll_transmit`] gives goes out as one binary message each; what comes in goes to
/// [`Client::receive`].
#[derive(Debug, Default)]
pub struct Client {
    streams: BTreeMap<StreamId, Stream>,
    events: VecDeque<Event>,
    out: VecDeque<Bytes>,
    ready: bool,
    received: u64,
    read: u64,
    told: u64,
    sent: u64,
    may_send: u64,
    may_send_each: u64,
    may_open: u64,
    opened: u64,
    /// Unidirectional streams of the server's: those over, and how many it may have had.
    over: u64,
    allowed: u64,
}

impl Client {
    /// A client that has its limits to tell.
    pub fn new() -> Self {
        let mut client = Self { told: WINDOW, allowed: MAX_STREAMS, ..Self::default() };
        let mut parameters = BytesMut::new();
        for (id, value) in [
            (parameter::MAX_DATA, WINDOW),
            (parameter::STREAM_DATA_BIDI_LOCAL, STREAM_WINDOW),
            (parameter::STREAM_DATA_BIDI_REMOTE, STREAM_WINDOW),
            (parameter::STREAM_DATA_UNI, STREAM_WINDOW),
            (parameter::STREAMS_BIDI, MAX_UNREAD),
            (parameter::STREAMS_UNI, MAX_STREAMS),
        ] {
            varint::put(id, &mut parameters);
            varint::put(varint::len(value) as u64, &mut parameters);
            varint::put(value, &mut parameters);
        }
        let mut record = numbers(&[PARAMETERS, parameters.len() as u64]);
        record.put(parameters);
        client.out.push_back(record.freeze());
        client
    }

    /// The next message for the server.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.out.pop_front()
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Opens a bidirectional stream; `None` where the server allows no more, or has not said how many.
    pub fn open(&mut self) -> Option<StreamId> {
        if !self.ready || self.opened >= self.may_open {
            return None;
        }
        let id = StreamId(self.opened * 4);
        self.opened += 1;
        let stream = Stream { told: STREAM_WINDOW, may_send: self.may_send_each, ..Stream::default() };
        self.streams.insert(id, stream);
        Some(id)
    }

    /// Sends bytes on a stream. `false`: they are more than the server takes, and nothing was sent. (What a subscriber
    /// says is a thousandth of what servers allow.)
    pub fn send(&mut self, id: StreamId, data: &[u8], end: bool) -> bool {
        let length = data.len() as u64;
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        if stream.sent + length > stream.may_send
            || self.sent + length > self.may_send
            || data.len() > MAX_RECORD / 2
        {
            return false;
        }
        let kind = STREAM | OFFSET | LENGTH | if end { FIN } else { 0 };
        let mut record = numbers(&[kind, id.0, stream.sent, length]);
        record.put_slice(data);
        stream.sent += length;
        self.sent += length;
        self.out.push_back(record.freeze());
        true
    }

    /// The reader has taken so many bytes of a stream: the server may send more.
    pub fn consumed(&mut self, id: StreamId, bytes: usize) {
        self.read += bytes as u64;
        if self.read + WINDOW / 2 >= self.told {
            self.told = self.read + WINDOW;
            self.out.push_back(numbers(&[MAX_DATA, self.told]).freeze());
        }
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.stopped) {
            stream.read += bytes as u64;
            if stream.read + STREAM_WINDOW / 2 >= stream.told {
                stream.told = stream.read + STREAM_WINDOW;
                self.out.push_back(numbers(&[MAX_STREAM_DATA, id.0, stream.told]).freeze());
            }
        }
    }

    /// Nobody wants the rest of this stream.
    pub fn stop(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !std::mem::replace(&mut stream.stopped, true)
        {
            self.out.push_back(numbers(&[STOP_SENDING, id.0, 0]).freeze());
        }
    }

    /// The last message: goodbye.
    pub fn close(&mut self) {
        self.out.push_back(numbers(&[APPLICATION_CLOSE, 0, 0]).freeze());
    }

    /// Takes a message of the server's.
    ///
    /// # Errors
    /// When it is no record of QMux, or more than the server may send. The session has to be closed then.
    pub fn receive(&mut self, record: Bytes) -> Result<(), WireError> {
        let mut rest = record;
        while rest.has_remaining() {
            self.frame(&mut rest)?;
        }
        Ok(())
    }

    fn frame(&mut self, rest: &mut Bytes) -> Result<(), WireError> {
        match number(rest)? {
            0 => {}
            kind @ STREAM..=STREAM_END => {
                let id = StreamId(number(rest)?);
                let offset = if kind & OFFSET == 0 { None } else { Some(number(rest)?) };
                let length = if kind & LENGTH == 0 { rest.remaining() as u64 } else { number(rest)? };
                self.data(id, offset, bytes(rest, length)?, kind & FIN != 0)?;
            }
            RESET_STREAM => {
                let (id, _code, _size) = (StreamId(number(rest)?), number(rest)?, number(rest)?);
                self.reset(id)?;
            }
            STOP_SENDING => {
                // Of what we say: it is said by then.
                let (_id, _code) = (number(rest)?, number(rest)?);
            }
            MAX_DATA => self.may_send = self.may_send.max(number(rest)?),
            MAX_STREAM_DATA => {
                let (id, most) = (StreamId(number(rest)?), number(rest)?);
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.may_send = stream.may_send.max(most);
                }
            }
            MAX_STREAMS_BIDI => self.may_open = self.may_open.max(number(rest)?),
            STREAM_DATA_BLOCKED => {
                let (_id, _limit) = (number(rest)?, number(rest)?);
            }
            // Unidirectional streams, of which we open none, and what the server would like to send but may not yet.
            MAX_STREAMS_UNI | DATA_BLOCKED | STREAMS_BLOCKED_BIDI | STREAMS_BLOCKED_UNI => _ = number(rest)?,
            kind @ (CONNECTION_CLOSE | APPLICATION_CLOSE) => {
                let _code = number(rest)?;
                if kind == CONNECTION_CLOSE {
                    let _frame = number(rest)?;
                }
                let length = number(rest)?;
                let words = String::from_utf8_lossy(&bytes(rest, length)?).into_owned();
                self.events.push_back(Event::Closed(words));
            }
            PARAMETERS => {
                let length = number(rest)?;
                self.parameters(bytes(rest, length)?)?;
            }
            PING => {
                let record = numbers(&[PONG, number(rest)?]);
                self.out.push_back(record.freeze());
            }
            PONG => _ = number(rest)?,
            other => return Err(WireError::UnknownType(other)),
        }
        Ok(())
    }

    fn parameters(&mut self, mut all: Bytes) -> Result<(), WireError> {
        if std::mem::replace(&mut self.ready, true) {
            return Err(WireError::Malformed);
        }
        while all.has_remaining() {
            let (id, length) = (number(&mut all)?, number(&mut all)?);
            let mut value = bytes(&mut all, length)?;
            match id {
                parameter::MAX_DATA => self.may_send = number(&mut value)?,
                // Remote, as the server sees it: of streams that we open.
                parameter::STREAM_DATA_BIDI_REMOTE => self.may_send_each = number(&mut value)?,
                parameter::STREAMS_BIDI => self.may_open = number(&mut value)?,
                _ => {}
            }
        }
        self.events.push_back(Event::Ready);
        Ok(())
    }

    fn data(&mut self, id: StreamId, offset: Option<u64>, data: Bytes, end: bool) -> Result<(), WireError> {
        let length = data.len() as u64;
        self.received += length;
        if self.received > self.told {
            return Err(WireError::TooLarge(self.received));
        }
        let Some(stream) = self.stream(id)? else {
            // Nobody reads it.
            self.consumed(id, data.len());
            return Ok(());
        };
        if offset.is_some_and(|offset| offset != stream.received) {
            return Err(WireError::Malformed);
        }
        stream.received += length;
        if stream.received > stream.told {
            return Err(WireError::TooLarge(stream.received));
        }
        let stopped = stream.stopped;
        if stopped {
            self.consumed(id, data.len());
        } else if !data.is_empty() {
            self.events.push_back(Event::Data(id, data));
        }
        if end {
            self.end(id, (!stopped).then_some(Event::Ended(id)));
        }
        Ok(())
    }

    /// The stream that the server speaks of. `None`: one that is over, or that nobody reads.
    fn stream(&mut self, id: StreamId) -> Result<Option<&mut Stream>, WireError> {
        if !id.by_server() {
            if id.one_way() || id.0 / 4 >= self.opened {
                return Err(WireError::Malformed);
            }
            return Ok(self.streams.get_mut(&id));
        }
        if !id.one_way() {
            return Ok(None);
        }
        if !self.streams.contains_key(&id) {
            if id.0 / 4 >= self.allowed {
                return Err(WireError::TooLarge(id.0));
            }
            self.streams.insert(id, Stream { told: STREAM_WINDOW, ..Stream::default() });
            self.events.push_back(Event::Opened(id));
        }
        Ok(self.streams.get_mut(&id))
    }

    /// The server says nothing more on this stream.
    fn end(&mut self, id: StreamId, event: Option<Event>) {
        if self.streams.remove(&id).is_none() {
            return;
        }
        self.events.extend(event);
        if id.by_server() {
            self.over += 1;
            if self.over + MAX_STREAMS / 2 > self.allowed {
                self.allowed = self.over + MAX_STREAMS;
                self.out.push_back(numbers(&[MAX_STREAMS_UNI, self.allowed]).freeze());
            }
        }
    }

    fn reset(&mut self, id: StreamId) -> Result<(), WireError> {
        if let Some(stream) = self.stream(id)? {
            let event = (!stream.stopped).then_some(Event::Reset(id));
            self.end(id, event);
        }
        Ok(())
    }
}

fn numbers(values: &[u64]) -> BytesMut {
    let mut record = BytesMut::new();
    values.iter().for_each(|value| varint::put(*value, &mut record));
    record
}

fn number(rest: &mut Bytes) -> Result<u64, WireError> {
    varint::get(rest).ok_or(WireError::Malformed)
}

fn bytes(rest: &mut Bytes, length: u64) -> Result<Bytes, WireError> {
    let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
    Ok(rest.split_to(length.ok_or(WireError::Malformed)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that was told generous limits.
    fn client() -> Client {
        let mut client = Client::new();
        client.poll_transmit().unwrap();
        let mut limits = BytesMut::new();
        for (id, value) in [
            (parameter::MAX_DATA, 1_000),
            (parameter::STREAM_DATA_BIDI_REMOTE, 50),
            (parameter::STREAMS_BIDI, 2),
        ] {
            limits.put(numbers(&[id, varint::len(value) as u64, value]));
        }
        let mut record = numbers(&[PARAMETERS, limits.len() as u64]);
        record.put(limits);
        client.receive(record.freeze()).unwrap();
        assert_eq!(client.poll_event(), Some(Event::Ready));
        client
    }

    fn stream(id: u64, offset: u64, data: &[u8], end: bool) -> Bytes {
        let kind = STREAM | OFFSET | LENGTH | u64::from(end);
        let mut record = numbers(&[kind, id, offset, data.len() as u64]);
        record.put_slice(data);
        record.freeze()
    }

    #[test]
    fn opens_no_more_and_sends_no_more_than_it_may() {
        let mut client = Client::new();
        assert_eq!(client.open(), None, "nothing is known yet");
        client = self::client();
        let (first, second) = (client.open().unwrap(), client.open().unwrap());
        assert_eq!((first, second, client.open()), (StreamId(0), StreamId(4), None));
        assert!(client.send(first, &[7; 40], false));
        assert!(!client.send(first, &[7; 11], false), "50 on a stream");
        assert!(client.send(first, &[7; 10], true) && client.send(second, &[8], true));
        client.receive(numbers(&[MAX_STREAMS_BIDI, 3]).freeze()).unwrap();
        assert_eq!(client.open(), Some(StreamId(8)));
        let sent: Vec<usize> =
            std::iter::from_fn(|| client.poll_transmit()).map(|record| record.len()).collect();
        assert_eq!(sent, [4 + 40, 4 + 10, 4 + 1]);
    }

    #[test]
    fn several_frames_in_one_record_and_streams_out_of_turn() {
        let mut client = client();
        let mut record = BytesMut::from(&stream(11, 0, b"ab", false)[..]);
        record.put_u8(0);
        record.put(stream(3, 0, b"", true));
        record.put(stream(11, 2, b"c", true));
        record.put(numbers(&[PING, 9]));
        client.receive(record.freeze()).unwrap();
        let events: Vec<_> = std::iter::from_fn(|| client.poll_event()).collect();
        let (first, second) = (StreamId(11), StreamId(3));
        let data = |text: &'static [u8]| Event::Data(first, Bytes::from_static(text));
        assert_eq!(
            events,
            [
                Event::Opened(first),
                data(b"ab"),
                Event::Opened(second),
                Event::Ended(second),
                data(b"c"),
                Event::Ended(first)
            ]
        );
        assert_eq!(client.poll_transmit().unwrap(), numbers(&[PONG, 9]));
    }

    #[test]
    fn a_stream_that_nobody_wants_is_stopped_and_does_not_fill_the_window() {
        let mut client = client();
        client.receive(stream(3, 0, &[1; 100], false)).unwrap();
        client.consumed(StreamId(3), 100);
        client.stop(StreamId(3));
        client.stop(StreamId(3));
        assert_eq!(client.poll_transmit().unwrap(), numbers(&[STOP_SENDING, 3, 0]));
        assert_eq!(client.poll_transmit(), None);
        // What was on its way: more of it than a window, over many streams.
        let (mut offset, mut told) = (100, 0);
        while offset < STREAM_WINDOW {
            let piece = vec![1; 16_000.min((STREAM_WINDOW - offset) as usize)];
            client.receive(stream(3, offset, &piece, false)).unwrap();
            offset += piece.len() as u64;
        }
        while let Some(record) = client.poll_transmit() {
            let mut record = record;
            assert_eq!(number(&mut record), Ok(MAX_DATA), "the stream itself may have no more");
            told = number(&mut record).unwrap();
        }
        assert!(told >= WINDOW, "{told}");
        client.receive(numbers(&[RESET_STREAM, 3, 0, offset]).freeze()).unwrap();
        let events: Vec<_> = std::iter::from_fn(|| client.poll_event()).collect();
        assert_eq!(events.len(), 2, "opened, and what came before it was stopped: {events:?}");
    }

    #[test]
    fn streams_come_and_go_for_ever() {
        let mut client = client();
        for number in 0..10 * MAX_STREAMS {
            client.receive(stream(number * 4 + 3, 0, b"x", true)).unwrap();
            while client.poll_event().is_some() {}
            client.consumed(StreamId(number * 4 + 3), 1);
        }
        assert!(client.streams.is_empty());
        let far = (10 * MAX_STREAMS + MAX_STREAMS) * 4 + 3;
        assert!(client.receive(stream(far, 0, b"x", true)).is_err(), "it was not allowed so many");
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        for bad in [
            numbers(&[STREAM | LENGTH, 3, 5]),   // Five bytes that are not there.
            numbers(&[STREAM | OFFSET, 3, 1]),   // Begins with its second byte.
            numbers(&[STREAM, 0]),               // A stream of ours that we did not open.
            numbers(&[STREAM, 2]),               // Ours, one way.
            numbers(&[0x40]),                    // No such frame.
            numbers(&[PARAMETERS, 0]),           // For the second time.
            numbers(&[APPLICATION_CLOSE, 0, 9]), // Words that are not there.
            BytesMut::from(&[0xff][..]),         // Half a number.
        ] {
            let mut client = client();
            assert!(client.receive(bad.clone().freeze()).is_err(), "{bad:?}");
        }
        let mut client = client();
        let piece = vec![0; 60_000];
        let mut offset = 0;
        let refused = loop {
            match client.receive(stream(3, offset, &piece, false)) {
                Ok(()) => offset += piece.len() as u64,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, WireError::TooLarge(bytes) if bytes > STREAM_WINDOW), "{refused}");
    }

    #[test]
    fn the_servers_last_words() {
        let mut client = client();
        let mut record = numbers(&[APPLICATION_CLOSE, 401, 7]);
        record.put_slice(b"expired");
        client.receive(record.freeze()).unwrap();
        assert_eq!(client.poll_event(), Some(Event::Closed("expired".into())));
    }
}
