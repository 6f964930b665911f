//! A show without an encoder, for tests of the bond's two ends.

#![allow(dead_code)] // Each test binary uses its own part.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::catalog::Catalog;
use media::{Frame, FrameId, Track, TrackConfig, TrackId, VideoConfig};
use relay::clock::Clock;
use relay::edge;
use relay::venue::{Frames, Hooks};
use tokio::sync::Notify;

/// Bounds a wait on a busy machine; reaching it is a failure, never a measurement.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Frames in a group, and between two of them.
const GROUP: u64 = 30;
const FRAME: Duration = Duration::from_millis(33);

/// Bytes of a frame: about 1 Mb/s.
const BYTES: usize = 4_000;

/// An edge on free ports of loopback that serves no page, keeps nothing, and has its certificate in `dir`.
pub fn edge_settings(dir: &Dir, token: Option<&str>) -> edge::Settings {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    edge::Settings {
        listen: any,
        http: any,
        https: None,
        certificate: None,
        state: dir.0.clone(),
        player: None,
        keep: None,
        upstream: Vec::new(),
        token: token.map(str::to_owned),
        admission: relay::admission::Settings::default(),
        drain: Duration::ZERO,
        webrtc: None,
    }
}

/// One video track.
pub fn catalog() -> Catalog {
    let config = VideoConfig {
        codec: "avc3.42c01f".into(),
        width: 1280,
        height: 720,
        framerate: 30,
        bitrate: 1_000_000,
    };
    let config = TrackConfig::Video(config);
    Catalog::from_tracks(&[Track { id: TrackId(0), name: "video/720p".into(), config }])
}

/// Thirty frames of noise a second. Must be called within a runtime.
pub fn frames(clock: Clock) -> Frames {
    let wake = Arc::new(Notify::new());
    let bell = Arc::downgrade(&wake);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(FRAME);
        loop {
            ticks.tick().await;
            match bell.upgrade() {
                Some(bell) => bell.notify_one(),
                None => return,
            }
        }
    });
    let (start, mut next) = (clock.now(), 0u64);
    let first_group = start.as_micros() / 250_000;
    let pop = move || {
        // What was not fetched in time (the process was stopped) is skipped, as a camera would.
        let now = clock.now();
        let due = start + FRAME * next as u32;
        if now < due {
            return None;
        }
        if now.saturating_since(due) > Duration::from_secs(1) {
            next = now.saturating_since(start).as_micros() as u64 / FRAME.as_micros() as u64 / GROUP * GROUP;
        }
        let id =
            FrameId { track: TrackId(0), group: first_group + next / GROUP, frame: (next % GROUP) as u32 };
        let frame =
            Frame { id, capture_time: now, keyframe: id.frame == 0, data: Bytes::from(vec![7; BYTES]) };
        next += 1;
        Some((frame, now))
    };
    Frames { pop: Box::new(pop), wake }
}

/// Nobody listens.
pub fn no_hooks() -> Hooks {
    Hooks { keyframe: Arc::new(|| ()), rate: Arc::new(|_| ()) }
}

/// Polls a condition, for what gives no event.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "waited {} s in vain for {what}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    started.elapsed()
}

/// A folder of its own for a test, removed at its end.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("roadie-relay-test-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
