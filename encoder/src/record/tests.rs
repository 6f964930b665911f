//! The recorder on disks that are full, blocked or gone, and on a real one. That the files play is
//! tested in `tests/recording`, with the programs of others.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::{Condvar, Mutex};

use bytes::Bytes;
use media::cmaf::{GroupDigest, Index, Item, Reader};
use media::{AudioConfig, FrameId, Time, TrackConfig, TrackId, VideoConfig};

use super::disk::Output;
use super::space::Space;
use super::*;

mod index;
mod renditions;
mod warnings;

const VIDEO: TrackId = TrackId(0);
const AUDIO: TrackId = TrackId(1);
const ZERO: Time = Time::from_millis(1_795_000_000_000);
const GROUP: u32 = 10;

/// Parameter sets of 1280x720 as x264 makes them, with start codes.
const SETS: &[u8] = b"\0\0\0\x01\x67\x42\xc0\x1f\xd9\0\x50\x05\xbb\x01\x10\0\0\x03\0\x10\0\0\x03\x03\xc0\xf1\x83\x24\x80\0\0\0\x01\x68\xcb\x83\xcb\x20";

pub fn tracks() -> Vec<Track> {
    let video = VideoConfig {
        codec: "avc3.42c01f".into(),
        width: 1280,
        height: 720,
        framerate: 10,
        bitrate: 2_500_000,
    };
    let audio = AudioConfig { codec: "opus".into(), sample_rate: 48_000, channels: 2, bitrate: 96_000 };
    vec![
        Track { id: VIDEO, name: "video/720p".into(), config: TrackConfig::Video(video) },
        Track { id: AUDIO, name: "audio".into(), config: TrackConfig::Audio(audio) },
    ]
}

/// Picture number `n` of ten a second, in groups of one second.
pub fn picture(n: u32) -> Frame {
    let (group, frame) = (u64::from(n / GROUP), n % GROUP);
    let mut data = if frame == 0 { SETS.to_vec() } else { Vec::new() };
    data.extend([0, 0, 0, 1, if frame == 0 { 0x65 } else { 0x41 }, n as u8 | 1]);
    let id = FrameId { track: VIDEO, group, frame };
    let capture_time = ZERO + Duration::from_millis(100) * n;
    Frame { id, capture_time, keyframe: frame == 0, data: data.into() }
}

/// A packet captured so many milliseconds after (or before) the first picture.
pub fn sound(millis: i64) -> Frame {
    let id = FrameId { track: AUDIO, group: 7, frame: 0 };
    let capture_time = ZERO.offset_by(millis * 1000);
    Frame { id, capture_time, keyframe: true, data: Bytes::from_static(&[0xfc, 1, 2]) }
}

/// The frames of a file, and how many of its bytes were damaged.
fn read(file: &[u8]) -> (Vec<Frame>, u64) {
    let (mut reader, mut start, mut frames) = (Reader::new(), None, Vec::new());
    reader.push(file);
    reader.end();
    while let Some(item) = reader.poll() {
        match item {
            Item::Start(found) => start = Some(found),
            Item::Fragment(found) => {
                assert!(found.intact);
                frames.push(start.as_ref().and_then(|start| start.restore(&found)).expect("a frame"));
            }
        }
    }
    (frames, reader.damaged_bytes())
}

/// What a test disk does with the next appends, one entry each; then it writes.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    Write,
    /// Writes half of it, then has no space.
    Full,
}

/// A disk in memory, shared with the test.
#[derive(Clone, Default)]
struct TestDisk {
    inner: Arc<(Mutex<Inner>, Condvar)>,
}

#[derive(Default)]
struct Inner {
    files: Vec<(PathBuf, Vec<u8>)>,
    acts: VecDeque<Act>,
    blocked: bool,
    cannot_create: bool,
    removed: bool,
    indexes: Vec<(PathBuf, Vec<u8>)>,
    space: Option<Space>,
}

impl TestDisk {
    fn change<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let result = change(&mut self.inner.0.lock().unwrap());
        self.inner.1.notify_all();
        result
    }

    fn start(&self) -> Recorder {
        Recorder::start_on(self.clone(), Path::new("/disk"), "tour/london", &tracks()).unwrap()
    }

    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        self.change(|inner| inner.files.clone())
    }
}

