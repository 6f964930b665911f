//! Where raw pictures and sound come from: each source is a pipeline of its own, so that it can fail,
//! hang and be opened again without the show noticing.

use std::sync::{Arc, Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::elements::{add, buffer_sink, link};
use crate::program::Program;
use crate::program::place::{Place, Placing, Stamps};
use crate::{EncoderError, Input, Microphone, VideoSettings};

mod camera;
mod chain;
mod clip;
mod file;
mod microphone;
mod network;
mod pipewire;
mod screen;
mod test;
mod timeline;
mod units;
mod watch;

pub(crate) use camera::devices as cameras;
pub(crate) use pipewire::{Node, nodes};
pub(crate) use screen::displays;
pub(crate) use watch::{Told, Watch};

use crate::clock::Epoch;
use units::Units;

/// What can be opened.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    Input(Input),
    Microphone(Microphone),
}

/// Turns the name of an element and its words into an error that fits the source.
type Explain = Arc<dyn Fn(&str, String) -> EncoderError + Send + Sync>;

/// A source in its pipeline.
struct Capture {
    /// Its last element for pictures, with the caps of [`crate::encode::raw_video_caps`].
    pictures: Option<gst::Element>,
    /// Its last element for sound, with the caps of [`crate::encode::raw_audio_caps`].
    sound: Option<gst::Element>,
    stamps: Stamps,
    /// Explains an error of the pipeline.
    explain: Explain,
    /// What has to run beside the pipeline.
    feed: Option<file::Feed>,
}

/// A source that runs. Dropping closes it, which takes as long as its device does.
pub(crate) struct Source {
    pipeline: gst::Pipeline,
    worker: Option<file::Worker>,
}

/// Opens the source of this number: its pictures and its sound go to `program`, and what happens to it to
/// `watch`. `exact`: a camera with too few pixels is an error; otherwise its pictures are made larger.
pub(crate) fn open(
    wanted: &Wanted,
    video: &VideoSettings,
    exact: bool,
    (program, number): (&Arc<Program>, usize),
    watch: &Arc<Watch>,
) -> Result<Source, EncoderError> {
    let pipeline = gst::Pipeline::new();
    let epoch = program.epoch();
    // From here on, leaving early drops the source, and dropping stops what has been opened.
    let mut source = Source { pipeline: pipeline.clone(), worker: None };
    let units = match wanted {
        Wanted::Input(Input::Network(_)) if !program.transcodes() => Some(Units::new(number, video)),
        _ => None,
    };
    let capture = match wanted {
        Wanted::Input(Input::Test) => test::open(&pipeline, video),
        Wanted::Input(Input::File(path)) => file::open(&pipeline, path, video, file::Repeat::Forever),
        Wanted::Input(Input::FileOnce(path)) => file::open(&pipeline, path, video, file::Repeat::Once),
        Wanted::Input(Input::Camera(device)) => camera::open(&pipeline, device.as_deref(), video, exact),
        Wanted::Input(Input::Screen(display)) => screen::open(&pipeline, display.as_deref(), video),
        Wanted::Input(Input::Network(stream)) => {
            network::open(&pipeline, stream, video, watch, units.as_ref())
        }
        Wanted::Microphone(microphone) => microphone::open(&pipeline, microphone),
    }?;
    let place =
        Arc::new(Placer { epoch, placing: Mutex::new(Placing::new(capture.stamps)), watch: watch.clone() });
    // Where nothing says when the whole pipeline has ended, one sink does.
    let ends = capture.stamps == Stamps::Theirs;
    if let Some(last) = &capture.pictures {
        let (program, place) = (program.clone(), place.clone());
        let pace = ends.then(|| Mutex::new(Pace::new(video.fps)));
        let take = move |buffer: gst::Buffer, pts: gst::ClockTime| {
            let now = place.epoch.running_time();
            place.watch.picture(now);
            if let Some(at) = place.place(pts, now) {
                if let Some(pace) = &pace {
                    pace.lock().unwrap_or_else(PoisonError::into_inner).wait(epoch);
                }
                let offer = units.as_ref().and_then(|units| units.offer(pts, at));
                program.picture(number, buffer, at, offer);
            }
        };
        take_from(&pipeline, last, ends.then_some(watch), take)?;
    }
    if let Some(last) = &capture.sound {
        let program = program.clone();
        // Of sound alone the last sample is what came just now. Pictures count from their beginning, and sound
        // that comes with them does as they do.
        let alone = capture.pictures.is_none();
        let take = move |buffer: gst::Buffer, pts: gst::ClockTime| {
            let now = place.epoch.running_time();
            place.watch.sound(now);
            let length = buffer.duration().filter(|_| alone).unwrap_or_default();
            if let Some(end) = place.place(pts + length, now) {
                program.sound(number, &buffer, end.saturating_sub(length));
            }
        };
        take_from(&pipeline, last, ends.then_some(watch), take)?;
    }
    listen(&pipeline, capture.explain.clone(), watch);
    epoch.drive(&pipeline);
    if pipeline.set_state(gst::State::Playing).is_err() {
        // The message on the bus says why.
        return Err(watch
            .failure()
            .unwrap_or_else(|| (capture.explain)("pipeline", "it does not start".into())));
    }
    source.worker = capture.feed.map(|feed| feed.run(&pipeline, watch)).transpose()?;
    Ok(source)
}

