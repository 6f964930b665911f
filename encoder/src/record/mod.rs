//! One copy of the show on one disk: a [`Recorder`] per directory.
//!
//! Each frame goes to the file in one write as it comes, on a thread of its own behind a bounded
//! queue, so a killed process loses what was in the queue (usually nothing) and the file plays up to its
//! last whole frame; a second thread syncs the file, so a power cut loses half a second. The
//! format is [`media::cmaf`].
//!
//! Beside each `NAME.mp4` grows `NAME.index`, which lists the groups that are whole with their digests
//! ([`media::cmaf::index`]); [`Archive`] reads groups back, while they are being written too.
//!
//! A disk that is slow, full or gone degrades its own copy, never the live path or another copy:
//! * slow: the queue takes it; when that is full, frames are left out up to the next keyframe;
//! * nearly full: the copy ends properly before the disk is full, and goes on when there is space again;
//! * full or gone: the copy fails, loudly, and goes on in a new file at a later keyframe when it can.
//!
//! ```no_run
//! # use roadie_encoder as encoder;
//! # fn example(tracks: &[media::Track], frames: Vec<media::Frame>) -> Result<(), encoder::record::RecordError> {
//! use encoder::record::Recorder;
//! let recorder = Recorder::start("/mnt/a".as_ref(), "tour/london", tracks)?;
//! for frame in &frames {
//!     recorder.write(frame);
//! }
//! println!("{:?}", recorder.finish());
//! # Ok(()) }
//! ```

mod archive;
mod dirs;
mod disk;
mod early;
mod file;
mod groups;
mod part;
mod progress;
mod queue;
mod space;
mod sync;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use media::cmaf::CmafError;
use media::{Frame, Track};

pub use archive::{Archive, ArchiveError};
pub use dirs::check_dirs;
use disk::{Directory, Disk};
pub use file::{Contents, FileError, Fragments, Pieces, RecordingFile, recordings_in, sidecar_path};
pub(crate) use groups::GroupLog;
use progress::Shared;
use queue::Queue;

/// A stop waits so long for a disk that makes no progress at all.
const FINISH_PATIENCE: Duration = Duration::from_secs(1);

/// A stop never waits longer, so that the end of the show does not hang on a slow disk.
const FINISH_LIMIT: Duration = Duration::from_millis(2500);

/// How often a stop looks whether the disk makes progress.
const FINISH_STEP: Duration = Duration::from_millis(50);

/// How a copy is doing now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordState {
    /// Frames reach the file (or none has come yet).
    Recording,
    /// Frames are being left out of this copy; it goes on by itself.
    Degraded {
        /// Why.
        reason: String,
    },
    /// Nothing is written. It tries again at the next keyframe.
    Failed {
        /// Why, and what helps.
        reason: String,
    },
}

/// What is known about a copy. The numbers are totals over all of its files.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordStatus {
    /// The file, or the directory where there is no file yet.
    pub path: PathBuf,
    /// All files of this copy, in order: more than one after a failure or a change of the picture's
    /// size. At most 1000 are listed, the newest.
    pub parts: Vec<PathBuf>,
    /// Bytes written.
    pub bytes: u64,
    /// Length of the recorded show.
    pub seconds: f64,
    /// Video frames written.
    pub frames: u64,
    /// Frames (of all tracks) that are missing in this copy since its first one.
    pub dropped: u64,
    /// How it is doing.
    pub state: RecordState,
    /// Bytes that are free on its disk, if the disk says so.
    pub free_bytes: Option<u64>,
    /// How long these last at the rate of the last minute, less what is kept free at the end (200 MB, on a small disk
    /// a twentieth). `None` in the first seconds.
    pub time_left: Option<Duration>,
    /// What the creator should know and do while nothing is missing yet: less than 30 min or 5 min of space, a disk
    /// that does not answer or is slower than the show. Its figures change, its cause does so rarely.
    pub warning: Option<String>,
}

impl RecordStatus {
    /// The status of a copy in `dir` of which nothing is written.
    pub fn empty(dir: &Path, state: RecordState) -> Self {
        let path = dir.to_owned();
        RecordStatus {
            path,
            parts: Vec::new(),
            bytes: 0,
            seconds: 0.0,
            frames: 0,
            dropped: 0,
            state,
            free_bytes: None,
            time_left: None,
            warning: None,
        }
    }
}

