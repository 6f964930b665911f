//! From what a source gives to what the encoders take.

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::elements::{add, caps_filter, chain, link, make};
use crate::encode::{raw_audio_caps, raw_video_caps};
use crate::{EncoderError, VideoSettings};

/// Fits pictures of any size and rate to the settings, at most at their frame rate. Gives back the
/// first and the last element, which are in the pipeline.
pub(super) fn fit_pictures(
    pipeline: &gst::Pipeline,
    settings: &VideoSettings,
) -> Result<(gst::Element, gst::Element), EncoderError> {
    // Only drops: to repeat frames it would have to hold each one back until the next has come.
    let rate = make("videorate", &[("drop-only", "true")])?;
    let scale = make("videoscale", &[("add-borders", "true")])?;
    let convert = make("videoconvert", &[])?;
    let mut caps = raw_video_caps(settings.shape());
    // Zero: a stream that does not say its rate.
    let (zero, ceiling) = (gst::Fraction::new(0, 1), gst::Fraction::new(settings.fps as i32, 1));
    caps.make_mut().set("framerate", gst::FractionRange::new(zero, ceiling));
    let last = caps_filter(&caps)?;
    chain(pipeline, &[&rate, &scale, &convert, &last])?;
    Ok((rate, last))
}

/// Fits sound of any kind to the encoder. Gives back the first and the last element, which are in the
/// pipeline.
pub(super) fn fit_sound(pipeline: &gst::Pipeline) -> Result<(gst::Element, gst::Element), EncoderError> {
    let (convert, resample) = (make("audioconvert", &[])?, make("audioresample", &[])?);
    let last = caps_filter(&raw_audio_caps())?;
    chain(pipeline, &[&convert, &resample, &last])?;
    Ok((convert, last))
}

/// Adds `middle` to the pipeline, which has the two others already, and links all in this order.
pub(super) fn between(
    pipeline: &gst::Pipeline,
    source: &gst::Element,
    middle: &[&gst::Element],
    then: &gst::Element,
) -> Result<(), EncoderError> {
    add(pipeline, middle)?;
    let all: Vec<_> = [source].into_iter().chain(middle.iter().copied()).chain([then]).collect();
    link(&all)
}

/// Links a decoded stream to the chain of its kind; a second one of a kind stays unlinked and is not
/// decoded.
pub(super) fn plug(pad: &gst::Pad, heads: &[(&str, gst::Element)]) {
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    let Some(kind) = caps.structure(0).map(|structure| structure.name().to_string()) else { return };
    for (name, head) in heads {
        let Some(sink) = head.static_pad("sink").filter(|sink| kind == *name && !sink.is_linked()) else {
            continue;
        };
        if let Err(error) = pad.link(&sink) {
            tracing::warn!(%error, %kind, "a stream does not fit");
        }
    }
}
