//! How much a path carries.
//!
//! The rate is measured where a measurement means something, and only there: while a queue stands at the
//! bottleneck, what comes out of it is what the path carries, no matter how it was put in. While there is
//! none, a path that is sent no more than it can take proves nothing and loses nothing; one that takes
//! datagrams as fast as its rate allows without delay may get a little more. The pace follows the rate,
//! less a part that lets a standing queue drain, and once a second a queue that never went is emptied on
//! purpose: that keeps the least delay honest, and one that cannot be emptied is not ours. Beside such
//! a queue, which somebody else fills, yielding to delay would be starving, so there the rate is felt for
//! as TCP does: a little more each round trip, a part less at a loss.
//!
//! Relatives: BBR (the delivery rate, taken when not application-limited; emptying the queue), Copa
//! (Arun and Balakrishnan, NSDI 2018: near-empty queues as the test for competition), PCC (no model of
//! the path beyond what the feedback says). `docs/decisions/` says why none of them as it is.

use std::collections::VecDeque;
use std::time::Duration;

use media::Time;

/// What a path is trusted with before it proved anything, in bits per second.
const FIRST_RATE: f64 = 1_500_000.0;

/// A path is never thought slower, so that it can still prove itself: one shard takes 100 ms.
const MIN_RATE: f64 = 100_000.0;

/// Nor faster: 200 Mb/s is beyond any uplink that needs a bond.
const MAX_RATE: f64 = 200_000_000.0;

/// Over how long the output of a standing queue is measured: jitter of 3 ms is 3 % of it.
const MEASURE: Duration = Duration::from_millis(100);

/// The most arrivals in it: feedback tells of ten, but a hostile clock may stand still. The oldest go.
const MAX_ARRIVALS: usize = 256;

/// A shorter stretch than this says nothing yet,
const LEAST_MEASURE: Duration = Duration::from_millis(20);
const LEAST_MEASURE_PACKETS: u64 = 4;

/// except in the beginning, when anything is better than nothing;
const FIRST_MEASURE: Duration = Duration::from_millis(12);

/// and each measurement moves the rate by this part of the difference: 40 ms at one in 10 ms; by less
/// where it is shorter than what is sure.
const MEASURE_WEIGHT: f64 = 0.25;
const SURE: Duration = Duration::from_millis(40);

/// While the queue stands, even two arrivals tell something.
const LEAST_STANDING: Duration = Duration::from_millis(6);

/// So much sending at the path's rate without delay is proof of a little more.
const PROOF: Duration = Duration::from_millis(25);

/// How much more: usually; while it is below half of what it was lately; and in the beginning.
const GAIN: f64 = 1.06;
const RECOVER_GAIN: f64 = 1.25;
const FIRST_GAIN: f64 = 1.25;

/// A rate is disproved only by more going in than coming out, or less.
const PUSHED: f64 = 1.02;
const DRAINED: f64 = 0.97;

/// A first train that comes in slower than this part of how it went out has found the rate.
const FOUND: f64 = 0.85;

/// A full datagram on the link, in bits.
const PACKET_BITS: f64 = 1_250.0 * 8.0;

/// Queueing delay that needs no answer, and the one at which half of the pace would be taken. At 50 ms of
/// queue the pace is 0.7 of the rate, and the queue is gone in 130 ms. Microseconds.
const FREE_QUEUE: f64 = 8_000.0;
const HALF_QUEUE: f64 = 75_000.0;
const LEAST_PACE: f64 = 0.6;

/// While more waits than the paths seem to carry, one without a queue is sent this much more than its rate:
/// frames that wait here are late for sure.
const PUSH: f64 = 1.25;

/// A queue that was not seen empty for this long is emptied on purpose,
const EMPTY_EVERY: Duration = Duration::from_millis(500);

/// by this part of the rate, for at least this long or three times the queue,
const EMPTYING_PACE: f64 = 0.6;
const EMPTYING: Duration = Duration::from_millis(120);

/// and where more than this part of it is still there, it is not ours.
const NOT_OURS: f64 = 0.6;

/// Beside somebody else's queue: more than what came out each round trip, less at a loss,
const SHARE_STEP: f64 = 4.0 * 1250.0;
const SHARE_MOST: f64 = 2.5;
const SHARE_CUT: f64 = 0.95;
const LEAST_ROUND: Duration = Duration::from_millis(50);

/// beginning from this part of what it was before the queue,
const SHARE_RETURN: f64 = 0.7;

/// when so much of the round was sent at the path's rate,
const PRESSED: f64 = 0.7;

/// and after this long another try to empty it, for it may be ours by now.
const THEIRS: Duration = Duration::from_secs(3);

