//! A plain MP4 file made of a recording's frames: what an export is.

use std::borrow::Cow;
use std::time::Duration;

use bytes::BufMut;

use super::boxes::put_box;
use super::init::{Described, MDAT_HEADER, Start, sample_entry, size};
use super::table::{MAX_SAMPLES, Table};
use super::{CmafError, Ending, Fragment, MAX_PAYLOAD, Patch};
use crate::h264::{NalType, ParameterSets, length_prefixed_nals};
use crate::{Time, Track, TrackId};

/// Turns the frames of recordings into a plain MP4 file: `ftyp`, one `mdat` with all media, and `moov` with the sample
/// tables at the end. Media is copied byte for byte; what only Roadie reads (stamps, checksums) is left behind.
///
/// Bytes go to the file as they are handed out: what [`Plain::new`] returns, then one call of [`Plain::frame`] per
/// frame, then [`Plain::finish`]. It holds 16 bytes of memory per frame.
///
/// H.264 may change its parameter sets, and with them the size of its picture ([`Plain::describe`]): the track then has a
/// sample description for each (ISO/IEC 14496-12, 8.5.2). From the first change on keyframes carry their sets in band
/// besides, as not all players look at more than the first description.
#[derive(Debug)]
pub struct Plain {
    start: Start,
    tracks: Vec<Lane>,
    position: u64,
    media_header: u64,
}

#[derive(Debug)]
struct Lane {
    id: TrackId,
    table: Table,
    /// Decode times must grow: at least one more than the last.
    next_decode_time: u64,
    described: Described,
    /// The parameter sets of each description.
    sets: Vec<Option<ParameterSets>>,
    /// Which of them holds, and whether it is the only one.
    current: usize,
    changed: bool,
}

impl Plain {
    /// Starts a file whose time zero is `zero`: no frame was captured earlier. Each H.264 track needs its parameter
    /// sets.
    pub fn new(
        broadcast: &str,
        tracks: &[Track],
        parameter_sets: Vec<(TrackId, ParameterSets)>,
        zero: Time,
    ) -> Result<(Self, Vec<u8>), CmafError> {
        let start = Start { broadcast: broadcast.into(), tracks: tracks.to_vec(), zero, parameter_sets };
        let lane = |track: &Track| {
            let sets = start.parameter_sets(track.id).cloned();
            let entry = sample_entry(track, sets.as_ref())?;
            Ok(Lane {
                id: track.id,
                table: Table::default(),
                next_decode_time: 0,
                described: Described::of(track, &entry),
                sets: vec![sets],
                current: 0,
                changed: false,
            })
        };
        let lanes = tracks.iter().map(lane).collect::<Result<_, CmafError>>()?;
        let mut head = Vec::new();
        put_box(&mut head, b"ftyp", |out| {
            out.put_slice(b"isom");
            out.put_u32(0x200);
            out.put_slice(b"isomiso6");
            if tracks.iter().any(|track| track.config.is_h264()) {
                out.put_slice(b"avc1");
            }
            out.put_slice(b"mp41");
        });
        let media_header = head.len() as u64;
        head.extend(media_size(MDAT_HEADER as u64));
        Ok((Self { start, tracks: lanes, position: head.len() as u64, media_header }, head))
    }

    /// This track will change: its keyframes carry their sets in band from here on. Said before the first frame, players
    /// can jump back over the change, too.
    pub fn will_change(&mut self, track: TrackId) {
        self.tracks.iter_mut().filter(|lane| lane.id == track).for_each(|lane| lane.changed = true);
    }

    /// The frames of this H.264 track that follow, from a keyframe on, are of this size and have these parameter sets.
    pub fn describe(&mut self, track: &Track, sets: &ParameterSets) -> Result<(), CmafError> {
        let lane = self.tracks.iter_mut().find(|lane| lane.id == track.id);
        let lane = lane.ok_or(CmafError::UnknownTrack(track.id))?;
        let entry = sample_entry(track, Some(sets))?;
        lane.current = match lane.described.entries.iter().position(|known| *known == entry) {
            Some(known) => known,
            None => {
                lane.described.entries.push(entry);
                lane.sets.push(Some(sets.clone()));
                let (width, height) = size(track);
                let largest = &mut lane.described.size;
                *largest = (largest.0.max(width), largest.1.max(height));
                lane.sets.len() - 1
            }
        };
        lane.changed = true;
        lane.table.describe(lane.current as u32 + 1);
        Ok(())
    }

