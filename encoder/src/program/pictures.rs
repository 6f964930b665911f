//! Which picture goes on air, and when: cuts between inputs, and the slate while one is away. Pure;
//! times are running times.

use gstreamer::ClockTime;

/// An input that has given no picture for so long is away, and the slate begins: 100 ms before
/// viewers should see it at the latest.
pub(crate) const AWAY_AFTER: ClockTime = ClockTime::from_mseconds(400);
/// At low frame rates it takes a few missing pictures to tell an input that is away from a slow one.
const AWAY_AFTER_PICTURES: u64 = 3;
/// A picture may be so old when it comes, and the slate that takes its place keeps to that age.
const MAX_LAG: ClockTime = ClockTime::from_mseconds(500);

/// What becomes of a picture that came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// It goes on air, with this time.
    pub(crate) at: Option<ClockTime>,
    /// It is the first of another input: a keyframe makes the cut clean.
    pub(crate) cut: bool,
    /// The input was away until now.
    pub(crate) back: bool,
}

/// What has to happen by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ticked {
    /// Inputs that are away since now.
    pub(crate) away: Vec<usize>,
    /// The slate of this input goes on air, with this time.
    pub(crate) slate: Option<Slate>,
}

/// A picture of the slate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slate {
    /// The input whose place it takes.
    pub(crate) input: usize,
    /// Captured then.
    pub(crate) at: ClockTime,
    /// It is the first after a picture.
    pub(crate) first: bool,
    /// It is the first of another input.
    pub(crate) cut: bool,
}

/// The pictures of a show.
#[derive(Debug)]
pub(crate) struct Pictures {
    period: ClockTime,
    away_after: ClockTime,
    inputs: Vec<Seen>,
    /// What the owner wants on air.
    chosen: usize,
    /// What is: it follows with the next picture.
    on_air: usize,
    /// The last picture that went on air was the first of another input.
    cut: bool,
    last: Option<ClockTime>,
    /// When the next picture of the slate is due, while there is one.
    slate: Option<ClockTime>,
    /// The last picture that went on air was the slate.
    on_slate: bool,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    arrived: Option<ClockTime>,
    /// How old its pictures are when they come.
    lag: ClockTime,
    away: bool,
}

impl Pictures {
    /// A show with `fps` whose first input is on air. `away` says of each input whether it counts as
    /// away until its first picture comes, so that the slate begins at once.
    pub(crate) fn new(fps: u32, away: &[bool]) -> Self {
        let period = ClockTime::SECOND / u64::from(fps.max(1));
        let seen = |away: &bool| Seen { arrived: None, lag: ClockTime::ZERO, away: *away };
        Pictures {
            period,
            away_after: AWAY_AFTER.max(period * AWAY_AFTER_PICTURES),
            inputs: away.iter().map(seen).collect(),
            chosen: 0,
            on_air: 0,
            cut: false,
            last: None,
            slate: None,
            on_slate: false,
        }
    }

    /// The input that is on air.
    pub(crate) fn on_air(&self) -> usize {
        self.on_air
    }

    /// Puts another input on air with its next picture, or its slate if it is away.
    pub(crate) fn select(&mut self, input: usize) {
        if input < self.inputs.len() {
            self.chosen = input;
            self.slate = None;
        }
    }

    /// A picture of an input came, captured at `pts`.
    pub(crate) fn picture(&mut self, input: usize, pts: ClockTime, now: ClockTime) -> Passed {
        let Some(seen) = self.inputs.get_mut(input) else { return Passed::default() };
        let back = std::mem::replace(&mut seen.away, false);
        seen.arrived = Some(now);
        seen.lag = now.saturating_sub(pts).min(MAX_LAG);
        if input == self.chosen {
            self.cut |= self.on_air != input;
            self.on_air = input;
            self.slate = None;
        }
        let waits = self.on_air != self.chosen && self.inputs.get(self.chosen).is_some_and(|c| !c.away);
        let wanted = input == self.chosen || (input == self.on_air && waits);
        if !wanted || self.last.is_some_and(|last| pts <= last) {
            return Passed { back, ..Passed::default() };
        }
        self.last = Some(pts);
        self.on_slate = false;
        Passed { at: Some(pts), cut: std::mem::take(&mut self.cut), back }
    }

