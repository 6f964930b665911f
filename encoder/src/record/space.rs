//! How long the space on a disk lasts: a forecast from the rate of the last minute.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What the forecast is made from.
const WINDOW: Duration = Duration::from_secs(60);

/// With less than this there is no forecast yet: the first seconds of a show say nothing.
const SHORTEST: Duration = Duration::from_secs(5);

/// Looks kept: one per sync over the window, and no more if somebody looks more often.
const MAX_LOOKS: usize = 160;

/// Kept free, so that a copy ends with its tables written and the system goes on to work.
const RESERVE: u64 = 200_000_000;

/// On a small disk less is kept free: a twentieth of it.
const RESERVE_SHARE: u64 = 20;

/// The creator is told when this much is left, and again when it becomes urgent.
const SOON: Duration = Duration::from_secs(30 * 60);
const URGENT: Duration = Duration::from_secs(5 * 60);

/// A disk as the system describes it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What may still be written.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

impl Space {
    /// What is kept free at the end.
    pub fn reserve(self) -> u64 {
        RESERVE.min(self.total / RESERVE_SHARE)
    }
}

/// How urgent it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// More than half an hour, or not known yet.
    #[default]
    Enough,
    Soon,
    Urgent,
    /// Down to the reserve: the copy stops.
    Full,
}

/// What is known now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    pub space: Space,
    pub left: Option<Duration>,
    pub level: Level,
}

/// Follows one disk.
#[derive(Default)]
pub struct Forecast {
    looks: VecDeque<Look>,
    level: Level,
}

struct Look {
    at: Instant,
    written: u64,
    free: u64,
}

impl Forecast {
    /// `written`: bytes that the copy has written since its start.
    pub fn look(&mut self, at: Instant, written: u64, space: Space) -> Outlook {
        let old = |look: &Look| at.saturating_duration_since(look.at) > WINDOW;
        while self.looks.front().is_some_and(old) || self.looks.len() >= MAX_LOOKS {
            self.looks.pop_front();
        }
        let left = self.looks.front().and_then(|first| {
            let span = at.saturating_duration_since(first.at);
            // Others write to this disk too, the second copy perhaps.
            let used = written.saturating_sub(first.written).max(first.free.saturating_sub(space.free));
            let seconds =
                space.free.saturating_sub(space.reserve()) as f64 * span.as_secs_f64() / used as f64;
            (span >= SHORTEST && used > 0)
                .then(|| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
        });
        self.looks.push_back(Look { at, written, free: space.free });
        self.level = self.level_of(space, left);
        Outlook { space, left, level: self.level }
    }

    /// Where it gets better, only well above the limit: it must not be told twice a second.
    fn level_of(&self, space: Space, left: Option<Duration>) -> Level {
        let was = self.level;
        let full = if was == Level::Full { space.reserve().saturating_mul(2) } else { space.reserve() };
        let limit = |level: Level, limit: Duration| if was >= level { limit + limit / 5 } else { limit };
        match left {
            _ if space.free <= full => Level::Full,
            Some(left) if left < limit(Level::Urgent, URGENT) => Level::Urgent,
            Some(left) if left < limit(Level::Soon, SOON) => Level::Soon,
            _ => Level::Enough,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;
    /// 2.6 Mb/s.
    const RATE: u64 = 325_000;

    struct World {
        forecast: Forecast,
        at: Instant,
        written: u64,
        free: u64,
    }

    impl World {
        fn new(free: u64) -> Self {
            Self { forecast: Forecast::default(), at: Instant::now(), written: 0, free }
        }

        fn after(&mut self, seconds: u64, rate: u64) -> Outlook {
            self.at += Duration::from_secs(seconds);
            self.written += rate * seconds;
            self.free -= rate * seconds;
            self.forecast.look(self.at, self.written, Space { free: self.free, total: 64 * GB })
        }
    }

    #[test]
    fn the_time_left_follows_the_last_minute() {
        let mut world = World::new(4 * GB);
        assert_eq!(world.after(0, 0).left, None);
        assert_eq!(world.after(1, RATE).left, None, "a second says nothing");
        let left = (0..60).map(|_| world.after(1, RATE)).last().unwrap().left.unwrap().as_secs();
        let right = (4 * GB - 61 * RATE - RESERVE) / RATE;
        assert!(left.abs_diff(right) <= 1, "{left} {right}");
        let left = (0..70).map(|_| world.after(1, 2 * RATE)).last().unwrap().left.unwrap().as_secs();
        let right = (world.free - RESERVE) / (2 * RATE);
        assert!(left.abs_diff(right) <= 1, "{left} {right}: the minute before is forgotten");
    }

    #[test]
    fn what_others_write_counts() {
        let mut world = World::new(4 * GB);
        world.after(0, 0);
        let outlook = (0..20).map(|_| {
            world.free -= 9 * RATE;
            world.after(1, RATE)
        });
        let left = outlook.last().unwrap().left.unwrap().as_secs();
        assert!(left.abs_diff((world.free - RESERVE) / (10 * RATE)) <= 1, "{left}");
    }

    #[test]
    fn each_level_is_reached_once_on_the_way_down() {
        let mut world = World::new(RESERVE + 40 * 60 * RATE);
        let mut levels: Vec<_> = (0..41 * 60).map(|_| world.after(1, RATE).level).collect();
        assert_eq!(levels.iter().filter(|level| **level == Level::Soon).count(), 25 * 60);
        levels.dedup();
        assert_eq!(levels, [Level::Enough, Level::Soon, Level::Urgent, Level::Full]);
        // A little space is no reason to begin again; twice the reserve is.
        world.free = RESERVE + GB / 20;
        assert_eq!(world.after(1, 0).level, Level::Full);
        world.free = 3 * RESERVE;
        assert_ne!(world.after(1, 0).level, Level::Full);
    }

    #[test]
    fn a_small_disk_is_not_full_from_the_start() {
        let space = Space { free: 60_000_000, total: 64_000_000 };
        assert_eq!(Forecast::default().look(Instant::now(), 0, space).level, Level::Enough);
    }
}
