//! The log as programs read it: the real `roadie-relay`.

mod common;

use std::process::Stdio;

use common::{Dir, PATIENCE};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

#[tokio::test]
async fn with_log_json_every_line_is_an_object() {
    let dir = Dir::new("log");
    let mut child = Command::new(env!("CARGO_BIN_EXE_roadie-relay"))
        .args(["--log", "json", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--state"])
        .arg(&dir.0)
        .env_remove("RUST_LOG")
        .env_remove("ROADIE_TOKEN")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut messages = Vec::new();
    let read = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let event: serde_json::Value =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            for field in ["timestamp", "level", "target", "message"] {
                assert!(event[field].is_string(), "no {field} in {line}");
            }
            messages.push(format!(
                "{} {}",
                event["level"].as_str().unwrap(),
                event["message"].as_str().unwrap()
            ));
            if messages.len() == 1 {
                // It has begun, and is told to end.
                let pid = rustix::process::Pid::from_raw(child.id().unwrap() as i32).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("it does not end");
    assert!(messages[0].starts_with("WARN neither --token nor --auth"), "{messages:?}");
    assert_eq!(messages.last().unwrap(), "INFO stopping");
    assert!(child.wait().await.unwrap().success());
}
