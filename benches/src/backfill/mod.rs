//! Whether the edge's copy heals, how fast, and what live pays for it: `roadie-bench backfill`.
//!
//! The real tap, recorder, venue and edge, with a made-up encoder, over three emulated uplinks of 5/4/3 Mb/s, 25/35/15
//! ms and 0.5 % loss. First all uplinks are dark for some seconds, and the time is taken until the edge's copy is the
//! recording, digest by digest. Then a long past show is owed, and its reading is let on and off in turns, so that
//! live's latency with and without backfill is measured within one run.

mod show;
mod stage;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use relay::backfill::Archive;
use relay::backfill::supply::Standing;
use relay::clock::Clock;
use relay::venue::{Hooks, Venue};
use roadie::recorded::Recorded;
use serde_json::{Value, json};

use self::show::{Gated, Live, record_past, tracks};
use self::stage::{Stage, groups};
use crate::bond::real::stalls::Watch;

/// A frame's deadline.
const DEADLINE: Duration = Duration::from_millis(400);

/// After a turn begins, what the turn before left on its way is not counted: a window of groups.
const SETTLE: Duration = Duration::from_secs(3);

/// Backfill may raise the P95 of live by this part, and a frame's worth.
const MOST: f64 = 1.25;

/// Mb/s of sound.
const SOUND: f64 = 0.096;

/// This part of the spare rate may go to bulk (`bond/src/budget.rs`).
const PART: f64 = 0.7;

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// The edge's copy after an outage of all uplinks, and live's latency while it heals. Needs about two minutes and
/// nothing else that uses the machine.
#[derive(Args, Clone, Debug)]
pub struct Raw {
    /// How long all uplinks are dark, s
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    outage: f64,

    /// Rate of the video, Mb/s
    #[arg(long, value_name = "MBPS", default_value_t = 2.5)]
    video: f64,

    /// Turns with backfill, and as many without
    #[arg(long, value_name = "N", default_value_t = 4)]
    turns: u32,

    /// How long a turn is, s; the first three of it are not counted
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    turn: f64,

    /// Of the emulated losses and delays
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Write all figures here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs both experiments and prints what came of them.
pub fn run(raw: Raw) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let dir = std::env::temp_dir().join(format!("roadie-bench-backfill-{}", std::process::id()));
    let result = runtime.block_on(async {
        let watch = Watch::start();
        let outage = outage(&raw, &dir.join("outage")).await?;
        let latency = latency(&raw, &dir.join("latency")).await?;
        let stalls = watch.stalls();
        println!(
            "the machine: {} stalls over 20 ms, the worst {} ms",
            stalls.count,
            stalls.worst.as_millis()
        );
        let figures =
            json!({ "outage": outage, "latency": latency, "stalls": stalls.count, "seed": raw.seed });
        if let Some(file) = &raw.json {
            std::fs::write(file, format!("{figures:#}\n")).with_context(|| format!("{}", file.display()))?;
        }
        if latency["ratio"].as_f64().is_none_or(|ratio| ratio > MOST) {
            bail!("live pays for backfill: more than {MOST} times its P95");
        }
        Ok(())
    });
    // A folder that stays is litter, no more.
    let _ = std::fs::remove_dir_all(dir);
    result
}

fn bitrate(raw: &Raw) -> u32 {
    (raw.video * 1e6) as u32
}

struct Scene {
    stage: Stage,
    live: Live,
    venue: Venue,
    recording: PathBuf,
    keep: PathBuf,
}

/// Everything is on the air.
async fn scene(
    raw: &Raw,
    dir: &Path,
    past: Option<Recorded>,
    open: Arc<AtomicBool>,
) -> anyhow::Result<Scene> {
    let (recording, keep) = (dir.join("recording"), dir.join("keep"));
    let stage = Stage::start(dir, &keep, raw.seed).await?;
    let clock = Clock::start();
    let (live, frames) = Live::start(&recording, "bench", clock, bitrate(raw))?;
    let archive = Gated { past, live: live.archive(), open };
    let hooks = Hooks { keyframe: Arc::new(|| ()), rate: Arc::new(|_| ()) };
    let catalog = media::catalog::Catalog::from_tracks(&tracks(bitrate(raw)));
    let settings = stage.venue("bench", DEADLINE);
    let venue = Venue::start(settings, catalog, clock, frames, hooks, Some(Arc::new(archive)))?;
    until("the uplinks", async || {
        venue.status().uplinks.iter().filter(|uplink| uplink.connected).count() == 3
    })
    .await?;
    // The bond learns its paths.
    tokio::time::sleep(SETTLE).await;
    Ok(Scene { stage, live, venue, recording, keep })
}

