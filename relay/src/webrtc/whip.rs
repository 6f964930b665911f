//! WHIP: a program brings a show. Frames of RTP become frames of the show, as they are; groups begin at keyframes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use media::catalog::Catalog;
use media::h264::{self, NalType, ParameterSets, Sps};
use media::{AudioConfig, Frame, FrameId, Time, Track, TrackConfig, TrackId, VideoConfig, opus, vp8};
use str0m::format::Codec;
use str0m::media::{MediaData, Mid};

use super::clock::{Report, SenderClock, TrackClock};
use crate::broadcasts::{Broadcasts, Outcome, Record};
use crate::clock::Clock;
use crate::origin::{Origin, Publication, Written};

/// With no keyframe for so long, one is asked for: newcomers start at one.
const KEYFRAME_AGE: Duration = Duration::from_secs(2);

/// And not more often than this, whoever needs it.
const KEYFRAME_INTERVAL: Duration = Duration::from_millis(500);

/// A program that announced pictures and brings only sound for so long is a show of sound.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sound has groups of this length, as that of our encoder.
const SOUND_GROUP: Duration = Duration::from_millis(500);

/// Groups a second that numbers have room for: see decision 0006.
const GROUPS_PER_SECOND: u64 = 4;

/// The catalog's word for what nobody has said: browsers send up to 2.5 Mb/s of pictures, and 64 kb/s of sound.
const VIDEO_BITRATE: u32 = 2_500_000;
const AUDIO_BITRATE: u32 = 64_000;

/// Where a track is in its groups.
#[derive(Debug)]
struct Place {
    /// The group under way, its next frame, and when it began.
    group: Option<(u64, u32, Time)>,
    newest: Option<u64>,
}

impl Place {
    const fn new() -> Self {
        Self { group: None, newest: None }
    }

    /// A group begins. Numbers start from the wall clock, so that one who comes back continues above.
    fn begin(&mut self, now: Time) {
        let first = now.as_micros() / 1_000_000 * GROUPS_PER_SECOND;
        let group = self.newest.map_or(first, |newest| newest + 1);
        (self.newest, self.group) = (Some(group), Some((group, 0, now)));
    }

    /// The next frame's name; `None`: no group is under way.
    fn next(&mut self, track: TrackId) -> Option<FrameId> {
        let (group, frame, _) = self.group.as_mut()?;
        let id = FrameId { track, group: *group, frame: *frame };
        *frame += 1;
        Some(id)
    }
}

/// Pictures.
struct Video {
    mid: Mid,
    codec: Codec,
    clock: TrackClock,
    place: Place,
    /// The last ones seen, for keyframes that come without.
    sets: Option<ParameterSets>,
    /// When a keyframe came, or the session began; and when one was asked for.
    keyframe: Instant,
    asked: Option<Instant>,
    /// One is needed to go on.
    needed: bool,
}

/// Sound.
struct Audio {
    mid: Mid,
    clock: TrackClock,
    place: Place,
    /// When the first packet came.
    begun: Option<Instant>,
}

/// A show that comes in.
pub(super) struct Publish {
    name: String,
    /// Of the session, in the record.
    id: String,
    origin: Origin,
    broadcasts: Broadcasts,
    record: Record,
    clock: Clock,
    sender: SenderClock,
    video: Option<Video>,
    audio: Option<Audio>,
    publication: Option<Publication>,
}

const VIDEO: TrackId = TrackId(0);
const SOUND: TrackId = TrackId(1);

/// What a publisher has to do with.
#[derive(Clone)]
pub(super) struct House {
    pub origin: Origin,
    pub broadcasts: Broadcasts,
    pub clock: Clock,
}

impl Drop for Publish {
    fn drop(&mut self) {
        self.broadcasts.end(&self.name, &self.id);
    }
}

