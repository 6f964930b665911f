//! What of the bond's rate the encoder is told, and when.

/// A rise is told when it is more than this, in percent: an encoder need not follow every breath.
const RISE: u64 = 3;

/// Encoders count in so many bits per second.
const STEP: u64 = 1000;

/// A pure policy: falls are told at once, rises when they are worth it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateSignal {
    told: Option<u32>,
}

impl RateSignal {
    /// The bond asks for `target` bits per second now; 0 while there is no path. Gives what the encoder has
    /// to be told, if anything.
    pub fn update(&mut self, target: u64) -> Option<u32> {
        let rate = u32::try_from(target / STEP * STEP).unwrap_or(u32::MAX);
        let tell = self
            .told
            .is_none_or(|told| rate < told || u64::from(rate) * 100 > u64::from(told) * (100 + RISE));
        if !tell {
            return None;
        }
        self.told = Some(rate);
        Some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn falls_at_once_rises_when_worth_it() {
        let mut signal = RateSignal::default();
        let mut update = |target| signal.update(target);
        assert_eq!(update(2_000_000), Some(2_000_000));
        assert_eq!(update(2_000_999), None, "less than the encoder's step");
        assert_eq!(update(2_060_000), None);
        assert_eq!(update(2_061_000), Some(2_061_000));
        assert_eq!(update(2_060_500), Some(2_060_000));
        assert_eq!(update(0), Some(0), "no uplink");
        assert_eq!(update(0), None);
        assert_eq!(update(1_000), Some(1_000));
        assert_eq!(update(u64::MAX), Some(u32::MAX));
    }
}
