//! What viewers cost: `roadie-bench fanout`.
//!
//! The real relay as a process of its own, a venue that sends a made-up show over a bond of one uplink, and a crowd of MoQ
//! viewers, in processes of their own too, on this machine. What is counted is the relay's CPU and memory; what is timed is
//! a frame's way from the relay having it to a viewer having it.
//!
//! With `--peer` a relay of others is measured in turns with ours. Then a MoQ program publishes to either in the same way,
//! and what is timed is a frame's way from there to a viewer. Ours over a bond is measured beside them, for that is what it
//! is made for.

mod crowd;
mod floor;
mod publisher;
mod relays;
pub mod soak;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use roadie::edge_api::EdgeApi;
use serde::Serialize;
use serde_json::json;

use self::crowd::Came;
use self::relays::{Peer, Running, Subject};
use crate::bond::media::Media;
use crate::bond::plan::Plan;
use crate::bond::real::stalls::Watch;
use crate::bond::text;
use crate::cpu::child::Child;
use crate::cpu::product::{self, BROADCAST};
use crate::median::median;
use crate::process;

/// After the last viewer has come, this is not measured.
const SETTLE: Duration = Duration::from_secs(2);

/// A viewer may take so long to join; the show goes on for them all.
const JOIN: Duration = Duration::from_millis(100);

/// CPU and memory of the relay for a crowd of MoQ viewers, and the latency that it adds, beside the least that the same
/// bytes can cost here.
#[derive(Args, Clone)]
pub struct Raw {
    /// Viewers; may be repeated
    #[arg(long, value_name = "N", default_values_t = [50, 100, 200])]
    viewers: Vec<usize>,

    /// Rate of the video, Mb/s
    #[arg(long, value_name = "MBPS", default_value_t = 3.0)]
    bitrate: f64,

    /// How long is measured, s
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    seconds: u64,

    /// Measure this relay of others in turns with ours; `cargo xtask peers` installs it
    #[arg(long, value_name = "NAME")]
    peer: Option<Peer>,

    /// Measure each so often, and take the medians
    #[arg(long, value_name = "N", default_value_t = 1)]
    rounds: usize,

    /// Write all figures here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// What a child process is to be
    #[arg(long, hide = true)]
    role: Option<Role>,

    /// What a child process is told of the relay
    #[arg(long, hide = true, default_value = "")]
    other: String,
}

/// A child process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Venue,
    Publisher,
    Crowd,
}

/// What so many viewers cost.
#[derive(Debug, Serialize)]
struct Cost {
    relay: Subject,
    viewers: usize,
    cpu_s: f64,
    delivered_gigabits: f64,
    /// The same for the bytes alone.
    floor_per_gigabit: f64,
    /// What the relay grew by, from before the first viewer to the end.
    memory_kb: f64,
    /// What each viewer but the first made it grow by: what the show needs, whoever watches, is not in it.
    memory_per_viewer_kb: f64,
    /// Of the frames that the relay had, over all viewers.
    delivered_part: f64,
    came: Came,
    stalls: u64,
}

impl Cost {
    fn per_gigabit(&self) -> f64 {
        self.cpu_s / self.delivered_gigabits.max(1e-9)
    }
}

