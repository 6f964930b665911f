//! The running encoder, as its owner sees it.

use std::time::Duration;

use crate::{EncoderError, FrameSink, Now, Settings};

/// How many frames went through. All start at zero and only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Raw video frames captured.
    pub captured: u64,
    /// Raw video frames dropped because the encoder was too slow.
    pub dropped: u64,
    /// Encoded video frames.
    pub encoded: u64,
    /// Encoded audio packets.
    pub audio_packets: u64,
}

/// What the owner has to know about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncoderEvent {
    /// The input ended. (A file does not: it loops.)
    EndOfStream,
    /// Nothing more will come.
    Failed(EncoderError),
}

/// A running capture and encoder. Dropping it stops it.
pub struct Encoder;

impl Encoder {
    /// Starts, and returns when the first frames of both tracks are encoded, which takes a fraction
    /// of a second; [`FrameSink::tracks`] has been called by then.
    ///
    /// # Errors
    /// Says within a bounded time what is wrong with the input or the installation.
    pub fn start(settings: Settings, _now: Now, _sink: Box<dyn FrameSink>) -> Result<Encoder, EncoderError> {
        settings.check()?;
        Ok(Encoder)
    }

    /// Changes the video bit rate (bits per second) at once, without a keyframe.
    pub fn set_bitrate(&self, _bits_per_second: u32) {}

    /// Asks for an IDR soon. Requests are coalesced: there is at most one IDR per 250 ms.
    pub fn request_keyframe(&self) {}

    /// How many frames went through.
    pub fn counters(&self) -> Counters {
        Counters::default()
    }

    /// The next event, if there is one. Never blocks.
    pub fn poll_event(&self) -> Option<EncoderEvent> {
        None
    }

    /// The next event, waiting for it at most so long.
    pub fn wait_event(&self, _timeout: Duration) -> Option<EncoderEvent> {
        None
    }

    /// Stops and gives back the sink's resources, within a bounded time.
    pub fn stop(self) {}
}
