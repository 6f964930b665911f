//! Order: frames of several group streams become one sequence by (group, frame).
//!
//! QUIC streams are independent, so a new group can be there before the end of the last one. The end
//! is waited for as long as it can still be shown; then the player goes on at the newest keyframe.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use media::Time;

/// Groups held at a time. One is played, the next one may overtake it; more than this many at once
/// means that a burst came after an outage, of which only the newest matters.
pub const MAX_GROUPS: usize = 8;

/// Frames held in one group: 10 s at 60 fps. A longer group is given up, its successor is not.
pub const MAX_FRAMES: usize = 600;

/// Names of left-out frames held until they are asked for: all that can be left out at once.
const MAX_LEFT_OUT: usize = MAX_GROUPS * MAX_FRAMES;

/// A frame as it came from the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Group number.
    pub group: u64,
    /// Position in the group.
    pub frame: u32,
    /// When it was captured (broadcast clock).
    pub capture: Time,
    /// When its last byte came (broadcast clock).
    pub arrived: Time,
    /// The codec's bytes.
    pub data: Bytes,
}

impl Received {
    /// Decodes without any earlier frame. A group starts with one.
    pub fn keyframe(&self) -> bool {
        self.frame == 0
    }
}

/// How a track may skip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Frames need their predecessors: a late group is left for the newest one that is due.
    ToNewestGroup,
    /// Every frame stands alone: groups are played one after the other.
    InOrder,
}

#[derive(Debug, Default)]
struct Pending {
    frames: VecDeque<Received>,
    next: u32,
    done: bool,
}

/// Brings the frames of one subscription into order.
///
/// [`open`](Self::open), [`push`](Self::push) and [`close`](Self::close) follow the streams;
/// [`poll`](Self::poll) gives the frames out, each at most once and never out of order.
#[derive(Debug)]
pub struct Reorder {
    skip: Skip,
    groups: BTreeMap<u64, Pending>,
    current: Option<u64>,
    /// Leave the rest of the current group: the decoder cannot use it.
    abandon: bool,
    last_capture: Option<Time>,
    interval: Option<Duration>,
    missing: u64,
    left_out: VecDeque<Received>,
}

impl Reorder {
    /// Nothing received yet.
    pub fn new(skip: Skip) -> Self {
        Self {
            skip,
            groups: BTreeMap::new(),
            current: None,
            abandon: false,
            last_capture: None,
            interval: None,
            missing: 0,
            left_out: VecDeque::new(),
        }
    }

    /// A stream for this group began. `false`: too late, cancel the stream.
    pub fn open(&mut self, group: u64) -> bool {
        if self.current.is_some_and(|current| group < current) || self.groups.contains_key(&group) {
            return false;
        }
        if self.groups.len() >= MAX_GROUPS
            && let Some(oldest) = self.groups.keys().next().copied()
        {
            if group < oldest {
                return false;
            }
            self.forget(oldest);
        }
        self.groups.insert(group, Pending::default());
        true
    }

    /// The next frame of a group. `false`: not wanted any more, cancel the stream.
    pub fn push(&mut self, group: u64, capture: Time, arrived: Time, data: Bytes) -> bool {
        // Its stream is cancelled by the caller, so its place in the group matters to nobody.
        let Some(pending) = self.groups.get_mut(&group) else { return false };
        let frame = pending.next;
        let received = Received { group, frame, capture, arrived, data };
        if pending.done || pending.frames.len() >= MAX_FRAMES || (self.abandon && self.current == Some(group))
        {
            pending.done = true;
            self.leave_out([received]);
            return false;
        }
        pending.next += 1;
        pending.frames.push_back(received);
        true
    }

    /// The group's stream ended, well or not: no more frames will come.
    pub fn close(&mut self, group: u64) {
        if let Some(pending) = self.groups.get_mut(&group) {
            pending.done = true;
        }
    }

    /// Leaves the rest of the current group, for a decoder that lost its thread.
    pub fn abandon_group(&mut self) {
        self.abandon = true;
        if let Some(pending) = self.current.and_then(|group| self.groups.get_mut(&group)) {
            pending.done = true;
            let frames = std::mem::take(&mut pending.frames);
            self.leave_out(frames);
        }
    }

    fn leave_out(&mut self, frames: impl IntoIterator<Item = Received>) {
        for frame in frames {
            if self.left_out.len() == MAX_LEFT_OUT {
                self.left_out.pop_front();
            }
            // Only its name is asked for.
            self.left_out.push_back(Received { data: Bytes::new(), ..frame });
        }
    }

    /// Frames that came but were left out since the last call, because their group was too late or given
    /// up; without their bytes.
    pub fn take_left_out(&mut self) -> VecDeque<Received> {
        std::mem::take(&mut self.left_out)
    }

