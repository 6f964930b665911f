//! One uplink at the sender: what it holds, what it can do, and whether it may carry media.
//!
//! ```text
//!            first sign of life                 silent while others are not
//! new: Probing ---------------> Active ---------------------------------> Suspect
//!                                 ^                                          | sign of life
//!                                 +---- second one in a row ---- Probing <---+
//!                                       (the first, where no other can be relied on)
//! ```

use std::time::Duration;

use media::Time;

use crate::estimate::{Estimate, PACKET_OVERHEAD};
use crate::retransmit::{Flight, Lost};
use crate::scheduler::{HOLD, Lane, REFILL, ShardId};
use crate::wire::{FeedbackEntry, Stamp};
use crate::{ClockEstimate, Cost, MAX_DATAGRAM, PathId, PathState, SenderPathStats};

/// A path is silent when nothing was heard of it for this long, though something should have been,
const SILENCE: Duration = Duration::from_millis(70);

/// or, where that was a mistake, for this much longer each time, up to the most; forgotten in such steps, too.
const SILENCE_STEP: Duration = Duration::from_millis(30);
const MOST_SILENCE: Duration = Duration::from_millis(190);
const SILENCE_DECAY: Duration = Duration::from_secs(15);

/// and this many datagrams at least are unheard of.
const SILENT_DATAGRAMS: usize = 3;

/// If no path was heard of within this, the fault may be ours or the receiver's,
pub(crate) const OTHERS_ALIVE: Duration = Duration::from_millis(45);

/// and silence must last this much longer before it counts.
const SHARED_SILENCE: Duration = Duration::from_millis(130);

/// An idle path is probed this often, so that its estimates stay fresh;
const IDLE_PROBE: Duration = Duration::from_millis(60);

/// when news of it is overdue, this often, so that silence shows soon;
const OVERDUE_PROBE: Duration = Duration::from_millis(20);

/// when it is suspect, this often: 25 kb/s;
const SUSPECT_PROBE: Duration = Duration::from_millis(20);

/// when it has just been heard of again, or is new, this often at first.
const EAGER_PROBE: Duration = Duration::from_millis(10);
const EAGER_PROBES: u32 = 3;

/// A new path gets a train of so many long probes at this rate, in bits per second: 14 KB that are sent
/// while nothing is known, and tell its rate before media has to.
const FIRST_TRAIN: u32 = 12;
const FIRST_TRAIN_RATE: f64 = 6_000_000.0;

/// A new path that others can wait for is trusted when its train has told something, or after this.
const TRAIN_PATIENCE: Duration = Duration::from_millis(100);

/// An idle path that is thought much worse than it was gets a train of so many at twice its rate, no
/// more often than this: 37 kb/s at most, to find out that it has recovered.
const LATER_TRAIN: u32 = 8;
const LATER_TRAIN_EVERY: Duration = Duration::from_secs(2);

/// A path is idle when it carried no media for this long.
const IDLE: Duration = Duration::from_millis(100);

/// A shard of which nothing was heard this much longer than it should have taken is sent on another
/// path too, where one is free.
const HEDGE_AFTER: Duration = Duration::from_millis(0);

/// Losses behind so much queueing delay, in microseconds, are the queue's.
const CONGESTED: f64 = 50_000.0;

/// So much queueing delay, in microseconds, stays only where somebody sends more than the path carries.
const CROWDED: f64 = 30_000.0;

/// News that is so much overdue makes the encoder careful at once, before the path is suspect.
const DOUBT: Duration = Duration::from_millis(15);

/// A path carries media while the last of it is not older than this.
const CARRIES: Duration = Duration::from_millis(500);

/// A path that is being proved and falls silent for this long is suspect again.
const PROBING_SILENCE: Duration = Duration::from_millis(200);

/// What a path is trusted with when it comes back, of its rate before.
const READMIT_PART: f64 = 0.6;

/// Signs of life that it takes.
const READMIT_SIGNS: u32 = 2;

/// When the driver was late by more than [`STALL`], nothing counts as silent for this long: news may be
/// waiting in its socket.
const GRACE: Duration = Duration::from_millis(30);
pub(crate) const STALL: Duration = Duration::from_millis(30);

/// A path holds at most what it carries in a smoothed round trip and this, and at least four datagrams,
/// so that a hole swallows little.
const IN_FLIGHT_SLACK: Duration = Duration::from_millis(40);
const MIN_IN_FLIGHT: f64 = 4.0 * 1250.0;

