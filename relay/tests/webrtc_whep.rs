//! WHEP out, to a client on str0m. Real sockets on loopback.

mod common;
#[path = "common/studio.rs"]
mod studio;
#[path = "common/tickets.rs"]
mod tickets;
#[path = "common/webrtc.rs"]
mod webrtc;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::until;
use relay::admission::claims::Claims;
use relay::clock::Clock;
use relay::venue::{self, Hooks, Venue};
use str0m::format::Codec;
use str0m::media::Direction;
use studio::Recording;
use tickets::{House, LATE, WORD, claims, now};
use webrtc::{Client, offer, request};

/// An edge that speaks WebRTC on loopback, whose shows anybody may watch.
async fn house(name: &str) -> House {
    House::open(name, |_, settings| {
        settings.admission.public = tickets::patterns(&["**"]);
        settings.webrtc = Some(on_loopback());
    })
    .await
}

fn on_loopback() -> relay::webrtc::Settings {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    relay::webrtc::Settings { listen, addresses: Vec::new(), turn: None }
}

/// A show with pictures and sound, and how often a keyframe was asked for.
async fn show(house: &House, broadcast: &str) -> (Venue, Arc<AtomicUsize>) {
    let settings = venue::Settings {
        edge: house.addr.clone(),
        broadcast: broadcast.into(),
        token: Some(WORD.into()),
        uplinks: relay::uplink::Plan::parse(&["127.0.0.1".to_owned()]).unwrap(),
        deadline: Duration::from_millis(400),
    };
    let clock = Clock::start();
    let recording = Arc::new(Recording::default());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let keyframe = move || {
        count.fetch_add(1, Ordering::Relaxed);
    };
    let hooks = Hooks { keyframe: Arc::new(keyframe), rate: Arc::new(|_| ()) };
    let frames = studio::capture(clock, recording);
    let venue = Venue::start(settings, studio::catalog(), clock, frames, hooks, None).unwrap();
    until("media at the edge", async || venue.status().bond.frames_acknowledged > 10).await;
    (venue, asked)
}

async fn viewer(house: &House, path: &str) -> Client {
    let client = Client::new(Direction::RecvOnly).await.call(house.http, path, "").await;
    client.unwrap_or_else(|answer| panic!("{answer:?}"))
}

async fn metric(house: &House, name: &str, labels: &str) -> f64 {
    let text = house.get("/metrics", "").await;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}{labels} ")));
    line.unwrap_or_else(|| panic!("{name}{labels} in {text}")).parse().unwrap()
}

