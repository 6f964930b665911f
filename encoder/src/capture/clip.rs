//! A media file being decoded, as fast as its frames are taken, in a pipeline of its own.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::chain::plug;
use crate::elements::{caps_filter, chain, describe, make};
use crate::encode::{raw_audio_caps, raw_video_caps};
use crate::{EncoderError, VideoSettings};

/// How long opening a file may take before it counts as broken.
const OPEN_LIMIT: Duration = Duration::from_secs(8);
/// Decoded pictures kept ready: 1.4 MB each at 720p.
const READY_PICTURES: u32 = 4;
/// Decoded pieces of sound kept ready: about 20 ms each.
const READY_SOUND: u32 = 16;

pub(super) struct Clip {
    pipeline: gst::Pipeline,
    video: gst_app::AppSink,
    /// `None`: the file has no sound.
    audio: Option<gst_app::AppSink>,
    failure: Arc<Failure>,
}

/// What a track gave.
pub(super) enum Pulled {
    Frame(gst::Buffer),
    Ended,
    /// Nothing in time.
    Nothing,
}

/// The first error of the decoding pipeline, and the formats that nothing decodes.
struct Failure {
    path: PathBuf,
    error: Mutex<Option<EncoderError>>,
    undecodable: Mutex<Vec<String>>,
    told: SyncSender<()>,
}

impl Clip {
    /// Opens a file for decoding to the encoder's raw formats.
    pub(super) fn open(path: &Path, settings: &VideoSettings) -> Result<Clip, EncoderError> {
        readable(path)?;
        let pipeline = gst::Pipeline::with_name("clip");
        let source = make("filesrc", &[])?;
        source.set_property("location", path);
        let decoder = make("decodebin", &[("force-sw-decoders", "true")])?;
        chain(&pipeline, &[&source, &decoder])?;

        let (video_head, video) = video_chain(&pipeline, settings)?;
        let (audio_head, audio) = audio_chain(&pipeline)?;
        let heads = [("video/x-raw", video_head.clone()), ("audio/x-raw", audio_head.clone())];
        decoder.connect_pad_added(move |_, pad| plug(pad, &heads));

        // Room for both tellings: that all pads are there, and an error.
        let (told, opened) = mpsc::sync_channel(2);
        let all_there = told.clone();
        decoder.connect_no_more_pads(move |_| {
            let _ = all_there.try_send(());
        });
        let failure =
            Failure { path: path.into(), error: Mutex::default(), undecodable: Mutex::default(), told };
        let failure = Arc::new(failure);
        listen(&pipeline, &failure);

        let mut clip = Clip { pipeline, video, audio: Some(audio), failure };
        // Where it does not start, the bus has said why.
        let started = clip.pipeline.set_state(gst::State::Playing);
        let opened = opened.recv_timeout(OPEN_LIMIT);
        clip.check()?;
        if started.is_err() || opened.is_err() {
            return Err(clip.failure.not_media("it cannot be decoded"));
        }
        if !is_linked(&video_head) {
            return Err(clip.failure.no_video());
        }
        if !is_linked(&audio_head) {
            tracing::info!(path = %path.display(), "the file has no sound: silence is sent");
            clip.audio = None;
        }
        Ok(clip)
    }

    pub(super) fn has_audio(&self) -> bool {
        self.audio.is_some()
    }

    /// The next picture, waiting for it at most so long.
    pub(super) fn picture(&self, timeout: Duration) -> Pulled {
        pull(&self.video, timeout)
    }

    /// The next piece of sound, waiting for it at most so long.
    pub(super) fn sound(&self, timeout: Duration) -> Pulled {
        self.audio.as_ref().map_or(Pulled::Ended, |audio| pull(audio, timeout))
    }

    /// Goes back to the beginning.
    pub(super) fn rewind(&self) -> Result<(), EncoderError> {
        // By one sink only: the demuxer moves all its streams.
        let seek = gst::event::Seek::new(
            1.0,
            gst::SeekFlags::FLUSH,
            gst::SeekType::Set,
            gst::ClockTime::ZERO,
            gst::SeekType::None,
            gst::ClockTime::NONE,
        );
        match self.video.send_event(seek) {
            true => Ok(()),
            false => Err(self.failure("it cannot be played from the beginning again")),
        }
    }

    /// The error that decoding ran into, if any.
    pub(super) fn check(&self) -> Result<(), EncoderError> {
        self.failure.error.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }

