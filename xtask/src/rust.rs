//! The parts of the Rust toolchain that a plain installation may lack.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::paths::{Paths, WASM};
use crate::process::{self, Failure, Result};

/// The wasm32 target of the active toolchain.
pub fn wasm_target(paths: &Paths) -> Result<()> {
    let sysroot =
        process::output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(&paths.root))?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(WASM).is_dir() {
        return Ok(());
    }
    println!("Set-up: rustup adds the target {WASM}, for the browser's player.");
    rustup(paths, &["target", "add", WASM])
}

/// The formatter and the linter, which a minimal toolchain does not have.
pub fn lint_tools(paths: &Paths) -> Result<()> {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        let mut probe = paths.cargo();
        probe.args([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
        if process::run(&mut probe).is_err() {
            println!("Set-up: rustup adds {component}, for the tests.");
            rustup(paths, &["component", "add", component])?;
        }
    }
    Ok(())
}

fn rustup(paths: &Paths, arguments: &[&str]) -> Result<()> {
    if process::find("rustup").is_none() {
        return Err(Failure::new(format!(
            "this Rust was not installed by rustup, which is needed for `rustup {}`; see https://rustup.rs",
            arguments.join(" ")
        )));
    }
    process::run(Command::new("rustup").args(arguments).current_dir(&paths.root))
}
