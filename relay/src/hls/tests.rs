//! Real HTTP against shows whose frames the test gives.

use std::net::SocketAddr;
use std::ops::Range;

use media::{FrameId, Time, TrackConfig, VideoConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::admission::claims::{Claims, Grant, pattern};
use crate::admission::key::Algorithm;
use crate::admission::sign::SigningKey;
use crate::admission::{self, Admission};

const VIDEO: TrackId = TrackId(0);

/// Bounds a wait on a busy machine; reaching it is a failure, never a measurement.
const PATIENCE: Duration = Duration::from_secs(30);

/// Parameter sets of 1280x720, and a slice of an IDR picture.
const KEYFRAME: &[u8] = b"\0\0\0\x01\x67\x42\xc0\x1f\xd9\0\x50\x05\xbb\x01\x10\0\0\x03\0\x10\0\0\x03\x03\xc0\xf1\x83\x24\x80\0\0\0\x01\x68\xcb\x83\xcb\x20\0\0\0\x01\x65\x88";

fn track(codec: &str) -> Track {
    let codec = codec.into();
    let config = VideoConfig { codec, width: 1280, height: 720, framerate: 30, bitrate: 1_000_000 };
    Track { id: VIDEO, name: "video/720p".into(), config: TrackConfig::Video(config) }
}

/// Pictures of 30 a second, in groups of a second.
fn feed(feed: &Feed, numbers: Range<u32>) {
    for n in numbers {
        let keyframe = n % 30 == 0;
        let id = FrameId { track: VIDEO, group: u64::from(n / 30), frame: n % 30 };
        let capture_time = Time::from_millis(1_795_000_000_000) + Duration::from_micros(33_333) * n;
        let data = if keyframe { KEYFRAME } else { b"\0\0\0\x01\x41\x9a" };
        feed.frame(&Frame { id, capture_time, keyframe, data: data.into() });
    }
}

/// The number of the first segment.
const FIRST: u64 = 1_795_000_000 - 1_577_836_800;

async fn serve(hls: &Hls) -> SocketAddr {
    serve_to(hls, admission::Settings::default()).await
}

async fn serve_to(hls: &Hls, doors: admission::Settings) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let admission = Admission::open(doors, None).await.unwrap();
    let app = router(hls.clone(), admission);
    tokio::spawn(async move { axum::serve(listener, app).await });
    addr
}

async fn ask(addr: SocketAddr, method: &str, path: &str) -> String {
    ask_with(addr, method, path, "").await
}