    /// The next frame of its track; gives what is to be appended to the file: its payload, as a rule as it is.
    pub fn frame<'a>(&mut self, fragment: &'a Fragment) -> Result<Cow<'a, [u8]>, CmafError> {
        let track = fragment.id.track;
        let since_zero = fragment.capture_time.micros_since(self.start.zero);
        let decode_time = u64::try_from(since_zero).map_err(|_| CmafError::BeforeStart)?;
        let length = fragment.payload.len();
        if length > MAX_PAYLOAD {
            return Err(CmafError::FrameTooLarge(length));
        }
        let count: usize = self.tracks.iter().map(|lane| lane.table.len()).sum();
        let lane =
            self.tracks.iter_mut().find(|lane| lane.id == track).ok_or(CmafError::UnknownTrack(track))?;
        let decode_time = decode_time.max(lane.next_decode_time);
        let sets = lane.sets.get(lane.current).and_then(Option::as_ref);
        let sample = match sets.filter(|_| lane.changed && fragment.keyframe) {
            Some(sets) => Cow::Owned(with_sets(&fragment.payload, sets)),
            None => Cow::Borrowed(&fragment.payload[..]),
        };
        let size = sample.len();
        let fits = count < MAX_SAMPLES
            && lane.table.add(decode_time, fragment.duration, fragment.keyframe, self.position, size as u32);
        if !fits {
            return Err(CmafError::TooLong);
        }
        lane.next_decode_time = decode_time + 1;
        self.position += size as u64;
        Ok(sample)
    }

    /// What makes the file whole. It is shown from so long after its zero: what was captured before is there to be
    /// decoded only (an edit list says so).
    pub fn finish(self, shown_from: Duration) -> Result<Ending, CmafError> {
        let (described, tables): (Vec<Described>, Vec<Table>) =
            self.tracks.into_iter().map(|lane| (lane.described, lane.table)).unzip();
        let moov = self.start.write_described(&described, &tables, shown_from.as_micros() as u64);
        let bytes = media_size(self.position - self.media_header);
        Ok(Ending { moov, header: Patch { at: self.media_header, bytes } })
    }
}

/// A keyframe with its parameter sets in front, behind a delimiter, which comes first (ITU-T H.264, 7.4.1.2.3).
fn with_sets(payload: &[u8], sets: &ParameterSets) -> Vec<u8> {
    let first = length_prefixed_nals(payload).next().and_then(Result::ok);
    let delimiter = first.filter(|nal| NalType::of(nal) == NalType::AccessUnitDelimiter);
    let (before, rest) = payload.split_at(delimiter.map_or(0, |nal| 4 + nal.len()));
    let mut out = before.to_vec();
    for set in sets.iter() {
        out.put_u32(set.len() as u32);
        out.put_slice(set);
    }
    out.extend_from_slice(rest);
    out
}

