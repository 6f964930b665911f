//! Who makes the picture: the sender of a stream, or our encoder. Pure: facts and capture times in, a choice
//! out.

use std::time::Duration;

use media::Time;

use super::{Facts, Unfit};

/// Two groups take at least twice this, because numbers have room for four a second (`encode/groups.rs`). One
/// alone may be shorter: with groups of the same length as the sender's, ours could begin shortly before each of
/// the sender's for ever.
const SHORTEST_GROUP: Duration = Duration::from_millis(250);
/// A sender cannot be asked for a keyframe. Whoever waits for one gets it from our encoder after this: with
/// groups of a second the sender's own comes first, and with longer ones nobody waits for four seconds.
const REQUEST_PATIENCE: Duration = Duration::from_secs(1);
/// The stream may have more than the uplinks carry for so long: what is too much for a moment waits in the bond.
const TIGHT_PATIENCE: Duration = Duration::from_millis(500);
/// With less than so many percent of what it needs there is no patience.
const HOPELESS_PERCENT: u64 = 70;
/// After it was too much, or somebody had to wait, it has to fit for so long: each change costs a keyframe.
const REST: Duration = Duration::from_secs(4);
/// The room that a stream needs to be passed through, in percent of its rate: rates are never even.
const ROOM_PERCENT: u64 = 125;
/// How far a stream may be above the settings' bit rate, in percent, to begin and to stay.
const BEGIN_PERCENT: u64 = 110;
const STAY_PERCENT: u64 = 150;

/// What there is room for, in bits per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// What the settings allow.
    pub(crate) nominal: u32,
    /// What the bond carries beside the sound, if it is known.
    pub(crate) bond: Option<u32>,
}

/// Who makes the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    Ours,
    Theirs,
}

/// Why a stream that is on air is not passed through, where that is not for a moment only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Reason {
    #[error("{0}")]
    Unfit(Unfit),
    #[error("it has more bits a second than the show may have; raise --bitrate, or lower it at the sender")]
    AboveSettings,
    #[error("the uplinks carry less than it has")]
    AboveUplinks,
    #[error(
        "the show has a smaller rendition or a master, whose groups have to begin with those of the main picture"
    )]
    Companions,
}

/// What becomes of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Our encoder makes it.
    Encode {
        /// It has to begin a group, for what was before it was not ours.
        begin: bool,
        /// Why the stream is not passed through, if it might be.
        why: Option<Reason>,
    },
    /// The units that came with it go out, but for so many first ones.
    Pass {
        /// To be left out.
        skip: usize,
    },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Switch {
    maker: Maker,
    /// Opening and number of the last unit that went out.
    last: Option<(u64, u64)>,
    /// When the last two groups began, the latest first.
    began: [Option<Time>; 2],
    requested: Option<Time>,
    tight: Option<Time>,
    /// It has to fit from then on for [`REST`].
    rest: Option<Time>,
}

impl Switch {
    pub(crate) fn new() -> Self {
        Switch { maker: Maker::Ours, last: None, began: [None; 2], requested: None, tight: None, rest: None }
    }

    pub(crate) fn maker(&self) -> Maker {
        self.maker
    }

    /// Somebody needs a keyframe.
    pub(crate) fn request(&mut self, at: Time) {
        self.requested.get_or_insert(at);
    }

    /// A group of ours or theirs began.
    pub(crate) fn began(&mut self, at: Time) {
        self.began = [Some(at), self.began[0]];
        self.requested = None;
    }

