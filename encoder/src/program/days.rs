//! Random days of a show, on a virtual clock: whatever the sources do, there is one timeline. A failure prints its
//! seed, which replays it.

use gstreamer::ClockTime;

use super::pictures::Pictures;
use super::sound::{Block, RATE, Sound, time_of};

const INPUTS: usize = 3;
const FPS: u32 = 30;
/// Longest time without a picture, once the show has begun: the slate's 400 ms, and what the pictures of the next
/// input may be older than those of the last one.
const LONGEST_HOLE: ClockTime = ClockTime::from_mseconds(400 + 500 + 34);

/// A small generator (splitmix64), so that the days are the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }
}

/// An input of that day: when it runs, how late it is, and where its next picture and sound stand (ms).
struct Source {
    on: bool,
    lag: u64,
    picture: u64,
    sound: u64,
}

fn day(seed: u64) {
    let mut dice = Dice(seed);
    let streams: Vec<bool> = (0..INPUTS).map(|_| dice.roll(2) == 0).collect();
    let mut pictures = Pictures::new(FPS, &streams);
    let mut sound = Sound::new(&streams, Some(0));
    let mut sources: Vec<Source> = (0..INPUTS)
        .map(|_| Source { on: dice.roll(2) == 0, lag: dice.roll(500), picture: 0, sound: 0 })
        .collect();
    let (mut last, mut end): (Option<ClockTime>, Option<u64>) = (None, None);
    let mut shown = |at: ClockTime, now: u64| {
        if let Some(last) = last {
            assert!(at > last, "time goes forward: {last} {at}");
            assert!(at - last <= LONGEST_HOLE, "no picture from {last} to {at}");
        }
        assert!(at <= ClockTime::from_mseconds(now), "nothing comes from the future");
        last = Some(at);
    };
    let mut heard = |block: Option<Block>| {
        let Some(block) = block else { return };
        let begins = end.unwrap_or((block.at.nseconds() * RATE).div_ceil(1_000_000_000));
        assert_eq!(block.at, time_of(begins), "no hole in the sound, and nothing twice");
        end = Some(begins + block.samples.len() as u64);
    };
    let mut begun = false;
    for now in 1..60_000_u64 {
        let at = ClockTime::from_mseconds(now);
        for (index, source) in sources.iter_mut().enumerate() {
            match dice.roll(3_000) {
                0 => source.on = !source.on,
                1 => source.lag = dice.roll(500),
                2 if !source.on => {
                    pictures.lost(index);
                    sound.lost(index);
                }
                _ => {}
            }
            // What comes was captured `lag` ago; after a pause there is a hole.
            let captured = now.saturating_sub(source.lag);
            if source.on && captured >= source.picture {
                source.picture = captured + 33;
                if let Some(at) = pictures.picture(index, ClockTime::from_mseconds(captured), at).at {
                    shown(at, now);
                    begun = true;
                }
            }
            if source.on && captured >= source.sound + 10 {
                let place = captured - 10;
                source.sound = captured;
                heard(sound.sound(index, ClockTime::from_mseconds(place), &[[1_000; 2]; 480], at));
            }
        }
        if dice.roll(2_000) == 0 {
            let input = dice.roll(INPUTS as u64) as usize;
            pictures.select(input);
            sound.select(Some(input));
        }
        if pictures.due().is_some_and(|due| due <= at) {
            let ticked = pictures.tick(at);
            ticked.away.iter().for_each(|input| sound.suspect(*input));
            if let Some(slate) = ticked.slate {
                shown(slate.at, now);
                begun = true;
            }
        }
        if begun {
            sound.begin(at);
        }
        while sound.due().is_some_and(|due| due <= at) {
            heard(sound.tick(at));
        }
    }
    let end = end.map(time_of);
    assert!(
        !begun || end.is_some_and(|end| end > ClockTime::from_seconds(58)),
        "the sound stopped at {end:?}"
    );
}

#[test]
fn whatever_the_sources_do_there_is_one_timeline() {
    for seed in 0..400 {
        if let Err(panic) = std::panic::catch_unwind(|| day(seed)) {
            println!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
