//! What MoQ programs that publish into the relay may do, and may not.

mod common;
#[path = "common/programs.rs"]
mod programs;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Dir, PATIENCE, catalog};
use media::{Frame, FrameId, Time, TrackId};
use moq_net::track;
use programs::{Program, Stage, find, subscribe, until_comes};
use relay::dial;
use relay::origin::Origin;

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
    let stage = Stage::elsewhere(quic, 0, word(2, 2));

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
