//! Programs that we did not write publish into the real relay, watch from it, and are its neighbours: moq's own command
//! line (`moq`) and its relay (`moq-relay`), from crates.io.

mod common;

use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{Dir, Edge, alone, live, until, uplinks};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

/// A second and more of video and sound, as `moq export` writes it.
const ENOUGH: usize = 400_000;

fn peer(program: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers");
    let folder = std::env::var_os("ROADIE_PEERS").map_or(built, PathBuf::from);
    let program = folder.join("bin").join(program);
    assert!(program.exists(), "{} is not built: run `cargo xtask test`", program.display());
    program
}

fn clip() -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/setup/clip.mp4");
    let clip = std::env::var_os("ROADIE_CLIP").map_or(fetched, PathBuf::from);
    assert!(clip.exists(), "{} is not there: run `cargo xtask setup`", clip.display());
    clip
}

/// `moq` with its own words in a file, connected to `url`.
fn moq(dir: &Dir, url: &str, fingerprint: &str, log: &str) -> Command {
    let mut command = Command::new(peer("moq"));
    let log = std::fs::File::create(dir.join(log)).unwrap();
    command.args(["--connect-tls-fingerprint", fingerprint, "--connect", url]);
    command.stderr(log).kill_on_drop(true);
    command
}

/// FFmpeg reads the clip in real time, over and over, and `moq import` publishes it.
struct Publisher {
    _ffmpeg: Child,
    moq: Child,
}

