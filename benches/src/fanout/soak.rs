//! `roadie-bench soak`: hours of viewers who come and go, and what the relay holds at the end of them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use roadie::edge_api::EdgeApi;
use serde::Serialize;
use serde_json::json;

use super::crowd::Passed;
use super::relays::{Running, Subject};
use super::{Role, crowd, memory};
use crate::bond::media::Media;
use crate::bond::plan::Plan;
use crate::bond::text;
use crate::cpu::child::Child;
use crate::cpu::product::{self, BROADCAST};

/// How often the relay is looked at.
const EVERY: Duration = Duration::from_secs(5);

/// Resident memory may be so much larger at the end than after the warm-up.
const MOST_GROWTH: f64 = 0.05;

/// The first and the last so many of the samples after the warm-up are compared, by their means: one sample has what an
/// allocator happens to hold.
const PART: usize = 10;

/// Of a whole run, the warm-up is at most this part.
const MOST_WARM_UP: u64 = 4;

/// When the last viewer has gone, the relay is as it was before within this time: QUIC forgets a connection after three
/// round trips, at the latest with the idle timeout.
const EMPTY: Duration = Duration::from_secs(45);

/// The show goes on for so much longer than the run, for viewers to come and to go in.
const MARGIN: Duration = Duration::from_secs(180);

/// A long show of viewers who come and go: memory must not grow after the warm-up (under 5 %), and no descriptor may be
/// lost.
#[derive(Args, Clone)]
pub struct Raw {
    /// Viewers at once
    #[arg(long, value_name = "N", default_value_t = 100)]
    viewers: usize,

    /// So many come every second, and as many go
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    joins: f64,

    /// Rate of the video, Mb/s
    #[arg(long, value_name = "MBPS", default_value_t = 3.0)]
    bitrate: f64,

    /// How long, warm-up included
    #[arg(long, value_name = "MINUTES", default_value_t = 120.0)]
    minutes: f64,

    /// Not judged, s; at most a quarter of the run
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    warm_up: u64,

    /// Write all samples here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// What a child process is to be
    #[arg(long, hide = true)]
    role: Option<Role>,

    /// What a child process is told of the relay
    #[arg(long, hide = true, default_value = "")]
    other: String,
}

/// The relay at one moment.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sample {
    seconds: f64,
    memory_kb: u64,
    descriptors: usize,
    threads: usize,
    /// MoQ sessions, as the relay counts them.
    sessions: u64,
}

