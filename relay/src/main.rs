//! `roadie-relay`: arguments, settings, `Edge::new`, `run`.

use std::io::IsTerminal;

use clap::Parser;
use relay::edge::Edge;
use relay::settings::{LogFormat, Raw, explain};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() {
    if let Err(error) = run().await {
        eprintln!("roadie-relay: {}", explain(&error));
        std::process::exit(1);
    }
}

async fn run() -> anyhow::Result<()> {
    let raw = Raw::parse();
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,moq_net=error,web_transport_quinn=error"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match raw.log {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).init(),
    }
    // Before anybody can know that there is something to stop.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let settings = raw.check()?;
    let anyone = settings.token.is_none() && settings.admission.auth.is_empty();
    let edge = Edge::new(settings).await?;
    // Programs that start a relay wait for these lines, so they go to standard output, unbuffered.
    if let Some(addr) = edge.quic_addr() {
        println!("listening on {addr} (UDP)");
    }
    if let Some(addr) = edge.http_addr() {
        println!("page on http://localhost:{}/NAME", addr.port());
    }
    println!("certificate fingerprint {}", edge.fingerprint());
    if let Some(addr) = edge.https_addr() {
        println!("page on https://localhost:{}/NAME", addr.port());
    }
    if let Some(addr) = edge.webrtc_addr() {
        println!("WebRTC on {addr} (UDP)");
    }
    if anyone {
        tracing::warn!("neither --token nor --auth: anybody who reaches this relay may publish");
    }
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(edge.run_until(stop).await?)
}