/// Keeps pictures that come in a burst, as TCP gives them, apart: an encoder drops those that it has no
/// time for. It holds up the stream's own thread only, and adds no delay to those that come in time.
struct Pace {
    least: gst::ClockTime,
    last: gst::ClockTime,
}

impl Pace {
    /// Pictures of a burst go on at three times the show's rate.
    fn new(fps: u32) -> Self {
        Pace { least: gst::ClockTime::SECOND / u64::from(fps.max(1)) / 3, last: gst::ClockTime::ZERO }
    }

    fn wait(&mut self, epoch: Epoch) {
        let early = (self.last + self.least).saturating_sub(epoch.running_time());
        std::thread::sleep(std::time::Duration::from_nanos(early.nseconds()));
        self.last = epoch.running_time();
    }
}

/// Puts the pictures and the sound of one source on the timeline.
struct Placer {
    epoch: Epoch,
    placing: Mutex<Placing>,
    watch: Arc<Watch>,
}

impl Placer {
    fn place(&self, pts: gst::ClockTime, now: gst::ClockTime) -> Option<gst::ClockTime> {
        if self.watch.is_closed() {
            return None;
        }
        match self.placing.lock().unwrap_or_else(PoisonError::into_inner).place(pts, now) {
            Place::At(at) => Some(at),
            Place::Learning => None,
            Place::Jumped => {
                self.watch.tell(Told::Jumped);
                None
            }
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // The worker may wait for the pipeline to take a frame, so the pipeline goes first.
        self.worker.iter().for_each(file::Worker::stop);
        if self.pipeline.set_state(gst::State::Null).is_err() {
            tracing::warn!("a source did not stop cleanly");
        }
    }
}

/// Calls `take` with each buffer that leaves `last`, and its running time, in the thread that brings
/// it.
fn take_from(
    pipeline: &gst::Pipeline,
    last: &gst::Element,
    ends: Option<&Arc<Watch>>,
    take: impl Fn(gst::Buffer, gst::ClockTime) + Send + Sync + 'static,
) -> Result<(), EncoderError> {
    let sink = buffer_sink(move |_, buffer, running_time| take(buffer, running_time))?;
    if let (Some(watch), Some(pad)) = (ends.cloned(), sink.static_pad("sink")) {
        pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            if info.event().is_some_and(|event| event.type_() == gst::EventType::Eos) {
                watch.tell(Told::Ended);
            }
            gst::PadProbeReturn::Ok
        });
    }
    add(pipeline, &[&sink])?;
    link(&[last, &sink])
}

/// Tells the watch what the pipeline says. All is handled at once in the thread that says it, so that
/// nothing waits on the bus.
fn listen(pipeline: &gst::Pipeline, explain: Explain, watch: &Arc<Watch>) {
    let Some(bus) = pipeline.bus() else { return };
    let watch = watch.clone();
    bus.set_sync_handler(move |_, message| {
        match message.view() {
            gst::MessageView::Error(error) => {
                let element = message.src().map_or_else(|| "pipeline".into(), |src| src.name());
                watch.tell(Told::Failed(explain(&element, crate::elements::describe(error))));
            }
            gst::MessageView::Warning(warning) => {
                tracing::warn!(message = %warning.error(), "GStreamer");
            }
            gst::MessageView::Element(element) => watch.element(element.structure()),
            gst::MessageView::Eos(_) => watch.tell(Told::Ended),
            _ => {}
        }
        gst::BusSyncReply::Drop
    });
}

/// The error of a source whose elements say enough by themselves.
fn explain_plainly() -> Explain {
    Arc::new(|element, message| EncoderError::Pipeline { element: element.to_owned(), message })
}
