//! The report of a run: every captured frame is followed by name through encoder, bond, relay and
//! browser, and every one that was not painted is counted with its cause.

use std::collections::{BTreeMap, HashMap};

use hdrhistogram::Histogram;
use media::TrackId;
use serde::{Deserialize, Serialize};

use crate::show::Encoded;

/// Latencies are kept to 1 us up to a minute, with three digits.
const LONGEST_MICROS: u64 = 60_000_000;

/// What the edge tells of a frame (`/api/trace`).
#[derive(Clone, Debug, Deserialize)]
pub struct EdgePassage {
    /// Counts up.
    pub seq: u64,
    /// Track number.
    pub track: u8,
    /// Group number.
    pub group: u64,
    /// Position in the group.
    pub frame: u32,
    /// On the broadcast clock; 0 for a loss.
    pub capture_us: u64,
    /// Out of the bond.
    pub arrived_us: u64,
    /// Handed to viewers.
    pub published_us: u64,
    /// `published`, `lost`, `undecodable`, `refused`.
    pub outcome: String,
}

/// What the page tells of a frame (`roadie.takeTrace()`).
#[derive(Clone, Debug, Deserialize)]
pub struct PagePassage {
    /// Group number.
    pub group: u64,
    /// Position in the group.
    pub frame: u32,
    /// On the broadcast clock.
    pub capture_us: f64,
    /// Last byte from the network.
    pub arrived_us: f64,
    /// Given to the decoder.
    pub decode_start_us: Option<f64>,
    /// Out of the decoder.
    pub decoded_us: Option<f64>,
    /// On the canvas.
    pub painted_us: Option<f64>,
    /// Why it was not painted.
    pub cause: Option<String>,
    /// Read back from the painted picture, in probe mode.
    #[serde(default)]
    pub mark: Option<Mark>,
}

/// The machine-readable mark of the test picture.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Mark {
    /// Captured frame number, 16 bits.
    pub counter: u16,
    /// Low 40 bits of the capture time in Unix milliseconds.
    pub time_ms: f64,
}

/// Everything that was seen, before it is summed up.
#[derive(Default)]
pub struct Evidence {
    /// Both tracks, in the order of the encoder.
    pub encoded: Vec<Encoded>,
    /// Both tracks.
    pub edge: Vec<EdgePassage>,
    /// Video only.
    pub page: Vec<PagePassage>,
    /// The page's last `roadie.stats()`.
    pub stats: serde_json::Value,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Quantiles {
    /// Half are at or below.
    pub p50: f64,
    /// 95 of 100 are at or below.
    pub p95: f64,
    /// 99 of 100 are at or below.
    pub p99: f64,
    /// None is above.
    pub max: f64,
}

/// Counts of video frames.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Frames {
    /// Raw frames that came from the source.
    pub captured: u64,
    /// Out of the encoder.
    pub encoded: u64,
    /// Handed to the bond.
    pub sent: u64,
    /// Whole at the edge, in time.
    pub received: u64,
    /// On the canvas.
    pub painted: u64,
    /// Came too late to be shown in order.
    pub late: u64,
    /// Let go by a page whose machine could not decode them all.
    pub shed: u64,
    /// Should have been painted and never were, neither late nor let go on purpose.
    pub missing: u64,
    /// All that were not painted, by cause.
    pub unpainted: BTreeMap<String, u64>,
}

/// One uplink.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UplinkReport {
    /// The creator's name for it.
    pub name: String,
    /// On the wire, with QUIC, UDP and IP headers.
    pub bytes: u64,
    /// Of all uplinks' bytes, 0 to 1.
    pub share: f64,
    /// Datagrams lost of datagrams sent, 0 to 1.
    pub loss: f64,
    /// Smoothed one-way delay at the end of the run, milliseconds.
    pub owd_ms: Option<f64>,
    /// How often the bond found it silent.
    pub suspected: u64,
}

