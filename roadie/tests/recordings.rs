//! `roadie recordings` as a person calls it, on real H.264 and Opus, with damaged files and bad input; what it makes
//! is played by the programs of others.

#[path = "../../encoder/tests/recording/fixture.rs"]
#[allow(dead_code)]
mod fixture;
#[path = "../../encoder/tests/recording/players.rs"]
#[allow(dead_code)]
mod players;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use encoder::record::{Recorder, RecordingFile, sidecar_path};
use fixture::{AUDIO, VIDEO, show, tracks};
use media::{Frame, FrameId, h264};
use players::{discover, ffprobe, gstreamer};

fn record(dir: &Path, frames: &[Frame]) -> PathBuf {
    let recorder = Recorder::start(dir, "tour/london", &tracks()).unwrap();
    for frame in frames {
        recorder.write(frame);
        // Faster than real time, but not faster than the disk.
        while recorder.status().frames + 2000 < u64::from(frame.id.frame) {
            std::thread::yield_now();
        }
    }
    recorder.finish().path
}

/// Two copies of six seconds.
fn copies(base: &Path) -> [PathBuf; 2] {
    ["a", "b"].map(|name| record(&base.join(name), &show(2)))
}

fn roadie(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadie"));
    command.arg("recordings").args(arguments).current_dir(dir).output().expect("the program runs")
}

/// What it says where it succeeds.
fn good(dir: &Path, arguments: &[&str]) -> String {
    let output = roadie(dir, arguments);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{arguments:?}: {out}{err}");
    out.into_owned()
}

/// What it says where it fails.
fn bad(dir: &Path, arguments: &[&str]) -> String {
    let output = roadie(dir, arguments);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.code() == Some(1) && err.starts_with("roadie: "), "{arguments:?}: {out}{err}");
    format!("{out}{err}")
}

/// The names of all intact frames.
fn names(path: &Path) -> BTreeSet<FrameId> {
    let fragments = RecordingFile::open(path).unwrap().fragments().unwrap();
    fragments.map(|fragment| fragment.unwrap()).filter(|fragment| fragment.intact).map(|f| f.id).collect()
}

fn all_names(frames: &[Frame]) -> BTreeSet<FrameId> {
    frames.iter().map(|frame| frame.id).collect()
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut data = fs::read(path).unwrap();
    change(&mut data);
    fs::write(path, data).unwrap();
}

/// The end of a frame in its file.
fn end_of(path: &Path, id: FrameId) -> usize {
    let fragments = RecordingFile::open(path).unwrap().fragments().unwrap();
    let fragment = fragments.map(|fragment| fragment.unwrap()).find(|fragment| fragment.id == id).unwrap();
    fragment.range.end as usize
}

fn video(group: u64, frame: u32) -> FrameId {
    FrameId { track: VIDEO, group, frame }
}

