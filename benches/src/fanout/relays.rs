//! The relays that are measured, each in a process of its own.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;
use relay::tls::Identity;
use roadie::edge_process::EdgeProcess;
use serde::Serialize;
use tokio::process::{Child, Command};

use super::crowd::Place;

/// A relay must listen within this time.
const START: Duration = Duration::from_secs(10);

/// A relay of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// moq-relay, as crates.io has it.
    MoqRelay,
}

/// The version that `cargo xtask peers` installs.
const MOQ_RELAY: &str = "moq-relay 0.17.10";

/// Whose costs are counted, and how the show comes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Ours, over a bond.
    Bond,
    /// Ours, over MoQ.
    Ours,
    /// The other one, over MoQ.
    Peer,
}

impl Subject {
    /// In the table.
    pub fn name(self) -> &'static str {
        match self {
            Subject::Bond => "ours by bond",
            Subject::Ours => "ours by MoQ",
            Subject::Peer => "moq-relay",
        }
    }
}

/// A relay, until this is dropped.
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// Where it is.
    pub place: Place,
    /// Of its certificate.
    pub fingerprint: String,
    /// Killed when it goes.
    _process: Child,
}

impl Running {
    /// Starts it; its files are in `dir`.
    pub async fn start(subject: Subject, dir: &Path) -> anyhow::Result<Self> {
        match subject {
            Subject::Peer => peer(dir).await,
            Subject::Bond | Subject::Ours => ours(subject, dir).await,
        }
    }
}

async fn ours(subject: Subject, dir: &Path) -> anyhow::Result<Running> {
    let program = std::env::current_exe()?.with_file_name("roadie-relay");
    let edge = EdgeProcess::start(&program, dir, 0, None).await?;
    let state = dir.join("relay").display().to_string();
    // Only what came over a bond has its passage written down.
    let http = if subject == Subject::Bond { edge.http_port } else { 0 };
    Ok(Running {
        pid: edge.child.id().context("the relay ended")?,
        place: Place { quic: edge.quic_port, http, state },
        fingerprint: edge.fingerprint,
        _process: edge.child,
    })
}

/// With the certificate that ours would have, and all that it can leave away left away.
async fn peer(dir: &Path) -> anyhow::Result<Running> {
    let program = find()?;
    let state = dir.join("relay");
    let identity = Identity::self_signed(&state)?;
    let quic = free_port()?;
    let log = std::fs::File::create(dir.join("moq-relay.log"))?;
    let mut child = Command::new(&program)
        .args(["--listen", &format!("127.0.0.1:{quic}"), "--auth-public", "**", "--log-level", "warn"])
        .arg("--listen-tls-cert")
        .arg(state.join("cert.pem"))
        .arg("--listen-tls-key")
        .arg(state.join("key.pem"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let begun = Instant::now();
    // It says nothing that could be relied on: it listens once its port is taken.
    while UdpSocket::bind((Ipv4Addr::LOCALHOST, quic)).is_ok() {
        if let Some(status) = child.try_wait()? {
            let words = std::fs::read_to_string(dir.join("moq-relay.log")).unwrap_or_default();
            bail!("moq-relay ended ({status}): {}", words.trim_end());
        }
        anyhow::ensure!(begun.elapsed() < START, "moq-relay does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(Running {
        pid: child.id().context("moq-relay ended")?,
        place: Place { quic, http: 0, state: state.display().to_string() },
        fingerprint: identity.fingerprint,
        _process: child,
    })
}

/// Where `cargo xtask peers` puts it, or in the PATH.
pub fn find() -> anyhow::Result<PathBuf> {
    let installed = std::env::current_exe()?
        .parent()
        .and_then(Path::parent)
        .map(|target| target.join("peers/bin/moq-relay"))
        .filter(|program| program.is_file());
    let program = match installed {
        Some(program) => program,
        None => PathBuf::from("moq-relay"),
    };
    match std::process::Command::new(&program).arg("--version").output() {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout);
            if version.trim() != MOQ_RELAY {
                eprintln!("note: {} is {}, not {MOQ_RELAY}", program.display(), version.trim());
            }
            Ok(program)
        }
        _ => bail!("{MOQ_RELAY} is not here: install it with `cargo xtask peers`"),
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
