//! Several inputs, their ends and their errors, with real GStreamer pipelines and encoders.

mod common;

use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Stdio};

use common::{LIMIT, clip, decode, run, settings, start, try_start};
use media::{Frame, Time, TrackId, mark};
use roadie_encoder::{
    AUDIO_TRACK, EncoderError, EncoderEvent, Input, Microphone, Settings, SourceState, VIDEO_TRACK,
};

fn of(frames: &[(Frame, Time)], track: TrackId) -> Vec<Frame> {
    frames.iter().filter(|(frame, _)| frame.id.track == track).map(|(frame, _)| frame.clone()).collect()
}

/// Capture times from one frame to the next, in microseconds.
fn steps(frames: &[Frame]) -> Vec<i64> {
    frames.windows(2).map(|pair| pair[1].capture_time.micros_since(pair[0].capture_time)).collect()
}

fn input(text: &str) -> Input {
    text.parse().expect("an input")
}

#[test]
fn a_cut_begins_with_a_keyframe_and_breaks_neither_track() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = clip(dir.path(), "clip.mp4", "mp4mux", 30, 50);
    let mut settings = settings(Input::Test);
    settings.inputs.push(Input::File(path));
    settings.video.gop = std::time::Duration::from_secs(10);
    let running = start(settings);
    // The clip is warm before it is cut to.
    let mut frames = running.until(|_| running.encoder.inputs()[1].state == SourceState::Live);
    frames.extend(running.until(|frames| of(frames, VIDEO_TRACK).len() >= 20));
    running.encoder.select(1).expect("it is there");
    frames.extend(running.until(|frames| of(frames, VIDEO_TRACK).len() >= 40));
    let on_air: Vec<_> = running.encoder.inputs().iter().map(|input| input.on_air).collect();
    assert_eq!(on_air, [false, true]);
    running.encoder.select(0).expect("it is there");
    frames.extend(running.until(|frames| of(frames, VIDEO_TRACK).len() >= 40));
    assert_eq!(running.encoder.select(2), Err(EncoderError::NoSuchInput { input: 2, inputs: 2 }));

    let (video, audio) = (of(&frames, VIDEO_TRACK), of(&frames, AUDIO_TRACK));
    // Only the test picture has marks.
    let marked: Vec<_> = decode(&video, 640)
        .iter()
        .map(|luma| mark::read(|x, y| luma.bytes[y * luma.stride + x]).is_some())
        .collect();
    assert_eq!(marked.len(), video.len());
    let cuts: Vec<_> = (1..marked.len()).filter(|at| marked[*at] != marked[at - 1]).collect();
    assert_eq!(cuts.len(), 2, "{marked:?}");
    for cut in cuts {
        assert!(video[cut].keyframe, "picture {cut} is the first of another input");
    }
    // The first Opus packet is shorter than the others, by the encoder's lookahead.
    for step in steps(&audio[1..]) {
        assert!((step - 20_000).abs() <= 100, "the sound has no hole: {step}");
    }
    for pair in video.windows(2) {
        let (a, b) = (pair[0].id, pair[1].id);
        let next = (b.group, b.frame) == (a.group, a.frame + 1) || (b.group, b.frame) == (a.group + 1, 0);
        assert!(next && pair[0].capture_time < pair[1].capture_time, "{a:?} {b:?}");
    }
    running.stop();
}

#[test]
fn a_file_played_once_ends_the_show_after_its_last_picture() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = clip(dir.path(), "clip.mp4", "mp4mux", 30, 50);
    let running = start(settings(Input::FileOnce(path)));
    assert_eq!(running.encoder.wait_event(LIMIT), Some(EncoderEvent::EndOfStream));
    assert!(running.encoder.counters().captured >= 30, "{:?}", running.encoder.counters());
    running.stop();
}

#[test]
fn the_level_of_the_sound_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(settings(Input::File(clip(dir.path(), "clip.mp4", "mp4mux", 30, 50))));
    // A sine of 0.8 of the full scale: -1.9 dBFS, and -4.9 in power.
    let near = |found: f32, wanted: f32| (found - wanted).abs() < 1.0;
    let told = |levels: roadie_encoder::Levels| {
        levels.peak.iter().all(|peak| near(*peak, -1.9)) && levels.rms.iter().all(|rms| near(*rms, -4.9))
    };
    running.until(|_| told(running.encoder.levels()));
    assert!(told(running.encoder.inputs()[0].levels));
    running.stop();
}

#[test]
fn a_stream_that_nobody_sends_yet_begins_with_the_slate() {
    let port = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let running = start(settings(input(&format!("udp://:{port}"))));
    let frames =
        running.until(|frames| of(frames, VIDEO_TRACK).len() >= 30 && of(frames, AUDIO_TRACK).len() >= 50);
    assert_eq!(running.encoder.inputs()[0].state, SourceState::Waiting);
    let luma = &decode(&of(&frames, VIDEO_TRACK)[..1], 640)[0];
    assert!(luma.bytes[..640 * 100].iter().all(|luma| *luma < 20), "it is black");
    assert!(luma.bytes[..640 * 360].iter().any(|luma| *luma > 200), "with white letters");
    running.stop();
}

