//! What is sent: video frames and audio packets of a steady or GOP-shaped stream.

use std::time::Duration;

use bond::{Class, MAX_DATAGRAM, MAX_FRAME_BYTES};
use bytes::Bytes;
use media::{Frame, FrameId, Time, TrackId};
use sim::{Demand, Rng};

/// The video's track.
pub const VIDEO: TrackId = TrackId(0);
/// The audio's track.
pub const AUDIO: TrackId = TrackId(1);

/// What QUIC (38), UDP and IP (28) add to a datagram (FACTS).
pub const OVERHEAD: usize = 66;

/// What the bond puts before a shard's payload, as a rule; only figures depend on it, nothing else.
const SHARD_HEADER: usize = 36;

/// A shard's payload, as a rule.
const SHARD_PAYLOAD: usize = 1082;

/// An audio packet's length in time.
const AUDIO_PACKET: Duration = Duration::from_millis(20);

/// Audio packets to a group: half a second.
const AUDIO_GROUP: u64 = 25;

/// The shape of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Media {
    /// Bits per second of video, without headers.
    pub video: u64,
    /// Video frames per second.
    pub fps: u32,
    /// Bits per second of audio, in packets of 20 ms; 0: none.
    pub audio: u64,
    /// A keyframe weighs this many times the mean frame; 1 for constant-size frames.
    pub keyframe_ratio: f64,
    /// Video frames to a group.
    pub group: u32,
    /// Each frame weighs up to this part more or less, evenly spread.
    pub noise: f64,
    /// From capture until the encoder hands over: part of the latency.
    pub encoding: Duration,
    /// How long frames come.
    pub length: Duration,
}

impl Default for Media {
    /// 6 Mb/s at 30 frames of constant size (and 20 % noise) a second, 96 kb/s of audio, 12 s; nothing for
    /// the encoder, so that the latency is the bond's.
    fn default() -> Self {
        Self {
            video: 6_000_000,
            fps: 30,
            audio: 96_000,
            keyframe_ratio: 1.0,
            group: 60,
            noise: 0.2,
            encoding: Duration::ZERO,
            length: Duration::from_secs(12),
        }
    }
}

/// One frame to come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coming {
    /// Its name.
    pub id: FrameId,
    /// How it is sent.
    pub class: Class,
    /// After the start of the show.
    pub captured: Duration,
    /// What it weighs, in frames of mean size.
    factor: f64,
}

impl Coming {
    /// Whether it is video.
    pub fn is_video(&self) -> bool {
        self.id.track == VIDEO
    }

    /// Its bytes when the video has this rate in bits per second.
    pub fn bytes(&self, media: &Media, video: u64) -> usize {
        let mean = match self.is_video() {
            true => video as f64 / 8.0 / f64::from(media.fps.max(1)),
            false => media.audio as f64 / 8.0 * AUDIO_PACKET.as_secs_f64(),
        };
        ((mean * self.factor) as usize).min(MAX_FRAME_BYTES)
    }

    /// The frame itself, of zeros: nobody looks at them, and they cost no copy.
    pub fn frame(&self, start: Time, bytes: usize) -> Frame {
        static ZEROS: [u8; MAX_FRAME_BYTES] = [0; MAX_FRAME_BYTES];
        self.with(start, Bytes::from_static(&ZEROS[..bytes]))
    }

    /// The frame itself, of zeros, captured when it was and not when it should have been.
    pub fn frame_captured(&self, at: Time, bytes: usize) -> Frame {
        Frame { capture_time: at, ..self.frame(Time::ZERO, bytes) }
    }

    /// The frame itself, of bytes that only it has, to be compared at the other end.
    pub fn frame_with_content(&self, start: Time, bytes: usize) -> Frame {
        let id = self.id;
        let mut content = Rng::new(id.group << 32 | u64::from(id.frame) << 8 | u64::from(id.track.0));
        let mut data: Vec<u8> =
            (0..bytes.div_ceil(8)).flat_map(|_| content.next_u64().to_le_bytes()).collect();
        data.truncate(bytes);
        self.with(start, data.into())
    }

    fn with(&self, start: Time, data: Bytes) -> Frame {
        let keyframe = self.class != Class::Delta;
        Frame { id: self.id, capture_time: start + self.captured, keyframe, data }
    }
}

/// The stream, frame by frame in order of capture. The same seed gives the same stream.
#[derive(Clone, Debug)]
pub struct Source {
    media: Media,
    rng: Rng,
    video: u64,
    audio: u64,
    next: Option<Coming>,
}

impl Source {
    /// At the first frame.
    pub fn new(media: Media, seed: u64) -> Self {
        let mut source = Self { media, rng: Rng::new(seed), video: 0, audio: 0, next: None };
        source.advance();
        source
    }

    /// The next frame; captured at `captured`, encoded [`Media::encoding`] later.
    pub fn next(&self) -> Option<Coming> {
        self.next
    }

