//! MoQ programs around a real edge in this process: some publish, some watch.

#![allow(dead_code)] // Each test binary uses its own part.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::{Frame, FrameId, Time, TrackId, varint};
use moq_net::{broadcast, group, track};
use relay::dial::{self, Address};
use relay::edge::{self, Edge};
use relay::origin::{Origin, Publication};
use relay::reload::Reload;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::common::{Dir, PATIENCE, catalog, edge_settings, until};

/// A real edge on free ports, in this process.
pub struct Stage {
    pub quic: u16,
    pub http: u16,
    pub fingerprint: String,
    pub reload: Option<Reload>,
    /// How often it was asked to stop.
    stops: watch::Sender<u32>,
    running: JoinHandle<()>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Stage {
    pub async fn start(dir: &Dir, token: Option<&str>) -> Self {
        Self::open(edge_settings(dir, token)).await
    }

    pub async fn open(settings: edge::Settings) -> Self {
        let edge = Edge::new(settings).await.unwrap();
        let (quic, http) = (edge.quic_addr().unwrap().port(), edge.http_addr().unwrap().port());
        let (fingerprint, reload) = (edge.fingerprint().to_owned(), Some(edge.reload()));
        let stops = watch::Sender::new(0);
        let asked = |times| {
            let mut stops = stops.subscribe();
            async move {
                if stops.wait_for(|count| *count >= times).await.is_err() {
                    std::future::pending().await
                }
            }
        };
        let running = edge.run_until_hurried(asked(1), asked(2));
        let running = tokio::spawn(async move { running.await.unwrap() });
        Self { quic, http, fingerprint, reload, stops, running }
    }

    /// One in another process.
    pub fn elsewhere(quic: u16, http: u16, fingerprint: String) -> Self {
        let running = tokio::spawn(std::future::pending());
        Self { quic, http, fingerprint, reload: None, stops: watch::Sender::new(0), running }
    }

    /// What SIGTERM does.
    pub fn stop(&self) {
        self.stops.send_modify(|count| *count += 1);
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) {
        tokio::time::timeout(PATIENCE, &mut self.running).await.expect("the edge goes on").unwrap();
    }

    pub fn address(&self, scheme: &str, path: &str) -> Address {
        let url = format!("{scheme}://127.0.0.1:{}/{path}", self.quic);
        Address::parse(&url, std::slice::from_ref(&self.fingerprint)).unwrap()
    }

    /// The names on the air, as the status has them.
    pub async fn names(&self) -> Vec<String> {
        let status = self.get("/api/status").await;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["broadcasts"].as_object().unwrap().keys().cloned().collect()
    }

    pub async fn get(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.http)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    pub async fn until_on_air(&self, names: &[&str]) {
        until("the broadcasts to be on the air", async || self.names().await == names).await;
    }
}

/// A program that publishes shows.
pub struct Program {
    pub origin: Origin,
    pub publications: Vec<Publication>,
    pub session: JoinHandle<Result<moq_net::Error, dial::DialError>>,
}

impl Program {
    pub fn start(address: Address, names: &[String]) -> Self {
        let origin = Origin::start();
        let publications = names.iter().map(|name| origin.publish(name, &catalog()).unwrap()).collect();
        let offered = origin.clone();
        let session = tokio::spawn(async move { dial::publish(&offered, &address).await });
        Self { origin, publications, session }
    }

    pub fn one(address: Address, name: &str) -> Self {
        Self::start(address, &[name.to_owned()])
    }

    /// Writes the first frame of a group.
    pub fn write(&mut self, group: u64, data: &'static [u8]) {
        let id = FrameId { track: TrackId(0), group, frame: 0 };
        let capture_time = Time::from_millis(1_000 + group);
        let frame = Frame { id, capture_time, keyframe: true, data: Bytes::from_static(data) };
        self.publications[0].write(&frame).unwrap();
    }

    /// How its session ended.
    pub async fn ended(&mut self) -> String {
        let ended = tokio::time::timeout(PATIENCE, &mut self.session).await.expect("it is not sent away");
        match ended.unwrap() {
            Ok(error) => error.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.session.abort();
    }
}

/// A viewer's own side of the relay: reads a track of a broadcast.
pub async fn subscribe(stage: &Stage, name: &str, track: &str) -> track::Subscriber {
    let broadcast = find(stage, name).await;
    let patient = track::Subscription::default().with_max_age(Duration::from_secs(5));
    broadcast.track(track).unwrap().subscribe(patient).await.unwrap()
}

pub async fn find(stage: &Stage, name: &str) -> broadcast::Consumer {
    let (session, producer) = call(stage).await;
    let found = producer.consume().routed_broadcast(name).await.unwrap();
    tokio::spawn(async move {
        let _session = session.closed().await;
        drop(producer);
    });
    found
}

/// A session of a stock MoQ client, and what the relay announces in it.
pub async fn call(stage: &Stage) -> (moq_net::Session, moq_net::origin::Producer) {
    let (producer, driver) = moq_net::origin::Producer::new(moq_net::origin::Config::default());
    tokio::spawn(moq_net::time::run(driver));
    let client = moq_net::Client::new().with_subscriber(producer.clone());
    let (session, driver) = client.connect(Instant::now(), raw(stage).await).await.unwrap();
    tokio::spawn(moq_net::time::run(driver));
    (session, producer)
}

pub async fn raw(stage: &Stage) -> web_transport_quinn::Session {
    raw_of(stage, moq_net::ALPNS).await
}

/// A session that offers these versions.
pub async fn raw_of(stage: &Stage, alpns: &[&str]) -> web_transport_quinn::Session {
    let dangerous = web_transport_quinn::ClientBuilder::new();
    let hash: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&stage.fingerprint[2 * at..2 * at + 2], 16).unwrap()).collect();
    let client = dangerous.with_server_certificate_hashes(vec![hash]).unwrap();
    let url = url::Url::parse(&format!("https://127.0.0.1:{}/", stage.quic)).unwrap();
    let mut request = web_transport_quinn::proto::ConnectRequest::new(url);
    for alpn in alpns {
        request = request.with_protocol(*alpn);
    }
    client.connect(request).await.unwrap()
}

