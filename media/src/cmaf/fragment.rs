//! One frame in the file: `prft` at a group's start, `moof`, `mdat`.

use std::ops::Range;
use std::time::Duration;

use bytes::{BufMut, Bytes};

use super::boxes::{Fields, HEADER, child, put_box, put_full_box, uuid_child};
use super::crc32::crc32;
use super::{STAMP_UUID, init::mp4_track};
use crate::{FrameId, Time, TrackId};

/// From 1900, NTP's epoch, to 1970.
const NTP_EPOCH_SECONDS: u64 = 2_208_988_800;

/// `tfhd`: offsets count from the `moof`.
pub const DEFAULT_BASE_IS_MOOF: u32 = 0x2_0000;
/// `trun`: it has a data offset, and for each sample duration, size and flags.
pub const OFFSET_DURATION_SIZE_FLAGS: u32 = 0x701;
/// Sample flags: depends on no other sample.
pub const SYNC: u32 = 0x0200_0000;
/// Sample flags: depends on others, is not a sync sample.
pub const NON_SYNC: u32 = 0x0101_0000;

/// Bytes of a [`Stamp`].
const STAMP: usize = 1 + 1 + 8 + 4 + 8;
const KEYFRAME: u8 = 1;

/// What the checksum covers besides the payload.
pub struct Stamp {
    pub id: FrameId,
    pub capture_time: Time,
    pub keyframe: bool,
}

impl Stamp {
    /// As in the table in [`super`], without the checksum.
    pub fn bytes(&self) -> [u8; STAMP] {
        let mut stamp = [0; STAMP];
        let mut rest = &mut stamp[..];
        rest.put_u8(self.id.track.0);
        rest.put_u8(if self.keyframe { KEYFRAME } else { 0 });
        rest.put_u64(self.id.group);
        rest.put_u32(self.id.frame);
        rest.put_u64(self.capture_time.as_micros());
        stamp
    }
}

/// A frame as it lies in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Its name.
    pub id: FrameId,
    /// When it was captured, on the broadcast clock.
    pub capture_time: Time,
    /// Microseconds from the start of the file.
    pub decode_time: u64,
    /// How long it is shown or heard.
    pub duration: Duration,
    /// Decodes without any earlier frame.
    pub keyframe: bool,
    /// Length-prefixed NAL units without parameter sets, or an Opus packet; [`super::Start::restore`]
    /// gives the frame as it was.
    pub payload: Bytes,
    /// Where `moof` and `mdat` lie in the file.
    pub range: Range<u64>,
    /// Whether the checksum is right. A wrong one means a damaged payload or stamp.
    pub intact: bool,
}

/// What `moof` says about the `mdat` behind it.
pub struct Moof {
    id: FrameId,
    capture_time: Time,
    decode_time: u64,
    duration: u32,
    keyframe: bool,
    /// Bytes of payload.
    pub size: u32,
    stamp: [u8; STAMP],
    checksum: u32,
}

/// What the writer knows of a frame besides its payload.
pub struct Placement {
    pub id: FrameId,
    pub capture_time: Time,
    pub keyframe: bool,
    pub sequence: u32,
    pub decode_time: u64,
    pub duration: Duration,
}

impl Placement {
    /// `prft`, which says that `decode_time` was captured at `capture_time` (flags 0: the time of input
    /// to the encoder).
    pub fn put_reference_time(&self, out: &mut Vec<u8>) {
        put_full_box(out, b"prft", 1, 0, |out| {
            out.put_u32(mp4_track(self.id.track));
            out.put_u64(ntp(self.capture_time));
            out.put_u64(self.decode_time);
        });
    }

