//! A recording as it lies on a disk, whoever made it and however it ended.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use media::cmaf::{Fragment, GroupEntry, Index, Indexer, Item, Reader, Start};
use media::{Time, TrackId};

/// What is read at once.
const PIECE: usize = 256 << 10;

/// The head of a recording is below 10 kB; where none begins so early, there is none.
const MAX_HEAD: u64 = 1 << 20;

/// A larger sidecar is none of ours: that of a day has 30 MB.
const MAX_INDEX: u64 = 128 << 20;

/// A larger group is not read into memory: ten seconds of 100 Mb/s.
const MAX_GROUP_BYTES: usize = 128 << 20;

/// The intact frames of a group, by number.
pub type Pieces = BTreeMap<u32, Fragment>;

/// What is in a recording.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The groups that are whole, in the order in which they ended.
    pub groups: Vec<GroupEntry>,
    /// When its last frame ends, on the broadcast clock.
    pub end: Time,
}

/// Why a file cannot be used as a recording.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Nothing was written before the end came.
    #[error("{} is empty: nothing was recorded into it, and it can be deleted", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// No head of ours.
    #[error("{} is no recording of Roadie, or its first bytes are damaged: an exported MP4 is not one; where another copy of the show is whole, use that", path.display())]
    NotARecording {
        /// The file.
        path: PathBuf,
    },
}

/// The file that lists the groups of a recording: `NAME.index` beside `NAME.mp4`.
pub fn sidecar_path(recording: &Path) -> PathBuf {
    recording.with_extension("index")
}

/// The MP4 files in a directory (not below it), sorted by name; whether they are recordings, [`RecordingFile::open`]
/// says.
pub fn recordings_in(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let error = |source| FileError::Read { path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(error)? {
        let path = entry.map_err(error)?.path();
        let visible = path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."));
        if visible && path.extension().is_some_and(|extension| extension == "mp4") && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A recording of which the head was read.
#[derive(Clone, Debug)]
pub struct RecordingFile {
    path: PathBuf,
    start: Start,
    bytes: u64,
    finished: bool,
    growing: bool,
}

impl RecordingFile {
    /// Reads the head of a file.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let error = |source| FileError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(error)?;
        let found = file.metadata().map_err(error)?;
        if !found.is_file() {
            return Err(error(io::Error::new(ErrorKind::InvalidInput, "it is not a file")));
        }
        let bytes = found.len();
        if bytes == 0 {
            return Err(FileError::Empty { path: path.to_owned() });
        }
        // The recorder holds a lock as long as it writes.
        let locked = matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock));
        let mut head = Fragments::new(file.try_clone().map_err(error)?, Reader::new(), bytes.min(MAX_HEAD));
        let start = loop {
            match head.item() {
                Some(Ok(Item::Start(start))) => break start,
                Some(Ok(Item::Fragment(_))) | None => {
                    return Err(FileError::NotARecording { path: path.to_owned() });
                }
                Some(Err(source)) => return Err(error(source)),
            }
        };
        let finished = match head.reader.media_end() {
            Some(end) => has_tables(&mut file, end, bytes).map_err(error)?,
            None => false,
        };
        // A finished file may still be in the hands of the thread that syncs it.
        Ok(Self { path: path.to_owned(), start, bytes, finished, growing: locked && !finished })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is, what is in it, when it began.
    pub fn start(&self) -> &Start {
        &self.start
    }

    /// How long the file is, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it was ended properly: it is a plain MP4 file then.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether somebody is writing into it now (as far as its disk tells).
    pub fn is_growing(&self) -> bool {
        self.growing
    }

    /// All fragments, in the order in which they lie in the file.
    pub fn fragments(&self) -> Result<Fragments, FileError> {
        self.open_at(0).map(|file| Fragments::new(file, Reader::new(), self.bytes))
    }

    /// The fragments within a range that begins with one.
    pub fn fragments_in(&self, range: Range<u64>) -> Result<Fragments, FileError> {
        let left = range.end.saturating_sub(range.start);
        self.open_at(range.start).map(|file| Fragments::new(file, Reader::at(range.start), left))
    }

    /// What the sidecar says; `Err` says in words why there is nothing to be read.
    pub fn sidecar(&self) -> Result<Index, String> {
        let path = sidecar_path(&self.path);
        let name = path.display();
        let mut file = File::open(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => format!("{name} is missing"),
            _ => format!("{name} cannot be read: {error}"),
        })?;
        let mut text = Vec::new();
        file.by_ref().take(MAX_INDEX).read_to_end(&mut text).map_err(|error| format!("{name}: {error}"))?;
        let index = Index::parse(&text).map_err(|error| format!("{name} cannot be used: {error}"))?;
        if (index.broadcast.as_str(), index.zero) != (self.start.broadcast.as_str(), self.start.zero) {
            return Err(format!("{name} belongs to another recording"));
        }
        Ok(index)
    }

    /// What is in this file: the groups as the sidecar lists them, and what came after its last line from the file
    /// itself. Where there is no sidecar, or it is damaged, all is read from the file.
    ///
    /// The last groups of a file that is still being written have not ended.
    pub fn contents(&self) -> Result<Contents, FileError> {
        let index = self.sidecar().ok().filter(|index| index.damaged_lines == 0);
        let mut groups = index.map(|index| index.groups).unwrap_or_default();
        // A file that was cut off has less than its index lists.
        groups.retain(|entry| entry.range.end <= self.bytes);
        let known: HashSet<(TrackId, u64)> = groups.iter().map(|entry| (entry.track, entry.group)).collect();
        // From where the last group begins of the track that the sidecar left first.
        let last_of = |track: TrackId| {
            groups.iter().filter(|entry| entry.track == track).map(|entry| entry.range.start).max()
        };
        let from = self.start.tracks.iter().map(|track| last_of(track.id).unwrap_or(0)).min().unwrap_or(0);
        let fragments = match from {
            0 => self.fragments()?,
            from => self.fragments_in(from.min(self.bytes)..self.bytes)?,
        };
        let (mut indexer, mut end) = (Indexer::new(&self.start.tracks), self.start.zero);
        let unknown = |entry: &GroupEntry| !known.contains(&(entry.track, entry.group));
        for fragment in fragments {
            let fragment = fragment.map_err(|source| FileError::Read { path: self.path.clone(), source })?;
            groups.extend(indexer.fragment(&fragment).filter(unknown));
            if fragment.intact {
                end = end.max(fragment.capture_time + fragment.duration);
            }
        }
        if !self.growing {
            groups.extend(indexer.finish().into_iter().filter(unknown));
        }
        Ok(Contents { groups, end })
    }

    /// The intact frames of a group that lies in this range, by number.
    pub fn group(&self, range: Range<u64>, track: TrackId, group: u64) -> Result<Pieces, FileError> {
        let (mut pieces, mut bytes) = (Pieces::new(), 0);
        for fragment in self.fragments_in(range)? {
            let fragment = fragment.map_err(|source| FileError::Read { path: self.path.clone(), source })?;
            if (fragment.id.track, fragment.id.group) == (track, group) && fragment.intact {
                bytes += fragment.payload.len();
                if bytes > MAX_GROUP_BYTES {
                    break;
                }
                pieces.insert(fragment.id.frame, fragment);
            }
        }
        Ok(pieces)
    }

    fn open_at(&self, offset: u64) -> Result<File, FileError> {
        let open = || {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(offset))?;
            Ok(file)
        };
        open().map_err(|source| FileError::Read { path: self.path.clone(), source })
    }
}

