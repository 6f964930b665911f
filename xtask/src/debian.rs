//! Debian packages: which are missing, what they are for, and installing them.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::process::{self, Failure, Result};

/// One package and why it is wanted.
pub struct Need {
    package: &'static str,
    reason: &'static str,
    /// Nothing is installed when the shell finds this program, whoever put it there.
    or_program: Option<&'static str>,
}

const fn need(package: &'static str, reason: &'static str) -> Need {
    Need { package, reason, or_program: None }
}

const fn program(package: &'static str, program: &'static str, reason: &'static str) -> Need {
    Need { package, reason, or_program: Some(program) }
}

/// To compile.
pub const BUILD: &[Need] = &[
    program("gcc", "cc", "links Rust programs"),
    need("libc6-dev", "links Rust programs"),
    program("pkg-config", "pkg-config", "finds GStreamer at build time"),
    need("libgstreamer1.0-dev", "GStreamer, which captures and encodes"),
    need("libgstreamer-plugins-base1.0-dev", "GStreamer's app sources and sinks"),
];

/// To run the encoder.
pub const RUN: &[Need] = &[
    need("gstreamer1.0-plugins-base", "conversion, Opus, test sources"),
    need("gstreamer1.0-plugins-good", "cameras, MP4 and Matroska"),
    need("gstreamer1.0-plugins-bad", "H.264 parser"),
    need("gstreamer1.0-plugins-ugly", "x264, the H.264 encoder"),
    need("gstreamer1.0-libav", "decoders for clips"),
    need("libaom3", "AV1, for shows that ask for it"),
];

/// To watch without a person.
pub const BROWSER: &[Need] = &[
    program("chromium", "chromium", "a browser that watches without a screen"),
    program("chromium-driver", "chromedriver", "drives that browser"),
    need("fonts-dejavu-core", "letters in that browser"),
];

/// To test.
pub const TEST: &[Need] = &[
    need("gstreamer1.0-tools", "plays recordings, independently of us"),
    need("gstreamer1.0-plugins-base-apps", "gst-discoverer, reads recordings, independently of us"),
    program("iproute2", "ip", "makes networks to pull cables in"),
    need("libfaketime", "steps the clock of a program"),
    program("ffmpeg", "ffprobe", "reads recordings, independently of us"),
    program("pipewire", "pipewire", "offers a camera that the tests make"),
    program("wireplumber", "wireplumber", "connects that camera"),
    program("firefox-esr", "firefox-esr", "another browser that watches without a screen"),
    program("dbus-daemon", "dbus-daemon", "what wireplumber talks over"),
    need("gstreamer1.0-pipewire", "captures that camera"),
    need("python3-aiortc", "WebRTC in Python, which publishes over WHIP"),
];

/// How this process may install.
#[derive(Debug, PartialEq)]
enum Rights {
    Root,
    Sudo,
    None,
}

/// Installs what is missing of `needs`, after saying so. Quiet when nothing is missing.
pub fn install(needs: &[&[Need]], log: &Path) -> Result<()> {
    let wanted: Vec<&Need> = needs
        .iter()
        .copied()
        .flatten()
        .filter(|n| n.or_program.is_none_or(|p| process::find(p).is_none()))
        .collect();
    if process::find("dpkg-query").is_none() {
        let names: Vec<_> = wanted.iter().map(|need| need.package).collect();
        println!(
            "Set-up: this is not Debian, so packages are neither checked nor installed; the names there: {}",
            names.join(" ")
        );
        return Ok(());
    }
    let listing = process::output(
        Command::new("dpkg-query")
            .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
            .args(wanted.iter().map(|need| need.package)),
    )?;
    let missing: Vec<&Need> =
        wanted.into_iter().filter(|need| !is_installed(&listing, need.package)).collect();
    if missing.is_empty() { Ok(()) } else { install_missing(&missing, &rights(), log) }
}

