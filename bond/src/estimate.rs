//! What one path can do: its delay, its rate and its loss, from feedback.
//!
//! The rate only grows by proof: datagrams that were sent in a train, as close together as the rate
//! allowed, and that the receiver saw come in as fast. A path that is not asked for more than it
//! carries proves nothing and loses nothing. It falls when delay piles up.

use std::collections::VecDeque;
use std::time::Duration;

use media::Time;

use crate::retransmit::Sent;
use crate::wire::FeedbackEntry;

/// What a path is trusted with before it proved anything, in bits per second.
const FIRST_RATE: f64 = 1_500_000.0;

/// A path is never thought slower, so that it can still prove itself: one shard takes 100 ms.
const MIN_RATE: f64 = 100_000.0;

/// Nor faster: 200 Mb/s is beyond any uplink that needs a bond.
const MAX_RATE: f64 = 200_000_000.0;

/// Growth beyond what was proven: in the beginning (until delay shows) and when coming back from a deep
/// fall, and otherwise.
const FIRST_GAIN: f64 = 2.0;
const GAIN: f64 = 1.25;

/// When a train comes in slower than this part of how it went out, its rate is the path's own, and only
/// so much is hoped for beyond it.
const SLOWER: f64 = 0.85;
const SEEN_GAIN: f64 = 1.1;

/// Below this queueing delay the rate may grow,
const LOW_QUEUE: f64 = 20_000.0;

/// and above this it must fall. Microseconds.
const HIGH_QUEUE: f64 = 50_000.0;

/// The rate falls at most to this part of itself at once,
const DEEPEST_CUT: f64 = 0.7;

/// and at most this often: about a round trip.
const CUT_INTERVAL: Duration = Duration::from_millis(50);

/// Only when at least this many bytes came within [`RECEIVED_WINDOW`] or are on their way.
const LOADED: u64 = 4_000;

/// After so many cuts in a row the delay is taken for the path's own: a longer route, or a queue that
/// somebody else fills.
const CUTS_UNTIL_REBASE: u32 = 40;

/// A train must be this long to prove a rate, so that jitter of some milliseconds does not decide.
const MIN_TRAIN: Duration = Duration::from_millis(8);
const MIN_TRAIN_PACKETS: u64 = 3;

/// And this long, with its end delayed by this many microseconds, to disprove one.
const LONG_TRAIN: Duration = Duration::from_millis(15);
const TRAIN_QUEUE: f64 = 8_000.0;

/// The longest stretch of a train that is measured at once.
const MAX_TRAIN: Duration = Duration::from_millis(60);

/// Over how long the received rate is taken when delay piles up.
const RECEIVED_WINDOW: Duration = Duration::from_millis(120);

/// The least delay is forgotten after one to two of these. Long, because under load there is always a
/// queue; not endless, because clocks drift.
const LEAST_DELAY_WINDOW: Duration = Duration::from_secs(60);

/// QUIC (38), UDP and IP (28) around each datagram.
pub(crate) const PACKET_OVERHEAD: u64 = 66;

/// The timeout before anything was heard.
const FIRST_TIMEOUT: Duration = Duration::from_millis(200);

/// What news may take above the least round trip and the queue: a feedback interval and some jitter.
const ALLOWANCE: Duration = Duration::from_millis(25);

/// The weight of one datagram in the loss ratio.
const LOSS_WEIGHT: f64 = 1.0 / 64.0;

/// One path's estimates. Delays are in microseconds.
#[derive(Debug)]
pub(crate) struct Estimate {
    srtt: Option<f64>,
    least_rtt: f64,
    least_rtt_before: f64,
    /// Receiver's clock minus sender's clock plus delay, smoothed.
    owd: Option<f64>,
    least_owd: f64,
    least_before: f64,
    least_began: Time,
    latest_queueing: f64,
    rate: f64,
    first_phase: bool,
    rate_before_cuts: f64,
    best_proven: f64,
    anchor: Option<Anchor>,
    received: VecDeque<(Time, u64)>,
    last_cut: Time,
    cuts: u32,
    loss: f64,
}

/// The beginning of a measured stretch of a train.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    train: u64,
    sent_at: Time,
    sent_before: u64,
    arrived: Time,
    bytes: u64,
    packets: u64,
}

