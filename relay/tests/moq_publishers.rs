//! What MoQ programs that publish into the relay may do, and may not.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Dir, PATIENCE, catalog, edge_settings, until};
use media::{Frame, FrameId, Time, TrackId};
use moq_net::{broadcast, group, track};
use relay::dial::{self, Address};
use relay::edge::Edge;
use relay::origin::{Origin, Publication};
use tokio::task::JoinHandle;

/// A real edge on free ports, in this process.
struct Stage {
    quic: u16,
    http: u16,
    fingerprint: String,
    running: JoinHandle<()>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Stage {
    async fn start(dir: &Dir, token: Option<&str>) -> Self {
        let edge = Edge::new(edge_settings(dir, token)).await.unwrap();
        let (quic, http) = (edge.quic_addr().unwrap().port(), edge.http_addr().unwrap().port());
        let fingerprint = edge.fingerprint().to_owned();
        let running = tokio::spawn(async move { edge.run().await.unwrap() });
        Self { quic, http, fingerprint, running }
    }

    fn address(&self, scheme: &str, path: &str) -> Address {
        let url = format!("{scheme}://127.0.0.1:{}/{path}", self.quic);
        Address::parse(&url, std::slice::from_ref(&self.fingerprint)).unwrap()
    }

    /// The names on the air, as the status has them.
    async fn names(&self) -> Vec<String> {
        let status = self.get("/api/status").await;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["broadcasts"].as_object().unwrap().keys().cloned().collect()
    }

    async fn get(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.http)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    async fn until_on_air(&self, names: &[&str]) {
        until("the broadcasts to be on the air", async || self.names().await == names).await;
    }
}

/// A program that publishes shows.
struct Program {
    origin: Origin,
    publications: Vec<Publication>,
    session: JoinHandle<Result<moq_net::Error, dial::DialError>>,
}

impl Program {
    fn start(address: Address, names: &[String]) -> Self {
        let origin = Origin::start();
        let publications = names.iter().map(|name| origin.publish(name, &catalog()).unwrap()).collect();
        let offered = origin.clone();
        let session = tokio::spawn(async move { dial::publish(&offered, &address).await });
        Self { origin, publications, session }
    }

    fn one(address: Address, name: &str) -> Self {
        Self::start(address, &[name.to_owned()])
    }

    /// Writes the first frame of a group.
    fn write(&mut self, group: u64, data: &'static [u8]) {
        let id = FrameId { track: TrackId(0), group, frame: 0 };
        let capture_time = Time::from_millis(1_000 + group);
        let frame = Frame { id, capture_time, keyframe: true, data: Bytes::from_static(data) };
        self.publications[0].write(&frame).unwrap();
    }

