//! `roadie-bench`: repeats what is to be measured, and sums it up.

use benches::fanout::soak;
use benches::record::{disk, kill, long, power};
use benches::{backfill, bond, cpu, fanout, latency, live_cpu};
use clap::{Parser, Subcommand};

/// Measures Roadie.
#[derive(Parser)]
#[command(name = "roadie-bench", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Backfill(backfill::Raw),
    Bond(Box<bond::Raw>),
    BondCpu(cpu::Raw),
    Fanout(fanout::Raw),
    Latency(latency::Raw),
    LiveCpu(live_cpu::Raw),
    RecordDisk(disk::Raw),
    RecordKill(kill::Raw),
    RecordLong(long::Raw),
    RecordPower(power::Raw),
    Soak(soak::Raw),
}

fn main() {
    let result = match Cli::parse().command {
        Command::Backfill(raw) => backfill::run(raw),
        Command::Bond(raw) => bond::run(*raw),
        Command::BondCpu(raw) => cpu::run(raw),
        Command::Fanout(raw) => fanout::run(raw),
        Command::Latency(raw) => latency::run(raw),
        Command::LiveCpu(raw) => live_cpu::run(raw),
        Command::RecordDisk(raw) => disk::run(raw),
        Command::RecordKill(raw) => kill::run(raw),
        Command::RecordLong(raw) => long::run(raw),
        Command::RecordPower(raw) => power::run(raw),
        Command::Soak(raw) => soak::run(raw),
    };
    if let Err(error) = result {
        eprintln!("roadie-bench: {error:#}");
        std::process::exit(1);
    }
}
