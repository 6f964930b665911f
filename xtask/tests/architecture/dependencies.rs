//! Who may depend on whom.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::{none, root};

/// A crate of the workspace, the crates of the workspace it may use, and those that its tests may use beside.
struct Direction {
    package: &'static str,
    uses: &'static [&'static str],
    tests_use: &'static [&'static str],
}

const fn direction(
    package: &'static str,
    uses: &'static [&'static str],
    tests_use: &'static [&'static str],
) -> Direction {
    Direction { package, uses, tests_use }
}

/// Dependencies point one way. `roadie-benches` is in no list: nothing depends on it.
const DIRECTIONS: &[Direction] = &[
    direction("roadie-media", &[], &[]),
    direction("roadie-bond", &["roadie-media"], &["roadie-sim"]),
    direction("roadie-sim", &["roadie-media"], &[]),
    direction("roadie-encoder", &["roadie-media"], &[]),
    direction("roadie-relay", &["roadie-media", "roadie-bond"], &["roadie-sim"]),
    direction("roadie-player-wasm", &["roadie-media"], &[]),
    direction(
        "roadie",
        &["roadie-media", "roadie-bond", "roadie-sim", "roadie-encoder", "roadie-relay"],
        &[],
    ),
    direction(
        "roadie-benches",
        &["roadie-media", "roadie-bond", "roadie-sim", "roadie-encoder", "roadie-relay", "roadie"],
        &[],
    ),
    direction("xtask", &[], &[]),
    direction("wasm-tool", &[], &[]),
];

/// Measures what others' crates do beside what ours do, so that it may use them where they are not at home.
const MEASURES: &str = "roadie-benches";

/// Crates from outside that have one home; a name covers every crate that begins with it. Tests are free, and
/// so is [`MEASURES`].
const HOMES: &[(&str, &str)] = &[
    ("gstreamer", "roadie-encoder"),
    ("webrtc", "roadie-relay"),
    ("str0m", "roadie-relay"),
    ("moq-", "roadie-relay"),
    ("web-transport", "roadie-relay"),
    ("quinn", "roadie-relay"),
    ("axum", "roadie-relay"),
    ("web-sys", "roadie-player-wasm"),
    ("js-sys", "roadie-player-wasm"),
    ("wasm-bindgen-cli", "wasm-tool"),
    ("wasm-bindgen", "roadie-player-wasm"),
];

/// What must not be anywhere below a pure crate.
const IMPURE: &[&str] = &[
    "tokio",
    "async-std",
    "smol",
    "mio",
    "socket2",
    "gstreamer",
    "glib",
    "quinn",
    "rustls",
    "moq-",
    "webrtc",
    "str0m",
    "axum",
    "hyper",
    "reqwest",
    "web-transport",
    "rand",
    "getrandom",
    "fastrand",
    "chrono",
    "clap",
    "anyhow",
];
/// The player has the browser below it besides.
const BROWSER: &[&str] = &["web-sys", "js-sys", "wasm-bindgen"];

fn covers(list: &[&str], name: &str) -> bool {
    list.iter().any(|start| name == *start || name.strip_prefix(start).is_some_and(begins_a_word))
}

/// `gstreamer` covers `gstreamer-app` and `quinn` covers `quinn-proto`, but `rand` does not cover `random`.
fn begins_a_word(rest: &str) -> bool {
    rest.starts_with(['-', '_', '0', '1', '2']) || !rest.starts_with(char::is_alphanumeric)
}

/// One dependency as `cargo metadata` tells it.
struct Dependency {
    package: String,
    manifest: String,
    name: String,
    /// What the manifest calls it.
    key: String,
    /// Of the tests only.
    dev: bool,
}

fn dependencies(metadata: &Value) -> Vec<Dependency> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let name = text(&dependency["name"]);
            let rename = text(&dependency["rename"]);
            found.push(Dependency {
                package: text(&package["name"]),
                manifest: text(&package["manifest_path"]),
                key: if rename.is_empty() { name.clone() } else { rename },
                name,
                dev: dependency["kind"] == "dev",
            });
        }
    }
    found
}

fn violations(dependencies: &[Dependency], ours: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for dependency in dependencies {
        let Dependency { package, name, dev, .. } = dependency;
        let wrong = if ours.contains(&name.as_str()) {
            match DIRECTIONS.iter().find(|direction| direction.package == package) {
                None => Some("every crate of the workspace has its line in DIRECTIONS".to_owned()),
                Some(direction) => {
                    let allowed = direction.uses.contains(&name.as_str())
                        || *dev && direction.tests_use.contains(&name.as_str());
                    (!allowed)
                        .then(|| format!("of this workspace, {package} may use only {:?}", direction.uses))
                }
            }
        } else {
            let home = HOMES.iter().find(|(start, _)| covers(&[start.trim_end_matches('-')], name));
            home.filter(|(_, home)| !dev && home != package && package != MEASURES)
                .map(|(start, home)| format!("{start} has one home, {home}"))
        };
        if let Some(rule) = wrong {
            let place = place(Path::new(&dependency.manifest), &dependency.key);
            found.push(format!("{place}: {package} depends on {name}, but {rule}"));
        }
    }
    found
}

/// `file:line` of a dependency in its manifest.
fn place(manifest: &Path, key: &str) -> String {
    let text = fs::read_to_string(manifest).unwrap_or_default();
    let names_it = |line: &str| {
        let rest = line.trim_start().trim_start_matches('[');
        let rest = rest.rsplit_once("dependencies.").map_or(rest, |(_, rest)| rest);
        rest.strip_prefix(key).is_some_and(|rest| rest.starts_with([' ', '.', '=', ']']))
    };
    let line = text.lines().position(names_it).map_or(1, |index| index + 1);
    format!("{}:{line}", manifest.strip_prefix(root()).unwrap_or(manifest).display())
}

