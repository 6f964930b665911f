//! What each command needs, in one place.

use crate::paths::Paths;
use crate::process::Result;
use crate::{clip, debian, hls_js, peers, rust};

/// To run the demo; with a browser when nobody will open one.
pub fn demo(paths: &Paths, headless: bool) -> Result<()> {
    let browser: &[debian::Need] = if headless { debian::BROWSER } else { &[] };
    debian::install(&[debian::BUILD, debian::RUN, browser], &log(paths))?;
    rust::wasm_target(paths)
}

/// To build the player. Its tool needs a linker, which built this program too.
pub fn player(paths: &Paths) -> Result<()> {
    rust::wasm_target(paths)
}

/// To format and lint.
pub fn lint(paths: &Paths) -> Result<()> {
    debian::install(&[debian::BUILD], &log(paths))?;
    rust::wasm_target(paths)?;
    rust::lint_tools(paths)
}

/// To test.
pub fn test(paths: &Paths) -> Result<()> {
    debian::install(&[debian::BUILD, debian::RUN, debian::BROWSER, debian::TEST], &log(paths))?;
    rust::wasm_target(paths)?;
    rust::lint_tools(paths)?;
    hls_js::fetch(paths);
    peers::install(paths, peers::Build::Quick)?;
    clip::fetch(paths).map(|_| ())
}

/// Everything, and a word when it is done.
pub fn everything(paths: &Paths) -> Result<()> {
    test(paths)?;
    println!("Set-up: done.");
    Ok(())
}

fn log(paths: &Paths) -> std::path::PathBuf {
    paths.setup().join("apt-get.log")
}
