//! A show with pictures and sound and a recording in memory, for tests of backfill.

#![allow(dead_code)] // Each test binary uses its own part.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use media::catalog::Catalog;
use media::cmaf::{Digest, GroupDigest, Item, Reader};
use media::{AudioConfig, Frame, FrameId, Time, Track, TrackConfig, TrackId, VideoConfig};
use relay::backfill::{Archive, Entry, GroupId};
use relay::clock::Clock;
use relay::venue::Frames;
use tokio::sync::Notify;

/// Parameter sets of 1280x720, as x264 makes them, with start codes.
const SETS: &[u8] = b"\0\0\0\x01\x67\x42\xc0\x1f\xd9\0\x50\x05\xbb\x01\x10\0\0\x03\0\x10\0\0\x03\x03\xc0\xf1\x83\x24\x80\0\0\0\x01\x68\xcb\x83\xcb\x20";

/// Pictures and packets come so often, in groups of half a second.
const PICTURE: Duration = Duration::from_millis(33);
const PACKET: Duration = Duration::from_millis(20);
const PICTURES: u64 = 15;
const PACKETS: u64 = 25;

/// Bytes of a picture: about 1 Mb/s.
const BYTES: usize = 4_000;

pub fn tracks() -> Vec<Track> {
    let video = VideoConfig {
        codec: "avc3.42c01f".into(),
        width: 1280,
        height: 720,
        framerate: 30,
        bitrate: 1_000_000,
    };
    let audio = AudioConfig { codec: "opus".into(), sample_rate: 48_000, channels: 2, bitrate: 96_000 };
    vec![
        Track { id: TrackId(0), name: "video/720p".into(), config: TrackConfig::Video(video) },
        Track { id: TrackId(1), name: "audio".into(), config: TrackConfig::Audio(audio) },
    ]
}

pub fn catalog() -> Catalog {
    Catalog::from_tracks(&tracks())
}

/// What was captured, in memory: the recorder itself is known to `roadie/` only, whose tests have it.
#[derive(Default)]
pub struct Recording {
    inner: Mutex<Inner>,
    ended: AtomicBool,
}

#[derive(Default)]
struct Inner {
    open: BTreeMap<TrackId, Vec<Frame>>,
    groups: BTreeMap<GroupId, Vec<Frame>>,
    entries: Vec<Entry>,
}

impl Recording {
    fn add(&self, frame: &Frame) {
        let mut inner = self.inner.lock().unwrap();
        let open = inner.open.entry(frame.id.track).or_default();
        let ended = (frame.id.frame == 0).then(|| std::mem::take(open));
        open.push(frame.clone());
        ended.into_iter().for_each(|frames| inner.finish(frames));
    }

    /// The show is over.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        let mut inner = self.inner.lock().unwrap();
        for (_, frames) in std::mem::take(&mut inner.open) {
            inner.finish(frames);
        }
    }

    pub fn groups(&self) -> usize {
        self.inner.lock().unwrap().entries.len()
    }

    /// The groups that are not in `kept`, or are something else there.
    pub fn missing(&self, kept: &BTreeMap<GroupId, Vec<Digest>>) -> Vec<GroupId> {
        let inner = self.inner.lock().unwrap();
        let there = |entry: &&Entry| kept.get(&entry.id).is_some_and(|all| all.contains(&entry.digest));
        inner.entries.iter().filter(|entry| !there(entry)).map(|entry| entry.id).collect()
    }
}

impl Inner {
    fn finish(&mut self, frames: Vec<Frame>) {
        let Some(first) = frames.first() else { return };
        let id = GroupId { track: first.id.track, group: first.id.group };
        let config = &tracks()[usize::from(id.track.0)].config;
        let mut digest = GroupDigest::new();
        frames.iter().for_each(|frame| digest.frame(config, frame));
        let (first_capture, digest) = (first.capture_time, digest.finish());
        self.entries.push(Entry { id, frames: frames.len() as u32, first_capture, digest });
        self.groups.insert(id, frames);
    }
}

impl Archive for Recording {
    fn tracks(&self) -> Vec<Track> {
        tracks()
    }

    fn finished(&self, from: usize) -> Vec<Entry> {
        self.inner.lock().unwrap().entries[from..].to_vec()
    }

    fn read(&self, id: GroupId) -> Result<Vec<Frame>, String> {
        self.inner.lock().unwrap().groups.get(&id).cloned().ok_or_else(|| "not here".into())
    }
}

/// Captures into a recording, in real time, until the recording has ended. Must be called within a runtime.
pub fn capture(clock: Clock, recording: Arc<Recording>) -> Frames {
    let wake = Arc::new(Notify::new());
    let bell = Arc::downgrade(&wake);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        loop {
            ticks.tick().await;
            match bell.upgrade() {
                Some(bell) => bell.notify_one(),
                None => return,
            }
        }
    });
    let start = clock.now();
    let first_group = start.as_micros() / 250_000;
    let mut next = [0u64; 2];
    let pop = move || {
        let due = [start + PICTURE * next[0] as u32, start + PACKET * next[1] as u32];
        let track = usize::from(due[1] < due[0]);
        if recording.ended.load(Ordering::Relaxed) || clock.now() < due[track] {
            return None;
        }
        let (n, length) = (next[track], [PICTURES, PACKETS][track]);
        next[track] += 1;
        let id = FrameId {
            track: TrackId(track as u8),
            group: first_group + n / length,
            frame: (n % length) as u32,
        };
        let frame = frame(id, due[track], n);
        recording.add(&frame);
        Some((frame, clock.now()))
    };
    Frames { pop: Box::new(pop), wake }
}

fn frame(id: FrameId, capture_time: Time, n: u64) -> Frame {
    let keyframe = id.track == TrackId(1) || id.frame == 0;
    let data = if id.track == TrackId(1) {
        vec![0xfc, n as u8, 7, 9]
    } else {
        let mut data = if keyframe { SETS.to_vec() } else { Vec::new() };
        data.extend([0, 0, 0, 1, if keyframe { 0x65 } else { 0x41 }]);
        data.resize(BYTES, n as u8 | 1);
        data
    };
    Frame { id, capture_time, keyframe, data: data.into() }
}

/// What lies in a folder of kept shows: the digests of each group in each file, as read from the media itself.
pub fn kept(dir: &Path) -> BTreeMap<GroupId, Vec<Digest>> {
    let mut kept: BTreeMap<GroupId, Vec<Digest>> = BTreeMap::new();
    for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_none_or(|extension| extension != "mp4") {
            continue;
        }
        let (mut reader, mut groups) = (Reader::new(), BTreeMap::<GroupId, GroupDigest>::new());
        reader.push(&std::fs::read(&path).unwrap());
        reader.end();
        while let Some(item) = reader.poll() {
            if let Item::Fragment(fragment) = item {
                assert!(fragment.intact, "{} of {}", fragment.id.group, path.display());
                let id = GroupId { track: fragment.id.track, group: fragment.id.group };
                groups.entry(id).or_default().fragment(&fragment);
            }
        }
        for (id, digest) in groups {
            kept.entry(id).or_default().push(digest.finish());
        }
    }
    kept
}
