//! Wrong input: one clear line that names the thing and the way out, and a non-zero exit.

mod common;

use std::path::PathBuf;
use std::process::Stdio;

use common::{Dir, Edge, alone, relay_program, roadie};
use tokio::process::Command;

/// Runs a program that is expected to refuse; gives its error line.
async fn refusal(program: PathBuf, args: &[&str]) -> String {
    let run = Command::new(program).args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(common::PATIENCE, run).await.expect("it hangs").unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{args:?} was accepted: {words}");
    assert!(!words.contains("panicked"), "{words}");
    assert_eq!(words.trim_end().lines().count(), 1, "more than a clear line: {words}");
    words
}

async fn live_refusal(args: &[&str]) -> String {
    refusal(roadie(), &[&["live"], args].concat()).await
}

const EDGE: [&str; 2] = ["--edge", "https://localhost:1/show"];

#[tokio::test]
async fn wrong_words_are_named() {
    let cases: [(&[&str], &[&str]); 23] = [
        (&["--input", "camera:/dev/video99", EDGE[0], EDGE[1]], &["/dev/video99"]),
        (&["--input", "file:/no/such/clip.mp4", EDGE[0], EDGE[1]], &["/no/such/clip.mp4"]),
        (&["--input", "srt://camera", EDGE[0], EDGE[1]], &["srt://camera", "no port", "srt://:9000"]),
        (
            &["--input", "rtmp://server", EDGE[0], EDGE[1]],
            &["rtmp://server", "rtmp://server.example/app/name"],
        ),
        (&["--input", "udp://:0", EDGE[0], EDGE[1]], &["udp://:0", "udp://:5000"]),
        (&["--input", "screen:97", EDGE[0], EDGE[1]], &[":97", "X11"]),
        (&["--input", "test", "--input", "tape", EDGE[0], EDGE[1]], &["tape", "camera"]),
        (&["--input", "test", "--audio-input", "jack:1", EDGE[0], EDGE[1]], &["jack:1", "pulse:NAME"]),
        (&["--input", "tape", EDGE[0], EDGE[1]], &["tape", "camera"]),
        (&["--input", "test", EDGE[0], EDGE[1], "--uplink", "usb77"], &["usb77", "lo"]),
        (&["--input", "test", EDGE[0], EDGE[1], "--uplink", "203.0.113.7"], &["203.0.113.7"]),
        (&["--input", "test", EDGE[0], EDGE[1], "--uplink", "lo=5"], &["lo=5", "5000MB"]),
        (&["--input", "test", EDGE[0], EDGE[1], "--uplink", "lo@cheap"], &["lo@cheap", "price"]),
        (&["--input", "test", EDGE[0], EDGE[1], "--uplink", "auto=5GB"], &["auto", "usb0=5000MB"]),
        (&["--input", "test", EDGE[0], EDGE[1], "--uplink", "lo", "--uplink", "lo@2"], &["lo@2", "twice"]),
        (&["--input", "test", "--edge", "edge.example"], &["edge.example", "https://"]),
        (&["--input", "test", EDGE[0], EDGE[1], "--bitrate", "fast"], &["fast", "2500k"]),
        (&["--input", "test", EDGE[0], EDGE[1], "--codec", "h265"], &["--codec", "h265", "h264, vp8 or av1"]),
        (
            &["--input", "test", EDGE[0], EDGE[1], "--codec", "av1", "--encoder", "vpx"],
            &["vpx makes vp8, not av1", "aom"],
        ),
        (
            &["--input", "test", EDGE[0], EDGE[1], "--codec", "vp8", "--encoder", "x264"],
            &["x264 makes h264, not vp8", "vpx"],
        ),
        (&["--input", "test", EDGE[0], EDGE[1], "--encoder", "vpx"], &["vpx makes vp8, not h264", "x264"]),
        (&["--input", "test", EDGE[0], EDGE[1], "--record", "/proc/nowhere"], &["/proc/nowhere"]),
        (&["--input", "test"], &["--edge"]),
    ];
    for (args, expected) in cases {
        let words = live_refusal(args).await;
        for word in expected {
            assert!(words.contains(word), "{args:?} should name {word}: {words}");
        }
    }
}

