//! `roadie demo`: the whole product on one machine. A clip is the camera, three emulated uplinks are the
//! modems, a real `roadie-relay` is the edge, and the viewer is your browser or a headless one.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use encoder::record::RecordStatus;
use encoder::{EncoderEvent, Input, VIDEO_TRACK};
use relay::uplink::{Bind, EdgeAddress, Tariff, Uplink};
use relay::venue;
use sim::{Conditions, Loss, Rate};
use tokio::process::Command;

use crate::cut::Cut;
use crate::edge_api::EdgeApi;
use crate::edge_process::EdgeProcess;
use crate::emulator::Emulator;
use crate::report::{self, EdgePassage, Evidence, PagePassage, RecordingReport, Report, UplinkReport};
use crate::show::{self, Ending, Show};
use crate::terminal::keys::Keys;
use crate::terminal::{self, Meter, Screen, lines};
use crate::viewer::Viewer;

/// The name of the demo's broadcast.
const BROADCAST: &str = "demo";

/// The page's port, when nobody watches headless and `--port` is not given.
const PAGE_PORT: u16 = 8080;

/// How often the state is fetched and drawn.
const REFRESH: Duration = Duration::from_millis(500);

/// After the last captured frame, the page gets this long to paint what is under way.
const DRAIN: Duration = Duration::from_secs(3);

/// Passages kept for the terminal's figures when no report is wanted: ten seconds.
const WINDOW: usize = 300;

/// The demo's uplinks: name, Mb/s, one-way delay in ms.
const UPLINKS: [(&str, u64, u64); 3] = [("5g-one", 5, 25), ("5g-two", 4, 35), ("wifi", 3, 15)];
const JITTER: Duration = Duration::from_millis(3);
const LOSS: f64 = 0.005;

/// See the whole product on this machine: encoder, recordings, three bad uplinks, edge and page.
///
/// Keys while it runs: 1, 2, 3 pull an uplink or plug it in again; q ends.
#[derive(Args, Debug, Default)]
pub struct Raw {
    /// What to show: `camera`, `camera:/dev/video1`, `file:CLIP.mp4` or `test` [default: the clip]
    #[arg(long, value_name = "INPUT")]
    pub input: Option<String>,

    /// The clip that plays when there is no --input
    #[arg(long, value_name = "FILE")]
    pub clip: Option<PathBuf>,

    /// Stop by itself after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<u64>,

    /// Watch with a headless Chromium, measure every frame, and fail if one is missing
    #[arg(long)]
    pub headless: bool,

    /// Pull an uplink: 2@5s+4s takes uplink 2 away at second 5 for 4 s; may be repeated
    #[arg(long, value_name = "CUT")]
    pub cut: Vec<Cut>,

    /// Keep the video at its full bit rate whatever the uplinks carry
    #[arg(long)]
    pub fixed_bitrate: bool,

    /// Write the report here (with --headless)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Save a picture of the page here, just before the end (with --headless)
    #[arg(long, value_name = "FILE.png")]
    pub screenshot: Option<PathBuf>,

    /// Port of the page [default: 8080; with --headless any free one]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,

    /// Record into this folder, in place of two in the system's temporary folder
    #[arg(long, value_name = "DIR")]
    pub record: Vec<PathBuf>,

    /// Seed of the emulated uplinks' chances
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// The built player page [default: where `cargo xtask player` puts it]
    #[arg(long, value_name = "DIR", env = "ROADIE_PLAYER_DIR")]
    pub player: Option<PathBuf>,

    /// The relay program [default: beside this one]
    #[arg(long, value_name = "FILE", env = "ROADIE_RELAY_BIN")]
    pub relay: Option<PathBuf>,
}