/// How late the driver's timers may be without a train of datagrams counting as broken.
const TIMER_SLACK: Duration = Duration::from_millis(3);

/// A path that costs is used when the cheaper ones would bring a shard this much later for each step of its
/// price, up to so many steps; one of last resort when they would bring it hardly in time.
const PRICE_STEP: Duration = Duration::from_millis(40);
const PRICE_STEPS: u32 = 3;
const LAST_RESORT: Duration = Duration::from_millis(240);

/// Bulk goes on a path while all that went on it, live and bulk, is below this part of its rate: it must not make a
/// queue of its own there, not even where the rate is less than it is thought to be.
const BULK_USE: f64 = 0.7;

/// So much may come at once: as often as a plan is made again.
const BULK_AHEAD: Duration = Duration::from_millis(5);

/// What sending again costs beyond a round trip, in microseconds: noticing.
const REPAIR_DELAY: f64 = 40_000.0;

/// What must be done with what a path held.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub arrived: Vec<ShardId>,
    /// Datagrams that arrived.
    pub packets: u32,
    pub lost: Lost,
}

/// One uplink.
#[derive(Debug)]
pub(crate) struct Path {
    id: PathId,
    cost: Cost,
    state: PathState,
    estimate: Estimate,
    flight: Flight,
    /// When what it holds will have left.
    leaves: Time,
    /// When bulk may come next.
    spare_from: Time,
    /// Takes until it holds its most.
    filling: bool,
    train: u64,
    last_sent: Option<Time>,
    last_media: Option<Time>,
    /// Long probes that are still to be sent in a train, how far apart, and when the next one is due.
    train_left: u32,
    train_gap: Duration,
    train_at: Time,
    /// The last sign of life.
    heard: Option<Time>,
    signs: u32,
    probes: u32,
    state_since: Time,
    grace_until: Time,
    packets_sent: u64,
    bytes_sent: u64,
    packets_lost: u64,
    suspected: u64,
    /// See [`Path::silence`], when it was last changed, and whether the latest suspicion was a mistake.
    silence: Duration,
    silence_since: Time,
    mistaken: bool,
}

impl Path {
    pub fn new(id: PathId, first_seq: u64, now: Time) -> Self {
        Self {
            id,
            cost: Cost::Free,
            state: PathState::Probing,
            estimate: Estimate::new(now),
            flight: Flight::new(first_seq, now),
            leaves: now,
            spare_from: now,
            filling: true,
            train: 0,
            last_sent: None,
            last_media: None,
            train_left: FIRST_TRAIN,
            train_gap: train_gap(FIRST_TRAIN_RATE),
            train_at: now,
            heard: None,
            signs: 0,
            probes: 0,
            state_since: now,
            grace_until: now,
            packets_sent: 0,
            bytes_sent: 0,
            packets_lost: 0,
            suspected: 0,
            silence: SILENCE,
            silence_since: now,
            mistaken: false,
        }
    }

    pub fn active(&self) -> bool {
        self.state == PathState::Active
    }

    pub fn next_seq(&self) -> u64 {
        self.flight.next_seq()
    }

    /// The last sign of life.
    pub fn heard(&self) -> Option<Time> {
        self.heard
    }

    /// Whether a queue stands there, of our datagrams or of others': then nothing of its rate is spare, whatever
    /// was measured.
    pub fn crowded(&self) -> bool {
        self.estimate.queueing() > CROWDED || self.estimate.shared()
    }

    /// Whether it carried media just now: only then its losses are losses of media.
    pub fn carries(&self, now: Time) -> bool {
        self.last_media.is_some_and(|last| now.saturating_since(last) < CARRIES)
    }

    /// Bits per second that it can carry.
    pub fn usable_rate(&self) -> f64 {
        if self.active() { self.estimate.rate() * (1.0 - self.estimate.loss()) } else { 0.0 }
    }

    /// What of it can be counted on now: nothing while news is overdue.
    pub fn dependable_rate(&self, now: Time) -> f64 {
        if self.doubtful(now) { 0.0 } else { self.usable_rate() }
    }

    /// Whether news is overdue.
    pub fn doubtful(&self, now: Time) -> bool {
        self.overdue(now).is_some_and(|by| by >= DOUBT)
    }

    /// Smoothed delay by the two clocks as they are, in microseconds.
    pub fn owd(&self) -> Option<f64> {
        self.estimate.owd()
    }

