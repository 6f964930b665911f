//! Viewers, as a child process: MoQ programs over raw QUIC, each with a socket and a connection of its own.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use media::{Time, TrackId, container};
use quinn::crypto::rustls::QuicClientConfig;
use relay::clock::Clock;
use relay::tls::Identity;
use roadie::edge_api::EdgeApi;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::bond::media::{AUDIO, VIDEO};
use crate::cpu::child::{answer, orders};
use crate::cpu::product::BROADCAST;

/// A viewer is content with frames of this age at most, as our player is.
const MAX_AGE: Duration = Duration::from_millis(700);

/// Viewers that shake hands at once: what is measured is watching, not joining.
const JOINING: usize = 16;

/// Of so many viewers the time of every frame is written down; all are counted.
const TIMED: usize = 50;

/// Frames whose times wait to be compared with the relay's; more are not written down. 50 viewers, 80 frames a second,
/// a minute.
const MAX_TIMES: usize = 50 * 80 * 60;

/// How often the relay is asked when it had what.
const ASK: Duration = Duration::from_millis(500);

/// A frame that the relay still has not told of after this is not compared.
const TOLD: Duration = Duration::from_secs(2);

/// What came within a measurement.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Came {
    /// Bytes of media, over all viewers.
    pub bytes: u64,
    /// Frames and packets, over all viewers.
    pub frames: u64,
    /// From the relay having a frame (or the publisher giving it away) to a viewer having it, ms.
    pub added_p50_ms: f64,
    /// The same for 95 of 100.
    pub added_p95_ms: f64,
    /// Frames of which that is known.
    pub timed: u64,
    /// Viewers whose session ended.
    pub left: u64,
}

/// Microseconds since the machine started: all its processes read the same, which they do not where each has a wall clock
/// of its own.
pub fn uptime() -> Time {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Time::from_micros(now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000)
}

/// Whose times are compared.
#[derive(Clone, Copy)]
enum Watch {
    /// The relay's, on the broadcast clock.
    Relay(Clock),
    /// The publisher's, see [`uptime`].
    Publisher,
}

impl Watch {
    fn now(self) -> Time {
        match self {
            Watch::Relay(clock) => clock.now(),
            Watch::Publisher => uptime(),
        }
    }
}

/// A frame came to a viewer.
#[derive(Clone, Copy)]
struct Passage {
    track: u8,
    /// Microseconds of the broadcast clock, or of [`uptime`],
    captured: u64,
    /// and the same clock when it came.
    arrived: u64,
}

#[derive(Default)]
struct Count {
    bytes: AtomicU64,
    frames: AtomicU64,
    here: AtomicU64,
    left: AtomicU64,
    times: Mutex<Vec<Passage>>,
}

/// Where the relay is.
#[derive(Clone, Debug)]
pub struct Place {
    pub quic: u16,
    /// 0: it tells nothing of when it had a frame, and the publisher's time is taken.
    pub http: u16,
    /// Its state folder, with its certificate.
    pub state: String,
}

impl Place {
    /// As one argument.
    pub fn words(&self) -> String {
        format!("{},{},{}", self.quic, self.http, self.state)
    }

    /// From [`Place::words`].
    pub fn parse(words: &str) -> anyhow::Result<Self> {
        let mut parts = words.splitn(3, ',');
        let mut next = || parts.next().context("no relay was told");
        Ok(Self { quic: next()?.parse()?, http: next()?.parse()?, state: next()?.to_owned() })
    }
}

