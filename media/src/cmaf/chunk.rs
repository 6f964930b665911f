//! Several frames of one track in one `moof` and `mdat`: a chunk of CMAF, which is a part of LL-HLS.

use std::time::Duration;

use bytes::{BufMut, Bytes};

use super::boxes::{HEADER, put_box, put_full_box};
use super::fragment::{DEFAULT_BASE_IS_MOOF, NON_SYNC, OFFSET_DURATION_SIZE_FLAGS, SYNC};
use super::init::{Start, mp4_track};
use super::writer::FALLBACK_DURATION;
use super::{CmafError, MAX_PAYLOAD};
use crate::h264::ParameterSets;
use crate::{Frame, Time, Track, TrackConfig, opus};

/// Turns the frames of one track into chunks, in the order in which they come. Frames are collected by
/// [`Chunker::push`] until [`Chunker::cut`] makes a chunk of them; how many that are, the caller decides.
///
/// Every frame is shown until the next one comes, so that there is no hole in a player's buffer where an encoder left
/// pictures out; only [`Chunker::cut`] says how long the last one is shown.
#[derive(Debug)]
pub struct Chunker {
    start: Start,
    sequence: u32,
    samples: Vec<Sample>,
    payload: Vec<u8>,
    /// Decode times must grow: at least one more than the last.
    next_decode_time: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    decode_time: u64,
    duration: Duration,
    size: u32,
    keyframe: bool,
}

/// Some frames as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// `moof` and `mdat`.
    pub bytes: Bytes,
    /// Microseconds from zero to its first frame.
    pub from: u64,
    /// And to the end of its last.
    pub to: u64,
    /// One of its frames decodes without any earlier frame.
    pub independent: bool,
}

impl Chunker {
    /// Starts a track whose time zero is `zero`: no frame was captured earlier. An H.264 track needs the parameter sets
    /// of its first keyframe. Returns the init segment, too.
    pub fn new(
        broadcast: &str,
        track: &Track,
        sets: Option<ParameterSets>,
        zero: Time,
    ) -> Result<(Self, Bytes), CmafError> {
        let parameter_sets = sets.into_iter().map(|sets| (track.id, sets)).collect();
        let start = Start { broadcast: broadcast.into(), tracks: vec![track.clone()], zero, parameter_sets };
        let (init, _) = start.write()?;
        let chunker =
            Self { start, sequence: 0, samples: Vec::new(), payload: Vec::new(), next_decode_time: 0 };
        Ok((chunker, init.into()))
    }

    /// The parameter sets of an H.264 track.
    pub fn parameter_sets(&self) -> Option<&ParameterSets> {
        self.start.tracks.first().and_then(|track| self.start.parameter_sets(track.id))
    }

    /// No frame is due before this.
    pub fn next_decode_time(&self) -> u64 {
        self.next_decode_time
    }

    /// No frame is to be due before this: it goes on where another chunker ended.
    pub fn not_before(&mut self, decode_time: u64) {
        self.next_decode_time = self.next_decode_time.max(decode_time);
    }

    /// When this frame would be due, microseconds from zero: at its capture time, or right after the last frame where the
    /// clock stepped back. `None`: it was captured before zero.
    pub fn due(&self, frame: &Frame) -> Option<u64> {
        let due = u64::try_from(frame.capture_time.micros_since(self.start.zero)).ok()?;
        Some(due.max(self.next_decode_time))
    }

    /// How long a frame lasts where nothing else is known.
    pub fn lasts(&self, frame: &Frame) -> Duration {
        let by_rate = self.start.tracks.first().and_then(|track| match &track.config {
            TrackConfig::Video(config) => Duration::from_secs(1).checked_div(config.framerate),
            TrackConfig::Audio(_) => opus::duration(&frame.data),
        });
        by_rate.unwrap_or(FALLBACK_DURATION)
    }

    /// Collects a frame. After an error nothing was collected.
    pub fn push(&mut self, frame: &Frame) -> Result<(), CmafError> {
        let decode_time = self.due(frame).ok_or(CmafError::BeforeStart)?;
        let before = self.payload.len();
        let stored = self.start.store(frame, &mut self.payload);
        let size = self.payload.len() - before;
        let stored =
            stored.and(if size > MAX_PAYLOAD { Err(CmafError::FrameTooLarge(size)) } else { Ok(()) });
        if let Err(error) = stored {
            self.payload.truncate(before);
            return Err(error);
        }
        let (duration, keyframe) = (self.lasts(frame), frame.keyframe);
        self.samples.push(Sample { decode_time, duration, size: size as u32, keyframe });
        self.next_decode_time = decode_time + 1;
        Ok(())
    }

    /// Since when frames have been collected, microseconds from zero.
    pub fn from(&self) -> Option<u64> {
        self.samples.first().map(|sample| sample.decode_time)
    }

    /// When the last one collected ends by itself.
    pub fn end(&self) -> Option<u64> {
        self.samples.last().map(|sample| sample.decode_time + sample.duration.as_micros() as u64)
    }

    /// Frames collected, and their bytes.
    pub fn collected(&self) -> (usize, usize) {
        (self.samples.len(), self.payload.len())
    }

