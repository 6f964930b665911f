//! `wasm-bindgen` and its test runner as one program, built from the locked crates.
//!
//! The command line tool of wasm-bindgen must have exactly the version of the library, and installing it takes
//! minutes and a network. As a library it comes with `Cargo.lock`. `cargo xtask` builds and calls this; nobody
//! needs to call it by hand.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let tool = arguments.next();
    // Both tools expect a program name in front.
    let rest: Vec<OsString> = std::iter::once(OsString::from("wasm-tool")).chain(arguments).collect();
    let result = match tool.as_deref().and_then(|name| name.to_str()) {
        Some("bindgen") => wasm_bindgen_cli::wasm_bindgen::run_cli_with_args(rest),
        Some("test-runner") => wasm_bindgen_cli::wasm_bindgen_test_runner::run_cli_with_args(rest),
        _ => {
            eprintln!("wasm-tool: say `wasm-tool bindgen ...` or `wasm-tool test-runner ...`");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wasm-tool: {error:#}");
            ExitCode::FAILURE
        }
    }
}