/// Says `ready` when everybody watches, then answers `begin`, and `end` with what came between the two.
pub async fn crowd(viewers: usize, relay: &str) -> anyhow::Result<()> {
    let place = Place::parse(relay)?;
    let config = client(Path::new(&place.state))?;
    let count = Arc::new(Count::default());
    let clock = if place.http == 0 { Watch::Publisher } else { Watch::Relay(Clock::start()) };
    let joining = Arc::new(Semaphore::new(JOINING));
    for number in 0..viewers {
        let (config, count, joining) = (config.clone(), count.clone(), joining.clone());
        let port = place.quic;
        tokio::spawn(async move {
            if let Err(error) = watch(config, port, &count, &joining, (number < TIMED).then_some(clock)).await
            {
                eprintln!("viewer {number}: {error:#}");
            }
            count.left.fetch_add(1, Relaxed);
        });
    }
    while count.here.load(Relaxed) < viewers as u64 {
        anyhow::ensure!(count.left.load(Relaxed) == 0, "a viewer could not watch");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    answer("ready");
    let api = (place.http != 0).then(|| EdgeApi::new(place.http));
    let mut orders = orders();
    while orders.recv().await.is_some() {
        let mut published = HashMap::new();
        let trace = async |from| match &api {
            Some(api) => api.trace(BROADCAST, from).await,
            None => Vec::new(),
        };
        let mut next = trace(0).await.last().map_or(0, |passage| passage.seq + 1);
        take(&count);
        answer("begun");
        let mut asking = tokio::time::interval(ASK);
        let mut ask = async |published: &mut HashMap<(u8, u64), u64>| {
            for passage in trace(next).await {
                next = passage.seq + 1;
                published.insert((passage.track, passage.capture_us), passage.published_us);
            }
        };
        loop {
            tokio::select! {
                _ = asking.tick() => ask(&mut published).await,
                order = orders.recv() => match order {
                    Some(_) => break,
                    None => return Ok(()),
                }
            }
        }
        let (mut came, times) = take(&count);
        ask(&mut published).await;
        compare(&mut came, &times, api.is_some().then_some(&published));
        answer(&serde_json::to_string(&came)?);
    }
    Ok(())
}

/// What came to a crowd that comes and goes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Passed {
    /// Viewers that have come so far, the first ones too.
    pub joined: u64,
    /// Those that saw nothing before they went, as each was meant to watch for a while.
    pub blind: u64,
    /// Those that did not go of their own accord.
    pub broken: u64,
    /// Frames and packets, over all viewers.
    pub frames: u64,
}

/// Says `ready` when everybody watches, and from then on lets the oldest go and a new one come, `joins` times a second;
/// answers each order with what has [`Passed`].
pub async fn churn(viewers: usize, joins: f64, relay: &str) -> anyhow::Result<()> {
    let place = Place::parse(relay)?;
    let config = client(Path::new(&place.state))?;
    let joining = Arc::new(Semaphore::new(JOINING));
    let mut passed = Passed::default();
    let start = |passed: &mut Passed| {
        passed.joined += 1;
        let (config, joining, port) = (config.clone(), joining.clone(), place.quic);
        let count = Arc::new(Count::default());
        let seen = count.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = watch(config, port, &count, &joining, None).await {
                eprintln!("a viewer: {error:#}");
            }
        });
        (task, seen)
    };
    let mut crowd: VecDeque<_> = (0..viewers).map(|_| start(&mut passed)).collect();
    while crowd.iter().any(|(_, seen)| seen.here.load(Relaxed) == 0) {
        anyhow::ensure!(!crowd.iter().any(|(task, _)| task.is_finished()), "a viewer could not watch");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    answer("ready");
    let mut orders = orders();
    let mut turns = tokio::time::interval(Duration::from_secs_f64(1.0 / joins));
    loop {
        tokio::select! {
            _ = turns.tick() => {
                if let Some((task, seen)) = crowd.pop_front() {
                    passed.broken += u64::from(task.is_finished());
                    task.abort();
                    passed.blind += u64::from(seen.here.load(Relaxed) == 0);
                    passed.frames += seen.frames.swap(0, Relaxed);
                }
                crowd.push_back(start(&mut passed));
            }
            order = orders.recv() => match order {
                Some(_) => {
                    passed.frames += crowd.iter().map(|(_, seen)| seen.frames.swap(0, Relaxed)).sum::<u64>();
                    answer(&serde_json::to_string(&passed)?);
                }
                None => return Ok(()),
            }
        }
    }
}

/// What came since the last time.
fn take(count: &Count) -> (Came, Vec<Passage>) {
    let times = std::mem::take(&mut *count.times.lock().unwrap_or_else(PoisonError::into_inner));
    let came = Came {
        bytes: count.bytes.swap(0, Relaxed),
        frames: count.frames.swap(0, Relaxed),
        left: count.left.load(Relaxed),
        ..Came::default()
    };
    (came, times)
}