fn is_installed(listing: &str, package: &str) -> bool {
    listing.lines().any(|line| line.split_once(' ') == Some((package, "installed")))
}

fn rights() -> Rights {
    // The owner of /proc/self is the effective user.
    let root = fs::metadata("/proc/self").is_ok_and(|data| data.uid() == 0);
    match (root, process::find("sudo")) {
        (true, _) => Rights::Root,
        (false, Some(_)) => Rights::Sudo,
        (false, None) => Rights::None,
    }
}

fn install_missing(missing: &[&Need], rights: &Rights, log: &Path) -> Result<()> {
    let names: Vec<&str> = missing.iter().map(|need| need.package).collect();
    if *rights == Rights::None {
        return Err(Failure::new(format!(
            "Debian packages are missing, and there is no sudo to install them; as root, run: \
             apt-get install --no-install-recommends {}",
            names.join(" ")
        )));
    }
    let how = if *rights == Rights::Sudo { "apt-get (by sudo)" } else { "apt-get" };
    println!("Set-up: missing Debian packages, which {how} installs now:");
    for need in missing {
        println!("  {:<34} {}", need.package, need.reason);
    }
    println!("  (takes a few minutes; apt-get's own words go to {})", log.display());
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).map_err(Failure::doing(format!("cannot make {}", folder.display())))?;
    }
    let log_file = File::create(log).map_err(Failure::doing(format!("cannot write {}", log.display())))?;
    // A failed update is no reason to stop: one third-party source may be down, and the install says if it matters.
    let _ = logged(&mut apt_get(rights, &["update"]), &log_file)?;
    let mut install = apt_get(rights, &["install", "-y", "--no-install-recommends"]);
    install.args(&names);
    if logged(&mut install, &log_file)? {
        return Ok(());
    }
    Err(Failure::new(format!(
        "`{}` failed; its last words (all of them in {}):\n{}",
        process::line(&install),
        log.display(),
        last_lines(&fs::read_to_string(log).unwrap_or_default(), 8)
    )))
}

fn apt_get(rights: &Rights, arguments: &[&str]) -> Command {
    let mut command = match rights {
        Rights::Sudo => {
            let mut sudo = Command::new("sudo");
            sudo.args(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
            sudo
        }
        Rights::Root | Rights::None => Command::new("apt-get"),
    };
    // Another apt-get may be at work, as it is after a fresh machine's start: wait for it.
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments);
    command
}

fn logged(command: &mut Command, log: &File) -> Result<bool> {
    let copy = || log.try_clone().map_err(Failure::doing("cannot write the log of apt-get"));
    let status = command
        .stdin(Stdio::null())
        .stdout(copy()?)
        .stderr(copy()?)
        .status()
        .map_err(Failure::doing(format!("cannot run `{}`", process::line(command))))?;
    Ok(status.success())
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_dpkg_says() {
        let listing = "gcc installed\nffmpeg config-files\nlibc6-dev installed\n";
        assert!(is_installed(listing, "gcc"));
        assert!(!is_installed(listing, "ffmpeg"));
        assert!(!is_installed(listing, "gc"));
        assert!(!is_installed("", "gcc"));
    }

    #[test]
    fn without_rights_the_error_is_the_command_to_type() {
        let needs = [&need("a-package", "why"), &need("b-package", "why")];
        let error =
            install_missing(&needs, &Rights::None, Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(error.ends_with("apt-get install --no-install-recommends a-package b-package"), "{error}");
        assert_eq!(error.lines().count(), 1);
    }

    #[test]
    fn sudo_keeps_apt_from_asking() {
        let line = process::line(&apt_get(&Rights::Sudo, &["update"]));
        assert!(line.starts_with("sudo env DEBIAN_FRONTEND=noninteractive apt-get"), "{line}");
    }

    #[test]
    fn keeps_the_end_of_a_long_log() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 5), "a");
    }
}
