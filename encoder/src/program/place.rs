//! From a source's time stamps to the show's timeline: one machine for the pictures and the sound of
//! a source, so that both move together. Pure; times are running times.

use gstreamer::ClockTime;

/// Whose clock the time stamps of a source follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stamps {
    /// This machine's: they say when a picture was taken.
    Ours,
    /// The sender's, or a sound card's, from wherever that counts: only the distances between them mean
    /// something.
    Theirs,
}

/// Where something belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Captured then.
    At(ClockTime),
    /// Not known yet: the sender's clock is still being learned.
    Learning,
    /// The sender's clock jumped. Whoever sent this has begun anew, so the source should be opened anew.
    Jumped,
}

/// A sender's clock is known when the shortest way seen so far stayed the shortest for so long: what
/// waited in buffers while the stream was opened comes in a burst, and each piece was less late.
const LEARNED_AFTER: ClockTime = ClockTime::from_mseconds(200);
/// Or after so long, whatever happens.
const LEARN_LIMIT: ClockTime = ClockTime::from_seconds(2);
/// A shorter way by less than this is jitter.
const JITTER: i64 = 5_000_000;
/// A stamp that is so much too early or too late is no drift, and no network.
const JUMP: i64 = 500_000_000;
/// Nothing is captured further in the future than this: then the clock is learned anew at once.
const FUTURE: i64 = 100_000_000;
/// The shortest way is the shortest of one to two windows. It has to outlast a hiccup of the network.
const WINDOW: ClockTime = ClockTime::from_seconds(2);
/// How fast the timeline follows a clock that drifts: 2 ms a second, twenty times of what a bad
/// quartz needs, and little enough for the sound to follow unheard.
const SLEW_PER_MILLE: i64 = 2;

/// Learns how a sender's clock stands to ours: what came the shortest way was captured when it came.
#[derive(Debug)]
pub(crate) struct Placing {
    stamps: Stamps,
    clock: Option<Clock>,
}

#[derive(Debug)]
struct Clock {
    /// Added to a stamp (ns).
    offset: i64,
    first: ClockTime,
    /// When the offset last became smaller, while learning.
    changed: ClockTime,
    learned: bool,
    /// When the offset was last moved.
    moved: ClockTime,
    window: Window,
}

/// The least of what was seen in the last one to two windows.
#[derive(Debug)]
struct Window {
    begun: ClockTime,
    now: i64,
    before: i64,
}

impl Placing {
    pub(crate) fn new(stamps: Stamps) -> Self {
        Placing { stamps, clock: None }
    }

    /// Where something stamped `pts`, which comes `now`, belongs.
    pub(crate) fn place(&mut self, pts: ClockTime, now: ClockTime) -> Place {
        if self.stamps == Stamps::Ours {
            return Place::At(pts);
        }
        let delay = nanos(now) - nanos(pts);
        let clock = self.clock.get_or_insert(Clock {
            offset: delay,
            first: now,
            changed: now,
            learned: false,
            moved: now,
            window: Window { begun: now, now: delay, before: delay },
        });
        match clock.see(delay, now) {
            true => {
                let at = nanos(pts).saturating_add(clock.offset).max(0);
                if clock.learned { Place::At(ClockTime::from_nseconds(at as u64)) } else { Place::Learning }
            }
            false => Place::Jumped,
        }
    }
}

impl Clock {
    /// Learns from one stamp. `false`: the clock jumped.
    fn see(&mut self, delay: i64, now: ClockTime) -> bool {
        let least = self.window.see(delay, now);
        if !self.learned {
            if delay < self.offset - JITTER {
                self.changed = now;
            }
            self.offset = self.offset.min(delay);
            let since = |time: ClockTime| now.saturating_sub(time);
            self.learned = since(self.changed) >= LEARNED_AFTER || since(self.first) >= LEARN_LIMIT;
            self.moved = now;
            return true;
        }
        let error = least - self.offset;
        if delay - self.offset < -JUMP {
            return false;
        }
        let allowed = nanos(now.saturating_sub(self.moved)) * SLEW_PER_MILLE / 1000;
        self.moved = self.moved.max(now);
        self.offset +=
            if !(-FUTURE..=JUMP).contains(&error) { error } else { error.clamp(-allowed, allowed) };
        true
    }
}

