//! Files on a real disk.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use media::cmaf::{GroupDigest, Index, Item, Reader};
use media::{AudioConfig, FrameId, Time, TrackConfig, TrackId, VideoConfig};

use super::fill::Fill;
use super::live::Live;
use super::part::PartError;
use super::*;
use crate::backfill::{Entry, GroupId};

/// Parameter sets of 1280x720, as x264 makes them, with start codes.
const SETS: &[u8] = b"\0\0\0\x01\x67\x42\xc0\x1f\xd9\0\x50\x05\xbb\x01\x10\0\0\x03\0\x10\0\0\x03\x03\xc0\xf1\x83\x24\x80\0\0\0\x01\x68\xcb\x83\xcb\x20";

const START: Time = Time::from_micros(1_795_000_000_123_456);
const VIDEO: TrackId = TrackId(0);
const AUDIO: TrackId = TrackId(1);

/// A folder of its own for a test, removed at its end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("roadie-keep-test-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn tracks() -> Vec<Track> {
    let video = VideoConfig {
        codec: "avc3.42c01f".into(),
        width: 1280,
        height: 720,
        framerate: 30,
        bitrate: 2_500_000,
    };
    let audio = AudioConfig { codec: "opus".into(), sample_rate: 48_000, channels: 2, bitrate: 96_000 };
    vec![
        Track { id: VIDEO, name: "video/720p".into(), config: TrackConfig::Video(video) },
        Track { id: AUDIO, name: "audio".into(), config: TrackConfig::Audio(audio) },
    ]
}

/// Picture number `n`, in groups of five.
fn picture(n: u32) -> Frame {
    let id = FrameId { track: VIDEO, group: 100 + u64::from(n / 5), frame: n % 5 };
    let mut data = if id.frame == 0 { SETS.to_vec() } else { Vec::new() };
    data.extend([0, 0, 0, 1, if id.frame == 0 { 0x65 } else { 0x41 }, 9, n as u8 | 1]);
    let capture_time = START + Duration::from_micros(33_333) * n;
    Frame { id, capture_time, keyframe: id.frame == 0, data: data.into() }
}

fn sound(n: u32) -> Frame {
    let id = FrameId { track: AUDIO, group: 200 + u64::from(n / 5), frame: n % 5 };
    let capture_time = START + Duration::from_millis(20) * n;
    Frame { id, capture_time, keyframe: true, data: vec![0xfc, n as u8, 7].into() }
}

/// Five frames from number `5 * n` on, and what they are.
fn group(of: fn(u32) -> Frame, n: u32) -> (Entry, Vec<Frame>) {
    let frames: Vec<Frame> = (5 * n..5 * n + 5).map(of).collect();
    let FrameId { track, group, .. } = frames[0].id;
    let mut digest = GroupDigest::new();
    frames.iter().for_each(|frame| digest.frame(&tracks()[usize::from(track.0)].config, frame));
    let id = GroupId { track, group };
    let entry = Entry { id, frames: 5, first_capture: frames[0].capture_time, digest: digest.finish() };
    (entry, frames)
}

/// The frames of a file with their decode times, which must rise in each track.
fn read(path: &Path) -> Vec<FrameId> {
    let (mut reader, mut found) = (Reader::new(), Vec::new());
    let mut last = [None; 2];
    reader.push(&fs::read(path).unwrap());
    reader.end();
    while let Some(item) = reader.poll() {
        if let Item::Fragment(fragment) = item {
            assert!(fragment.intact);
            let last = &mut last[usize::from(fragment.id.track.0)];
            assert!(last.is_none_or(|last| last < fragment.decode_time), "{:?}", fragment.id);
            *last = Some(fragment.decode_time);
            found.push(fragment.id);
        }
    }
    assert_eq!(reader.damaged_bytes(), 0);
    found
}

