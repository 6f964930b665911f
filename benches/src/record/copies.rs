//! What a copy on a disk holds, and whether the programs of others play it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use encoder::record::{RecordingFile, recordings_in};
use media::{FrameId, Time};

/// One copy: all its files together.
#[derive(Debug, Default)]
pub struct Held {
    /// Capture time and payload of every intact frame.
    pub frames: BTreeMap<FrameId, (Time, bytes::Bytes)>,
    /// Frames with a wrong checksum.
    pub broken: u64,
    /// Bytes that are no frame: the torn end.
    pub torn: u64,
    /// The files.
    pub files: Vec<PathBuf>,
    /// Groups that are listed or found whole.
    pub groups: usize,
}

/// Reads a folder.
pub fn read(dir: &Path) -> anyhow::Result<Held> {
    let mut held = Held::default();
    for path in recordings_in(dir)? {
        let one = read_file(&path)?;
        held.frames.extend(one.frames);
        held.files.push(path);
        held.broken += one.broken;
        held.torn += one.torn;
        held.groups += one.groups;
    }
    Ok(held)
}

/// Reads one file.
pub fn read_file(path: &Path) -> anyhow::Result<Held> {
    let mut held = Held { files: vec![path.to_owned()], ..Held::default() };
    let file = RecordingFile::open(path)?;
    let mut fragments = file.fragments()?;
    for fragment in fragments.by_ref() {
        let fragment = fragment?;
        match fragment.intact {
            true => drop(held.frames.insert(fragment.id, (fragment.capture_time, fragment.payload))),
            false => held.broken += 1,
        }
    }
    held.torn = fragments.damaged_bytes();
    held.groups = file.contents()?.groups.len();
    Ok(held)
}

/// How many pictures ffprobe decodes of a file. It may complain about a torn end, but must come to one.
pub fn ffprobe(file: &Path) -> anyhow::Result<u64> {
    let entries = "stream=nb_read_frames";
    let output = Command::new("ffprobe")
        .args([
            "-v",
            "quiet",
            "-count_frames",
            "-select_streams",
            "v:0",
            "-of",
            "csv=p=0",
            "-show_entries",
            entries,
        ])
        .arg(file)
        .output()
        .context("ffprobe is needed: `cargo xtask setup` installs it")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("ffprobe does not play {}", file.display());
    }
    let count = text.trim().trim_end_matches(',');
    count.parse().with_context(|| format!("ffprobe says {count:?} of {}", file.display()))
}

/// Plays all of a file through GStreamer's demuxer and decoders.
pub fn gstreamer(file: &Path) -> anyhow::Result<()> {
    let status = Command::new("gst-launch-1.0")
        .args(["-q", "filesrc", &format!("location={}", file.display())])
        .args("! qtdemux name=d d.video_0 ! queue ! h264parse ! avdec_h264 ! fakesink sync=false".split(' '))
        .args("d.audio_0 ! queue ! opusdec ! fakesink sync=false".split(' '))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("gst-launch-1.0 is needed: `cargo xtask setup` installs it")?;
    if !status.success() {
        bail!("GStreamer does not play {}", file.display());
    }
    Ok(())
}
