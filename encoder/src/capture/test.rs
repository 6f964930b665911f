//! The test input: a moving picture with a mark on every frame, and a tick every second.

use gstreamer as gst;

use super::{Capture, explain_plainly};
use crate::elements::{caps_filter, chain, make};
use crate::encode::{raw_audio_caps, raw_video_caps};
use crate::{EncoderError, VideoSettings};

pub(super) fn open(pipeline: &gst::Pipeline, settings: &VideoSettings) -> Result<Capture, EncoderError> {
    // Bars that move sideways, with a field of noise: enough work for the encoder to use its rate.
    let video_source =
        make("videotestsrc", &[("is-live", "true"), ("pattern", "smpte"), ("horizontal-speed", "4")])?;
    let mut caps = raw_video_caps(settings.shape());
    caps.make_mut().set("framerate", gst::Fraction::new(settings.fps as i32, 1));
    let video = caps_filter(&caps)?;
    chain(pipeline, &[&video_source, &video])?;

    // 10 ms at a time, as a sound card gives it.
    let audio_source =
        make("audiotestsrc", &[("is-live", "true"), ("wave", "ticks"), ("samplesperbuffer", "480")])?;
    let audio = caps_filter(&raw_audio_caps())?;
    chain(pipeline, &[&audio_source, &audio])?;
    Ok(Capture { video, audio, explain: explain_plainly(), marked: true, feed: None })
}
