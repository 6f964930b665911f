//! A show in the room it is made in: the real program serves a real headless Chromium while no uplink leads anywhere, by
//! WebTransport, and by WebSocket where no UDP gets through.

mod common;
#[path = "common/pictures.rs"]
mod pictures;

use std::process::Stdio;

use common::{Dir, alone, marks, painted, player_dir, roadie, until};
use pictures::{Picture, fresh};
use roadie::edge_api::EdgeApi;
use roadie::viewer::Viewer;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Pictures painted with their marks before the test believes it.
const ENOUGH: usize = 60;

/// A picture that is shown so late did not come over WebRTC as it should.
const LIVE_MS: u64 = 1_000;

/// Chromium's own HLS keeps some segments in hand.
const HLS_LIVE_MS: u64 = 15_000;

/// A `roadie live` that speaks JSON.
struct Live {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Live {
    fn start(dir: &Dir, edge: &str, flags: &[&str]) -> Self {
        let mut child = Command::new(roadie())
            .args(["live", "--input", "test", "--json", "--edge", edge])
            .args(flags)
            .env("HOME", &dir.0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line of this type.
    async fn next(&mut self, kind: &str) -> Value {
        let line = async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("the show ended");
                let value: Value = serde_json::from_str(&line).unwrap();
                if value["type"] == kind {
                    return value;
                }
            }
        };
        tokio::time::timeout(common::PATIENCE, line).await.expect("a line of JSON in time")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_room_sees_the_show_though_no_uplink_leads_anywhere() {
    let _stage = alone().await;
    let dir = Dir::new("room");
    let player = player_dir();
    let flags = [
        "--room=127.0.0.1:0",
        "--room-http=0.0.0.0:0",
        "--room-name=venue.example",
        "--player",
        player.to_str().unwrap(),
    ];
    // Nobody is at that port.
    let mut live = Live::start(&dir, "https://127.0.0.1:9/party", &flags);
    let room = live.next("room").await;
    // For browsers, localhost is ::1 first.
    let here = room["here"].as_str().unwrap().replace("localhost", "127.0.0.1");
    let link = room["links"][0].as_str().unwrap();
    assert!(link.starts_with("https://venue.example:") && link.ends_with("/party"), "{link}");

    // A network that lets no UDP through: the page is there, and at the show's port somebody who never answers.
    let http: u16 = here.split([':', '/']).nth(4).unwrap().parse().unwrap();
    let config = EdgeApi::new(http).get("/api/config").await;
    let quic: u16 =
        config["webtransport"].as_str().unwrap().split([':', '/']).nth(4).unwrap().parse().unwrap();
    let _silent = std::net::UdpSocket::bind(("127.0.0.2", quic)).unwrap();
    let elsewhere = here.replace("127.0.0.1", "127.0.0.2");

    let viewer = Viewer::start().await.unwrap();
    for (page, transport) in [
        (format!("{elsewhere}?probe=1"), "websocket"),
        (format!("{here}?probe=1&transport=websocket"), "websocket"),
        (format!("{here}?probe=1&transport=webtransport"), "webtransport"),
    ] {
        viewer.open(&page).await.unwrap();
        let painted = painted(&viewer, ENOUGH).await;
        let marks = marks(&painted);
        assert_eq!(marks.len(), painted.len(), "{page}: each picture can be read");
        assert!(marks.windows(2).all(|pair| (1..1000).contains(&pair[1].wrapping_sub(pair[0]))), "{marks:?}");
        let way = viewer.run("return (await roadie.stats()).transport").await.unwrap();
        assert_eq!(way, transport, "{page}");
    }
    by_browser(&viewer, &format!("{here}?transport=whep"), "whep", LIVE_MS).await;
    by_browser(&viewer, &format!("{here}?transport=hls"), "hls", HLS_LIVE_MS).await;

    viewer.open(&format!("{here}?transport=pigeon")).await.unwrap();
    until("the page to say what it cannot", async || {
        let words = viewer.run("return document.getElementById('message').textContent").await.unwrap();
        words
            .as_str()
            .unwrap()
            .contains("transport=pigeon, but there are webtransport, websocket, whep, hls only")
    })
    .await;
    viewer.open(&format!("{here}?probe=1")).await.unwrap();
    until("the creator to be told of the viewer", async || {
        live.next("state").await["room"]["viewers"].as_u64() == Some(1)
    })
    .await;
    let state = live.next("state").await;
    assert_eq!(state["state"], "NOT REACHING THE EDGE, trying");
    viewer.close().await;

    // A guest cannot put a show of their own on in this room.
    let fingerprint = config["certificate_hash"].as_str().unwrap();
    let mut guest =
        Live::start(&dir, &format!("https://localhost:{quic}/mine"), &["--edge-fingerprint", fingerprint]);
    until("the guest to be refused", async || guest.next("state").await["state"] == "REFUSED BY THE EDGE")
        .await;
    guest.child.kill().await.unwrap();

    // The end of the show is the end of the room.
    let pid = live.child.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    live.next("end").await;
    assert!(live.child.wait().await.unwrap().success());
}

/// The page in a browser that cannot do what the player needs.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_without_webcodecs_plays_the_show_by_whep() {
    let _stage = alone().await;
    let dir = Dir::new("whep-page");
    let player = player_dir();
    let flags = ["--room=127.0.0.1:0", "--room-http=0.0.0.0:0", "--player", player.to_str().unwrap()];
    let mut live = Live::start(&dir, "https://127.0.0.1:9/party", &flags);
    let here = live.next("room").await["here"].as_str().unwrap().to_owned();
    let viewer = Viewer::start().await.unwrap();
    viewer.run_before_page("delete window.VideoDecoder").await.unwrap();
    by_browser(&viewer, &here, "whep", LIVE_MS).await;
    viewer.open(&format!("{here}?transport=webtransport")).await.unwrap();
    until("the page to say what is missing", async || {
        let words = viewer.run("return document.getElementById('message').textContent").await.unwrap();
        words.as_str().unwrap().contains("it lacks the video decoder of WebCodecs")
    })
    .await;
    viewer.close().await;
}

/// Opens a page that plays by what the browser can do itself, and reads the pictures of its video.
async fn by_browser(viewer: &Viewer, page: &str, way: &str, live_ms: u64) {
    viewer.open(page).await.unwrap();
    let watch = concat!(
        include_str!("marks.js"),
        "window.seen = []; watchMarks(document.getElementById('video'), picture => seen.push(picture));"
    );
    viewer.run(watch).await.unwrap();
    let mut pictures = Vec::new();
    until(&format!("live pictures by {way}"), async || {
        let seen = viewer.run("return seen.splice(0)").await.unwrap();
        pictures.extend(seen.as_array().unwrap().iter().map(Picture::read));
        fresh(&pictures, live_ms) > ENOUGH
    })
    .await;
    let counters: Vec<u16> = pictures.iter().filter_map(|picture| picture.counter).collect();
    let back = counters.windows(2).find(|pair| pair[1].wrapping_sub(pair[0]) > u16::MAX / 2);
    assert_eq!(back, None, "{way}: the picture went back");
    let stats = viewer.run("return await roadie.stats()").await.unwrap();
    assert_eq!((&stats["transport"], &stats["state"]), (&way.into(), &"playing".into()), "{stats}");
    let message = viewer.run("return document.getElementById('message').textContent").await.unwrap();
    assert_eq!(message, "", "nothing lies on the picture");
}