    /// The next frame in order. `is_due(capture)` says whether a frame of that capture time should be
    /// decoded by now: then the group before it is not waited for any longer.
    pub fn poll(&mut self, is_due: impl Fn(Time) -> bool) -> Option<Received> {
        loop {
            let Some(current) = self.current else {
                let first = self.groups.iter().find(|(_, pending)| !pending.frames.is_empty());
                let first = *first?.0;
                while let Some((&group, _)) = self.groups.first_key_value()
                    && group < first
                {
                    self.forget(group);
                }
                self.current = Some(first);
                continue;
            };
            let done = match self.groups.get_mut(&current) {
                None => true,
                Some(pending) => match pending.frames.pop_front() {
                    Some(frame) => {
                        self.count(&frame);
                        return Some(frame);
                    }
                    None => pending.done,
                },
            };
            let next = self.next_group(current, done, &is_due)?;
            while let Some((&group, _)) = self.groups.first_key_value()
                && group < next
            {
                self.forget(group);
            }
            self.current = Some(next);
            self.abandon = false;
        }
    }

    /// Where to go on after `current`. A group without a frame yet does not count.
    fn next_group(&self, current: u64, done: bool, is_due: &impl Fn(Time) -> bool) -> Option<u64> {
        let newer = || {
            self.groups
                .range(current + 1..)
                .filter_map(|(&group, pending)| Some((group, pending.frames.front()?.capture)))
        };
        let newest_due = newer().filter(|(_, capture)| is_due(*capture)).last();
        match (self.skip, newest_due, done) {
            (Skip::ToNewestGroup, Some((group, _)), _) => Some(group),
            (Skip::InOrder, Some(_), _) | (_, None, true) => newer().next().map(|(group, _)| group),
            (_, None, false) => None,
        }
    }

    fn forget(&mut self, group: u64) {
        if let Some(pending) = self.groups.remove(&group) {
            self.leave_out(pending.frames);
        }
    }

    fn count(&mut self, frame: &Received) {
        if let Some(last) = self.last_capture.replace(frame.capture) {
            let step = frame.capture.saturating_since(last);
            match self.interval {
                Some(interval) if !interval.is_zero() && frame.frame == 0 => {
                    let steps = (step.as_secs_f64() / interval.as_secs_f64()).round() as u64;
                    self.missing += steps.saturating_sub(1);
                }
                // A running mean: cameras and clocks jitter.
                _ if frame.frame > 0 => {
                    self.interval = Some(self.interval.map_or(step, |mean| (mean * 15 + step) / 16));
                }
                _ => {}
            }
        }
    }

