//! Where encoded frames go.

use std::sync::Arc;

use media::{Frame, Time, Track, TrackId};

/// Id of the video track.
pub const VIDEO_TRACK: TrackId = TrackId(0);
/// Id of the audio track.
pub const AUDIO_TRACK: TrackId = TrackId(1);

/// The broadcast clock, handed in by the caller. It must never go backwards.
pub type Now = Arc<dyn Fn() -> Time + Send + Sync>;

/// Takes what the encoder makes. Called from GStreamer's threads, one call at a time: an
/// implementation must not block, because capture waits for it.
pub trait FrameSink: Send {
    /// The tracks of this show; called once, before the first frame.
    fn tracks(&mut self, tracks: &[Track]);

    /// The next frame of either track, at the time when it left the encoder. Frames of one track
    /// come in order with rising capture times; the order between tracks is not defined.
    fn frame(&mut self, frame: Frame, encoded_at: Time);
}
