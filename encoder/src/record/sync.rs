//! The thread that syncs: so that a power cut costs half a second, and no write ever waits for it. It also looks how
//! much room there is on the disk, which may block just as long.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::disk::{Disk, Output};
use super::progress::Shared;
use super::space::Forecast;

/// From the start of one sync to that of the next: with the time that a sync takes itself, a power cut costs less than
/// half a second. Every 200 ms would lose less (FACTS: 0 to 200 ms against 166 to 400) for twice the flushes, which
/// wear flash and slow down both copies on a cheap disk.
const INTERVAL: Duration = Duration::from_millis(400);

/// Finished files that wait for their last sync. More are closed without one: they lie at most
/// a few seconds back, and the system writes them out by itself.
const MAX_RETIRED: usize = 8;

/// A recording and the index beside it.
#[derive(Clone)]
pub struct Files {
    pub media: Arc<dyn Output>,
    pub index: Option<Arc<dyn Output>>,
}

/// The writer's handle. Dropping it ends the thread.
pub struct Syncer(Arc<Slot>);

struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// At most two: the file that is written, and for a moment the one before it.
    current: Vec<Files>,
    retired: Vec<Files>,
    error: Option<io::Error>,
    ended: bool,
}

impl Syncer {
    /// Looks at the disk once and starts the thread.
    pub fn spawn(disk: Arc<dyn Disk>, shared: Arc<Shared>) -> io::Result<Self> {
        let slot = Arc::new(Slot { state: Mutex::default(), changed: Condvar::new() });
        let mut look = Look { disk, shared, forecast: Forecast::default() };
        look.look();
        let thread_slot = slot.clone();
        std::thread::Builder::new().name("record-sync".into()).spawn(move || run(&thread_slot, &mut look))?;
        Ok(Self(slot))
    }

    /// Syncs these files too from now on.
    pub fn watch(&self, files: Files) {
        let mut state = self.0.lock();
        state.error = None;
        state.current.push(files);
        drop(state);
        self.0.changed.notify_one();
    }

    /// These files get their last sync.
    pub fn retire(&self, media: &Arc<dyn Output>) {
        let mut state = self.0.lock();
        if let Some(at) = state.current.iter().position(|files| Arc::ptr_eq(&files.media, media)) {
            let files = state.current.remove(at);
            if state.retired.len() < MAX_RETIRED {
                state.retired.push(files);
            }
        }
        if state.current.is_empty() {
            state.error = None;
        }
        drop(state);
        self.0.changed.notify_one();
    }

    /// What went wrong with the present files since the last call.
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

struct Look {
    disk: Arc<dyn Disk>,
    shared: Arc<Shared>,
    forecast: Forecast,
}

impl Look {
    fn look(&mut self) {
        let outlook = match self.disk.space() {
            Ok(space) => {
                let written = self.shared.lock().bytes;
                Some(self.forecast.look(Instant::now(), written, space))
            }
            Err(error) => {
                tracing::debug!(%error, "the disk does not say how much room it has");
                None
            }
        };
        self.shared.outlook(outlook);
    }
}

fn run(slot: &Slot, look: &mut Look) {
    let mut state = slot.lock();
    loop {
        let (current, retired) = (state.current.clone(), std::mem::take(&mut state.retired));
        if state.ended && current.is_empty() && retired.is_empty() {
            return;
        }
        if state.ended {
            state.current.clear();
        }
        drop(state);
        let begun = Instant::now();
        look.shared.lock().syncing_since = Some(begun);
        for files in retired {
            if let Err(error) = sync(&files) {
                tracing::warn!(%error, "the last sync of a finished recording failed");
            }
        }
        let mut failed = None;
        for files in current {
            if let Err(error) = check(&files) {
                failed = Some((files, error));
            }
        }
        look.look();
        look.shared.lock().syncing_since = None;
        state = slot.lock();
        // The file may have been retired meanwhile: then its error is of no use any more.
        if let Some((files, error)) = failed
            && state.current.iter().any(|now| Arc::ptr_eq(&now.media, &files.media))
        {
            state.error = Some(error);
        }
        if !state.ended && state.retired.is_empty() {
            let pause = INTERVAL.saturating_sub(begun.elapsed());
            state = slot.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The media first: what the index lists is there.
fn sync(files: &Files) -> io::Result<()> {
    files.media.sync()?;
    if let Some(Err(error)) = files.index.as_ref().map(|index| index.sync()) {
        tracing::debug!(%error, "the index is not synced; it can be made again from the recording");
    }
    Ok(())
}

fn check(files: &Files) -> io::Result<()> {
    sync(files)?;
    if files.media.is_removed()? {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the file was removed"));
    }
    Ok(())
}
