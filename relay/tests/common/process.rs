//! A real `roadie-relay`, and what it says.

#![allow(dead_code)] // Each test binary uses its own part.

use std::net::SocketAddr;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::common::{Dir, PATIENCE};
use crate::programs::Stage;

pub struct Process {
    pub child: Child,
    pub stage: Stage,
    log: Lines<BufReader<ChildStderr>>,
}

impl Process {
    /// With its ports and its files where they are out of the way.
    pub async fn start(dir: &Dir, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_roadie-relay"))
            .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--state"])
            .arg(&dir.0)
            .args(arguments)
            .env_remove("RUST_LOG")
            .env_remove("ROADIE_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = async || lines.next_line().await.unwrap().expect("the relay ended at its start");
        let quic = next().await.split(' ').nth(2).unwrap().parse::<SocketAddr>().unwrap().port();
        let http = next().await.split([':', '/']).nth(4).unwrap().parse().unwrap();
        let fingerprint = next().await.split(' ').next_back().unwrap().to_owned();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, stage: Stage::elsewhere(quic, http, fingerprint), log }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// The next line of its log that has these words.
    pub async fn says(&mut self, words: &str) -> String {
        let reading = async {
            loop {
                let line = self.log.next_line().await.unwrap().expect("the relay ended");
                if line.contains(words) {
                    return line;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("it does not say {words:?}"))
    }

    /// Its exit code, once it has ended.
    pub async fn ended(&mut self) -> Option<i32> {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it goes on").unwrap().code()
    }
}
