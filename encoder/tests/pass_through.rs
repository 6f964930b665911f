//! H.264 that FFmpeg sends goes out as it came in, and our encoder takes over where it must.

mod common;

use std::collections::HashMap;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{LIMIT, Running, settings, start};
use media::h264::{NalType, nals};
use media::{Frame, Time};
use roadie_encoder::{EncoderEvent, Input, Settings, VIDEO_TRACK, VideoCodec, VideoSettings};

/// A sender of MPEG-TS that also writes its H.264 into a file. Dropping it kills it.
struct Sender(Child);

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sender(port: u16, file: &Path, x264: &[&str]) -> Sender {
    // Into the file first and at once: whatever went out is in it.
    let file = format!("[f=h264:select=v:flush_packets=1]{}", file.display());
    let to = format!("{file}|[f=mpegts:flush_packets=1]udp://127.0.0.1:{port}?pkt_size=1316");
    let mut command = Command::new("ffmpeg");
    command
        .args(["-hide_banner", "-loglevel", "error", "-nostdin"])
        .args(["-re", "-f", "lavfi", "-i", "testsrc2=s=640x360:r=30", "-re", "-f", "lavfi", "-i"])
        .args(["sine=r=48000", "-map", "0:v", "-map", "1:a", "-c:a", "aac", "-c:v", "libx264"])
        .args(["-preset", "ultrafast", "-threads", "1", "-g", "30", "-b:v", "600k", "-maxrate", "600k"])
        .args(["-bufsize", "300k", "-pix_fmt", "yuv420p"])
        .args(x264)
        .args(["-f", "tee", &to])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Sender(command.spawn().expect("ffmpeg; `cargo xtask test` installs it"))
}

/// Settings for a stream to this port, without the sound of a microphone.
fn show() -> (Settings, u16) {
    let port = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let input: Input = format!("udp://:{port}").parse().expect("an input");
    (settings(input), port)
}

/// Waits for an event, and gives back the pictures until then.
fn until_event(running: &Running, wanted: impl Fn(&EncoderEvent) -> bool) -> Vec<Frame> {
    let begun = std::time::Instant::now();
    let mut told = Vec::new();
    let mut pictures = Vec::new();
    loop {
        pictures.extend(only_video(running.until(|frames| !frames.is_empty())));
        while let Some(event) = running.encoder.poll_event() {
            if wanted(&event) {
                return pictures;
            }
            told.push(event);
        }
        assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {told:?}");
    }
}

fn only_video(frames: Vec<(Frame, Time)>) -> Vec<Frame> {
    frames.into_iter().map(|(frame, _)| frame).filter(|frame| frame.id.track == VIDEO_TRACK).collect()
}

fn pictures(running: &Running, count: usize) -> Vec<Frame> {
    let video = |frames: &[(Frame, Time)]| frames.iter().filter(|(f, _)| f.id.track == VIDEO_TRACK).count();
    only_video(running.until(|frames| video(frames) >= count))
}

/// All NAL units but delimiters, which the muxer of MPEG-TS puts in.
fn units(data: &[u8]) -> Vec<Vec<u8>> {
    nals(data).filter(|nal| NalType::of(nal) != NalType::AccessUnitDelimiter).map(<[u8]>::to_vec).collect()
}

/// Of each picture, where its first slice stands in what was sent; `None`: it is ours.
fn origins(pictures: &[Frame], sent: &[Vec<u8>]) -> Vec<Option<usize>> {
    let slice = |nal: &&Vec<u8>| matches!(NalType::of(nal), NalType::Slice | NalType::Idr);
    let places: HashMap<_, _> = sent.iter().enumerate().map(|(at, nal)| (nal.clone(), at)).collect();
    let origin = |frame: &Frame| places.get(units(&frame.data).iter().find(slice)?).copied();
    pictures.iter().map(origin).collect()
}

