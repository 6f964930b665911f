//! Frames in, bytes out.

use std::time::Duration;

use bytes::BufMut;

use super::boxes::{put_box, put_full_box};
use super::fragment::Placement;
use super::init::{Start, mp4_track};
use super::{CmafError, MAX_PAYLOAD};
use crate::h264::{NalType, ParameterSets, to_length_prefixed};
use crate::{Frame, Time, Track, TrackConfig, TrackId, opus};

/// Groups in the index. When it is full every second one is left out from then on, so that a show
/// of any length has an index of at most half a megabyte: 9 hours with an entry per second.
const MAX_INDEX: usize = 32_768;

/// Where a frame rate or a packet says nothing.
const FALLBACK_DURATION: Duration = Duration::from_millis(20);

/// Turns the frames of one recording into the bytes of its file, in the order in which they come.
///
/// Bytes go to the file as they are handed out: first what [`Writer::new`] returns, then one call of
/// [`Writer::fragment`] per frame, and at a proper end [`Writer::index`] and [`Writer::duration_patch`].
#[derive(Debug)]
pub struct Writer {
    start: Start,
    tracks: Vec<TrackState>,
    sequence: u32,
    /// Bytes handed out so far: where the next fragment will lie in the file.
    position: u64,
    duration_at: u64,
    /// The track whose groups are indexed: video where there is video.
    indexed: Option<TrackId>,
    index: Index,
    payload: Vec<u8>,
}

#[derive(Debug)]
struct TrackState {
    id: TrackId,
    /// `None`: each packet says how long it is.
    frame_duration: Option<Duration>,
    group: Option<u64>,
    /// Decode times must grow: at least one more than the last.
    next_decode_time: u64,
    /// End of the last frame.
    end: u64,
}

/// Bytes that take the place of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Where in the file.
    pub at: u64,
    /// As many bytes as are replaced; to be written at once.
    pub bytes: Vec<u8>,
}

impl Writer {
    /// Starts a file whose time zero is `zero`, the capture time of its first frame. Returns the init
    /// segment. Each video track needs the parameter sets of its first keyframe.
    pub fn new(
        broadcast: &str,
        tracks: &[Track],
        parameter_sets: Vec<(TrackId, ParameterSets)>,
        zero: Time,
    ) -> Result<(Self, Vec<u8>), CmafError> {
        let start = Start { broadcast: broadcast.into(), tracks: tracks.to_vec(), zero, parameter_sets };
        let (init, duration_at) = start.write()?;
        let state = |track: &Track| TrackState {
            id: track.id,
            frame_duration: match &track.config {
                TrackConfig::Video(config) => {
                    Some(Duration::from_secs(1).checked_div(config.framerate).unwrap_or(FALLBACK_DURATION))
                }
                TrackConfig::Audio(_) => None,
            },
            group: None,
            next_decode_time: 0,
            end: 0,
        };
        let writer = Self {
            tracks: tracks.iter().map(state).collect(),
            sequence: 0,
            position: init.len() as u64,
            duration_at: duration_at as u64,
            indexed: tracks.iter().find(|track| track.is_video()).or(tracks.first()).map(|track| track.id),
            index: Index::default(),
            payload: Vec::new(),
            start,
        };
        Ok((writer, init))
    }

    /// Capture time of the start of the file.
    pub fn zero(&self) -> Time {
        self.start.zero
    }

    /// How long the recording is so far.
    pub fn duration(&self) -> Duration {
        Duration::from_micros(self.tracks.iter().map(|track| track.end).max().unwrap_or(0))
    }

