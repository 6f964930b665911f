//! Frames in, bytes out.

use std::ops::Range;
use std::time::Duration;

use bytes::BufMut;

use super::boxes::put_full_box;
use super::fragment::Placement;
use super::init::{Places, Start};
use super::plain::media_size;
use super::table::{MAX_SAMPLES, Table};
use super::{CmafError, Fragment, MAX_PAYLOAD};
use crate::h264::ParameterSets;
use crate::{Frame, Time, Track, TrackConfig, TrackId, opus};

/// Of a frame where neither the track's frame rate nor the packet says it.
pub(super) const FALLBACK_DURATION: Duration = Duration::from_millis(20);

/// Turns the frames of one recording into the bytes of its file, in the order in which they come.
///
/// Bytes go to the file as they are handed out: first what [`Writer::new`] returns, then one call of
/// [`Writer::fragment`] per frame, and for a recording at a proper end [`Writer::finish`].
#[derive(Debug)]
pub struct Writer {
    start: Start,
    tracks: Vec<TrackState>,
    sequence: u32,
    /// Bytes handed out so far: where the next fragment will lie in the file.
    position: u64,
    places: Places,
    /// `None` when there is too much for it.
    tables: Option<Vec<Table>>,
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

/// What turns a fragmented file into a plain one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// To append: `moov` with the sample tables.
    pub moov: Vec<u8>,
    /// To write after that, when the first part is sure to be on the disk: it declares everything between
    /// `ftyp` and the new `moov` to be media data.
    pub header: Patch,
}

