//! Whether the machine let us run: a measurement on one that did not is void.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the watch sleeps at a time.
const TICK: Duration = Duration::from_millis(1);

/// Not to be woken for so much longer is a stall.
const STALL: Duration = Duration::from_millis(20);

/// Counts stalls until it is dropped.
pub struct Watch(Arc<Seen>);

#[derive(Default)]
struct Seen {
    count: AtomicU64,
    worst_micros: AtomicU64,
}

/// What a watch saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalls {
    /// How often it was not woken in time.
    pub count: u64,
    /// The longest it was kept waiting.
    pub worst: Duration,
}

impl Watch {
    /// Begins to watch, on a thread of its own.
    pub fn start() -> Self {
        let seen = Arc::new(Seen::default());
        let watched = Arc::downgrade(&seen);
        std::thread::spawn(move || {
            loop {
                let before = Instant::now();
                std::thread::sleep(TICK);
                let late = before.elapsed().saturating_sub(TICK);
                let Some(seen) = watched.upgrade() else { return };
                seen.worst_micros.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
                if late > STALL {
                    seen.count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self(seen)
    }

    /// What it saw so far.
    pub fn stalls(&self) -> Stalls {
        Stalls {
            count: self.0.count.load(Ordering::Relaxed),
            worst: Duration::from_micros(self.0.worst_micros.load(Ordering::Relaxed)),
        }
    }
}
