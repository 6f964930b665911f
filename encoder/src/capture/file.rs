//! A media file as a live source: in real time, looped without a break or once.
//!
//! A thread takes decoded frames from the [`Clip`], gives them their place in one endless timeline
//! and hands them to the encoder's pipeline, which lets them through when their time has come.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::clip::{Clip, Pulled};
use super::timeline::{Next, Shift, Slot, Timeline};
use super::{Capture, Told, Watch, explain_plainly};
use crate::elements::{chain, make};
use crate::encode::{raw_audio_caps, raw_video_caps};
use crate::program::place::Stamps;
use crate::{EncoderError, VideoSettings};

/// Decoded media ready ahead of its time. It covers the seek at the end of the file, and costs
/// 1.4 MB per picture at 720p. It adds no latency: a frame counts as captured when it is let
/// through.
const AHEAD: gst::ClockTime = gst::ClockTime::from_mseconds(300);
/// How often a waiting feed looks whether it has to stop.
const PULL_WAIT: Duration = Duration::from_millis(100);
/// A file that gives nothing for so many waits (10 s) is broken.
const MAX_WAITS: u32 = 100;
/// Samples of silence at a time: 20 ms.
const SILENCE_SAMPLES: u64 = 960;
/// 16 bits, two channels.
const BYTES_PER_SAMPLE: u64 = 4;

/// How often a file is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    Forever,
    Once,
}

pub(super) fn open(
    pipeline: &gst::Pipeline,
    path: &Path,
    settings: &VideoSettings,
    repeat: Repeat,
) -> Result<Capture, EncoderError> {
    let clip = Clip::open(path, settings)?;
    let caps = raw_video_caps(settings.shape());
    let (video_source, video) = paced(pipeline, &caps)?;
    let (audio_source, audio) = paced(pipeline, &raw_audio_caps())?;
    let feed = Feed { clip, video: video_source, audio: audio_source, fps: settings.fps, repeat };
    Ok(Capture {
        pictures: Some(video),
        sound: Some(audio),
        stamps: Stamps::Ours,
        explain: explain_plainly(),
        feed: Some(feed),
    })
}

/// An entry into the pipeline that takes [`AHEAD`] and lets it through in real time.
fn paced(
    pipeline: &gst::Pipeline,
    caps: &gst::Caps,
) -> Result<(gst_app::AppSrc, gst::Element), EncoderError> {
    let source = gst_app::AppSrc::builder()
        .caps(caps)
        .format(gst::Format::Time)
        .is_live(true)
        .block(true)
        .max_bytes(0)
        .build();
    source.set_property("max-time", AHEAD);
    let clock = make("clocksync", &[])?;
    chain(pipeline, &[source.upcast_ref(), &clock])?;
    Ok((source, clock))
}

/// A file and where its frames go.
pub(crate) struct Feed {
    clip: Clip,
    video: gst_app::AppSrc,
    audio: gst_app::AppSrc,
    fps: u32,
    repeat: Repeat,
}

/// The thread that feeds the pipeline.
pub(crate) struct Worker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    /// Starts to feed `pipeline`, which plays by now.
    pub(super) fn run(self, pipeline: &gst::Pipeline, watch: &Arc<Watch>) -> Result<Worker, EncoderError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, watch) = (stop.clone(), watch.clone());
        let clock = gst::SystemClock::obtain();
        let base = pipeline.base_time().unwrap_or_default();
        let run = move || {
            let now = || clock.time().saturating_sub(base);
            let timeline = Timeline::new(self.fps);
            let mut run = Run { feed: &self, timeline, shift: Shift::default(), stopped: &stopped, now };
            match run.play() {
                Ok(()) => {}
                Err(error) => watch.tell(Told::Failed(error)),
            }
        };
        let thread = std::thread::Builder::new().name("file".into()).spawn(run);
        let failed = |error: std::io::Error| EncoderError::Pipeline {
            element: "file".into(),
            message: error.to_string(),
        };
        Ok(Worker { stop, thread: Some(thread.map_err(failed)?) })
    }
}

impl Worker {
    /// Asks the thread to end. Dropping waits for it.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that plays the file panicked");
        }
    }
}

/// What ends a step early.
enum Break {
    Stopped,
    Failed(EncoderError),
}

struct Run<'a, N> {
    feed: &'a Feed,
    timeline: Timeline,
    shift: Shift,
    stopped: &'a AtomicBool,
    /// Running time of the pipeline now.
    now: N,
}