/// Why a recording cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The directory does not exist and cannot be made.
    #[error("cannot create the recording directory {}: {source}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Something else has that name.
    #[error("{} is not a directory: name a directory to record into", path.display())]
    NotADirectory {
        /// What was given.
        path: PathBuf,
    },
    /// No file can be created in it.
    #[error("cannot write into the recording directory {}: {source}", path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Two copies in one place protect from nothing.
    #[error("{} and {} are the same directory: give each copy its own, on disks of their own", path.display(), first.display())]
    Duplicate {
        /// The later one.
        path: PathBuf,
        /// The earlier one.
        first: PathBuf,
    },
    /// A track has a codec that the file cannot hold.
    #[error("this show cannot be recorded: {0}")]
    Codec(CmafError),
    /// The system gives no thread.
    #[error("cannot start the recording thread: {0}")]
    Thread(std::io::Error),
}

/// Writes one copy of the show.
///
/// All methods return at once, except [`Recorder::finish`]. Dropping it without `finish` lets the
/// thread write what is queued and end the file in the background.
pub struct Recorder {
    queue: Queue,
    shared: Arc<Shared>,
    groups: Arc<GroupLog>,
    done: Receiver<()>,
}

impl Recorder {
    /// Starts a copy in `dir`, which is created where it is missing. The file appears with the first
    /// video keyframe (in a show without pictures, with the first packet) and is named
    /// `BROADCAST-YYYYMMDDTHHMMSSZ.mp4`, after the first frame's time; no file is ever overwritten.
    pub fn start(dir: &Path, broadcast: &str, tracks: &[Track]) -> Result<Recorder, RecordError> {
        dirs::prepare(dir)?;
        Self::start_on(Directory::new(dir), dir, broadcast, tracks)
    }

    /// With a disk of the caller's choice.
    fn start_on(
        disk: impl Disk,
        dir: &Path,
        broadcast: &str,
        tracks: &[Track],
    ) -> Result<Recorder, RecordError> {
        tracks.iter().try_for_each(check_codec)?;
        let (shared, groups) = (Arc::new(Shared::new(dir)), Arc::new(GroupLog::default()));
        let (queue, frames) = queue::new(shared.clone(), tracks);
        let done = writer::spawn(Arc::new(disk), broadcast, tracks, frames, shared.clone(), groups.clone())
            .map_err(RecordError::Thread)?;
        Ok(Recorder { queue, shared, groups, done })
    }

    /// The groups that are whole and written, as they become so.
    pub(crate) fn groups(&self) -> Arc<GroupLog> {
        self.groups.clone()
    }

    /// Takes a frame. Never blocks: when the queue is full this copy goes without the frame, and
    /// without those that need it.
    pub fn write(&self, frame: &Frame) {
        self.queue.push(frame);
    }

    /// How the copy is doing.
    pub fn status(&self) -> RecordStatus {
        self.shared.status()
    }

    /// Writes what is queued, makes a plain MP4 file of it, syncs it. Takes 2.5 s at most, and 1 s where the
    /// disk does not move at all; then the file stays as it is, and the status says so.
    pub fn finish(self) -> RecordStatus {
        let Recorder { queue, shared, done, .. } = self;
        drop(queue);
        let started = Instant::now();
        let (mut seen, mut moved) = (shared.movement(), started);
        loop {
            match done.recv_timeout(FINISH_STEP) {
                Ok(()) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    shared.give_up();
                    break;
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now = shared.movement();
                    if now != seen {
                        (seen, moved) = (now, Instant::now());
                    }
                    if moved.elapsed() >= FINISH_PATIENCE || started.elapsed() >= FINISH_LIMIT {
                        shared.give_up();
                        break;
                    }
                }
            }
        }
        shared.status()
    }
}

fn check_codec(track: &Track) -> Result<(), RecordError> {
    let unsupported = |codec: &str| RecordError::Codec(CmafError::UnsupportedCodec(codec.to_owned()));
    track.config.check_storable().map_err(unsupported)
}

#[cfg(test)]
mod power_cut;
#[cfg(test)]
mod tests;
