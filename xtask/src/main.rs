//! `cargo xtask`: everything that is done with this workspace, with its own set-up.
//!
//! Each command first looks for what it needs, says what it will install and why, installs that, and does
//! nothing on the next run. It has no dependencies, so that it builds in seconds on a bare machine.

mod arguments;
mod clip;
mod counting;
mod debian;
mod demo;
mod hls_js;
mod paths;
mod peers;
mod player;
mod process;
mod rust;
mod setup;
mod suite;

use std::process::ExitCode;

use arguments::Command;
use paths::Paths;

fn main() -> ExitCode {
    let command = match arguments::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("cargo xtask: {error}");
            return ExitCode::from(2);
        }
    };
    let paths = match Paths::find() {
        Ok(paths) => paths,
        Err(error) => return failed(&error),
    };
    let result = match command {
        Command::Help(text) => {
            print!("{text}");
            Ok(())
        }
        Command::Demo(arguments) => demo::run(&paths, arguments),
        Command::Setup => setup::everything(&paths),
        Command::Peers => peers::install(&paths, peers::Build::Release),
        Command::Player => {
            setup::player(&paths).and_then(|()| player::build(&paths)).and_then(|()| player::weigh(&paths))
        }
        Command::Test(part, arguments) => return suite::run(&paths, part, &arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &process::Failure) -> ExitCode {
    eprintln!("cargo xtask: {error}");
    ExitCode::FAILURE
}
