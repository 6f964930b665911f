//! One recorder behind the tap: started on a thread of its own, because a slow disk must not hold
//! up the encoder, and ended within a bounded time.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use media::{Frame, Track};

use crate::record::{GroupLog, RecordState, RecordStatus, Recorder};

/// Frames kept while a recorder opens its file: about 3 s. Of a disk that needs longer the copy
/// begins later: what was kept is let go, and keeping starts afresh.
const STARTING_FRAMES: usize = 240;

/// How long the end of a show waits for the recorders. A disk that hangs for longer keeps what it
/// has synced, and its thread is left to itself.
pub(super) const FINISH_LIMIT: Duration = Duration::from_secs(3);

pub(super) struct Copy {
    dir: PathBuf,
    broadcast: String,
    slot: Mutex<Slot>,
    ended: Condvar,
    /// What the copy holds, from its start on and after its end.
    groups: OnceLock<Arc<GroupLog>>,
}

enum Slot {
    /// Tracks are not known yet.
    Waiting,
    /// The recorder is opening its file.
    Starting {
        kept: Vec<Frame>,
        finish: bool,
    },
    Running(Recorder),
    /// The last frames are being written.
    Finishing(RecordStatus),
    Ended(RecordStatus),
}

impl Copy {
    pub(super) fn new(dir: PathBuf, broadcast: &str) -> Self {
        Copy {
            dir,
            broadcast: broadcast.to_owned(),
            slot: Mutex::new(Slot::Waiting),
            ended: Condvar::new(),
            groups: OnceLock::new(),
        }
    }

    /// What the copy holds, once it has begun.
    pub(super) fn groups(&self) -> Option<Arc<GroupLog>> {
        self.groups.get().cloned()
    }

    /// Starts the recorder, in the background.
    pub(super) fn start(self: &Arc<Self>, tracks: &[Track]) {
        *self.lock() = Slot::Starting { kept: Vec::new(), finish: false };
        let (copy, tracks) = (self.clone(), tracks.to_vec());
        let thread = std::thread::Builder::new().name("record-start".into());
        if let Err(error) = thread.spawn(move || copy.open(&tracks)) {
            self.end(self.failed(error.to_string()));
        }
    }

    /// Takes a frame; never blocks.
    pub(super) fn write(&self, frame: &Frame) {
        match &mut *self.lock() {
            Slot::Running(recorder) => recorder.write(frame),
            Slot::Starting { kept, .. } => {
                if kept.len() >= STARTING_FRAMES {
                    kept.clear();
                }
                kept.push(frame.clone());
            }
            Slot::Waiting | Slot::Finishing(_) | Slot::Ended(_) => {}
        }
    }

    pub(super) fn status(&self) -> RecordStatus {
        match &*self.lock() {
            Slot::Running(recorder) => recorder.status(),
            Slot::Finishing(status) | Slot::Ended(status) => status.clone(),
            Slot::Waiting | Slot::Starting { .. } => self.empty(RecordState::Recording),
        }
    }

    /// Ends the copy, in the background.
    pub(super) fn finish(self: &Arc<Self>) {
        let mut slot = self.lock();
        match &mut *slot {
            Slot::Starting { finish, .. } => *finish = true,
            Slot::Waiting => *slot = Slot::Ended(self.empty(RecordState::Recording)),
            Slot::Finishing(_) | Slot::Ended(_) => {}
            Slot::Running(recorder) => {
                let status = recorder.status();
                let Slot::Running(recorder) = std::mem::replace(&mut *slot, Slot::Finishing(status)) else {
                    return;
                };
                drop(slot);
                let copy = self.clone();
                let thread = std::thread::Builder::new().name("record-finish".into());
                if let Err(error) = thread.spawn(move || copy.end(recorder.finish())) {
                    self.end(self.failed(error.to_string()));
                }
            }
        }
    }

    /// Waits until the copy has ended, at most until `deadline`.
    pub(super) fn wait(&self, deadline: Instant) {
        let mut slot = self.lock();
        while !matches!(&*slot, Slot::Ended(_)) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::error!(dir = %self.dir.display(), "the disk hangs: the recording is left as it is");
                return;
            }
            slot = self.ended.wait_timeout(slot, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn open(&self, tracks: &[Track]) {
        let recorder = match Recorder::start(&self.dir, &self.broadcast, tracks) {
            Ok(recorder) => recorder,
            Err(error) => {
                tracing::error!(dir = %self.dir.display(), %error, "no recording here");
                return self.end(self.failed(error.to_string()));
            }
        };
        self.groups.get_or_init(|| recorder.groups());
        let mut slot = self.lock();
        let finish = match &mut *slot {
            Slot::Starting { kept, finish } => {
                kept.drain(..).for_each(|frame| recorder.write(&frame));
                *finish
            }
            _ => true,
        };
        if finish {
            drop(slot);
            self.end(recorder.finish());
        } else {
            *slot = Slot::Running(recorder);
        }
    }

    fn end(&self, status: RecordStatus) {
        *self.lock() = Slot::Ended(status);
        self.ended.notify_all();
    }

    fn failed(&self, reason: String) -> RecordStatus {
        self.empty(RecordState::Failed { reason })
    }

    fn empty(&self, state: RecordState) -> RecordStatus {
        RecordStatus::empty(&self.dir, state)
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        // A panic elsewhere leaves a slot that is still true.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
