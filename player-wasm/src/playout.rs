//! When a frame is shown: at its capture time plus the playout delay, the same for pictures and sound,
//! so that they stay together.
//!
//! The delay follows how late frames come, by bursts: it goes up when lateness persists or comes back
//! within ten seconds, and down when it does not. One short burst (a page that starts, an uplink that
//! dies) is not worth ten seconds of everybody's latency: its frames are painted as they come.

use std::time::Duration;

use media::Time;

/// The least delay. Below it, timers and the sound card's own blocks alone cause gaps.
pub const MIN_DELAY: Duration = Duration::from_millis(60);

/// The most. Beyond it frames are better dropped: the show is meant to be live.
pub const MAX_DELAY: Duration = Duration::from_millis(600);

/// Before anything was measured.
pub const START_DELAY: Duration = Duration::from_millis(100);

/// What a picture needs after it was decoded: the wait for a timer, and painting.
const VIDEO_MARGIN: Duration = Duration::from_millis(10);

/// What a packet of sound needs after it came: decoding, two thread hops and the sound card's blocks.
/// 40 ms of buffer underran, 60 ms never did (measured); 20 ms of it are the packet itself, which is
/// already in its lateness.
const AUDIO_MARGIN: Duration = Duration::from_millis(45);

/// Lateness is remembered in this many buckets ...
const BUCKETS: usize = 20;

/// ... of this length: 10 s together.
const BUCKET: Duration = Duration::from_millis(500);

/// The delay falls by at least this much per second. Sound can follow unheard by playing 0.8 % faster.
const FALL_PER_SECOND: f64 = 8_000.0;

/// A large excess is worked off within about this many seconds: a show that is half a second behind
/// for no reason is worse than sound that is corrected once.
const FALL_SECONDS: f64 = 3.0;

/// The worst buckets of the window that are forgiven to pictures: a burst of up to 500 ms, wherever it lies.
const VIDEO_FORGIVEN: usize = 2;

/// The same for sound, whose gaps are heard.
const AUDIO_FORGIVEN: usize = 1;

/// A frame may be painted this much early rather than a timer's tick too late.
pub const EARLY: Duration = Duration::from_micros(1_500);

/// Whose lateness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// Pictures; lateness counts until the picture is decoded.
    Video,
    /// Sound; lateness counts until the packet came.
    Audio,
}

/// The lateness of the last ten seconds.
#[derive(Clone, Debug, Default)]
struct Lateness {
    /// The two largest values of each bucket that saw any.
    buckets: [Option<[i64; 2]>; BUCKETS],
    bucket: u64,
}

impl Lateness {
    fn observe(&mut self, lateness: i64, now: Time) {
        self.advance(now);
        let [first, second] = self.buckets[self.bucket as usize % BUCKETS].get_or_insert([0, 0]);
        if lateness > *first {
            (*second, *first) = (*first, lateness);
        } else if lateness > *second {
            *second = lateness;
        }
    }

    fn advance(&mut self, now: Time) {
        let bucket = now.as_micros() / BUCKET.as_micros() as u64;
        let steps = bucket.saturating_sub(self.bucket).min(BUCKETS as u64);
        for step in 1..=steps {
            self.buckets[(self.bucket + step) as usize % BUCKETS] = None;
        }
        if steps == BUCKETS as u64 {
            self.buckets = Default::default();
        }
        self.bucket = self.bucket.max(bucket);
    }

    /// What all buckets but the forgiven ones need. In each, the second largest value counts: one single
    /// late frame is no burst. `None` while too little was seen.
    fn needed(&self, forgiven: usize) -> Option<i64> {
        let mut values: Vec<i64> = self.buckets.iter().flatten().map(|[_, second]| *second).collect();
        values.sort_unstable_by_key(|value| std::cmp::Reverse(*value));
        values.get(forgiven).copied()
    }
}

/// Chooses the playout delay. Times are on the broadcast clock.
#[derive(Debug)]
pub struct Playout {
    delay: f64,
    video: Lateness,
    audio: Lateness,
    updated: Option<Time>,
}

