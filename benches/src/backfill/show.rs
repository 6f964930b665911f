//! A made-up show through the real tap and the real recorder, live and from the past.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use encoder::FrameSink;
use encoder::record::Archive as Recording;
use encoder::tap::{Tap, TapHandle, TapStatus};
use media::{AudioConfig, Frame, FrameId, Time, Track, TrackConfig, TrackId, VideoConfig};
use relay::backfill::{Archive, Entry, GroupId};
use relay::clock::Clock;
use relay::venue::Frames;
use roadie::recorded::Recorded;
use tokio::sync::Notify;

/// Parameter sets of 1280x720, as x264 makes them, with start codes.
const SETS: &[u8] = b"\0\0\0\x01\x67\x42\xc0\x1f\xd9\0\x50\x05\xbb\x01\x10\0\0\x03\0\x10\0\0\x03\x03\xc0\xf1\x83\x24\x80\0\0\0\x01\x68\xcb\x83\xcb\x20";

const PICTURE: Duration = Duration::from_micros(33_333);
const PACKET: Duration = Duration::from_millis(20);

/// Pictures of a group, and packets.
const PICTURES: u64 = 30;
const PACKETS: u64 = 25;

/// A keyframe is so many times as long as another picture.
const KEYFRAME: usize = 4;

/// Bytes of a packet: 96 kb/s.
const SOUND: usize = 240;

/// Frames of a past show that the recorders may have before them: less than their queues take.
const BURST: u64 = 60;

/// Pictures at 30 a second, and sound.
pub fn tracks(bitrate: u32) -> Vec<Track> {
    let video = VideoConfig { codec: "avc3.42c01f".into(), width: 1280, height: 720, framerate: 30, bitrate };
    let audio = AudioConfig { codec: "opus".into(), sample_rate: 48_000, channels: 2, bitrate: 96_000 };
    vec![
        Track { id: TrackId(0), name: "video/720p".into(), config: TrackConfig::Video(video) },
        Track { id: TrackId(1), name: "audio".into(), config: TrackConfig::Audio(audio) },
    ]
}

/// The frames of a show in order, each due at its capture time.
struct Source {
    start: Time,
    first_group: u64,
    picture: usize,
    next: [u64; 2],
}

impl Source {
    fn new(start: Time, bitrate: u32) -> Self {
        let group = bitrate as usize / 8;
        let picture = group / (PICTURES as usize + KEYFRAME - 1);
        Self { start, first_group: start.as_micros() / 250_000, picture, next: [0; 2] }
    }

    fn due(&self) -> Time {
        let [picture, packet] = self.next;
        (self.start + PICTURE * picture as u32).min(self.start + PACKET * packet as u32)
    }

    fn take(&mut self) -> Frame {
        let capture_time = self.due();
        let video = capture_time == self.start + PICTURE * self.next[0] as u32;
        let track = usize::from(!video);
        let (n, length) = (self.next[track], if video { PICTURES } else { PACKETS });
        self.next[track] += 1;
        let id = FrameId {
            track: TrackId(track as u8),
            group: self.first_group + n / length,
            frame: (n % length) as u32,
        };
        let keyframe = !video || id.frame == 0;
        let mut data = Vec::new();
        if video {
            if keyframe {
                data.extend(SETS);
            }
            data.extend([0, 0, 0, 1, if keyframe { 0x65 } else { 0x41 }]);
            data.resize(if keyframe { self.picture * KEYFRAME } else { self.picture }, n as u8 | 1);
        } else {
            data.push(0xfc);
            data.resize(SOUND, n as u8);
        }
        Frame { id, capture_time, keyframe, data: data.into() }
    }
}

/// Records a show that ended at `until`, as fast as the disk takes it.
pub fn record_past(
    dir: &Path,
    broadcast: &str,
    until: Time,
    length: Duration,
    bitrate: u32,
) -> anyhow::Result<()> {
    let (mut tap, mut handle) = Tap::new(vec![dir.to_owned()], broadcast.to_owned(), Arc::new(|| ()));
    tap.tracks(&tracks(bitrate));
    let mut source = Source::new(until - length, bitrate);
    let status = handle.status();
    let mut put = 0;
    while source.due() < until {
        let frame = source.take();
        tap.frame(frame.clone(), frame.capture_time);
        put += u64::from(frame.id.track == TrackId(0));
        // Nobody sends it; and the recorder's queue must not overflow.
        while handle.pop().is_some() {}
        let written = |status: &TapStatus| status.recordings().first().map_or(0, |copy| copy.frames);
        while put > written(&status) + BURST {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Captures live until it is dropped; then the recording ends.
pub struct Live {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    status: TapStatus,
    /// Where it began.
    start: Time,
    first_group: u64,
}

impl Live {
    /// Starts, and gives what the venue takes its frames from.
    pub fn start(dir: &Path, broadcast: &str, clock: Clock, bitrate: u32) -> anyhow::Result<(Self, Frames)> {
        let wake = Arc::new(Notify::new());
        let bell = wake.clone();
        let (mut tap, handle) =
            Tap::new(vec![dir.to_owned()], broadcast.to_owned(), Arc::new(move || bell.notify_one()));
        tap.tracks(&tracks(bitrate));
        let status = handle.status();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let mut source = Source::new(clock.now(), bitrate);
        let (start, first_group) = (source.start, source.first_group);
        let thread = std::thread::Builder::new()
            .name("encoder".into())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let due = source.due();
                    std::thread::sleep(due.saturating_since(clock.now()));
                    tap.frame(source.take(), clock.now());
                }
            })
            .context("no thread")?;
        Ok((Self { stop, thread: Some(thread), status, start, first_group }, frames(handle, wake)))
    }

    /// When a frame was captured.
    pub fn captured(&self, id: FrameId) -> Time {
        let (length, every) = if id.track == TrackId(0) { (PICTURES, PICTURE) } else { (PACKETS, PACKET) };
        let n = id.group.saturating_sub(self.first_group) * length + u64::from(id.frame);
        self.start + every * n as u32
    }

    /// Its recording.
    pub fn archive(&self) -> Recorded {
        Recorded(Recording::live(&self.status))
    }

    /// The last frame was captured, and the recording is on the disk.
    pub fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
    }
}

fn frames(mut handle: TapHandle, wake: Arc<Notify>) -> Frames {
    Frames { pop: Box::new(move || handle.pop()), wake }
}

/// A past recording and the present one, behind a gate: while it is shut nothing is read.
pub struct Gated {
    /// Before the present one.
    pub past: Option<Recorded>,
    /// The show that is on.
    pub live: Recorded,
    /// Whether groups may be read.
    pub open: Arc<AtomicBool>,
}

impl Archive for Gated {
    fn tracks(&self) -> Vec<Track> {
        self.live.tracks()
    }

    fn finished(&self, from: usize) -> Vec<Entry> {
        let mut all = self.past.as_ref().map(|past| past.finished(0)).unwrap_or_default();
        let before = all.len();
        all.extend(self.live.finished(from.saturating_sub(before)));
        all.split_off(from.min(before))
    }

    fn read(&self, id: GroupId) -> Result<Vec<Frame>, String> {
        while !self.open.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let past = self.past.as_ref().and_then(|past| past.read(id).ok());
        past.map_or_else(|| self.live.read(id), Ok)
    }
}
