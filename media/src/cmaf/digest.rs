//! What a group is, in 16 bytes: two copies of it are the same if and only if their digests are.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::Fragment;
use super::fragment::Stamp;
use crate::h264::{NalType, to_length_prefixed};
use crate::{Frame, TrackConfig};

/// The first half of a SHA-256 over the frames of a group, in order: of each its stamp (as in the table in
/// [`crate::cmaf`]), the length of its payload (u32, big endian) and its payload as it lies in `mdat`.
///
/// Video counts without its parameter sets (they are in the file's head) and whatever its start codes were,
/// so that what the encoder made, what the edge kept and what a disk gives back have the same digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 16]);

/// Makes the [`Digest`] of one group.
#[derive(Clone, Debug, Default)]
pub struct GroupDigest {
    hash: Sha256,
    frames: u32,
    payload: Vec<u8>,
}

impl GroupDigest {
    /// Of a group without frames.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next frame of the group, of a track of this kind.
    pub fn frame(&mut self, config: &TrackConfig, frame: &Frame) {
        let stamp = Stamp { id: frame.id, capture_time: frame.capture_time, keyframe: frame.keyframe };
        if !config.is_h264() {
            return self.add(&stamp, &frame.data);
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        let keep = |nal: &[u8]| !matches!(NalType::of(nal), NalType::Sps | NalType::Pps);
        to_length_prefixed(&frame.data, keep, &mut payload);
        self.add(&stamp, &payload);
        self.payload = payload;
    }

    /// The next frame of the group, as a [`super::Reader`] found it.
    pub fn fragment(&mut self, fragment: &Fragment) {
        let Fragment { id, capture_time, keyframe, .. } = *fragment;
        self.add(&Stamp { id, capture_time, keyframe }, &fragment.payload);
    }

    /// How many frames were added.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// The digest of what was added so far.
    pub fn finish(&self) -> Digest {
        let hash = self.hash.clone().finalize();
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash[..16]);
        Digest(digest)
    }

    fn add(&mut self, stamp: &Stamp, payload: &[u8]) {
        self.hash.update(stamp.bytes());
        self.hash.update((payload.len() as u32).to_be_bytes());
        self.hash.update(payload);
        self.frames += 1;
    }
}

impl fmt::Display for Digest {
    /// 32 hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let digits = text.as_bytes();
        if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(DigestError);
        }
        let value = u128::from_str_radix(text, 16).map_err(|_| DigestError)?;
        Ok(Self(value.to_be_bytes()))
    }
}

/// The text is not a [`Digest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 32 hex digits")]
pub struct DigestError;

#[cfg(test)]
mod tests {
    use super::super::samples::{SETS, picture, show, sound, tracks};
    use super::super::{Item, Reader, Writer};
    use super::*;
    use crate::TrackId;
    use crate::h264::ParameterSets;

    fn of(frames: &[Frame]) -> Digest {
        let tracks = tracks();
        let mut digest = GroupDigest::new();
        for frame in frames {
            digest.frame(&tracks[usize::from(frame.id.track.0)].config, frame);
        }
        digest.finish()
    }

    #[test]
    fn what_was_encoded_and_what_was_recorded_are_the_same() {
        let sets = vec![(TrackId(0), ParameterSets::of(SETS).unwrap())];
        let zero = picture(0).capture_time;
        let (mut writer, mut file) = Writer::new("x", &tracks(), sets, zero).unwrap();
        let frames = show(5, 5);
        for frame in &frames {
            writer.fragment(frame, &mut file).unwrap();
        }
        let mut reader = Reader::new();
        reader.push(&file);
        let mut read = [GroupDigest::new(), GroupDigest::new()];
        while let Some(item) = reader.poll() {
            if let Item::Fragment(fragment) = item {
                read[usize::from(fragment.id.track.0)].fragment(&fragment);
            }
        }
        let made =
            |track| frames.iter().filter(|f| f.id.track == TrackId(track)).cloned().collect::<Vec<_>>();
        assert_eq!(read.each_ref().map(GroupDigest::frames), [5, 5]);
        assert_eq!(read[0].finish(), of(&made(0)));
        assert_eq!(read[1].finish(), of(&made(1)));
    }

    #[test]
    fn every_change_changes_it() {
        let good = of(&[sound(0), sound(1)]);
        let mut later = sound(1);
        later.capture_time = later.capture_time.offset_by(1);
        let mut other = sound(1);
        other.data = vec![0xfc, 1, 8].into();
        for bad in [vec![sound(0)], vec![sound(1), sound(0)], vec![sound(0), later], vec![sound(0), other]] {
            assert_ne!(of(&bad), good);
        }
    }

    #[test]
    fn text_there_and_back() {
        let digest = of(&[picture(0)]);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for bad in ["", "00", "+0000000000000000000000000000000", &"ü".repeat(16)] {
            assert_eq!(bad.parse::<Digest>(), Err(DigestError));
        }
    }
}
