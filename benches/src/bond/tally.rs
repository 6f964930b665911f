//! What came of a run: every frame's fate, and the figures that do not grow with its length.

use std::time::Duration;

use hdrhistogram::Histogram;
use media::{FrameId, Time};
use sim::LinkStats;

/// Longer latencies and waits count as this: microseconds.
const LONGEST: u64 = 60_000_000;

/// Digits kept of each latency.
const DIGITS: u8 = 3;

/// A distribution of times, in microseconds.
pub type Times = Histogram<u64>;

/// An empty distribution.
pub fn times() -> Times {
    // The bounds are constants that fit; the fallback cannot be reached, and would only cost memory.
    Histogram::new_with_bounds(1, LONGEST, DIGITS)
        .or_else(|_| Histogram::new(DIGITS))
        .unwrap_or_else(|_| unreachable!("{DIGITS} digits are supported"))
}

/// Adds a time to a distribution.
pub fn record(times: &mut Times, time: Duration) {
    times.saturating_record((time.as_micros() as u64).clamp(1, LONGEST));
}

/// The time below which this part of all lies; 0 where there is none.
pub fn part(times: &Times, part: f64) -> Duration {
    if times.is_empty() {
        return Duration::ZERO;
    }
    Duration::from_micros(times.value_at_quantile(part).min(times.max()))
}

/// One frame's fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Which.
    pub frame: FrameId,
    /// When it was captured.
    pub captured: Time,
    /// Capture to handing over; `None` where it was lost.
    pub latency: Option<Duration>,
}

/// The frames of one kind.
#[derive(Clone, Debug)]
pub struct Kind {
    /// All that were sent.
    pub frames: u64,
    /// Handed over after the deadline.
    pub late: u64,
    /// Not handed over.
    pub lost: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// Bytes handed over in time.
    pub bytes_in_time: u64,
    /// What the frames in time would weigh on the links, each byte carried once.
    pub wire_in_time: u64,
    /// Capture to handing over, of all that were handed over.
    pub latency: Times,
}

impl Default for Kind {
    fn default() -> Self {
        Self { frames: 0, late: 0, lost: 0, bytes: 0, bytes_in_time: 0, wire_in_time: 0, latency: times() }
    }
}

impl Kind {
    /// Counts one frame.
    pub fn add(&mut self, latency: Option<Duration>, bytes: usize, deadline: Duration) {
        self.frames += 1;
        self.bytes += bytes as u64;
        match latency {
            None => self.lost += 1,
            Some(latency) => {
                record(&mut self.latency, latency);
                if latency > deadline {
                    self.late += 1;
                } else {
                    self.bytes_in_time += bytes as u64;
                    self.wire_in_time += super::media::wire_bytes(bytes);
                }
            }
        }
    }

    /// Not in time: late or lost.
    pub fn missed(&self) -> u64 {
        self.late + self.lost
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Kind) {
        self.frames += other.frames;
        self.late += other.late;
        self.lost += other.lost;
        self.bytes += other.bytes;
        self.bytes_in_time += other.bytes_in_time;
        self.wire_in_time += other.wire_in_time;
        // Both have the same bounds, so that it cannot fail.
        let _ = self.latency.add(&other.latency);
    }
}

/// Packets and their bytes, headers and all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// How many.
    pub packets: u64,
    /// What they weigh.
    pub bytes: u64,
}

impl Carried {
    /// One more.
    pub fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// Somebody else's flow on an uplink.
#[derive(Clone, Copy, Debug)]
pub struct Rival {
    /// Bytes that arrived, headers and all.
    pub delivered_bytes: u64,
    /// Packets that it found lost.
    pub lost: u64,
}

/// One uplink, as the emulator saw it.
#[derive(Clone, Debug)]
pub struct UplinkOutcome {
    /// What we sent,
    pub sent: Carried,
    /// and what of it arrived.
    pub arrived: Carried,
    /// All packets' fates at the uplink, towards the receiver.
    pub link: LinkStats,
    /// Back.
    pub down: LinkStats,
    /// How long our packets that arrived had waited for their turn at bottlenecks.
    pub queueing: Times,
    /// Who else was there.
    pub rival: Option<Rival>,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Video frames.
    pub video: Kind,
    /// Audio packets.
    pub audio: Kind,
    /// Each frame, where [`super::plan::Plan::keep_fates`] says so.
    pub fates: Vec<Fate>,
    /// By path number.
    pub uplinks: Vec<UplinkOutcome>,
    /// The sender's own counts.
    pub sender: bond::SenderStats,
    /// The receiver's own counts.
    pub receiver: bond::ReceiverStats,
    /// The sender's estimate of the clocks' difference minus the truth, microseconds.
    pub clock_error: Option<i64>,
    /// What it says its error is at most, microseconds.
    pub clock_bound: u64,
    /// Bits per second that the encoder may use, at the end.
    pub target_rate: u64,
    /// Frames that the sender said it dropped.
    pub drop_events: u64,
    /// The most bytes that the receiver held,
    pub most_buffered: usize,
    /// that the sender queued,
    pub most_queued: u64,
    /// and the most frames that were under way.
    pub most_under_way: usize,
    /// Simulated events.
    pub events: u64,
}

impl Outcome {
    /// Frames of all kinds that were not handed over.
    pub fn lost(&self) -> u64 {
        self.video.lost + self.audio.lost
    }

    /// Bytes sent beyond once each frame, as a part of the media.
    pub fn redundancy(&self) -> f64 {
        self.sender.redundant_bytes as f64 / (self.sender.media_bytes as f64).max(1.0)
    }

    /// Bytes on the uplinks over bytes of media.
    pub fn wire_over_media(&self) -> f64 {
        let wire: u64 = self.uplinks.iter().map(|uplink| uplink.sent.bytes).sum();
        wire as f64 / (self.sender.media_bytes as f64).max(1.0)
    }
}
