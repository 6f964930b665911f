//! Players of HLS that we did not write play a real show from the relay: FFmpeg, GStreamer, hls.js in Chromium.

mod common;
#[path = "common/pictures.rs"]
mod pictures;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{Dir, Edge, PATIENCE, alone, live, live_with, until, uplinks};
use pictures::{Picture, fresh};
use roadie::emulator::Emulator;
use roadie::viewer::Viewer;
use serde_json::Value;
use sim::{Conditions, Rate};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// Pictures that a player shows before the tests believe it.
const ENOUGH: usize = 90;

/// A picture that is shown so late is not live.
const LIVE_MS: u64 = 3_000;

fn hls_js() -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/setup/hls.min.js");
    let file = std::env::var_os("ROADIE_HLS_JS").map_or(fetched, PathBuf::from);
    assert!(file.is_file(), "{} is not there: `cargo xtask test` fetches it", file.display());
    file
}

async fn output(program: &str, arguments: &[&str]) -> (String, String) {
    let run = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, run).await.expect("it does not end").unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program}: {err}");
    (out.into_owned(), err.into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_and_gstreamer_play_a_show_over_hls() {
    let _stage = alone().await;
    let dir = Dir::new("hls-players");
    let edge = Edge::start(&dir, 0, 0).await;
    let uplinks = uplinks(&edge).await;
    let _live = live(&edge, &uplinks, "tour/hls", &[]);
    edge.wait_live("tour/hls").await;
    let url = edge.page("hls/tour/hls/index.m3u8");

    // Read on for six seconds: segments that were not there when it began, too.
    let show = ["-v", "error", "-show_entries", "packet=codec_type,dts_time,flags", "-of", "json"];
    let (json, errors) =
        output("ffprobe", &[&show[..], &["-read_intervals", "%+6", url.as_str()]].concat()).await;
    assert_eq!(errors, "", "FFmpeg has found fault");
    let json: Value = serde_json::from_str(&json).unwrap();
    let packets = json["packets"].as_array().unwrap();
    let of = |kind: &'static str| packets.iter().filter(move |packet| packet["codec_type"] == kind);
    let (pictures, sounds) = (of("video").count(), of("audio").count());
    println!("FFmpeg: {pictures} pictures, {sounds} packets of sound");
    assert!(pictures > 150 && sounds > 250, "{pictures} pictures, {sounds} packets");
    for kind in ["video", "audio"] {
        let times: Vec<f64> =
            of(kind).map(|packet| packet["dts_time"].as_str().unwrap().parse().unwrap()).collect();
        let wrong = times.windows(2).find(|pair| pair[1] <= pair[0] || pair[1] - pair[0] > 0.5);
        assert_eq!(wrong, None, "the {kind} does not go on evenly");
    }
    assert!(of("video").next().unwrap()["flags"].as_str().unwrap().starts_with('K'));

    let (pictures, sounds) = gstreamer(&url).await;
    println!("GStreamer: {pictures} pictures, {sounds} buffers of sound");
}

/// Lets GStreamer decode and show, until both kinds are enough; gives how many there were.
async fn gstreamer(url: &str) -> (usize, usize) {
    let pipeline = format!(
        "uridecodebin uri={url} name=all \
         all. ! queue ! videoconvert ! fakesink name=pictures silent=false sync=true \
         all. ! queue ! audioconvert ! fakesink name=sounds silent=false sync=true"
    );
    let mut child = Command::new("gst-launch-1.0")
        .arg("-v")
        .args(pipeline.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut pictures, mut sounds) = (0, 0);
    let play = async {
        while pictures < ENOUGH || sounds < ENOUGH {
            let line = lines.next_line().await.unwrap().expect("GStreamer ended");
            let is_buffer = line.contains("last-message = chain");
            pictures += usize::from(is_buffer && line.contains(":pictures:"));
            sounds += usize::from(is_buffer && line.contains(":sounds:"));
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, play).await.is_ok();
    assert!(in_time, "GStreamer has shown {pictures} pictures and {sounds} buffers of sound");
    (pictures, sounds)
}

/// A relay that serves a page with hls.js, and a browser that has opened it.
async fn watch(dir: &Dir, name: &str) -> (Edge, Viewer) {
    let page = dir.join("page");
    std::fs::create_dir_all(page.join("assets")).unwrap();
    std::fs::write(page.join("index.html"), include_str!("hls_js/index.html")).unwrap();
    std::fs::copy(hls_js(), page.join("assets/hls.min.js")).unwrap();
    std::fs::write(page.join("assets/marks.js"), include_str!("marks.js")).unwrap();
    let edge = Edge::with_page(dir, page).await;
    let viewer = Viewer::start().await.unwrap();
    viewer.open(&edge.page(name)).await.unwrap();
    (edge, viewer)
}

/// Waits until enough live pictures were shown from now on; gives all that were, and what the page says besides.
async fn live_pictures(viewer: &Viewer, what: &str) -> (Vec<Picture>, Value) {
    let (mut pictures, mut last) = (Vec::new(), Value::Null);
    until(what, async || {
        last = viewer.run("return take()").await.unwrap();
        pictures.extend(last["pictures"].as_array().unwrap().iter().map(Picture::read));
        fresh(&pictures, LIVE_MS) >= ENOUGH
    })
    .await;
    let late: Vec<u64> = pictures.iter().filter_map(|picture| picture.late_ms).collect();
    println!(
        "{what}: {} pictures, {} of them with a mark, {} live; late by {:?} to {:?} ms; hls.js says {} s and aims at {} s",
        pictures.len(),
        late.len(),
        fresh(&pictures, LIVE_MS),
        late.iter().min(),
        late.iter().max(),
        last["latency_s"],
        last["target_s"]
    );
    (pictures, last)
}

/// Whether the picture on the screen is the show's newest is read from its pixels.
#[tokio::test(flavor = "multi_thread")]
async fn hls_js_plays_live_and_less_than_three_seconds_late() {
    let _stage = alone().await;
    let dir = Dir::new("hls-js");
    let (edge, viewer) = watch(&dir, "tour/js").await;
    let uplinks = uplinks(&edge).await;
    // At a falling rate a picture may be made of blocks of the one before, and so is what is drawn into it.
    let _live = live_with(&["--fixed-bitrate"], &edge, &uplinks, "tour/js", &[]);
    edge.wait_live("tour/js").await;
    viewer.run("start()").await.unwrap();

    let (pictures, last) = live_pictures(&viewer, "live pictures").await;
    viewer.close().await;
    let errors = last["errors"].as_array().unwrap();
    assert!(!errors.iter().any(|error| error["fatal"] == true), "{errors:?}");
    assert!(last["parts"].as_u64().unwrap() > 0, "it plays parts, and waits for the next: {last}");
    assert!(last["sound"].as_u64().unwrap() > 0, "no sound was decoded: {last}");
    let counters: Vec<u16> = pictures.iter().filter_map(|picture| picture.counter).collect();
    let back = counters.windows(2).find(|pair| pair[1].wrapping_sub(pair[0]) > u16::MAX / 2);
    assert_eq!(back, None, "the picture went back");
}

/// The encoder dies and is started again: the relay tells of a discontinuity, and the player goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn hls_js_goes_on_with_an_encoder_that_was_killed_and_started_again() {
    let _stage = alone().await;
    let dir = Dir::new("hls-js-again");
    let (edge, viewer) = watch(&dir, "again").await;
    let uplinks = uplinks(&edge).await;
    let mut first = live_with(&["--fixed-bitrate"], &edge, &uplinks, "again", &[]);
    edge.wait_live("again").await;
    viewer.run("start()").await.unwrap();
    live_pictures(&viewer, "live pictures").await;
    first.kill().await.unwrap();
    let _second = live_with(&["--fixed-bitrate"], &edge, &uplinks, "again", &[]);
    let (_, last) = live_pictures(&viewer, "live pictures of the second encoder").await;
    viewer.close().await;
    let errors = last["errors"].as_array().unwrap();
    assert!(!errors.iter().any(|error| error["fatal"] == true), "{errors:?}");
    println!("errors on the way: {errors:?}");
}

/// All uplinks go dark: what is lost is a gap in the playlist, and the player goes on behind it by itself.
#[tokio::test(flavor = "multi_thread")]
async fn hls_js_goes_on_behind_a_gap() {
    let _stage = alone().await;
    let dir = Dir::new("hls-js-gap");
    let (edge, viewer) = watch(&dir, "gap").await;
    let uplinks = uplinks(&edge).await;
    let _live = live_with(&["--fixed-bitrate"], &edge, &uplinks, "gap", &[]);
    edge.wait_live("gap").await;
    viewer.run("start()").await.unwrap();
    live_pictures(&viewer, "live pictures").await;
    uplinks.iter().for_each(|uplink| uplink.set_up(false));
    let api = edge.api();
    until("the show to stand still", async || {
        api.get("/api/status").await["broadcasts"]["gap"]["live"] == false
    })
    .await;
    uplinks.iter().for_each(|uplink| uplink.set_up(true));
    until("the gap in the playlist", async || {
        let playlist = viewer.run("return await (await fetch('/hls/gap/track0.m3u8')).text()").await.unwrap();
        playlist.as_str().unwrap().contains("#EXT-X-GAP")
    })
    .await;
    let (_, last) = live_pictures(&viewer, "live pictures behind the gap").await;
    viewer.close().await;
    let errors = last["errors"].as_array().unwrap();
    assert!(!errors.iter().any(|error| error["fatal"] == true), "{errors:?}");
    println!("errors on the way: {errors:?}");
}

/// The uplink becomes narrow, and the picture smaller: another init segment behind a discontinuity.
#[tokio::test(flavor = "multi_thread")]
async fn hls_js_goes_on_when_the_picture_changes_its_size() {
    let _stage = alone().await;
    let dir = Dir::new("hls-js-size");
    let (edge, viewer) = watch(&dir, "size").await;
    let target = SocketAddr::from(([127, 0, 0, 1], edge.quic_port));
    let narrow =
        Conditions { rate: Rate::Fixed(400_000), delay: Duration::from_millis(20), ..Conditions::default() };
    let uplinks = [Emulator::start(target, narrow, 1).await.unwrap()];
    let _live = live(&edge, &uplinks, "size", &[]);
    edge.wait_live("size").await;
    viewer.run("start()").await.unwrap();
    until("a smaller picture", async || {
        let width = viewer.run("return video.videoWidth").await.unwrap();
        (1..1280).contains(&width.as_u64().unwrap())
    })
    .await;
    viewer.run("take()").await.unwrap();
    let (_, last) = live_pictures(&viewer, "live smaller pictures").await;
    viewer.close().await;
    let errors = last["errors"].as_array().unwrap();
    println!("errors on the way: {errors:?}");
    assert!(!errors.iter().any(|error| error["fatal"] == true), "{errors:?}");
}
