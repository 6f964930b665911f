//! The sending machine.

use std::time::Duration;

use media::{Frame, FrameId, Time};

use crate::{Class, ClockEstimate, PathId, SenderStats, Transmit, WireError};

/// How a [`Sender`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderConfig {
    /// How long after its capture a frame is still worth having at the receiver.
    pub deadline: Duration,
}

impl Default for SenderConfig {
    fn default() -> Self {
        Self { deadline: Duration::from_millis(400) }
    }
}

/// What happened to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SenderEvent {
    /// A frame was given up. After a lost keyframe or delta, ask the encoder for a keyframe.
    Dropped {
        /// Which.
        id: FrameId,
        /// How much it mattered.
        class: Class,
    },
}

/// See the crate's documentation for the loop around it.
#[derive(Debug)]
pub struct Sender {
    config: SenderConfig,
}

impl Sender {
    /// A sender without paths.
    pub fn new(config: SenderConfig) -> Self {
        Self { config }
    }

    /// Adds an uplink. `max_datagram` is what the driver can send on it, in bytes; datagrams are at
    /// most [`crate::MAX_DATAGRAM`]. Adding a path that is there already starts it anew.
    pub fn add_path(&mut self, _path: PathId, _max_datagram: usize, _now: Time) {}

    /// Removes an uplink; what it held is sent elsewhere.
    pub fn remove_path(&mut self, _path: PathId, _now: Time) {}

    /// Takes a frame to send.
    pub fn push(&mut self, _frame: &Frame, _class: Class, _now: Time) {}

    /// Takes feedback that came on `path`.
    pub fn handle_datagram(&mut self, _path: PathId, _data: &[u8], _now: Time) -> Result<(), WireError> {
        Ok(())
    }

    /// The next datagram to send now.
    pub fn poll_transmit(&mut self, _now: Time) -> Option<Transmit> {
        None
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<SenderEvent> {
        None
    }

    /// When [`Sender::handle_timeout`] wants to run.
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, _now: Time) {}

    /// Counters and estimates.
    pub fn stats(&self) -> SenderStats {
        SenderStats::default()
    }

    /// How the receiver's clock stands to ours, once feedback has come.
    pub fn clock(&self) -> Option<ClockEstimate> {
        None
    }

    /// Bits per second that the encoder may use.
    pub fn target_rate(&self) -> u64 {
        self.config.deadline.as_millis() as u64
    }
}
