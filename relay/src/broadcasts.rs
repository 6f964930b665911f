//! What the relay knows of each broadcast: for the page's clock, the status, the metrics and the
//! latency harness.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use media::{Frame, FrameId, Time};
use serde::{Deserialize, Serialize};

use crate::control::Audience;
use crate::intake;
use crate::keep::{KeepStatus, KeepWatch};

/// Frames whose passage is remembered for `/api/trace`: about a minute of 30 fps video with its sound.
/// The oldest is forgotten first.
const TRACE_FRAMES: usize = 5_000;

/// A publisher over WHIP that has brought nothing for so long has no claim to the name any more: a program that crashed
/// comes back sooner than its dead connection is noticed.
const SILENT: Duration = Duration::from_secs(5);

/// Somebody else brings a broadcast of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("somebody else is on the air under this name")]
pub struct Taken;

/// Without a frame for this long a broadcast is not live.
const LIVE: Duration = Duration::from_secs(2);

/// A frame's passage through the edge. Times are on the broadcast clock, microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TraceEntry {
    /// Counts up; ask for what is after the last one seen.
    pub seq: u64,
    /// The frame (for a loss: the first of the lost run).
    #[serde(flatten)]
    pub id: FrameId,
    /// Capture time; 0 for a loss.
    pub capture_us: u64,
    /// The last missing piece came out of the bond.
    pub arrived_us: u64,
    /// Handed to the viewers.
    pub published_us: u64,
    /// Bytes of media.
    pub bytes: usize,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a frame at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Viewers have it.
    Published,
    /// It did not arrive by its deadline.
    Lost,
    /// It arrived, but an earlier frame of its group is lost.
    Undecodable,
    /// It does not belong to the show as announced.
    Refused,
}

/// One uplink of a broadcast, as the edge sees it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UplinkStatus {
    /// The creator's name for it.
    pub name: String,
    /// Whether its connection stands.
    pub connected: bool,
    /// How often it has called: more than once means that a connection was given up.
    pub calls: u64,
    /// Payload bytes of the bond's datagrams that arrived on it.
    pub bytes: u64,
    /// Datagrams that arrived on it.
    pub datagrams: u64,
}

/// What one viewer's page says of its own playing, every few seconds. No personal data.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Quality {
    /// Capture to canvas, milliseconds.
    pub latency_ms: QualityLatency,
    /// Pictures.
    pub frames: QualityFrames,
    /// Freezes.
    pub stalls: u64,
}

/// Capture to canvas, milliseconds, over the whole visit.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct QualityLatency {
    /// Half are at or below.
    pub p50: f64,
    /// 95 of 100 are at or below.
    pub p95: f64,
}

/// Pictures of one visit.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct QualityFrames {
    /// On the canvas.
    pub painted: u64,
    /// Too late to be shown.
    pub late: u64,
}

impl BroadcastStatus {
    /// What the venue is told of its viewers.
    pub fn audience(&self) -> Audience {
        let quality = self.quality.as_ref();
        Audience {
            viewers: u32::try_from(self.quality_viewers).unwrap_or(u32::MAX),
            p95_ms: quality.map(|quality| quality.latency_ms.p95 as u32),
            stalls: quality.map_or(0, |quality| quality.stalls),
        }
    }
}

/// A viewer that has said nothing for this long is gone.
const QUALITY_AGE: Duration = Duration::from_secs(6);

/// Viewers whose reports are kept; further ones are not asked. (The busiest relay measured by a peer
/// served 3,000.)
const QUALITY_VIEWERS: usize = 4096;

