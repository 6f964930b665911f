//! Group and frame numbers of one track.
//!
//! The first group of a show is the Unix second of its start times [`GROUPS_PER_SECOND`]. As no
//! track makes more groups than that, an encoder that is started again continues above the numbers
//! that it has used before.

use std::num::NonZeroU32;

use media::Time;

/// Room for group numbers per second of a show. Keyframes are at least 250 ms apart.
const GROUPS_PER_SECOND: u64 = 4;

/// Gives each frame of a track its place.
#[derive(Debug)]
pub(crate) struct Numbering {
    rule: Rule,
    /// Group and frame that come next if the group goes on; `None` before the first frame.
    next: Option<(u64, u32)>,
    first_group: u64,
}

/// When a new group starts.
#[derive(Debug)]
enum Rule {
    Keyframe,
    Every(NonZeroU32),
}

impl Numbering {
    /// Video: a group starts at each keyframe.
    pub(crate) fn by_keyframe(start: Time) -> Self {
        Self::new(Rule::Keyframe, start)
    }

    /// Audio: a group is `frames` packets.
    pub(crate) fn every(frames: NonZeroU32, start: Time) -> Self {
        Self::new(Rule::Every(frames), start)
    }

    fn new(rule: Rule, start: Time) -> Self {
        Numbering { rule, next: None, first_group: start.as_micros() / 1_000_000 * GROUPS_PER_SECOND }
    }

    /// Group and frame number of the next frame. `None`: it comes before the first keyframe and
    /// nobody could decode it.
    pub(crate) fn next(&mut self, keyframe: bool) -> Option<(u64, u32)> {
        let starts_group = match (&self.rule, self.next) {
            (Rule::Keyframe, _) => keyframe,
            (Rule::Every(_), None) => true,
            (Rule::Every(frames), Some((_, frame))) => frame >= frames.get(),
        };
        let place = match (starts_group, self.next) {
            (true, None) => (self.first_group, 0),
            (true, Some((group, _))) => (group + 1, 0),
            (false, next) => next?,
        };
        self.next = Some((place.0, place.1 + 1));
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_micros(1_795_000_000_900_000);
    const FIRST: u64 = 1_795_000_000 * 4;

    #[test]
    fn a_video_group_starts_at_each_keyframe() {
        let mut numbering = Numbering::by_keyframe(START);
        let places: Vec<_> = [false, true, false, false, true, true, false]
            .map(|key| numbering.next(key))
            .into_iter()
            .collect();
        let (a, b, c) = (FIRST, FIRST + 1, FIRST + 2);
        let expected =
            [None, Some((a, 0)), Some((a, 1)), Some((a, 2)), Some((b, 0)), Some((c, 0)), Some((c, 1))];
        assert_eq!(places, expected);
    }

    #[test]
    fn an_audio_group_is_a_fixed_number_of_packets() {
        let frames = NonZeroU32::new(25).expect("not zero");
        let mut numbering = Numbering::every(frames, START);
        for n in 0..100 {
            assert_eq!(numbering.next(true), Some((FIRST + n / 25, (n % 25) as u32)));
        }
    }
}
