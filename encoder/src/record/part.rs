//! One file of a copy, while it is written.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use media::cmaf::{GroupEntry, Indexer, Writer};
use media::{Frame, Track, TrackId};

use super::GroupLog;
use super::sync::Files;

/// How often the file's head is told how long the file is, so that the length that players show for the
/// file of a killed process is right to a second. It costs one small write into a page that is in memory.
const TELL_DURATION: Duration = Duration::from_secs(1);

/// One file.
pub struct Part {
    pub files: Files,
    pub writer: Writer,
    /// Length up to the last whole frame.
    good: u64,
    /// Tracks that have frames here; those of pictures are in the middle of a group that decodes.
    begun: Vec<TrackId>,
    tracks: Vec<TrackId>,
    /// The duration that the file's head tells.
    told: Duration,
    indexer: Indexer,
    log: Arc<GroupLog>,
    /// Its number in the log.
    number: usize,
}

impl Part {
    /// A file with nothing but its head, which has so many bytes.
    pub fn new(
        files: Files,
        writer: Writer,
        head: u64,
        tracks: &[Track],
        (log, number): (Arc<GroupLog>, usize),
    ) -> Self {
        let indexer = Indexer::new(tracks);
        let tracks = tracks.iter().map(|track| track.id).collect();
        Self {
            files,
            writer,
            good: head,
            begun: Vec::new(),
            tracks,
            told: Duration::ZERO,
            indexer,
            log,
            number,
        }
    }

    /// Whether this frame goes on here after a file that is being left: a track moves over at the start of a group.
    pub fn takes_over(&self, frame: &Frame) -> bool {
        let starts = frame.id.frame == 0 && frame.capture_time >= self.writer.zero();
        self.has_begun(frame.id.track) || starts
    }

    /// This track goes on here.
    pub fn admit(&mut self, track: TrackId) {
        if !self.has_begun(track) {
            self.begun.push(track);
        }
    }

    pub fn has_begun(&self, track: TrackId) -> bool {
        self.begun.contains(&track)
    }

    /// What follows in this group does not decode.
    pub fn interrupted(&mut self, track: TrackId) {
        self.begun.retain(|id| *id != track);
    }

    /// Writes a frame that was made into these bytes.
    pub fn append(&mut self, frame: &Frame, bytes: &[u8], range: Range<u64>) -> io::Result<()> {
        self.files.media.append(bytes)?;
        self.good += bytes.len() as u64;
        self.admit(frame.id.track);
        if let Some(ended) = self.indexer.frame(frame, range) {
            self.list(ended);
        }
        let duration = self.writer.duration();
        if duration >= self.told + TELL_DURATION {
            self.told = duration;
            let patch = self.writer.duration_patch();
            if let Err(error) = self.files.media.replace(patch.at, &patch.bytes) {
                tracing::debug!(%error, "the file does not say how long it is; it plays all the same");
            }
        }
        Ok(())
    }

    /// A frame of this track was left out.
    pub fn missing(&mut self, track: TrackId) {
        self.indexer.missing(track);
    }

    /// What has not ended yet is not whole.
    pub fn all_missing(&mut self) {
        for track in self.tracks.clone() {
            self.missing(track);
        }
    }

    /// The last groups have ended.
    pub fn end_groups(&mut self) {
        for ended in self.indexer.finish() {
            self.list(ended);
        }
    }

    fn list(&mut self, entry: GroupEntry) {
        if let Some(index) = &self.files.index
            && let Err(error) = index.append(entry.line().as_bytes())
        {
            // A torn line would swallow the next one.
            tracing::warn!(%error, "the index ends here; it can be made again from the recording");
            self.files.index = None;
        }
        self.log.group(self.number, entry);
    }

    /// What an append left half done is no frame.
    pub fn cut_torn_end(&self) {
        if let Err(error) = self.files.media.truncate(self.good) {
            tracing::debug!(%error, "a torn frame stays at the end of the file; readers pass over it");
        }
    }

    /// Makes a plain MP4 file of it. Returns by how many bytes it has become longer.
    pub fn finish(&self) -> io::Result<u64> {
        let media = &self.files.media;
        let duration = self.writer.duration_patch();
        media.replace(duration.at, &duration.bytes)?;
        let Some(ending) = self.writer.finish() else { return Ok(0) };
        media.append(&ending.moov)?;
        // A power cut must not leave the new header without the tables.
        media.sync()?;
        media.replace(ending.header.at, &ending.header.bytes)?;
        Ok(ending.moov.len() as u64)
    }
}