/// Runs and prints; in a child process, plays its role.
pub fn run(raw: Raw) -> anyhow::Result<()> {
    if raw.viewers == 0 || !(0.1..=80.0).contains(&raw.joins) {
        bail!(
            "--viewers 0 measures nothing, and --joins is 0.1 to 80: an address may make 100 connections a second"
        );
    }
    if !(0.1..=100.0).contains(&raw.bitrate) || !(1.0..=24.0 * 60.0).contains(&raw.minutes) {
        bail!("--bitrate is 0.1 to 100 Mb/s, --minutes 1 to 1440");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match raw.role {
        Some(Role::Venue) => runtime.block_on(product::venue(&plan(&raw), 1, &raw.other)),
        Some(Role::Crowd) => runtime.block_on(crowd::churn(raw.viewers, raw.joins, &raw.other)),
        Some(Role::Publisher) => bail!("a soak has a venue"),
        None => runtime.block_on(soak(&raw)),
    }
}

fn length(raw: &Raw) -> Duration {
    Duration::from_secs_f64(raw.minutes * 60.0)
}

fn plan(raw: &Raw) -> Plan {
    let media = Media {
        video: text::megabits(raw.bitrate),
        group: 30,
        keyframe_ratio: 4.0,
        length: length(raw) + MARGIN,
        ..Media::default()
    };
    Plan::new(Vec::new(), media)
}

async fn soak(raw: &Raw) -> anyhow::Result<()> {
    let dir = std::env::temp_dir().join(format!("roadie-bench-soak-{}", std::process::id()));
    let result = measure(raw, &dir).await;
    // A folder that stays is litter, no more.
    let _ = std::fs::remove_dir_all(&dir);
    result
}

async fn measure(raw: &Raw, dir: &Path) -> anyhow::Result<()> {
    let relay = Running::start(Subject::Bond, dir).await?;
    let (pid, api) = (relay.pid, EdgeApi::new(relay.place.http));
    let child = |role: &str, other: String| {
        let own = ["soak", "--role", role, "--other", &other].map(str::to_owned);
        let numbers = [
            ("--viewers", raw.viewers.to_string()),
            ("--joins", raw.joins.to_string()),
            ("--bitrate", raw.bitrate.to_string()),
            ("--minutes", raw.minutes.to_string()),
        ];
        let numbers = numbers.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        Child::start(&own.into_iter().chain(numbers).collect::<Vec<_>>())
    };
    let mut venue = child("venue", format!("{},{}", relay.place.quic, relay.fingerprint))?;
    venue.line().await?;
    venue.say("go").await?;
    let began = Instant::now();
    let empty = sample(pid, &api, began).await?;
    let mut crowd = child("crowd", relay.place.words())?;
    crowd.line().await.context("the crowd does not come")?;

    let warm_up = Duration::from_secs(raw.warm_up).min(length(raw) / MOST_WARM_UP as u32);
    println!(
        "{} viewers of {} Mb/s, {} joins and leaves a second, {} min of which {} s are the warm-up",
        raw.viewers,
        raw.bitrate,
        raw.joins,
        raw.minutes,
        warm_up.as_secs()
    );
    println!("  minute   memory MB  descriptors  threads  sessions");
    let mut samples = Vec::new();
    let mut ticks = tokio::time::interval(EVERY);
    let (start, mut printed) = (Instant::now(), None);
    while start.elapsed() < length(raw) {
        ticks.tick().await;
        let now = sample(pid, &api, start).await.context("the relay ended")?;
        samples.push(now);
        // Some twenty rows.
        let row = (now.seconds / length(raw).as_secs_f64() * 20.0) as u32;
        if printed.replace(row) != Some(row) {
            print(&now);
        }
    }
    crowd.say("count").await?;
    let passed: Passed = serde_json::from_str(&crowd.line().await?).context("the crowd speaks nonsense")?;
    let published = api.get("/api/status").await["broadcasts"][BROADCAST]["published"].as_u64().unwrap_or(0);
    drop(crowd);
    let mut after = sample(pid, &api, start).await?;
    let left = Instant::now();
    while (after.sessions > 0 || after.descriptors > empty.descriptors) && left.elapsed() < EMPTY {
        tokio::time::sleep(EVERY).await;
        after = sample(pid, &api, start).await?;
    }
    print(&after);

    let judged: Vec<_> =
        samples.iter().copied().filter(|sample| sample.seconds >= warm_up.as_secs_f64()).collect();
    let growth = growth(&judged).context("the run was too short to be judged")?;
    let passes = [
        (growth < MOST_GROWTH, format!("memory grew by {:.1} % after the warm-up", 100.0 * growth)),
        (
            after.descriptors <= empty.descriptors && after.sessions == 0,
            format!(
                "{} descriptors before the first viewer, {} after the last ({} sessions left)",
                empty.descriptors, after.descriptors, after.sessions
            ),
        ),
        (
            passed.broken == 0 && passed.blind == 0,
            format!(
                "{} viewers came and got {} frames; {} saw nothing, {} were cut off",
                passed.joined, passed.frames, passed.blind, passed.broken
            ),
        ),
        (published > 0, format!("{published} frames were published")),
    ];
    for (good, words) in &passes {
        println!("{}  {words}", if *good { "PASS" } else { "FAIL" });
    }
    if let Some(file) = &raw.json {
        let figures = json!({
            "viewers": raw.viewers, "joins_per_second": raw.joins, "bitrate_mbps": raw.bitrate,
            "minutes": raw.minutes, "warm_up_seconds": warm_up.as_secs(), "growth": growth,
            "empty": empty, "after": after, "crowd": passed, "published": published, "samples": samples,
        });
        std::fs::write(file, format!("{figures:#}\n")).with_context(|| format!("{}", file.display()))?;
    }
    let failed = passes.iter().filter(|(good, _)| !good).count();
    anyhow::ensure!(failed == 0, "{failed} of {} did not hold", passes.len());
    Ok(())
}

fn print(sample: &Sample) {
    println!(
        "{:8.1}  {:10.1}  {:11}  {:7}  {:8}",
        sample.seconds / 60.0,
        sample.memory_kb as f64 / 1024.0,
        sample.descriptors,
        sample.threads,
        sample.sessions,
    );
}

async fn sample(pid: u32, api: &EdgeApi, since: Instant) -> anyhow::Result<Sample> {
    let sessions = api.get("/api/status").await["viewers"].as_u64().context("the relay does not answer")?;
    let entries =
        |folder: &str| Ok::<_, std::io::Error>(std::fs::read_dir(format!("/proc/{pid}/{folder}"))?.count());
    Ok(Sample {
        seconds: since.elapsed().as_secs_f64(),
        memory_kb: memory(pid)? / 1024,
        descriptors: entries("fd")?,
        threads: entries("task")?,
        sessions,
    })
}

/// How much larger the last part is than the first, in parts of the first. `None`: too few samples.
fn growth(samples: &[Sample]) -> Option<f64> {
    let size = samples.len() / PART;
    let mean = |part: &[Sample]| {
        let sum: u64 = part.iter().map(|sample| sample.memory_kb).sum();
        sum as f64 / part.len() as f64
    };
    let (first, last) = (samples.get(..size)?, samples.get(samples.len() - size..)?);
    (size > 0).then(|| mean(last) / mean(first) - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(memory: impl Iterator<Item = u64>) -> Vec<Sample> {
        let sample = |memory_kb| Sample { seconds: 0.0, memory_kb, descriptors: 9, threads: 3, sessions: 1 };
        memory.map(sample).collect()
    }

    #[test]
    fn a_leak_is_seen_and_noise_is_not() {
        let noise = of((0..200).map(|n| 50_000 + n % 7 * 500));
        assert!(growth(&noise).unwrap().abs() < 0.01);
        let leak = of((0..200).map(|n| 50_000 + n * 20));
        assert!(growth(&leak).unwrap() > MOST_GROWTH);
        assert_eq!(growth(&of(0..PART as u64 - 1)), None);
    }
}
