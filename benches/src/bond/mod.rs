//! The bond's benchmark: scenarios, simulated over many seeds, with an oracle's figure beside each.

pub mod judge;
pub mod ledger;
pub mod media;
pub mod plan;
pub mod scenario;
pub mod simulate;
pub mod spec;
pub mod summary;
pub mod table;
pub mod tally;
pub mod text;
pub mod world;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};

use plan::Plan;
use scenario::Scenario;
use simulate::simulate;
use spec::Spec;
use table::Seeds;

/// Seeds of the table where `--seeds` does not say otherwise: what it is to be shown over.
const TABLE_SEEDS: u64 = 200;

/// Frames of a single run that are listed one by one, the worst first.
const LISTED: usize = 20;

/// The bond under bad conditions: per-frame latency, frames late and lost, what redundancy costs, how each
/// uplink is used, and what an oracle would lose.
///
/// Mb/s and ms; uplinks count from 1. For example: `roadie-bench bond --simulate --seeds 200 --rates 5,4,3
/// --delays 25,35,15 --jitter 3 --video 6 --cut 1@4s+3s`
#[derive(Args)]
pub struct Raw {
    /// On a virtual clock, repeatable by its seed
    #[arg(long)]
    simulate: bool,

    /// How many seeds [default: 1; with --table 200]
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,

    /// The first seed; alone it replays one run and lists its slowest frames
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,

    /// A named scenario (see fixtures/scenarios/) or a file; flags beside it change it
    #[arg(long, value_name = "NAME|FILE")]
    scenario: Option<String>,

    /// Every scenario of the table, PASS or FAIL for each
    #[arg(long, conflicts_with_all = ["scenario", "without"])]
    table: bool,

    /// Leave out the rows of the table that compare parity on with parity off
    #[arg(long, requires = "table")]
    no_fec_rows: bool,

    /// Compare with the same seeds without this uplink
    #[arg(long, value_name = "UPLINK")]
    without: Option<usize>,

    /// Where traces lie that are named without a folder
    #[arg(long, value_name = "DIR", env = "ROADIE_TRACES")]
    trace_dir: Option<PathBuf>,

    /// Threads [default: as many as processors]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Print the uplinks' state every so many ms (one seed only)
    #[arg(long, value_name = "MS")]
    watch: Option<u64>,

    /// Write all figures here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    #[command(flatten)]
    spec: Spec,
}

/// Runs and prints.
pub fn run(raw: Raw) -> anyhow::Result<()> {
    if !raw.simulate {
        bail!("real sockets are not there yet: add --simulate");
    }
    let threads = raw.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    let count = raw.seeds.unwrap_or(if raw.table { TABLE_SEEDS } else { 1 });
    if count == 0 {
        bail!("--seeds 0 measures nothing");
    }
    let seeds = Seeds { first: raw.seed, count, threads: threads.unwrap_or(1) };
    let traces = raw.trace_dir.clone().unwrap_or_else(default_traces);
    if raw.table {
        let table = table::run(&raw.spec, &traces, seeds, !raw.no_fec_rows)?;
        write_json(raw.json.as_deref(), &json!({ "command": command(), "rows": table.json }))?;
        return match table.failed.as_slice() {
            [] => Ok(()),
            failed => bail!("{} rows fail: {}", failed.len(), failed.join(", ")),
        };
    }
    let (name, spec) = match &raw.scenario {
        Some(name) => {
            let (name, below) = spec::load(name)?;
            (name, raw.spec.clone().over(below))
        }
        None => ("flags".into(), raw.spec.clone()),
    };
    let scenario = Scenario::new(&name, &spec, &traces)?;
    let mut json = json!({ "command": command() });
    if count == 1 && scenario.variants() == 1 {
        one(&scenario, raw.seed, raw.watch.map(Duration::from_millis));
    } else if raw.watch.is_some() {
        bail!("--watch shows one run: give --seed alone, and cut one uplink");
    }
    let started = Instant::now();
    let summary = simulate(&scenario, seeds.first, seeds.count, seeds.threads);
    let took = started.elapsed().as_secs_f64();
    println!("{}", summary.text());
    if let Some(uplink) = raw.without {
        let other = scenario.without(uplink.checked_sub(1).context("--without counts from 1")?)?;
        let other = simulate(&other, seeds.first, seeds.count, seeds.threads);
        println!("{}", other.text());
        let verdict = judge::never_worse(&summary.figures(), &other.figures());
        println!("{}: {}", if verdict.pass { "not worse with it" } else { "WORSE with it" }, verdict.text);
        json["without"] = other.json();
    }
    let verdicts = table::judge(&scenario, &summary, seeds)?;
    for verdict in &verdicts {
        println!("  {}  {}", if verdict.pass { "PASS" } else { "FAIL" }, verdict.text);
    }
    println!("  ({} runs, {} events in {took:.1} s)", summary.runs.len(), summary.events());
    json["result"] = summary.json();
    json["verdicts"] = json!(verdicts);
    write_json(raw.json.as_deref(), &json)?;
    match verdicts.iter().all(|verdict| verdict.pass) {
        true => Ok(()),
        false => bail!("{name} does not show what it must"),
    }
}

/// One run, frame by frame where something was slow.
fn one(scenario: &Scenario, seed: u64, watch: Option<Duration>) {
    let plan = Plan { watch, ..scenario.plan(seed, 0) };
    let mut outcome = world::run(&plan, seed);
    outcome.fates.sort_by_key(|fate| std::cmp::Reverse(fate.latency.unwrap_or(Duration::MAX)));
    println!("the slowest frames:");
    for fate in outcome.fates.iter().take(LISTED) {
        let kind = if fate.frame.track == media::VIDEO { "video" } else { "audio" };
        let took =
            fate.latency.map_or("lost".into(), |latency| format!("{:.0} ms", simulate::millis(latency)));
        let captured = fate.captured.saturating_since(plan::START).as_secs_f64();
        println!("  {kind} {}.{} captured at {captured:.3} s: {took}", fate.frame.group, fate.frame.frame);
    }
}

fn default_traces() -> PathBuf {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    project.join("../shared/data/traces")
}

fn command() -> Vec<String> {
    std::env::args().collect()
}

fn write_json(path: Option<&Path>, json: &Value) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, serde_json::to_string_pretty(json)?)
        .with_context(|| format!("--json: cannot write {}", path.display()))
}
