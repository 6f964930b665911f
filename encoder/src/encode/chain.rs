//! One running video encoder: a pipeline of its own, so that it may fail or change its picture's size while
//! the others go on.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use media::{Track, TrackConfig, TrackId, VideoConfig};

use super::codec::{Buffer, Codec, Shape, force_keyframe};
use super::format::VideoCodec;
use super::{RAW_QUEUE_FRAMES, lock, raw_video_caps};
use crate::elements::{buffer_sink, caps_filter, chain, describe, internal, make};
use crate::output::{Encoded, Place};
use crate::shared::Shared;
use crate::{EncoderError, VIDEO_TRACK};

/// Frames inside of an encoder that are remembered. One that holds back more than this is no live encoder;
/// the oldest are forgotten, and come out without a group.
const MAX_INSIDE: usize = 64;

/// What a chain is for.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) track: TrackId,
    /// As announced in the catalog.
    pub(crate) name: String,
    pub(crate) nominal_bitrate: u32,
    /// Raw frames as they come in.
    pub(crate) input: Shape,
    /// Pictures as they go out.
    pub(crate) output: Shape,
}

/// A running encoder.
pub(crate) struct Chain {
    pub(crate) codec: Codec,
    pub(crate) shape: Shape,
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    encoder: gst::Element,
    inside: Arc<Inside>,
    rate: Mutex<Rate>,
}

/// A fall of the bit rate to less than so much, in percent, is a step: the encoder is held tightly for
/// [`TIGHT_FRAMES`], and no group begins for a moment (see [`super::groups`]), so that its keyframe has room.
const STEP_PERCENT: u64 = 80;
const TIGHT_FRAMES: u32 = 3;

/// Whether the bit rate falls by so much that the encoder must be held.
pub(crate) fn is_step_down(from: u32, to: u32) -> bool {
    u64::from(to) * 100 < u64::from(from) * STEP_PERCENT
}

/// What the encoder was told.
#[derive(Debug)]
struct Rate {
    bitrate: u32,
    /// Frames until its buffer is to be as usual again; 0: it is.
    tight: u32,
    group: u64,
}

/// Raw frames that are in the encoder now.
#[derive(Debug, Default)]
struct Inside {
    frames: Mutex<VecDeque<Raw>>,
    entered: AtomicU64,
    left: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Raw {
    pts: gst::ClockTime,
    /// As the encoder sees it: see [`Codec::needs_even_times`].
    inner_pts: gst::ClockTime,
    group: u64,
}

impl Inside {
    fn enter(&self, raw: Raw) -> Option<u64> {
        let mut frames = lock(&self.frames);
        if frames.len() == MAX_INSIDE {
            frames.pop_front();
        }
        let before = frames.back().map(|last| last.group);
        frames.push_back(raw);
        self.entered.fetch_add(1, Relaxed);
        before
    }

