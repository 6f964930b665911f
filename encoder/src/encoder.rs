//! The running encoder, as its owner sees it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::capture::{self, Capture, Worker};
use crate::clock::Epoch;
use crate::elements::{describe, link};
use crate::encode::{self, AUDIO_GROUP_PACKETS};
use crate::events::Events;
use crate::keyframes::Keyframes;
use crate::numbering::Numbering;
use crate::output::Output;
use crate::settings::VIDEO_BITRATE;
use crate::shared::Shared;
use crate::{EncoderError, FrameSink, Now, Settings, VideoSettings};

/// How long the first frames may take. Cameras need a second or two.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long GStreamer may take to stop. A driver that hangs for longer is left to its thread.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// How many frames went through. All start at zero and only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Raw video frames captured.
    pub captured: u64,
    /// Raw video frames dropped because the encoder was too slow.
    pub dropped: u64,
    /// Encoded video frames.
    pub encoded: u64,
    /// Encoded audio packets.
    pub audio_packets: u64,
}

/// What the owner has to know about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncoderEvent {
    /// The input ended. (A file does not: it loops.)
    EndOfStream,
    /// Nothing more will come.
    Failed(EncoderError),
}

/// A running capture and encoder. Dropping it stops it.
pub struct Encoder {
    pipeline: gst::Pipeline,
    x264: gst::Element,
    video: VideoSettings,
    shared: Arc<Shared>,
    worker: Option<Worker>,
}

impl Encoder {
    /// Starts, and returns when the first frames of both tracks are encoded, which takes a fraction
    /// of a second; [`FrameSink::tracks`] has been called by then.
    ///
    /// # Errors
    /// Says within a bounded time what is wrong with the input or the installation.
    pub fn start(settings: Settings, now: Now, sink: Box<dyn FrameSink>) -> Result<Encoder, EncoderError> {
        settings.check()?;
        gst::init().map_err(|error| EncoderError::NoGStreamer { message: error.to_string() })?;

        let started = now();
        let packets = NonZeroU32::new(AUDIO_GROUP_PACKETS).unwrap_or(NonZeroU32::MIN);
        let (video, audio) = (Numbering::by_keyframe(started), Numbering::every(packets, started));
        let output = Output::new(sink, video, audio);
        let shared = Arc::new(Shared::new(now, output, Keyframes::new(settings.video.gop)));

        let pipeline = gst::Pipeline::with_name("encoder");
        let video = encode::video(&pipeline, &settings.video)?;
        // From here on, leaving early drops the encoder, and dropping stops what has been opened.
        let mut encoder = Encoder {
            pipeline,
            x264: video.encoder.clone(),
            video: settings.video.clone(),
            shared,
            worker: None,
        };
        let audio = encode::audio(&encoder.pipeline, &settings.audio)?;
        let capture = capture::open(&encoder.pipeline, &settings)?;
        link(&[&capture.video, &video.input])?;
        link(&[&capture.audio, &audio.input])?;
        listen(&encoder.pipeline, &capture, &encoder.shared.events);

        encoder.set_state(gst::State::Paused)?;
        let epoch = Epoch::begin(&encoder.pipeline, &encoder.shared.now);
        capture.number_frames(epoch, &encoder.shared)?;
        video.connect(&settings.video, epoch, &encoder.shared)?;
        audio.connect(&settings.audio, epoch, &encoder.shared);
        encoder.set_state(gst::State::Playing)?;
        encoder.worker = capture.run(&encoder.pipeline, &encoder.shared.events)?;

        match encoder.shared.events.wait_ready(START_LIMIT) {
            Some(result) => result.map(|()| encoder),
            None => {
                let output = encoder.shared.output();
                let video_missing = output.wants_track(crate::VIDEO_TRACK);
                drop(output);
                Err(EncoderError::NoFrames {
                    input: settings.input.to_string(),
                    what: if video_missing { "picture" } else { "sound" },
                    seconds: START_LIMIT.as_secs(),
                })
            }
        }
    }

