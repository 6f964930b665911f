//! Measures an input: frames, bit rate, and the time from capture to encoded.
//!
//! `cargo run --release -p roadie-encoder --example probe -- [INPUT] [SECONDS] [BITRATE] [transcode]`

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use media::{Frame, Time, Track};
use roadie_encoder::{Encoder, EncoderEvent, FrameSink, Input, Now, Settings, VIDEO_TRACK};

#[derive(Default)]
struct Second {
    video: Vec<u64>,
    audio: Vec<u64>,
    video_bytes: usize,
    audio_bytes: usize,
    keyframes: u32,
    largest: usize,
}

#[derive(Clone, Default)]
struct Meter(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    second: Second,
    first_video: Option<Time>,
    first_audio: Option<Time>,
}

impl FrameSink for Meter {
    fn tracks(&mut self, tracks: &[Track]) {
        println!("{tracks:#?}");
    }

    fn frame(&mut self, frame: Frame, encoded_at: Time) {
        let Ok(mut state) = self.0.lock() else { return };
        let delay = encoded_at.saturating_since(frame.capture_time).as_micros() as u64;
        if frame.id.track == VIDEO_TRACK {
            state.first_video.get_or_insert(frame.capture_time);
            let second = &mut state.second;
            second.video.push(delay);
            second.video_bytes += frame.data.len();
            second.keyframes += u32::from(frame.keyframe);
            second.largest = second.largest.max(frame.data.len());
        } else {
            state.first_audio.get_or_insert(frame.capture_time);
            state.second.audio.push(delay);
            state.second.audio_bytes += frame.data.len();
        }
    }
}

fn spread(delays: &mut [u64]) -> String {
    delays.sort_unstable();
    let at = |ratio: f64| {
        let index = (delays.len() as f64 * ratio) as usize;
        delays.get(index.min(delays.len().saturating_sub(1))).map_or(0.0, |micros| *micros as f64 / 1000.0)
    };
    format!("p50 {:5.1} p95 {:5.1} max {:5.1} ms", at(0.5), at(0.95), at(1.0))
}

fn system_clock() -> Now {
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = Instant::now();
    let start = Time::from_micros(start.as_micros() as u64);
    Arc::new(move || start + since.elapsed())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let input: Input = args.next().as_deref().unwrap_or("test").parse()?;
    let seconds: u64 = args.next().as_deref().unwrap_or("10").parse()?;
    let mut settings = Settings { inputs: vec![input], ..Settings::default() };
    if let Some(bitrate) = args.next() {
        settings.video.bitrate = bitrate.parse()?;
    }
    settings.transcode = args.next().is_some_and(|word| word == "transcode");
    let meter = Meter::default();
    let begun = Instant::now();
    let encoder = Encoder::start(settings, system_clock(), Box::new(meter.clone()))?;
    println!("started in {:.0} ms", begun.elapsed().as_secs_f64() * 1000.0);

    let (mut video, mut audio) = (Vec::new(), Vec::new());
    for second in 1..=seconds {
        std::thread::sleep(Duration::from_secs(1));
        if let Some(event) = encoder.poll_event() {
            match event {
                EncoderEvent::Failed(error) => return Err(error.into()),
                event => println!("{event:?}"),
            }
        }
        let Ok(mut state) = meter.0.lock() else { break };
        let mut report = std::mem::take(&mut state.second);
        drop(state);
        println!(
            "{second:3} s  video {:2} fps {:5.2} Mb/s {} key, largest {:6} B, {}   audio {:2}/s {:3.0} kb/s {}",
            report.video.len(),
            report.video_bytes as f64 * 8.0 / 1e6,
            report.keyframes,
            report.largest,
            spread(&mut report.video),
            report.audio.len(),
            report.audio_bytes as f64 * 8.0 / 1e3,
            spread(&mut report.audio),
        );
        if second > 1 {
            video.append(&mut report.video);
            audio.append(&mut report.audio);
        }
    }
    println!("after the first second: video {}, audio {}", spread(&mut video), spread(&mut audio));
    if let Ok(state) = meter.0.lock()
        && let (Some(video), Some(audio)) = (state.first_video, state.first_audio)
    {
        println!("first audio - first video: {:.1} ms", audio.micros_since(video) as f64 / 1000.0);
    }
    println!("{:?}", encoder.counters());
    let begun = Instant::now();
    encoder.stop();
    println!("stopped in {:.0} ms", begun.elapsed().as_secs_f64() * 1000.0);
    Ok(())
}
