//! The H.264 of a stream as it comes in, taken where it enters the decoder.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use media::h264::ParameterSets;

use crate::VideoSettings;
use crate::pass::{Offer, Stream, Unit, annex_b};

/// Units that wait for their pictures: what a decoder holds, and what comes while a sender's clock is learned.
/// Beyond it the oldest are dropped, and the stream is not passed through until its next group.
const WAITING: usize = 64;
/// And their bytes: two seconds at 30 Mb/s.
const WAITING_BYTES: usize = 8 << 20;

/// Numbers the openings of all sources.
static OPENINGS: AtomicU64 = AtomicU64::new(0);

/// The units of one opening of a source that wait for the pictures that are decoded from them.
pub(super) struct Units {
    input: usize,
    opening: u64,
    /// Half the time from one picture to the next: what [`super::chain`] does may move stamps by less.
    tolerance: gst::ClockTime,
    inner: Mutex<Inner>,
}

struct Inner {
    stream: Stream,
    form: Form,
    waiting: VecDeque<Unit>,
    bytes: usize,
    /// Something that came could not be used.
    gap: bool,
    /// Decoders of pictures in the pipeline. With two it is not known whose pictures are shown.
    decoders: u32,
}

/// How the units lie in the buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// No H.264, or in a form that is not known.
    Other,
    AnnexB,
    /// Each NAL unit behind its length in 4 bytes.
    Prefixed,
}

impl Units {
    pub(super) fn new(input: usize, video: &VideoSettings) -> Arc<Units> {
        Arc::new(Units {
            input,
            opening: OPENINGS.fetch_add(1, Relaxed),
            tolerance: gst::ClockTime::SECOND / u64::from(video.fps.max(1)) / 2,
            inner: Mutex::new(Inner {
                stream: Stream::new((video.width, video.height), video.fps),
                form: Form::Other,
                waiting: VecDeque::new(),
                bytes: 0,
                gap: false,
                decoders: 0,
            }),
        })
    }

    /// Takes what enters the decoder that `bin` will have.
    pub(super) fn watch(self: &Arc<Self>, bin: &gst::Element) {
        let units = self.clone();
        let Some(bin) = bin.downcast_ref::<gst::Bin>() else { return };
        bin.connect_deep_element_added(move |_, _, element| {
            let wanted = gst::ElementFactoryType::DECODER | gst::ElementFactoryType::MEDIA_VIDEO;
            let decodes = element.factory().is_some_and(|factory| factory.has_type(wanted));
            let Some(pad) = element.static_pad("sink").filter(|_| decodes) else { return };
            units.lock().decoders += 1;
            let units = units.clone();
            pad.add_probe(
                gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM,
                move |pad, info| {
                    match &info.data {
                        Some(gst::PadProbeData::Buffer(buffer)) => units.buffer(pad, buffer),
                        Some(gst::PadProbeData::Event(event)) => units.event(event),
                        _ => {}
                    }
                    gst::PadProbeReturn::Ok
                },
            );
        });
    }

    /// What the picture with this running time of its source was decoded from, captured at `at`. `None`:
    /// nothing that could be passed through.
    pub(super) fn offer(&self, pts: gst::ClockTime, at: gst::ClockTime) -> Option<Offer> {
        let mut inner = self.lock();
        if inner.form == Form::Other || inner.decoders != 1 {
            return None;
        }
        let ends = pts + self.tolerance;
        let mut units = Vec::new();
        while inner.waiting.front().is_some_and(|unit| unit.pts <= ends) {
            let Some(unit) = inner.pop() else { break };
            // By the same way onto the timeline as the picture.
            units.push(((at + unit.pts).saturating_sub(pts), unit));
        }
        Some(Offer { input: self.input, opening: self.opening, units })
    }

    fn event(&self, event: &gst::Event) {
        let gst::EventView::Caps(caps) = event.view() else { return };
        let mut inner = self.lock();
        let (form, sets) = caps.caps().structure(0).map_or((Form::Other, None), read_form);
        inner.form = form;
        if let Some(sets) = sets {
            inner.stream.describe(sets);
        }
    }

