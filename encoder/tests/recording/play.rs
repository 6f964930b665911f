//! A recording plays, to its end or to where it was cut off, and gives back the frames it was made of.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use media::Frame;
use roadie_encoder::record::{RecordState, Recorder};

use crate::fixture::{HEIGHT, WIDTH, assert_same, read, show, tracks, video};
use crate::players::{discover, ffprobe, ffprobe_torn, gstreamer, run};

fn record(dir: &std::path::Path, frames: &[Frame]) -> std::path::PathBuf {
    let recorder = Recorder::start(dir, "tour/london", &tracks()).unwrap();
    frames.iter().for_each(|frame| recorder.write(frame));
    let status = recorder.finish();
    assert_eq!((&status.state, status.dropped), (&RecordState::Recording, 0), "{status:?}");
    status.path
}

#[test]
fn a_finished_recording_plays_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let file = record(dir.path(), &show(2));
    let probed = ffprobe(&file);
    assert_eq!(probed.text("streams.stream.0.codec_name"), "h264");
    assert_eq!(probed.text("streams.stream.0.profile"), "Constrained Baseline");
    assert_eq!(probed.number("streams.stream.0.width"), f64::from(WIDTH));
    assert_eq!(probed.number("streams.stream.0.height"), f64::from(HEIGHT));
    assert_eq!(probed.number("streams.stream.0.nb_read_frames"), 180.0);
    assert_eq!(probed.text("streams.stream.1.codec_name"), "opus");
    assert_eq!(probed.number("streams.stream.1.nb_read_frames"), 300.0);
    for key in ["streams.stream.0.duration", "streams.stream.1.duration", "format.duration"] {
        assert!((probed.number(key) - 6.0).abs() < 0.05, "{key}: {}", probed.text(key));
    }
    gstreamer(&file);
    let found = discover(&file);
    assert!(found.contains("Duration: 0:00:06.0") && found.contains("Seekable: yes"), "{found}");
}

#[test]
fn the_frames_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let frames = show(1);
    let (found, damaged) = read(&fs::read(record(dir.path(), &frames)).unwrap());
    assert_eq!((found.len(), damaged), (frames.len(), 0));
    found.iter().zip(&frames).for_each(|(found, frame)| assert_same(found, frame));
}

#[test]
fn timestamps_stay_true_where_frames_are_missing() {
    let dir = tempfile::tempdir().unwrap();
    // The second half of the first group was lost, pictures and sound.
    let mut frames = show(1);
    frames.retain(|frame| frame.id.group != 0 || frame.id.frame < 15);
    let file = record(dir.path(), &frames);
    let output = run(Command::new("ffprobe")
        .args([
            "-v",
            "warning",
            "-select_streams",
            "v",
            "-show_entries",
            "packet=pts_time,flags",
            "-of",
            "csv=p=0",
        ])
        .arg(&file));
    let text = String::from_utf8_lossy(&output.stdout);
    let expected: Vec<_> = video(&frames)
        .map(|frame| {
            let micros = frame.capture_time.micros_since(crate::fixture::ZERO);
            let flags = if frame.keyframe { "K_" } else { "__" };
            format!("{}.{:06},{flags}", micros / 1_000_000, micros % 1_000_000)
        })
        .collect();
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), expected);
    ffprobe(&file);
}

#[test]
fn a_player_can_jump_into_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = record(dir.path(), &show(2));
    // The picture at 4.5 s, decoded from the start and after a jump, is the same.
    let picture = |jump: bool| {
        let (before, after) = if jump { ("4.5", "0") } else { ("0", "4.5") };
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "warning", "-ss", before, "-i"]).arg(&file);
        command.args(["-ss", after, "-frames:v", "1", "-an", "-f", "framemd5", "-"]);
        let output = run(&mut command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().last().and_then(|line| line.rsplit(' ').next()).expect("a checksum").to_owned()
    };
    assert_eq!(picture(true), picture(false));
}

/// Where FFmpeg, and no other, refuses a file that ends there, counted from the last fragment's first byte: within the fields
/// of its `tfhd`, the frame of its `trun`, and the name of its `uuid`.
const REFUSED: [std::ops::Range<u64>; 3] = [40..48, 84..100, 108..124];

#[test]
fn while_it_is_recorded_it_plays_to_its_last_whole_frame() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(dir.path(), "tour/london", &tracks()).unwrap();
    show(1).iter().for_each(|frame| recorder.write(frame));
    let patience = Instant::now() + Duration::from_secs(20);
    // The last sound still waits for the picture after it.
    while recorder.status().frames < 90 {
        assert!(Instant::now() < patience, "{:?}", recorder.status());
        std::thread::sleep(Duration::from_millis(5));
    }
    let whole = fs::read(recorder.status().path).unwrap();
    assert!((236..=240).contains(&read(&whole).0.len()));
    let file = dir.path().join("cut.mp4");
    let mut ends = Vec::new();
    for tenths in [2, 5, 9] {
        let mut len = whole.len() * tenths / 10;
        while REFUSED.iter().any(|bytes| bytes.contains(&read(&whole[..len]).1)) {
            len += 1;
        }
        let (frames, torn) = read(&whole[..len]);
        ends.push((len, video(&frames).count()));
        ends.push((len - torn as usize, video(&frames).count()));
    }
    for (len, pictures) in ends {
        fs::write(&file, &whole[..len]).unwrap();
        let found = ffprobe_torn(&file);
        // Of a torn picture the first slice may be whole.
        assert!(found == pictures || found == pictures + 1, "{found} of {pictures}");
        gstreamer(&file);
    }
    // At the end of a frame there is nothing to complain about.
    ffprobe(&file);
}
