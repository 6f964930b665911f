//! `cargo xtask test`: every check in its order, going on after a failure so that one run tells everything.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use crate::arguments::Part;
use crate::counting::{self, Tally};
use crate::paths::{Paths, WASM};
use crate::process::{self, Failure, Result};
use crate::{clip, hls_js, peers, player, setup};

const PLAYER: &str = "roadie-player-wasm";
/// Pure: they must build where there is no operating system.
const PURE: &[&str] = &["roadie-media", "roadie-bond", "roadie-sim"];
/// The package whose `tests/` are the end-to-end tests.
const END_TO_END: &str = "roadie";

/// The beginning of the names of the tests that need hls.js, which the set-up may have failed to fetch.
const WITH_HLS_JS: &str = "hls_js_";

/// Starting Chromium and its driver takes seconds on a busy machine with two cores; wasm-bindgen gives up after
/// 5 and 20.
const DRIVER_TIMEOUT_SECONDS: &str = "60";
const BROWSER_TEST_TIMEOUT_SECONDS: &str = "180";

/// Runs a part of the tests. The last line printed is always the summary.
pub fn run(paths: &Paths, part: Part, arguments: &[OsString]) -> ExitCode {
    let started = Instant::now();
    let mut suite = Suite { paths, arguments, tally: Tally::default(), failures: Vec::new() };
    let ready = if part == Part::Lint { setup::lint(paths) } else { setup::test(paths) };
    match ready {
        Ok(()) => suite.part(part),
        Err(error) => {
            // Nothing could run: that is not "0 failed".
            suite.tally.failed += 1;
            suite.failures.push(format!("set-up: {error}"));
        }
    }
    suite.report(started.elapsed())
}

struct Suite<'a> {
    paths: &'a Paths,
    arguments: &'a [OsString],
    tally: Tally,
    failures: Vec<String>,
}

