//! Tracks: what a broadcast is made of.

use serde::{Deserialize, Serialize};

use crate::{av1, vp8};

/// A track's number within its broadcast. The catalog gives it a name; on the bond it is one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrackId(pub u8);

/// One rendition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Track {
    /// Its number on the bond and in [`crate::FrameId`].
    pub id: TrackId,
    /// Its name in the catalog and in MoQ, such as `video/720p`.
    pub name: String,
    /// Codec and shape.
    pub config: TrackConfig,
}

/// Codec and shape of a track.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum TrackConfig {
    /// Pictures.
    Video(VideoConfig),
    /// Sound.
    Audio(AudioConfig),
}

/// A video track.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoConfig {
    /// WebCodecs codec string. `avc3.*` says that SPS and PPS are in band.
    pub codec: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Frames per second.
    pub framerate: u32,
    /// Bits per second that the encoder aims at.
    pub bitrate: u32,
}

/// An audio track.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudioConfig {
    /// WebCodecs codec string, such as `opus`.
    pub codec: String,
    /// Hz.
    pub sample_rate: u32,
    /// Channels.
    pub channels: u32,
    /// Bits per second that the encoder aims at.
    pub bitrate: u32,
}

impl TrackConfig {
    /// Whether its frames are H.264 in Annex B: a recording has their parameter sets in its head. Those of all
    /// other codecs are stored as they are.
    pub fn is_h264(&self) -> bool {
        matches!(self, TrackConfig::Video(video) if video.codec.starts_with("avc"))
    }

    /// `Err`: the codec, if a recording has no place for it ([`crate::cmaf`]).
    pub fn check_storable(&self) -> Result<(), &str> {
        match self {
            TrackConfig::Video(_) if self.is_h264() => Ok(()),
            TrackConfig::Video(VideoConfig { codec, .. }) if codec == vp8::CODEC || av1::is_codec(codec) => {
                Ok(())
            }
            TrackConfig::Audio(audio) if audio.codec == "opus" => Ok(()),
            TrackConfig::Video(VideoConfig { codec, .. }) | TrackConfig::Audio(AudioConfig { codec, .. }) => {
                Err(codec)
            }
        }
    }
}

impl Track {
    /// Whether this is a video track.
    pub fn is_video(&self) -> bool {
        matches!(self.config, TrackConfig::Video(_))
    }
}
