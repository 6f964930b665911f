//! The frames that the sender still owes the receiver.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use media::{Frame, FrameId, Time, TrackId};

use crate::estimate::PACKET_OVERHEAD;
use crate::fec;
use crate::lanes;
use crate::scheduler::{Rank, ShardId, Waiting};
use crate::shard::Cut;
use crate::wire::{self, Shard, Stamp};
use crate::{Class, PathId};

/// The most bytes of frames that the sender holds: above 5 s of 12 Mb/s. Deadlines keep it far below;
/// this is against a driver that pushes without end. The oldest frames of the least class go first.
const MAX_PENDING_BYTES: usize = 8 << 20;

/// The most frames, for the same reason: 5 s of ten tracks at 80 frames a second.
const MAX_PENDING_FRAMES: usize = 4096;

/// What a shard's header takes in most cases, for predictions.
const USUAL_HEADER: usize = 48;

/// A frame's key: track, then order.
pub(crate) type Key = (TrackId, u64);

/// One frame.
#[derive(Debug)]
struct Owed {
    id: FrameId,
    keyframe: bool,
    capture_time: Time,
    data: Bytes,
    class: Class,
    deadline: Time,
    cut: Cut,
    /// Shards of any kind that must still arrive.
    missing: usize,
    /// Pieces of the frame, then parity.
    shards: Vec<ShardState>,
    parity: Vec<Bytes>,
    parity_until: Time,
    /// How many shards went on which path; at most one entry a path.
    paths: Vec<(PathId, u32)>,
}

/// One shard's way.
#[derive(Clone, Copy, Debug, Default)]
struct ShardState {
    arrived: bool,
    waiting: bool,
    /// Copies that were sent and are not accounted for.
    in_flight: u16,
    /// Times that it was sent.
    sends: u16,
}

/// What the sender must know of a shard to send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub class: Class,
    pub deadline: Time,
    /// Times that it was sent before.
    pub sends: u16,
    /// The last one of its frame.
    pub last: bool,
    pub parity: bool,
}

/// A frame that left, and what of it still waited.
#[derive(Debug)]
pub(crate) struct Left {
    pub id: FrameId,
    pub class: Class,
    pub waiting: Vec<Waiting>,
}

/// All frames that are neither acknowledged nor given up.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    frames: BTreeMap<Key, Owed>,
    /// Those of frames that have one.
    deadlines: BTreeSet<(Time, Key)>,
    next_order: BTreeMap<TrackId, u64>,
    /// Bytes of frames that have a deadline.
    bytes: usize,
}

impl Pending {
    /// Takes a frame, and gives its shards to send, with so much parity, which is of use until then.
    pub fn push(
        &mut self,
        frame: &Frame,
        class: Class,
        deadline: Time,
        parity: usize,
        parity_until: Time,
    ) -> Vec<Waiting> {
        let next = self.next_order.entry(frame.id.track).or_insert(0);
        let key = (frame.id.track, *next);
        *next += 1;
        let cut = Cut::of(frame.data.len());
        let parity = fec::encode(&frame.data, cut, parity);
        let count = cut.count + parity.len();
        let owed = Owed {
            id: frame.id,
            keyframe: frame.keyframe,
            capture_time: frame.capture_time,
            data: frame.data.clone(),
            class,
            deadline,
            cut,
            missing: cut.count,
            shards: vec![ShardState { waiting: true, ..Default::default() }; count],
            parity,
            parity_until,
            paths: Vec::new(),
        };
        let waiting = (0..count).map(|index| owed.waiting(key, index)).collect();
        if !lanes::reliable(key.0) {
            self.bytes += owed.data.len();
            self.deadlines.insert((deadline, key));
        }
        self.frames.insert(key, owed);
        waiting
    }

    /// The order that the next frame of a track gets.
    pub fn next_order(&self, track: TrackId) -> u64 {
        self.next_order.get(&track).copied().unwrap_or(0)
    }

    /// Counts a frame that will never be sent: by the orders the receiver names what is missing.
    pub fn skip(&mut self, track: TrackId) {
        *self.next_order.entry(track).or_insert(0) += 1;
    }

    /// Frames and bytes of one track that are held.
    pub fn held(&self, track: TrackId) -> (usize, usize) {
        let held = self.frames.range((track, 0)..=(track, u64::MAX));
        held.fold((0, 0), |(frames, bytes), (_, owed)| (frames + 1, bytes + owed.data.len()))
    }

