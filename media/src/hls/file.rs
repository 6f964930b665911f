//! The names of a show's files.

use std::fmt;

use super::MASTER;
use crate::TrackId;

/// A file of a show; as text it is the last part of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// `index.m3u8`, the multivariant playlist.
    Master,
    /// `track0.m3u8`, a media playlist.
    Playlist {
        /// Of this track.
        track: TrackId,
    },
    /// `track0-init3.mp4`, what comes before the segments.
    Init {
        /// Of this track.
        track: TrackId,
        /// Its number within the track.
        number: u64,
    },
    /// `track0-217000000.m4s`, a segment.
    Segment {
        /// Of this track.
        track: TrackId,
        /// Its media sequence number.
        sequence: u64,
    },
    /// `track0-217000000.4.m4s`, a part of a segment.
    Part {
        /// Of this track.
        track: TrackId,
        /// Its segment's media sequence number.
        sequence: u64,
        /// Its place in the segment, from 0.
        part: usize,
    },
}

impl File {
    /// `None` where there is no such file in any show.
    pub fn parse(name: &str) -> Option<Self> {
        if name == MASTER {
            return Some(Self::Master);
        }
        let rest = name.strip_prefix("track")?;
        if let Some(track) = rest.strip_suffix(".m3u8") {
            return Some(Self::Playlist { track: id(track)? });
        }
        let (track, rest) = rest.split_once('-')?;
        let track = id(track)?;
        if let Some(init) = rest.strip_prefix("init") {
            return Some(Self::Init { track, number: number(init.strip_suffix(".mp4")?)? });
        }
        let rest = rest.strip_suffix(".m4s")?;
        match rest.split_once('.') {
            None => Some(Self::Segment { track, sequence: number(rest)? }),
            Some((sequence, part)) => {
                let part = usize::try_from(number(part)?).ok()?;
                Some(Self::Part { track, sequence: number(sequence)?, part })
            }
        }
    }

    /// The track, where it is of one.
    pub fn track(&self) -> Option<TrackId> {
        match *self {
            Self::Master => None,
            Self::Playlist { track }
            | Self::Init { track, .. }
            | Self::Segment { track, .. }
            | Self::Part { track, .. } => Some(track),
        }
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master => f.write_str(MASTER),
            Self::Playlist { track } => write!(f, "track{}.m3u8", track.0),
            Self::Init { track, number } => write!(f, "track{}-init{number}.mp4", track.0),
            Self::Segment { track, sequence } => write!(f, "track{}-{sequence}.m4s", track.0),
            Self::Part { track, sequence, part } => write!(f, "track{}-{sequence}.{part}.m4s", track.0),
        }
    }
}

fn id(text: &str) -> Option<TrackId> {
    u8::try_from(number(text)?).ok().map(TrackId)
}

/// Digits only, and no zeros in front: one name per file.
pub(super) fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let track = TrackId(7);
        for file in [
            File::Master,
            File::Playlist { track },
            File::Init { track, number: 0 },
            File::Segment { track, sequence: u64::MAX },
            File::Part { track, sequence: 217_000_000, part: 12 },
        ] {
            assert_eq!(File::parse(&file.to_string()), Some(file));
        }
    }

    #[test]
    fn other_names_are_nothing() {
        for name in [
            "",
            "index",
            "INDEX.m3u8",
            "track.m3u8",
            "track256.m3u8",
            "track01.m3u8",
            "track+1.m3u8",
            "track0-.m4s",
            "track0-1..m4s",
            "track0-1.2.3.m4s",
            "track0-1.-2.m4s",
            "track0-init.mp4",
            "track0-init1.m4s",
            "track0-18446744073709551616.m4s",
            "track\u{661}.m3u8",
        ] {
            assert_eq!(File::parse(name), None, "{name}");
        }
    }
}