    /// A picture goes on air, captured at `at`: of a stream with these units (its opening; of each its time and
    /// facts), or of something else.
    pub(crate) fn picture(&mut self, at: Time, offer: Option<(u64, &[(Time, Facts)])>, room: Room) -> Choice {
        let Some((opening, units)) = offer else { return self.ours(None) };
        let verdict = units.last().map(|(_, facts)| facts.fit);
        let why = match verdict {
            Some(Ok(rate)) => self.weigh(at, rate, room),
            Some(Err(Unfit::Unknown)) | None => None,
            Some(Err(unfit)) => Some(Reason::Unfit(unfit)),
        };
        match self.maker {
            Maker::Theirs => {
                let whole = self.joins(opening, units) && !matches!(verdict, Some(Err(_)));
                let waited = self
                    .requested
                    .is_some_and(|requested| at.saturating_since(requested) >= REQUEST_PATIENCE);
                let answered = units.iter().any(|(_, facts)| facts.idr);
                if !whole || why.is_some() {
                    return self.ours(why);
                }
                if waited && !answered {
                    self.rest = Some(at);
                    return self.ours(None);
                }
                self.pass(opening, units, 0)
            }
            Maker::Ours => {
                let rested = self.rest.is_none_or(|rest| at.saturating_since(rest) >= REST);
                match self.entry(units) {
                    Some(skip) if why.is_none() && rested => self.pass(opening, units, skip),
                    _ => Choice::Encode { begin: false, why },
                }
            }
        }
    }

    fn ours(&mut self, why: Option<Reason>) -> Choice {
        let begin = std::mem::replace(&mut self.maker, Maker::Ours) == Maker::Theirs;
        (self.last, self.tight) = (None, None);
        Choice::Encode { begin, why }
    }

    fn pass(&mut self, opening: u64, units: &[(Time, Facts)], skip: usize) -> Choice {
        (self.maker, self.rest) = (Maker::Theirs, None);
        if let Some((_, last)) = units.last() {
            self.last = Some((opening, last.number));
        }
        Choice::Pass { skip }
    }

    /// Whether the units follow those that went out, without a hole.
    fn joins(&self, opening: u64, units: &[(Time, Facts)]) -> bool {
        let Some((passing, mut last)) = self.last else { return false };
        passing == opening
            && units.iter().all(|(_, facts)| {
                let follows = facts.joined && facts.number == last + 1;
                last = facts.number;
                follows
            })
    }

    /// Where a group begins from which on all can go out.
    fn entry(&self, units: &[(Time, Facts)]) -> Option<usize> {
        let begins = |(at, facts): &(Time, Facts)| {
            let [last, before] =
                self.began.map(|began| began.map_or(Duration::MAX, |began| at.saturating_since(began)));
            let early = last < SHORTEST_GROUP && before < SHORTEST_GROUP * 2;
            facts.idr && facts.fit.is_ok() && !early
        };
        let skip = units.iter().position(begins)?;
        let rest = units.get(skip + 1..).unwrap_or_default();
        rest.iter().all(|(_, facts)| facts.joined && facts.fit.is_ok()).then_some(skip)
    }

