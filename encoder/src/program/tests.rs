//! A flash in the picture and a clap in the sound at the same moment, sent by a real sender that is
//! killed and started again; measured on what is handed to the encoders.

use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gstreamer as gst;
use media::Time;

use super::{Program, RawSink, SourceState, Ticker};
use crate::clock::Epoch;
use crate::events::Events;
use crate::pass::Offer;
use crate::supervise::{Supervisor, plans};
use crate::{EncoderEvent, Input, Microphone, Settings, VideoSettings};

/// How long a condition may take before the test has failed.
const LIMIT: Duration = Duration::from_secs(30);
const WIDTH: usize = 320;
const HEIGHT: usize = 180;
/// Onsets further apart than this belong to different flashes (ns).
const SAME: i64 = 200_000_000;

/// What the encoders were given.
#[derive(Default)]
struct Given {
    pictures: Vec<Picture>,
    /// Start of each piece of sound, and its samples of the left channel.
    sounds: Vec<(u64, Vec<i16>)>,
    cuts: usize,
}

struct Picture {
    at: u64,
    number: u64,
    /// The mean of a few lines in the middle.
    bright: bool,
    /// How far the unit that it was decoded from is placed from it (ns), where one came with it.
    apart: Option<u64>,
}

#[derive(Clone, Default)]
struct Seen(Arc<(Mutex<Given>, Condvar)>);

impl RawSink for Seen {
    fn picture(&self, buffer: gst::Buffer, offer: Option<Offer>) {
        let map = buffer.map_readable().expect("bytes");
        let middle = &map[WIDTH * HEIGHT / 2..][..WIDTH * 4];
        let bright = middle.iter().map(|luma| usize::from(*luma)).sum::<usize>() / middle.len() > 120;
        let at = buffer.pts().expect("a time").nseconds();
        let apart = offer.and_then(|offer| Some(offer.units.last()?.0.nseconds().abs_diff(at)));
        self.0.0.lock().unwrap().pictures.push(Picture { at, number: buffer.offset(), bright, apart });
        self.0.1.notify_all();
    }

    fn sound(&self, buffer: gst::Buffer) {
        let map = buffer.map_readable().expect("bytes");
        let left = map.as_chunks::<4>().0.iter().map(|frame| i16::from_le_bytes([frame[0], frame[1]]));
        let at = buffer.pts().expect("a time").nseconds();
        self.0.0.lock().unwrap().sounds.push((at, left.collect()));
        self.0.1.notify_all();
    }

    fn cut(&self) {
        self.0.0.lock().unwrap().cuts += 1;
    }
}

impl Seen {
    fn wait(&self, what: &str, mut enough: impl FnMut(&Given) -> bool) {
        let begun = Instant::now();
        let mut given = self.0.0.lock().unwrap();
        while !enough(&given) {
            let left = LIMIT.saturating_sub(begun.elapsed());
            assert!(!left.is_zero(), "{what}: not within {LIMIT:?}");
            given = self.0.1.wait_timeout(given, left).unwrap().0;
        }
    }
}

/// A program with its sources, without encoders.
struct Show {
    seen: Seen,
    program: Arc<Program>,
    events: Arc<Events>,
    supervisors: Vec<Supervisor>,
    _ticker: Ticker,
}

fn show(inputs: &[&str]) -> Show {
    gst::init().expect("GStreamer");
    let inputs: Vec<Input> = inputs.iter().map(|input| input.parse().expect("an input")).collect();
    let video = VideoSettings { width: WIDTH as u32, height: HEIGHT as u32, ..VideoSettings::default() };
    let settings = Settings { inputs, microphone: Microphone::None, video, ..Settings::default() };
    let begun = Instant::now();
    let now: crate::Now = Arc::new(move || Time::from_millis(1_000_000) + begun.elapsed());
    let (seen, events) = (Seen::default(), Arc::new(Events::default()));
    let numbers = std::sync::atomic::AtomicU64::new(0);
    let number = move || numbers.fetch_add(1, Relaxed);
    let program = Program::new(&settings, Epoch::begin(&now), events.clone(), number, Box::new(seen.clone()));
    let program = program.expect("a program");
    let start = |plan| {
        Supervisor::start(plan, settings.video.clone(), program.clone(), events.clone()).expect("a thread")
    };
    let supervisors = plans(&settings.inputs, &settings.microphone).into_iter().map(start).collect();
    let ticker = program.run().expect("a thread");
    Show { seen, program, events, supervisors, _ticker: ticker }
}

