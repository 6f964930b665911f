//! What a listener gets, on a virtual clock.

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