    /// A frame to give up because there are too many.
    pub fn excess(&self) -> Option<Key> {
        if self.bytes <= MAX_PENDING_BYTES && self.deadlines.len() <= MAX_PENDING_FRAMES {
            return None;
        }
        let oldest_of_least = |(deadline, key): &&(Time, Key)| {
            (self.frames.get(key).map(|owed| std::cmp::Reverse(owed.class)), *deadline)
        };
        self.deadlines.iter().min_by_key(oldest_of_least).map(|(_, key)| *key)
    }

    /// The frame that is due first.
    pub fn first_due(&self) -> Option<(Time, Key)> {
        self.deadlines.first().copied()
    }

    /// What to know before sending a shard; `None` where it need not be sent any more.
    pub fn outgoing(&self, shard: ShardId) -> Option<Outgoing> {
        let owed = self.frames.get(&(shard.track, shard.order))?;
        let state = owed.shards.get(shard.index).filter(|state| !state.arrived)?;
        let last = shard.index + 1 == owed.cut.count;
        let parity = shard.index >= owed.cut.count;
        Some(Outgoing { class: owed.class, deadline: owed.deadline, sends: state.sends, last, parity })
    }

    /// Writes a shard's datagram, and notes that it is on its way.
    pub fn send(&mut self, shard: ShardId, path: PathId, stamp: Stamp) -> Option<Bytes> {
        let floor = self.floor(shard.track);
        let owed = self.frames.get_mut(&(shard.track, shard.order))?;
        let state = owed.shards.get_mut(shard.index)?;
        state.waiting = false;
        state.in_flight = state.in_flight.saturating_add(1);
        state.sends = state.sends.saturating_add(1);
        match owed.paths.iter_mut().find(|(there, _)| *there == path) {
            Some((_, count)) => *count += 1,
            None => owed.paths.push((path, 1)),
        }
        let parity = shard.index.checked_sub(owed.cut.count);
        let shard = Shard {
            id: owed.id,
            keyframe: owed.keyframe,
            order: shard.order,
            floor,
            capture_time: owed.capture_time,
            cut: owed.cut,
            parity: if parity.is_some() { owed.parity.len() } else { 0 },
            index: shard.index,
            payload: match parity {
                Some(index) => owed.parity.get(index)?,
                None => &owed.data[owed.cut.range(shard.index)],
            },
        };
        Some(wire::put_shard(stamp, &shard).freeze())
    }

    /// The path on which most of this shard's frame went.
    pub fn main_path(&self, shard: ShardId) -> Option<PathId> {
        let owed = self.frames.get(&(shard.track, shard.order))?;
        owed.paths.iter().max_by_key(|(_, count)| *count).map(|(path, _)| *path)
    }

    /// The lowest order that may still be sent.
    fn floor(&self, track: TrackId) -> u64 {
        let first = self.frames.range((track, 0)..=(track, u64::MAX)).next();
        first.map_or_else(|| self.next_order(track), |(key, _)| key.1)
    }

    /// A shard arrived. Gives what waits in vain now, and the frame where that was its last one.
    pub fn arrived(&mut self, shard: ShardId) -> (Option<Waiting>, Option<Left>) {
        let key = (shard.track, shard.order);
        let Some(owed) = self.frames.get_mut(&key) else { return (None, None) };
        let Some(state) = owed.shards.get_mut(shard.index).filter(|state| !state.arrived) else {
            return (None, None);
        };
        state.arrived = true;
        let vain = std::mem::take(&mut state.waiting).then(|| owed.waiting(key, shard.index));
        owed.missing -= 1;
        let done = owed.missing == 0;
        (vain, if done { self.remove(key) } else { None })
    }

    /// A copy of a shard was lost. Gives what to send again: nothing while parity that is on its way may
    /// do, or else all pieces that are nowhere.
    pub fn lost(&mut self, shard: ShardId) -> Vec<Waiting> {
        let key = (shard.track, shard.order);
        let Some(owed) = self.frames.get_mut(&key) else { return Vec::new() };
        let Some(state) = owed.shards.get_mut(shard.index) else { return Vec::new() };
        state.in_flight = state.in_flight.saturating_sub(1);
        if state.arrived || state.waiting || state.in_flight > 0 {
            return Vec::new();
        }
        owed.again(key)
    }

    /// Parity that waited too long is not worth sending any more. Gives what relied on it.
    pub fn forget(&mut self, shard: ShardId) -> Vec<Waiting> {
        let key = (shard.track, shard.order);
        let Some(owed) = self.frames.get_mut(&key) else { return Vec::new() };
        owed.shards.get_mut(shard.index).into_iter().for_each(|state| state.waiting = false);
        owed.again(key)
    }

