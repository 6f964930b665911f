//! Programs of others that ours are tested and measured against: moq's own relay and command line, from crates.io.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::paths::Paths;
use crate::process::{self, Failure, Result};

/// A program: crate, version, what it installs. The versions speak what our moq-net speaks, and are built without
/// `--locked`, as a mirror of crates.io may lag behind their lock files.
const PEERS: &[(&str, &str, &str)] = &[("moq-relay", "0.17.10", "moq-relay"), ("moq-cli", "0.14.10", "moq")];

/// Without what pulls in a second network stack or a graphics driver.
const FEATURES: &str = "noq,websocket";

/// How they are built.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Build {
    /// Quickly, to be talked to.
    Quick,
    /// As their users have them, to be measured against.
    Release,
}

impl Build {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Build::Quick => &["--debug", "--config", "profile.dev.debug=false"],
            Build::Release => &[],
        }
    }

    fn word(self) -> &'static str {
        match self {
            Build::Quick => "debug",
            Build::Release => "release",
        }
    }
}

/// The folder that has `bin/`.
pub fn folder(paths: &Paths) -> PathBuf {
    paths.target.join("peers")
}

/// Installs what is missing. What was built for release serves quick wishes too.
pub fn install(paths: &Paths, build: Build) -> Result<()> {
    let folder = folder(paths);
    let missing: Vec<_> = PEERS.iter().filter(|peer| !is_there(&folder, peer, build)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|(name, version, _)| format!("{name} {version}")).collect();
    println!(
        "Set-up: cargo builds {} ({}), which we did not write; a few minutes.",
        names.join(" and "),
        build.word()
    );
    let scratch = folder.join("build");
    for peer in missing {
        let (name, version, program) = peer;
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(["install", name, "--version", &format!("={version}"), "--force", "--quiet"])
            .args(["--no-default-features", "--features", FEATURES])
            .args(build.arguments())
            .arg("--root")
            .arg(&folder)
            .env("CARGO_TARGET_DIR", &scratch)
            .env_remove("RUSTFLAGS");
        process::run(&mut cargo)?;
        let stamp = stamp(&folder, program);
        fs::write(&stamp, words(version, build))
            .map_err(Failure::doing(format!("cannot write {}", stamp.display())))?;
    }
    // They share it, and nobody needs it any more.
    fs::remove_dir_all(&scratch).map_err(Failure::doing(format!("cannot remove {}", scratch.display())))
}

fn stamp(folder: &Path, program: &str) -> PathBuf {
    folder.join(format!("{program}.stamp"))
}

fn words(version: &str, build: Build) -> String {
    format!("{version} {}", build.word())
}

fn is_there(folder: &Path, (_, version, program): &(&str, &str, &str), build: Build) -> bool {
    let built = fs::read_to_string(stamp(folder, program)).unwrap_or_default();
    let good = [Build::Release, build].iter().any(|build| built == words(version, *build));
    good && folder.join("bin").join(program).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_built_for_release_is_good_enough_and_not_the_other_way_round() {
        let folder = std::env::temp_dir().join(format!("xtask-peers-{}", std::process::id()));
        let peer = ("moq-x", "1.0.0", "x");
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::write(folder.join("bin/x"), "").unwrap();
        assert!(!is_there(&folder, &peer, Build::Quick));
        fs::write(stamp(&folder, "x"), words("1.0.0", Build::Quick)).unwrap();
        assert!(is_there(&folder, &peer, Build::Quick) && !is_there(&folder, &peer, Build::Release));
        fs::write(stamp(&folder, "x"), words("1.0.0", Build::Release)).unwrap();
        assert!(is_there(&folder, &peer, Build::Quick) && is_there(&folder, &peer, Build::Release));
        assert!(!is_there(&folder, &("moq-x", "1.0.1", "x"), Build::Quick));
        fs::remove_dir_all(&folder).unwrap();
    }
}
