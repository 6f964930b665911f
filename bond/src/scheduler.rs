//! Which shard goes next, and on which path: earliest arrival, decided as late as can be.
//!
//! Shards wait in one queue per class (one ordered set here, with the class first). A path that has a
//! few milliseconds of our data takes no more; a shard whose best path is busy waits for it, unless
//! another path is predicted to bring it sooner.

use std::collections::BTreeSet;
use std::time::Duration;

use media::{Time, TrackId};

use crate::{Class, Cost, PathId};

/// How much of our data a path may hold that has not left yet. More would only be a decision taken too
/// early; less would leave the path idle when the driver's timers are a little late.
pub(crate) const HOLD: Duration = Duration::from_millis(5);

/// A path that holds so much takes nothing until it is down to this: two or three datagrams a wake-up cost
/// a third of what they cost one by one.
pub(crate) const REFILL: Duration = Duration::from_micros(1_500);

/// How many shards ahead the plan looks. At 256 of 1150 bytes and 7 Mb/s that is 340 ms: as far as any path
/// may be behind the others and still be of use.
const LOOK_AHEAD: usize = 256;

/// One shard's name at the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShardId {
    pub track: TrackId,
    pub order: u64,
    pub index: usize,
}

/// What goes first, before its class is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    Live,
    /// When nothing else waits,
    Parity,
    /// and when there is rate to spare, too.
    Bulk,
}

/// A shard that waits. What matters more goes first, then what is due first: a shard that is sent
/// again is in front of the fresh ones of its class by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Waiting {
    pub rank: Rank,
    pub class: Class,
    pub deadline: Time,
    pub shard: ShardId,
    /// On the wire, headers and all.
    pub bytes: usize,
}

/// The shards that wait for a path. Its size is bounded by that of the frames behind it, see
/// `pending.rs`.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: BTreeSet<Waiting>,
    bytes: u64,
    live_bytes: u64,
}

impl Queue {
    pub fn insert(&mut self, waiting: Waiting) {
        if self.waiting.insert(waiting) {
            self.bytes += waiting.bytes as u64;
            self.live_bytes += if waiting.rank == Rank::Live { waiting.bytes as u64 } else { 0 };
        }
    }

    pub fn remove(&mut self, waiting: &Waiting) {
        if self.waiting.remove(waiting) {
            self.bytes -= waiting.bytes as u64;
            self.live_bytes -= if waiting.rank == Rank::Live { waiting.bytes as u64 } else { 0 };
        }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes on the wire that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Those of them that are live.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// The shard to send now and the index of its lane, if there is one.
    pub fn choose(&self, lanes: &mut [Lane]) -> Option<(Waiting, usize)> {
        let (item, lane) = choose(self.waiting.iter().map(|waiting| waiting.bytes), lanes)?;
        Some((*self.waiting.iter().nth(item)?, lane))
    }
}

/// A path as the scheduler sees it. Times are in microseconds; only differences between lanes matter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lane {
    pub path: PathId,
    /// One-way delay, with what is feared on top of it: loss, silence.
    pub delay: f64,
    /// Until what it holds has left.
    pub wait: f64,
    /// To put one byte on the link.
    pub per_byte: f64,
    /// Whether it may take a shard now.
    pub free: bool,
    /// Whether that may be bulk.
    pub spare: bool,
    /// What it costs; in `delay` already.
    pub cost: Cost,
}

impl Lane {
    /// When a shard of so many bytes would arrive, after now.
    pub fn arrival(&self, bytes: usize) -> f64 {
        self.delay + self.wait + self.per_byte * bytes as f64
    }
}

/// The index of the lane on which so many bytes arrive first.
pub(crate) fn earliest(lanes: &[Lane], bytes: usize) -> Option<usize> {
    (0..lanes.len()).min_by(|&a, &b| lanes[a].arrival(bytes).total_cmp(&lanes[b].arrival(bytes)))
}

/// Plans the waiting shards in their order, each on the path on which it arrives first, given that those
/// before it take theirs; the first one whose path is free goes now. The lanes' `wait` is the plan's
/// scratch space.
fn choose(sizes: impl Iterator<Item = usize>, lanes: &mut [Lane]) -> Option<(usize, usize)> {
    if !lanes.iter().any(|lane| lane.free) {
        return None;
    }
    for (item, bytes) in sizes.take(LOOK_AHEAD).enumerate() {
        let best = earliest(lanes, bytes)?;
        if lanes[best].free {
            return Some((item, best));
        }
        lanes[best].wait += lanes[best].per_byte * bytes as f64;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path with this delay, backlog (ms) and rate (Mb/s).
    fn lane(path: u8, delay: f64, wait: f64, rate: f64) -> Lane {
        let free = wait <= HOLD.as_millis() as f64;
        Lane {
            path: PathId(path),
            delay: delay * 1e3,
            wait: wait * 1e3,
            per_byte: 8.0 / rate,
            free,
            spare: free,
            cost: Cost::Free,
        }
    }

    #[test]
    fn earliest_arrival_is_not_least_delay() {
        let sizes = || [1250usize].into_iter();
        // 20 + 10 ms against 25 + 1 ms.
        let mut lanes = [lane(0, 20.0, 0.0, 1.0), lane(1, 25.0, 0.0, 10.0)];
        assert_eq!(choose(sizes(), &mut lanes), Some((0, 1)));
    }

    #[test]
    fn a_shard_waits_for_its_best_path_and_a_later_one_overtakes_it() {
        let mut lanes = [lane(0, 10.0, 6.0, 1.0), lane(1, 39.0, 0.0, 1.0)];
        // The first two arrive at 26 and 36 ms by path 0 though it is busy, the third at 46 or at 49;
        // the fourth at 56 or at 49.
        assert_eq!(choose([1250; 3].into_iter(), &mut lanes.clone()), None);
        assert_eq!(choose([1250; 4].into_iter(), &mut lanes), Some((3, 1)));
    }

    #[test]
    fn nothing_is_chosen_while_all_are_busy() {
        let mut lanes = [lane(0, 10.0, 5.5, 1.0), lane(1, 50.0, 9.0, 1.0)];
        assert_eq!(choose([1250; 9].into_iter(), &mut lanes), None);
        assert_eq!(choose([1250; 9].into_iter(), &mut []), None);
    }

    #[test]
    fn what_matters_more_goes_first_then_what_is_due_first() {
        let waiting = |class, deadline, order| Waiting {
            rank: Rank::Live,
            class,
            deadline: Time::from_millis(deadline),
            shard: ShardId { track: TrackId(0), order, index: 0 },
            bytes: 100,
        };
        let mut queue = Queue::default();
        let order = [
            waiting(Class::Control, 900, 1),
            waiting(Class::Audio, 500, 2),
            waiting(Class::Audio, 520, 3),
            waiting(Class::Keyframe, 400, 4),
            waiting(Class::Delta, 100, 5),
        ];
        order.iter().rev().for_each(|&w| queue.insert(w));
        queue.insert(order[0]);
        assert_eq!((queue.len(), queue.bytes()), (5, 500));
        for expected in order {
            let (chosen, _) = queue.choose(&mut [lane(0, 1.0, 0.0, 1.0)]).unwrap();
            assert_eq!(chosen, expected);
            queue.remove(&chosen);
        }
        assert!(queue.is_empty() && queue.bytes() == 0);
    }
}
