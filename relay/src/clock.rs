//! The wall clock, read once and then carried on by the monotonic one, so that an NTP step in the
//! middle of a show never makes a timestamp jump.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use media::Time;

/// How often both clocks are read at the start; it takes a microsecond.
const READINGS: usize = 8;

/// Unix time that only ever moves forward at one second per second.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: Time,
    started: Instant,
}

impl Clock {
    /// Takes the system's Unix time now as the starting point.
    pub fn start() -> Self {
        // The scheduler may put milliseconds between the two readings; of a few the closest pair is taken.
        let pair = || {
            let (started, unix) = (Instant::now(), SystemTime::now());
            (started.elapsed(), started, unix)
        };
        let best = (1..READINGS).map(|_| pair()).fold(pair(), |a, b| if b.0 < a.0 { b } else { a });
        let (_, started, unix) = best;
        let unix = unix.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { epoch: Time::from_micros(unix.as_micros() as u64), started }
    }

    /// Now.
    pub fn now(&self) -> Time {
        self.epoch + self.started.elapsed()
    }

    /// The `Instant` at which [`Clock::now`] will read `time`; a time before the start is the start.
    pub fn instant(&self, time: Time) -> Instant {
        self.started + time.saturating_since(self.epoch)
    }
}