impl Default for Playout {
    fn default() -> Self {
        Self {
            delay: START_DELAY.as_micros() as f64,
            video: Lateness::default(),
            audio: Lateness::default(),
            updated: None,
        }
    }
}

impl Playout {
    /// A frame was ready `lateness_us` after its capture. Only frames that came live count, not those
    /// that were in the relay's cache when we joined.
    pub fn observe(&mut self, media: Media, lateness_us: i64, now: Time) {
        let lateness = lateness_us.max(0);
        match media {
            Media::Video => self.video.observe(lateness, now),
            Media::Audio => self.audio.observe(lateness, now),
        }
        self.update(now);
    }

    /// Sound stopped (or is muted): it needs no delay any more.
    pub fn forget_audio(&mut self) {
        self.audio = Lateness::default();
    }

    /// Moves the delay towards what is needed.
    pub fn update(&mut self, now: Time) {
        let elapsed = self.updated.map_or(Duration::ZERO, |last| now.saturating_since(last));
        self.updated = Some(now);
        self.video.advance(now);
        self.audio.advance(now);
        let video =
            self.video.needed(VIDEO_FORGIVEN).map(|late| late as f64 + VIDEO_MARGIN.as_micros() as f64);
        let audio =
            self.audio.needed(AUDIO_FORGIVEN).map(|late| late as f64 + AUDIO_MARGIN.as_micros() as f64);
        let needed = video.into_iter().chain(audio);
        let target = needed
            .reduce(f64::max)
            // Nothing is known (any more): no worse than at the start.
            .unwrap_or_else(|| self.delay.min(START_DELAY.as_micros() as f64))
            .clamp(MIN_DELAY.as_micros() as f64, MAX_DELAY.as_micros() as f64);
        if target >= self.delay {
            self.delay = target;
        } else {
            let excess = self.delay - target;
            let rate = FALL_PER_SECOND.max(excess / FALL_SECONDS);
            self.delay -= (rate * elapsed.as_secs_f64()).min(excess);
        }
    }

    /// The delay now.
    pub fn delay(&self) -> Duration {
        Duration::from_micros(self.delay as u64)
    }

    /// When a frame is to be shown.
    pub fn due(&self, capture: Time) -> Time {
        capture + self.delay()
    }
}

/// What to do with the decoded pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Drop this many from the front: a newer picture is due.
    pub superseded: usize,
    /// Then paint the front one.
    pub paint: bool,
    /// Look again at this time.
    pub wake: Option<Time>,
}