    /// Changes the video bit rate (bits per second) at once, without a keyframe. Values out of
    /// range are taken to its ends (50 kb/s, 100 Mb/s).
    pub fn set_bitrate(&self, bits_per_second: u32) {
        let bitrate = bits_per_second.clamp(*VIDEO_BITRATE.start(), *VIDEO_BITRATE.end());
        encode::set_bitrate(&self.x264, &self.video, bitrate);
    }

    /// Asks for an IDR soon. Requests are coalesced: there is at most one IDR per 250 ms.
    pub fn request_keyframe(&self) {
        let now = (self.shared.now)();
        if self.shared.keyframes().request(now) {
            encode::force_keyframe(&self.x264);
        }
    }

    /// How many frames went through.
    pub fn counters(&self) -> Counters {
        self.shared.counts.read()
    }

    /// Reads the counters even after the encoder has stopped, when they are final.
    pub fn counters_reader(&self) -> impl Fn() -> Counters + Send + 'static {
        let shared = self.shared.clone();
        move || shared.counts.read()
    }

    /// The next event, if there is one. Never blocks.
    pub fn poll_event(&self) -> Option<EncoderEvent> {
        self.shared.events.poll()
    }

    /// The next event, waiting for it at most so long.
    pub fn wait_event(&self, timeout: Duration) -> Option<EncoderEvent> {
        self.shared.events.wait(timeout)
    }

    /// Stops within a bounded time. The sink is dropped when this returns, so that a
    /// [`crate::tap::Tap`] has ended its recordings.
    pub fn stop(self) {
        drop(self);
    }

    fn set_state(&self, state: gst::State) -> Result<(), EncoderError> {
        if self.pipeline.set_state(state).is_ok() {
            return Ok(());
        }
        // The message on the bus says why.
        Err(match self.shared.events.wait_ready(Duration::ZERO) {
            Some(Err(error)) => error,
            _ => EncoderError::Pipeline {
                element: "pipeline".into(),
                message: format!("it does not go to the state {state:?}"),
            },
        })
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        let (pipeline, worker) = (self.pipeline.clone(), self.worker.take());
        let (done, stopped) = mpsc::sync_channel(1);
        let stop = move || {
            // The worker may wait for the pipeline to take a frame, so the pipeline goes first.
            worker.iter().for_each(Worker::stop);
            if pipeline.set_state(gst::State::Null).is_err() {
                tracing::warn!("the pipeline did not stop cleanly");
            }
            drop(worker);
            let _ = done.try_send(());
        };
        let stopped = match std::thread::Builder::new().name("encoder-stop".into()).spawn(stop) {
            Ok(_) => stopped.recv_timeout(STOP_LIMIT).is_ok(),
            Err(_) => false,
        };
        if !stopped {
            tracing::error!("GStreamer does not stop: it is left to itself");
        }
        let sink = self.shared.try_output().and_then(|mut output| output.close());
        drop(sink);
    }
}

/// Turns the messages of the pipeline into events. All are handled at once in the thread that
/// posts them, so that none wait on the bus.
fn listen(pipeline: &gst::Pipeline, capture: &Capture, events: &Arc<Events>) {
    let Some(bus) = pipeline.bus() else { return };
    let (explain, events) = (capture.explain.clone(), events.clone());
    bus.set_sync_handler(move |_, message| {
        match message.view() {
            gst::MessageView::Error(error) => {
                let element = message.src().map_or_else(|| "pipeline".into(), |src| src.name());
                events.fail(explain(&element, describe(error)));
            }
            gst::MessageView::Warning(warning) => {
                tracing::warn!(message = %warning.error(), "GStreamer");
            }
            gst::MessageView::Eos(_) => events.end_of_stream(),
            _ => {}
        }
        gst::BusSyncReply::Drop
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoder_may_be_shared_between_threads() {
        fn assert<T: Send + Sync>() {}
        assert::<Encoder>();
    }
}
