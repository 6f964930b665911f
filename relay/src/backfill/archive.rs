//! The venue's recording, as backfill reads it, and the thread that does: a disk may block for half a minute,
//! and the bond must not.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use media::{Frame, Track};
use tokio::sync::mpsc;

use super::{Entry, GroupId};

/// A recording, while it is being made or afterwards. Its methods may block.
pub trait Archive: Send + Sync + 'static {
    /// The tracks of the show.
    fn tracks(&self) -> Vec<Track>;

    /// The groups that are finished, in the order in which they were, from number `from` on. The list only grows.
    fn finished(&self, from: usize) -> Vec<Entry>;

    /// The frames of a group, from the first copy of it that is intact.
    ///
    /// # Errors
    ///
    /// When there is none, in words.
    fn read(&self, id: GroupId) -> Result<Vec<Frame>, String>;
}

/// How often the archive is asked for what is new.
const LOOK: Duration = Duration::from_millis(500);

/// Answers that the bond's task has not taken. One group is read at a time, and the list of what is new comes in
/// one piece.
const ANSWERS: usize = 2;

/// What the reader tells.
#[derive(Debug)]
pub enum Answer {
    /// These groups are finished, too.
    Finished(Vec<Entry>),
    /// The recording has ended, and all its groups were told.
    Complete,
    /// A group that was asked for; `None` where it cannot be read.
    Group(GroupId, Option<Vec<Frame>>),
}

/// The thread that reads, at its other end. It ends when this is dropped, as soon as the disk lets it.
pub struct Reader {
    requests: SyncSender<GroupId>,
    /// Its answers.
    pub answers: mpsc::Receiver<Answer>,
}

impl Reader {
    /// Starts the thread. `ended`: the recording has ended, and nothing will be added to it any more.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start(archive: Arc<dyn Archive>, ended: Arc<AtomicBool>) -> io::Result<Self> {
        let (requests, queue) = sync_channel(1);
        let (sender, answers) = mpsc::channel(ANSWERS);
        std::thread::Builder::new()
            .name("archive".into())
            .spawn(move || drop(read(&*archive, &ended, &queue, &sender)))?;
        Ok(Self { requests, answers })
    }

    /// Asks for a group. One at a time: false where the one before is not answered.
    pub fn ask(&self, id: GroupId) -> bool {
        self.requests.try_send(id).is_ok()
    }
}

/// Until one of the channels is closed; that is the error.
fn read(
    archive: &dyn Archive,
    ended: &AtomicBool,
    requests: &Receiver<GroupId>,
    answers: &mpsc::Sender<Answer>,
) -> Result<(), mpsc::error::SendError<Answer>> {
    let (mut from, mut complete) = (0, false);
    let mut look = Instant::now();
    loop {
        let now = Instant::now();
        if now >= look && !complete {
            look = now + LOOK;
            // In this order: what is finished before the end is not missed.
            let last = ended.load(Ordering::Acquire);
            let finished = archive.finished(from);
            from += finished.len();
            complete = last && finished.is_empty();
            if complete {
                answers.blocking_send(Answer::Complete)?;
            } else if !finished.is_empty() {
                answers.blocking_send(Answer::Finished(finished))?;
            }
        }
        match requests.recv_timeout(LOOK) {
            Ok(id) => {
                let frames = archive.read(id);
                if let Err(error) = &frames {
                    tracing::warn!(track = id.track.0, group = id.group, %error, "not readable, and so not healed");
                }
                answers.blocking_send(Answer::Group(id, frames.ok()))?;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}
