//! Viewers that are moq-net's, over real QUIC, of what we forward.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::catalog::Catalog;
use media::{AudioConfig, Frame, FrameId, Time, Track, TrackConfig, TrackId, VideoConfig, container};
use moq_net::{StreamError, broadcast, group, origin, track};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use tokio::sync::Semaphore;

use super::lite::Version;
use super::{Viewers, serve_quic};
use crate::admission::{self, Admission};
use crate::broadcasts::Broadcasts;
use crate::edge::HalfOpen;
use crate::intake::Intake;
use crate::origin::{Origin, Publication};

/// Bounds a wait on a busy machine; reaching it is a failure, never a measurement.
const PATIENCE: Duration = Duration::from_secs(20);

const LITE: [&str; 4] = ["moq-lite-03", "moq-lite-04", "moq-lite-05", "moq-lite-06"];
const VIDEO: TrackId = TrackId(0);
const AUDIO: TrackId = TrackId(1);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// A relay without its doors.
struct Relay {
    origin: Origin,
    addr: SocketAddr,
    certificate: rustls::pki_types::CertificateDer<'static>,
}

impl Relay {
    fn start() -> Self {
        let origin = Origin::start();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .unwrap();
        tls.alpn_protocols = moq_net::ALPNS.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
        let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let addr = endpoint.local_addr().unwrap();
        let (serving, viewers) = (origin.clone(), Arc::<Viewers>::default());
        let intake = Intake::new(origin.clone(), Broadcasts::default());
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let (origin, viewers) = (serving.clone(), viewers.clone());
                let intake = intake.clone();
                tokio::spawn(async move {
                    let admission = Admission::open(admission::Settings::default(), None).await.unwrap();
                    let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
                    let half_open = HalfOpen::new(place, None);
                    serve_quic(incoming.await.unwrap(), origin, viewers, intake, admission, half_open).await
                });
            }
        });
        Self { origin, addr, certificate }
    }

    fn publish(&self) -> Publication {
        let video = VideoConfig {
            codec: "avc3.42c01f".into(),
            width: 1280,
            height: 720,
            framerate: 30,
            bitrate: 1_000_000,
        };
        let audio = AudioConfig { codec: "opus".into(), sample_rate: 48_000, channels: 2, bitrate: 96_000 };
        let catalog = Catalog::from_tracks(&[
            Track { id: VIDEO, name: "video/720p".into(), config: TrackConfig::Video(video) },
            Track { id: AUDIO, name: "audio".into(), config: TrackConfig::Audio(audio) },
        ]);
        self.origin.publish("demo", &catalog).unwrap()
    }

    /// Subscriptions of viewers that we forward to.
    fn forwarded(&self) -> usize {
        self.origin.lives().viewers()
    }

    /// A connection in this version, with windows of so many bytes.
    async fn connect(&self, version: &str, window: Option<u32>) -> (quinn::Endpoint, quinn::Connection) {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![version.as_bytes().to_vec()];
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        if let Some(window) = window {
            let mut transport = quinn::TransportConfig::default();
            transport.stream_receive_window(window.into()).receive_window(window.into());
            config.transport_config(Arc::new(transport));
        }
        let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        endpoint.set_default_client_config(config);
        let connecting = endpoint.connect(self.addr, "localhost").unwrap();
        let connection = soon("a connection", connecting).await.unwrap();
        (endpoint, connection)
    }

    /// A viewer of this version.
    async fn view(&self, version: &str) -> Viewer {
        let (endpoint, connection) = self.connect(version, None).await;
        let (producer, driver) = origin::Producer::new(origin::Config::default());
        tokio::spawn(moq_net::time::run(driver));
        let client = moq_net::Client::new().with_subscriber(producer.clone());
        let session = web_transport_quinn::Session::raw(connection);
        let (session, driver) = soon("a session", client.connect(Instant::now(), session)).await.unwrap();
        tokio::spawn(moq_net::time::run(driver));
        let origin = producer.consume();
        let broadcast = soon("the broadcast", origin.routed_broadcast("demo")).await.unwrap();
        Viewer { broadcast, _session: session, _endpoint: endpoint }
    }
}

struct Viewer {
    broadcast: broadcast::Consumer,
    _session: moq_net::Session,
    _endpoint: quinn::Endpoint,
}

impl Viewer {
    async fn subscribe(&self, track: &str) -> Result<track::Subscriber, moq_net::Error> {
        let wish = track::Subscription::default().with_max_age(Duration::from_secs(5));
        soon("an answer", self.broadcast.track(track)?.subscribe(wish)).await
    }
}

fn frame(track: TrackId, group: u64, frame: u32) -> Frame {
    let number = group as usize * 100 + frame as usize;
    Frame {
        id: FrameId { track, group, frame },
        // A little disorder, as with B-frames of a stream that is passed through.
        capture_time: Time::from_micros(
            1_795_000_000_000_000 + number as u64 * 1_000 - u64::from(frame % 2) * 5_000,
        ),
        keyframe: frame == 0,
        data: Bytes::from(vec![number as u8; 10 + number % 3_000]),
    }
}

