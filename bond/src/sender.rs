//! The sending machine.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use media::{Frame, FrameId, Time};

use crate::budget::Budget;
use crate::clock::Clock;
use crate::path::{OTHERS_ALIVE, Path, STALL};
use crate::pending::{Key, Outgoing, Pending};
use crate::scheduler::{HOLD, Lane, Queue, ShardId, Waiting, earliest};
use crate::shard::Cut;
use crate::wire;
use crate::{Class, ClockEstimate, MAX_DATAGRAM, MAX_FRAME_BYTES, MAX_PATHS, PathId, SenderStats};
use crate::{Transmit, WireError};

/// While shards wait and no path takes them, the plan is made again after this at the latest: delays
/// and penalties move with time.
const REPLAN: Duration = Duration::from_millis(5);

/// Copies for safety that wait for a second path; above this the oldest is forgotten, it is only a copy.
const MAX_COPIES: usize = 64;

/// Events that the driver did not take; above this the oldest is forgotten, the counters know.
const MAX_EVENTS: usize = 256;

/// Copies of audio and of the tails of keyframes may be this part of what is sent,
const COPY_PART: f64 = 0.03;

/// and this many bytes may be saved up for them.
const COPY_BYTES: f64 = 4_000.0;

/// Parity that could not be sent within this comes later than a repair would.
const PARITY_PATIENCE: Duration = Duration::from_millis(50);

/// A shard that is sent for the third time goes over two paths at once: its deadline is near.
const SENDS_BEFORE_COPY: u16 = 2;

/// The part of the paths' rates that the encoder may use; the rest is for repairs, probes and bursts.
const USABLE_PART: f64 = 0.8;

/// How a [`Sender`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderConfig {
    /// How long after its capture a frame is still worth having at the receiver.
    pub deadline: Duration,
    /// Whether to send parity, and copies of what is small and precious, before anything is lost.
    pub fec: bool,
}

