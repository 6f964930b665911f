//! Whatever strangers do to a relay, those who watch lose no frame. Each test has a show and a viewer, counts what the
//! stranger gets, and what the viewer misses: nothing.
//!
//! Elsewhere: floods of handshakes and limits (`admission.rs`), tickets (`tickets.rs`), frames of 10 MB, too many
//! announcements, two publishers of one name (`moq_publishers.rs`), rubbish over WebSocket and viewers that stand still
//! (`websocket.rs`), certificates (`certificates.rs`), full disks and killed edges (`backfill.rs`), takeovers
//! (`handshake.rs`), wrong clocks (`uplinks.rs`), killed encoders (`roadie/tests/e2e.rs`, `healing.rs`).

mod common;
#[path = "common/programs.rs"]
mod programs;
#[path = "common/prometheus.rs"]
mod prometheus;

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{Dir, PATIENCE, catalog, edge_settings, frames, no_hooks, until};
use media::catalog::Catalog;
use media::{Frame, FrameId, Time, Track, TrackId};
use programs::{Feed, Program, Seen, Stage, ask, raw, raw_of, subscribe};
use prometheus::Scrape;
use relay::clock::Clock;
use relay::uplink::{EdgeAddress, Plan};
use relay::venue::{self, Frames, Venue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// A relay with a show on it, and somebody who watches.
struct Evening {
    stage: Stage,
    seen: Seen,
    _feed: Feed,
    _program: Program,
    _dir: Dir,
}

impl Evening {
    async fn begin(name: &str) -> Self {
        let dir = Dir::new(name);
        let stage = Stage::open(edge_settings(&dir, None)).await;
        let mut program = Program::one(stage.address("moqt", ""), "good");
        stage.until_on_air(&["good"]).await;
        let feed = Feed::start(program.publications.remove(0));
        let seen = Seen::read(subscribe(&stage, "good", "video/720p").await);
        seen.more(50).await;
        Self { stage, seen, _feed: feed, _program: program, _dir: dir }
    }

    /// A second later nothing is missing.
    async fn unharmed(&self) {
        self.seen.more(100).await;
        assert_eq!(self.seen.missing(), Vec::<u64>::new());
    }

    async fn metrics(&self) -> Scrape {
        Scrape::parse(&self.stage.get("/metrics").await).unwrap()
    }

    async fn turned(&self, reason: &str) -> f64 {
        self.metrics().await.get("roadie_handshakes_refused_total", &[("reason", reason)])
    }

    fn venue(&self, broadcast: &str, catalog: Catalog, frames: Frames, clock: Clock) -> Venue {
        let edge = EdgeAddress {
            host: "127.0.0.1".into(),
            port: self.stage.quic,
            fingerprint: Some(self.stage.fingerprint.clone()),
        };
        let settings = venue::Settings {
            edge,
            broadcast: broadcast.into(),
            token: None,
            uplinks: Plan::parse(&["127.0.0.1".to_owned()]).unwrap(),
            deadline: Duration::from_millis(400),
        };
        Venue::start(settings, catalog, clock, frames, no_hooks(), None).unwrap()
    }
}

/// Slowloris. When they are sent away is seen on a clock of the test's own in `serve.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_connections_that_say_nothing_take_no_page_from_others() {
    let evening = Evening::begin("slowloris").await;
    let mut held = Vec::new();
    for number in 0..500 {
        let mut stream = TcpStream::connect(("127.0.0.1", evening.stage.http)).await.unwrap();
        // Every other one begins to speak, and never ends.
        if number % 2 == 0 {
            stream.write_all(b"GET / HTTP/1.1\r\nx-slow: ").await.unwrap();
        }
        held.push(stream);
    }
    for _ in 0..20 {
        for stream in held.iter_mut().step_by(2) {
            stream.write_all(b"a").await.unwrap();
        }
        assert_eq!(evening.stage.get("/readyz").await, "ok\n");
    }
    evening.unharmed().await;
}

