//! The program as a person calls it.

use std::process::{Command, Output};

fn bench(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_roadie-bench"))
        .args(arguments.split_whitespace())
        .env("ROADIE_TRACES", "/nowhere")
        .output()
        .expect("the program runs")
}

#[test]
fn bad_input_is_named_and_fails() {
    for (arguments, says) in [
        ("bond --simulate --rates 5,x", "--rates"),
        ("bond --simulate --scenario stedy", "known are: "),
        ("bond --simulate --traces nope", "--trace-dir"),
        ("bond --simulate --seeds 0", "--seeds 0"),
        ("bond --runs 0", "--runs 0"),
        ("bond --simulate --without 4", "no uplink 4"),
        ("bond --simulate --peer rist", "--peer"),
        ("bond --simulate --watch 50 --seeds 2", "--watch"),
        ("bond --simulate --seconds 1 --json /nowhere/x", "/nowhere/x"),
        ("bond --share 1+2@6", "--simulate"),
        ("bond-cpu --video 0", "--video"),
        ("bond-cpu --uplinks 9", "1 to 8"),
        ("record-kill --runs 0", "--runs 0"),
        ("record-kill --runs 1 --roadie /nowhere/roadie", "runs failed"),
        ("record-long --hours 99", "--hours"),
        ("record-power --runs 0", "--runs 0"),
        ("soak --joins 0", "--joins"),
        ("soak --minutes 0", "--minutes"),
    ] {
        let output = bench(arguments);
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && words.contains(says), "{arguments}: {words}");
    }
}

#[test]
fn a_scenario_that_shows_what_it_must_succeeds_and_is_written() {
    let file = std::env::temp_dir().join(format!("roadie-bench-cli-{}.json", std::process::id()));
    let output = bench(&format!("bond --simulate --scenario blackout --seeds 4 --json {}", file.display()));
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(words.contains("worst   seed") && words.contains("PASS"), "{words}");
    assert!(output.status.success(), "{words}");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(json["result"]["runs"].as_array().map(Vec::len), Some(4));
    assert_eq!(json["result"]["figures"]["frames"], 4 * 360);
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_soak_holds_no_more_at_its_end() {
    let output = bench("bond --simulate --scenario soak --seconds 3600");
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && words.contains("PASS  nothing grew"), "{words}");
}

#[test]
fn cpu_is_counted_on_both_sides() {
    // Whether it is little enough is not for a test on a busy machine.
    let output = bench("bond-cpu --runs 1 --seconds 1");
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(words.contains("times plain datagrams"), "{words}{}", String::from_utf8_lossy(&output.stderr));
}