impl Default for SenderConfig {
    fn default() -> Self {
        Self { deadline: Duration::from_millis(400), fec: true }
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

    /// Removes an uplink; what it held is sent elsewhere.
    pub fn remove_path(&mut self, path: PathId, now: Time) {
        self.advance(now);
        if let Some(mut gone) = self.paths.remove(&path) {
            self.retired.insert(path, gone.next_seq());
            let held = gone.give_up();
            self.send_again(held);
        }
    }

    /// Takes a frame to send. One that is longer than [`MAX_FRAME_BYTES`], or late already, is dropped,
    /// and an event says so.
    pub fn push(&mut self, frame: &Frame, class: Class, now: Time) {
        self.advance(now);
        self.stats.frames_pushed += 1;
        self.stats.media_bytes += frame.data.len() as u64;
        // A capture time in the future must not buy a longer life.
        let deadline = frame.capture_time.min(now) + self.config.deadline;
        if frame.data.len() > MAX_FRAME_BYTES || deadline <= now {
            self.dropped(frame.id, class);
            return;
        }
        let parity = self.parity(frame.data.len(), class, now);
        let parity_until = deadline.min(now + PARITY_PATIENCE);
        for waiting in self.pending.push(frame, class, deadline, parity, parity_until) {
            self.queue.insert(waiting);
        }
        while let Some(key) = self.pending.excess() {
            self.drop_frame(key);
        }
    }

    /// Takes feedback that came on `path`.
    pub fn handle_datagram(&mut self, path: PathId, data: &[u8], now: Time) -> Result<(), WireError> {
        let feedback = wire::parse_feedback(data)?;
        self.advance(now);
        for entry in &feedback.entries {
            let alone = !self.paths.values().any(Path::active);
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
        Ok(())
    }

    /// The next datagram to send now.
    pub fn poll_transmit(&mut self, now: Time) -> Option<Transmit> {
        self.advance(now);
        self.replan = None;
        self.probe(now).or_else(|| self.copy(now)).or_else(|| self.next_shard(now))
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

    /// Bits per second that the encoder may use; 0 while no path carries media.
    ///
    /// Paths that were never asked for more than they carry are counted with what they have proved, or
    /// with what a new path is trusted with.
    pub fn target_rate(&self) -> u64 {
        (self.paths.values().map(Path::usable_rate).sum::<f64>() * USABLE_PART) as u64
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

    fn probe(&mut self, now: Time) -> Option<Transmit> {
        let due =
            |(&id, path): (&PathId, &mut Path)| path.take_probe(now).map(|len| (id, path.stamp(now), len));
        let (id, stamp, len) = self.paths.iter_mut().find_map(due)?;
        Some(self.sent(id, None, wire::put_probe(stamp, len).freeze(), now))
    }

    /// The next copy for safety whose second path is free.
    fn copy(&mut self, now: Time) -> Option<Transmit> {
        for _ in 0..self.copies.len() {
            let (shard, not) = self.copies.pop_front()?;
            let Some(outgoing) = self.pending.outgoing(shard) else { continue };
            let lanes: Vec<Lane> = self.lanes(now).into_iter().filter(|lane| lane.path != not).collect();
            let Some(best) = earliest(&lanes, MAX_DATAGRAM) else { continue };
            if !lanes[best].free {
                self.copies.push_back((shard, not));
                self.replan_at(now + REPLAN);
                continue;
            }
            if self.in_time(&lanes[best], MAX_DATAGRAM, &outgoing, now) {
                let path = lanes[best].path;
                let data = self.pending.send(shard, path, self.paths.get(&path)?.stamp(now))?;
                self.stats.shards_duplicated += 1;
                self.stats.redundant_bytes += data.len() as u64;
                return Some(self.sent(lanes[best].path, Some(shard), data, now));
            }
        }
        None
    }

    fn next_shard(&mut self, now: Time) -> Option<Transmit> {
        loop {
            if self.queue.is_empty() {
                return None;
            }
            let mut lanes = self.lanes(now);
            let Some((waiting, lane)) = self.queue.choose(&mut lanes) else {
                self.plan_again(now);
                return None;
            };
            let (mut lane, Waiting { shard, bytes, .. }) = (lanes[lane], waiting);
            let Some(outgoing) = self.pending.outgoing(shard) else {
                self.queue.remove(&waiting);
                continue;
            };
            if waiting.parity {
                if now >= waiting.deadline {
                    self.queue.remove(&waiting);
                    let again = self.pending.forget(shard);
                    again.into_iter().for_each(|waiting| self.queue.insert(waiting));
                    continue;
                }
                // Not where most of its frame went: that path's bad moment would take both.
                let main = self.pending.main_path(shard);
                let others = self.lanes(now).into_iter().filter(|lane| lane.free && Some(lane.path) != main);
                let Some(other) = others.min_by(|a, b| a.arrival(bytes).total_cmp(&b.arrival(bytes))) else {
                    self.replan_at(now + REPLAN);
                    return None;
                };
                lane = other;
            }
            if !waiting.parity && !self.in_time(&lane, bytes, &outgoing, now) {
                self.drop_frame((shard.track, shard.order));
                continue;
            }
            self.queue.remove(&waiting);
            let data = self.pending.send(shard, lane.path, self.paths.get(&lane.path)?.stamp(now))?;
            if outgoing.parity {
                self.stats.parity_sent += 1;
                self.stats.redundant_bytes += data.len() as u64;
                return Some(self.sent(lane.path, Some(shard), data, now));
            }
            if outgoing.sends > 0 {
                self.stats.shards_retransmitted += 1;
                self.stats.redundant_bytes += data.len() as u64;
            }
            self.want_copy(shard, &outgoing, data.len(), lane.path);
            return Some(self.sent(lane.path, Some(shard), data, now));
        }
    }

    /// The paths that may carry media, for the scheduler.
    fn lanes(&self, now: Time) -> Vec<Lane> {
        self.paths.values().filter_map(|path| path.lane(now)).collect()
    }

    /// Whether a shard that is sent now on this lane may still be in time, by the clock estimate's better
    /// end; without one, any is.
    fn in_time(&self, lane: &Lane, bytes: usize, outgoing: &Outgoing, now: Time) -> bool {
        let owd = self.paths.get(&lane.path).and_then(Path::owd);
        let delay = owd.zip(self.clock.estimate()).map_or(0.0, |(owd, clock)| {
            (owd - clock.offset_micros as f64 - clock.error_micros as f64).max(0.0)
        });
        let takes = delay + lane.per_byte * bytes as f64;
        now + Duration::from_micros(takes as u64) < outgoing.deadline
    }

    /// Asks for a copy on a second path, where it is worth its bytes.
    fn want_copy(&mut self, shard: ShardId, outgoing: &Outgoing, len: usize, path: PathId) {
        let precious = match outgoing.class {
            Class::Audio => true,
            Class::Keyframe => outgoing.last,
            _ => false,
        };
        let wanted = if outgoing.sends == 0 {
            self.copy_credit = (self.copy_credit + len as f64 * COPY_PART).min(COPY_BYTES);
            let affordable = self.config.fec && precious && self.copy_credit >= len as f64;
            if affordable {
                self.copy_credit -= len as f64;
            }
            affordable || outgoing.class == Class::Control
        } else {
            outgoing.sends >= SENDS_BEFORE_COPY
        };
        if wanted {
            if self.copies.len() >= MAX_COPIES {
                self.copies.pop_front();
            }
            self.copies.push_back((shard, path));
        }
    }

    /// Shards wait and no path takes them: when one may.
    fn plan_again(&mut self, now: Time) {
        let lanes = self.lanes(now);
        let soonest = lanes.iter().filter(|lane| !lane.free).map(|lane| lane.wait).min_by(f64::total_cmp);
        if !lanes.is_empty() {
            let wait = soonest.map_or(REPLAN, |wait| Duration::from_micros(wait as u64).saturating_sub(HOLD));
            self.replan_at(now + wait.clamp(Duration::from_micros(100), REPLAN));
        }
    }

    fn replan_at(&mut self, at: Time) {
        self.replan = Some(self.replan.map_or(at, |before| before.min(at)));
    }

    /// How many parity shards a frame gets: what its losses ask for, as far as spare rate pays.
    fn parity(&mut self, bytes: usize, class: Class, now: Time) -> usize {
        let rate = self.paths.values().map(Path::usable_rate).sum();
        self.budget.refill(rate, now);
        // A second path must be there, see `next_shard`.
        let paths = self.paths.values().filter(|path| path.active()).count();
        if !self.config.fec || paths < 2 { 0 } else { self.budget.parity(Cut::of(bytes), class) }
    }

    /// Notes a datagram that goes out now.
    fn sent(&mut self, id: PathId, shard: Option<ShardId>, data: Bytes, now: Time) -> Transmit {
        self.stats.packets_sent += 1;
        self.stats.bytes_sent += data.len() as u64;
        self.budget.spent(data.len());
        let forgotten = self.paths.get_mut(&id).and_then(|path| path.sent(shard, data.len(), now));
        self.send_again(forgotten.into_iter().collect());
        Transmit { path: id, data }
    }
}