    /// Appends the bytes of one frame. After an error nothing was appended, and the next frame is welcome.
    pub fn fragment(&mut self, frame: &Frame, out: &mut Vec<u8>) -> Result<(), CmafError> {
        let track = frame.id.track;
        let state = self.tracks.iter_mut().find(|t| t.id == track).ok_or(CmafError::UnknownTrack(track))?;
        let since_zero = frame.capture_time.micros_since(self.start.zero);
        let decode_time = u64::try_from(since_zero).map_err(|_| CmafError::BeforeStart)?;
        let payload = if state.frame_duration.is_some() {
            let known = self.start.parameter_sets(track).ok_or(CmafError::NoParameterSets(track))?;
            let mut changed = false;
            let keep = |nal: &[u8]| {
                let is_set = matches!(NalType::of(nal), NalType::Sps | NalType::Pps);
                changed |= is_set && !known.contains(nal);
                !is_set
            };
            self.payload.clear();
            to_length_prefixed(&frame.data, keep, &mut self.payload);
            if changed {
                return Err(CmafError::ParametersChanged(track));
            }
            &self.payload[..]
        } else {
            &frame.data[..]
        };
        if payload.len() > MAX_PAYLOAD {
            return Err(CmafError::FrameTooLarge(payload.len()));
        }

        let placement = Placement {
            id: frame.id,
            capture_time: frame.capture_time,
            keyframe: frame.keyframe,
            sequence: self.sequence + 1,
            // A clock that stepped back must not make the file unplayable; the stamp keeps the true time.
            decode_time: decode_time.max(state.next_decode_time),
            duration: state
                .frame_duration
                .unwrap_or_else(|| opus::duration(&frame.data).unwrap_or(FALLBACK_DURATION)),
        };
        let before = out.len();
        let group_starts = state.group != Some(frame.id.group);
        if group_starts {
            placement.put_reference_time(out);
        }
        let moof_at = self.position + (out.len() - before) as u64;
        placement.put(payload, out);

        if group_starts && frame.keyframe && self.indexed == Some(track) {
            self.index.add(placement.decode_time, moof_at);
        }
        state.group = Some(frame.id.group);
        state.next_decode_time = placement.decode_time + 1;
        state.end = placement.decode_time + placement.duration.as_micros() as u64;
        self.sequence = placement.sequence;
        self.position += (out.len() - before) as u64;
        Ok(())
    }

    /// The duration so far (`mehd`), for the init segment, which is written before anybody knows it.
    /// A file without it plays just as well, but players show its length wrong or not at all. It may be
    /// put in as often as one likes.
    pub fn duration_patch(&self) -> Patch {
        let mut bytes = Vec::new();
        put_full_box(&mut bytes, b"mehd", 1, 0, |out| out.put_u64(self.duration().as_micros() as u64));
        Patch { at: self.duration_at, bytes }
    }

    /// The index by group (`mfra`), to be appended at a proper end. A file without it plays just as
    /// well; players then find its groups by reading through it.
    pub fn index(&self) -> Vec<u8> {
        let mut index = Vec::new();
        if let Some(track) = self.indexed {
            put_box(&mut index, b"mfra", |out| {
                self.index.put(track, out);
                // The size of mfra, so that it is found from the end of the file.
                let size = out.len() + 16;
                put_full_box(out, b"mfro", 0, 0, |out| out.put_u32(size as u32));
            });
        }
        index
    }
}

/// Groups by time.
#[derive(Debug)]
struct Index {
    /// Decode time, and where the `moof` lies.
    entries: Vec<(u64, u64)>,
    /// One of so many groups is kept.
    stride: u64,
    groups: u64,
}

impl Default for Index {
    fn default() -> Self {
        Self { entries: Vec::new(), stride: 1, groups: 0 }
    }
}

impl Index {
    fn add(&mut self, decode_time: u64, moof_at: u64) {
        if self.groups.is_multiple_of(self.stride) {
            if self.entries.len() == MAX_INDEX {
                let mut even = false;
                self.entries.retain(|_| {
                    even = !even;
                    even
                });
                self.stride *= 2;
            }
            self.entries.push((decode_time, moof_at));
        }
        self.groups += 1;
    }

