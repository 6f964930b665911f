//! Making GStreamer elements, and telling what to install where one is missing.

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::EncoderError;

/// Makes an element, with properties given as text.
///
/// Creating it is the only sure probe: the registry's answer is wrong for some plug-ins.
pub(crate) fn make(name: &str, properties: &[(&str, &str)]) -> Result<gst::Element, EncoderError> {
    let missing = || EncoderError::MissingElement { element: name.to_owned(), package: package(name) };
    let element = gst::ElementFactory::make(name).build().map_err(|_| missing())?;
    for (property, value) in properties {
        element.set_property_from_str(property, value);
    }
    Ok(element)
}

/// A filter that lets only these caps through.
pub(crate) fn caps_filter(caps: &gst::Caps) -> Result<gst::Element, EncoderError> {
    let filter = make("capsfilter", &[])?;
    filter.set_property("caps", caps);
    Ok(filter)
}

/// Adds elements to a pipeline and links them in this order.
pub(crate) fn chain(pipeline: &gst::Pipeline, elements: &[&gst::Element]) -> Result<(), EncoderError> {
    add(pipeline, elements)?;
    link(elements)
}

/// Adds elements to a pipeline, which then starts and stops them.
pub(crate) fn add(pipeline: &gst::Pipeline, elements: &[&gst::Element]) -> Result<(), EncoderError> {
    for &element in elements {
        pipeline.add(element).map_err(|error| internal(element, &error))?;
    }
    Ok(())
}

/// Links elements in this order.
pub(crate) fn link(elements: &[&gst::Element]) -> Result<(), EncoderError> {
    for pair in elements.windows(2) {
        pair[0].link(pair[1]).map_err(|error| internal(pair[1], &error))?;
    }
    Ok(())
}

/// The end of a pipeline: calls `take` with each buffer and its running time, in the thread that brings it. The buffer is
/// the taker's own, so that it may be written into without a copy where nobody else holds it. Waits for no clock, and
/// does not hold up the pipeline's start.
pub(crate) fn buffer_sink(
    take: impl Fn(&gst::Pad, gst::Buffer, gst::ClockTime) + Send + Sync + 'static,
) -> Result<gst::Element, EncoderError> {
    let properties = [("sync", "false"), ("async", "false"), ("enable-last-sample", "false")];
    let sink = make("fakesink", &properties)?;
    let pad = sink.static_pad("sink").ok_or_else(|| internal(&sink, &"it has no sink pad"))?;
    // A probe is given the buffer itself; an `appsink` would keep a reference.
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let Some(gst::PadProbeData::Buffer(buffer)) = info.data.take() else {
            return gst::PadProbeReturn::Ok;
        };
        let running_time = pad.sticky_event::<gst::event::Segment>(0).and_then(|event| {
            event.segment().downcast_ref::<gst::ClockTime>()?.to_running_time(buffer.pts()?)
        });
        if let Some(running_time) = running_time {
            take(pad, buffer, running_time);
        }
        gst::PadProbeReturn::Handled
    });
    Ok(sink)
}

/// An error of GStreamer that depends on no input, only on the installation.
pub(crate) fn internal(element: &impl IsA<gst::Object>, message: &impl ToString) -> EncoderError {
    EncoderError::Pipeline { element: element.name().to_string(), message: message.to_string() }
}

/// An error message of the bus, in one line.
pub(crate) fn describe(error: &gst::message::Error) -> String {
    let text = error.error().to_string();
    // The last line of the debug text names the reason; the first ones are positions in C files.
    match error.debug().as_deref().and_then(|debug| debug.lines().last().map(str::to_owned)) {
        Some(reason) if !reason.is_empty() && !reason.contains(".c(") => format!("{text} {reason}"),
        _ => text,
    }
}

/// Whether a source opens its device; if not, why. It stays open.
pub(crate) fn opens(source: &gst::Element) -> Result<(), String> {
    // A bus of its own, because the source is in no pipeline yet.
    let bus = gst::Bus::new();
    source.set_bus(Some(&bus));
    let result = source.set_state(gst::State::Ready);
    let message = bus.pop_filtered(&[gst::MessageType::Error]);
    source.set_bus(None);
    if result.is_ok() {
        return Ok(());
    }
    let _ = source.set_state(gst::State::Null);
    Err(match message.as_ref().map(|message| message.view()) {
        Some(gst::MessageView::Error(error)) => describe(error),
        _ => "it cannot be opened".into(),
    })
}

/// The Debian package of an element that this crate uses.
fn package(element: &str) -> &'static str {
    match element {
        "capsfilter" | "clocksync" | "filesrc" | "queue" => "libgstreamer1.0-0",
        "x264enc" => "gstreamer1.0-plugins-ugly",
        "h264parse" => "gstreamer1.0-plugins-bad",
        "v4l2src" | "jpegdec" | "ximagesrc" | "rtspsrc" | "udpsrc" | "flvdemux" | "vp8enc"
        | "v4l2h264enc" => "gstreamer1.0-plugins-good",
        "srtsrc" | "rtmp2src" | "tsdemux" | "openh264enc" | "vah264enc" | "nvh264enc" => {
            "gstreamer1.0-plugins-bad"
        }
        "pulsesrc" => "gstreamer1.0-pulseaudio",
        "pipewiresrc" => "gstreamer1.0-pipewire",
        "alsasrc" => "gstreamer1.0-alsa",
        _ => "gstreamer1.0-plugins-base",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_element_names_its_package() {
        gst::init().expect("GStreamer");
        let error = make("no-such-element", &[]).expect_err("there is none");
        assert!(error.to_string().contains("apt install gstreamer1.0-plugins-base"), "{error}");
        assert_eq!(package("x264enc"), "gstreamer1.0-plugins-ugly");
    }
}