fn write_group(show: &mut Publication, track: TrackId, group: u64, frames: u32) {
    for n in 0..frames {
        show.write(&frame(track, group, n)).unwrap();
    }
}

async fn expect_frames(group: &mut group::Consumer, track: TrackId, frames: std::ops::Range<u32>) {
    for n in frames {
        let read = soon("a frame", group.read_frame()).await.unwrap().expect("it has not ended");
        let Frame { capture_time, data, .. } = frame(track, group.sequence, n);
        assert_eq!(read.payload, container::encode(capture_time, &data), "{n}");
    }
}

async fn next_group(track: &mut track::Subscriber) -> group::Consumer {
    soon("a group", track.recv_group()).await.unwrap().expect("the track has not ended")
}

#[tokio::test]
async fn viewers_of_all_versions_see_the_same_and_ours_are_forwarded() {
    let relay = Relay::start();
    let mut show = relay.publish();
    write_group(&mut show, VIDEO, 4, 3);
    write_group(&mut show, VIDEO, 7, 3);
    write_group(&mut show, AUDIO, 9, 2);
    let mut viewers = Vec::new();
    for version in LITE.into_iter().chain(["moqt-17"]) {
        let viewer = relay.view(version).await;
        let video = viewer.subscribe("video/720p").await.unwrap();
        let audio = viewer.subscribe("audio").await.unwrap();
        viewers.push((version, viewer, video, audio));
    }
    let mut reading = Vec::new();
    for (version, viewer, mut video, mut audio) in viewers {
        // The newest group at once, from its keyframe on; moq-net gives an older one to those that ask by age.
        let mut pictures = next_group(&mut video).await;
        if !LITE.contains(&version) && pictures.sequence == 4 {
            pictures = next_group(&mut video).await;
        }
        let mut sound = next_group(&mut audio).await;
        assert_eq!((pictures.sequence, sound.sequence), (7, 9), "{version}");
        expect_frames(&mut pictures, VIDEO, 0..3).await;
        expect_frames(&mut sound, AUDIO, 0..2).await;
        reading.push((viewer, video, audio, pictures, sound));
    }
    until("all of moq-lite", || relay.forwarded() == 2 * LITE.len()).await;
    // What comes on, and the next group.
    for n in 3..40 {
        show.write(&frame(VIDEO, 7, n)).unwrap();
    }
    write_group(&mut show, VIDEO, 8, 2);
    for (_, video, _, pictures, _) in &mut reading {
        expect_frames(pictures, VIDEO, 3..40).await;
        assert!(soon("the end of the group", pictures.read_frame()).await.unwrap().is_none());
        let mut next = next_group(video).await;
        assert_eq!(next.sequence, 8);
        expect_frames(&mut next, VIDEO, 0..2).await;
    }
    // And the end.
    drop(show);
    for (_, video, audio, ..) in &mut reading {
        assert!(soon("the end", video.recv_group()).await.is_ok_and(|group| group.is_none()));
        assert!(soon("the end", audio.recv_group()).await.is_ok_and(|group| group.is_none()));
    }
    until("nobody", || relay.forwarded() == 0).await;
}

/// A group as it goes onto the wire to subscription 7 of moq-lite-04.
fn stream_of(group: u64, frames: u32) -> Vec<u8> {
    let mut out = super::lite::group(Version::Lite04, 7, group).to_vec();
    for n in 0..frames {
        let Frame { capture_time, data, .. } = frame(VIDEO, group, n);
        let contained = container::encode(capture_time, &data);
        media::varint::put(contained.len() as u64, &mut out);
        out.extend(contained);
    }
    out
}

