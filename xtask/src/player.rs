//! The browser's player: cargo builds the wasm, wasm-bindgen wraps it, the page goes beside.
//!
//! wasm-opt is left out: Debian's (version 108) breaks the externref table that wasm-bindgen needs, so that no
//! browser starts the result, and a newer one would save a tenth.
//!
//! The result is the folder that the relay serves: `index.html`, and everything else in `assets/`; each file also in brotli's
//! form (`.br`), which is what browsers get over a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::paths::{Paths, WASM};
use crate::process::{self, Failure, Result};

/// Part of the fingerprint: a change of these steps rebuilds the player.
const STEPS: &str = "bindgen web, brotli, 3";

const CRATE: &str = "roadie-player-wasm";
const WASM_FILE: &str = "roadie_player_wasm.wasm";
const WASM_ASSET: &str = "roadie_player_wasm_bg.wasm";

/// What a viewer downloads may have so many bytes: it is time to the first picture.
const MOST: u64 = 120_000;

/// Builds the player into `target/player`; does nothing when neither wasm nor page changed.
pub fn build(paths: &Paths) -> Result<()> {
    process::run(paths.cargo_for_wasm().args([
        "build",
        "--profile",
        "wasm",
        "--target",
        WASM,
        "--package",
        CRATE,
    ]))?;
    let wasm = paths.target.join(WASM).join("wasm").join(WASM_FILE);
    let page = paths.root.join("player-wasm/www");

    let player = paths.player();
    let stamp = paths.target.join("player.stamp");
    let fingerprint = fingerprint(&wasm, &page)?;
    let whole = player.join("index.html").is_file() && player.join("assets").join(WASM_ASSET).is_file();
    if whole && fs::read_to_string(&stamp).is_ok_and(|built| built == fingerprint) {
        return Ok(());
    }

    // Put together aside and then renamed: a relay never serves half a player.
    let staging = paths.target.join("player.part");
    let assets = staging.join("assets");
    let _ = fs::remove_dir_all(&staging);
    fs::create_dir_all(&assets).map_err(Failure::doing(format!("cannot make {}", assets.display())))?;
    process::run(
        Command::new(tool(paths)?)
            .args(["bindgen", "--target", "web", "--no-typescript"])
            .args(["--remove-name-section", "--remove-producers-section", "--out-dir"])
            .arg(&assets)
            .arg(&wasm),
    )?;
    lay_out(&page, &staging)?;
    let whole = files(&staging)?.into_iter().map(|name| staging.join(name));
    process::run(Command::new(tool(paths)?).arg("compress").args(whole))?;

    let _ = fs::remove_file(&stamp);
    let _ = fs::remove_dir_all(&player);
    fs::rename(&staging, &player).map_err(Failure::doing(format!("cannot make {}", player.display())))?;
    fs::write(&stamp, fingerprint).map_err(Failure::doing(format!("cannot write {}", stamp.display())))
}

/// Bytes of all files of the player in `target/player`, as brotli makes them.
fn download(paths: &Paths) -> Result<u64> {
    let player = paths.player();
    let compressed = |name: &PathBuf| name.extension().is_some_and(|extension| extension == "br");
    files(&player)?.iter().filter(|name| compressed(name)).try_fold(0, |sum, name| {
        let file = player.join(name);
        let length =
            fs::metadata(&file).map_err(Failure::doing(format!("cannot read {}", file.display())))?.len();
        Ok(sum + length)
    })
}

/// Prints the size, and refuses one that is too large.
pub fn weigh(paths: &Paths) -> Result<()> {
    let bytes = download(paths)?;
    println!("The player is {bytes} bytes to download (brotli), of at most {MOST}.");
    if (1..=MOST).contains(&bytes) {
        Ok(())
    } else {
        Err(Failure::new("the player is too large to download"))
    }
}