impl Publisher {
    fn start(dir: &Dir, url: &str, fingerprint: &str, name: &str) -> Self {
        let mut ffmpeg = Command::new("ffmpeg")
            .args(["-v", "error", "-re", "-stream_loop", "-1", "-i"])
            .arg(clip())
            .args(["-c", "copy", "-pes_payload_size", "0", "-muxdelay", "0", "-f", "mpegts", "-"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pipe: Stdio = ffmpeg.stdout.take().unwrap().try_into().unwrap();
        let mut moq = moq(dir, url, fingerprint, "publisher.log");
        moq.args(["import", "--broadcast", name, "ts"]).stdin(pipe).stdout(Stdio::null());
        Self { _ffmpeg: ffmpeg, moq: moq.spawn().unwrap() }
    }
}

/// `moq export` writes what it plays to us.
struct Viewer {
    child: Child,
    file: Vec<u8>,
}

impl Viewer {
    fn start(dir: &Dir, url: &str, fingerprint: &str, name: &str) -> Self {
        let mut moq = moq(dir, url, fingerprint, "viewer.log");
        moq.args(["export", "--broadcast", name, "--catalog-format", "hang", "fmp4"]);
        let child = moq.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        Self { child, file: Vec::new() }
    }

    /// Waits until so many bytes more have come.
    async fn reads(&mut self, more: usize) {
        let (goal, output) = (self.file.len() + more, self.child.stdout.as_mut().unwrap());
        let reading = async {
            while self.file.len() < goal {
                let read = output.read_buf(&mut self.file).await.unwrap();
                assert!(read > 0, "the viewer ended after {} bytes", self.file.len());
            }
        };
        let came = tokio::time::timeout(common::PATIENCE, reading).await;
        assert!(came.is_ok(), "only {} of {goal} bytes came", self.file.len());
    }

    /// FFmpeg must find video and sound in it, and be able to decode them.
    async fn decode(self, dir: &Dir) {
        let path = dir.join("viewed.mp4");
        std::fs::write(&path, &self.file).unwrap();
        let output = Command::new("ffprobe")
            .args([
                "-v",
                "quiet",
                "-count_frames",
                "-show_entries",
                "stream=codec_type,nb_read_frames",
                "-of",
                "csv=p=0",
            ])
            .arg(&path)
            .output()
            .await
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        for kind in ["video", "audio"] {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{kind},")));
            let frames: u64 = line.and_then(|count| count.parse().ok()).unwrap_or(0);
            assert!(frames >= 10, "{frames} frames of {kind} in:\n{text}");
        }
    }
}

/// A stock `moq-relay`, perhaps one that is joined to another relay.
struct MoqRelay {
    /// Killed when it goes.
    _process: Child,
    port: u16,
}

impl MoqRelay {
    /// With the certificate of `like`.
    fn start(dir: &Dir, like: &Edge, joined: Option<u16>) -> Self {
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut command = Command::new(peer("moq-relay"));
        command.args(["--listen", &format!("127.0.0.1:{port}")]);
        command.arg("--listen-tls-cert").arg(dir.join("relay/cert.pem"));
        command.arg("--listen-tls-key").arg(dir.join("relay/key.pem"));
        command.args(["--connect-tls-fingerprint", &like.fingerprint]);
        match joined {
            Some(to) => {
                let to = format!("https://127.0.0.1:{to}/");
                command.args(["--auth-public-subscribe", "**", "--cluster-connect", &to]);
            }
            None => drop(command.args(["--auth-public", "**"])),
        }
        let log = std::fs::File::create(dir.join("moq-relay.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
        Self { _process: command.spawn().unwrap(), port }
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}/", self.port)
    }
}

async fn wait_connected(edge: &Edge, upstreams: usize) {
    until("the upstreams to be connected", async || {
        let status = edge.api().get("/api/status").await;
        let all = status["upstreams"].as_array().cloned().unwrap_or_default();
        all.iter().filter(|upstream| upstream["connected"] == true).count() == upstreams
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moq_s_own_program_publishes_into_us_and_watches_from_us_over_quic_webtransport_and_websocket() {
    let _stage = alone().await;
    let dir = Dir::new("strangers-moq");
    let edge = Edge::start(&dir, 0, 0).await;
    let (quic, web, tcp) = ("moqt", "https", "ws");
    for (publishing, watching, name) in
        [(quic, web, "studio/one"), (web, tcp, "studio/two"), (tcp, quic, "studio/three")]
    {
        let root = |scheme| {
            let port = if scheme == tcp { edge.http_port } else { edge.quic_port };
            format!("{scheme}://127.0.0.1:{port}/studio")
        };
        // The path of the URL is above the name.
        let (_, below) = name.split_once('/').unwrap();
        let mut publisher = Publisher::start(&dir, &root(publishing), &edge.fingerprint, below);
        edge.wait_live(name).await;
        let mut viewer = Viewer::start(&dir, &root(watching), &edge.fingerprint, below);
        viewer.reads(ENOUGH).await;
        viewer.decode(&dir).await;
        publisher.moq.kill().await.unwrap();
        until("the broadcast to leave", async || {
            edge.api().get("/api/status").await["broadcasts"][name].is_null()
        })
        .await;
    }
}

/// Venue, origin, and two edges, as in `docs/relays.md`.
#[tokio::test(flavor = "multi_thread")]
async fn moq_s_own_program_watches_a_show_that_came_over_a_bond_from_the_origin_and_two_edges() {
    let _stage = alone().await;
    let dir = Dir::new("strangers-bond");
    let edge = Edge::start(&dir, 0, 0).await;
    let uplinks = uplinks(&edge).await;
    let _live = live(&edge, &uplinks, "tour/strangers", &[]);
    edge.wait_live("tour/strangers").await;
    let stock = MoqRelay::start(&dir, &edge, Some(edge.quic_port));
    let ours = Edge::pulling(&dir, &edge, &[edge.quic_port]).await;
    let url = |port| format!("https://127.0.0.1:{port}/");
    for url in [url(edge.quic_port), url(ours.quic_port), stock.url()] {
        let mut viewer = Viewer::start(&dir, &url, &edge.fingerprint, "tour/strangers");
        viewer.reads(ENOUGH).await;
        viewer.decode(&dir).await;
    }
}

/// The publisher gives to a stock relay; two of ours pull from that; a third of ours from these two.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_pulls_once_for_all_its_viewers_and_goes_on_with_its_other_upstream() {
    let _stage = alone().await;
    let dir = Dir::new("strangers-chain");
    // Only its certificate is used.
    let like = Edge::start(&dir, 0, 0).await;
    let stock = MoqRelay::start(&dir, &like, None);
    let _publisher = Publisher::start(&dir, &stock.url(), &like.fingerprint, "studio/chain");
    let mut first = Edge::pulling(&dir, &like, &[stock.port]).await;
    let second = Edge::pulling(&dir, &like, &[stock.port]).await;
    let edge = Edge::pulling(&dir, &like, &[first.quic_port, second.quic_port]).await;
    wait_connected(&edge, 2).await;
    edge.wait_live("studio/chain").await;

    let url = format!("https://127.0.0.1:{}/", edge.quic_port);
    let mut viewers: Vec<_> =
        (0..3).map(|_| Viewer::start(&dir, &url, &like.fingerprint, "studio/chain")).collect();
    for viewer in &mut viewers {
        viewer.reads(ENOUGH).await;
    }
    let sessions = async |edge: &Edge| edge.api().get("/api/status").await["viewers"].clone();
    assert_eq!((sessions(&edge).await, sessions(&first).await), (3.into(), 1.into()));

    first.kill().await;
    for viewer in &mut viewers {
        // More than what can be on its way.
        viewer.reads(4 * ENOUGH).await;
    }
    wait_connected(&edge, 1).await;
    viewers.pop().unwrap().decode(&dir).await;
}
