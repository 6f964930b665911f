//! The test input: a moving picture, and a tick every second. The program draws the mark.

use gstreamer as gst;

use super::{Capture, explain_plainly};
use crate::elements::{caps_filter, chain, make};
use crate::encode::{raw_audio_caps, raw_video_caps};
use crate::program::place::Stamps;
use crate::{EncoderError, VideoSettings};

pub(super) fn open(pipeline: &gst::Pipeline, settings: &VideoSettings) -> Result<Capture, EncoderError> {
    // Bars that move sideways, with a field of noise: enough work for the encoder to use its rate.
    let video_source =
        make("videotestsrc", &[("is-live", "true"), ("pattern", "smpte"), ("horizontal-speed", "4")])?;
    let caps = raw_video_caps(settings.shape());
    let pictures = caps_filter(&caps)?;
    chain(pipeline, &[&video_source, &pictures])?;

    // 10 ms at a time, as a sound card gives it.
    let audio_source =
        make("audiotestsrc", &[("is-live", "true"), ("wave", "ticks"), ("samplesperbuffer", "480")])?;
    let sound = caps_filter(&raw_audio_caps())?;
    chain(pipeline, &[&audio_source, &sound])?;
    Ok(Capture {
        pictures: Some(pictures),
        sound: Some(sound),
        stamps: Stamps::Ours,
        explain: explain_plainly(),
        feed: None,
    })
}
