//! The catalog: a broadcast's tracks as JSON, compatible with hang, so that any MoQ player can play us.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::track::{AudioConfig, Track, TrackConfig, TrackId, VideoConfig};

/// The name of the track that carries the catalog.
pub const TRACK_NAME: &str = "catalog.json";

/// More renditions than this are refused (hang has the same bound).
pub const MAX_RENDITIONS: usize = 64;

/// A catalog that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Not JSON, or a field has the wrong type.
    #[error("the catalog is not valid hang JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Too many renditions.
    #[error("the catalog lists {0} renditions, more than {MAX_RENDITIONS}")]
    TooManyRenditions(usize),
}

/// The JSON document. Unknown fields are ignored, so that newer publishers still play.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Catalog {
    /// Pictures.
    pub video: Renditions<VideoRendition>,
    /// Sound.
    pub audio: Renditions<AudioRendition>,
}

/// Renditions by track name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Renditions<T> {
    /// Track name to configuration.
    #[serde(default = "BTreeMap::new")]
    pub renditions: BTreeMap<String, T>,
}

impl<T> Default for Renditions<T> {
    fn default() -> Self {
        Self { renditions: BTreeMap::new() }
    }
}

/// How frames lie in MoQ frames; see [`crate::container`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// `legacy` is the one that Roadie speaks.
    pub kind: String,
}

impl Default for Container {
    fn default() -> Self {
        Self { kind: "legacy".into() }
    }
}

/// One video rendition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VideoRendition {
    /// WebCodecs codec string.
    pub codec: String,
    /// How frames are wrapped.
    #[serde(default)]
    pub container: Container,
    /// Codec configuration out of band, in hex (`avc1` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coded_width: Option<u32>,
    /// Pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coded_height: Option<u32>,
    /// Frames per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub framerate: Option<f64>,
    /// Bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<u64>,
}

/// One audio rendition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AudioRendition {
    /// WebCodecs codec string.
    pub codec: String,
    /// How frames are wrapped.
    #[serde(default)]
    pub container: Container,
    /// Codec configuration out of band, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Hz.
    pub sample_rate: u32,
    /// Channels.
    pub number_of_channels: u32,
    /// Bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<u64>,
}

impl Catalog {
    /// The catalog of these tracks.
    pub fn from_tracks(tracks: &[Track]) -> Self {
        let mut catalog = Self::default();
        for track in tracks {
            match &track.config {
                TrackConfig::Video(config) => {
                    catalog.video.renditions.insert(track.name.clone(), VideoRendition::from(config));
                }
                TrackConfig::Audio(config) => {
                    catalog.audio.renditions.insert(track.name.clone(), AudioRendition::from(config));
                }
            }
        }
        catalog
    }

    /// The video rendition with the most bits per second; among equals the first by name.
    pub fn best_video(&self) -> Option<(&String, &VideoRendition)> {
        self.video.renditions.iter().rev().max_by_key(|(_, rendition)| rendition.bitrate)
    }

    /// The same of the audio renditions.
    pub fn best_audio(&self) -> Option<(&String, &AudioRendition)> {
        self.audio.renditions.iter().rev().max_by_key(|(_, rendition)| rendition.bitrate)
    }

    /// The tracks of this catalog, numbered: the best video, the best audio, then the other video and the
    /// other audio tracks. Better is what has more bits per second; among equals the order of the names
    /// counts. Both ends of the bond number them so.
    pub fn tracks(&self) -> Vec<Track> {
        let mut video: Vec<_> =
            self.video.renditions.iter().map(|(name, r)| (name, VideoConfig::from(r))).collect();
        video.sort_by_key(|(_, config)| Reverse(config.bitrate));
        let mut audio: Vec<_> =
            self.audio.renditions.iter().map(|(name, r)| (name, AudioConfig::from(r))).collect();
        audio.sort_by_key(|(_, config)| Reverse(config.bitrate));
        let mut video = video.into_iter().map(|(name, config)| (name, TrackConfig::Video(config)));
        let mut audio = audio.into_iter().map(|(name, config)| (name, TrackConfig::Audio(config)));
        let best: Vec<_> = video.next().into_iter().chain(audio.next()).collect();
        (0u8..)
            .zip(best.into_iter().chain(video).chain(audio))
            .map(|(id, (name, config))| Track { id: TrackId(id), name: name.clone(), config })
            .collect()
    }

