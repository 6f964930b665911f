//! The sound of a show: one timeline, counted in samples, without a hole and without a click. Pure;
//! times are running times.
//!
//! Sound of the chosen source is appended as it comes. Where its time stamps say that it belongs a
//! little earlier or later than the samples counted so far (its clock drifts), single samples are
//! left out or put in, unheard. Where they say that it belongs elsewhere, silence fills the hole, or
//! what comes too late is left out. Where nothing comes, silence does.

use gstreamer::ClockTime;

use super::pictures::AWAY_AFTER;
use super::splice::{smooth_joint, stretch};

/// Samples per second.
pub(crate) const RATE: u64 = 48_000;
/// Sound that belongs further than this from the end of the timeline is placed anew, 40 ms: less is
/// a clock that drifts, more is a hole.
const REPLACE_AT: i64 = 1_920;
/// How far the sound may stand from its place before samples are left out or put in: 1 ms.
const TOLERANCE: f32 = 48.0;
/// At most one sample in so many is left out or put in: 0.5 %, a twelfth of a semitone.
const STRETCH: usize = 200;
/// The distance from the place is averaged over so many blocks: stamps of sound cards tremble.
const AVERAGE: f32 = 32.0;
/// A piece of silence, 20 ms.
const SILENCE: u64 = 960;
/// Pieces of silence filled in at once at most: a second. A machine that slept does more in several goes.
const MAX_FILL: u64 = RATE;
/// A source of this machine that gives no sound for so long gives silence.
const PATIENCE: ClockTime = AWAY_AFTER;
/// A stream gets longer: senders pack half a second of quiet sound into one piece.
const STREAM_PATIENCE: ClockTime = ClockTime::from_seconds(1);
/// Sound may be so old when it comes, and silence that takes its place keeps to that age.
const MAX_LAG: ClockTime = ClockTime::from_mseconds(500);

/// Sound for the encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Captured then.
    pub(crate) at: ClockTime,
    /// 16 bits, left and right in turn.
    pub(crate) samples: Vec<[i16; 2]>,
}

/// The sound of a show.
#[derive(Debug)]
pub(crate) struct Sound {
    sources: Vec<Heard>,
    /// Whose sound is on air; `None`: nobody's, there is silence.
    chosen: Option<usize>,
    /// Samples from running time zero to the end of what was made.
    position: Option<u64>,
    /// The last sample made.
    tail: [i16; 2],
    /// What comes next does not continue what was last.
    joint: bool,
    /// Silence is made because nothing comes.
    silent: bool,
    /// How many samples later than its place the sound stands, on average.
    error: f32,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    arrived: Option<ClockTime>,
    /// How old the end of its sound is when it comes.
    lag: ClockTime,
    away: bool,
    stream: bool,
    /// Its pictures stopped; its sound is not waited for much longer.
    suspect: bool,
}

impl Heard {
    fn patience(&self) -> ClockTime {
        if self.stream && !self.suspect { STREAM_PATIENCE } else { PATIENCE }
    }
}

impl Sound {
    /// A show with these sources of sound, of which `chosen` is on air. `streams` says of each
    /// whether it comes from the network.
    pub(crate) fn new(streams: &[bool], chosen: Option<usize>) -> Self {
        let heard = |stream: &bool| Heard {
            arrived: None,
            lag: ClockTime::ZERO,
            away: false,
            stream: *stream,
            suspect: false,
        };
        Sound {
            sources: streams.iter().map(heard).collect(),
            chosen,
            position: None,
            tail: [0; 2],
            joint: true,
            silent: false,
            error: 0.0,
        }
    }

    /// The show has begun: from now on there is sound or silence.
    pub(crate) fn begin(&mut self, now: ClockTime) {
        self.position.get_or_insert_with(|| samples_to(now));
    }

    /// Puts the sound of another source on air.
    pub(crate) fn select(&mut self, source: Option<usize>) {
        if self.chosen != source {
            (self.chosen, self.joint) = (source, true);
        }
    }

    /// The pictures of a source have stopped.
    pub(crate) fn suspect(&mut self, source: usize) {
        if let Some(heard) = self.sources.get_mut(source) {
            heard.suspect = true;
        }
    }

    /// A source is known to give nothing more for now.
    pub(crate) fn lost(&mut self, source: usize) {
        if let Some(heard) = self.sources.get_mut(source) {
            heard.away = true;
        }
    }