/// Runs and prints; in a child process, plays its role.
pub fn run(raw: Raw) -> anyhow::Result<()> {
    if raw.seconds == 0 || raw.rounds == 0 || raw.viewers.contains(&0) {
        bail!("--seconds 0, --rounds 0 and --viewers 0 measure nothing");
    }
    if raw.peer.is_some() {
        relays::find()?;
    }
    if !(0.1..=100.0).contains(&raw.bitrate) {
        bail!("--bitrate cannot be used: {} is not between 0.1 and 100 Mb/s", raw.bitrate);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match (raw.role, raw.viewers.first()) {
        (Some(Role::Venue), Some(viewers)) => {
            runtime.block_on(product::venue(&plan(&raw, *viewers), 1, &raw.other))
        }
        (Some(Role::Publisher), Some(viewers)) => {
            runtime.block_on(publisher::publisher(&plan(&raw, *viewers), &raw.other))
        }
        (Some(Role::Crowd), Some(viewers)) => runtime.block_on(crowd::crowd(*viewers, &raw.other)),
        _ => runtime.block_on(measure_all(&raw)),
    }
}

fn plan(raw: &Raw, viewers: usize) -> Plan {
    let length = Duration::from_secs(raw.seconds) + 2 * SETTLE + JOIN * viewers as u32;
    let media = Media {
        video: text::megabits(raw.bitrate),
        group: 30,
        keyframe_ratio: 4.0,
        length,
        ..Media::default()
    };
    Plan::new(Vec::new(), media)
}

async fn measure_all(raw: &Raw) -> anyhow::Result<()> {
    let dir = std::env::temp_dir().join(format!("roadie-bench-fanout-{}", std::process::id()));
    println!(
        "{} Mb/s of video and 96 kb/s of sound, {} s of each; CPU of the relay, user and system",
        raw.bitrate, raw.seconds
    );
    println!("relay         viewers  CPU  CPU s/Gb  floor  times  kB/viewer  added ms P50 / P95  delivered");
    let subjects: &[_] =
        if raw.peer.is_some() { &[Subject::Bond, Subject::Ours, Subject::Peer] } else { &[Subject::Bond] };
    let mut costs = Vec::new();
    let mut alone = Vec::new();
    for subject in subjects {
        let cost = measure(raw, *subject, 1, None, &dir).await;
        let _ = std::fs::remove_dir_all(&dir);
        alone.push(cost?.memory_kb);
    }
    for viewers in raw.viewers.iter().copied() {
        let first = costs.len();
        for _ in 0..raw.rounds {
            for (subject, alone) in subjects.iter().zip(&alone) {
                let result = measure(raw, *subject, viewers, Some(*alone), &dir).await;
                // A folder that stays is litter, no more.
                let _ = std::fs::remove_dir_all(&dir);
                let cost = result?;
                row(&cost, raw);
                costs.push(cost);
            }
        }
        if raw.peer.is_some() {
            compare(costs.get(first..).unwrap_or_default());
        }
    }
    if let Some(file) = &raw.json {
        let figures = json!({ "bitrate_mbps": raw.bitrate, "seconds": raw.seconds, "costs": costs });
        std::fs::write(file, format!("{figures:#}\n")).with_context(|| format!("{}", file.display()))?;
    }
    Ok(())
}

fn row(cost: &Cost, raw: &Raw) {
    let void = if cost.stalls > 0 { "  the machine stalled" } else { "" };
    println!(
        "{:13} {:7}  {:3.0} %  {:8.3}  {:.3}  {:5.1}  {:9.0}  {:8.1} / {:6.1}  {:7.3} %{void}",
        cost.relay.name(),
        cost.viewers,
        100.0 * cost.cpu_s / raw.seconds as f64,
        cost.per_gigabit(),
        cost.floor_per_gigabit,
        cost.per_gigabit() / cost.floor_per_gigabit,
        cost.memory_per_viewer_kb,
        cost.came.added_p50_ms,
        cost.came.added_p95_ms,
        100.0 * cost.delivered_part,
    );
}

/// Prints ours over the peer's, medians of the rounds.
fn compare(costs: &[Cost]) {
    for ours in [Subject::Bond, Subject::Ours] {
        let ratio = |figure: fn(&Cost) -> f64| {
            let of = |subject| median(costs.iter().filter(|cost| cost.relay == subject).map(figure));
            of(ours) / of(Subject::Peer)
        };
        println!(
            "  {} over the peer: CPU s/Gb {:.2}, kB/viewer {:.2}, added P50 {:.2}, added P95 {:.2}",
            ours.name(),
            ratio(Cost::per_gigabit),
            ratio(|cost| cost.memory_per_viewer_kb),
            ratio(|cost| cost.came.added_p50_ms),
            ratio(|cost| cost.came.added_p95_ms),
        );
    }
}

/// Brings the show to a relay.
struct Source {
    child: Child,
    subject: Subject,
    http: u16,
}

impl Source {
    /// Starts the show.
    async fn start(subject: Subject, relay: &Running, arguments: Vec<String>) -> anyhow::Result<Self> {
        let mut child = Child::start(&arguments)?;
        child.line().await?;
        child.say("go").await?;
        if subject != Subject::Bond {
            child.line().await?;
        }
        Ok(Self { child, subject, http: relay.place.http })
    }

    /// Frames that the relay has had so far.
    async fn frames(&mut self) -> anyhow::Result<u64> {
        if self.subject == Subject::Bond {
            let status = EdgeApi::new(self.http).get("/api/status").await;
            return Ok(status["broadcasts"][BROADCAST]["published"].as_u64().unwrap_or(0));
        }
        self.child.say("count").await?;
        self.child.line().await.context("the show ended before its time")?.parse().context("no count")
    }
}

/// `alone`: what the relay grew by for one viewer, kB.
async fn measure(
    raw: &Raw,
    subject: Subject,
    viewers: usize,
    alone: Option<f64>,
    dir: &Path,
) -> anyhow::Result<Cost> {
    let watch = Watch::start();
    let relay = Running::start(subject, dir).await?;
    let pid = relay.pid;
    let arguments = |role: &str, other: String| -> Vec<String> {
        let own = ["fanout", "--role", role, "--other", &other, "--viewers", &viewers.to_string()];
        let media = ["--bitrate", &raw.bitrate.to_string(), "--seconds", &raw.seconds.to_string()];
        own.into_iter().chain(media).map(str::to_owned).collect()
    };
    let show = match subject {
        Subject::Bond => arguments("venue", format!("{},{}", relay.place.quic, relay.fingerprint)),
        Subject::Ours | Subject::Peer => arguments("publisher", relay.place.words()),
    };
    let mut source = Source::start(subject, &relay, show).await?;
    let before = memory(pid)?;
    let mut crowd = Child::start(&arguments("crowd", relay.place.words()))?;
    crowd.line().await.context("the crowd does not come")?;
    tokio::time::sleep(SETTLE).await;
    crowd.say("begin").await?;
    crowd.line().await?;
    let (had, ran) = (source.frames().await?, process::cpu(pid)?);
    tokio::time::sleep(Duration::from_secs(raw.seconds)).await;
    let (has, runs) = (source.frames().await?, process::cpu(pid)?);
    crowd.say("end").await?;
    let came: Came = serde_json::from_str(&crowd.line().await?).context("the crowd speaks nonsense")?;
    let memory_kb = memory(pid)?.saturating_sub(before) as f64 / 1024.0;
    let memory_per_viewer_kb = match alone {
        Some(alone) if viewers > 1 => (memory_kb - alone) / (viewers - 1) as f64,
        _ => memory_kb / viewers as f64,
    };
    anyhow::ensure!(came.left == 0, "{} viewers left", came.left);
    anyhow::ensure!(has > had, "the show ended before its time: the viewers took too long to join");
    Ok(Cost {
        relay: subject,
        viewers,
        cpu_s: runs - ran,
        delivered_gigabits: came.bytes as f64 * 8e-9,
        floor_per_gigabit: floor::measure(viewers)?,
        memory_kb,
        memory_per_viewer_kb,
        delivered_part: came.frames as f64 / ((has - had) * viewers as u64) as f64,
        came,
        stalls: watch.stalls().count,
    })
}

/// Bytes of memory that a process has, all counted (`VmRSS`).
fn memory(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kilobytes * 1024)
}