impl Show {
    fn wait_event(&self, wanted: impl Fn(&EncoderEvent) -> bool) {
        let begun = Instant::now();
        while let Some(event) = self.events.wait(LIMIT.saturating_sub(begun.elapsed())) {
            if wanted(&event) {
                return;
            }
        }
        panic!("nothing happened within {LIMIT:?}; {:?}", self.program.status());
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        self.supervisors.iter().for_each(Supervisor::stop);
        for supervisor in self.supervisors.drain(..) {
            assert!(supervisor.join(LIMIT), "it closes");
        }
    }
}

/// A sender of MPEG-TS that calls again when it is hung up on. Dropping it is pulling the cable.
struct Sender {
    pulled: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Twice a second a flash and a clap of 100 ms.
fn sender(to: &str) -> Sender {
    let flash =
        format!("color=c=black:s={WIDTH}x{HEIGHT}:r=30,drawbox=c=white:t=fill:enable='lt(mod(t,0.5),0.1)'");
    let clap = "aevalsrc='0.8*sin(2*PI*1000*t)*lt(mod(t,0.5),0.1)':s=48000:c=stereo";
    let mut command = Command::new("ffmpeg");
    command
        .args(["-hide_banner", "-loglevel", "fatal", "-nostdin", "-re", "-f", "lavfi", "-i", &flash])
        .args(["-re", "-f", "lavfi", "-i", clap])
        .args([
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-tune",
            "zerolatency",
            "-threads",
            "1",
            "-g",
            "15",
        ])
        .args(["-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "192k", "-f", "mpegts", to])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let pulled = Arc::new(AtomicBool::new(false));
    let stop = pulled.clone();
    let run = move || {
        while !stop.load(Relaxed) {
            let mut child = command.spawn().expect("ffmpeg; `cargo xtask test` installs it");
            while !stop.load(Relaxed) && child.try_wait().is_ok_and(|ended| ended.is_none()) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    };
    Sender { pulled, thread: Some(std::thread::spawn(run)) }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.pulled.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port()
}

/// When it became bright, from then on.
fn flashes(given: &Given, since: u64) -> Vec<u64> {
    let pairs = given.pictures.windows(2).filter(|pair| !pair[0].bright && pair[1].bright);
    pairs.map(|pair| pair[1].at).filter(|at| *at >= since).collect()
}

/// When it became loud, after at least 100 ms of quiet.
fn claps(given: &Given) -> Vec<u64> {
    let mut claps = Vec::new();
    let mut last_loud = None;
    for (start, samples) in &given.sounds {
        for (index, _) in samples.iter().enumerate().filter(|(_, sample)| sample.unsigned_abs() > 8_000) {
            let at = start + index as u64 * 1_000_000_000 / 48_000;
            if last_loud.is_none_or(|last| at - last > 100_000_000) {
                claps.push(at);
            }
            last_loud = Some(at);
        }
    }
    claps
}

/// By how much each flash is later than its clap (ns), from then on.
fn skews(given: &Given, since: u64) -> Vec<i64> {
    let claps = claps(given);
    let nearest =
        |flash: u64| claps.iter().map(|clap| flash as i64 - *clap as i64).min_by_key(|skew| skew.abs());
    flashes(given, since).into_iter().filter_map(nearest).filter(|skew| skew.abs() < SAME).collect()
}

/// One timeline: pictures in order and without a long hole, sound without any.
fn check(given: &Given) {
    for pair in given.pictures.windows(2) {
        assert!(pair[1].at > pair[0].at, "time goes forward: {} {}", pair[0].at, pair[1].at);
        assert_eq!(pair[1].number, pair[0].number + 1);
    }
    for pair in given.sounds.windows(2) {
        let (start, samples) = &pair[0];
        let end = start + samples.len() as u64 * 1_000_000_000 / 48_000;
        assert!(pair[1].0.abs_diff(end) <= 30_000, "a hole in the sound: {end} {}", pair[1].0);
    }
}

/// Pulls a sender and plugs it in again, so many times. Prints what happened.
fn pull(input: &str, to: &str, cycles: usize) {
    let show = show(&[input]);
    show.seen.wait("the slate", |given| given.pictures.len() >= 3 && !given.sounds.is_empty());
    assert_eq!(show.program.status()[0].state, SourceState::Waiting);
    for cycle in 0..cycles {
        let sender = sender(to);
        show.wait_event(|event| *event == EncoderEvent::SourceBack { input: 0 });
        let back = show.seen.0.0.lock().unwrap().pictures.last().map_or(0, |picture| picture.at);
        // A flash that it came in the middle of does not count.
        show.seen.wait("flashes", |given| skews(given, back + 150_000_000).len() >= 3);
        let pulled = show.seen.0.0.lock().unwrap().pictures.len();
        drop(sender);
        show.wait_event(|event| matches!(event, EncoderEvent::SourceLost { input: 0, .. }));
        show.seen.wait("the slate", |given| given.pictures.len() > pulled + 30);

        let given = show.seen.0.0.lock().unwrap();
        check(&given);
        // What is passed through has the time of the picture, and so the same skew.
        let apart: Vec<_> = given.pictures[..pulled].iter().filter_map(|picture| picture.apart).collect();
        let moved = apart.iter().max().copied().unwrap_or_default();
        assert!(apart.len() > 30 && moved < 1_000_000, "{} units, {moved} ns apart", apart.len());
        let skews = skews(&given, back + 150_000_000);
        let worst = skews.iter().map(|skew| skew.abs()).max().unwrap_or(i64::MAX);
        let holes = given.pictures.windows(2).map(|pair| pair[1].at - pair[0].at);
        let hole = holes.max().unwrap_or(0);
        println!(
            "cycle {cycle}: {} flashes, worst skew {:.1} ms (mean {:.1}), longest time without a picture {} ms, {} cuts",
            skews.len(),
            worst as f64 / 1e6,
            skews.iter().sum::<i64>() as f64 / skews.len() as f64 / 1e6,
            hole / 1_000_000,
            given.cuts,
        );
        assert!(worst < 10_000_000, "{skews:?}");
    }
}

#[test]
fn flash_and_clap_stay_together_through_a_pulled_cable() {
    let port = free_port();
    pull(&format!("udp://:{port}"), &format!("udp://127.0.0.1:{port}?pkt_size=1316"), 2);
}

#[test]
fn a_sender_that_is_started_again_at_once_is_taken_as_it_comes() {
    let port = free_port();
    let show = show(&[&format!("udp://:{port}")]);
    let to = format!("udp://127.0.0.1:{port}?pkt_size=1316");
    let first = sender(&to);
    show.wait_event(|event| *event == EncoderEvent::SourceBack { input: 0 });
    show.seen.wait("flashes", |given| skews(given, 0).len() >= 3);
    let pulled = show.seen.0.0.lock().unwrap().pictures.last().map_or(0, |picture| picture.at);
    drop(first);
    let _second = sender(&to);
    // Whether that is seen as a pulled cable depends on how fast it starts.
    show.seen.wait("flashes of the second", |given| skews(given, pulled + 1_500_000_000).len() >= 3);
    let given = show.seen.0.0.lock().unwrap();
    check(&given);
    let skews = skews(&given, pulled + 1_500_000_000);
    assert!(skews.iter().all(|skew| skew.abs() < 10_000_000), "{skews:?}");
}

/// `cargo test -p roadie-encoder --lib -- --ignored --nocapture --test-threads 1 ten_times`
#[test]
#[ignore = "takes a minute"]
fn a_cable_pulled_ten_times() {
    let port = free_port();
    pull(&format!("udp://:{port}"), &format!("udp://127.0.0.1:{port}?pkt_size=1316"), 10);
}

/// `cargo test -p roadie-encoder --lib -- --ignored --nocapture --test-threads 1 ten_times`
#[test]
#[ignore = "takes a minute"]
fn an_srt_caller_that_is_gone_ten_times() {
    let port = free_port();
    pull(&format!("srt://:{port}"), &format!("srt://127.0.0.1:{port}?mode=caller"), 10);
}
