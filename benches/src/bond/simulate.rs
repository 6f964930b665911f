//! Many seeds of a scenario, on all processors.

use std::sync::atomic::{AtomicU64, Ordering};

use media::Time;
use serde::Serialize;
use sim::{Oracle, Share, Way};

use super::media::{VIDEO, demands};
use super::plan::{Plan, START};
use super::scenario::{Scenario, capacity, capacity_of};
use super::summary::Summary;
use super::tally::{Outcome, part};
use super::world::{media_seed, run};

/// One run's figures.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Run {
    /// Replays it.
    pub seed: u64,
    /// Which uplink was cut, where each is in turn, from 1.
    pub variant: usize,
    /// Video frames
    pub frames: u64,
    /// after the deadline,
    pub late: u64,
    /// or never.
    pub lost: u64,
    /// Audio packets
    pub audio_frames: u64,
    /// after the deadline, or never.
    pub audio_missed: u64,
    /// The video frames' latency, ms.
    pub p99_ms: f64,
    /// The worst of it.
    pub max_ms: f64,
    /// Video frames that even the oracle loses (with a following encoder: at its least rate),
    pub oracle_lost: u64,
    /// and audio packets.
    pub oracle_audio_lost: u64,
    /// Bytes on the uplinks over bytes of media.
    pub wire_over_media: f64,
    /// Repeats and parity over media.
    pub redundancy: f64,
    /// What arrived in time, in wire bytes, over the sum of the uplinks' capacities.
    pub goodput: f64,
    /// Sum of the uplinks' capacities, mean, Mb/s.
    pub capacity_mbps: f64,
    /// Video that arrived in time, mean, Mb/s.
    pub video_mbps: f64,
    /// The highest constant rate of video with which the oracle loses nothing, Mb/s (following encoder only).
    pub sustainable_mbps: Option<f64>,
}

impl Run {
    /// Late and lost, of both kinds.
    pub fn missed(&self) -> u64 {
        self.late + self.lost + self.audio_missed
    }

    /// What even the oracle loses, of both kinds.
    pub fn infeasible(&self) -> u64 {
        self.oracle_lost + self.oracle_audio_lost
    }
}

/// Runs seeds `first..first + count` in all variants.
pub fn simulate(scenario: &Scenario, first: u64, count: u64, threads: usize) -> Summary {
    let variants = scenario.variants() as u64;
    let next = AtomicU64::new(0);
    let work = || {
        let mut summary = Summary::new(scenario);
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count * variants {
                return summary;
            }
            let (seed, variant) = (first + number / variants, (number % variants) as usize);
            let plan = Plan { keep_fates: false, ..scenario.plan(seed, variant) };
            let variant = if variants > 1 { variant + 1 } else { 0 };
            // A run that breaks a machine's contract must not take the others along, nor be forgotten.
            match std::panic::catch_unwind(|| run(&plan, seed)) {
                Ok(outcome) => summary.add(&plan, figures(&plan, seed, variant, &outcome), &outcome),
                Err(_) => summary.broken.push((seed, variant)),
            }
        }
    };
    let mut summaries: Vec<Summary> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined.map(|ended| ended.unwrap_or_else(|cause| std::panic::resume_unwind(cause))).collect()
    });
    let mut all = summaries.pop().unwrap_or_else(|| Summary::new(scenario));
    summaries.iter().for_each(|summary| all.merge(summary));
    all.sort();
    all
}

/// A run's figures, the oracle's beside them.
pub fn figures(plan: &Plan, seed: u64, variant: usize, outcome: &Outcome) -> Run {
    let seconds = plan.media.length.as_secs_f64();
    let capacity = capacity(plan);
    let (video, audio) = (&outcome.video, &outcome.audio);
    let in_time = (video.wire_in_time + audio.wire_in_time) as f64 * 8.0;
    let bound = bound(plan, seed);
    Run {
        seed,
        variant,
        frames: video.frames,
        late: video.late,
        lost: video.lost,
        audio_frames: audio.frames,
        audio_missed: audio.missed(),
        p99_ms: millis(part(&video.latency, 0.99)),
        max_ms: millis(part(&video.latency, 1.0)),
        oracle_lost: bound.video,
        oracle_audio_lost: bound.audio,
        wire_over_media: outcome.wire_over_media(),
        redundancy: outcome.redundancy(),
        goodput: in_time / capacity.max(1.0),
        capacity_mbps: capacity / seconds / 1e6,
        video_mbps: video.bytes_in_time as f64 * 8.0 / seconds / 1e6,
        sustainable_mbps: bound.sustainable.map(|rate| rate as f64 / 1e6),
    }
}

/// What the oracle says of a plan.
struct Bound {
    video: u64,
    audio: u64,
    sustainable: Option<u64>,
}

fn bound(plan: &Plan, seed: u64) -> Bound {
    let way = |conditions| Way { conditions, began: plan.began() };
    let present: Vec<usize> = (0..plan.uplinks.len()).filter(|&uplink| plan.is_first(uplink)).collect();
    let ways: Vec<Way<'_>> = present.iter().map(|&uplink| way(&plan.uplinks[uplink].up)).collect();
    let members: Vec<Vec<usize>> =
        plan.shared.iter().map(|shared| places(&present, &shared.uplinks)).collect();
    let shares: Vec<Share<'_>> = plan
        .shared
        .iter()
        .zip(&members)
        .map(|(shared, members)| Share { members, way: way(&shared.conditions) })
        .collect();
    let oracle = Oracle::new(&ways, &shares, START, end(plan));
    let frames = |video| demands(&plan.media, media_seed(seed), START, plan.deadline, video);
    let (rate, sustainable) = match plan.follow {
        None => (plan.media.video, None),
        Some(follow) => (follow.least, oracle.sustains(follow.least, follow.most, frames)),
    };
    let lost = oracle.lost(&frames(rate));
    let mut source = super::media::Source::new(plan.media, media_seed(seed));
    let (mut video, mut place) = (0, 0);
    let mut left = lost.iter().peekable();
    while let Some(coming) = source.next() {
        if left.next_if(|&&lost| lost == place).is_some() && coming.id.track == VIDEO {
            video += 1;
        }
        place += 1;
        source.advance();
    }
    Bound { video, audio: lost.len() as u64 - video, sustainable }
}

/// Where among all that are present these are.
fn places(present: &[usize], these: &[usize]) -> Vec<usize> {
    (0..present.len()).filter(|&place| these.contains(&present[place])).collect()
}

fn end(plan: &Plan) -> Time {
    START + plan.media.length + plan.deadline
}

/// A time in milliseconds, for people.
pub fn millis(time: std::time::Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// The part of an uplink's capacity that its delivered bytes took, over runs.
pub fn used(plan: &Plan, uplink: usize, bytes: u64) -> (f64, f64) {
    (bytes as f64 * 8.0, capacity_of(plan, uplink))
}
