//! The copies of a show against each other, and against what was encoded.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use media::cmaf::Digest;
use media::{Time, TrackId};

use super::plan::Expected;
use super::scan::Scan;

/// A group's name.
pub type Key = (TrackId, u64);

/// What one copy has of a group.
#[derive(Clone, Debug)]
pub struct Has {
    pub frames: u32,
    pub digest: Digest,
    pub first_capture: Time,
    holes: Vec<Range<u32>>,
}

impl Has {
    /// One more than the highest number that is there.
    fn end(&self) -> u32 {
        let missing: u32 = self.holes.iter().map(|hole| hole.end.saturating_sub(hole.start)).sum();
        self.frames.saturating_add(missing)
    }

    /// The numbers that are missing of a group of so many frames.
    pub fn lacks(&self, frames: u32) -> Vec<Range<u32>> {
        let end = self.end();
        self.holes.iter().cloned().chain((end < frames).then_some(end..frames)).collect()
    }
}

/// What all copies have, and what was encoded as far as an index says it.
pub struct Comparison {
    pub copies: Vec<BTreeMap<Key, Has>>,
    pub expected: BTreeMap<Key, Expected>,
    /// Every group that is known from anywhere.
    pub all: BTreeSet<Key>,
}

impl Comparison {
    /// Of copies, each of several files.
    pub fn new(copies: Vec<Vec<Scan>>, expected: BTreeMap<Key, Expected>) -> Self {
        let copies: Vec<_> = copies.into_iter().map(copy).collect();
        let mut all: BTreeSet<Key> = expected.keys().copied().collect();
        all.extend(copies.iter().flat_map(|groups| groups.keys().copied()));
        Self { copies, expected, all }
    }

    fn each(&self, key: Key) -> impl Iterator<Item = &Has> {
        self.copies.iter().filter_map(move |groups| groups.get(&key))
    }

    /// How many frames the group has, as far as anybody knows.
    pub fn frames(&self, key: Key) -> u32 {
        let indexed = self.expected.get(&key).map_or(0, |expected| expected.frames);
        self.each(key).map(Has::end).max().unwrap_or(0).max(indexed)
    }

    /// Whether a copy has all of the group.
    pub fn is_whole(&self, key: Key, has: &Has) -> bool {
        match self.expected.get(&key) {
            Some(expected) => has.digest == expected.digest,
            None => has.frames == self.frames(key),
        }
    }

    /// Whether one copy has all of it.
    pub fn is_whole_somewhere(&self, key: Key) -> bool {
        self.each(key).any(|has| self.is_whole(key, has))
    }

    /// Whether the copies together have all of it.
    pub fn is_whole_together(&self, key: Key) -> bool {
        let frames = self.frames(key);
        let mut lacking: Vec<Vec<Range<u32>>> = self.each(key).map(|has| has.lacks(frames)).collect();
        let Some(mut left) = lacking.pop() else { return false };
        for other in lacking {
            let both = |a: &Range<u32>, b: &Range<u32>| a.start.max(b.start)..a.end.min(b.end);
            left = left
                .iter()
                .flat_map(|a| other.iter().map(move |b| both(a, b)))
                .filter(|r| !r.is_empty())
                .collect();
        }
        // Where nothing is missing and it is not whole, the frames are not those that were encoded.
        left.is_empty() && (self.is_whole_somewhere(key) || self.each(key).count() > 1)
    }

    /// When it was captured.
    pub fn first_capture(&self, key: Key) -> Option<Time> {
        let recorded = self.each(key).map(|has| has.first_capture).next();
        recorded.or_else(|| self.expected.get(&key).map(|expected| expected.first_capture))
    }
}

fn copy(scans: Vec<Scan>) -> BTreeMap<Key, Has> {
    let mut groups: BTreeMap<Key, Has> = BTreeMap::new();
    for group in scans.into_iter().flat_map(|scan| scan.groups) {
        let key = (group.track, group.group);
        let has = Has {
            frames: group.frames,
            digest: group.digest,
            first_capture: group.first_capture,
            holes: group.holes,
        };
        // The same group in two files of a copy: the fuller one.
        if groups.get(&key).is_none_or(|known| known.frames < has.frames) {
            groups.insert(key, has);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use media::cmaf::GroupDigest;

    use super::*;
    use crate::recordings::scan::GroupScan;

    const KEY: Key = (TrackId(0), 7);

    /// A copy that has the frames below `end` without a hole.
    fn scan(end: u32, hole: Range<u32>) -> Vec<Scan> {
        let missing = hole.end - hole.start;
        let group = GroupScan {
            track: KEY.0,
            group: KEY.1,
            first_capture: Time::ZERO,
            frames: end - missing,
            end,
            holes: (missing > 0).then_some(hole).into_iter().collect(),
            digest: GroupDigest::new().finish(),
            range: 0..1,
        };
        vec![Scan { groups: vec![group], ..Scan::default() }]
    }

    fn compare(copies: Vec<Vec<Scan>>) -> (bool, bool, u32) {
        let comparison = Comparison::new(copies, BTreeMap::new());
        (comparison.is_whole_somewhere(KEY), comparison.is_whole_together(KEY), comparison.frames(KEY))
    }

    #[test]
    fn holes_in_different_places_are_filled() {
        assert_eq!(compare(vec![scan(30, 3..5), scan(20, 0..0)]), (false, true, 30));
        assert_eq!(compare(vec![scan(30, 3..5), scan(30, 4..9)]), (false, false, 30));
        assert_eq!(compare(vec![scan(30, 3..5), scan(4, 0..0)]), (false, false, 30));
        assert_eq!(compare(vec![scan(30, 3..5), scan(30, 0..0)]), (true, true, 30));
        assert_eq!(compare(vec![scan(30, 0..0)]), (true, true, 30));
    }
}
