//! What the tests with real pipelines share. They wait for conditions on channels, never for time.

// Each test binary uses its part of this.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use media::{Frame, Time, Track};
use roadie_encoder::{Encoder, EncoderError, FrameSink, Input, Now, Settings};

/// How long a condition may take before the test has failed.
pub const LIMIT: Duration = Duration::from_secs(20);
/// More than any test collects.
const CHANNEL: usize = 4096;

pub struct Running {
    pub encoder: Encoder,
    pub tracks: Vec<Track>,
    frames: Receiver<(Frame, Time)>,
}

struct Collect {
    tracks: SyncSender<Vec<Track>>,
    frames: SyncSender<(Frame, Time)>,
}

impl FrameSink for Collect {
    fn tracks(&mut self, tracks: &[Track]) {
        self.tracks.try_send(tracks.to_vec()).expect("tracks are told once, and before the frames");
    }
    fn frame(&mut self, frame: Frame, encoded_at: Time) {
        let _ = self.frames.try_send((frame, encoded_at));
    }
}

/// A broadcast clock like the real one.
pub fn clock() -> Now {
    let start = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let (start, since) = (Time::from_micros(start.as_micros() as u64), Instant::now());
    Arc::new(move || start + since.elapsed())
}

/// Small, so that several run at once.
pub fn settings(input: Input) -> Settings {
    let mut settings = Settings { inputs: vec![input], ..Settings::default() };
    (settings.video.width, settings.video.height, settings.video.bitrate) = (640, 360, 800_000);
    settings
}

pub fn try_start(settings: Settings) -> Result<Running, EncoderError> {
    let (tracks, told) = sync_channel(1);
    let (frames, received) = sync_channel(CHANNEL);
    let encoder = Encoder::start(settings, clock(), Box::new(Collect { tracks, frames }))?;
    let tracks = told.try_recv().expect("the tracks are known when it has started");
    Ok(Running { encoder, tracks, frames: received })
}

pub fn start(settings: Settings) -> Running {
    try_start(settings).expect("it starts")
}

impl Running {
    /// The next frame of either track.
    pub fn next(&self) -> (Frame, Time) {
        self.frames.recv_timeout(LIMIT).unwrap_or_else(|_| {
            panic!("no frame: {:?} {:?}", self.encoder.counters(), self.encoder.poll_event())
        })
    }

    /// Frames until `enough` says so, given all so far.
    pub fn until(&self, mut enough: impl FnMut(&[(Frame, Time)]) -> bool) -> Vec<(Frame, Time)> {
        let mut frames = Vec::new();
        while !enough(&frames) {
            frames.push(self.next());
        }
        frames
    }

    /// The whole of the next video group that begins.
    pub fn video_group(&self) -> Vec<Frame> {
        let mut group: Vec<Frame> = Vec::new();
        loop {
            let (frame, _) = self.next();
            if frame.id.track != roadie_encoder::VIDEO_TRACK {
                continue;
            }
            if frame.id.frame == 0 && !group.is_empty() {
                return group;
            }
            if frame.id.frame == 0 || !group.is_empty() {
                group.push(frame);
            }
        }
    }

    /// Stops, and checks that the sink is gone.
    pub fn stop(self) {
        self.encoder.stop();
        while self.frames.try_recv().is_ok() {}
        let gone = Err(std::sync::mpsc::TryRecvError::Disconnected);
        assert_eq!(self.frames.try_recv().map(|_| ()), gone);
    }
}

/// Runs a pipeline to its end.
pub fn run(description: &str) {
    gst::init().expect("GStreamer");
    let pipeline = gst::parse::launch(description).expect("a pipeline");
    let bus = pipeline.bus().expect("a bus");
    pipeline.set_state(gst::State::Playing).expect("it plays");
    let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
    let limit = gst::ClockTime::from_seconds(LIMIT.as_secs());
    let message = bus.timed_pop_filtered(limit, &wanted).expect("it ends");
    pipeline.set_state(gst::State::Null).expect("it stops");
    assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
}

/// Writes a clip: `pictures` at 30 fps, and `sounds` pieces of 20 ms.
pub fn clip(dir: &Path, name: &str, muxer: &str, pictures: u32, sounds: u32) -> PathBuf {
    let path = dir.join(name);
    let sound = match sounds {
        0 => String::new(),
        _ => format!(
            "audiotestsrc num-buffers={sounds} samplesperbuffer=960 ! audio/x-raw,rate=48000,channels=1 \
             ! audioconvert ! opusenc ! queue ! mux. "
        ),
    };
    run(&format!(
        "{muxer} name=mux ! filesink location={} {sound} videotestsrc num-buffers={pictures} pattern=ball \
         ! video/x-raw,format=I420,width=320,height=180,framerate=30/1 \
         ! x264enc speed-preset=ultrafast tune=zerolatency ! h264parse ! queue ! mux.",
        path.display()
    ));
    path
}

/// The luma of each picture, decoded: width, stride and bytes.
pub struct Luma {
    pub stride: usize,
    pub bytes: Vec<u8>,
}

/// Decodes a run of frames that starts with an IDR.
pub fn decode(frames: &[Frame], width: usize) -> Vec<Luma> {
    decode_with("video/x-h264,stream-format=byte-stream,alignment=au ! h264parse ! avdec_h264", frames, width)
}

/// The same for VP8.
pub fn decode_vp8(frames: &[Frame], width: usize) -> Vec<Luma> {
    decode_with("video/x-vp8 ! vp8dec", frames, width)
}

/// The same for AV1.
pub fn decode_av1(frames: &[Frame], width: usize) -> Vec<Luma> {
    decode_with("video/x-av1,stream-format=obu-stream,alignment=tu ! av1dec", frames, width)
}

fn decode_with(caps_and_decoder: &str, frames: &[Frame], width: usize) -> Vec<Luma> {
    let pipeline = gst::parse::launch(&format!(
        "appsrc name=in format=time caps={caps_and_decoder} ! videoconvert ! video/x-raw,format=I420 \
         ! appsink name=out sync=false",
    ));
    let pipeline = pipeline.expect("a decoder").downcast::<gst::Pipeline>().expect("a pipeline");
    let source = pipeline.by_name("in").and_downcast::<gst_app::AppSrc>().expect("appsrc");
    let sink = pipeline.by_name("out").and_downcast::<gst_app::AppSink>().expect("appsink");
    pipeline.set_state(gst::State::Playing).expect("it plays");
    for (index, frame) in frames.iter().enumerate() {
        let mut buffer = gst::Buffer::from_slice(frame.data.clone());
        buffer.make_mut().set_pts(gst::ClockTime::from_mseconds(index as u64 * 33));
        source.push_buffer(buffer).expect("it takes frames");
    }
    source.end_of_stream().expect("it ends");
    let limit = gst::ClockTime::from_seconds(LIMIT.as_secs());
    let mut pictures = Vec::new();
    while let Some(sample) = sink.try_pull_sample(limit) {
        let buffer = sample.buffer().expect("a picture");
        let bytes = buffer.map_readable().expect("readable").to_vec();
        // GStreamer's I420 without a meta: lines of whole 4 bytes.
        pictures.push(Luma { stride: width.next_multiple_of(4), bytes });
    }
    assert!(sink.is_eos(), "the decoder hangs");
    pipeline.set_state(gst::State::Null).expect("it stops");
    pictures
}
