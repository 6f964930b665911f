//! WHEP: a show goes out to one viewer. What is read from the show's taps becomes frames of RTP; the engine cuts them up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use media::catalog::{Catalog, VideoRendition};
use media::h264::{self, ParameterSets};
use media::{Time, opus};
use str0m::format::Codec;
use str0m::media::{Frequency, MediaTime};

use super::negotiate::Line;
use crate::fanout::{Shelf, Tap, Unit};

/// Pictures written in one go: more than that only newcomers have before them, and they get the rest a little later, so
/// that a group's beginning does not leave as one burst.
const BURST: usize = 4;

/// The rest comes after this: at 4 pictures each time, a group of 60 takes 75 ms.
const PAUSE: Duration = Duration::from_millis(5);

/// A publisher that left may come back within this time; then the session ends.
const ABSENCE: Duration = Duration::from_secs(15);

/// How often is looked whether it has.
const LOOK: Duration = Duration::from_millis(500);

/// A viewer who has lost something asks for a keyframe until it comes. So often is it passed on.
const KEYFRAME_INTERVAL: Duration = Duration::from_secs(1);

/// Sound goes on evenly, unless its capture time says that more than this is missing, in samples: 10 ms.
const GAP: u64 = 480;

/// What of a show WebRTC can carry.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Name, codec, form and profile of the best rendition.
    pub video: Option<Picture>,
    /// Name of the best Opus.
    pub audio: Option<String>,
    /// There are pictures, but none that WebRTC can carry: their codec.
    pub unfit: Option<String>,
}

/// A rendition.
#[derive(Debug)]
pub(super) struct Picture {
    pub track: String,
    pub codec: Codec,
    pub form: Form,
    /// Of H.264: `profile_idc`.
    pub profile: Option<u8>,
}

/// How a rendition's frames lie in memory.
#[derive(Debug)]
pub(super) enum Form {
    /// As RTP wants them.
    Plain,
    /// H.264 with lengths in front of its units, and its parameter sets in the catalog (`avc1`).
    LengthPrefixed(ParameterSets),
}

impl Choice {
    /// The best of each kind.
    pub fn of(catalog: &Catalog) -> Self {
        let fit = catalog.video.renditions.iter().filter_map(|(name, rendition)| picture(name, rendition));
        let rate = |picture: &Picture| catalog.video.renditions.get(&picture.track).and_then(|r| r.bitrate);
        let video = fit.max_by_key(rate);
        let unfit = catalog.best_video().filter(|_| video.is_none()).map(|(_, best)| best.codec.clone());
        let opus = catalog.audio.renditions.iter().filter(|(_, rendition)| rendition.codec == "opus");
        let audio = opus.max_by_key(|(_, rendition)| rendition.bitrate).map(|(name, _)| name.clone());
        Self { video, audio, unfit }
    }
}