    /// Takes it and makes another one.
    pub fn advance(&mut self) {
        let Media { fps, group, keyframe_ratio, noise, length, .. } = self.media;
        let (fps, group) = (u64::from(fps.max(1)), u64::from(group.max(1)));
        let video = Duration::from_micros(self.video * 1_000_000 / fps);
        let audio = AUDIO_PACKET * self.audio as u32;
        let is_video = self.media.audio == 0 || video <= audio;
        let captured = if is_video { video } else { audio };
        let count = if is_video { self.video } else { self.audio };
        let in_group = if is_video { group } else { AUDIO_GROUP };
        let (group, frame) = (count / in_group, (count % in_group) as u32);
        let class = match (is_video, frame) {
            (false, _) => Class::Audio,
            (true, 0) => Class::Keyframe,
            (true, _) => Class::Delta,
        };
        // What the keyframe weighs more, the others of its group weigh less.
        let others = (in_group as f64 - keyframe_ratio) / (in_group as f64 - 1.0).max(1.0);
        let weight = match class {
            Class::Keyframe => keyframe_ratio,
            Class::Delta => others.max(0.0),
            _ => 1.0,
        };
        let factor = weight * (1.0 - noise + 2.0 * noise * self.rng.unit());
        let track = if is_video { VIDEO } else { AUDIO };
        let id = FrameId { track, group, frame };
        self.next = (captured < length).then_some(Coming { id, class, captured, factor });
        if is_video { self.video += 1 } else { self.audio += 1 }
    }
}

/// The place of a frame in its track.
pub fn place(media: &Media, id: FrameId) -> u64 {
    let group = if id.track == VIDEO { u64::from(media.group.max(1)) } else { AUDIO_GROUP };
    id.group * group + u64::from(id.frame)
}

/// What a frame weighs on the links when each of its bytes is carried once, with headers.
pub fn wire_bytes(bytes: usize) -> u64 {
    (bytes + bytes.div_ceil(SHARD_PAYLOAD).max(1) * (OVERHEAD + SHARD_HEADER)) as u64
}

/// Bits per second of video with which this stream takes so many bits per second on the links.
pub fn video_rate_for(media: &Media, wire: f64) -> u64 {
    let packets = 1.0 / AUDIO_PACKET.as_secs_f64();
    let audio = if media.audio == 0 {
        0.0
    } else {
        8.0 * packets * wire_bytes((media.audio as f64 / 8.0 / packets) as usize) as f64
    };
    let frame = (wire - audio).max(0.0) / 8.0 / f64::from(media.fps.max(1));
    // A frame's last shard is half empty in the mean, but shards of a frame are of equal length.
    let shards = (frame / (SHARD_PAYLOAD + OVERHEAD + SHARD_HEADER) as f64 + 0.5).max(1.0);
    let bytes = (frame - shards * (OVERHEAD + SHARD_HEADER) as f64).max(0.0);
    (bytes * 8.0 * f64::from(media.fps.max(1))) as u64
}

/// The stream as an oracle sees it: every byte once, with the headers that no scheduler can do without.
pub fn demands(media: &Media, seed: u64, start: Time, deadline: Duration, video: u64) -> Vec<Demand> {
    let mut source = Source::new(*media, seed);
    let mut demands = Vec::new();
    while let Some(coming) = source.next() {
        let captured = start + coming.captured;
        let bytes = coming.bytes(media, video);
        demands.push(Demand {
            release: captured + media.encoding,
            deadline: captured + deadline,
            bytes: (bytes + bytes.div_ceil(MAX_DATAGRAM).max(1) * OVERHEAD) as u64,
        });
        source.advance();
    }
    demands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(media: Media) -> Vec<Coming> {
        let mut source = Source::new(media, 7);
        let mut all = Vec::new();
        while let Some(coming) = source.next() {
            all.push(coming);
            source.advance();
        }
        all
    }

    #[test]
    fn the_rate_is_as_asked_whatever_the_shape() {
        for (keyframe_ratio, group) in [(1.0, 60), (2.5, 60), (4.0, 30)] {
            let length = Duration::from_secs(60);
            let media = Media { keyframe_ratio, group, length, ..Media::default() };
            let frames = all(media);
            assert!(frames.is_sorted_by_key(|frame| frame.captured));
            let video: Vec<usize> =
                frames.iter().filter(|f| f.is_video()).map(|f| f.bytes(&media, media.video)).collect();
            assert_eq!((video.len(), frames.len()), (1800, 1800 + 3000));
            let rate = video.iter().sum::<usize>() as f64 * 8.0 / 60.0;
            assert!((rate / 6e6 - 1.0).abs() < 0.02, "{rate}");
            let keys: Vec<usize> = video.iter().step_by(group as usize).copied().collect();
            let mean = keys.iter().sum::<usize>() as f64 / keys.len() as f64;
            assert!((mean / 25_000.0 / keyframe_ratio - 1.0).abs() < 0.05, "{mean}");
        }
    }

    #[test]
    fn places_count_up_in_each_track() {
        let media = Media::default();
        let mut next = [0, 0];
        for frame in all(media) {
            let track = usize::from(frame.id.track.0);
            assert_eq!(place(&media, frame.id), next[track]);
            next[track] += 1;
        }
        assert_eq!(next, [360, 600]);
    }

    #[test]
    fn a_part_of_the_links_is_that_part() {
        let mut media = Media { length: Duration::from_secs(100), ..Media::default() };
        media.video = video_rate_for(&media, 10_800_000.0);
        let wire: u64 = all(media).iter().map(|frame| wire_bytes(frame.bytes(&media, media.video))).sum();
        let rate = wire as f64 * 8.0 / 100.0;
        assert!((rate / 10_800_000.0 - 1.0).abs() < 0.003, "{rate}");
    }
}
