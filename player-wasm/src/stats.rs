//! Counting: a latency histogram, stalls, dropped frames by cause.

use media::Time;

/// Latencies above this share the last bucket.
const HISTOGRAM_MILLIS: usize = 4_000;

/// Frames whose gaps make the mean for the stall rule. WebRTC's `freezeCount` uses 30.
const GAPS: usize = 30;

/// Counts latencies in steps of one millisecond: constant memory however long the show is.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u32>,
    total: u64,
    max_us: u64,
    last_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; HISTOGRAM_MILLIS + 1], total: 0, max_us: 0, last_us: 0 }
    }
}

impl Histogram {
    /// One latency in microseconds; a negative one (clock error) counts as zero.
    pub fn record(&mut self, us: i64) {
        let us = us.max(0) as u64;
        let bucket = (us / 1_000).min(HISTOGRAM_MILLIS as u64) as usize;
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
        self.total += 1;
        self.max_us = self.max_us.max(us);
        self.last_us = us;
    }

    /// The least number of milliseconds (upper edge of a bucket) that `part` of all do not exceed.
    pub fn quantile_millis(&self, part: f64) -> Option<f64> {
        if self.total == 0 {
            return None;
        }
        let rank = ((self.total as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, &count) in self.counts.iter().enumerate() {
            seen += u64::from(count);
            if seen >= rank {
                return Some(((bucket + 1) as f64).min(self.max_millis()));
            }
        }
        Some(self.max_millis())
    }

    /// The largest, in milliseconds.
    pub fn max_millis(&self) -> f64 {
        self.max_us as f64 / 1_000.0
    }

    /// The newest, in milliseconds.
    pub fn last_millis(&self) -> f64 {
        self.last_us as f64 / 1_000.0
    }

    /// How many were recorded.
    pub fn total(&self) -> u64 {
        self.total
    }
}

/// Finds stalls: a gap between painted pictures above max(3 * mean, mean + 150 ms), as WebRTC defines
/// `freezeCount` (webrtc-stats).
#[derive(Clone, Debug, Default)]
pub struct Stalls {
    last: Option<Time>,
    gaps: std::collections::VecDeque<u64>,
    count: u64,
    total_us: u64,
}

impl Stalls {
    /// A picture was painted.
    pub fn painted(&mut self, at: Time) {
        if let Some(last) = self.last.replace(at) {
            let gap = at.saturating_since(last).as_micros() as u64;
            if !self.gaps.is_empty() {
                let mean = self.gaps.iter().sum::<u64>() / self.gaps.len() as u64;
                if gap > (3 * mean).max(mean + 150_000) {
                    self.count += 1;
                    self.total_us += gap;
                }
            }
            if self.gaps.len() == GAPS {
                self.gaps.pop_front();
            }
            self.gaps.push_back(gap);
        }
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How long all of them were together, milliseconds.
    pub fn total_millis(&self) -> f64 {
        self.total_us as f64 / 1_000.0
    }
}

/// Why a frame that came was not painted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropCause {
    /// Older than the live edge when we joined: decoded, because later frames need it, never due.
    CatchUp,
    /// A newer picture was due too when it could have been painted.
    Superseded,
    /// Its group came too late; a newer keyframe was due.
    LateGroup,
    /// Not newer than what is on the screen, after a reconnect.
    Duplicate,
    /// The decoder could not keep up: the rest of the group was shed.
    Overload,
    /// The decoder failed on it, or was configured anew while it was inside.
    Decoder,
    /// The session ended while it waited.
    Session,
}

impl DropCause {
    /// All of them, in the order of [`Self::name`]'s index.
    pub const ALL: [DropCause; 7] = [
        DropCause::CatchUp,
        DropCause::Superseded,
        DropCause::LateGroup,
        DropCause::Duplicate,
        DropCause::Overload,
        DropCause::Decoder,
        DropCause::Session,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            DropCause::CatchUp => "catch_up",
            DropCause::Superseded => "superseded",
            DropCause::LateGroup => "late_group",
            DropCause::Duplicate => "duplicate",
            DropCause::Overload => "overload",
            DropCause::Decoder => "decoder",
            DropCause::Session => "session",
        }
    }
}

/// What the video track went through.
#[derive(Clone, Debug, Default)]
pub struct VideoStats {
    /// Frames whose last byte came.
    pub received: u64,
    /// Pictures that came out of the decoder.
    pub decoded: u64,
    /// Pictures painted.
    pub painted: u64,
    /// Live pictures that were decoded after they should have been on the screen.
    pub late: u64,
    /// Frames that never came or were skipped, as far as capture times tell.
    pub missing: u64,
    /// Not painted, by [`DropCause`].
    pub dropped: [u64; DropCause::ALL.len()],
    /// Capture to paint, live frames only.
    pub latency: Histogram,
    /// Capture to last byte received, live frames only.
    pub arrival: Histogram,
    /// Last byte received to the decoder's door.
    pub wait: Histogram,
    /// In the decoder.
    pub decode: Histogram,
    /// Decoded to painted: the jitter buffer's share.
    pub hold: Histogram,
    /// Gaps in the painting.
    pub stalls: Stalls,
}

impl VideoStats {
    /// Counts a frame that is not painted.
    pub fn drop(&mut self, cause: DropCause) {
        self.dropped[cause as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_millis(0.5), None);
        for ms in 1..=100 {
            histogram.record(ms * 1_000 - 1);
        }
        assert_eq!(histogram.quantile_millis(0.5), Some(50.0));
        assert_eq!(histogram.quantile_millis(0.95), Some(95.0));
        assert_eq!(histogram.quantile_millis(1.0), Some(99.999));
        histogram.record(99_000_000);
        histogram.record(-5);
        assert_eq!(histogram.quantile_millis(1.0), Some(4_001.0));
        assert_eq!(histogram.max_millis(), 99_000.0);
        assert_eq!(histogram.last_millis(), 0.0);
        assert_eq!(histogram.total(), 102);
    }

    #[test]
    fn a_stall_is_a_gap_far_above_the_mean() {
        let mut stalls = Stalls::default();
        let mut at = Time::from_millis(1_000);
        for gap in std::iter::repeat_n(33, 100).chain([180, 33, 33, 300, 33]) {
            at = at.offset_by(gap * 1_000);
            stalls.painted(at);
        }
        assert_eq!(stalls.count(), 1, "180 ms is no stall, 300 ms is one");
        assert_eq!(stalls.total_millis(), 300.0);
    }

    #[test]
    fn causes_have_their_own_counters() {
        let mut stats = VideoStats::default();
        for (index, cause) in DropCause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index);
            stats.drop(cause);
        }
        assert_eq!(stats.dropped, [1; 7]);
    }
}
