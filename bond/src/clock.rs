//! How the two clocks stand to each other, from timestamps that travel anyway.

use std::time::Duration;

use media::Time;

use crate::ClockEstimate;

/// A sample is forgotten after one to two of these: clocks that drift 50 millionths apart move 0.2 ms
/// in the meantime.
const WINDOW: Duration = Duration::from_secs(2);

/// NTP's exchange (RFC 5905, section 8) with a minimum-round-trip filter.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// When the current window began, its best sample, and that of the window before.
    began: Time,
    current: Option<Sample>,
    previous: Option<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    rtt: u64,
    offset: i64,
}

impl Clock {
    /// One exchange: a packet sent at `sent` arrived at `arrived` (other clock); the answer was made at
    /// `answered` (other clock) and came at `now`.
    pub fn sample(&mut self, sent: Time, arrived: Time, answered: Time, now: Time) {
        let there = arrived.micros_since(sent);
        let back = answered.micros_since(now);
        let Ok(rtt) = u64::try_from(there.wrapping_sub(back)) else { return };
        if now.saturating_since(self.began) >= WINDOW {
            self.previous = self.current.take();
            self.began = now;
        }
        // Half of each, so that hostile times cannot overflow.
        let offset = there / 2 + back / 2 + (there % 2 + back % 2) / 2;
        if self.current.is_none_or(|best| rtt <= best.rtt) {
            self.current = Some(Sample { rtt, offset });
        }
    }

    /// The best that is known now.
    pub fn estimate(&self) -> Option<ClockEstimate> {
        let best = self.current.iter().chain(&self.previous).min_by_key(|sample| sample.rtt)?;
        Some(ClockEstimate { offset_micros: best.offset, error_micros: best.rtt.div_ceil(2) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(clock: &mut Clock, now: u64, offset: i64, there: u64, back: u64) {
        let sent = Time::from_micros(now);
        let arrived = Time::from_micros(now + there).offset_by(offset);
        let answered = arrived + Duration::from_millis(7);
        clock.sample(sent, arrived, answered, Time::from_micros(now + there + 7_000 + back));
    }

    #[test]
    fn the_shortest_round_trip_wins_and_the_bound_holds() {
        let mut clock = Clock::default();
        assert_eq!(clock.estimate(), None);
        let offset = -7_200_000_000;
        let base = 1_000_000_000_000;
        exchange(&mut clock, base, offset, 90_000, 20_000);
        exchange(&mut clock, base + 100_000, offset, 21_000, 20_000);
        exchange(&mut clock, base + 200_000, offset, 20_000, 190_000);
        let estimate = clock.estimate().unwrap();
        assert_eq!(estimate, ClockEstimate { offset_micros: offset + 500, error_micros: 20_500 });
        // Old samples go.
        exchange(&mut clock, base + 3_000_000, offset, 25_000, 25_000);
        exchange(&mut clock, base + 6_000_000, offset, 25_000, 25_000);
        assert_eq!(clock.estimate().unwrap().offset_micros, offset);
    }

    #[test]
    fn impossible_times_are_ignored() {
        let mut clock = Clock::default();
        let (early, late) = (Time::from_micros(5), Time::from_micros(1_000));
        clock.sample(late, early, late, early);
        assert_eq!(clock.estimate(), None);
        clock.sample(Time::from_micros(u64::MAX), Time::ZERO, Time::from_micros(u64::MAX), Time::ZERO);
        clock.sample(
            Time::ZERO,
            Time::from_micros(u64::MAX >> 1),
            Time::ZERO,
            Time::from_micros(u64::MAX >> 1),
        );
    }
}
