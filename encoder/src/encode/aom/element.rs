//! libaom as an element of GStreamer, so that all encoders are driven alike: `raw I420 -> roadieav1enc -> AV1`, each
//! buffer a temporal unit without its delimiter, as WebCodecs and MP4 have it.

use std::sync::{Mutex, OnceLock, PoisonError};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;
use gstreamer_video::subclass::prelude::*;

use media::av1;

use super::{Av1Encoder, Pictures, Planes, Spending};
use crate::EncoderError;

/// Name of the element.
pub(in crate::encode) const NAME: &str = "roadieav1enc";

/// Until it is told.
const DEFAULT: Spending = Spending { bitrate: 1_000_000, buffer: 150 };
/// Pictures to try libaom with.
const SMALL: Pictures = Pictures { width: 64, height: 64, fps: 30 };

glib::wrapper! {
    /// Properties: `target-bitrate`, bits per second, and `buffer-size`, milliseconds of it. Both may be set while it
    /// runs, and hold from the next picture on.
    pub(in crate::encode) struct Av1Enc(ObjectSubclass<Imp>)
        @extends gst_video::VideoEncoder, gst::Element, gst::Object;
}

/// Makes it known to GStreamer, in this process. `Err`: libaom cannot be used here.
pub(in crate::encode) fn register() -> Result<(), EncoderError> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    let done = DONE.get_or_init(|| {
        // What libaom says when it is tried is plainer here than out of a pipeline.
        Av1Encoder::new(SMALL, DEFAULT)?;
        let registered = gst::Element::register(None, NAME, gst::Rank::NONE, Av1Enc::static_type());
        registered.map_err(|_| "GStreamer does not take its element".to_owned())
    });
    let unusable = |message| EncoderError::EncoderUnusable { name: "aom".into(), message };
    done.clone().map_err(unusable)
}

#[derive(Default)]
pub(in crate::encode) struct Imp {
    state: Mutex<State>,
    /// Apart from the encoder, so that nobody waits for a picture to tell a bit rate.
    wanted: Mutex<Option<Spending>>,
}

#[derive(Default)]
struct State {
    encoder: Option<Av1Encoder>,
    info: Option<gst_video::VideoInfo>,
    spending: Option<Spending>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Imp {
    fn wanted(&self) -> Spending {
        lock(&self.wanted).unwrap_or(DEFAULT)
    }

    /// The next picture. `Err`: in words.
    fn encode(&self, frame: &gst_video::VideoCodecFrame<'_>) -> Result<Option<super::Unit>, String> {
        let wanted = self.wanted();
        let mut state = lock(&self.state);
        let State { encoder: Some(encoder), info: Some(info), spending } = &mut *state else {
            return Err("a picture came before its format".into());
        };
        if spending.replace(wanted) != Some(wanted) {
            encoder.set_spending(wanted)?;
        }
        let input = frame.input_buffer().ok_or("a frame without a picture")?;
        let picture = gst_video::VideoFrameRef::from_buffer_ref_readable(input, info)
            .map_err(|_| "a picture that cannot be read")?;
        let plane = |number| picture.plane_data(number).map_err(|_| "a picture without its planes");
        let strides = picture.plane_stride();
        let stride = |number: usize| {
            let stride = strides.get(number).and_then(|stride| u32::try_from(*stride).ok());
            stride.ok_or("a picture that stands on its head")
        };
        let planes =
            Planes { data: [plane(0)?, plane(1)?, plane(2)?], strides: [stride(0)?, stride(1)?, stride(2)?] };
        let keyframe = frame.flags().contains(gst_video::VideoCodecFrameFlags::FORCE_KEYFRAME);
        encoder.encode(planes, keyframe)
    }
}

#[glib::object_subclass]
impl ObjectSubclass for Imp {
    const NAME: &'static str = "RoadieAv1Enc";
    type Type = Av1Enc;
    type ParentType = gst_video::VideoEncoder;
}

impl ObjectImpl for Imp {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: OnceLock<Vec<glib::ParamSpec>> = OnceLock::new();
        PROPERTIES.get_or_init(|| {
            let number = |name: &str, words: &str, default| {
                glib::ParamSpecUInt::builder(name)
                    .blurb(words)
                    .minimum(1)
                    .default_value(default)
                    .mutable_playing()
                    .build()
            };
            vec![
                number("target-bitrate", "Bits per second", DEFAULT.bitrate),
                number(
                    "buffer-size",
                    "How much may come at once, milliseconds of the bit rate",
                    DEFAULT.buffer,
                ),
            ]
        })
    }

