//! All seeds of a scenario in one: figures, text, JSON.

use std::fmt::Write;

use serde::Serialize;
use serde_json::{Value, json};

use super::plan::Plan;
use super::scenario::Scenario;
use super::simulate::{Run, millis, used};
use super::tally::{Kind, Outcome, Times, part, times};

/// One uplink over all runs.
#[derive(Clone, Debug)]
struct Line {
    /// Bytes put into it, headers and all.
    sent: u64,
    /// Bits delivered and bits that it could have carried, while frames came.
    used: (f64, f64),
    packets: u64,
    arrived: u64,
    no_room: u64,
    /// Bits of somebody else's flow that arrived.
    rival: f64,
    suspected: u64,
    queueing: Times,
}

/// A scenario over all its seeds.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The scenario's name.
    pub name: String,
    /// What it is to show.
    pub about: String,
    /// Video frames.
    pub video: Kind,
    /// Audio packets.
    pub audio: Kind,
    /// Each run, by seed.
    pub runs: Vec<Run>,
    /// Runs that ended in a panic: seed, and variant as in [`Run::variant`].
    pub broken: Vec<(u64, usize)>,
    lines: Vec<Line>,
    /// Simulated events.
    events: u64,
}

/// The figures that are judged.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// Video frames' latency, ms: half are at or below.
    pub p50_ms: f64,
    /// 95 of 100 are at or below.
    pub p95_ms: f64,
    /// 99 of 100 are at or below.
    pub p99_ms: f64,
    /// The worst of all runs.
    pub max_ms: f64,
    /// Video frames,
    pub frames: u64,
    /// after the deadline,
    pub late: u64,
    /// or never;
    pub lost: u64,
    /// audio packets after the deadline, or never.
    pub audio_missed: u64,
    /// Video frames that even the oracle loses,
    pub oracle_lost: u64,
    /// and audio packets.
    pub oracle_audio_lost: u64,
    /// Runs that came to their end,
    pub runs: usize,
    /// and those that ended in a panic.
    pub broken_runs: usize,
    /// Runs in which the oracle loses something.
    pub infeasible_runs: usize,
    /// In all other runs: frames of both kinds late or lost.
    pub missed_where_feasible: u64,
    /// Bytes on the uplinks over bytes of media, mean of the runs.
    pub wire_over_media: f64,
    /// Repeats and parity over media, mean of the runs,
    pub redundancy: f64,
    /// and the worst run.
    pub redundancy_max: f64,
    /// Arrived in time, in wire bytes, over the sum of the capacities; mean of the runs.
    pub goodput: f64,
    /// Video that arrived in time, Mb/s, mean of the runs.
    pub video_mbps: f64,
    /// Sum of the uplinks' capacities, Mb/s, mean of the runs.
    pub capacity_mbps: f64,
    /// Where somebody competes: our part of the uplink, and theirs.
    pub shares: Option<(f64, f64)>,
    /// Video in time over what the oracle sustains: mean of the feasible runs (following encoder only),
    pub follow_ratio: Option<f64>,
    /// and the oracle's rate, Mb/s, mean of these runs.
    pub sustainable_mbps: Option<f64>,
}

impl Summary {
    /// Of no run yet.
    pub fn new(scenario: &Scenario) -> Self {
        let line = Line {
            sent: 0,
            used: (0.0, 0.0),
            packets: 0,
            arrived: 0,
            no_room: 0,
            rival: 0.0,
            suspected: 0,
            queueing: times(),
        };
        Self {
            name: scenario.name.clone(),
            about: scenario.about.clone(),
            video: Kind::default(),
            audio: Kind::default(),
            runs: Vec::new(),
            broken: Vec::new(),
            lines: vec![line; scenario.uplinks()],
            events: 0,
        }
    }

    /// Adds a run.
    pub fn add(&mut self, plan: &Plan, run: Run, outcome: &Outcome) {
        self.video.merge(&outcome.video);
        self.audio.merge(&outcome.audio);
        self.runs.push(run);
        self.events += outcome.events;
        for (index, (line, uplink)) in self.lines.iter_mut().zip(&outcome.uplinks).enumerate() {
            let (bits, of) = used(plan, index, uplink.arrived.bytes);
            line.used = (line.used.0 + bits, line.used.1 + of);
            line.sent += uplink.sent.bytes;
            line.packets += uplink.sent.packets;
            line.arrived += uplink.arrived.packets;
            line.no_room += uplink.link.queue_drops + uplink.link.codel_drops;
            line.rival += uplink.rival.map_or(0.0, |rival| rival.delivered_bytes as f64 * 8.0);
            let path = outcome.sender.paths.iter().find(|path| usize::from(path.path.0) == index);
            line.suspected += path.map_or(0, |path| path.suspected);
            // Both have the same bounds, so that it cannot fail.
            let _ = line.queueing.add(&uplink.queueing);
        }
    }

