//! The running encoder, as its owner sees it.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::capture::{self, Capture, Worker};
use crate::clock::Epoch;
use crate::elements::describe;
use crate::encode::Encoders;
use crate::events::Events;
use crate::output::Output;
use crate::shared::Shared;
use crate::{AUDIO_TRACK, EncoderError, FrameSink, Now, Settings};

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
    /// A video encoder failed; another one took over, and the show goes on.
    EncoderReplaced {
        /// The one that failed, by its name.
        failed: String,
        /// The one that goes on.
        with: String,
        /// Why.
        reason: String,
    },
    /// Nothing more will come.
    Failed(EncoderError),
}

/// A running capture and encoder. Dropping it stops it.
pub struct Encoder {
    pipeline: gst::Pipeline,
    encoders: Arc<Encoders>,
    shared: Arc<Shared>,
    worker: Option<Worker>,
}

impl Encoder {
    /// Starts, and returns when the first frames of all tracks are encoded, which takes a fraction
    /// of a second; [`FrameSink::tracks`] has been called by then.
    ///
    /// # Errors
    /// Says within a bounded time what is wrong with the input or the installation.
    pub fn start(settings: Settings, now: Now, sink: Box<dyn FrameSink>) -> Result<Encoder, EncoderError> {
        settings.check()?;
        gst::init().map_err(|error| EncoderError::NoGStreamer { message: error.to_string() })?;

        let epoch = Epoch::begin(&now);
        let tracks: Vec<_> =
            settings.video_tracks().iter().map(|(id, ..)| *id).chain([AUDIO_TRACK]).collect();
        let shared = Arc::new(Shared::new(now, epoch, Output::new(sink, &tracks, epoch.zero())));
        let encoders = Arc::new(Encoders::start(&settings, &shared)?);
        // From here on, leaving early drops the encoder, and dropping stops what has been opened.
        let pipeline = gst::Pipeline::with_name("capture");
        let mut encoder = Encoder { pipeline, encoders, shared, worker: None };
        let capture = capture::open(&encoder.pipeline, &settings)?;
        listen(&encoder.pipeline, &capture, &encoder.shared.events);

        capture.connect(&encoder.pipeline, &encoder.encoders, &encoder.shared)?;
        encoder.set_state(gst::State::Paused)?;
        epoch.drive(&encoder.pipeline);
        encoder.set_state(gst::State::Playing)?;
        encoder.worker = capture.run(&encoder.pipeline, &encoder.shared.events)?;

        match encoder.shared.events.wait_ready(START_LIMIT) {
            Some(result) => result.map(|()| encoder),
            None => {
                let video_missing = encoder.shared.output().wants_track(crate::VIDEO_TRACK);
                Err(EncoderError::NoFrames {
                    input: settings.input.to_string(),
                    what: if video_missing { "picture" } else { "sound" },
                    seconds: START_LIMIT.as_secs(),
                })
            }
        }
    }

    /// What the bond carries now, in bits per second of all tracks together; 0: nothing, and the show goes
    /// on as it is, for the recording. The bit rates follow at once, without a keyframe; when there is too
    /// little for the picture for a second, its frame rate and then its size step down, and up again. Sound
    /// is kept to the last.
    pub fn set_rate(&self, bits_per_second: u32) {
        self.encoders.set_rate(bits_per_second);
    }

    /// Asks for a keyframe soon. Requests are coalesced: there is at most one per 250 ms.
    pub fn request_keyframe(&self) {
        self.encoders.request_keyframe();
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
        let encoders = self.encoders.clone();
        let (done, stopped) = mpsc::sync_channel(1);
        let stop = move || {
            // The worker may wait for the pipeline to take a frame, so the pipeline goes first.
            worker.iter().for_each(Worker::stop);
            if pipeline.set_state(gst::State::Null).is_err() {
                tracing::warn!("the pipeline did not stop cleanly");
            }
            drop(worker);
            encoders.stop();
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
    use std::sync::mpsc::{SyncSender, sync_channel};

    use media::{Frame, Time, Track};

    use super::*;
    use crate::VIDEO_TRACK;

    const LIMIT: Duration = Duration::from_secs(20);

    struct Collect(SyncSender<Frame>);

    impl FrameSink for Collect {
        fn tracks(&mut self, _: &[Track]) {}
        fn frame(&mut self, frame: Frame, _: Time) {
            if frame.id.track == VIDEO_TRACK {
                let _ = self.0.try_send(frame);
            }
        }
    }

    #[test]
    fn an_encoder_may_be_shared_between_threads() {
        fn assert<T: Send + Sync>() {}
        assert::<Encoder>();
    }

    #[test]
    fn another_encoder_takes_over_from_one_that_fails_while_live() {
        let (sender, frames) = sync_channel(1024);
        let mut settings = Settings::default();
        (settings.video.width, settings.video.height, settings.video.bitrate) = (640, 360, 800_000);
        let started = std::time::Instant::now();
        let now: Now = Arc::new(move || Time::from_millis(1_795_000_000_000) + started.elapsed());
        let encoder = Encoder::start(settings, now, Box::new(Collect(sender))).expect("it starts");
        let mut seen = Vec::new();
        let mut until = |enough: &dyn Fn(&[Frame]) -> bool| {
            while !enough(&seen) {
                seen.push(frames.recv_timeout(LIMIT).expect("frames go on"));
            }
            seen.len()
        };
        let before = until(&|seen| seen.len() >= 40);
        encoder.encoders.break_down();
        until(&|seen| seen[before..].iter().filter(|frame| frame.id.frame == 0).count() >= 2);
        match encoder.poll_event() {
            Some(EncoderEvent::EncoderReplaced { failed, with, reason }) => {
                assert_eq!((failed.as_str(), with.as_str()), ("x264", "openh264"));
                assert!(reason.contains("broken by a test"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        for pair in seen.windows(2) {
            let (a, b) = (pair[0].id, pair[1].id);
            let next = (b.group, b.frame) == (a.group, a.frame + 1) || (b.group, b.frame) == (a.group + 1, 0);
            assert!(next && pair[0].capture_time < pair[1].capture_time, "{a:?} {b:?}");
        }
        let longest =
            seen.windows(2).map(|pair| pair[1].capture_time.micros_since(pair[0].capture_time)).max();
        println!("longest hole between two pictures: {longest:?} us");
        encoder.stop();
    }
}
