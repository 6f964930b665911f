//! The receiving machine.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, Range};
use std::time::Duration;

use bytes::Bytes;
use media::{Frame, Time, TrackId};

use crate::arrivals::{Arrivals, LeastDelay, Noted};
use crate::lanes::{LaneError, MESSAGES, OBJECTS, Outbox};
use crate::order::{Insert, TrackOrder};
use crate::wire::{self, Feedback, Packet, Shard, Stamp};
use crate::{MAX_PATHS, PathId, ReceiverStats, Transmit, WireError};

/// While datagrams are lost, late or out of order, the sender hears of everything within this, on every path: it is
/// the grain of its loss detection and its rate estimates.
const FEEDBACK_INTERVAL: Duration = Duration::from_millis(10);

/// When all came as it should for [`CALM_AFTER`], within this, on the fastest path, and every second time on
/// another one, too, in turn: any of them may be dark. That is a quarter of the wake-ups at both ends.
const CALM_INTERVAL: Duration = Duration::from_millis(20);

/// See [`CALM_INTERVAL`].
const CALM_AFTER: Duration = Duration::from_millis(500);

/// When nothing came for [`IDLE_AFTER`], feedback slows down to this, on all paths; the latest one may have been
/// lost.
const IDLE_INTERVAL: Duration = Duration::from_millis(40);

/// See [`IDLE_INTERVAL`].
const IDLE_AFTER: Duration = Duration::from_millis(100);

/// The most tracks in one session; shards of more are refused. A show has about ten.
const MAX_TRACKS: usize = 32;

/// The most bytes of frames that are held at once, against a sender that begins frames and never ends
/// them: 20 s of 6 Mb/s, though a deadline of 400 ms needs 0.3 MB.
const MAX_BUFFERED_BYTES: usize = 16 << 20;

/// How a [`Receiver`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiverConfig {
    /// How long after its capture a frame is waited for: the sender's deadline.
    pub deadline: Duration,
}

impl Default for ReceiverConfig {
    fn default() -> Self {
        Self { deadline: Duration::from_millis(400) }
    }
}

/// What comes out of the bond, in order per track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// A whole frame.
    Frame {
        /// It.
        frame: Frame,
        /// When its last shard came, by the receiver's clock.
        arrived: Time,
    },
    /// Frames that did not come by their deadline.
    Lost {
        /// Of this track
        track: TrackId,
        /// and group,
        group: u64,
        /// these. An end of `u32::MAX` means: to the end of the group, however many there were.
        frames: Range<u32>,
    },
    /// A message of the sender's, in order, once.
    Message(Bytes),
    /// An object of the sender's, in order, once.
    Object(Bytes),
}

/// See the crate's documentation for the loop around it. A new sender session needs a new receiver.
///
/// Its memory is bounded whatever the sender does, as long as the driver polls deliveries and
/// transmits after each call.
#[derive(Debug)]
pub struct Receiver {
    config: ReceiverConfig,
    paths: BTreeMap<PathId, Arrivals>,
    tracks: BTreeMap<TrackId, TrackOrder>,
    delay: LeastDelay,
    /// At most one feedback and a few messages for each path.
    outbox: VecDeque<Transmit>,
    messages: Outbox,
    next_feedback: Option<Time>,
    /// How many there were, and the path beside the fastest that got the latest second copy.
    feedbacks: u64,
    second: PathId,
    last_arrival: Time,
    /// When a datagram last came otherwise than it should.
    rough: Time,
    stats: ReceiverStats,
}

impl Receiver {
    /// A receiver without paths.
    pub fn new(config: ReceiverConfig) -> Self {
        Self {
            config,
            paths: BTreeMap::new(),
            tracks: BTreeMap::new(),
            delay: LeastDelay::default(),
            outbox: VecDeque::new(),
            messages: Outbox::default(),
            next_feedback: None,
            feedbacks: 0,
            second: PathId(0),
            last_arrival: Time::ZERO,
            rough: Time::ZERO,
            stats: ReceiverStats::default(),
        }
    }

    /// Adds a path; more than [`MAX_PATHS`] are ignored. Adding one that is there already starts it
    /// anew.
    pub fn add_path(&mut self, path: PathId, now: Time) {
        self.rough = now;
        if self.paths.contains_key(&path) || self.paths.len() < MAX_PATHS {
            self.paths.insert(path, Arrivals::new(path));
        }
    }