/// One broadcast.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BroadcastStatus {
    /// The bond's session. Not for strangers: it is what uplinks join by.
    #[serde(skip)]
    pub session: String,
    /// A frame came within the last two seconds; of what comes in over MoQ: it is announced.
    pub live: bool,
    /// It comes in over MoQ and not over a bond, from here. Its frames are not looked at, so nothing is counted.
    pub moq: Option<intake::From>,
    /// A program brings it over WHIP, and no bond does.
    pub whip: bool,
    /// By the bond's path number.
    pub uplinks: BTreeMap<u8, UplinkStatus>,
    /// Groups begun for viewers.
    pub groups: u64,
    /// Frames handed to viewers.
    pub published: u64,
    /// Frames given up at their deadline.
    pub lost: u64,
    /// Frames that came whole, but after they had been given up.
    pub late: u64,
    /// Frames that parity completed before a repair could.
    pub repaired: u64,
    /// Frames that nobody could decode, for want of an earlier one.
    pub undecodable: u64,
    /// Bytes of media handed to viewers.
    pub media_bytes: u64,
    /// Keyframes asked for.
    pub keyframe_requests: u64,
    /// Edge clock minus broadcast clock, microseconds, once the venue has measured it.
    pub clock_offset_us: Option<i64>,
    /// Half the smallest round trip of that measurement.
    pub clock_error_us: Option<u64>,
    /// The edge's own copy, where it keeps one.
    pub keep: Option<KeepStatus>,
    /// Of all viewers that report, the worst in each number.
    pub quality: Option<Quality>,
    /// Viewers that report.
    pub quality_viewers: usize,
    /// Edge time of the last frame.
    #[serde(skip)]
    pub last_frame: Time,
    /// Of what comes over WHIP: edge time of its beginning.
    #[serde(skip)]
    pub begun: Time,
}

struct Entry {
    status: BroadcastStatus,
    trace: VecDeque<TraceEntry>,
    next_seq: u64,
    /// By the viewer's random number.
    quality: BTreeMap<u64, (Time, Quality)>,
    keep: Option<KeepWatch>,
}

impl Entry {
    fn worst(&self) -> Option<Quality> {
        self.quality.values().map(|(_, quality)| quality).cloned().reduce(|a, b| Quality {
            latency_ms: QualityLatency {
                p50: a.latency_ms.p50.max(b.latency_ms.p50),
                p95: a.latency_ms.p95.max(b.latency_ms.p95),
            },
            frames: QualityFrames {
                painted: a.frames.painted.min(b.frames.painted),
                late: a.frames.late.max(b.frames.late),
            },
            stalls: a.stalls.max(b.stalls),
        })
    }
}

/// The record of one broadcast, shared by the task that feeds it and whoever asks.
#[derive(Clone)]
pub struct Record(Arc<Mutex<Entry>>);

