//! What the owner is told, and waits for.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{EncoderError, EncoderEvent};

/// Notes that wait for the owner; beyond it the newest are dropped: whoever does not look misses them.
const MAX_NOTES: usize = 64;

/// Between GStreamer's threads and the owner. Of ends it holds one, and of failures the first; whatever
/// fails after that is a consequence.
#[derive(Debug, Default)]
pub(crate) struct Events {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<EncoderEvent>,
    ended: bool,
    failed: bool,
    ready: bool,
}

impl Events {
    /// Frames of both tracks flow.
    pub(crate) fn ready(&self) {
        self.lock().ready = true;
        self.changed.notify_all();
    }

    pub(crate) fn end_of_stream(&self) {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.ended, true) {
            state.queue.push_back(EncoderEvent::EndOfStream);
        }
        drop(state);
        self.changed.notify_all();
    }

    pub(crate) fn fail(&self, error: EncoderError) {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.failed, true) {
            // While it starts, the owner gets it as the result.
            if state.ready {
                tracing::error!(%error, "the encoder failed");
            }
            state.queue.push_back(EncoderEvent::Failed(error));
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Something that the owner should know, while the show goes on.
    pub(crate) fn note(&self, event: EncoderEvent) {
        let mut state = self.lock();
        if state.queue.len() < MAX_NOTES {
            state.queue.push_back(event);
        }
        drop(state);
        self.changed.notify_all();
    }

    pub(crate) fn poll(&self) -> Option<EncoderEvent> {
        self.lock().queue.pop_front()
    }

    /// The next event, waiting for it at most `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) -> Option<EncoderEvent> {
        self.wait_for(timeout, |state| state.queue.pop_front())
    }

    /// Waits until frames flow. `Some(Err)`: it failed before; `None`: nothing happened in time.
    pub(crate) fn wait_ready(&self, timeout: Duration) -> Option<Result<(), EncoderError>> {
        self.wait_for(timeout, |state| {
            if state.ready {
                return Some(Ok(()));
            }
            let failed = |event: &EncoderEvent| matches!(event, EncoderEvent::Failed(_));
            match state.queue.iter().position(failed).and_then(|at| state.queue.remove(at)) {
                Some(EncoderEvent::Failed(error)) => Some(Err(error)),
                _ => None,
            }
        })
    }

    fn wait_for<T>(&self, timeout: Duration, mut look: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&mut state) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(message: &str) -> EncoderError {
        EncoderError::Pipeline { element: "x264enc".into(), message: message.into() }
    }

    #[test]
    fn the_first_failure_is_the_cause() {
        let events = Events::default();
        events.fail(error("first"));
        events.fail(error("second"));
        assert_eq!(events.poll(), Some(EncoderEvent::Failed(error("first"))));
        assert_eq!(events.poll(), None);
    }

    #[test]
    fn a_start_waits_for_frames_or_the_failure() {
        let events = Events::default();
        assert_eq!(events.wait_ready(Duration::ZERO), None);
        events.end_of_stream();
        events.fail(error("no camera"));
        assert_eq!(events.wait_ready(Duration::ZERO), Some(Err(error("no camera"))));
        events.ready();
        assert_eq!(events.wait_ready(Duration::ZERO), Some(Ok(())));
        assert_eq!(events.wait(Duration::ZERO), Some(EncoderEvent::EndOfStream));
    }
}