/// How many pictures ffprobe finds.
fn packets(file: &Path) -> usize {
    let arguments = ["-v", "error", "-count_packets", "-select_streams", "v", "-of", "csv=p=0"];
    let output = players::run(
        Command::new("ffprobe").args(arguments).args(["-show_entries", "stream=nb_read_packets"]).arg(file),
    );
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

fn plays(file: &Path, pictures: usize) {
    assert_eq!(ffprobe(file).number("streams.stream.0.nb_read_frames"), pictures as f64);
    gstreamer(file);
}

#[test]
fn whole_copies_are_listed_and_verified() {
    let base = tempfile::tempdir().unwrap();
    copies(base.path());
    let list = good(base.path(), &["list", "a", "b"]);
    assert!(list.contains("tour/london  2026-11-18 11:06:40 UTC  0:00:06.005  2 copies"), "{list}");
    assert_eq!(list.matches("1 part  ").count(), 2, "{list}");
    assert_eq!(list.matches("  whole").count(), 2, "{list}");
    let verified = good(base.path(), &["verify", "a", "b"]);
    assert!(verified.contains("18 of 18 groups are whole, 18 of them proven"), "{verified}");
    let json: serde_json::Value =
        serde_json::from_str(&good(base.path(), &["list", "--json", "a", "b"])).unwrap();
    assert_eq!(json["shows"][0]["copies"][1]["parts"][0]["finished"], true);
    assert_eq!(json["shows"][0]["copies"][0]["missing_groups"], 0);
    let json: serde_json::Value =
        serde_json::from_str(&good(base.path(), &["verify", "--json", "a", "b"])).unwrap();
    assert_eq!(json["shows"][0]["problems"].as_array().map(Vec::len), Some(0));
}

#[test]
fn two_damaged_copies_are_merged_into_a_whole_one() {
    let base = tempfile::tempdir().unwrap();
    let frames = show(2);
    let [a, b] = copies(base.path());
    // Different frames of one group are wrong in each, a piece of zeros lies in one, the other is cut off.
    let (in_a, in_b) = (end_of(&a, video(1, 7)) - 2, end_of(&b, video(1, 20)) - 2);
    let (from, to) = (end_of(&a, video(2, 3)), end_of(&a, video(3, 9)));
    let cut = end_of(&b, video(4, 12)) - 1;
    change(&a, |data| {
        data[in_a] ^= 1;
        data[from..to].fill(0);
    });
    change(&b, |data| {
        data[in_b] ^= 1;
        data.truncate(cut);
    });
    let before = [fs::read(&a).unwrap(), fs::read(&b).unwrap()];

    let told = bad(base.path(), &["verify", "a", "b"]);
    for words in [
        "18 of 18 groups are whole",
        "a: video/180p group 1 (at 0:00:01.000): frame 7 of 30 is missing or damaged",
        "b: video/180p group 1 (at 0:00:01.000): frame 20 of 30",
        "b: video/180p group 5 is missing",
        "it was cut off",
        "`roadie recordings merge` takes",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    // No copy alone has group 1, but together they have.
    good(base.path(), &["merge", "a", "b", "--output", "m.mp4"]);
    let merged = base.path().join("m.mp4");
    assert_eq!(names(&merged), all_names(&frames));
    let verified = good(base.path(), &["verify", "m.mp4"]);
    assert!(verified.contains("18 of 18 groups are whole, 18 of them proven"), "{verified}");
    // The proof of the original agrees with what was merged.
    let groups = |path: &Path| {
        let index = RecordingFile::open(path).unwrap().sidecar().unwrap();
        index.groups.iter().map(|entry| (entry.track, entry.group, entry.digest)).collect::<BTreeSet<_>>()
    };
    assert_eq!(groups(&merged), groups(&a));
    plays(&merged, 180);
    good(base.path(), &["export", "a", "b", "--output", "e.mp4"]);
    plays(&base.path().join("e.mp4"), 180);
    assert!(before == [fs::read(&a).unwrap(), fs::read(&b).unwrap()], "the originals are not touched");
}

#[test]
fn what_no_copy_has_is_told_and_the_rest_is_merged() {
    let base = tempfile::tempdir().unwrap();
    let [a, b] = copies(base.path());
    for path in [&a, &b] {
        let at = end_of(path, video(1, 7)) - 2;
        change(path, |data| data[at] ^= 1);
    }
    let told = bad(base.path(), &["verify", "a", "b"]);
    assert!(told.contains("17 of 18 groups are whole") && told.contains("no copy has it whole"), "{told}");
    let told = bad(base.path(), &["merge", "a", "b", "-o", "m.mp4"]);
    assert!(told.contains("video/180p group 1 (at 0:00:01.000): 1 frame of 30 in no copy"), "{told}");
    assert_eq!(names(&base.path().join("m.mp4")).len(), 479);
    // Groups that an index lists and no file has, and groups of which nobody knows but by their numbers.
    let (from, to) = (end_of(&a, video(1, 29)), end_of(&a, video(3, 29)));
    for path in [&a, &b] {
        change(path, |data| data[from..to].fill(0));
    }
    let told = bad(base.path(), &["merge", "a", "b", "-o", "n.mp4"]);
    assert!(told.contains("video/180p group 3 (at 0:00:03.000): 30 frames of 30 in no copy"), "{told}");
    for path in [&a, &b] {
        fs::remove_file(sidecar_path(path)).unwrap();
    }
    let told = bad(base.path(), &["merge", "a", "b", "-o", "o.mp4"]);
    assert!(told.contains("video/180p: 2 groups from 2 on (after 0:00:01.000) in no copy"), "{told}");
    assert!(told.contains("roadie: 5 groups and "), "{told}");
}

#[test]
fn an_export_is_a_plain_file_of_all_parts() {
    let base = tempfile::tempdir().unwrap();
    let frames = show(2);
    // The first copy failed for a second in the middle; the second one began late and was killed.
    let part = |range: std::ops::Range<u64>| {
        let in_range = |frame: &&Frame| match frame.id.track {
            AUDIO => (range.start * 2..range.end * 2).contains(&frame.id.group),
            _ => range.contains(&frame.id.group),
        };
        frames.iter().filter(in_range).cloned().collect::<Vec<_>>()
    };
    record(&base.path().join("a"), &part(0..2));
    record(&base.path().join("a"), &part(3..6));
    let b = record(&base.path().join("b"), &part(1..6));
    let cut = end_of(&b, video(4, 2)) - 3;
    change(&b, |data| data.truncate(cut));
    let list = good(base.path(), &["list", "a", "b"]);
    assert!(
        list.contains("a  2 parts") && list.contains("b  1 part") && list.contains("cut off at"),
        "{list}"
    );
    let alone = bad(base.path(), &["verify", "a"]);
    assert!(
        alone.contains("video/180p: 1 group from 2 on (between 0:00:01.000 and 0:00:03.000) in no copy"),
        "{alone}"
    );

    good(base.path(), &["export", "a", "b", "--output", "e.mp4"]);
    let file = base.path().join("e.mp4");
    let probed = ffprobe(&file);
    assert_eq!(probed.number("streams.stream.0.nb_read_frames"), 180.0);
    assert_eq!(probed.number("streams.stream.1.nb_read_frames"), 300.0);
    assert!((probed.number("format.duration") - 6.0).abs() < 0.05);
    let found = discover(&file);
    assert!(found.contains("Duration: 0:00:06.0") && found.contains("Seekable: yes"), "{found}");
    gstreamer(&file);
    let data = fs::read(&file).unwrap();
    assert!(!data.windows(4).any(|kind| kind == b"moof"), "it is plain");
    // It is no recording any more, and says so.
    assert!(bad(base.path(), &["verify", "e.mp4"]).contains("an exported MP4 is not one"));
}

#[test]
fn another_shape_of_the_picture_begins_another_recording_and_an_export_stays_one_file() {
    let base = tempfile::tempdir().unwrap();
    let mut frames = show(2);
    // The level is told as another one from the fourth second on.
    for frame in
        frames.iter_mut().filter(|frame| frame.id.track == VIDEO && frame.id.group >= 3 && frame.keyframe)
    {
        let mut data = frame.data.to_vec();
        let sps = data.windows(5).position(|nal| nal == [0, 0, 0, 1, 0x67]).unwrap();
        data[sps + 7] = 0x1f;
        frame.data = data.into();
        assert!(h264::is_idr(&frame.data));
    }
    record(&base.path().join("a"), &frames);
    let told = good(base.path(), &["export", "a", "-o", "e.mp4"]);
    assert!(told.contains("e.mp4") && !base.path().join("e-2.mp4").exists(), "{told}");
    plays(&base.path().join("e.mp4"), 180);
    gstreamer(&base.path().join("e.mp4"));
    good(base.path(), &["merge", "a", "-o", "m.mp4"]);
    let both: BTreeSet<_> =
        ["m.mp4", "m-2.mp4"].iter().flat_map(|name| names(&base.path().join(name))).collect();
    assert_eq!(both, all_names(&frames));
}

#[test]
fn a_clip_begins_and_ends_where_it_was_asked_to() {
    let base = tempfile::tempdir().unwrap();
    let [a, _] = copies(base.path());
    let told = good(base.path(), &["clip", "a", "--from", "1.5", "--to", "0:03.2", "-o", "c.mp4"]);
    assert!(told.contains("0.50 s earlier, at the keyframe"), "{told}");
    let file = base.path().join("c.mp4");
    // 1.7 s are shown.
    let probed = ffprobe(&file);
    assert_eq!(probed.number("streams.stream.0.nb_read_frames"), 51.0);
    assert!((probed.number("format.duration") - 1.7).abs() < 0.03, "{}", probed.text("format.duration"));
    assert!((probed.number("streams.stream.1.nb_read_frames") - 85.0).abs() <= 1.0);
    gstreamer(&file);
    // The first picture shown is the one that the recording shows there.
    let picture = |file: &Path, at: &str| {
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "error", "-ss", at, "-i"]).arg(file);
        command.args(["-frames:v", "1", "-an", "-f", "framemd5", "-"]);
        let text = String::from_utf8(players::run(&mut command).stdout).unwrap();
        text.lines().last().and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
    };
    assert_eq!(picture(&file, "0"), picture(&a, "1.5"));
}