impl Record {
    fn new(session: String) -> Self {
        let status = BroadcastStatus { session, ..BroadcastStatus::default() };
        Self(Arc::new(Mutex::new(Entry {
            status,
            trace: VecDeque::new(),
            next_seq: 0,
            quality: BTreeMap::new(),
            keep: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the status.
    pub fn update(&self, change: impl FnOnce(&mut BroadcastStatus)) {
        change(&mut self.lock().status);
    }

    /// The show is kept, and this tells how.
    pub fn keep(&self, watch: KeepWatch) {
        self.lock().keep = Some(watch);
    }

    /// The status at edge time `now`.
    pub fn status(&self, now: Time) -> BroadcastStatus {
        let mut entry = self.lock();
        entry.quality.retain(|_, (at, _)| now.saturating_since(*at) < QUALITY_AGE);
        let mut status = entry.status.clone();
        status.live = now.saturating_since(status.last_frame) < LIVE;
        status.keep = entry.keep.as_ref().map(KeepWatch::status);
        status.quality = entry.worst();
        status.quality_viewers = entry.quality.len();
        status
    }

    /// Whether it comes in over WHIP.
    pub fn is_whip(&self) -> bool {
        self.lock().status.whip
    }

    /// Takes one viewer's report. Returns whether there was room for it.
    pub fn report(&self, viewer: u64, quality: Quality, now: Time) -> bool {
        let mut entry = self.lock();
        let room = entry.quality.len() < QUALITY_VIEWERS || entry.quality.contains_key(&viewer);
        if room {
            entry.quality.insert(viewer, (now, quality));
        }
        room
    }

    /// Remembers a frame's passage. `arrived` and `published` are edge times.
    pub fn trace(
        &self,
        id: FrameId,
        capture: Time,
        arrived: Time,
        published: Time,
        bytes: usize,
        outcome: Outcome,
    ) {
        let mut entry = self.lock();
        let offset = entry.status.clock_offset_us.unwrap_or(0);
        if entry.trace.len() == TRACE_FRAMES {
            entry.trace.pop_front();
        }
        let seq = entry.next_seq;
        entry.next_seq += 1;
        entry.trace.push_back(TraceEntry {
            seq,
            id,
            capture_us: capture.as_micros(),
            arrived_us: arrived.offset_by(-offset).as_micros(),
            published_us: published.offset_by(-offset).as_micros(),
            bytes,
            outcome,
        });
    }

    /// Counts a frame that came at edge time `arrived`, and remembers its passage.
    pub fn passed(&self, frame: &Frame, arrived: Time, published: Time, outcome: Outcome) {
        let bytes = frame.data.len();
        self.trace(frame.id, frame.capture_time, arrived, published, bytes, outcome);
        self.update(|status| {
            status.last_frame = published;
            match outcome {
                Outcome::Published => {
                    status.published += 1;
                    status.groups += u64::from(frame.id.frame == 0);
                    status.media_bytes += bytes as u64;
                }
                Outcome::Undecodable => status.undecodable += 1,
                Outcome::Lost | Outcome::Refused => {}
            }
        });
    }

    /// The remembered passages from number `from` on.
    pub fn trace_from(&self, from: u64) -> Vec<TraceEntry> {
        let entry = self.lock();
        let skip = entry.trace.partition_point(|passage| passage.seq < from);
        entry.trace.iter().skip(skip).copied().collect()
    }
}

/// The records of all broadcasts that are on the air.
#[derive(Clone, Default)]
pub struct Broadcasts {
    records: Arc<Mutex<BTreeMap<String, Record>>>,
    /// What comes in over MoQ, and from where, once for each session that brings it.
    moq: Arc<Mutex<BTreeMap<String, Vec<intake::From>>>>,
}

/// A broadcast comes in over MoQ until this is dropped.
pub struct Coming {
    broadcasts: Broadcasts,
    name: String,
    from: intake::From,
}

impl Drop for Coming {
    fn drop(&mut self) {
        let mut moq = self.broadcasts.moq.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sessions) = moq.get_mut(&self.name) {
            if let Some(place) = sessions.iter().position(|from| *from == self.from) {
                sessions.swap_remove(place);
            }
            if sessions.is_empty() {
                moq.remove(&self.name);
            }
        }
    }
}

impl Broadcasts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a broadcast comes in over MoQ.
    pub fn come(&self, name: &str, from: intake::From) -> Coming {
        let mut moq = self.moq.lock().unwrap_or_else(PoisonError::into_inner);
        moq.entry(name.to_owned()).or_default().push(from);
        Coming { broadcasts: self.clone(), name: name.to_owned(), from }
    }

    /// Whether viewers can have it now: by a bond that brings frames, or over MoQ.
    pub fn is_live(&self, name: &str, now: Time) -> bool {
        let by_moq = || self.moq.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name);
        self.get(name).is_some_and(|record| record.status(now).live) || by_moq()
    }

    /// Begins a record, in place of an older session's.
    pub fn begin(&self, name: &str, session: &str) -> Record {
        let record = Record::new(session.to_owned());
        self.lock().insert(name.to_owned(), record.clone());
        record
    }

    /// Begins the record of a session over WHIP, unless somebody else brings a broadcast of this name.
    pub fn begin_whip(&self, name: &str, session: &str, now: Time) -> Result<Record, Taken> {
        let mut all = self.lock();
        if let Some(old) = all.get(name) {
            let status = &old.lock().status;
            if !status.whip || now.saturating_since(status.last_frame.max(status.begun)) < SILENT {
                return Err(Taken);
            }
        }
        if self.moq.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name) {
            return Err(Taken);
        }
        let record = Record::new(session.to_owned());
        // It has as long to bring its first frame.
        record.update(|status| (status.whip, status.begun) = (true, now));
        all.insert(name.to_owned(), record.clone());
        Ok(record)
    }

    /// Whether the broadcast is this session's.
    pub fn is_session(&self, name: &str, session: &str) -> bool {
        self.lock().get(name).is_some_and(|record| record.lock().status.session == session)
    }

    /// Ends a session's record; a newer session's stays.
    pub fn end(&self, name: &str, session: &str) {
        let mut all = self.lock();
        if all.get(name).is_some_and(|record| record.lock().status.session == session) {
            all.remove(name);
        }
    }

    /// The record of a broadcast.
    pub fn get(&self, name: &str) -> Option<Record> {
        self.lock().get(name).cloned()
    }

    /// All statuses at edge time `now`, by name. Of a name that a bond and MoQ bring, the bond's, as viewers see it.
    pub fn statuses(&self, now: Time) -> BTreeMap<String, BroadcastStatus> {
        let moq = self.moq.lock().unwrap_or_else(PoisonError::into_inner);
        let over_moq = |from: &Vec<intake::From>| BroadcastStatus {
            live: true,
            moq: from.last().copied(),
            ..BroadcastStatus::default()
        };
        let mut all: BTreeMap<_, _> = moq.iter().map(|(name, from)| (name.clone(), over_moq(from))).collect();
        drop(moq);
        all.extend(self.lock().iter().map(|(name, record)| (name.clone(), record.status(now))));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::TrackId;

    #[test]
    fn the_trace_is_bounded_and_can_be_read_on() {
        let record = Broadcasts::default().begin("demo", "s");
        record.update(|status| status.clock_offset_us = Some(-50));
        for frame in 0..TRACE_FRAMES as u32 + 10 {
            let id = FrameId { track: TrackId(0), group: 1, frame };
            record.trace(
                id,
                Time::ZERO,
                Time::from_micros(100),
                Time::from_micros(200),
                1,
                Outcome::Published,
            );
        }
        let all = record.trace_from(0);
        assert_eq!((all.len(), all[0].seq, all[0].arrived_us), (TRACE_FRAMES, 10, 150));
        assert_eq!(record.trace_from(all.last().unwrap().seq).len(), 1);
        assert!(record.trace_from(u64::MAX).is_empty());
    }

    #[test]
    fn viewers_that_fall_silent_are_forgotten() {
        let record = Broadcasts::default().begin("demo", "s");
        let quality = |p95| Quality { latency_ms: QualityLatency { p50: 1.0, p95 }, ..Quality::default() };
        assert!(record.report(1, quality(90.0), Time::from_millis(0)));
        assert!(record.report(2, quality(50.0), Time::from_millis(4_000)));
        let status = record.status(Time::from_millis(5_000));
        assert_eq!((status.quality_viewers, status.quality.unwrap().latency_ms.p95), (2, 90.0));
        let status = record.status(Time::from_millis(7_000));
        assert_eq!((status.quality_viewers, status.quality.unwrap().latency_ms.p95), (1, 50.0));
        assert!(record.status(Time::from_millis(20_000)).quality.is_none());
    }

    #[test]
    fn an_old_session_cannot_end_a_new_one() {
        let all = Broadcasts::default();
        all.begin("demo", "old");
        all.begin("demo", "new");
        all.end("demo", "old");
        assert!(all.get("demo").is_some());
        all.end("demo", "new");
        assert!(all.get("demo").is_none());
    }

    #[test]
    fn a_name_is_taken_until_its_publisher_over_whip_has_been_silent() {
        let all = Broadcasts::default();
        let at = |seconds: u64| Time::from_micros(seconds * 1_000_000);
        all.begin("bond", "b");
        assert_eq!(all.begin_whip("bond", "w", at(1_000)).err(), Some(Taken));
        let first = all.begin_whip("demo", "first", at(1_000)).unwrap();
        assert!(!all.is_live("demo", at(1_000)), "it has brought nothing yet");
        assert_eq!(all.begin_whip("demo", "second", at(1_004)).err(), Some(Taken));
        first.update(|status| status.last_frame = at(1_003));
        assert_eq!(all.begin_whip("demo", "second", at(1_007)).err(), Some(Taken));
        assert!(all.begin_whip("demo", "second", at(1_008)).is_ok());
        assert!(all.is_session("demo", "second") && !all.is_session("demo", "first"));
        all.end("demo", "first");
        assert!(all.is_session("demo", "second"), "the silent one ends nothing");
        let _coming = all.come("moq", intake::From::Guest);
        assert_eq!(all.begin_whip("moq", "w", at(1_000)).err(), Some(Taken));
    }

    #[test]
    fn what_two_sessions_bring_over_moq_stays_until_both_have_left() {
        let (all, now) = (Broadcasts::default(), Time::ZERO);
        let first = all.come("demo", intake::From::Guest);
        let second = all.come("demo", intake::From::Upstream);
        assert_eq!(all.statuses(now)["demo"].moq, Some(intake::From::Upstream));
        drop(second);
        assert_eq!(all.statuses(now)["demo"].moq, Some(intake::From::Guest));
        assert!(all.is_live("demo", now) && !all.is_live("other", now));
        all.begin("demo", "bond");
        assert_eq!(all.statuses(now)["demo"].moq, None);
        all.end("demo", "bond");
        drop(first);
        assert!(all.statuses(now).is_empty() && !all.is_live("demo", now));
    }
}