impl Writer {
    /// Starts a file whose time zero is `zero`, the capture time of its first frame. Returns the init
    /// segment. Each H.264 track needs the parameter sets of its first keyframe.
    pub fn new(
        broadcast: &str,
        tracks: &[Track],
        parameter_sets: Vec<(TrackId, ParameterSets)>,
        zero: Time,
    ) -> Result<(Self, Vec<u8>), CmafError> {
        let start = Start { broadcast: broadcast.into(), tracks: tracks.to_vec(), zero, parameter_sets };
        let (init, places) = start.write()?;
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
            places,
            tables: Some(tracks.iter().map(|_| Table::default()).collect()),
            payload: Vec::new(),
            start,
        };
        Ok((writer, init))
    }

    /// The broadcast's name.
    pub fn broadcast(&self) -> &str {
        &self.start.broadcast
    }

    /// Capture time of the start of the file.
    pub fn zero(&self) -> Time {
        self.start.zero
    }

    /// How long the recording is so far.
    pub fn duration(&self) -> Duration {
        Duration::from_micros(self.tracks.iter().map(|track| track.end).max().unwrap_or(0))
    }

    /// Appends the bytes of one frame, and returns where its `moof` and `mdat` lie in the file. After an error
    /// nothing was appended, and the next frame is welcome.
    pub fn fragment(&mut self, frame: &Frame, out: &mut Vec<u8>) -> Result<Range<u64>, CmafError> {
        let track = frame.id.track;
        let (number, decode_time) = self.place(track, frame.capture_time)?;
        let frame_duration = self.tracks[number].frame_duration;
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        let result = self.start.store(frame, &mut payload);
        let duration =
            frame_duration.unwrap_or_else(|| opus::duration(&frame.data).unwrap_or(FALLBACK_DURATION));
        let placement = Placement {
            id: frame.id,
            capture_time: frame.capture_time,
            keyframe: frame.keyframe,
            sequence: 0,
            decode_time,
            duration,
        };
        let result = result.and_then(|()| self.put(number, placement, &payload, out));
        self.payload = payload;
        result
    }

    /// Appends a frame of another recording, byte for byte: stamp and payload stay what they are. Its parameter sets
    /// must be those of this file.
    pub fn copy(&mut self, fragment: &Fragment, out: &mut Vec<u8>) -> Result<Range<u64>, CmafError> {
        let Fragment { id, capture_time, keyframe, duration, .. } = *fragment;
        let (number, decode_time) = self.place(id.track, capture_time)?;
        let placement = Placement { id, capture_time, keyframe, sequence: 0, decode_time, duration };
        self.put(number, placement, &fragment.payload, out)
    }

    /// The number of the track, and when the frame is due in the file.
    fn place(&self, track: TrackId, capture_time: Time) -> Result<(usize, u64), CmafError> {
        let number = self.tracks.iter().position(|t| t.id == track).ok_or(CmafError::UnknownTrack(track))?;
        let since_zero = capture_time.micros_since(self.start.zero);
        let decode_time = u64::try_from(since_zero).map_err(|_| CmafError::BeforeStart)?;
        // A clock that stepped back must not make the file unplayable; the stamp keeps the true time.
        Ok((number, decode_time.max(self.tracks[number].next_decode_time)))
    }

    fn put(
        &mut self,
        number: usize,
        mut placement: Placement,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Range<u64>, CmafError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(CmafError::FrameTooLarge(payload.len()));
        }
        let state = &mut self.tracks[number];
        self.sequence += 1;
        placement.sequence = self.sequence;
        let before = out.len();
        if state.group != Some(placement.id.group) {
            placement.put_reference_time(out);
        }
        let moof = self.position + (out.len() - before) as u64;
        placement.put(payload, out);

        state.group = Some(placement.id.group);
        state.next_decode_time = placement.decode_time + 1;
        state.end = placement.decode_time + placement.duration.as_micros() as u64;
        self.position += (out.len() - before) as u64;
        self.note(number, &placement, payload.len() as u32);
        Ok(moof..self.position)
    }

    /// Notes the frame that ends at the present position.
    fn note(&mut self, number: usize, placement: &Placement, size: u32) {
        let Some(tables) = &mut self.tables else { return };
        let count: usize = tables.iter().map(Table::len).sum();
        let offset = self.position - u64::from(size);
        let Placement { decode_time, duration, keyframe, .. } = *placement;
        if count == MAX_SAMPLES || !tables[number].add(decode_time, duration, keyframe, offset, size) {
            self.tables = None;
        }
    }

    /// The duration so far (`mehd`), for the init segment, which is written before anybody knows it.
    /// A file without it plays just as well, but players show its length wrong or not at all. It may be
    /// put in as often as one likes.
    pub fn duration_patch(&self) -> Patch {
        let mut bytes = Vec::new();
        put_full_box(&mut bytes, b"mehd", 1, 0, |out| out.put_u64(self.duration().as_micros() as u64));
        Patch { at: self.places.duration, bytes }
    }

    /// Makes a plain MP4 file of the fragmented one, which every player and editor opens at once, however
    /// long it is (FFmpeg reads through all fragments otherwise: 20 s for a show of two hours). The
    /// fragments stay where they are, and a [`super::Reader`] finds them as before.
    ///
    /// `None` where the file is too long for tables; it plays all the same.
    pub fn finish(&self) -> Option<Ending> {
        let moov = self.start.write_tables(self.tables.as_deref()?, 0).ok()?;
        let bytes = media_size(self.position - self.places.media_header);
        Some(Ending { moov, header: Patch { at: self.places.media_header, bytes } })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::samples::{AUDIO, SETS, VIDEO, ZERO, picture, show, sound, tracks};
    use super::super::{GroupDigest, Item, Reader};
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

    /// What `av1C` says is the codec string's; the frames stay as they are.
    #[test]
    fn av1_has_a_sample_entry_of_its_own() {
        let mut tracks = tracks();
        let TrackConfig::Video(config) = &mut tracks[0].config else { panic!("pictures come first") };
        config.codec = "av01.0.05M.08".into();
        let (mut writer, mut file) = Writer::new("x", &tracks, Vec::new(), ZERO).unwrap();
        let entry = file.windows(4).position(|kind| kind == b"av01").unwrap();
        assert_eq!(file[entry + 28..][..4], [5, 0, 2, 208], "1280x720");
        assert_eq!(file[entry + 82..][..12], *b"\0\0\0\x0cav1C\x81\x05\x0c\0");
        let frame = Frame { data: vec![0x32, 0, 0, 0, 1, 0x67].into(), ..picture(0) };
        writer.fragment(&frame, &mut file).unwrap();
        let mut reader = Reader::new();
        reader.push(&file);
        let Some(Item::Start(start)) = reader.poll() else { panic!("no start") };
        let Some(Item::Fragment(fragment)) = reader.poll() else { panic!("no frame") };
        assert_eq!(start.restore(&fragment), Some(frame));
    }

    /// VP8 needs nothing in front of its keyframes, and its pictures may change their size.
    #[test]
    fn vp8_is_stored_as_it_is() {
        let mut tracks = tracks();
        let TrackConfig::Video(config) = &mut tracks[0].config else { panic!("pictures come first") };
        config.codec = "vp8".into();
        let (mut writer, mut file) = Writer::new("x", &tracks, Vec::new(), ZERO).unwrap();
        assert!(file.windows(8).any(|eight| eight[..4] == *b"vpcC" && eight[4..] == [1, 0, 0, 0]));
        let entry = file.windows(4).position(|kind| kind == b"vp08").unwrap();
        assert_eq!(file[entry + 28..][..4], [5, 0, 2, 208], "1280x720");
        let key = |width: u8| vec![0x50, 0x3d, 1, 0x9d, 1, 0x2a, 0, width, 0xd0, 2, 7];
        let frames: Vec<Frame> = (0..10)
            .map(|n| {
                // A start code of H.264 means nothing here.
                let data =
                    if n % 5 == 0 { key(5 - n as u8 / 5) } else { vec![0x51, 0, 0, 0, 1, 0x67, n as u8] };
                Frame { data: data.into(), ..picture(n) }
            })
            .collect();
        let mut digests = [GroupDigest::new(), GroupDigest::new()];
        for frame in &frames {
            writer.fragment(frame, &mut file).unwrap();
            digests[(frame.id.group - 100) as usize].frame(&tracks[0].config, frame);
        }
        let (mut reader, mut found, mut start) = (Reader::new(), Vec::new(), None);
        let mut read = [GroupDigest::new(), GroupDigest::new()];
        reader.push(&file);
        while let Some(item) = reader.poll() {
            match item {
                Item::Start(begun) => start = Some(begun),
                Item::Fragment(fragment) => {
                    read[(fragment.id.group - 100) as usize].fragment(&fragment);
                    found.extend(start.as_ref().and_then(|start| start.restore(&fragment)));
                }
            }
        }
        assert_eq!(found, frames);
        assert_eq!(read.map(|digest| digest.finish()), digests.map(|digest| digest.finish()));
        let moov = writer.finish().unwrap().moov;
        assert!(moov.windows(4).any(|kind| kind == b"vp08"));
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
    fn the_tables_point_at_the_payloads() {
        let (mut writer, mut file) = writer();
        for frame in show(11, 3) {
            writer.fragment(&frame, &mut file).unwrap();
        }
        let Ending { moov, header } = writer.finish().unwrap();
        let at = header.at as usize;
        assert_eq!(&file[at..at + 8], [0, 0, 0, 16, b'f', b'r', b'e', b'e'], "there is room for the header");
        assert_eq!(header.bytes[8..], ((file.len() - at) as u64).to_be_bytes(), "it covers all that follows");
        let tables = writer.tables.as_ref().unwrap();
        assert_eq!(tables.iter().map(Table::len).collect::<Vec<_>>(), [11, 3]);
        // The last frame is a picture: a delimiter and two slices, 20 bytes that end the file.
        let last = (file.len() - 20) as u64;
        let offset = moov.windows(8).filter(|eight| *eight == last.to_be_bytes()).count();
        assert_eq!(offset, 1);
    }

    #[test]
    fn too_long_a_pause_leaves_the_file_fragmented() {
        let (mut writer, mut file) = writer();
        let mut late = sound(1);
        late.capture_time += Duration::from_secs(40 * 60);
        for frame in [picture(0), sound(0), late] {
            writer.fragment(&frame, &mut file).unwrap();
        }
        assert_eq!(writer.finish(), None);
    }
}