impl Suite<'_> {
    fn part(&mut self, part: Part) {
        if matches!(part, Part::All | Part::Lint) {
            self.lint();
        }
        if matches!(part, Part::All | Part::Unit) {
            self.unit();
        }
        if matches!(part, Part::All | Part::EndToEnd) {
            self.end_to_end();
        }
    }

    fn lint(&mut self) {
        self.check("format", self.paths.cargo().args(["fmt", "--all", "--check"]));
        self.check("clippy", self.paths.cargo().args(["clippy", "--all-targets", "--", "-D", "warnings"]));
        let mut wasm = self.paths.cargo_for_wasm();
        wasm.args(["clippy", "--package", PLAYER, "--target", WASM, "--all-targets", "--", "-D", "warnings"]);
        self.check("clippy of the player", &mut wasm);
        let mut pure = self.paths.cargo_for_wasm();
        pure.args(["build", "--lib", "--target", WASM]);
        PURE.iter().for_each(|package| {
            pure.args(["--package", package]);
        });
        self.check("the pure crates build for wasm32", &mut pure);
    }

    fn unit(&mut self) {
        // Every step takes the same packages (the default members), so that cargo does not build their
        // dependencies again with other features; hence test programs are chosen by name, not by package.
        let mut unit = self.paths.cargo();
        unit.args(["test", "--no-fail-fast", "--lib", "--bins"]);
        let names = test_targets(&self.paths.root, |folder| folder != END_TO_END);
        let later = test_targets(&self.paths.root, |folder| folder == END_TO_END);
        match names.and_then(|names| Ok((names, later?))) {
            Ok((names, later)) => {
                for name in names {
                    // Cargo would run both, and the later one before its player is built.
                    if later.contains(&name) {
                        self.failures.push(format!("two test programs are called {name}: rename one"));
                    }
                    unit.args(["--test", &name]);
                }
            }
            Err(error) => self.failures.push(format!("unit tests: {error}")),
        }
        self.test("unit tests", &mut unit, &[]);
        self.test("documentation tests", self.paths.cargo().args(["test", "--no-fail-fast", "--doc"]), &[]);
        let mut player = self.paths.cargo();
        self.test("player, native", player.args(["test", "--no-fail-fast", "--package", PLAYER]), &[]);
        match self.wasm_test() {
            Ok(mut wasm) => self.test("player, in a worker of headless Chromium", &mut wasm, &[]),
            Err(error) => self.broken("player, in a worker of headless Chromium", &error),
        }
    }

    /// In Chromium and not in node: the browser is needed anyway, it is where the player runs, and Debian's
    /// node 18 crashes on what wasm-bindgen emits today.
    fn wasm_test(&self) -> Result<Command> {
        let tool = player::tool(self.paths)?;
        let driver = process::find("chromedriver").ok_or_else(|| missing("chromedriver"))?;
        let mut command = self.paths.cargo_for_wasm();
        command
            .args(["test", "--no-fail-fast", "--package", PLAYER, "--target", WASM, "--tests", "--config"])
            .arg(format!("target.{WASM}.runner=[{:?}, \"test-runner\"]", tool.display().to_string()))
            .env("CHROMEDRIVER", driver)
            .env("WASM_BINDGEN_USE_DEDICATED_WORKER", "1")
            .env("WASM_BINDGEN_TEST_TIMEOUT", BROWSER_TEST_TIMEOUT_SECONDS)
            .env("WASM_BINDGEN_TEST_DRIVER_TIMEOUT", DRIVER_TIMEOUT_SECONDS);
        Ok(command)
    }

    fn end_to_end(&mut self) {
        let name = "end to end";
        let test = self.end_to_end_test();
        if let Err(error) = player::weigh(self.paths) {
            self.failures.push(format!("size of the player: {error}"));
        }
        match test {
            // One at a time: they measure video in real time on few cores.
            Ok(mut command) if hls_js::path(self.paths).is_file() => {
                self.test(name, &mut command, &["--test-threads=1"]);
            }
            Ok(mut command) => {
                self.test(name, &mut command, &["--test-threads=1", "--skip", WITH_HLS_JS]);
            }
            Err(error) => self.broken(name, &error),
        }
    }

    fn end_to_end_test(&self) -> Result<Command> {
        let names = test_targets(&self.paths.root, |folder| folder == END_TO_END)?;
        if names.is_empty() {
            return Err(Failure::new(format!("there are no tests in {END_TO_END}/tests")));
        }
        heading("player and programs");
        player::build(self.paths)?;
        process::run(self.paths.cargo().args(["build", "--bins"]))?;
        let programs = self.paths.target.join("debug");
        let mut command = self.paths.cargo();
        command
            .args(["test", "--no-fail-fast"])
            .env("ROADIE_BIN", programs.join("roadie"))
            .env("ROADIE_RELAY_BIN", programs.join("roadie-relay"))
            .env("ROADIE_PLAYER_DIR", self.paths.player())
            .env("ROADIE_PEERS", peers::folder(self.paths))
            .env("ROADIE_CHROMIUM", process::find("chromium").ok_or_else(|| missing("chromium"))?)
            .env("ROADIE_FIREFOX", process::find("firefox-esr").ok_or_else(|| missing("firefox-esr"))?)
            .env(
                "ROADIE_CHROMEDRIVER",
                process::find("chromedriver").ok_or_else(|| missing("chromedriver"))?,
            );
        let clip = clip::path(self.paths);
        if clip.is_file() {
            command.env("ROADIE_CLIP", clip);
        }
        command.env("ROADIE_HLS_JS", hls_js::path(self.paths));
        for name in &names {
            command.args(["--test", name]);
        }
        Ok(command)
    }

    /// A step that is not a test: it fails the run, but counts in no number.
    fn check(&mut self, name: &str, command: &mut Command) {
        heading(name);
        if let Err(error) = process::run(command) {
            self.failures.push(format!("{name}: {error}"));
        }
    }

    /// A step whose tests count. The user's arguments for the test programs go behind ours.
    fn test(&mut self, name: &str, command: &mut Command, for_tests: &[&str]) {
        heading(name);
        command.arg("--").args(for_tests).args(self.arguments);
        let failed_before = self.tally.failed;
        if let Err(error) = counting::run(command, &mut self.tally, &mut std::io::stdout()) {
            if self.tally.failed == failed_before {
                // It did not compile, or a test program died before its report: that is not "0 failed".
                self.tally.failed += 1;
            }
            self.failures.push(format!("{name}: {error}"));
        }
    }

    /// A step whose tests could not be started.
    fn broken(&mut self, name: &str, error: &Failure) {
        self.tally.failed += 1;
        self.failures.push(format!("{name}: {error}"));
    }

    fn report(self, took: Duration) -> ExitCode {
        println!("\n== done in {} min {} s", took.as_secs() / 60, took.as_secs() % 60);
        for name in &self.tally.names {
            println!("failed test: {name}");
        }
        for failure in &self.failures {
            println!("failed step: {failure}");
        }
        println!("{} passed, {} failed", self.tally.passed, self.tally.failed);
        if self.failures.is_empty() && self.tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn heading(name: &str) {
    println!("\n== {name}");
}

fn missing(program: &str) -> Failure {
    Failure::new(format!("there is no {program} in the PATH; install it, or run `cargo xtask setup`"))
}

/// Names of the integration tests of the folders that are wanted, as cargo finds them: `tests/NAME.rs` and
/// `tests/NAME/main.rs`.
fn test_targets(root: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for folder in entries(root)? {
        let is_wanted = folder.file_name().and_then(|name| name.to_str()).is_some_and(&wanted);
        let tests = folder.join("tests");
        // The player is no default member: its tests have steps of their own.
        if !is_wanted
            || folder.ends_with("player-wasm")
            || !folder.join("Cargo.toml").is_file()
            || !tests.is_dir()
        {
            continue;
        }
        for test in entries(&tests)? {
            let is_test =
                test.extension().is_some_and(|extension| extension == "rs") || test.join("main.rs").is_file();
            if let (true, Some(name)) = (is_test, test.file_stem().and_then(|name| name.to_str())) {
                names.push(name.to_owned());
            }
        }
    }
    names.sort();
    Ok(names)
}

fn entries(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let cannot = || format!("cannot read {}", folder.display());
    fs::read_dir(folder)
        .map_err(Failure::doing(cannot()))?
        .map(|entry| entry.map(|entry| entry.path()).map_err(Failure::doing(cannot())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_tests_of_this_very_crate() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert_eq!(test_targets(root, |folder| folder == "xtask").unwrap(), ["architecture"]);
        assert!(test_targets(root, |_| false).unwrap().is_empty());
    }
}
