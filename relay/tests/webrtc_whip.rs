//! WHIP in, from a client on str0m, and what viewers get of it. Real sockets on loopback.

mod common;
#[path = "common/tickets.rs"]
mod tickets;
#[path = "common/webrtc.rs"]
mod webrtc;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::until;
use serde_json::Value;
use str0m::format::Codec;
use str0m::media::Direction;
use tickets::{House, LATE, WORD, claims};
use webrtc::{Client, offer, request};

/// Parameter sets of 1280x720, as x264 makes them, with start codes.
const SETS: &[u8] = b"\0\0\0\x01\x67\x42\xc0\x1f\xd9\0\x50\x05\xbb\x01\x10\0\0\x03\0\x10\0\0\x03\x03\xc0\xf1\x83\x24\x80\0\0\0\x01\x68\xcb\x83\xcb\x20";

/// The start of a VP8 keyframe of 1280x720 as libvpx makes it.
const VP8: &[u8] = &[0x50, 0x3d, 0x01, 0x9d, 0x01, 0x2a, 0x00, 0x05, 0xd0, 0x02, 0x39, 0x47];

const PICTURE: Duration = Duration::from_millis(33);
const PACKET: Duration = Duration::from_millis(20);

/// An edge that speaks WebRTC on loopback, whose shows anybody may watch.
async fn house(name: &str) -> House {
    House::open(name, |_, settings| {
        settings.admission.public = tickets::patterns(&["**"]);
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        settings.webrtc = Some(relay::webrtc::Settings { listen, addresses: Vec::new(), turn: None });
    })
    .await
}

/// The n-th picture.
fn picture(codec: Codec, n: usize, keyframe: bool) -> Vec<u8> {
    let mut data = match (codec, keyframe) {
        (Codec::Vp8, true) => VP8.to_vec(),
        (Codec::Vp8, false) => vec![0x51, 0x3d, 0x01],
        (_, true) => [SETS, &[0, 0, 0, 1, 0x65]].concat(),
        (_, false) => vec![0, 0, 0, 1, 0x41],
    };
    // Its number in digits that are no start code, and enough to be cut up.
    data.extend(format!("{n:06}").bytes());
    data.resize(4_000, b'.');
    data
}

fn number(picture: &[u8]) -> usize {
    let end = picture.iter().rposition(|&byte| byte != b'.').unwrap();
    std::str::from_utf8(&picture[end - 5..=end]).unwrap().parse().unwrap()
}

/// What a program is to bring.
#[derive(Clone, Copy)]
struct Show {
    /// `None`: sound only.
    video: Option<Codec>,
    /// Pictures from keyframe to keyframe.
    group: usize,
}

const H264: Show = Show { video: Some(Codec::H264), group: 30 };

/// A program that publishes in the background.
struct Publisher {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    closed: Arc<AtomicBool>,
    location: String,
}