    /// The raw frame that an encoded one was made of, and whose time it has. Those before it were swallowed.
    fn leave(&self, inner_pts: gst::ClockTime) -> Option<Raw> {
        self.left.fetch_add(1, Relaxed);
        let mut frames = lock(&self.frames);
        let at = frames.iter().position(|raw| raw.inner_pts == inner_pts)?;
        // It stays as the last that has left, so that the next one knows which group it follows.
        frames.drain(..at);
        frames.front().copied()
    }
}

impl Chain {
    /// Starts an encoder. Frames reach the output as soon as raw ones are pushed; what goes wrong later is
    /// told to `failed`, from GStreamer's threads.
    pub(crate) fn start(
        codec: Codec,
        job: &Job,
        bitrate: u32,
        shared: &Arc<Shared>,
        failed: impl Fn(EncoderError) + Send + Sync + 'static,
    ) -> Result<Chain, EncoderError> {
        let pipeline = gst::Pipeline::with_name(&format!("encode-{}", job.name));
        let caps = raw_video_caps(job.input);
        let source = gst_app::AppSrc::builder().caps(&caps).format(gst::Format::Time).is_live(true).build();
        // Beyond this the oldest is dropped, because every waiting picture is a frame time of latency.
        source.set_property_from_str("leaky-type", "downstream");
        source.set_property("max-buffers", u64::from(RAW_QUEUE_FRAMES));
        source.set_property("max-bytes", 0_u64);
        let mut elements: Vec<gst::Element> = vec![source.clone().upcast()];
        if job.input != job.output {
            elements.push(make("videoscale", &[("add-borders", "false")])?);
            elements.push(caps_filter(&raw_video_caps(job.output))?);
        }
        let encoder = codec.make(job.output, bitrate)?;
        elements.push(encoder.clone());
        if codec.makes == VideoCodec::H264 {
            let profile = gst::Caps::builder("video/x-h264").field("profile", "constrained-baseline").build();
            elements.push(caps_filter(&profile)?);
        }
        elements.extend(codec.makes.framing()?);
        let inside = Arc::new(Inside::default());
        note_entering(&encoder, codec, job, &inside, shared)?;
        elements.push(encoded_sink(codec.makes, job, &inside, shared)?);
        chain(&pipeline, &elements.iter().collect::<Vec<_>>())?;
        let listen = move |message: &gst::MessageRef| {
            if let gst::MessageView::Error(error) = message.view() {
                let element = error.src().map_or_else(|| "encoder".into(), |src| src.name().to_string());
                failed(EncoderError::Pipeline { element, message: describe(error) });
            }
        };
        if let Some(bus) = pipeline.bus() {
            bus.set_sync_handler(move |_, message| {
                listen(message);
                gst::BusSyncReply::Drop
            });
        }
        let rate = Mutex::new(Rate { bitrate, tight: 0, group: 0 });
        let running = Chain { codec, shape: job.output, pipeline, source, encoder, inside, rate };
        if running.pipeline.set_state(gst::State::Playing).is_err() {
            return Err(internal(&running.encoder, &"it does not start"));
        }
        Ok(running)
    }

    /// Takes a raw frame of a group. Never waits: see [`RAW_QUEUE_FRAMES`].
    pub(crate) fn push(&self, mut buffer: gst::Buffer, group: u64) {
        let mut rate = lock(&self.rate);
        if rate.tight > 0 {
            rate.tight = if rate.group == group { rate.tight - 1 } else { 0 };
            if rate.tight == 0 {
                self.codec.set_bitrate(&self.encoder, self.shape, rate.bitrate, Buffer::Usual);
            }
        }
        rate.group = group;
        drop(rate);
        buffer.make_mut().set_offset_end(group);
        // The only error is that it has been stopped.
        let _ = self.source.push_buffer(buffer);
    }

    /// See [`Codec::set_bitrate`].
    pub(crate) fn set_bitrate(&self, bitrate: u32) {
        let mut rate = lock(&self.rate);
        if is_step_down(rate.bitrate, bitrate) {
            rate.tight = TIGHT_FRAMES;
        }
        rate.bitrate = bitrate;
        let buffer = if rate.tight > 0 { Buffer::Tight } else { Buffer::Usual };
        self.codec.set_bitrate(&self.encoder, self.shape, bitrate, buffer);
    }

    /// Frames that went in, and that came out.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.inside.entered.load(Relaxed), self.inside.left.load(Relaxed))
    }

    /// Ends it. May take as long as a driver hangs.
    pub(crate) fn stop(&self) {
        if self.pipeline.set_state(gst::State::Null).is_err() {
            tracing::warn!(codec = self.codec.name, "an encoder did not stop cleanly");
        }
    }

