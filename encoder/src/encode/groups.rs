//! Where groups of pictures begin: decided once, on the raw frames, so that all renditions have their
//! keyframes at the same pictures and a player can change between them at any group.
//!
//! The first group of a show is the Unix second of its start times [`GROUPS_PER_SECOND`]. As no track
//! makes more groups than that, an encoder that is started again continues above the numbers that it has
//! used before.

use std::time::Duration;

use media::Time;

/// Room for group numbers per second of a show.
pub(crate) const GROUPS_PER_SECOND: u64 = 4;

/// Least time between two keyframes. One costs about ten times a delta frame, so a crowd that joins at
/// once must not turn the stream into keyframes; and group numbers have room for [`GROUPS_PER_SECOND`].
pub(crate) const MIN_INTERVAL: Duration = Duration::from_millis(1000 / GROUPS_PER_SECOND);

/// After the bit rate fell, an encoder has spent what its buffer holds, and a keyframe would be made of what is
/// left: with x264 a picture of blocks (of a test picture at 0.9 Mb/s after 2.5, 16 frames in six keyframes
/// could not be read). So much later it is as good as any.
const HOLD: Duration = Duration::from_millis(400);
/// A rate that goes on falling must not keep viewers from a keyframe for longer than this.
const MOST_HOLD: Duration = Duration::from_millis(1000);

/// The first group number of a show that starts at `start`.
pub(crate) fn first_group(start: Time) -> u64 {
    start.as_micros() / 1_000_000 * GROUPS_PER_SECOND
}

/// Gives each raw frame its group. Pure: fed with capture times.
#[derive(Debug)]
pub(crate) struct Groups {
    gop: Duration,
    /// A frame that comes this much early still begins the next group: cameras jitter.
    tolerance: Duration,
    first: u64,
    /// The group under way, and when it began.
    current: Option<(u64, Time)>,
    wanted: bool,
    /// No group begins before.
    held: Option<Hold>,
    last: Option<Time>,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    since: Time,
    until: Time,
}

/// A raw frame's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) group: u64,
    /// It is the first of its group: the encoders are to make a keyframe of it.
    pub(crate) begins: bool,
}

impl Groups {
    /// Groups of so much time, of frames `frame` apart, in a show that starts at `start`.
    pub(crate) fn new(gop: Duration, frame: Duration, start: Time) -> Self {
        Groups {
            gop,
            tolerance: frame / 2,
            first: first_group(start),
            current: None,
            wanted: false,
            held: None,
            last: None,
        }
    }

    /// The bit rate fell by much.
    pub(crate) fn hold(&mut self) {
        let Some(last) = self.last else { return };
        let since = self.held.filter(|hold| last < hold.until).map_or(last, |hold| hold.since);
        self.held = Some(Hold { since, until: (last + HOLD).min(since + MOST_HOLD) });
    }

    /// Somebody needs a keyframe. Requests are coalesced: one keyframe serves all that asked before it.
    pub(crate) fn request(&mut self) {
        self.wanted = true;
    }

    /// A group begins with the frame captured at `at`, whatever its age: what was before it came from
    /// somewhere else.
    pub(crate) fn begin(&mut self, at: Time) -> Place {
        let group = self.current.map_or(self.first, |(group, _)| group + 1);
        (self.current, self.last) = (Some((group, at)), Some(at));
        self.wanted = false;
        Place { group, begins: true }
    }

    /// The place of a frame that somebody else encoded, who decides where groups begin.
    pub(crate) fn follow(&mut self, at: Time, keyframe: bool) -> Place {
        match self.current {
            Some((group, _)) if !keyframe => Place { group, begins: false },
            _ => self.begin(at),
        }
    }

