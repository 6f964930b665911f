//! The wall clock, read once and then carried on by the monotonic one, so that an NTP step in the
//! middle of a show never makes a timestamp jump.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use media::Time;

/// Unix time that only ever moves forward at one second per second.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: Time,
    started: Instant,
}

impl Clock {
    /// Takes the system's Unix time now as the starting point.
    pub fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { epoch: Time::from_micros(unix.as_micros() as u64), started: Instant::now() }
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