/// The pictures that are passed through are one run of what was sent, NAL unit for NAL unit.
fn check_run(passed: &[Frame], sent: &[Vec<u8>]) {
    let out: Vec<_> = passed.iter().flat_map(|frame| units(&frame.data)).collect();
    let at = sent.windows(out.len().min(sent.len())).position(|run| run == out);
    assert!(at.is_some(), "{} units are no run of the {} that were sent", out.len(), sent.len());
}

/// Groups count up by one, frames too, and time goes forward without a hole.
fn check_timeline(pictures: &[Frame]) {
    for pair in pictures.windows(2) {
        let (a, b) = (pair[0].id, pair[1].id);
        let next = (b.group, b.frame) == (a.group, a.frame + 1) || (b.group, b.frame) == (a.group + 1, 0);
        assert!(next && (b.frame > 0 || pair[1].keyframe), "{a:?} {b:?}");
        let step = pair[1].capture_time.micros_since(pair[0].capture_time);
        // A slate begins 400 ms after the last picture.
        assert!((1..600_000).contains(&step), "{a:?} {b:?}: {step} us");
    }
}

fn passed_through(event: &EncoderEvent) -> bool {
    matches!(event, EncoderEvent::PassedThrough { input: 0 })
}

#[test]
fn a_stream_that_fits_goes_out_as_it_came_and_the_slate_takes_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let (settings, port) = show();
    let running = start(settings);
    let mut all = Vec::new();
    let mut took_over = Vec::new();
    let files = [dir.path().join("first.h264"), dir.path().join("second.h264")];
    // Other pictures each time, so that no unit of one is one of the other.
    for (file, filter) in files.iter().zip(["null", "negate"]) {
        let sending = sender(port, file, &["-tune", "zerolatency", "-bf", "0", "-vf", filter]);
        all.extend(until_event(&running, passed_through));
        let begun = all.len();
        all.extend(pictures(&running, 75));
        drop(sending);
        all.extend(until_event(&running, |event| matches!(event, EncoderEvent::SourceLost { .. })));
        all.extend(pictures(&running, 20));
        took_over.push(begun);
    }
    check_timeline(&all);
    for (file, begun) in files.iter().zip(took_over) {
        let sent = units(&std::fs::read(file).expect("what was sent"));
        let origins = origins(&all, &sent);
        let first = origins.iter().position(Option::is_some).expect("some are passed through");
        let last = origins.iter().rposition(Option::is_some).expect("some are passed through");
        println!("pictures {first} to {last} are the sender's; told at {begun}");
        assert!(all[first].id.frame == 0 && last - first >= 60, "{first} {last} of {}", all.len());
        assert!(origins[first..=last].iter().all(Option::is_some), "our encoder makes nothing meanwhile");
        check_run(&all[first..=last], &sent);
        let slate = &all[last + 1];
        assert!(slate.keyframe && slate.id.frame == 0, "the slate begins with a keyframe");
    }
    running.stop();
}

#[test]
fn a_keyframe_that_the_sender_cannot_be_asked_for_comes_from_our_encoder() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("sent.h264");
    let (settings, port) = show();
    let running = start(settings);
    let sending = sender(port, &file, &["-tune", "zerolatency", "-bf", "0", "-g", "105"]);
    let mut all = until_event(&running, passed_through);
    // Behind the keyframe that it began with.
    all.extend(pictures(&running, 10));
    running.encoder.request_keyframe();
    let asked = all.len();
    all.extend(pictures(&running, 60));
    drop(sending);
    running.stop();
    check_timeline(&all);
    let sent = units(&std::fs::read(&file).expect("what was sent"));
    let origins = origins(&all, &sent);
    let ours = (asked..all.len()).find(|at| origins[*at].is_none()).expect("our encoder takes over");
    assert!(all[ours].keyframe && all[ours].id.frame == 0);
    println!("taken over {} pictures after the request", ours - asked);
}

