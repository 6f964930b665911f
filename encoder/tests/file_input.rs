//! Files and cameras as input, with real GStreamer pipelines.

mod common;

use std::path::PathBuf;

use common::{clip, run, settings, start, try_start};
use media::{Frame, Time, TrackId};
use roadie_encoder::{AUDIO_TRACK, EncoderError, Input, VIDEO_TRACK};

fn times(frames: &[(Frame, Time)], track: TrackId) -> Vec<i64> {
    let of_track = frames.iter().filter(|(frame, _)| frame.id.track == track);
    of_track.map(|(frame, _)| frame.capture_time.as_micros() as i64).collect()
}

fn error(input: Input) -> EncoderError {
    try_start(settings(input)).err().expect("it cannot start")
}

fn missing_camera() -> Input {
    Input::Camera(Some("/dev/video-that-is-not-there".into()))
}

/// Plays a clip until `loops` times its pictures have come, and checks the timeline.
fn plays_in_a_loop(path: PathBuf, pictures: usize, loops: usize) {
    let running = start(settings(Input::File(path)));
    let frames = running.until(|frames| times(frames, VIDEO_TRACK).len() > pictures * loops);
    let (video, audio) = (times(&frames, VIDEO_TRACK), times(&frames, AUDIO_TRACK));
    for (times, step) in [(&video, 33_333), (&audio, 20_000)] {
        // The first Opus packet is shorter than the others, by the encoder's lookahead.
        let steps: Vec<_> = times[1..].windows(2).map(|pair| pair[1] - pair[0]).collect();
        // A machine that is too busy may pause the timeline, as a whole; it never goes faster.
        assert!(steps.iter().all(|found| *found >= step - 1500), "{steps:?}");
        let exact = steps.iter().filter(|found| (**found - step).abs() <= 1500).count();
        assert!(exact * 100 >= steps.len() * 95, "{steps:?}");
    }
    let (first, last) = (video[0] - audio[0], video[video.len() - 1] - audio[audio.len() - 1]);
    assert!((last - first).abs() < 250_000, "the tracks drifted apart: {first} {last}");
    running.stop();
}

#[test]
fn a_file_loops_though_its_sound_is_shorter() {
    let dir = tempfile::tempdir().expect("a directory");
    plays_in_a_loop(clip(dir.path(), "short.mp4", "mp4mux", 24, 30), 24, 4);
}

#[test]
fn a_file_loops_though_its_sound_is_longer_and_in_another_container() {
    let dir = tempfile::tempdir().expect("a directory");
    plays_in_a_loop(clip(dir.path(), "long.mkv", "matroskamux", 24, 50), 24, 4);
}

#[test]
fn a_file_without_sound_gets_silence() {
    let dir = tempfile::tempdir().expect("a directory");
    plays_in_a_loop(clip(dir.path(), "silent.mp4", "mp4mux", 30, 0), 30, 2);
}

#[test]
fn what_is_wrong_with_a_file_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let missing = dir.path().join("missing.mp4");
    assert_eq!(error(Input::File(missing.clone())), EncoderError::FileNotFound { path: missing });
    let directory = error(Input::File(dir.path().into()));
    assert!(matches!(directory, EncoderError::FileUnreadable { .. }), "{directory}");

    let text = dir.path().join("text.mp4");
    std::fs::write(&text, "This is not a film. ".repeat(1000)).expect("a file");
    let text = error(Input::File(text));
    assert!(matches!(text, EncoderError::NotMedia { .. }), "{text}");

    let whole = std::fs::read(clip(dir.path(), "whole.mp4", "mp4mux", 30, 30)).expect("a clip");
    let half = dir.path().join("half.mp4");
    std::fs::write(&half, &whole[..whole.len() / 2]).expect("a file");
    let half = error(Input::File(half));
    assert!(matches!(half, EncoderError::NotMedia { .. }), "{half}");

    let sound = dir.path().join("sound.wav");
    run(&format!("audiotestsrc num-buffers=20 ! wavenc ! filesink location={}", sound.display()));
    assert_eq!(error(Input::File(sound.clone())), EncoderError::NoVideo { path: sound });
}

#[test]
fn an_unknown_camera_is_told() {
    let camera = error(missing_camera());
    assert!(matches!(&camera, EncoderError::CameraNotFound { .. }), "{camera}");
    let no_camera = error(Input::Camera(Some("/dev/null".into())));
    assert!(matches!(&no_camera, EncoderError::CameraFailed { .. }), "{no_camera}");
}
