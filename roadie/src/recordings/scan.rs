//! Reads a recording from its first byte to its last, and remembers of each group what of it is there.

use std::ops::Range;

use encoder::record::RecordingFile;
use media::cmaf::{Digest, Fragment, GroupDigest};
use media::{Time, TrackId};

use super::output::Progress;

/// Holes remembered of a group; what comes after more is one hole.
const MAX_HOLES: usize = 16;

/// What of a group is intact in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupScan {
    pub track: TrackId,
    pub group: u64,
    pub first_capture: Time,
    /// Intact frames.
    pub frames: u32,
    /// One more than the highest number among them.
    pub end: u32,
    /// Numbers below `end` that are missing.
    pub holes: Vec<Range<u32>>,
    /// Of the intact frames in the order of the file.
    pub digest: Digest,
    /// Where they lie.
    pub range: Range<u64>,
}

/// A file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// In the order in which they begin.
    pub groups: Vec<GroupScan>,
    /// Fragments with a wrong checksum.
    pub broken_frames: u64,
    /// Bytes that belong to no fragment.
    pub damaged_bytes: u64,
    /// The disk gave an error before the end.
    pub unreadable: Option<String>,
}

struct Open {
    scan: GroupScan,
    digest: GroupDigest,
}

impl Open {
    fn new(fragment: &Fragment) -> Self {
        let scan = GroupScan {
            track: fragment.id.track,
            group: fragment.id.group,
            first_capture: fragment.capture_time,
            frames: 0,
            end: 0,
            holes: Vec::new(),
            digest: GroupDigest::new().finish(),
            range: fragment.range.clone(),
        };
        Self { scan, digest: GroupDigest::new() }
    }

    fn add(&mut self, fragment: &Fragment) {
        let (scan, number) = (&mut self.scan, fragment.id.frame);
        if number < scan.end {
            return; // Twice in one file: the first one counts.
        }
        if number > scan.end {
            let many = scan.holes.len() == MAX_HOLES;
            match scan.holes.last_mut().filter(|_| many) {
                Some(last) => last.end = number,
                None => scan.holes.push(scan.end..number),
            }
        }
        scan.end = number.saturating_add(1);
        scan.frames += 1;
        scan.range.end = fragment.range.end;
        self.digest.fragment(fragment);
    }

    fn close(self) -> GroupScan {
        GroupScan { digest: self.digest.finish(), ..self.scan }
    }
}

/// Reads all of it. `progress` goes from `done` to `done + file.bytes()` of `total` bytes.
pub fn scan(file: &RecordingFile, progress: &mut Progress, done: u64, total: u64) -> anyhow::Result<Scan> {
    let mut fragments = file.fragments()?;
    let (mut scan, mut open): (Scan, Vec<Open>) = (Scan::default(), Vec::new());
    while let Some(fragment) = fragments.next() {
        let read = file.bytes().saturating_sub(fragments.bytes_left());
        progress.at((done + read) as f64 / total.max(1) as f64);
        let fragment = match fragment {
            Ok(fragment) => fragment,
            Err(error) => {
                scan.unreadable = Some(error.to_string());
                break;
            }
        };
        if !fragment.intact {
            scan.broken_frames += 1;
            continue;
        }
        match open.iter_mut().find(|open| open.scan.track == fragment.id.track) {
            Some(open) if open.scan.group == fragment.id.group => open.add(&fragment),
            other => {
                let mut next = Open::new(&fragment);
                next.add(&fragment);
                match other {
                    Some(other) => scan.groups.push(std::mem::replace(other, next).close()),
                    None => open.push(next),
                }
            }
        }
    }
    scan.groups.extend(open.into_iter().map(Open::close));
    scan.damaged_bytes = fragments.damaged_bytes();
    scan.groups.sort_by_key(|group| (group.first_capture, group.track, group.group));
    Ok(scan)
}