/// Reads groups until one begins with `data`.
pub async fn until_comes(track: &mut track::Subscriber, data: &[u8]) {
    let reading = async {
        loop {
            let mut group: group::Consumer = track.recv_group().await.unwrap().expect("the track ended");
            let Some(frame) = group.read_frame().await.unwrap() else { continue };
            if frame.payload.ends_with(data) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .unwrap_or_else(|_| panic!("{:?} does not come", String::from_utf8_lossy(data)));
}

/// Frames with numbers, a hundred a second in groups of half a second, as sound has them, until this is dropped.
pub struct Feed(JoinHandle<()>);

impl Drop for Feed {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Feed {
    pub fn start(mut publication: Publication) -> Self {
        Self(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(10));
            for number in 0u64.. {
                ticks.tick().await;
                let id =
                    FrameId { track: TrackId(0), group: 1_000 + number / 50, frame: (number % 50) as u32 };
                let data = Bytes::copy_from_slice(&number.to_be_bytes());
                let capture_time = Time::from_millis(1_000 + number);
                publication.write(&Frame { id, capture_time, keyframe: id.frame == 0, data }).unwrap();
            }
        }))
    }
}

/// The numbers of a [`Feed`] that come to a viewer.
pub struct Seen {
    numbers: Arc<Mutex<BTreeSet<u64>>>,
    reading: JoinHandle<Result<(), moq_net::Error>>,
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Seen {
    pub fn read(mut track: track::Subscriber) -> Self {
        let numbers = Arc::<Mutex<BTreeSet<u64>>>::default();
        let seen = numbers.clone();
        let reading = tokio::spawn(async move {
            while let Some(mut group) = track.recv_group().await? {
                let seen = seen.clone();
                // Groups may come side by side.
                tokio::spawn(async move {
                    while let Ok(Some(frame)) = group.read_frame().await {
                        let number = frame.payload.last_chunk().unwrap();
                        seen.lock().unwrap().insert(u64::from_be_bytes(*number));
                    }
                });
            }
            Ok(())
        });
        Self { numbers, reading }
    }

    /// As our page does: one SUBSCRIBE of moq-lite-04 and the streams of its groups, without a cache of its own.
    pub async fn plain(stage: &Stage, name: &str, track: &str) -> Self {
        let session = raw_of(stage, &["moq-lite-04"]).await;
        let (mut send, receive) = session.open_bi().await.unwrap();
        send.write_all(&ask(1, name, track)).await.unwrap();
        let numbers = Arc::<Mutex<BTreeSet<u64>>>::default();
        let seen = numbers.clone();
        let reading = tokio::spawn(async move {
            let _subscribed = (send, receive);
            while let Ok(mut stream) = session.accept_uni().await {
                let seen = seen.clone();
                tokio::spawn(async move {
                    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
                    while let Ok(Some(length)) = stream.read(&mut chunk).await {
                        bytes.extend_from_slice(&chunk[..length]);
                        let mut rest = &bytes[..];
                        // The stream's type, and the group's header.
                        if varint::get(&mut rest) != Some(0) || sized(&mut rest).is_none() {
                            continue;
                        }
                        while let Some(frame) = sized(&mut rest) {
                            seen.lock().unwrap().insert(u64::from_be_bytes(*frame.last_chunk().unwrap()));
                        }
                    }
                });
            }
            Ok(())
        });
        Self { numbers, reading }
    }

    pub fn count(&self) -> usize {
        self.numbers.lock().unwrap().len()
    }

    /// Waits for so many more frames.
    pub async fn more(&self, frames: usize) {
        let goal = self.count() + frames;
        until("frames", async || {
            assert!(!self.reading.is_finished(), "the viewer was sent away");
            self.count() >= goal
        })
        .await;
    }

    /// Frames that did not come, between the first and the last that did: those of the newest groups may still be on
    /// their way.
    pub fn missing(&self) -> Vec<u64> {
        let numbers = self.numbers.lock().unwrap();
        let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else { return Vec::new() };
        (*first..last.saturating_sub(20)).filter(|number| !numbers.contains(number)).collect()
    }
}

/// SUBSCRIBE of moq-lite-04.
pub fn ask(id: u32, name: &str, track: &str) -> Vec<u8> {
    let mut body = (0x8000_0000 | id).to_be_bytes().to_vec();
    for text in [name, track] {
        body.push(text.len() as u8);
        body.extend_from_slice(text.as_bytes());
    }
    body.extend_from_slice(&[200, 0, 0x43, 0xe8, 0, 0]);
    [&[2, body.len() as u8][..], &body].concat()
}

/// What is behind its length at the front of `input`, where it is all there.
fn sized<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut ahead = *input;
    let length = varint::get(&mut ahead)?;
    let (body, rest) = ahead.split_at_checked(length as usize)?;
    *input = rest;
    Some(body)
}