    /// An input is known to give nothing more for now. Whether this is news.
    pub(crate) fn lost(&mut self, input: usize) -> bool {
        self.inputs.get_mut(input).is_some_and(|seen| !std::mem::replace(&mut seen.away, true))
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: ClockTime) -> Ticked {
        let mut ticked = Ticked::default();
        for (index, seen) in self.inputs.iter_mut().enumerate() {
            if !seen.away && seen.arrived.is_some_and(|arrived| now >= arrived + self.away_after) {
                seen.away = true;
                ticked.away.push(index);
            }
        }
        let Some(input) = self.slated() else { return ticked };
        let lag = self.inputs.get(input).map_or(ClockTime::ZERO, |seen| seen.lag);
        if self.slate.is_some_and(|due| now < due) {
            return ticked;
        }
        let at = now.saturating_sub(lag);
        if self.last.is_some_and(|last| at < last + self.period / 2) {
            self.slate = Some(now + self.period / 2);
            return ticked;
        }
        let first = !self.on_slate || self.on_air != input;
        let cut = self.on_air != input || std::mem::take(&mut self.cut);
        ticked.slate = Some(Slate { input, at, first, cut });
        (self.on_air, self.on_slate) = (input, true);
        self.last = Some(at);
        // A machine that was too busy skips pictures instead of sending them in a burst.
        self.slate =
            Some(self.slate.map_or(now, |due| due.max(now.saturating_sub(self.period))) + self.period);
        ticked
    }

    /// The input whose slate goes on air: the chosen one, or the one before while the chosen one has not come yet.
    fn slated(&self) -> Option<usize> {
        let away = |input: &usize| self.inputs.get(*input).is_some_and(|seen| seen.away);
        [self.chosen, self.on_air].into_iter().find(away)
    }

