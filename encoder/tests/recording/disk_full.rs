//! No more space: what is there plays, and the recording goes on in a new file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use roadie_encoder::record::{Recorder, recordings_in};

use crate::fixture::{read, show, tracks, video};
use crate::players::{ffprobe, gstreamer, run};

/// Tells the test binary to be the process with the limit, and where to record.
const DIR: &str = "ROADIE_TEST_FULL_DIR";
/// In blocks of 512 bytes: about four seconds of the show.
const LIMIT_BLOCKS: u64 = 300;
const ROUNDS: u32 = 6;

/// Not a test of its own: the process whose files may not grow beyond the limit.
#[test]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let recorder = Recorder::start(Path::new(&dir), "full", &tracks()).unwrap();
    show(ROUNDS).iter().for_each(|frame| recorder.write(frame));
    let status = recorder.finish();
    assert!(status.parts.len() > 1, "{status:?}");
    assert!(status.dropped > 0 && status.frames > 200, "{status:?}");
}

/// A limit on the size of a file is the disk that is full without being root: the write stops halfway
/// with an error, and the next file has space again.
#[test]
fn a_full_disk_leaves_files_that_play() {
    let dir = tempfile::tempdir().unwrap();
    // The signal that comes with the limit has to be ignored, which `exec` hands on.
    let script = format!("trap '' XFSZ; ulimit -f {LIMIT_BLOCKS}; exec \"$0\" --exact disk_full::child");
    run(Command::new("sh").arg("-c").arg(script).arg(std::env::current_exe().unwrap()).env(DIR, dir.path()));

    let files: Vec<PathBuf> = recordings_in(dir.path()).unwrap();
    assert!(files.len() > 1, "{files:?}");
    for file in &files {
        let data = fs::read(file).unwrap();
        assert!(data.len() as u64 <= LIMIT_BLOCKS * 512);
        let (frames, damaged) = read(&data);
        assert_eq!(damaged, 0, "the torn frame is cut off: {}", file.display());
        assert!(frames[0].keyframe && frames[0].id.frame == 0);
        assert_eq!(ffprobe(file).number("streams.stream.0.nb_read_frames"), video(&frames).count() as f64);
        gstreamer(file);
    }
}
