//! What comes live goes into one file as it comes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use media::cmaf::{CmafError, GroupEntry, Indexer};
use media::h264::ParameterSets;
use media::{Frame, Track, TrackId};

use super::part::{Head, Part, PartError};
use crate::backfill::GroupId;

/// Groups that have ended, and of which the venue has not told what they are: a quarter of an hour. The first ones
/// are forgotten, and may come once more.
const MAX_ENDED: usize = 4096;

/// The parameter sets of each H.264 track, as they last came.
pub(super) type Sets = BTreeMap<TrackId, ParameterSets>;

/// Takes note of the parameter sets in a keyframe.
pub(super) fn note(sets: &mut Sets, frame: &Frame) {
    if frame.keyframe
        && let Some(found) = ParameterSets::of(&frame.data)
    {
        sets.insert(frame.id.track, found);
    }
}

/// The live file.
pub(super) struct Live {
    broadcast: String,
    tracks: Vec<Track>,
    sets: Sets,
    part: Option<Part>,
    /// The one before, when the pictures have changed their shape.
    retired: Option<Part>,
    indexer: Indexer,
    /// Of each video track the group that is being written, and its next frame.
    running: BTreeMap<TrackId, (u64, u32)>,
    /// Whole, as far as can be seen from here.
    ended: BTreeMap<GroupId, GroupEntry>,
}

impl Live {
    pub fn new(broadcast: &str, tracks: &[Track]) -> Self {
        Self {
            broadcast: broadcast.to_owned(),
            tracks: tracks.to_vec(),
            sets: Sets::new(),
            part: None,
            retired: None,
            indexer: Indexer::new(tracks),
            running: BTreeMap::new(),
            ended: BTreeMap::new(),
        }
    }

    /// The file, if there is one.
    pub fn part(&mut self) -> Option<&mut Part> {
        self.part.as_mut()
    }

    /// A file to which nothing will be added.
    pub fn take_retired(&mut self) -> Option<Part> {
        self.retired.take()
    }

    /// Takes the file away; the next frame that can be a first one begins another.
    pub fn take_part(&mut self) -> Option<Part> {
        self.indexer = Indexer::new(&self.tracks);
        self.running.clear();
        self.ended.clear();
        self.part.take()
    }

    /// Writes a frame, unless it cannot be decoded. Returns a group that has ended whole.
    pub fn frame(&mut self, dir: &Path, frame: &Frame) -> io::Result<Option<GroupEntry>> {
        let track = self.tracks.iter().find(|track| track.id == frame.id.track);
        let video = track.is_some_and(Track::is_video);
        if track.is_some_and(|track| track.config.is_h264()) {
            note(&mut self.sets, frame);
        }
        if !self.decodes(frame, video) || !self.begun(dir, frame, video)? {
            self.indexer.missing(frame.id.track);
            return Ok(None);
        }
        let Some(part) = &mut self.part else { return Ok(None) };
        match part.write(frame) {
            Ok(range) => Ok(self.indexer.frame(frame, range)),
            Err(PartError::Frame(CmafError::ParametersChanged(_))) if frame.keyframe => {
                self.retired = self.take_part();
                self.frame(dir, frame)
            }
            Err(PartError::Frame(error)) => {
                tracing::debug!(%error, id = ?frame.id, "not kept");
                self.running.remove(&frame.id.track);
                self.indexer.missing(frame.id.track);
                Ok(None)
            }
            Err(PartError::Disk(error)) => Err(error),
        }
    }

    /// Whether all of its group before it has been written.
    fn decodes(&mut self, frame: &Frame, video: bool) -> bool {
        let next = frame.id.frame.saturating_add(1);
        let goes_on = self.running.get(&frame.id.track) == Some(&(frame.id.group, frame.id.frame));
        let begins = frame.keyframe && frame.id.frame == 0;
        if !video {
            return true;
        }
        if goes_on || begins {
            self.running.insert(frame.id.track, (frame.id.group, next));
        } else {
            self.running.remove(&frame.id.track);
        }
        goes_on || begins
    }

    /// Whether there is a file, after this frame has begun it if it can.
    fn begun(&mut self, dir: &Path, frame: &Frame, video: bool) -> io::Result<bool> {
        if self.part.is_some() {
            return Ok(true);
        }
        let pictures = self.tracks.iter().filter(|track| track.is_video());
        let known = |track: &Track| !track.config.is_h264() || self.sets.contains_key(&track.id);
        let complete = pictures.clone().all(known);
        let first = complete && (pictures.count() == 0 || (video && frame.keyframe));
        if !first {
            self.running.remove(&frame.id.track);
            return Ok(false);
        }
        let sets = self.sets.iter().map(|(id, sets)| (*id, sets.clone())).collect();
        let (tracks, zero) = (self.tracks.clone(), frame.capture_time);
        let head = Head { broadcast: &self.broadcast, suffix: "", tracks, sets, zero };
        match Part::begin(dir, head) {
            Ok(part) => self.part = Some(part),
            Err(PartError::Frame(error)) => {
                tracing::warn!(%error, "no file can be begun with this picture");
                return Ok(false);
            }
            Err(PartError::Disk(error)) => return Err(error),
        }
        // Groups count from the start of a file.
        self.indexer = Indexer::new(&self.tracks);
        self.running.retain(|track, _| *track == frame.id.track);
        Ok(true)
    }

    /// No more will come: the groups that were under way have ended.
    pub fn flush(&mut self) -> Vec<GroupEntry> {
        self.indexer.finish()
    }

    /// Remembers a group that has ended until the venue tells what it is.
    pub fn remember(&mut self, entry: GroupEntry) {
        let track = entry.track;
        self.ended.insert(GroupId { track, group: entry.group }, entry);
        if self.ended.len() > MAX_ENDED {
            let oldest = self.ended.range(GroupId { track, group: 0 }..).next().map(|(id, _)| *id);
            oldest.map(|oldest| self.ended.remove(&oldest));
        }
    }

    /// All groups that have ended.
    pub fn take_ended(&mut self) -> Vec<GroupEntry> {
        std::mem::take(&mut self.ended).into_values().collect()
    }

    /// A group that has ended, to be compared.
    pub fn recall(&mut self, id: GroupId) -> Option<GroupEntry> {
        self.ended.remove(&id)
    }
}