    /// Removes a path.
    pub fn remove_path(&mut self, path: PathId, now: Time) {
        self.rough = now;
        self.paths.remove(&path);
        self.outbox.retain(|transmit| transmit.path != path);
    }

    /// Takes a datagram that came on `path`; `now` is by the receiver's own clock. What comes on a path
    /// that was not added is ignored.
    pub fn handle_datagram(&mut self, path: PathId, data: &[u8], now: Time) -> Result<(), WireError> {
        let packet = wire::parse_packet(data).inspect_err(|_| self.stats.rejected += 1)?;
        let (Packet::Shard(stamp, _) | Packet::Probe(stamp) | Packet::Ack(stamp, _)) = packet;
        match self.paths.get_mut(&path).map(|arrivals| arrivals.note(stamp, data.len(), now)) {
            None => self.stats.rejected += 1,
            Some(Noted::Again) => self.stats.duplicates += 1,
            Some(noted) => {
                if noted != Noted::Smoothly {
                    self.rough = now;
                }
                self.arrived(noted, stamp, now);
                match packet {
                    Packet::Shard(_, shard) => self.take(&shard, now),
                    Packet::Ack(_, next) => self.messages.acknowledged(next),
                    Packet::Probe(_) => {}
                }
            }
        }
        self.give_up(now);
        Ok(())
    }

    fn arrived(&mut self, noted: Noted, stamp: Stamp, now: Time) {
        self.delay.sample(now.micros_since(stamp.sent), now);
        self.last_arrival = now;
        // A new path is heard of at once: the rest of its first train is measured from here.
        let soon = if noted == Noted::First { now } else { now + self.interval(now) };
        self.next_feedback = Some(self.next_feedback.map_or(soon, |next| next.min(soon)));
    }

    /// Until the next feedback.
    fn interval(&self, now: Time) -> Duration {
        if now.saturating_since(self.last_arrival) >= IDLE_AFTER {
            IDLE_INTERVAL
        } else if now.saturating_since(self.rough) >= CALM_AFTER {
            CALM_INTERVAL
        } else {
            FEEDBACK_INTERVAL
        }
    }

    fn take(&mut self, shard: &Shard<'_>, now: Time) {
        let room = MAX_BUFFERED_BYTES.saturating_sub(self.buffered_bytes());
        let track = shard.id.track;
        if !self.tracks.contains_key(&track) && self.tracks.len() >= MAX_TRACKS {
            self.stats.refused += 1;
            return;
        }
        let order = self.tracks.entry(track).or_insert_with(|| TrackOrder::new(track, shard.floor));
        match order.insert(shard, room, now) {
            Insert::Taken | Insert::Late => {}
            Insert::Duplicate => self.stats.duplicates += 1,
            Insert::Contradiction => self.stats.rejected += 1,
            Insert::Refused => self.stats.refused += 1,
        }
    }

    fn buffered_bytes(&self) -> usize {
        self.tracks.values().map(TrackOrder::bytes).sum()
    }

    fn give_up(&mut self, now: Time) {
        let Some(delay) = self.delay.least() else { return };
        for order in self.tracks.values_mut() {
            if order.gives_up_at(delay, self.config.deadline).is_some_and(|at| at <= now) {
                order.give_up();
            }
        }
    }

    /// Takes a message for the sender, of at most [`crate::MAX_MESSAGE_BYTES`]: it gets there, once and in
    /// order, as long as any path lives. A few dozen may wait.
    pub fn send_message(&mut self, message: Bytes) -> Result<(), LaneError> {
        self.messages.push(message)
    }

    /// The next datagram to send now.
    pub fn poll_transmit(&mut self, now: Time) -> Option<Transmit> {
        if self.next_feedback.is_some_and(|at| at <= now) {
            self.make_feedback(now);
        }
        for (number, message) in self.messages.due(now) {
            let data = wire::put_message(number, &message).freeze();
            let each = self.paths.keys().map(|&path| Transmit { path, data: data.clone() });
            self.outbox.extend(each);
        }
        self.outbox.pop_front()
    }

