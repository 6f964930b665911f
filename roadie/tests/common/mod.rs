//! The real programs, started and stopped by the tests.

#![allow(dead_code)] // Each test binary uses its own part.

pub mod firefox;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use media::TrackId;
use media::cmaf::{Fragment, Item, Reader};
use roadie::edge_api::EdgeApi;
use roadie::emulator::Emulator;
use roadie::report::PagePassage;
use roadie::viewer::Viewer;
use serde_json::Value;
use sim::{Conditions, Loss, Rate};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, MutexGuard};

/// Bounds a wait on a busy machine; reaching it is a failure, never a measurement.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One show at a time: there are two cores, and every show is in real time.
pub async fn alone() -> MutexGuard<'static, ()> {
    static STAGE: Mutex<()> = Mutex::const_new(());
    STAGE.lock().await
}

pub fn roadie() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_roadie"))
}

pub fn relay_program() -> PathBuf {
    let beside = roadie().with_file_name("roadie-relay");
    let program = std::env::var_os("ROADIE_RELAY_BIN").map_or(beside, PathBuf::from);
    assert!(program.exists(), "{} is not built: run `cargo xtask test`", program.display());
    program
}

pub fn player_dir() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/player");
    let dir = std::env::var_os("ROADIE_PLAYER_DIR").map_or(built, PathBuf::from);
    assert!(dir.join("index.html").exists(), "{} is not built: run `cargo xtask test`", dir.display());
    dir
}

/// A folder of its own for a test, removed at its end.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("roadie-test-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A real `roadie-relay`.
pub struct Edge {
    pub child: Child,
    pub quic_port: u16,
    pub http_port: u16,
    pub fingerprint: String,
    state: PathBuf,
    keep: Option<PathBuf>,
}

impl Edge {
    /// Port 0 takes a free one.
    pub async fn start(dir: &Dir, quic_port: u16, http_port: u16) -> Self {
        Self::spawn(dir, quic_port, http_port, Some(player_dir()), None, &[]).await
    }

    /// With more flags.
    pub async fn with(dir: &Dir, flags: &[&str]) -> Self {
        Self::spawn(dir, 0, 0, Some(player_dir()), None, flags).await
    }

    /// With a page that is not ours.
    pub async fn with_page(dir: &Dir, page: PathBuf) -> Self {
        Self::with_page_and(dir, page, &[]).await
    }

    /// With a page that is not ours, and with more flags.
    pub async fn with_page_and(dir: &Dir, page: PathBuf, flags: &[&str]) -> Self {
        Self::spawn(dir, 0, 0, Some(page), None, flags).await
    }

    /// Without a page, and with a copy of each show in a folder.
    pub async fn keeping(dir: &Dir, keep: &Path) -> Self {
        Self::spawn(dir, 0, 0, None, Some(keep.to_owned()), &[]).await
    }

    async fn spawn(
        dir: &Dir,
        quic_port: u16,
        http_port: u16,
        player: Option<PathBuf>,
        keep: Option<PathBuf>,
        flags: &[&str],
    ) -> Self {
        let state = dir.join("relay");
        let folders = [("--state", Some(&state)), ("--player", player.as_ref()), ("--keep", keep.as_ref())];
        let given =
            folders.into_iter().filter_map(|(name, folder)| Some([name.as_ref(), folder?.as_os_str()]));
        let mut child = Command::new(relay_program())
            .args(["--listen", &format!("[::]:{quic_port}"), "--http", &format!("[::]:{http_port}")])
            .args(given.flatten())
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = async || lines.next_line().await.unwrap().expect("the relay ended at its start");
        let quic = next().await;
        let http = next().await;
        let fingerprint = next().await;
        // What it says besides has somebody to hear it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let quic: SocketAddr = quic.split(' ').nth(2).unwrap().parse().unwrap();
        Self {
            child,
            quic_port: quic.port(),
            http_port: http.split([':', '/']).nth(4).unwrap().parse().unwrap(),
            fingerprint: fingerprint.split(' ').next_back().unwrap().to_owned(),
            state,
            keep,
        }
    }

