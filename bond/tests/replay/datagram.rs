//! Datagrams as `docs/protocol.md` has them, written and read apart from `wire.rs`: true ones, and ones that
//! are nearly true.

use bond::{MAX_DATAGRAM, MAX_PATHS};
use bytes::BufMut;
use media::{Time, varint};

use super::input::Input;

pub const VERSION: u8 = 2;
pub const SHARD: u8 = 1;
pub const PARITY: u8 = 2;
pub const PROBE: u8 = 3;
pub const FEEDBACK: u8 = 4;
pub const MESSAGE: u8 = 5;
pub const ACK: u8 = 6;

/// The bytes of a frame that fit one datagram whatever its header.
pub const MAX_PAYLOAD: usize = 1080;

/// The example datagrams of `docs/protocol.md` that a sender makes,
pub const FROM_SENDER: [&[u8]; 4] = [
    b"\x02\x01\x41\x2c\x01\x02\x03\x04\x05\x06\x07\x08\x01\x05\x40\x64\x03\x92\x34\x56\x78\x07\
      \x00\x00\x00\x00\x0a\x0b\x0c\x0d\x05\x02\x01\x64\x65",
    b"\x02\x02\x41\x2c\x01\x02\x03\x04\x05\x06\x07\x08\x01\x05\x40\x64\x03\x92\x34\x56\x78\x07\
      \x00\x00\x00\x00\x0a\x0b\x0c\x0d\x05\x02\x03\x01\x01\x02\x03\x04",
    b"\x02\x03\x41\x2c\x01\x02\x03\x04\x05\x06\x07\x08",
    b"\x02\x06\x41\x2c\x01\x02\x03\x04\x05\x06\x07\x08\x41\x00",
];

/// and those that a receiver makes.
pub const FROM_RECEIVER: [&[u8]; 2] = [
    b"\x02\x05\x40\xff\x68\x69",
    b"\x02\x04\x00\x00\x00\x00\x00\x00\x27\x10\x01\x02\x09\x00\x00\x00\x00\x00\x00\x00\xff\x25\x08\x43\xe8\
      \x01\xfd",
];

/// A shard of a frame, or parity over them.
#[derive(Clone, Debug)]
pub struct Shard {
    pub track: u8,
    pub order: u64,
    pub back: u64,
    pub group: u64,
    pub frame: u64,
    pub keyframe: bool,
    pub capture_time: Time,
    pub frame_bytes: u64,
    pub count: u64,
    pub index: u64,
    /// How many parity shards the frame has, where this is one of them.
    pub parity: Option<u8>,
}

/// What a sender's datagram begins with.
fn stamped(kind: u8, seq: u64, sent: Time) -> Vec<u8> {
    let mut out = vec![VERSION, kind];
    varint::put(seq, &mut out);
    out.put_u64(sent.as_micros());
    out
}

/// A shard with as much payload as its fields ask for. The bytes of a frame follow from its name, so that
/// its shards belong together whenever they are made.
pub fn shard(seq: u64, sent: Time, shard: &Shard) -> Vec<u8> {
    let mut out = stamped(if shard.parity.is_some() { PARITY } else { SHARD }, seq, sent);
    out.put_slice(&[u8::from(shard.keyframe), shard.track]);
    for number in [shard.order, shard.back, shard.group, shard.frame] {
        varint::put(number, &mut out);
    }
    out.put_u64(shard.capture_time.as_micros());
    varint::put(shard.frame_bytes, &mut out);
    varint::put(shard.count, &mut out);
    let each = shard.frame_bytes.div_ceil(shard.count.max(1));
    let payload = match shard.parity {
        Some(of) => {
            out.put_slice(&[of, shard.index as u8]);
            each.next_multiple_of(2).max(2)
        }
        None => {
            varint::put(shard.index, &mut out);
            shard.frame_bytes.saturating_sub(each.saturating_mul(shard.index)).min(each)
        }
    };
    let fill = shard.track.wrapping_mul(31).wrapping_add(shard.order as u8);
    out.put_bytes(fill, payload.min(MAX_DATAGRAM as u64) as usize);
    out
}

