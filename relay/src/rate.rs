//! What of the bond's rate the encoder is told, and when.

/// A rise is told when it is more than this, in percent: an encoder need not follow every breath.
const RISE: u64 = 3;

/// Encoders count in so many bits per second.
const STEP: u64 = 1000;

/// While the bond works off what has piled up it asks for little, or nothing. The encoder is not told less
/// than this part of what the paths carry, in percent: the rest drains the pile, and the picture of a
/// second stays a picture.
const LEAST: u64 = 40;

/// A pure policy: falls are told at once, rises when they are worth it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateSignal {
    told: Option<u32>,
}

impl RateSignal {
    /// The bond asks for `target` bits per second now, and its paths carry `carried` (0: there is none);
    /// that is asked for only when it matters. Gives what the encoder has to be told, if anything.
    pub fn update(&mut self, target: u64, carried: impl FnOnce() -> u64) -> Option<u32> {
        let falls = target == 0 || self.told.is_none_or(|told| target < u64::from(told));
        let least = if falls { carried() * LEAST / 100 } else { 0 };
        let rate = u32::try_from(target.max(least) / STEP * STEP).unwrap_or(u32::MAX);
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
        let mut update = |target| signal.update(target, || 0);
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

    #[test]
    fn draining_is_not_silence() {
        let mut signal = RateSignal::default();
        assert_eq!(signal.update(2_000_000, || 3_000_000), Some(2_000_000));
        assert_eq!(signal.update(0, || 3_000_000), Some(1_200_000));
        assert_eq!(signal.update(0, || 3_000_000), None);
        assert_eq!(signal.update(500_000, || 1_000_000), Some(500_000));
        assert_eq!(signal.update(0, || 0), Some(0));
        assert_eq!(signal.update(0, || 1_000_000), Some(400_000), "an uplink came, and the pile is there");
    }
}
