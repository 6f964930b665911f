//! A child process that talks in lines, and how long the kernel let it run.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use crate::process;

/// A child that says nothing for so long is stuck; the longest measurement is far shorter.
const PATIENCE: Duration = Duration::from_secs(600);

/// This program again, in a role; it ends with its standard input, and is killed when this value goes.
pub struct Child {
    child: tokio::process::Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts it.
    pub fn start(arguments: &[String]) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(&program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the child has no pipes");
        };
        Ok(Self { child, input, output: BufReader::new(output).lines() })
    }

    /// The next line it says.
    pub async fn line(&mut self) -> anyhow::Result<String> {
        let line =
            tokio::time::timeout(PATIENCE, self.output.next_line()).await.context("it says nothing")??;
        line.context("it ended")
    }

    /// Says a line to it.
    pub async fn say(&mut self, line: &str) -> anyhow::Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(self.input.flush().await?)
    }

    /// See [`process::cpu`].
    pub fn cpu(&self) -> anyhow::Result<f64> {
        process::cpu(self.child.id().context("it ended")?)
    }
}

/// In the child: says a line to the parent.
pub fn answer(line: &str) {
    use std::io::Write;
    println!("{line}");
    // A parent that is gone ends this process by its standard input.
    let _ = std::io::stdout().flush();
}

/// Orders that nobody has read; the parent waits for an answer to each.
const ORDERS: usize = 4;

/// In the child: the parent's lines, until it is gone.
pub fn orders() -> mpsc::Receiver<String> {
    let (orders, queue) = mpsc::channel(ORDERS);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let Ok(line) = line else { return };
            if orders.blocking_send(line).is_err() {
                return;
            }
        }
    });
    queue
}
