//! The two encoder chains: raw pictures and sound in, H.264 and Opus out.

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use std::sync::Arc;

use media::{Track, TrackConfig, VideoConfig, h264};

use crate::clock::Epoch;
use crate::elements::{caps_filter, chain, internal, make};
use crate::output::Encoded;
use crate::rate::vbv_millis;
use crate::shared::Shared;
use crate::{AUDIO_TRACK, AudioSettings, EncoderError, VIDEO_TRACK, VideoSettings};

/// Raw pictures that wait for the encoder. Two let it ride out a hiccup; beyond that the oldest is
/// dropped, because every waiting picture is a frame time of latency.
pub(crate) const RAW_QUEUE_FRAMES: u32 = 2;
/// Raw sound that waits for the encoder; beyond that the oldest is dropped.
const RAW_QUEUE_AUDIO: gst::ClockTime = gst::ClockTime::from_mseconds(200);

/// Milliseconds of an Opus packet. 20 halves the overhead of 10 and costs 10 ms.
pub(crate) const AUDIO_PACKET_MS: u32 = 20;
/// Packets in an audio group: half a second.
pub(crate) const AUDIO_GROUP_PACKETS: u32 = 500 / AUDIO_PACKET_MS;

/// The ends of a chain: raw frames go into `input`.
pub(crate) struct VideoChain {
    pub(crate) input: gst::Element,
    pub(crate) encoder: gst::Element,
    sink: gst_app::AppSink,
}

/// The ends of a chain: raw sound goes into `input`.
pub(crate) struct AudioChain {
    pub(crate) input: gst::Element,
    sink: gst_app::AppSink,
}

/// Raw pictures as the encoder takes them. The source adds the frame rate.
pub(crate) fn raw_video_caps(settings: &VideoSettings) -> gst::Caps {
    gst::Caps::builder("video/x-raw")
        .field("format", "I420")
        .field("width", settings.width as i32)
        .field("height", settings.height as i32)
        .field("pixel-aspect-ratio", gst::Fraction::new(1, 1))
        .build()
}

/// Raw sound as the encoder takes it.
pub(crate) fn raw_audio_caps() -> gst::Caps {
    gst::Caps::builder("audio/x-raw")
        .field("format", "S16LE")
        .field("layout", "interleaved")
        .field("rate", 48_000)
        .field("channels", 2)
        .build()
}

/// Builds the video chain.
pub(crate) fn video(pipeline: &gst::Pipeline, settings: &VideoSettings) -> Result<VideoChain, EncoderError> {
    let input = make("queue", &[("leaky", "downstream"), ("max-size-bytes", "0"), ("max-size-time", "0")])?;
    input.set_property("max-size-buffers", RAW_QUEUE_FRAMES);
    let encoder = make(
        "x264enc",
        &[
            ("tune", "zerolatency"),
            ("speed-preset", "superfast"),
            ("threads", "2"),
            ("sliced-threads", "true"),
            ("bframes", "0"),
            ("aud", "false"),
            ("byte-stream", "true"),
            ("option-string", "scenecut=0"),
        ],
    )?;
    set_bitrate(&encoder, settings, settings.bitrate);
    encoder.set_property("key-int-max", settings.frames_per_group());
    let profile = gst::Caps::builder("video/x-h264").field("profile", "constrained-baseline").build();
    let profile = caps_filter(&profile)?;
    let parser = make("h264parse", &[("config-interval", "-1")])?;
    let units = gst::Caps::builder("video/x-h264")
        .field("stream-format", "byte-stream")
        .field("alignment", "au")
        .build();
    let sink = app_sink("video");
    let filter = caps_filter(&units)?;
    chain(pipeline, &[&input, &encoder, &profile, &parser, &filter, sink.upcast_ref()])?;
    Ok(VideoChain { input, encoder, sink })
}

/// Builds the audio chain.
pub(crate) fn audio(pipeline: &gst::Pipeline, settings: &AudioSettings) -> Result<AudioChain, EncoderError> {
    let input =
        make("queue", &[("leaky", "downstream"), ("max-size-bytes", "0"), ("max-size-buffers", "0")])?;
    input.set_property("max-size-time", RAW_QUEUE_AUDIO.nseconds());
    let encoder = make("opusenc", &[("audio-type", "restricted-lowdelay")])?;
    encoder.set_property_from_str("frame-size", &AUDIO_PACKET_MS.to_string());
    encoder.set_property("bitrate", settings.bitrate as i32);
    let sink = app_sink("audio");
    chain(pipeline, &[&input, &encoder, sink.upcast_ref()])?;
    Ok(AudioChain { input, sink })
}

/// A sink that neither waits for the clock nor holds up the pipeline's start.
fn app_sink(name: &str) -> gst_app::AppSink {
    // The callback takes a buffer as soon as it comes, so the queue behind it never grows.
    gst_app::AppSink::builder().name(name).sync(false).async_(false).max_buffers(4).build()
}

