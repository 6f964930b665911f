//! Two ends with clocks of their own.

use media::Time;

/// The other end's clock against ours: an offset, and a drift that grows from a point in time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockPair {
    /// Theirs minus ours at `since`, microseconds.
    pub offset_micros: i64,
    /// How much faster theirs is, in parts per million; quartz is good to 20 to 100.
    pub drift_ppm: i64,
    /// When the offset is as said, by our clock.
    pub since: Time,
}

impl ClockPair {
    /// Their time at our time.
    pub fn theirs(&self, ours: Time) -> Time {
        let elapsed = i128::from(ours.micros_since(self.since));
        let drifted = elapsed * i128::from(self.drift_ppm) / 1_000_000;
        ours.offset_by(self.offset_micros + drifted as i64)
    }

    /// The first of our times at which theirs is at least this.
    pub fn ours(&self, theirs: Time) -> Time {
        let elapsed = i128::from(theirs.micros_since(self.since.offset_by(self.offset_micros)));
        let ours = elapsed * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm));
        // Both divisions round, by a microsecond together.
        let mut ours = self.since.offset_by(ours as i64 - 2);
        while self.theirs(ours) < theirs {
            ours = ours.offset_by(1);
        }
        ours
    }

    /// Theirs minus ours at our time, microseconds.
    pub fn offset_at(&self, ours: Time) -> i64 {
        self.theirs(ours).micros_since(ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn there_and_back_is_never_early() {
        let since = Time::from_millis(1_790_000_000_000);
        for drift_ppm in [-500, -50, 0, 3, 50, 500] {
            let pair = ClockPair { offset_micros: -7_000_000_123, drift_ppm, since };
            assert_eq!(pair.offset_at(since), -7_000_000_123);
            for micros in [0, 1, 999_999, 12_345_678, 86_400_000_000] {
                let ours = since + Duration::from_micros(micros);
                let theirs = pair.theirs(ours);
                let back = pair.ours(theirs);
                assert!(back <= ours && pair.theirs(back) == theirs, "{drift_ppm} {micros}");
                assert!(pair.theirs(back.offset_by(-1)) < theirs);
            }
        }
        let fast = ClockPair { offset_micros: 0, drift_ppm: 50, since };
        assert_eq!(fast.offset_at(since + Duration::from_secs(100)), 5_000);
    }
}