/// One copy of the recording.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RecordingReport {
    /// The (last) file.
    pub path: String,
    /// Length.
    pub seconds: f64,
    /// Video frames.
    pub frames: u64,
    /// An independent program (GStreamer's command line) decodes it from beginning to end.
    pub playable: bool,
}

/// Sound in the browser.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AudioReport {
    /// Times that the speaker ran out of samples.
    pub underruns: u64,
    /// Sound against picture; positive: sound late.
    pub drift_ms: Option<f64>,
}

/// The whole report.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Length of the show.
    pub seconds: f64,
    /// Why the run is no success; empty is success.
    pub failures: Vec<String>,
    /// Counts of video frames.
    pub frames: Frames,
    /// Capture to canvas.
    pub glass_to_glass_ms: Quantiles,
    /// The same, split. Medians of stages do not add up to the median of the whole.
    pub stages_ms: BTreeMap<&'static str, Quantiles>,
    /// Page opened to first picture.
    pub first_frame_ms: Option<f64>,
    /// Freezes longer than max(3 mean frame gaps, mean + 150 ms).
    pub stalls: u64,
    /// Each uplink.
    pub uplinks: Vec<UplinkReport>,
    /// Bytes on the wire (all uplinks, all headers) over bytes of media.
    pub redundancy: f64,
    /// Shards sent again, and sent twice for safety.
    pub shards_retransmitted: u64,
    /// See above.
    pub shards_duplicated: u64,
    /// Mean bits per second of media.
    pub media_bitrate: f64,
    /// Each copy.
    pub recordings: Vec<RecordingReport>,
    /// Sound.
    pub audio: AudioReport,
    /// How sure the page is of the broadcast clock: every latency above is right to within this.
    pub clock_error_ms: Option<f64>,
    /// Times that this process was not scheduled for more than 20 ms: above 0, latencies are the
    /// machine's as much as ours.
    pub scheduler_stalls: u64,
    /// What the run was asked to do.
    pub command: Vec<String>,
}

/// Collects one stage.
struct Stage(Histogram<u64>);

impl Stage {
    fn new() -> Self {
        // The bounds are constants that the library accepts.
        #[allow(clippy::unwrap_used)]
        Self(Histogram::new_with_bounds(1, LONGEST_MICROS, 3).unwrap())
    }

    fn add(&mut self, from_us: f64, to_us: f64) {
        self.0.saturating_record((to_us - from_us).clamp(0.0, LONGEST_MICROS as f64) as u64);
    }

    fn quantiles(&self) -> Quantiles {
        let millis = |q| self.0.value_at_quantile(q) as f64 / 1e3;
        Quantiles { p50: millis(0.5), p95: millis(0.95), p99: millis(0.99), max: self.0.max() as f64 / 1e3 }
    }
}

/// P50 and P95 of some latencies in milliseconds, for the terminal.
pub fn quantiles(micros: impl IntoIterator<Item = f64>) -> Quantiles {
    let mut stage = Stage::new();
    for value in micros {
        stage.add(0.0, value);
    }
    stage.quantiles()
}

/// When the page leaves a group, it cancels the stream: the frames that were still to come never get a
/// record of their own. By group: why it was left, told by the page's last frame of it.
fn let_go(page: &[PagePassage]) -> HashMap<u64, &str> {
    let mut last: HashMap<u64, &PagePassage> = HashMap::new();
    for passage in page {
        let slot = last.entry(passage.group).or_insert(passage);
        if passage.frame > slot.frame {
            *slot = passage;
        }
    }
    let newest = last.keys().max().copied().unwrap_or(0);
    last.into_iter()
        .filter(|(group, _)| *group < newest)
        .map(|(group, passage)| (group, passage.cause.as_deref().unwrap_or("late_group")))
        .collect()
}

