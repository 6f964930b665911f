//! The receiving machine.

use std::ops::Range;
use std::time::Duration;

use media::{Frame, Time, TrackId};

use crate::{PathId, ReceiverStats, Transmit, WireError};

/// How a [`Receiver`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiverConfig {
    /// How long after its capture a frame is waited for: the sender's deadline.
    pub deadline: Duration,
}

impl Default for ReceiverConfig {
    fn default() -> Self {
        Self { deadline: Duration::from_millis(400) }
    }
}

/// What comes out of the bond, in order per track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// A whole frame.
    Frame {
        /// It.
        frame: Frame,
        /// When its last shard came, by the receiver's clock.
        arrived: Time,
    },
    /// Frames that did not come by their deadline.
    Lost {
        /// Of this track
        track: TrackId,
        /// and group,
        group: u64,
        /// these. An end of `u32::MAX` means: to the end of the group, however many there were.
        frames: Range<u32>,
    },
}

/// See the crate's documentation for the loop around it. A new sender session needs a new receiver.
#[derive(Debug)]
pub struct Receiver {
    config: ReceiverConfig,
}

impl Receiver {
    /// A receiver without paths.
    pub fn new(config: ReceiverConfig) -> Self {
        Self { config }
    }

    /// Adds a path. Adding one that is there already starts it anew.
    pub fn add_path(&mut self, _path: PathId, _now: Time) {}

    /// Removes a path.
    pub fn remove_path(&mut self, _path: PathId, _now: Time) {}

    /// Takes a datagram that came on `path`; `now` is by the receiver's own clock.
    pub fn handle_datagram(&mut self, _path: PathId, _data: &[u8], _now: Time) -> Result<(), WireError> {
        Ok(())
    }

    /// The next feedback datagram to send now.
    pub fn poll_transmit(&mut self, _now: Time) -> Option<Transmit> {
        None
    }

    /// The next frame, or the next gap.
    pub fn poll_delivery(&mut self) -> Option<Delivery> {
        None
    }

    /// When [`Receiver::handle_timeout`] wants to run.
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, _now: Time) {}

    /// Counters.
    pub fn stats(&self) -> ReceiverStats {
        let _ = self.config;
        ReceiverStats::default()
    }
}