/// Looks at the capture times of decoded pictures, oldest first: the newest one that is due is
/// painted, those before it are dropped.
pub fn choose(captures: impl Iterator<Item = Time>, delay: Duration, now: Time) -> Choice {
    let mut due = 0;
    let mut wake = None;
    for capture in captures {
        if capture + delay > now + EARLY {
            wake = Some(capture + delay);
            break;
        }
        due += 1;
    }
    Choice { superseded: due.max(1) - 1, paint: due > 0, wake }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Duration = Duration::from_millis(33);

    /// A minute of video whose lateness is given per frame; the delay after each frame.
    fn run(playout: &mut Playout, from: Time, frames: usize, lateness: impl Fn(usize) -> i64) -> Vec<u64> {
        (0..frames)
            .map(|n| {
                let now = from + FRAME * n as u32;
                playout.observe(Media::Video, lateness(n), now);
                playout.delay().as_micros() as u64
            })
            .collect()
    }

    const START: Time = Time::from_micros(1_795_000_000_000_000);

    #[test]
    fn a_calm_network_brings_it_down_to_the_floor() {
        let mut playout = Playout::default();
        let delays = run(&mut playout, START, 900, |n| 12_000 + (n % 7) as i64 * 1_000);
        assert_eq!(delays[0], 100_000);
        assert!(delays.windows(2).all(|pair| pair[1] <= pair[0]), "it only falls");
        assert_eq!(delays[899], 60_000);
    }

    #[test]
    fn a_burst_changes_nothing_unless_it_comes_back() {
        let burst = |n: usize, times: usize| {
            if (30..30 + 45 * times).contains(&n) && (n - 30) % 45 < 4 { 180_000 } else { 15_000 }
        };
        let later = START + FRAME * 600;
        let mut playout = Playout::default();
        run(&mut playout, START, 600, |_| 15_000);
        let delays = run(&mut playout, later, 300, |n| burst(n, 1));
        assert!(delays.iter().all(|&delay| delay <= 61_000));

        let mut playout = Playout::default();
        run(&mut playout, START, 600, |_| 15_000);
        let delays = run(&mut playout, later, 900, |n| burst(n, 3));
        assert_eq!(delays[121], 190_000, "up with the third burst");
        assert_eq!(delays[200], 190_000, "held for about ten seconds");
        let falling = delays[122..].windows(2).map(|pair| pair[0] - pair[1]);
        assert!(falling.max() < Some(2_000), "gently down");
        assert_eq!(delays[899], 60_000);
    }

    #[test]
    fn a_page_that_starts_slowly_does_not_keep_its_first_delay() {
        let mut playout = Playout::default();
        let delays =
            run(&mut playout, START, 300, |n| if n < 25 { 600_000 - n as i64 * 23_000 } else { 20_000 });
        assert!(delays.iter().all(|&delay| delay <= 100_000), "{:?}", delays.iter().max());
    }

    #[test]
    fn one_late_frame_changes_nothing() {
        let mut playout = Playout::default();
        run(&mut playout, START, 600, |_| 15_000);
        let later = START + FRAME * 600;
        let delays = run(&mut playout, later, 300, |n| if n == 9 { 400_000 } else { 15_000 });
        assert!(delays.iter().all(|&delay| delay <= 61_000));
    }

    #[test]
    fn the_ceiling_holds_through_an_outage() {
        let mut playout = Playout::default();
        let delays =
            run(&mut playout, START, 200, |n| if n < 100 { 3_000_000 - n as i64 * 30_000 } else { 0 });
        assert_eq!(delays.iter().max(), Some(&600_000));
    }

    #[test]
    fn sound_needs_more_room_than_pictures_while_it_plays() {
        let mut playout = Playout::default();
        for n in 0..3_000u32 {
            let now = START + Duration::from_millis(20) * n;
            playout.observe(Media::Audio, 30_000, now);
            playout.observe(Media::Video, 20_000, now);
        }
        assert_eq!(playout.delay().as_millis(), 75);
        playout.forget_audio();
        playout.update(START + Duration::from_secs(65));
        assert_eq!(playout.delay().as_millis(), 60);
    }

    #[test]
    fn a_long_silence_forgets_old_lateness() {
        let mut playout = Playout::default();
        run(&mut playout, START, 100, |_| 300_000);
        assert_eq!(playout.delay().as_millis(), 310);
        run(&mut playout, START + Duration::from_secs(600), 3, |_| 10_000);
        assert_eq!(playout.delay(), START_DELAY);
    }

    #[test]
    fn the_newest_due_picture_is_painted() {
        let at = |ms: u64| Time::from_millis(ms);
        let delay = Duration::from_millis(100);
        let queue = [at(0), at(33), at(66)];
        let choose_at = |now| choose(queue.into_iter(), delay, now);
        assert_eq!(choose_at(at(90)), Choice { superseded: 0, paint: false, wake: Some(at(100)) });
        assert_eq!(choose_at(at(99)), Choice { superseded: 0, paint: true, wake: Some(at(133)) });
        assert_eq!(choose_at(at(140)), Choice { superseded: 1, paint: true, wake: Some(at(166)) });
        assert_eq!(choose_at(at(900)), Choice { superseded: 2, paint: true, wake: None });
        assert_eq!(
            choose(std::iter::empty(), delay, at(0)),
            Choice { superseded: 0, paint: false, wake: None }
        );
    }
}