/// A path that loses more than this may drop what is too much without a queue: nothing is proof then.
const POLICED_LOSS: f64 = 0.12;

/// What was carried lately is remembered this long, with a loss of a tenth each time.
const PROVEN_WINDOW: Duration = Duration::from_secs(10);

/// What one feedback tells of a path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// When the datagram came, by the receiver's clock.
    pub arrived: Time,
    /// Datagrams and bytes (on the wire) that came so far.
    pub packets: u64,
    pub bytes: u64,
    /// The train that it belonged to, when it was sent (sender's clock), and the bytes sent before it.
    pub train: u64,
    pub sent_at: Time,
    pub sent_before: u64,
    /// Its delay beyond the least, and how much of that is noise. Microseconds.
    pub queueing: f64,
    pub noise: f64,
    /// The smoothed round trip, microseconds.
    pub srtt: f64,
    /// Part of the datagrams lost lately.
    pub loss: f64,
}

/// Whose queue it is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Queue {
    /// Ours, and seen empty lately.
    Ours,
    /// Being emptied, to see whether it is.
    Emptying { from: f64, until: Time },
    /// It did not go when we yielded. The rate moves once a round.
    Theirs { since: Time, round: Time, lost: bool },
}

/// One path's rate.
#[derive(Debug)]
pub(crate) struct Rate {
    rate: f64,
    first: bool,
    proven: f64,
    proven_since: Time,
    credit: f64,
    /// Bytes of this round that were sent as fast as the pace allowed.
    pressed: u64,
    last: Option<Arrival>,
    /// Arrivals within [`MEASURE`] while the queue stands.
    standing: VecDeque<Arrival>,
    /// Arrivals within [`MEASURE`], queue or not.
    recent: VecDeque<Arrival>,
    queue: Queue,
    empty_at: Time,
    rate_when_empty: f64,
    queueing: f64,
    pushing: bool,
}

impl Rate {
    pub fn new(now: Time) -> Self {
        Self {
            rate: FIRST_RATE,
            first: true,
            proven: 0.0,
            proven_since: now,
            credit: 0.0,
            pressed: 0,
            last: None,
            standing: VecDeque::new(),
            recent: VecDeque::new(),
            queue: Queue::Ours,
            empty_at: now,
            rate_when_empty: 0.0,
            queueing: 0.0,
            pushing: false,
        }
    }

    /// Bits per second that the path carries.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Whether more waits than the paths seem to carry in time.
    pub fn push(&mut self, pushing: bool) {
        self.pushing = pushing;
    }

    /// Bits per second to send now.
    pub fn pace(&self) -> f64 {
        let part = match self.queue {
            Queue::Ours if self.pushing && self.queueing < FREE_QUEUE => PUSH,
            Queue::Ours => 1.0 - (self.queueing - FREE_QUEUE).max(0.0) / (2.0 * HALF_QUEUE),
            Queue::Emptying { .. } => EMPTYING_PACE,
            Queue::Theirs { .. } => 1.0,
        };
        self.rate * part.max(LEAST_PACE)
    }

    /// Whether somebody else keeps a queue on this path.
    pub fn shared(&self) -> bool {
        matches!(self.queue, Queue::Theirs { .. })
    }

    /// Whether anything was ever measured.
    pub fn known(&self) -> bool {
        self.proven > 0.0
    }

    /// The most that it carried lately.
    pub fn proven(&self) -> f64 {
        self.proven
    }

    /// Takes news that is newer than any before.
    pub fn arrival(&mut self, mut arrival: Arrival, now: Time) {
        // Its own way onto the link is no queue; the least delay may be from when that was shorter.
        arrival.queueing = (arrival.queueing - PACKET_BITS * 1e6 / self.rate).max(0.0);
        self.queueing = arrival.queueing;
        if now.saturating_since(self.proven_since) >= PROVEN_WINDOW {
            self.proven *= 0.9;
            self.proven_since = now;
        }
        keep(&mut self.recent, arrival);
        if self.stood(&arrival) {
            if self.standing.is_empty() {
                self.standing.extend(self.last);
            }
            keep(&mut self.standing, arrival);
        } else {
            self.standing.clear();
        }
        self.whose(&arrival, now);
        if self.first {
            self.first_train();
        }
        let paced = self.paced(&arrival);
        if let Queue::Theirs { .. } = self.queue {
            if arrival.queueing < arrival.noise {
                self.prove(&arrival, paced);
            }
            self.share(&arrival, paced, now);
        } else if let Some((measured, span)) = measure(&self.standing, LEAST_STANDING) {
            self.measured(measured, span);
        } else if arrival.queueing < arrival.noise {
            self.prove(&arrival, paced);
        } else {
            self.credit = 0.0;
        }
        self.last = Some(arrival);
    }