impl Drop for Publisher {
    /// Falls silent, without a word.
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

impl Publisher {
    async fn start(house: &House, path: &str, show: Show) -> Result<Self, webrtc::Answer> {
        let mut client = Client::new(Direction::SendOnly).await;
        if let Some(codec) = show.video {
            client = Client::with(Direction::SendOnly, |codecs| {
                codecs.enable_h264(codec == Codec::H264);
                codecs.enable_vp8(codec == Codec::Vp8);
            })
            .await;
        }
        let mut client = client.call(house.http, path, "").await?;
        let (stop, closed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let asked = Arc::new(AtomicUsize::new(0));
        let location = client.location.clone();
        client.until("a connection", |client| client.is_connected).await;
        let publisher = Self { stop: stop.clone(), asked: asked.clone(), closed: closed.clone(), location };
        tokio::spawn(async move {
            let start = Instant::now();
            let (mut pictures, mut packets, mut answered) = (0usize, 0u32, 0);
            let mut keyframe = 0;
            while !stop.load(Relaxed) && !client.is_closed {
                let now = start.elapsed();
                if let Some(codec) = show.video.filter(|_| now >= PICTURE * pictures as u32) {
                    // Like an encoder: a keyframe when it is time, or asked for.
                    let due = pictures - keyframe >= show.group
                        || pictures == 0
                        || answered < client.keyframe_requests;
                    if due {
                        (keyframe, answered) = (pictures, client.keyframe_requests);
                    }
                    let data = picture(codec, pictures, due);
                    client.write(client.video, codec, PICTURE * pictures as u32, &data);
                    pictures += 1;
                }
                if now >= PACKET * packets {
                    client.write(client.audio, Codec::Opus, PACKET * packets, &[0xfc, packets as u8, 7, 9]);
                    packets += 1;
                }
                client.step().await;
                asked.store(client.keyframe_requests, Relaxed);
            }
            closed.store(client.is_closed, Relaxed);
        });
        Ok(publisher)
    }
}

async fn status(house: &House, name: &str) -> Value {
    let answer = house.get("/api/status", "").await;
    let json: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    json["broadcasts"][name].clone()
}

async fn live(house: &House, name: &str) {
    until("the show to be live", async || {
        let status = status(house, name).await;
        status["live"] == true && status["published"].as_u64() > Some(10)
    })
    .await;
}

async fn viewer(house: &House, path: &str) -> Client {
    let client = Client::new(Direction::RecvOnly).await.call(house.http, path, "").await;
    client.unwrap_or_else(|answer| panic!("{answer:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_brings_reaches_viewers_untouched() {
    let house = house("whip-untouched").await;
    let publisher =
        Publisher::start(&house, &format!("/whip/tour/london?jwt={WORD}").replace(' ', "%20"), H264).await;
    let publisher = publisher.unwrap_or_else(|answer| panic!("{answer:?}"));
    live(&house, "tour/london").await;
    assert_eq!(status(&house, "tour/london").await["whip"], true);
    let mut client = viewer(&house, "/whep/tour/london").await;
    client
        .until("pictures and sound", |client| {
            let of = |mid| client.received.iter().filter(|data| data.mid == mid).count();
            of(client.video) >= 90 && of(client.audio) >= 90
        })
        .await;
    let (video, audio) = (client.take(client.video), client.take(client.audio));
    let first = number(&video[0].data);
    for (n, frame) in (first..).zip(&video) {
        assert_eq!(&frame.data[..], picture(Codec::H264, n, frame.is_keyframe()), "picture {n}");
    }
    assert!(video[0].is_keyframe());
    let first = audio[0].data[1];
    for (n, packet) in audio.iter().enumerate() {
        assert_eq!(packet.data[..], [0xfc, first.wrapping_add(n as u8), 7, 9]);
    }
    // Over MoQ and HLS, too.
    let moq = house.viewer("/").await.unwrap();
    assert!(moq.watch("tour/london", 40).await > 40 * 3_900);
    let playlist = house.get("/hls/tour/london/index.m3u8", "").await;
    assert!(playlist.contains("avc1.42c01f") && playlist.contains("RESOLUTION=1280x720"), "{playlist}");

    // Nobody else comes under this name: not over WHIP, and not over a bond.
    let path = format!("/whip/tour/london?jwt={}", house.ticket(&claims(&[], &["**"], LATE)));
    let second = Publisher::start(&house, &path, H264).await;
    assert_eq!(second.err().map(|answer| answer.status), Some(409));
    let venue = house.venue("tour/london", Some(WORD));
    until("the venue to be told", async || {
        venue.status().uplinks.iter().any(|uplink| format!("{uplink:?}").contains("WHIP"))
    })
    .await;
    drop(venue);

    assert_eq!(request(house.http, "DELETE", &publisher.location, "", b"").await.status, 200);
    until("the program to be told", async || publisher.closed.load(Relaxed)).await;
    assert_eq!(status(&house, "tour/london").await, Value::Null);
    assert_eq!(
        offer(house.http, "/whep/tour/london", "", &Client::new(Direction::RecvOnly).await.offer)
            .await
            .status,
        404
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keyframes_are_asked_for_when_none_comes_and_when_a_viewer_needs_one() {
    let house = house("whip-keyframes").await;
    let path = format!("/whip/show?jwt={}", house.ticket(&claims(&[], &["show"], LATE)));
    let endless = Show { group: usize::MAX, ..H264 };
    let publisher =
        Publisher::start(&house, &path, endless).await.unwrap_or_else(|answer| panic!("{answer:?}"));
    live(&house, "show").await;
    until("a keyframe to be asked for", async || publisher.asked.load(Relaxed) > 0).await;
    let mut client = viewer(&house, "/whep/show").await;
    client.until("pictures", |client| !client.take(client.video).is_empty()).await;
    let before = publisher.asked.load(Relaxed);
    client.ask_for_keyframe();
    client.until("the viewer's wish to be passed on", |_| publisher.asked.load(Relaxed) > before).await;
    client
        .until("the keyframe", |client| client.take(client.video).iter().any(|frame| frame.is_keyframe()))
        .await;
    assert!(status(&house, "show").await["keyframe_requests"].as_u64().unwrap() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn vp8_passes_through_as_well_and_so_does_sound_alone() {
    let house = house("whip-vp8").await;
    let path = |name: &str| format!("/whip/{name}?jwt={}", house.ticket(&claims(&[], &["**"], LATE)));
    let vp8 = Show { video: Some(Codec::Vp8), group: 30 };
    let _vp8 =
        Publisher::start(&house, &path("vp8"), vp8).await.unwrap_or_else(|answer| panic!("{answer:?}"));
    let sound = Show { video: None, group: 1 };
    let _sound =
        Publisher::start(&house, &path("sound"), sound).await.unwrap_or_else(|answer| panic!("{answer:?}"));
    live(&house, "vp8").await;
    let mut client = viewer(&house, "/whep/vp8").await;
    client
        .until("pictures", |client| {
            client.received.iter().filter(|data| data.mid == client.video).count() >= 60
        })
        .await;
    let video = client.take(client.video);
    let first = number(&video[0].data);
    for (n, frame) in (first..).zip(&video) {
        assert_eq!(&frame.data[..], picture(Codec::Vp8, n, frame.is_keyframe()), "picture {n}");
    }
    // It had announced pictures, and is waited for a while.
    live(&house, "sound").await;
    let mut client = viewer(&house, "/whep/sound").await;
    client.until("sound", |client| client.received.len() >= 50).await;
    assert!(client.received.iter().all(|data| data.mid == client.audio));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_crashed_comes_back_before_its_dead_connection_is_noticed() {
    let house = house("whip-ghost").await;
    let path = format!("/whip/show?jwt={}", house.ticket(&claims(&[], &["show"], LATE)));
    let first = Publisher::start(&house, &path, H264).await.unwrap_or_else(|answer| panic!("{answer:?}"));
    live(&house, "show").await;
    let mut client = viewer(&house, "/whep/show").await;
    client.until("pictures", |client| client.received.len() > 20).await;
    assert_eq!(Publisher::start(&house, &path, H264).await.err().map(|answer| answer.status), Some(409));
    drop(first);
    let mut second = None;
    until("the name to be free", async || {
        second = Publisher::start(&house, &path, H264).await.ok();
        second.is_some()
    })
    .await;
    live(&house, "show").await;
    client.received.clear();
    client.until("pictures of the second", |client| client.received.len() > 20).await;
    assert_eq!(status(&house, "show").await["whip"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_decide_who_publishes() {
    let house = house("whip-tickets").await;
    for (ticket, status) in [
        (String::new(), 401),
        ("rubbish".into(), 401),
        (house.ticket(&claims(&["show"], &[], LATE)), 403),
        (house.ticket(&claims(&[], &["other"], LATE)), 403),
        (house.ticket(&claims(&[], &["show"], tickets::now() - 1)), 401),
    ] {
        let answer = Publisher::start(&house, &format!("/whip/show?jwt={ticket}"), H264).await;
        let answer = answer.err().unwrap_or_else(|| panic!("let in with {ticket:?}"));
        // Anybody may watch here, so without a ticket one knows that this is not for publishing.
        assert!(answer.status == status || ticket.is_empty() && answer.status == 401, "{ticket}: {answer:?}");
    }
    let sdp = Client::new(Direction::RecvOnly).await.offer;
    let bearer = format!("Authorization: Bearer {}\r\n", house.ticket(&claims(&[], &["show"], LATE)));
    let answer = offer(house.http, "/whip/show", &bearer, &sdp).await;
    assert!(answer.status == 406 && answer.body.contains("sends nothing of it"), "{answer:?}");
    assert_eq!(status(&house, "show").await, Value::Null, "the name is free again");
}
