//! Real sockets, for two seconds: not how fast it is, only that it measures what it says.

use std::path::Path;

use benches::bond::real::{self, Spoiled};
use benches::bond::scenario::Scenario;

#[test]
fn a_real_run_accounts_for_every_frame() {
    let spec = "rates = \"6,6\"\ndelays = 5\nvideo = 1\nseconds = 2\ncut = \"1>@1s+0.2s\"\ndeadline = 2000";
    let spec = toml::from_str(spec).unwrap();
    let scenario = Scenario::new("short", &spec, Path::new("/nowhere")).unwrap();
    let measured = real::measure(&scenario, 1, 1, None, Spoiled::Counts).unwrap();
    let figures = measured.bond.figures();
    assert_eq!((figures.runs, figures.frames, figures.late, figures.lost), (1, 60, 0, 0));
    assert!(figures.p50_ms >= 5.0, "the uplinks' delay: {figures:?}");
    assert!((1.05..3.0).contains(&figures.wire_over_media), "{figures:?}");
    let uplinks = &measured.json()["uplinks"];
    assert!(uplinks[0]["used"].as_f64() > Some(0.01), "{uplinks}");
}

#[test]
fn what_is_simulated_only_says_so() {
    let spec = toml::from_str("share = \"1+2@6\"").unwrap();
    let scenario = Scenario::new("share", &spec, Path::new("/nowhere")).unwrap();
    let error = real::measure(&scenario, 1, 1, None, Spoiled::Counts)
        .err()
        .expect("no real shared bottleneck")
        .to_string();
    assert!(error.contains("--share") && error.contains("--simulate"), "{error}");
}