    /// This path for the scheduler, where it may carry media.
    pub fn lane(&self, now: Time) -> Option<Lane> {
        let owd = self.estimate.owd().filter(|_| self.active())?;
        let per_byte = 8e6 / self.estimate.rate();
        let round_trip = self.estimate.srtt().unwrap_or_default();
        let loss = self.estimate.loss().min(0.9);
        let repair = loss / (1.0 - loss) * (round_trip.as_micros() as f64 + REPAIR_DELAY);
        let overdue = self.overdue(now).map_or(0.0, |by| (by + OVERDUE_PROBE).as_micros() as f64);
        let least = self.estimate.round_trip().unwrap_or(round_trip);
        let limit = ((least + IN_FLIGHT_SLACK).as_micros() as f64 / per_byte).max(MIN_IN_FLIGHT);
        let above = self.flight.in_flight() as f64 - limit;
        let mut wait = self.leaves.saturating_since(now).as_micros() as f64;
        let most = if self.filling { HOLD } else { REFILL };
        let mut free = wait <= most.as_micros() as f64;
        if above > 0.0 {
            wait += above * per_byte;
            free = false;
        }
        let delay = owd + repair + overdue + self.reluctance();
        let spare = free && self.spare_from <= now + BULK_AHEAD;
        Some(Lane { path: self.id, delay, wait, per_byte, free, spare, cost: self.cost })
    }

    /// How much sooner this path must bring a datagram to be preferred to a free one, in microseconds.
    fn reluctance(&self) -> f64 {
        match self.cost {
            Cost::Free => 0.0,
            Cost::Priced(price) => PRICE_STEP.as_micros() as f64 * f64::from(price.min(PRICE_STEPS)),
            Cost::LastResort => LAST_RESORT.as_micros() as f64,
        }
    }

    /// Whether more waits than the paths seem to carry in time.
    pub fn push(&mut self, pushing: bool) {
        self.estimate.push(pushing);
    }

    /// Says what it costs from now on.
    pub fn set_cost(&mut self, cost: Cost) {
        self.cost = cost;
    }

    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// News of a datagram is overdue after this.
    fn timeout(&self) -> Duration {
        self.estimate.timeout(self.flight.patience())
    }

    /// By how much news of this path is overdue. Without patience: to wait too long for a path costs more than to
    /// do with less of it for a moment.
    fn overdue(&self, now: Time) -> Option<Duration> {
        let expected = self.flight.next_overdue(self.estimate.timeout(0))?;
        (now > expected && now > self.grace_until).then(|| now.saturating_since(expected))
    }

    /// The stamp of the next datagram.
    pub fn stamp(&self, now: Time) -> Stamp {
        Stamp { seq: self.flight.next_seq(), sent: now }
    }

    /// Notes that the datagram with this path's [`Path::stamp`] was sent. Gives back a shard that has to
    /// be forgotten for it, if any.
    pub fn sent(&mut self, shard: Option<ShardId>, len: usize, now: Time) -> Option<ShardId> {
        let bytes = len as u64 + PACKET_OVERHEAD;
        if self.leaves + TIMER_SLACK < now {
            self.train += 1;
        }
        let mut takes = Duration::from_micros((bytes as f64 * 8e6 / self.estimate.pace()) as u64);
        match shard {
            Some(_) => self.last_media = Some(now),
            // A train tries out another rate than the one that is trusted.
            None if self.train_left > 0 => takes = takes.min(self.train_gap),
            None => {}
        }
        self.filling = self.filling || self.leaves <= now + REFILL;
        self.leaves = self.leaves.max(now - TIMER_SLACK) + takes;
        self.filling &= self.leaves <= now + HOLD;
        self.spare_from = self.spare_from.max(now) + takes.div_f64(BULK_USE);
        self.last_sent = Some(now);
        self.packets_sent += 1;
        self.bytes_sent += len as u64;
        self.flight.sent(shard, bytes, self.train, now)
    }

    /// When a probe is due.
    fn probe_at(&self, now: Time) -> Time {
        let Some(last) = self.last_sent else { return self.state_since };
        if self.train_left > 0 {
            return self.train_at;
        }
        let every = match self.state {
            PathState::Active if self.overdue(now).is_some() => OVERDUE_PROBE,
            PathState::Active => IDLE_PROBE,
            PathState::Probing if self.probes < EAGER_PROBES => EAGER_PROBE,
            PathState::Probing | PathState::Suspect => SUSPECT_PROBE,
        };
        last + every
    }