impl Window {
    fn see(&mut self, delay: i64, now: ClockTime) -> i64 {
        if now.saturating_sub(self.begun) >= WINDOW {
            (self.before, self.now, self.begun) = (self.now, delay, now);
        }
        self.now = self.now.min(delay);
        self.now.min(self.before)
    }
}

fn nanos(time: ClockTime) -> i64 {
    i64::try_from(time.nseconds()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sender that began to count at 1000 s when our clock stood at 10 s.
    const BEGUN: u64 = 10_000_000;

    /// `None`: it is still being learned. Microseconds since our 10 s.
    fn place(placing: &mut Placing, sent: u64, comes: u64) -> Option<i64> {
        let pts = ClockTime::from_useconds(1_000_000_000 + sent);
        match placing.place(pts, ClockTime::from_useconds(BEGUN + comes)) {
            Place::At(at) => Some(at.useconds() as i64 - BEGUN as i64),
            Place::Learning => None,
            Place::Jumped => panic!("it jumped at {sent}"),
        }
    }

    /// A clock that was learned from a second of pictures and sound with this way (us).
    fn learned(way: u64) -> Placing {
        let mut placing = Placing::new(Stamps::Theirs);
        for n in 0..50 {
            place(&mut placing, n * 20_000, n * 20_000 + way);
        }
        placing
    }

    #[test]
    fn our_own_stamps_are_believed() {
        let at = ClockTime::from_seconds(7);
        assert_eq!(Placing::new(Stamps::Ours).place(at, ClockTime::from_seconds(9)), Place::At(at));
    }

    #[test]
    fn what_waited_in_buffers_does_not_count_as_the_way() {
        let mut placing = Placing::new(Stamps::Theirs);
        // 600 ms waited, and come within 100 ms; then each comes after 30 ms.
        let waited = (0..30).map(|n| (n * 20_000, 630_000 + n * 3_000));
        let live = (33..200).map(|n| (n * 20_000, n * 20_000 + 30_000));
        let places: Vec<_> =
            waited.chain(live).map(|(sent, comes)| (place(&mut placing, sent, comes), comes)).collect();
        assert_eq!(places.iter().filter(|(at, _)| at.is_none()).count(), 40);
        for (at, comes) in places.iter().filter_map(|(at, comes)| Some((at.as_ref()?, *comes as i64))) {
            assert!((comes - at).abs() < 1_000, "{at} {comes}");
        }
    }

    #[test]
    fn what_comes_later_than_usual_keeps_its_place() {
        let mut placing = learned(30_000);
        assert_eq!(place(&mut placing, 1_000_000, 1_400_000), Some(1_030_000));
        assert_eq!(place(&mut placing, 1_020_000, 1_401_000), Some(1_050_000));
    }

    #[test]
    fn a_drifting_clock_is_followed_within_a_millisecond() {
        for ppm in [-200_i64, 200] {
            let mut placing = learned(30_000);
            for n in 50..30_000_u64 {
                let comes = (n as i64 * 20_000 * (1_000_000 + ppm) / 1_000_000) as u64 + 30_000;
                let at = place(&mut placing, n * 20_000, comes).expect("learned");
                assert!((at - comes as i64).abs() < 1_000, "{n}: {at} {comes}");
            }
        }
    }

    #[test]
    fn a_longer_way_is_learned_slowly_and_never_backwards() {
        let mut placing = learned(30_000);
        let mut last = 0;
        for n in 50..5_000_u64 {
            let at = place(&mut placing, n * 20_000, n * 20_000 + 130_000).expect("learned");
            assert!(at > last, "{at} {last}");
            last = at;
        }
        assert!((4_999 * 20_000 + 130_000 - last).abs() < 1_000, "{last}");
    }

    #[test]
    fn a_sender_that_begins_anew_is_noticed() {
        let mut placing = learned(30_000);
        let jumped =
            placing.place(ClockTime::from_seconds(5_000), ClockTime::from_useconds(BEGUN + 1_030_000));
        assert_eq!(jumped, Place::Jumped);
    }

    #[test]
    fn a_sender_that_counts_from_zero_again_is_placed_anew() {
        let mut placing = learned(30_000);
        let mut last = None;
        // For the windows to pass, everything looks very late; then it is placed where it comes.
        for n in 0..300_u64 {
            let now = ClockTime::from_useconds(BEGUN + 1_030_000 + n * 20_000);
            last = Some((placing.place(ClockTime::from_useconds(n * 20_000), now), now));
        }
        let (place, now) = last.expect("placed");
        assert_eq!(place, Place::At(now));
    }
}