async fn ask_with(addr: SocketAddr, method: &str, path: &str, headers: &str) -> String {
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let request = format!("{method} /hls/{path} HTTP/1.0\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("no answer")
}

async fn get(addr: SocketAddr, path: &str) -> String {
    ask(addr, "GET", path).await
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

#[tokio::test]
async fn every_request_gets_its_status_and_its_cache_headers() {
    let hls = Hls { patience: Duration::from_millis(50), ..Hls::default() };
    let addr = serve(&hls).await;
    let show = hls.publish("tour/london", &[track("avc3.42c01f")]);
    let _vp8 = hls.publish("tour/vp8", &[track("vp8")]);
    let empty = get(addr, "tour/london/track0.m3u8").await;
    assert!(empty.starts_with("HTTP/1.0 503") && empty.contains("retry-after: 1\r\n"), "{empty}");
    feed(&show, 0..150);
    let next = FIRST + 2;
    let forever = "cache-control: public, max-age=31536000, immutable\r\n";
    let cases: &[(&str, &str, &str)] = &[
        ("tour/london/index.m3u8", "200", "content-type: application/vnd.apple.mpegurl\r\n"),
        ("tour/london/index.m3u8?_HLS_msn=x", "200", "track0.m3u8"),
        ("tour/london/track0.m3u8", "200", "cache-control: public, max-age=1\r\n"),
        (&format!("tour/london/track0.m3u8?_HLS_msn={next}&_HLS_part=2"), "200", "max-age=24\r\n"),
        ("tour/london/track0-init0.mp4", "200", forever),
        (&format!("tour/london/track0-{FIRST}.m4s"), "200", "content-type: video/mp4\r\n"),
        (&format!("tour/london/track0-{next}.2.m4s"), "200", forever),
        ("tour/london/track0.m3u8?_HLS_msn=x", "400", "_HLS_msn is to be a decimal number\n"),
        ("tour/london/track0.m3u8?_HLS_part=1", "400", "_HLS_part goes with _HLS_msn\n"),
        ("tour/london/track0.m3u8?_HLS_msn=999999999", "400", "too far in the future\n"),
        (
            &format!("tour/london/track0.m3u8?_HLS_msn={next}&_HLS_part=3"),
            "503",
            "cache-control: no-store\r\n",
        ),
        (&format!("tour/london/track0-{next}.3.m4s"), "503", "nothing new has come"),
        (&format!("tour/london/track0-{next}.4.m4s"), "404", "has no track0-"),
        ("tour/london/track7.m3u8", "404", "has no track7.m3u8"),
        ("tour/london/%2e%2e/index.m3u8", "404", "no broadcast"),
        ("tour/london/passwd", "404", "/hls/BROADCAST/index.m3u8"),
        ("index.m3u8", "404", "/hls/BROADCAST/index.m3u8"),
        ("nobody/index.m3u8", "404", "no broadcast \"nobody\" is on the air\n"),
        ("tour/vp8/index.m3u8", "406", "pictures are vp8"),
        ("tour/vp8/track0.m3u8", "406", "pictures are vp8"),
    ];
    for (path, status, words) in cases {
        let answer = get(addr, path).await;
        assert!(answer.starts_with(&format!("HTTP/1.0 {status} ")), "{path}: {answer}");
        assert!(answer.contains(words), "{path}: {answer}");
        assert!(answer.contains("access-control-allow-origin: *\r\n"), "{path}: {answer}");
    }
    let whole = get(addr, &format!("tour/london/track0-{FIRST}.m4s")).await;
    let head = ask(addr, "HEAD", &format!("tour/london/track0-{FIRST}.m4s")).await;
    let length = whole.split_once("\r\n\r\n").unwrap();
    let named = whole.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap();
    assert!(head.contains(&format!("content-length: {named}\r\n")) && head.ends_with("\r\n\r\n"), "{head}");
    assert!(length.1.contains("mdat"));
    let preflight = ask(addr, "OPTIONS", "tour/london/index.m3u8").await;
    assert!(preflight.starts_with("HTTP/1.0 204"), "{preflight}");
    assert!(preflight.contains("access-control-allow-headers: authorization, range\r\n"), "{preflight}");
    assert!(ask(addr, "POST", "tour/london/index.m3u8").await.starts_with("HTTP/1.0 405"));
}

#[tokio::test]
async fn a_reload_is_answered_by_the_frame_that_it_waits_for() {
    let hls = Hls { patience: PATIENCE, ..Hls::default() };
    let addr = serve(&hls).await;
    let show = hls.publish("demo", &[track("avc3.42c01f")]);
    // Before there is anything, the first playlist waits for a whole segment.
    let first = tokio::spawn(async move { get(addr, "demo/track0.m3u8").await });
    until("the request", || hls.waiting() == 1).await;
    feed(&show, 0..60);
    assert_eq!(hls.waiting(), 1, "a part is not enough");
    feed(&show, 60..61);
    assert!(first.await.unwrap().contains(&format!("\ntrack0-{FIRST}.m4s\n")));

    let next = FIRST + 1;
    let path = format!("demo/track0.m3u8?_HLS_msn={next}&_HLS_part=0");
    let reload = tokio::spawn(async move { get(addr, &path).await });
    let path = format!("demo/track0-{next}.0.m4s");
    let hinted = tokio::spawn(async move { get(addr, &path).await });
    until("both requests", || hls.waiting() == 2).await;
    feed(&show, 61..69);
    assert!(!reload.is_finished() && hls.waiting() == 2, "its last frame may still be longer");
    feed(&show, 69..70);
    assert!(reload.await.unwrap().contains(&format!("track0-{next}.0.m4s\",INDEPENDENT=YES\n")));
    assert!(hinted.await.unwrap().contains("mdat"));

    // The end of the show is news, too; and it can still be played.
    let path = format!("demo/track0.m3u8?_HLS_msn={next}");
    let last = tokio::spawn(async move { get(addr, &path).await });
    until("the request", || hls.waiting() == 1).await;
    drop(show);
    assert!(last.await.unwrap().ends_with("#EXT-X-ENDLIST\n"));
    assert!(get(addr, &format!("demo/track0-{next}.m4s")).await.starts_with("HTTP/1.0 200"));
    until("all to be answered", || hls.waiting() == 0).await;
}

#[tokio::test]
async fn so_many_wait_and_no_more() {
    let hls = Hls { waiting: Arc::new(Semaphore::new(3)), patience: PATIENCE, ..Hls::default() };
    let addr = serve(&hls).await;
    let show = hls.publish("demo", &[track("avc3.42c01f")]);
    let requests: Vec<_> =
        (0..3).map(|_| tokio::spawn(async move { get(addr, "demo/track0.m3u8").await })).collect();
    until("the requests", || hls.waiting.available_permits() == 0).await;
    let refused = get(addr, "demo/track0.m3u8").await;
    assert!(refused.starts_with("HTTP/1.0 503") && refused.contains("too many requests"), "{refused}");
    assert!(get(addr, "demo/index.m3u8").await.starts_with("HTTP/1.0 200"), "what need not wait goes on");
    // Who goes away leaves its place.
    requests[0].abort();
    until("its place", || hls.waiting.available_permits() == 1).await;
    feed(&show, 0..61);
    for request in requests.into_iter().skip(1) {
        assert!(request.await.unwrap().starts_with("HTTP/1.0 200"));
    }
}

#[tokio::test]
async fn an_encoder_that_takes_over_goes_on_and_the_old_one_ends_nothing() {
    let hls = Hls::default();
    let old = hls.publish("demo", &[track("avc3.42c01f")]);
    feed(&old, 0..150);
    let new = hls.publish("demo", &[track("avc3.42c01f")]);
    feed(&old, 150..300);
    drop(old);
    let addr = serve(&hls).await;
    feed(&new, 300..400);
    let playlist = get(addr, "demo/track0.m3u8").await;
    assert!(playlist.contains(&format!("#EXT-X-MEDIA-SEQUENCE:{FIRST}\n")), "{playlist}");
    assert!(!playlist.contains("ENDLIST"), "{playlist}");
    let change = playlist.split("#EXT-X-DISCONTINUITY\n").nth(1).unwrap();
    assert!(
        change.starts_with(
            "#EXT-X-MAP:URI=\"track0-init1.mp4\"\n#EXT-X-PROGRAM-DATE-TIME:2026-11-18T11:06:49.999Z"
        ),
        "{change}"
    );

    // Other tracks are another show under the same name.
    let other = hls.publish("demo", &[track("avc3.640028")]);
    drop(new);
    feed(&other, 600..700);
    assert!(get(addr, "demo/index.m3u8").await.contains("avc1.640028"));
    assert!(!get(addr, "demo/track0.m3u8").await.contains("ENDLIST"));
}

#[tokio::test]
async fn shows_that_are_over_are_forgotten_oldest_first() {
    let hls = Hls::default();
    for n in 0..MAX_ENDED + 5 {
        let show = hls.publish(&format!("show{n}"), &[track("avc3.42c01f")]);
        feed(&show, 0..100);
    }
    let bytes = hls.bytes();
    assert_eq!(hls.lock().by_name.len(), MAX_ENDED);
    assert!(hls.get("show4").is_none() && hls.get("show5").is_some());
    // One that began anew is not over.
    let again = hls.publish("show5", &[track("avc3.42c01f")]);
    feed(&again, 0..100);
    for n in 0..MAX_ENDED {
        drop(hls.publish(&format!("more{n}"), &[track("avc3.42c01f")]));
    }
    assert!(hls.get("show5").is_some());
    assert!(hls.bytes() < bytes);
}

/// The addresses in a playlist.
fn addresses(playlist: &str) -> Vec<String> {
    let (_, body) = playlist.split_once("\r\n\r\n").expect("an answer");
    let attribute = |line: &str| Some(line.split_once("URI=\"")?.1.split_once('"')?.0.to_owned());
    let line = |line: &str| match line.starts_with('#') {
        true => attribute(line),
        false => Some(line.to_owned()).filter(|line| !line.is_empty()),
    };
    body.lines().filter_map(line).collect()
}

#[tokio::test]
async fn nobody_without_a_ticket_gets_media_and_one_in_the_address_leads_through_the_playlists() {
    let dir = std::env::temp_dir().join(format!("roadie-hls-tickets-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let key = SigningKey::generate(Algorithm::EdDsa, Some("first".into())).unwrap();
    let keys = dir.join("keys.json");
    std::fs::write(&keys, serde_json::json!({ "keys": [key.public()] }).to_string()).unwrap();
    let auth = [keys.to_str().unwrap().to_owned()];
    let doors = admission::Settings::check(&auth, &["open".into()], None).unwrap();
    let ticket = |path: &str, expires: u64| {
        let subscribe = [pattern(path).unwrap()].into_iter().collect();
        let grant = Grant { publish: Default::default(), subscribe };
        let expires = Time::from_micros(expires * 1_000_000);
        key.sign(&Claims { grant, expires, not_before: None, issued: None, id: None, sessions: None })
            .unwrap()
    };
    let late = 4_000_000_000;
    let hls = Hls { patience: Duration::from_millis(50), ..Hls::default() };
    let addr = serve_to(&hls, doors).await;
    let (show, open) =
        (hls.publish("tour/london", &[track("avc3.42c01f")]), hls.publish("open", &[track("avc3.42c01f")]));
    feed(&show, 0..150);
    feed(&open, 0..150);

    let (good, wrong, over) =
        (ticket("tour/london", late), ticket("tour/paris", late), ticket("tour/london", 1));
    let segment = format!("tour/london/track0-{FIRST}.m4s");
    for path in
        ["tour/london/index.m3u8", "tour/london/track0.m3u8", "tour/london/track0-init0.mp4", &segment]
    {
        for (query, status) in [
            (String::new(), "401"),
            (format!("?jwt={over}"), "401"),
            (format!("?jwt={wrong}"), "403"),
            ("?jwt=rubbish".into(), "401"),
        ] {
            let answer = get(addr, &format!("{path}{query}")).await;
            assert!(answer.starts_with(&format!("HTTP/1.0 {status} ")), "{path}{query}: {answer}");
            assert!(!answer.contains("mdat") && !answer.contains("EXTM3U"), "{path}{query}: {answer}");
        }
        // A header leaves no trace in addresses.
        let answer = ask_with(addr, "GET", path, &format!("Authorization: Bearer {good}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.0 200 ") && !answer.contains("jwt="), "{path}: {answer}");
        assert!(answer.contains("cache-control: private, no-store\r\n"), "{path}: {answer}");
    }
    let master = get(addr, &format!("tour/london/index.m3u8?jwt={good}")).await;
    let mut seen = 0;
    for playlist in addresses(&master) {
        let playlist = get(addr, &format!("tour/london/{playlist}")).await;
        for file in addresses(&playlist) {
            assert!(file.ends_with(&format!("?jwt={good}")), "{file}");
            let answer = get(addr, &format!("tour/london/{file}")).await;
            // The last one is only hinted at: it is waited for.
            assert!(
                answer.starts_with("HTTP/1.0 200 ") || answer.starts_with("HTTP/1.0 503 "),
                "{file}: {answer}"
            );
            seen += usize::from(answer.contains("ftyp") || answer.contains("mdat"));
        }
    }
    assert!(seen > 5, "{seen} files");
    // What is public needs none, and may be cached.
    let public = get(addr, "open/track0.m3u8").await;
    assert!(public.starts_with("HTTP/1.0 200 ") && public.contains("public, max-age=1\r\n"), "{public}");
    let rubbish = get(addr, "open/track0.m3u8?jwt=rubbish").await;
    assert!(rubbish.starts_with("HTTP/1.0 401 "), "{rubbish}");
    let _ = std::fs::remove_dir_all(dir);
}
