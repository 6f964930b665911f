//! `wasm-bindgen`, its test runner and brotli as one program, built from the locked crates.
//!
//! The command line tool of wasm-bindgen must have exactly the version of the library, and installing it takes
//! minutes and a network. As a library it comes with `Cargo.lock`. `cargo xtask` builds and calls this; nobody
//! needs to call it by hand.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::ExitCode;

use brotli::enc::BrotliEncoderParams;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let tool = arguments.next();
    // Both tools expect a program name in front.
    let rest: Vec<OsString> = std::iter::once(OsString::from("wasm-tool")).chain(arguments).collect();
    let result = match tool.as_deref().and_then(|name| name.to_str()) {
        Some("bindgen") => wasm_bindgen_cli::wasm_bindgen::run_cli_with_args(rest),
        Some("test-runner") => wasm_bindgen_cli::wasm_bindgen_test_runner::run_cli_with_args(rest),
        Some("compress") => rest[1..].iter().try_for_each(|file| Ok(compress(Path::new(file))?)),
        _ => {
            eprintln!(
                "wasm-tool: say `wasm-tool bindgen ...`, `wasm-tool test-runner ...` or `wasm-tool compress FILE...`"
            );
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

/// `FILE.br` beside FILE, as small as brotli makes it (RFC 7932).
fn compress(file: &Path) -> std::io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".br");
    let length = fs::metadata(file)?.len();
    let best =
        BrotliEncoderParams { quality: 11, lgwin: 22, size_hint: length as usize, ..Default::default() };
    brotli::BrotliCompress(&mut File::open(file)?, &mut File::create(name)?, &best)?;
    Ok(())
}