/// Each begins a handshake from a port of its own, and hears no answer.
#[tokio::test(flavor = "multi_thread")]
async fn four_hundred_half_open_handshakes_are_forgotten() {
    const STRANGERS: usize = 400;
    let evening = Evening::begin("half-open").await;
    let sink = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let to = sink.local_addr().unwrap();
    let mut tls =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut callers = Vec::new();
    for _ in 0..STRANGERS {
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let connecting = endpoint.connect_with(config.clone(), to, "localhost").unwrap();
        callers.push((endpoint, connecting));
    }
    let relay = SocketAddr::from((Ipv4Addr::LOCALHOST, evening.stage.quic));
    let mut known = HashSet::new();
    let mut packet = [0; 2048];
    while known.len() < STRANGERS {
        let receiving = tokio::time::timeout(PATIENCE, sink.recv_from(&mut packet));
        let (length, from) = receiving.await.expect("nobody calls").unwrap();
        // Not what is repeated.
        if known.insert(from) {
            let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            stranger.send_to(&packet[..length], relay).await.unwrap();
        }
    }
    drop(callers);
    // Those that were let begin time out; the others were asked to prove their address.
    until("all to be forgotten", async || {
        let proofs = evening.metrics().await.get("roadie_address_proofs_total", &[]);
        proofs + evening.turned("timeout").await >= STRANGERS as f64
    })
    .await;
    assert!(evening.turned("timeout").await <= 300.0, "a quarter of 1,024, and those under way");
    evening.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_who_subscribes_ten_thousand_times_gets_what_one_session_may_have() {
    let evening = Evening::begin("greedy").await;
    let session = raw_of(&evening.stage, &["moq-lite-04"]).await;
    // All at once: the relay takes as many streams as a session may have open.
    let mut open = Vec::new();
    while open.len() < 10_000 {
        let opening = tokio::time::timeout(Duration::from_secs(1), session.open_bi());
        let Ok(Ok((mut send, receive))) = opening.await else { break };
        let message = ask(open.len() as u32, "good", "video/720p");
        send.write_all(&message).await.unwrap();
        open.push((send, receive));
    }
    println!("{} subscriptions at once", open.len());
    assert!(open.len() <= 256, "{}", open.len());
    evening.unharmed().await;
    drop((open, session));

    // One after the other: the same, the catalog, and tracks and broadcasts that there are not.
    let session = raw_of(&evening.stage, &["moq-lite-04"]).await;
    for number in 0..10_000u32 {
        let (mut send, mut receive) = session.open_bi().await.unwrap();
        let (name, track) = match number % 4 {
            0 => ("good", "video/720p".to_owned()),
            1 => ("good", "catalog.json".to_owned()),
            2 => ("good", format!("video/{number}")),
            _ => ("nobody", format!("video/{number}")),
        };
        send.write_all(&ask(number, name, &track)).await.unwrap();
        send.finish().unwrap();
        receive.stop(0).unwrap();
    }
    evening.unharmed().await;
    drop(session);
    until("the greedy one to be gone", async || {
        // Who publishes, and who watches.
        evening.metrics().await.get("roadie_viewers", &[]) == 2.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_show_of_too_many_tracks_is_refused_with_words() {
    let evening = Evening::begin("many-tracks").await;
    let track = &catalog().tracks()[0];
    let track = |n: u8| Track { id: TrackId(n), name: format!("video/{n}"), config: track.config.clone() };
    let tracks: Vec<_> = (0..65).map(track).collect();
    let clock = Clock::start();
    let venue = evening.venue("many", Catalog::from_tracks(&tracks), frames(clock), clock);
    until("the refusal", async || venue.status().uplinks.iter().any(|uplink| uplink.refused)).await;
    let reason = venue.status().uplinks[0].reason.clone().unwrap();
    assert!(reason.contains("too many"), "{reason}");
    evening.unharmed().await;
}

/// A program whose clock runs backwards, and a venue whose clock does so for a while.
#[tokio::test(flavor = "multi_thread")]
async fn capture_times_that_run_backwards_harm_their_own_show_only() {
    let evening = Evening::begin("backwards").await;
    let mut program = Program::one(evening.stage.address("moqt", ""), "backwards/moq");
    evening.stage.until_on_air(&["backwards/moq", "good"]).await;
    let mut track = subscribe(&evening.stage, "backwards/moq", "video/720p").await;
    let mut came = 0;
    for number in 0..100u64 {
        for frame in 0..3 {
            let id = FrameId { track: TrackId(0), group: number, frame };
            let capture_time = Time::from_millis(1_000_000 - 40 * (3 * number + u64::from(frame)));
            let data = Bytes::from_static(b"late");
            program.publications[0].write(&Frame { id, capture_time, keyframe: frame == 0, data }).unwrap();
        }
        let mut group = tokio::time::timeout(PATIENCE, track.recv_group()).await.unwrap().unwrap().unwrap();
        while came < 3 * (number + 1) {
            match tokio::time::timeout(PATIENCE, group.read_frame()).await.unwrap() {
                Ok(Some(_)) => came += 1,
                _ => break,
            }
        }
    }
    assert_eq!(came, 300, "a MoQ show is passed on as it is");

    let clock = Clock::start();
    let mut good = frames(clock);
    let (sent, began) = (Arc::new(AtomicU64::new(0)), clock.now());
    let count = sent.clone();
    let pop = move || {
        let (mut frame, at) = (good.pop)()?;
        let number = count.fetch_add(1, Ordering::Relaxed);
        if (60..150).contains(&number) {
            let back = Duration::from_millis(33 * (number - 60));
            frame.capture_time = Time::from_micros(began.as_micros() - back.as_micros() as u64);
        }
        Some((frame, at))
    };
    let backwards = Frames { pop: Box::new(pop), wake: good.wake.clone() };
    let venue = evening.venue("backwards/bond", catalog(), backwards, clock);
    let published = async || {
        let status: serde_json::Value =
            serde_json::from_str(&evening.stage.get("/api/status").await).unwrap();
        status["broadcasts"]["backwards/bond"]["published"].as_u64().unwrap_or(0)
    };
    until("the show before", async || published().await > 30).await;
    until("the end of the wrong times", async || sent.load(Ordering::Relaxed) > 150).await;
    evening.stage.get("/hls/backwards/bond/index.m3u8").await;
    let before = published().await;
    until("the show after", async || published().await > before + 60).await;
    venue.stop().await;
    evening.unharmed().await;
}

/// Its exit code, and what it said.
fn relay(arguments: &[&str], dir: &Dir) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_roadie-relay"))
        .args(arguments)
        .arg("--state")
        .arg(&dir.0)
        .env_remove("ROADIE_TOKEN")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_port_that_is_taken_is_named_with_its_option() {
    let dir = Dir::new("taken");
    let tcp = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let udp = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (tcp, udp) = (tcp.local_addr().unwrap().to_string(), udp.local_addr().unwrap().to_string());
    let free = "127.0.0.1:0";
    for (listen, http, https, option, taken) in [
        (&udp[..], free, free, "--listen", &udp),
        (free, &tcp[..], free, "--http", &tcp),
        (free, free, &tcp[..], "--https", &tcp),
    ] {
        let (code, words) = relay(&["--listen", listen, "--http", http, "--https", https], &dir);
        assert_eq!(code, Some(1), "{words}");
        assert!(words.contains(taken.as_str()) && words.contains(&format!("with {option}\n")), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_vanish_in_the_middle_of_anything_leave_nothing_behind() {
    let evening = Evening::begin("vanish").await;
    for _ in 0..50 {
        // A session, a request, and half of either.
        let session = raw(&evening.stage).await;
        let (mut send, _receive) = session.open_bi().await.unwrap();
        send.write_all(&[2, 60, 1]).await.unwrap();
        session.close(0, b"");
        let mut stream = TcpStream::connect(("127.0.0.1", evening.stage.http)).await.unwrap();
        stream
            .write_all(b"POST /api/quality HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n{")
            .await
            .unwrap();
        drop(stream);
    }
    until("all to be gone", async || {
        let metrics = evening.metrics().await;
        let open: f64 = ["webtransport", "moq", "bond"]
            .iter()
            .map(|protocol| metrics.get("roadie_connections", &[("protocol", protocol)]))
            .sum();
        open == 2.0
    })
    .await;
    let mut stream = TcpStream::connect(("127.0.0.1", evening.stage.http)).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("ok\n"), "{answer}");
    evening.unharmed().await;
}
