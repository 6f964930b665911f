//! From GStreamer's running time to the broadcast clock.

use gstreamer as gst;
use gstreamer::prelude::*;
use media::Time;

use crate::Now;

/// Readings taken; the one with the two clocks read closest together counts.
const READINGS: usize = 8;

/// The broadcast time at running time zero. It is taken once, so that capture times follow
/// GStreamer's monotonic clock and a step of the system clock never shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch(Time);

impl Epoch {
    /// Makes this moment running time zero of `pipeline`, which must be about to play.
    pub(crate) fn begin(pipeline: &gst::Pipeline, now: &Now) -> Epoch {
        let clock = gst::SystemClock::obtain();
        pipeline.use_clock(Some(&clock));
        let mut best: Option<(gst::ClockTime, gst::ClockTime, Time)> = None;
        for _ in 0..READINGS {
            let (before, time, after) = (clock.time(), now(), clock.time());
            let spread = after.saturating_sub(before);
            if best.is_none_or(|(least, ..)| spread < least) {
                best = Some((spread, before + spread / 2, time));
            }
        }
        let (_, base, time) = best.unwrap_or_else(|| (gst::ClockTime::ZERO, clock.time(), now()));
        // Without a start time the pipeline keeps the base time that it is given.
        pipeline.set_start_time(gst::ClockTime::NONE);
        pipeline.set_base_time(base);
        Epoch(time)
    }

    /// When `buffer` of this segment was captured. `None`: it has no time.
    pub(crate) fn capture_time(&self, segment: &gst::Segment, buffer: &gst::BufferRef) -> Option<Time> {
        let segment = segment.downcast_ref::<gst::ClockTime>()?;
        let micros = match segment.to_running_time_full(buffer.pts()?)? {
            gst::Signed::Positive(time) => time.useconds() as i64,
            gst::Signed::Negative(time) => -(time.useconds() as i64),
        };
        Some(self.0.offset_by(micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(pts: gst::ClockTime) -> gst::Buffer {
        let mut buffer = gst::Buffer::new();
        buffer.make_mut().set_pts(pts);
        buffer
    }

    #[test]
    fn the_thousand_hours_of_x264_do_not_show() {
        gst::init().expect("GStreamer");
        let epoch = Epoch(Time::from_millis(1_795_000_000_000));
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        let shift = gst::ClockTime::from_seconds(3_600_000);
        segment.set_start(shift);
        let at = |pts| epoch.capture_time(segment.upcast_ref(), &buffer(pts));
        assert_eq!(at(shift + gst::ClockTime::from_mseconds(40)), Some(Time::from_millis(1_795_000_000_040)));
        assert_eq!(at(shift - gst::ClockTime::from_mseconds(40)), Some(Time::from_millis(1_794_999_999_960)));
    }
}
