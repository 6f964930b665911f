//! Which encoders this machine really has: each is made to encode a few pictures. That a plug-in is
//! installed says nothing: those for hardware are there without it, and some of it does not work.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::codec::{CODECS, Codec, Shape, check_choice};
use super::format::VideoCodec;
use super::raw_video_caps;
use crate::EncoderError;
use crate::elements::{caps_filter, chain, describe, make};

/// Pictures that are encoded.
const PICTURES: u32 = 8;
/// Their size: what every hardware encoder takes.
const SHAPE: Shape = Shape { width: 640, height: 360, fps: 30 };
const BITRATE: u32 = 1_000_000;
/// A driver that takes longer is no good for a live show.
const LIMIT: gst::ClockTime = gst::ClockTime::from_seconds(3);
/// How often errors are looked for.
const STEP: gst::ClockTime = gst::ClockTime::from_mseconds(50);

/// An encoder of video, and whether it works here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoEncoder {
    /// As `--encoder` takes it.
    pub name: &'static str,
    /// What it makes.
    pub makes: VideoCodec,
    /// Where it runs, in words.
    pub place: &'static str,
    /// `Err`: why it cannot be used.
    pub works: Result<(), String>,
}

/// Tries all known video encoders, in the order in which a show would choose them. Takes a few hundred
/// milliseconds the first time.
///
/// # Errors
/// When GStreamer itself does not start.
pub fn video_encoders() -> Result<Vec<VideoEncoder>, EncoderError> {
    gst::init().map_err(|error| EncoderError::NoGStreamer { message: error.to_string() })?;
    let look = |codec: Codec| VideoEncoder {
        name: codec.name,
        makes: codec.makes,
        place: codec.place,
        works: probe(codec).map_err(|error| match error {
            // The name is beside it.
            EncoderError::EncoderUnusable { message, .. } => message,
            error => error.to_string(),
        }),
    };
    Ok(CODECS.into_iter().map(look).collect())
}

/// The encoders to use, in this order. Those after the first are tried when it fails. `wanted`: only this one.
pub(crate) fn choose(makes: VideoCodec, wanted: Option<&str>) -> Result<Vec<Codec>, EncoderError> {
    if let Some(name) = wanted {
        let codec = check_choice(makes, name)?;
        return probe(codec).map(|()| vec![codec]);
    }
    let mut useful = None;
    let fitting: Vec<Codec> = CODECS.into_iter().filter(|codec| codec.makes == makes).collect();
    for (at, codec) in fitting.iter().enumerate() {
        match probe(*codec) {
            Ok(()) => return Ok(fitting[at..].to_vec()),
            Err(error) => {
                tracing::debug!(codec = codec.name, %error, "not usable");
                // The most useful one to tell is that of the encoder that anybody can install.
                if useful.is_none() || codec.name == "x264" {
                    useful = Some(error);
                }
            }
        }
    }
    Err(useful.unwrap_or_else(|| EncoderError::EncoderUnusable {
        name: "none".into(),
        message: "none is known".into(),
    }))
}

/// Whether an encoder works, found out once per process.
pub(crate) fn probe(codec: Codec) -> Result<(), EncoderError> {
    static KNOWN: OnceLock<Mutex<HashMap<&'static str, Result<(), EncoderError>>>> = OnceLock::new();
    let mut known = KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    known.entry(codec.name).or_insert_with(|| encode(codec)).clone()
}

/// Encodes a few pictures.
fn encode(codec: Codec) -> Result<(), EncoderError> {
    let encoder = codec.make(SHAPE, BITRATE).map_err(|error| match error {
        // Plug-ins for hardware are installed with others, and have no elements where there is none.
        EncoderError::MissingElement { package, .. } if codec.is_hardware() => {
            EncoderError::EncoderUnusable {
                name: codec.name.into(),
                message: format!(
                    "there is no such hardware, or no driver for it (the plug-in is in {package})"
                ),
            }
        }
        error => error,
    })?;
    let source = make("videotestsrc", &[("pattern", "ball")])?;
    let sink = gstreamer_app::AppSink::builder().sync(false).async_(false).max_buffers(4).build();
    let pipeline = gst::Pipeline::new();
    let raw = caps_filter(&raw_video_caps(SHAPE))?;
    let mut elements = vec![source, raw, encoder];
    elements.extend(codec.makes.framing()?);
    elements.push(sink.clone().upcast());
    chain(&pipeline, &elements.iter().collect::<Vec<_>>())?;
    let result = run(&pipeline, &sink, codec.makes);
    let _ = pipeline.set_state(gst::State::Null);
    result.map_err(|message| EncoderError::EncoderUnusable { name: codec.name.into(), message })
}