    /// Parses and bounds a catalog from the network.
    pub fn parse(json: &[u8]) -> Result<Self, CatalogError> {
        let catalog: Self = serde_json::from_slice(json)?;
        let count = catalog.video.renditions.len() + catalog.audio.renditions.len();
        if count > MAX_RENDITIONS {
            return Err(CatalogError::TooManyRenditions(count));
        }
        Ok(catalog)
    }

    /// The JSON text.
    pub fn to_json(&self) -> String {
        // Maps with string keys and plain numbers: serialisation has no way to fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl From<&VideoRendition> for VideoConfig {
    fn from(rendition: &VideoRendition) -> Self {
        Self {
            codec: rendition.codec.clone(),
            width: rendition.coded_width.unwrap_or(0),
            height: rendition.coded_height.unwrap_or(0),
            framerate: rendition.framerate.unwrap_or(0.0).round() as u32,
            bitrate: rendition.bitrate.unwrap_or(0) as u32,
        }
    }
}

impl From<&AudioRendition> for AudioConfig {
    fn from(rendition: &AudioRendition) -> Self {
        Self {
            codec: rendition.codec.clone(),
            sample_rate: rendition.sample_rate,
            channels: rendition.number_of_channels,
            bitrate: rendition.bitrate.unwrap_or(0) as u32,
        }
    }
}

impl From<&VideoConfig> for VideoRendition {
    fn from(config: &VideoConfig) -> Self {
        Self {
            codec: config.codec.clone(),
            container: Container::default(),
            description: None,
            coded_width: Some(config.width),
            coded_height: Some(config.height),
            framerate: Some(f64::from(config.framerate)),
            bitrate: Some(u64::from(config.bitrate)),
        }
    }
}

impl From<&AudioConfig> for AudioRendition {
    fn from(config: &AudioConfig) -> Self {
        Self {
            codec: config.codec.clone(),
            container: Container::default(),
            description: None,
            sample_rate: config.sample_rate,
            number_of_channels: config.channels,
            bitrate: Some(u64::from(config.bitrate)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracks() -> Vec<Track> {
        vec![
            Track {
                id: TrackId(0),
                name: "video/720p".into(),
                config: TrackConfig::Video(VideoConfig {
                    codec: "avc3.42c01f".into(),
                    width: 1280,
                    height: 720,
                    framerate: 30,
                    bitrate: 2_500_000,
                }),
            },
            Track {
                id: TrackId(1),
                name: "audio".into(),
                config: TrackConfig::Audio(AudioConfig {
                    codec: "opus".into(),
                    sample_rate: 48_000,
                    channels: 2,
                    bitrate: 96_000,
                }),
            },
        ]
    }

    #[test]
    fn hang_json() {
        let json = Catalog::from_tracks(&tracks()).to_json();
        assert_eq!(
            json,
            r#"{"video":{"renditions":{"video/720p":{"codec":"avc3.42c01f","container":{"kind":"legacy"},"codedWidth":1280,"codedHeight":720,"framerate":30.0,"bitrate":2500000}}},"audio":{"renditions":{"audio":{"codec":"opus","container":{"kind":"legacy"},"sampleRate":48000,"numberOfChannels":2,"bitrate":96000}}}}"#
        );
        assert_eq!(Catalog::parse(json.as_bytes()).unwrap().tracks(), tracks());
    }

    #[test]
    fn the_best_of_each_kind_come_first() {
        let mut all = tracks();
        for (id, height, bitrate) in [(2, 1080, 2_000_000), (3, 360, 600_000), (4, 180, 600_000)] {
            let mut track = all[0].clone();
            (track.id, track.name) = (TrackId(id), format!("video/{height}p"));
            let TrackConfig::Video(config) = &mut track.config else { unreachable!() };
            config.bitrate = bitrate;
            all.push(track);
        }
        all[3].name = "video/1-of-two".into();
        let catalog = Catalog::from_tracks(&all);
        assert_eq!(catalog.tracks(), all);
        assert_eq!(catalog.best_video().unwrap().0, "video/720p");
        assert_eq!(catalog.best_audio().unwrap().0, "audio");
        assert_eq!(Catalog::default().best_video(), None);
    }

    #[test]
    fn unknown_fields_are_ignored_and_garbage_is_an_error() {
        let catalog = Catalog::parse(br#"{"text":{},"video":{"renditions":{},"priority":1}}"#).unwrap();
        assert_eq!(catalog, Catalog::default());
        assert!(Catalog::parse(b"{").is_err());
        assert!(Catalog::parse(br#"{"video":3}"#).is_err());
    }
}
