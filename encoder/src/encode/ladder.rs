//! The steps that a rendition may be taken down when its bit rate does not suffice: every second picture
//! first, then a smaller picture, and up again, each with patience, because a change is seen.

use std::time::Duration;

use media::Time;

use super::vbv::macroblocks;

/// Bits that a macroblock needs for a picture worth looking at: 540 kb/s at 720p30, where x264 still finds
/// its way through noise (see [`super::vbv`]).
const BITS_PER_MACROBLOCK: u64 = 5;
/// Half the pictures need this share of the bits: each differs more from the last one.
const HALF_RATE_PERCENT: u64 = 65;
/// Picture sizes, in eighths of the full one.
const EIGHTHS: [u32; 4] = [8, 6, 4, 3];
/// No picture is made smaller than this, pixels of height.
const LEAST_HEIGHT: u32 = 180;
/// Fewer pictures a second than this are not halved.
const LEAST_FPS_TO_HALVE: u32 = 20;
/// A rate asked for below the floor of its own picture is taken as meant: the floors move down to this
/// share of it.
const MEANT_PERCENT: u64 = 80;

/// A rate below the floor for so long takes a step down. The bond's doubts last a few hundred milliseconds,
/// and a step costs a keyframe and, if the picture changes its size, a new file in each recording.
const DOWN_AFTER: Duration = Duration::from_millis(1000);
/// Far below the floor (under half of it) there is no time to lose.
const DOWN_FAST_AFTER: Duration = Duration::from_millis(300);
/// A rate above the next floor by [`UP_PERCENT`] for so long takes a step up.
const UP_AFTER: Duration = Duration::from_secs(4);
const UP_PERCENT: u64 = 130;

/// A shape that a rendition may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Each so manieth picture is encoded: 1 or 2.
    pub(crate) every: u32,
    /// Bits per second below which it is of no use.
    pub(crate) floor: u32,
}

/// The steps of one rendition, and where it stands.
#[derive(Debug)]
pub(crate) struct Ladder {
    steps: Vec<Step>,
    at: usize,
    below_since: Option<Time>,
    above_since: Option<Time>,
}

impl Ladder {
    /// For a picture of this size, meant to have `bitrate`.
    pub(crate) fn new(width: u32, height: u32, fps: u32, bitrate: u32) -> Self {
        let mut steps = Vec::new();
        for eighths in EIGHTHS {
            let even = |pixels: u32| if eighths == 8 { pixels } else { (pixels * eighths / 16 * 2).max(2) };
            let (width, height) = (even(width), even(height));
            if eighths < 8 && height < LEAST_HEIGHT {
                break;
            }
            let full = macroblocks(width, height) * u64::from(fps) * BITS_PER_MACROBLOCK;
            let floor = |bits: u64| u32::try_from(bits).unwrap_or(u32::MAX);
            steps.push(Step { width, height, every: 1, floor: floor(full) });
            if fps >= LEAST_FPS_TO_HALVE {
                steps.push(Step { width, height, every: 2, floor: floor(full * HALF_RATE_PERCENT / 100) });
            }
        }
        let (meant, top) = (u64::from(bitrate) * MEANT_PERCENT / 100, u64::from(steps[0].floor));
        if meant < top {
            for step in &mut steps {
                step.floor = (u64::from(step.floor) * meant / top) as u32;
            }
        }
        Ladder { steps, at: 0, below_since: None, above_since: None }
    }

    /// The step taken.
    pub(crate) fn step(&self) -> Step {
        self.steps[self.at]
    }

    /// The floor of the full picture at the full frame rate.
    pub(crate) fn top_floor(&self) -> u32 {
        self.steps[0].floor
    }

    /// The floor of the last step: below it, a picture is not worth its bits.
    pub(crate) fn last_floor(&self) -> u32 {
        self.steps[self.steps.len() - 1].floor
    }

