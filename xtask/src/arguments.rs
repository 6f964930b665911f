//! What was typed after `cargo xtask`.

use std::ffi::OsString;

/// One validated command line.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Print this text.
    Help(&'static str),
    /// Set up, build and become `roadie demo` with these arguments.
    Demo(Vec<OsString>),
    /// Set up and run this part of the tests; the arguments go to each test program.
    Test(Part, Vec<OsString>),
    /// Only the set-up, of everything.
    Setup,
    /// Only the player that the relay serves.
    Player,
    /// Only the programs of others that ours are measured against.
    Peers,
}

/// Which tests to run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    /// All of the below.
    All,
    /// Format, clippy, and that the pure crates build for wasm32.
    Lint,
    /// Unit, property, architecture and documentation tests, native and in wasm.
    Unit,
    /// End to end: encoder, bond, relay and a headless browser.
    EndToEnd,
}

const HELP: &str = "\
Usage: cargo xtask <COMMAND>

Commands:
  demo [ARGS]         Set up, build and run the demo; ARGS go to `roadie demo`
  test [PART]         Set up and run every test, or one part: lint, unit, e2e
  setup               Only install what demo and test need
  player              Only build the browser's player, into target/player
  peers               Only build the programs of others that `roadie-bench` measures against

Each command says what it installs before it does, and installs nothing twice.
`cargo xtask <COMMAND> --help` says more.
";

const DEMO_HELP: &str = "\
Usage: cargo xtask demo [ARGS]
       cargo xtask demo -- [ARGS]

Installs what is missing (GStreamer by apt-get, with sudo when you are not root; the wasm target by rustup; a
clip with a free licence), builds Roadie, and runs `roadie demo ARGS`: a live show from this machine over three
emulated uplinks to a page whose address is printed.

Some ARGS (all of them: cargo xtask demo -- --help):
  --input camera      Your camera instead of the clip
  --seconds 20        Stop by itself
  --headless          A headless Chromium is the viewer (installed when missing)
  --cut 2@5s+4s       Uplink 2 is dead from second 5, for 4 s
  --json FILE         Write the report
";

const TEST_HELP: &str = "\
Usage: cargo xtask test [PART] [-- TEST-ARGS]

Installs what is missing, then checks and tests everything. The last line is `N passed, M failed`.

Parts:
  lint                Format, clippy (wasm too), pure crates build for wasm32
  unit                Unit, property, architecture and documentation tests, native and wasm
  e2e                 End to end, with a headless Chromium

TEST-ARGS go to every test program: a part of a test's name, or `--nocapture`.
";

const SETUP_HELP: &str = "\
Usage: cargo xtask setup

Installs what `demo` and `test` need and says so: Debian packages by apt-get (with sudo when you are not root),
rustup's wasm32-unknown-unknown target, rustfmt and clippy, and the demo's clip into target/setup.
";

const PLAYER_HELP: &str = "\
Usage: cargo xtask player

Builds player-wasm and its page into target/player, the folder that the relay serves, and prints how much there is to
download. Nothing is rebuilt when neither the code nor the page changed.
";

const PEERS_HELP: &str = "\
Usage: cargo xtask peers