impl Estimate {
    pub fn new(now: Time) -> Self {
        Self {
            srtt: None,
            least_rtt: f64::INFINITY,
            least_rtt_before: f64::INFINITY,
            owd: None,
            least_owd: f64::INFINITY,
            least_before: f64::INFINITY,
            least_began: now,
            latest_queueing: 0.0,
            rate: FIRST_RATE,
            first_phase: true,
            rate_before_cuts: 0.0,
            best_proven: 0.0,
            anchor: None,
            received: VecDeque::new(),
            last_cut: Time::ZERO,
            cuts: 0,
            loss: 0.0,
        }
    }

    /// Smoothed one-way delay by the two clocks as they are.
    pub fn owd(&self) -> Option<f64> {
        self.owd
    }

    /// Delay beyond the least.
    pub fn queueing(&self) -> f64 {
        self.owd.map_or(0.0, |owd| (owd - self.least_owd.min(self.least_before)).max(0.0))
    }

    pub fn srtt(&self) -> Option<Duration> {
        self.srtt.map(|srtt| Duration::from_micros(srtt as u64))
    }

    /// Bits per second.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    pub fn loss(&self) -> f64 {
        self.loss
    }

    /// News of a datagram is overdue after this. `patience` doubles the allowance so many times.
    ///
    /// Not by the variance of round trips, as TCP has it: after each keyframe that would be large for
    /// many frames, and whoever asks also looks whether other news comes in order.
    pub fn timeout(&self, patience: u32) -> Duration {
        let least = self.least_rtt.min(self.least_rtt_before);
        if !least.is_finite() {
            return FIRST_TIMEOUT;
        }
        Duration::from_micros((least + self.latest_queueing) as u64) + ALLOWANCE * (1 << patience)
    }

    /// Notes what became of datagrams.
    pub fn count(&mut self, arrived: u32, lost: u32) {
        self.loss *= (1.0 - LOSS_WEIGHT).powi(arrived as i32);
        self.loss = 1.0 - (1.0 - self.loss) * (1.0 - LOSS_WEIGHT).powi(lost as i32);
    }

    /// Takes the news of a datagram that is the highest so far. `sent` is our own record of it;
    /// `in_flight` bytes are still on their way.
    pub fn progress(&mut self, entry: &FeedbackEntry, sent: &Sent, in_flight: u64, now: Time) {
        let rtt = now.saturating_since(sent.at).as_micros() as f64;
        self.srtt = Some(self.srtt.map_or(rtt, |srtt| srtt + (rtt - srtt) / 8.0));
        let owd = entry.arrived.micros_since(sent.at) as f64;
        self.owd = Some(self.owd.map_or(owd, |smoothed| smoothed + (owd - smoothed) / 4.0));
        if now.saturating_since(self.least_began) >= LEAST_DELAY_WINDOW {
            self.least_before = std::mem::replace(&mut self.least_owd, owd);
            self.least_rtt_before = std::mem::replace(&mut self.least_rtt, rtt);
            self.least_began = now;
        }
        self.least_rtt = self.least_rtt.min(rtt);
        self.least_owd = self.least_owd.min(owd);
        self.latest_queueing = owd - self.least_owd.min(self.least_before);

        let bytes = entry.bytes.saturating_add(entry.packets.saturating_mul(PACKET_OVERHEAD));
        self.measure_train(entry, sent, bytes);
        self.received.push_back((entry.arrived, bytes));
        while self.received.len() > 2
            && self
                .received
                .get(1)
                .is_some_and(|(at, _)| entry.arrived.saturating_since(*at) >= RECEIVED_WINDOW)
        {
            self.received.pop_front();
        }
        self.fall(in_flight, now);
    }

    fn measure_train(&mut self, entry: &FeedbackEntry, sent: &Sent, bytes: u64) {
        let here = Anchor {
            train: sent.train,
            sent_at: sent.at,
            sent_before: sent.sent_before,
            arrived: entry.arrived,
            bytes,
            packets: entry.packets,
        };
        let Some(anchor) = self.anchor.filter(|anchor| anchor.train == here.train && anchor.bytes <= bytes)
        else {
            self.anchor = Some(here);
            return;
        };
        let span = here.arrived.saturating_since(anchor.arrived);
        if span < MIN_TRAIN || here.packets.saturating_sub(anchor.packets) < MIN_TRAIN_PACKETS {
            return;
        }
        let sending = bits_per_second(
            here.sent_before.saturating_sub(anchor.sent_before),
            here.sent_at.saturating_since(anchor.sent_at),
        );
        let receiving = bits_per_second(here.bytes - anchor.bytes, span);
        self.grow(sending, receiving);
        if span >= LONG_TRAIN {
            self.shrink(sending, receiving);
        }
        if span >= MAX_TRAIN {
            self.anchor = Some(here);
        }
    }

    /// A train went out and came in at these rates.
    fn grow(&mut self, sending: f64, receiving: f64) {
        let proven = sending.min(receiving);
        self.best_proven = self.best_proven.max(proven);
        if self.queueing() >= LOW_QUEUE {
            self.first_phase = false;
            return;
        }
        let far_below = self.rate < self.rate_before_cuts * 0.4;
        let gain = if receiving < sending * SLOWER {
            SEEN_GAIN
        } else if self.first_phase || far_below {
            FIRST_GAIN
        } else {
            GAIN
        };
        self.rate = self.rate.max(proven * gain).min(MAX_RATE);
    }

    /// Whether any train has told something.
    pub fn proven(&self) -> bool {
        self.best_proven > 0.0
    }

    /// Whether the path is thought much worse than it was, though nothing speaks against it now: then a
    /// train of probes may find out. Each time that it is asked for, less is hoped for.
    pub fn wants_train(&self) -> bool {
        self.rate < self.best_proven * 0.5 && self.queueing() < LOW_QUEUE && self.loss < 0.15
    }

    /// A train of probes goes out.
    pub fn train_begins(&mut self) {
        self.best_proven *= 0.9;
    }

    /// A train came in slower than it went out, and had to queue: that is what the path carries.
    fn shrink(&mut self, sending: f64, receiving: f64) {
        if self.latest_queueing >= TRAIN_QUEUE && receiving < sending * SLOWER {
            self.first_phase = false;
            self.rate = self.rate.min((receiving * 1.1).max(self.rate * 0.9)).max(MIN_RATE);
        }
    }

    /// Where delay piles up, falls below the rate that is received, the deeper the longer the queue is.
    fn fall(&mut self, in_flight: u64, now: Time) {
        let queueing = self.queueing();
        if queueing < HIGH_QUEUE {
            self.cuts = 0;
            return;
        }
        let (Some(first), Some(last)) = (self.received.front(), self.received.back()) else { return };
        if now.saturating_since(self.last_cut) < CUT_INTERVAL {
            return;
        }
        // A path that carries next to nothing of ours says nothing about its rate.
        let received_bytes = last.1.saturating_sub(first.1);
        if received_bytes.max(in_flight) < LOADED {
            return;
        }
        let received = bits_per_second(received_bytes, last.0.saturating_since(first.0));
        if self.cuts == 0 {
            self.rate_before_cuts = self.rate;
        }
        let part = (0.95 - (queueing - HIGH_QUEUE) / 400_000.0).max(0.6);
        self.rate = self.rate.min((received * part).max(self.rate * DEEPEST_CUT)).max(MIN_RATE);
        self.first_phase = false;
        self.last_cut = now;
        self.cuts += 1;
        if self.cuts >= CUTS_UNTIL_REBASE {
            self.least_owd = self.owd.unwrap_or(f64::INFINITY);
            self.least_before = f64::INFINITY;
            self.cuts = 0;
        }
    }

    /// The path comes back after silence: with part of its rate, and the delay that it has now.
    pub fn readmit(&mut self, part: f64) {
        self.rate = (self.rate * part).max(MIN_RATE);
        self.first_phase = true;
        self.anchor = None;
        self.received.clear();
    }
}