    /// Takes a frame out.
    pub fn remove(&mut self, key: Key) -> Option<Left> {
        let owed = self.frames.remove(&key)?;
        if self.deadlines.remove(&(owed.deadline, key)) {
            self.bytes -= owed.data.len();
        }
        let indices = (0..owed.shards.len()).filter(|&index| owed.shards[index].waiting);
        let waiting = indices.map(|index| owed.waiting(key, index)).collect();
        Some(Left { id: owed.id, class: owed.class, waiting })
    }
}

impl Owed {
    /// The pieces that must be sent again: as many of those that are nowhere as what is on its way, or
    /// will be, leaves missing.
    fn again(&mut self, key: Key) -> Vec<Waiting> {
        let hoped = |state: &&ShardState| !state.arrived && (state.waiting || state.in_flight > 0);
        let short = self.missing.saturating_sub(self.shards.iter().filter(hoped).count());
        let nowhere = |state: &ShardState| !state.arrived && !state.waiting && state.in_flight == 0;
        let again: Vec<usize> =
            (0..self.cut.count).filter(|&index| nowhere(&self.shards[index])).take(short).collect();
        again.iter().for_each(|&index| self.shards[index].waiting = true);
        again.into_iter().map(|index| self.waiting(key, index)).collect()
    }

    fn waiting(&self, (track, order): Key, index: usize) -> Waiting {
        let parity = index >= self.cut.count;
        let payload = if parity { fec::parity_bytes(self.cut) } else { self.cut.range(index).len() };
        let bytes = payload + USUAL_HEADER + PACKET_OVERHEAD as usize;
        let shard = ShardId { track, order, index };
        let deadline = if parity { self.parity_until } else { self.deadline };
        let rank = match self.class {
            Class::Bulk => Rank::Bulk,
            _ if parity => Rank::Parity,
            _ => Rank::Live,
        };
        Waiting { rank, class: self.class, deadline, shard, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Packet;

    fn frame(frame: u32, bytes: usize) -> Frame {
        let id = FrameId { track: TrackId(3), group: 1, frame };
        Frame { id, capture_time: Time::from_millis(5), keyframe: false, data: vec![1; bytes].into() }
    }

    fn floor(pending: &mut Pending, shard: ShardId) -> u64 {
        let stamp = Stamp { seq: 0, sent: Time::ZERO };
        let data = pending.send(shard, PathId(0), stamp).unwrap();
        let Ok(Packet::Shard(_, shard)) = wire::parse_packet(&data) else { panic!("{data:?}") };
        shard.floor
    }

    #[test]
    fn a_shard_is_owed_until_it_arrives() {
        let mut pending = Pending::default();
        let deadline = Time::from_millis(400);
        let shards = pending.push(&frame(0, 2_000), Class::Delta, deadline, 0, deadline);
        let next = pending.push(&frame(1, 10), Class::Delta, deadline, 0, deadline);
        assert_eq!((shards.len(), next.len()), (2, 1));
        let [first, last] = [shards[0].shard, shards[1].shard];
        assert!(pending.outgoing(last).unwrap().last && !pending.outgoing(first).unwrap().last);
        assert_eq!(floor(&mut pending, next[0].shard), 0);
        floor(&mut pending, first);
        floor(&mut pending, first);
        assert_eq!(pending.lost(first), [], "another copy is on its way");
        assert_eq!(pending.lost(first), [shards[0]]);
        assert_eq!(pending.lost(first), [], "it waits already");
        let (vain, left) = pending.arrived(first);
        assert_eq!((vain, left.is_none()), (Some(shards[0]), true));
        assert_eq!(pending.outgoing(first), None);
        floor(&mut pending, last);
        assert!(pending.arrived(last).1.is_some_and(|left| left.waiting.is_empty()));
        assert!(pending.arrived(last).1.is_none());
        assert_eq!(floor(&mut pending, next[0].shard), 1, "the floor moves on");
    }

    #[test]
    fn the_least_and_oldest_go_when_there_are_too_many() {
        let mut pending = Pending::default();
        let due = |n: u64| Time::from_millis(n);
        pending.push(&frame(0, 1 << 20), Class::Keyframe, due(1), 0, due(1));
        for n in 0..7 {
            pending.push(&frame(1 + n, 1 << 20), Class::Delta, due(10 + u64::from(n)), 0, due(1));
        }
        assert_eq!(pending.excess(), None);
        pending.push(&frame(8, 1), Class::Audio, due(2), 0, due(1));
        assert_eq!(pending.excess(), Some((TrackId(3), 1)));
        let left = pending.remove((TrackId(3), 1)).unwrap();
        assert_eq!(left.waiting.len(), Cut::of(1 << 20).count);
        assert_eq!(pending.excess(), None);
        assert_eq!(pending.first_due(), Some((due(1), (TrackId(3), 0))));
    }
}