    fn make_feedback(&mut self, now: Time) {
        let interval = self.interval(now);
        self.next_feedback = Some(now + interval);
        let entries = self.paths.values().filter_map(Arrivals::entry).collect();
        let data: Bytes = wire::put_feedback(&Feedback { made: now, entries }).freeze();
        // An older one that was not taken yet says nothing that this one does not; messages come again.
        self.outbox.clear();
        self.feedbacks += 1;
        let fastest = self.fastest(now).filter(|_| interval == CALM_INTERVAL);
        let second = self.second_copy(fastest);
        for (&path, arrivals) in &mut self.paths {
            if fastest.is_none_or(|fastest| path == fastest || second == Some(path)) {
                arrivals.feedback_sent += 1;
                self.outbox.push_back(Transmit { path, data: data.clone() });
            }
        }
    }

    /// The path whose latest datagram took the least time, of those that brought one just now.
    fn fastest(&self, now: Time) -> Option<PathId> {
        let delay =
            |(&path, arrivals): (&PathId, &Arrivals)| Some((arrivals.fresh_delay(now, IDLE_AFTER)?, path));
        self.paths.iter().filter_map(delay).min().map(|(_, path)| path)
    }

    /// The path beside the fastest that gets a copy this time.
    fn second_copy(&mut self, fastest: Option<PathId>) -> Option<PathId> {
        if self.feedbacks.is_multiple_of(2) {
            return None;
        }
        let later = (Bound::Excluded(self.second), Bound::Unbounded);
        let mut turn = self.paths.range(later).chain(&self.paths).map(|(&path, _)| path);
        let second = turn.find(|path| Some(*path) != fastest)?;
        self.second = second;
        Some(second)
    }

    /// The next frame, or the next gap.
    pub fn poll_delivery(&mut self) -> Option<Delivery> {
        let delivery = self.tracks.values_mut().find_map(TrackOrder::poll)?;
        Some(match delivery {
            Delivery::Frame { frame, .. } if frame.id.track == MESSAGES => Delivery::Message(frame.data),
            Delivery::Frame { frame, .. } if frame.id.track == OBJECTS => Delivery::Object(frame.data),
            Delivery::Frame { .. } => {
                self.stats.frames_delivered += 1;
                delivery
            }
            _ => delivery,
        })
    }

    /// When [`Receiver::handle_timeout`] wants to run.
    pub fn poll_timeout(&self) -> Option<Time> {
        let delay = self.delay.least();
        let deadlines = self
            .tracks
            .values()
            .filter_map(|order| delay.and_then(|delay| order.gives_up_at(delay, self.config.deadline)));
        deadlines.chain(self.next_feedback).chain(self.messages.poll_timeout()).min()
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.give_up(now);
    }

    /// Frames that came whole, but after they had been given up, so far.
    pub fn frames_late(&self) -> u64 {
        self.tracks.values().map(|order| order.late).sum()
    }

    /// Frames that parity completed before a repair could, so far.
    pub fn frames_recovered(&self) -> u64 {
        self.tracks.values().map(|order| order.recovered).sum()
    }

