//! `roadie-relay`: arguments, settings, `Edge::new`, `run`.

use std::io::IsTerminal;

use clap::Parser;
use relay::edge::Edge;
use relay::reload::Reload;
use relay::settings::{LogFormat, Raw, explain};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
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
    let stops = stops()?;
    let hangups = signal(SignalKind::hangup())?;
    let settings = raw.clone().check()?;
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
    if !std::io::stderr().is_terminal() {
        tokio::spawn(reload(hangups, raw, edge.reload()));
    }
    Ok(edge.run_until_hurried(asked(stops.clone(), 1), asked(stops, 2)).await?)
}

/// Reads the settings file anew at each SIGHUP.
async fn reload(mut hangups: Signal, raw: Raw, mut edge: Reload) {
    while hangups.recv().await.is_some() {
        let taken = match raw.clone().check() {
            Ok(settings) => edge.take(settings).await.map_err(anyhow::Error::from),
            Err(error) => Err(error.into()),
        };
        match taken {
            Ok(fixed) => {
                tracing::info!("the settings were read again");
                if !fixed.is_empty() {
                    tracing::warn!("what has changed in {} takes a restart", fixed.join(", "));
                }
            }
            Err(error) => tracing::error!("{}. The settings that there were stay", explain(&error)),
        }
    }
}

/// How often it was asked to stop. Whoever asks a third time does not want to know why it has not ended yet.
fn stops() -> std::io::Result<watch::Receiver<u32>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A terminal that is closed takes what runs in it along; where there is none, SIGHUP is for the settings.
    let mut closed = std::io::stderr().is_terminal().then(|| signal(SignalKind::hangup())).transpose()?;
    let (count, stops) = watch::channel(0);
    tokio::spawn(async move {
        for times in 1..=3 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                true = hung_up(&mut closed) => {}
            }
            count.send_replace(times);
        }
        std::process::exit(1);
    });
    Ok(stops)
}

async fn hung_up(terminal: &mut Option<Signal>) -> bool {
    match terminal {
        Some(terminal) => terminal.recv().await.is_some(),
        None => std::future::pending().await,
    }
}

/// Resolves when it was asked so often.
async fn asked(mut stops: watch::Receiver<u32>, times: u32) {
    if stops.wait_for(|count| *count >= times).await.is_err() {
        std::future::pending().await
    }
}
