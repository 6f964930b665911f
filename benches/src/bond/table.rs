//! The table of what the bond must show: every scenario, one line each.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::judge::{Verdict, fec_harmless};
use super::scenario::Scenario;
use super::spec::{Spec, load};
use super::summary::Summary;

/// The scenarios of the table, in its order.
pub const ROWS: [&str; 13] = [
    "steady",
    "blackout",
    "blackout-each",
    "blackout-data",
    "blackout-feedback",
    "loss-random",
    "loss-bursty",
    "lte",
    "lte-made-up",
    "lte-follow",
    "swing",
    "hopeless",
    "cubic",
];

/// How a scenario is run: so many seeds of it, simulated or with real sockets.
pub type Measure<'a> = dyn Fn(&Scenario) -> anyhow::Result<Summary> + 'a;

/// What came of the table.
pub struct Table {
    /// For programs.
    pub json: Vec<Value>,
    /// Rows that failed.
    pub failed: Vec<String>,
}

/// Runs all rows and prints each as soon as it is known. `fec` repeats every row without parity.
pub fn run(flags: &Spec, traces: &Path, measure: &Measure, fec: bool) -> anyhow::Result<Table> {
    let mut table = Table { json: Vec::new(), failed: Vec::new() };
    let mut harms = Vec::new();
    for row in ROWS {
        let (name, spec) = load(row)?;
        let started = Instant::now();
        let measured = Scenario::new(&name, &flags.clone().over(spec), traces)
            .and_then(|scenario| Ok((measure(&scenario)?, scenario)));
        let (summary, scenario) = match measured {
            Ok(measured) => measured,
            Err(error) => {
                println!("{name:18} SKIP  {error:#}");
                table.json.push(json!({ "scenario": name, "skipped": format!("{error:#}") }));
                continue;
            }
        };
        let verdicts = judge(&scenario, &summary, measure)?;
        table.line(&name, &summary, &verdicts, started);
        if fec {
            let off = measure(&scenario.with_fec(false))?;
            harms.push((name, fec_harmless(&summary.figures(), &off.figures())));
        }
    }
    for (name, verdict) in harms {
        table.word(&format!("fec in {name}"), &[verdict]);
    }
    Ok(table)
}

/// Compares a scenario's figures with what it must show.
pub fn judge(scenario: &Scenario, summary: &Summary, measure: &Measure) -> anyhow::Result<Vec<Verdict>> {
    let without = match scenario.must.without {
        None => None,
        Some(uplink) => {
            let scenario = scenario.without(uplink.saturating_sub(1))?;
            Some(measure(&scenario)?.figures())
        }
    };
    Ok(scenario.must.judge(&summary.figures(), without.as_ref()))
}

impl Table {
    fn line(&mut self, name: &str, summary: &Summary, verdicts: &[Verdict], started: Instant) {
        self.word(name, verdicts);
        let f = summary.figures();
        let worst = summary.worst().map_or(0, |run| run.seed);
        println!(
            "{:18}       {} runs in {:.0} s: P50 {:.0} P95 {:.0} P99 {:.0} max {:.0} ms, {} late {} lost of {}, oracle \
             {}, audio {}, wire/media {:.3}, own queue P95 {:.0} ms, worst seed {worst}",
            "",
            summary.runs.len(),
            started.elapsed().as_secs_f64(),
            f.p50_ms,
            f.p95_ms,
            f.p99_ms,
            f.max_ms,
            f.late,
            f.lost,
            f.frames,
            f.oracle_lost,
            f.audio_missed,
            f.wire_over_media,
            summary.queueing_p95_ms(),
        );
        let mut json = summary.json();
        json["verdicts"] = json!(verdicts);
        self.json.push(json);
    }

    fn word(&mut self, name: &str, verdicts: &[Verdict]) {
        let pass = verdicts.iter().all(|verdict| verdict.pass);
        let texts: Vec<String> = verdicts
            .iter()
            .map(|verdict| format!("{}{}", if verdict.pass { "" } else { "NOT " }, verdict.text))
            .collect();
        println!("{name:18} {}  {}", if pass { "PASS" } else { "FAIL" }, texts.join("; "));
        if !pass {
            self.failed.push(name.to_owned());
        }
    }
}
