//! hls.js, the player of HLS that browsers get: a test plays the relay's HLS with it. Nothing that is shipped contains it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::paths::Paths;
use crate::process::{self, Failure, Result};

/// Exactly this version (licence Apache-2.0): npm checks its content against the registry's hash.
const NPM_PACKAGE: &str = "hls.js@1.7.4";
const ARCHIVE: &str = "hls.js-1.7.4.tgz";
const FILE: &str = "package/dist/hls.min.js";

/// Where it lies once it was fetched.
pub fn path(paths: &Paths) -> PathBuf {
    paths.setup().join("hls.min.js")
}

/// Fetches it when it is not there yet. Where it cannot be had, that is said, and the test with it is left out.
pub fn fetch(paths: &Paths) {
    let file = path(paths);
    if file.is_file() {
        return;
    }
    let work = paths.setup().join("hls.js.part");
    if let Err(reason) = from_npm(&work, &file) {
        println!("Set-up: hls.js cannot be fetched now, so the test with it is left out ({reason}).");
    }
    let _ = fs::remove_dir_all(&work);
}

fn from_npm(work: &Path, file: &Path) -> Result<()> {
    if process::find("npm").is_none() {
        return Err(Failure::new("npm is not installed"));
    }
    println!("Set-up: npm fetches {NPM_PACKAGE}, 6 MB, for a test in the browser");
    let _ = fs::remove_dir_all(work);
    fs::create_dir_all(work).map_err(Failure::doing(format!("cannot make {}", work.display())))?;
    quietly(
        Command::new("npm")
            // Offline this fails in seconds, not minutes.
            .args(["pack", "--silent", "--ignore-scripts", "--fetch-retries=1", "--fetch-timeout=60000"])
            .arg(NPM_PACKAGE)
            .current_dir(work),
    )?;
    quietly(Command::new("tar").args(["xzf", ARCHIVE, FILE]).current_dir(work))?;
    // The rename comes last, so that half a file is never taken for one.
    fs::rename(work.join(FILE), file).map_err(Failure::doing(format!("cannot keep {}", file.display())))
}

fn quietly(command: &mut Command) -> Result<()> {
    process::run(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
}
