//! How video is compressed: what differs between the codecs behind the encoder.

use std::fmt;
use std::str::FromStr;

use gstreamer as gst;
use media::{av1, h264, vp8};

use crate::EncoderError;
use crate::elements::{caps_filter, make};

/// A way to compress video, which all video tracks of a show share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum VideoCodec {
    /// Constrained baseline: every browser and every phone decodes it, most of them in hardware.
    #[default]
    H264,
    /// Free of patents. Browsers decode it; it needs more bits than H.264, and scene cuts come out large.
    Vp8,
    /// Free of patents. The best picture of the three where there are few bits, at about twice the work of H.264
    /// (docs/decisions/0019).
    Av1,
}

/// All that a show can be encoded with.
const ALL: [VideoCodec; 3] = [VideoCodec::H264, VideoCodec::Vp8, VideoCodec::Av1];

impl VideoCodec {
    /// As a person writes it.
    pub fn name(self) -> &'static str {
        match self {
            VideoCodec::H264 => "h264",
            VideoCodec::Vp8 => "vp8",
            VideoCodec::Av1 => "av1",
        }
    }

    /// What stands behind the encoder so that each buffer is one frame as the show has it.
    pub(super) fn framing(self) -> Result<Vec<gst::Element>, EncoderError> {
        match self {
            VideoCodec::H264 => {
                let units = gst::Caps::builder("video/x-h264")
                    .field("stream-format", "byte-stream")
                    .field("alignment", "au")
                    .build();
                Ok(vec![make("h264parse", &[("config-interval", "-1")])?, caps_filter(&units)?])
            }
            VideoCodec::Vp8 => Ok(vec![caps_filter(&gst::Caps::new_empty_simple("video/x-vp8"))?]),
            // The element is our own, and makes just that.
            VideoCodec::Av1 => Ok(vec![caps_filter(&gst::Caps::new_empty_simple("video/x-av1"))?]),
        }
    }

    /// Whether decoding can start at this frame.
    pub(super) fn is_keyframe(self, frame: &[u8]) -> bool {
        match self {
            VideoCodec::H264 => h264::is_idr(frame),
            VideoCodec::Vp8 => vp8::is_keyframe(frame),
            VideoCodec::Av1 => av1::is_keyframe(frame),
        }
    }

    /// The codec string for WebCodecs, from a keyframe that has all that a decoder needs.
    pub(super) fn describe(self, keyframe: &[u8]) -> Option<String> {
        match self {
            VideoCodec::H264 => {
                let sets = h264::ParameterSets::of(keyframe).filter(|_| h264::is_idr(keyframe))?;
                h264::codec_string(sets.sps()).ok()
            }
            VideoCodec::Vp8 => vp8::is_keyframe(keyframe).then(|| vp8::CODEC.to_owned()),
            VideoCodec::Av1 => av1::Sequence::of(keyframe).map(|sequence| sequence.to_string()),
        }
    }
}

impl fmt::Display for VideoCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `h264, vp8 or av1`.
fn known() -> String {
    let [first, rest @ .., last] = ALL.map(VideoCodec::name);
    let rest: String = rest.iter().map(|name| format!(", {name}")).collect();
    format!("{first}{rest} or {last}")
}

impl FromStr for VideoCodec {
    type Err = EncoderError;

    fn from_str(text: &str) -> Result<Self, EncoderError> {
        ALL.into_iter().find(|codec| codec.name() == text).ok_or_else(|| EncoderError::UnknownCodec {
            codec: text.chars().take(32).collect(),
            known: known(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_have_names_and_others_say_why_not() {
        for codec in ALL {
            assert_eq!(codec.to_string().parse(), Ok(codec));
        }
        let error = |text: &str| text.parse::<VideoCodec>().expect_err("not offered").to_string();
        assert!(error("h265").contains("h264, vp8 or av1"), "{}", error("h265"));
        assert!(error("AV1").contains("h264, vp8 or av1"), "{}", error("AV1"));
    }
}
