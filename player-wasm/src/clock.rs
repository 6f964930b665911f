//! The broadcast clock as seen from here: an offset to add to the local clock.
//!
//! Each question to the server gives a sample (sent, server's answer, received). The answer was
//! given somewhere between sending and receiving, so the offset is known to within half the round
//! trip, and the sample with the shortest round trip knows best (the minimum filter of NTP,
//! RFC 5905 section 10).

use std::collections::VecDeque;

/// Samples that are looked at. At one every 5 s this is 80 s: long enough to hold one lucky round
/// trip, short enough for a drift of 50 ppm to stay below 4 ms.
const WINDOW: usize = 16;

/// A sample loses trust with age: 50 ppm is the worst that two quartz clocks drift apart.
const DRIFT_PPM: f64 = 50.0;

/// Two estimates that contradict each other by more than their errors and this mean that the server
/// restarted with another clock.
const JUMP_US: f64 = 5_000.0;

/// What is known about the broadcast clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClockEstimate {
    /// Broadcast clock minus local clock, microseconds.
    pub offset_us: f64,
    /// The offset is right to within this many microseconds.
    pub error_us: f64,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: f64,
    estimate: ClockEstimate,
}

impl Sample {
    fn error_at(&self, now: f64) -> f64 {
        self.estimate.error_us + (now - self.at).max(0.0) * DRIFT_PPM / 1e6
    }
}

/// Estimates the broadcast clock. All times are microseconds; local times must not go backwards.
#[derive(Debug, Default)]
pub struct ClockFilter {
    samples: VecDeque<Sample>,
}

impl ClockFilter {
    /// One question and its answer. `server_error` is what the server says of its own estimate.
    pub fn sample(&mut self, sent: f64, server: f64, received: f64, server_error: f64) {
        let rtt = (received - sent).max(0.0);
        let estimate = ClockEstimate {
            offset_us: server - (sent + received) / 2.0,
            error_us: rtt / 2.0 + server_error.max(0.0),
        };
        let jumped = self.estimate(received).is_some_and(|old| {
            (old.offset_us - estimate.offset_us).abs() > old.error_us + estimate.error_us + JUMP_US
        });
        if jumped {
            self.samples.clear();
        }
        if self.samples.len() == WINDOW {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { at: received, estimate });
    }

    /// The best estimate at local time `now`; `None` before the first sample.
    pub fn estimate(&self, now: f64) -> Option<ClockEstimate> {
        let best = self.samples.iter().min_by(|a, b| a.error_at(now).total_cmp(&b.error_at(now)))?;
        Some(ClockEstimate { offset_us: best.estimate.offset_us, error_us: best.error_at(now) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSET: f64 = 7_777_000.0;

    /// A question at `at` that takes `out` there and `back` again.
    fn ask(filter: &mut ClockFilter, at: f64, out: f64, back: f64, offset: f64) {
        filter.sample(at, at + out + offset, at + out + back, 100.0);
    }

    #[test]
    fn nothing_is_known_at_first() {
        assert_eq!(ClockFilter::default().estimate(0.0), None);
    }

    #[test]
    fn the_shortest_round_trip_wins_and_the_bound_holds() {
        let mut filter = ClockFilter::default();
        for (at, out, back) in
            [(0.0, 40_000.0, 9_000.0), (60_000.0, 2_000.0, 3_000.0), (90_000.0, 1_000.0, 70_000.0)]
        {
            ask(&mut filter, at, out, back, OFFSET);
            let estimate = filter.estimate(at + out + back).unwrap();
            assert!((estimate.offset_us - OFFSET).abs() <= estimate.error_us);
        }
        let estimate = filter.estimate(165_000.0).unwrap();
        assert!((estimate.offset_us - OFFSET).abs() < 600.0, "{estimate:?}");
        assert!(estimate.error_us < 2_700.0, "{estimate:?}");
    }

    #[test]
    fn an_old_lucky_sample_is_given_up_when_drift_may_have_spoilt_it() {
        let mut filter = ClockFilter::default();
        ask(&mut filter, 0.0, 500.0, 500.0, OFFSET);
        ask(&mut filter, 75e6, 1_000.0, 1_200.0, OFFSET + 3_000.0);
        let estimate = filter.estimate(76e6).unwrap();
        assert!((estimate.offset_us - OFFSET - 3_000.0).abs() < 200.0, "{estimate:?}");
    }

    #[test]
    fn a_server_with_another_clock_is_believed_at_once() {
        let mut filter = ClockFilter::default();
        ask(&mut filter, 0.0, 500.0, 500.0, OFFSET);
        ask(&mut filter, 1e6, 5_000.0, 5_000.0, OFFSET + 9e6);
        assert_eq!(filter.estimate(2e6).unwrap().offset_us, OFFSET + 9e6);
    }
}
