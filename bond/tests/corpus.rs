//! Every input under `corpus/` through the code that the fuzzers run: see `docs/fuzzing.md`.

extern crate roadie_bond as bond;

mod replay;

use std::fs;
use std::path::Path;

/// Runs a target on all that is kept for it; a failure names the file.
fn replay(target: &str, run: fn(&[u8])) {
    struct Tell(String);
    impl Drop for Tell {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed on {}", self.0);
            }
        }
    }
    run(&[]);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target);
    let mut inputs: Vec<_> =
        fs::read_dir(&folder).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    inputs.sort();
    assert!(inputs.len() >= 10, "{} is nearly empty", folder.display());
    for input in inputs {
        let _tell = Tell(input.display().to_string());
        run(&fs::read(&input).expect("an input is readable"));
    }
}

#[test]
fn receiver() {
    replay("receiver", replay::receiver::run);
}

#[test]
fn sender() {
    replay("sender", replay::sender::run);
}

#[test]
fn pair() {
    replay("pair", replay::pair::run);
}

/// The datagrams from which the targets start are the ones that the protocol gives.
#[test]
fn golden_datagrams_are_those_of_the_protocol() {
    let protocol: String =
        include_str!("../../docs/protocol.md").chars().filter(|letter| !letter.is_whitespace()).collect();
    for golden in replay::datagram::FROM_SENDER.iter().chain(&replay::datagram::FROM_RECEIVER) {
        let hex: String = golden.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(protocol.contains(&hex), "{hex}");
    }
}