    /// Sound of a source came, its first sample captured at `at`. What goes on air of it.
    pub(crate) fn sound(
        &mut self,
        source: usize,
        at: ClockTime,
        samples: &[[i16; 2]],
        now: ClockTime,
    ) -> Option<Block> {
        let heard = self.sources.get_mut(source)?;
        let place = samples_to(at);
        let end = time_of(place + samples.len() as u64);
        (heard.away, heard.suspect) = (false, false);
        (heard.arrived, heard.lag) = (Some(now), now.saturating_sub(end).min(MAX_LAG));
        if self.chosen != Some(source) || samples.is_empty() {
            return None;
        }
        self.silent = false;
        let position = *self.position.get_or_insert(place);
        let distance = place as i64 - position as i64;
        if self.joint || distance.abs() > REPLACE_AT {
            self.join(position, distance, samples)
        } else {
            self.error += (distance as f32 - self.error) / AVERAGE;
            let most = (samples.len() / STRETCH).max(1) as f32;
            let shift = if self.error.abs() > TOLERANCE { self.error.clamp(-most, most) as i64 } else { 0 };
            self.error -= shift as f32;
            self.make(position, stretch(samples, shift))
        }
    }

    /// Sound that does not continue what was last, `distance` samples after its end.
    fn join(&mut self, position: u64, distance: i64, samples: &[[i16; 2]]) -> Option<Block> {
        let late = usize::try_from(-distance).unwrap_or(0);
        // What should have been heard already is left out; if that is all, the joint is still to come.
        let fresh = samples.get(late..).filter(|fresh| !fresh.is_empty());
        let Some(fresh) = fresh else {
            self.joint = true;
            return None;
        };
        let hole = u64::try_from(distance).unwrap_or(0);
        let filled = hole.min(MAX_FILL);
        let mut block = vec![[0; 2]; filled as usize];
        smooth_joint(self.tail, &mut block);
        let tail = block.last().copied().unwrap_or(self.tail);
        let start = block.len();
        block.extend_from_slice(fresh);
        smooth_joint(tail, block.get_mut(start..).unwrap_or_default());
        (self.joint, self.error) = (false, 0.0);
        self.make(position + hole - filled, block)
    }

    /// Makes silence up to where the sound would be by now, if none comes.
    pub(crate) fn tick(&mut self, now: ClockTime) -> Option<Block> {
        let position = self.position?;
        if self.due()? > now {
            return None;
        }
        let missing = samples_to(now.saturating_sub(self.lag())).saturating_sub(position);
        let whole = (missing / SILENCE * SILENCE).min(MAX_FILL);
        let mut block = vec![[0; 2]; whole as usize];
        smooth_joint(self.tail, &mut block);
        (self.joint, self.silent) = (true, true);
        if block.is_empty() { None } else { self.make(position, block) }
    }

    /// When [`Self::tick`] has something to do next. `None`: not before something else happens.
    pub(crate) fn due(&self) -> Option<ClockTime> {
        let position = self.position?;
        let end = time_of(position + SILENCE) + self.lag();
        Some(match self.heard().filter(|heard| !heard.away && !self.silent) {
            // Nobody sends yet.
            Some(Heard { stream: true, arrived: None, .. }) => end,
            Some(heard) => end.max(heard.arrived.unwrap_or(time_of(position)) + heard.patience()),
            None => end,
        })
    }

    fn heard(&self) -> Option<&Heard> {
        self.sources.get(self.chosen?)
    }

    fn lag(&self) -> ClockTime {
        self.heard().map_or(ClockTime::ZERO, |heard| heard.lag)
    }

    fn make(&mut self, position: u64, samples: Vec<[i16; 2]>) -> Option<Block> {
        self.tail = samples.last().copied().unwrap_or(self.tail);
        self.position = Some(position + samples.len() as u64);
        Some(Block { at: time_of(position), samples })
    }
}

/// Samples from running time zero to `time`, to the nearest.
fn samples_to(time: ClockTime) -> u64 {
    let nanos = u128::from(time.nseconds());
    ((nanos * u128::from(RATE) + 500_000_000) / 1_000_000_000) as u64
}

