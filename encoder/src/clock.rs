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

    /// The running time now.
    pub(crate) fn running_time(&self) -> gst::ClockTime {
        gst::SystemClock::obtain().time().saturating_sub(self.base)
    }

    /// The broadcast time at running time zero.
    pub(crate) fn zero(&self) -> Time {
        self.zero
    }

    /// The broadcast time at a running time.
    pub(crate) fn at(&self, running_time: gst::ClockTime) -> Time {
        self.zero + std::time::Duration::from_micros(running_time.useconds())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[test]
    fn a_clock_that_is_stepped_later_moves_no_time_stamp() {
        gst::init().expect("GStreamer");
        let clock = Arc::new(AtomicU64::new(1_000_000_000));
        let reading = clock.clone();
        let now: Now = Arc::new(move || Time::from_micros(reading.load(Relaxed)));
        let epoch = Epoch::begin(&now);
        clock.store(0, Relaxed);
        assert_eq!(epoch.at(gst::ClockTime::from_seconds(5)), Time::from_micros(1_005_000_000));
        // And pipelines that are opened later count from the same moment.
        let pipeline = gst::Pipeline::new();
        epoch.drive(&pipeline);
        assert_eq!(pipeline.base_time(), Some(epoch.base));
    }
}
