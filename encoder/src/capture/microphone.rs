//! The microphone or line-in of the show.

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::Capture;
use super::chain::fit_sound;
use crate::elements::{add, link, make, opens};
use crate::program::place::Stamps;
use crate::{EncoderError, Microphone};

/// The buffer of the sound card is the latency of the sound, in microseconds. Its samples are only counted: what
/// GStreamer does about a card whose clock drifts lets it stray by the whole buffer first.
const PROPERTIES: [(&str, &str); 4] = [
    ("provide-clock", "false"),
    ("slave-method", "none"),
    ("latency-time", "10000"),
    ("buffer-time", "100000"),
];

pub(super) fn open(pipeline: &gst::Pipeline, wanted: &Microphone) -> Result<Capture, EncoderError> {
    let source = find(wanted)?;
    // At once, so that an error below closes the device with the pipeline.
    add(pipeline, &[&source])?;
    let (head, last) = fit_sound(pipeline)?;
    link(&[&source, &head])?;
    let device = wanted.to_string();
    let name = source.name().to_string();
    let explain = Arc::new(move |element: &str, message: String| match element == name {
        true => EncoderError::MicrophoneFailed { device: device.clone(), message },
        false => EncoderError::Pipeline { element: element.to_owned(), message },
    });
    Ok(Capture { pictures: None, sound: Some(last), stamps: Stamps::Theirs, explain, feed: None })
}

/// The wanted microphone, opened.
fn find(wanted: &Microphone) -> Result<gst::Element, EncoderError> {
    let failed = |message| EncoderError::MicrophoneFailed { device: wanted.to_string(), message };
    let (element, device) = match wanted {
        Microphone::Alsa(device) => ("alsasrc", device),
        Microphone::Pulse(name) => ("pulsesrc", name),
        Microphone::Default | Microphone::None => return any().map_err(failed),
    };
    let source = make(element, &PROPERTIES)?;
    source.set_property("device", device);
    opens(&source).map_err(failed)?;
    Ok(source)
}

/// The system's default. The error says why there is none.
fn any() -> Result<gst::Element, String> {
    let mut reason = None;
    for name in ["pulsesrc", "alsasrc"] {
        match make(name, &PROPERTIES) {
            Ok(source) => match opens(&source) {
                Ok(()) => return Ok(source),
                Err(error) => drop(reason.get_or_insert(error)),
            },
            Err(error) => tracing::debug!(%error, "no microphone by this way"),
        }
    }
    Err(reason.unwrap_or_else(|| {
        "neither PulseAudio nor ALSA can be used; `apt install gstreamer1.0-pulseaudio gstreamer1.0-alsa`"
            .into()
    }))
}
