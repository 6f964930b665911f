//! What the threads of one recorder know together.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{RecordState, RecordStatus};

/// Files listed in a status: a disk that fails every two seconds makes so many in half an hour.
const MAX_PARTS: usize = 1000;

/// Locked for a few instructions at a time, never during IO.
pub struct Shared {
    progress: Mutex<Progress>,
    /// Bytes of the frames between the caller and the file.
    pub queued_bytes: AtomicUsize,
    /// The queue is full. Outside of the lock, so that the usual push does not wait for the writer.
    pub overflow: AtomicBool,
}

#[derive(Default)]
pub struct Progress {
    pub path: PathBuf,
    pub parts: Vec<PathBuf>,
    pub bytes: u64,
    /// Of finished files.
    pub earlier_seconds: f64,
    /// Of the present file.
    pub seconds: f64,
    pub frames: u64,
    pub dropped: u64,
    /// Nothing can be written.
    pub failed: Option<String>,
    /// All frames are written; tables and the last sync may be missing.
    pub whole: bool,
    /// The stop did not wait for the end.
    pub gave_up: Option<&'static str>,
}

impl Shared {
    pub fn new(dir: &Path) -> Self {
        let progress = Progress { path: dir.to_owned(), ..Progress::default() };
        Self {
            progress: Mutex::new(progress),
            queued_bytes: AtomicUsize::new(0),
            overflow: AtomicBool::new(false),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Progress> {
        // A panic elsewhere leaves numbers that are still true.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever the writer gets on.
    pub fn movement(&self) -> (u64, usize) {
        (self.lock().bytes, self.queued_bytes.load(Relaxed))
    }

    /// The stop does not wait any longer.
    pub fn give_up(&self) {
        let mut progress = self.lock();
        let reason = match progress.whole {
            true => {
                "all frames are written, but the disk is slow to confirm it: leave it plugged in for a while"
            }
            false => "the disk was too slow at the end: the last frames may be missing",
        };
        tracing::error!(path = %progress.path.display(), "{reason}");
        progress.gave_up = Some(reason);
    }

    pub fn status(&self) -> RecordStatus {
        let progress = self.lock();
        RecordStatus {
            path: progress.path.clone(),
            parts: progress.parts.clone(),
            bytes: progress.bytes,
            seconds: progress.earlier_seconds + progress.seconds,
            frames: progress.frames,
            dropped: progress.dropped,
            state: progress.state(self.overflow.load(Relaxed)),
        }
    }
}

impl Progress {
    fn state(&self, overflow: bool) -> RecordState {
        match (&self.failed, self.gave_up) {
            (Some(reason), _) => RecordState::Failed { reason: reason.clone() },
            (None, Some(reason)) => RecordState::Degraded { reason: reason.into() },
            (None, None) if overflow => RecordState::Degraded {
                reason: format!("the disk is too slow: {} frames are missing so far", self.dropped),
            },
            (None, None) => RecordState::Recording,
        }
    }

    /// A new file is being written.
    pub fn begin_part(&mut self, path: PathBuf) {
        self.path = path.clone();
        if self.parts.len() == MAX_PARTS {
            self.parts.remove(0);
        }
        self.parts.push(path);
        self.failed = None;
    }

    /// The present file gets nothing more.
    pub fn end_part(&mut self) {
        self.earlier_seconds += std::mem::take(&mut self.seconds);
    }
}
