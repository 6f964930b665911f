//! The receiving machine.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use media::{Frame, Time, TrackId};

use crate::arrivals::Arrivals;
use crate::lanes::{LaneError, MESSAGES, OBJECTS, Outbox};
use crate::order::{Insert, TrackOrder};
use crate::wire::{self, Feedback, Packet, Shard, Stamp};
use crate::{MAX_PATHS, PathId, ReceiverStats, Transmit, WireError};

/// The sender hears of everything within this: it is the grain of loss and silence detection. At 100 a
/// second and three paths feedback costs about 40 kb/s on each.
const FEEDBACK_INTERVAL: Duration = Duration::from_millis(10);

/// When nothing came for [`IDLE_AFTER`], feedback slows down to this; the latest one may have been lost.
const IDLE_INTERVAL: Duration = Duration::from_millis(40);

/// See [`IDLE_INTERVAL`].
const IDLE_AFTER: Duration = Duration::from_millis(100);

/// The most tracks in one session; shards of more are refused. A show has about ten.
const MAX_TRACKS: usize = 32;

/// The most bytes of frames that are held at once, against a sender that begins frames and never ends
/// them: 20 s of 6 Mb/s, though a deadline of 400 ms needs 0.3 MB.
const MAX_BUFFERED_BYTES: usize = 16 << 20;

/// The least delay is forgotten after one to two of these, so that clocks may drift apart.
const DELAY_WINDOW: Duration = Duration::from_secs(30);

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
    last_arrival: Time,
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
            last_arrival: Time::ZERO,
            stats: ReceiverStats::default(),
        }
    }

    /// Adds a path; more than [`MAX_PATHS`] are ignored. Adding one that is there already starts it
    /// anew.
    pub fn add_path(&mut self, path: PathId, _now: Time) {
        if self.paths.contains_key(&path) || self.paths.len() < MAX_PATHS {
            self.paths.insert(path, Arrivals::new(path));
        }
    }

    /// Removes a path.
    pub fn remove_path(&mut self, path: PathId, _now: Time) {
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
            Some(false) => self.stats.duplicates += 1,
            Some(true) => {
                self.arrived(path, stamp, now);
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

    fn arrived(&mut self, path: PathId, stamp: Stamp, now: Time) {
        self.delay.sample(now.micros_since(stamp.sent), now);
        self.last_arrival = now;
        // A new path is heard of at once: the rest of its first train is measured from here.
        let first = self.paths.get(&path).is_some_and(|arrivals| arrivals.stats().packets == 1);
        let soon = if first { now } else { now + FEEDBACK_INTERVAL };
        self.next_feedback = Some(self.next_feedback.map_or(soon, |next| next.min(soon)));
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
        let idle = now.saturating_since(self.last_arrival) >= IDLE_AFTER;
        self.next_feedback = Some(now + if idle { IDLE_INTERVAL } else { FEEDBACK_INTERVAL });
        let entries = self.paths.values().filter_map(Arrivals::entry).collect();
        let data: Bytes = wire::put_feedback(&Feedback { made: now, entries }).freeze();
        // An older one that was not taken yet says nothing that this one does not; messages come again.
        self.outbox.clear();
        for (&path, arrivals) in &mut self.paths {
            arrivals.feedback_sent += 1;
            self.outbox.push_back(Transmit { path, data: data.clone() });
        }
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

    /// Counters.
    pub fn stats(&self) -> ReceiverStats {
        ReceiverStats {
            // A hostile sender's numbers may be as large as they get.
            frames_lost: self.tracks.values().fold(0, |lost, order| lost.saturating_add(order.lost)),
            frames_recovered: self.tracks.values().map(|order| order.recovered).sum(),
            frames_late: self.tracks.values().map(|order| order.late).sum(),
            buffered_bytes: self.buffered_bytes(),
            buffered_frames: self.tracks.values().map(TrackOrder::len).sum(),
            paths: self.paths.values().map(Arrivals::stats).collect(),
            ..self.stats.clone()
        }
    }
}

/// The least of arrival (our clock) minus sending (the sender's clock): the clocks' difference plus the
/// delay of the fastest path. When this much more than a time by the sender's clock has passed on ours,
/// that time has surely passed there.
#[derive(Debug, Default)]
struct LeastDelay {
    began: Time,
    current: Option<i64>,
    previous: Option<i64>,
}

impl LeastDelay {
    fn sample(&mut self, micros: i64, now: Time) {
        if now.saturating_since(self.began) >= DELAY_WINDOW {
            self.previous = self.current.take();
            self.began = now;
        }
        self.current = Some(self.current.map_or(micros, |least| least.min(micros)));
    }

    fn least(&self) -> Option<i64> {
        self.current.into_iter().chain(self.previous).min()
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
    fn feedback_goes_out_on_all_paths_every_ten_milliseconds() {
        let mut receiver = receiver();
        receiver.add_path(PathId(1), START);
        assert_eq!(receiver.poll_timeout(), None);
        // A new path at once.
        receiver.handle_datagram(PATH, &datagram(3, &shard(0, 0, 3)), START).unwrap();
        assert_eq!(std::iter::from_fn(|| receiver.poll_transmit(START)).count(), 2);
        receiver.handle_datagram(PATH, &datagram(4, &shard(0, 1, 3)), START).unwrap();
        assert_eq!(receiver.poll_transmit(START), None);
        let due = START + FEEDBACK_INTERVAL;
        assert_eq!(receiver.poll_timeout(), Some(due));
        let paths: Vec<_> = std::iter::from_fn(|| receiver.poll_transmit(due)).collect();
        assert_eq!(paths.iter().map(|t| t.path.0).collect::<Vec<_>>(), [0, 1]);
        let Ok(wire::Answer::Feedback(feedback)) = wire::parse_answer(&paths[1].data) else { panic!() };
        assert_eq!((feedback.entries.len(), feedback.entries[0].highest), (1, 4));
        // Silence slows it down, but does not end it: the last one may be lost.
        let later = START + Duration::from_secs(1);
        assert!(receiver.poll_transmit(later).is_some());
        assert_eq!(receiver.poll_timeout(), Some(later + IDLE_INTERVAL));
        receiver.remove_path(PATH, later);
        receiver.remove_path(PathId(1), later);
        assert_eq!(receiver.poll_transmit(later), None);
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
