//! Where encoded frames go.

use std::sync::Arc;

use media::{Frame, Time, Track, TrackId};

/// Id of the main video track. [`media::catalog::Catalog::tracks`] numbers tracks in the same way.
pub const VIDEO_TRACK: TrackId = TrackId(0);
/// Id of the audio track.
pub const AUDIO_TRACK: TrackId = TrackId(1);
/// Id of the master, which is recorded but never sent; above all that a catalog can number.
pub const MASTER_TRACK: TrackId = TrackId(200);

/// Id of the smaller rendition number `n`, from 0.
pub(crate) fn rendition_track(n: usize) -> TrackId {
    TrackId(u8::try_from(n + 2).unwrap_or(u8::MAX).min(MASTER_TRACK.0 - 1))
}

/// The broadcast clock, handed in by the caller. It must never go backwards.
pub type Now = Arc<dyn Fn() -> Time + Send + Sync>;

/// Takes what the encoder makes. Called from GStreamer's threads, one call at a time: an
/// implementation must not block, because capture waits for it.
pub trait FrameSink: Send {
    /// The tracks of this show; called once, before the first frame.
    fn tracks(&mut self, tracks: &[Track]);

    /// The next frame of any track, at the time when it left the encoder. Frames of one track
    /// come in order with rising capture times; the order between tracks is not defined.
    fn frame(&mut self, frame: Frame, encoded_at: Time);
}
