//! The head of the file, `ftyp` and `moov`, and the other `moov` that a finished file has at its end.

use bytes::BufMut;
use serde::{Deserialize, Serialize};

use super::boxes::{Fields, HEADER, child, children, put_box, put_full_box, uuid_child};
use super::table::Table;
use super::{CmafError, START_UUID, TIMESCALE};
use crate::h264::{NalType, ParameterSets, length_prefixed_nals, put_annex_b, to_length_prefixed};
use crate::opus::OpusHead;
use crate::{AudioConfig, Frame, Time, Track, TrackConfig, TrackId, VideoConfig};
use crate::{av1, vp8};

/// From 1904, MP4's epoch, to 1970.
const MP4_EPOCH_SECONDS: u64 = 2_082_844_800;

/// The unity matrix of `mvhd` and `tkhd`.
const MATRIX: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];

/// Bytes of an `mdat` header whose size has 64 bits.
pub const MDAT_HEADER: usize = 16;

/// What the head of the file keeps free for later, as offsets in the file.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// [`MDAT_HEADER`] bytes after `ftyp`.
    pub media_header: u64,
    /// 20 bytes in `mvex`, for `mehd`.
    pub duration: u64,
}

/// How a recording starts: whose it is, what is in it and when its time is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The broadcast's name.
    pub broadcast: String,
    /// The tracks as they were announced.
    pub tracks: Vec<Track>,
    /// Capture time of the first frame, from which the file's own timestamps count.
    pub zero: Time,
    /// What goes before each keyframe of an H.264 track.
    pub parameter_sets: Vec<(TrackId, ParameterSets)>,
}

#[derive(Serialize, Deserialize)]
struct StartJson {
    broadcast: String,
    tracks: Vec<Track>,
}

/// MP4 track numbers start at 1.
pub fn mp4_track(id: TrackId) -> u32 {
    u32::from(id.0) + 1
}

impl Start {
    /// The parameter sets of an H.264 track.
    pub fn parameter_sets(&self, track: TrackId) -> Option<&ParameterSets> {
        self.parameter_sets.iter().find(|(id, _)| *id == track).map(|(_, sets)| sets)
    }

    /// Appends the frame as it is stored: H.264 with length prefixes and without its parameter sets, if they are those
    /// of this file; all else as it is. The opposite of [`Start::restore`].
    pub(super) fn store(&self, frame: &Frame, out: &mut Vec<u8>) -> Result<(), CmafError> {
        let id = frame.id.track;
        let track = self.tracks.iter().find(|track| track.id == id).ok_or(CmafError::UnknownTrack(id))?;
        if !track.config.is_h264() {
            out.put_slice(&frame.data);
            return Ok(());
        }
        let known = self.parameter_sets(id).ok_or(CmafError::NoParameterSets(id))?;
        let mut changed = false;
        let keep = |nal: &[u8]| {
            let is_set = matches!(NalType::of(nal), NalType::Sps | NalType::Pps);
            changed |= is_set && !known.contains(nal);
            !is_set
        };
        to_length_prefixed(&frame.data, keep, out);
        if changed { Err(CmafError::ParametersChanged(id)) } else { Ok(()) }
    }

    /// The frame as the encoder made it: H.264 as Annex B with its parameter sets before each keyframe
    /// (start codes are 4 bytes long whatever they were). `None` if the payload is broken.
    pub fn restore(&self, fragment: &super::Fragment) -> Option<Frame> {
        let track = self.tracks.iter().find(|track| track.id == fragment.id.track)?;
        let data = if track.config.is_h264() {
            let sets = self.parameter_sets(track.id).filter(|_| fragment.keyframe);
            annex_b(&fragment.payload, sets)?.into()
        } else {
            fragment.payload.clone()
        };
        Some(Frame {
            id: fragment.id,
            capture_time: fragment.capture_time,
            keyframe: fragment.keyframe,
            data,
        })
    }

