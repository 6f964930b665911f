//! The video encoders that a machine may have, best first, and how each is set up for low delay: no
//! B-frames, no look-ahead, a bounded buffer, keyframes only where they are asked for.
//!
//! Only `x264`, `openh264`, `vpx` and `aom` could be run on the machines that this was written on. The hardware ones are
//! set up by their documentation; [`super::probe`] uses none that does not really encode.

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;

use super::aom;
use super::format::VideoCodec;
use super::vbv::vbv_millis;
use crate::EncoderError;
use crate::elements::make;

/// No encoder begins a group by itself before so many frames: it is told when. A backstop only.
const KEYFRAME_DISTANCE: u32 = 3000;

/// Tenths of a frame's budget that fit into [`Buffer::Tight`].
const TIGHT_TENTHS: u32 = 15;

/// How much may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Buffer {
    /// A keyframe: see [`super::vbv`].
    Usual,
    /// Not two frames. After a step down x264 would go on spending what its buffer still allows: two frames
    /// of the old size, 2.5 times their new budget.
    Tight,
}

/// A picture to be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) fps: u32,
}

/// An encoder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Codec {
    /// As a person writes it.
    pub(crate) name: &'static str,
    /// Element of GStreamer.
    pub(crate) element: &'static str,
    /// What it makes.
    pub(crate) makes: VideoCodec,
    /// Where it runs, in words.
    pub(crate) place: &'static str,
    pub(super) properties: &'static [(&'static str, &'static str)],
    pub(super) rate: RateControl,
}

/// Which properties hold the bit rate.
#[derive(Clone, Copy, Debug)]
pub(super) enum RateControl {
    /// Kilobits per second, and the buffer in milliseconds of them.
    X264,
    /// Bits per second.
    OpenH264,
    /// Kilobits per second, and the buffer in kilobits.
    Kilobits { buffer: &'static str },
    /// Controls of the driver, in one property.
    V4l2,
    /// Bits per second, and the buffer in milliseconds of them.
    Vpx,
    /// The same, of our own element.
    Aom,
}

/// Where an encoder runs that needs no hardware.
const PROCESSOR: &str = "processor";

/// All that are known, in the order in which they are tried: hardware first, because it leaves the
/// processor to the rest of the show.
pub(crate) const CODECS: [Codec; 7] = [
    Codec {
        name: "vaapi",
        element: "vah264enc",
        makes: VideoCodec::H264,
        place: "graphics processor (VA-API)",
        properties: &[
            ("rate-control", "cbr"),
            ("b-frames", "0"),
            ("ref-frames", "1"),
            ("target-usage", "6"),
            ("aud", "false"),
        ],
        rate: RateControl::Kilobits { buffer: "cpb-size" },
    },
    Codec {
        name: "nvenc",
        element: "nvh264enc",
        makes: VideoCodec::H264,
        place: "graphics processor (NVENC)",
        properties: &[
            ("rc-mode", "cbr"),
            ("preset", "low-latency-hq"),
            ("zerolatency", "true"),
            ("bframes", "0"),
            ("rc-lookahead", "0"),
            ("aud", "false"),
        ],
        rate: RateControl::Kilobits { buffer: "vbv-buffer-size" },
    },
    Codec {
        name: "v4l2",
        element: "v4l2h264enc",
        makes: VideoCodec::H264,
        place: "video hardware (V4L2 M2M)",
        properties: &[],
        rate: RateControl::V4l2,
    },
    Codec {
        name: "x264",
        element: "x264enc",
        makes: VideoCodec::H264,
        place: PROCESSOR,
        // FACTS of the project: superfast with two sliced threads is the best picture for its delay.
        properties: &[
            ("tune", "zerolatency"),
            ("speed-preset", "superfast"),
            ("threads", "2"),
            ("sliced-threads", "true"),
            ("bframes", "0"),
            ("aud", "false"),
            ("byte-stream", "true"),
            ("option-string", "scenecut=0"),
        ],
        rate: RateControl::X264,
    },
    Codec {
        name: "openh264",
        element: "openh264enc",
        makes: VideoCodec::H264,
        place: PROCESSOR,
        properties: &[
            ("usage-type", "camera"),
            ("complexity", "low"),
            ("rate-control", "bitrate"),
            ("enable-frame-skip", "false"),
            ("scene-change-detection", "false"),
            ("multi-thread", "2"),
        ],
        rate: RateControl::OpenH264,
    },
    Codec {
        name: "vpx",
        element: "vp8enc",
        makes: VideoCodec::Vp8,
        place: PROCESSOR,
        // docs/decisions/0019: a positive cpu-used follows the wall clock, and a second thread waits for the
        // first one by spinning; both fall behind on a busy machine.
        properties: &[
            ("deadline", "1"),
            ("cpu-used", "-12"),
            ("threads", "1"),
            ("end-usage", "cbr"),
            ("lag-in-frames", "0"),
            ("keyframe-mode", "disabled"),
            // What bounds a scene cut after a still picture, for which CBR has no second try.
            ("min-quantizer", "16"),
            ("max-quantizer", "63"),
            ("max-intra-bitrate", "300"),
            ("undershoot", "100"),
            ("overshoot", "15"),
            ("static-threshold", "1"),
            // Where even the coarsest picture is too large, one is left out: here, not on the way.
            ("dropframe-threshold", "30"),
        ],
        rate: RateControl::Vpx,
    },
    Codec {
        name: "aom",
        element: aom::element::NAME,
        makes: VideoCodec::Av1,
        place: PROCESSOR,
        // All is set there.
        properties: &[],
        rate: RateControl::Aom,
    },
];

/// The encoder of this name, if it makes this.
pub(crate) fn check_choice(codec: VideoCodec, name: &str) -> Result<Codec, EncoderError> {
    let known = || {
        let fitting = CODECS.iter().filter(|other| other.makes == codec);
        fitting.map(|other| other.name).collect::<Vec<_>>().join(", ")
    };
    match CODECS.into_iter().find(|other| other.name == name) {
        Some(found) if found.makes == codec => Ok(found),
        Some(found) => Err(EncoderError::EncoderOfOtherCodec {
            encoder: name.to_owned(),
            makes: found.makes.name(),
            codec: codec.name(),
            known: known(),
        }),
        None => Err(EncoderError::UnknownEncoder { name: name.to_owned(), known: known() }),
    }
}

impl Codec {
    /// Whether it needs more than the processor.
    pub(crate) fn is_hardware(&self) -> bool {
        self.place != PROCESSOR
    }

