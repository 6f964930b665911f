//! The datagrams of the bond, as in `docs/protocol.md`. Parsing is strict and never allocates more
//! than the datagram is long.

use bytes::{Buf, BufMut, BytesMut};
use media::{FrameId, Time, TrackId, varint};

use crate::fec::{self, MAX_PARITY};
use crate::lanes::{MAX_MESSAGE_BYTES, MESSAGES};
use crate::shard::Cut;
use crate::{MAX_DATAGRAM, MAX_FRAME_BYTES, MAX_PATHS, PathId};

/// The first byte of every datagram.
pub(crate) const VERSION: u8 = 2;

/// The second byte.
const KIND_SHARD: u8 = 1;
const KIND_PARITY: u8 = 2;
const KIND_PROBE: u8 = 3;
const KIND_FEEDBACK: u8 = 4;
const KIND_MESSAGE: u8 = 5;
const KIND_ACK: u8 = 6;

const FLAG_KEYFRAME: u8 = 1;

/// The most bytes that come before a shard's payload: every varint at its longest.
pub(crate) const MAX_SHARD_HEADER: usize = STAMP_BYTES + 2 + 8 + 8 + 8 + 8 + 8 + 4 + 2 + 2 + 1;

/// Version, kind, path sequence, send time, all at their longest.
const STAMP_BYTES: usize = 2 + 8 + 8;

/// Shard payload bytes that always fit [`MAX_DATAGRAM`].
pub(crate) const MAX_SHARD_PAYLOAD: usize = (MAX_DATAGRAM - MAX_SHARD_HEADER) & !1;

/// The most shards of one frame.
pub(crate) const MAX_SHARDS: usize = MAX_FRAME_BYTES.div_ceil(MAX_SHARD_PAYLOAD);

/// How far back from the highest sequence number a feedback tells what came: 512 packets are 0.8 s at
/// 6 Mb/s on one path, longer than any retransmission is worth.
pub(crate) const MAX_BITMAP_BYTES: usize = 64;

/// A full feedback fits a datagram: 10 bytes of header, and at most 98 per path.
const _: () = assert!(11 + MAX_PATHS * (1 + 8 + 8 + 8 + 8 + 8 + 1 + MAX_BITMAP_BYTES) <= MAX_DATAGRAM);

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

/// What every datagram from the sender begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Counts up by one per datagram on this path.
    pub seq: u64,
    /// When it was sent, by the sender's clock.
    pub sent: Time,
}

/// A piece of a frame, or parity over its pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard<'a> {
    pub id: FrameId,
    pub keyframe: bool,
    /// Counts the frames of this track in this session, without a hole.
    pub order: u64,
    /// The sender will send nothing of this track below this order any more.
    pub floor: u64,
    pub capture_time: Time,
    pub cut: Cut,
    /// How many parity shards the frame has, told by those alone; 0 in a piece of the frame.
    pub parity: usize,
    /// Which piece; parity counts on behind the last one.
    pub index: usize,
    pub payload: &'a [u8],
}

/// What the sender sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    Shard(Stamp, Shard<'a>),
    /// Asks for nothing but to be seen in feedback.
    Probe(Stamp),
    /// All messages of the receiver's below this number came.
    Ack(Stamp, u64),
}

/// What the receiver sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    Feedback(Feedback),
    /// A message and its number.
    Message(u64, &'a [u8]),
}

/// What the receiver sends: all it knows about every path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Feedback {
    /// When it was made, by the receiver's clock.
    pub made: Time,
    /// At most [`MAX_PATHS`], each path once; paths on which nothing came are left out.
    pub entries: Vec<FeedbackEntry>,
}

/// One path's part of a feedback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FeedbackEntry {
    pub path: PathId,
    /// The highest sequence number that came,
    pub highest: u64,
    /// when it was sent (sender's clock),
    pub sent: Time,
    /// and when it came (receiver's clock).
    pub arrived: Time,
    /// Distinct datagrams that came, ever.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bit `i % 8` (from the lowest) of byte `i / 8`: whether `highest - 1 - i` came.
    pub bitmap: Vec<u8>,
}