    /// The init segment, and what in it waits for the end of the file.
    pub(super) fn write(&self) -> Result<(Vec<u8>, Places), CmafError> {
        let entries = self.sample_entries()?;
        let mut out = Vec::with_capacity(2048);
        put_box(&mut out, b"ftyp", |out| {
            out.put_slice(b"iso6");
            out.put_u32(0);
            out.put_slice(b"iso6mp41");
            if let [_] = self.tracks[..] {
                out.put_slice(b"cmfc"); // CMAF wants one track per file
            }
        });
        let media_header = out.len();
        put_box(&mut out, b"free", |out| out.put_bytes(0, MDAT_HEADER - HEADER));
        let mut duration = 0;
        put_box(&mut out, b"moov", |out| {
            self.put_mvhd(0, out);
            for (track, entry) in self.tracks.iter().zip(&entries) {
                self.put_trak(track, &Described::of(track, entry), None, out);
            }
            put_box(out, b"mvex", |out| {
                duration = out.len();
                put_box(out, b"free", |out| out.put_slice(&[0; 12]));
                for track in &self.tracks {
                    put_full_box(out, b"trex", 0, 0, |out| {
                        out.put_u32(mp4_track(track.id));
                        out.put_u32(1); // sample description
                        out.put_slice(&[0; 12]); // no defaults: each fragment has duration, size and flags
                    });
                }
            });
            put_box(out, b"uuid", |out| {
                out.put_slice(START_UUID);
                out.put_u64(self.zero.as_micros());
                let json = StartJson { broadcast: self.broadcast.clone(), tracks: self.tracks.clone() };
                // Strings and plain numbers: serialisation has no way to fail.
                out.put_slice(&serde_json::to_vec(&json).unwrap_or_default());
            });
        });
        Ok((out, Places { media_header: media_header as u64, duration: duration as u64 }))
    }

    /// The `moov` of a finished file, from a table per track, shown from so many microseconds after its start.
    pub(super) fn write_tables(&self, tables: &[Table], shown_from: u64) -> Result<Vec<u8>, CmafError> {
        let entries = self.sample_entries()?;
        let described: Vec<_> =
            self.tracks.iter().zip(&entries).map(|(track, entry)| Described::of(track, entry)).collect();
        Ok(self.write_described(&described, tables, shown_from))
    }

    /// The same, where tracks change on the way.
    pub(super) fn write_described(
        &self,
        described: &[Described],
        tables: &[Table],
        shown_from: u64,
    ) -> Vec<u8> {
        let mut out = Vec::new();
        put_box(&mut out, b"moov", |out| {
            let end = tables.iter().map(Table::end).max().unwrap_or(0);
            self.put_mvhd(end.saturating_sub(shown_from), out);
            for ((track, described), table) in self.tracks.iter().zip(described).zip(tables) {
                self.put_trak(track, described, Some((table, shown_from)), out);
            }
        });
        out
    }

    /// Reads a `moov` body that [`Start::write`] wrote.
    pub(super) fn read(moov: &[u8]) -> Option<Self> {
        let mut fields = Fields(uuid_child(moov, START_UUID)?);
        let zero = Time::from_micros(fields.u64()?);
        let StartJson { broadcast, tracks } = serde_json::from_slice(fields.0).ok()?;
        let mut parameter_sets = Vec::new();
        for (_, trak) in children(moov).filter(|(kind, _)| kind == b"trak") {
            if let Some((track, sets)) = read_parameter_sets(trak) {
                parameter_sets.push((track, sets));
            }
        }
        let known = |track: &Track| parameter_sets.iter().any(|(id, _)| *id == track.id);
        let complete = tracks.iter().all(|track: &Track| !track.config.is_h264() || known(track));
        complete.then_some(Self { broadcast, tracks, zero, parameter_sets })
    }

    fn put_mvhd(&self, duration: u64, out: &mut Vec<u8>) {
        put_full_box(out, b"mvhd", 1, 0, |out| {
            self.put_times(out);
            out.put_u32(TIMESCALE);
            out.put_u64(duration); // of a fragmented file 0: it is in mehd
            out.put_u32(0x1_0000); // rate 1
            out.put_u16(0x100); // volume 1
            out.put_slice(&[0; 10]);
            MATRIX.iter().for_each(|&value| out.put_u32(value));
            out.put_slice(&[0; 24]);
            let next = self.tracks.iter().map(|track| mp4_track(track.id)).max().unwrap_or(0) + 1;
            out.put_u32(next);
        });
    }