    /// Makes it fail, as a driver does.
    #[cfg(test)]
    pub(crate) fn break_down(&self) {
        gst::element_error!(self.encoder, gst::LibraryError::Encode, ["broken by a test"]);
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where a raw frame enters the encoder, it is known which frames were dropped before it, and whether it
/// begins a group.
fn note_entering(
    encoder: &gst::Element,
    codec: Codec,
    job: &Job,
    inside: &Arc<Inside>,
    shared: &Arc<Shared>,
) -> Result<(), EncoderError> {
    let pad = encoder.static_pad("sink").ok_or_else(|| internal(encoder, &"it has no sink pad"))?;
    let (encoder, inside, shared) = (encoder.clone(), inside.clone(), shared.clone());
    let (track, fps) = (job.track, u64::from(job.output.fps.max(1)));
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(buffer) = info.buffer_mut() else { return gst::PadProbeReturn::Ok };
        let (number, group) = (buffer.offset(), buffer.offset_end());
        if let Some(pts) = buffer.pts() {
            let mut inner_pts = pts;
            if codec.needs_even_times() {
                let entered = inside.entered.load(Relaxed);
                inner_pts = gst::ClockTime::from_nseconds((entered * 1_000_000_000).div_ceil(fps));
                buffer.make_mut().set_pts(inner_pts);
            }
            let before = inside.enter(Raw { pts, inner_pts, group });
            // Not of the first frame: it becomes a keyframe anyway.
            if before.is_some_and(|before| before != group) {
                force_keyframe(&encoder);
            }
        }
        if track == VIDEO_TRACK {
            shared.counts.entered(number);
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// Where encoded frames come out and go to the show's output.
fn encoded_sink(
    makes: VideoCodec,
    job: &Job,
    inside: &Arc<Inside>,
    shared: &Arc<Shared>,
) -> Result<gst::Element, EncoderError> {
    let (job, inside, shared) = (job.clone(), inside.clone(), shared.clone());
    buffer_sink(move |pad, buffer, running_time| {
        let encoded_at = (shared.now)();
        let Some(raw) = inside.leave(running_time) else {
            tracing::warn!(track = job.name, "the encoder made a frame of nothing");
            return;
        };
        let Ok(map) = buffer.map_readable() else { return };
        let data = Bytes::copy_from_slice(&map);
        let keyframe = makes.is_keyframe(&data);
        if keyframe && shared.output().wants_track(job.track) {
            match describe_track(pad, makes.describe(&data), &job) {
                Some(track) => shared.output().track(track),
                None => tracing::warn!("a keyframe that describes nothing"),
            }
        }
        let capture_time = shared.epoch.at(raw.pts);
        let place = Place::Group(raw.group);
        shared.frame(Encoded { track: job.track, place, capture_time, encoded_at, keyframe, data });
    })
}

/// Describes the track from its first keyframe.
fn describe_track(pad: &gst::Pad, codec: Option<String>, job: &Job) -> Option<Track> {
    let codec = codec?;
    let caps = pad.current_caps()?;
    let caps = caps.structure(0)?;
    let size = |field: &str| caps.get::<i32>(field).ok().and_then(|value| u32::try_from(value).ok());
    let (width, height) = (size("width")?, size("height")?);
    let (framerate, bitrate) = (job.output.fps, job.nominal_bitrate);
    let config = VideoConfig { codec, width, height, framerate, bitrate };
    Some(Track { id: job.track, name: job.name.clone(), config: TrackConfig::Video(config) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(ms: u64, group: u64) -> Raw {
        let pts = gst::ClockTime::from_mseconds(ms);
        Raw { pts, inner_pts: pts, group }
    }

    #[test]
    fn an_encoded_frame_finds_its_raw_one() {
        let inside = Inside::default();
        assert_eq!(inside.enter(raw(0, 7)), None);
        assert_eq!(inside.enter(raw(33, 7)), Some(7));
        assert_eq!(inside.enter(raw(66, 8)), Some(7));
        let leave = |ms| inside.leave(gst::ClockTime::from_mseconds(ms)).map(|raw| raw.group);
        assert_eq!(leave(0), Some(7));
        // The encoder swallowed the second one.
        assert_eq!(leave(66), Some(8));
        assert_eq!(leave(33), None, "out of order: no live encoder does that");
        assert_eq!(inside.enter(raw(99, 8)), Some(8), "it knows the group of the last one");
    }

    #[test]
    fn an_encoder_that_gives_nothing_holds_no_memory() {
        let inside = Inside::default();
        for n in 0..1000 {
            inside.enter(raw(n, n));
        }
        assert_eq!(inside.frames.lock().unwrap().len(), MAX_INSIDE);
    }
}
