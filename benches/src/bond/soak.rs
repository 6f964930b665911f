//! A long show: nothing may grow with its length.

use std::time::{Duration, Instant};

use anyhow::bail;
use serde::Serialize;
use serde_json::{Value, json};

use super::look::{Look, Watcher};
use super::plan::START;
use super::scenario::Scenario;
use super::simulate::millis;
use super::tally::{Outcome, part};
use super::world::run_watched;

/// A show of this length or more is a soak: its memory is judged, and no oracle looks at it.
pub const LONG: Duration = Duration::from_secs(3600);

/// How many rows are printed.
const ROWS: u32 = 24;

/// How often the sizes are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// What the receiver may hold: the bond's own bound (`bond/src/receiver.rs`).
const MOST_BUFFERED: usize = 16 << 20;

/// What the sender may queue: the bond's own bound (`bond/src/pending.rs`).
const MOST_QUEUED: u64 = 12 << 20;

/// What may be out on one path without word: more than any uplink holds in the time for which shards are
/// remembered.
const MOST_OUTSTANDING: u64 = 4 << 20;

/// The process may be so much larger at the end than after the first part, bytes: what allocators do.
const MOST_GROWTH: u64 = 8 << 20;

/// The sizes at one time, or the largest of a part.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Sizes {
    hours: f64,
    buffered_bytes: usize,
    buffered_frames: usize,
    queued_bytes: u64,
    queued_shards: usize,
    outstanding_bytes: u64,
    frames_under_way: usize,
    process_bytes: u64,
}

impl Sizes {
    fn of(look: &Look) -> Self {
        Self {
            hours: look.now.saturating_since(START).as_secs_f64() / 3600.0,
            buffered_bytes: look.receiver.buffered_bytes,
            buffered_frames: look.receiver.buffered_frames,
            queued_bytes: look.sender.queued_bytes,
            queued_shards: look.sender.queued_shards,
            outstanding_bytes: look.sender.paths.iter().map(|path| path.outstanding_bytes).max().unwrap_or(0),
            frames_under_way: look.under_way,
            process_bytes: 0,
        }
    }

    fn larger(self, other: Self) -> Self {
        Self {
            hours: other.hours,
            buffered_bytes: self.buffered_bytes.max(other.buffered_bytes),
            buffered_frames: self.buffered_frames.max(other.buffered_frames),
            queued_bytes: self.queued_bytes.max(other.queued_bytes),
            queued_shards: self.queued_shards.max(other.queued_shards),
            outstanding_bytes: self.outstanding_bytes.max(other.outstanding_bytes),
            frames_under_way: self.frames_under_way.max(other.frames_under_way),
            process_bytes: self.process_bytes.max(other.process_bytes),
        }
    }
}

/// What came of a soak.
pub struct Soak {
    parts: Vec<Sizes>,
    outcome: Outcome,
    took: Duration,
}

/// Runs one seed, and prints the largest sizes of each part.
pub fn run(scenario: &Scenario, seed: u64) -> anyhow::Result<Soak> {
    if scenario.variants() > 1 {
        bail!("a soak is one run: cut one uplink at a time, not each in turn");
    }
    let mut plan = scenario.plan(seed, 0);
    plan.keep_fates = false;
    println!("hours  received and held  waiting to be sent  out on a path  frames under way  process");
    let part = scenario.length() / ROWS;
    let (mut parts, mut current) = (Vec::new(), Sizes::default());
    let mut look = |look: &Look| {
        current = current.larger(Sizes::of(look));
        if look.now >= START + part * (parts.len() as u32 + 1) {
            current.process_bytes = process_bytes();
            println!(
                "{:5.1}  {:9} B {:4} fr  {:9} B {:4} sh  {:11} B  {:16}  {:5.1} MB",
                current.hours,
                current.buffered_bytes,
                current.buffered_frames,
                current.queued_bytes,
                current.queued_shards,
                current.outstanding_bytes,
                current.frames_under_way,
                current.process_bytes as f64 / 1e6,
            );
            parts.push(std::mem::take(&mut current));
        }
    };
    let started = Instant::now();
    let outcome = run_watched(&plan, seed, Some(Watcher { every: EVERY, look: &mut look }));
    let soak = Soak { parts, outcome, took: started.elapsed() };
    println!("{}", soak.text(scenario));
    Ok(soak)
}

impl Soak {
    fn text(&self, scenario: &Scenario) -> String {
        let video = &self.outcome.video;
        format!(
            "{:.1} h in {:.0} s: {} late, {} lost of {} video frames, P50 {:.0} P99 {:.0} max {:.0} ms; the clocks' \
             estimate is {} us off (bound {})",
            scenario.length().as_secs_f64() / 3600.0,
            self.took.as_secs_f64(),
            video.late,
            video.lost,
            video.frames,
            millis(part(&video.latency, 0.5)),
            millis(part(&video.latency, 0.99)),
            millis(part(&video.latency, 1.0)),
            self.outcome.clock_error.unwrap_or(0),
            self.outcome.clock_bound,
        )
    }

    /// What grew beyond its bound.
    fn grown(&self) -> Vec<String> {
        let largest = self.parts.iter().copied().reduce(Sizes::larger).unwrap_or_default();
        let mut grown = Vec::new();
        let mut judge = |what: &str, is: u64, most: u64| {
            if is > most {
                grown.push(format!("{what} reached {is}, above {most}"));
            }
        };
        judge("bytes held by the receiver", largest.buffered_bytes as u64, MOST_BUFFERED as u64);
        judge("bytes waiting in the sender", largest.queued_bytes, MOST_QUEUED);
        judge("bytes out on one path", largest.outstanding_bytes, MOST_OUTSTANDING);
        if let (Some(first), Some(last)) = (self.parts.first(), self.parts.last()) {
            judge("the process", last.process_bytes, first.process_bytes + MOST_GROWTH);
            // Steady conditions give steady sizes: the last third no larger than twice the first two.
            let third = self.parts.len() * 2 / 3;
            let of = |parts: &[Sizes]| parts.iter().copied().reduce(Sizes::larger).unwrap_or_default();
            let (early, late) = (of(&self.parts[..third]), of(&self.parts[third..]));
            judge("frames under way", late.frames_under_way as u64, 2 * early.frames_under_way as u64);
            judge(
                "frames held by the receiver",
                late.buffered_frames as u64,
                2 * early.buffered_frames as u64,
            );
            judge("shards waiting in the sender", late.queued_shards as u64, 2 * early.queued_shards as u64);
        }
        grown
    }

    /// An error says what grew.
    pub fn verdict(&self) -> anyhow::Result<()> {
        match self.grown().as_slice() {
            [] => {
                println!("PASS  nothing grew with the length");
                Ok(())
            }
            grown => bail!("{}", grown.join("; ")),
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "parts": self.parts,
            "frames": self.outcome.video.frames,
            "late": self.outcome.video.late,
            "lost": self.outcome.video.lost,
            "seconds_taken": self.took.as_secs_f64(),
            "grown": self.grown(),
        })
    }
}

/// What the process holds in memory now; 0 where the system does not tell.
fn process_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    // Pages of 4 KiB on every machine that we build for.
    pages.unwrap_or(0) * 4096
}