/// wasm-bindgen and its test runner, built when they are not.
pub fn tool(paths: &Paths) -> Result<PathBuf> {
    process::run(paths.cargo().args(["build", "--profile", "tool", "--package", "wasm-tool"]))?;
    Ok(paths.target.join("tool/wasm-tool"))
}

/// `index.html` to the top, everything else beside the wasm.
fn lay_out(page: &Path, into: &Path) -> Result<()> {
    for name in files(page)? {
        let to =
            if name == Path::new("index.html") { into.join(&name) } else { into.join("assets").join(&name) };
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)
                .map_err(Failure::doing(format!("cannot make {}", folder.display())))?;
        }
        fs::copy(page.join(&name), &to).map_err(Failure::doing(format!("cannot copy {}", name.display())))?;
    }
    Ok(())
}

/// All files below a folder, relative to it, sorted.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(inner) = open.pop() {
        let at = folder.join(&inner);
        for entry in fs::read_dir(&at).map_err(Failure::doing(format!("cannot read {}", at.display())))? {
            let entry = entry.map_err(Failure::doing(format!("cannot read {}", at.display())))?;
            let name = inner.join(entry.file_name());
            // What is written for developers is not served.
            if name.extension().is_some_and(|extension| extension == "md") {
                continue;
            }
            if entry.path().is_dir() { open.push(name) } else { found.push(name) }
        }
    }
    found.sort();
    Ok(found)
}

/// Names and contents of everything that the player is made of. Contents, because times change on a checkout.
fn fingerprint(wasm: &Path, page: &Path) -> Result<String> {
    let mut hash = Fnv::new();
    hash.add(STEPS.as_bytes());
    hash.add(&read(wasm)?);
    for name in files(page)? {
        hash.add(name.as_os_str().as_encoded_bytes());
        hash.add(&read(&page.join(name))?);
    }
    Ok(format!("{:016x}", hash.0))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).map_err(Failure::doing(format!("cannot read {}", file.display())))
}

/// FNV-1a, 64 bits: to notice a change, not to resist one made on purpose.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds one field; its length goes in too, so that two fields never read as one.
    fn add(&mut self, bytes: &[u8]) {
        for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is gone when the test is.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("roadie-xtask-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("www/icons")).unwrap();
            fs::write(path.join("www/index.html"), "<p>").unwrap();
            fs::write(path.join("www/main.js"), "1").unwrap();
            fs::write(path.join("www/icons/play.svg"), "<svg/>").unwrap();
            fs::write(path.join("www/README.md"), "for developers").unwrap();
            fs::write(path.join("a.wasm"), "wasm").unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_page_is_at_the_top_and_the_rest_in_assets() {
        let scratch = Scratch::new("layout");
        lay_out(&scratch.0.join("www"), &scratch.0.join("out")).unwrap();
        let names: Vec<_> =
            files(&scratch.0.join("out")).unwrap().iter().map(|f| f.display().to_string()).collect();
        assert_eq!(names, ["assets/icons/play.svg", "assets/main.js", "index.html"]);
    }

    #[test]
    fn every_input_changes_the_fingerprint_and_nothing_else_does() {
        let scratch = Scratch::new("fingerprint");
        let now = || fingerprint(&scratch.0.join("a.wasm"), &scratch.0.join("www")).unwrap();
        let first = now();
        fs::write(scratch.0.join("www/main.js"), "1").unwrap();
        assert_eq!(now(), first, "same content, newer file");
        fs::write(scratch.0.join("www/main.js"), "2").unwrap();
        assert_ne!(now(), first);
        fs::write(scratch.0.join("www/main.js"), "1").unwrap();
        fs::rename(scratch.0.join("www/main.js"), scratch.0.join("www/other.js")).unwrap();
        assert_ne!(now(), first);
    }

    #[test]
    fn two_fields_never_read_as_one() {
        let of = |fields: &[&str]| {
            let mut hash = Fnv::new();
            fields.iter().for_each(|field| hash.add(field.as_bytes()));
            hash.0
        };
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
    }
}
