//! The edge's own copy of each show, on its disk (`--keep DIR`).
//!
//! What comes live is written as it comes, into a file like the recorder's; groups that live lost come by
//! [`crate::backfill`] and go into a second file, `...-fill.mp4`. Each file has its index, which lists the groups
//! that are on the disk and proven by digest; together they are the show, and `roadie recordings` makes one file of
//! them. A relay that starts again, or a later session of the same broadcast, goes on from the indexes.
//!
//! Everything here is on one thread per show behind a bounded queue: a disk that is slow, full or gone costs the kept
//! copy only, and what was left out is asked for again.

mod disk;
mod fill;
mod live;
mod part;
mod task;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use media::{Frame, Track};
use serde::Serialize;
use tokio::sync::Notify;

use crate::backfill::wire::WINDOW;
use crate::clock::Clock;

/// Bytes that wait for a show's thread: more than a window of groups, and 10 s of 6 Mb/s. What does not fit is left
/// out, and comes by backfill.
const MAX_QUEUED_BYTES: usize = 16 << 20;

/// The same in frames and objects, against many small ones.
const MAX_QUEUED: usize = 4096;

/// Who waits for the threads looks so often.
const LOOK: Duration = Duration::from_millis(20);

/// Messages that ask for groups, and that the session's task has not taken: each asks for one group at least.
const MAX_WANTS: usize = WINDOW;

/// Why a show is not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// The directory does not exist and cannot be made.
    #[error("cannot create the directory {} for kept shows: {source}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Something else has that name.
    #[error("{} is not a directory: name a directory with --keep", path.display())]
    NotADirectory {
        /// What was given.
        path: PathBuf,
    },
    /// No file can be created in it.
    #[error("cannot write into the directory {} for kept shows: {source}", path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The file format has no place for it.
    #[error("a show with codec {0} cannot be kept: use H.264, VP8 or AV1, and Opus")]
    Codec(String),
    /// The system gives no thread.
    #[error("cannot start the thread that keeps the show: {0}")]
    Thread(io::Error),
}

/// How a kept copy stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeepStatus {
    /// Groups of the recording that are on the disk, proven by digest.
    pub kept: u64,
    /// Groups that are not yet.
    pub missing: u64,
    /// Groups that the venue has lost, too.
    pub gone: u64,
    /// The show is over, and the copy is whole.
    pub whole: bool,
    /// Groups that came by backfill,
    pub healed: u64,
    /// with so many bytes.
    pub healed_bytes: u64,
    /// What came from the venue and could not be used.
    pub refused: u64,
    /// Frames and objects that the disk was too slow for.
    pub left_out: u64,
    /// Bytes in this session's files.
    pub bytes: u64,
    /// Why nothing is written now.
    pub failed: Option<String>,
}

/// A directory for the shows of one relay.
#[derive(Clone)]
pub struct Keep {
    dir: Arc<Path>,
    clock: Clock,
    /// Whose turn it is to keep a broadcast: sessions follow each other, but their disks may lag behind.
    turns: Arc<Mutex<HashMap<String, Arc<Mutex<()>>>>>,
}

/// What is to be kept.
#[derive(Clone, Debug)]
pub(crate) struct Show {
    dir: Arc<Path>,
    broadcast: String,
    tracks: Vec<Track>,
    /// What comes live comes within this; `None`: nothing does.
    deadline: Option<Duration>,
    /// The venue tells what its recording has.
    backfill: bool,
}

enum Input {
    Frame(Frame),
    Object(Bytes),
}

/// Messages for the venue.
#[derive(Default)]
struct Outbox {
    /// At most [`MAX_WANTS`]. What is forgotten is asked for again.
    wants: VecDeque<Bytes>,
    /// A newer one says all that the older one did.
    kept: Option<Bytes>,
}

#[derive(Default)]
struct Shared {
    queued: AtomicUsize,
    left_out: AtomicU64,
    outbox: Mutex<Outbox>,
    status: Mutex<KeepStatus>,
    wake: Notify,
}

