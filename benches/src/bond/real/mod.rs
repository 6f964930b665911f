//! The same scenarios in wall-clock time: real UDP sockets on loopback, the real drivers, emulated uplinks.

pub(crate) mod feed;
pub(crate) mod product;
pub mod rist;
pub mod stalls;
mod uplinks;

use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::scenario::Scenario;
use super::simulate::{figures, millis};
use super::summary::Summary;
use product::Stage;
use rist::Peer;
use stalls::Watch;

/// Every run may be void so many times before the machine is called too busy.
const ATTEMPTS: u64 = 4;

/// A folder of this process in the system's temporary one, for certificates.
pub(crate) fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("roadie-bench-{name}-{}", std::process::id()))
}

/// What came of all runs of a scenario.
pub struct Measured {
    /// The product, without the void runs.
    pub bond: Summary,
    /// The peer, through identical uplinks.
    pub peer: Option<PeerMeasured>,
    /// Runs that the machine spoiled.
    pub void: u64,
}

/// The peer's side.
pub struct PeerMeasured {
    /// Frames, in the shape of the product's.
    pub summary: Summary,
    /// Packets of each run: sent, lost.
    pub packets: Vec<(u64, u64)>,
}

impl PeerMeasured {
    fn new(scenario: &Scenario) -> Self {
        let mut summary = Summary::new(scenario);
        summary.name = format!("rist, {}", scenario.name);
        Self { summary, packets: Vec::new() }
    }
}

/// What becomes of a run in which the machine did not let this process run for more than 20 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoiled {
    /// It is made again, a few times: its latencies are the machine's.
    Again,
    /// It counts: only what arrived matters.
    Counts,
}

/// Runs a scenario so many times in each variant, with seeds from `first` on; with a peer, each of its runs
/// comes right after the product's.
pub fn measure(
    scenario: &Scenario,
    first: u64,
    runs: u64,
    peer: Option<Peer>,
    spoiled: Spoiled,
) -> anyhow::Result<Measured> {
    scenario.check_real()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stage = Stage::start().await.context("cannot start an edge")?;
        let mut measured = Measured {
            bond: Summary::new(scenario),
            peer: peer.map(|_| PeerMeasured::new(scenario)),
            void: 0,
        };
        for seed in first..first + runs {
            for variant in 0..scenario.variants() {
                measured.one(&mut stage, scenario, seed, variant, peer, spoiled).await?;
            }
        }
        Ok(measured)
    })
}

impl Measured {
    async fn one(
        &mut self,
        stage: &mut Stage,
        scenario: &Scenario,
        seed: u64,
        variant: usize,
        peer: Option<Peer>,
        spoiled: Spoiled,
    ) -> anyhow::Result<()> {
        let plan = scenario.plan(seed, variant);
        let shown = if scenario.variants() > 1 { variant + 1 } else { 0 };
        let mut valid = false;
        for _ in 0..ATTEMPTS {
            let watch = Watch::start();
            let outcome = stage.run(&plan, seed).await?;
            let run = figures(&plan, seed, shown, &outcome);
            let name =
                if shown > 0 { format!("seed {seed}, uplink {shown} cut") } else { format!("seed {seed}") };
            let stalls = watch.stalls();
            println!(
                "  {name}: {} late, {} lost of {}, audio {}, P99 {:.0} max {:.0} ms, wire/media {:.3}, machine \
                 {:.0} ms at most{}",
                run.late,
                run.lost,
                run.frames,
                run.audio_missed,
                run.p99_ms,
                run.max_ms,
                run.wire_over_media,
                millis(stalls.worst),
                if stalls.count > 0 { ": the machine stalled" } else { "" },
            );
            valid = stalls.count == 0 || spoiled == Spoiled::Counts;
            if valid {
                self.bond.add(&plan, run, &outcome);
                break;
            }
            self.void += 1;
        }
        if !valid {
            bail!(
                "the machine stalled for more than 20 ms in {ATTEMPTS} runs one after the other: let it rest"
            );
        }
        if let (Some(peer), Some(measured)) = (peer, &mut self.peer) {
            let watch = Watch::start();
            let came = rist::run(&plan, seed, peer).await?;
            let mut run = figures(&plan, seed, shown, &came.outcome);
            run.redundancy = f64::NAN;
            println!(
                "  {:width$}  rist: {} packets lost of {}, frames {} late, {} lost of {}, P99 {:.0} max {:.0} ms, \
                 wire/media {:.3}{}",
                "",
                came.packets_lost,
                came.packets,
                run.late,
                run.lost,
                run.frames,
                run.p99_ms,
                run.max_ms,
                run.wire_over_media,
                if watch.stalls().count > 0 { " (the machine stalled)" } else { "" },
                width = format!("seed {seed}").len().saturating_sub(2),
            );
            measured.summary.add(&plan, run, &came.outcome);
            measured.packets.push((came.packets, came.packets_lost));
        }
        Ok(())
    }

    /// For people.
    pub fn text(&self, peer_buffer_ms: u64) -> String {
        let mut text = self.bond.text();
        if self.void > 0 {
            text +=
                &format!("\n  void    {} runs in which the machine stalled for more than 20 ms", self.void);
        }
        if let Some(peer) = &self.peer {
            let lost: Vec<String> = peer.packets.iter().map(|(of, lost)| format!("{lost} of {of}")).collect();
            text += &format!(
                "\n{}\n  packets {} lost; the receiver's buffer is {peer_buffer_ms} ms",
                peer.summary.text(),
                lost.join(", ")
            );
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let mut json = self.bond.json();
        json["void_runs"] = json!(self.void);
        if let Some(peer) = &self.peer {
            json["peer"] = peer.summary.json();
            json["peer"]["packets"] = json!(peer.packets);
        }
        json
    }
}