impl VideoChain {
    /// Lets frames flow into the output.
    pub(crate) fn connect(
        &self,
        settings: &VideoSettings,
        epoch: Epoch,
        shared: &Arc<Shared>,
    ) -> Result<(), EncoderError> {
        count_drops(&self.input, shared)?;
        let (settings, encoder, shared) = (settings.clone(), self.encoder.clone(), shared.clone());
        on_buffer(&self.sink, move |sample, buffer, segment| {
            let encoded_at = (shared.now)();
            let Some(capture_time) = epoch.capture_time(segment, buffer) else { return };
            let Ok(map) = buffer.map_readable() else { return };
            let data = Bytes::copy_from_slice(&map);
            let keyframe = h264::is_idr(&data);
            if keyframe && shared.output().wants_track(VIDEO_TRACK) {
                match video_track(sample, &data, &settings) {
                    Some(track) => shared.output().track(track),
                    None => tracing::warn!("an IDR without a readable SPS"),
                }
            }
            shared.frame(Encoded { track: VIDEO_TRACK, capture_time, encoded_at, keyframe, data });
            if shared.keyframes().frame(keyframe, encoded_at) {
                force_keyframe(&encoder);
            }
        });
        Ok(())
    }
}

impl AudioChain {
    /// Lets packets flow into the output.
    pub(crate) fn connect(&self, settings: &AudioSettings, epoch: Epoch, shared: &Arc<Shared>) {
        let shared = shared.clone();
        let track = Track {
            id: AUDIO_TRACK,
            name: "audio".into(),
            config: TrackConfig::Audio(media::AudioConfig {
                codec: "opus".into(),
                sample_rate: 48_000,
                channels: 2,
                bitrate: settings.bitrate,
            }),
        };
        on_buffer(&self.sink, move |_, buffer, segment| {
            let encoded_at = (shared.now)();
            if buffer.flags().contains(gst::BufferFlags::HEADER) {
                return;
            }
            let Some(capture_time) = epoch.capture_time(segment, buffer) else { return };
            let Ok(map) = buffer.map_readable() else { return };
            let data = Bytes::copy_from_slice(&map);
            if shared.output().wants_track(AUDIO_TRACK) {
                shared.output().track(track.clone());
            }
            shared.frame(Encoded { track: AUDIO_TRACK, capture_time, encoded_at, keyframe: true, data });
        });
    }
}

/// Sets the bit rate of x264 (bits per second), and how large an IDR may be at it. Both take effect
/// while it runs.
pub(crate) fn set_bitrate(encoder: &gst::Element, settings: &VideoSettings, bitrate: u32) {
    encoder.set_property("vbv-buf-capacity", vbv_millis(bitrate, settings.width, settings.height));
    encoder.set_property("bitrate", bitrate / 1000);
}

/// Asks x264 for an IDR with its parameter sets.
pub(crate) fn force_keyframe(encoder: &gst::Element) {
    let event = gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build();
    if let Some(pad) = encoder.static_pad("src") {
        pad.send_event(event);
    }
}

/// Calls `take` with each buffer that comes out of a chain.
fn on_buffer(
    sink: &gst_app::AppSink,
    take: impl Fn(&gst::Sample, &gst::BufferRef, &gst::Segment) + Send + Sync + 'static,
) {
    let callbacks = gst_app::AppSinkCallbacks::builder().new_sample(move |sink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        if let (Some(buffer), Some(segment)) = (sample.buffer(), sample.segment()) {
            take(&sample, buffer, segment);
        }
        Ok(gst::FlowSuccess::Ok)
    });
    sink.set_callbacks(callbacks.build());
}

/// Counts the raw frames that the queue dropped: captured frames carry their number as offset, and
/// what is missing between two that leave the queue was dropped.
fn count_drops(queue: &gst::Element, shared: &Arc<Shared>) -> Result<(), EncoderError> {
    let pad = queue.static_pad("src").ok_or_else(|| internal(queue, &"it has no source pad"))?;
    let shared = shared.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(offset) = info.buffer().map(|buffer| buffer.offset()) {
            shared.counts.entered(offset);
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// Describes the video track from its first IDR.
fn video_track(sample: &gst::Sample, idr: &[u8], settings: &VideoSettings) -> Option<Track> {
    let sets = h264::ParameterSets::of(idr)?;
    let codec = h264::codec_string(sets.sps()).ok()?;
    let caps = sample.caps()?.structure(0)?;
    let size = |field: &str| caps.get::<i32>(field).ok().and_then(|value| u32::try_from(value).ok());
    let (width, height) = (size("width")?, size("height")?);
    let config = VideoConfig { codec, width, height, framerate: settings.fps, bitrate: settings.bitrate };
    Some(Track { id: VIDEO_TRACK, name: format!("video/{height}p"), config: TrackConfig::Video(config) })
}