Builds moq's own relay and command line from crates.io, optimised, into target/peers: `roadie-bench fanout --peer
moq-relay` measures ours against them. (The tests talk to them too, and build them quickly if they are not there.)
";

/// Understands a command line; the error is one line for the person who typed it.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut arguments = arguments.into_iter();
    let Some(name) = arguments.next() else {
        return Err("which command? demo, test, setup, player or peers (--help says more)".into());
    };
    let (own, passed_on) = split(arguments.collect());
    let wants_help = own.iter().any(|argument| argument == "--help" || argument == "-h");
    match name.to_str() {
        Some("--help" | "-h" | "help") => Ok(Command::Help(HELP)),
        Some("demo") if wants_help => Ok(Command::Help(DEMO_HELP)),
        Some("demo") => Ok(Command::Demo(own.into_iter().chain(passed_on).collect())),
        Some("test") if wants_help => Ok(Command::Help(TEST_HELP)),
        Some("test") => Ok(Command::Test(part(own)?, passed_on)),
        Some("setup") if wants_help => Ok(Command::Help(SETUP_HELP)),
        Some("setup") => nothing_more("setup", own, passed_on).map(|()| Command::Setup),
        Some("player") if wants_help => Ok(Command::Help(PLAYER_HELP)),
        Some("player") => nothing_more("player", own, passed_on).map(|()| Command::Player),
        Some("peers") if wants_help => Ok(Command::Help(PEERS_HELP)),
        Some("peers") => nothing_more("peers", own, passed_on).map(|()| Command::Peers),
        _ => Err(format!(
            "there is no command `{}`; the commands are demo, test, setup, player and peers (--help says more)",
            name.display()
        )),
    }
}

/// Cuts at the first `--`, which itself is dropped.
fn split(arguments: Vec<OsString>) -> (Vec<OsString>, Vec<OsString>) {
    let mut own = arguments;
    let mut passed_on = match own.iter().position(|argument| argument == "--") {
        Some(at) => own.split_off(at),
        None => return (own, Vec::new()),
    };
    passed_on.remove(0);
    (own, passed_on)
}

fn part(own: Vec<OsString>) -> Result<Part, String> {
    match own.as_slice() {
        [] => Ok(Part::All),
        [one] => match one.to_str() {
            Some("lint") => Ok(Part::Lint),
            Some("unit") => Ok(Part::Unit),
            Some("e2e") => Ok(Part::EndToEnd),
            _ => Err(format!(
                "there is no part `{}` of the tests; the parts are lint, unit and e2e",
                one.display()
            )),
        },
        _ => Err("test takes one part (lint, unit or e2e); arguments for the tests go after `--`".into()),
    }
}

fn nothing_more(command: &str, own: Vec<OsString>, passed_on: Vec<OsString>) -> Result<(), String> {
    match own.into_iter().chain(passed_on).next() {
        None => Ok(()),
        Some(extra) => Err(format!("{command} takes no argument, but got `{}`", extra.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn demo_arguments_with_and_without_dashes_are_the_same() {
        let expected = Ok(Command::Demo(words("--seconds 5 --cut 2@5s+4s")));
        assert_eq!(typed("demo --seconds 5 --cut 2@5s+4s"), expected);
        assert_eq!(typed("demo -- --seconds 5 --cut 2@5s+4s"), expected);
        assert_eq!(typed("demo --seconds 5 -- --cut 2@5s+4s"), expected);
    }

    #[test]
    fn help_before_the_dashes_is_ours_and_after_them_the_program_s() {
        assert_eq!(typed("demo --help"), Ok(Command::Help(DEMO_HELP)));
        assert_eq!(typed("demo -- --help"), Ok(Command::Demo(words("--help"))));
        assert_eq!(typed("--help"), Ok(Command::Help(HELP)));
        assert_eq!(typed("test -h"), Ok(Command::Help(TEST_HELP)));
    }

    #[test]
    fn a_part_of_the_tests_and_a_filter() {
        assert_eq!(typed("test"), Ok(Command::Test(Part::All, vec![])));
        assert_eq!(typed("test unit -- reorder"), Ok(Command::Test(Part::Unit, words("reorder"))));
        assert_eq!(typed("test e2e"), Ok(Command::Test(Part::EndToEnd, vec![])));
    }

    #[test]
    fn wrong_words_are_named_in_one_line() {
        for (line, word) in [("tset", "tset"), ("test units", "units"), ("setup now", "now")] {
            let error = typed(line).unwrap_err();
            assert!(error.contains(word) && error.lines().count() == 1, "{error}");
        }
        assert!(typed("").is_err());
        assert!(typed("test unit e2e").is_err());
    }
}
