//! What pure source may not name, and which types stay at home.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::source::{Code, Named};
use crate::{none, root};

/// Clocks, files, sockets, threads, the environment: time and data are arguments in pure code.
const OUTSIDE_WORLD: &[&str] = &[
    "Instant::now",
    "std::time::Instant",
    "SystemTime",
    "UNIX_EPOCH",
    "std::net",
    "std::fs",
    "std::thread",
    "std::env",
    "std::process",
    "std::os",
];

/// Crates that bring the outside world along. Matched at the start of a path.
const OUTSIDE_CRATES: &[&str] = &[
    "tokio",
    "gstreamer",
    "gstreamer_app",
    "gstreamer_video",
    "gst",
    "quinn",
    "quinn_proto",
    "moq_net",
    "webrtc",
    "str0m",
    "axum",
    "rand",
    "getrandom",
    "web_sys",
    "js_sys",
    "wasm_bindgen",
    "wasm_bindgen_futures",
];

/// Source that a rule looks at, and what it may not name.
struct Rule {
    name: &'static str,
    applies: fn(&str) -> bool,
    std: &'static [&'static str],
    crates: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        name: "media, bond and sim are pure: time, data and seeds are arguments",
        applies: |file| ["media/src/", "bond/src/", "sim/src/"].iter().any(|folder| file.starts_with(folder)),
        std: OUTSIDE_WORLD,
        crates: OUTSIDE_CRATES,
    },
    Rule {
        name: "the player is pure outside src/web/, so that it is tested natively",
        applies: |file| file.starts_with("player-wasm/src/") && !file.starts_with("player-wasm/src/web/"),
        std: OUTSIDE_WORLD,
        crates: OUTSIDE_CRATES,
    },
    Rule {
        name: "GStreamer stays inside encoder/",
        applies: |file| !file.starts_with("encoder/"),
        std: &[],
        crates: &["gstreamer", "gstreamer_app", "gstreamer_video", "gst"],
    },
    Rule {
        name: "the encoder knows no network",
        applies: |file| file.starts_with("encoder/src/"),
        std: &["std::net"],
        crates: &["tokio", "quinn", "moq_net", "relay", "bond"],
    },
    Rule {
        name: "moq-net and WebTransport stay inside relay/, and benches/ have viewers",
        applies: |file| !file.starts_with("relay/") && !file.starts_with("benches/"),
        std: &[],
        crates: &["moq_net", "web_transport_quinn"],
    },
    Rule {
        name: "web-sys stays inside player-wasm/src/web/",
        applies: |file| !file.starts_with("player-wasm/src/web/"),
        std: &[],
        crates: &["web_sys", "js_sys"],
    },
];

/// `file:line: ...` for everything in one file that a rule forbids.
fn violations(file: &str, names: &[Named]) -> Vec<String> {
    let mut found = Vec::new();
    for rule in RULES.iter().filter(|rule| (rule.applies)(file)) {
        for Named { line, path } in names {
            let wrong = rule.std.iter().any(|forbidden| contains(path, forbidden))
                || rule
                    .crates
                    .iter()
                    .any(|name| path.strip_prefix(name).is_some_and(|rest| rest.starts_with("::")));
            if wrong {
                found.push(format!("{file}:{line}: `{path}`, but {}", rule.name));
            }
        }
    }
    found
}

/// Whether whole segments of `path` are `part`.
fn contains(path: &str, part: &str) -> bool {
    format!("::{path}::").contains(&format!("::{part}::"))
}

