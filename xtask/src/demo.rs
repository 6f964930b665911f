//! `cargo xtask demo`: set up, build, and become `roadie demo`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::paths::Paths;
use crate::process::{self, Failure, Result};
use crate::{clip, player, setup};

/// Returns only when something failed: the demo itself takes this process's place, so that its terminal, its
/// signals and its exit code are the user's.
pub fn run(paths: &Paths, arguments: Vec<OsString>) -> Result<()> {
    setup::demo(paths, has(&arguments, "--headless"))?;
    let mut input: Vec<OsString> = Vec::new();
    if !has(&arguments, "--input") {
        match clip::fetch(paths)? {
            Some(clip) => input.extend(["--clip".into(), clip.into()]),
            None => input.extend(["--input".into(), "test".into()]),
        }
    }
    process::run(paths.cargo().args([
        "build",
        "--release",
        "--package",
        "roadie",
        "--package",
        "roadie-relay",
    ]))?;
    player::build(paths)?;

    let mut demo = Command::new(paths.target.join("release/roadie"));
    demo.arg("demo").args(input).arg("--player").arg(paths.player()).args(arguments);
    let error = demo.exec();
    Err(Failure::doing(format!("cannot run `{}`", process::line(&demo)))(error))
}

/// Whether a flag is among the arguments, alone or as `--flag=value`.
fn has(arguments: &[OsString], flag: &str) -> bool {
    arguments.iter().filter_map(|argument| argument.to_str()).any(|argument| {
        argument.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_flag_in_both_of_its_forms() {
        let arguments: Vec<OsString> = vec!["--seconds".into(), "5".into(), "--input=camera".into()];
        assert!(has(&arguments, "--input"));
        assert!(has(&arguments, "--seconds"));
        assert!(!has(&arguments, "--headless"));
        assert!(!has(&arguments, "--in"));
    }
}
