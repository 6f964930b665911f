//! A stream from the network, of any format that a plug-in decodes.

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::chain::{fit_pictures, fit_sound, plug};
use super::units::Units;
use super::{Capture, Watch};
use crate::elements::{add, make};
use crate::program::place::Stamps;
use crate::{EncoderError, Stream, Transport, VideoSettings};

/// What the kernel keeps of a stream while we are busy: half a second at 30 Mb/s.
const SOCKET_BUFFER: i32 = 2 << 20;
/// Packets of RTP may be so much out of order, in milliseconds. It is the price of each RTSP camera.
const RTP_JITTER: u32 = 100;

pub(super) fn open(
    pipeline: &gst::Pipeline,
    stream: &Stream,
    settings: &VideoSettings,
    watch: &Arc<Watch>,
    units: Option<&Arc<Units>>,
) -> Result<Capture, EncoderError> {
    // The decoder would make these itself, but could not say what to install.
    let needs: &[&str] = match stream.transport() {
        Transport::SrtCaller | Transport::SrtListener => &["srtsrc", "tsdemux"],
        Transport::Rtsp => &["rtspsrc"],
        Transport::Rtmp => &["rtmp2src", "flvdemux"],
        Transport::Udp => &["udpsrc", "tsdemux"],
    };
    needs.iter().try_for_each(|element| make(element, &[]).map(drop))?;

    let decoder = make("uridecodebin", &[("force-sw-decoders", "true")])?;
    decoder.set_property("uri", stream.uri());
    add(pipeline, &[&decoder])?;
    let (video_head, video) = fit_pictures(pipeline, settings)?;
    let (audio_head, audio) = fit_sound(pipeline)?;
    let heads = [("video/x-raw", video_head), ("audio/x-raw", audio_head)];
    decoder.connect_pad_added(move |_, pad| plug(pad, &heads));
    if let Some(units) = units {
        units.watch(&decoder);
    }
    let setting_up = watch.clone();
    decoder.connect("source-setup", false, move |values| {
        let source = values.get(1)?.get::<gst::Element>().ok()?;
        set_up(&source, &setting_up);
        None
    });

    let (input, explaining) = (stream.to_string(), watch.clone());
    let explain = Arc::new(move |_: &str, message: String| match explaining.undecodable() {
        Some(what) => EncoderError::MissingDecoder { what },
        None => EncoderError::StreamFailed { input: input.clone(), message },
    });
    Ok(Capture { pictures: Some(video), sound: Some(audio), stamps: Stamps::Theirs, explain, feed: None })
}

/// Sets what a source of this kind needs, and notices that something comes.
fn set_up(source: &gst::Element, watch: &Arc<Watch>) {
    let set = |name: &str, value: &str| {
        if source.find_property(name).is_some() {
            source.set_property_from_str(name, value);
        }
    };
    let kind = source.factory().map(|factory| factory.name().to_string());
    match kind.as_deref() {
        // A connection that broke is an error: the source is opened anew, with fresh clocks.
        Some("srtsrc") => {
            set("auto-reconnect", "false");
            set("keep-listening", "false");
        }
        Some("udpsrc") => set("buffer-size", &SOCKET_BUFFER.to_string()),
        Some("rtspsrc") => set("latency", &RTP_JITTER.to_string()),
        _ => {}
    }
    let Some(pad) = source.static_pad("src") else { return };
    if matches!(kind.as_deref(), Some("srtsrc" | "udpsrc")) {
        let _ = pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, untimed);
    }
    let watch = watch.clone();
    pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |_, _| {
        watch.data();
        // Once is enough.
        gst::PadProbeReturn::Remove
    });
}

/// Hides the times of arrival from the demultiplexer of MPEG-TS. It would follow them, and so move
/// pictures and sound against each other by some milliseconds; the program follows them for both.
fn untimed(_: &gst::Pad, info: &mut gst::PadProbeInfo) -> gst::PadProbeReturn {
    if let Some(gst::PadProbeData::Event(event)) = &mut info.data
        && event.type_() == gst::EventType::Segment
    {
        *event = gst::event::Segment::new(&gst::FormattedSegment::<gst::format::Bytes>::new());
    }
    gst::PadProbeReturn::Ok
}
