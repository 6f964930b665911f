//! The edge's copy heals: real sockets on loopback, a real `roadie-relay`, a real disk.

mod common;
#[path = "common/studio.rs"]
mod studio;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use common::{Dir, no_hooks, until};
use relay::backfill::supply::Standing;
use relay::clock::Clock;
use relay::uplink::{EdgeAddress, Plan};
use relay::venue::{self, Venue};
use serde_json::Value;
use studio::{Recording, capture, catalog, kept};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// A `roadie-relay` that can be killed and started again on the same port.
struct Edge {
    dir: Dir,
    keep: Option<PathBuf>,
    port: u16,
    http: u16,
    fingerprint: String,
    child: Child,
}

impl Edge {
    async fn start(name: &str, keep: Option<&Path>) -> Self {
        let dir = Dir::new(name);
        let keep = keep.map(|keep| dir.0.join(keep));
        let (child, port, http, fingerprint) = Self::spawn(&dir, keep.as_deref(), 0).await;
        Self { dir, keep, port, http, fingerprint, child }
    }

    async fn spawn(dir: &Dir, keep: Option<&Path>, port: u16) -> (Child, u16, u16, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roadie-relay"));
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--http", "127.0.0.1:0", "--state"]);
        command.arg(dir.0.join("state"));
        if let Some(keep) = keep {
            command.arg("--keep").arg(keep);
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = async || lines.next_line().await.unwrap().expect("the relay ended at its start");
        let port = next().await.split([':', ' ']).nth(3).unwrap().parse().unwrap();
        let http = next().await.split([':', '/']).nth(4).unwrap().parse().unwrap();
        let fingerprint = next().await.split(' ').next_back().unwrap().to_owned();
        (child, port, http, fingerprint)
    }

    /// `kill -9`.
    async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// `kill`: gives its exit status.
    async fn stop(&mut self) -> std::process::ExitStatus {
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").arg(pid).status().unwrap().success());
        self.child.wait().await.unwrap()
    }

    async fn restart(&mut self) {
        let (child, _, http, _) = Self::spawn(&self.dir, self.keep.as_deref(), self.port).await;
        (self.child, self.http) = (child, http);
    }

    fn keep(&self) -> &Path {
        self.keep.as_deref().unwrap()
    }

    fn venue(&self) -> venue::Settings {
        venue::Settings {
            edge: EdgeAddress {
                host: "127.0.0.1".into(),
                port: self.port,
                fingerprint: Some(self.fingerprint.clone()),
            },
            broadcast: "tour/london".into(),
            token: None,
            uplinks: Plan::parse(&["127.0.0.1".to_owned()]).unwrap(),
            deadline: Duration::from_millis(400),
        }
    }

    fn live(&self, recording: &Arc<Recording>) -> Venue {
        let clock = Clock::start();
        let frames = capture(clock, recording.clone());
        Venue::start(self.venue(), catalog(), clock, frames, no_hooks(), Some(recording.clone())).unwrap()
    }

    fn sync(&self, recording: &Arc<Recording>) -> Venue {
        Venue::sync(self.venue(), Clock::start(), recording.clone()).unwrap()
    }

    /// What the edge says of the show.
    async fn status(&self) -> Value {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.http)).await.unwrap();
        stream.write_all(b"GET /api/status HTTP/1.0\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let mut json: Value = serde_json::from_str(body).unwrap();
        json["broadcasts"]["tour/london"].take()
    }

    async fn until_published(&self, more: u64) {
        let published = async || self.status().await["published"].as_u64().unwrap_or(0);
        let before = published().await;
        until("the show to go on", async || published().await >= before + more).await;
    }
}

fn standing(venue: &Venue) -> Standing {
    venue.status().backfill.unwrap_or_default()
}

async fn whole(venue: &Venue) -> Standing {
    let took = until("the edge's copy to be whole", async || standing(venue).whole).await;
    println!("whole after {} ms: {:?}", took.as_millis(), standing(venue));
    standing(venue)
}