    /// How its session ended.
    async fn ended(&mut self) -> String {
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
async fn subscribe(stage: &Stage, name: &str, track: &str) -> track::Subscriber {
    let broadcast = find(stage, name).await;
    let patient = track::Subscription::default().with_max_age(Duration::from_secs(5));
    broadcast.track(track).unwrap().subscribe(patient).await.unwrap()
}

async fn find(stage: &Stage, name: &str) -> broadcast::Consumer {
    let (producer, driver) = moq_net::origin::Producer::new(moq_net::origin::Config::default());
    tokio::spawn(moq_net::time::run(driver));
    let session = raw(stage).await;
    let client = moq_net::Client::new().with_subscriber(producer.clone());
    let (session, driver) = client.connect(Instant::now(), session).await.unwrap();
    tokio::spawn(async move {
        let _session = session;
        moq_net::time::run(driver).await
    });
    tokio::time::timeout(PATIENCE, producer.consume().routed_broadcast(name)).await.unwrap().unwrap()
}

async fn raw(stage: &Stage) -> web_transport_quinn::Session {
    let dangerous = web_transport_quinn::ClientBuilder::new();
    let hash: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&stage.fingerprint[2 * at..2 * at + 2], 16).unwrap()).collect();
    let client = dangerous.with_server_certificate_hashes(vec![hash]).unwrap();
    let url = url::Url::parse(&format!("https://127.0.0.1:{}/", stage.quic)).unwrap();
    let mut request = web_transport_quinn::proto::ConnectRequest::new(url);
    for alpn in moq_net::ALPNS {
        request = request.with_protocol(*alpn);
    }
    client.connect(request).await.unwrap()
}

/// Reads groups until one begins with `data`.
async fn until_comes(track: &mut track::Subscriber, data: &[u8]) {
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

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_only_those_who_show_it_publish() {
    let dir = Dir::new("moq-token");
    let stage = Stage::start(&dir, Some("secret word")).await;
    for scheme in ["https", "moqt"] {
        for wrong in ["", "?jwt=", "?jwt=secret", "?token=secret%20word"] {
            let mut program = Program::one(stage.address(scheme, wrong), "studio");
            let reason = program.ended().await;
            // web-transport-quinn's client keeps the reason to itself.
            assert!(scheme == "https" || reason.contains("ticket"), "{wrong}: {reason}");
            assert_eq!(stage.names().await, Vec::<String>::new());
        }
        let program = Program::one(stage.address(scheme, "?jwt=secret%20word"), "studio");
        stage.until_on_air(&["studio"]).await;
        drop(program);
        stage.until_on_air(&[]).await;
    }
    // Who only watches needs none.
    let _program = Program::one(stage.address("moqt", "?jwt=secret%20word"), "studio");
    find(&stage, "studio").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_below_the_path_and_bad_ones_are_not_heard() {
    let dir = Dir::new("moq-names");
    let stage = Stage::start(&dir, None).await;
    let names = ["good", ".hidden", "with space", "api", "also/good"].map(str::to_owned);
    let _below = Program::start(stage.address("https", "tour"), &names);
    stage.until_on_air(&["tour/also/good", "tour/api", "tour/good"]).await;
    let _top = Program::start(stage.address("moqt", ""), &names);
    stage.until_on_air(&["also/good", "good", "tour/also/good", "tour/api", "tour/good"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_announces_too_much_is_sent_away_and_others_stay() {
    let dir = Dir::new("moq-many");
    let stage = Stage::start(&dir, None).await;
    let _other = Program::one(stage.address("moqt", ""), "other");
    stage.until_on_air(&["other"]).await;
    let names: Vec<_> = (0..3_000).map(|number| format!("many/{number}")).collect();
    for scheme in ["https", "moqt"] {
        let mut program = Program::start(stage.address(scheme, ""), &names);
        program.ended().await;
        stage.until_on_air(&["other"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_publishers_of_one_name_the_first_is_shown_until_it_leaves() {
    let dir = Dir::new("moq-two");
    let stage = Stage::start(&dir, None).await;
    let mut first = Program::one(stage.address("moqt", ""), "studio");
    stage.until_on_air(&["studio"]).await;
    let mut viewer = subscribe(&stage, "studio", "video/720p").await;
    first.write(10, b"first");
    until_comes(&mut viewer, b"first").await;

    let mut second = Program::one(stage.address("https", ""), "studio");
    // It has been heard when a name that it announces after this one is on the air.
    second.publications.push(second.origin.publish("zulu", &catalog()).unwrap());
    stage.until_on_air(&["studio", "zulu"]).await;
    second.write(20, b"second");
    first.write(30, b"first again");
    until_comes(&mut viewer, b"first again").await;
    // Also who comes now sees the first.
    until_comes(&mut subscribe(&stage, "studio", "video/720p").await, b"first again").await;

    drop(first);
    stage.until_on_air(&["studio", "zulu"]).await;
    let coming = async {
        loop {
            let broadcast = find(&stage, "studio").await;
            let patient = track::Subscription::default().with_max_age(Duration::from_secs(5));
            let Ok(mut track) = broadcast.track("video/720p").unwrap().subscribe(patient).await else {
                continue;
            };
            // The first may still be leaving.
            while let Ok(Some(mut group)) = track.recv_group().await {
                if let Ok(Some(frame)) = group.read_frame().await
                    && frame.payload.ends_with(b"second")
                {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, coming).await.expect("the second does not come");
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_ten_megabytes_do_not_fill_the_memory() {
    const FRAME: usize = 10 * 1024 * 1024;
    const FRAMES: u64 = 60;
    let dir = Dir::new("moq-large");
    let mut relay = std::process::Command::new(env!("CARGO_BIN_EXE_roadie-relay"))
        .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--state"])
        .arg(&dir.0)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = relay.id();
    let words: Vec<String> = {
        use std::io::BufRead;
        let output = std::io::BufReader::new(relay.stdout.take().unwrap());
        output.lines().take(3).map(|line| line.unwrap()).collect()
    };
    let word = |line: usize, at: usize| words[line].split(' ').nth(at).unwrap().to_owned();
    let quic = word(0, 2).parse::<std::net::SocketAddr>().unwrap().port();
    let (fingerprint, running) = (word(2, 2), tokio::spawn(std::future::pending()));
    let stage = Stage { quic, http: 0, fingerprint, running };

    let origin = Origin::start();
    let mut publication = origin.publish("large", &catalog()).unwrap();
    let address = stage.address("moqt", "");
    let session = tokio::spawn(async move { dial::publish(&origin, &address).await });
    let mut viewer = subscribe(&stage, "large", "video/720p").await;
    let data: Arc<[u8]> = vec![7; FRAME].into();
    let mut came = 0;
    for number in 0..FRAMES {
        let id = FrameId { track: TrackId(0), group: number, frame: 0 };
        let capture_time = Time::from_millis(1_000 + number);
        let data = Bytes::from_owner(data.clone());
        publication.write(&Frame { id, capture_time, keyframe: true, data }).unwrap();
        let reading = async {
            let mut group = viewer.recv_group().await.unwrap().unwrap();
            group.read_frame().await.unwrap().map(|frame| frame.payload.len())
        };
        if tokio::time::timeout(PATIENCE, reading).await.expect("nothing comes").is_some() {
            came += 1;
        }
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    relay.kill().unwrap();
    relay.wait().unwrap();
    session.abort();
    let sent = FRAMES * FRAME as u64 / 1024;
    assert!(came > FRAMES / 2, "{came} of {FRAMES} came");
    println!("{peak} kB at most, of {sent} kB that were sent");
    assert!(peak < sent * 3 / 4, "{peak} kB at most, of {sent} kB that were sent");
}
