//! The encoder follows what the uplinks carry.

mod common;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use common::{Dir, Edge, alone, roadie, until};
use roadie::emulator::Emulator;
use serde_json::Value;
use sim::{Conditions, Rate};
use tokio::process::{Child, Command};

/// What the only uplink carries, headers and all: half of what the video would like.
const UPLINK: u64 = 1_200_000;

fn show(edge: &Edge, uplink: &Emulator, name: &str, more: &[&str]) -> Child {
    let name = format!("https://localhost:{}/{name}", edge.quic_port);
    Command::new(roadie())
        .args(["live", "--input", "test", "--bitrate", "2500k", "--edge", &name])
        .args(["--edge-fingerprint", &edge.fingerprint, "--uplink", &format!("modem:via={}", uplink.addr())])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Bits per second and frames lost in the show's seconds from `from` to `to`.
async fn seconds(edge: &Edge, name: &str, from: f64, to: f64) -> (f64, usize) {
    let api = edge.api();
    let mut frames: Vec<Value> = Vec::new();
    until("those seconds of the show", async || {
        let all = api.get(&format!("/api/trace?broadcast={name}&from=0")).await;
        frames = all.as_array().cloned().unwrap_or_default();
        let times: Vec<f64> = published(&frames).map(|(time, _)| time).collect();
        times.first().zip(times.last()).is_some_and(|(first, last)| last - first > to)
    })
    .await;
    let start = published(&frames).next().unwrap().0;
    let bytes: f64 = published(&frames)
        .filter(|(time, _)| (from..to).contains(&(time - start)))
        .map(|(_, bytes)| bytes)
        .sum();
    let late = |frame: &&Value| {
        frame["outcome"] == "lost"
            && (from..to).contains(&(frame["published_us"].as_f64().unwrap() / 1e6 - start))
    };
    (bytes * 8.0 / (to - from), frames.iter().filter(late).count())
}

fn published(frames: &[Value]) -> impl Iterator<Item = (f64, f64)> + '_ {
    frames
        .iter()
        .filter(|frame| frame["outcome"] == "published")
        .map(|frame| (frame["capture_us"].as_f64().unwrap() / 1e6, frame["bytes"].as_f64().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_encoder_follows_a_narrow_uplink_unless_it_is_told_not_to() {
    let _stage = alone().await;
    let dir = Dir::new("follow");
    let edge = Edge::start(&dir, 0, 0).await;
    let target = SocketAddr::from(([127, 0, 0, 1], edge.quic_port));
    let conditions =
        Conditions { rate: Rate::Fixed(UPLINK), delay: Duration::from_millis(30), ..Conditions::default() };
    let uplink = Emulator::start(target, conditions.clone(), 1).await.unwrap();
    let following = show(&edge, &uplink, "follow", &[]);
    edge.wait_live("follow").await;
    let (rate, lost) = seconds(&edge, "follow", 4.0, 12.0).await;
    println!("following: {:.2} Mb/s, {lost} losses", rate / 1e6);
    drop(following);

    let uplink = Emulator::start(target, conditions, 1).await.unwrap();
    let _fixed = show(&edge, &uplink, "fixed", &["--fixed-bitrate"]);
    edge.wait_live("fixed").await;
    let (fixed_rate, fixed_lost) = seconds(&edge, "fixed", 4.0, 12.0).await;
    println!("fixed: {:.2} Mb/s, {fixed_lost} losses", fixed_rate / 1e6);

    assert!((250_000.0..UPLINK as f64).contains(&rate), "{rate} b/s");
    assert!(lost <= 2 && lost < fixed_lost, "{lost} losses, and {fixed_lost} at the fixed rate");
}