fn run(pipeline: &gst::Pipeline, sink: &gstreamer_app::AppSink, makes: VideoCodec) -> Result<(), String> {
    let bus = pipeline.bus().ok_or("it has no bus")?;
    let failure = || match bus.pop_filtered(&[gst::MessageType::Error]).as_ref().map(|message| message.view())
    {
        Some(gst::MessageView::Error(error)) => Some(describe(error)),
        _ => None,
    };
    if pipeline.set_state(gst::State::Playing).is_err() {
        return Err(failure().unwrap_or_else(|| "it does not start".into()));
    }
    let clock = gst::SystemClock::obtain();
    let end = clock.time() + LIMIT;
    let mut samples = Vec::new();
    while samples.len() < PICTURES as usize {
        match sink.try_pull_sample(end.saturating_sub(clock.time()).min(STEP)) {
            Some(sample) => samples.push(sample),
            None if clock.time() >= end => {
                let seconds = LIMIT.seconds();
                return Err(format!("it made {} pictures of {PICTURES} in {seconds} s", samples.len()));
            }
            None => failure().map_or(Ok(()), Err)?,
        }
    }
    let times: Vec<_> = samples.iter().filter_map(|sample| sample.buffer()?.pts()).collect();
    if times.len() < samples.len() || times.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err("it reorders pictures, which costs delay".into());
    }
    let first =
        samples.first().and_then(|sample| sample.buffer()?.map_readable().ok().map(|map| map.to_vec()));
    match first.and_then(|first| makes.describe(&first)) {
        Some(_) => Ok(()),
        None => Err("its first picture is no keyframe that a decoder can begin with".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_works_is_known_by_trying() {
        let found = video_encoders().expect("GStreamer");
        let works =
            |name| found.iter().find(|encoder| encoder.name == name).map(|encoder| encoder.works.clone());
        assert_eq!(works("x264"), Some(Ok(())), "it is installed for the tests");
        assert_eq!(works("vpx"), Some(Ok(())), "as is the plug-in of VP8");
        let chosen = choose(VideoCodec::H264, None).expect("at least x264");
        assert_eq!(works(chosen[0].name), Some(Ok(())), "the first one works");
        assert!(chosen.iter().all(|codec| codec.makes == VideoCodec::H264));
        let vp8 = choose(VideoCodec::Vp8, None).expect("vpx");
        assert_eq!(vp8.iter().map(|codec| codec.name).collect::<Vec<_>>(), ["vpx"]);
        let av1 = choose(VideoCodec::Av1, None).expect("aom");
        assert_eq!(av1.iter().map(|codec| codec.name).collect::<Vec<_>>(), ["aom"]);
        assert_eq!(choose(VideoCodec::H264, Some("x264")).expect("it works").len(), 1);
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        gst::init().expect("GStreamer");
        let error = choose(VideoCodec::H264, Some("h265")).expect_err("not known");
        assert!(error.to_string().contains("x264, openh264"), "{error}");
        let of = |name| CODECS.into_iter().find(|codec| codec.name == name).expect("known");
        let missing = Codec { element: "no-such-element", ..of("x264") };
        assert!(matches!(encode(missing), Err(EncoderError::MissingElement { .. })));
        let error = encode(Codec { element: "no-such-element", ..of("vaapi") }).expect_err("not there");
        assert!(error.to_string().contains("no such hardware"), "{error}");
        // It is there, but it encodes nothing.
        let wrong = Codec { name: "wrong", element: "identity", ..CODECS[0] };
        assert!(matches!(
            encode(wrong),
            Err(EncoderError::EncoderUnusable { .. } | EncoderError::Pipeline { .. })
        ));
    }
}