    /// Creation and modification, in seconds.
    fn put_times(&self, out: &mut Vec<u8>) {
        let seconds = self.zero.as_micros() / 1_000_000 + MP4_EPOCH_SECONDS;
        out.put_u64(seconds);
        out.put_u64(seconds);
    }

    /// `table`: in a finished file, with what is shown first.
    fn put_trak(
        &self,
        track: &Track,
        described: &Described,
        table: Option<(&Table, u64)>,
        out: &mut Vec<u8>,
    ) {
        const ENABLED_AND_SHOWN: u32 = 7;
        put_box(out, b"trak", |out| {
            put_full_box(out, b"tkhd", 1, ENABLED_AND_SHOWN, |out| {
                self.put_times(out);
                out.put_u32(mp4_track(track.id));
                out.put_u32(0);
                out.put_u64(table.map_or(0, |(table, from)| table.end().saturating_sub(from)));
                out.put_slice(&[0; 8 + 4]); // reserved, layer and group
                out.put_u16(if track.is_video() { 0 } else { 0x100 });
                out.put_u16(0);
                MATRIX.iter().for_each(|&value| out.put_u32(value));
                let (width, height) = described.size;
                out.put_u32(width << 16);
                out.put_u32(height << 16);
            });
            if let Some((table, shown_from)) = table {
                table.put_edit_list(shown_from, out);
            }
            put_box(out, b"mdia", |out| self.put_mdia(track, described, table.map(|(table, _)| table), out));
        });
    }

    fn put_mdia(&self, track: &Track, described: &Described, table: Option<&Table>, out: &mut Vec<u8>) {
        put_full_box(out, b"mdhd", 1, 0, |out| {
            self.put_times(out);
            out.put_u32(TIMESCALE);
            out.put_u64(table.map_or(0, Table::media_duration));
            out.put_u16(0x55c4); // language "und"
            out.put_u16(0);
        });
        put_full_box(out, b"hdlr", 0, 0, |out| {
            out.put_u32(0);
            out.put_slice(if track.is_video() { b"vide" } else { b"soun" });
            out.put_slice(&[0; 12]);
            out.put_slice(track.name.replace('\0', "").as_bytes());
            out.put_u8(0);
        });
        put_box(out, b"minf", |out| {
            if track.is_video() {
                put_full_box(out, b"vmhd", 0, 1, |out| out.put_u64(0));
            } else {
                put_full_box(out, b"smhd", 0, 0, |out| out.put_u32(0));
            }
            put_box(out, b"dinf", |out| {
                put_full_box(out, b"dref", 0, 0, |out| {
                    out.put_u32(1);
                    put_full_box(out, b"url ", 0, 1, |_| {}); // the media is in this file
                });
            });
            put_box(out, b"stbl", |out| {
                put_full_box(out, b"stsd", 0, 0, |out| {
                    out.put_u32(described.entries.len() as u32);
                    described.entries.iter().for_each(|entry| out.put_slice(entry));
                });
                if let Some(table) = table {
                    return table.put(track.is_video(), out);
                }
                for kind in [b"stts", b"stsc", b"stco"] {
                    put_full_box(out, kind, 0, 0, |out| out.put_u32(0));
                }
                put_full_box(out, b"stsz", 0, 0, |out| out.put_u64(0));
            });
        });
    }

    fn sample_entries(&self) -> Result<Vec<Vec<u8>>, CmafError> {
        self.tracks.iter().map(|track| sample_entry(track, self.parameter_sets(track.id))).collect()
    }
}

/// What a track's boxes say of its frames.
#[derive(Clone, Debug)]
pub(super) struct Described {
    /// Its sample entries.
    pub(super) entries: Vec<Vec<u8>>,
    /// The largest picture, pixels; 0 of sound.
    pub(super) size: (u32, u32),
}

impl Described {
    /// All frames alike.
    pub(super) fn of(track: &Track, entry: &[u8]) -> Self {
        Self { entries: vec![entry.to_vec()], size: size(track) }
    }
}