    /// An error of this file.
    pub(super) fn failure(&self, message: &str) -> EncoderError {
        self.failure.not_media(message)
    }
}

impl Drop for Clip {
    fn drop(&mut self) {
        if self.pipeline.set_state(gst::State::Null).is_err() {
            tracing::warn!("the file did not close cleanly");
        }
    }
}

impl Failure {
    fn not_media(&self, message: &str) -> EncoderError {
        EncoderError::NotMedia { path: self.path.clone(), message: message.to_owned() }
    }

    fn no_video(&self) -> EncoderError {
        let undecodable = self.undecodable.lock().unwrap_or_else(PoisonError::into_inner);
        match undecodable.first() {
            Some(what) => EncoderError::MissingDecoder { what: what.clone() },
            None => EncoderError::NoVideo { path: self.path.clone() },
        }
    }

    fn message(&self, error: &gst::message::Error) {
        let missing = |what| EncoderError::MissingDecoder { what };
        let undecodable = self.undecodable.lock().unwrap_or_else(PoisonError::into_inner).first().cloned();
        let error = undecodable.map_or_else(|| self.not_media(&describe(error)), missing);
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        // Full: it has been told already.
        let _ = self.told.try_send(());
    }
}

/// Sees at once what GStreamer would tell in other words.
fn readable(path: &Path) -> Result<(), EncoderError> {
    let unreadable = |reason: String| EncoderError::FileUnreadable { path: path.into(), reason };
    match std::fs::File::open(path).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(unreadable("it is not a file".into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(EncoderError::FileNotFound { path: path.into() })
        }
        Err(error) => Err(unreadable(error.to_string())),
    }
}

fn video_chain(
    pipeline: &gst::Pipeline,
    settings: &VideoSettings,
) -> Result<(gst::Element, gst_app::AppSink), EncoderError> {
    let scale = make("videoscale", &[("add-borders", "true")])?;
    let convert = make("videoconvert", &[])?;
    let rate = make("videorate", &[])?;
    let caps = raw_video_caps(settings.shape());
    let sink =
        gst_app::AppSink::builder().caps(&caps).sync(false).async_(false).max_buffers(READY_PICTURES).build();
    chain(pipeline, &[&scale, &convert, &rate, sink.upcast_ref()])?;
    Ok((scale, sink))
}

fn audio_chain(pipeline: &gst::Pipeline) -> Result<(gst::Element, gst_app::AppSink), EncoderError> {
    let convert = make("audioconvert", &[])?;
    let resample = make("audioresample", &[])?;
    let filter = caps_filter(&raw_audio_caps())?;
    // Holes become silence, so that samples can be counted.
    let rate = make("audiorate", &[])?;
    let sink = gst_app::AppSink::builder().sync(false).async_(false).max_buffers(READY_SOUND).build();
    chain(pipeline, &[&convert, &resample, &filter, &rate, sink.upcast_ref()])?;
    Ok((convert, sink))
}

/// Whether a stream reaches this chain.
fn is_linked(head: &gst::Element) -> bool {
    head.static_pad("sink").is_some_and(|pad| pad.is_linked())
}

fn pull(sink: &gst_app::AppSink, timeout: Duration) -> Pulled {
    let timeout = gst::ClockTime::from_mseconds(timeout.as_millis() as u64);
    match sink.try_pull_sample(timeout).and_then(|sample| sample.buffer_owned()) {
        Some(buffer) => Pulled::Frame(buffer),
        None if sink.is_eos() => Pulled::Ended,
        None => Pulled::Nothing,
    }
}

fn listen(pipeline: &gst::Pipeline, failure: &Arc<Failure>) {
    let Some(bus) = pipeline.bus() else { return };
    let failure = failure.clone();
    bus.set_sync_handler(move |_, message| {
        match message.view() {
            gst::MessageView::Error(error) => failure.message(error),
            gst::MessageView::Element(element) => {
                let missing = element.structure().filter(|found| found.name() == "missing-plugin");
                if let Some(what) = missing.and_then(|found| found.get::<String>("name").ok()) {
                    tracing::warn!(%what, "a stream of the file cannot be decoded");
                    failure.undecodable.lock().unwrap_or_else(PoisonError::into_inner).push(what);
                }
            }
            _ => {}
        }
        gst::BusSyncReply::Drop
    });
}