    /// When [`Self::tick`] has something to do next. `None`: not before something else happens.
    pub(crate) fn due(&self) -> Option<ClockTime> {
        let present = self.inputs.iter().filter(|seen| !seen.away);
        let silent = present.filter_map(|seen| Some(seen.arrived? + self.away_after)).min();
        let slate = self.slated().map(|_| self.slate.unwrap_or(ClockTime::ZERO));
        silent.into_iter().chain(slate).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> ClockTime {
        ClockTime::from_mseconds(ms)
    }

    /// Runs the clock from one time to another, and collects the slate's pictures.
    fn slates(pictures: &mut Pictures, from: u64, to: u64) -> Vec<Slate> {
        let mut slates = Vec::new();
        for at in from..to {
            if pictures.due().is_some_and(|due| due <= ms(at)) {
                slates.extend(pictures.tick(ms(at)).slate);
            }
        }
        slates
    }

    #[test]
    fn pictures_pass_at_once_with_their_own_time() {
        let mut pictures = Pictures::new(30, &[false]);
        for n in 1..100 {
            let passed = pictures.picture(0, ms(n * 33), ms(n * 33 + 5));
            assert_eq!(passed, Passed { at: Some(ms(n * 33)), cut: false, back: false });
            assert_eq!(pictures.tick(ms(n * 33 + 5)), Ticked::default());
        }
    }

    #[test]
    fn the_slate_begins_within_half_a_second_and_ends_with_the_next_picture() {
        let mut pictures = Pictures::new(30, &[false]);
        pictures.picture(0, ms(1000), ms(1020));
        assert_eq!(pictures.due(), Some(ms(1420)));
        let slates = slates(&mut pictures, 1020, 3020);
        assert_eq!(slates[0], Slate { input: 0, at: ms(1400), first: true, cut: false });
        // At the rate of the show, and of the same age as the pictures, so that the next one fits.
        assert_eq!(slates.len(), 48);
        for pair in slates.windows(2) {
            let step = pair[1].at - pair[0].at;
            assert!(!pair[1].first && (ms(33)..=ms(34)).contains(&step), "{pair:?}");
        }
        let passed = pictures.picture(0, ms(3010), ms(3030));
        assert_eq!(passed, Passed { at: Some(ms(3010)), cut: false, back: true });
        assert_eq!(pictures.tick(ms(3031)), Ticked::default());
    }

    #[test]
    fn an_input_known_to_be_lost_is_not_waited_for() {
        let mut pictures = Pictures::new(30, &[false]);
        pictures.picture(0, ms(1000), ms(1000));
        assert!(pictures.lost(0));
        assert!(!pictures.lost(0), "once is enough");
        let slates = slates(&mut pictures, 1001, 1200);
        assert!(slates[0].at < ms(1040), "{slates:?}");
        assert!(slates.windows(2).all(|pair| pair[0].at < pair[1].at));
    }

    #[test]
    fn a_local_input_is_waited_for_at_the_start_and_a_stream_has_a_slate() {
        let mut local = Pictures::new(30, &[false]);
        assert_eq!((local.due(), local.tick(ms(9000))), (None, Ticked::default()));
        let mut stream = Pictures::new(30, &[true]);
        assert_eq!(slates(&mut stream, 100, 1100).len(), 30);
        assert!(stream.picture(0, ms(1090), ms(1100)).back);
    }

    #[test]
    fn time_never_goes_back_and_a_late_picture_ends_the_slate_all_the_same() {
        let mut pictures = Pictures::new(30, &[true]);
        slates(&mut pictures, 0, 1000);
        // 100 ms older than the slate was.
        assert_eq!(pictures.picture(0, ms(900), ms(1000)).at, None);
        assert_eq!(slates(&mut pictures, 1000, 1030).len(), 0);
        let passed: Vec<_> =
            (1..10).filter_map(|n| pictures.picture(0, ms(900 + n * 33), ms(1000 + n * 33)).at).collect();
        assert_eq!((passed[0], passed.len()), (ms(999), 7));
    }

    #[test]
    fn a_cut_is_at_the_next_picture_and_the_old_one_goes_on_until_then() {
        let mut pictures = Pictures::new(30, &[false, false]);
        pictures.picture(0, ms(0), ms(0));
        assert_eq!(pictures.picture(1, ms(10), ms(10)).at, None, "warm, but not on air");
        pictures.picture(0, ms(33), ms(33));
        pictures.select(1);
        assert!(pictures.picture(0, ms(66), ms(66)).at.is_some());
        assert_eq!(pictures.on_air(), 0);
        assert_eq!(pictures.picture(1, ms(76), ms(76)), Passed { at: Some(ms(76)), cut: true, back: false });
        assert_eq!(pictures.on_air(), 1);
        assert_eq!(pictures.picture(0, ms(99), ms(99)).at, None);
        assert!(!pictures.picture(1, ms(109), ms(109)).cut);
    }

    #[test]
    fn a_cut_to_an_input_that_lags_keeps_its_keyframe() {
        let mut pictures = Pictures::new(30, &[false, false]);
        pictures.picture(0, ms(100), ms(100));
        pictures.picture(1, ms(20), ms(100));
        pictures.select(1);
        assert_eq!(pictures.picture(1, ms(53), ms(133)).at, None);
        assert_eq!(
            pictures.picture(1, ms(103), ms(183)),
            Passed { at: Some(ms(103)), cut: true, back: false }
        );
    }

    #[test]
    fn a_cut_to_an_input_that_is_away_shows_its_slate() {
        let mut pictures = Pictures::new(30, &[false, true]);
        pictures.picture(0, ms(100), ms(100));
        pictures.select(1);
        assert_eq!(pictures.picture(0, ms(133), ms(133)).at, None);
        let ticked = pictures.tick(ms(150));
        assert_eq!(ticked.slate, Some(Slate { input: 1, at: ms(150), first: true, cut: true }));
        // And back again.
        pictures.select(0);
        assert_eq!(
            pictures.picture(0, ms(166), ms(166)),
            Passed { at: Some(ms(166)), cut: true, back: false }
        );
    }

    #[test]
    fn a_cut_to_an_input_that_is_still_being_opened_freezes_nothing() {
        let mut pictures = Pictures::new(30, &[false, false]);
        pictures.picture(0, ms(100), ms(100));
        pictures.select(1);
        pictures.lost(0);
        let slates = slates(&mut pictures, 100, 1000);
        assert!(
            slates.len() >= 25 && slates.iter().all(|slate| slate.input == 0 && !slate.cut),
            "{slates:?}"
        );
        assert!(pictures.picture(1, ms(1000), ms(1000)).cut);
    }

    #[test]
    fn an_input_that_is_not_on_air_is_missed_too() {
        let mut pictures = Pictures::new(30, &[false, false]);
        pictures.picture(0, ms(900), ms(900));
        pictures.picture(1, ms(500), ms(500));
        let ticked = pictures.tick(ms(901));
        assert_eq!(ticked, Ticked { away: vec![1], slate: None });
        assert!(pictures.picture(1, ms(950), ms(950)).back);
    }

    #[test]
    fn one_picture_a_second_is_not_away_all_the_time() {
        let mut pictures = Pictures::new(1, &[false]);
        pictures.picture(0, ms(1000), ms(1000));
        assert_eq!(slates(&mut pictures, 1000, 3900), []);
        assert_eq!(slates(&mut pictures, 3900, 4500).len(), 1);
    }
}