#[test]
fn pictures_behind_a_hole_are_left_out_and_whole_groups_are_told() {
    let dir = Dir::new("holes");
    let mut live = Live::new("tour/london", &tracks());
    let mut ended = Vec::new();
    // Sound first, which has no file yet; then picture 7 is missing.
    let frames = [sound(0)].into_iter().chain((0..20).filter(|n| *n != 7).map(picture));
    for frame in frames.chain((1..12).map(sound)) {
        ended.extend(live.frame(&dir.0, &frame).unwrap());
    }
    let names: Vec<_> = ended.iter().map(|entry| (entry.track, entry.group)).collect();
    assert_eq!(names, [(VIDEO, 100), (VIDEO, 102), (AUDIO, 201)]);
    assert_eq!(ended[0].digest, group(picture, 0).0.digest);
    // The last one of sound is cut off, which only the venue knows.
    assert_eq!(live.flush().iter().map(|entry| entry.group).collect::<Vec<_>>(), [103, 202]);
    for entry in ended {
        live.part().unwrap().prove(entry);
    }
    assert_eq!(live.part().unwrap().sync().unwrap().len(), 3);
    live.take_part().unwrap().finish().unwrap();
    assert_eq!(dir.names(), ["tour_london-20261118T110640Z.index", "tour_london-20261118T110640Z.mp4"]);
    let frames = read(&dir.0.join(&dir.names()[1]));
    assert!(!frames.contains(&picture(8).id) && frames.contains(&picture(10).id));
    let kept = disk::kept(&dir.0, "tour/london");
    assert_eq!(kept.keys().map(|id| id.group).collect::<Vec<_>>(), [100, 102, 201]);
}

#[test]
fn another_shape_of_the_picture_begins_another_file() {
    let dir = Dir::new("shape");
    let mut live = Live::new("x", &tracks()[..1]);
    for n in 0..10 {
        let mut frame = picture(n);
        if n == 5 {
            let mut data = frame.data.to_vec();
            let level = data.iter().position(|&byte| byte == 0x1f).unwrap();
            data[level] = 0x20;
            frame.data = data.into();
        }
        live.frame(&dir.0, &frame).unwrap();
        if let Some(part) = live.take_retired() {
            assert_eq!(n, 5);
            part.finish().unwrap();
        }
    }
    drop(live.take_part());
    let files: Vec<_> = dir.names().into_iter().filter(|name| name.ends_with(".mp4")).collect();
    assert_eq!(files.iter().map(|file| read(&dir.0.join(file)).len()).sum::<usize>(), 10, "{files:?}");
    assert_eq!(files.len(), 2);
}

#[test]
fn healed_groups_lie_in_the_order_of_their_capture() {
    let dir = Dir::new("fill");
    let mut fill = Fill::new("x", &tracks());
    let mut files = 0;
    let mut put = |of: fn(u32) -> Frame, n, takes: bool| {
        let (entry, frames) = group(of, n);
        assert_eq!(fill.takes(&entry), takes, "{:?}", entry.id);
        if !takes && let Some(part) = fill.take_part() {
            assert_eq!(part.finish().unwrap().len(), 1 + usize::from(files == 1));
            files += 1;
        }
        fill.group(&dir.0, &entry, &frames, || Some(START)).unwrap();
    };
    // Sound alone, for no picture is known; both; and then one that comes after all.
    put(sound, 1, false);
    put(picture, 3, false);
    put(sound, 7, true);
    put(picture, 1, false);
    fill.take_part().unwrap().finish().unwrap();
    let names = dir.names();
    let files: Vec<_> = names.iter().filter(|name| name.ends_with(".mp4")).collect();
    assert_eq!(
        files.iter().map(|file| read(&dir.0.join(file)).len()).collect::<Vec<_>>().len(),
        3,
        "{names:?}"
    );
    let kept = disk::kept(&dir.0, "x");
    for (of, n) in [(sound as fn(u32) -> Frame, 1), (picture, 3), (sound, 7), (picture, 1)] {
        let entry = group(of, n).0;
        assert_eq!(kept.get(&entry.id), Some(&entry.digest));
    }
    // A picture without parameter sets has no place anywhere.
    let (entry, mut frames) = group(picture, 9);
    frames[0].data = frames[1].data.clone();
    let mut fill = Fill::new("x", &tracks());
    assert!(matches!(fill.group(&dir.0, &entry, &frames, || None), Err(PartError::Frame(_))));
}

