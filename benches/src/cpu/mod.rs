//! What the bond costs in CPU, beside the same bytes as plain QUIC datagrams: `roadie-bench bond-cpu`.
//!
//! Four processes of this very program, two at a time: the product's venue and edge, then a plain quinn sender and
//! receiver, over loopback without emulated links. This one only watches how long the kernel let each of them run.

pub(crate) mod child;
mod plain;
pub(crate) mod product;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;

use crate::bond::media::Media;
use crate::bond::plan::Plan;
use crate::bond::real::stalls::Watch;
use crate::bond::text;
use crate::median::median;
use child::Child;

/// The bond may cost so many times what plain datagrams cost.
const MOST: f64 = 2.0;

/// After the last frame, what is under way gets this long.
const DRAIN: Duration = Duration::from_millis(500);

/// CPU of the bond's sender and receiver for a delivered gigabit, against plain quinn datagrams over one
/// connection in the same run, interleaved. Loopback, no loss; user and system time of all threads.
#[derive(Args, Clone)]
pub struct Raw {
    /// How often each is measured
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: u32,

    /// Rate of the video, Mb/s
    #[arg(long, value_name = "MBPS", default_value_t = 6.0)]
    video: f64,

    /// Video frames per second
    #[arg(long, value_name = "N", default_value_t = 30)]
    fps: u32,

    /// Uplinks of the bond
    #[arg(long, value_name = "N", default_value_t = 3)]
    uplinks: u8,

    /// How long frames come, s
    #[arg(long, value_name = "SECONDS", default_value = "20")]
    seconds: String,

    /// Write all figures here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// What a child process is to be
    #[arg(long, hide = true)]
    role: Option<Role>,

    /// What a child process is told of the other one
    #[arg(long, hide = true, default_value = "")]
    other: String,
}

/// A child process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Edge,
    Venue,
    PlainReceiver,
    PlainSender,
}

/// One side's cost in one run.
#[derive(Clone, Copy, Debug, Serialize)]
struct Cost {
    sender_s: f64,
    receiver_s: f64,
    delivered_bytes: u64,
}

impl Cost {
    /// CPU seconds for a delivered gigabit.
    fn per_gigabit(&self) -> f64 {
        (self.sender_s + self.receiver_s) / (self.delivered_bytes as f64 * 8.0 / 1e9).max(1e-9)
    }
}

/// Runs and prints; in a child process, plays its role.
pub fn run(raw: Raw) -> anyhow::Result<()> {
    let length = text::seconds(&raw.seconds).context("--seconds cannot be used")?;
    if raw.runs == 0 || length.is_zero() {
        bail!("--runs 0 and --seconds 0 measure nothing");
    }
    if !(0.1..=1000.0).contains(&raw.video) {
        bail!("--video cannot be used: {} is not between 0.1 and 1000 Mb/s", raw.video);
    }
    if raw.uplinks == 0 || usize::from(raw.uplinks) > bond::MAX_PATHS {
        bail!("--uplinks cannot be used: a bond has 1 to {}", bond::MAX_PATHS);
    }
    let media = Media { video: text::megabits(raw.video), fps: raw.fps.max(1), length, ..Media::default() };
    let plan = Plan::new(Vec::new(), media);
    match raw.role {
        Some(role) => play(role, &raw, &plan),
        None => compare(&raw, length),
    }
}

fn play(role: Role, raw: &Raw, plan: &Plan) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match role {
            Role::Edge => product::edge().await,
            Role::Venue => product::venue(plan, raw.uplinks, &raw.other).await,
            Role::PlainReceiver => plain::receiver().await,
            Role::PlainSender => plain::sender(plan, &raw.other).await,
        }
    })
}

