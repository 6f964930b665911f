//! What the encoder costs in time, and how it follows the bond.
//!
//! `cargo run --release -p roadie-encoder --example measure -- delay [ROUNDS]`: from capture to the encoded
//! frame in the hands of the sink, against a bare GStreamer pipeline of the same source and encoder, in turns.
//!
//! `cargo run --release -p roadie-encoder --example measure -- step [FROM] [TO] [CODEC] [FILE]`: the bond's rate steps
//! down in the middle of a group; how soon the output follows, how large single frames are, and how long they took. CODEC
//! is `h264`, `vp8` or `av1`; FILE, a clip, takes the place of the test picture. The shell's `time` before it says what
//! it costs the processor.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use media::{Frame, Time, Track};
use roadie_encoder::{Encoder, FrameSink, Input, Now, Settings, VIDEO_TRACK, VideoCodec};

type Failure = Box<dyn std::error::Error>;

/// How long one round of either kind runs.
const ROUND: Duration = Duration::from_secs(10);

struct Sink(SyncSender<(Frame, Time)>);

impl FrameSink for Sink {
    fn tracks(&mut self, _: &[Track]) {}
    fn frame(&mut self, frame: Frame, encoded_at: Time) {
        if frame.id.track == VIDEO_TRACK {
            let _ = self.0.try_send((frame, encoded_at));
        }
    }
}

fn clock() -> Now {
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (start, since) = (Time::from_micros(start.as_micros() as u64), Instant::now());
    Arc::new(move || start + since.elapsed())
}

fn start(settings: Settings) -> Result<(Encoder, Receiver<(Frame, Time)>), Failure> {
    let (sender, frames) = sync_channel(100_000);
    Ok((Encoder::start(settings, clock(), Box::new(Sink(sender)))?, frames))
}

/// Capture to encoded, microseconds.
fn ours() -> Result<Vec<i64>, Failure> {
    let (encoder, frames) = start(Settings::default())?;
    std::thread::sleep(ROUND);
    encoder.stop();
    Ok(frames.iter().skip(30).map(|(frame, at)| at.micros_since(frame.capture_time)).collect())
}

/// The same of `gst-launch-1.0` with this encoder, sound beside it as in the show.
fn bare() -> Result<Vec<i64>, Failure> {
    gst::init()?;
    let [x264, opus] = roadie_encoder::launch_words(&Settings::default());
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc is-live=true pattern=smpte horizontal-speed=4 \
         ! video/x-raw,format=I420,width=1280,height=720,framerate=30/1 ! queue ! {x264} \
         ! video/x-h264,profile=constrained-baseline ! h264parse config-interval=-1 \
         ! video/x-h264,stream-format=byte-stream,alignment=au ! appsink name=video sync=false async=false \
         audiotestsrc is-live=true wave=ticks samplesperbuffer=480 ! audio/x-raw,rate=48000,channels=2 ! queue \
         ! {opus} ! fakesink sync=false async=false"
    ))?
    .downcast::<gst::Pipeline>()
    .map_err(|_| "no pipeline")?;
    let sink = pipeline.by_name("video").and_downcast::<gst_app::AppSink>().ok_or("no sink")?;
    let delays = Arc::new(Mutex::new(Vec::new()));
    let (into, running) = (delays.clone(), pipeline.clone());
    let callbacks = gst_app::AppSinkCallbacks::builder().new_sample(move |sink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        let running_time = || {
            let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
            segment.to_running_time(sample.buffer()?.pts()?)
        };
        let now = running.current_running_time();
        if let (Some(now), Some(then), Ok(mut delays)) = (now, running_time(), into.lock()) {
            delays.push(now.useconds() as i64 - then.useconds() as i64);
        }
        Ok(gst::FlowSuccess::Ok)
    });
    sink.set_callbacks(callbacks.build());
    pipeline.set_state(gst::State::Playing)?;
    std::thread::sleep(ROUND);
    pipeline.set_state(gst::State::Null)?;
    let delays = delays.lock().map_err(|_| "poisoned")?.clone();
    Ok(delays.into_iter().skip(30).collect())
}

fn percentile(delays: &mut [i64], percent: usize) -> f64 {
    delays.sort_unstable();
    delays.get(delays.len() * percent / 100).map_or(f64::NAN, |micros| *micros as f64 / 1000.0)
}

