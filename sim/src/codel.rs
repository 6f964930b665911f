//! CoDel, the queue that keeps itself short (RFC 8289).

use std::time::Duration;

use media::Time;

/// A full packet, in bytes: what the target must leave time for.
const FULL_PACKET: u64 = 1500;

/// A new spell of dropping begins where the last one ended if it is no older than this many intervals.
const MEMORY_INTERVALS: u32 = 16;

/// How CoDel is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoDel {
    /// A standing queue shorter than this is left alone.
    pub target: Duration,
    /// A queue that stood this long above the target is shortened: about the longest round trip.
    pub interval: Duration,
}

impl Default for CoDel {
    /// As the RFC says for the open Internet.
    fn default() -> Self {
        Self { target: Duration::from_millis(5), interval: Duration::from_millis(100) }
    }
}

/// The state behind one queue. A FIFO whose service is known tells each packet's waiting when the packet
/// comes, so that it is decided then and not when its turn has come.
///
/// One thing of the RFC cannot be known that early: whether less than a packet would remain behind it, in which
/// case nothing is dropped. In its place the target is at least the time that two full packets take, so that a
/// pair of packets alone is no standing queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Controller {
    /// Since when the waiting has been above the target, plus the interval.
    above_until: Option<Time>,
    dropping: bool,
    drop_next: Time,
    count: u32,
    last_count: u32,
}

impl Controller {
    /// Whether the packet whose turn comes at `turn`, after so much waiting, is dropped.
    pub fn drops(&mut self, codel: CoDel, bits_per_second: u64, wait: Duration, turn: Time) -> bool {
        let two_packets = Duration::from_micros(2 * FULL_PACKET * 8_000_000 / bits_per_second.max(1));
        let above = wait >= codel.target.max(two_packets);
        let long_above = match (above, self.above_until) {
            (false, _) => {
                self.above_until = None;
                false
            }
            (true, None) => {
                self.above_until = Some(turn + codel.interval);
                false
            }
            (true, Some(until)) => turn >= until,
        };
        if !long_above {
            self.dropping = false;
            return false;
        }
        if self.dropping {
            if turn < self.drop_next {
                return false;
            }
            self.count += 1;
            self.drop_next += spacing(codel.interval, self.count);
            return true;
        }
        self.dropping = true;
        let recent = turn.saturating_since(self.drop_next) < codel.interval * MEMORY_INTERVALS;
        let delta = self.count.saturating_sub(self.last_count);
        self.count = if recent && delta > 1 { delta } else { 1 };
        self.last_count = self.count;
        self.drop_next = turn + spacing(codel.interval, self.count);
        true
    }
}

/// The control law: drops come closer together with the square root of their number.
fn spacing(interval: Duration, count: u32) -> Duration {
    interval.div_f64(f64::from(count.max(1)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conditions, Link, Rate};

    const START: Time = Time::from_millis(1_000_000);

    /// Sends at a rate for a while; returns the waits at the end of each second, and the drops.
    fn overdriven(codel: Option<CoDel>, offered: u64, seconds: u64) -> (Vec<u64>, u64) {
        let conditions = Conditions {
            rate: Rate::Fixed(4_000_000),
            queue: Duration::from_secs(1),
            codel,
            ..Conditions::default()
        };
        let mut link = Link::new(conditions, 1);
        let gap = Duration::from_micros(1250 * 8_000_000 / offered);
        let (mut now, mut waits) = (START, Vec::new());
        for second in 1..=seconds {
            while now < START + Duration::from_secs(second) {
                link.send((), 1250, now);
                while link.poll(now).is_some() {}
                now += gap;
            }
            waits.push(link.wait(now).as_millis() as u64);
        }
        (waits, link.stats().codel_drops)
    }

    #[test]
    fn a_standing_queue_is_worked_off() {
        // 10 % too much: drop-tail fills, CoDel drops what is too much once it has found the pace.
        let (waits, drops) = overdriven(None, 4_400_000, 20);
        assert!(waits.last() > Some(&990) && drops == 0, "{waits:?}");
        let (waits, drops) = overdriven(Some(CoDel::default()), 4_400_000, 20);
        assert!(waits.last() < Some(&60), "{waits:?}");
        assert!(drops > 300, "{drops}");
    }

    #[test]
    fn what_the_link_carries_is_left_alone() {
        let (waits, drops) = overdriven(Some(CoDel::default()), 3_900_000, 5);
        assert_eq!((waits.iter().max(), drops), (Some(&0), 0));
    }

    #[test]
    fn a_burst_shorter_than_the_interval_is_left_alone() {
        let mut controller = Controller::default();
        let codel = CoDel::default();
        for burst in 0..10 {
            for packet in 0..30u64 {
                // Waits up to 90 ms, of which 75 above the target, and then the queue is empty again.
                let turn = START + Duration::from_millis(burst * 200 + packet * 3);
                assert!(!controller.drops(codel, 4_000_000, Duration::from_millis(packet * 3), turn));
            }
        }
    }

    #[test]
    fn drops_come_closer_together() {
        let mut controller = Controller::default();
        let drops: Vec<u64> = (0..1000)
            .filter(|&millis| {
                let turn = START + Duration::from_millis(millis);
                controller.drops(CoDel::default(), 100_000_000, Duration::from_millis(50), turn)
            })
            .collect();
        // 100 ms, then each 100 / sqrt(n) later.
        assert_eq!(drops[..5], [100, 200, 271, 329, 379]);
    }
}