    /// Without a page; it has the certificate of `like`, and pulls from relays that have it too.
    pub async fn pulling(dir: &Dir, like: &Edge, upstreams: &[u16]) -> Self {
        let urls: Vec<_> = upstreams.iter().map(|port| format!("https://127.0.0.1:{port}/")).collect();
        let mut flags = vec!["--upstream-fingerprint", &like.fingerprint];
        flags.extend(urls.iter().flat_map(|url| ["--upstream", url.as_str()]));
        Self::spawn(dir, 0, 0, None, None, &flags).await
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// The same ports and certificate again.
    pub async fn restart(&mut self, dir: &Dir) {
        let player = self.keep.is_none().then(player_dir);
        *self = Self::spawn(dir, self.quic_port, self.http_port, player, self.keep.clone(), &[]).await;
    }

    pub fn api(&self) -> EdgeApi {
        EdgeApi::new(self.http_port)
    }

    pub fn page(&self, name: &str) -> String {
        format!("http://localhost:{}/{name}", self.http_port)
    }

    /// Waits until a broadcast is live here.
    pub async fn wait_live(&self, name: &str) {
        let api = self.api();
        until("the broadcast to be live", async || {
            api.get("/api/status").await["broadcasts"][name]["live"] == true
        })
        .await;
    }
}

/// The three uplinks of the issue: 5/4/3 Mb/s, 25/35/15 ms, 3 ms jitter, 0.5 % loss.
pub async fn uplinks(edge: &Edge) -> Vec<Emulator> {
    uplinks_losing(edge, 0.005).await
}

/// The same, where the way back loses this part.
pub async fn uplinks_losing(edge: &Edge, back: f64) -> Vec<Emulator> {
    let near = SocketAddr::from(([127, 0, 0, 1], 0));
    let target = SocketAddr::from(([127, 0, 0, 1], edge.quic_port));
    let mut all = Vec::new();
    for (n, (megabits, delay)) in [(5, 25), (4, 35), (3, 15)].into_iter().enumerate() {
        let conditions = Conditions {
            rate: Rate::Fixed(megabits * 1_000_000),
            delay: Duration::from_millis(delay),
            jitter: Duration::from_millis(3),
            loss: Loss::Random(0.005),
            ..Conditions::default()
        };
        let down = Conditions { loss: Loss::Random(back), ..conditions.clone() };
        all.push(Emulator::start_at(near, target, conditions, down, n as u64 * 2 + 1).await.unwrap());
    }
    all
}

/// A real `roadie live`, on the test picture.
pub fn live(edge: &Edge, uplinks: &[Emulator], name: &str, dirs: &[PathBuf]) -> Child {
    live_with(&[], edge, uplinks, name, dirs)
}

/// The same with more flags.
pub fn live_with(flags: &[&str], edge: &Edge, uplinks: &[Emulator], name: &str, dirs: &[PathBuf]) -> Child {
    let mut command = Command::new(roadie());
    command.args(["live", "--input", "test", "--edge-fingerprint", &edge.fingerprint]);
    command.args(["--edge", &format!("https://localhost:{}/{name}", edge.quic_port)]);
    command.args(flags);
    for (n, uplink) in uplinks.iter().enumerate() {
        command.args(["--uplink", &format!("link{n}:via={}", uplink.addr())]);
    }
    for dir in dirs {
        command.arg("--record").arg(dir);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

/// Polls a condition, for what gives no event.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "waited {} s in vain for {what}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    started.elapsed()
}

/// A page in some browser.
pub trait Page {
    /// Runs JavaScript that returns a value, or a promise of one.
    async fn run(&self, script: &str) -> anyhow::Result<Value>;
}

impl Page for Viewer {
    async fn run(&self, script: &str) -> anyhow::Result<Value> {
        self.run(script).await
    }
}

/// The first pictures that a page opened with `?probe=1` paints, more than `enough`.
pub async fn painted(page: &impl Page, enough: usize) -> Vec<PagePassage> {
    let mut painted: Vec<PagePassage> = Vec::new();
    until("pictures", async || {
        let new = page.run("return (window.roadie && await roadie.takeTrace()) || []").await.unwrap();
        let new = serde_json::from_value::<Vec<PagePassage>>(new).unwrap();
        painted.extend(new.into_iter().filter(|frame| frame.painted_us.is_some()));
        painted.len() > enough
    })
    .await;
    painted
}

/// The numbers that were read back from the pixels of painted pictures, as far as they can be read. Each picture has the
/// time in it that it is said to have.
pub fn marks(painted: &[PagePassage]) -> Vec<u16> {
    let mark = |frame: &PagePassage| {
        let mark = frame.mark?;
        let capture_ms = (frame.capture_us / 1e3).floor() % (1u64 << 40) as f64;
        assert!((mark.time_ms - capture_ms).abs() <= 1.0, "{mark:?} in {frame:?}");
        Some(mark.counter)
    };
    painted.iter().filter_map(mark).collect()
}

/// The single recording in a folder.
pub fn recording(dir: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "mp4"))
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.pop().unwrap()
}

/// What `ffprobe` finds: (video packets, audio packets, last video time in seconds). It must find no
/// fault.
pub async fn ffprobe(file: &Path) -> (usize, usize, f64) {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "packet=codec_type,pts_time", "-of", "json"])
        .arg(file)
        .output()
        .await
        .expect("ffprobe: `cargo xtask test` installs it");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {complaint}", file.display());
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packets = json["packets"].as_array().unwrap();
    let of = |kind: &'static str| packets.iter().filter(move |packet| packet["codec_type"] == kind);
    let time = |packet: &Value| packet["pts_time"].as_str().unwrap().parse::<f64>().unwrap();
    let last = of("video").map(time).fold(0.0, f64::max);
    (of("video").count(), of("audio").count(), last)
}

/// The frames in a recording, whole and with the right checksum.
pub fn fragments(file: &Path) -> Vec<Fragment> {
    let (mut reader, mut fragments) = (Reader::new(), Vec::new());
    reader.push(&std::fs::read(file).unwrap());
    reader.end();
    while let Some(item) = reader.poll() {
        if let Item::Fragment(fragment) = item {
            assert!(fragment.intact, "a wrong checksum: {:?}", fragment.id);
            fragments.push(fragment);
        }
    }
    fragments
}

/// Its pictures only.
pub fn pictures(file: &Path) -> Vec<Fragment> {
    fragments(file).into_iter().filter(|fragment| fragment.id.track == TrackId(0)).collect()
}
