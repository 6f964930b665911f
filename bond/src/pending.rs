//! The frames that the sender still owes the receiver.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use media::{Frame, FrameId, Time, TrackId};

use crate::Class;
use crate::estimate::PACKET_OVERHEAD;
use crate::scheduler::{ShardId, Waiting};
use crate::shard::Cut;
use crate::wire::{self, Shard, Stamp};

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
    missing: usize,
    shards: Vec<ShardState>,
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
    deadlines: BTreeSet<(Time, Key)>,
    next_order: BTreeMap<TrackId, u64>,
    bytes: usize,
}

impl Pending {
    /// Takes a frame, and gives its shards to send.
    pub fn push(&mut self, frame: &Frame, class: Class, deadline: Time) -> Vec<Waiting> {
        let next = self.next_order.entry(frame.id.track).or_insert(0);
        let key = (frame.id.track, *next);
        *next += 1;
        let cut = Cut::of(frame.data.len());
        let mut owed = Owed {
            id: frame.id,
            keyframe: frame.keyframe,
            capture_time: frame.capture_time,
            data: frame.data.clone(),
            class,
            deadline,
            cut,
            missing: cut.count,
            shards: vec![ShardState { waiting: true, ..Default::default() }; cut.count],
        };
        let waiting = (0..cut.count).map(|index| owed.waiting(key, index)).collect();
        owed.shards.shrink_to_fit();
        self.bytes += owed.data.len();
        self.deadlines.insert((deadline, key));
        self.frames.insert(key, owed);
        waiting
    }

    /// A frame to give up because there are too many.
    pub fn excess(&self) -> Option<Key> {
        if self.bytes <= MAX_PENDING_BYTES && self.frames.len() <= MAX_PENDING_FRAMES {
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
        Some(Outgoing { class: owed.class, deadline: owed.deadline, sends: state.sends, last })
    }

    /// Writes a shard's datagram, and notes that it is on its way.
    pub fn send(&mut self, shard: ShardId, stamp: Stamp) -> Option<Bytes> {
        let floor = self.floor(shard.track);
        let owed = self.frames.get_mut(&(shard.track, shard.order))?;
        let state = owed.shards.get_mut(shard.index)?;
        state.waiting = false;
        state.in_flight = state.in_flight.saturating_add(1);
        state.sends = state.sends.saturating_add(1);
        let shard = Shard {
            id: owed.id,
            keyframe: owed.keyframe,
            order: shard.order,
            floor,
            capture_time: owed.capture_time,
            cut: owed.cut,
            index: shard.index,
            payload: &owed.data[owed.cut.range(shard.index)],
        };
        Some(wire::put_shard(stamp, &shard).freeze())
    }

    /// The lowest order that may still be sent.
    fn floor(&self, track: TrackId) -> u64 {
        let first = self.frames.range((track, 0)..=(track, u64::MAX)).next();
        first.map_or_else(|| self.next_order.get(&track).copied().unwrap_or(0), |(key, _)| key.1)
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

    /// A copy of a shard was lost. Gives it to send again, where that makes sense.
    pub fn lost(&mut self, shard: ShardId) -> Option<Waiting> {
        let key = (shard.track, shard.order);
        let owed = self.frames.get_mut(&key)?;
        let state = owed.shards.get_mut(shard.index)?;
        state.in_flight = state.in_flight.saturating_sub(1);
        if state.arrived || state.waiting || state.in_flight > 0 {
            return None;
        }
        state.waiting = true;
        Some(owed.waiting(key, shard.index))
    }

    /// Takes a frame out.
    pub fn remove(&mut self, key: Key) -> Option<Left> {
        let owed = self.frames.remove(&key)?;
        self.bytes -= owed.data.len();
        self.deadlines.remove(&(owed.deadline, key));
        let indices = (0..owed.cut.count).filter(|&index| owed.shards[index].waiting);
        let waiting = indices.map(|index| owed.waiting(key, index)).collect();
        Some(Left { id: owed.id, class: owed.class, waiting })
    }
}

impl Owed {
    fn waiting(&self, (track, order): Key, index: usize) -> Waiting {
        let bytes = self.cut.range(index).len() + USUAL_HEADER + PACKET_OVERHEAD as usize;
        Waiting { class: self.class, deadline: self.deadline, shard: ShardId { track, order, index }, bytes }
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
        let data = pending.send(shard, stamp).unwrap();
        let Ok(Packet::Shard(_, shard)) = wire::parse_packet(&data) else { panic!("{data:?}") };
        shard.floor
    }

    #[test]
    fn a_shard_is_owed_until_it_arrives() {
        let mut pending = Pending::default();
        let deadline = Time::from_millis(400);
        let shards = pending.push(&frame(0, 2_000), Class::Delta, deadline);
        let next = pending.push(&frame(1, 10), Class::Delta, deadline);
        assert_eq!((shards.len(), next.len()), (2, 1));
        let [first, last] = [shards[0].shard, shards[1].shard];
        assert!(pending.outgoing(last).unwrap().last && !pending.outgoing(first).unwrap().last);
        assert_eq!(floor(&mut pending, next[0].shard), 0);
        floor(&mut pending, first);
        floor(&mut pending, first);
        assert_eq!(pending.lost(first), None, "another copy is on its way");
        assert_eq!(pending.lost(first), Some(shards[0]));
        assert_eq!(pending.lost(first), None, "it waits already");
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
        pending.push(&frame(0, 1 << 20), Class::Keyframe, due(1));
        for n in 0..7 {
            pending.push(&frame(1 + n, 1 << 20), Class::Delta, due(10 + u64::from(n)));
        }
        assert_eq!(pending.excess(), None);
        pending.push(&frame(8, 1), Class::Audio, due(2));
        assert_eq!(pending.excess(), Some((TrackId(3), 1)));
        let left = pending.remove((TrackId(3), 1)).unwrap();
        assert_eq!(left.waiting.len(), Cut::of(1 << 20).count);
        assert_eq!(pending.excess(), None);
        assert_eq!(pending.first_due(), Some((due(1), (TrackId(3), 0))));
    }
}