impl<N: Fn() -> gst::ClockTime> Run<'_, N> {
    /// Plays until it is stopped, or to the end of a file that is played once.
    fn play(&mut self) -> Result<(), EncoderError> {
        loop {
            match self.once() {
                Ok(()) if self.feed.repeat == Repeat::Once => {
                    // The pipeline tells when the last frame's time has come. One that stops takes
                    // no end, and needs none.
                    let _ = self.feed.video.end_of_stream();
                    let _ = self.feed.audio.end_of_stream();
                    return Ok(());
                }
                Ok(()) => self.feed.clip.rewind()?,
                Err(Break::Stopped) => return Ok(()),
                Err(Break::Failed(error)) => return Err(error),
            }
        }
    }

    /// Plays the file from the beginning to the end of its longer track, and fills the other one
    /// up: with silence, or with the last picture.
    fn once(&mut self) -> Result<(), Break> {
        let mut last_picture = None;
        let (mut video_ended, mut audio_ended) = (false, !self.feed.clip.has_audio());
        while !(video_ended && audio_ended) {
            match (self.timeline.next(), &last_picture) {
                (Next::Video, Some(picture)) if video_ended => self.push_picture(picture)?,
                (Next::Video, _) => match self.pull(|clip| clip.picture(PULL_WAIT))? {
                    Some(picture) => {
                        self.push_picture(&picture)?;
                        last_picture = Some(picture);
                    }
                    None if last_picture.is_none() => {
                        return Err(Break::Failed(self.feed.clip.failure("it has no picture")));
                    }
                    None => video_ended = true,
                },
                (Next::Audio, _) if audio_ended => self.push_silence(SILENCE_SAMPLES)?,
                (Next::Audio, _) => match self.pull(|clip| clip.sound(PULL_WAIT))? {
                    Some(sound) => self.push_sound(sound)?,
                    None => audio_ended = true,
                },
            }
        }
        let (pictures, _) = self.timeline.gap();
        if let Some(picture) = last_picture {
            (0..pictures).try_for_each(|_| self.push_picture(&picture))?;
        }
        loop {
            match self.timeline.gap() {
                (_, 0) => return Ok(()),
                (_, samples) => self.push_silence(samples.min(SILENCE_SAMPLES))?,
            }
        }
    }

    /// The next frame of a track; `None`: it has ended.
    fn pull(&self, pull: impl Fn(&Clip) -> Pulled) -> Result<Option<gst::Buffer>, Break> {
        for _ in 0..MAX_WAITS {
            if self.stopped.load(Relaxed) {
                return Err(Break::Stopped);
            }
            match pull(&self.feed.clip) {
                Pulled::Frame(buffer) => return Ok(Some(buffer)),
                Pulled::Ended => return Ok(None),
                Pulled::Nothing => self.feed.clip.check().map_err(Break::Failed)?,
            }
        }
        Err(Break::Failed(self.feed.clip.failure("it gives no more frames")))
    }

    fn push_picture(&mut self, picture: &gst::Buffer) -> Result<(), Break> {
        let slot = self.timeline.frame();
        self.push(&self.feed.video, picture.clone(), slot)
    }

    fn push_sound(&mut self, sound: gst::Buffer) -> Result<(), Break> {
        let slot = self.timeline.sound(sound.size() as u64 / BYTES_PER_SAMPLE);
        self.push(&self.feed.audio, sound, slot)
    }

    fn push_silence(&mut self, samples: u64) -> Result<(), Break> {
        let zeros = vec![0_u8; (samples * BYTES_PER_SAMPLE) as usize];
        self.push_sound(gst::Buffer::from_slice(zeros))
    }

    /// Hands a buffer to the pipeline for its time, waiting while it has enough.
    fn push(&mut self, to: &gst_app::AppSrc, mut buffer: gst::Buffer, slot: Slot) -> Result<(), Break> {
        let (time, late) = self.shift.place(slot.start, (self.now)());
        if let Some(late) = late {
            tracing::warn!(ms = late.mseconds(), "the file is decoded too slowly: it pauses");
        }
        let writable = buffer.make_mut();
        writable.unset_flags(gst::BufferFlags::DISCONT | gst::BufferFlags::RESYNC);
        writable.set_pts(time);
        writable.set_dts(gst::ClockTime::NONE);
        writable.set_duration(slot.duration);
        match to.push_buffer(buffer) {
            Ok(_) => Ok(()),
            // The pipeline stops or has failed; the bus tells which.
            Err(_) => Err(Break::Stopped),
        }
    }
}