fn delay(rounds: u32) -> Result<(), Failure> {
    println!("capture to encoded, 720p30 at 2.5 Mb/s, ms");
    let (mut all_bare, mut all_ours) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        for (name, all, run) in [
            ("bare ", &mut all_bare, bare as fn() -> Result<Vec<i64>, Failure>),
            ("ours ", &mut all_ours, ours),
        ] {
            let mut delays = run()?;
            let (count, p50, p95) = (delays.len(), percentile(&mut delays, 50), percentile(&mut delays, 95));
            println!("{round:3} {name} P50 {p50:6.2}  P95 {p95:6.2}  of {count}");
            all.append(&mut delays);
        }
    }
    let (bare, ours) = (percentile(&mut all_bare, 95), percentile(&mut all_ours, 95));
    let verdict = if ours <= bare + 2.0 { "PASS" } else { "FAIL" };
    println!("{verdict}  P95 {ours:.2} ms, bare {bare:.2} ms (at most 2 ms more)");
    Ok(())
}

fn step(from: u32, to: u32, codec: VideoCodec, file: Option<&str>) -> Result<(), Failure> {
    let mut settings = Settings { codec, ..Settings::default() };
    settings.video.bitrate = 8_000_000;
    settings.video.gop = Duration::from_secs(10);
    if let Some(file) = file {
        settings.inputs = vec![Input::File(file.into())];
    }
    let audio = settings.audio.bitrate;
    let fps = settings.video.fps;
    let (encoder, frames) = start(settings)?;
    encoder.set_rate(from + audio);
    let mut all: Vec<(Frame, Time)> = Vec::new();
    let until = |all: &mut Vec<(Frame, Time)>, count: usize| -> Result<(), Failure> {
        while all.len() < count {
            all.push(frames.recv_timeout(Duration::from_secs(5))?);
        }
        Ok(())
    };
    until(&mut all, 135)?;
    encoder.set_rate(to + audio);
    let told = all.len();
    until(&mut all, told + 60)?;
    encoder.stop();
    let rate = |frames: &[(Frame, Time)]| {
        let bits: usize = frames.iter().map(|(frame, _)| frame.data.len() * 8).sum();
        // By capture time: an encoder may leave out pictures to keep to its rate.
        let times = frames.first().zip(frames.last());
        let micros = times.map_or(0, |(first, last)| last.0.capture_time.micros_since(first.0.capture_time));
        bits as f64 / (micros as f64 + 1e6 / f64::from(fps))
    };
    println!("from {:.2} to {:.2} Mb/s", f64::from(from) / 1e6, f64::from(to) / 1e6);
    println!("  the second before          {:5.2} Mb/s", rate(&all[told - 30..told]));
    // The frame that is in the encoder when it is told is one of the old rate.
    for (name, range) in [
        ("frames 1 to 6 (200 ms)  ", 1..7),
        ("frames 7 to 12          ", 7..13),
        ("the second after 200 ms  ", 7..37),
    ] {
        println!("  {name}   {:5.2} Mb/s", rate(&all[told + range.start..told + range.end]));
    }
    let budget = f64::from(to) / 8.0 / f64::from(fps);
    let after = &all[told + 1..];
    let largest = after.iter().map(|(frame, _)| frame.data.len()).max().unwrap_or(0) as f64 / budget;
    let keyframes = after.iter().filter(|(frame, _)| frame.keyframe).count();
    println!("  largest frame after it {largest:.2} of its budget; keyframes {keyframes}");
    let sizes: Vec<_> = all[told - 3..told + 12].iter().map(|(frame, _)| frame.data.len()).collect();
    println!("  bytes of the frames around it {sizes:?} (budget {budget:.0})");
    let mut delays: Vec<_> =
        all[30..].iter().map(|(frame, at)| at.micros_since(frame.capture_time)).collect();
    let [p50, p95, p99] = [50, 95, 99].map(|percent| percentile(&mut delays, percent));
    let captured = all.last().zip(all.first());
    let captured = captured.map_or(0, |(last, first)| last.0.capture_time.micros_since(first.0.capture_time));
    println!(
        "  capture to encoded P50 {p50:.1}  P95 {p95:.1}  P99 {p99:.1} ms; {} pictures, of {:.0}",
        all.len(),
        captured as f64 * f64::from(fps) / 1e6 + 1.0
    );
    let follows = rate(&all[told + 7..told + 37]) <= f64::from(to) * 1.1 / 1e6;
    let verdict = if follows && largest <= 2.0 && keyframes == 0 { "PASS" } else { "FAIL" };
    println!("{verdict}");
    Ok(())
}

fn main() -> Result<(), Failure> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let number = |at: usize, otherwise: u32| -> Result<u32, Failure> {
        Ok(args.get(at).map_or(Ok(otherwise), |text| text.parse())?)
    };
    match args.first().map(String::as_str) {
        Some("delay") => delay(number(1, 3)?),
        Some("step") => {
            let codec = args.get(3).map_or(Ok(VideoCodec::default()), |text| text.parse())?;
            step(number(1, 4_000_000)?, number(2, 1_500_000)?, codec, args.get(4).map(String::as_str))
        }
        _ => Err("say `delay` or `step`".into()),
    }
}
