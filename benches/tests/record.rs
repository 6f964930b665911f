//! The recorder's promises, briefly: the long versions are `roadie-bench record-kill --runs 50` and its neighbours.

use std::process::{Command, Output};

fn bench(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_roadie-bench"))
        .args(arguments.split_whitespace())
        .output()
        .expect("the program runs")
}

fn passes(arguments: &str) -> String {
    let output = bench(arguments);
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && words.contains("\nPASS  "), "{arguments}: {words}{complaints}");
    words
}

#[test]
fn three_kills_lose_at_most_two_pictures_each() {
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |now| now.as_micros() as u64 % 1_000_000_000);
    let words = passes(&format!("record-kill --runs 3 --longest 2 --seed {seed}"));
    assert!(words.contains("3 of 3 runs"), "{words}");
}

#[test]
fn minutes_of_a_show_go_by_in_a_second_and_the_index_is_right() {
    let words = passes("record-long --hours 0.1");
    assert!(words.contains("the index lists 720 of 720 groups"), "{words}");
}

#[test]
fn a_show_that_cannot_begin_is_told() {
    let output = bench("record-kill --runs 1 --input camera:/dev/nowhere");
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && words.contains("/dev/nowhere"), "{words}");
}
