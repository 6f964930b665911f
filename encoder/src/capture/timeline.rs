//! The timeline of a looped file: pictures and sound are counted, not trusted, so that neither a
//! loop nor tracks of different lengths make them drift apart.

use gstreamer::ClockTime;

/// Samples per second of the raw sound.
const SAMPLE_RATE: u64 = 48_000;
const NANOS: u64 = 1_000_000_000;

/// Which track has to give next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Video,
    Audio,
}

/// A piece of the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) start: ClockTime,
    pub(super) duration: ClockTime,
}

/// How far each track has come since the first frame of the show.
#[derive(Debug)]
pub(super) struct Timeline {
    fps: u64,
    frames: u64,
    samples: u64,
}

impl Timeline {
    pub(super) fn new(fps: u32) -> Self {
        Timeline { fps: fps.into(), frames: 0, samples: 0 }
    }

    /// The track that is behind.
    pub(super) fn next(&self) -> Next {
        if self.frames * SAMPLE_RATE <= self.samples * self.fps { Next::Video } else { Next::Audio }
    }

    /// Takes the place of one picture.
    pub(super) fn frame(&mut self) -> Slot {
        self.frames += 1;
        slot(self.frames - 1, self.frames, self.fps)
    }

    /// Takes the place of so many samples.
    pub(super) fn sound(&mut self, samples: u64) -> Slot {
        self.samples += samples;
        slot(self.samples - samples, self.samples, SAMPLE_RATE)
    }

    /// Pictures and samples missing until both tracks end at the same whole picture.
    pub(super) fn gap(&self) -> (u64, u64) {
        let frames = self.frames.max((self.samples * self.fps).div_ceil(SAMPLE_RATE));
        let samples = frames * SAMPLE_RATE / self.fps;
        (frames - self.frames, samples.saturating_sub(self.samples))
    }
}

/// How far in the future the timeline (re)starts, so that the first frames are not late.
const LEAD: ClockTime = ClockTime::from_mseconds(100);

/// Where the beginning of the timeline stands on the pipeline's running time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shift(Option<ClockTime>);

impl Shift {
    /// The running time for something at `start` of the timeline, and by how much the timeline had
    /// to move for it: decoding was slower than real time, or the machine slept. The timeline moves
    /// as a whole, so that latency does not grow and the tracks stay together.
    pub(super) fn place(&mut self, start: ClockTime, now: ClockTime) -> (ClockTime, Option<ClockTime>) {
        let (shift, late) = match self.0 {
            None => (now + LEAD, None),
            Some(shift) if shift + start < now => {
                let late = now - (shift + start) + LEAD;
                (shift + late, Some(late))
            }
            Some(shift) => (shift, None),
        };
        self.0 = Some(shift);
        (shift + start, late)
    }
}

fn slot(from: u64, to: u64, per_second: u64) -> Slot {
    let at = |count: u64| (u128::from(count) * u128::from(NANOS) / u128::from(per_second)) as u64;
    Slot { start: ClockTime::from_nseconds(at(from)), duration: ClockTime::from_nseconds(at(to) - at(from)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(timeline: &mut Timeline, frames: u64) {
        for _ in 0..frames {
            timeline.frame();
        }
    }

    #[test]
    fn the_track_behind_is_next() {
        let mut timeline = Timeline::new(30);
        assert_eq!(timeline.next(), Next::Video);
        timeline.frame();
        assert_eq!(timeline.next(), Next::Audio);
        timeline.sound(1599);
        assert_eq!(timeline.next(), Next::Audio);
        timeline.sound(1);
        assert_eq!(timeline.next(), Next::Video);
    }

    #[test]
    fn a_thousand_loops_do_not_drift() {
        // 29 fps divides nothing; the sound is longer than the pictures by 11 ms.
        let mut timeline = Timeline::new(29);
        for _ in 0..1000 {
            show(&mut timeline, 290);
            timeline.sound(480_528);
            let (frames, samples) = timeline.gap();
            assert!(frames <= 1 && samples < 48_000 / 29 + 1, "{frames} {samples}");
            show(&mut timeline, frames);
            timeline.sound(samples);
            assert_eq!(timeline.gap(), (0, 0));
        }
        let video = timeline.frame().start.nseconds();
        let audio = timeline.sound(1).start.nseconds();
        assert!(video.abs_diff(audio) < 30_000, "{video} {audio}");
    }

    #[test]
    fn a_late_timeline_moves_as_a_whole_and_only_forward() {
        let ms = ClockTime::from_mseconds;
        let mut shift = Shift::default();
        // The file took 800 ms to open: nothing is late, and nothing comes in a burst.
        assert_eq!(shift.place(ms(0), ms(800)), (ms(900), None));
        assert_eq!(shift.place(ms(33), ms(801)), (ms(933), None));
        assert_eq!(shift.place(ms(66), ms(1000)), (ms(1100), Some(ms(134))));
        assert_eq!(shift.place(ms(60), ms(1000)), (ms(1094), None));
        assert_eq!(shift.place(ms(100), ms(1001)), (ms(1134), None));
    }

    #[test]
    fn places_touch_without_rounding_drift() {
        let mut timeline = Timeline::new(30);
        let mut end = ClockTime::ZERO;
        for _ in 0..3000 {
            let slot = timeline.frame();
            assert_eq!(slot.start, end);
            end = slot.start + slot.duration;
        }
        assert_eq!(end, ClockTime::from_seconds(100));
    }
}