/// When the sample of this number is due.
pub(crate) fn time_of(sample: u64) -> ClockTime {
    ClockTime::from_nseconds((u128::from(sample) * 1_000_000_000 / u128::from(RATE)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 480;

    fn ms(ms: u64) -> ClockTime {
        ClockTime::from_mseconds(ms)
    }

    /// What a listener gets: every sample, checked for holes.
    #[derive(Default)]
    struct Ear {
        begun: Option<u64>,
        heard: Vec<i16>,
    }

    impl Ear {
        fn hear(&mut self, block: Option<Block>) {
            let Some(block) = block else { return };
            let at = samples_to(block.at);
            let next = *self.begun.get_or_insert(at) + self.heard.len() as u64;
            assert_eq!(at, next, "no hole and nothing twice");
            self.heard.extend(block.samples.iter().map(|sample| sample[0]));
        }

        fn largest_step(&self) -> i32 {
            self.heard.windows(2).map(|p| (i32::from(p[1]) - i32::from(p[0])).abs()).max().unwrap_or(0)
        }

        fn end(&self) -> ClockTime {
            time_of(self.begun.unwrap_or(0) + self.heard.len() as u64)
        }
    }

    fn tick(sound: &mut Sound, ear: &mut Ear, from: u64, to: u64) {
        for at in from..to {
            while sound.due().is_some_and(|due| due <= ms(at)) {
                ear.hear(sound.tick(ms(at)));
            }
        }
    }

    /// Blocks of 10 ms of a constant, as a source with `lag` ms gives them.
    fn play(sound: &mut Sound, ear: &mut Ear, source: usize, value: i16, from: u64, to: u64, lag: u64) {
        for at in (from..to).step_by(10) {
            ear.hear(sound.sound(source, ms(at), &[[value; 2]; BLOCK], ms(at + 10 + lag)));
        }
    }

    #[test]
    fn sound_that_fits_passes_as_it_is() {
        let (mut sound, mut ear) = (Sound::new(&[false], Some(0)), Ear::default());
        play(&mut sound, &mut ear, 0, 0, 1000, 1010, 5);
        let samples: Vec<_> = (0..BLOCK as i16).map(|n| [n, -n]).collect();
        let block = sound.sound(0, ms(1010), &samples, ms(1025)).expect("sound");
        assert_eq!(block, Block { at: ms(1010), samples });
    }

    #[test]
    fn silence_comes_where_sound_stops_and_goes_when_it_is_back() {
        let (mut sound, mut ear) = (Sound::new(&[false], Some(0)), Ear::default());
        play(&mut sound, &mut ear, 0, 10_000, 1000, 2000, 30);
        tick(&mut sound, &mut ear, 2030, 2425);
        assert_eq!(ear.end(), ms(2000), "it may only be late");
        tick(&mut sound, &mut ear, 2425, 5000);
        assert!(ear.end() > ms(4940) && ear.end() <= ms(4970), "{}", ear.end());
        play(&mut sound, &mut ear, 0, 10_000, 4985, 6000, 30);
        assert_eq!(ear.end(), ms(6005));
        assert!(ear.largest_step() < 100, "no click: {}", ear.largest_step());
        let silent = ear.heard.iter().filter(|sample| **sample == 0).count();
        assert!((140_000..144_000).contains(&silent), "{silent}");
    }

    #[test]
    fn a_stream_that_packs_half_a_second_at_once_is_not_silent_in_between() {
        let (mut sound, mut ear) = (Sound::new(&[true], Some(0)), Ear::default());
        for piece in (1000..5000).step_by(500) {
            tick(&mut sound, &mut ear, piece, piece + 500);
            for at in (piece..piece + 500).step_by(10) {
                ear.hear(sound.sound(0, ms(at), &[[10_000; 2]; BLOCK], ms(piece + 500)));
            }
        }
        assert!(ear.heard.iter().skip(BLOCK).all(|sample| *sample == 10_000));
        // It has nothing in between, and its pictures stopped: silence comes as soon as for others.
        sound.suspect(0);
        tick(&mut sound, &mut ear, 5000, 5500);
        assert!(ear.end() > ms(5400), "{}", ear.end());
    }

    #[test]
    fn a_lost_source_is_not_waited_for() {
        let (mut sound, mut ear) = (Sound::new(&[false], Some(0)), Ear::default());
        play(&mut sound, &mut ear, 0, 10_000, 1000, 2000, 0);
        sound.lost(0);
        tick(&mut sound, &mut ear, 2000, 2100);
        assert!(ear.end() >= ms(2060), "{}", ear.end());
    }

    #[test]
    fn a_show_without_sound_is_silent_from_the_beginning() {
        for chosen in [None, Some(0)] {
            let (mut sound, mut ear) = (Sound::new(&[false], chosen), Ear::default());
            tick(&mut sound, &mut ear, 0, 1000);
            assert_eq!(ear.begun, None, "the show has not begun");
            sound.begin(ms(1000));
            tick(&mut sound, &mut ear, 1000, 3000);
            assert!(ear.end() >= ms(2970), "{}", ear.end());
        }
    }

    #[test]
    fn a_stream_that_nobody_sends_yet_is_silent_at_once() {
        let (mut sound, mut ear) = (Sound::new(&[true], Some(0)), Ear::default());
        sound.begin(ms(1000));
        tick(&mut sound, &mut ear, 1000, 1100);
        assert!(ear.end() >= ms(1060), "{}", ear.end());
        play(&mut sound, &mut ear, 0, 10_000, 1100, 1200, 20);
        assert_eq!(ear.end(), ms(1200));
    }

    #[test]
    fn a_hole_in_the_sound_becomes_silence_and_what_comes_twice_is_left_out() {
        let (mut sound, mut ear) = (Sound::new(&[false], Some(0)), Ear::default());
        play(&mut sound, &mut ear, 0, 10_000, 1000, 2000, 0);
        play(&mut sound, &mut ear, 0, 10_000, 2200, 3000, 0);
        play(&mut sound, &mut ear, 0, 10_000, 2900, 4000, 0);
        assert_eq!(ear.end(), ms(4000));
        assert!(ear.largest_step() < 100, "{}", ear.largest_step());
    }

    #[test]
    fn a_cut_neither_clicks_nor_breaks_the_timeline() {
        let (mut sound, mut ear) = (Sound::new(&[false; 2], Some(0)), Ear::default());
        for at in (1000..2000).step_by(10) {
            if at == 1500 {
                sound.select(Some(1));
            }
            play(&mut sound, &mut ear, 0, 20_000, at, at + 10, 0);
            play(&mut sound, &mut ear, 1, -20_000, at, at + 10, 15);
        }
        assert_eq!(ear.end(), ms(2000));
        assert_eq!((ear.heard[23_999], ear.heard[47_999]), (20_000, -20_000));
        assert!(ear.largest_step() < 200, "{}", ear.largest_step());
    }

    #[test]
    fn a_clock_that_drifts_is_followed_by_single_samples() {
        for ppm in [-300_i64, 300] {
            let (mut sound, mut ear) = (Sound::new(&[false], Some(0)), Ear::default());
            for n in 0..12_000_u64 {
                // The stamps tremble by up to 2 ms beside.
                let tremble = n * 7_919 % 4_000;
                let at = 1_000_000 + (n as i64 * 10_000 * (1_000_000 + ppm) / 1_000_000) as u64 + tremble;
                let at = ClockTime::from_useconds(at);
                ear.hear(sound.sound(0, at, &[[100; 2]; BLOCK], at + ms(10)));
                let wrong = ear.end().nseconds() as i64 - (at + ms(10)).nseconds() as i64;
                assert!(wrong.abs() < 6_000_000, "{n}: {wrong}");
            }
            // Two minutes at 300 ppm are 36 ms, less than would be placed anew at once.
            let samples = 12_000 * BLOCK as i64;
            let expected = samples + samples * ppm / 1_000_000;
            assert!((ear.heard.len() as i64 - expected).abs() < 200, "{} {expected}", ear.heard.len());
            assert!(ear.heard.iter().skip(BLOCK).all(|sample| *sample == 100), "and no silence");
        }
    }

    #[test]
    fn sound_that_is_late_all_the_time_is_heard_all_the_same() {
        let (mut sound, mut ear) = (Sound::new(&[false], Some(0)), Ear::default());
        sound.begin(ms(1000));
        tick(&mut sound, &mut ear, 1000, 2000);
        // 300 ms older than the silence was: it is heard once it has caught up.
        for at in (1700..4000).step_by(10) {
            play(&mut sound, &mut ear, 0, 10_000, at, at + 10, 300);
            tick(&mut sound, &mut ear, at + 310, at + 320);
        }
        assert_eq!(ear.end(), ms(4000));
        let heard = ear.heard.iter().filter(|sample| **sample == 10_000).count();
        assert!(heard > 48 * 1_990, "{heard}");
    }
}
