//! A relay that is stopped lets go of its sessions in peace, and those who have another relay move there meanwhile.

mod common;
#[path = "common/process.rs"]
mod process;
#[path = "common/programs.rs"]
mod programs;

use std::time::Duration;

use common::{Dir, PATIENCE, catalog, edge_settings, until};
use moq_net::track;
use process::Process;
use programs::{Feed, Program, Seen, Stage, call};
use relay::dial;
use relay::origin::Origin;
use rustix::process::Signal;

/// Longer than any test waits: it ends because of something else.
const LONG: Duration = Duration::from_secs(600);

fn patient() -> track::Subscription {
    track::Subscription::default().with_max_age(Duration::from_secs(5))
}

async fn stage(dir: &Dir, upstream: &[&Stage]) -> Stage {
    let mut settings = edge_settings(dir, None);
    settings.drain = LONG;
    settings.upstream = upstream.iter().map(|stage| stage.address("moqt", "")).collect();
    Stage::open(settings).await
}

/// Datagrams that it has sent: a hundred a second where a show is pulled, a few keep-alives where none is.
async fn sent(stage: &Stage) -> u64 {
    let metrics = stage.get("/metrics").await;
    let line = metrics.lines().find_map(|line| line.strip_prefix("roadie_udp_sent_datagrams_total "));
    line.expect("no count of datagrams").parse::<f64>().unwrap() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_here_is_asked_to_go_and_nobody_new_is_let_in() {
    let dir = Dir::new("drain-asked");
    let mut stage = stage(&dir, &[]).await;
    let mut program = Program::one(stage.address("moqt", ""), "studio");
    stage.until_on_air(&["studio"]).await;
    let _feed = Feed::start(program.publications.remove(0));
    let (session, origin) = call(&stage).await;
    let broadcast = origin.consume().routed_broadcast("studio").await.unwrap();
    let seen = Seen::read(broadcast.track("video/720p").unwrap().subscribe(patient()).await.unwrap());
    seen.more(30).await;
    assert_eq!(stage.get("/readyz").await, "ok\n");

    stage.stop();
    let goaway = tokio::time::timeout(PATIENCE, session.draining().recv()).await.expect("nobody asked");
    assert_eq!(goaway.expect("it was closed").uri(), "", "to whatever answers at the same address");
    assert_eq!(stage.get("/readyz").await, "draining\n");
    // An answer, not silence: who has another address calls it at once.
    let refused = dial::publish(&Origin::start(), &stage.address("moqt", "")).await;
    let words = refused.expect_err("it was let in").to_string();
    assert!(words.contains("refuse"), "{words}");
    // The show goes on for those who are here.
    seen.more(60).await;
    assert_eq!(seen.missing(), Vec::<u64>::new());

    // When they have gone it does not wait any longer.
    drop((seen, session, origin, broadcast));
    drop(program);
    stage.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_go_is_sent_away_in_the_end_and_at_once_when_hurried() {
    for hurried in [false, true] {
        let dir = Dir::new("drain-stays");
        let mut settings = edge_settings(&dir, None);
        settings.drain = if hurried { LONG } else { Duration::from_millis(500) };
        let mut stage = Stage::open(settings).await;
        let (session, _origin) = call(&stage).await;
        until("the session", async || stage.get("/metrics").await.contains("\nroadie_viewers 1\n")).await;
        stage.stop();
        if hurried {
            session.draining().recv().await.expect("it was closed");
            stage.stop();
        }
        stage.ended().await;
        tokio::time::timeout(PATIENCE, session.closed()).await.expect("it is not closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_moves_to_its_other_upstream_before_the_first_is_gone() {
    let dirs = ["drain-a", "drain-b", "drain-c"].map(Dir::new);
    let (mut first, second) = (stage(&dirs[0], &[]).await, stage(&dirs[1], &[]).await);
    let origin = Origin::start();
    let publication = origin.publish("studio", &catalog()).unwrap();
    for stage in [&first, &second] {
        let (origin, address) = (origin.clone(), stage.address("moqt", ""));
        tokio::spawn(async move { dial::publish(&origin, &address).await });
        stage.until_on_air(&["studio"]).await;
    }
    let edge = stage(&dirs[2], &[&first, &second]).await;
    until("both upstreams", async || {
        let status = edge.get("/api/status").await;
        status.matches("\"connected\":true").count() == 2 && status.contains("studio")
    })
    .await;
    let _feed = Feed::start(publication);
    let seen = Seen::plain(&edge, "studio", "video/720p").await;
    let before = [sent(&first).await, sent(&second).await];
    seen.more(300).await;
    let pulled = [sent(&first).await - before[0], sent(&second).await - before[1]];
    assert!(pulled[0] > 200 && pulled[1] < 50, "the first is preferred: {pulled:?}");

    first.stop();
    let before = sent(&second).await;
    until("the second to be used", async || sent(&second).await > before + 300).await;
    // Of the group in which it was handed over the rest may be missing, and the one after it (groups have 50 frames).
    seen.more(100).await;
    let missing = seen.missing();
    println!("{} frames are missing", missing.len());
    assert!(missing.len() < 100, "{missing:?}");
    // Now the first is gone altogether, and nobody notices.
    first.stop();
    first.ended().await;
    seen.more(200).await;
    assert_eq!(seen.missing(), missing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_drains_at_the_first_signal_and_ends_at_the_second() {
    let dir = Dir::new("drain-process");
    let mut relay = Process::start(&dir, &["--drain", "600"]).await;
    let (session, _origin) = call(&relay.stage).await;
    until("the session", async || relay.stage.get("/metrics").await.contains("\nroadie_viewers 1\n")).await;
    relay.signal(Signal::TERM);
    tokio::time::timeout(PATIENCE, session.draining().recv()).await.unwrap().expect("it was closed");
    assert_eq!(relay.stage.get("/readyz").await, "draining\n");
    relay.signal(Signal::INT);
    assert_eq!(relay.ended().await, Some(0));
    tokio::time::timeout(PATIENCE, session.closed()).await.expect("it is not closed");

    // With nobody there, at once.
    let mut relay = Process::start(&dir, &["--drain", "600"]).await;
    relay.signal(Signal::TERM);
    assert_eq!(relay.ended().await, Some(0));
}