    /// The place of the frame captured at `at`.
    pub(crate) fn frame(&mut self, at: Time) -> Place {
        self.last = Some(at);
        let held = self.held.is_some_and(|hold| at < hold.until);
        let (group, begins) = match self.current {
            None => (self.first, true),
            Some((group, since)) => {
                let age = at.saturating_since(since) + self.tolerance;
                let begins = !held && (age >= self.gop || (self.wanted && age >= MIN_INTERVAL));
                (group + u64::from(begins), begins)
            }
        };
        if begins {
            self.current = Some((group, at));
            self.wanted = false;
        }
        Place { group, begins }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_micros(1_795_000_000_900_000);
    const FIRST: u64 = 1_795_000_000 * 4;
    const FRAME: Duration = Duration::from_micros(33_333);

    fn groups() -> Groups {
        Groups::new(Duration::from_secs(1), FRAME, START)
    }

    /// The numbers of the frames that begin a group, of `count` frames with a jitter of up to 8 ms.
    fn beginnings(groups: &mut Groups, count: u32) -> Vec<(u32, u64)> {
        let at = |n: u32| START + FRAME * n + Duration::from_millis(u64::from(n * 7 % 9));
        let places = (0..count).map(|n| (n, groups.frame(at(n))));
        places.filter(|(_, place)| place.begins).map(|(n, place)| (n, place.group)).collect()
    }

    #[test]
    fn a_group_is_a_gop_long_whatever_the_camera_jitters() {
        let found = beginnings(&mut groups(), 95);
        assert_eq!(found, [(0, FIRST), (30, FIRST + 1), (60, FIRST + 2), (90, FIRST + 3)]);
    }

    #[test]
    fn a_crowd_gets_one_keyframe_at_the_next_frame() {
        let mut groups = groups();
        beginnings(&mut groups, 15);
        (0..200).for_each(|_| groups.request());
        let next = groups.frame(START + FRAME * 15);
        assert_eq!(next, Place { group: FIRST + 1, begins: true });
        assert!(!groups.frame(START + FRAME * 16).begins);
    }

    #[test]
    fn a_request_too_early_is_served_later() {
        let mut groups = groups();
        groups.frame(START);
        groups.request();
        let first = (1..30).find(|n| groups.frame(START + FRAME * *n).begins);
        assert_eq!(first, Some(8), "250 ms after the last one");
    }

    #[test]
    fn groups_of_somebody_else_count_on() {
        let mut groups = groups();
        let place = |group, begins| Place { group, begins };
        assert_eq!(groups.frame(START), place(FIRST, true));
        groups.request();
        assert_eq!(groups.follow(START + FRAME, false), place(FIRST, false));
        assert_eq!(groups.follow(START + FRAME * 2, true), place(FIRST + 1, true));
        assert_eq!(groups.begin(START + FRAME * 3), place(FIRST + 2, true));
        assert_eq!(groups.frame(START + FRAME * 20), place(FIRST + 2, false), "the request was served");
    }

    #[test]
    fn a_slow_camera_still_gets_groups() {
        let mut groups = groups();
        let at = |n: u32| START + Duration::from_millis(400) * n;
        let begin: Vec<_> = (0..7).filter(|n| groups.frame(at(*n)).begins).collect();
        assert_eq!(begin, [0, 3, 6]);
    }

    #[test]
    fn a_fall_of_the_rate_holds_groups_back_but_not_for_long() {
        let mut groups = groups();
        beginnings(&mut groups, 20);
        groups.hold();
        groups.request();
        let first = (20..60).find(|n| groups.frame(START + FRAME * *n).begins);
        assert_eq!(first, Some(32), "400 ms after the fall");
        // It falls with every picture.
        groups.request();
        let first = (33..120).find(|n| {
            groups.hold();
            groups.frame(START + FRAME * *n).begins
        });
        assert_eq!(first, Some(63), "a second after the first fall");
    }

    #[test]
    fn a_clock_that_stands_still_is_no_panic() {
        let mut groups = groups();
        groups.frame(START);
        groups.request();
        assert!(!groups.frame(Time::ZERO).begins);
    }
}