impl Evidence {
    /// What became of the frame with this (group, frame) at the page, where the edge published it: `None`
    /// when the page painted it, else the cause.
    pub fn unpainted_cause(&self, group: u64, frame: u32) -> Option<&str> {
        let mut passages = self.page.iter().filter(|p| (p.group, p.frame) == (group, frame)).peekable();
        if passages.peek().is_none() {
            return Some(let_go(&self.page).get(&group).copied().unwrap_or("relay_to_browser"));
        }
        let mut cause = None;
        for passage in passages {
            if passage.painted_us.is_some() {
                return None;
            }
            cause = passage.cause.as_deref();
        }
        Some(cause.unwrap_or("unknown"))
    }

    /// Follows every video frame and fills the report's frame counts, latencies and stages.
    pub fn judge(&self, video: TrackId, report: &mut Report) {
        let edge: HashMap<(u64, u32), &EdgePassage> = self
            .edge
            .iter()
            .filter(|passage| passage.track == video.0)
            .map(|passage| ((passage.group, passage.frame), passage))
            .collect();
        let mut page: HashMap<(u64, u32), &PagePassage> = HashMap::new();
        for passage in &self.page {
            // After a reconnect a frame may come a second time; its painting is what counts.
            let slot = page.entry((passage.group, passage.frame)).or_insert(passage);
            if passage.painted_us.is_some() {
                *slot = passage;
            }
        }
        let let_go = let_go(&self.page);
        let painted = |id: &(u64, u32)| page.get(id).is_some_and(|passage| passage.painted_us.is_some());
        let video: Vec<&Encoded> = self.encoded.iter().filter(|frame| frame.id.track == video).collect();
        let id = |frame: &Encoded| (frame.id.group, frame.id.frame);
        let first = video.iter().position(|frame| painted(&id(frame)));

        let mut stages: BTreeMap<&'static str, Stage> = BTreeMap::new();
        let mut stage =
            |name, from: f64, to: f64| stages.entry(name).or_insert_with(Stage::new).add(from, to);
        let mut whole = Stage::new();
        let frames = &mut report.frames;
        for (n, frame) in video.iter().enumerate() {
            let (captured, encoded) = (frame.captured.as_micros() as f64, frame.encoded.as_micros() as f64);
            stage("capture_to_encoded", captured, encoded);
            let at_edge = edge.get(&id(frame));
            if let Some(passage) = at_edge.filter(|passage| passage.outcome == "published") {
                frames.received += 1;
                stage("bond", encoded, passage.published_us as f64);
            }
            let at_page = page.get(&id(frame));
            if let (Some(passage), Some(at_page)) = (at_edge, at_page)
                && at_page.arrived_us > 0.0
                && first.is_some_and(|first| n > first)
            {
                stage("relay_to_browser", passage.published_us as f64, at_page.arrived_us);
            }
            if let Some(at_page) = at_page
                && let Some(painted) = at_page.painted_us
            {
                frames.painted += 1;
                whole.add(captured, painted);
                if let (Some(start), Some(end)) = (at_page.decode_start_us, at_page.decoded_us) {
                    stage("decode", start, end);
                    // Held on purpose until its playout time, then drawn.
                    stage("paint", end, painted);
                }
                continue;
            }
            let cause = match (at_page.and_then(|passage| passage.cause.as_deref()), at_edge) {
                _ if first.is_none_or(|first| n < first) => "before_first_picture",
                (Some(cause), _) => cause,
                (None, None) => "bond",
                (None, Some(passage)) if passage.outcome != "published" => passage.outcome.as_str(),
                (None, Some(passage)) => let_go.get(&passage.group).copied().unwrap_or("relay_to_browser"),
            };
            *frames.unpainted.entry(cause.to_owned()).or_default() += 1;
            match cause {
                // Before the page was there, or decoded only because later frames need them.
                "before_first_picture" | "catch_up" => {}
                "late_group" | "superseded" => frames.late += 1,
                "overload" => frames.shed += 1,
                _ => frames.missing += 1,
            }
        }
        report.glass_to_glass_ms = whole.quantiles();
        report.stages_ms = stages.into_iter().map(|(name, stage)| (name, stage.quantiles())).collect();

        let stats = &self.stats;
        report.first_frame_ms = stats["first_frame_ms"].as_f64();
        report.stalls = stats["stalls"].as_u64().or(stats["stalls"].as_f64().map(|n| n as u64)).unwrap_or(0);
        report.audio.underruns = stats["audio"]["underruns"].as_f64().unwrap_or(0.0) as u64;
        report.audio.drift_ms = stats["audio"]["drift_ms"].as_f64();
        report.clock_error_ms = stats["clock"]["error_us"].as_f64().map(|us| us / 1e3);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::{FrameId, Time};

    const VIDEO: TrackId = TrackId(0);

    fn encoded(frame: u32) -> Encoded {
        let captured = Time::from_millis(1000 + u64::from(frame) * 33);
        let id = FrameId { track: VIDEO, group: 7, frame };
        Encoded { id, captured, encoded: captured.offset_by(5_000) }
    }

    fn at_edge(frame: u32, outcome: &str) -> EdgePassage {
        let published_us = encoded(frame).encoded.as_micros() + 30_000;
        EdgePassage {
            seq: u64::from(frame),
            track: 0,
            group: 7,
            frame,
            capture_us: 0,
            arrived_us: published_us,
            published_us,
            outcome: outcome.into(),
        }
    }

    fn at_page(frame: u32, cause: Option<&str>) -> PagePassage {
        let arrived = at_edge(frame, "").published_us as f64 + 2_000.0;
        PagePassage {
            group: 7,
            frame,
            capture_us: encoded(frame).captured.as_micros() as f64,
            arrived_us: arrived,
            decode_start_us: Some(arrived),
            decoded_us: Some(arrived + 3_000.0),
            painted_us: cause.is_none().then_some(arrived + 60_000.0),
            cause: cause.map(str::to_owned),
            mark: None,
        }
    }

    #[test]
    fn the_rest_of_a_group_that_the_page_left_has_its_cause() {
        let mut next = at_page(9, None);
        next.group = 8;
        let evidence = Evidence {
            encoded: (0..3).map(encoded).collect(),
            edge: (0..3).map(|n| at_edge(n, "published")).collect(),
            page: vec![at_page(0, None), at_page(1, Some("overload")), next],
            ..Evidence::default()
        };
        let mut report = Report::default();
        evidence.judge(VIDEO, &mut report);
        assert_eq!((report.frames.painted, report.frames.shed, report.frames.missing), (1, 2, 0));
    }

    #[test]
    fn every_frame_is_accounted_for() {
        let evidence = Evidence {
            encoded: (0..8).map(encoded).collect(),
            // 5 never came out of the bond; 6 could not be decoded for that; 7 got lost on the way to the browser.
            edge: (0..8)
                .filter(|n| *n != 5)
                .map(|n| at_edge(n, if n == 6 { "undecodable" } else { "published" }))
                .collect(),
            // 0 was before the page, 3 was overtaken.
            page: vec![at_page(1, None), at_page(2, None), at_page(3, Some("superseded")), at_page(4, None)],
            stats: serde_json::json!({"first_frame_ms": 300.5, "stalls": 1}),
        };
        let mut report = Report::default();
        evidence.judge(VIDEO, &mut report);
        let frames = &report.frames;
        assert_eq!((frames.received, frames.painted, frames.late, frames.missing), (6, 3, 1, 3));
        let causes: Vec<(&str, u64)> = frames.unpainted.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        assert_eq!(
            causes,
            [
                ("before_first_picture", 1),
                ("bond", 1),
                ("relay_to_browser", 1),
                ("superseded", 1),
                ("undecodable", 1)
            ]
        );
        assert!((report.glass_to_glass_ms.p50 - 97.0).abs() < 0.2, "{:?}", report.glass_to_glass_ms);
        assert!((report.stages_ms["bond"].p50 - 30.0).abs() < 0.1);
        assert_eq!((report.first_frame_ms, report.stalls), (Some(300.5), 1));
    }
}