    /// `moof` and `mdat`. The payload is at most [`super::MAX_PAYLOAD`] long.
    pub fn put(&self, payload: &[u8], out: &mut Vec<u8>) {
        let moof = out.len();
        let mut offset_at = 0;
        put_box(out, b"moof", |out| {
            put_full_box(out, b"mfhd", 0, 0, |out| out.put_u32(self.sequence));
            put_box(out, b"traf", |out| {
                put_full_box(out, b"tfhd", 0, DEFAULT_BASE_IS_MOOF, |out| {
                    out.put_u32(mp4_track(self.id.track))
                });
                put_full_box(out, b"tfdt", 1, 0, |out| out.put_u64(self.decode_time));
                put_full_box(out, b"trun", 0, OFFSET_DURATION_SIZE_FLAGS, |out| {
                    out.put_u32(1);
                    offset_at = out.len();
                    out.put_u32(0);
                    out.put_u32(self.duration.as_micros() as u32);
                    out.put_u32(payload.len() as u32);
                    out.put_u32(if self.keyframe { SYNC } else { NON_SYNC });
                });
                put_box(out, b"uuid", |out| {
                    out.put_slice(STAMP_UUID);
                    let Placement { id, capture_time, keyframe, .. } = *self;
                    let stamp = Stamp { id, capture_time, keyframe }.bytes();
                    out.put_slice(&stamp);
                    out.put_u32(crc32(&[&stamp, payload]));
                });
            });
        });
        let offset = (out.len() - moof + HEADER) as u32;
        out[offset_at..offset_at + 4].copy_from_slice(&offset.to_be_bytes());
        put_box(out, b"mdat", |out| out.put_slice(payload));
    }
}

impl Moof {
    /// Reads a `moof` body that [`Placement::put`] wrote.
    pub fn read(body: &[u8]) -> Option<Self> {
        let traf = child(body, b"traf")?;
        let mut tfdt = Fields(child(traf, b"tfdt")?);
        tfdt.skip(4)?;
        let decode_time = tfdt.u64()?;
        let mut trun = Fields(child(traf, b"trun")?);
        trun.skip(4 + 4 + 4)?; // version and flags, count, offset
        let (duration, size) = (trun.u32()?, trun.u32()?);

        let mut fields = Fields(uuid_child(traf, STAMP_UUID)?);
        let stamp = *fields.0.first_chunk::<STAMP>()?;
        let (track, flags) = (TrackId(fields.u8()?), fields.u8()?);
        let id = FrameId { track, group: fields.u64()?, frame: fields.u32()? };
        let capture_time = Time::from_micros(fields.u64()?);
        let checksum = fields.u32()?;
        let keyframe = flags & KEYFRAME != 0;
        Some(Self { id, capture_time, decode_time, duration, keyframe, size, stamp, checksum })
    }

    /// The whole fragment, from the payload that was found in `mdat`.
    pub fn with_payload(self, payload: Bytes, range: Range<u64>) -> Fragment {
        Fragment {
            id: self.id,
            capture_time: self.capture_time,
            decode_time: self.decode_time,
            duration: Duration::from_micros(u64::from(self.duration)),
            keyframe: self.keyframe,
            intact: crc32(&[&self.stamp, &payload]) == self.checksum,
            payload,
            range,
        }
    }
}

/// NTP's 64-bit timestamp (RFC 5905): seconds since 1900 and a binary fraction.
fn ntp(time: Time) -> u64 {
    let micros = time.as_micros();
    let seconds = (micros / 1_000_000).wrapping_add(NTP_EPOCH_SECONDS);
    let fraction = ((micros % 1_000_000) << 32) / 1_000_000;
    seconds << 32 | fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ntp_time() {
        assert_eq!(ntp(Time::ZERO), 2_208_988_800 << 32);
        assert_eq!(ntp(Time::from_micros(1_500_000)), 2_208_988_801 << 32 | 1 << 31);
    }

    #[test]
    fn what_is_put_is_read() {
        let placement = Placement {
            id: FrameId { track: TrackId(3), group: 7_180_000_123, frame: 29 },
            capture_time: Time::from_micros(1_795_000_000_123_456),
            keyframe: false,
            sequence: 9,
            decode_time: 1 << 40,
            duration: Duration::from_micros(33_333),
        };
        let mut out = Vec::new();
        placement.put(b"payload", &mut out);
        assert_eq!(out.len(), 158 + 7, "what the container adds to a frame");
        let moof = Moof::read(child(&out, b"moof").unwrap()).unwrap();
        assert_eq!(moof.size, 7);
        let fragment = moof.with_payload(Bytes::from_static(b"payload"), 0..165);
        assert_eq!(fragment.id, placement.id);
        assert_eq!(fragment.capture_time, placement.capture_time);
        assert_eq!((fragment.decode_time, fragment.keyframe), (1 << 40, false));
        assert!(fragment.intact);
        let moof = Moof::read(child(&out, b"moof").unwrap()).unwrap();
        assert!(!moof.with_payload(Bytes::from_static(b"pAyload"), 0..165).intact);
    }
}