/// The pictures' numbers, as the studio fills them in.
fn numbers(frames: &[str0m::media::MediaData]) -> Vec<u8> {
    frames.iter().map(|frame| *frame.data.last().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_gets_pictures_and_sound_from_the_newest_keyframe_on_without_a_hole() {
    let house = house("whep-plays").await;
    let (_venue, asked) = show(&house, "tour/london").await;
    // The edge itself may have asked, at the show's beginning.
    let before = asked.load(Ordering::Relaxed);
    let mut client = viewer(&house, "/whep/tour/london").await;
    client
        .until("pictures and sound", |client| {
            let of = |mid| client.received.iter().filter(|data| data.mid == mid).count();
            of(client.video) >= 60 && of(client.audio) >= 60
        })
        .await;
    let (video, audio) = (client.take(client.video), client.take(client.audio));
    let first = &video[0];
    assert!(first.is_keyframe() && first.data.starts_with(b"\0\0\0\x01\x67"), "parameter sets come first");
    assert_eq!(first.params.spec().codec, Codec::H264);
    assert!(video.iter().all(|frame| frame.contiguous));
    // The studio numbers pictures in their last byte: n | 1, so two pictures have one number.
    let numbers = numbers(&video);
    for pair in numbers.windows(2) {
        assert!(matches!(pair[1].wrapping_sub(pair[0]), 0 | 2), "{numbers:?}");
    }
    for (pair, step) in [(&video, 32_900..33_100), (&audio, 19_900..20_100)] {
        for two in pair.windows(2) {
            let gap = two[1].time.as_micros() - two[0].time.as_micros();
            assert!(step.contains(&gap), "{gap} us between two frames");
        }
    }
    assert!(audio.iter().all(|packet| packet.data.len() == 4 && packet.data[0] == 0xfc));
    // Shown as soon as they are decoded.
    for frame in &video {
        let delays = [frame.ext_vals.play_delay_min, frame.ext_vals.play_delay_max];
        assert!(delays.iter().all(|delay| delay.is_some_and(|delay| delay.is_zero())), "{delays:?}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), before, "a newcomer needs no new keyframe");

    client.ask_for_keyframe();
    client.until("the venue to be asked for a keyframe", |_| asked.load(Ordering::Relaxed) > before).await;
    assert_eq!(metric(&house, "roadie_webrtc_sessions", "{way=\"out\"}").await, 1.0);

    // It is counted once a second.
    client.until("more", |client| client.received.len() > 200).await;
    assert!(metric(&house, "roadie_webrtc_rtp_packets_total", "{way=\"out\"}").await > 60.0);
    let ended = request(house.http, "DELETE", &client.location, "", b"").await;
    assert_eq!(ended.status, 200);
    client.until("the session to end", |client| client.is_closed).await;
    assert_eq!(request(house.http, "DELETE", &client.location, "", b"").await.status, 404);
    assert_eq!(metric(&house, "roadie_webrtc_sessions", "{way=\"out\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_moves_to_another_network_and_goes_on() {
    let house = house("whep-moves").await;
    let (_venue, _) = show(&house, "show").await;
    let mut client = viewer(&house, "/whep/show").await;
    client.until("pictures", |client| client.received.len() > 30).await;
    let (etag, port) = (client.etag.clone(), client.port());
    let answer = client.move_to_another_port(house.http).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(client.etag != etag && client.port() != port);
    client.received.clear();
    client.until("pictures at the new port", |client| client.received.len() > 60).await;
    let trickle = "Content-Type: application/trickle-ice-sdpfrag\r\n";
    let candidate =
        b"m=audio 9 RTP/AVP 0\r\na=mid:0\r\na=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\r\n";
    for (lines, status) in [
        (trickle.to_owned(), 204),
        (format!("{trickle}If-Match: {}\r\n", client.etag), 204),
        (format!("{trickle}If-Match: {etag}\r\n"), 412),
        ("Content-Type: application/sdp\r\n".to_owned(), 415),
    ] {
        let answer = request(house.http, "PATCH", &client.location, &lines, candidate).await;
        assert_eq!(answer.status, status, "{lines}: {answer:?}");
    }
    let answer = request(house.http, "PATCH", &client.location, trickle, b"hello").await;
    assert_eq!(answer.status, 400, "{answer:?}");
    let answer = request(house.http, "PATCH", "/webrtc/0123", trickle, candidate).await;
    assert_eq!(answer.status, 404, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_stays_when_the_encoder_comes_again() {
    let house = house("whep-again").await;
    let (venue, _) = show(&house, "show").await;
    let mut client = viewer(&house, "/whep/show").await;
    client.until("pictures", |client| client.received.len() > 30).await;
    drop(venue);
    let (_venue, _) = show(&house, "show").await;
    client.received.clear();
    client
        .until("pictures of the second encoder", |client| {
            client.received.iter().filter(|data| data.mid == client.video).count() > 30
        })
        .await;
    assert!(client.take(client.video)[0].contiguous || !client.is_closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_decide_who_watches_and_until_when() {
    let house = House::open("whep-tickets", |_, settings| settings.webrtc = Some(on_loopback())).await;
    let (_venue, _) = show(&house, "show").await;
    let call = async |path: &str, headers: &str| {
        let client = Client::new(Direction::RecvOnly).await.call(house.http, path, headers).await;
        client.map_err(|answer| answer.status)
    };
    let good = house.ticket(&claims(&["show"], &[], LATE));
    let (head, rest) = good.split_once('.').unwrap();
    let unsigned = format!("{head}.{}.", rest.split_once('.').unwrap().0);
    for (ticket, status) in [
        ("", 401),
        ("rubbish", 401),
        (&unsigned, 401),
        (&house.ticket(&claims(&["show"], &[], now() - 1)), 401),
        (&house.ticket(&claims(&["shows"], &[], LATE)), 403),
        (&house.ticket(&claims(&[], &["show"], LATE)), 403),
    ] {
        assert_eq!(call(&format!("/whep/show?jwt={ticket}"), "").await.err(), Some(status), "{ticket}");
        let bearer = format!("Authorization: Bearer {ticket}\r\n");
        assert_eq!(call("/whep/show", &bearer).await.err(), Some(status), "{ticket}");
        // And nobody is told whether there is such a show.
        assert_eq!(
            call(&format!("/whep/nothing?jwt={ticket}"), "").await.err(),
            Some(if status == 401 { 401 } else { 403 })
        );
    }
    assert!(call("/whep/show", &format!("Authorization: Bearer {good}\r\n")).await.is_ok());
    let once = house.ticket(&Claims { sessions: Some(1), ..claims(&["show"], &[], LATE) });
    let first = call(&format!("/whep/show?jwt={once}"), "").await.unwrap();
    assert_eq!(call(&format!("/whep/show?jwt={once}"), "").await.err(), Some(429));
    assert_eq!(request(house.http, "DELETE", &first.location, "", b"").await.status, 200);
    assert!(call(&format!("/whep/show?jwt={once}"), "").await.is_ok());
    let end = now() + 3;
    let mut short =
        call(&format!("/whep/show?jwt={}", house.ticket(&claims(&["show"], &[], end))), "").await.unwrap();
    short.until("pictures", |client| client.received.len() > 20).await;
    short.until("the end of the ticket", |client| client.is_closed).await;
    assert!(now() >= end, "cut off too early");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_said() {
    let off =
        House::open("whep-off", |_, settings| settings.admission.public = tickets::patterns(&["**"])).await;
    let answer = offer(off.http, "/whep/show", "", "v=0").await;
    assert!(answer.status == 404 && answer.body.contains("--webrtc"), "{answer:?}");
    let house = house("whep-words").await;
    let (_venue, _) = show(&house, "show").await;
    let whole = Client::new(Direction::RecvOnly).await.offer;
    let only_vp8 = |codecs: &mut str0m::format::CodecConfig| codecs.enable_h264(false);
    let vp8 = Client::with(Direction::RecvOnly, only_vp8).await.offer;
    let sends = Client::new(Direction::SendOnly).await.offer;
    let long = "a=".repeat(40_000);
    for (path, sdp, status, words) in [
        ("/whep/nothing", whole.as_str(), 404, "no broadcast"),
        ("/whep/.hidden", &whole, 404, "not a broadcast name"),
        ("/whep/show", &vp8, 406, "H.264"),
        ("/whep/show", &sends, 406, "asks to receive no such thing"),
        ("/whep/show", "", 400, "no SDP offer"),
        ("/whep/show", "hello", 400, "no SDP offer"),
        ("/whep/show", &long, 413, "longer than"),
    ] {
        let answer = offer(house.http, path, "", sdp).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(answer.body.contains(words), "{path}: {answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    }
    for kind in ["", "Content-Type: application/json\r\n", "Content-Type: text/plain\r\n"] {
        let answer = request(house.http, "POST", "/whep/show", kind, whole.as_bytes()).await;
        assert!(answer.status == 415 && answer.body.contains("application/sdp"), "{kind}: {answer:?}");
    }
    let answer = request(house.http, "POST", "/whep/show", webrtc::SDP, b"v=0\r\n\xff\xfe").await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(request(house.http, "GET", "/whep/show", "", b"").await.status, 405);
    let answer = request(house.http, "OPTIONS", "/whep/show", "", b"").await;
    assert_eq!((answer.status, answer.header("accept-post")), (204, Some("application/sdp")));
    assert!(answer.header("access-control-allow-methods").unwrap().contains("POST"));
    let answer = request(house.http, "OPTIONS", "/webrtc/0123", "", b"").await;
    assert!(answer.header("access-control-allow-methods").unwrap().contains("DELETE"));
    assert!(answer.header("access-control-expose-headers").unwrap().contains("Location"));
}

/// Offers that are cut off, that repeat themselves and that contradict themselves, and rubbish at the UDP port: whoever
/// watches, watches on.
#[tokio::test(flavor = "multi_thread")]
async fn rubbish_harms_nobody() {
    let house = house("whep-rubbish").await;
    let (_venue, _) = show(&house, "show").await;
    let mut client = viewer(&house, "/whep/show").await;
    client.until("pictures", |client| client.received.len() > 30).await;
    let whole = Client::new(Direction::RecvOnly).await.offer;
    let lines: Vec<&str> = whole.lines().collect();
    let mut refused = 0;
    let without = (0..lines.len()).map(|n| [&lines[..n], &lines[n + 1..]].concat().join("\r\n") + "\r\n");
    let twice =
        (0..lines.len()).map(|n| [&lines[..n], &lines[n..n + 1], &lines[n..]].concat().join("\r\n") + "\r\n");
    let cut = (0..lines.len()).map(|n| lines[..n].join("\r\n") + "\r\n");
    let corpus = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdp")).unwrap();
    let corpus = corpus.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
    let all: Vec<String> = without.chain(twice).chain(cut).chain(corpus).collect();
    for sdp in &all {
        let answer = offer(house.http, "/whep/show", "", sdp).await;
        match answer.status {
            201 => {
                let location = answer.header("location").unwrap();
                assert_eq!(request(house.http, "DELETE", location, "", b"").await.status, 200);
            }
            400 | 406 => refused += 1,
            status => panic!("{status}: {answer:?} of {sdp}"),
        }
    }
    assert!(refused > lines.len() / 2, "{refused} of {} refused", all.len());

    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port: u16 = client.media_port();
    let mut random = 1u64;
    for n in 0..2_000usize {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut bytes: Vec<u8> = (0..n % 1_400).map(|at| (random >> (at % 56)) as u8 ^ at as u8).collect();
        // STUN, DTLS, RTP and RTCP by their first bytes, and anything.
        if let Some(first) = bytes.first_mut() {
            *first = [0, 22, 128, 144, *first][n % 5];
        }
        socket.send_to(&bytes, (Ipv4Addr::LOCALHOST, port)).await.unwrap();
    }
    client.received.clear();
    client.until("pictures after the rubbish", |client| client.received.len() > 90).await;
    assert!(client.take(client.video).iter().all(|frame| frame.contiguous));
    until("the rubbish to be counted", async || {
        metric(&house, "roadie_webrtc_stray_datagrams_total", "").await > 1_000.0
    })
    .await;
    assert_eq!(metric(&house, "roadie_webrtc_broken_sessions_total", "").await, 0.0);
}
