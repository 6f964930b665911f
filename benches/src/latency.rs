//! End-to-end latency over several runs of the headless demo, each with a browser of its own.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

/// Glass-to-glass latency by stage: runs the headless demo several times and prints each run and the
/// median run. Void runs (the machine did not schedule us for over 20 ms) are marked.
#[derive(Args)]
pub struct Raw {
    /// How often
    #[arg(long, default_value_t = 3)]
    runs: u32,

    /// The `roadie` program [default: beside this one]
    #[arg(long, value_name = "FILE")]
    roadie: Option<PathBuf>,

    /// Arguments for `roadie demo --headless`, such as `--seconds 20 --cut 2@5s+4s --player target/player`
    #[arg(last = true)]
    demo: Vec<String>,
}

/// What is printed of each run: a heading, and where it stands in the report.
const COLUMNS: [(&str, &str); 11] = [
    ("p50", "/glass_to_glass_ms/p50"),
    ("p95", "/glass_to_glass_ms/p95"),
    ("p99", "/glass_to_glass_ms/p99"),
    ("encode", "/stages_ms/capture_to_encoded/p95"),
    ("bond", "/stages_ms/bond/p95"),
    ("browser", "/stages_ms/relay_to_browser/p95"),
    ("decode", "/stages_ms/decode/p95"),
    ("paint", "/stages_ms/paint/p95"),
    ("first", "/first_frame_ms"),
    ("missing", "/frames/missing"),
    ("stalls", "/stalls"),
];

/// Runs and prints.
pub fn run(raw: Raw) -> anyhow::Result<()> {
    if raw.runs == 0 {
        bail!("--runs 0 measures nothing");
    }
    let roadie = match raw.roadie {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("roadie"),
    };
    println!("milliseconds; p50, p95, p99: glass to glass; encode to paint: p95 of the stage");
    println!("{:>6} {}", "run", COLUMNS.map(|(heading, _)| format!("{heading:>8}")).join(""));
    let mut reports = Vec::new();
    for run in 1..=raw.runs {
        let file = std::env::temp_dir().join(format!("roadie-bench-{}-{run}.json", std::process::id()));
        let status = Command::new(&roadie)
            .args(["demo", "--headless", "--json"])
            .arg(&file)
            .args(&raw.demo)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .with_context(|| format!("cannot start {}", roadie.display()))?;
        // A run that failed its own criteria has a report too, and belongs into the table.
        let json =
            std::fs::read(&file).with_context(|| format!("run {run} ended ({status}) without a report"))?;
        let _ = std::fs::remove_file(&file);
        let report: Value = serde_json::from_slice(&json)?;
        let void = report["scheduler_stalls"].as_u64().unwrap_or(0) > 0;
        println!("{run:>6} {}{}", row(&report), if void { "  void: the machine stalled" } else { "" });
        reports.push(report);
    }
    reports.sort_by(|a, b| number(a, COLUMNS[1].1).total_cmp(&number(b, COLUMNS[1].1)));
    println!("{:>6} {}", "median", row(&reports[reports.len() / 2]));
    Ok(())
}

fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn row(report: &Value) -> String {
    COLUMNS.map(|(_, pointer)| format!("{:>8.0}", number(report, pointer))).join("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_the_report() {
        let report = serde_json::json!({
            "glass_to_glass_ms": {"p50": 100.4, "p95": 140.0, "p99": 150.0},
            "stages_ms": {"bond": {"p95": 50.0}},
            "frames": {"missing": 0},
        });
        let row = row(&report);
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[..5], ["100", "140", "150", "NaN", "50"]);
        assert_eq!(cells[9], "0");
    }
}
