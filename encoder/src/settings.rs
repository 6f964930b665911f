//! What to capture and how to encode it, checked once when the encoder starts.

use std::time::Duration;

use crate::encode::{Shape, check_choice};
use crate::{EncoderError, Input, Microphone, VideoCodec};

/// Bit rate range of the video encoder. Below it the picture is of no use; x264 takes kilobits.
pub(crate) const VIDEO_BITRATE: std::ops::RangeInclusive<u32> = 50_000..=100_000_000;
/// Each input costs the processor its decoding, and the memory a picture or two.
const MAX_INPUTS: usize = 16;
/// Each takes a part of the processor, and of the uplinks.
const MAX_RENDITIONS: usize = 4;
/// Bit rate range of Opus (RFC 6716, section 2.1.1: 6 to 510 kb/s).
const AUDIO_BITRATE: std::ops::RangeInclusive<u32> = 6_000..=510_000;

/// What to capture and how to encode it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where pictures and sound come from, at least one. The first is on air at the start; all of them
    /// run, see [`crate::Encoder::select`].
    pub inputs: Vec<Input>,
    /// The sound of cameras and screens.
    pub microphone: Microphone,
    /// The main video track.
    pub video: VideoSettings,
    /// Smaller renditions of the same pictures, largest first. Their frame rate and groups are those of the
    /// main one.
    pub renditions: Vec<VideoSettings>,
    /// Bits per second of a master, recorded beside the show that is sent, and never sent itself.
    pub master_bitrate: Option<u32>,
    /// How all video tracks are compressed.
    pub codec: VideoCodec,
    /// The video encoder, by the name that [`crate::video_encoders`] gives it; `None`: the best that works.
    pub encoder: Option<String>,
    /// Whether H.264 that a stream brings is always decoded and encoded anew, even if it could be passed through.
    pub transcode: bool,
    /// The audio track.
    pub audio: AudioSettings,
}

/// A video track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoSettings {
    /// Pixels, even. Below [`media::mark::WIDTH`] the test picture carries no mark.
    pub width: u32,
    /// Pixels, even. Names the track: 720 makes `video/720p`.
    pub height: u32,
    /// Frames per second.
    pub fps: u32,
    /// Bits per second at most; see [`crate::Encoder::set_rate`].
    pub bitrate: u32,
    /// Time from one keyframe to the next, where nobody asks for one in between.
    pub gop: Duration,
}

/// The audio track: Opus, 48 kHz, stereo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioSettings {
    /// Bits per second.
    pub bitrate: u32,
}

impl Default for Settings {
    /// The test picture at 720p30.
    fn default() -> Self {
        Settings {
            inputs: vec![Input::default()],
            microphone: Microphone::default(),
            video: VideoSettings::default(),
            renditions: Vec::new(),
            master_bitrate: None,
            codec: VideoCodec::default(),
            encoder: None,
            transcode: false,
            audio: AudioSettings::default(),
        }
    }
}

impl Default for VideoSettings {
    fn default() -> Self {
        VideoSettings { width: 1280, height: 720, fps: 30, bitrate: 2_500_000, gop: Duration::from_secs(1) }
    }
}

impl Default for AudioSettings {
    fn default() -> Self {
        AudioSettings { bitrate: 96_000 }
    }
}

