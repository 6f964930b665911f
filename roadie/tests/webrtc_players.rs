//! WebRTC programs that we did not write: Chromium plays a real show over WHEP and publishes over WHIP, and `aiortc`, which
//! shares no code with it, publishes as well.

mod common;
#[path = "common/pictures.rs"]
mod pictures;

use std::path::Path;
use std::process::Stdio;

use common::{Dir, Edge, PATIENCE, alone, live_with, until, uplinks};
use pictures::{Picture, fresh};
use roadie::viewer::Viewer;
use serde_json::Value;
use tokio::process::{Child, Command};

/// Pictures that a browser shows before the tests believe it.
const ENOUGH: usize = 90;

/// A picture that is shown so late did not come over WebRTC as it should. (The bond's deadline is 400 ms.)
const LIVE_MS: u64 = 1_000;

/// On all interfaces: aiortc does not use loopback.
const WEBRTC: [&str; 2] = ["--webrtc", "0.0.0.0:0"];

/// A relay that serves the test's page.
async fn edge(dir: &Dir) -> Edge {
    let page = dir.join("page");
    std::fs::create_dir_all(page.join("assets")).unwrap();
    std::fs::write(page.join("index.html"), include_str!("whep/index.html")).unwrap();
    std::fs::write(page.join("assets/marks.js"), include_str!("marks.js")).unwrap();
    Edge::with_page_and(dir, page, &WEBRTC).await
}

async fn open(edge: &Edge, name: &str) -> Viewer {
    let viewer = Viewer::start().await.unwrap();
    viewer.open(&edge.page(name)).await.unwrap();
    viewer
}

async fn metric(edge: &Edge, name: &str) -> f64 {
    let text = edge.api().text("/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
}

/// Whether the picture on the screen is the show's newest is read from its pixels.
#[tokio::test(flavor = "multi_thread")]
async fn chromium_plays_a_show_over_whep() {
    let _stage = alone().await;
    let dir = Dir::new("whep");
    let edge = edge(&dir).await;
    let uplinks = uplinks(&edge).await;
    // At a falling rate a picture may be made of blocks of the one before, and so is what is drawn into it.
    let _live = live_with(&["--fixed-bitrate"], &edge, &uplinks, "tour/whep", &[]);
    edge.wait_live("tour/whep").await;
    let viewer = open(&edge, "tour/whep").await;
    viewer.run("await watch()").await.unwrap();

    let (mut pictures, mut last) = (Vec::new(), Value::Null);
    until("live pictures", async || {
        last = viewer.run("return await take()").await.unwrap();
        pictures.extend(last["pictures"].as_array().unwrap().iter().map(Picture::read));
        fresh(&pictures, LIVE_MS) >= ENOUGH
    })
    .await;
    let mut late: Vec<u64> = pictures.iter().filter_map(|picture| picture.late_ms).collect();
    late.sort_unstable();
    println!(
        "{} pictures, {} with a mark; late by {} ms (half of them) to {} ms (all)",
        pictures.len(),
        late.len(),
        late[late.len() / 2],
        late[late.len() - 1]
    );
    let counters: Vec<u16> = pictures.iter().filter_map(|picture| picture.counter).collect();
    let back = counters.windows(2).find(|pair| pair[1].wrapping_sub(pair[0]) > u16::MAX / 2);
    assert_eq!(back, None, "the picture went back");
    let (video, audio) = (&last["video"], &last["audio"]);
    println!(
        "decoded {}, dropped {}, lost {}, {} by {}, PLI {}; sound: {} packets, {} of {} samples concealed",
        video["framesDecoded"],
        video["framesDropped"],
        video["packetsLost"],
        last["width"],
        video["frameHeight"],
        video["pliCount"],
        audio["packetsReceived"],
        audio["concealedSamples"],
        audio["totalSamplesReceived"]
    );
    assert_eq!(last["width"], 1280, "{last}");
    assert_eq!(last["state"], "connected");
    assert!(audio["totalSamplesReceived"].as_u64().unwrap() > 48_000, "{audio}");
    assert_eq!(metric(&edge, "roadie_webrtc_sessions{way=\"out\"}").await, 1.0);
    assert_eq!(viewer.run("return await end()").await.unwrap(), 200);
    until("the browser to be told", async || {
        let state = viewer.run("return peer.connectionState").await.unwrap();
        state == "closed" || state == "failed" || state == "disconnected"
    })
    .await;
    viewer.close().await;
    assert_eq!(metric(&edge, "roadie_webrtc_sessions{way=\"out\"}").await, 0.0);
}

/// A phone's page: what one browser publishes over WHIP, another plays over WHEP.
#[tokio::test(flavor = "multi_thread")]
async fn chromium_publishes_over_whip_and_chromium_plays_it() {
    let _stage = alone().await;
    let dir = Dir::new("whip-page");
    let edge = edge(&dir).await;
    let phone = open(&edge, "phone").await;
    phone.run("await publish()").await.unwrap();
    edge.wait_live("phone").await;
    plays(&edge, "phone", 640).await;
    assert_eq!(phone.run("return await end()").await.unwrap(), 200);
    phone.close().await;
    assert_eq!(edge.api().get("/api/status").await["broadcasts"]["phone"], Value::Null);
}

/// A browser decodes pictures of this width, and sound.
async fn plays(edge: &Edge, name: &str, width: u64) {
    let viewer = open(edge, name).await;
    viewer.run("await watch()").await.unwrap();
    let mut last = Value::Null;
    until(&format!("{name} to play"), async || {
        last = viewer.run("return await take()").await.unwrap();
        last["video"]["framesDecoded"].as_u64().unwrap_or(0) >= ENOUGH as u64
            && last["audio"]["totalSamplesReceived"].as_u64().unwrap_or(0) > 48_000
            // A browser's encoder begins small.
            && last["width"].as_u64() == Some(width)
    })
    .await;
    println!("{name}: {} frames of {} pixels decoded", last["video"]["framesDecoded"], last["width"]);
    viewer.close().await;
}

/// A program on aiortc, in Debian's Python.
fn aiortc(edge: &Edge, name: &str) -> Child {
    Command::new("/usr/bin/python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/whip_aiortc.py"))
        .arg(edge.page(&format!("whip/{name}")))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("Debian's python3")
}

#[tokio::test(flavor = "multi_thread")]
async fn aiortc_publishes_over_whip_and_chromium_plays_it() {
    let _stage = alone().await;
    let dir = Dir::new("whip-aiortc");
    let edge = edge(&dir).await;
    let mut program = aiortc(&edge, "studio/one");
    edge.wait_live("studio/one").await;
    plays(&edge, "studio/one", 640).await;
    let status = edge.api().get("/api/status").await["broadcasts"]["studio/one"].clone();
    assert_eq!((&status["whip"], &status["undecodable"]), (&Value::Bool(true), &Value::from(0)), "{status}");
    // It says goodbye when it is told to.
    let id = program.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    tokio::time::timeout(PATIENCE, program.wait()).await.expect("it does not end").unwrap();
    until("the show to be over", async || {
        edge.api().get("/api/status").await["broadcasts"]["studio/one"] == Value::Null
    })
    .await;
}
