//! What comes by backfill goes into another file, group by group.

use std::ops::Range;
use std::path::Path;

use media::cmaf::GroupEntry;
use media::{Frame, Time, Track};

use super::live::{Sets, note};
use super::part::{Head, Part, PartError};
use crate::backfill::{Entry, GroupId};

/// The fill file.
pub(super) struct Fill {
    broadcast: String,
    tracks: Vec<Track>,
    sets: Sets,
    part: Option<Part>,
}

impl Fill {
    pub fn new(broadcast: &str, tracks: &[Track]) -> Self {
        Self { broadcast: broadcast.to_owned(), tracks: tracks.to_vec(), sets: Sets::new(), part: None }
    }

    /// The file, if there is one.
    pub fn part(&mut self) -> Option<&mut Part> {
        self.part.as_mut()
    }

    /// Takes the file away; the next group begins another.
    pub fn take_part(&mut self) -> Option<Part> {
        self.part.take()
    }

    /// Whether the group has its place at the end of the present file: captured after what is in there of its track.
    pub fn takes(&self, entry: &Entry) -> bool {
        self.part.as_ref().is_some_and(|part| part.takes(entry.id.track, entry.first_capture))
    }

    /// Writes a whole group that is proven. Where there is no file it begins one, whose time begins at `zero()` or
    /// with the group. After an error the present file is to be given up.
    pub fn group(
        &mut self,
        dir: &Path,
        entry: &Entry,
        frames: &[Frame],
        zero: impl FnOnce() -> Option<Time>,
    ) -> Result<(), PartError> {
        if self.tracks.iter().any(|track| track.id == entry.id.track && track.config.is_h264()) {
            frames.iter().for_each(|frame| note(&mut self.sets, frame));
        }
        if self.part.is_none() {
            // Tracks of which no picture has come yet make another file when they do.
            let known = |track: &&Track| !track.config.is_h264() || self.sets.contains_key(&track.id);
            let tracks = self.tracks.iter().filter(known).cloned().collect();
            let sets = self.sets.iter().map(|(id, sets)| (*id, sets.clone())).collect();
            let zero = zero().map_or(entry.first_capture, |zero| zero.min(entry.first_capture));
            let head = Head { broadcast: &self.broadcast, suffix: "-fill", tracks, sets, zero };
            self.part = Some(Part::begin(dir, head)?);
        }
        let Some(part) = &mut self.part else { return Ok(()) };
        let mut range: Option<Range<u64>> = None;
        for frame in frames {
            let written = part.write(frame)?;
            let start = range.map_or(written.start, |range| range.start);
            range = Some(start..written.end);
        }
        if let Some(range) = range {
            let Entry { id: GroupId { track, group }, frames, first_capture, digest } = *entry;
            part.prove(GroupEntry { track, group, frames, first_capture, digest, range });
        }
        Ok(())
    }
}