    fn buffer(&self, pad: &gst::Pad, buffer: &gst::Buffer) {
        let mut inner = self.lock();
        let segment = pad.sticky_event::<gst::event::Segment>(0);
        let pts = segment.and_then(|event| {
            event.segment().downcast_ref::<gst::ClockTime>()?.to_running_time(buffer.pts()?)
        });
        let data = buffer.map_readable().ok().and_then(|map| match inner.form {
            Form::Other => None,
            Form::AnnexB => Some(Bytes::copy_from_slice(&map)),
            Form::Prefixed => annex_b(&map),
        });
        let (Some(pts), Some(data)) = (pts, data) else {
            inner.gap = true;
            return;
        };
        let damaged = gst::BufferFlags::DISCONT | gst::BufferFlags::CORRUPTED;
        let gap = std::mem::take(&mut inner.gap) || buffer.flags().intersects(damaged);
        let unit = inner.stream.unit(pts, data, gap);
        inner.bytes += unit.data.len();
        inner.waiting.push_back(unit);
        while inner.waiting.len() > WAITING || inner.bytes > WAITING_BYTES {
            drop(inner.pop());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn pop(&mut self) -> Option<Unit> {
        let unit = self.waiting.pop_front()?;
        self.bytes -= unit.data.len();
        Some(unit)
    }
}

/// The form of what has these caps, and the parameter sets that do not come in band.
fn read_form(caps: &gst::StructureRef) -> (Form, Option<ParameterSets>) {
    let whole = caps.get::<&str>("alignment").is_ok_and(|alignment| alignment == "au");
    if caps.name() != "video/x-h264" || !whole {
        return (Form::Other, None);
    }
    match caps.get::<&str>("stream-format") {
        Ok("byte-stream") => (Form::AnnexB, None),
        Ok("avc" | "avc3") => {
            let record = caps.get::<gst::Buffer>("codec_data").ok();
            let record = record.and_then(|data| data.map_readable().ok().map(|map| map.to_vec()));
            // The lowest two bits of the fifth byte: the size of a length, less one.
            match record {
                Some(record) if record.get(4).is_some_and(|size| size & 3 == 3) => {
                    (Form::Prefixed, ParameterSets::from_avcc(&record))
                }
                _ => (Form::Other, None),
            }
        }
        _ => (Form::Other, None),
    }
}

#[cfg(test)]
mod tests {
    use media::h264;

    use super::*;

    /// Runs a pipeline to its end.
    fn run(pipeline: &gst::Pipeline) {
        pipeline.set_state(gst::State::Playing).expect("it plays");
        let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
        let limit = gst::ClockTime::from_seconds(20);
        let message = pipeline.bus().and_then(|bus| bus.timed_pop_filtered(limit, &wanted)).expect("it ends");
        pipeline.set_state(gst::State::Null).expect("it stops");
        assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
    }

    fn launch(description: &str) -> gst::Pipeline {
        gst::init().expect("GStreamer");
        let pipeline = gst::parse::launch(description).expect("a pipeline");
        pipeline.downcast::<gst::Pipeline>().expect("a pipeline")
    }

    /// FLV is what RTMP carries: lengths in place of start codes, and parameter sets beside the stream.
    #[test]
    fn what_flv_carries_comes_out_as_annex_b_with_its_parameter_sets() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("clip.flv");
        run(&launch(&format!(
            "videotestsrc num-buffers=50 pattern=ball ! video/x-raw,format=I420,width=320,height=180,framerate=30/1 \
             ! x264enc tune=zerolatency key-int-max=15 ! h264parse ! flvmux ! filesink location={}",
            path.display()
        )));
        let video = VideoSettings { width: 320, height: 180, ..VideoSettings::default() };
        let units = Units::new(0, &video);
        let pipeline = launch(&format!("uridecodebin name=in uri=file://{} ! fakesink", path.display()));
        units.watch(&pipeline.by_name("in").expect("it is there"));
        run(&pipeline);
        let offer = units.offer(gst::ClockTime::from_seconds(9), gst::ClockTime::from_seconds(10));
        let found = offer.expect("H.264").units;
        assert_eq!(found.len(), 50);
        for (n, (at, unit)) in found.iter().enumerate() {
            assert_eq!(*at, unit.pts + gst::ClockTime::SECOND);
            let idr = n % 15 == 0;
            assert_eq!((unit.facts.number, unit.facts.idr), (n as u64 + 1, idr));
            assert_eq!(ParameterSets::of(&unit.data).is_some(), idr);
            assert!(h264::nals(&unit.data).count() > 0);
        }
        assert!(found[49].1.facts.fit.is_ok(), "{:?}", found[49].1.facts);
    }
}