/// Runs the demo.
pub async fn run(raw: Raw) -> anyhow::Result<()> {
    let input = match (&raw.input, &raw.clip) {
        (Some(input), _) => input.parse::<Input>()?,
        (None, Some(clip)) => Input::File(clip.clone()),
        (None, None) => Input::Test,
    };
    if raw.json.is_some() && !raw.headless {
        bail!("--json needs --headless: the report is measured in a browser that the demo drives itself");
    }
    if let Some(cut) = raw.cut.iter().find(|cut| cut.uplink >= UPLINKS.len()) {
        bail!("there is no uplink {}: the demo has {}", cut.uplink + 1, UPLINKS.len());
    }
    let record = match raw.record.is_empty() {
        false => raw.record.clone(),
        true => ["a", "b"].map(|copy| std::env::temp_dir().join("roadie-demo").join(copy)).to_vec(),
    };
    if let Some(error) = encoder::record::check_dirs(&record).into_iter().next() {
        return Err(error.into());
    }

    let port = raw.port.unwrap_or(if raw.headless { 0 } else { PAGE_PORT });
    let program = match &raw.relay {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("roadie-relay"),
    };
    let Some(player) = raw.player.clone().or_else(|| built_player(&program)) else {
        bail!(
            "there is no player for the page: build it with `cargo xtask player` and give it with --player target/player"
        );
    };
    let state = std::env::temp_dir().join("roadie-demo");
    let relay = EdgeProcess::start(&program, &state, port, Some(&player)).await?;
    let mut emulators = Vec::new();
    for (n, (_, megabits, delay)) in UPLINKS.iter().enumerate() {
        let conditions = Conditions {
            rate: Rate::Fixed(megabits * 1_000_000),
            delay: Duration::from_millis(*delay),
            jitter: JITTER,
            loss: Loss::Random(LOSS),
            ..Conditions::default()
        };
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, relay.quic_port));
        emulators.push(Emulator::start(target, conditions, raw.seed.wrapping_add(n as u64 * 2)).await?);
    }
    let viewer = if raw.headless { Some(Viewer::start().await?) } else { None };

    let uplinks = UPLINKS
        .iter()
        .zip(&emulators)
        .map(|((name, ..), emulator)| Uplink {
            name: (*name).into(),
            bind: Bind::Any,
            via: Some(emulator.addr()),
            tariff: Tariff::default(),
        })
        .collect::<Vec<_>>();
    let edge = EdgeAddress {
        host: "localhost".into(),
        port: relay.quic_port,
        fingerprint: Some(relay.fingerprint.clone()),
    };
    let show = Show::start(show::Settings {
        encoder: encoder::Settings { inputs: vec![input], ..encoder::Settings::default() },
        record,
        venue: venue::Settings {
            edge,
            broadcast: BROADCAST.into(),
            token: None,
            uplinks: uplinks.into(),
            deadline: Duration::from_millis(400),
        },
        room: None,
        follow: !raw.fixed_bitrate,
    })
    .await?;
    let api = EdgeApi::new(relay.http_port);
    let run = Run {
        raw,
        api,
        relay,
        emulators: emulators.into(),
        viewer,
        evidence: Evidence::default(),
        stalls: watch_scheduler(),
        next_seq: 0,
    };
    run.run(show).await
}

/// Where `cargo xtask player` puts it, seen from a program that Cargo built.
pub(crate) fn built_player(program: &Path) -> Option<PathBuf> {
    let player = program.parent()?.parent()?.join("player");
    player.join("index.html").is_file().then_some(player)
}

struct Run {
    raw: Raw,
    api: EdgeApi,
    relay: EdgeProcess,
    emulators: Arc<[Emulator]>,
    viewer: Option<Viewer>,
    evidence: Evidence,
    stalls: Arc<AtomicU64>,
    next_seq: u64,
}

