//! What is on air: takes pictures and sound of all inputs, and hands those of the chosen one to the
//! encoders as one timeline without a hole.
//!
//! The decisions are made by pure machines: `program/pictures.rs` (cuts and the slate),
//! `program/sound.rs` (the timeline of the sound) and `program/place.rs` (other clocks than ours).
//! This file drives them: from the threads of the sources, where everything passes at once, and from
//! one thread of its own for what nothing comes for.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use gstreamer as gst;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;
use media::mark::{self, Mark};

use crate::clock::Epoch;
use crate::events::Events;
use crate::levels::{Levels, Meter};
use crate::pass::Offer;
use crate::{EncoderError, EncoderEvent, Input, Settings, VideoCodec};

#[cfg(test)]
mod days;
mod pictures;
pub(crate) mod place;
mod slate;
mod sound;
mod splice;
mod status;
#[cfg(test)]
mod tests;

use pictures::Pictures;
use sound::Sound;
use status::States;
pub use status::{InputStatus, SourceState};

/// What a show without an input says, before there ever was a picture.
const FIRST_MESSAGE: &str = "The show starts soon";

/// Takes what is on air. Called with rising times; must return at once.
pub(crate) trait RawSink: Send + Sync {
    /// A picture: I420 of the settings' size, its `pts` on the running time of [`Epoch`]; and what it was
    /// decoded from, if that might be passed through.
    fn picture(&self, buffer: gst::Buffer, offer: Option<Offer>);
    /// Sound: 16 bits, two channels, 48 kHz; each buffer begins where the one before it ended.
    fn sound(&self, buffer: gst::Buffer);
    /// The picture that comes next is of another input.
    fn cut(&self);
}

/// One show's program. Sources are numbered: first the inputs, then the microphone.
pub(crate) struct Program {
    epoch: Epoch,
    sink: Box<dyn RawSink>,
    events: Arc<Events>,
    /// Gives each picture on air its number.
    number: Box<dyn Fn() -> u64 + Send + Sync>,
    inputs: Vec<Input>,
    info: gst_video::VideoInfo,
    period: gst::ClockTime,
    pictures: Mutex<PictureSide>,
    sound: Mutex<SoundSide>,
    states: Mutex<States>,
    transcode: bool,
    begun: AtomicBool,
    alarm: Mutex<Alarm>,
    rung: Condvar,
}

struct PictureSide {
    machine: Pictures,
    /// The last picture of each input. As many as there are inputs, 1.4 MB each at 720p.
    last: Vec<Option<gst::Buffer>>,
    /// The slate, while it is on air.
    slate: Option<gst::Buffer>,
}

struct SoundSide {
    machine: Sound,
    program: Meter,
    sources: Vec<Meter>,
}

/// What wakes the program's thread before its time.
#[derive(Default)]
struct Alarm {
    rung: bool,
    stop: bool,
}

/// The thread that makes what nothing comes for. Dropping stops it.
pub(crate) struct Ticker {
    program: Arc<Program>,
    thread: Option<JoinHandle<()>>,
}