#[test]
fn a_stream_whose_sound_comes_in_large_pieces_is_encoded_whole() {
    let port = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let running = start(settings(input(&format!("udp://:{port}"))));
    // FFmpeg packs quiet sound into pieces of up to half a second.
    let mut sender = Command::new("ffmpeg")
        .args([
            "-hide_banner",
            "-loglevel",
            "error",
            "-nostdin",
            "-re",
            "-f",
            "lavfi",
            "-i",
            "testsrc2=s=320x180:r=30",
        ])
        .args([
            "-re",
            "-f",
            "lavfi",
            "-i",
            "sine",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-tune",
            "zerolatency",
        ])
        .args(["-threads", "1", "-g", "15", "-c:a", "aac", "-f", "mpegts"])
        .arg(format!("udp://127.0.0.1:{port}?pkt_size=1316"))
        .stdout(Stdio::null())
        .spawn()
        .expect("ffmpeg; `cargo xtask test` installs it");
    let back = running.encoder.wait_event(LIMIT);
    let mut frames = running.until(|frames| of(frames, VIDEO_TRACK).len() >= 90);
    let _ = sender.kill();
    let _ = sender.wait();
    assert_eq!(back, Some(EncoderEvent::SourceBack { input: 0 }));
    // And through the silence that takes its place.
    frames.extend(running.until(|frames| of(frames, VIDEO_TRACK).len() >= 30));
    let audio = of(&frames, AUDIO_TRACK);
    // The first Opus packet is shorter than the others, by the encoder's lookahead.
    for step in steps(&audio[1..]) {
        assert!((step - 20_000).abs() <= 100, "the sound has no hole: {step}");
    }
    running.stop();
}

#[test]
fn a_stream_without_a_server_is_told_and_the_show_goes_on() {
    // Nobody listens on a port that was closed again.
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    for address in [format!("rtsp://127.0.0.1:{port}/live"), format!("rtmp://127.0.0.1:{port}/app/name")] {
        let running = start(settings(input(&address)));
        match running.encoder.wait_event(LIMIT) {
            Some(EncoderEvent::SourceLost { input: 0, reason }) => {
                assert!(reason.contains(&address) && reason.contains("check the address"), "{reason}");
            }
            other => panic!("{address}: {other:?}"),
        }
        running.until(|frames| of(frames, VIDEO_TRACK).len() >= 10);
        running.stop();
    }
}

#[test]
fn one_of_several_inputs_that_is_not_there_is_an_event_and_alone_an_error() {
    let missing = || input("camera:/dev/video-that-is-not-there");
    let alone = try_start(settings(missing())).err().expect("it cannot start");
    assert!(matches!(&alone, EncoderError::CameraNotFound { .. }), "{alone}");

    let mut settings = settings(Input::Test);
    settings.inputs.push(missing());
    settings.microphone = Microphone::None;
    let running = start(settings);
    let event = running.encoder.wait_event(LIMIT);
    let Some(EncoderEvent::SourceLost { input: 1, reason }) = event else { panic!("{event:?}") };
    assert_eq!(reason, alone.to_string());
    running.encoder.select(1).expect("it has a slate");
    running.until(|frames| of(frames, VIDEO_TRACK).len() >= 30);
    assert_eq!(running.encoder.poll_event(), None, "it is told once");
    running.stop();
}

#[test]
fn a_screen_or_microphone_that_is_not_there_is_told() {
    let screen = try_start(settings(input("screen:97"))).err().expect("it cannot start");
    assert!(matches!(&screen, EncoderError::ScreenFailed { .. }), "{screen}");
    assert!(screen.to_string().contains(":97"), "{screen}");

    let inputs = vec![input("screen:97"), Input::Test];
    let microphone = Microphone::Pulse("no-such-microphone".into());
    let error = try_start(Settings { inputs, microphone, ..settings(Input::Test) });
    let error = error.err().expect("a microphone that was named is meant").to_string();
    assert!(error.contains("no-such-microphone") || error.contains("apt install"), "{error}");
}

#[test]
#[ignore = "takes 10 s; encoder/src/supervise.rs tests the decision"]
fn a_stream_without_pictures_is_told() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = socket.local_addr().expect("an address").port();
    drop(socket);
    let running = start(settings(input(&format!("udp://:{port}"))));
    // Ten seconds of sound only, in real time.
    let sound = std::thread::spawn(move || {
        run(&format!(
            "audiotestsrc is-live=true num-buffers=1000 samplesperbuffer=480 ! audio/x-raw,rate=48000 \
             ! avenc_aac ! mpegtsmux ! udpsink host=127.0.0.1 port={port}"
        ));
    });
    match running.encoder.wait_event(LIMIT) {
        Some(EncoderEvent::SourceLost { input: 0, reason }) => {
            assert!(reason.contains("carries no picture"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    sound.join().expect("it was sent");
    running.stop();
}