impl FeedbackEntry {
    /// Whether this sequence number came; `None` where it is beyond what the feedback tells.
    pub fn received(&self, seq: u64) -> Option<bool> {
        if seq >= self.highest {
            return (seq == self.highest).then_some(true);
        }
        let back = self.highest - 1 - seq;
        let byte = self.bitmap.get(usize::try_from(back / 8).ok()?)?;
        Some(byte >> (back % 8) & 1 == 1)
    }
}

fn put_stamp(out: &mut BytesMut, kind: u8, stamp: Stamp) {
    out.put_u8(VERSION);
    out.put_u8(kind);
    varint::put(stamp.seq, out);
    out.put_u64(stamp.sent.as_micros());
}

/// Writes a shard; at most [`MAX_DATAGRAM`] bytes where the payload is at most [`MAX_SHARD_PAYLOAD`].
pub(crate) fn put_shard(stamp: Stamp, shard: &Shard<'_>) -> BytesMut {
    let mut out = BytesMut::with_capacity(MAX_SHARD_HEADER + shard.payload.len());
    put_stamp(&mut out, if shard.parity > 0 { KIND_PARITY } else { KIND_SHARD }, stamp);
    out.put_u8(if shard.keyframe { FLAG_KEYFRAME } else { 0 });
    out.put_u8(shard.id.track.0);
    varint::put(shard.order, &mut out);
    varint::put(shard.order - shard.floor.min(shard.order), &mut out);
    varint::put(shard.id.group, &mut out);
    varint::put(u64::from(shard.id.frame), &mut out);
    out.put_u64(shard.capture_time.as_micros());
    varint::put(shard.cut.frame_bytes as u64, &mut out);
    varint::put(shard.cut.count as u64, &mut out);
    if shard.parity > 0 {
        out.put_u8(shard.parity as u8);
        out.put_u8((shard.index - shard.cut.count) as u8);
    } else {
        varint::put(shard.index as u64, &mut out);
    }
    out.put_slice(shard.payload);
    out
}

/// Writes a probe of at least `len` bytes.
pub(crate) fn put_probe(stamp: Stamp, len: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(STAMP_BYTES.max(len));
    put_stamp(&mut out, KIND_PROBE, stamp);
    out.put_bytes(0, len.saturating_sub(out.len()));
    out
}

/// Writes an acknowledgement of messages.
pub(crate) fn put_ack(stamp: Stamp, next: u64) -> BytesMut {
    let mut out = BytesMut::with_capacity(STAMP_BYTES + 8);
    put_stamp(&mut out, KIND_ACK, stamp);
    varint::put(next, &mut out);
    out
}

/// Writes a message of the receiver's.
pub(crate) fn put_message(number: u64, message: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(2 + 8 + message.len());
    out.put_u8(VERSION);
    out.put_u8(KIND_MESSAGE);
    varint::put(number, &mut out);
    out.put_slice(message);
    out
}

/// Writes a feedback.
pub(crate) fn put_feedback(feedback: &Feedback) -> BytesMut {
    let mut out = BytesMut::with_capacity(MAX_DATAGRAM);
    out.put_u8(VERSION);
    out.put_u8(KIND_FEEDBACK);
    out.put_u64(feedback.made.as_micros());
    out.put_u8(feedback.entries.len() as u8);
    for entry in &feedback.entries {
        out.put_u8(entry.path.0);
        varint::put(entry.highest, &mut out);
        out.put_u64(entry.sent.as_micros());
        varint::put(feedback.made.saturating_since(entry.arrived).as_micros() as u64, &mut out);
        varint::put(entry.packets, &mut out);
        varint::put(entry.bytes, &mut out);
        out.put_u8(entry.bitmap.len() as u8);
        out.put_slice(&entry.bitmap);
    }
    out
}

fn byte(input: &mut &[u8]) -> Result<u8, WireError> {
    let (&first, rest) = input.split_first().ok_or(WireError::Truncated)?;
    *input = rest;
    Ok(first)
}

fn number(input: &mut &[u8]) -> Result<u64, WireError> {
    varint::get(input).ok_or(WireError::Truncated)
}

/// A varint of at most `max`.
fn bounded(input: &mut &[u8], max: usize, name: &'static str) -> Result<usize, WireError> {
    match usize::try_from(number(input)?) {
        Ok(value) if value <= max => Ok(value),
        _ => Err(WireError::Field(name)),
    }
}