/// Whether the sample tables lie where the media data ends, whole.
fn has_tables(file: &mut File, media_end: u64, bytes: u64) -> io::Result<bool> {
    if media_end.saturating_add(8) > bytes {
        return Ok(false);
    }
    let mut header = [0; 8];
    file.seek(SeekFrom::Start(media_end))?;
    file.read_exact(&mut header)?;
    let [a, b, c, d, kind @ ..] = header;
    let size = u64::from(u32::from_be_bytes([a, b, c, d]));
    Ok(kind == *b"moov" && media_end.saturating_add(size) <= bytes)
}

/// Reads fragments one after the other, whatever lies between them. It holds one of them, and a piece of the file.
#[derive(Debug)]
pub struct Fragments {
    file: File,
    reader: Reader,
    left: u64,
    piece: Vec<u8>,
}

impl Fragments {
    fn new(file: File, reader: Reader, left: u64) -> Self {
        Self { file, reader, left, piece: Vec::new() }
    }

    /// Bytes so far that were no fragment, and those of a torn end.
    pub fn damaged_bytes(&self) -> u64 {
        self.reader.damaged_bytes()
    }

    /// Bytes still to be read.
    pub fn bytes_left(&self) -> u64 {
        self.left
    }

    fn item(&mut self) -> Option<io::Result<Item>> {
        loop {
            if let Some(item) = self.reader.poll() {
                return Some(Ok(item));
            }
            if self.reader.ended() {
                return None;
            }
            if self.left == 0 {
                self.reader.end();
                continue;
            }
            self.piece.resize(PIECE.min(usize::try_from(self.left).unwrap_or(PIECE)), 0);
            match self.file.read(&mut self.piece) {
                Ok(0) => self.left = 0,
                Ok(count) => {
                    self.left -= count as u64;
                    self.reader.push(self.piece.get(..count).unwrap_or_default());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.left = 0;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Iterator for Fragments {
    type Item = io::Result<Fragment>;

    fn next(&mut self) -> Option<io::Result<Fragment>> {
        loop {
            match self.item()? {
                Ok(Item::Start(_)) => {}
                Ok(Item::Fragment(fragment)) => return Some(Ok(fragment)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
