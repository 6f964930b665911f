//! The sending machine.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use media::{Frame, FrameId, Time, TrackId};

use crate::budget::Budget;
use crate::clock::Clock;
use crate::lanes::{self, Inbox, LaneError, MESSAGES, OBJECTS};
use crate::path::{OTHERS_ALIVE, Path, STALL};
use crate::pending::{Key, Pending};
use crate::scheduler::{Queue, ShardId};
use crate::target::{Carried, Target};
use crate::wire::{self, Answer, Feedback};
use crate::{Class, ClockEstimate, Cost, MAX_DATAGRAM, MAX_FRAME_BYTES, MAX_PATHS, PathId, SenderStats};
use crate::{Transmit, WireError};

mod transmit;

/// When what waits would take the paths longer than this, they are pushed. That is longer than a keyframe, or what a
/// dead path held, takes to go: to push for those only fills the queues of all paths.
const PUSH_FROM: Duration = Duration::from_millis(120);

/// Parity that could not be sent within this comes later than a repair would.
const PARITY_PATIENCE: Duration = Duration::from_millis(50);

/// Copies for safety that wait for a second path; above this the oldest is forgotten, it is only a copy.
const MAX_COPIES: usize = 256;

/// Events that the driver did not take; above this the oldest is forgotten, the counters know.
const MAX_EVENTS: usize = 256;

/// How a [`Sender`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderConfig {
    /// How long after its capture a frame is still worth having at the receiver.
    pub deadline: Duration,
    /// Whether to send parity, and copies of what is small and precious, before anything is lost.
    pub fec: bool,
    /// Whether there is live media. Where there is none, objects need not leave room for it: they may have all that
    /// the paths carry, and find out how much that is.
    pub live: bool,
}

impl Default for SenderConfig {
    fn default() -> Self {
        Self { deadline: Duration::from_millis(400), fec: true, live: true }
    }
}

/// What happened to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SenderEvent {
    /// A frame was given up. After a lost keyframe or delta, ask the encoder for a keyframe.
    Dropped {
        /// Which.
        id: FrameId,
        /// How much it mattered.
        class: Class,
    },
}

/// See the crate's documentation for the loop around it.
#[derive(Debug)]
pub struct Sender {
    config: SenderConfig,
    paths: BTreeMap<PathId, Path>,
    /// Where paths that went away stopped counting.
    retired: BTreeMap<PathId, u64>,
    pending: Pending,
    queue: Queue,
    /// Copies for safety, and the path that has the shard already.
    copies: VecDeque<(ShardId, PathId)>,
    copy_credit: f64,
    budget: Budget,
    inbox: Inbox,
    /// Paths on which the receiver is to be told which of its messages came.
    acks: Vec<PathId>,
    target: Target,
    clock: Clock,
    events: VecDeque<SenderEvent>,
    /// When the plan is to be made again.
    replan: Option<Time>,
    now: Time,
    stats: SenderStats,
}

impl Sender {
    /// A sender without paths.
    pub fn new(config: SenderConfig) -> Self {
        Self {
            config,
            paths: BTreeMap::new(),
            retired: BTreeMap::new(),
            pending: Pending::default(),
            queue: Queue::default(),
            copies: VecDeque::new(),
            copy_credit: 0.0,
            budget: Budget::new(),
            inbox: Inbox::default(),
            acks: Vec::new(),
            target: Target::new(),
            clock: Clock::default(),
            events: VecDeque::new(),
            replan: None,
            now: Time::ZERO,
            stats: SenderStats::default(),
        }
    }

    /// Adds an uplink. `max_datagram` is what the driver can send on it, in bytes; a path that cannot
    /// take [`MAX_DATAGRAM`] is ignored, and so are more than [`MAX_PATHS`]. Adding a path that is there
    /// already starts it anew.
    pub fn add_path(&mut self, path: PathId, max_datagram: usize, now: Time) {
        self.advance(now);
        self.remove_path(path, now);
        if max_datagram >= MAX_DATAGRAM && self.paths.len() < MAX_PATHS {
            let first_seq = self.retired.get(&path).copied().unwrap_or(0);
            self.paths.insert(path, Path::new(path, first_seq, now));
        }
    }

    /// Says what sending on a path costs from now on. A new path costs nothing.
    pub fn set_cost(&mut self, path: PathId, cost: Cost) {
        if let Some(path) = self.paths.get_mut(&path) {
            path.set_cost(cost);
        }
    }