fn time(input: &mut &[u8]) -> Result<Time, WireError> {
    if input.len() < 8 {
        return Err(WireError::Truncated);
    }
    Ok(Time::from_micros(input.get_u64()))
}

fn kind(input: &mut &[u8]) -> Result<u8, WireError> {
    match byte(input)? {
        VERSION => byte(input),
        other => Err(WireError::Version(other)),
    }
}

/// Reads what a sender sent.
pub(crate) fn parse_packet(data: &[u8]) -> Result<Packet<'_>, WireError> {
    let mut input = data;
    let kind = kind(&mut input)?;
    if !matches!(kind, KIND_SHARD | KIND_PARITY | KIND_PROBE | KIND_ACK) {
        return Err(WireError::Kind(kind));
    }
    let stamp = Stamp { seq: number(&mut input)?, sent: time(&mut input)? };
    match kind {
        KIND_ACK => {
            let next = number(&mut input)?;
            if input.is_empty() {
                Ok(Packet::Ack(stamp, next))
            } else {
                Err(WireError::Trailing(input.len()))
            }
        }
        KIND_PROBE if input.iter().all(|&padding| padding == 0) => Ok(Packet::Probe(stamp)),
        KIND_PROBE => Err(WireError::Field("padding")),
        _ => Ok(Packet::Shard(stamp, parse_shard(input, kind == KIND_PARITY)?)),
    }
}

fn parse_shard(mut input: &[u8], is_parity: bool) -> Result<Shard<'_>, WireError> {
    let flags = byte(&mut input)?;
    if flags & !FLAG_KEYFRAME != 0 {
        return Err(WireError::Field("flags"));
    }
    let track = TrackId(byte(&mut input)?);
    let order = number(&mut input)?;
    let floor = order.checked_sub(number(&mut input)?).ok_or(WireError::Field("floor"))?;
    let group = number(&mut input)?;
    let frame = u32::try_from(number(&mut input)?).map_err(|_| WireError::Field("frame"))?;
    let capture_time = time(&mut input)?;
    let most = if track == MESSAGES { MAX_MESSAGE_BYTES } else { MAX_FRAME_BYTES };
    let frame_bytes = bounded(&mut input, most, "frame length")?;
    let count = bounded(&mut input, MAX_SHARDS, "shard count")?;
    let cut = Cut::checked(frame_bytes, count).ok_or(WireError::Field("shard count"))?;
    let (parity, index, expected) = if is_parity {
        let parity = usize::from(byte(&mut input)?);
        if parity == 0 || parity > MAX_PARITY {
            return Err(WireError::Field("parity count"));
        }
        let index = usize::from(byte(&mut input)?);
        if index >= parity {
            return Err(WireError::Field("parity index"));
        }
        (parity, count + index, fec::parity_bytes(cut))
    } else {
        let index = bounded(&mut input, MAX_SHARDS, "shard index")?;
        if index >= count {
            return Err(WireError::Field("shard index"));
        }
        (0, index, cut.range(index).len())
    };
    match input.len() {
        len if len < expected => return Err(WireError::Truncated),
        len if len > expected => return Err(WireError::Trailing(len - expected)),
        _ => {}
    }
    Ok(Shard {
        id: FrameId { track, group, frame },
        keyframe: flags & FLAG_KEYFRAME != 0,
        order,
        floor,
        capture_time,
        cut,
        parity,
        index,
        payload: input,
    })
}

/// Reads what a receiver sent.
pub(crate) fn parse_answer(data: &[u8]) -> Result<Answer<'_>, WireError> {
    let mut input = data;
    match kind(&mut input)? {
        KIND_FEEDBACK => Ok(Answer::Feedback(parse_feedback(input)?)),
        KIND_MESSAGE => {
            let number = number(&mut input)?;
            if input.len() > MAX_MESSAGE_BYTES {
                return Err(WireError::Trailing(input.len() - MAX_MESSAGE_BYTES));
            }
            Ok(Answer::Message(number, input))
        }
        other => Err(WireError::Kind(other)),
    }
}

