//! The timeline heals itself: real programs, real uplinks that go dark, real disks.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::{Dir, Edge, alone, fragments, live, roadie, until, uplinks_losing};
use media::TrackId;
use media::cmaf::{Digest, GroupDigest};
use roadie::emulator::Emulator;
use serde_json::Value;
use tokio::process::{Child, Command};

/// What lies in a folder, as read from the media itself: of each group its digests in all files.
fn groups(dir: &Path) -> BTreeMap<(TrackId, u64), Vec<(u32, Digest)>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    for file in files.filter(|path| path.extension().is_some_and(|extension| extension == "mp4")) {
        let mut found: BTreeMap<_, GroupDigest> = BTreeMap::new();
        for fragment in fragments(&file) {
            found.entry((fragment.id.track, fragment.id.group)).or_default().fragment(&fragment);
        }
        for (id, digest) in found {
            all.entry(id).or_default().push((digest.frames(), digest.finish()));
        }
    }
    all
}

/// Every group of the recording is in the edge's folder, and is the same there.
fn assert_same(recording: &Path, keep: &Path) -> usize {
    let (recorded, kept) = (groups(recording), groups(keep));
    for (id, digests) in &recorded {
        let found = kept.get(id).unwrap_or_else(|| panic!("{id:?} is not at the edge"));
        assert!(found.contains(&digests[0]), "{id:?}: recorded {digests:?}, kept {found:?}");
    }
    recorded.len()
}

fn interrupt(child: &Child) {
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-s", "INT", &pid]).status().unwrap().success());
}

struct Stage {
    dir: Dir,
    keep: PathBuf,
    edge: Edge,
    uplinks: Vec<Emulator>,
}

impl Stage {
    /// The way back loses this part of what the edge says.
    async fn new(name: &str, back: f64) -> Self {
        let dir = Dir::new(name);
        let keep = dir.join("keep");
        let edge = Edge::keeping(&dir, &keep).await;
        let uplinks = uplinks_losing(&edge, back).await;
        Self { dir, keep, edge, uplinks }
    }

    async fn number(&self, name: &str, path: &[&str]) -> u64 {
        let status = self.edge.api().get("/api/status").await;
        path.iter().fold(&status["broadcasts"][name], |value: &Value, key| &value[*key]).as_u64().unwrap_or(0)
    }

    async fn goes_on(&self, name: &str, frames: u64) {
        let before = self.number(name, &["published"]).await;
        until("the show to go on", async || self.number(name, &["published"]).await >= before + frames).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_of_all_uplinks_the_edges_copy_is_the_recording() {
    let _stage = alone().await;
    let stage = Stage::new("outage", 0.05).await;
    let copies = [stage.dir.join("a"), stage.dir.join("b")];
    let mut show = live(&stage.edge, &stage.uplinks, "outage", &copies);
    stage.goes_on("outage", 100).await;
    stage.uplinks.iter().for_each(|uplink| uplink.set_up(false));
    // So long, after such losses, that a congestion window would be full of what nobody acknowledges, at either end.
    tokio::time::sleep(Duration::from_secs(7)).await;
    stage.uplinks.iter().for_each(|uplink| uplink.set_up(true));
    stage.goes_on("outage", 60).await;
    for uplink in 0..stage.uplinks.len() {
        let heard = async || stage.number("outage", &["uplinks", &uplink.to_string(), "datagrams"]).await;
        let before = heard().await;
        until("every uplink", async || heard().await > before + 20).await;
        let calls = stage.number("outage", &["uplinks", &uplink.to_string(), "calls"]).await;
        assert_eq!(calls, 1, "uplink {uplink} went on with the connection it had");
    }
    let lost = stage.number("outage", &["lost"]).await;
    assert!(lost > 0, "there was an outage");
    let missing = stage.number("outage", &["keep", "missing"]).await;
    until("backfill", async || stage.number("outage", &["keep", "healed"]).await >= 4).await;
    stage.goes_on("outage", 60).await;
    assert_eq!(stage.number("outage", &["lost"]).await, lost, "live does not pay for it");
    interrupt(&show);
    assert!(show.wait().await.unwrap().success());
    until("the end at the edge", async || {
        stage.edge.api().get("/api/status").await["broadcasts"]["outage"].is_null()
    })
    .await;
    let count = assert_same(&copies[0], &stage.keep);
    println!(
        "{count} groups are the same in both; {lost} frames were lost live, {missing} groups missing at once"
    );
}

async fn sync(stage: &Stage, dir: &Path) -> String {
    let mut command = Command::new(roadie());
    command.args(["recordings", "sync", "--edge-fingerprint", &stage.edge.fingerprint]);
    command.args(["--edge", &format!("https://localhost:{}", stage.edge.quic_port)]).arg(dir);
    for (n, uplink) in stage.uplinks.iter().enumerate() {
        command.args(["--uplink", &format!("link{n}:via={}", uplink.addr())]);
    }
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_show_whose_encoder_was_killed_is_whole_at_the_edge_after_a_sync() {
    let _stage = alone().await;
    let stage = Stage::new("cut-off", 0.005).await;
    let copy = stage.dir.join("a");
    let mut show = live(&stage.edge, &stage.uplinks, "cut-off", std::slice::from_ref(&copy));
    stage.goes_on("cut-off", 60).await;
    // The last second of it reaches the recording only.
    stage.uplinks.iter().for_each(|uplink| uplink.set_up(false));
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    show.kill().await.unwrap();
    stage.uplinks.iter().for_each(|uplink| uplink.set_up(true));
    // The edge still waits for the killed encoder; a sync takes over from it when it is over. Killing the edge is
    // quicker, and one more thing that it must survive.
    let Stage { dir, keep, mut edge, uplinks } = stage;
    edge.kill().await;
    edge.restart(&dir).await;
    let stage = Stage { dir, keep, edge, uplinks };
    let text = sync(&stage, &copy).await;
    assert!(text.contains("the edge's copy is whole"), "{text}");
    assert_same(&copy, &stage.keep);
    let text = sync(&stage, &copy).await;
    assert!(text.contains(" 0 of them sent now"), "{text}");
}