    fn put(&self, track: TrackId, out: &mut Vec<u8>) {
        put_full_box(out, b"tfra", 1, 0, |out| {
            out.put_u32(mp4_track(track));
            out.put_u32(0); // traf, trun and sample numbers take one byte each
            out.put_u32(self.entries.len() as u32);
            for &(decode_time, moof_at) in &self.entries {
                out.put_u64(decode_time);
                out.put_u64(moof_at);
                out.put_slice(&[1, 1, 1]);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::samples::{AUDIO, SETS, VIDEO, ZERO, picture, show, sound, tracks};
    use super::*;

    fn writer() -> (Writer, Vec<u8>) {
        let sets = vec![(VIDEO, ParameterSets::of(SETS).unwrap())];
        Writer::new("tour/london", &tracks(), sets, ZERO).unwrap()
    }

    #[test]
    fn decode_times_are_capture_times() {
        let (mut writer, init) = writer();
        // Picture 1 was dropped by the encoder: its time stays empty, and what follows is in place.
        for frame in [picture(0), sound(0), picture(2)] {
            writer.fragment(&frame, &mut Vec::new()).unwrap();
        }
        assert_eq!(writer.duration(), Duration::from_micros(2 * 33_333 + 33_333));
        let patch = writer.duration_patch();
        assert_eq!(&init[patch.at as usize..][..8], [0, 0, 0, 20, b'f', b'r', b'e', b'e']);
        assert_eq!((patch.bytes.len(), &patch.bytes[12..]), (20, &99_999u64.to_be_bytes()[..]));
    }

    #[test]
    fn a_clock_that_steps_back_keeps_the_file_playable() {
        let (mut writer, _) = writer();
        let mut frame = sound(3);
        writer.fragment(&frame, &mut Vec::new()).unwrap();
        frame.capture_time = ZERO;
        writer.fragment(&frame, &mut Vec::new()).unwrap();
        assert_eq!(writer.tracks[1].next_decode_time, 64_002);
    }

    #[test]
    fn what_cannot_be_written_says_why() {
        let (mut writer, init) = writer();
        let mut out = Vec::new();
        let mut frame = picture(0);
        frame.capture_time = ZERO - Duration::from_micros(1);
        assert_eq!(writer.fragment(&frame, &mut out), Err(CmafError::BeforeStart));
        frame.id.track = TrackId(9);
        assert_eq!(writer.fragment(&frame, &mut out), Err(CmafError::UnknownTrack(TrackId(9))));
        let mut changed = picture(0).data.to_vec();
        let level = changed.iter().position(|&byte| byte == 0x1f).unwrap();
        changed[level] = 0x20;
        let changed = Frame { data: changed.into(), ..picture(0) };
        assert_eq!(writer.fragment(&changed, &mut out), Err(CmafError::ParametersChanged(VIDEO)));
        let large = Frame { data: Bytes::from(vec![0; MAX_PAYLOAD + 1]), ..sound(0) };
        assert_eq!(writer.fragment(&large, &mut out), Err(CmafError::FrameTooLarge(MAX_PAYLOAD + 1)));
        assert!(out.is_empty());
        assert_eq!(writer.position, init.len() as u64);

        let none = Writer::new("x", &tracks(), Vec::new(), ZERO).unwrap_err();
        assert_eq!(none, CmafError::NoParameterSets(VIDEO));
        let mut flac = tracks().split_off(1);
        if let TrackConfig::Audio(config) = &mut flac[0].config {
            config.codec = "flac".into();
        }
        let none = Writer::new("x", &flac, Vec::new(), ZERO).unwrap_err();
        assert_eq!(none, CmafError::UnsupportedCodec("flac".into()));
    }

    /// 2.5 Mb/s at 30 frames a second and 50 packets a second of 96 kb/s.
    #[test]
    fn the_container_costs_less_than_five_percent() {
        let (mut writer, _) = writer();
        let (mut media, mut file) = (0, Vec::new());
        for mut frame in show(300, 500) {
            let size = if frame.id.track == AUDIO { 240 } else { 10_416 };
            let mut data = frame.data.to_vec();
            data.resize(size, 1);
            media += size;
            frame.data = data.into();
            writer.fragment(&frame, &mut file).unwrap();
        }
        let percent = (file.len() - media) as f64 * 100.0 / media as f64;
        println!("container overhead: {percent:.2} %");
        assert!(percent < 5.0, "{percent}");
    }

    #[test]
    fn the_index_stays_bounded() {
        let mut index = Index::default();
        for group in 0..MAX_INDEX as u64 * 5 {
            index.add(group, group);
        }
        assert!(index.entries.len() <= MAX_INDEX && index.entries.len() > MAX_INDEX / 2);
        assert!(index.entries.iter().all(|(group, _)| group % index.stride == 0));
        assert!(index.entries.is_sorted());
    }

    #[test]
    fn the_index_points_at_the_keyframes() {
        let (mut writer, mut file) = writer();
        for frame in show(11, 3) {
            writer.fragment(&frame, &mut file).unwrap();
        }
        assert_eq!(writer.index.entries.len(), 3);
        for &(_, moof_at) in &writer.index.entries {
            assert_eq!(&file[moof_at as usize + 4..][..4], b"moof");
        }
        let index = writer.index();
        assert_eq!(index[index.len() - 4..], (index.len() as u32).to_be_bytes());
    }
}
