//! What one path can do: its delay, its rate and its loss, from feedback.

mod delay;
mod rate;

use std::time::Duration;

use media::Time;

use self::delay::Delay;
use self::rate::{Arrival, Rate};
use crate::retransmit::Sent;
use crate::wire::FeedbackEntry;

/// QUIC (38), UDP and IP (28) around each datagram.
pub(crate) const PACKET_OVERHEAD: u64 = 66;

/// The weight of one datagram in the loss ratio.
const LOSS_WEIGHT: f64 = 1.0 / 64.0;

/// A path that loses more is not worth a train of probes.
const TRAIN_LOSS: f64 = 0.15;

/// One path's estimates. Delays are in microseconds, rates in bits per second.
#[derive(Debug)]
pub(crate) struct Estimate {
    delay: Delay,
    rate: Rate,
    loss: f64,
}

impl Estimate {
    pub fn new(now: Time) -> Self {
        Self { delay: Delay::new(now), rate: Rate::new(now), loss: 0.0 }
    }

    /// Smoothed one-way delay by the two clocks as they are.
    pub fn owd(&self) -> Option<f64> {
        self.delay.owd()
    }

    /// Delay beyond the least.
    pub fn queueing(&self) -> f64 {
        self.delay.queueing()
    }

    /// Whether somebody else's queue stands there.
    pub fn shared(&self) -> bool {
        self.rate.shared()
    }

    pub fn srtt(&self) -> Option<Duration> {
        self.delay.srtt().map(|srtt| Duration::from_micros(srtt as u64))
    }

    /// What the path carries.
    pub fn rate(&self) -> f64 {
        self.rate.rate()
    }

    /// What to send: the rate, less what lets a standing queue drain.
    pub fn pace(&self) -> f64 {
        self.rate.pace()
    }

    /// The round trip that sending must cover: without a queue, unless the queue is somebody else's.
    pub fn round_trip(&self) -> Option<Duration> {
        let micros = if self.rate.shared() { self.delay.srtt() } else { self.delay.least_rtt() };
        micros.map(|micros| Duration::from_micros(micros as u64))
    }

    pub fn loss(&self) -> f64 {
        self.loss
    }

    /// News of a datagram is overdue after this.
    pub fn timeout(&self, patience: u32) -> Duration {
        self.delay.timeout(patience)
    }

    /// Notes what became of datagrams.
    pub fn count(&mut self, arrived: u32, lost: u32) {
        self.loss *= (1.0 - LOSS_WEIGHT).powi(arrived as i32);
        self.loss = 1.0 - (1.0 - self.loss) * (1.0 - LOSS_WEIGHT).powi(lost as i32);
        if lost > 0 {
            self.rate.lost();
        }
    }

    /// Takes the news of a datagram that is the highest so far. `sent` is our own record of it.
    pub fn progress(&mut self, entry: &FeedbackEntry, sent: &Sent, now: Time) {
        let rtt = now.saturating_since(sent.at).as_micros() as f64;
        self.delay.sample(rtt, entry.arrived.micros_since(sent.at) as f64, sent.alone, now);
        let arrival = Arrival {
            arrived: entry.arrived,
            packets: entry.packets,
            bytes: entry.bytes.saturating_add(entry.packets.saturating_mul(PACKET_OVERHEAD)),
            train: sent.train,
            sent_at: sent.at,
            sent_before: sent.sent_before,
            queueing: self.delay.latest_queueing(),
            noise: self.delay.noise(),
            srtt: self.delay.srtt().unwrap_or(rtt),
            loss: self.loss,
        };
        self.rate.arrival(arrival, now);
    }

    /// Whether more waits than the paths seem to carry in time.
    pub fn push(&mut self, pushing: bool) {
        self.rate.push(pushing);
    }

    /// Whether any rate was ever seen.
    pub fn known(&self) -> bool {
        self.rate.known()
    }

    /// Whether the path is thought much worse than it was, though nothing speaks against it now: then a
    /// train of probes may find out.
    pub fn wants_train(&self) -> bool {
        self.rate.rate() < self.rate.proven() * 0.5
            && self.delay.queueing() < self.delay.noise()
            && self.loss < TRAIN_LOSS
    }

    /// A train of probes goes out.
    pub fn train_begins(&mut self) {
        self.rate.train_begins();
    }

    /// The path comes back after silence: with part of its rate, and the delay that it has now.
    pub fn readmit(&mut self, part: f64, now: Time) {
        self.rate.readmit(part, now);
    }
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
                let sending = sending.unwrap_or(self.estimate.pace());
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
                self.estimate.progress(&entry, &sent, heard);
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
        assert_eq!(path.estimate.rate(), 1_500_000.0);
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
