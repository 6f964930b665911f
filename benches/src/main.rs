//! `roadie-bench`: repeats what is to be measured, and sums it up.

mod latency;

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
    Latency(latency::Raw),
}

fn main() {
    let Command::Latency(raw) = Cli::parse().command;
    if let Err(error) = latency::run(raw) {
        eprintln!("roadie-bench: {error:#}");
        std::process::exit(1);
    }
}
