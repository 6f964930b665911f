//! What the threads of one recorder know together.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::queue::QUEUE_BYTES;
use super::space::{Level, Outlook};
use super::{RecordState, RecordStatus};

/// A write that takes longer is told: the creator learns of it within two seconds.
const SLOW_WRITE: Duration = Duration::from_secs(1);

/// The same for a sync, of which a cheap disk takes its time.
const SLOW_SYNC: Duration = Duration::from_millis(1500);

/// So much waiting for a disk that takes data is a disk that takes it too slowly.
const SLOW_QUEUE: usize = QUEUE_BYTES / 4;

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
    /// The writer's thread is in the hands of the disk.
    pub writing_since: Option<Instant>,
    /// So is the sync thread.
    pub syncing_since: Option<Instant>,
    /// What room there is, if the disk says it.
    pub outlook: Option<Outlook>,
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

    /// How much room there is, as was found just now.
    pub fn outlook(&self, outlook: Option<Outlook>) {
        let mut progress = self.lock();
        let level = |outlook: Option<Outlook>| outlook.map(|outlook| outlook.level).unwrap_or_default();
        let before = level(progress.outlook);
        progress.outlook = outlook;
        if level(outlook) > before
            && let Some(warning) = progress.space_warning()
        {
            tracing::warn!(path = %progress.path.display(), "{warning}");
        }
    }

    pub fn status(&self) -> RecordStatus {
        let progress = self.lock();
        let queued = self.queued_bytes.load(Relaxed);
        RecordStatus {
            path: progress.path.clone(),
            parts: progress.parts.clone(),
            bytes: progress.bytes,
            seconds: progress.earlier_seconds + progress.seconds,
            frames: progress.frames,
            dropped: progress.dropped,
            state: progress.state(self.overflow.load(Relaxed)),
            free_bytes: progress.outlook.map(|outlook| outlook.space.free),
            time_left: progress.outlook.and_then(|outlook| outlook.left),
            warning: progress.warning(queued, Instant::now()),
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

    /// What the creator should know while nothing is lost yet; the worst first.
    fn warning(&self, queued: usize, now: Instant) -> Option<String> {
        let longer = |since: Option<Instant>, limit| {
            since.map(|since| now.saturating_duration_since(since)).filter(|spent| *spent >= limit)
        };
        let megabytes = queued as f64 / 1e6;
        if let Some(spent) = longer(self.writing_since, SLOW_WRITE) {
            return Some(format!(
                "this disk has not answered for {} s: {megabytes:.1} MB wait in memory, of at most {} MB; check its \
                 cable",
                spent.as_secs(),
                QUEUE_BYTES / 1_000_000
            ));
        }
        if queued >= SLOW_QUEUE {
            return Some(format!(
                "this disk is slower than the show: {megabytes:.1} MB wait in memory, and beyond {} MB frames are \
                 left out here; use a faster disk or a lower bit rate",
                QUEUE_BYTES / 1_000_000
            ));
        }
        if let Some(spent) = longer(self.syncing_since, SLOW_SYNC) {
            let seconds = spent.as_secs();
            return Some(format!(
                "this disk is slow to confirm: a power cut now would cost the last {seconds} s"
            ));
        }
        self.space_warning()
    }

    fn space_warning(&self) -> Option<String> {
        let outlook = self.outlook?;
        let minutes = outlook.left.map_or(0, |left| left.as_secs() / 60);
        match outlook.level {
            Level::Enough => None,
            Level::Soon => Some(format!("about {minutes} min left on this disk: free some space in time")),
            Level::Urgent => {
                Some(format!("{minutes} min left on this disk: free some space now, or this copy ends"))
            }
            Level::Full => Some(full(outlook)),
        }
    }

    /// Why nothing more may be written, where the disk is down to its reserve.
    pub fn full(&self) -> Option<String> {
        self.outlook.filter(|outlook| outlook.level == Level::Full).map(full)
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

fn full(outlook: Outlook) -> String {
    format!(
        "this disk is nearly full ({} MB left), so this copy has been ended in time; free some space, and it goes on \
         in a new file",
        outlook.space.free / 1_000_000
    )
}
