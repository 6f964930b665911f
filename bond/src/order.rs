//! One track at the receiver: frames come together in any order and leave in theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use media::{Frame, FrameId, Time, TrackId};

use crate::Delivery;
use crate::lanes;
use crate::shard::Assembly;
use crate::wire::Shard;

/// The most frames of one track that wait at once: above 2 s of audio in 10 ms packets. When there are
/// more, the oldest unfinished one is given up.
pub(crate) const MAX_FRAMES: usize = 256;

/// How many given-up frames are remembered, to count those that come late.
const MAX_REMEMBERED: usize = 256;

/// The most groups that are reported lost one by one when none of their frames was seen; before them,
/// the report skips.
const MAX_UNSEEN_GROUPS: u64 = 8;

/// What a shard did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Insert {
    /// It was new.
    Taken,
    /// It was there, or its frame was handed over.
    Duplicate,
    /// Its frame was given up.
    Late,
    /// It contradicts what came before.
    Contradiction,
    /// There was no room.
    Refused,
}

/// The frames of one track that are not handed over yet.
#[derive(Debug)]
pub(crate) struct TrackOrder {
    track: TrackId,
    frames: BTreeMap<u64, Partial>,
    /// The order of the next frame to hand over.
    next: u64,
    /// Everything below this is not waited for any more.
    skip_to: u64,
    /// The frame after the last one handed over or given up, as far as it can be named.
    cursor: Option<(u64, u32)>,
    /// While a gap over several groups is being reported, one group at a time.
    among_unseen_groups: bool,
    given_up: BTreeSet<u64>,
    /// Bytes that the frames hold.
    bytes: usize,
    /// Frames given up so far, and those of them of which something came later.
    pub lost: u64,
    pub late: u64,
    /// Frames that parity completed.
    pub recovered: u64,
}

#[derive(Debug)]
struct Partial {
    id: FrameId,
    keyframe: bool,
    capture_time: Time,
    first_arrival: Time,
    /// Bytes that it takes, parity and all.
    bytes: usize,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Assembling(Assembly),
    Complete { data: Bytes, arrived: Time },
}

impl Partial {
    /// What must be given up, up to but not including this, so that this frame holds up nothing: those
    /// before it, and itself where it is not whole.
    fn passable_from(&self, order: u64) -> u64 {
        match self.body {
            Body::Complete { .. } => order,
            Body::Assembling(_) => order + 1,
        }
    }
}

