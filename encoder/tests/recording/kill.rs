//! The process is killed while it records: what was given to the recorder is in the file.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use media::Time;
use roadie_encoder::record::{Recorder, recordings_in};

use crate::fixture::{ZERO, read, show, tracks, video};
use crate::players::{discover, ffprobe, ffprobe_torn, gstreamer};

/// Tells the test binary to be the process that is killed, and where to record.
const DIR: &str = "ROADIE_TEST_KILL_DIR";
/// Replays a run.
const SEED: &str = "ROADIE_TEST_SEED";
const ROUNDS: usize = 4;
/// What may be missing: three pictures.
const MAX_LOST: Duration = Duration::from_millis(100);

/// Not a test of its own: the process that is killed. It records in real time and tells of each frame.
#[test]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let recorder = Recorder::start(Path::new(&dir), "killed", &tracks()).unwrap();
    let start = Instant::now();
    for frame in show(10) {
        // The rate at which a camera gives frames.
        let due = Duration::from_micros(frame.capture_time.micros_since(ZERO) as u64);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        recorder.write(&frame);
        println!("\nwritten {}", frame.capture_time.as_micros());
    }
}

#[test]
fn kill_9_loses_at_most_a_few_frames() {
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |now| now.as_micros() as u64)
    });
    println!("{SEED}={seed}");
    let mut state = seed;
    for round in 0..ROUNDS {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Of 80 frames a second.
        let kill_after = 20 + (state >> 33) as usize % 200;
        let dir = tempfile::tempdir().unwrap();
        let last = record_and_kill(dir.path(), kill_after);

        let files = recordings_in(dir.path()).unwrap();
        let [file] = &files[..] else { panic!("{files:?}") };
        let (frames, torn) = read(&fs::read(file).unwrap());
        let end = frames.iter().map(|frame| frame.capture_time).max().expect("frames");
        let written = show(10).iter().filter(|frame| frame.capture_time <= last).count();
        println!(
            "round {round}: killed after {kill_after} frames; {written} given, {} found, {torn} bytes torn",
            frames.len()
        );
        assert!(last.saturating_since(end) <= MAX_LOST, "{:?} lost", last.saturating_since(end));
        if torn == 0 {
            let found = ffprobe(file).number("streams.stream.0.nb_read_frames");
            assert_eq!(found, video(&frames).count() as f64);
        } else {
            assert!(ffprobe_torn(file) >= video(&frames).count());
        }
        gstreamer(file);
        // Its head tells its length, to a second.
        let length = end.saturating_since(ZERO).as_secs();
        let told = discover(file);
        let right = |seconds: u64| told.contains(&format!("Duration: 0:00:{seconds:02}"));
        assert!(length < 2 || (length - 1..=length + 1).any(right), "{length}: {told}");
    }
}

/// Returns the capture time of the last frame that the process gave to its recorder.
fn record_and_kill(dir: &Path, kill_after: usize) -> Time {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let times = lines.filter_map(|line| line.strip_prefix("written ")?.parse().ok().map(Time::from_micros));
    let mut last = None;
    for (count, time) in times.enumerate() {
        last = Some(time);
        if count == kill_after {
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success(), "it ended by itself");
    last.expect("frames were written")
}
