//! `roadie-bench record-long`: a show of hours, fed to the recorder as fast as the disk takes it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use encoder::record::{RecordState, Recorder, RecordingFile};
use media::cmaf::GroupDigest;
use media::{AudioConfig, Frame, FrameId, Time, Track, TrackConfig, TrackId, VideoConfig};

const VIDEO: TrackId = TrackId(0);
const AUDIO: TrackId = TrackId(1);
const FPS: u64 = 30;
const PACKETS: u64 = 50;

/// Where it begins: any time will do.
const ZERO: Time = Time::from_millis(1_795_000_000_000);

/// Parameter sets of 1280x720 as x264 makes them, with start codes.
const SETS: &[u8] = b"\0\0\0\x01\x67\x42\xc0\x1f\xd9\0\x50\x05\xbb\x01\x10\0\0\x03\0\x10\0\0\x03\x03\xc0\xf1\x83\x24\x80\0\0\0\x01\x68\xcb\x83\xcb\x20";

/// So many seconds of the show may wait for the disk: below what the recorder's queue holds.
const AHEAD: u64 = 20;

/// Memory that one frame and one group may cost: the sample tables (16 bytes in a vector that doubles) and the index.
const BYTES_PER_FRAME: u64 = 48;
const BYTES_PER_GROUP: u64 = 512;
/// And what a process may grow by for other reasons.
const SLACK: u64 = 24 << 20;

/// Records a made-up show of some hours as fast as it goes. Memory may grow by the tables only (16 bytes a frame), the
/// index must list every group with its digest, and the last frame must be where it belongs, to the microsecond.
#[derive(Args, Clone, Debug)]
pub struct Raw {
    /// How long the show is
    #[arg(long, value_name = "HOURS", default_value_t = 3.0)]
    hours: f64,

    /// Bytes of a picture; that of 2.5 Mb/s has 10000
    #[arg(long, value_name = "BYTES", default_value_t = 1000)]
    picture: usize,

