//! The one media type that crosses crate borders.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Time, TrackId};

/// The name of a frame, the same in the recording, on the bond, in the relay and in the player.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FrameId {
    /// The rendition.
    pub track: TrackId,
    /// The run of frames that decodes on its own; counts up by one without a hole.
    pub group: u64,
    /// Position in the group, from 0. Frame 0 of a video group is an IDR.
    pub frame: u32,
}

/// One access unit (H.264: Annex B, with SPS and PPS before every IDR; Opus: one packet).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its name.
    pub id: FrameId,
    /// When the camera or microphone took it.
    pub capture_time: Time,
    /// Decodes without any earlier frame.
    pub keyframe: bool,
    /// The encoded bytes, shared by all who hold the frame.
    pub data: Bytes,
}
