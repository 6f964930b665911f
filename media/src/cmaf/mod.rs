//! The file format of recordings: fragmented MP4 (ISO/IEC 14496-12, with the track structure of CMAF,
//! ISO/IEC 23000-19). The [`Writer`] turns frames into bytes and the [`Reader`] turns bytes back into frames; neither
//! does IO. [`Chunker`] makes the parts of LL-HLS ([`crate::hls`]) of the same boxes: several frames of one track in
//! one `moof`, without stamps.
//!
//! ```text
//! ftyp
//! free                               16 bytes, see below
//! moov                               once, when the first keyframe is known
//!       mvhd trak* mvex uuid(start)  `avc1` with avcC, `vp08` with vpcC or `av01`
//!                                    with av1C, `Opus` with dOps, timescale 1 000 000;
//!                                    in mvex, `free` is replaced by `mehd` as the file grows
//! prft                               before the first frame of each group: its capture time
//! moof  mdat                         one per frame, written as it comes
//!       traf: tfhd tfdt trun uuid(stamp)
//! ```
//!
//! At a proper end a second `moov` with sample tables is appended, and the `free` box becomes the header
//! of an `mdat` that holds all between (OBS calls this a hybrid file). It is a plain MP4 file then, which
//! opens at once and can be cut and edited; the fragments are still in it for a [`Reader`].
//!
//! Every frame is a fragment of its own, so the file plays at any instant, up to its last whole frame.
//!
//! **Time.** `tfdt` counts microseconds from the *zero* of the recording, which is the capture time
//! of its first frame (a video keyframe where there is video). Sound that was captured before the
//! zero is not recorded, so both tracks share one timeline without edit lists and stay in sync.
//!
//! **H.264** is stored without its SPS and PPS, as `avc1` asks; they are in `avcC`, and the reader puts
//! them back in front of each keyframe. A change of the parameter sets needs a new file.
//!
//! **VP8 and AV1** are stored as they are. Their keyframes say how large they are, and it may change within a file;
//! `vp08` and `av01` have the size that was announced, in which players show it. `av1C` has no sequence header in it: the
//! keyframes have theirs.
//!
//! **Boxes of our own.** Players pass over `uuid` boxes that they do not know. Numbers are big endian.
//!
//! | in `moov`, uuid = ASCII `roadie/start/v01` | |
//! |---|---|
//! | u64 | the zero: microseconds since the Unix epoch on the broadcast clock |
//! | rest | JSON: `{"broadcast":NAME,"tracks":[media::Track, ...]}` |
//!
//! | in `traf`, uuid = ASCII `roadie/stamp/v01` | |
//! |---|---|
//! | u8 | track ([`crate::TrackId`]; MP4's `track_ID` is one more) |
//! | u8 | bit 0: keyframe; the others are 0 |
//! | u64 | group |
//! | u32 | frame |
//! | u64 | capture time: microseconds since the Unix epoch on the broadcast clock |
//! | u32 | CRC-32 (IEEE 802.3) of the 22 bytes above and the payload of `mdat` |

mod boxes;
mod chunk;
mod crc32;
mod digest;
mod fragment;
pub mod index;
mod init;
mod name;
mod plain;
mod reader;
mod table;
mod writer;

pub use chunk::{Chunk, Chunker};
pub use digest::{Digest, GroupDigest};
pub use fragment::Fragment;
pub use index::{GroupEntry, Index, IndexError, Indexer};
pub use init::Start;
pub use name::{date_time, file_stem, utc};
pub use plain::Plain;
pub use reader::{Item, Reader};
pub use writer::{Ending, Patch, Writer};

use crate::TrackId;
use crate::h264::H264Error;

/// Ticks per second of every track: microseconds.
pub const TIMESCALE: u32 = 1_000_000;

/// Larger frames are refused. Real ones are below 1 MB; this bounds the memory of a reader.
pub const MAX_PAYLOAD: usize = 16 << 20;

const START_UUID: &[u8; 16] = b"roadie/start/v01";
const STAMP_UUID: &[u8; 16] = b"roadie/stamp/v01";