    /// Where the recording goes and is removed again [default: a temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs and prints.
pub fn run(raw: Raw) -> anyhow::Result<()> {
    if !(0.001..=24.0).contains(&raw.hours) || !(1..=1 << 20).contains(&raw.picture) {
        bail!("--hours is 0.001 to 24, --picture is 1 to 1048576 bytes");
    }
    let temporary = std::env::temp_dir().join(format!("roadie-bench-long-{}", std::process::id()));
    let dir = raw.dir.clone().unwrap_or(temporary);
    let result = record(&raw, &dir);
    if raw.dir.is_none() {
        let _ = std::fs::remove_dir_all(&dir);
    }
    result
}

fn record(raw: &Raw, dir: &std::path::Path) -> anyhow::Result<()> {
    let seconds = (raw.hours * 3600.0) as u64;
    let started = Instant::now();
    let recorder = Recorder::start(dir, "long", &tracks())?;
    let mut digests = Vec::new();
    let mut memory = Vec::new();
    for second in 0..seconds {
        for (track, frames) in [(VIDEO, pictures(second, raw.picture)), (AUDIO, packets(second))] {
            let mut digest = GroupDigest::new();
            for frame in &frames {
                let config = &tracks()[usize::from(track.0)].config;
                digest.frame(config, frame);
                recorder.write(frame);
            }
            digests.push((track, second, digest.finish()));
        }
        // As fast as the disk, but not faster: the queue must not be what is measured.
        while second * FPS > recorder.status().frames + AHEAD * FPS {
            std::thread::sleep(Duration::from_millis(1));
        }
        if second % (seconds / 10).max(1) == 0 {
            memory.push(resident()?);
            println!("{:6} s recorded, {:4} MB of memory", second, memory.last().unwrap_or(&0) >> 20);
        }
    }
    let status = recorder.finish();
    println!(
        "{:.1} h in {:.1} s: {} pictures, {} MB, {} left out, {:?}",
        raw.hours,
        started.elapsed().as_secs_f64(),
        status.frames,
        status.bytes / 1_000_000,
        status.dropped,
        status.state
    );
    let mut failures = Vec::new();
    if status.state != RecordState::Recording || status.dropped > 0 || status.frames != seconds * FPS {
        failures.push("the recording is not whole".to_owned());
    }
    let frames = seconds * (FPS + PACKETS);
    let allowed = frames * BYTES_PER_FRAME + 2 * seconds * BYTES_PER_GROUP + SLACK;
    let (first, last) = (memory.first().copied().unwrap_or(0), memory.last().copied().unwrap_or(0));
    let grown = last.saturating_sub(first);
    println!("memory grew by {} MB; tables, index and slack may have {} MB", grown >> 20, allowed >> 20);
    if grown > allowed {
        failures.push("memory grew by more than the tables need".to_owned());
    }
    let file = RecordingFile::open(&status.path)?;
    let index = file.sidecar().map_err(anyhow::Error::msg)?;
    let mut listed: Vec<_> =
        index.groups.iter().map(|entry| (entry.track, entry.group, entry.digest)).collect();
    listed.sort_unstable();
    digests.sort_unstable();
    println!("the index lists {} of {} groups", listed.len(), digests.len());
    if listed != digests {
        failures.push("the index is not what was encoded".to_owned());
    }
    let last = index.groups.iter().rfind(|entry| entry.track == VIDEO).context("no pictures in the index")?;
    let found = file.group(last.range.clone(), VIDEO, last.group)?;
    let end = found.values().next_back().context("the last group is empty")?;
    let right = ZERO + Duration::from_micros((seconds * FPS - 1) * 1_000_000 / FPS);
    let drift = end.capture_time.micros_since(right);
    println!("the last picture is {drift} us from where it belongs, and plays at {} us", end.decode_time);
    if drift != 0 || end.decode_time != right.micros_since(ZERO) as u64 {
        failures.push("the timeline drifted".to_owned());
    }
    match failures.is_empty() {
        true => println!("PASS  memory as the tables need, index right, no drift"),
        false => bail!("{}", failures.join("; ")),
    }
    Ok(())
}

fn tracks() -> [Track; 2] {
    let video = VideoConfig {
        codec: "avc3.42c01f".into(),
        width: 1280,
        height: 720,
        framerate: FPS as u32,
        bitrate: 2_500_000,
    };
    let audio = AudioConfig { codec: "opus".into(), sample_rate: 48_000, channels: 2, bitrate: 96_000 };
    [
        Track { id: VIDEO, name: "video/720p".into(), config: TrackConfig::Video(video) },
        Track { id: AUDIO, name: "audio".into(), config: TrackConfig::Audio(audio) },
    ]
}

/// The group of this second.
fn pictures(second: u64, size: usize) -> Vec<Frame> {
    let picture = |n: u64| {
        let mut data = if n == 0 { SETS.to_vec() } else { Vec::new() };
        data.extend([0, 0, 0, 1, if n == 0 { 0x65 } else { 0x41 }]);
        // No start codes in it, and no two alike.
        data.extend((0..size).map(|at| (second as usize * 7 + n as usize * 3 + at) as u8 | 1));
        let capture_time = ZERO + Duration::from_micros((second * FPS + n) * 1_000_000 / FPS);
        let id = FrameId { track: VIDEO, group: second, frame: n as u32 };
        Frame { id, capture_time, keyframe: n == 0, data: data.into() }
    };
    (0..FPS).map(picture).collect()
}

fn packets(second: u64) -> Vec<Frame> {
    let packet = |n: u64| {
        let id = FrameId { track: AUDIO, group: second, frame: n as u32 };
        let capture_time = ZERO + Duration::from_millis(second * 1000 + 5 + n * 20);
        let data = Bytes::from([&[0xfc][..], &(second * PACKETS + n).to_be_bytes(), &[1; 200]].concat());
        Frame { id, capture_time, keyframe: true, data }
    };
    (0..PACKETS).map(packet).collect()
}

/// Bytes of memory that this process has.
fn resident() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line =
        text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc/self/status")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{line:?}"))?;
    Ok(kilobytes << 10)
}