/// The header of an `mdat` whose size has 64 bits.
pub fn media_size(size: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MDAT_HEADER);
    bytes.put_u32(1);
    bytes.put_slice(b"mdat");
    bytes.put_u64(size);
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::boxes::child;
    use super::super::samples::{AUDIO, SETS, VIDEO, ZERO, show, tracks};
    use super::super::{Item, Reader, Writer};
    use super::*;
    use crate::TrackConfig;

    fn sets() -> Vec<(TrackId, ParameterSets)> {
        vec![(VIDEO, ParameterSets::of(SETS).unwrap())]
    }

    fn fragments() -> Vec<Fragment> {
        let (mut writer, mut file) = Writer::new("x", &tracks(), sets(), ZERO).unwrap();
        for frame in show(10, 15) {
            writer.fragment(&frame, &mut file).unwrap();
        }
        let mut reader = Reader::new();
        reader.push(&file);
        let fragment = |item| match item {
            Item::Fragment(fragment) => Some(fragment),
            Item::Start(_) => None,
        };
        std::iter::from_fn(|| reader.poll()).filter_map(fragment).collect()
    }

    #[test]
    fn the_file_is_a_head_the_media_and_the_tables() {
        let (mut plain, mut file) = Plain::new("x", &tracks(), sets(), ZERO).unwrap();
        let fragments = fragments();
        for fragment in &fragments {
            plain.frame(fragment).unwrap();
            file.extend_from_slice(&fragment.payload);
        }
        let media: usize = fragments.iter().map(|fragment| fragment.payload.len()).sum();
        let Ending { moov, header } = plain.finish(Duration::ZERO).unwrap();
        assert_eq!(file.len(), header.at as usize + MDAT_HEADER + media);
        assert_eq!(header.bytes[8..], ((MDAT_HEADER + media) as u64).to_be_bytes());
        let body = child(&moov, b"moov").unwrap();
        assert!(child(body, b"mvex").is_none(), "it is not fragmented");
    }

    #[test]
    fn a_track_that_changes_has_an_entry_for_each_shape_and_its_sets_in_band() {
        let (mut plain, _) = Plain::new("x", &tracks(), sets(), ZERO).unwrap();
        let fragments = fragments();
        let [first, later] = [0, 1].map(|n| {
            let mut keyframes = fragments.iter().filter(|frame| frame.keyframe && frame.id.track == VIDEO);
            keyframes.nth(n).unwrap_or_else(|| panic!("keyframe {n}")).clone()
        });
        let types = |sample: &[u8]| -> Vec<NalType> {
            length_prefixed_nals(sample).map(|nal| NalType::of(nal.unwrap())).collect()
        };
        plain.will_change(VIDEO);
        use NalType::{AccessUnitDelimiter, Pps, Sps};
        assert_eq!(types(&plain.frame(&first).unwrap())[..3], [AccessUnitDelimiter, Sps, Pps]);
        // A smaller picture, and then the old one again.
        let (mut small, mut other) = (tracks()[0].clone(), SETS.to_vec());
        let TrackConfig::Video(config) = &mut small.config else { panic!("it is a picture") };
        (config.width, config.height) = (64, 48);
        let level = other.iter().position(|byte| *byte == 0x67).unwrap() + 3;
        other[level] ^= 1;
        plain.describe(&small, &ParameterSets::of(&other).unwrap()).unwrap();
        let mut bare = later.clone();
        let delimiter = length_prefixed_nals(&later.payload).next().unwrap().unwrap();
        bare.payload = later.payload.slice(4 + delimiter.len()..);
        assert_eq!(types(&plain.frame(&bare).unwrap())[..2], [Sps, Pps]);
        plain.describe(&tracks()[0], &sets()[0].1).unwrap();
        let lane = &plain.tracks[0];
        assert_eq!((lane.described.entries.len(), lane.current), (2, 0), "an entry is used again");
        let TrackConfig::Video(full) = &tracks()[0].config else { panic!("it is a picture") };
        assert_eq!(lane.described.size, (full.width, full.height), "the largest");
    }

    #[test]
    fn what_cannot_be_in_it_says_why() {
        assert_eq!(
            Plain::new("x", &tracks(), Vec::new(), ZERO).unwrap_err(),
            CmafError::NoParameterSets(VIDEO)
        );
        let (mut plain, _) = Plain::new("x", &tracks()[..1], sets(), ZERO).unwrap();
        let mut fragment = fragments().remove(0);
        fragment.id.track = AUDIO;
        assert_eq!(plain.frame(&fragment), Err(CmafError::UnknownTrack(AUDIO)));
        fragment.capture_time = ZERO - Duration::from_micros(1);
        assert_eq!(plain.frame(&fragment), Err(CmafError::BeforeStart));
        fragment.id.track = VIDEO;
        fragment.capture_time = ZERO;
        plain.frame(&fragment).unwrap();
        fragment.capture_time = ZERO + Duration::from_secs(40 * 60);
        assert_eq!(plain.frame(&fragment), Err(CmafError::TooLong));
    }
}