fn parse_feedback(mut input: &[u8]) -> Result<Feedback, WireError> {
    let made = time(&mut input)?;
    let count = usize::from(byte(&mut input)?);
    if count > MAX_PATHS {
        return Err(WireError::Field("path count"));
    }
    let mut entries: Vec<FeedbackEntry> = Vec::with_capacity(count);
    for _ in 0..count {
        let path = PathId(byte(&mut input)?);
        if entries.iter().any(|entry| entry.path == path) {
            return Err(WireError::Field("path"));
        }
        let highest = number(&mut input)?;
        let sent = time(&mut input)?;
        let age = number(&mut input)?;
        let arrived =
            Time::from_micros(made.as_micros().checked_sub(age).ok_or(WireError::Field("arrival age"))?);
        let packets = number(&mut input)?;
        let bytes = number(&mut input)?;
        let bitmap_bytes = usize::from(byte(&mut input)?);
        if bitmap_bytes > MAX_BITMAP_BYTES {
            return Err(WireError::Field("bitmap length"));
        }
        if input.len() < bitmap_bytes {
            return Err(WireError::Truncated);
        }
        let (bitmap, rest) = input.split_at(bitmap_bytes);
        input = rest;
        entries.push(FeedbackEntry { path, highest, sent, arrived, packets, bytes, bitmap: bitmap.to_vec() });
    }
    match input.len() {
        0 => Ok(Feedback { made, entries }),
        left => Err(WireError::Trailing(left)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_feedback(data: &[u8]) -> Result<Feedback, WireError> {
        parse_answer(data).map(|answer| match answer {
            Answer::Feedback(feedback) => feedback,
            other => panic!("{other:?}"),
        })
    }

    use sim::Rng;

    const STAMP: Stamp = Stamp { seq: 300, sent: Time::from_micros(0x0102_0304_0506_0708) };

    fn shard(payload: &[u8]) -> Shard<'_> {
        Shard {
            id: FrameId { track: TrackId(5), group: 0x1234_5678, frame: 7 },
            keyframe: true,
            order: 100,
            floor: 97,
            capture_time: Time::from_micros(0x0a0b_0c0d),
            cut: Cut::checked(5, 2).unwrap(),
            parity: 0,
            index: 1,
            payload,
        }
    }

    fn feedback() -> Feedback {
        Feedback {
            made: Time::from_micros(10_000),
            entries: vec![FeedbackEntry {
                path: PathId(2),
                highest: 9,
                sent: Time::from_micros(0xff),
                arrived: Time::from_micros(9_963),
                packets: 8,
                bytes: 1000,
                bitmap: vec![0b1111_1101],
            }],
        }
    }

    const GOLDEN_SHARD: &[u8] = &[
        2, 1, // version, kind
        0x41, 0x2c, // path sequence 300
        1, 2, 3, 4, 5, 6, 7, 8, // send time
        1, 5, // flags, track
        0x40, 100, 3, // order, order - floor
        0x92, 0x34, 0x56, 0x78, 7, // group, frame
        0, 0, 0, 0, 0x0a, 0x0b, 0x0c, 0x0d, // capture time
        5, 2, 1, // frame length, shard count, shard index
        b'd', b'e', // payload
    ];
    /// The second of three parity shards of that frame.
    const GOLDEN_PARITY: &[u8] = &[
        2, 2, // version, kind
        0x41, 0x2c, // path sequence 300
        1, 2, 3, 4, 5, 6, 7, 8, // send time
        1, 5, // flags, track
        0x40, 100, 3, // order, order - floor
        0x92, 0x34, 0x56, 0x78, 7, // group, frame
        0, 0, 0, 0, 0x0a, 0x0b, 0x0c, 0x0d, // capture time
        5, 2, 3, 1, // frame length, shard count, parity count, parity index
        1, 2, 3, 4, // payload: 3 bytes a shard, made even
    ];
    const GOLDEN_PROBE: &[u8] = &[2, 3, 0x41, 0x2c, 1, 2, 3, 4, 5, 6, 7, 8];
    const GOLDEN_ACK: &[u8] = &[2, 6, 0x41, 0x2c, 1, 2, 3, 4, 5, 6, 7, 8, 0x41, 0];
    const GOLDEN_MESSAGE: &[u8] = &[2, 5, 0x40, 0xff, b'h', b'i'];
    const GOLDEN_FEEDBACK: &[u8] = &[
        2, 4, // version, kind
        0, 0, 0, 0, 0, 0, 0x27, 0x10, // made
        1,    // paths
        2, 9, // path, highest
        0, 0, 0, 0, 0, 0, 0, 0xff, // sent
        37, 8, 0x43, 0xe8, // age of the arrival, packets, bytes
        1, 0xfd, // bitmap
    ];

    /// The bytes in `docs/protocol.md`: changing them needs a new ALPN.
    #[test]
    fn golden_bytes() {
        assert_eq!(put_shard(STAMP, &shard(b"de")), GOLDEN_SHARD);
        assert_eq!(parse_packet(GOLDEN_SHARD), Ok(Packet::Shard(STAMP, shard(b"de"))));
        let parity = Shard { parity: 3, index: 2 + 1, ..shard(&[1, 2, 3, 4]) };
        assert_eq!(put_shard(STAMP, &parity), GOLDEN_PARITY);
        assert_eq!(parse_packet(GOLDEN_PARITY), Ok(Packet::Shard(STAMP, parity)));
        assert_eq!(put_probe(STAMP, 0), GOLDEN_PROBE);
        assert_eq!(parse_packet(GOLDEN_PROBE), Ok(Packet::Probe(STAMP)));
        assert_eq!(put_ack(STAMP, 256), GOLDEN_ACK);
        assert_eq!(parse_packet(GOLDEN_ACK), Ok(Packet::Ack(STAMP, 256)));
        assert_eq!(put_message(255, b"hi"), GOLDEN_MESSAGE);
        assert_eq!(parse_answer(GOLDEN_MESSAGE), Ok(Answer::Message(255, b"hi")));
        assert_eq!(put_feedback(&feedback()), GOLDEN_FEEDBACK);
        assert_eq!(parse_feedback(GOLDEN_FEEDBACK), Ok(feedback()));
    }

    #[test]
    fn every_cut_is_an_error() {
        for golden in [GOLDEN_SHARD, GOLDEN_PARITY, GOLDEN_PROBE, GOLDEN_ACK] {
            for len in 0..golden.len() {
                assert_eq!(parse_packet(&golden[..len]), Err(WireError::Truncated), "{len}");
            }
        }
        assert_eq!(parse_packet(&[GOLDEN_SHARD, &[0]].concat()), Err(WireError::Trailing(1)));
        assert_eq!(parse_packet(&[GOLDEN_PROBE, &[0, 0]].concat()), Ok(Packet::Probe(STAMP)));
        assert_eq!(parse_packet(&[GOLDEN_PROBE, &[0, 1]].concat()), Err(WireError::Field("padding")));
        assert_eq!(put_probe(STAMP, MAX_DATAGRAM).len(), MAX_DATAGRAM);
        for len in 0..GOLDEN_FEEDBACK.len() {
            assert_eq!(parse_feedback(&GOLDEN_FEEDBACK[..len]), Err(WireError::Truncated), "{len}");
        }
        assert_eq!(parse_feedback(&[GOLDEN_FEEDBACK, &[0]].concat()), Err(WireError::Trailing(1)));
    }

    #[test]
    fn nonsense_is_named() {
        let with = |at: usize, value: u8| {
            let mut data = GOLDEN_SHARD.to_vec();
            data[at] = value;
            parse_packet(&data).map(|_| ()).unwrap_err()
        };
        assert_eq!(with(0, 1), WireError::Version(1));
        assert_eq!(with(1, 5), WireError::Kind(5));
        assert_eq!(with(1, 7), WireError::Kind(7));
        assert_eq!(with(1, 2), WireError::Field("parity index"));
        assert_eq!(with(1, 4), WireError::Kind(4));
        assert_eq!(with(12, 2), WireError::Field("flags"));
        assert_eq!(with(15, 2), WireError::Field("floor"));
        assert_eq!(with(31, 0), WireError::Field("shard count"));
        assert_eq!(with(31, 4), WireError::Field("shard count"));
        assert_eq!(with(32, 2), WireError::Field("shard index"));
        assert_eq!(parse_feedback(GOLDEN_PROBE), Err(WireError::Kind(3)));
        let mut data = GOLDEN_FEEDBACK.to_vec();
        data[10] = 9;
        assert_eq!(parse_feedback(&data), Err(WireError::Field("path count")));
        let mut data = GOLDEN_FEEDBACK.to_vec();
        data[10] = 2;
        data.extend_from_slice(&GOLDEN_FEEDBACK[11..]);
        assert_eq!(parse_feedback(&data), Err(WireError::Field("path")));
    }

    /// Found beside fuzzing. A message is at most 1100 bytes long, and whoever reads one counts on that; but as a
    /// frame on the messages' track it could be a megabyte.
    #[test]
    fn a_message_is_no_longer_than_it_may_be() {
        let cut = |len| Cut::of(len);
        let message = |cut: Cut, payload| {
            let id = FrameId { track: MESSAGES, group: 0, frame: 0 };
            let shard = Shard { id, order: 0, floor: 0, cut, index: 0, ..shard(payload) };
            parse_packet(&put_shard(STAMP, &shard)).map(|_| ())
        };
        assert_eq!(message(cut(MAX_MESSAGE_BYTES), &[7; MAX_MESSAGE_BYTES / 2]), Ok(()));
        let longer = message(cut(MAX_MESSAGE_BYTES + 1), &[7; MAX_MESSAGE_BYTES / 2 + 1]);
        assert_eq!(longer, Err(WireError::Field("frame length")));
    }

    #[test]
    fn the_longest_header_fits() {
        let payload = [7; MAX_SHARD_PAYLOAD];
        let longest = Shard {
            id: FrameId { track: TrackId(254), group: varint::MAX, frame: u32::MAX },
            order: varint::MAX,
            floor: 0,
            capture_time: Time::from_micros(u64::MAX),
            cut: Cut::of(MAX_FRAME_BYTES),
            index: MAX_SHARDS - 2,
            ..shard(&payload)
        };
        let cut = longest.cut;
        let longest = Shard { payload: &payload[..cut.range(longest.index).len()], ..longest };
        let stamp = Stamp { seq: varint::MAX, sent: Time::from_micros(u64::MAX) };
        let data = put_shard(stamp, &longest);
        assert!(data.len() <= MAX_DATAGRAM, "{}", data.len());
        assert_eq!(parse_packet(&data), Ok(Packet::Shard(stamp, longest)));
    }

    #[test]
    fn the_bitmap_says_what_came() {
        let entry = &feedback().entries[0];
        assert_eq!(entry.received(10), None);
        assert_eq!(entry.received(9), Some(true));
        assert_eq!(entry.received(8), Some(true));
        assert_eq!(entry.received(7), Some(false));
        assert_eq!(entry.received(1), Some(true));
        assert_eq!(entry.received(0), None);
    }

    /// Garbage never panics, and what parses says the same when written again.
    #[test]
    fn garbage() {
        let mut rng = Rng::new(1);
        for _ in 0..200_000 {
            let mut data = match rng.below(7) {
                4 => GOLDEN_MESSAGE.to_vec(),
                5 => GOLDEN_ACK.to_vec(),
                3 => GOLDEN_PARITY.to_vec(),
                0 => GOLDEN_SHARD.to_vec(),
                1 => GOLDEN_FEEDBACK.to_vec(),
                2 => GOLDEN_PROBE.to_vec(),
                _ => (0..rng.below(60)).map(|_| rng.next_u64() as u8).collect(),
            };
            for _ in 0..rng.below(4) {
                let at = rng.below(data.len() as u64) as usize;
                if let Some(byte) = data.get_mut(at) {
                    *byte = rng.next_u64() as u8;
                }
            }
            match parse_packet(&data) {
                Ok(Packet::Shard(stamp, shard)) => {
                    let again = put_shard(stamp, &shard);
                    assert_eq!(parse_packet(&again), Ok(Packet::Shard(stamp, shard)));
                }
                Ok(Packet::Probe(stamp)) => {
                    assert_eq!(parse_packet(&put_probe(stamp, data.len())), Ok(Packet::Probe(stamp)))
                }
                Ok(Packet::Ack(stamp, next)) => {
                    assert_eq!(parse_packet(&put_ack(stamp, next)), Ok(Packet::Ack(stamp, next)))
                }
                Err(_) => {}
            }
            match parse_answer(&data) {
                Ok(Answer::Feedback(feedback)) => {
                    assert_eq!(parse_feedback(&put_feedback(&feedback)), Ok(feedback));
                }
                Ok(Answer::Message(number, message)) => {
                    let again = put_message(number, message);
                    assert_eq!(parse_answer(&again), Ok(Answer::Message(number, message)));
                }
                Err(_) => {}
            }
        }
    }
}