/// Pixels of a picture; 0 of sound.
pub(super) fn size(track: &Track) -> (u32, u32) {
    match &track.config {
        TrackConfig::Video(config) => (config.width, config.height),
        TrackConfig::Audio(_) => (0, 0),
    }
}

/// How a player has to set up its decoder for the frames of a track.
pub(super) fn sample_entry(track: &Track, sets: Option<&ParameterSets>) -> Result<Vec<u8>, CmafError> {
    let unsupported = |codec: &str| CmafError::UnsupportedCodec(codec.to_owned());
    track.config.check_storable().map_err(unsupported)?;
    match &track.config {
        TrackConfig::Video(config) if track.config.is_h264() => {
            let avcc = sets.ok_or(CmafError::NoParameterSets(track.id))?.avcc()?;
            Ok(visual(b"avc1", config, |out| put_box(out, b"avcC", |out| out.put_slice(&avcc))))
        }
        TrackConfig::Video(config) if let Some(av1c) = av1::av1c(&config.codec) => {
            Ok(visual(b"av01", config, |out| put_box(out, b"av1C", |out| out.put_slice(&av1c))))
        }
        TrackConfig::Video(config) => Ok(visual(b"vp08", config, |out| {
            put_full_box(out, b"vpcC", 1, 0, |out| out.put_slice(&vp8::vpcc()));
        })),
        TrackConfig::Audio(config) => Ok(opus(config)),
    }
}

/// A sample entry for pictures, with what its codec has in it.
fn visual(kind: &[u8; 4], config: &VideoConfig, put_setup: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    put_box(&mut out, kind, |out| {
        out.put_slice(&[0; 6]);
        out.put_u16(1); // data reference
        out.put_slice(&[0; 16]);
        out.put_u16(config.width as u16);
        out.put_u16(config.height as u16);
        out.put_u32(0x48_0000); // 72 dpi
        out.put_u32(0x48_0000);
        out.put_u32(0);
        out.put_u16(1); // one frame per sample
        out.put_slice(&[0; 32]); // no compressor name
        out.put_u16(24); // bits per pixel
        out.put_i16(-1);
        put_setup(out);
    });
    out
}

fn opus(config: &AudioConfig) -> Vec<u8> {
    let channels = if config.channels == 1 { 1 } else { 2 };
    // No pre-skip: the recording joins a running stream, whose capture times already are what they are.
    let head = OpusHead { channels, pre_skip: 0, input_sample_rate: config.sample_rate };
    let mut out = Vec::new();
    put_box(&mut out, b"Opus", |out| {
        out.put_slice(&[0; 6]);
        out.put_u16(1); // data reference
        out.put_u64(0);
        out.put_u16(u16::from(channels));
        out.put_u16(16); // bits per sample
        out.put_u32(0);
        out.put_u32(crate::opus::SAMPLE_RATE << 16);
        put_box(out, b"dOps", |out| out.put_slice(&head.dops()));
    });
    out
}

/// Bytes of an `avc1` entry before its boxes.
const VISUAL_ENTRY: usize = 78;

fn read_parameter_sets(trak: &[u8]) -> Option<(TrackId, ParameterSets)> {
    let mut tkhd = Fields(child(trak, b"tkhd")?);
    tkhd.skip(4 + 16)?; // version, flags and times
    let track = u8::try_from(tkhd.u32()?.checked_sub(1)?).ok()?;
    let path = [b"mdia", b"minf", b"stbl", b"stsd"];
    let stsd = path.iter().try_fold(trak, |body, kind| child(body, kind))?;
    let avc1 = child(stsd.get(8..)?, b"avc1")?;
    let avcc = child(avc1.get(VISUAL_ENTRY..)?, b"avcC")?;
    Some((TrackId(track), ParameterSets::from_avcc(avcc)?))
}

fn annex_b(payload: &[u8], sets: Option<&ParameterSets>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(payload.len() + 64);
    let mut sets = sets;
    for nal in length_prefixed_nals(payload) {
        let nal = nal.ok()?;
        if NalType::of(nal) != NalType::AccessUnitDelimiter
            && let Some(sets) = sets.take()
        {
            sets.iter().for_each(|set| put_annex_b(set, &mut out));
        }
        put_annex_b(nal, &mut out);
    }
    Some(out)
}