fn picture(name: &str, rendition: &VideoRendition) -> Option<Picture> {
    let (track, codec) = (name.to_owned(), rendition.codec.as_str());
    if rendition.container.kind != "legacy" {
        return None;
    }
    if codec == media::vp8::CODEC {
        return Some(Picture { track, codec: Codec::Vp8, form: Form::Plain, profile: None });
    }
    let (kind, numbers) = codec.split_once('.')?;
    let form = match (kind, &rendition.description) {
        ("avc1", Some(record)) => Form::LengthPrefixed(ParameterSets::from_avcc(&unhex(record)?)?),
        ("avc1" | "avc3", None) => Form::Plain,
        _ => return None,
    };
    let profile = u8::from_str_radix(numbers.get(..2)?, 16).ok();
    Some(Picture { track, codec: Codec::H264, form, profile })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

impl Form {
    /// As RTP wants it: H.264 in Annex B, parameter sets before each keyframe.
    fn open(&self, unit: &Unit) -> Arc<[u8]> {
        let Form::LengthPrefixed(sets) = self else { return Arc::from(&unit.data[..]) };
        let mut out = Vec::with_capacity(unit.data.len() + 64);
        let sets = sets.iter().filter(|_| unit.first).map(|set| &set[..]);
        // What is cut off is left out.
        let nals = h264::length_prefixed_nals(&unit.data).map_while(Result::ok);
        sets.chain(nals).for_each(|nal| h264::put_annex_b(nal, &mut out));
        Arc::from(out)
    }
}

/// A frame, as the engine wants it.
pub(super) struct Outgoing {
    pub line: Line,
    /// When it was captured.
    pub wallclock: Instant,
    pub rtp: MediaTime,
    pub data: Arc<[u8]>,
    /// Pictures are shown as soon as they can be.
    pub is_video: bool,
}

/// One track on its way to a viewer.
struct Lane {
    track: String,
    line: Line,
    kind: Kind,
    tap: Option<Tap>,
}

enum Kind {
    Video(Form),
    /// RTP time that the next packet has if nothing is missing.
    Audio(Option<u64>),
}

/// A viewer.
pub(super) struct Watch {
    shelf: Shelf,
    /// Sound first: it is small.
    lanes: Vec<Lane>,
    /// An instant and the broadcast time that it stands for. What is between the two clocks is nobody's business here.
    base: Option<(Instant, Time)>,
    /// Since when there is nothing to be had.
    absent: Option<Instant>,
    looked: Option<Instant>,
    asked: Option<Instant>,
    /// Pictures that may still be written in this go.
    burst: usize,
}

impl Watch {
    /// What was agreed on, of what was chosen.
    pub fn new(shelf: Shelf, video: Option<(Picture, Line)>, audio: Option<(String, Line)>) -> Self {
        let mut lanes = Vec::new();
        if let Some((track, line)) = audio {
            lanes.push(Lane { track, line, kind: Kind::Audio(None), tap: None });
        }
        if let Some((picture, line)) = video {
            lanes.push(Lane { track: picture.track, line, kind: Kind::Video(picture.form), tap: None });
        }
        Self { shelf, lanes, base: None, absent: None, looked: None, asked: None, burst: BURST }
    }

    /// Opens what is not open. `false`: the show is over.
    pub fn look(&mut self, now: Instant) -> bool {
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK) {
            return true;
        }
        self.looked = Some(now);
        for lane in &mut self.lanes {
            let over = lane.tap.as_ref().is_none_or(|tap| tap.has_ended() && tap.waiting() == 0);
            if over {
                lane.tap = self.shelf.tap(&lane.track);
            }
        }
        let there = self.lanes.iter().any(|lane| lane.tap.as_ref().is_some_and(|tap| !tap.has_ended()));
        match there {
            true => self.absent = None,
            false => drop(self.absent.get_or_insert(now)),
        }
        self.absent.is_none_or(|since| now.saturating_duration_since(since) < ABSENCE)
    }

    /// Another go of writing.
    pub fn begin(&mut self) {
        self.burst = BURST;
    }

    /// The next frame to write in this go. After the last one: when the next go is, if something is left.
    pub fn next(&mut self, now: Instant) -> Result<Outgoing, Option<Instant>> {
        let Self { lanes, base, burst, .. } = self;
        for lane in lanes.iter_mut() {
            let Some(tap) = &mut lane.tap else { continue };
            let is_video = matches!(lane.kind, Kind::Video(_));
            if is_video && *burst == 0 {
                return Err((tap.waiting() > 0).then_some(now + PAUSE));
            }
            if let Some(unit) = tap.next() {
                *burst -= usize::from(is_video);
                let (instant, time) = *base.get_or_insert((now, unit.time));
                let ahead = unit.time.saturating_since(time);
                let wallclock = match instant.checked_sub(time.saturating_since(unit.time)) {
                    Some(before) if unit.time < time => before,
                    _ => instant + ahead,
                };
                return Ok(lane.outgoing(&unit, wallclock));
            }
        }
        Err(None)
    }

    /// The viewer cannot decode on, or has lost too much: it asks for a keyframe.
    pub fn ask_for_keyframe(&mut self, now: Instant) {
        if self.asked.is_some_and(|asked| now.saturating_duration_since(asked) < KEYFRAME_INTERVAL) {
            return;
        }
        self.asked = Some(now);
        if let Some(tap) = self.video() {
            tap.ask_for_keyframe();
        }
    }

    /// The way to the viewer is too narrow: what is left of the group under way is left out, and sound goes on.
    pub fn skip(&mut self) {
        if let Some(tap) = self.video() {
            tap.skip_group();
        }
    }

    fn video(&mut self) -> Option<&mut Tap> {
        let lane = self.lanes.iter_mut().find(|lane| matches!(lane.kind, Kind::Video(_)))?;
        lane.tap.as_mut()
    }
}

