//! `roadie`: arguments, settings, run.

use std::io::IsTerminal;

use clap::{Parser, Subcommand};
use roadie::{demo, devices, live, on_air, recordings, token};
use tracing_subscriber::EnvFilter;

/// Live video from a laptop to a watch party, over every uplink at once, recorded on the way.
#[derive(Parser)]
#[command(name = "roadie", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Live(Box<live::Raw>),
    Demo(Box<demo::Raw>),
    Devices(devices::Raw),
    Recordings(recordings::Raw),
    Token(token::Raw),
}

#[tokio::main]
async fn main() {
    let cli = Cli::parse();
    // The status screen is what people look at; what went on below it is asked for by RUST_LOG.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let result = match cli.command {
        Command::Live(raw) => match raw.check() {
            Ok(settings) => on_air::run(settings).await,
            Err(error) => Err(error),
        },
        Command::Demo(raw) => demo::run(*raw).await,
        Command::Devices(raw) => devices::run(raw).await,
        Command::Recordings(raw) => recordings::run(raw).await,
        Command::Token(raw) => token::run(raw),
    };
    if let Err(error) = result {
        eprintln!("roadie: {}", relay::settings::explain(&error));
        std::process::exit(1);
    }
}
