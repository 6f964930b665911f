//! What GStreamer's threads and the owner share.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Epoch;
use crate::encode::RAW_QUEUE_FRAMES;
use crate::encoder::Counters;
use crate::events::Events;
use crate::output::{Encoded, Output};
use crate::{AUDIO_TRACK, Now, VIDEO_TRACK};

pub(crate) struct Shared {
    pub(crate) now: Now,
    pub(crate) epoch: Epoch,
    pub(crate) counts: Counts,
    pub(crate) events: std::sync::Arc<Events>,
    output: Mutex<Output>,
}

impl Shared {
    pub(crate) fn new(now: Now, epoch: Epoch, output: Output) -> Self {
        let output = Mutex::new(output);
        Shared { now, epoch, counts: Counts::default(), events: Default::default(), output }
    }

    /// An encoded frame is on its way out.
    pub(crate) fn frame(&self, frame: Encoded) {
        match frame.track {
            VIDEO_TRACK => drop(self.counts.encoded.fetch_add(1, Relaxed)),
            AUDIO_TRACK => drop(self.counts.audio_packets.fetch_add(1, Relaxed)),
            _ => {}
        }
        if self.output().frame(frame) {
            self.events.ready();
        }
    }

    pub(crate) fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The output, unless a sink that hangs holds it.
    pub(crate) fn try_output(&self) -> Option<MutexGuard<'_, Output>> {
        match self.output.try_lock() {
            Ok(output) => Some(output),
            Err(std::sync::TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }
}

/// Raw frames that may be between capture and encoder: in the queue, and one on its way into it.
const MAX_WAITING: u64 = RAW_QUEUE_FRAMES as u64 + 1;

/// Frames counted where they pass.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    captured: AtomicU64,
    /// Of the captured ones, those that the main encoder was to encode: at half the frame rate, half.
    offered: AtomicU64,
    dropped: AtomicU64,
    /// Number of the frame that enters the encoder next, if none is dropped.
    expected: AtomicU64,
    encoded: AtomicU64,
    audio_packets: AtomicU64,
}

impl Counts {
    /// The number of a raw frame just captured.
    pub(crate) fn capture(&self) -> u64 {
        self.captured.fetch_add(1, Relaxed)
    }

    /// The number of a raw frame on its way to the main encoder.
    pub(crate) fn offer(&self) -> u64 {
        self.offered.fetch_add(1, Relaxed)
    }

    /// The raw frame of this number enters the main encoder.
    pub(crate) fn entered(&self, number: u64) {
        let expected = self.expected.swap(number.saturating_add(1), Relaxed);
        self.dropped.fetch_add(number.saturating_sub(expected), Relaxed);
    }

    pub(crate) fn read(&self) -> Counters {
        // While the encoder hangs nothing enters it; what cannot wait any more has been dropped.
        let waiting = self.offered.load(Relaxed).saturating_sub(self.expected.load(Relaxed));
        let dropped_since = waiting.saturating_sub(MAX_WAITING);
        Counters {
            captured: self.captured.load(Relaxed),
            dropped: self.dropped.load(Relaxed) + dropped_since,
            encoded: self.encoded.load(Relaxed),
            audio_packets: self.audio_packets.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_counted_while_the_encoder_hangs() {
        let counts = Counts::default();
        let numbers: Vec<_> = (0..20).map(|_| counts.offer()).collect();
        counts.entered(numbers[0]);
        assert_eq!(counts.read().dropped, 16);
        counts.entered(numbers[17]);
        assert_eq!(counts.read().dropped, 16);
    }

    #[test]
    fn a_hole_in_the_numbers_is_a_drop() {
        let counts = Counts::default();
        let numbers: Vec<_> = (0..6).map(|_| counts.offer()).collect();
        for number in [numbers[0], numbers[1], numbers[4], numbers[5]] {
            counts.entered(number);
        }
        assert_eq!(counts.read(), Counters { dropped: 2, ..Counters::default() });
    }
}