async fn outage(raw: &Raw, dir: &Path) -> anyhow::Result<Value> {
    let scene = scene(raw, dir, None, Arc::new(AtomicBool::new(true))).await?;
    let Scene { stage, mut live, venue, recording, keep } = scene;
    stage.uplinks.iter().for_each(|uplink| uplink.set_up(false));
    tokio::time::sleep(Duration::from_secs_f64(raw.outage)).await;
    stage.uplinks.iter().for_each(|uplink| uplink.set_up(true));
    let back = Instant::now();
    let recorded = live.archive().finished(0).len() as u64;
    let published = async || stage.number("bench", &["published"]).await;
    let before = published().await;
    until("live after the outage", async || published().await > before + 30).await?;
    let live_back = back.elapsed();
    // They are told of in order: when so many are kept and none of those told is missing, these are.
    let mut owed = 0;
    until("the edge's copy", async || {
        let standing = standing(&venue);
        owed = owed.max(standing.owed);
        standing.owed == 0 && standing.kept >= recorded
    })
    .await?;
    let healed = back.elapsed();
    tokio::task::block_in_place(|| live.end());
    venue.recording_ended();
    until("the whole", async || standing(&venue).whole).await?;
    let Standing { recorded, sent, sent_bytes, .. } = standing(&venue);
    venue.stop().await;
    let (ours, theirs) = (groups(&recording)?, groups(&keep)?);
    let same = ours.iter().filter(|(id, digests)| {
        theirs.get(id).is_some_and(|found| digests.iter().any(|digest| found.contains(digest)))
    });
    let same = same.count();
    let spare = (stage.megabits() - raw.video - SOUND) * PART;
    println!(
        "all uplinks dark for {:.1} s: live was back after {:.1} s, up to {owed} groups were owed, and the copy had them \
         {:.1} s after the outage; {sent} groups of {:.2} MB were sent, for which the rate that bulk may have takes {:.1} s",
        raw.outage,
        live_back.as_secs_f64(),
        healed.as_secs_f64(),
        sent_bytes as f64 / 1e6,
        sent_bytes as f64 * 8e-6 / spare,
    );
    println!("in the end {same} of {} recorded groups are the same at the edge, by digest", ours.len());
    if same != ours.len() || recorded != ours.len() as u64 {
        bail!("the edge's copy is not the recording");
    }
    Ok(json!({
        "outage_s": raw.outage,
        "live_back_s": live_back.as_secs_f64(),
        "healed_s": healed.as_secs_f64(),
        "groups": ours.len(),
        "same": same,
        "sent_groups": sent,
        "sent_bytes": sent_bytes,
    }))
}

/// Latencies of one kind of turns, microseconds, and what was lost.
#[derive(Default)]
struct Side {
    latencies: Vec<u64>,
    lost: u64,
}

impl Side {
    fn percentile(&self, percent: usize) -> f64 {
        let at = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).map_or(f64::NAN, |&micros| micros as f64 / 1e3)
    }
}

async fn latency(raw: &Raw, dir: &Path) -> anyhow::Result<Value> {
    let past = dir.join("past");
    let turn = Duration::from_secs_f64(raw.turn);
    // More than all turns can send.
    let length = turn * raw.turns * 4;
    let until = Clock::start().now() - Duration::from_secs(3_600);
    let rate = bitrate(raw);
    let places = vec![past.clone()];
    let past = tokio::task::spawn_blocking(move || {
        record_past(&past, "bench", until, length, rate)?;
        encoder::record::Archive::open(&places, "bench").map_err(anyhow::Error::new)
    });
    let open = Arc::new(AtomicBool::new(false));
    let scene = scene(raw, dir, Some(Recorded(past.await??)), open.clone()).await?;
    let Scene { mut stage, live, venue, .. } = scene;
    until_owed(&venue).await?;
    let mut sides = [Side::default(), Side::default()];
    let mut rate = Vec::new();
    for number in 0..2 * raw.turns {
        let on = number % 2 == 1;
        open.store(on, Ordering::Relaxed);
        tokio::time::sleep(SETTLE).await;
        stage.passages("bench").await;
        let sent = standing(&venue).sent_bytes;
        tokio::time::sleep(turn.saturating_sub(SETTLE)).await;
        let bytes = standing(&venue).sent_bytes - sent;
        if on {
            rate.push(bytes as f64 * 8e-6 / turn.saturating_sub(SETTLE).as_secs_f64());
        }
        let side = &mut sides[usize::from(on)];
        for (id, published) in stage.passages("bench").await {
            match published {
                Some(published) => {
                    side.latencies.push(published.saturating_sub(live.captured(id).as_micros()));
                }
                None => side.lost += 1,
            }
        }
    }
    let owed = standing(&venue).owed;
    // Not healed here: the gate is opened so that the thread behind it can end.
    open.store(true, Ordering::Relaxed);
    venue.stop().await;
    sides.iter_mut().for_each(|side| side.latencies.sort_unstable());
    let [off, on] = &sides;
    let ratio = on.percentile(95) / off.percentile(95);
    let megabits = rate.iter().sum::<f64>() / rate.len().max(1) as f64;
    for (name, side) in [("without", off), ("with", on)] {
        println!(
            "{name:>8} backfill: {} frames, P50 {:.1} ms, P95 {:.1} ms, P99 {:.1} ms, {} lost",
            side.latencies.len(),
            side.percentile(50),
            side.percentile(95),
            side.percentile(99),
            side.lost,
        );
    }
    println!(
        "P95 with against without: {ratio:.3}; backfill carried {megabits:.2} Mb/s; {owed} groups still owed"
    );
    if owed == 0 {
        bail!("all was sent before the end: give fewer turns");
    }
    let side = |side: &Side| {
        json!({
            "frames": side.latencies.len(),
            "p50_ms": side.percentile(50),
            "p95_ms": side.percentile(95),
            "p99_ms": side.percentile(99),
            "lost": side.lost,
        })
    };
    Ok(json!({ "without": side(off), "with": side(on), "ratio": ratio, "backfill_mbps": megabits }))
}

async fn until_owed(venue: &Venue) -> anyhow::Result<()> {
    until("the edge to know what is owed", async || standing(venue).kept + standing(venue).owed > 20).await
}

fn standing(venue: &Venue) -> Standing {
    venue.status().backfill.unwrap_or_default()
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let started = Instant::now();
    while !condition().await {
        if started.elapsed() > PATIENCE {
            bail!("waited {} s in vain for {what}", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