    /// The length of the probe that is due now, if one is; counts it as sent.
    pub fn take_probe(&mut self, now: Time) -> Option<usize> {
        if self.probe_at(now) > now {
            return None;
        }
        self.probes = self.probes.saturating_add(1);
        let idle = self.last_media.is_none_or(|last| last + IDLE <= now);
        let rested = self.train_at + LATER_TRAIN_EVERY <= now;
        if self.train_left == 0
            && self.active()
            && self.cost != Cost::LastResort
            && idle
            && rested
            && self.estimate.wants_train()
        {
            self.estimate.train_begins();
            (self.train_left, self.train_at) = (LATER_TRAIN, now);
            self.train_gap = train_gap(2.0 * self.estimate.rate());
        }
        if self.train_left == 0 {
            return Some(0);
        }
        self.train_left -= 1;
        self.train_at = self.train_at.max(now - TIMER_SLACK) + self.train_gap;
        Some(MAX_DATAGRAM)
    }

    /// Takes feedback on this path. `alone`: there is no other that can be relied on now.
    pub fn told(&mut self, entry: &FeedbackEntry, alone: bool, now: Time) -> News {
        let told = self.flight.told(entry, now);
        if told.mistakes > 0 && self.suspected > 0 && !self.active() {
            // What was given up arrives: it only held its breath.
            self.wait_longer(now);
        }
        self.estimate.count(told.packets, 0);
        if let Some(sent) = told.progress {
            self.heard = Some(now);
            self.estimate.progress(entry, &sent, now);
            self.sign_of_life(alone, now);
        }
        let mut lost = self.find_lost(now);
        if self.estimate.queueing() > CONGESTED {
            // What a full queue drops is no reason to send more.
            (lost.packets, lost.runs) = (0, 0);
        }
        News { arrived: told.arrived, packets: told.packets, lost }
    }

    fn wait_longer(&mut self, now: Time) {
        if !std::mem::replace(&mut self.mistaken, true) {
            self.silence = (self.silence + SILENCE_STEP).min(MOST_SILENCE);
            self.silence_since = now;
        }
    }

    /// The silence that makes it suspect: longer on a path that has been suspected wrongly.
    fn silence(&self, now: Time) -> Duration {
        let steps = now.saturating_since(self.silence_since).as_micros() / SILENCE_DECAY.as_micros();
        self.silence.saturating_sub(SILENCE_STEP * steps as u32).max(SILENCE)
    }

    fn sign_of_life(&mut self, alone: bool, now: Time) {
        if self.state == PathState::Active {
            return;
        }
        self.signs += 1;
        let new = self.suspected == 0;
        let known = self.estimate.known() || now >= self.state_since + TRAIN_PATIENCE;
        if alone || (new && known) || (!new && self.signs >= READMIT_SIGNS) {
            if !new {
                self.estimate.readmit(READMIT_PART, now);
            }
            self.enter(PathState::Active, now);
        } else if self.state == PathState::Suspect {
            self.enter(PathState::Probing, now);
        }
    }

    fn enter(&mut self, state: PathState, now: Time) {
        if state != PathState::Probing {
            self.signs = 0;
        }
        self.state = state;
        self.state_since = now;
        self.probes = 0;
    }

    /// Calls lost what is, by time or by what overtook it.
    pub fn find_lost(&mut self, now: Time) -> Lost {
        if now < self.grace_until {
            return Lost::default();
        }
        let mut lost = self.flight.find_lost(self.timeout(), now);
        self.packets_lost += u64::from(lost.packets);
        if !self.active() || self.overdue(now).is_some() {
            // Silence is not loss: it has its own state.
            (lost.packets, lost.runs) = (0, 0);
        }
        self.estimate.count(0, lost.packets);
        lost
    }

    /// Shards whose arrival should have been heard of by now.
    pub fn find_overdue(&mut self, now: Time) -> Vec<ShardId> {
        if now < self.grace_until || !self.active() {
            return Vec::new();
        }
        self.flight.overdue(self.estimate.timeout(0) + HEDGE_AFTER, now)
    }

    /// When this path counts as silent, if nothing is heard until then.
    fn silent_at(&self, others_alive: bool) -> Option<Time> {
        let more = if others_alive { Duration::ZERO } else { SHARED_SILENCE };
        match self.state {
            PathState::Suspect => None,
            PathState::Probing => (self.suspected > 0).then(|| self.state_since + PROBING_SILENCE),
            PathState::Active => {
                let (oldest, third) = self.flight.unheard(SILENT_DATAGRAMS)?;
                let silence = self.silence(self.heard?);
                let since_sent = (oldest + silence).max(third? + self.timeout());
                let since_heard = self.heard? + silence;
                Some(since_sent.max(since_heard).max(self.grace_until) + more)
            }
        }
    }