/// Frames that cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CmafError {
    /// Only H.264, VP8, AV1 and Opus have a sample entry here.
    #[error("codec {0} cannot be stored in MP4 by Roadie: use H.264, VP8 or AV1, and Opus")]
    UnsupportedCodec(String),
    /// An H.264 track can be described only when its SPS and PPS are known.
    #[error("no parameter sets for video track {}: wait for its first keyframe", .0.0)]
    NoParameterSets(TrackId),
    /// The parameter sets are broken.
    #[error("the parameter sets cannot be used: {0}")]
    ParameterSets(#[from] H264Error),
    /// `avcC` is written once: another picture size or profile needs a new file.
    #[error("the parameter sets of video track {} changed: start a new file", .0.0)]
    ParametersChanged(TrackId),
    /// Captured before the zero of this file.
    #[error("the frame was captured before the start of this file")]
    BeforeStart,
    /// The track was not announced.
    #[error("track {} is not part of this file", .0.0)]
    UnknownTrack(TrackId),
    /// Larger than [`MAX_PAYLOAD`].
    #[error("a frame of {0} bytes is too large (at most {MAX_PAYLOAD})")]
    FrameTooLarge(usize),
    /// More frames than the tables of a plain file hold (12 h of 30 pictures a second), or a pause of over 35 minutes.
    #[error(
        "the show is too long for one plain MP4 file, or has a pause of more than 35 minutes: cut it into parts"
    )]
    TooLong,
}

#[cfg(test)]
pub(crate) mod samples {
    //! A show of two tracks whose pictures are few bytes long.

    use std::time::Duration;

    use bytes::Bytes;

    use crate::{AudioConfig, Frame, FrameId, Time, Track, TrackConfig, TrackId, VideoConfig};

    pub const VIDEO: TrackId = TrackId(0);
    pub const AUDIO: TrackId = TrackId(1);
    pub const ZERO: Time = Time::from_micros(1_795_000_000_123_456);

    /// Parameter sets of 1280x720, as x264 makes them, with start codes.
    pub const SETS: &[u8] = b"\0\0\0\x01\x67\x42\xc0\x1f\xd9\0\x50\x05\xbb\x01\x10\0\0\x03\0\x10\0\0\x03\x03\xc0\xf1\x83\x24\x80\0\0\0\x01\x68\xcb\x83\xcb\x20";

    pub fn tracks() -> Vec<Track> {
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

    /// Picture number `n`, in groups of five. As the encoder makes it: with a delimiter, two slices,
    /// start codes of four bytes.
    pub fn picture(n: u32) -> Frame {
        let (group, frame) = (100 + u64::from(n / 5), n % 5);
        let mut data = b"\0\0\0\x01\x09\x10".to_vec();
        if frame == 0 {
            data.extend(SETS);
        }
        for slice in 0..2 {
            let kind = if frame == 0 { 0x65 } else { 0x41 };
            data.extend([0, 0, 0, 1, kind, slice, n as u8 | 1]);
        }
        let id = FrameId { track: VIDEO, group, frame };
        let capture_time = ZERO + Duration::from_micros(33_333) * n;
        Frame { id, capture_time, keyframe: frame == 0, data: data.into() }
    }

    /// Sound packet number `n`, 20 ms, in groups of five, 4 ms after the pictures.
    pub fn sound(n: u32) -> Frame {
        let id = FrameId { track: AUDIO, group: 200 + u64::from(n / 5), frame: n % 5 };
        let capture_time = ZERO + Duration::from_millis(4) + Duration::from_millis(20) * n;
        Frame { id, capture_time, keyframe: true, data: Bytes::from(vec![0xfc, n as u8, 7]) }
    }

    /// Both, by capture time.
    pub fn show(pictures: u32, sounds: u32) -> Vec<Frame> {
        let mut frames: Vec<_> = (0..pictures).map(picture).chain((0..sounds).map(sound)).collect();
        frames.sort_by_key(|frame| frame.capture_time);
        frames
    }
}