/// All source of the workspace's crates, without tests: `(path from the root, code)`.
fn sources() -> Vec<(String, Code)> {
    let root = root();
    let mut files = Vec::new();
    for entry in fs::read_dir(&root).expect("the workspace is readable") {
        let source = entry.expect("an entry").path().join("src");
        if source.is_dir() {
            rust_files(&source, &mut files);
        }
    }
    let sources: Vec<(PathBuf, Code)> = files
        .into_iter()
        .map(|file| {
            let code = Code::new(&fs::read_to_string(&file).expect("source is UTF-8"));
            (file, code)
        })
        .collect();
    let tests: BTreeSet<PathBuf> = sources.iter().flat_map(|(file, code)| test_files(file, code)).collect();
    sources
        .into_iter()
        .filter(|(file, _)| {
            !tests.iter().any(|test| file.starts_with(test) || file == &test.with_extension("rs"))
        })
        .map(|(file, code)| (file.strip_prefix(&root).expect("below the root").display().to_string(), code))
        .collect()
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a source folder is readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Where the test-only modules of a file lie, without `.rs`.
fn test_files(file: &Path, code: &Code) -> Vec<PathBuf> {
    let folder = match file.file_stem().and_then(|stem| stem.to_str()) {
        Some("mod" | "lib" | "main") => file.parent().expect("a folder").to_path_buf(),
        _ => file.with_extension(""),
    };
    code.test_modules.iter().map(|name| folder.join(name)).collect()
}

#[test]
fn pure_source_names_nothing_impure() {
    let sources = sources();
    for folder in
        ["media/src/", "bond/src/", "sim/src/", "encoder/src/", "relay/src/", "player-wasm/src/web/"]
    {
        assert!(sources.iter().any(|(file, _)| file.starts_with(folder)), "no source found in {folder}");
    }
    none(sources.iter().flat_map(|(file, code)| violations(file, &code.names())).collect());
}

#[test]
fn webrtc_is_in_one_folder_of_the_relay() {
    const HOME: &str = "relay/src/webrtc/";
    let sources = sources();
    let users: Vec<String> = sources
        .iter()
        .filter_map(|(file, code)| {
            let named = code.names().into_iter().find(|named| named.path.starts_with("str0m::"))?;
            Some(format!("{file}:{}", named.line))
        })
        .collect();
    assert!(
        users.iter().any(|user| user.starts_with(HOME)),
        "nobody uses str0m: is it called otherwise now?"
    );
    let strangers: Vec<_> = users.iter().filter(|user| !user.starts_with(HOME)).collect();
    assert!(strangers.is_empty(), "types of str0m stay in {HOME}, but are in {strangers:?}");
}

mod can_fail {
    use super::*;

    fn of(file: &str, source: &str) -> Vec<String> {
        violations(file, &Code::new(source).names())
    }

    #[test]
    fn a_bad_snippet_is_named_with_file_line_and_rule() {
        let source = "//! Fine.\nuse std::{\n    collections::BTreeMap,\n    time::{Duration, Instant},\n};\n\
                      fn f() -> Instant { Instant::now() }\n";
        let found = of("bond/src/pacer.rs", source);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("bond/src/pacer.rs:4: `std::time::Instant`"), "{found:?}");
        assert!(found[1].starts_with("bond/src/pacer.rs:6: `Instant::now`"), "{found:?}");
        assert!(found[1].contains("are pure"), "{found:?}");
    }

    #[test]
    fn everything_that_is_forbidden_is_found() {
        for line in [
            "let t = std::time::SystemTime::now();",
            "use std::net::UdpSocket;",
            "use std::{fmt, fs};",
            "fn f(x: std::net::IpAddr) {}",
            "std::thread::sleep(d);",
            "let x = rand::random::<u8>();",
            "use tokio::sync::mpsc;",
            "use ::std::fs;",
            "use quinn::Connection as C;",
        ] {
            assert_eq!(of("sim/src/link.rs", line).len(), 1, "{line}");
            assert_eq!(of("player-wasm/src/clock.rs", line).len().min(1), 1, "{line}");
        }
        assert!(!of("player-wasm/src/clock.rs", "use web_sys::console;").is_empty());
        assert!(!of("roadie/src/demo.rs", "use gstreamer::prelude::*;").is_empty());
        assert!(!of("encoder/src/tap.rs", "use std::net::UdpSocket;").is_empty());
        assert!(!of("roadie/src/demo.rs", "let s: moq_net::Session = s;").is_empty());
    }

    #[test]
    fn what_is_allowed_passes() {
        for line in [
            "use std::time::Duration;",
            "// Instant::now() is for others",
            "let rand = 3; let fs = rand;",
            "#[cfg(test)]\nmod tests { use std::fs; }",
            "let x = \"std::net\";",
        ] {
            assert!(of("media/src/time.rs", line).is_empty(), "{line}");
        }
        assert!(of("player-wasm/src/web/js.rs", "use web_sys::console;").is_empty());
        assert!(of("relay/src/ingest.rs", "let t = std::time::Instant::now();").is_empty());
        assert!(of("encoder/src/capture.rs", "use gstreamer::prelude::*;").is_empty());
    }

    #[test]
    fn test_only_files_are_known_by_their_declaration() {
        let code = Code::new("#[cfg(test)]\nmod tests;\n");
        assert_eq!(test_files(Path::new("/w/bond/src/lib.rs"), &code), [Path::new("/w/bond/src/tests")]);
        assert_eq!(
            test_files(Path::new("/w/bond/src/wire.rs"), &code),
            [Path::new("/w/bond/src/wire/tests")]
        );
    }
}
