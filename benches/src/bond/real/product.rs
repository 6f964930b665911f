//! One run of the real product: the venue with a made-up encoder, real sockets through emulated uplinks, the
//! edge in the same process.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use media::catalog::Catalog;
use media::{AudioConfig, Track, TrackConfig, VideoConfig};
use media::{Frame, FrameId, Time, TrackId};
use relay::clock::Clock;
use relay::edge::{self, Edge};
use relay::uplink::{Bind, EdgeAddress, Tariff, Uplink};
use relay::venue::{self, Frames, Hooks, Venue};
use roadie::edge_api::EdgeApi;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::feed::{feed, judge};
use super::uplinks::Uplinks;
use crate::bond::media::{AUDIO, VIDEO};
use crate::bond::plan::Plan;
use crate::bond::tally::Outcome;

/// All uplinks must have shaken hands by then; those that have not are used when they have.
const CONNECT: Duration = Duration::from_secs(10);

/// How often the edge is asked what came: well before it forgets.
const COLLECT: Duration = Duration::from_millis(500);

/// After the last deadline, what is late gets this long.
const DRAIN: Duration = Duration::from_secs(1);

/// Frames that wait for the venue's task; above this the oldest is forgotten, as the encoder's tap would.
const QUEUE: usize = 512;

/// An edge in this process, on free ports of loopback.
pub struct Stage {
    quic: SocketAddr,
    fingerprint: String,
    api: EdgeApi,
    task: JoinHandle<()>,
    shows: u64,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stage {
    /// Starts the edge.
    pub async fn start() -> anyhow::Result<Self> {
        let edge = start_edge().await?;
        let quic = edge.quic_addr().context("the edge has no UDP port")?;
        let http = edge.http_addr().context("the edge has no TCP port")?;
        let fingerprint = edge.fingerprint().to_owned();
        let task = tokio::spawn(async move {
            if let Err(error) = edge.run().await {
                eprintln!("the edge ended: {error}");
            }
        });
        Ok(Self { quic, fingerprint, api: EdgeApi::new(http.port()), task, shows: 0 })
    }

    /// Runs a plan in wall-clock time.
    pub async fn run(&mut self, plan: &Plan, seed: u64) -> anyhow::Result<Outcome> {
        self.shows += 1;
        let broadcast = format!("bench-{}", self.shows);
        let clock = Clock::start();
        let near = |_| SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut uplinks = Uplinks::start(plan, &[self.quic], near, seed).await?;
        let tap = Tap::default();
        let venue = self.venue(plan, &broadcast, &uplinks, clock, &tap)?;
        wait_for(&venue, uplinks.addresses().count()).await?;
        let first_frame = uplinks.begin(plan, &clock).await;
        let feeding = feed(
            plan,
            seed,
            first_frame,
            &clock,
            || tap.video_rate(plan),
            |sent| tap.put(sent.coming.frame_captured(sent.at, sent.bytes), sent.at),
        );
        let collecting = self.collect(&broadcast, plan.media.length + plan.deadline + DRAIN);
        let (sent, came) = tokio::join!(feeding, collecting);
        let (video, audio) = judge(&sent, &came, plan.deadline);
        let status = venue.status();
        let outcome = Outcome {
            video,
            audio,
            uplinks: uplinks.outcome(),
            target_rate: u64::from(status.target_rate),
            sender: status.bond,
            ..Outcome::default()
        };
        venue.stop().await;
        match outcome.sender.frames_pushed {
            0 => bail!("no frame reached the bond"),
            _ => Ok(outcome),
        }
    }

    fn venue(
        &self,
        plan: &Plan,
        broadcast: &str,
        uplinks: &Uplinks,
        clock: Clock,
        tap: &Tap,
    ) -> std::io::Result<Venue> {
        let uplink = |(number, via): (usize, SocketAddr)| Uplink {
            name: format!("uplink-{}", number + 1),
            bind: Bind::Any,
            via: Some(via),
            tariff: Tariff::default(),
        };
        let settings = venue::Settings {
            edge: EdgeAddress {
                host: "localhost".into(),
                port: self.quic.port(),
                fingerprint: Some(self.fingerprint.clone()),
            },
            broadcast: broadcast.into(),
            token: None,
            uplinks: uplinks.addresses().map(uplink).collect::<Vec<_>>().into(),
            deadline: plan.deadline,
        };
        Venue::start(settings, catalog(plan), clock, tap.frames(), tap.hooks(), None)
    }

    /// What the edge's trace says of each frame, for so long.
    async fn collect(&self, broadcast: &str, length: Duration) -> BTreeMap<FrameId, Time> {
        let end = tokio::time::Instant::now() + length;
        let mut came = BTreeMap::new();
        let mut next = 0;
        while tokio::time::Instant::now() < end {
            tokio::time::sleep(COLLECT).await;
            for passage in self.api.trace(broadcast, next).await {
                next = passage.seq + 1;
                // What cannot be decoded came too: the frame that is missing is counted, not all behind it.
                if passage.outcome != "lost" {
                    let track = TrackId(passage.track);
                    let id = FrameId { track, group: passage.group, frame: passage.frame };
                    came.insert(id, Time::from_micros(passage.published_us));
                }
            }
        }
        came
    }
}

/// An edge on free ports of loopback, with a certificate of its own that is nowhere kept.
pub(crate) async fn start_edge() -> anyhow::Result<Edge> {
    let state = super::scratch("edge");
    let edge = Edge::new(edge_settings(state.clone())).await;
    // It has read it. A folder that stays is litter, no more.
    let _ = std::fs::remove_dir_all(state);
    Ok(edge?)
}

fn edge_settings(state: PathBuf) -> edge::Settings {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    edge::Settings {
        listen: any,
        http: any,
        https: None,
        certificate: None,
        state,
        player: None,
        keep: None,
        upstream: Vec::new(),
        token: None,
        admission: Default::default(),
        drain: Duration::ZERO,
        webrtc: None,
    }
}

/// What stands between the made-up encoder and the venue.
#[derive(Clone, Default)]
pub(crate) struct Tap {
    queue: Arc<Mutex<VecDeque<(Frame, Time)>>>,
    wake: Arc<Notify>,
    rate: Arc<AtomicU32>,
}

impl Tap {
    /// Hands over a frame.
    pub(crate) fn put(&self, frame: Frame, at: Time) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= QUEUE {
            queue.pop_front();
        }
        queue.push_back((frame, at));
        self.wake.notify_one();
    }

