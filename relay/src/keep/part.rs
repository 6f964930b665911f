//! One file of a kept copy, and its index.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use media::cmaf::{CmafError, GroupEntry, Writer, file_stem, index};
use media::h264::ParameterSets;
use media::{Frame, Time, Track, TrackId};

use crate::backfill::GroupId;

/// Files of the same show that began in the same second.
const MAX_NAMESAKES: u32 = 1000;

/// Why a frame is not in the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum PartError {
    /// The file format has no place for it; the file goes on.
    #[error(transparent)]
    Frame(#[from] CmafError),
    /// The disk. The file is lost to us, and what was written to it is not.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// What a file begins with.
pub(super) struct Head<'a> {
    pub broadcast: &'a str,
    /// Is added to the file's name.
    pub suffix: &'a str,
    pub tracks: Vec<Track>,
    /// Of its H.264 tracks, all of them.
    pub sets: Vec<(TrackId, ParameterSets)>,
    /// No frame of it was captured before.
    pub zero: Time,
}

/// A file being written.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    index: File,
    writer: Writer,
    tracks: Vec<TrackId>,
    /// Bytes that are written, and how many of them were when the file was last synced.
    len: u64,
    synced: u64,
    /// When the latest frame of each track was captured.
    latest: BTreeMap<TrackId, Time>,
    /// Groups that are written and proven, but may not be on the disk yet.
    proven: Vec<GroupEntry>,
    buffer: Vec<u8>,
}

impl Part {
    /// Begins a file in `dir`. No file is ever overwritten.
    pub fn begin(dir: &Path, head: Head<'_>) -> Result<Self, PartError> {
        let tracks = head.tracks.iter().map(|track| track.id).collect();
        let (writer, init) = Writer::new(head.broadcast, &head.tracks, head.sets, head.zero)?;
        let stem = format!("{}{}", file_stem(head.broadcast, head.zero), head.suffix);
        let (path, file) = create(dir, &stem)?;
        // For those who read it meanwhile, as the recorder does; some disks know no locks.
        let _ = file.try_lock();
        let beside = path.with_extension("index");
        let mut index = OpenOptions::new().create(true).write(true).truncate(true).open(&beside)?;
        (&file).write_all(&init)?;
        index.write_all(index::header(head.broadcast, head.zero).as_bytes())?;
        tracing::info!(path = %path.display(), "keeping");
        Ok(Self {
            path,
            file,
            index,
            writer,
            tracks,
            len: init.len() as u64,
            synced: 0,
            latest: BTreeMap::new(),
            proven: Vec::new(),
            buffer: Vec::new(),
        })
    }

    /// Appends a frame, and says where its `moof` and `mdat` lie.
    pub fn write(&mut self, frame: &Frame) -> Result<Range<u64>, PartError> {
        self.buffer.clear();
        let range = self.writer.fragment(frame, &mut self.buffer)?;
        self.file.write_all(&self.buffer)?;
        self.len += self.buffer.len() as u64;
        self.latest.insert(frame.id.track, frame.capture_time);
        Ok(range)
    }

    /// Whether frames of this track that were captured from `first` on have their place at the end of this file.
    pub fn takes(&self, track: TrackId, first: Time) -> bool {
        let after = |latest: &Time| *latest < first;
        first >= self.writer.zero()
            && self.tracks.contains(&track)
            && self.latest.get(&track).is_none_or(after)
    }

    /// This group in the file is what the venue's recording has.
    pub fn prove(&mut self, entry: GroupEntry) {
        self.proven.push(entry);
    }

    /// Bytes in the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Brings to the disk what is written, and then into the index what is proven of it. Returns the groups that are
    /// safe now.
    pub fn sync(&mut self) -> io::Result<Vec<GroupEntry>> {
        if self.len == self.synced && self.proven.is_empty() {
            return Ok(Vec::new());
        }
        if self.file.metadata()?.nlink() == 0 {
            return Err(io::Error::new(ErrorKind::NotFound, "the file was removed"));
        }
        let patch = self.writer.duration_patch();
        self.file.write_all_at(&patch.bytes, patch.at)?;
        self.file.sync_data()?;
        if self.synced == 0
            && let Some(dir) = self.path.parent()
        {
            File::open(dir)?.sync_all()?;
        }
        self.synced = self.len;
        // An index that lacks a group costs that group once more; one that has too much would be a lie.
        let lines: String = self.proven.iter().map(GroupEntry::line).collect();
        self.index.write_all(lines.as_bytes())?;
        Ok(std::mem::take(&mut self.proven))
    }

    /// Syncs, and makes a plain MP4 file of it. It plays without that.
    pub fn finish(mut self) -> io::Result<Vec<GroupEntry>> {
        let safe = self.sync()?;
        self.index.sync_data()?;
        if let Some(ending) = self.writer.finish() {
            let made = self.file.write_all(&ending.moov).and_then(|()| {
                // A power cut must not leave the new header without the tables.
                self.file.sync_data()?;
                self.file.write_all_at(&ending.header.bytes, ending.header.at)
            });
            if let Err(error) = made {
                tracing::warn!(path = %self.path.display(), %error, "stays fragmented; it plays all the same");
                self.cut();
            }
        }
        Ok(safe)
    }

    /// Gives the file up after an error, and names the groups that may not be on the disk.
    pub fn abandon(self) -> Vec<GroupId> {
        self.cut();
        self.proven.iter().map(|entry| GroupId { track: entry.track, group: entry.group }).collect()
    }

    /// Cuts off what follows the last whole frame.
    fn cut(&self) {
        if let Err(error) = self.file.set_len(self.len) {
            tracing::debug!(path = %self.path.display(), %error, "a torn frame stays at the end of the file");
        }
    }
}

fn create(dir: &Path, stem: &str) -> io::Result<(PathBuf, File)> {
    for number in 1..=MAX_NAMESAKES {
        let name = if number == 1 { format!("{stem}.mp4") } else { format!("{stem}-{number}.mp4") };
        let path = dir.join(name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(ErrorKind::AlreadyExists, format!("{MAX_NAMESAKES} files are named {stem} already")))
}
