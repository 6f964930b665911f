//! Counts tests while their output streams by.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use crate::process::{self, Failure, Result};

/// What the test programs reported.
#[derive(Debug, Default, PartialEq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Names of the failed ones, as far as they were printed.
    pub names: Vec<String>,
}

impl Tally {
    /// Takes one line of a test program's output: libtest's and wasm-bindgen-test's look the same.
    pub fn line(&mut self, line: &str) {
        if let Some(report) = line.strip_prefix("test result: ") {
            self.passed += count(report, "passed");
            self.failed += count(report, "failed");
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.names.push(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("test ") {
            // libtest says FAILED, wasm-bindgen-test FAIL.
            if let Some(name) = rest.strip_suffix(" ... FAILED").or_else(|| rest.strip_suffix(" ... FAIL")) {
                self.names.push(name.to_owned());
            }
        }
    }
}

/// The number in front of `what` in `ok. 3 passed; 1 failed; ...`.
fn count(report: &str, what: &str) -> u64 {
    let mut words = report.split([' ', ';', '.']).filter(|word| !word.is_empty());
    let mut before = "";
    words
        .find_map(|word| {
            let number = if word == what { before.parse().ok() } else { None };
            before = word;
            number
        })
        .unwrap_or(0)
}

/// How often to look whether a silent child has ended.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long to listen on after the child ended: something that it left behind (a browser) may hold its output
/// open for ever.
const LISTEN_AFTER_END: Duration = Duration::from_secs(3);
/// Lines between the reading thread and us. Few: when the terminal is slow, the tests wait.
const LINES: usize = 64;

/// Runs a `cargo test`, writes its output to `to` as it comes, and counts. A failure when it does not end well.
pub fn run(command: &mut Command, tally: &mut Tally, to: &mut impl Write) -> Result<()> {
    let cannot = format!("cannot run `{}`", process::line(command));
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(Failure::doing(&cannot))?;
    let (send, lines) = mpsc::sync_channel(LINES);
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || read_lines(BufReader::new(stdout), &send));
    }
    let mut silent_after_end = Duration::ZERO;
    while silent_after_end < LISTEN_AFTER_END {
        match lines.recv_timeout(LOOK_EVERY) {
            Ok(line) => {
                to.write_all(&line).and_then(|()| to.flush()).map_err(Failure::doing("cannot print"))?;
                tally.line(String::from_utf8_lossy(&line).trim_end());
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                if child.try_wait().map_err(Failure::doing(&cannot))?.is_some() {
                    silent_after_end += LOOK_EVERY;
                }
            }
        }
    }
    let status = child.wait().map_err(Failure::doing(&cannot))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(format!("`{}` failed ({status})", process::line(command))))
    }
}

/// Line by line until the end, as bytes: a test may print what is not UTF-8.
fn read_lines(mut from: impl BufRead, to: &SyncSender<Vec<u8>>) {
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        if to.send(std::mem::take(&mut line)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(text: &str, then: &str) -> (Result<()>, Tally, String) {
        let mut tally = Tally::default();
        let mut out = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("printf \"$TEXT\"; {then}")]).env("TEXT", text);
        let result = run(&mut command, &mut tally, &mut out);
        (result, tally, String::from_utf8_lossy(&out).into_owned())
    }

    const NATIVE: &str = "\
running 3 tests
test a::b ... ok
test a::c ... FAILED
test a::d ... ignored

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
    const WASM: &str = "\
test x ... FAIL
test result: ok. 12 passed; 0 failed; 0 ignored; 0 filtered out; finished in 0.02s
";

    #[test]
    fn adds_up_the_reports_and_lets_everything_through() {
        let text = [NATIVE, WASM].concat();
        let (result, tally, out) = print(&text, "true");
        assert!(result.is_ok());
        assert_eq!(tally, Tally { passed: 13, failed: 1, names: vec!["a::c".into(), "x".into()] });
        assert_eq!(out, text);
    }

    #[test]
    fn a_test_that_only_talks_about_results_does_not_count() {
        let mut tally = Tally::default();
        tally.line("expected `test result: ok. 5 passed; 0 failed`");
        tally.line("test result");
        tally.line("test result: ok.");
        assert_eq!(tally, Tally::default());
    }

    #[test]
    fn output_that_is_not_text_passes_through() {
        let (_, tally, out) = print("\\377\\376\ntest result: ok. 1 passed; 0 failed;", "true");
        assert_eq!(tally.passed, 1);
        assert!(out.starts_with('\u{fffd}'));
    }

    #[test]
    fn a_crash_is_a_failure_even_without_a_failed_test() {
        let (result, tally, _) = print("test result: ok. 2 passed; 0 failed;\n", "exit 101");
        assert!(result.is_err());
        assert_eq!(tally.passed, 2);
    }

    #[test]
    fn something_left_behind_does_not_hold_us_up() {
        let (result, tally, _) = print("test result: ok. 1 passed; 0 failed;\n", "sleep 20 &");
        assert!(result.is_ok());
        assert_eq!(tally.passed, 1);
    }
}