    /// Adds what another thread ran.
    pub fn merge(&mut self, other: &Summary) {
        self.video.merge(&other.video);
        self.audio.merge(&other.audio);
        self.runs.extend(other.runs.iter().cloned());
        self.broken.extend(&other.broken);
        self.events += other.events;
        for (line, theirs) in self.lines.iter_mut().zip(&other.lines) {
            line.used = (line.used.0 + theirs.used.0, line.used.1 + theirs.used.1);
            line.sent += theirs.sent;
            line.packets += theirs.packets;
            line.arrived += theirs.arrived;
            line.no_room += theirs.no_room;
            line.rival += theirs.rival;
            line.suspected += theirs.suspected;
            let _ = line.queueing.add(&theirs.queueing);
        }
    }

    /// Brings the runs into the order of their seeds, whichever thread ran them.
    pub fn sort(&mut self) {
        self.runs.sort_by_key(|run| (run.seed, run.variant));
        self.broken.sort_unstable();
    }

    /// Simulated events.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The run that missed most, or else was slowest.
    pub fn worst(&self) -> Option<&Run> {
        let excess = |run: &Run| run.missed().saturating_sub(run.infeasible());
        self.runs.iter().max_by(|a, b| {
            (excess(a), a.missed()).cmp(&(excess(b), b.missed())).then(a.max_ms.total_cmp(&b.max_ms))
        })
    }