impl TrackOrder {
    /// A track begins at the floor of the first shard that is seen of it.
    pub fn new(track: TrackId, floor: u64) -> Self {
        Self {
            track,
            frames: BTreeMap::new(),
            next: floor,
            skip_to: floor,
            cursor: None,
            among_unseen_groups: false,
            given_up: BTreeSet::new(),
            bytes: 0,
            lost: 0,
            late: 0,
            recovered: 0,
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Frames held.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Takes a shard. `room` is how many bytes this track may still take.
    pub fn insert(&mut self, shard: &Shard<'_>, room: usize, now: Time) -> Insert {
        // The sender has given up, or knows that we have, all below the floor.
        self.skip_to = self.skip_to.max(shard.floor);
        if shard.order < self.next || (shard.order < self.skip_to && !self.frames.contains_key(&shard.order))
        {
            if self.given_up.remove(&shard.order) {
                self.late += 1;
                return Insert::Late;
            }
            return Insert::Duplicate;
        }
        let most = self.bytes.saturating_add(room);
        if !self.frames.contains_key(&shard.order) && !self.make_room(shard, room) {
            return Insert::Refused;
        }
        let partial = self.frames.entry(shard.order).or_insert_with(|| {
            self.bytes += shard.cut.frame_bytes;
            Partial {
                id: shard.id,
                keyframe: shard.keyframe,
                capture_time: shard.capture_time,
                first_arrival: now,
                bytes: shard.cut.frame_bytes,
                body: Body::Assembling(Assembly::new(shard.cut)),
            }
        });
        if partial.id != shard.id
            || partial.keyframe != shard.keyframe
            || partial.capture_time != shard.capture_time
        {
            return Insert::Contradiction;
        }
        let Body::Assembling(assembly) = &mut partial.body else { return Insert::Duplicate };
        if assembly.cut() != shard.cut {
            return Insert::Contradiction;
        }
        if shard.parity > 0 {
            if self.bytes + shard.payload.len() > most {
                return Insert::Refused;
            }
            if !assembly.insert_parity(shard.parity, shard.index - shard.cut.count, shard.payload) {
                return Insert::Duplicate;
            }
            partial.bytes += shard.payload.len();
            self.bytes += shard.payload.len();
        } else if !assembly.insert(shard.index, shard.payload) {
            return Insert::Duplicate;
        }
        if assembly.complete() {
            self.recovered += u64::from(assembly.recovered());
            let done =
                std::mem::replace(&mut partial.body, Body::Complete { data: Bytes::new(), arrived: now });
            if let Body::Assembling(assembly) = done {
                partial.body = Body::Complete { data: assembly.into_data(), arrived: now };
            }
        }
        Insert::Taken
    }

    /// Gives up the oldest unfinished frames until a new one fits. Whole frames stay: they are about to
    /// be taken.
    fn make_room(&mut self, shard: &Shard<'_>, room: usize) -> bool {
        let mut room = room;
        if lanes::reliable(self.track) {
            return self.frames.len() < MAX_FRAMES && room >= shard.cut.frame_bytes;
        }
        while self.frames.len() >= MAX_FRAMES || room < shard.cut.frame_bytes {
            let unfinished = self.frames.iter().find(|(order, partial)| {
                **order < shard.order && matches!(partial.body, Body::Assembling(_))
            });
            let Some((&order, partial)) = unfinished else { return false };
            room += partial.bytes;
            self.remove(order);
            self.skip_to = self.skip_to.max(order + 1);
        }
        true
    }

    fn remove(&mut self, order: u64) -> Option<Partial> {
        let partial = self.frames.remove(&order)?;
        self.bytes -= partial.bytes;
        Some(partial)
    }

    /// When the frame at the head will have missed its deadline, given the delay from the sender's to
    /// the receiver's clock on the fastest path; `None` where nothing blocks.
    pub fn gives_up_at(&self, min_delay: i64, deadline: std::time::Duration) -> Option<Time> {
        if lanes::reliable(self.track) {
            return None;
        }
        let (&order, partial) = self.frames.first_key_value()?;
        if partial.passable_from(order) <= self.next.max(self.skip_to) {
            return None;
        }
        // A frame that was never seen was taken before the next one that was. A frame came no sooner
        // than it was taken, so its first arrival bounds the wait whatever its capture time says.
        let taken = partial.capture_time.offset_by(min_delay).min(partial.first_arrival);
        Some(taken + deadline)
    }

    /// Stops waiting for what [`TrackOrder::gives_up_at`] spoke of.
    pub fn give_up(&mut self) {
        if let Some((&order, partial)) = self.frames.first_key_value() {
            self.skip_to = self.skip_to.max(partial.passable_from(order));
        }
    }

    /// The next frame, or the next gap.
    pub fn poll(&mut self) -> Option<Delivery> {
        loop {
            let head = self.frames.first_key_value();
            if let Some((&order, partial)) = head
                && order == self.next
                && let Body::Complete { .. } = partial.body
            {
                return self.deliver(order);
            }
            if self.next >= self.skip_to {
                return None;
            }
            let head = head.map(|(&order, partial)| (order, partial.id));
            if let Some((order, id)) = head {
                let start = order.saturating_sub(u64::from(id.frame));
                if self.next < start && self.skip_to < start {
                    // Frames of several groups are missing before the head, and only some of them are
                    // given up. Which is which shows when all are; until then nothing could follow.
                    return None;
                }
            }
            if let Some(delivery) = self.skip(head) {
                return Some(delivery);
            }
        }
    }

    fn deliver(&mut self, order: u64) -> Option<Delivery> {
        let partial = self.remove(order)?;
        self.next = order + 1;
        self.cursor = Some((partial.id.group, partial.id.frame.saturating_add(1)));
        let Body::Complete { data, arrived } = partial.body else { return None };
        let Partial { id, keyframe, capture_time, .. } = partial;
        Some(Delivery::Frame { frame: Frame { id, capture_time, keyframe, data }, arrived })
    }

    /// Gives up some of `next..skip_to`, and names them by what is known of their neighbours. `None`
    /// where they have no name.
    fn skip(&mut self, head: Option<(u64, FrameId)>) -> Option<Delivery> {
        let Some((order, id)) = head else {
            // Nothing later is here: they follow the last frame that was.
            let count = self.skip_to - self.next;
            let cursor = self.cursor;
            self.pass(self.skip_to);
            let (group, frame) = cursor?;
            let end = u32::try_from(u64::from(frame).saturating_add(count)).unwrap_or(u32::MAX);
            self.cursor = Some((group, end));
            return self.gap(group, frame..end);
        };
        if order == self.next {
            // The head itself, unfinished.
            self.remove(order);
            self.pass(order + 1);
            self.cursor = Some((id.group, id.frame.saturating_add(1)));
            return self.gap(id.group, id.frame..id.frame.saturating_add(1));
        }
        let start = order.saturating_sub(u64::from(id.frame));
        if self.next >= start {
            // Of the group of the head.
            let end = self.skip_to.min(order);
            let name = |at: u64| id.frame - (order - at) as u32;
            let frames = name(self.next)..name(end);
            self.pass(end);
            self.cursor = Some((id.group, frames.end));
            return self.gap(id.group, frames);
        }
        // Of groups before the head's.
        let end = start;
        let count = end - self.next;
        let Some((group, frame)) = self.cursor else {
            self.pass(end);
            return None;
        };
        if !self.among_unseen_groups && id.group <= group.saturating_add(1) {
            let last = u32::try_from(u64::from(frame).saturating_add(count)).unwrap_or(u32::MAX);
            self.pass(end);
            self.cursor = Some((group, last));
            return self.gap(group, frame..last);
        }
        // Whole groups are gone: the end of the first, and all of the others.
        let following = group.saturating_add(1).max(id.group.saturating_sub(MAX_UNSEEN_GROUPS));
        self.among_unseen_groups = following < id.group;
        if !self.among_unseen_groups {
            self.pass(end);
        }
        self.cursor = Some((following, 0));
        self.gap(group, frame..u32::MAX)
    }

    /// Moves on to `to`, and counts what is passed.
    fn pass(&mut self, to: u64) {
        self.lost += to - self.next;
        let remembered = to.saturating_sub(MAX_REMEMBERED as u64).max(self.next);
        self.given_up.extend(remembered..to);
        while self.given_up.len() > MAX_REMEMBERED {
            self.given_up.pop_first();
        }
        self.next = to;
    }

    fn gap(&self, group: u64, frames: Range<u32>) -> Option<Delivery> {
        (!frames.is_empty()).then_some(Delivery::Lost { track: self.track, group, frames })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::shard::Cut;

    const NOW: Time = Time::from_millis(50_000);
    const ROOM: usize = 1 << 20;
    /// Frames of a group in these tests.
    const GROUP: u64 = 4;

    /// One-byte frames in groups of four; frame `order` was taken at second `order`.
    fn shard(order: u64, floor: u64) -> Shard<'static> {
        let id = FrameId { track: TrackId(1), group: 10 + order / GROUP, frame: (order % GROUP) as u32 };
        Shard {
            id,
            keyframe: id.frame == 0,
            order,
            floor,
            capture_time: Time::from_millis(1000 * order),
            cut: Cut::of(1),
            parity: 0,
            index: 0,
            payload: b"x",
        }
    }

    /// The second half of a frame of two shards.
    fn half(order: u64) -> Shard<'static> {
        Shard { cut: Cut::checked(2, 2).unwrap(), index: 1, ..shard(order, 0) }
    }

    fn poll(order: &mut TrackOrder) -> Vec<String> {
        std::iter::from_fn(|| order.poll())
            .map(|delivery| match delivery {
                Delivery::Frame { frame, .. } => format!("{}.{}", frame.id.group, frame.id.frame),
                Delivery::Lost { group, frames: Range { start, end: u32::MAX }, .. } => {
                    format!("lost {group}.{start}..")
                }
                Delivery::Lost { group, frames, .. } => format!("lost {group}.{frames:?}"),
                Delivery::Message(data) | Delivery::Object(data) => format!("{data:?}"),
            })
            .collect()
    }

    #[test]
    fn hands_over_in_order_without_delay() {
        let mut order = TrackOrder::new(TrackId(1), 0);
        assert_eq!(order.insert(&shard(1, 0), ROOM, NOW), Insert::Taken);
        assert!(poll(&mut order).is_empty());
        assert_eq!(order.insert(&shard(0, 0), ROOM, NOW), Insert::Taken);
        assert_eq!(poll(&mut order), ["10.0", "10.1"]);
        assert_eq!(order.insert(&shard(1, 0), ROOM, NOW), Insert::Duplicate);
        assert_eq!((order.bytes(), order.len(), order.lost), (0, 0, 0));
    }

    #[test]
    fn a_blocked_head_has_a_deadline() {
        let mut order = TrackOrder::new(TrackId(1), 0);
        let deadline = Duration::from_millis(400);
        order.insert(&shard(1, 0), ROOM, NOW);
        // Taken at 1 s by the sender's clock, whose second 1 is at most our second 41.
        assert_eq!(order.gives_up_at(40_000_000, deadline), Some(Time::from_millis(41_400)));
        // A capture time in the future does not hold things up.
        assert_eq!(order.gives_up_at(90_000_000, deadline), Some(NOW + deadline));
        order.give_up();
        assert_eq!(poll(&mut order), ["lost 10.0..1", "10.1"]);
        assert_eq!(order.gives_up_at(0, deadline), None);
        order.insert(&half(2), ROOM, NOW);
        order.give_up();
        assert_eq!(poll(&mut order), ["lost 10.2..3"]);
        assert_eq!(order.insert(&half(2), ROOM, NOW), Insert::Late);
        assert_eq!(order.insert(&half(2), ROOM, NOW), Insert::Duplicate, "counted once");
        assert_eq!((order.lost, order.late), (2, 1));
    }

    #[test]
    fn the_floor_ends_the_wait_and_gaps_are_named() {
        let mut order = TrackOrder::new(TrackId(1), 0);
        order.insert(&shard(0, 0), ROOM, NOW);
        order.insert(&shard(6, 6), ROOM, NOW);
        assert_eq!(poll(&mut order), ["10.0", "lost 10.1..4", "lost 11.0..2", "11.2"]);
        // Whole groups of which nothing was seen.
        order.insert(&shard(17, 17), ROOM, NOW);
        assert_eq!(poll(&mut order), ["lost 11.3..", "lost 12.0..", "lost 13.0..", "lost 14.0..1", "14.1"]);
        assert_eq!(order.lost, 5 + 10);
        // Not more reports than can be read.
        order.insert(&shard(4000, 4000), ROOM, NOW);
        let reports = poll(&mut order);
        assert_eq!(reports.len() as u64, MAX_UNSEEN_GROUPS + 2);
        assert_eq!(reports.last().unwrap(), "1010.0");
        assert_eq!(order.lost, 5 + 10 + 4000 - 18);
    }

    /// Floors that stop inside a group of which nothing was seen once gave its frames wrong names.
    #[test]
    fn gaps_over_groups_are_named_when_they_are_whole() {
        let mut order = TrackOrder::new(TrackId(1), 0);
        order.insert(&shard(0, 0), ROOM, NOW);
        assert_eq!(poll(&mut order), ["10.0"]);
        order.insert(&shard(9, 6), ROOM, NOW);
        assert!(poll(&mut order).is_empty());
        assert!(order.gives_up_at(0, Duration::ZERO).is_some());
        order.give_up();
        assert_eq!(poll(&mut order), ["lost 10.1..", "lost 11.0..", "lost 12.0..1", "12.1"]);
    }

    #[test]
    fn a_late_joiner_begins_at_the_floor() {
        let mut order = TrackOrder::new(TrackId(1), 101);
        order.insert(&shard(102, 101), ROOM, NOW);
        assert!(poll(&mut order).is_empty());
        order.insert(&shard(101, 101), ROOM, NOW);
        assert_eq!(poll(&mut order), ["35.1", "35.2"]);
        assert_eq!(order.insert(&shard(100, 99), ROOM, NOW), Insert::Duplicate);
    }

    #[test]
    fn room_is_made_by_giving_up_the_oldest() {
        let mut order = TrackOrder::new(TrackId(1), 0);
        for n in 0..3 * MAX_FRAMES as u64 {
            assert_eq!(order.insert(&half(n), ROOM, NOW), Insert::Taken);
            assert!(order.len() <= MAX_FRAMES);
        }
        assert_eq!(order.insert(&half(5), ROOM, NOW), Insert::Duplicate, "before it is told");
        poll(&mut order);
        assert_eq!(order.lost, 2 * MAX_FRAMES as u64);
        // Bytes are bounded alike, and whole frames are not thrown away.
        let mut order = TrackOrder::new(TrackId(1), 0);
        order.insert(&half(0), ROOM, NOW);
        order.insert(&shard(1, 0), ROOM, NOW);
        assert_eq!(order.insert(&half(2), 0, NOW), Insert::Taken);
        assert_eq!(order.insert(&shard(1, 0), 0, NOW), Insert::Duplicate);
        assert_eq!(poll(&mut order), ["lost 10.0..1", "10.1"]);
        assert_eq!(order.insert(&half(3), 1, NOW), Insert::Taken);
        assert_eq!(order.insert(&half(4), 1, NOW), Insert::Taken);
        order.insert(&shard(5, 0), ROOM, NOW);
        assert_eq!(order.insert(&half(2), 0, NOW), Insert::Duplicate);
    }

    /// Found by fuzzing. A frame of which parity came first took its own length of the room, and then the
    /// parity was let in by the room that there had been before: the bound on all that is held was passed by
    /// a shard. Each byte counts once against the room, whatever comes first.
    #[test]
    fn parity_that_comes_first_finds_only_what_its_frame_leaves() {
        let parity = Shard { cut: Cut::of(1_000), parity: 2, index: 1, payload: &[0; 1_000], ..shard(0, 0) };
        for room in [999, 1_000, 1_999] {
            let mut order = TrackOrder::new(TrackId(1), 0);
            assert_eq!(order.insert(&parity, room, NOW), Insert::Refused);
            assert!(order.bytes() <= room);
        }
        let mut order = TrackOrder::new(TrackId(1), 0);
        assert_eq!(order.insert(&parity, 2_000, NOW), Insert::Taken);
        assert_eq!(order.bytes(), 2_000);
        // What is given up for a new frame makes room for its parity, too.
        order = TrackOrder::new(TrackId(1), 0);
        assert_eq!(
            order.insert(
                &Shard { cut: Cut::checked(2_000, 2).unwrap(), payload: &[0; 1_000], ..half(0) },
                2_000,
                NOW
            ),
            Insert::Taken
        );
        assert_eq!(order.insert(&Shard { order: 1, ..parity }, 0, NOW), Insert::Taken);
        assert_eq!(order.bytes(), 2_000);
    }

    #[test]
    fn contradictions_are_refused() {
        let mut order = TrackOrder::new(TrackId(1), 0);
        order.insert(&half(0), ROOM, NOW);
        assert_eq!(order.insert(&shard(0, 0), ROOM, NOW), Insert::Contradiction);
        let other = Shard { capture_time: Time::from_millis(3), index: 0, ..half(0) };
        assert_eq!(order.insert(&other, ROOM, NOW), Insert::Contradiction);
        assert_eq!(order.insert(&Shard { index: 0, ..half(0) }, ROOM, NOW), Insert::Taken);
    }
}