#[test]
fn a_repair_saves_every_intact_frame_and_keeps_the_original() {
    let base = tempfile::tempdir().unwrap();
    let [a, _] = copies(base.path());
    let told = good(base.path(), &["repair", a.to_str().unwrap()]);
    assert!(told.contains("nothing to repair"), "{told}");
    let (whole, index) = (fs::read(&a).unwrap(), fs::read(sidecar_path(&a)).unwrap());
    let file = base.path().join("x.mp4");
    let repaired = base.path().join("x.repaired.mp4");
    for tenths in [2, 5, 9] {
        let mut data = whole[..whole.len() * tenths / 10].to_vec();
        let at = data.len() / 2;
        data[at..at + 700].fill(0);
        fs::write(&file, &data).unwrap();
        fs::write(sidecar_path(&file), &index).unwrap();
        let told = good(base.path(), &["repair", "x.mp4"]);
        assert!(told.contains("damaged or torn") && told.contains("x.repaired.mp4"), "{told}");
        assert_eq!(names(&repaired), names(&file));
        assert!(RecordingFile::open(&repaired).unwrap().is_finished());
        let pictures = names(&repaired).iter().filter(|id| id.track == VIDEO).count();
        gstreamer(&repaired);
        // The pictures behind the hole have lost those that they build on: ffmpeg reads them all, and tells.
        assert_eq!(packets(&repaired), pictures);
        assert!(fs::read(&file).unwrap() == data, "the original is not touched");
        // In place, the original is kept under another name.
        fs::remove_file(&repaired).unwrap();
        fs::remove_file(sidecar_path(&repaired)).unwrap();
        good(base.path(), &["repair", "--in-place", "x.mp4"]);
        assert!(fs::read(base.path().join("x.mp4.orig")).unwrap() == data);
        assert!(fs::read(base.path().join("x.index.orig")).unwrap() == index);
        assert_eq!(names(&file), names_of(&data));
        assert!(bad(base.path(), &["verify", "x.mp4"]).contains("missing"), "what is lost stays known");
        for name in ["x.mp4.orig", "x.index.orig", "x.mp4", "x.index"] {
            fs::remove_file(base.path().join(name)).unwrap();
        }
    }
}

