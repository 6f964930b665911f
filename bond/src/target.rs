//! What the encoder may send: a pure policy from the paths' state to a bit rate of media.
//!
//! Down at once, up slowly: a rate that is too high costs frames within 400 ms, one that is too low costs
//! a little sharpness for a second.

use std::time::Duration;

use media::Time;

/// The part of the paths' rates that the encoder may use; the rest is for repairs, parity, probes, and for
/// what the paths are about to lose.
const USABLE: f64 = 0.85;

/// Media bytes in a full datagram over what it weighs on the wire.
const PAYLOAD: f64 = 0.9;

/// The loss of the best path is noticed within this, and what it held must be brought by the others within
/// that: together with their delay, that is the usual deadline of 400 ms.
const NOTICE: Duration = Duration::from_millis(130);
const RECOVER: Duration = Duration::from_millis(200);

/// But no path is so doubtful that less than this part of all is used: a creator with one good uplink wants
/// to be seen well. Where the others carry less than that part, nothing can save the show, and nothing is held
/// back for it.
const ALONE: f64 = 0.5;
const NO_HELP: f64 = 0.15;

/// In doubt, and while what has piled up drains, the encoder still gets this part of what the paths carry: the
/// picture of that time is to stay a picture. A quarter was too much for uplinks that stand still one after the
/// other: of three in LTE, four times as many frames were late.
const LEAST: f64 = 0.1;

/// In the beginning nothing is said for so long, while the paths' first trains tell what they carry, and then
/// the rate only rises, without slowness, until this. An encoder that begins with a keyframe made for the first
/// of three paths begins with a bad picture.
const LEARNING: Duration = Duration::from_millis(300);
const BEGINNING: Duration = Duration::from_millis(1_000);

/// After so long without any path the rate from before says nothing. The paths that come back still know what they
/// carried, and for as long as in the beginning the rate is what they say. Without that a show that had been dark for
/// 5 s was at 1 Mb/s of 7 after 6 s more.
const OUTAGE: Duration = Duration::from_millis(1_000);

/// What waits in the bond's queue beyond a frame time's worth is to be gone in this time.
const DRAIN: Duration = Duration::from_millis(300);
const FRAME_TIME: f64 = 0.033;

/// The rate rises when there is this much more to be had than is used, by this part each time, so often:
/// doubled in 2 s.
const RISE_FROM: f64 = 1.08;
const RISE: f64 = 1.10;
const RISE_EVERY: Duration = Duration::from_millis(250);

/// After a fall it rests this long: a path that failed once often fails again.
const REST: Duration = Duration::from_millis(600);

/// It falls when there is less than this part of it, so that noise of the estimates does not show in
/// the picture.
const FALL_FROM: f64 = 0.95;

/// What the paths carry, losses taken off, in bits per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carried {
    /// All that may carry media; 0 where there is none.
    pub all: f64,
    /// Those of which no news is overdue.
    pub carries: f64,
    /// The best of these.
    pub best: f64,
}

/// The encoder's rate, as the bond would have it.
#[derive(Debug)]
pub(crate) struct Target {
    rate: f64,
    not_before: Time,
    /// When there was a path for the first time.
    began: Option<Time>,
    /// The most that was available in the beginning.
    first: f64,
    /// Since when there is no path.
    dark: Option<Time>,
    /// Until then it is not slow, because an outage has ended.
    quick_until: Time,
}

impl Target {
    pub fn new() -> Self {
        Self {
            rate: 0.0,
            not_before: Time::ZERO,
            began: None,
            first: 0.0,
            dark: None,
            quick_until: Time::ZERO,
        }
    }

