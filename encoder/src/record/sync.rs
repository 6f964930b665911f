//! The thread that syncs: so that a power cut costs half a second, and no write ever waits for it.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::disk::Output;

/// How often. Every 200 ms would lose less at a power cut (FACTS: 0 to 200 ms against 166 to 400) for
/// more than twice the flushes, which wear flash and slow down both copies on a cheap disk.
const INTERVAL: Duration = Duration::from_millis(500);

/// Finished files that wait for their last sync. More are closed without one: they lie at most
/// a few seconds back, and the system writes them out by itself.
const MAX_RETIRED: usize = 8;

/// The writer's handle. Dropping it ends the thread.
pub struct Syncer(Arc<Slot>);

struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    current: Option<Arc<dyn Output>>,
    retired: Vec<Arc<dyn Output>>,
    error: Option<io::Error>,
    ended: bool,
}

impl Syncer {
    pub fn spawn() -> io::Result<Self> {
        let slot = Arc::new(Slot { state: Mutex::default(), changed: Condvar::new() });
        let shared = slot.clone();
        std::thread::Builder::new().name("record-sync".into()).spawn(move || run(&shared))?;
        Ok(Self(slot))
    }

    /// Syncs this file from now on; the one before gets its last sync.
    pub fn switch_to(&self, file: Option<Arc<dyn Output>>) {
        let mut state = self.0.lock();
        state.error = None;
        let last = std::mem::replace(&mut state.current, file);
        if state.retired.len() < MAX_RETIRED {
            state.retired.extend(last);
        }
        drop(state);
        self.0.changed.notify_one();
    }

    /// What went wrong with the present file since the last call.
    pub fn take_error(&self) -> Option<io::Error> {
        self.0.lock().error.take()
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_one();
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(slot: &Slot) {
    let mut state = slot.lock();
    loop {
        let (current, retired) = (state.current.clone(), std::mem::take(&mut state.retired));
        if state.ended && current.is_none() && retired.is_empty() {
            return;
        }
        if state.ended {
            state.current = None;
        }
        drop(state);
        for file in retired {
            if let Err(error) = file.sync() {
                tracing::warn!(%error, "the last sync of a finished recording failed");
            }
        }
        let failed = current.as_ref().and_then(|file| check(&**file).err());
        state = slot.lock();
        // The file may have been switched meanwhile: then its error is of no use any more.
        if let (Some(current), Some(error)) = (&current, failed)
            && state.current.as_ref().is_some_and(|now| Arc::ptr_eq(now, current))
        {
            state.error = Some(error);
        }
        if !state.ended && state.retired.is_empty() {
            state = slot.changed.wait_timeout(state, INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn check(file: &dyn Output) -> io::Result<()> {
    file.sync()?;
    if file.is_removed()? {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the file was removed"));
    }
    Ok(())
}