    /// Removes an uplink; what it held is sent elsewhere.
    pub fn remove_path(&mut self, path: PathId, now: Time) {
        self.advance(now);
        if let Some(mut gone) = self.paths.remove(&path) {
            self.retired.insert(path, gone.next_seq());
            let held = gone.give_up();
            self.send_again(held);
            self.aim(now);
        }
    }

    /// Takes a frame to send. One that is longer than [`MAX_FRAME_BYTES`], or late already, or on one of the
    /// two track numbers that are not media's (254 and 255), is dropped, and an event says so.
    pub fn push(&mut self, frame: &Frame, class: Class, now: Time) {
        self.advance(now);
        self.stats.frames_pushed += 1;
        self.stats.media_bytes += frame.data.len() as u64;
        // A capture time in the future must not buy a longer life.
        let deadline = frame.capture_time.min(now) + self.config.deadline;
        if frame.data.len() > MAX_FRAME_BYTES || deadline <= now || lanes::reliable(frame.id.track) {
            if !lanes::reliable(frame.id.track) {
                self.pending.skip(frame.id.track);
            }
            self.dropped(frame.id, class);
            return;
        }
        let parity = self.parity(frame.data.len(), class);
        self.enqueue(frame, class, deadline, parity, now);
        while let Some(key) = self.pending.excess() {
            self.drop_frame(key);
        }
    }

    /// Takes a message for the receiver, of at most [`crate::MAX_MESSAGE_BYTES`]: it gets there before any
    /// media, once and in order, as long as any path lives. A few dozen may wait.
    pub fn send_message(&mut self, message: Bytes, now: Time) -> Result<(), LaneError> {
        self.send_reliably(MESSAGES, Class::Control, message, now)
    }

    /// Takes an object for the receiver, of at most [`crate::MAX_OBJECT_BYTES`]: it gets there once and in
    /// order, with what media leaves of the paths' measured rates, however long that takes (see
    /// [`SenderConfig::live`]). A few megabytes may wait.
    pub fn send_object(&mut self, object: Bytes, now: Time) -> Result<(), LaneError> {
        let class = if self.config.live { Class::Bulk } else { Class::Delta };
        self.send_reliably(OBJECTS, class, object, now)
    }

    fn send_reliably(
        &mut self,
        track: TrackId,
        class: Class,
        data: Bytes,
        now: Time,
    ) -> Result<(), LaneError> {
        let (waiting, bytes) = self.pending.held(track);
        lanes::fits(track, data.len(), waiting, bytes)?;
        self.advance(now);
        let number = self.pending.next_order(track);
        let id = FrameId { track, group: number, frame: 0 };
        let frame = Frame { id, capture_time: now, keyframe: true, data };
        self.enqueue(&frame, class, Time::from_micros(u64::MAX), 0, now);
        Ok(())
    }

    fn enqueue(&mut self, frame: &Frame, class: Class, deadline: Time, parity: usize, now: Time) {
        let parity_until = deadline.min(now + PARITY_PATIENCE);
        for waiting in self.pending.push(frame, class, deadline, parity, parity_until) {
            self.queue.insert(waiting);
        }
    }

    /// The next message of the receiver's.
    pub fn poll_message(&mut self) -> Option<Bytes> {
        self.inbox.poll()
    }

    /// Takes what came from the receiver on `path`.
    pub fn handle_datagram(&mut self, path: PathId, data: &[u8], now: Time) -> Result<(), WireError> {
        let answer = wire::parse_answer(data)?;
        self.advance(now);
        match answer {
            Answer::Feedback(feedback) => self.feedback(path, &feedback, now),
            Answer::Message(number, message) => {
                if self.inbox.take(number, message) {
                    self.acks = self.paths.keys().copied().collect();
                }
            }
        }
        Ok(())
    }

    fn feedback(&mut self, path: PathId, feedback: &Feedback, now: Time) {
        for entry in &feedback.entries {
            let alone = !self.paths.values().any(|path| path.active() && !path.doubtful(now));
            let Some(told) = self.paths.get_mut(&entry.path) else { continue };
            let heard = told.heard();
            let news = told.told(entry, alone, now);
            // Only an exchange on one path there and back has a bound on its asymmetry.
            if entry.path == path && told.heard() != heard {
                self.clock.sample(entry.sent, entry.arrived, feedback.made, now);
            }
            if told.carries(now) {
                self.budget.losses.count(news.packets, news.lost.packets, news.lost.runs);
            }
            self.arrived(news.arrived);
            self.send_again(news.lost.shards);
        }
        self.check_silence(now);
        self.aim(now);
    }

