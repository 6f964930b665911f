//! The multivariant playlist: which renditions there are.

use std::fmt::Write as _;

use super::{File, Show, codec};
use crate::{Track, TrackConfig};

/// The sound's group.
const SOUND: &str = "sound";

/// What boxes and a moment of more motion add to the bit rate that an encoder aims at, percent: `BANDWIDTH` is to be the
/// peak of any segment.
const PEAK_PERCENT: u64 = 130;

impl Show {
    pub(super) fn master(&self) -> String {
        let tracks = || self.renditions.iter().map(|rendition| rendition.track());
        let sounds: Vec<&Track> = tracks().filter(|track| !track.is_video()).collect();
        let mut out = String::from("#EXTM3U\n#EXT-X-VERSION:9\n");
        let with_pictures = tracks().any(Track::is_video);
        if with_pictures {
            for (number, track) in sounds.iter().enumerate() {
                let TrackConfig::Audio(config) = &track.config else { continue };
                let chosen = if number == 0 { "YES" } else { "NO" };
                let _ = writeln!(
                    out,
                    "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"{SOUND}\",NAME=\"{}\",DEFAULT={chosen},AUTOSELECT=YES,\
                     CHANNELS=\"{}\",URI=\"{}\"",
                    quoted(&track.name),
                    config.channels,
                    File::Playlist { track: track.id },
                );
            }
        }
        let loudest = sounds.iter().map(|track| bitrate(track)).max().unwrap_or(0);
        for track in tracks().filter(|track| track.is_video() == with_pictures) {
            let with_sound = with_pictures && !sounds.is_empty();
            let sum = bitrate(track) + if with_sound { loudest } else { 0 };
            let _ = write!(
                out,
                "#EXT-X-STREAM-INF:BANDWIDTH={},AVERAGE-BANDWIDTH={}",
                (sum * PEAK_PERCENT / 100).max(1),
                sum.max(1)
            );
            let mut codecs = vec![stored_codec(track)];
            if with_sound {
                codecs.extend(sounds.first().map(|sound| stored_codec(sound)));
            }
            let _ = write!(out, ",CODECS=\"{}\"", codecs.join(","));
            if let TrackConfig::Video(config) = &track.config {
                if config.width > 0 && config.height > 0 {
                    let _ = write!(out, ",RESOLUTION={}x{}", config.width, config.height);
                }
                if config.framerate > 0 {
                    let _ = write!(out, ",FRAME-RATE={}.000", config.framerate);
                }
            }
            if with_sound {
                let _ = write!(out, ",AUDIO=\"{SOUND}\"");
            }
            let _ = writeln!(out, "\n{}", File::Playlist { track: track.id });
        }
        out
    }
}

/// In a quoted string there are neither quotes nor line ends.
fn quoted(name: &str) -> String {
    name.chars().filter(|char| *char != '"' && !char.is_control()).collect()
}

/// As it is in MP4: the parameter sets are in the init segment.
fn stored_codec(track: &Track) -> String {
    let codec = quoted(codec(track));
    match codec.strip_prefix("avc3") {
        Some(profile) => format!("avc1{profile}"),
        None => codec,
    }
}

fn bitrate(track: &Track) -> u64 {
    u64::from(match &track.config {
        TrackConfig::Video(config) => config.bitrate,
        TrackConfig::Audio(config) => config.bitrate,
    })
}