    /// Turns suspect where it fell silent, and gives back all that it held.
    pub fn check_silence(&mut self, others_alive: bool, now: Time) -> Vec<ShardId> {
        if self.silent_at(others_alive).is_none_or(|at| now < at) {
            return Vec::new();
        }
        if self.active() {
            self.suspected += 1;
            self.silence = self.silence(now);
            (self.silence_since, self.mistaken) = (now, false);
        }
        self.enter(PathState::Suspect, now);
        self.flight.give_up()
    }

    /// Gives back all that it held, because it goes away.
    pub fn give_up(&mut self) -> Vec<ShardId> {
        self.flight.give_up()
    }

    /// The driver was away: what looks like silence may be unread news.
    pub fn forgive(&mut self, now: Time) {
        self.grace_until = now + GRACE;
    }

    /// When something becomes due.
    pub fn poll_timeout(&self, now: Time) -> Time {
        // Silence is checked as if others were alive: once too often does no harm.
        let silent = self.silent_at(true).map(|at| if at <= now { now + OVERDUE_PROBE } else { at });
        let lost = self.flight.next_loss(self.timeout()).map(|at| at.max(self.grace_until));
        [silent, lost].into_iter().flatten().fold(self.probe_at(now), Time::min)
    }

    pub fn stats(&self, clock: Option<ClockEstimate>, bytes_of_all: u64) -> SenderPathStats {
        let owd =
            self.estimate.owd().zip(clock).map(|(owd, clock)| {
                Duration::from_micros((owd - clock.offset_micros as f64).max(0.0) as u64)
            });
        SenderPathStats {
            path: self.id,
            state: self.state,
            packets_sent: self.packets_sent,
            bytes_sent: self.bytes_sent,
            share: self.bytes_sent as f64 / bytes_of_all.max(1) as f64,
            loss_ratio: self.estimate.loss(),
            packets_lost: self.packets_lost,
            owd,
            queueing: Duration::from_micros(self.estimate.queueing() as u64),
            srtt: self.estimate.srtt(),
            rate: self.estimate.rate() as u64,
            outstanding_bytes: self.flight.in_flight(),
            suspected: self.suspected,
        }
    }

    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }
}

/// The gap between long probes at this rate.
fn train_gap(rate: f64) -> Duration {
    Duration::from_micros(((MAX_DATAGRAM as u64 + PACKET_OVERHEAD) as f64 * 8e6 / rate) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_millis(9_000);

    fn at(millis: u64) -> Time {
        START + Duration::from_millis(millis)
    }

    /// What a receiver says 20 ms after the datagram of `sent` milliseconds; bit by bit, what came before it.
    fn news(highest: u64, bitmap: u8, sent: u64) -> FeedbackEntry {
        FeedbackEntry {
            path: PathId(0),
            highest,
            sent: at(sent),
            arrived: at(sent + 10),
            packets: highest + 1,
            bytes: 1_000 * (highest + 1),
            bitmap: vec![bitmap; 4],
        }
    }

    /// A datagram each 10 ms for a second, heard of 20 ms later; then nothing more is heard. How long until that is
    /// in doubt, in milliseconds, and what patience there is.
    fn doubted_after(mistake: bool) -> (u64, u32) {
        let mut path = Path::new(PathId(0), 0, START);
        for seq in 0..100 {
            path.sent(None, 1_000, at(10 * seq));
            // Number 50 is missing until four later ones have come, and comes then.
            if let Some(heard) = seq.checked_sub(2).filter(|heard| !mistake || *heard != 50) {
                let missing = if mistake && (51..=54).contains(&heard) { 1 << (heard - 51) } else { 0 };
                path.told(&news(heard, !missing, 10 * heard), false, at(10 * seq));
            }
        }
        assert!(path.active());
        let silent = (1..500).find(|millis| path.doubtful(at(990 + millis)));
        (silent.expect("silence is doubtful"), path.flight.patience())
    }

    #[test]
    fn doubt_does_not_wait_for_patience() {
        let ((calm, none), (taught, some)) = (doubted_after(false), doubted_after(true));
        assert_eq!((none, some), (0, 1));
        assert_eq!(calm, taught);
        assert!((20..80).contains(&calm), "{calm}");
    }
}