    /// The venue's end.
    pub(crate) fn frames(&self) -> Frames {
        let queue = self.queue.clone();
        let pop = move || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        Frames { pop: Box::new(pop), wake: self.wake.clone() }
    }

    /// What the bond asks of the encoder.
    pub(crate) fn hooks(&self) -> Hooks {
        let rate = self.rate.clone();
        Hooks { keyframe: Arc::new(|| {}), rate: Arc::new(move |told| rate.store(told, Ordering::Relaxed)) }
    }

    fn video_rate(&self, plan: &Plan) -> u64 {
        match plan.follow {
            None => plan.media.video,
            Some(follow) => {
                let told = u64::from(self.rate.load(Ordering::Relaxed));
                told.saturating_sub(plan.media.audio).clamp(follow.least, follow.most)
            }
        }
    }
}

/// Until all uplinks are part of the bond, or time is up and some are.
pub(crate) async fn wait_for(venue: &Venue, uplinks: usize) -> anyhow::Result<()> {
    let end = tokio::time::Instant::now() + CONNECT;
    loop {
        let status = venue.status();
        let connected = status.uplinks.iter().filter(|uplink| uplink.connected).count();
        if connected == uplinks {
            return Ok(());
        }
        if tokio::time::Instant::now() >= end {
            let reason = status.uplinks.iter().find_map(|uplink| uplink.reason.clone());
            return match connected {
                0 => bail!("no uplink reaches the edge: {}", reason.unwrap_or_default()),
                _ => Ok(()),
            };
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the stream is announced as.
pub(crate) fn catalog(plan: &Plan) -> Catalog {
    let video = VideoConfig {
        codec: "avc3.42e01f".into(),
        width: 1280,
        height: 720,
        framerate: plan.media.fps,
        bitrate: plan.media.video as u32,
    };
    let audio = AudioConfig {
        codec: "opus".into(),
        sample_rate: 48_000,
        channels: 2,
        bitrate: plan.media.audio as u32,
    };
    let mut tracks = vec![Track { id: VIDEO, name: "video/720p".into(), config: TrackConfig::Video(video) }];
    if plan.media.audio > 0 {
        tracks.push(Track { id: AUDIO, name: "audio".into(), config: TrackConfig::Audio(audio) });
    }
    Catalog::from_tracks(&tracks)
}