    /// Datagrams were lost.
    pub fn lost(&mut self) {
        if let Queue::Theirs { lost, .. } = &mut self.queue {
            *lost = true;
        }
    }

    /// The path comes back after silence, with part of its rate.
    pub fn readmit(&mut self, part: f64, now: Time) {
        self.rate = (self.rate * part).max(MIN_RATE);
        self.first = true;
        self.last = None;
        self.standing.clear();
        self.recent.clear();
        self.queue = Queue::Ours;
        self.empty_at = now;
        self.queueing = 0.0;
    }

    /// A train of probes goes out to look for the rate of old. Each time less is hoped for.
    pub fn train_begins(&mut self) {
        self.proven *= 0.9;
    }

    /// Whether the queue stood all the time since the last news: this datagram was in it already when
    /// the one before it came out.
    fn stood(&self, arrival: &Arrival) -> bool {
        let since = |last: Arrival| arrival.arrived.saturating_since(last.arrived).as_micros() as f64;
        arrival.queueing >= arrival.noise.max(self.last.map_or(f64::INFINITY, since))
    }

    /// Bytes since the last news that were sent as fast as the pace allowed.
    fn paced(&self, arrival: &Arrival) -> u64 {
        let last = self.last.filter(|last| last.train == arrival.train);
        last.map_or(0, |last| arrival.sent_before.saturating_sub(last.sent_before))
    }

    /// In the beginning whatever comes is a measure.
    fn first_train(&mut self) {
        if let Some((seen, _)) = measure(&self.recent, FIRST_MEASURE) {
            self.rate = self.rate.max(seen).min(MAX_RATE);
            self.proven = self.proven.max(self.rate);
            // A train that came slower than it went out has found the rate.
            self.first = sending(&self.recent).is_none_or(|sending| seen > sending * FOUND);
        }
    }

    fn measured(&mut self, measured: f64, span: Duration) {
        let sure = (span.as_secs_f64() / SURE.as_secs_f64()).min(1.0);
        let weight = if self.first && sure >= 0.5 { 1.0 } else { MEASURE_WEIGHT * sure };
        self.first &= sure < 0.5;
        // What comes out just as it goes in, though it yields to a queue that stands, is no measure of the
        // path: more must go in than comes out, or less, so that the queue drains.
        let alike = |sending: f64| (measured * DRAINED..measured * PUSHED).contains(&sending);
        if measured < self.rate && sending(&self.standing).is_some_and(alike) {
            return;
        }
        self.rate = (self.rate + (measured - self.rate) * weight).clamp(MIN_RATE, MAX_RATE);
        self.proven = self.proven.max(measured.min(MAX_RATE));
        self.credit = 0.0;
    }

    fn prove(&mut self, arrival: &Arrival, paced: u64) {
        if arrival.loss > POLICED_LOSS {
            return;
        }
        self.credit += paced as f64 * 8e6;
        let proof = PROOF.as_micros() as f64;
        while self.credit >= self.rate * proof {
            self.credit -= self.rate * proof;
            let far_below = self.rate < self.proven * 0.5;
            self.proven = self.proven.max(self.rate);
            let gain = if self.first || self.pushing {
                FIRST_GAIN
            } else if far_below {
                RECOVER_GAIN
            } else {
                GAIN
            };
            self.rate = (self.rate * gain).min(MAX_RATE);
        }
    }

    /// Finds out whose queue it is.
    fn whose(&mut self, arrival: &Arrival, now: Time) {
        if arrival.queueing < arrival.noise {
            self.empty_at = now;
            self.rate_when_empty = self.rate;
            // Whose it is when somebody else was here shows only when we yield.
            if let Queue::Emptying { .. } = self.queue {
                self.queue = Queue::Ours;
            }
            return;
        }
        match self.queue {
            Queue::Ours if now >= self.empty_at + EMPTY_EVERY => self.empty(arrival, now),
            Queue::Theirs { since, .. } if now >= since + THEIRS => self.empty(arrival, now),
            Queue::Emptying { from, until } if now >= until => {
                self.empty_at = now;
                self.queue = if arrival.queueing > from * NOT_OURS {
                    // Yielding was a mistake.
                    self.rate = self.rate.max(self.rate_when_empty * SHARE_RETURN);
                    Queue::Theirs { since: now, round: now, lost: false }
                } else {
                    Queue::Ours
                };
            }
            _ => {}
        }
    }

    fn empty(&mut self, arrival: &Arrival, now: Time) {
        let wait = Duration::from_micros((3.0 * arrival.queueing) as u64).max(EMPTYING);
        self.queue = Queue::Emptying { from: arrival.queueing, until: now + wait };
    }