impl Disk for TestDisk {
    fn create(&self, stem: &str) -> io::Result<(PathBuf, Arc<dyn Output>)> {
        self.change(|inner| {
            if inner.cannot_create {
                return Err(ErrorKind::NotFound.into());
            }
            let path = PathBuf::from(format!("/disk/{stem}.mp4"));
            inner.files.push((path.clone(), Vec::new()));
            Ok((path, Arc::new(TestFile { disk: self.clone(), number: inner.files.len() - 1 }) as _))
        })
    }

    fn create_index(&self, recording: &Path) -> io::Result<Arc<dyn Output>> {
        let number = self.change(|inner| {
            inner.indexes.push((sidecar_path(recording), Vec::new()));
            inner.indexes.len() - 1
        });
        Ok(Arc::new(TestIndex { disk: self.clone(), number }))
    }

    fn discard(&self, path: &Path) {
        self.change(|inner| inner.files.retain(|(found, _)| found != path));
    }

    fn space(&self) -> io::Result<Space> {
        self.change(|inner| inner.space.ok_or_else(|| ErrorKind::NotFound.into()))
    }
}

struct TestIndex {
    disk: TestDisk,
    number: usize,
}

impl Output for TestIndex {
    fn append(&self, data: &[u8]) -> io::Result<()> {
        self.disk.change(|inner| inner.indexes[self.number].1.extend_from_slice(data));
        Ok(())
    }

    fn replace(&self, _: u64, _: &[u8]) -> io::Result<()> {
        unreachable!("an index only grows")
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        unreachable!("an index only grows")
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_removed(&self) -> io::Result<bool> {
        Ok(false)
    }
}

struct TestFile {
    disk: TestDisk,
    number: usize,
}

impl Output for TestFile {
    fn append(&self, data: &[u8]) -> io::Result<()> {
        let (inner, changed) = &*self.disk.inner;
        let mut inner = changed.wait_while(inner.lock().unwrap(), |inner| inner.blocked).unwrap();
        let act = inner.acts.pop_front().unwrap_or(Act::Write);
        let file = &mut inner.files[self.number].1;
        if act == Act::Full {
            file.extend_from_slice(&data[..data.len() / 2]);
            return Err(ErrorKind::StorageFull.into());
        }
        file.extend_from_slice(data);
        Ok(())
    }