fn names_of(data: &[u8]) -> BTreeSet<FrameId> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.mp4");
    fs::write(&path, data).unwrap();
    names(&path)
}

#[test]
fn bad_input_is_named_and_leaves_nothing_behind() {
    let base = tempfile::tempdir().unwrap();
    let [a, _] = copies(base.path());
    let here = base.path();
    fs::write(here.join("empty.mp4"), b"").unwrap();
    fs::write(here.join("noise.mp4"), b"moof".repeat(1000)).unwrap();
    fs::write(here.join("taken.mp4"), b"x").unwrap();
    fs::create_dir(here.join("none")).unwrap();
    let head = &fs::read(&a).unwrap()[..1000];
    fs::write(here.join("head.mp4"), head).unwrap();
    // Another show, an hour later.
    let mut later = show(1);
    later.iter_mut().for_each(|frame| frame.capture_time += Duration::from_secs(3600));
    record(&here.join("two"), &show(1));
    record(&here.join("two"), &later);
    let files = || {
        let mut files: Vec<_> = fs::read_dir(here).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        files.sort();
        files
    };
    let before = files();
    for (arguments, says) in [
        (&["list", "nowhere"][..], "cannot read nowhere"),
        (&["verify", "none"], "no recordings in none"),
        (&["verify", "empty.mp4"], "empty.mp4 is empty"),
        (&["verify", "noise.mp4"], "noise.mp4 is no recording"),
        (&["verify", "head.mp4"], "first bytes are damaged"),
        (&["verify", "a", "nowhere.mp4"], "cannot read nowhere.mp4"),
        (&["repair", "a"], "it is not a file"),
        (&["repair", "noise.mp4"], "noise.mp4 is no recording"),
        (&["merge", "none", "-o", "m.mp4"], "no recordings in none"),
        (&["merge", "a", "-o", "m.mkv"], "must end with .mp4"),
        (&["merge", "a", "-o", "taken.mp4"], "is there already"),
        (&["merge", "a", "-o", "nowhere/m.mp4"], "cannot write nowhere/m.mp4.part"),
        (&["export", "two", "-o", "e.mp4"], "--show 2: tour/london of 2026-11-18 12:06:40 UTC"),
        (&["export", "two", "--show", "3", "-o", "e.mp4"], "there are 2 shows"),
        (&["clip", "a", "--from", "9", "--to", "10", "-o", "c.mp4"], "only 0:00:06.005 long"),
        (&["clip", "a", "--from", "2", "--to", "2", "-o", "c.mp4"], "is not after"),
        (&["clip", "a", "--from", "two", "--to", "3", "-o", "c.mp4"], "\"two\" is no time"),
    ] {
        let told = bad(here, arguments);
        assert!(told.contains(says), "{arguments:?}: {told}");
    }
    assert_eq!(files(), before);
    good(here, &["export", "two", "--show", "2", "-o", "e.mp4"]);
}

/// A limit on the size of files is a disk that is full without being root.
#[test]
fn a_full_disk_at_the_output_leaves_nothing_and_harms_nothing() {
    let base = tempfile::tempdir().unwrap();
    let [a, b] = copies(base.path());
    let before = [fs::read(&a).unwrap(), fs::read(&b).unwrap()];
    for command in ["export a -o e.mp4", "merge a b -o e.mp4"] {
        let script = format!("trap '' XFSZ; ulimit -f 50; exec \"$0\" recordings {command}");
        let output = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_roadie")])
            .current_dir(base.path())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains("cannot write e.mp4"), "{told}");
        let left: BTreeSet<_> = fs::read_dir(base.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, BTreeSet::from(["a".into(), "b".into()]));
    }
    assert!(before == [fs::read(&a).unwrap(), fs::read(&b).unwrap()]);
}
