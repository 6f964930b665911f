//! Low-Latency HLS of a live show (draft-pantos-hls-rfc8216bis, "HTTP Live Streaming 2nd Edition"): frames go in, what
//! HTTP clients ask for comes out. A machine without IO and without a clock; who waits for what is its driver's business.
//!
//! [`Show`] has a [`Rendition`](rendition) per track: a media playlist over a bounded ring of **segments**, each of
//! **parts** ([`crate::cmaf::Chunk`]). All count time from the same zero, the capture time of the first keyframe, so they
//! are in sync as they are, and `EXT-X-PROGRAM-DATE-TIME` is the broadcast clock.
//!
//! - A segment begins with the first group of its slot of [`SLOT`] on that timeline: renditions whose groups begin
//!   together have their segments together, whatever was lost of one of them. A group that does not end is cut.
//! - A hole of more than [`HOLE`] is a segment with `EXT-X-GAP`; in a shorter one the last picture is shown on. The
//!   segment behind a gap lasts at least a slot: hls.js fetches no more than one of each rendition before it jumps over
//!   a gap, and it jumps only where they overlap, though sound is back sooner than the picture.
//! - Where the parameter sets of a video track change, all renditions have an `EXT-X-DISCONTINUITY` at that time.
//! - Media sequence numbers begin with the time of day, so that those of a show that goes on after its relay was started
//!   again are higher than the old ones, and no address means two things to a cache.
//!
//! One word of the draft is not kept: a part may be longer than `PART-TARGET` by [`HOLE`] where pictures are missing.

mod file;
mod master;
mod playlist;
mod reload;
mod rendition;
mod segment;

use std::time::Duration;

use bytes::Bytes;

use self::rendition::{Epoch, Rendition};
use crate::{Frame, Time, Track, TrackId};

pub use file::File;
pub use reload::{Reload, ReloadError};

/// `EXT-X-TARGETDURATION`. Players that know no parts stay three of them behind.
pub const TARGET: Duration = Duration::from_secs(4);

/// A segment begins with the first group in each slot of this length: two seconds keep the number of requests low for
/// players without parts, and a newcomer close to live.
pub const SLOT: Duration = Duration::from_secs(2);

/// A segment that finds no group to end at ends here: EXTINF rounds to no more than [`TARGET`].
const LONGEST_SEGMENT: Duration = Duration::from_millis(4400);

/// `PART-TARGET`. Players stay three of them behind ([`HOLD_BACK`]); each is a request. 300 ms are a whole number of
/// frames, or nearly so, at 24, 25, 30, 50 and 60 pictures and at 50 or 100 packets of sound a second: parts must be no
/// shorter than 85 % of this.
pub const PART: Duration = Duration::from_millis(300);

/// `PART-HOLD-BACK`: so far behind live players stay, three parts as the draft asks.
pub const HOLD_BACK: Duration = Duration::from_millis(900);

/// Without frames for longer than this there is a gap; a request for a keyframe is answered faster on most uplinks.
pub const HOLE: Duration = Duration::from_millis(500);

/// What playlists list: so far can viewers rewind.
pub const LISTED: Duration = Duration::from_secs(60);

/// What is kept: segments that are not listed any more are still asked for by those who read the list before.
pub const KEPT: Duration = Duration::from_secs(75);

/// Bytes of media kept for one show, all renditions together: [`KEPT`] of 6.8 Mb/s. Beyond it the oldest segments go, of
/// the rendition that has the most.
pub const KEPT_BYTES: usize = 64 << 20;

/// `CAN-SKIP-UNTIL`: older segments are left out of a delta update. The draft wants six times [`TARGET`] at least.
const SKIP_UNTIL: Duration = Duration::from_secs(24);

/// Frames and bytes at which a part ends though it is not long enough: a publisher whose clock stands still must not fill
/// the memory. A second of 240 pictures, and 50 Mb/s.
const MAX_PART: (usize, usize) = (256, 2 << 20);

/// Parts in a segment at most, for the same reason; a segment of [`LONGEST_SEGMENT`] has 15.
const MAX_PARTS: usize = 64;

/// A segment of so many bytes ends, too: [`LONGEST_SEGMENT`] of 14 Mb/s.
const MAX_SEGMENT_BYTES: usize = 8 << 20;

/// Segments kept of one rendition at most, for the same reason; [`KEPT`] has 38 of [`SLOT`].
const MAX_SEGMENTS: usize = 256;

/// Media sequence numbers count from this day (2020-01-01): with at most one segment a second they never overtake the
/// clock, and fit the 31 bits that GStreamer 1.22 has for them.
const NUMBERING: Time = Time::from_millis(1_577_836_800_000);

/// A capture time after this (the year 9999) is none: what a date can be made of, and sums of which fit.
const LATEST: Time = Time::from_millis(253_402_300_800_000);

/// The name of the multivariant playlist.
pub const MASTER: &str = "index.m3u8";

/// What there is for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This.
    Ready(Bytes),
    /// Nothing yet: ask again when the track has changed.
    Wait,
    /// It is not there (any more), or never was.
    Missing,
    /// It lies further in the future than a client may ask for: status 400, says the draft.
    TooFarAhead,
}

/// Why a show has no HLS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unservable {
    /// No player of HLS decodes it.
    #[error(
        "this show's pictures are {0}, and HLS has no place for that: publish H.264, or watch over WebTransport"
    )]
    Codec(String),
    /// No track at all.
    #[error("this show has neither pictures nor sound that HLS could carry")]
    Empty,
}