    /// Makes the element.
    pub(crate) fn make(&self, shape: Shape, bitrate: u32) -> Result<gst::Element, EncoderError> {
        if self.makes == VideoCodec::Av1 {
            aom::element::register()?;
        }
        let element = make(self.element, &[])?;
        for (property, value) in self.properties {
            // Versions of a plug-in differ in what they have.
            if element.has_property(property) {
                element.set_property_from_str(property, value);
            }
        }
        for property in ["key-int-max", "gop-size", "keyframe-max-dist"] {
            if element.has_property(property) {
                element.set_property_from_str(property, &KEYFRAME_DISTANCE.to_string());
            }
        }
        self.set_bitrate(&element, shape, bitrate, Buffer::Usual);
        Ok(element)
    }

    /// Whether it has to believe that pictures come evenly. libvpx gives a picture that comes 400 ms after the last
    /// one the bits of 400 ms; encoding them takes so long that the next one is late again, and so on.
    pub(super) fn needs_even_times(&self) -> bool {
        matches!(self.rate, RateControl::Vpx)
    }

    /// Sets the bit rate (bits per second), and how much may come at once. Takes effect while it runs,
    /// without a keyframe.
    pub(crate) fn set_bitrate(&self, element: &gst::Element, shape: Shape, bitrate: u32, buffer: Buffer) {
        let buffer = match buffer {
            Buffer::Usual => vbv_millis(bitrate, shape.width, shape.height),
            Buffer::Tight => TIGHT_TENTHS * 100 / shape.fps.max(1),
        };
        let set = |property: &str, value: u64| {
            if element.has_property(property) {
                element.set_property_from_str(property, &value.to_string());
            }
        };
        let (bits, kilobits) = (u64::from(bitrate), u64::from(bitrate / 1000));
        match self.rate {
            RateControl::X264 => {
                set("vbv-buf-capacity", buffer.into());
                set("bitrate", kilobits);
            }
            RateControl::OpenH264 => {
                set("max-bitrate", bits);
                set("bitrate", bits);
            }
            RateControl::Kilobits { buffer: property } => {
                set(property, kilobits * u64::from(buffer) / 1000);
                set("bitrate", kilobits);
            }
            RateControl::Vpx => {
                set("buffer-size", buffer.into());
                set("buffer-optimal-size", (buffer * 2 / 3).into());
                set("buffer-initial-size", (buffer / 2).into());
                set("target-bitrate", bits);
            }
            RateControl::Aom => {
                set("buffer-size", buffer.into());
                set("target-bitrate", bits);
            }
            RateControl::V4l2 => {
                let controls = format!(
                    "controls,video_bitrate_mode=1,video_bitrate={bits},video_gop_size={KEYFRAME_DISTANCE},\
                     video_b_frames=0,repeat_sequence_header=1"
                );
                element.set_property_from_str("extra-controls", &controls);
            }
        }
    }
}

/// Asks an encoder to make a keyframe, with its parameter sets, of the next frame that enters it.
pub(crate) fn force_keyframe(encoder: &gst::Element) {
    let event = gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build();
    if let Some(pad) = encoder.static_pad("src") {
        pad.send_event(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_fits_its_element_where_there_is_one() {
        gst::init().expect("GStreamer");
        let shape = Shape { width: 640, height: 360, fps: 30 };
        let mut made = 0;
        for codec in CODECS {
            // A value that does not parse would panic.
            if let Ok(element) = codec.make(shape, 800_000) {
                codec.set_bitrate(&element, shape, 300_000, Buffer::Tight);
                made += 1;
            }
            assert!(check_choice(codec.makes, codec.name).is_ok());
        }
        assert!(made >= 4, "x264, openh264 and vpx are installed here, and aom is part of this program");
    }

    #[test]
    fn codec_and_encoder_have_to_fit() {
        let error = |codec, name| check_choice(codec, name).expect_err("does not fit").to_string();
        let other = error(VideoCodec::Vp8, "x264");
        assert!(other.contains("makes h264, not vp8") && other.ends_with("vpx"), "{other}");
        assert!(error(VideoCodec::H264, "h264").ends_with("v4l2, x264, openh264"));
    }
}