    /// The next datagram to send now.
    pub fn poll_transmit(&mut self, now: Time) -> Option<Transmit> {
        self.advance(now);
        self.replan = None;
        self.ack(now).or_else(|| self.probe(now)).or_else(|| self.copy(now)).or_else(|| self.next_shard(now))
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<SenderEvent> {
        self.events.pop_front()
    }

    /// When [`Sender::handle_timeout`] wants to run.
    pub fn poll_timeout(&self) -> Option<Time> {
        let paths = self.paths.values().map(|path| path.poll_timeout(self.now));
        paths.chain(self.replan).chain(self.pending.first_due().map(|(due, _)| due)).min()
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.advance(now);
        while let Some((due, key)) = self.pending.first_due()
            && due <= now
        {
            self.drop_frame(key);
        }
        let lost: Vec<ShardId> =
            self.paths.values_mut().flat_map(|path| path.find_lost(now).shards).collect();
        self.send_again(lost);
        self.check_silence(now);
        self.hedge(now);
        self.aim(now);
    }

    fn aim(&mut self, now: Time) {
        // What is a last resort is nothing to count on, unless there is nothing else.
        let least = self.paths.values().filter(|path| path.active()).map(Path::cost).min();
        let counts = |path: &&Path| path.cost() != Cost::LastResort || least == Some(Cost::LastResort);
        let rates = || self.paths.values().filter(counts).map(|path| path.dependable_rate(now));
        let (carries, best): (f64, f64) = (rates().sum(), rates().fold(0.0, f64::max));
        let pushing = self.queue.live_bytes() as f64 * 8.0 > carries * PUSH_FROM.as_secs_f64();
        self.paths.values_mut().for_each(|path| path.push(pushing));
        let troubled = |path: &Path| path.doubtful(now) || path.crowded();
        if pushing || self.paths.values().any(|path| path.active() && path.carries(now) && troubled(path)) {
            self.budget.trouble(now);
        }
        self.budget.refill(carries, now);
        let all = self.paths.values().filter(counts).map(Path::usable_rate).sum();
        self.target.update(Carried { all, carries, best }, self.queue.live_bytes(), now);
    }

    /// Asks for copies of what is overdue.
    fn hedge(&mut self, now: Time) {
        for (&id, path) in &mut self.paths {
            for shard in path.find_overdue(now) {
                if self.copies.len() < MAX_COPIES {
                    self.copies.push_back((shard, id));
                }
            }
        }
    }

    /// Counters and estimates.
    pub fn stats(&self) -> SenderStats {
        let clock = self.clock.estimate();
        let bytes_of_all = self.paths.values().map(Path::bytes_sent).sum();
        SenderStats {
            queued_bytes: self.queue.bytes(),
            queued_shards: self.queue.len(),
            paths: self.paths.values().map(|path| path.stats(clock, bytes_of_all)).collect(),
            ..self.stats.clone()
        }
    }

    /// How the receiver's clock stands to ours, once feedback has come.
    pub fn clock(&self) -> Option<ClockEstimate> {
        self.clock.estimate()
    }

    /// Bits per second of media that the encoder may send; 0 while no path carries any, and in the first
    /// 300 ms, while nothing is known.
    ///
    /// It falls at once when a path falls silent or slow, and rises slowly with what the paths prove. A path
    /// that was never asked for more is counted with what it has proved, or with what a new path is
    /// trusted with. Read it before each frame.
    pub fn target_rate(&self) -> u64 {
        self.target.rate() as u64
    }

    /// Time goes on. A driver that comes much later than it was asked to was stalled itself.
    fn advance(&mut self, now: Time) {
        let away = now.saturating_since(self.now) > STALL;
        if away && self.poll_timeout().is_some_and(|due| now.saturating_since(due) > STALL) {
            self.paths.values_mut().for_each(|path| path.forgive(now));
        }
        self.now = self.now.max(now);
    }

    fn check_silence(&mut self, now: Time) {
        let ids: Vec<PathId> = self.paths.keys().copied().collect();
        for id in ids {
            let alive = |(&other, path): (&PathId, &Path)| {
                other != id && path.heard().is_some_and(|heard| heard + OTHERS_ALIVE >= now)
            };
            let others_alive = self.paths.iter().any(alive);
            let held = self.paths.get_mut(&id).map(|path| path.check_silence(others_alive, now));
            self.send_again(held.unwrap_or_default());
        }
    }

    fn send_again(&mut self, lost: Vec<ShardId>) {
        for waiting in lost.into_iter().flat_map(|shard| self.pending.lost(shard)) {
            self.queue.insert(waiting);
        }
    }

    fn arrived(&mut self, shards: Vec<ShardId>) {
        for shard in shards {
            let (vain, left) = self.pending.arrived(shard);
            self.stats.frames_acknowledged += u64::from(left.is_some());
            for waiting in left.into_iter().flat_map(|left| left.waiting).chain(vain) {
                self.queue.remove(&waiting);
            }
        }
    }

    fn drop_frame(&mut self, key: Key) {
        if let Some(left) = self.pending.remove(key) {
            left.waiting.iter().for_each(|waiting| self.queue.remove(waiting));
            self.dropped(left.id, left.class);
        }
    }

    fn dropped(&mut self, id: FrameId, class: Class) {
        self.stats.frames_dropped += 1;
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(SenderEvent::Dropped { id, class });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Delivery, Receiver, ReceiverConfig};

    const START: Time = Time::from_millis(1_000_000);
    const PATH: PathId = PathId(0);

    /// Lets so many milliseconds pass with nothing between the two; gives the end.
    fn live(sender: &mut Sender, receiver: &mut Receiver, from: Time, millis: u64) -> Time {
        let mut now = from;
        for _ in 0..millis {
            now += Duration::from_millis(1);
            sender.handle_timeout(now);
            receiver.handle_timeout(now);
            while let Some(transmit) = sender.poll_transmit(now) {
                receiver.handle_datagram(PATH, &transmit.data, now).unwrap();
            }
            while let Some(transmit) = receiver.poll_transmit(now) {
                sender.handle_datagram(PATH, &transmit.data, now).unwrap();
            }
        }
        now
    }

    /// A sender and its receiver after a second.
    fn proven() -> (Sender, Receiver, Time) {
        let mut sender = Sender::new(SenderConfig::default());
        let mut receiver = Receiver::new(ReceiverConfig::default());
        sender.add_path(PATH, MAX_DATAGRAM, START);
        receiver.add_path(PATH, START);
        let now = live(&mut sender, &mut receiver, START, 1_000);
        (sender, receiver, now)
    }

    /// Found by fuzzing. The target was last set when something was heard or a timeout was due, and without
    /// paths neither comes: the encoder was told for ever to send what the last uplink had carried. The
    /// target is 0 from the moment on in which no path carries anything.
    #[test]
    fn without_paths_the_encoder_may_send_nothing() {
        let (mut sender, _, now) = proven();
        assert!(sender.target_rate() > 0);
        sender.remove_path(PATH, now);
        assert_eq!((sender.target_rate(), sender.poll_timeout()), (0, None));
    }

    /// Found by fuzzing. A frame that was late when it was pushed, or too long, got no order, though orders
    /// count the frames of a track: the receiver, which names missing frames by counting from one that is
    /// there, then called frames lost that came later. What is dropped at the door has its number, too.
    #[test]
    fn a_frame_that_is_dropped_at_once_is_counted_all_the_same() {
        let (mut sender, mut receiver, mut now) = proven();
        for number in 0..6 {
            let late = number == 1 || number == 2;
            let capture_time = if late { now - Duration::from_millis(500) } else { now };
            let id = FrameId { track: TrackId(0), group: 4, frame: number };
            let data = vec![9; if number == 4 { MAX_FRAME_BYTES + 1 } else { 10 }].into();
            sender.push(&Frame { id, capture_time, keyframe: number == 0, data }, Class::Delta, now);
            now = live(&mut sender, &mut receiver, now, 40);
        }
        let deliveries = std::iter::from_fn(|| receiver.poll_delivery()).map(|delivery| match delivery {
            Delivery::Frame { frame, .. } => (true, frame.id.frame..frame.id.frame + 1),
            Delivery::Lost { frames, .. } => (false, frames),
            other => panic!("{other:?}"),
        });
        let expected = [(true, 0..1), (false, 1..3), (true, 3..4), (false, 4..5), (true, 5..6)];
        assert_eq!(deliveries.collect::<Vec<_>>(), expected);
    }
}