    /// Whether there is no room for a stream of this rate.
    fn weigh(&mut self, at: Time, rate: u32, room: Room) -> Option<Reason> {
        let rate = u64::from(rate);
        let above = |percent: u64| rate * 100 > u64::from(room.nominal) * percent;
        let carries = |percent: u64| room.bond.is_none_or(|bond| u64::from(bond) * 100 >= rate * percent);
        if self.maker == Maker::Ours {
            let why = match () {
                () if above(BEGIN_PERCENT) => Reason::AboveSettings,
                () if !carries(ROOM_PERCENT) => Reason::AboveUplinks,
                () => return None,
            };
            // The rest begins anew with each moment without room; before it was ever tight there is none.
            self.rest = self.rest.map(|_| at);
            return Some(why);
        }
        let why = match () {
            () if above(STAY_PERCENT) => Reason::AboveSettings,
            () if !carries(100) => Reason::AboveUplinks,
            () => {
                self.tight = None;
                return None;
            }
        };
        let since = *self.tight.get_or_insert(at);
        if at.saturating_since(since) < TIGHT_PATIENCE && carries(HOPELESS_PERCENT) {
            return None;
        }
        self.rest = Some(at);
        Some(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u32 = 2_000_000;
    const AMPLE: Room = Room { nominal: 2_500_000, bond: None };
    const GOP: u64 = 30;

    fn at(n: u64) -> Time {
        Time::from_micros(1_795_000_000_000_000 + n * 33_333)
    }

    fn facts(n: u64) -> Facts {
        Facts { number: n + 1, idr: n.is_multiple_of(GOP), joined: true, fit: Ok(RATE) }
    }

    /// Shows pictures of a stream with an IDR every [`GOP`], as the driver does; what was chosen for each.
    fn show(
        switch: &mut Switch,
        pictures: std::ops::Range<u64>,
        room: Room,
        change: impl Fn(&mut Facts),
    ) -> Vec<Choice> {
        let show = |n: u64| {
            let mut facts = facts(n);
            change(&mut facts);
            let choice = switch.picture(at(n), Some((1, &[(at(n), facts)])), room);
            let begins = match choice {
                Choice::Pass { .. } => facts.idr,
                Choice::Encode { begin, .. } => begin,
            };
            if begins {
                switch.began(at(n));
            }
            choice
        };
        pictures.map(show).collect()
    }

    fn as_it_is(_: &mut Facts) {}

    /// A switch that passes through from picture 0 on.
    fn passing() -> Switch {
        let mut switch = Switch::new();
        let choices = show(&mut switch, 0..45, AMPLE, as_it_is);
        assert!(choices.iter().all(|choice| *choice == Choice::Pass { skip: 0 }), "{choices:?}");
        switch
    }

    /// The first picture that is passed through.
    fn first_passed(from: u64, choices: &[Choice]) -> Option<u64> {
        let passed = choices.iter().position(|choice| matches!(choice, Choice::Pass { .. }))?;
        Some(from + passed as u64)
    }

    const BEGIN: Choice = Choice::Encode { begin: true, why: None };
    const GO_ON: Choice = Choice::Encode { begin: false, why: None };

    #[test]
    fn it_begins_with_a_keyframe_of_the_sender() {
        let mut switch = Switch::new();
        let choices = show(&mut switch, 5..40, AMPLE, as_it_is);
        assert_eq!(first_passed(5, &choices), Some(30));
    }

    #[test]
    fn groups_of_the_same_length_do_not_keep_it_out() {
        let mut switch = Switch::new();
        switch.began(at(0));
        switch.began(at(29));
        assert_eq!(first_passed(30, &show(&mut switch, 30..65, AMPLE, as_it_is)), Some(30));
    }

    #[test]
    fn there_are_never_more_groups_than_numbers() {
        let mut switch = Switch::new();
        switch.began(at(20));
        switch.began(at(27));
        assert_eq!(first_passed(30, &show(&mut switch, 30..65, AMPLE, as_it_is)), Some(60));
    }

    #[test]
    fn units_before_the_keyframe_are_left_out() {
        let units = [(at(29), facts(29)), (at(30), facts(30)), (at(31), facts(31))];
        assert_eq!(Switch::new().picture(at(31), Some((1, &units)), AMPLE), Choice::Pass { skip: 1 });
    }

    #[test]
    fn a_slate_or_a_cut_is_ours_at_once_and_begins_a_group() {
        let mut switch = passing();
        assert_eq!(switch.picture(at(45), None, AMPLE), BEGIN);
        assert_eq!(switch.picture(at(46), None, AMPLE), GO_ON);
        assert_eq!(first_passed(47, &show(&mut switch, 47..70, AMPLE, as_it_is)), Some(60), "and back");
    }

    #[test]
    fn another_opening_is_another_stream() {
        let mut switch = passing();
        assert_eq!(switch.picture(at(45), Some((2, &[(at(45), facts(45))])), AMPLE), BEGIN);
    }

    #[test]
    fn a_hole_is_ours_until_the_next_group() {
        let mut switch = passing();
        let choices = show(&mut switch, 46..70, AMPLE, as_it_is);
        assert_eq!((choices[0], choices[1]), (BEGIN, GO_ON), "45 is missing");
        assert_eq!(first_passed(46, &choices), Some(60));
        let choices = show(&mut switch, 70..100, AMPLE, |facts| facts.joined = facts.number != 72);
        assert_eq!(choices[1], BEGIN, "the parser missed something");
        assert_eq!(first_passed(72, &choices[2..]), Some(90));
    }

    #[test]
    fn a_picture_whose_unit_has_gone_out_already_changes_nothing() {
        let mut switch = passing();
        assert_eq!(switch.picture(at(45), Some((1, &[])), AMPLE), Choice::Pass { skip: 0 });
        assert!(matches!(show(&mut switch, 45..46, AMPLE, as_it_is)[0], Choice::Pass { .. }));
    }

    #[test]
    fn a_stream_that_does_not_fit_any_more_is_ours_and_says_why() {
        let mut switch = passing();
        let choices = show(&mut switch, 45..70, AMPLE, |facts| facts.fit = Err(Unfit::Reordered));
        let why = Some(Reason::Unfit(Unfit::Reordered));
        assert_eq!(choices[0], Choice::Encode { begin: true, why });
        assert!(choices[1..].iter().all(|choice| *choice == Choice::Encode { begin: false, why }));
    }

    #[test]
    fn a_keyframe_that_the_sender_does_not_make_comes_from_us_after_a_second() {
        let mut switch = passing();
        switch.request(at(45));
        let rare = |facts: &mut Facts| facts.idr = facts.number > 300 && facts.idr;
        let choices = show(&mut switch, 45..400, AMPLE, rare);
        let ours = choices.iter().position(|choice| *choice == BEGIN).map(|n| n + 45);
        assert_eq!(ours, Some(76), "31 pictures of 33 ms");
        // Rested at picture 196, and the next keyframe is at 300.
        assert_eq!(first_passed(77, &choices[32..]), Some(300));
    }

    #[test]
    fn a_keyframe_that_the_sender_makes_in_time_serves() {
        let mut switch = passing();
        switch.request(at(45));
        let choices = show(&mut switch, 45..120, AMPLE, as_it_is);
        assert!(choices.iter().all(|choice| *choice == Choice::Pass { skip: 0 }));
    }

    #[test]
    fn too_little_room_for_half_a_second_is_ours_and_room_for_four_theirs() {
        let mut switch = passing();
        let tight = Room { bond: Some(1_900_000), ..AMPLE };
        let choices = show(&mut switch, 45..50, tight, as_it_is);
        assert!(choices.iter().all(|choice| *choice == Choice::Pass { skip: 0 }), "a moment is nothing");
        show(&mut switch, 50..60, AMPLE, as_it_is);
        let choices = show(&mut switch, 60..90, tight, as_it_is);
        let why = Some(Reason::AboveUplinks);
        let ours = choices.iter().position(|choice| *choice == Choice::Encode { begin: true, why });
        assert_eq!(ours, Some(16), "500 ms");
        // Not enough to come back.
        let little = Room { bond: Some(2_300_000), ..AMPLE };
        assert_eq!(first_passed(0, &show(&mut switch, 90..300, little, as_it_is)), None);
        let enough = Room { bond: Some(2_600_000), ..AMPLE };
        assert_eq!(first_passed(300, &show(&mut switch, 300..500, enough, as_it_is)), Some(420));
    }

    #[test]
    fn an_uplink_that_is_gone_is_not_waited_for() {
        let mut switch = passing();
        let gone = Room { bond: Some(900_000), ..AMPLE };
        let choice = show(&mut switch, 45..46, gone, as_it_is)[0];
        assert_eq!(choice, Choice::Encode { begin: true, why: Some(Reason::AboveUplinks) });
    }

    #[test]
    fn a_stream_above_the_settings_bit_rate_is_made_smaller() {
        let mut switch = Switch::new();
        let room = Room { nominal: 1_000_000, bond: None };
        let choices = show(&mut switch, 0..40, room, as_it_is);
        let why = Some(Reason::AboveSettings);
        assert!(choices.iter().all(|choice| *choice == Choice::Encode { begin: false, why }));
    }
}