impl Run {
    async fn run(mut self, show: Show) -> anyhow::Result<()> {
        let started = Instant::now();
        let url = format!("http://localhost:{}/{BROADCAST}", self.relay.http_port);
        for cut in self.raw.cut.clone() {
            let emulators = self.emulators.clone();
            tokio::spawn(async move {
                tokio::time::sleep_until((started + cut.at).into()).await;
                emulators[cut.uplink].set_up(false);
                tokio::time::sleep(cut.length).await;
                emulators[cut.uplink].set_up(true);
            });
        }
        let mut screen = Screen::new();
        screen.note(&format!("Watch at {url}"));
        if let Some(viewer) = &self.viewer {
            // The page is there from the start; what is measured is from here to its first picture.
            viewer.open(&url).await?;
        }
        let keys = Keys::start();
        let failure = self.watch(&show, started, &mut screen, keys).await;
        let elapsed = started.elapsed();
        if let (Some(viewer), Some(path)) = (&self.viewer, &self.raw.screenshot) {
            std::fs::write(path, viewer.screenshot().await?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }

        let ending = show.end().await;
        let encoder = ending.encoder();
        // The last frames were encoded while the encoder stopped.
        let sent = |ending: &Ending| ending.venue().sent.get(&VIDEO_TRACK).copied().unwrap_or(0);
        let patience = Instant::now() + DRAIN;
        while sent(&ending) < encoder.encoded && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.evidence.encoded.extend(ending.take_log());
        let recordings = ending.recordings();
        let mut report = Report { seconds: elapsed.as_secs_f64(), ..Report::default() };
        if self.viewer.is_some() {
            self.drain().await?;
        }
        let venue = ending.venue();
        ending.hang_up().await;
        screen.finish(&lines::recorded(&recordings));
        failure?;

        let Some(viewer) = self.viewer.take() else {
            return Ok(());
        };
        viewer.close().await;
        report.frames.captured = encoder.captured;
        report.frames.encoded = encoder.encoded;
        report.frames.sent = venue.sent.get(&VIDEO_TRACK).copied().unwrap_or(0);
        self.evidence.judge(VIDEO_TRACK, &mut report);
        self.wire(&venue, &mut report);
        for status in &recordings {
            report.recordings.push(check_recording(status).await);
        }
        report.scheduler_stalls = self.stalls.load(Ordering::Relaxed);
        report.command = std::env::args().collect();
        judge(&mut report);
        let json = serde_json::to_string_pretty(&report)?;
        match &self.raw.json {
            Some(path) => {
                std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?
            }
            None => crate::say!("{json}"),
        }
        summary(&report, &mut screen);
        match report.failures.is_empty() {
            true => Ok(()),
            false => bail!("{}", report.failures.join("; ")),
        }
    }

    /// The show, until its end.
    async fn watch(
        &mut self,
        show: &Show,
        started: Instant,
        screen: &mut Screen,
        mut keys: Keys,
    ) -> anyhow::Result<()> {
        let mut refresh = tokio::time::interval(REFRESH);
        refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut meter = Meter::default();
        let mut stop = std::pin::pin!(terminal::stop_signal());
        loop {
            tokio::select! {
                _ = refresh.tick() => {}
                () = &mut stop => return Ok(()),
                key = keys.next() => match key {
                    Some('q' | '\x1b' | '\x03') => return Ok(()),
                    Some(digit @ '1'..='9') => {
                        if let Some(emulator) = self.emulators.get(digit as usize - '1' as usize) {
                            emulator.set_up(!emulator.is_up());
                        }
                    }
                    _ => {}
                },
                status = self.relay.child.wait() => {
                    bail!("the relay ended ({}); its last words are in {}", status?, self.relay.log.display())
                }
            }
            while let Some(event) = show.poll_event() {
                if let EncoderEvent::Failed(error) = event {
                    return Err(error.into());
                }
            }
            let elapsed = started.elapsed();
            if self.raw.seconds.is_some_and(|limit| elapsed >= Duration::from_secs(limit)) {
                return Ok(());
            }
            self.evidence.encoded.extend(show.take_log());
            self.collect().await?;
            if self.viewer.is_none() {
                self.forget();
            }
            for notice in show.take_notices() {
                screen.note(&notice);
            }
            let status = show.status();
            let rates = meter.update(&status.venue, show.clock().now());
            screen.draw(&self.lines(&status, &rates, elapsed), elapsed);
        }
    }

    fn lines(&self, status: &show::Status, rates: &[f64], elapsed: Duration) -> Vec<String> {
        let mut lines = vec![String::new(), lines::title(BROADCAST, elapsed, status), String::new()];
        let mut uplinks = lines::uplinks(&status.venue, rates);
        for (line, emulator) in uplinks.iter_mut().skip(1).zip(self.emulators.iter()) {
            if !emulator.is_up() {
                line.push_str("   (cable pulled)");
            }
        }
        lines.extend(uplinks);
        lines.push(String::new());
        let captured: std::collections::HashMap<_, _> = self
            .evidence
            .encoded
            .iter()
            .map(|frame| ((frame.id.track.0, frame.id.group, frame.id.frame), frame.captured))
            .collect();
        let recent = self
            .evidence
            .edge
            .iter()
            .rev()
            .filter(|p| p.track == VIDEO_TRACK.0 && p.outcome == "published")
            .take(WINDOW);
        let to_edge = report::quantiles(recent.filter_map(|passage| {
            let captured = captured.get(&(passage.track, passage.group, passage.frame))?;
            Some(passage.published_us as f64 - captured.as_micros() as f64)
        }));
        let lost =
            self.evidence.edge.iter().filter(|p| p.track == VIDEO_TRACK.0 && p.outcome == "lost").count();
        let seconds = elapsed.as_secs_f64().max(1.0);
        lines.push(format!(
            "  capture to edge   P50 {:>4.0} ms   P95 {:>4.0} ms   lost {lost}   media {} of {}   wire {}",
            to_edge.p50,
            to_edge.p95,
            lines::megabits(status.venue.media_bytes as f64 * 8.0 / seconds),
            lines::megabits(f64::from(status.venue.target_rate)),
            lines::megabits(rates.iter().sum()),
        ));
        let stats = &self.evidence.stats;
        if let (Some(p50), Some(p95)) =
            (stats["latency_ms"]["p50"].as_f64(), stats["latency_ms"]["p95"].as_f64())
        {
            let late = stats["frames"]["late"].as_f64().unwrap_or(0.0);
            let stalls = stats["stalls"].as_f64().unwrap_or(0.0);
            lines.push(format!(
                "  glass to glass    P50 {p50:>4.0} ms   P95 {p95:>4.0} ms   late {late}   stalls {stalls}"
            ));
        }
        lines.extend(lines::recordings(&status.recordings));
        if self.viewer.is_none() {
            lines.push(String::new());
            lines.push("  keys: 1 2 3 pull or plug an uplink, q ends".into());
        }
        lines
    }

    /// Fetches what edge and page have seen since the last time.
    async fn collect(&mut self) -> anyhow::Result<()> {
        let passages: Vec<EdgePassage> = self.api.trace(BROADCAST, self.next_seq).await;
        if let Some(last) = passages.last() {
            self.next_seq = last.seq + 1;
        }
        self.evidence.edge.extend(passages);
        match &self.viewer {
            Some(viewer) => {
                let seen = viewer
                    .run(
                        "if (!window.roadie) return { trace: [], stats: {} }; \
                          return { trace: await roadie.takeTrace(), stats: await roadie.stats() };",
                    )
                    .await?;
                // A page that has not started yet has no list.
                let trace: Option<Vec<PagePassage>> = serde_json::from_value(seen["trace"].clone())
                    .context("the page's trace is not as expected")?;
                self.evidence.page.extend(trace.unwrap_or_default());
                self.evidence.stats = seen["stats"].clone();
            }
            None => self.evidence.stats = self.api.quality(BROADCAST).await,
        }
        Ok(())
    }

    /// Without a report, only what the terminal shows is kept.
    fn forget(&mut self) {
        let keep = 8 * WINDOW;
        let encoded = &mut self.evidence.encoded;
        encoded.drain(..encoded.len().saturating_sub(keep));
        let edge = &mut self.evidence.edge;
        edge.drain(..edge.len().saturating_sub(keep));
    }

    /// Waits until the fate of the last captured frame is known.
    async fn drain(&mut self) -> anyhow::Result<()> {
        let Some(last) =
            self.evidence.encoded.iter().rev().find(|frame| frame.id.track == VIDEO_TRACK).map(|f| f.id)
        else {
            return Ok(());
        };
        let deadline = Instant::now() + DRAIN;
        while Instant::now() < deadline {
            self.collect().await?;
            if self
                .evidence
                .page
                .iter()
                .rev()
                .any(|page| (page.group, page.frame) >= (last.group, last.frame))
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// The uplinks' part of the report.
    fn wire(&self, venue: &venue::Status, report: &mut Report) {
        let total: u64 = self.emulators.iter().map(Emulator::bytes).sum();
        for (state, emulator) in venue.uplinks.iter().zip(self.emulators.iter()) {
            let stats = venue.bond.paths.iter().find(|stats| stats.path.0 == state.path);
            report.uplinks.push(UplinkReport {
                name: state.name.clone(),
                bytes: emulator.bytes(),
                share: emulator.bytes() as f64 / total.max(1) as f64,
                loss: stats.map_or(0.0, |s| s.packets_lost as f64 / s.packets_sent.max(1) as f64),
                owd_ms: stats.and_then(|s| s.owd).map(|owd| owd.as_secs_f64() * 1e3),
                suspected: stats.map_or(0, |s| s.suspected),
            });
        }
        report.redundancy = total as f64 / venue.media_bytes.max(1) as f64;
        report.shards_retransmitted = venue.bond.shards_retransmitted;
        report.shards_duplicated = venue.bond.shards_duplicated;
        report.media_bitrate = venue.media_bytes as f64 * 8.0 / report.seconds.max(0.001);
    }
}

/// What makes a run no success.
fn judge(report: &mut Report) {
    let mut failures = Vec::new();
    if report.frames.painted == 0 {
        failures.push("the page painted no frame".to_owned());
    }
    if report.frames.missing > 0 {
        failures.push(format!("{} frames are missing: {:?}", report.frames.missing, report.frames.unpainted));
    }
    for recording in report.recordings.iter().filter(|recording| !recording.playable) {
        failures.push(format!("the recording {} does not play", recording.path));
    }
    report.failures = failures;
}

fn summary(report: &Report, screen: &mut Screen) {
    let (frames, latency) = (&report.frames, &report.glass_to_glass_ms);
    screen.finish(&[
        format!(
            "{} frames captured, {} painted, {} late, {} missing, {} stalls",
            frames.captured, frames.painted, frames.late, frames.missing, report.stalls
        ),
        format!(
            "glass to glass P50 {:.0} ms, P95 {:.0} ms, P99 {:.0} ms; first picture after {:.0} ms; media {}, wire/media {:.2}",
            latency.p50,
            latency.p95,
            latency.p99,
            report.first_frame_ms.unwrap_or(f64::NAN),
            lines::megabits(report.media_bitrate),
            report.redundancy
        ),
    ]);
}

/// An independent program decodes the file from beginning to end.
async fn check_recording(status: &RecordStatus) -> RecordingReport {
    let location = format!("location={}", status.path.display());
    let pipeline = "qtdemux name=d d.video_0 ! queue ! h264parse ! avdec_h264 ! fakesink sync=false \
                    d.audio_0 ! queue ! opusdec ! fakesink sync=false";
    let played = Command::new("gst-launch-1.0")
        .args(["-q", "filesrc", &location, "!"])
        .args(pipeline.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .await;
    RecordingReport {
        path: status.path.display().to_string(),
        seconds: status.seconds,
        frames: status.frames,
        playable: played.is_ok_and(|output| output.status.success() && output.stderr.is_empty()),
    }
}

/// Counts how often this process was not scheduled for more than 20 ms: then latencies are the
/// machine's as much as ours (FACTS: such runs are void for benchmarks).
fn watch_scheduler() -> Arc<AtomicU64> {
    const TICK: Duration = Duration::from_millis(5);
    const STALL: Duration = Duration::from_millis(20);
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::downgrade(&count);
    std::thread::spawn(move || {
        loop {
            let before = Instant::now();
            std::thread::sleep(TICK);
            let Some(counter) = counter.upgrade() else { return };
            if before.elapsed() > TICK + STALL {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    count
}
