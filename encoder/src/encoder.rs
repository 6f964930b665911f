//! The running encoder, as its owner sees it.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use gstreamer as gst;

use crate::clock::Epoch;
use crate::encode::Encoders;
use crate::output::Output;
use crate::pass::Offer;
use crate::program::{Program, RawSink, Ticker};
use crate::shared::Shared;
use crate::supervise::{self, Supervisor};
use crate::{AUDIO_TRACK, EncoderError, FrameSink, Input, InputStatus, Levels, Now, Settings};

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
    /// The input ended. (A file does not, unless it is played once: it loops.)
    EndOfStream,
    /// An input gives nothing more: the slate takes its place while it is on air. It is tried again
    /// and again.
    SourceLost {
        /// Its number in [`Settings::inputs`].
        input: usize,
        /// Why, in words for the creator.
        reason: String,
    },
    /// It is back; or a stream came for the first time.
    SourceBack {
        /// Its number in [`Settings::inputs`].
        input: usize,
    },
    /// The H.264 of an input that is on air goes out as it comes in.
    PassedThrough {
        /// Its number in [`Settings::inputs`].
        input: usize,
    },
    /// The H.264 of an input that is on air is decoded and encoded anew.
    Transcoded {
        /// Its number in [`Settings::inputs`].
        input: usize,
        /// Why, in words for the creator.
        reason: String,
    },
    /// There is no sound from the microphone: silence takes its place. It is tried again and again.
    MicrophoneLost {
        /// Why, in words for the creator.
        reason: String,
    },
    /// It is back.
    MicrophoneBack,
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
    encoders: Arc<Encoders>,
    shared: Arc<Shared>,
    program: Arc<Program>,
    supervisors: Vec<Supervisor>,
    ticker: Option<Ticker>,
}

impl Encoder {
    /// Starts, and returns when the first frames of all tracks are encoded, which takes a fraction
    /// of a second; [`FrameSink::tracks`] has been called by then. A stream that nobody sends yet
    /// begins with the slate.
    ///
    /// # Errors
    /// Says within a bounded time what is wrong with the input or the installation. Where there are
    /// several inputs, one that is not there is no error but an event.
    pub fn start(settings: Settings, now: Now, sink: Box<dyn FrameSink>) -> Result<Encoder, EncoderError> {
        settings.check()?;
        gst::init().map_err(|error| EncoderError::NoGStreamer { message: error.to_string() })?;

        let epoch = Epoch::begin(&now);
        let tracks: Vec<_> =
            settings.video_tracks().iter().map(|(id, ..)| *id).chain([AUDIO_TRACK]).collect();
        let shared = Arc::new(Shared::new(now, epoch, Output::new(sink, &tracks, epoch.zero())));
        let encoders = Arc::new(Encoders::start(&settings, &shared)?);
        let counting = shared.clone();
        let number = move || counting.counts.capture();
        let program =
            Program::new(&settings, epoch, shared.events.clone(), number, Box::new(encoders.clone()))?;
        // From here on, leaving early drops the encoder, and dropping stops what has been opened.
        let mut encoder = Encoder { encoders, shared, program, supervisors: Vec::new(), ticker: None };
        encoder.open_sources(&settings)?;

        match encoder.shared.events.wait_ready(START_LIMIT) {
            Some(result) => result.map(|()| encoder),
            None => {
                let video_missing = encoder.shared.output().wants_track(crate::VIDEO_TRACK);
                Err(EncoderError::NoFrames {
                    input: settings.inputs.first().map(Input::to_string).unwrap_or_default(),
                    what: if video_missing { "picture" } else { "sound" },
                    seconds: START_LIMIT.as_secs(),
                })
            }
        }
    }

    fn open_sources(&mut self, settings: &Settings) -> Result<(), EncoderError> {
        let plans = supervise::plans(&settings.inputs, &settings.microphone);
        if plans.iter().all(|plan| plan.source != self.program.microphone()) {
            self.program.mute(self.program.microphone());
        }
        for plan in plans {
            let (program, events) = (self.program.clone(), self.shared.events.clone());
            self.supervisors.push(Supervisor::start(plan, settings.video.clone(), program, events)?);
        }
        self.ticker = Some(self.program.run()?);
        Ok(())
    }

    /// Puts another input on air (counted from 0) with its next picture, which is a keyframe. All
    /// inputs run all the time. One that is away shows its slate.
    ///
    /// # Errors
    /// [`EncoderError::NoSuchInput`].
    pub fn select(&self, input: usize) -> Result<(), EncoderError> {
        match self.program.select(input) {
            true => Ok(()),
            false => Err(EncoderError::NoSuchInput { input, inputs: self.program.status().len() }),
        }
    }

    /// The inputs, in the order of the settings, and how they stand.
    pub fn inputs(&self) -> Vec<InputStatus> {
        self.program.status()
    }

    /// How loud the sound on air is.
    pub fn levels(&self) -> Levels {
        self.program.levels()
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
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // All at once, because each may take its time.
        self.supervisors.iter().for_each(Supervisor::stop);
        let deadline = Instant::now() + STOP_LIMIT;
        for supervisor in self.supervisors.drain(..) {
            if !supervisor.join(deadline.saturating_duration_since(Instant::now())) {
                tracing::error!("a source does not close: it is left to itself");
            }
        }
        drop(self.ticker.take());
        let encoders = self.encoders.clone();
        let (done, stopped) = mpsc::sync_channel(1);
        let stop = move || {
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

impl RawSink for Arc<Encoders> {
    fn picture(&self, buffer: gst::Buffer, offer: Option<Offer>) {
        Encoders::picture(self, buffer, offer);
    }

    fn sound(&self, buffer: gst::Buffer) {
        Encoders::sound(self, buffer);
    }

    fn cut(&self) {
        self.request_keyframe();
    }
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