impl Settings {
    /// Whether a show can be made of these; [`crate::Encoder::start`] asks too.
    ///
    /// # Errors
    /// Names the first thing that is wrong.
    pub fn check(&self) -> Result<(), EncoderError> {
        let VideoSettings { fps, gop, .. } = self.video;
        let invalid = |what: String| Err(EncoderError::InvalidSettings { what });
        if !(1..=MAX_INPUTS).contains(&self.inputs.len()) {
            return invalid(format!("{} inputs; use 1 to {MAX_INPUTS}", self.inputs.len()));
        }
        if !(1..=120).contains(&fps) {
            return invalid(format!("{fps} frames per second; use 1 to 120"));
        }
        let master = self.master_bitrate.map(|bitrate| VideoSettings { bitrate, ..self.video.clone() });
        for video in [&self.video].into_iter().chain(&self.renditions).chain(&master) {
            let VideoSettings { width, height, bitrate, .. } = *video;
            let size = 64..=4096;
            if !size.contains(&width) || !size.contains(&height) || width % 2 != 0 || height % 2 != 0 {
                return invalid(format!("a picture of {width}x{height}; use even numbers from 64 to 4096"));
            }
            if !VIDEO_BITRATE.contains(&bitrate) {
                return invalid(format!("a video bit rate of {bitrate} b/s; use 50000 to 100000000"));
            }
        }
        if let Some(name) = &self.encoder {
            check_choice(self.codec, name)?;
        }
        if self.renditions.len() > MAX_RENDITIONS {
            return invalid(format!(
                "{} smaller renditions; use up to {MAX_RENDITIONS}",
                self.renditions.len()
            ));
        }
        let mut larger = &self.video;
        for video in &self.renditions {
            if video.height >= larger.height || video.width > larger.width || video.bitrate >= larger.bitrate
            {
                return invalid(format!(
                    "a rendition of {} at {} b/s after one of {} at {} b/s; name them from large to small, each \
                     with a smaller picture and bit rate",
                    video.track_name(),
                    video.bitrate,
                    larger.track_name(),
                    larger.bitrate
                ));
            }
            larger = video;
        }
        if let Some(master) = self.master_bitrate.filter(|master| *master <= self.video.bitrate) {
            return invalid(format!(
                "a recording of {master} b/s beside a show of {} b/s, which is recorded anyway; give it more",
                self.video.bitrate
            ));
        }
        if !AUDIO_BITRATE.contains(&self.audio.bitrate) {
            return invalid(format!("an audio bit rate of {} b/s; use 6000 to 510000", self.audio.bitrate));
        }
        if !(Duration::from_millis(250)..=Duration::from_secs(10)).contains(&gop) {
            return invalid(format!("a group of {} ms; use 250 to 10000", gop.as_millis()));
        }
        Ok(())
    }
}

impl VideoSettings {
    /// Size and rate of its pictures.
    pub(crate) fn shape(&self) -> Shape {
        Shape { width: self.width, height: self.height, fps: self.fps }
    }

    /// The name of its track, such as `video/720p`.
    pub fn track_name(&self) -> String {
        format!("video/{}p", self.height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(change: impl FnOnce(&mut VideoSettings)) -> Result<(), EncoderError> {
        let mut settings = Settings::default();
        change(&mut settings.video);
        settings.check()
    }

    #[test]
    fn the_default_is_valid_and_nonsense_is_not() {
        assert_eq!(video(|_| ()), Ok(()));
        assert!(video(|v| v.width = 1279).is_err());
        assert!(video(|v| v.height = 0).is_err());
        assert!(video(|v| v.fps = 0).is_err());
        assert!(video(|v| v.bitrate = 1).is_err());
        assert!(video(|v| v.gop = Duration::ZERO).is_err());
        let audio = AudioSettings { bitrate: 1_000_000 };
        assert!(Settings { audio, ..Settings::default() }.check().is_err());
        assert!(Settings { inputs: Vec::new(), ..Settings::default() }.check().is_err());
        assert!(Settings { inputs: vec![Input::Test; 17], ..Settings::default() }.check().is_err());
    }

    #[test]
    fn renditions_go_from_large_to_small() {
        let small = |height: u32, bitrate| VideoSettings {
            width: height / 9 * 16,
            height,
            bitrate,
            ..VideoSettings::default()
        };
        let check = |renditions: Vec<VideoSettings>, master_bitrate| {
            Settings { renditions, master_bitrate, ..Settings::default() }.check()
        };
        assert_eq!(check(vec![small(360, 600_000), small(180, 200_000)], Some(8_000_000)), Ok(()));
        assert!(check(vec![small(180, 200_000), small(360, 600_000)], None).is_err());
        assert!(check(vec![small(720, 600_000)], None).is_err());
        assert!(check(vec![small(360, 2_500_000)], None).is_err());
        assert!(check(Vec::new(), Some(2_500_000)).is_err());
        let many = (0..9).map(|n| small(360 - n * 18, 900_000 - n * 50_000)).collect();
        assert!(check(many, None).is_err());
    }
}