pub fn probe(seq: u64, sent: Time, padding: usize) -> Vec<u8> {
    let mut out = stamped(PROBE, seq, sent);
    out.put_bytes(0, padding);
    out
}

pub fn ack(seq: u64, sent: Time, next: u64) -> Vec<u8> {
    let mut out = stamped(ACK, seq, sent);
    varint::put(next, &mut out);
    out
}

pub fn message(number: u64, message: &[u8]) -> Vec<u8> {
    let mut out = vec![VERSION, MESSAGE];
    varint::put(number, &mut out);
    out.put_slice(message);
    out
}

/// One path's part of a feedback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: u8,
    pub highest: u64,
    pub sent: u64,
    pub age: u64,
    pub packets: u64,
    pub bytes: u64,
    pub bitmap: Vec<u8>,
}

pub fn feedback(made: Time, entries: &[Entry]) -> Vec<u8> {
    let mut out = vec![VERSION, FEEDBACK];
    out.put_u64(made.as_micros());
    out.put_u8(entries.len() as u8);
    for entry in entries {
        out.put_u8(entry.path);
        varint::put(entry.highest, &mut out);
        out.put_u64(entry.sent);
        for number in [entry.age, entry.packets, entry.bytes] {
            varint::put(number, &mut out);
        }
        out.put_u8(entry.bitmap.len() as u8);
        out.put_slice(&entry.bitmap);
    }
    out
}

/// Takes so many bytes.
fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

fn number(rest: &mut &[u8], len: usize) -> Option<u64> {
    Some(take(rest, len)?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// Reads a feedback, every byte of it.
pub fn read_feedback(data: &[u8]) -> Option<(u64, Vec<Entry>)> {
    let mut rest = data.strip_prefix(&[VERSION, FEEDBACK])?;
    let made = number(&mut rest, 8)?;
    let count = number(&mut rest, 1)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let path = number(&mut rest, 1)? as u8;
        let highest = varint::get(&mut rest)?;
        let sent = number(&mut rest, 8)?;
        let (age, packets, bytes) =
            (varint::get(&mut rest)?, varint::get(&mut rest)?, varint::get(&mut rest)?);
        let bitmap = number(&mut rest, 1)? as usize;
        let bitmap = take(&mut rest, bitmap).filter(|bitmap| bitmap.len() <= 64)?.to_vec();
        entries.push(Entry { path, highest, sent, age, packets, bytes, bitmap });
    }
    (rest.is_empty() && entries.len() <= MAX_PATHS).then_some((made, entries))
}

/// Reads a message: its number and its bytes.
pub fn read_message(data: &[u8]) -> Option<(u64, &[u8])> {
    let mut rest = data.strip_prefix(&[VERSION, MESSAGE])?;
    let number = varint::get(&mut rest)?;
    Some((number, rest))
}

/// Kind, path sequence and send time of a sender's datagram, and what follows them.
pub fn read_stamp(data: &[u8]) -> Option<(u8, u64, u64, &[u8])> {
    let (&kind, mut rest) = data.strip_prefix(&[VERSION])?.split_first()?;
    let seq = varint::get(&mut rest)?;
    let sent = number(&mut rest, 8)?;
    Some((kind, seq, sent, rest))
}

/// Track, order and floor of a shard, after its stamp.
pub fn read_shard(mut rest: &[u8]) -> Option<(u8, u64, u64)> {
    let (_, track) = (number(&mut rest, 1)?, number(&mut rest, 1)?);
    let order = varint::get(&mut rest)?;
    Some((track as u8, order, order.checked_sub(varint::get(&mut rest)?)?))
}

/// Spoils a datagram, mostly not at all.
pub fn spoil(data: &mut Vec<u8>, input: &mut Input<'_>) {
    for _ in 0..input.byte().saturating_sub(200) / 16 {
        let at = usize::from(input.byte()) % data.len().max(1);
        match input.below(5) {
            0 => data.truncate(at),
            1 => data.push(input.byte()),
            2 => data.splice(at..(at + 8).min(data.len()), [0xff; 8]).for_each(drop),
            3 => data.insert(at, input.byte()),
            _ => data.get_mut(at).into_iter().for_each(|there| *there = input.byte()),
        }
    }
}