impl Publish {
    /// `record` was begun for `id`; it ends with this.
    pub fn new(
        house: House,
        name: String,
        id: String,
        record: Record,
        video: Option<(Mid, Codec)>,
        audio: Option<Mid>,
        now: Instant,
    ) -> Self {
        let House { origin, broadcasts, clock } = house;
        let video = video.map(|(mid, codec)| Video {
            mid,
            codec,
            clock: TrackClock::new(90_000),
            place: Place::new(),
            sets: None,
            keyframe: now,
            asked: None,
            needed: true,
        });
        let audio = audio.map(|mid| Audio {
            mid,
            clock: TrackClock::new(opus::SAMPLE_RATE),
            place: Place::new(),
            begun: None,
        });
        let sender = SenderClock::default();
        Self { name, id, origin, broadcasts, record, clock, sender, video, audio, publication: None }
    }

    /// Whether it is still this session's show: a publisher that fell silent may have been replaced.
    pub fn is_current(&self) -> bool {
        self.broadcasts.is_session(&self.name, &self.id)
    }

    /// Takes a frame.
    pub fn take(&mut self, data: &MediaData, now: Instant) {
        let arrived = self.clock.now() - now.saturating_duration_since(data.network_time);
        let report = data.last_sender_info.map(|info| {
            let wall = info.ntp_time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            Report { wall_us: wall.as_micros() as u64, rtp: info.rtp_time.numer() as u32 }
        });
        let rtp = data.time.numer();
        if let Some(video) = self.video.as_mut().filter(|video| video.mid == data.mid) {
            let captured = video.clock.capture(rtp, report, &mut self.sender, arrived);
            let frame = video.frame(data, captured, now, self.publication.as_mut());
            if let Some((frame, config)) = frame {
                if let Some(config) = config.filter(|_| self.publication.is_none()) {
                    self.publish(Some(config));
                }
                self.write(frame, arrived);
            }
        } else if let Some(audio) = self.audio.as_mut().filter(|audio| audio.mid == data.mid) {
            let captured = audio.clock.capture(rtp, report, &mut self.sender, arrived);
            let begun = *audio.begun.get_or_insert(now);
            let frame = audio.frame(data, captured);
            let no_pictures = self.video.is_none() || now.saturating_duration_since(begun) > PATIENCE;
            if self.publication.is_none() && no_pictures {
                self.publish(None);
            }
            if let Some(frame) = frame {
                self.write(frame, arrived);
            }
        }
    }

    /// Begins the show, with what is known of it now.
    fn publish(&mut self, video: Option<VideoConfig>) {
        let mut tracks = Vec::new();
        if let Some(config) = video {
            let name = format!("video/{}p", config.height);
            tracks.push(Track { id: VIDEO, name, config: TrackConfig::Video(config) });
        } else {
            self.video = None;
        }
        if self.audio.is_some() {
            let (codec, sample_rate) = ("opus".into(), opus::SAMPLE_RATE);
            let config = AudioConfig { codec, sample_rate, channels: 2, bitrate: AUDIO_BITRATE };
            tracks.push(Track { id: SOUND, name: "audio".into(), config: TrackConfig::Audio(config) });
        }
        let catalog = Catalog::from_tracks(&tracks);
        match self.origin.publish(&self.name, &catalog) {
            Ok(publication) => {
                tracing::info!(broadcast = %self.name, "on the air over WHIP");
                self.publication = Some(publication);
            }
            Err(error) => tracing::warn!(broadcast = %self.name, %error, "cannot be published"),
        }
    }

    fn write(&mut self, mut frame: Frame, arrived: Time) {
        let Some(publication) = &mut self.publication else { return };
        // A show of sound has one track.
        if self.video.is_none() {
            frame.id.track = TrackId(0);
        }
        let outcome = match publication.write(&frame) {
            Ok(Written::Published) => Outcome::Published,
            Ok(Written::Undecodable) => Outcome::Undecodable,
            Ok(Written::Refused) => Outcome::Refused,
            Err(error) => {
                tracing::warn!(broadcast = %self.name, %error, "frame not published");
                Outcome::Refused
            }
        };
        let published = self.clock.now();
        self.record.trace(frame.id, frame.capture_time, arrived, published, frame.data.len(), outcome);
        self.record.update(|status| {
            status.last_frame = published;
            status.published += u64::from(outcome == Outcome::Published);
            status.groups += u64::from(outcome == Outcome::Published && frame.id.frame == 0);
            status.media_bytes += frame.data.len() as u64;
        });
    }

