//! Where raw pictures and sound come from.

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;
use media::mark::{self, Mark};

use crate::clock::Epoch;
use crate::elements::{chain, internal, link};
use crate::encode::{Encoders, app_sink, on_buffer};
use crate::events::Events;
use crate::shared::Shared;
use crate::{EncoderError, Input, Settings};

mod camera;
mod clip;
mod file;
mod test;
mod timeline;

pub(crate) use file::Worker;

/// Turns the name of an element and its words into an error that fits the input.
type Explain = Arc<dyn Fn(&str, String) -> EncoderError + Send + Sync>;

/// A source in the pipeline, ready to be linked.
pub(crate) struct Capture {
    /// Its last element for pictures, with the caps of [`crate::encode::raw_video_caps`].
    pub(crate) video: gst::Element,
    /// Its last element for sound, with the caps of [`crate::encode::raw_audio_caps`].
    pub(crate) audio: gst::Element,
    /// Explains an error of the pipeline.
    pub(crate) explain: Explain,
    /// Whether frames carry a mark.
    marked: bool,
    /// What has to run beside the pipeline.
    feed: Option<file::Feed>,
}

/// Opens the input that the settings name.
pub(crate) fn open(pipeline: &gst::Pipeline, settings: &Settings) -> Result<Capture, EncoderError> {
    match &settings.input {
        Input::Test => test::open(pipeline, &settings.video),
        Input::File(path) => file::open(pipeline, path, &settings.video),
        Input::Camera(device) => camera::open(pipeline, device.as_deref(), &settings.video),
    }
}

impl Capture {
    /// Lets frames flow into the encoders: each raw picture gets its number, and the test picture its mark.
    pub(crate) fn connect(
        &self,
        pipeline: &gst::Pipeline,
        encoders: &Arc<Encoders>,
        shared: &Arc<Shared>,
    ) -> Result<(), EncoderError> {
        let pad =
            self.video.static_pad("src").ok_or_else(|| internal(&self.video, &"it has no source pad"))?;
        let (counter, marked) = (shared.clone(), self.marked);
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            if let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data {
                let number = counter.counts.capture();
                if marked {
                    draw_mark(pad, buffer.make_mut(), number, &counter.epoch);
                }
            }
            gst::PadProbeReturn::Ok
        });
        let (video, audio) = (app_sink(), app_sink());
        chain(pipeline, &[video.upcast_ref()])?;
        chain(pipeline, &[audio.upcast_ref()])?;
        link(&[&self.video, video.upcast_ref()])?;
        link(&[&self.audio, audio.upcast_ref()])?;
        let pictures = encoders.clone();
        on_sample(&video, move |buffer| pictures.picture(buffer));
        let sounds = encoders.clone();
        on_sample(&audio, move |buffer| sounds.sound(buffer));
        Ok(())
    }

    /// Starts what has to run beside the pipeline, which plays by now.
    pub(crate) fn run(
        self,
        pipeline: &gst::Pipeline,
        events: &Arc<Events>,
    ) -> Result<Option<Worker>, EncoderError> {
        self.feed.map(|feed| feed.run(pipeline, events)).transpose()
    }
}

/// Calls `take` with each buffer, its `pts` made its running time.
fn on_sample(sink: &gst_app::AppSink, take: impl Fn(gst::Buffer) + Send + Sync + 'static) {
    on_buffer(sink, move |sample, _, running_time| {
        if let Some(mut buffer) = sample.buffer_owned() {
            buffer.make_mut().set_pts(running_time);
            take(buffer);
        }
    });
}

/// The error of an input whose elements say enough by themselves.
fn explain_plainly() -> Explain {
    Arc::new(|element, message| EncoderError::Pipeline { element: element.to_owned(), message })
}

fn draw_mark(pad: &gst::Pad, buffer: &mut gst::BufferRef, number: u64, epoch: &Epoch) -> Option<()> {
    let segment = pad.sticky_event::<gst::event::Segment>(0)?;
    let captured = epoch.capture_time(segment.segment(), buffer)?;
    let caps = pad.current_caps()?;
    let info = gst_video::VideoInfo::from_caps(&caps).ok()?;
    let mut frame = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer, &info).ok()?;
    let stride = usize::try_from(*frame.plane_stride().first()?).ok()?;
    mark::draw(frame.plane_data_mut(0).ok()?, stride, Mark::new(number as u16, captured));
    Some(())
}