fn bits_per_second(bytes: u64, span: Duration) -> f64 {
    if span.is_zero() { 0.0 } else { bytes as f64 * 8.0 / span.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use media::TrackId;

    use super::*;
    use crate::PathId;
    use crate::retransmit::Flight;
    use crate::scheduler::ShardId;

    /// A bottleneck with a queue: feeds an estimate with what a path of this rate would tell.
    struct Bottleneck {
        estimate: Estimate,
        flight: Flight,
        free: Time,
        packets: u64,
        now: Time,
    }

    const DELAY: Duration = Duration::from_millis(20);
    const BYTES: u64 = 1200;

    impl Bottleneck {
        fn new() -> Self {
            let now = Time::from_millis(77_000);
            let (estimate, flight) = (Estimate::new(now), Flight::new(0, now));
            Self { estimate, flight, free: now, packets: 0, now }
        }

        /// Sends at `sending` bits per second in one train for so long over `capacity`. Feedback comes
        /// with each packet, at once, which only makes reactions faster than real ones.
        fn run(&mut self, sending: Option<f64>, capacity: f64, train: u64, millis: u64) {
            let end = self.now + Duration::from_millis(millis);
            while self.now < end {
                let sending = sending.unwrap_or(self.estimate.rate());
                let shard = ShardId { track: TrackId(0), order: 0, index: 0 };
                let seq = self.flight.next_seq();
                self.flight.sent(Some(shard), BYTES, train, self.now);
                self.free = self.free.max(self.now) + Duration::from_secs_f64(BYTES as f64 * 8.0 / capacity);
                self.packets += 1;
                let entry = FeedbackEntry {
                    path: PathId(0),
                    highest: seq,
                    sent: self.now,
                    arrived: self.free + DELAY,
                    packets: self.packets,
                    bytes: self.packets * (BYTES - PACKET_OVERHEAD),
                    bitmap: vec![0xff; 8],
                };
                let sent = self.flight.told(&entry, self.now).progress.unwrap();
                let heard = self.free + DELAY + DELAY;
                self.estimate.progress(&entry, &sent, 10_000, heard);
                self.now += Duration::from_secs_f64(BYTES as f64 * 8.0 / sending);
            }
        }

        fn rate(&self) -> f64 {
            self.estimate.rate() / 1e6
        }
    }

    #[test]
    fn grows_by_proof_to_what_the_path_carries_and_not_far_beyond() {
        let mut path = Bottleneck::new();
        path.run(None, 5e6, 1, 1_000);
        assert!((4.0..7.0).contains(&path.rate()), "{}", path.rate());
        path.run(None, 5e6, 1, 10_000);
        assert!((4.0..6.5).contains(&path.rate()), "{}", path.rate());
        assert!(path.estimate.queueing() < 80_000.0, "{}", path.estimate.queueing());
    }

    #[test]
    fn proves_nothing_and_loses_nothing_while_little_is_asked() {
        let mut path = Bottleneck::new();
        for train in 0..2_000 {
            path.run(Some(400_000.0), 5e6, train, 20);
        }
        assert_eq!(path.estimate.rate(), FIRST_RATE);
        // A few trains, as keyframes make them, are enough.
        path.run(None, 5e6, 3_000, 60);
        path.run(None, 5e6, 3_001, 60);
        assert!(path.rate() > 3.5, "{}", path.rate());
        let proven = path.estimate.rate();
        for train in 4_000..6_000 {
            path.run(Some(400_000.0), 5e6, train, 20);
        }
        assert_eq!(path.estimate.rate(), proven);
    }

    #[test]
    fn falls_when_delay_piles_up_and_comes_back() {
        let mut path = Bottleneck::new();
        path.run(None, 5e6, 1, 2_000);
        path.run(None, 1e6, 1, 1_500);
        assert!((0.3..1.6).contains(&path.rate()), "{}", path.rate());
        path.run(None, 1e6, 1, 3_000);
        assert!(path.estimate.queueing() < 100_000.0, "{}", path.estimate.queueing());
        path.run(None, 5e6, 1, 2_000);
        assert!(path.rate() > 3.5, "{}", path.rate());
    }

    #[test]
    fn loss_is_counted_and_forgotten() {
        let mut estimate = Estimate::new(Time::ZERO);
        (0..300).for_each(|_| estimate.count(7, 3));
        assert!((0.2..0.4).contains(&estimate.loss()), "{}", estimate.loss());
        (0..60).for_each(|_| estimate.count(10, 0));
        assert!(estimate.loss() < 0.001);
    }
}
