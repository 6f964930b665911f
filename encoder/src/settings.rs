//! What to capture and how to encode it, checked once when the encoder starts.

use std::time::Duration;

use crate::{EncoderError, Input};

/// Bit rate range of the video encoder. Below it the picture is of no use; x264 takes kilobits.
pub(crate) const VIDEO_BITRATE: std::ops::RangeInclusive<u32> = 50_000..=100_000_000;
/// Bit rate range of Opus (RFC 6716, section 2.1.1: 6 to 510 kb/s).
const AUDIO_BITRATE: std::ops::RangeInclusive<u32> = 6_000..=510_000;

/// What to capture and how to encode it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where pictures and sound come from.
    pub input: Input,
    /// The video track.
    pub video: VideoSettings,
    /// The audio track.
    pub audio: AudioSettings,
}

/// The video track: H.264 constrained baseline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoSettings {
    /// Pixels, even. Below [`media::mark::WIDTH`] the test picture carries no mark.
    pub width: u32,
    /// Pixels, even. Names the track: 720 makes `video/720p`.
    pub height: u32,
    /// Frames per second.
    pub fps: u32,
    /// Bits per second at the start; see [`crate::Encoder::set_bitrate`].
    pub bitrate: u32,
    /// Time from one IDR to the next, where nobody asks for one in between.
    pub gop: Duration,
}

/// The audio track: Opus, 48 kHz, stereo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioSettings {
    /// Bits per second.
    pub bitrate: u32,
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
    pub(crate) fn check(&self) -> Result<(), EncoderError> {
        let VideoSettings { width, height, fps, bitrate, gop } = self.video;
        let invalid = |what: String| Err(EncoderError::InvalidSettings { what });
        let size = 64..=4096;
        if !size.contains(&width) || !size.contains(&height) || width % 2 != 0 || height % 2 != 0 {
            return invalid(format!("the picture is {width}x{height}; use even numbers from 64 to 4096"));
        }
        if !(1..=120).contains(&fps) {
            return invalid(format!("{fps} frames per second; use 1 to 120"));
        }
        if !VIDEO_BITRATE.contains(&bitrate) {
            return invalid(format!("a video bit rate of {bitrate} b/s; use 50000 to 100000000"));
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
    /// Frames from one IDR to the next.
    pub(crate) fn frames_per_group(&self) -> u32 {
        ((self.gop.as_millis() as u64 * u64::from(self.fps) + 500) / 1000).max(1) as u32
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
    }

    #[test]
    fn a_group_is_a_whole_number_of_frames() {
        let mut settings = VideoSettings::default();
        assert_eq!(settings.frames_per_group(), 30);
        (settings.fps, settings.gop) = (25, Duration::from_millis(500));
        assert_eq!(settings.frames_per_group(), 13);
        settings.fps = 1;
        assert_eq!(settings.frames_per_group(), 1);
    }
}