    /// The rate is `bitrate` now. Call it whenever it changes, and a few times a second.
    pub(crate) fn update(&mut self, bitrate: u32, now: Time) -> Step {
        let floor = self.step().floor;
        if bitrate < floor {
            self.above_since = None;
            let since = *self.below_since.get_or_insert(now);
            let patience = if bitrate < floor / 2 { DOWN_FAST_AFTER } else { DOWN_AFTER };
            if now.saturating_since(since) >= patience {
                let fits = self.steps.iter().position(|step| step.floor <= bitrate);
                self.at = fits.unwrap_or(self.steps.len() - 1);
                self.below_since = None;
            }
            return self.step();
        }
        self.below_since = None;
        let next = self.at.checked_sub(1).map(|at| u64::from(self.steps[at].floor) * UP_PERCENT / 100);
        if next.is_none_or(|needed| u64::from(bitrate) < needed.min(u64::from(u32::MAX))) {
            self.above_since = None;
        } else if now.saturating_since(*self.above_since.get_or_insert(now)) >= UP_AFTER {
            self.at -= 1;
            self.above_since = None;
        }
        self.step()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(step: Step) -> (u32, u32) {
        (step.height, step.every)
    }

    fn at(ms: u64) -> Time {
        Time::from_millis(1_000_000 + ms)
    }

    /// Holds a rate for a while, ten times a second; gives back the steps seen.
    fn hold(ladder: &mut Ladder, from: &mut u64, ms: u64, bitrate: u32) -> Vec<(u32, u32)> {
        let mut seen = Vec::new();
        for now in (*from..*from + ms).step_by(100) {
            let step = shape(ladder.update(bitrate, at(now)));
            if seen.last() != Some(&step) {
                seen.push(step);
            }
        }
        *from += ms;
        seen
    }

    #[test]
    fn pictures_first_then_size_and_up_again_with_patience() {
        let mut ladder = Ladder::new(1280, 720, 30, 2_500_000);
        assert_eq!(ladder.top_floor(), 540_000);
        let now = &mut 0;
        assert_eq!(hold(&mut ladder, now, 5000, 600_000), [(720, 1)]);
        assert_eq!(hold(&mut ladder, now, 3000, 500_000), [(720, 1), (720, 2)]);
        assert_eq!(hold(&mut ladder, now, 3000, 340_000), [(720, 2), (540, 1)]);
        assert_eq!(hold(&mut ladder, now, 3000, 60_000), [(540, 1), (270, 2)]);
        let up = hold(&mut ladder, now, 60_000, 2_000_000);
        assert_eq!(up.len(), 8, "one step at a time: {up:?}");
        assert_eq!(up.last(), Some(&(720, 1)));
    }

    #[test]
    fn a_short_doubt_changes_nothing() {
        let mut ladder = Ladder::new(1280, 720, 30, 2_500_000);
        let now = &mut 0;
        for _ in 0..20 {
            assert_eq!(hold(&mut ladder, now, 200, 100_000), [(720, 1)]);
            assert_eq!(hold(&mut ladder, now, 800, 400_000), [(720, 1)], "below, but not for long enough");
            assert_eq!(hold(&mut ladder, now, 100, 2_000_000), [(720, 1)]);
        }
    }

    #[test]
    fn a_rate_on_the_edge_does_not_swing() {
        let mut ladder = Ladder::new(1280, 720, 30, 2_500_000);
        let now = &mut 0;
        hold(&mut ladder, now, 3000, 500_000);
        // 10 % to either side of the floor of the full rate, for a minute.
        let changes: usize = (0..30)
            .map(|n| hold(&mut ladder, now, 2000, if n % 2 == 0 { 594_000 } else { 486_000 }).len() - 1)
            .sum();
        assert_eq!(changes, 0);
    }

    #[test]
    fn a_low_rate_that_was_asked_for_keeps_the_picture() {
        let mut ladder = Ladder::new(1280, 720, 30, 300_000);
        assert_eq!(hold(&mut ladder, &mut 0, 10_000, 300_000), [(720, 1)]);
    }

    #[test]
    fn small_and_slow_pictures_have_few_steps() {
        let ladder = Ladder::new(320, 180, 15, 100_000);
        assert_eq!(ladder.steps.len(), 1);
        assert_eq!(ladder.last_floor(), ladder.top_floor());
        for (width, height) in [(1918, 1078), (640, 360), (64, 4096)] {
            let even = |step: &Step| (step.width | step.height) & 1 == 0 && step.width > 0;
            assert!(Ladder::new(width, height, 60, 1_000_000).steps.iter().all(even));
        }
    }
}
