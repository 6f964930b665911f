//! The bond's benchmark: scenarios, simulated over many seeds or run with real sockets, with an oracle's figure
//! beside each.

pub mod judge;
pub mod ledger;
pub mod line;
pub mod look;
pub mod media;
pub mod plan;
pub mod real;
pub mod scenario;
pub mod simulate;
pub mod soak;
pub mod spec;
pub mod summary;
pub mod table;
pub mod tally;
pub mod text;
pub mod world;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use look::{Look, Watcher};
use real::Spoiled;
use real::rist::Peer;
use scenario::Scenario;
use simulate::simulate;
use spec::Spec;
use summary::Summary;

/// Seeds of the table where `--seeds` does not say otherwise: what it is to be shown over.
const TABLE_SEEDS: u64 = 200;

/// Real runs of each row of the table where `--runs` does not say otherwise.
const TABLE_RUNS: u64 = 7;

/// Frames of a single run that are listed one by one, the worst first.
const LISTED: usize = 20;

/// The bond under bad conditions: per-frame latency, frames late and lost, what redundancy costs, how each
/// uplink is used, and what an oracle would lose.
///
/// With real UDP sockets through emulated uplinks, or on a virtual clock (--simulate). Mb/s and ms; uplinks
/// count from 1. For example: `roadie-bench bond --rates 5,4,3 --delays 25,35,15 --jitter 3 --video 6 --fps 30
/// --deadline 400 --cut 1@4s+3s --seconds 12 --peer rist`
#[derive(Args)]
pub struct Raw {
    /// On a virtual clock, repeatable by its seed
    #[arg(long)]
    simulate: bool,

    /// How many seeds are simulated [default: 1; with --table 200]
    #[arg(long, value_name = "N", requires = "simulate")]
    seeds: Option<u64>,

    /// How many runs with real sockets [default: 1; with --table 7]
    #[arg(long, value_name = "N", conflicts_with = "simulate")]
    runs: Option<u64>,

    /// The first seed; alone it replays one simulated run and lists its slowest frames
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,

    /// A named scenario (see fixtures/scenarios/) or a file; flags beside it change it
    #[arg(long, value_name = "NAME|FILE")]
    scenario: Option<String>,

    /// Every scenario of the table, PASS or FAIL for each
    #[arg(long, conflicts_with_all = ["scenario", "without", "peer"])]
    table: bool,

    /// Leave out the rows of the table that compare parity on with parity off
    #[arg(long, requires = "table")]
    no_fec_rows: bool,

    /// Compare with the same seeds without this uplink
    #[arg(long, value_name = "UPLINK")]
    without: Option<usize>,

    /// After each real run, send the same through this program and identical uplinks
    #[arg(long, value_name = "PEER", conflicts_with = "simulate")]
    peer: Option<PeerName>,

    /// The peer's receive buffer, ms
    #[arg(long, value_name = "MS", default_value_t = 400)]
    peer_buffer: u64,

    /// Where traces lie that are named without a folder
    #[arg(long, value_name = "DIR", env = "ROADIE_TRACES")]
    trace_dir: Option<PathBuf>,

    /// Threads that simulate [default: as many as processors]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Print the uplinks' state every so many ms (one simulated seed only)
    #[arg(long, value_name = "MS", requires = "simulate")]
    watch: Option<u64>,

    /// Write all figures here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    #[command(flatten)]
    spec: Spec,
}

/// Whom to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PeerName {
    /// Debian's ristsender and ristreceiver
    Rist,
}

/// Runs and prints.
pub fn run(raw: Raw) -> anyhow::Result<()> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = raw.threads.unwrap_or(processors);
    let (asked, of_table) = if raw.simulate { (raw.seeds, TABLE_SEEDS) } else { (raw.runs, TABLE_RUNS) };
    let count = asked.unwrap_or(if raw.table { of_table } else { 1 });
    if count == 0 {
        bail!("--{} 0 measures nothing", if raw.simulate { "seeds" } else { "runs" });
    }
    let traces = raw.trace_dir.clone().unwrap_or_else(default_traces);
    let measure = |scenario: &Scenario| -> anyhow::Result<Summary> {
        if raw.simulate {
            return Ok(simulate(scenario, raw.seed, count, threads));
        }
        Ok(real::measure(scenario, raw.seed, count, None, Spoiled::Again)?.bond)
    };
    if raw.table {
        // What parity does is a matter of many seeds.
        let fec = raw.simulate && !raw.no_fec_rows;
        let table = table::run(&raw.spec, &traces, &measure, fec)?;
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
    if raw.simulate && scenario.length() >= soak::LONG {
        let soak = soak::run(&scenario, raw.seed)?;
        json["soak"] = soak.json();
        write_json(raw.json.as_deref(), &json)?;
        return soak.verdict();
    }
    let started = Instant::now();
    let summary = if raw.simulate {
        if count == 1 && scenario.variants() == 1 {
            one(&scenario, raw.seed, raw.watch.map(Duration::from_millis));
        } else if raw.watch.is_some() {
            bail!("--watch shows one run: give --seed alone, and cut one uplink");
        }
        let summary = simulate(&scenario, raw.seed, count, threads);
        json["result"] = summary.json();
        println!("{}", summary.text());
        summary
    } else {
        let peer = raw.peer.map(|_| Peer { buffer: Duration::from_millis(raw.peer_buffer) });
        if peer.is_some() {
            real::rist::check()?;
        }
        let measured = real::measure(&scenario, raw.seed, count, peer, Spoiled::Again)?;
        json["result"] = measured.json();
        println!("{}", measured.text(raw.peer_buffer));
        measured.bond
    };
    if let Some(uplink) = raw.without {
        let other = scenario.without(uplink.checked_sub(1).context("--without counts from 1")?)?;
        let other = measure(&other)?;
        println!("{}", other.text());
        let verdict = judge::never_worse(&summary.figures(), &other.figures());
        println!("{}: {}", if verdict.pass { "not worse with it" } else { "WORSE with it" }, verdict.text);
        json["without"] = other.json();
    }
    let verdicts = table::judge(&scenario, &summary, &measure)?;
    for verdict in &verdicts {
        println!("  {}  {}", if verdict.pass { "PASS" } else { "FAIL" }, verdict.text);
    }
    let took = started.elapsed().as_secs_f64();
    println!("  ({} runs, {} simulated events, {took:.1} s)", summary.runs.len(), summary.events());
    json["verdicts"] = json!(verdicts);
    write_json(raw.json.as_deref(), &json)?;
    match verdicts.iter().all(|verdict| verdict.pass) {
        true => Ok(()),
        false => bail!("{name} does not show what it must"),
    }
}

/// One run, frame by frame where something was slow.
fn one(scenario: &Scenario, seed: u64, watch: Option<Duration>) {
    let mut print = |look: &Look| println!("{}", look.text());
    let watcher = watch.map(|every| Watcher { every, look: &mut print });
    let mut outcome = world::run_watched(&scenario.plan(seed, 0), seed, watcher);
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