    fn share(&mut self, arrival: &Arrival, paced: u64, now: Time) {
        self.pressed += paced;
        let Queue::Theirs { since, round, lost } = self.queue else { return };
        if now < round + Duration::from_micros(arrival.srtt as u64).max(LEAST_ROUND) {
            return;
        }
        let Some((measured, _)) = measure(&self.recent, LEAST_MEASURE) else { return };
        // Without pressure of ours what comes out is only what we put in.
        let most = self.rate * now.saturating_since(round).as_secs_f64();
        let pressed = std::mem::take(&mut self.pressed) as f64 * 8.0 >= most * PRESSED;
        if lost {
            self.rate *= SHARE_CUT;
        } else if pressed {
            let step =
                SHARE_STEP * 8.0 / Duration::from_micros(arrival.srtt as u64).max(LEAST_ROUND).as_secs_f64();
            self.rate = (self.rate + step).min(measured * SHARE_MOST);
        }
        self.rate = self.rate.clamp(MIN_RATE, MAX_RATE);
        self.queue = Queue::Theirs { since, round: now, lost: false };
    }
}

/// Adds an arrival to a window of [`MEASURE`]. What came before their clock stepped back is no part of it.
fn keep(window: &mut VecDeque<Arrival>, arrival: Arrival) {
    if window.back().is_some_and(|last| arrival.arrived < last.arrived) {
        window.clear();
    }
    window.push_back(arrival);
    // The one before the window's beginning stays, so that the window is covered.
    let covered = |next: &Arrival| arrival.arrived.saturating_since(next.arrived) >= MEASURE;
    while window.len() > MAX_ARRIVALS || window.get(1).is_some_and(covered) {
        window.pop_front();
    }
}

/// Bits per second at which a window was sent.
fn sending(window: &VecDeque<Arrival>) -> Option<f64> {
    let (first, last) = (window.front()?, window.back()?);
    let span = last.sent_at.saturating_since(first.sent_at);
    (!span.is_zero())
        .then(|| last.sent_before.saturating_sub(first.sent_before) as f64 * 8.0 / span.as_secs_f64())
}

/// Bits per second over a window, where it is long enough to tell.
fn measure(window: &VecDeque<Arrival>, least: Duration) -> Option<(f64, Duration)> {
    let (first, last) = (window.front()?, window.back()?);
    let span = last.arrived.saturating_since(first.arrived);
    let enough = span >= least && last.packets.saturating_sub(first.packets) >= LEAST_MEASURE_PACKETS;
    enough.then(|| (last.bytes.saturating_sub(first.bytes) as f64 * 8.0 / span.as_secs_f64(), span))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_millis(5_000);

    /// The `n`th arrival, at `arrived` by a clock that may say anything.
    fn arrival(n: u64, arrived: u64, queueing: f64) -> Arrival {
        Arrival {
            arrived: Time::from_micros(arrived),
            packets: n,
            bytes: 1_200 * n,
            train: 1,
            sent_at: START + Duration::from_millis(10 * n),
            sent_before: 1_200 * n,
            queueing,
            noise: 6_000.0,
            srtt: 40_000.0,
            loss: 0.0,
        }
    }

    /// Found beside fuzzing. The windows of arrivals were cut by the receiver's clock alone: while it stood
    /// still, or after it had stepped back, they grew with every feedback, and nothing was measured until it
    /// was where it had been. No clock but our own may decide how much is kept.
    #[test]
    fn a_clock_that_stands_still_or_steps_back_fills_no_window() {
        let mut rate = Rate::new(START);
        let hour = 3_600_000_000;
        for n in 0..2_000 {
            rate.arrival(arrival(n, hour, 50_000.0), START + Duration::from_millis(10 * n));
        }
        assert!(rate.recent.len() <= MAX_ARRIVALS && rate.standing.len() <= MAX_ARRIVALS);
        for n in 2_000..2_020 {
            rate.arrival(arrival(n, 10_000 * n, 0.0), START + Duration::from_millis(10 * n));
        }
        let measured = measure(&rate.recent, LEAST_MEASURE).map(|(measured, _)| measured.round());
        assert_eq!(measured, Some(8.0 * 1_200.0 * 100.0));
    }

    /// Found by fuzzing. A hostile clock can make any delay, and three times the longest overflowed.
    #[test]
    fn the_longest_queue_can_be_emptied() {
        let mut rate = Rate::new(START);
        rate.arrival(arrival(0, 0, 1.8e19), START + EMPTY_EVERY);
        assert!(matches!(rate.queue, Queue::Emptying { until, .. } if until > START + EMPTYING));
    }
}