/// Where the relay tells nothing, a frame's capture time is when the publisher gave it away.
fn compare(came: &mut Came, times: &[Passage], published: Option<&HashMap<(u8, u64), u64>>) {
    let mut added = Histogram::<u64>::new_with_bounds(1, TOLD.as_micros() as u64, 3).ok();
    for Passage { track, captured, arrived } in times {
        let published = match published {
            Some(published) => published.get(&(*track, *captured)),
            None => Some(captured),
        };
        let Some(published) = published else { continue };
        let micros = arrived.saturating_sub(*published);
        if let Some(added) = added.as_mut().filter(|_| micros < TOLD.as_micros() as u64) {
            added.saturating_record(micros.max(1));
        }
    }
    if let Some(added) = added {
        came.added_p50_ms = added.value_at_quantile(0.5) as f64 / 1e3;
        came.added_p95_ms = added.value_at_quantile(0.95) as f64 / 1e3;
        came.timed = added.len();
    }
}

/// Trusts the relay's own certificate.
fn client(state: &Path) -> anyhow::Result<quinn::ClientConfig> {
    let Identity { chain, .. } = Identity::self_signed(state)?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in chain {
        roots.add(certificate)?;
    }
    let mut tls =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
    tls.alpn_protocols = moq_net::ALPNS.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    Ok(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)))
}

/// One viewer, until its session ends.
async fn watch(
    config: quinn::ClientConfig,
    port: u16,
    count: &Arc<Count>,
    joining: &Semaphore,
    timed: Option<Watch>,
) -> anyhow::Result<()> {
    let place = joining.acquire().await?;
    let mut endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    endpoint.set_default_client_config(config);
    let connection = endpoint.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), "localhost")?.await?;
    let (producer, driver) = moq_net::origin::Producer::new(moq_net::origin::Config::default());
    tokio::spawn(moq_net::time::run(driver));
    let client = moq_net::Client::new().with_subscriber(producer.clone());
    let session = web_transport_quinn::Session::raw(connection);
    let (_session, driver) = client.connect(Instant::now(), session).await?;
    let running = tokio::spawn(moq_net::time::run(driver));
    let consumer = producer.consume();
    let announced = consumer.announced().next().await.context("nothing is announced")?;
    let broadcast = consumer.request_broadcast(&announced.prefix).await?;
    let subscription = moq_net::track::Subscription::default().with_max_age(MAX_AGE);
    let mut tracks = Vec::new();
    for (id, name) in [(VIDEO, "video/720p"), (AUDIO, "audio")] {
        tracks.push((id, broadcast.track(name)?.subscribe(subscription.clone()).await?));
    }
    drop(place);
    let mut readers: Vec<_> =
        tracks.into_iter().map(|(id, track)| tokio::spawn(read(id, track, count.clone(), timed))).collect();
    let video = readers.swap_remove(0);
    tokio::select! {
        ended = video => ended??,
        _ = running => {}
    }
    Ok(())
}

async fn read(
    id: TrackId,
    mut track: moq_net::track::Subscriber,
    count: Arc<Count>,
    timed: Option<Watch>,
) -> anyhow::Result<()> {
    let mut first = true;
    while let Some(mut group) = track.recv_group().await? {
        let (count, now) = (count.clone(), std::mem::take(&mut first));
        if now {
            count.here.fetch_add(1, Relaxed);
        }
        // Groups come side by side.
        tokio::spawn(async move {
            while let Ok(Some(frame)) = group.read_frame().await {
                arrived(id, &frame.payload, &count, timed);
            }
        });
    }
    Ok(())
}

fn arrived(track: TrackId, payload: &bytes::Bytes, count: &Count, timed: Option<Watch>) {
    count.frames.fetch_add(1, Relaxed);
    count.bytes.fetch_add(payload.len() as u64, Relaxed);
    let Some(clock) = timed else { return };
    let Ok((captured, _)) = container::decode(payload.clone()) else { return };
    let arrived = clock.now().as_micros();
    let mut times = count.times.lock().unwrap_or_else(PoisonError::into_inner);
    if times.len() < MAX_TIMES {
        times.push(Passage { track: track.0, captured: captured.as_micros(), arrived });
    }
}