/// A live show as HLS.
#[derive(Debug)]
pub struct Show {
    broadcast: String,
    tracks: Vec<Track>,
    renditions: Vec<Rendition>,
    /// Capture time of the first frame. `None`: it has not come.
    zero: Option<Time>,
    epoch: Epoch,
    /// Playlists as they were asked for, whole and as delta update, by rendition: many ask for the same.
    memory: Vec<[Option<Bytes>; 2]>,
    ended: bool,
}

impl Show {
    /// A show of these tracks; those that HLS cannot carry are left out.
    pub fn new(broadcast: &str, tracks: &[Track]) -> Self {
        let renditions: Vec<_> =
            tracks.iter().filter(|track| servable(track)).cloned().map(Rendition::new).collect();
        Self {
            broadcast: broadcast.into(),
            tracks: tracks.to_vec(),
            memory: vec![[None, None]; renditions.len()],
            renditions,
            zero: None,
            epoch: Epoch::default(),
            ended: false,
        }
    }

    /// Takes a frame. Frames of a track come in order, and those of a video track without a hole within a group (what
    /// follows a lost frame cannot be decoded). Returns whether there is something new for those who wait for its track.
    pub fn frame(&mut self, frame: &Frame) -> bool {
        if self.ended || frame.capture_time >= LATEST || self.unservable().is_some() {
            return false;
        }
        let Some(index) = self.index(frame.id.track) else { return false };
        let zero = match self.zero {
            Some(zero) => zero,
            // The first rendition is the one that all have to be in time with: pictures, where there are any.
            None if index > 0 || !frame.keyframe => return false,
            None => {
                let first = frame.capture_time.saturating_since(NUMBERING).as_secs();
                self.renditions.iter_mut().for_each(|rendition| rendition.number_from(first));
                *self.zero.insert(frame.capture_time)
            }
        };
        let Some(rendition) = self.renditions.get_mut(index) else { return false };
        let news = rendition.frame(&self.broadcast, frame, zero, &mut self.epoch);
        if news {
            self.bound();
            self.forget();
        }
        news
    }

    /// Another encoder goes on with the show: what comes is told apart from what there is.
    pub fn restart(&mut self) {
        self.zero = None;
        self.epoch = Epoch { number: self.epoch.number + 1, from: 0 };
        self.renditions.iter_mut().for_each(Rendition::interrupt);
        self.forget();
    }

    /// No frame will come any more.
    pub fn finish(&mut self) {
        self.ended = true;
        self.renditions.iter_mut().for_each(Rendition::interrupt);
        self.forget();
    }

    /// Whether it is over.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// What it was made of.
    pub fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    /// Bytes of media that are kept.
    pub fn bytes(&self) -> usize {
        self.renditions.iter().map(Rendition::bytes).sum()
    }

    /// Why nothing of it can be had as HLS.
    pub fn unservable(&self) -> Option<Unservable> {
        let pictures = self.tracks.iter().find(|track| track.is_video());
        match pictures {
            // Sound alone is not the show.
            Some(track) if !self.tracks.iter().any(|track| track.is_video() && servable(track)) => {
                Some(Unservable::Codec(codec(track).into()))
            }
            _ if self.renditions.is_empty() => Some(Unservable::Empty),
            _ => None,
        }
    }

    /// What there is for a request of a file; `reload` counts for media playlists only.
    pub fn answer(&mut self, file: File, reload: Reload) -> Answer {
        if file == File::Master {
            return Answer::Ready(self.master().into());
        }
        let Some(index) = file.track().and_then(|track| self.index(track)) else { return Answer::Missing };
        let Some(rendition) = self.renditions.get(index) else { return Answer::Missing };
        match file {
            File::Master => Answer::Missing,
            File::Playlist { .. } => match rendition.listed(reload.point, self.ended) {
                Answer::Ready(_) => self.playlist(index, reload.skip),
                other => other,
            },
            File::Init { number, .. } => rendition.init(number).map_or(Answer::Missing, Answer::Ready),
            File::Segment { sequence, .. } => {
                rendition.segment(sequence).map_or(Answer::Missing, Answer::Ready)
            }
            File::Part { sequence, part, .. } => rendition.part(sequence, part, self.ended),
        }
    }

    fn playlist(&mut self, index: usize, skip: bool) -> Answer {
        let remembered = self.memory.get(index).and_then(|both| both[usize::from(skip)].clone());
        let Some(text) = remembered.or_else(|| self.media_playlist(index, skip).map(Bytes::from)) else {
            return Answer::Missing;
        };
        if let Some(both) = self.memory.get_mut(index) {
            both[usize::from(skip)] = Some(text.clone());
        }
        Answer::Ready(text)
    }

    fn index(&self, track: TrackId) -> Option<usize> {
        self.renditions.iter().position(|rendition| rendition.track().id == track)
    }

    fn forget(&mut self) {
        self.memory.fill([None, None]);
    }

    /// Keeps the memory below [`KEPT_BYTES`].
    fn bound(&mut self) {
        while self.bytes() > KEPT_BYTES {
            let largest = self.renditions.iter_mut().max_by_key(|rendition| rendition.bytes());
            if !largest.is_some_and(Rendition::drop_oldest) {
                return;
            }
        }
    }
}

/// Whether players of HLS may be expected to decode it in MP4.
fn servable(track: &Track) -> bool {
    if track.is_video() { track.config.is_h264() } else { track.config.check_storable().is_ok() }
}

fn codec(track: &Track) -> &str {
    match &track.config {
        crate::TrackConfig::Video(config) => &config.codec,
        crate::TrackConfig::Audio(config) => &config.codec,
    }
}

#[cfg(test)]
mod tests;