#[tokio::test]
async fn who_takes_nothing_holds_up_nobody_and_goes_on_with_what_is_new() {
    const GROUPS: u64 = 30;
    const FRAMES: u32 = 60;
    let relay = Relay::start();
    let mut show = relay.publish();
    write_group(&mut show, VIDEO, 0, FRAMES);
    // moq-net's viewers read all that comes; this one has no reader at all, and room for a part of a group.
    let (_endpoint, connection) = relay.connect("moq-lite-04", Some(20_000)).await;
    let slow = web_transport_quinn::Session::raw(connection);
    let (mut ask, _answers) = slow.open_bi().await.unwrap();
    ask.write_all(b"\x02\x16\x07\x04demo\x0avideo/720p\x00\x00\x00\x00\x00").await.unwrap();
    let quick = relay.view("moq-lite-06").await;
    let mut watched = quick.subscribe("video/720p").await.unwrap();
    expect_frames(&mut next_group(&mut watched).await, VIDEO, 0..FRAMES).await;
    until("both", || relay.forwarded() == 2).await;
    for number in 1..GROUPS {
        write_group(&mut show, VIDEO, number, FRAMES);
        let mut group = next_group(&mut watched).await;
        assert_eq!(group.sequence, number, "none is left out");
        expect_frames(&mut group, VIDEO, 0..FRAMES).await;
    }
    // So that it has an end.
    show.lost(VIDEO, GROUPS - 1);
    // Now it reads. What it was too slow for has been given up; the newest group is whole.
    let newest = stream_of(GROUPS - 1, FRAMES);
    let (mut whole, mut given_up) = (0, 0);
    let mut streams = tokio::task::JoinSet::new();
    loop {
        // All at once: they share the connection's window.
        let ended = tokio::select! {
            stream = soon("a stream", slow.accept_uni()) => {
                let (mut stream, most) = (stream.unwrap(), newest.len() * 2);
                streams.spawn(async move { stream.read_to_end(most).await });
                continue;
            }
            Some(ended) = streams.join_next() => ended.unwrap(),
        };
        match ended {
            Ok(group) if group == newest => break,
            Ok(group) => {
                assert!((0..GROUPS).any(|number| group == stream_of(number, FRAMES)), "no group");
                whole += 1;
            }
            Err(error) => {
                let old = format!("Reset({})", StreamError::Old.to_code());
                assert!(format!("{error:?}").contains(&old), "{error:?}");
                given_up += 1;
            }
        }
    }
    assert!(given_up >= 1 && whole <= 3, "{whole} whole groups and {given_up} given up before the newest");
}

#[tokio::test]
async fn who_leaves_is_forgotten_and_who_asks_for_what_is_not_there_is_told() {
    let relay = Relay::start();
    let mut show = relay.publish();
    write_group(&mut show, VIDEO, 1, 1);
    let viewer = relay.view("moq-lite-06").await;
    for _ in 0..3 {
        let mut video = viewer.subscribe("video/720p").await.unwrap();
        assert_eq!(next_group(&mut video).await.sequence, 1);
        until("the viewer", || relay.forwarded() == 1).await;
        drop(video);
        until("nobody", || relay.forwarded() == 0).await;
    }
    assert!(viewer.subscribe("video/4320p").await.is_err());
    let mut video = viewer.subscribe("video/720p").await.unwrap();
    assert_eq!(next_group(&mut video).await.sequence, 1);
    until("the viewer", || relay.forwarded() == 1).await;
    drop((video, viewer));
    until("nobody", || relay.forwarded() == 0).await;
    write_group(&mut show, VIDEO, 2, 1);
}

#[tokio::test]
async fn what_came_in_over_moq_is_read_once_and_forwarded_to_all() {
    let relay = Relay::start();
    let theirs = relay.origin.producer().create_broadcast("demo").unwrap();
    let info = track::Info::default().with_timescale(moq_net::Timescale::MILLI).with_priority(7);
    let track = theirs.create_track("cam", info).unwrap();
    theirs.announce(origin::Route::default()).unwrap();
    let mut group = track.create_group(group::Info { sequence: 3 }).unwrap();
    group.write_frame(moq_net::Timestamp::from_millis(500).unwrap(), Bytes::from_static(b"one")).unwrap();
    let (first, second) = (relay.view("moq-lite-06").await, relay.view("moq-lite-04").await);
    let (mut a, mut b) = (first.subscribe("cam").await.unwrap(), second.subscribe("cam").await.unwrap());
    let (mut in_a, mut in_b) = (next_group(&mut a).await, next_group(&mut b).await);
    until("both", || relay.forwarded() == 2).await;
    group.write_frame(moq_net::Timestamp::from_millis(533).unwrap(), Bytes::from_static(b"two")).unwrap();
    for (group, timed) in [(&mut in_a, true), (&mut in_b, false)] {
        for (payload, millis) in [(&b"one"[..], 500), (b"two", 533)] {
            let frame = soon("a frame", group.read_frame()).await.unwrap().expect("not the end");
            assert_eq!(frame.payload, payload);
            assert!(!timed || frame.timestamp.value() == millis, "{:?}", frame.timestamp);
        }
    }
    // Groups that never end hold up no newer one.
    let mut stuck = Vec::new();
    for sequence in 4..12 {
        let mut group = track.create_group(group::Info { sequence }).unwrap();
        let time = moq_net::Timestamp::from_millis(1_000 * sequence).unwrap();
        group.write_frame(time, Bytes::from_static(b"on")).unwrap();
        stuck.push(group);
    }
    let mut newest = next_group(&mut a).await;
    while newest.sequence < 11 {
        newest = next_group(&mut a).await;
    }
    assert_eq!(soon("a frame", newest.read_frame()).await.unwrap().expect("not the end").payload, b"on"[..]);
    assert!(first.subscribe("no such track").await.is_err());
    group.finish().unwrap();
    drop((stuck, track, theirs));
    // Too old by now: given up, or ended.
    assert!(!matches!(soon("the end", in_a.read_frame()).await, Ok(Some(_))));
    assert!(!matches!(soon("the end", a.recv_group()).await, Ok(Some(_))));
}