#[test]
fn a_bond_that_carries_less_is_followed_by_our_encoder() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("sent.h264");
    let (settings, port) = show();
    let running = start(settings);
    running.encoder.set_rate(4_000_000);
    let sending = sender(port, &file, &["-tune", "zerolatency", "-bf", "0"]);
    let mut all = until_event(&running, passed_through);
    all.extend(pictures(&running, 10));
    running.encoder.set_rate(350_000);
    let fell = all.len();
    all.extend(until_event(&running, |event| match event {
        EncoderEvent::Transcoded { input: 0, reason } => reason.contains("uplinks"),
        _ => false,
    }));
    all.extend(pictures(&running, 60));
    drop(sending);
    running.stop();
    check_timeline(&all);
    let sent = units(&std::fs::read(&file).expect("what was sent"));
    let origins = origins(&all, &sent);
    let ours = (fell..all.len()).find(|at| origins[*at].is_none()).expect("our encoder takes over");
    assert!(all[ours].keyframe && all[ours].id.frame == 0);
    assert!(origins[ours..].iter().all(Option::is_none), "there is no room for the stream");
    let size = |frames: &[Frame]| frames.iter().map(|frame| frame.data.len()).sum::<usize>() / frames.len();
    let (before, after) = (size(&all[fell - 10..fell]), size(&all[ours + 15..]));
    println!(
        "taken over {} pictures after the fall; {before} bytes a picture before, {after} after",
        ours - fell
    );
    // 250 kb/s of picture are 1042 bytes.
    assert!(after < 1_400, "{after}");
}

#[test]
fn a_stream_that_does_not_fit_is_transcoded_and_told() {
    let zero = &["-tune", "zerolatency"][..];
    for (x264, size, renditions, word) in [
        (&["-bf", "2"][..], (640, 360), 0, "B-frames"),
        (zero, (320, 180), 0, "--size"),
        (zero, (640, 360), 1, "rendition"),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("sent.h264");
        let (mut settings, port) = show();
        (settings.video.width, settings.video.height) = size;
        let small = VideoSettings { width: 320, height: 180, bitrate: 300_000, ..VideoSettings::default() };
        settings.renditions = vec![small; renditions];
        let running = start(settings);
        let sending = sender(port, &file, x264);
        let mut all = until_event(&running, |event| match event {
            EncoderEvent::PassedThrough { .. } => panic!("it does not fit"),
            EncoderEvent::Transcoded { input: 0, reason } => reason.contains(word),
            _ => false,
        });
        all.extend(pictures(&running, 45));
        // That the source is there may be told after what becomes of it.
        while let Some(event) = running.encoder.poll_event() {
            assert_eq!(event, EncoderEvent::SourceBack { input: 0 }, "it is told once");
        }
        drop(sending);
        running.stop();
        check_timeline(&all);
        let sent = units(&std::fs::read(&file).expect("what was sent"));
        assert!(origins(&all, &sent).iter().all(Option::is_none), "{word}");
    }
}

#[test]
fn transcoding_can_be_asked_for() {
    nothing_passes(|settings| settings.transcode = true);
}

#[test]
fn a_show_in_another_codec_passes_no_h264_through() {
    nothing_passes(|settings| settings.codec = VideoCodec::Vp8);
}

fn nothing_passes(ask: fn(&mut Settings)) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("sent.h264");
    let (mut settings, port) = show();
    ask(&mut settings);
    let running = start(settings);
    let sending = sender(port, &file, &["-tune", "zerolatency"]);
    let mut all = until_event(&running, |event| matches!(event, EncoderEvent::SourceBack { .. }));
    all.extend(pictures(&running, 90));
    drop(sending);
    let told = running.encoder.wait_event(Duration::ZERO);
    assert!(!matches!(told, Some(EncoderEvent::PassedThrough { .. } | EncoderEvent::Transcoded { .. })));
    running.stop();
    let sent = units(&std::fs::read(&file).expect("what was sent"));
    assert!(origins(&all, &sent).iter().all(Option::is_none));
}