/// All but AV1 goes without libaom.
#[tokio::test]
async fn a_machine_without_libaom_says_what_to_install() {
    let aom = async |hidden: Option<&Dir>| {
        let mut command = Command::new(roadie());
        if let Some(dir) = hidden {
            // No library is looked for anew, so that GStreamer does not remember what is hidden here.
            command.env("LD_LIBRARY_PATH", &dir.0).env("GST_REGISTRY_UPDATE", "no");
        }
        let output = command.args(["devices", "--json"]).stdin(Stdio::null()).output().await.unwrap();
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let encoders = found["encoders"].as_array().expect("encoders").clone();
        encoders.into_iter().find(|encoder| encoder["input"] == "aom").expect("aom")["missing"].clone()
    };
    assert_eq!(aom(None).await, serde_json::Value::Null, "it is there");
    let dir = Dir::new("no-aom");
    std::fs::write(dir.join("libaom.so.3"), "").unwrap();
    let missing = aom(Some(&dir)).await;
    assert!(missing.as_str().is_some_and(|words| words.contains("apt install libaom3")), "{missing}");
    let mut live = Command::new(roadie());
    live.env("LD_LIBRARY_PATH", &dir.0).env("GST_REGISTRY_UPDATE", "no").kill_on_drop(true);
    live.args(["live", "--input", "test", EDGE[0], EDGE[1], "--codec", "av1", "--token", "0123456789abcdef"]);
    let run = live.stdin(Stdio::null()).output();
    let output = tokio::time::timeout(common::PATIENCE, run).await.expect("it hangs").unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it was accepted: {words}");
    let last = words.lines().last().unwrap_or_default();
    assert!(last.contains("apt install libaom3") && last.contains("`roadie devices`"), "{words}");
}

#[tokio::test]
async fn a_wrong_key_in_a_settings_file_is_named() {
    let dir = Dir::new("toml");
    let file = dir.join("show.toml");
    std::fs::write(&file, "input = \"test\"\nuplinks = [\"lo\"]\n").unwrap();
    let file = file.to_str().unwrap();
    let words = live_refusal(&["--config", file]).await;
    assert!(words.contains("uplinks") && words.contains("line 2") && words.contains(file), "{words}");
    let words = refusal(relay_program(), &["--config", file]).await;
    assert!(words.contains("input"), "{words}");
    let words = live_refusal(&["--config", "/no/such.toml"]).await;
    assert!(words.contains("/no/such.toml"), "{words}");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let _stage = alone().await;
    let dir = Dir::new("port");
    let edge = Edge::start(&dir, 0, 0).await;
    let state = dir.join("other");
    let state = state.to_str().unwrap();
    let http = format!("[::]:{}", edge.http_port);
    let words = refusal(relay_program(), &["--listen", "[::]:0", "--http", &http, "--state", state]).await;
    assert!(words.contains(&http) && words.contains("--http"), "{words}");
    let quic = format!("[::]:{}", edge.quic_port);
    let words = refusal(relay_program(), &["--listen", &quic, "--http", "[::]:0", "--state", state]).await;
    assert!(words.contains(&quic) && words.contains("--listen"), "{words}");
    let words = refusal(
        roadie(),
        &[
            "demo",
            "--input",
            "test",
            "--port",
            &edge.http_port.to_string(),
            "--relay",
            relay_program().to_str().unwrap(),
        ],
    )
    .await;
    assert!(words.contains(&edge.http_port.to_string()) && words.contains("--port"), "{words}");
}

/// An edge that is not there is no error: the show is recorded, and the terminal says how it stands.
#[tokio::test]
async fn an_edge_out_of_reach_keeps_the_recording_going() {
    let _stage = alone().await;
    let dir = Dir::new("unreachable");
    let copy = dir.join("copy");
    let run = Command::new(roadie())
        .args(["live", "--input", "test", "--seconds", "5", "--edge", "https://127.0.0.1:9/show", "--record"])
        .arg(&copy)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(common::PATIENCE, run).await.expect("it hangs").unwrap();
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{words}");
    assert!(words.contains("NOT REACHING THE EDGE"), "{words}");
    let (video, audio, _) = common::ffprobe(&common::recording(&copy)).await;
    assert!(video > 60 && audio > 60, "{video} pictures, {audio} packets of sound");
}

/// A token that the edge does not know.
#[tokio::test]
async fn an_edge_that_wants_a_token_says_so() {
    let _stage = alone().await;
    let dir = Dir::new("token");
    let mut relay = Command::new(relay_program())
        .args(["--listen", "[::]:0", "--http", "[::]:0", "--token", "secret", "--state"])
        .arg(dir.join("relay"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    use tokio::io::{AsyncBufReadExt, BufReader};
    let mut lines = BufReader::new(relay.stdout.take().unwrap()).lines();
    let port = lines.next_line().await.unwrap().unwrap();
    let port = port.split_once("]:").unwrap().1.split(' ').next().unwrap().to_owned();
    lines.next_line().await.unwrap();
    let fingerprint = lines.next_line().await.unwrap().unwrap().split(' ').next_back().unwrap().to_owned();
    let edge = format!("https://localhost:{port}/show");
    for (more, expected) in [(&[][..], "--token"), (&["--token", "wrong"][..], "the token is not")] {
        let output = Command::new(roadie())
            .args([
                "live",
                "--input",
                "test",
                "--seconds",
                "6",
                "--edge",
                &edge,
                "--edge-fingerprint",
                &fingerprint,
            ])
            .args(more)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let words = String::from_utf8_lossy(&output.stdout);
        assert!(words.contains("REFUSED") && words.contains(expected), "{words}");
    }
}
