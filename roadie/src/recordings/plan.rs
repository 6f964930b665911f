//! The best of all copies, group by group: what to take from which file.

use std::collections::BTreeMap;
use std::ops::Range;

use encoder::record::RecordingFile;
use media::cmaf::{Digest, GroupEntry};
use media::{Time, Track, TrackId};

use super::output::Progress;
use super::scan::{GroupScan, scan};
use super::shows::Show;

/// One group, and where it may be taken from.
#[derive(Clone, Debug)]
pub struct Planned {
    pub track: TrackId,
    pub group: u64,
    pub first_capture: Time,
    /// What the encoder made, if an index says it.
    pub expected: Option<Expected>,
    /// The number of a file, and the range in it; the best first. The others have frames that the best may lack.
    pub sources: Vec<(usize, Range<u64>)>,
}

/// A group as it left the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    pub digest: Digest,
    pub frames: u32,
    pub first_capture: Time,
}

/// All groups of a show.
pub struct Plan {
    pub broadcast: String,
    pub zero: Time,
    pub end: Time,
    pub tracks: Vec<Track>,
    pub files: Vec<RecordingFile>,
    /// By track, in the order of their numbers.
    pub groups: Vec<Planned>,
}

impl Plan {
    /// Leaves out all renditions but the best picture: a player shows one only, and an editor would show them all.
    pub fn best_picture_only(&mut self) {
        let best = self.tracks.iter().find(|track| track.is_video()).map(|track| track.id);
        self.tracks.retain(|track| !track.is_video() || Some(track.id) == best);
    }
}

/// Reads all files once.
pub fn plan(show: Show) -> anyhow::Result<Plan> {
    let tracks = show.tracks();
    let Show { broadcast, zero, end, copies } = show;
    let files: Vec<RecordingFile> =
        copies.into_iter().flat_map(|copy| copy.parts).map(|part| part.file).collect();
    let total = files.iter().map(RecordingFile::bytes).sum();
    let (mut scans, mut done) = (Vec::new(), 0);
    let mut progress = Progress::new("checking");
    for file in &files {
        scans.push(scan(file, &mut progress, done, total)?);
        done += file.bytes();
    }
    let expected = expected(&files);
    let mut found: BTreeMap<(TrackId, u64), Vec<(usize, &GroupScan)>> = BTreeMap::new();
    for (number, scan) in scans.iter().enumerate() {
        for group in &scan.groups {
            found.entry((group.track, group.group)).or_default().push((number, group));
        }
    }
    // A group that an index lists and no file has is missing.
    for key in expected.keys() {
        found.entry(*key).or_default();
    }
    let groups = found.into_iter().filter_map(|((track, group), mut candidates)| {
        let expected = expected.get(&(track, group)).copied();
        let right = |scan: &GroupScan| expected.is_some_and(|expected| scan.digest == expected.digest);
        candidates.sort_by_key(|(number, scan)| (!right(scan), std::cmp::Reverse(scan.frames), *number));
        let recorded = candidates.iter().map(|(_, scan)| scan.first_capture).min();
        let first_capture = recorded.or(expected.map(|expected| expected.first_capture))?;
        let mut sources: Vec<_> =
            candidates.iter().map(|(number, scan)| (*number, scan.range.clone())).collect();
        if candidates.first().is_some_and(|(_, best)| right(best)) {
            sources.truncate(1);
        }
        Some(Planned { track, group, first_capture, expected, sources })
    });
    let groups = groups.collect();
    Ok(Plan { broadcast, zero, end, tracks, files, groups })
}

/// What the indexes say was encoded. Every index that lists a group lists the same; where one does not, the first
/// one stands, and `verify` tells.
pub fn expected(files: &[RecordingFile]) -> BTreeMap<(TrackId, u64), Expected> {
    let mut expected = BTreeMap::new();
    for entry in files.iter().filter_map(|file| file.sidecar().ok()).flat_map(|index| index.groups) {
        let GroupEntry { digest, frames, first_capture, .. } = entry;
        let says = Expected { digest, frames, first_capture };
        expected.entry((entry.track, entry.group)).or_insert(says);
    }
    expected
}

/// A place where the numbers of a track's groups do not follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The groups that are missing; `None` where the encoder was started again, which leaves numbers out.
    pub groups: Option<Range<u64>>,
    /// From the last frame's group before it to the first one after it.
    pub from: Time,
    pub to: Time,
}

/// The holes of one track, whose groups are given in the order of their numbers with their capture times.
///
/// Numbers begin at four times the seconds of the clock (decision 6), so an encoder that was started again leaves out
/// far more of them than the time that passed could have made.
pub fn holes(groups: &[(u64, Time)]) -> Vec<Hole> {
    let pairs = || groups.iter().zip(groups.iter().skip(1));
    let follow = pairs().filter(|((a, _), (b, _))| a.checked_add(1) == Some(*b));
    let lengths = follow.map(|((_, a), (_, b))| b.saturating_since(*a).as_secs_f64());
    let (sum, count) = lengths.fold((0.0, 0u32), |(sum, count), length| (sum + length, count + 1));
    let typical = if count == 0 { 1.0 } else { (sum / f64::from(count)).max(0.01) };
    let hole = |(&(a, from), &(b, to)): (&(u64, Time), &(u64, Time))| {
        let left_out = b.checked_sub(a)?.checked_sub(1).filter(|left_out| *left_out > 0)?;
        let possible = to.saturating_since(from).as_secs_f64() / typical * 2.0 + 2.0;
        let groups = (left_out as f64 <= possible).then_some(a + 1..b);
        Some(Hole { groups, from, to })
    };
    pairs().filter_map(hole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_told_from_a_new_start() {
        let at = |seconds: u64| Time::from_millis(seconds * 1000);
        let groups = [(400, at(100)), (401, at(101)), (404, at(104)), (405, at(105)), (4 * 130, at(130))];
        let found = holes(&groups);
        assert_eq!(found[0], Hole { groups: Some(402..404), from: at(101), to: at(104) });
        assert_eq!(found[1], Hole { groups: None, from: at(105), to: at(130) });
        assert_eq!(found.len(), 2);
        assert!(holes(&groups[..1]).is_empty() && holes(&[]).is_empty());
    }
}
