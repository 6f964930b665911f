//! Every input under `corpus/ticket/` through the code that the fuzzer runs: see `docs/fuzzing.md`.

#[path = "replay/ticket.rs"]
mod ticket;

use std::fs;
use std::path::Path;

#[test]
fn tickets_claims_and_sets_of_keys() {
    ticket::run(&[]);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/ticket");
    let mut inputs: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(inputs.len() >= 10, "{} is nearly empty", folder.display());
    for input in inputs {
        let data = fs::read(&input).unwrap();
        let run = std::panic::catch_unwind(|| ticket::run(&data));
        assert!(run.is_ok(), "failed on {}", input.display());
    }
}