    /// Counters.
    pub fn stats(&self) -> ReceiverStats {
        ReceiverStats {
            // A hostile sender's numbers may be as large as they get.
            frames_lost: self.tracks.values().fold(0, |lost, order| lost.saturating_add(order.lost)),
            frames_recovered: self.frames_recovered(),
            frames_late: self.frames_late(),
            buffered_bytes: self.buffered_bytes(),
            buffered_frames: self.tracks.values().map(TrackOrder::len).sum(),
            paths: self.paths.values().map(Arrivals::stats).collect(),
            ..self.stats.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use media::FrameId;

    use super::*;
    use crate::shard::Cut;

    const START: Time = Time::from_millis(7_000_000);
    const PATH: PathId = PathId(0);

    fn datagram(seq: u64, shard: &Shard<'_>) -> Vec<u8> {
        wire::put_shard(Stamp { seq, sent: Time::from_millis(1_000) }, shard).to_vec()
    }

    fn shard(track: u8, order: u64, frame_bytes: usize) -> Shard<'static> {
        static PAYLOAD: [u8; wire::MAX_SHARD_PAYLOAD] = [9; wire::MAX_SHARD_PAYLOAD];
        let cut = Cut::of(frame_bytes);
        Shard {
            id: FrameId { track: TrackId(track), group: 1, frame: order as u32 },
            keyframe: false,
            order,
            floor: 0,
            capture_time: Time::from_millis(1_000),
            cut,
            parity: 0,
            index: 0,
            payload: &PAYLOAD[..cut.range(0).len()],
        }
    }

    fn receiver() -> Receiver {
        let mut receiver = Receiver::new(ReceiverConfig::default());
        receiver.add_path(PATH, START);
        receiver
    }

    #[test]
    fn feedback_goes_out_soon_and_slows_down_in_silence() {
        let mut receiver = receiver();
        receiver.add_path(PathId(1), START);
        assert_eq!(receiver.poll_timeout(), None);
        // A new path at once.
        receiver.handle_datagram(PATH, &datagram(3, &shard(0, 0, 3)), START).unwrap();
        assert!(receiver.poll_transmit(START).is_some());
        while receiver.poll_transmit(START).is_some() {}
        receiver.handle_datagram(PATH, &datagram(4, &shard(0, 1, 3)), START).unwrap();
        assert_eq!(receiver.poll_transmit(START), None);
        let due = START + FEEDBACK_INTERVAL;
        assert_eq!(receiver.poll_timeout(), Some(due));
        let transmit = receiver.poll_transmit(due).unwrap();
        let Ok(wire::Answer::Feedback(feedback)) = wire::parse_answer(&transmit.data) else { panic!() };
        assert_eq!((feedback.entries.len(), feedback.entries[0].highest), (1, 4));
        // Silence slows it down, but does not end it: the last one may be lost.
        let later = START + Duration::from_secs(1);
        let paths: Vec<_> = std::iter::from_fn(|| receiver.poll_transmit(later)).map(|t| t.path.0).collect();
        assert_eq!(paths, [0, 1]);
        assert_eq!(receiver.poll_timeout(), Some(later + IDLE_INTERVAL));
        receiver.remove_path(PATH, later);
        receiver.remove_path(PathId(1), later);
        assert_eq!(receiver.poll_transmit(later), None);
    }

    /// Three paths that bring a probe every 5 ms each; of a later one it takes 10 ms longer.
    struct Steady {
        receiver: Receiver,
        next: [u64; 3],
        millis: u64,
    }

    impl Steady {
        fn new() -> Self {
            let mut receiver = receiver();
            (1..3).for_each(|path| receiver.add_path(PathId(path), START));
            Self { receiver, next: [0; 3], millis: 0 }
        }

        /// Goes on for so long, without what would come on `dark`. When each feedback went out, and where.
        fn go_on(&mut self, millis: u64, dark: Option<usize>) -> Vec<(Time, Vec<u8>)> {
            let mut all = Vec::new();
            for _ in 0..millis {
                self.millis += 1;
                let now = START + Duration::from_millis(self.millis);
                for path in (0..3).filter(|path| self.millis.is_multiple_of(5) && dark != Some(*path)) {
                    let sent = now - Duration::from_millis(10 + 10 * path as u64);
                    let probe = wire::put_probe(Stamp { seq: self.next[path], sent }, 0);
                    self.receiver.handle_datagram(PathId(path as u8), &probe, now).unwrap();
                    self.next[path] += 1;
                }
                let transmits = std::iter::from_fn(|| self.receiver.poll_transmit(now));
                let paths: Vec<u8> = transmits.map(|transmit| transmit.path.0).collect();
                if !paths.is_empty() {
                    all.push((now, paths));
                }
            }
            all
        }
    }

    #[test]
    fn feedback_is_sparse_while_all_is_well() {
        let mut steady = Steady::new();
        let gap = |all: &[(Time, Vec<u8>)]| all[all.len() - 1].0.saturating_since(all[all.len() - 2].0);
        let all = steady.go_on(500, None);
        assert_eq!((gap(&all), all.last().unwrap().1.len()), (FEEDBACK_INTERVAL, 3), "in the beginning");
        steady.go_on(1_000, None);
        // The fastest always, the others in turn.
        let all = steady.go_on(400, None);
        assert_eq!((gap(&all), all.len()), (CALM_INTERVAL, 20));
        assert!(all.iter().all(|(_, paths)| paths.contains(&0)), "{all:?}");
        for other in [1, 2] {
            assert_eq!(all.iter().filter(|(_, paths)| paths.contains(&other)).count(), 5, "{all:?}");
        }
        // One datagram is missing.
        steady.next[1] += 1;
        let all = steady.go_on(500, None);
        assert_eq!((gap(&all), all.last().unwrap().1.len()), (FEEDBACK_INTERVAL, 3));
    }

    #[test]
    fn the_fastest_path_went_dark() {
        let mut steady = Steady::new();
        steady.go_on(1_500, None);
        let all = steady.go_on(500, Some(0)).split_off(8);
        assert!(all.iter().all(|(_, paths)| paths.contains(&1)), "{all:?}");
        assert!(all.iter().any(|(_, paths)| paths.contains(&0)), "it still has its turn: {all:?}");
    }

    #[test]
    fn another_track_is_never_blocked() {
        let mut receiver = receiver();
        receiver.handle_datagram(PATH, &datagram(0, &shard(0, 1, 3)), START).unwrap();
        receiver.handle_datagram(PATH, &datagram(1, &shard(1, 0, 3)), START).unwrap();
        let delivered = receiver.poll_delivery();
        assert!(matches!(delivered, Some(Delivery::Frame { frame, .. }) if frame.id.track == TrackId(1)));
        assert_eq!(receiver.poll_delivery(), None);
        let due = START + Duration::from_millis(400);
        receiver.handle_timeout(due - Duration::from_micros(1));
        assert_eq!(receiver.poll_delivery(), None);
        receiver.handle_timeout(due);
        assert_eq!(
            receiver.poll_delivery(),
            Some(Delivery::Lost { track: TrackId(0), group: 1, frames: 0..1 })
        );
        assert!(receiver.poll_delivery().is_some());
        assert_eq!(receiver.stats().frames_lost, 1);
    }

    #[test]
    fn a_hostile_sender_gets_bounded_memory() {
        let mut receiver = receiver();
        let mut seq = 0;
        for order in 0..600 {
            for track in 0..255 {
                let len = if order % 2 == 0 { crate::MAX_FRAME_BYTES } else { 2_000 };
                receiver.handle_datagram(PATH, &datagram(seq, &shard(track, order, len)), START).unwrap();
                seq += 1;
            }
            assert!(receiver.stats().buffered_bytes <= MAX_BUFFERED_BYTES);
        }
        let stats = receiver.stats();
        assert!(stats.refused > 0);
        assert!(stats.buffered_frames <= MAX_TRACKS * crate::order::MAX_FRAMES);
        assert!(receiver.handle_datagram(PATH, b"\x02\x09", START).is_err());
        receiver.handle_datagram(PathId(9), &datagram(0, &shard(0, 0, 3)), START).unwrap();
        assert_eq!(receiver.stats().rejected, 2);
        // An honest frame gets through once the deadline has cleared the rest.
        let later = START + Duration::from_secs(1);
        receiver.handle_timeout(later);
        while receiver.poll_delivery().is_some() || receiver.poll_timeout().is_some_and(|at| at <= later) {
            receiver.handle_timeout(later);
            while receiver.poll_transmit(later).is_some() {}
        }
        assert_eq!(receiver.stats().buffered_frames, 0);
        receiver.handle_datagram(PATH, &datagram(seq, &shard(3, 600, 3)), later).unwrap();
        receiver.handle_timeout(later + Duration::from_millis(400));
        let delivered = std::iter::from_fn(|| receiver.poll_delivery()).last();
        assert!(matches!(delivered, Some(Delivery::Frame { .. })), "{delivered:?}");
    }

    /// Found by fuzzing. By the numbers that a sender may write, one track can lose 2^62 frames, and four of
    /// them more than a counter holds: reading the statistics overflowed. What a sender says must never make
    /// a counter unreadable.
    #[test]
    fn losses_of_all_tracks_do_not_overflow() {
        let mut receiver = receiver();
        for track in 0..6 {
            let (seq, order) = (2 * u64::from(track), media::varint::MAX);
            receiver.handle_datagram(PATH, &datagram(seq, &shard(track, 0, 3)), START).unwrap();
            let last = Shard { order, floor: order, ..shard(track, 1, 3) };
            receiver.handle_datagram(PATH, &datagram(seq + 1, &last), START).unwrap();
            while receiver.poll_delivery().is_some() {}
        }
        assert_eq!(receiver.stats().frames_lost, u64::MAX);
    }
}
