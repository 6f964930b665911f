//! Mobile uplinks of our own making, for where recorded traces may not be shipped.

use crate::{Rng, Trace, TraceError};

/// A mobile uplink's rate changes about this often: scheduling grants, fading, other users.
const STEP_MILLIS: u64 = 100;

/// How much of the logarithm of the rate lasts from step to step: a dip takes half a second to pass.
const MEMORY: f64 = 0.85;

/// How far a step throws the logarithm of the rate, at most.
const THROW: f64 = 0.75;

/// Chance per step that the link stands still: a handover.
const HANDOVER: f64 = 0.01;

/// A handover lasts up to this many steps.
const HANDOVER_STEPS: u64 = 6;

impl Trace {
    /// A made-up mobile uplink of about this mean rate in bits per second: a walk of its logarithm that is
    /// drawn back to the mean, a step each 100 ms, and now and then a handover in which nothing is sent for
    /// up to 600 ms. The same state of the dice gives the same trace.
    pub fn mobile(mean_rate: u64, seconds: u64, rng: &mut Rng) -> Result<Trace, TraceError> {
        let mut millis = Vec::new();
        let (mut log, mut still, mut owed) = (0.0, 0, 0.0);
        for step in 0..seconds * 1000 / STEP_MILLIS {
            log = MEMORY * log + THROW * (2.0 * rng.unit() - 1.0);
            if rng.chance(HANDOVER) {
                still = 1 + rng.below(HANDOVER_STEPS);
            }
            // The mean of e^x is above e^(mean of x), by half the variance of x.
            let variance = THROW * THROW / 3.0 / (1.0 - MEMORY * MEMORY);
            let per_milli = mean_rate as f64 / 8000.0 * exp(log - variance / 2.0);
            for milli in 0..STEP_MILLIS {
                owed += if still > 0 { 0.0 } else { per_milli };
                while owed >= 1500.0 {
                    owed -= 1500.0;
                    millis.push(STEP_MILLIS * step + milli + 1);
                }
            }
            still = still.saturating_sub(1);
        }
        Trace::from_opportunities(millis)
    }
}

/// `f64::exp` differs in its last bits between platforms, which would make other traces of the same seed.
fn exp(x: f64) -> f64 {
    // (1 + x / 2^12)^(2^12), good to 0.1 % for the small x here.
    (0..12).fold(1.0 + x / 4096.0, |power, _| power * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanders_about_its_mean_and_stands_still_at_times() {
        let (mut sum, mut worst) = (0, 0);
        for seed in 0..20 {
            let trace = Trace::mobile(3_000_000, 60, &mut Rng::new(seed)).unwrap();
            sum += trace.mean_rate();
            let gaps = (1..1000).map(|i| trace.micros_of(i) - trace.micros_of(i - 1));
            worst = worst.max(gaps.max().unwrap());
            assert_eq!(trace, Trace::mobile(3_000_000, 60, &mut Rng::new(seed)).unwrap());
        }
        assert!((2_600_000..3_400_000).contains(&(sum / 20)), "{}", sum / 20);
        assert!((300_000..1_000_000).contains(&worst), "{worst}");
    }

    #[test]
    fn a_rate_of_nothing_is_no_trace() {
        assert_eq!(Trace::mobile(0, 60, &mut Rng::new(1)), Err(TraceError::Empty));
    }
}