    /// The figures that are judged.
    pub fn figures(&self) -> Figures {
        let mean =
            |of: fn(&Run) -> f64| self.runs.iter().map(of).sum::<f64>() / self.runs.len().max(1) as f64;
        let sum = |of: fn(&Run) -> u64| self.runs.iter().map(of).sum();
        let feasible: Vec<&Run> = self.runs.iter().filter(|run| run.infeasible() == 0).collect();
        let followed: Vec<(f64, f64)> =
            feasible.iter().filter_map(|run| Some((run.video_mbps, run.sustainable_mbps?))).collect();
        let of_followed = |of: fn(&(f64, f64)) -> f64| {
            (!followed.is_empty()).then(|| followed.iter().map(of).sum::<f64>() / followed.len() as f64)
        };
        let latency = |of_all| millis(part(&self.video.latency, of_all));
        Figures {
            p50_ms: latency(0.5),
            p95_ms: latency(0.95),
            p99_ms: latency(0.99),
            max_ms: latency(1.0),
            frames: self.video.frames,
            late: self.video.late,
            lost: self.video.lost,
            audio_missed: self.audio.missed(),
            oracle_lost: sum(|run| run.oracle_lost),
            oracle_audio_lost: sum(|run| run.oracle_audio_lost),
            runs: self.runs.len(),
            broken_runs: self.broken.len(),
            infeasible_runs: self.runs.len() - feasible.len(),
            missed_where_feasible: feasible.iter().map(|run| run.missed()).sum(),
            wire_over_media: mean(|run| run.wire_over_media),
            redundancy: mean(|run| run.redundancy),
            redundancy_max: self.runs.iter().map(|run| run.redundancy).fold(0.0, f64::max),
            goodput: mean(|run| run.goodput),
            video_mbps: mean(|run| run.video_mbps),
            capacity_mbps: mean(|run| run.capacity_mbps),
            shares: self.shares(),
            follow_ratio: of_followed(|(got, bound)| got / bound),
            sustainable_mbps: of_followed(|(_, bound)| *bound),
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let f = self.figures();
        let mut text = format!("{}: {} runs", self.name, self.runs.len());
        if !self.about.is_empty() {
            let _ = write!(text, "; {}", self.about);
        }
        let _ = write!(
            text,
            "\n  video   P50 {:.0}  P95 {:.0}  P99 {:.0}  max {:.0} ms; {} late, {} lost of {} ({:.3} %)",
            f.p50_ms,
            f.p95_ms,
            f.p99_ms,
            f.max_ms,
            f.late,
            f.lost,
            f.frames,
            percent((f.late + f.lost) as f64, f.frames as f64),
        );
        if self.audio.frames > 0 {
            let audio = |of_all| millis(part(&self.audio.latency, of_all));
            let _ = write!(
                text,
                "\n  audio   P50 {:.0}  P95 {:.0}  P99 {:.0}  max {:.0} ms; {} late, {} lost of {}",
                audio(0.5),
                audio(0.95),
                audio(0.99),
                audio(1.0),
                self.audio.late,
                self.audio.lost,
                self.audio.frames,
            );
        }
        let _ = write!(
            text,
            "\n  oracle  {} video frames and {} audio packets lost even there, in {} runs; the uplinks' mean sum \
             is {:.2} Mb/s",
            f.oracle_lost, f.oracle_audio_lost, f.infeasible_runs, f.capacity_mbps,
        );
        if let (Some(ratio), Some(bound)) = (f.follow_ratio, f.sustainable_mbps) {
            let _ = write!(
                text,
                "\n  follow  {:.2} Mb/s of video in time, {:.3} of what the oracle sustains ({bound:.2} Mb/s)",
                f.video_mbps, ratio,
            );
        }
        let _ = write!(text, "\n  price   wire/media {:.3}, ", f.wire_over_media);
        if f.redundancy.is_finite() {
            let (mean, worst) = (100.0 * f.redundancy, 100.0 * f.redundancy_max);
            let _ = write!(text, "redundancy {mean:.2} % (worst run {worst:.2} %), ");
        }
        let _ = write!(text, "goodput {:.3} of the capacity", f.goodput);
        let all: u64 = self.lines.iter().map(|line| line.sent).sum();
        for (number, line) in self.lines.iter().enumerate() {
            let wait = |of_all| millis(part(&line.queueing, of_all));
            let _ = write!(
                text,
                "\n  uplink {}  {:4.1} % of the bytes, {:5.1} % used; own queue P50 {:.0}  P95 {:.0}  max {:.0} ms; \
                 lost {:.2} %, {} found no room; suspected {:.2} times a run",
                number + 1,
                percent(line.sent as f64, all as f64),
                percent(line.used.0, line.used.1),
                wait(0.5),
                wait(0.95),
                wait(1.0),
                percent(line.packets.saturating_sub(line.arrived) as f64, line.packets as f64),
                line.no_room,
                line.suspected as f64 / self.runs.len().max(1) as f64,
            );
            if line.rival > 0.0 {
                let part = percent(line.rival, line.used.1);
                let _ = write!(text, "\n            the Cubic flow there has {part:.1} %");
            }
        }
        if let Some((seed, _)) = self.broken.first() {
            let _ = write!(
                text,
                "\n  BROKEN  {} runs ended in a panic, the first with seed {seed}",
                self.broken.len()
            );
        }
        if let Some(worst) = self.worst() {
            let variant = match worst.variant {
                0 => String::new(),
                uplink => format!(" with uplink {uplink} cut"),
            };
            let _ = write!(
                text,
                "\n  worst   seed {}{variant}: {} late, {} lost, {} audio, max {:.0} ms (oracle loses {})",
                worst.seed,
                worst.late,
                worst.lost,
                worst.audio_missed,
                worst.max_ms,
                worst.infeasible(),
            );
        }
        text
    }

    /// Where somebody competes: our part of the uplink, and theirs.
    pub fn shares(&self) -> Option<(f64, f64)> {
        let line = self.lines.iter().find(|line| line.rival > 0.0)?;
        Some((line.used.0 / line.used.1.max(1.0), line.rival / line.used.1.max(1.0)))
    }

    /// The worst P95 of our packets' waiting at a bottleneck, ms.
    pub fn queueing_p95_ms(&self) -> f64 {
        self.lines.iter().map(|line| millis(part(&line.queueing, 0.95))).fold(0.0, f64::max)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let all: u64 = self.lines.iter().map(|line| line.sent).sum();
        let uplinks: Vec<Value> = self
            .lines
            .iter()
            .map(|line| {
                json!({
                    "part_of_bytes": line.sent as f64 / all.max(1) as f64,
                    "used": line.used.0 / line.used.1.max(1.0),
                    "packets": line.packets,
                    "arrived": line.arrived,
                    "no_room": line.no_room,
                    "rival": line.rival / line.used.1.max(1.0),
                    "suspected": line.suspected,
                    "own_queue_ms": {
                        "p50": millis(part(&line.queueing, 0.5)),
                        "p95": millis(part(&line.queueing, 0.95)),
                        "max": millis(part(&line.queueing, 1.0)),
                    },
                })
            })
            .collect();
        json!({
            "scenario": self.name,
            "figures": self.figures(),
            "audio": {
                "frames": self.audio.frames,
                "late": self.audio.late,
                "lost": self.audio.lost,
                "p99_ms": millis(part(&self.audio.latency, 0.99)),
                "max_ms": millis(part(&self.audio.latency, 1.0)),
            },
            "uplinks": uplinks,
            "runs": self.runs,
            "broken": self.broken,
        })
    }
}

fn percent(part: f64, of: f64) -> f64 {
    if of > 0.0 { 100.0 * part / of } else { 0.0 }
}