fn cargo(arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

/// Everything that is compiled into a package, tests aside, with the package that is shown first.
fn tree(package: &str, target: Option<&str>) -> Vec<String> {
    let mut arguments = vec!["tree", "--package", package, "--edges", "normal", "--prefix", "none"];
    if let Some(target) = target {
        arguments.extend(["--target", target]);
    }
    let mut names: Vec<String> = cargo(&arguments)
        .lines()
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
        .collect();
    names.sort();
    names.dedup();
    names
}

fn below(package: &str, tree: &[String], forbidden: &[&str]) -> Vec<String> {
    tree.iter()
        .filter(|name| covers(forbidden, name))
        .map(|name| {
            format!("{package}: {name} is compiled into it (see `cargo tree -p {package} -i {name}`), but must not be")
        })
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--no-deps", "--format-version", "1"]))
        .expect("cargo metadata prints JSON");
    let packages: Vec<&str> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .filter_map(|p| p["name"].as_str())
        .collect();
    let mut found = violations(&dependencies(&metadata), &packages);
    for package in &packages {
        if !DIRECTIONS.iter().any(|direction| direction.package == *package) {
            found.push(format!(
                "xtask/tests/architecture/dependencies.rs:1: {package} has no line in DIRECTIONS"
            ));
        }
    }
    none(found);
}

#[test]
fn pure_crates_have_nothing_impure_below_them() {
    let mut found = Vec::new();
    for package in ["roadie-media", "roadie-bond", "roadie-sim"] {
        let tree = tree(package, None);
        assert!(tree.iter().any(|name| name == package), "{package} is in its own tree: {tree:?}");
        found.extend(below(package, &tree, IMPURE));
        found.extend(below(package, &tree, BROWSER));
    }
    // Natively, where its tests run, the player has no browser; in the browser it has nothing else.
    found.extend(below("roadie-player-wasm", &tree("roadie-player-wasm", None), IMPURE));
    found.extend(below("roadie-player-wasm", &tree("roadie-player-wasm", None), BROWSER));
    found.extend(below(
        "roadie-player-wasm",
        &tree("roadie-player-wasm", Some("wasm32-unknown-unknown")),
        IMPURE,
    ));
    none(found);
}

#[test]
fn the_relay_links_no_gstreamer_and_the_encoder_no_network() {
    let mut found =
        below("roadie-relay", &tree("roadie-relay", None), &["gstreamer", "glib", "roadie-encoder"]);
    found.extend(below(
        "roadie-encoder",
        &tree("roadie-encoder", None),
        &["tokio", "quinn", "moq-", "axum", "hyper"],
    ));
    none(found);
}

#[test]
fn xtask_itself_has_no_dependencies() {
    let tree = tree("xtask", None);
    let message =
        "xtask/Cargo.toml: xtask has no dependencies, so that it builds in seconds on a bare machine";
    assert_eq!(tree, ["xtask"], "{message}");
}

mod can_fail {
    use super::*;

    fn made_up(package: &str, name: &str, dev: bool) -> Vec<String> {
        let dependency = Dependency {
            package: package.into(),
            manifest: root().join("bond/Cargo.toml").display().to_string(),
            name: name.into(),
            key: "media".into(),
            dev,
        };
        violations(
            &[dependency],
            &["roadie-media", "roadie-bond", "roadie-relay", "roadie-benches", "roadie-sim"],
        )
    }

    #[test]
    fn a_wrong_direction_is_named_with_file_line_and_rule() {
        let found = made_up("roadie-media", "roadie-bond", false);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("bond/Cargo.toml:"), "{found:?}");
        assert!(!found[0].starts_with("bond/Cargo.toml:1:"), "the line of `media`: {found:?}");
        assert!(found[0].contains("may use only"), "{found:?}");
    }

    #[test]
    fn nothing_depends_on_benches_not_even_tests() {
        for package in ["roadie", "roadie-relay", "xtask"] {
            assert_eq!(made_up(package, "roadie-benches", true).len(), 1);
        }
    }

    #[test]
    fn tests_have_their_own_allowance() {
        assert!(made_up("roadie-bond", "roadie-sim", true).is_empty());
        assert_eq!(made_up("roadie-bond", "roadie-sim", false).len(), 1);
    }

    #[test]
    fn a_crate_away_from_home_is_found() {
        assert_eq!(made_up("roadie", "gstreamer-app", false).len(), 1);
        assert_eq!(made_up("roadie-encoder", "moq-net", false).len(), 1);
        assert_eq!(made_up("roadie-relay", "wasm-bindgen-futures", false).len(), 1);
        assert!(made_up("roadie-relay", "quinn-proto", false).is_empty());
        assert!(made_up("wasm-tool", "wasm-bindgen-cli", false).is_empty());
        assert!(made_up("roadie", "moq-net", true).is_empty(), "tests are free");
        assert!(made_up("roadie-benches", "quinn", false).is_empty(), "it measures plain quinn");
    }

    #[test]
    fn an_impure_crate_deep_in_a_tree_is_found() {
        let tree = ["bytes", "random-thing", "tokio-util", "rand_core", "quinn-udp"].map(String::from);
        assert_eq!(below("roadie-bond", &tree, IMPURE).len(), 3);
    }
}