    /// Bits per second of media; 0 while there is no path, or nothing is known yet.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// `queued`: bytes that wait for a path.
    pub fn update(&mut self, Carried { all, carries, best }: Carried, queued: u64, now: Time) {
        if all <= 0.0 {
            self.rate = 0.0;
            self.dark.get_or_insert(now);
            return;
        }
        if self.dark.take().is_some_and(|dark| now >= dark + OUTAGE) {
            self.quick_until = now + BEGINNING;
        }
        // If the best path fell silent now: what it holds until that is noticed, and what comes while the
        // encoder follows, must find room on the others within the deadline.
        let others = carries - best;
        let held = best / carries.max(1.0) * NOTICE.as_secs_f64() + FRAME_TIME;
        let survivable = match others < carries * NO_HELP {
            true => f64::INFINITY,
            false => (others * RECOVER.as_secs_f64() / held).max(carries * ALONE),
        };
        let usable = (carries * USABLE).min(survivable) * PAYLOAD;
        let waiting = (queued as f64 * 8.0 - usable * FRAME_TIME).max(0.0);
        let available = (usable - waiting / DRAIN.as_secs_f64()).max(all * USABLE * PAYLOAD * LEAST);
        let began = *self.began.get_or_insert(now);
        if now < began + BEGINNING {
            self.first = self.first.max(available);
            self.rate = if now < began + LEARNING { 0.0 } else { self.first };
        } else if now < self.quick_until {
            self.rate = available;
        } else if available < self.rate * FALL_FROM {
            self.rate = available;
            self.not_before = now + REST;
        } else if self.rate == 0.0 {
            self.rate = available;
        } else if available > self.rate * RISE_FROM && now >= self.not_before {
            self.rate = (self.rate * RISE).min(available);
            self.not_before = now + RISE_EVERY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_millis(10_000 + millis)
    }

    fn of(carries: f64, best: f64) -> Carried {
        Carried { all: carries, carries, best }
    }

    #[test]
    fn doubt_is_not_the_end() {
        let mut target = begun();
        target.update(of(12e6, 5e6), 0, at(0));
        target.update(Carried { all: 12e6, carries: 0.0, best: 0.0 }, 0, at(10));
        assert!((0.5e6..1.5e6).contains(&target.rate()), "{}", target.rate());
        target.update(of(0.0, 0.0), 0, at(20));
        assert_eq!(target.rate(), 0.0);
    }

    /// After its beginning.
    fn begun() -> Target {
        let mut target = Target::new();
        target.update(of(1e6, 1e6), 0, Time::from_millis(1_000));
        target.update(of(0.0, 0.0), 0, Time::from_millis(9_900));
        target
    }

    #[test]
    fn the_end_of_an_outage_is_not_slow() {
        let mut target = begun();
        target.update(of(12e6, 5e6), 0, at(0));
        let full = target.rate();
        for (dark, quick) in [(500, false), (1_500, true)] {
            let back = 10_000 + dark;
            target.update(of(0.0, 0.0), 0, at(10_000));
            target.update(Carried { all: 3e6, carries: 0.0, best: 0.0 }, 0, at(back));
            assert!(target.rate() < 0.3e6, "{}", target.rate());
            target.update(of(12e6, 5e6), 0, at(back + 300));
            assert_eq!(target.rate() == full, quick, "{} after {dark} ms", target.rate());
        }
        target.update(of(6e6, 5e6), 0, at(12_000));
        let low = target.rate();
        assert!(low < full / 2.0, "it falls as ever");
        target.update(of(12e6, 5e6), 0, at(14_000));
        assert!(target.rate() <= low * RISE, "and is slow again, when the outage is over for long");
    }

    #[test]
    fn the_beginning_is_not_slow() {
        let mut target = Target::new();
        target.update(of(1.5e6, 1.5e6), 0, at(0));
        target.update(of(12e6, 5e6), 0, at(40));
        assert_eq!(target.rate(), 0.0, "nothing is known yet");
        target.update(of(1e6, 1e6), 0, at(310));
        assert!(target.rate() > 9e6, "{}", target.rate());
    }

    #[test]
    fn a_lone_uplink_is_used_and_a_doubtful_one_is_not_relied_on() {
        let mut target = begun();
        target.update(of(4e6, 4e6), 0, at(0));
        assert!(target.rate() > 3e6, "{}", target.rate());
        let mut target = begun();
        target.update(of(12e6, 11.5e6), 0, at(0));
        assert!(target.rate() > 9e6, "{}", target.rate());
        let mut target = begun();
        target.update(of(16e6, 12e6), 0, at(0));
        assert!((6e6..8e6).contains(&target.rate()), "{}", target.rate());
    }

    #[test]
    fn falls_at_once_and_rises_slowly() {
        let mut target = begun();
        target.update(of(12e6, 4e6), 0, at(0));
        let full = target.rate();
        assert!((8e6..10e6).contains(&full), "{full}");
        target.update(of(7e6, 4e6), 0, at(10));
        let low = target.rate();
        assert!(low < 6e6, "{low}");
        for millis in (20..600).step_by(10) {
            target.update(of(12e6, 4e6), 0, at(millis));
            assert_eq!(target.rate(), low);
        }
        let mut rises = 0;
        for millis in (600..5_000).step_by(10) {
            let before = target.rate();
            target.update(of(12e6, 4e6), 0, at(millis));
            assert!(target.rate() >= before && target.rate() <= before * 1.11);
            rises += u32::from(target.rate() > before);
        }
        assert!(target.rate() > full * 0.9 && rises < 12, "{} after {rises}", target.rate());
    }

    #[test]
    fn noise_does_not_show() {
        let mut target = begun();
        target.update(of(10e6, 4e6), 0, at(0));
        let rate = target.rate();
        for millis in 1..2_000 {
            let noise = if millis % 3 == 0 { 0.97 } else { 1.03 };
            target.update(of(10e6 * noise, 4e6), 3_000, at(millis));
            assert_eq!(target.rate(), rate);
        }
    }

    #[test]
    fn what_waits_is_worked_off() {
        let mut target = begun();
        target.update(of(10e6, 4e6), 0, at(0));
        target.update(of(10e6, 4e6), 150_000, at(10));
        assert!(target.rate() < 5e6, "{}", target.rate());
        target.update(of(0.0, 4e6), 150_000, at(20));
        assert_eq!(target.rate(), 0.0);
    }
}