    /// Frames that the capture times say existed but that never came out of here: lost or skipped.
    /// Counted where a group begins.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// The group that is being given out.
    pub fn current_group(&self) -> Option<u64> {
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = 33_333;
    const LENGTH: u64 = 30;

    fn capture(group: u64, frame: u64) -> Time {
        Time::from_micros((group * LENGTH + frame) * STEP)
    }

    struct Track(Reorder);

    impl Track {
        fn new(skip: Skip) -> Self {
            Self(Reorder::new(skip))
        }

        fn push(&mut self, group: u64, frames: std::ops::Range<u64>) {
            for frame in frames {
                let time = capture(group, frame);
                self.0.push(group, time, time, Bytes::new());
            }
        }

        fn whole(&mut self, group: u64) {
            assert!(self.0.open(group));
            self.push(group, 0..LENGTH);
            self.0.close(group);
        }

        /// Everything that comes out when frames up to `due` should be decoded.
        fn drain(&mut self, due: Time) -> Vec<(u64, u32)> {
            std::iter::from_fn(|| self.0.poll(|capture| capture <= due)).map(|f| (f.group, f.frame)).collect()
        }
    }

    const NOTHING_DUE: Time = Time::ZERO;

    #[test]
    fn frames_come_as_they_arrive() {
        let mut track = Track::new(Skip::ToNewestGroup);
        track.0.open(5);
        track.push(5, 0..1);
        assert_eq!(track.drain(NOTHING_DUE), [(5, 0)]);
        track.push(5, 1..3);
        assert_eq!(track.drain(NOTHING_DUE), [(5, 1), (5, 2)]);
    }

    #[test]
    fn a_group_that_overtakes_waits_for_the_end_of_the_last_one() {
        let mut track = Track::new(Skip::ToNewestGroup);
        track.0.open(5);
        track.push(5, 0..28);
        track.0.open(6);
        track.push(6, 0..2);
        assert_eq!(track.drain(capture(5, 28)).len(), 28);
        track.push(5, 28..30);
        track.0.close(5);
        assert_eq!(track.drain(capture(5, 28)), [(5, 28), (5, 29), (6, 0), (6, 1)]);
        assert_eq!(track.0.missing(), 0);
    }

    #[test]
    fn a_late_end_is_left_when_the_next_keyframe_is_due() {
        let mut track = Track::new(Skip::ToNewestGroup);
        track.0.open(5);
        track.push(5, 0..20);
        track.0.open(6);
        track.push(6, 0..2);
        track.drain(NOTHING_DUE);
        assert_eq!(track.drain(capture(6, 0)), [(6, 0), (6, 1)]);
        assert_eq!(track.0.missing(), 10);
        track.push(5, 20..21);
        assert_eq!(track.drain(capture(6, 9)), []);
        let left: Vec<_> = track.0.take_left_out().iter().map(|frame| (frame.group, frame.frame)).collect();
        assert_eq!(left, []);
        assert!(!track.0.open(5));
    }

    #[test]
    fn a_reset_goes_on_at_the_next_group_at_once() {
        let mut track = Track::new(Skip::ToNewestGroup);
        track.0.open(5);
        track.push(5, 0..10);
        track.0.close(5);
        assert_eq!(track.drain(NOTHING_DUE).len(), 10);
        track.0.open(6);
        track.push(6, 0..1);
        assert_eq!(track.drain(NOTHING_DUE), [(6, 0)]);
    }

    #[test]
    fn after_an_outage_video_jumps_to_the_newest_keyframe_that_is_due() {
        let mut track = Track::new(Skip::ToNewestGroup);
        track.whole(5);
        track.drain(NOTHING_DUE);
        for group in 6..=9 {
            track.whole(group);
        }
        let out = track.drain(capture(8, 3));
        assert_eq!(out.first(), Some(&(8, 0)));
        assert_eq!(out.last(), Some(&(9, 29)));
        assert_eq!(track.0.missing(), 60);
    }

    #[test]
    fn audio_plays_group_after_group() {
        let mut track = Track::new(Skip::InOrder);
        for group in 5..=7 {
            track.whole(group);
        }
        let out = track.drain(capture(9, 0));
        assert_eq!(out.len(), 90);
        assert!(out.is_sorted());
    }

    #[test]
    fn a_given_up_group_yields_nothing_more() {
        let mut track = Track::new(Skip::ToNewestGroup);
        track.0.open(5);
        track.push(5, 0..4);
        assert!(track.0.poll(|_| false).is_some());
        track.0.abandon_group();
        track.push(5, 4..6);
        assert_eq!(track.drain(NOTHING_DUE), []);
        track.whole(6);
        assert_eq!(track.drain(NOTHING_DUE).len(), 30);
    }

    #[test]
    fn it_starts_at_the_first_group_that_has_a_frame() {
        let mut track = Track::new(Skip::ToNewestGroup);
        track.0.open(4);
        track.0.open(5);
        track.push(5, 0..1);
        assert_eq!(track.drain(NOTHING_DUE), [(5, 0)]);
        track.push(4, 0..1);
        assert_eq!(track.drain(NOTHING_DUE), []);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut track = Track::new(Skip::ToNewestGroup);
        for group in 0..100 {
            track.0.open(group);
            for _ in 0..MAX_FRAMES + 5 {
                track.push(group, 0..1);
            }
        }
        assert!(track.0.groups.len() <= MAX_GROUPS);
        assert!(track.0.groups.values().all(|g| g.frames.len() <= MAX_FRAMES));
        assert!(!track.0.open(3));
    }

    /// Streams cut into pieces and mixed at random (a small generator with a fixed seed): what comes
    /// out is strictly increasing and starts every group with its keyframe.
    #[test]
    fn any_arrival_order_comes_out_in_order() {
        for seed in 1..200u64 {
            let mut random = seed;
            let mut next = |n: u64| {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % n
            };
            let mut track = Track::new(Skip::ToNewestGroup);
            let mut sent = [0u64; 12];
            let mut out = Vec::new();
            for step in 0..600u64 {
                let newest = (step / 50).min(11);
                let group = newest.saturating_sub(next(3));
                let at = group as usize;
                if sent[at] == 0 {
                    track.0.open(group);
                }
                let count = next(4).min(LENGTH.saturating_sub(sent[at]));
                track.push(group, sent[at]..sent[at] + count);
                sent[at] += count.max(1);
                if next(40) == 0 {
                    track.0.close(group);
                }
                out.extend(track.drain(capture(newest.saturating_sub(1), 20)));
            }
            assert!(out.windows(2).all(|pair| pair[0] < pair[1]), "seed {seed}: {out:?}");
            assert!(
                out.windows(2).all(|pair| pair[0].0 == pair[1].0 || pair[1].1 == 0),
                "seed {seed}: a group begins in its middle"
            );
        }
    }
}
