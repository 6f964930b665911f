//! Running other programs, and the one error type of this tool.

use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What went wrong, in a sentence that says what to do.
#[derive(Debug)]
pub struct Failure(String);

/// What every step of this tool returns.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// From a whole sentence.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// From an error of the system, with what was being done.
    pub fn doing(what: impl fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self(format!("{what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The path of a program that the shell would find.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| is_executable(file))
}

fn is_executable(file: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// Runs to the end with our terminal; anything but success is a failure that names the command.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(Failure::doing(format!("cannot run `{}`", line(command))))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(format!("`{}` failed ({status})", line(command))))
    }
}

/// Runs to the end and returns what it printed, whether it succeeded or not; its errors are dropped.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::null())
        .output()
        .map_err(Failure::doing(format!("cannot run `{}`", line(command))))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as a person would type it.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_how_it_ended() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c exit 3") && error.contains('3'), "{error}");
        let error = run(&mut Command::new("roadie-no-such-program")).unwrap_err().to_string();
        assert!(error.contains("roadie-no-such-program"), "{error}");
    }

    #[test]
    fn finds_what_the_shell_finds() {
        assert!(find("sh").is_some());
        assert!(find("roadie-no-such-program").is_none());
    }
}