impl Lane {
    fn outgoing(&mut self, unit: &Unit, wallclock: Instant) -> Outgoing {
        let micros = unit.time.as_micros();
        let (rtp, data) = match &mut self.kind {
            Kind::Video(form) => {
                (MediaTime::from_90khz(micros / 100 * 9 + micros % 100 * 9 / 100), form.open(unit))
            }
            Kind::Audio(next) => {
                let samples = micros / 125 * 6 + micros % 125 * 6 / 125;
                let samples = next.filter(|next| next.abs_diff(samples) <= GAP).unwrap_or(samples);
                let length = opus::duration(&unit.data).unwrap_or_default();
                *next = Some(samples + length.as_micros() as u64 * 48 / 1_000);
                (MediaTime::new(samples, Frequency::FORTY_EIGHT_KHZ), Arc::from(&unit.data[..]))
            }
        };
        Outgoing { line: self.line, wallclock, rtp, data, is_video: matches!(self.kind, Kind::Video(_)) }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn choice(video: &str, audio: &str) -> Choice {
        let json =
            format!(r#"{{"video":{{"renditions":{{{video}}}}},"audio":{{"renditions":{{{audio}}}}}}}"#);
        Choice::of(&Catalog::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn the_best_that_webrtc_can_carry_is_chosen() {
        let all = choice(
            r#""a":{"codec":"avc3.42c01f","bitrate":1},"b":{"codec":"avc3.64001f","bitrate":3},"c":{"codec":"av01.0.04M.08","bitrate":9}"#,
            r#""m":{"codec":"mp4a.40.2","sampleRate":48000,"numberOfChannels":2},"o":{"codec":"opus","sampleRate":48000,"numberOfChannels":2}"#,
        );
        let video = all.video.unwrap();
        assert_eq!((video.track.as_str(), video.codec, video.profile), ("b", Codec::H264, Some(0x64)));
        assert_eq!((all.audio.as_deref(), all.unfit), (Some("o"), None));
        let none = choice(r#""c":{"codec":"av01.0.04M.08"}"#, "");
        assert!(none.video.is_none() && none.audio.is_none());
        assert_eq!(none.unfit.as_deref(), Some("av01.0.04M.08"));
        assert_eq!(choice(r#""v":{"codec":"vp8"}"#, "").video.unwrap().codec, Codec::Vp8);
        // Parameter sets that cannot be read, and another container.
        assert!(choice(r#""c":{"codec":"avc1.42c01f","description":"0x"}"#, "").video.is_none());
        assert!(choice(r#""c":{"codec":"vp8","container":{"kind":"cmaf"}}"#, "").video.is_none());
    }

    #[test]
    fn lengths_become_start_codes_and_parameter_sets_come_with_keyframes() {
        let record = b"\x01\x42\xc0\x1f\xff\xe1\0\x04\x67\x42\xc0\x1f\x01\0\x02\x68\xce";
        let form = Form::LengthPrefixed(ParameterSets::from_avcc(record).unwrap());
        let mut unit =
            Unit { group: 1, first: true, time: Time::ZERO, data: Bytes::from_static(b"\0\0\0\x02\x65\x88") };
        assert_eq!(&form.open(&unit)[..], b"\0\0\0\x01\x67\x42\xc0\x1f\0\0\0\x01\x68\xce\0\0\0\x01\x65\x88");
        unit.first = false;
        assert_eq!(&form.open(&unit)[..], b"\0\0\0\x01\x65\x88");
        unit.data = Bytes::from_static(b"\0\0\0\x01\x41\0\0\0\x09\x41");
        assert_eq!(&form.open(&unit)[..], b"\0\0\0\x01\x41");
    }

    #[test]
    fn sound_goes_on_evenly_and_jumps_over_holes() {
        let line = Line { mid: "0".into(), pt: 111.into() };
        let mut lane = Lane { track: "audio".into(), line, kind: Kind::Audio(None), tap: None };
        let start = 1_800_000_000_000_007;
        let mut rtp = |micros: u64| {
            let unit = Unit {
                group: 1,
                first: true,
                time: Time::from_micros(start + micros),
                data: Bytes::from_static(&[0xf4, 0]),
            };
            lane.outgoing(&unit, Instant::now()).rtp.numer()
        };
        let first = rtp(0);
        assert_eq!(first, start * 6 / 125);
        // 10 ms each, with jitter; then 100 ms are missing.
        let times = [10_000, 20_090, 29_600, 40_000, 150_000, 160_000];
        assert_eq!(times.map(|micros| rtp(micros) - first), [480, 960, 1440, 1920, 7200, 7680]);
    }
}