#[test]
fn an_index_is_believed_as_far_as_its_file_reaches() {
    let dir = Dir::new("index");
    let mut fill = Fill::new("x", &tracks());
    for n in 1..4 {
        let (entry, frames) = group(sound, n);
        fill.group(&dir.0, &entry, &frames, || None).unwrap();
    }
    fill.take_part().unwrap().finish().unwrap();
    let [index, file] = [0, 1].map(|n| dir.0.join(&dir.names()[n]));
    let groups = || disk::kept(&dir.0, "x").keys().map(|id| id.group).collect::<Vec<_>>();
    assert_eq!(groups(), [201, 202, 203]);
    assert!(disk::kept(&dir.0, "y").is_empty(), "another broadcast's");
    // A file that a power cut made shorter.
    let text = fs::read(&index).unwrap();
    let end = Index::parse(&text).unwrap().groups[1].range.end;
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(end).unwrap();
    assert_eq!(groups(), [201, 202]);
    // Lines that a disk changed, or tore.
    let mut bad = text.clone();
    let line = bad.iter().rposition(|&byte| byte == b'-').unwrap();
    bad[line - 1] ^= 1;
    fs::write(&index, &bad[..bad.len() - 3]).unwrap();
    assert_eq!(groups(), [201, 202]);
    for junk in [&b""[..], b"roadie-index 9 1 \"x\" 0", &[0xff; 5000], b"\n\n\n"] {
        fs::write(dir.0.join("junk.index"), junk).unwrap();
        assert_eq!(groups(), [201, 202]);
    }
    fs::remove_file(file).unwrap();
    assert_eq!(groups(), [0u64; 0]);
}

#[test]
fn a_directory_is_tried_out_before_the_first_show() {
    let dir = Dir::new("dirs");
    let clock = Clock::start();
    Keep::open(&dir.0.join("a/b"), clock).unwrap();
    assert_eq!(dir.names(), ["a"]);
    fs::write(dir.0.join("file"), "x").unwrap();
    for bad in [dir.0.join("file"), dir.0.join("file/below"), "/proc/roadie".into(), "/proc".into()] {
        let error = Keep::open(&bad, clock).map(drop).unwrap_err().to_string();
        assert!(error.contains(bad.to_str().unwrap()), "{error}");
    }
    let vp9 = TrackConfig::Video(VideoConfig {
        codec: "vp09.00.10.08".into(),
        width: 1,
        height: 1,
        framerate: 1,
        bitrate: 1,
    });
    let track = Track { id: VIDEO, name: "video".into(), config: vp9 };
    let keep = Keep::open(&dir.0, clock).unwrap();
    assert!(matches!(keep.begin("x", vec![track], None, true), Err(KeepError::Codec(_))));
}

/// VP8 has no parameter sets to wait for.
#[test]
fn vp8_is_kept_live_and_by_backfill() {
    let dir = Dir::new("vp8");
    let mut tracks = tracks();
    let TrackConfig::Video(config) = &mut tracks[0].config else { panic!("pictures come first") };
    config.codec = "vp8".into();
    let picture = |n: u32| {
        let data = if n.is_multiple_of(5) {
            vec![0x50, 0, 0, 0x9d, 1, 0x2a, 0, 5, 0xd0, 2]
        } else {
            vec![0x51, n as u8]
        };
        Frame { data: data.into(), ..picture(n) }
    };
    let mut live = Live::new("x", &tracks);
    let ended: Vec<_> =
        (3..15).filter_map(|n| live.frame(&dir.0, &picture(n)).unwrap()).map(|entry| entry.group).collect();
    assert_eq!(ended, [101], "the first group came without its beginning, the last goes on");
    live.take_part().unwrap().finish().unwrap();

    let frames: Vec<Frame> = (0..5).map(picture).collect();
    let mut digest = GroupDigest::new();
    frames.iter().for_each(|frame| digest.frame(&tracks[0].config, frame));
    let id = GroupId { track: VIDEO, group: 100 };
    let entry = Entry { id, frames: 5, first_capture: START, digest: digest.finish() };
    let mut fill = Fill::new("x", &tracks);
    fill.group(&dir.0, &entry, &frames, || None).unwrap();
    fill.take_part().unwrap().finish().unwrap();
    let media: Vec<_> = dir.names().into_iter().filter(|name| name.ends_with(".mp4")).collect();
    let found: Vec<usize> = media.iter().map(|name| read(&dir.0.join(name)).len()).collect();
    assert_eq!(found.iter().sum::<usize>(), 10 + 5, "{media:?}");
}
