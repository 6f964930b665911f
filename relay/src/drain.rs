//! The end of a relay's life as its sessions see it: open, then leaving, then gone.
//!
//! See `docs/decisions/0029-drain.md`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Whoever is here may stay so long.
    Leaving(Duration),
    Gone,
}

/// Whether the relay takes sessions, for all its parts. Clones are handles of the same.
#[derive(Clone, Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
    /// Milliseconds.
    patience: Arc<AtomicU64>,
}

impl Default for Drain {
    /// Open, and without patience.
    fn default() -> Self {
        Self { phase: watch::Sender::new(Phase::Open), patience: Arc::default() }
    }
}

impl Drain {
    /// How long one may stay, once it has begun.
    pub fn allow(&self, patience: Duration) {
        self.patience.store(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// From now on nobody new is let in, and whoever is here is asked to go within the time that this gives.
    pub fn begin(&self) -> Duration {
        let patience = Duration::from_millis(self.patience.load(Relaxed));
        self.phase.send_replace(Phase::Leaving(patience));
        patience
    }

    /// Whoever is still here has been told.
    pub fn end(&self) {
        self.phase.send_replace(Phase::Gone);
    }

    /// Whether it has [begun](Self::begin).
    pub fn is_on(&self) -> bool {
        *self.phase.borrow() != Phase::Open
    }

    /// Resolves when it has begun, with how long one may stay; at once, where it has.
    pub async fn begun(&self) -> Duration {
        let mut phases = self.phase.subscribe();
        // The sender is in `self`.
        match phases.wait_for(|phase| *phase != Phase::Open).await.map(|phase| *phase) {
            Ok(Phase::Leaving(patience)) => patience,
            _ => Duration::ZERO,
        }
    }

    /// Resolves when it has [ended](Self::end).
    pub async fn over(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase == Phase::Gone).await;
    }
}