    /// Of which track a keyframe is to be asked for now, if any.
    pub fn keyframe_due(&mut self, now: Instant) -> Option<Mid> {
        let video = self.video.as_mut()?;
        let wanted = self.publication.as_ref().is_some_and(Publication::is_keyframe_wanted);
        video.needed |= wanted;
        let since = |at: Instant| now.saturating_duration_since(at);
        let old =
            since(video.keyframe) >= KEYFRAME_AGE && video.asked.is_none_or(|at| since(at) >= KEYFRAME_AGE);
        let soon = video.asked.is_none_or(|at| since(at) >= KEYFRAME_INTERVAL);
        if !(old || video.needed && soon) {
            return None;
        }
        video.asked = Some(now);
        self.record.update(|status| status.keyframe_requests += 1);
        Some(video.mid)
    }
}

impl Video {
    /// The frame, if it can be decoded, and at keyframes what the catalog has to say.
    fn frame(
        &mut self,
        data: &MediaData,
        captured: Time,
        now: Instant,
        publication: Option<&mut Publication>,
    ) -> Option<(Frame, Option<VideoConfig>)> {
        let key = self.keyframe(&data.data);
        let (keyframe, config, bytes) = match key {
            Some((config, bytes)) => {
                (self.keyframe, self.needed) = (now, false);
                self.place.begin(captured);
                (true, Some(config), bytes)
            }
            None => {
                if !data.contiguous
                    && let Some((group, ..)) = self.place.group.take()
                {
                    self.needed = true;
                    if let Some(publication) = publication {
                        publication.lost(VIDEO, group);
                    }
                }
                (false, None, Bytes::copy_from_slice(&data.data))
            }
        };
        let id = self.place.next(VIDEO);
        self.needed |= id.is_none();
        Some((Frame { id: id?, capture_time: captured, keyframe, data: bytes }, config))
    }

    /// What the catalog says, and the whole keyframe; `None`: it is none, or nobody could start there.
    fn keyframe(&mut self, data: &[u8]) -> Option<(VideoConfig, Bytes)> {
        let config = |codec: String, width, height| VideoConfig {
            codec,
            width,
            height,
            framerate: 0,
            bitrate: VIDEO_BITRATE,
        };
        if self.codec == Codec::Vp8 {
            let (width, height) = vp8::size(data)?;
            return Some((config(vp8::CODEC.into(), width, height), Bytes::copy_from_slice(data)));
        }
        let own = ParameterSets::of(data);
        let is_whole = own.is_some();
        if own.is_some() {
            self.sets = own;
        }
        if !h264::is_idr(data) {
            return None;
        }
        let sets = self.sets.as_ref()?;
        let sps = Sps::parse(sets.sps()).ok()?;
        let config = config(h264::codec_string(sets.sps()).ok()?, sps.width, sps.height);
        if is_whole {
            return Some((config, Bytes::copy_from_slice(data)));
        }
        let mut out = Vec::with_capacity(data.len() + 64);
        sets.iter().for_each(|set| h264::put_annex_b(set, &mut out));
        let rest = h264::nals(data).filter(|nal| !matches!(NalType::of(nal), NalType::Sps | NalType::Pps));
        rest.for_each(|nal| h264::put_annex_b(nal, &mut out));
        Some((config, out.into()))
    }
}

impl Audio {
    fn frame(&mut self, data: &MediaData, captured: Time) -> Option<Frame> {
        // What is no packet of Opus would end the show for its players.
        opus::duration(&data.data)?;
        if self.place.group.is_none_or(|(_, _, begun)| captured.saturating_since(begun) >= SOUND_GROUP) {
            self.place.begin(captured);
        }
        let id = self.place.next(SOUND)?;
        Some(Frame { id, capture_time: captured, keyframe: true, data: Bytes::copy_from_slice(&data.data) })
    }
}