    fn set_property(&self, _: usize, value: &glib::Value, property: &glib::ParamSpec) {
        let Ok(value) = value.get::<u32>() else { return };
        let mut wanted = lock(&self.wanted);
        let spending = wanted.get_or_insert(DEFAULT);
        match property.name() {
            "target-bitrate" => spending.bitrate = value,
            _ => spending.buffer = value,
        }
    }

    fn property(&self, _: usize, property: &glib::ParamSpec) -> glib::Value {
        let Spending { bitrate, buffer } = self.wanted();
        if property.name() == "target-bitrate" { bitrate.to_value() } else { buffer.to_value() }
    }
}

impl GstObjectImpl for Imp {}

impl ElementImpl for Imp {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: OnceLock<gst::subclass::ElementMetadata> = OnceLock::new();
        Some(METADATA.get_or_init(|| {
            let words = "AV1 by libaom, set up for live, with keyframes when asked";
            gst::subclass::ElementMetadata::new("Roadie's AV1 encoder", "Encoder/Video", words, "Roadie")
        }))
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: OnceLock<Vec<gst::PadTemplate>> = OnceLock::new();
        TEMPLATES.get_or_init(|| {
            let raw = gst_video::VideoCapsBuilder::new().format(gst_video::VideoFormat::I420).build();
            let template = |name, direction, caps: &gst::Caps| {
                gst::PadTemplate::new(name, direction, gst::PadPresence::Always, caps)
            };
            let templates = [
                template("sink", gst::PadDirection::Sink, &raw),
                template("src", gst::PadDirection::Src, &coded()),
            ];
            // The only error is a wrong name.
            templates.into_iter().flatten().collect()
        })
    }
}

fn coded() -> gst::Caps {
    gst::Caps::builder("video/x-av1").field("stream-format", "obu-stream").field("alignment", "tu").build()
}

impl VideoEncoderImpl for Imp {
    fn set_format(
        &self,
        input: &gst_video::VideoCodecState<'static, gst_video::video_codec_state::Readable>,
    ) -> Result<(), gst::LoggableError> {
        let info = input.info();
        let fps = info.fps();
        let fps = u32::try_from(fps.numer()).ok().zip(u32::try_from(fps.denom()).ok());
        let fps = fps.map_or(0, |(pictures, seconds)| pictures.checked_div(seconds).unwrap_or(0));
        let pictures = Pictures { width: info.width(), height: info.height(), fps };
        let spending = self.wanted();
        let encoder = Av1Encoder::new(pictures, spending).map_err(|error| {
            gst::element_imp_error!(self, gst::LibraryError::Init, ("AV1: {error}"));
            gst::loggable_error!(gst::CAT_RUST, "{error}")
        })?;
        *lock(&self.state) =
            State { encoder: Some(encoder), info: Some(info.clone()), spending: Some(spending) };
        let failed = |error| gst::loggable_error!(gst::CAT_RUST, "{error}");
        let element = self.obj();
        let output = element.set_output_state(coded(), Some(input)).map_err(failed)?;
        element.negotiate(output).map_err(failed)
    }

    fn handle_frame(
        &self,
        mut frame: gst_video::VideoCodecFrame<'_>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        match self.encode(&frame) {
            Ok(Some(unit)) => {
                let data = av1::without_delimiters(&unit.data).unwrap_or(unit.data);
                frame.set_output_buffer(gst::Buffer::from_mut_slice(data));
                if unit.keyframe {
                    frame.set_flags(gst_video::VideoCodecFrameFlags::SYNC_POINT);
                }
            }
            // A frame without a buffer is one that was left out.
            Ok(None) => {}
            Err(error) => {
                gst::element_imp_error!(self, gst::LibraryError::Encode, ("AV1: {error}"));
                return Err(gst::FlowError::Error);
            }
        }
        self.obj().finish_frame(frame)
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *lock(&self.state) = State::default();
        Ok(())
    }
}