    fn replace(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.disk.change(|inner| {
            inner.files[self.number].1[at as usize..][..data.len()].copy_from_slice(data);
        });
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.disk.change(|inner| inner.files[self.number].1.truncate(len as usize));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_removed(&self) -> io::Result<bool> {
        Ok(self.disk.change(|inner| inner.removed))
    }
}

/// Waits until the status is as wanted.
fn until(recorder: &Recorder, mut wanted: impl FnMut(&RecordStatus) -> bool) -> RecordStatus {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let status = recorder.status();
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < patience, "{status:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn failed(status: &RecordStatus) -> bool {
    matches!(status.state, RecordState::Failed { .. })
}

/// The index of a file on the test disk.
fn index_of(disk: &TestDisk, number: usize) -> Index {
    Index::parse(&disk.change(|inner| inner.indexes[number].1.clone())).unwrap()
}

/// The numbers of the groups of the pictures.
fn groups(index: &Index) -> Vec<(u64, u32)> {
    let video = index.groups.iter().filter(|entry| entry.track == VIDEO);
    video.map(|entry| (entry.group, entry.frames)).collect()
}

#[test]
fn what_comes_before_the_first_keyframe_is_left_out() {
    let disk = TestDisk::default();
    let recorder = disk.start();
    let early = Frame { keyframe: false, ..picture(3) };
    for frame in [early, sound(-20), sound(0), sound(20), picture(0), sound(-1), sound(40), picture(1)] {
        recorder.write(&frame);
    }
    let status = recorder.finish();
    assert_eq!((status.state, status.frames, status.dropped), (RecordState::Recording, 2, 0));
    assert_eq!(status.seconds, 0.2);
    let files = disk.files();
    assert_eq!(files[0].0, Path::new("/disk/tour_london-20261118T110640Z.mp4"));
    assert_eq!(status.path, files[0].0);
    assert_eq!(status.bytes, files[0].1.len() as u64);
    let expected = [picture(0), sound(0), sound(20), sound(40), picture(1)];
    assert_eq!(read(&files[0].1), (expected.to_vec(), 0));
}

#[test]
fn a_show_without_pictures() {
    let disk = TestDisk::default();
    let recorder = Recorder::start_on(disk.clone(), Path::new("/disk"), "radio", &tracks()[1..]).unwrap();
    recorder.write(&sound(5));
    recorder.write(&sound(25));
    assert_eq!(recorder.finish().seconds, 0.04);
    assert_eq!(read(&disk.files()[0].1).0, [sound(5), sound(25)]);
}

#[test]
fn a_codec_that_does_not_fit_is_told_at_the_start() {
    let mut tracks = tracks();
    if let TrackConfig::Video(config) = &mut tracks[0].config {
        config.codec = "vp09.00.10.08".into();
    }
    let error = Recorder::start_on(TestDisk::default(), Path::new("/disk"), "x", &tracks).err().unwrap();
    assert!(error.to_string().contains("vp09"), "{error}");
}

#[test]
fn a_full_disk_fails_and_resumes_in_a_new_file() {
    let disk = TestDisk::default();
    // The init segment, three pictures, then half a picture; the next file fails at once, the one after works.
    disk.change(|inner| {
        inner.acts.extend([Act::Write, Act::Write, Act::Write, Act::Write, Act::Full, Act::Full])
    });
    let recorder = disk.start();
    for n in 0..20 {
        recorder.write(&picture(n));
    }
    let status = until(&recorder, |status| status.dropped == 17);
    assert!(matches!(&status.state, RecordState::Failed { reason } if reason.contains("free some space")));
    // The keyframe at 1 s came too soon after the attempt at 0 s. That at 2 s fails, 3 s is too soon again.
    for n in 20..45 {
        recorder.write(&picture(n));
    }
    let status = recorder.finish();
    assert_eq!(status.state, RecordState::Recording);
    assert_eq!((status.frames, status.dropped), (8, 37));
    let files = disk.files();
    assert_eq!(status.parts, [files[0].0.clone(), files[1].0.clone()]);
    assert_eq!(files.len(), 2, "the file without a single frame is removed");
    assert_eq!(read(&files[0].1), ((0..3).map(picture).collect(), 0));
    assert_eq!(read(&files[1].1), ((40..45).map(picture).collect(), 0));
    assert!((status.seconds - 0.8).abs() < 1e-9);
}

#[test]
fn a_removed_file_or_directory_is_noticed() {
    let disk = TestDisk::default();
    let recorder = disk.start();
    recorder.write(&picture(0));
    until(&recorder, |status| status.frames == 1);
    disk.change(|inner| (inner.removed, inner.cannot_create) = (true, true));
    // The sync thread looks every half second; the writer learns of it with the next frame.
    let status = until(&recorder, |status| {
        recorder.write(&picture(1));
        failed(status)
    });
    assert!(matches!(&status.state, RecordState::Failed { reason } if reason.contains("was removed")));
    recorder.write(&picture(20));
    until(
        &recorder,
        |status| matches!(&status.state, RecordState::Failed { reason } if reason.contains("create")),
    );
    disk.change(|inner| (inner.removed, inner.cannot_create) = (false, false));
    recorder.write(&picture(40));
    let status = recorder.finish();
    assert_eq!((status.state, status.parts.len()), (RecordState::Recording, 2));
    assert_eq!(read(&disk.files()[1].1).0, [picture(40)]);
}

#[test]
fn a_slow_disk_leaves_out_whole_groups() {
    let disk = TestDisk::default();
    disk.change(|inner| inner.blocked = true);
    let recorder = disk.start();
    let fat = |n| {
        let mut frame = picture(n);
        let mut data = frame.data.to_vec();
        data.resize(1 << 20, 1);
        frame.data = data.into();
        frame
    };
    for n in 0..32 {
        recorder.write(&fat(n));
    }
    let status = recorder.status();
    assert!(
        matches!(&status.state, RecordState::Degraded { reason } if reason.contains("too slow")),
        "{status:?}"
    );
    disk.change(|inner| inner.blocked = false);
    // 16 fit, one of which may be in the writer's hands. The rest of their group is left out.
    until(&recorder, |_| recorder.shared.movement().1 == 0);
    recorder.write(&fat(35));
    recorder.write(&fat(40));
    recorder.write(&fat(41));
    let status = recorder.finish();
    assert_eq!(status.state, RecordState::Recording);
    let (frames, damaged) = read(&disk.files()[0].1);
    assert_eq!((frames.len() as u64 + status.dropped, damaged), (35, 0));
    assert_eq!(status.frames, frames.len() as u64);
    let mut last: Option<FrameId> = None;
    for frame in &frames {
        let follows =
            last.is_some_and(|last| last.group == frame.id.group && last.frame + 1 == frame.id.frame);
        assert!(follows || frame.id.frame == 0, "{:?} does not decode after {last:?}", frame.id);
        last = Some(frame.id);
    }
    assert_eq!(last, Some(picture(41).id));
}

#[test]
fn a_blocked_disk_does_not_hang_the_stop() {
    let disk = TestDisk::default();
    let recorder = disk.start();
    recorder.write(&picture(0));
    until(&recorder, |status| status.frames == 1);
    disk.change(|inner| inner.blocked = true);
    recorder.write(&picture(1));
    let status = recorder.finish();
    assert!(matches!(&status.state, RecordState::Degraded { reason } if reason.contains("may be missing")));
    disk.change(|inner| inner.blocked = false);
}

#[test]
fn another_picture_size_begins_a_new_file() {
    let disk = TestDisk::default();
    let recorder = disk.start();
    let mut frames: Vec<_> = (0..12).map(picture).collect();
    let mut other = frames[10].data.to_vec();
    other[7] = 0x20; // another level
    frames[10].data = other.into();
    frames.iter().for_each(|frame| recorder.write(frame));
    let status = recorder.finish();
    assert_eq!((status.state, status.frames, status.dropped), (RecordState::Recording, 12, 0));
    let files = disk.files();
    assert_eq!(read(&files[0].1).0, frames[..10]);
    assert_eq!(read(&files[1].1).0, frames[10..]);
}

#[test]
fn two_copies_are_equal() {
    let base = tempfile::tempdir().unwrap();
    let dirs = ["a", "b"].map(|name| base.path().join(name));
    let recorders = dirs.clone().map(|dir| Recorder::start(&dir, "demo", &tracks()).unwrap());
    for n in 0..25 {
        for recorder in &recorders {
            recorder.write(&picture(n));
            recorder.write(&sound(i64::from(n) * 100 + 7));
        }
    }
    let [a, b] = recorders.map(|recorder| recorder.finish().path);
    assert!(a.starts_with(&dirs[0]) && b.starts_with(&dirs[1]));
    let (a, b) = (fs::read(a).unwrap(), fs::read(b).unwrap());
    assert_eq!(read(&a).0.len(), 50);
    assert!(a == b);
}

#[test]
fn a_directory_taken_away_and_put_back() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("disk");
    let recorder = Recorder::start(&dir, "demo", &tracks()).unwrap();
    recorder.write(&picture(0));
    until(&recorder, |status| status.frames == 1);
    fs::remove_dir_all(&dir).unwrap();
    until(&recorder, |status| {
        recorder.write(&picture(1));
        failed(status)
    });
    recorder.write(&picture(20));
    until(
        &recorder,
        |status| matches!(&status.state, RecordState::Failed { reason } if reason.contains("create")),
    );
    assert!(!dir.exists(), "it is not made again: under an empty mount point it would fill the wrong disk");
    fs::create_dir(&dir).unwrap();
    recorder.write(&picture(40));
    let status = recorder.finish();
    assert_eq!(status.state, RecordState::Recording);
    assert_eq!(read(&fs::read(status.path).unwrap()).0, [picture(40)]);
}
