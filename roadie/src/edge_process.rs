//! The edge relay as a process of its own, for the demo and for benchmarks.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The relay must have its ports within this time.
const RELAY_START: Duration = Duration::from_secs(10);

/// The edge, as a process of its own.
pub struct EdgeProcess {
    /// Killed when it goes.
    pub child: Child,
    /// Where it listens for the bond and for players.
    pub quic_port: u16,
    /// Where it has its page.
    pub http_port: u16,
    /// Of its own certificate.
    pub fingerprint: String,
    /// What it says.
    pub log: PathBuf,
}

impl EdgeProcess {
    /// Starts the program; it keeps its certificate and its log in `state`. HTTP port 0 is any free one.
    ///
    /// # Errors
    /// What it said, when it does not come up.
    pub async fn start(
        program: &Path,
        state: &Path,
        port: u16,
        player: Option<&Path>,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(state).with_context(|| format!("cannot create {}", state.display()))?;
        let log = state.join("relay.log");
        let stderr =
            std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(program);
        command.args(["--listen", "[::]:0", "--http", &format!("[::]:{port}")]);
        command.arg("--state").arg(state.join("relay"));
        if let Some(player) = player {
            command.arg("--player").arg(player);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).kill_on_drop(true);
        // Ctrl-C is for the demo; it ends the relay after the show.
        command.process_group(0);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("the relay has no output")?).lines();
        let (mut quic_port, mut http_port) = (None, None);
        let fingerprint = tokio::time::timeout(RELAY_START, async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(addr) = line.strip_prefix("listening on ").and_then(|rest| rest.split(' ').next())
                {
                    quic_port = addr.parse::<SocketAddr>().ok().map(|addr| addr.port());
                } else if let Some(url) = line.strip_prefix("page on http://localhost:") {
                    http_port = url.split('/').next().and_then(|port| port.parse::<u16>().ok());
                } else if let Some(fingerprint) = line.strip_prefix("certificate fingerprint ") {
                    return Some(fingerprint.to_owned());
                }
            }
            None
        })
        .await
        .context("the relay does not start")?;
        match (quic_port, http_port, fingerprint) {
            (Some(quic_port), Some(http_port), Some(fingerprint)) => {
                Ok(Self { child, quic_port, http_port, fingerprint, log })
            }
            _ => {
                let words = std::fs::read_to_string(&log).unwrap_or_default();
                let hint =
                    words.lines().last().unwrap_or("it said nothing").trim_start_matches("roadie-relay: ");
                bail!("the relay did not start: {}", hint.replace("--http", "--port"))
            }
        }
    }
}