fn compare(raw: &Raw, length: Duration) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!(
        "{} Mb/s of video at {} frames a second and 96 kb/s of audio for {:.0} s; CPU seconds, user and system",
        raw.video,
        raw.fps,
        length.as_secs_f64()
    );
    println!("run             sender  receiver  delivered  CPU s per gigabit");
    let (mut ours, mut theirs, mut void) = (Vec::new(), Vec::new(), 0);
    for run in 1..=raw.runs {
        let watch = Watch::start();
        for (name, costs, receiver, sender) in [
            ("bond", &mut ours, Role::Edge, Role::Venue),
            ("plain quinn", &mut theirs, Role::PlainReceiver, Role::PlainSender),
        ] {
            let cost = runtime.block_on(measure(raw, receiver, sender))?;
            println!(
                "{run:3} {name:12} {:6.3}  {:8.3}  {:6.1} MB  {:.3}",
                cost.sender_s,
                cost.receiver_s,
                cost.delivered_bytes as f64 / 1e6,
                cost.per_gigabit()
            );
            costs.push(cost);
        }
        if watch.stalls().count > 0 {
            void += 1;
            println!("    void: the machine did not wake a sleeper for more than 20 ms");
        }
    }
    let (ours_median, theirs_median) =
        (median(ours.iter().map(Cost::per_gigabit)), median(theirs.iter().map(Cost::per_gigabit)));
    let ratio = ours_median / theirs_median;
    let pass = ratio <= MOST;
    println!(
        "{}  medians {ours_median:.3} and {theirs_median:.3}: the bond costs {ratio:.2} times plain datagrams (at most \
         {MOST})",
        if pass { "PASS" } else { "FAIL" }
    );
    if let Some(path) = &raw.json {
        let command: Vec<String> = std::env::args().collect();
        let json = json!({
            "command": command,
            "bond": ours,
            "plain": theirs,
            "bond_s_per_gigabit": ours_median,
            "plain_s_per_gigabit": theirs_median,
            "ratio": ratio,
            "void_runs": void,
        });
        std::fs::write(path, serde_json::to_string_pretty(&json)?)
            .with_context(|| format!("--json: cannot write {}", path.display()))?;
    }
    if pass { Ok(()) } else { bail!("the bond costs more than {MOST} times plain datagrams") }
}

async fn measure(raw: &Raw, receiver: Role, sender: Role) -> anyhow::Result<Cost> {
    let mut receiver = Child::start(&arguments(raw, receiver, ""))?;
    let other = receiver.line().await.context("the receiver did not start")?;
    let mut sender = Child::start(&arguments(raw, sender, &other))?;
    sender.line().await.context("the sender did not start")?;
    let before = (sender.cpu()?, receiver.cpu()?);
    sender.say("go").await?;
    sender.line().await.context("the sender did not finish")?;
    tokio::time::sleep(DRAIN).await;
    let after = (sender.cpu()?, receiver.cpu()?);
    receiver.say("count").await?;
    let delivered = receiver.line().await.context("the receiver did not count")?;
    let delivered_bytes: u64 = delivered.parse().with_context(|| format!("{delivered:?} is no count"))?;
    if delivered_bytes == 0 {
        bail!("nothing was delivered");
    }
    Ok(Cost { sender_s: after.0 - before.0, receiver_s: after.1 - before.1, delivered_bytes })
}

fn arguments(raw: &Raw, role: Role, other: &str) -> Vec<String> {
    let role = role.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let pairs = [
        ("--role", role),
        ("--other", other.to_owned()),
        ("--video", raw.video.to_string()),
        ("--fps", raw.fps.to_string()),
        ("--uplinks", raw.uplinks.to_string()),
        ("--seconds", raw.seconds.clone()),
    ];
    let mut arguments = vec!["bond-cpu".to_owned()];
    arguments.extend(pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_gigabit_costs() {
        let cost = Cost { sender_s: 1.0, receiver_s: 0.5, delivered_bytes: 125_000_000 };
        assert!((cost.per_gigabit() - 1.5).abs() < 1e-9);
    }
}
