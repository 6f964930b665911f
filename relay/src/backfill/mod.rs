//! Backfill: the edge's copy of a show heals from the venue's recording.
//!
//! The venue tells which groups its recording has, and what each is by its digest ([`Supply`]); the edge
//! compares that with what it kept, and asks for what it lacks ([`Demand`]); the venue reads those groups
//! from its disk ([`archive`]) and sends them whole, on the bond's object lane, which takes only what live
//! leaves. Both machines are pure: time and bytes go in, bytes come out. The words between them are in
//! [`wire`], the reasons in `docs/decisions/0016-backfill.md`.

pub mod archive;
pub mod demand;
pub mod supply;
pub mod wire;

use media::cmaf::Digest;
use media::{Time, TrackId};

pub use archive::Archive;
pub use demand::{Counts, Demand};
pub use supply::Supply;

/// Groups of one show that either end remembers; later ones are not healed. With two groups of sound and two
/// of pictures a second it is 27 hours; the edge then holds some 40 MB of names.
pub const MAX_GROUPS: usize = 400_000;

/// A longer group is not healed, for the edge holds it whole until it is proven: 10 s at 13 Mb/s.
pub const MAX_GROUP_BYTES: usize = 16 << 20;

/// A group's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId {
    /// The rendition.
    pub track: TrackId,
    /// Its number.
    pub group: u64,
}

/// A group as the recording has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: GroupId,
    /// How many frames it has.
    pub frames: u32,
    /// When the first of them was captured.
    pub first_capture: Time,
    /// What it is.
    pub digest: Digest,
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) mod samples {
    //! Sound in groups of three packets.

    use std::collections::BTreeMap;
    use std::time::Duration;

    use media::cmaf::GroupDigest;
    use media::{AudioConfig, Frame, FrameId, Track, TrackConfig};

    use super::*;

    pub const START: Time = Time::from_millis(1_795_000_000_000);

    pub fn tracks() -> Vec<Track> {
        let config = AudioConfig { codec: "opus".into(), sample_rate: 48_000, channels: 2, bitrate: 96_000 };
        vec![Track { id: TrackId(1), name: "audio".into(), config: TrackConfig::Audio(config) }]
    }

    pub fn configs() -> BTreeMap<TrackId, TrackConfig> {
        tracks().into_iter().map(|track| (track.id, track.config)).collect()
    }

    /// The frames of group `n`, each of `bytes` bytes.
    pub fn group(n: u64, bytes: usize) -> Vec<Frame> {
        let frame = |frame: u32| Frame {
            id: FrameId { track: TrackId(1), group: n, frame },
            capture_time: START + Duration::from_millis(60) * n as u32 + Duration::from_millis(20) * frame,
            keyframe: true,
            data: vec![n as u8 ^ frame as u8; bytes].into(),
        };
        (0..3).map(frame).collect()
    }

    pub fn entry(frames: &[Frame]) -> Entry {
        let mut digest = GroupDigest::new();
        frames.iter().for_each(|frame| digest.frame(&configs()[&frame.id.track], frame));
        let first = &frames[0];
        Entry {
            id: GroupId { track: first.id.track, group: first.id.group },
            frames: frames.len() as u32,
            first_capture: first.capture_time,
            digest: digest.finish(),
        }
    }
}
