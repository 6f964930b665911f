//! Real H.264 and Opus as frames (see `fixtures/README.md`).

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use media::cmaf::{Item, Reader};
use media::{AudioConfig, Frame, FrameId, Time, Track, TrackConfig, TrackId, VideoConfig, h264};

pub const VIDEO: TrackId = TrackId(0);
pub const AUDIO: TrackId = TrackId(1);
pub const ZERO: Time = Time::from_micros(1_795_000_000_000_000);
pub const WIDTH: u32 = 320;
pub const HEIGHT: u32 = 180;

/// One round of the fixtures: 3 s. The show repeats it.
const PICTURES: u32 = 90;
const PACKETS: u32 = 150;
const PICTURES_PER_GROUP: u32 = 30;
const PACKETS_PER_GROUP: u32 = 25;

pub fn tracks() -> Vec<Track> {
    let video = VideoConfig {
        codec: "avc3.42c00d".into(),
        width: WIDTH,
        height: HEIGHT,
        framerate: 30,
        bitrate: 100_000,
    };
    let audio = AudioConfig { codec: "opus".into(), sample_rate: 48_000, channels: 2, bitrate: 48_000 };
    vec![
        Track { id: VIDEO, name: "video/180p".into(), config: TrackConfig::Video(video) },
        Track { id: AUDIO, name: "audio".into(), config: TrackConfig::Audio(audio) },
    ]
}

/// A show of so many rounds of 3 s, by capture time. The first sound is 5 ms after the first picture.
pub fn show(rounds: u32) -> Vec<Frame> {
    let (pictures, packets) = (pictures(), packets());
    assert_eq!((pictures.len(), packets.len()), (PICTURES as usize, PACKETS as usize));
    let mut frames = Vec::new();
    for n in 0..rounds * PICTURES {
        let data = pictures[(n % PICTURES) as usize].clone();
        let id =
            FrameId { track: VIDEO, group: u64::from(n / PICTURES_PER_GROUP), frame: n % PICTURES_PER_GROUP };
        let capture_time = ZERO + Duration::from_micros(u64::from(n) * 1_000_000 / 30);
        frames.push(Frame { id, capture_time, keyframe: h264::is_idr(&data), data });
    }
    for n in 0..rounds * PACKETS {
        let id =
            FrameId { track: AUDIO, group: u64::from(n / PACKETS_PER_GROUP), frame: n % PACKETS_PER_GROUP };
        let capture_time = ZERO + Duration::from_millis(5 + 20 * u64::from(n));
        frames.push(Frame {
            id,
            capture_time,
            keyframe: true,
            data: packets[(n % PACKETS) as usize].clone(),
        });
    }
    frames.sort_by_key(|frame| frame.capture_time);
    frames
}

fn load(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The access units: each begins with a delimiter.
fn pictures() -> Vec<Bytes> {
    let data = Bytes::from(load("bars-320x180.h264"));
    let starts: Vec<_> =
        data.windows(5).enumerate().filter(|(_, code)| *code == [0, 0, 0, 1, 9]).map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([data.len()]);
    starts.iter().zip(ends).map(|(&start, end)| data.slice(start..end)).collect()
}

/// The packets of an Ogg stream (RFC 3533), without the two headers and the padding one at the end.
fn packets() -> Vec<Bytes> {
    let data = load("ticks.opus");
    let (mut packets, mut packet, mut rest) = (Vec::new(), Vec::new(), &data[..]);
    while let Some(header) = rest.get(..27) {
        assert_eq!(&header[..4], b"OggS");
        let segments = usize::from(header[26]);
        let (table, mut body) = rest[27..].split_at(segments);
        for &length in table {
            let (segment, tail) = body.split_at(usize::from(length));
            packet.extend_from_slice(segment);
            body = tail;
            if length < 255 {
                packets.push(Bytes::from(std::mem::take(&mut packet)));
            }
        }
        rest = body;
    }
    packets.drain(2..).take(PACKETS as usize).collect()
}

/// The frames of a recording, all intact, and how many bytes at its end or within are no frames.
pub fn read(file: &[u8]) -> (Vec<Frame>, u64) {
    let (mut reader, mut start, mut frames) = (Reader::new(), None, Vec::new());
    reader.push(file);
    reader.end();
    while let Some(item) = reader.poll() {
        match item {
            Item::Start(found) => start = Some(found),
            Item::Fragment(found) => {
                assert!(found.intact, "{:?}", found.id);
                frames.push(start.as_ref().and_then(|start| start.restore(&found)).expect("a whole frame"));
            }
        }
    }
    (frames, reader.damaged_bytes())
}

/// The same frame, whatever the length of its start codes.
pub fn assert_same(left: &Frame, right: &Frame) {
    let fields = |frame: &Frame| (frame.id, frame.capture_time, frame.keyframe);
    assert_eq!(fields(left), fields(right));
    if left.id.track == AUDIO {
        assert_eq!(left.data, right.data);
    } else {
        assert!(h264::nals(&left.data).eq(h264::nals(&right.data)), "{:?}", left.id);
    }
}

/// The video frames among these.
pub fn video(frames: &[Frame]) -> impl Iterator<Item = &Frame> {
    frames.iter().filter(|frame| frame.id.track == VIDEO)
}
