//! From GStreamer's running time to the broadcast clock.

use gstreamer as gst;
use gstreamer::prelude::*;
use media::Time;

use crate::Now;

/// Readings taken; the one with the two clocks read closest together counts.
const READINGS: usize = 8;

/// The broadcast time at running time zero, which all pipelines share. It is taken once, so that capture
/// times follow GStreamer's monotonic clock and a step of the system clock never shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch {
    /// Time of GStreamer's clock at running time zero.
    base: gst::ClockTime,
    zero: Time,
}

impl Epoch {
    /// Makes this moment running time zero. GStreamer must have been initialised.
    pub(crate) fn begin(now: &Now) -> Epoch {
        let clock = gst::SystemClock::obtain();
        let mut best: Option<(gst::ClockTime, gst::ClockTime, Time)> = None;
        for _ in 0..READINGS {
            let (before, time, after) = (clock.time(), now(), clock.time());
            let spread = after.saturating_sub(before);
            if best.is_none_or(|(least, ..)| spread < least) {
                best = Some((spread, before + spread / 2, time));
            }
        }
        let (_, base, zero) = best.unwrap_or_else(|| (gst::ClockTime::ZERO, clock.time(), now()));
        Epoch { base, zero }
    }

    /// Makes a pipeline that is about to play count its running time from here.
    pub(crate) fn drive(&self, pipeline: &gst::Pipeline) {
        pipeline.use_clock(Some(&gst::SystemClock::obtain()));
        // Without a start time the pipeline keeps the base time that it is given.
        pipeline.set_start_time(gst::ClockTime::NONE);
        pipeline.set_base_time(self.base);
    }

    /// The broadcast time at running time zero.
    pub(crate) fn zero(&self) -> Time {
        self.zero
    }

    /// The broadcast time at a running time.
    pub(crate) fn at(&self, running_time: gst::ClockTime) -> Time {
        self.zero + std::time::Duration::from_micros(running_time.useconds())
    }

    /// When `buffer` of this segment was captured. `None`: it has no time.
    pub(crate) fn capture_time(&self, segment: &gst::Segment, buffer: &gst::BufferRef) -> Option<Time> {
        let segment = segment.downcast_ref::<gst::ClockTime>()?;
        let micros = match segment.to_running_time_full(buffer.pts()?)? {
            gst::Signed::Positive(time) => time.useconds() as i64,
            gst::Signed::Negative(time) => -(time.useconds() as i64),
        };
        Some(self.zero.offset_by(micros))
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
    fn a_thousand_hours_of_shift_do_not_show() {
        gst::init().expect("GStreamer");
        let epoch = Epoch { base: gst::ClockTime::ZERO, zero: Time::from_millis(1_795_000_000_000) };
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        let shift = gst::ClockTime::from_seconds(3_600_000);
        segment.set_start(shift);
        let at = |pts| epoch.capture_time(segment.upcast_ref(), &buffer(pts));
        assert_eq!(at(shift + gst::ClockTime::from_mseconds(40)), Some(Time::from_millis(1_795_000_000_040)));
        assert_eq!(at(shift - gst::ClockTime::from_mseconds(40)), Some(Time::from_millis(1_794_999_999_960)));
        assert_eq!(epoch.at(gst::ClockTime::from_mseconds(40)), Time::from_millis(1_795_000_000_040));
    }
}