    /// Makes a chunk of what was collected, whose last frame is shown until `end` (`None`: as long as it lasts by
    /// itself). `None` where there is nothing.
    pub fn cut(&mut self, end: Option<u64>) -> Option<Chunk> {
        let from = self.from()?;
        let to = end.or(self.end()).unwrap_or(from).max(self.next_decode_time);
        self.sequence = self.sequence.wrapping_add(1);
        self.next_decode_time = to;
        let mut out = Vec::with_capacity(self.payload.len() + 128 + 12 * self.samples.len());
        self.put_moof(from, to, &mut out);
        put_box(&mut out, b"mdat", |out| out.put_slice(&self.payload));
        let independent = self.samples.iter().any(|sample| sample.keyframe);
        self.samples.clear();
        self.payload.clear();
        Some(Chunk { bytes: out.into(), from, to, independent })
    }

    fn put_moof(&self, from: u64, to: u64, out: &mut Vec<u8>) {
        let moof = out.len();
        let mut offset_at = 0;
        let track = self.start.tracks.first().map_or(1, |track| mp4_track(track.id));
        put_box(out, b"moof", |out| {
            put_full_box(out, b"mfhd", 0, 0, |out| out.put_u32(self.sequence));
            put_box(out, b"traf", |out| {
                put_full_box(out, b"tfhd", 0, DEFAULT_BASE_IS_MOOF, |out| out.put_u32(track));
                put_full_box(out, b"tfdt", 1, 0, |out| out.put_u64(from));
                put_full_box(out, b"trun", 0, OFFSET_DURATION_SIZE_FLAGS, |out| {
                    out.put_u32(self.samples.len() as u32);
                    offset_at = out.len();
                    out.put_u32(0);
                    let ends = self.samples.iter().skip(1).map(|next| next.decode_time).chain([to]);
                    for (sample, end) in self.samples.iter().zip(ends) {
                        // 71 minutes; no caller waits so long for the next frame.
                        out.put_u32(u32::try_from(end - sample.decode_time).unwrap_or(u32::MAX));
                        out.put_u32(sample.size);
                        out.put_u32(if sample.keyframe { SYNC } else { NON_SYNC });
                    }
                });
            });
        });
        let offset = (out.len() - moof + HEADER) as u32;
        out[offset_at..offset_at + 4].copy_from_slice(&offset.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::boxes::{Fields, child};
    use super::super::samples::{SETS, ZERO, picture, sound, tracks};
    use super::*;

    fn pictures() -> Chunker {
        Chunker::new("demo", &tracks()[0], ParameterSets::of(SETS), ZERO).unwrap().0
    }

    /// Duration, size and flags of each sample of a chunk, and its payload.
    fn samples(chunk: &Chunk) -> (Vec<[u32; 3]>, Vec<u8>) {
        let traf = child(child(&chunk.bytes, b"moof").unwrap(), b"traf").unwrap();
        let mut trun = Fields(child(traf, b"trun").unwrap());
        let head = [trun.u32(), trun.u32(), trun.u32()].map(Option::unwrap);
        let rows = (0..head[1]).map(|_| [trun.u32(), trun.u32(), trun.u32()].map(Option::unwrap)).collect();
        assert_eq!(chunk.bytes[head[2] as usize - 4..][..4], *b"mdat", "the offset is that of the payload");
        (rows, chunk.bytes[head[2] as usize..].to_vec())
    }

    #[test]
    fn frames_are_shown_until_the_next_one_comes() {
        let mut chunker = pictures();
        // The encoder left picture 2 out.
        [0, 1, 3].iter().for_each(|n| chunker.push(&picture(*n)).unwrap());
        let chunk = chunker.cut(Some(150_000)).unwrap();
        assert_eq!((chunk.from, chunk.to, chunk.independent), (0, 150_000, true));
        let (rows, payload) = samples(&chunk);
        assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), [33_333, 66_666, 50_001]);
        assert_eq!(rows.iter().map(|row| row[1]).sum::<u32>() as usize, payload.len());
        assert_eq!(rows.iter().map(|row| row[2] == SYNC).collect::<Vec<_>>(), [true, false, false]);
        assert!(!payload.windows(4).any(|four| four == [0, 0, 0, 1]), "no start codes");
        assert!(!payload.windows(4).any(|four| four == &SETS[4..8]), "no parameter sets");
        assert_eq!(chunker.cut(None), None);

        chunker.push(&picture(4)).unwrap();
        let chunk = chunker.cut(None).unwrap();
        assert_eq!((chunk.from, chunk.to, chunk.independent), (150_000, 183_333, false));
    }

    #[test]
    fn sound_lasts_as_its_packets_say() {
        let mut chunker = Chunker::new("demo", &tracks()[1], None, ZERO).unwrap().0;
        [0, 1].iter().for_each(|n| chunker.push(&sound(*n)).unwrap());
        let chunk = chunker.cut(None).unwrap();
        assert_eq!((chunk.from, chunk.to, chunk.independent), (4_000, 44_000, true));
    }

    #[test]
    fn what_cannot_be_collected_leaves_nothing_behind() {
        let mut chunker = pictures();
        let early = Frame { capture_time: ZERO - Duration::from_micros(1), ..picture(0) };
        assert_eq!(chunker.push(&early), Err(CmafError::BeforeStart));
        let mut changed = picture(0).data.to_vec();
        let level = changed.iter().position(|&byte| byte == 0x1f).unwrap();
        changed[level] = 0x20;
        let changed = Frame { data: changed.into(), ..picture(0) };
        let id = changed.id.track;
        assert_eq!(chunker.push(&changed), Err(CmafError::ParametersChanged(id)));
        assert_eq!(chunker.collected(), (0, 0));
        // A clock that steps back keeps the track playable.
        chunker.push(&picture(3)).unwrap();
        chunker.push(&picture(1)).unwrap();
        assert_eq!(samples(&chunker.cut(None).unwrap()).0.iter().map(|row| row[0]).next(), Some(1));
    }
}