impl Program {
    pub(crate) fn new(
        settings: &Settings,
        epoch: Epoch,
        events: Arc<Events>,
        number: impl Fn() -> u64 + Send + Sync + 'static,
        sink: Box<dyn RawSink>,
    ) -> Result<Arc<Program>, EncoderError> {
        let video = &settings.video;
        let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, video.width, video.height)
            .build()
            .map_err(|error| EncoderError::InvalidSettings { what: error.to_string() })?;
        let inputs = settings.inputs.clone();
        let away: Vec<_> = inputs.iter().map(Input::is_network).collect();
        // The microphone has a place whether there is one or not.
        let sources = inputs.len() + 1;
        let streams: Vec<_> = away.iter().copied().chain([false]).collect();
        let chosen = inputs.first().map(|input| sound_source(&inputs, 0, input));
        let program = Program {
            epoch,
            sink,
            events,
            number: Box::new(number),
            info,
            period: gst::ClockTime::SECOND / u64::from(video.fps.max(1)),
            pictures: Mutex::new(PictureSide {
                machine: Pictures::new(video.fps, &away),
                last: vec![None; inputs.len()],
                slate: None,
            }),
            sound: Mutex::new(SoundSide {
                machine: Sound::new(&streams, chosen),
                program: Meter::default(),
                sources: (0..sources).map(|_| Meter::default()).collect(),
            }),
            states: Mutex::new(States::new(sources)),
            // H.264 has no place in a track of another codec.
            transcode: settings.transcode || settings.codec != VideoCodec::H264,
            begun: AtomicBool::new(false),
            alarm: Mutex::default(),
            rung: Condvar::new(),
            inputs,
        };
        Ok(Arc::new(program))
    }

    /// The number of the microphone among the sources.
    pub(crate) fn microphone(&self) -> usize {
        self.inputs.len()
    }

    /// Whether the owner wants every stream to be encoded anew.
    pub(crate) fn transcodes(&self) -> bool {
        self.transcode
    }

    /// The timeline.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A picture of an input, captured at `at`, and what it was decoded from.
    pub(crate) fn picture(
        &self,
        input: usize,
        mut buffer: gst::Buffer,
        at: gst::ClockTime,
        offer: Option<Offer>,
    ) {
        let mut side = lock(&self.pictures);
        let passed = side.machine.picture(input, at, self.epoch.running_time());
        if let Some(at) = passed.at {
            let marked = matches!(self.inputs.get(input), Some(Input::Test));
            self.stamp(&mut buffer, at, marked);
            if passed.cut {
                self.sink.cut();
            }
            self.sink.picture(buffer.clone(), offer);
            side.slate = None;
        }
        if let Some(last) = side.last.get_mut(input) {
            *last = Some(buffer);
        }
        drop(side);
        if passed.at.is_some() {
            self.begin();
        }
        self.live(input);
    }

    /// Sound of a source, its first sample captured at `at`: 16 bits, two channels, 48 kHz.
    pub(crate) fn sound(&self, source: usize, buffer: &gst::BufferRef, at: gst::ClockTime) {
        let Ok(map) = buffer.map_readable() else { return };
        let frames = map.as_chunks::<4>().0.iter();
        let samples: Vec<_> =
            frames.map(|[a, b, c, d]| [i16::from_le_bytes([*a, *b]), i16::from_le_bytes([*c, *d])]).collect();
        let mut side = lock(&self.sound);
        if let Some(meter) = side.sources.get_mut(source) {
            meter.feed(samples.as_flattened());
        }
        let block = side.machine.sound(source, at, &samples, self.epoch.running_time());
        self.play(&mut side, block);
        drop(side);
        if source == self.microphone() {
            self.live(source);
        }
    }

    /// A source gives nothing more for now, for this reason.
    pub(crate) fn lost(&self, source: usize, reason: String) {
        let mut side = lock(&self.sound);
        side.machine.lost(source);
        if let Some(meter) = side.sources.get_mut(source) {
            meter.clear();
        }
        drop(side);
        lock(&self.pictures).machine.lost(source);
        self.away(source, reason);
        self.ring();
    }

    /// A source has no sound at all.
    pub(crate) fn mute(&self, source: usize) {
        lock(&self.sound).machine.lost(source);
    }

    /// Puts another input on air. `false`: there is none of this number.
    pub(crate) fn select(&self, input: usize) -> bool {
        let Some(wanted) = self.inputs.get(input) else { return false };
        lock(&self.pictures).machine.select(input);
        lock(&self.sound).machine.select(Some(sound_source(&self.inputs, input, wanted)));
        self.ring();
        true
    }

    /// Whether viewers see this input.
    pub(crate) fn is_on_air(&self, input: usize) -> bool {
        lock(&self.pictures).machine.on_air() == input
    }

    /// How loud the sound on air is.
    pub(crate) fn levels(&self) -> Levels {
        lock(&self.sound).program.read()
    }

    /// The inputs, in the order of the settings.
    pub(crate) fn status(&self) -> Vec<InputStatus> {
        let on_air = lock(&self.pictures).machine.on_air();
        let states = lock(&self.states).clone();
        let side = lock(&self.sound);
        let status = |(index, input): (usize, &Input)| InputStatus {
            name: input.to_string(),
            state: states.of(index),
            on_air: index == on_air,
            levels: side
                .sources
                .get(sound_source(&self.inputs, index, input))
                .map_or(Levels::SILENCE, Meter::read),
        };
        self.inputs.iter().enumerate().map(status).collect()
    }

    /// Starts the program's thread.
    pub(crate) fn run(self: &Arc<Self>) -> Result<Ticker, EncoderError> {
        let program = self.clone();
        let thread =
            std::thread::Builder::new().name("program".into()).spawn(move || program.tick_on()).map_err(
                |error| EncoderError::Pipeline { element: "program".into(), message: error.to_string() },
            )?;
        Ok(Ticker { program: self.clone(), thread: Some(thread) })
    }

    fn tick_on(&self) {
        loop {
            let due = {
                let pictures = lock(&self.pictures).machine.due();
                let sound = lock(&self.sound).machine.due();
                pictures.into_iter().chain(sound).min()
            };
            // A missed wake-up would cost a slate; a look now and then costs nothing.
            let idle = Duration::from_millis(200);
            let wait = due.map_or(idle, |due| {
                Duration::from_nanos(due.saturating_sub(self.epoch.running_time()).nseconds()).min(idle)
            });
            let mut alarm = lock(&self.alarm);
            if !alarm.rung && !alarm.stop && !wait.is_zero() {
                alarm = self.rung.wait_timeout(alarm, wait).unwrap_or_else(PoisonError::into_inner).0;
            }
            alarm.rung = false;
            if alarm.stop {
                return;
            }
            drop(alarm);
            self.tick();
        }
    }

    /// Does what is due.
    fn tick(&self) {
        let now = self.epoch.running_time();
        let mut side = lock(&self.pictures);
        let ticked = side.machine.tick(now);
        if let Some(slate) = ticked.slate {
            if slate.first {
                side.slate = None;
            }
            self.show_slate(&mut side, slate);
        }
        drop(side);
        for input in ticked.away {
            let ms = pictures::AWAY_AFTER.mseconds();
            lock(&self.sound).machine.suspect(input);
            self.away(input, format!("{} gave no picture for {ms} ms", self.name(input)));
        }
        if ticked.slate.is_some() {
            self.begin();
        }
        let mut side = lock(&self.sound);
        while let Some(block) = side.machine.tick(now) {
            self.play(&mut side, Some(block));
        }
    }

    fn show_slate(&self, side: &mut PictureSide, slate: pictures::Slate) {
        if side.slate.is_none() {
            let last = side.last.get(slate.input).and_then(Option::as_ref);
            let text = match (last, self.inputs.get(slate.input)) {
                (Some(_), Some(input)) => input.away_message(),
                _ => FIRST_MESSAGE,
            };
            side.slate = slate::make(last, &self.info, text);
        }
        let Some(mut buffer) = side.slate.clone() else { return };
        self.stamp(&mut buffer, slate.at, false);
        if slate.cut {
            self.sink.cut();
        }
        self.sink.picture(buffer, None);
    }

    /// Writes time and number onto a picture that goes on air; into it, where it is a test picture.
    fn stamp(&self, buffer: &mut gst::Buffer, at: gst::ClockTime, marked: bool) {
        let number = (self.number)();
        let buffer = buffer.make_mut();
        buffer.set_pts(at);
        buffer.set_dts(gst::ClockTime::NONE);
        buffer.set_duration(self.period);
        buffer.set_offset(number);
        // An encoder must not take a cut or a hole for a new stream.
        buffer.unset_flags(gst::BufferFlags::DISCONT | gst::BufferFlags::RESYNC | gst::BufferFlags::GAP);
        if marked {
            let mark = Mark::new(number as u16, self.epoch.at(at));
            let Ok(mut frame) = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer, &self.info) else {
                return;
            };
            let stride = frame.plane_stride().first().and_then(|stride| usize::try_from(*stride).ok());
            if let (Some(stride), Ok(luma)) = (stride, frame.plane_data_mut(0)) {
                mark::draw(luma, stride, mark);
            }
        }
    }

    fn play(&self, side: &mut SoundSide, block: Option<sound::Block>) {
        let Some(block) = block else { return };
        side.program.feed(block.samples.as_flattened());
        let bytes: Vec<u8> = block.samples.as_flattened().iter().flat_map(|s| s.to_le_bytes()).collect();
        let duration = sound::time_of(block.samples.len() as u64);
        let mut buffer = gst::Buffer::from_mut_slice(bytes);
        let writable = buffer.make_mut();
        writable.set_pts(block.at);
        writable.set_duration(duration);
        self.sink.sound(buffer);
    }

    /// From the first picture on there is sound, or silence.
    fn begin(&self) {
        if self.begun.swap(true, Relaxed) {
            return;
        }
        lock(&self.sound).machine.begin(self.epoch.running_time());
    }

    fn live(&self, source: usize) {
        // A stream that comes for the first time ends a slate, too.
        let stream = self.inputs.get(source).is_some_and(Input::is_network);
        if lock(&self.states).live(source, stream) {
            self.events.note(match source == self.microphone() {
                true => EncoderEvent::MicrophoneBack,
                false => EncoderEvent::SourceBack { input: source },
            });
        }
    }

    fn away(&self, source: usize, reason: String) {
        if lock(&self.states).away(source, &reason) {
            tracing::warn!(source = self.name(source), reason, "a source is away");
            self.events.note(match source == self.microphone() {
                true => EncoderEvent::MicrophoneLost { reason },
                false => EncoderEvent::SourceLost { input: source, reason },
            });
        }
    }

    fn name(&self, source: usize) -> String {
        self.inputs.get(source).map_or_else(|| "the microphone".into(), Input::to_string)
    }

    fn ring(&self) {
        lock(&self.alarm).rung = true;
        self.rung.notify_all();
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        lock(&self.program.alarm).stop = true;
        self.program.rung.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the program's thread panicked");
        }
    }
}

/// Whose sound goes with an input.
fn sound_source(inputs: &[Input], index: usize, input: &Input) -> usize {
    if input.uses_microphone() { inputs.len() } else { index }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