fn end(recording: &Recording, venue: &Venue) {
    recording.end();
    venue.recording_ended();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_killed_and_comes_back_ends_with_the_whole_show() {
    let mut edge = Edge::start("killed-edge", Some(Path::new("keep/here"))).await;
    let recording = Arc::new(Recording::default());
    let venue = edge.live(&recording);
    until("the first frames", async || edge.status().await["published"].as_u64() > Some(60)).await;
    let mut safe = 0;
    until("the first groups", async || {
        safe = edge.status().await["keep"]["kept"].as_u64().unwrap_or(0);
        safe > 1
    })
    .await;
    edge.kill().await;
    let before = recording.groups();
    until("a second of show without an edge", async || recording.groups() > before + 3).await;
    edge.restart().await;
    edge.until_published(60).await;
    end(&recording, &venue);
    let standing = whole(&venue).await;
    assert_eq!(recording.missing(&kept(edge.keep())), []);
    let groups = recording.groups() as u64;
    assert_eq!((standing.recorded, standing.kept, standing.owed, standing.gone), (groups, groups, 0, 0));
    // What was safe before the kill is not sent again.
    assert!(standing.sent >= 3 && standing.sent <= groups - safe, "{safe} were safe, {standing:?}");
    let status = edge.status().await;
    assert_eq!(status["keep"]["whole"], true);
    assert_eq!(status["keep"]["refused"], 0);
    venue.stop().await;
}

/// The venue's program ends before its time, is started again for the same recording, and a third time to no purpose.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_stopped_ends_its_files_and_its_venue_calls_the_next_one() {
    let mut edge = Edge::start("stopped-edge", Some(Path::new("keep"))).await;
    let recording = Arc::new(Recording::default());
    let venue = edge.live(&recording);
    edge.until_published(60).await;
    assert!(edge.stop().await.success());
    until("the venue to know", async || venue.status().uplinks.iter().all(|uplink| !uplink.connected)).await;
    let files = std::fs::read_dir(edge.keep()).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|extension| extension == "mp4")).collect();
    assert!(!files.is_empty());
    for file in files {
        let mut reader = media::cmaf::Reader::new();
        reader.push(&std::fs::read(&file).unwrap());
        assert!(reader.poll().is_some() && reader.media_end().is_some(), "{} is not ended", file.display());
    }
    edge.restart().await;
    edge.until_published(30).await;
    end(&recording, &venue);
    whole(&venue).await;
    venue.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_show_that_was_cut_off_is_whole_after_a_sync_and_then_nothing_is_sent() {
    let edge = Edge::start("sync", Some(Path::new("keep"))).await;
    let recording = Arc::new(Recording::default());
    let venue = edge.live(&recording);
    edge.until_published(60).await;
    let early = edge.sync(&recording);
    until("the refusal", async || early.status().uplinks.iter().any(|uplink| uplink.refused)).await;
    assert!(early.status().uplinks[0].reason.as_ref().unwrap().contains("is on the air"));
    early.stop().await;
    venue.stop().await;
    // Half a second that only the recording has.
    let clock = Clock::start();
    let mut frames = capture(clock, recording.clone());
    let before = recording.groups();
    until("more of the recording", async || {
        while (frames.pop)().is_some() {}
        recording.groups() > before + 2
    })
    .await;
    recording.end();
    // The edge may still be ending the live session's files.
    until("the end of the live session", async || edge.status().await.is_null()).await;
    let venue = edge.sync(&recording);
    let standing = whole(&venue).await;
    assert!(standing.sent > 0, "{standing:?}");
    assert_eq!(recording.missing(&kept(edge.keep())), []);
    venue.stop().await;
    until("the end of the first sync", async || edge.status().await.is_null()).await;
    let venue = edge.sync(&recording);
    assert_eq!(whole(&venue).await.sent, 0);
    venue.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_keeps_nothing_carries_live_and_refuses_a_sync() {
    let edge = Edge::start("keeps-nothing", None).await;
    let recording = Arc::new(Recording::default());
    let venue = edge.live(&recording);
    edge.until_published(30).await;
    assert!(!standing(&venue).on);
    venue.stop().await;
    recording.end();
    let venue = edge.sync(&recording);
    until("the refusal", async || venue.status().uplinks.iter().any(|uplink| uplink.refused)).await;
    assert!(venue.status().uplinks[0].reason.as_ref().unwrap().contains("--keep"));
    venue.stop().await;
}

/// A disk of 12 MB, of which a file of somebody else's takes nearly all for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_the_copy_only_and_what_was_left_out_comes_when_there_is_space() {
    let disk = Dir::new("full-disk");
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=12m", "roadie-test"])
        .arg(&disk.0)
        .output();
    if !mount.is_ok_and(|output| output.status.success()) {
        println!("skipped: no small disk can be made here; needs root");
        return;
    }
    let _unmount = Unmount(disk.0.clone());
    let edge = Edge::start("full", Some(&disk.0.join("keep"))).await;
    let recording = Arc::new(Recording::default());
    std::fs::write(disk.0.join("others"), vec![0; 13 << 20]).unwrap_err();
    let venue = edge.live(&recording);
    until("the disk to be full", async || edge.status().await["keep"]["failed"].is_string()).await;
    let failed = edge.status().await;
    edge.until_published(90).await;
    let later = edge.status().await;
    assert_eq!(later["lost"], failed["lost"], "viewers do not notice");
    until("the venue to know", async || standing(&venue).stuck).await;
    std::fs::remove_file(disk.0.join("others")).unwrap();
    until("the disk to be used again", async || edge.status().await["keep"]["failed"].is_null()).await;
    end(&recording, &venue);
    whole(&venue).await;
    assert_eq!(recording.missing(&kept(edge.keep())), []);
    venue.stop().await;
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