/// Looks at a kept copy from anywhere.
#[derive(Clone)]
pub struct KeepWatch(Arc<Shared>);

/// Keeps one session of a show, until it is dropped: then the files are ended in the background.
pub struct Keeper {
    inputs: SyncSender<Input>,
    shared: Arc<Shared>,
}

impl Keep {
    /// Makes the directory where it is missing, and tries it out.
    ///
    /// # Errors
    ///
    /// When nothing can be written there.
    pub fn open(dir: &Path, clock: Clock) -> Result<Self, KeepError> {
        disk::prepare(dir)?;
        Ok(Self { dir: dir.into(), clock, turns: Arc::default() })
    }

    /// Begins to keep a session of a broadcast, whose name has been checked. What comes live comes within `deadline`;
    /// `None`: nothing does.
    ///
    /// # Errors
    ///
    /// When the file format does not hold its codecs, or the system gives no thread.
    pub fn begin(
        &self,
        broadcast: &str,
        tracks: Vec<Track>,
        deadline: Option<Duration>,
        backfill: bool,
    ) -> Result<Keeper, KeepError> {
        for track in &tracks {
            let unsupported = |codec: &str| KeepError::Codec(codec.chars().take(32).collect());
            track.config.check_storable().map_err(unsupported)?;
        }
        let show =
            Show { dir: self.dir.clone(), broadcast: broadcast.to_owned(), tracks, deadline, backfill };
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(broadcast.to_owned()).or_default().clone()
        };
        let (inputs, queue) = sync_channel(MAX_QUEUED);
        let shared = Arc::new(Shared::default());
        let (clock, of_thread) = (self.clock, shared.clone());
        std::thread::Builder::new()
            .name("keep".into())
            .spawn(move || task::run(show, clock, of_thread, &turn, &queue))
            .map_err(KeepError::Thread)?;
        Ok(Keeper { inputs, shared })
    }

    /// Resolves when no show is being kept.
    pub async fn idle(&self) {
        // The threads tell nobody when they are done; nobody else waits for them.
        while self.is_busy() {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is_busy(&self) -> bool {
        let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.values().any(|turn| Arc::strong_count(turn) > 1)
    }
}

impl Keeper {
    /// A frame that came live. Never blocks.
    pub fn frame(&self, frame: &Frame) {
        self.put(Input::Frame(frame.clone()));
    }

    /// An object from the venue. Never blocks.
    pub fn object(&self, object: Bytes) {
        self.put(Input::Object(object));
    }

    fn put(&self, input: Input) {
        let bytes = input.len();
        let fits = self.shared.queued.load(Relaxed) + bytes <= MAX_QUEUED_BYTES;
        if fits {
            self.shared.queued.fetch_add(bytes, Relaxed);
            if self.inputs.try_send(input).is_ok() {
                return;
            }
            self.shared.queued.fetch_sub(bytes, Relaxed);
        }
        self.shared.left_out.fetch_add(1, Relaxed);
    }

    /// Hands over the messages for the venue, until one is not taken; that one stays.
    pub fn messages(&self, mut take: impl FnMut(Bytes) -> bool) {
        let mut outbox = self.shared.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(message) = outbox.wants.front() {
            if !take(message.clone()) {
                return;
            }
            outbox.wants.pop_front();
        }
        outbox.kept = outbox.kept.take().filter(|message| !take(message.clone()));
    }

    /// Resolves when there may be a message for the venue.
    pub async fn woken(&self) {
        self.shared.wake.notified().await;
    }

    /// For those who only want to look.
    pub fn watch(&self) -> KeepWatch {
        KeepWatch(self.shared.clone())
    }
}

impl KeepWatch {
    /// How the copy stands.
    pub fn status(&self) -> KeepStatus {
        let mut status = self.0.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status.left_out = self.0.left_out.load(Relaxed);
        status
    }
}

#[cfg(test)]
mod tests;
