//! Edge, uplinks and venue of a run.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use media::cmaf::{Digest, GroupDigest};
use media::{FrameId, TrackId};
use relay::backfill::GroupId;
use relay::edge::{self, Edge};
use relay::uplink::{Bind, EdgeAddress, Tariff, Uplink};
use relay::venue;
use roadie::edge_api::EdgeApi;
use roadie::emulator::Emulator;
use sim::{Conditions, Loss, Rate};
use tokio::task::JoinHandle;

/// The uplinks of the bond's issue: Mb/s and one-way milliseconds.
const UPLINKS: [(u64, u64); 3] = [(5, 25), (4, 35), (3, 15)];

/// An edge in this process that keeps, behind three uplinks.
pub struct Stage {
    edge: EdgeAddress,
    api: EdgeApi,
    task: JoinHandle<()>,
    /// The uplinks.
    pub uplinks: Vec<Emulator>,
    next: u64,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stage {
    /// Starts it, with its kept shows in `keep`.
    pub async fn start(dir: &Path, keep: &Path, seed: u64) -> anyhow::Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let settings = edge::Settings {
            listen: any,
            http: any,
            https: None,
            certificate: None,
            state: dir.join("edge"),
            player: None,
            keep: Some(keep.to_owned()),
            upstream: Vec::new(),
            token: None,
            admission: Default::default(),
            drain: Duration::ZERO,
            webrtc: None,
        };
        let edge = Edge::new(settings).await?;
        let quic = edge.quic_addr().context("the edge has no UDP port")?;
        let http = edge.http_addr().context("the edge has no TCP port")?;
        let address = EdgeAddress {
            host: "localhost".into(),
            port: quic.port(),
            fingerprint: Some(edge.fingerprint().to_owned()),
        };
        let task = tokio::spawn(async move {
            if let Err(error) = edge.run().await {
                eprintln!("the edge ended: {error}");
            }
        });
        let mut uplinks = Vec::new();
        for (n, (megabits, delay)) in UPLINKS.into_iter().enumerate() {
            let conditions = Conditions {
                rate: Rate::Fixed(megabits * 1_000_000),
                delay: Duration::from_millis(delay),
                jitter: Duration::from_millis(3),
                loss: Loss::Random(0.005),
                ..Conditions::default()
            };
            uplinks.push(Emulator::start(quic, conditions, seed.wrapping_add(2 * n as u64)).await?);
        }
        Ok(Self { edge: address, api: EdgeApi::new(http.port()), task, uplinks, next: 0 })
    }

    /// What all uplinks carry together, Mb/s.
    pub fn megabits(&self) -> f64 {
        UPLINKS.iter().map(|(megabits, _)| *megabits as f64).sum()
    }

    /// What a venue needs to know.
    pub fn venue(&self, broadcast: &str, deadline: Duration) -> venue::Settings {
        let uplink = |(n, emulator): (usize, &Emulator)| Uplink {
            name: format!("uplink-{}", n + 1),
            bind: Bind::Any,
            via: Some(emulator.addr()),
            tariff: Tariff::default(),
        };
        venue::Settings {
            edge: self.edge.clone(),
            broadcast: broadcast.into(),
            token: None,
            uplinks: self.uplinks.iter().enumerate().map(uplink).collect::<Vec<_>>().into(),
            deadline,
        }
    }

    /// The frames that passed the edge since the last call, and when they were handed to the viewers, in microseconds of
    /// the broadcast clock. `None`: lost, and the frame is the first of a run.
    pub async fn passages(&mut self, broadcast: &str) -> Vec<(FrameId, Option<u64>)> {
        let mut all = Vec::new();
        for passage in self.api.trace(broadcast, self.next).await {
            self.next = passage.seq + 1;
            let id = FrameId { track: TrackId(passage.track), group: passage.group, frame: passage.frame };
            all.push((id, (passage.outcome != "lost").then_some(passage.published_us)));
        }
        all
    }

    /// A number of the edge's about the show.
    pub async fn number(&self, broadcast: &str, path: &[&str]) -> u64 {
        let status = self.api.get("/api/status").await;
        let found = path.iter().fold(&status["broadcasts"][broadcast], |value, key| &value[*key]);
        found.as_u64().unwrap_or(0)
    }
}

/// The groups in a folder of recordings, as read from the media itself, with their digests in all files.
pub fn groups(dir: &Path) -> anyhow::Result<BTreeMap<GroupId, Vec<Digest>>> {
    let mut all: BTreeMap<GroupId, Vec<Digest>> = BTreeMap::new();
    let files: Vec<PathBuf> = encoder::record::recordings_in(dir)?;
    for path in files {
        let mut found: BTreeMap<GroupId, GroupDigest> = BTreeMap::new();
        for fragment in encoder::record::RecordingFile::open(&path)?.fragments()? {
            let fragment = fragment?;
            anyhow::ensure!(fragment.intact, "a wrong checksum in {}", path.display());
            let id = GroupId { track: fragment.id.track, group: fragment.id.group };
            found.entry(id).or_default().fragment(&fragment);
        }
        for (id, digest) in found {
            all.entry(id).or_default().push(digest.finish());
        }
    }
    Ok(all)
}
