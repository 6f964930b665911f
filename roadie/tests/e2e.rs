//! End to end: the real programs, real sockets through emulated uplinks, a real headless Chromium.

mod common;

use std::collections::BTreeMap;

use common::{Dir, Edge, alone, ffprobe, live, live_with, pictures, recording, until, uplinks};
use roadie::report::{Evidence, PagePassage};
use roadie::viewer::Viewer;
use serde_json::Value;

/// Frames that the page paints before the tests believe it.
const ENOUGH: usize = 150;

async fn painted(viewer: &Viewer, trace: &mut Vec<PagePassage>) -> usize {
    let new = viewer.run("return (window.roadie && await roadie.takeTrace()) || []").await.unwrap();
    trace.extend(serde_json::from_value::<Vec<PagePassage>>(new).unwrap());
    trace.iter().filter(|frame| frame.painted_us.is_some()).count()
}

/// Acceptance 3: pixels, not counters. The frame number and the capture time are drawn into the picture
/// before it is encoded, and read back from the canvas in the browser; one uplink goes dark meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn the_pixels_arrive_in_order_and_once_and_the_ticks_are_heard() {
    let _stage = alone().await;
    let dir = Dir::new("pixels");
    let edge = Edge::start(&dir, 0, 0).await;
    let uplinks = uplinks(&edge).await;
    let viewer = Viewer::start().await.unwrap();
    // Where the rate falls with the uplink, a picture may be made of blocks of the one before, and so is what is drawn into it.
    let _live = live_with(&["--fixed-bitrate"], &edge, &uplinks, "pixels", &[]);
    edge.wait_live("pixels").await;
    viewer.open(&format!("{}?probe=1", edge.page("pixels"))).await.unwrap();

    let mut trace = Vec::new();
    let mut ticks = Vec::new();
    until("the first pictures", async || painted(&viewer, &mut trace).await > ENOUGH / 3).await;
    uplinks[1].set_up(false);
    until("pictures while an uplink is dark", async || painted(&viewer, &mut trace).await > ENOUGH).await;
    uplinks[1].set_up(true);
    until("sound", async || {
        painted(&viewer, &mut trace).await;
        let new = viewer.run("return await roadie.takeTicks() || []").await.unwrap();
        ticks.extend(new.as_array().unwrap().clone());
        ticks.len() >= 4
    })
    .await;
    let edge_trace = edge.api().trace("pixels", 0).await;
    viewer.close().await;

    let painted: Vec<&PagePassage> = trace.iter().filter(|frame| frame.painted_us.is_some()).collect();
    let mut marks = Vec::new();
    for frame in &painted {
        let mark = frame.mark.unwrap_or_else(|| panic!("no mark in the picture of {frame:?}"));
        marks.push(mark.counter);
        // The time in the pixels is the capture time of the frame that carried them.
        let capture_ms = (frame.capture_us / 1e3).floor() % (1u64 << 40) as f64;
        assert!((mark.time_ms - capture_ms).abs() <= 1.0, "{mark:?} in {frame:?}");
        let latency_ms = frame.painted_us.unwrap() / 1e3 % (1u64 << 40) as f64 - mark.time_ms;
        assert!((0.0..10_000.0).contains(&latency_ms), "{latency_ms} ms from pixel to pixel");
    }
    for pair in marks.windows(2) {
        let step = pair[1].wrapping_sub(pair[0]);
        assert!((1..1000).contains(&step), "the picture went from {} to {}", pair[0], pair[1]);
    }
    // Whatever the edge published from the first picture to the last is on the canvas or has its cause.
    let (first, last) = (painted[0], painted[painted.len() - 1]);
    let within = |group: u64, frame: u32| {
        ((first.group, first.frame)..=(last.group, last.frame)).contains(&(group, frame))
    };
    let mut causes: BTreeMap<String, usize> = BTreeMap::new();
    let evidence = Evidence { page: trace.clone(), ..Evidence::default() };
    for passage in
        edge_trace.iter().filter(|passage| passage.track == 0 && within(passage.group, passage.frame))
    {
        assert_eq!(passage.outcome, "published", "lost on the bond: {passage:?}");
        if let Some(cause) = evidence.unpainted_cause(passage.group, passage.frame) {
            *causes.entry(cause.to_owned()).or_default() += 1;
        }
    }
    assert!(!causes.contains_key("relay_to_browser") && !causes.contains_key("unknown"), "{causes:?}");
    println!("{} pictures read back, not painted: {causes:?}, {} ticks heard", painted.len(), ticks.len());
}

/// Acceptance 4: `kill -9` takes nothing from the recordings.
#[tokio::test(flavor = "multi_thread")]
async fn both_recordings_of_a_killed_show_play_to_the_end() {
    let _stage = alone().await;
    let dir = Dir::new("killed");
    let edge = Edge::start(&dir, 0, 0).await;
    let uplinks = uplinks(&edge).await;
    let copies = [dir.join("a"), dir.join("b")];
    let mut show = live(&edge, &uplinks, "killed", &copies);
    let api = edge.api();
    until("three seconds of show", async || {
        api.trace("killed", 0).await.iter().filter(|p| p.track == 0).count() > 90
    })
    .await;
    show.kill().await.unwrap();
    // What the edge has seen was recorded first.
    let trace = api.trace("killed", 0).await;
    let last = trace.iter().rev().find(|passage| passage.track == 0).unwrap();

    let mut seen = Vec::new();
    for copy in &copies {
        let file = recording(copy);
        let (video, audio, seconds) = ffprobe(&file).await;
        assert!(
            video > 60 && audio > 60,
            "{video} pictures and {audio} packets of sound in {}",
            file.display()
        );
        let frames = pictures(&file);
        let end = frames.last().unwrap();
        // In frames: at 30 fps, 100 ms are three.
        let (group, frame) = (last.group, last.frame);
        let behind = frames.iter().filter(|f| (f.id.group, f.id.frame) > (group, frame)).count();
        let there = frames.iter().any(|f| (f.id.group, f.id.frame) == (group, frame)) || end.id.group > group;
        println!(
            "{}: {video} pictures, {seconds:.2} s, {behind} after the last one at the edge",
            file.display()
        );
        assert!(
            there || frame.abs_diff(end.id.frame) <= 3,
            "the edge has {group}/{frame}, the file ends at {:?}",
            end.id
        );
        seen.push(frames.iter().map(|f| (f.id, f.capture_time)).collect::<Vec<_>>());
    }
    let common = seen[0].len().min(seen[1].len());
    assert_eq!(seen[0][..common], seen[1][..common], "the copies differ");
    assert!(seen[0].len().abs_diff(seen[1].len()) <= 2, "{} and {}", seen[0].len(), seen[1].len());
}

/// Acceptance 5: the edge dies and comes back; page and encoder come back by themselves.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_killed_and_restarted_is_found_again() {
    let _stage = alone().await;
    let dir = Dir::new("restart");
    let mut edge = Edge::start(&dir, 0, 0).await;
    let uplinks = uplinks(&edge).await;
    let copies = [dir.join("a"), dir.join("b")];
    let viewer = Viewer::start().await.unwrap();
    let mut show = live(&edge, &uplinks, "restart", &copies);
    edge.wait_live("restart").await;
    viewer.open(&edge.page("restart")).await.unwrap();
    let mut before = Vec::new();
    until("the first pictures", async || painted(&viewer, &mut before).await > 30).await;
    let page_born = viewer.run("return performance.timeOrigin").await.unwrap();

    edge.kill().await;
    let mut during = Vec::new();
    until("the page to notice", async || {
        painted(&viewer, &mut during).await;
        viewer.run("return (await roadie.stats()).state").await.unwrap() != "playing"
    })
    .await;
    edge.restart(&dir).await;
    let fingerprint = edge.fingerprint.clone();
    let mut after = Vec::new();
    let took = until("pictures again", async || painted(&viewer, &mut after).await > 0).await;
    println!("pictures again {:.1} s after the relay's return", took.as_secs_f64());
    assert_eq!(
        viewer.run("return performance.timeOrigin").await.unwrap(),
        page_born,
        "the page was loaded anew"
    );
    assert_eq!(edge.fingerprint, fingerprint);
    viewer.close().await;

    // A show that ends well says so.
    let pid = i32::try_from(show.id().unwrap()).unwrap();
    std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status().unwrap();
    let status =
        tokio::time::timeout(common::PATIENCE, show.wait()).await.expect("the show does not stop").unwrap();
    assert!(status.success(), "{status}");
    for copy in &copies {
        let ids: Vec<_> = pictures(&recording(copy)).iter().map(|picture| picture.id).collect();
        for pair in ids.windows(2) {
            let next = pair[1].group == pair[0].group && pair[1].frame == pair[0].frame + 1;
            let new_group = pair[1].group == pair[0].group + 1 && pair[1].frame == 0;
            assert!(next || new_group, "a hole in the recording between {:?} and {:?}", pair[0], pair[1]);
        }
        ffprobe(&recording(copy)).await;
    }
}

/// The whole demo, as a new user would run it headless.
#[tokio::test(flavor = "multi_thread")]
async fn the_headless_demo_accounts_for_every_frame() {
    let _stage = alone().await;
    let dir = Dir::new("demo");
    let report = dir.join("report.json");
    let output = tokio::process::Command::new(common::roadie())
        .args(["demo", "--input", "test", "--seconds", "9", "--headless", "--cut", "2@4s+3s", "--json"])
        .arg(&report)
        .arg("--relay")
        .arg(common::relay_program())
        .arg("--player")
        .arg(common::player_dir())
        .args(["--record".into(), dir.join("a"), "--record".into(), dir.join("b")])
        .output()
        .await
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}\n{err}");
    let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    let frames = &report["frames"];
    let unpainted: u64 = frames["unpainted"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    let count = |name: &str| frames[name].as_u64().unwrap();
    assert!(count("painted") > 60, "{frames}");
    assert_eq!(count("encoded"), count("painted") + unpainted, "{frames}");
    assert_eq!(count("sent"), count("encoded"), "{frames}");
    for stage in ["capture_to_encoded", "bond", "relay_to_browser", "decode", "paint"] {
        assert!(report["stages_ms"][stage]["p95"].is_number(), "{stage}: {report}");
    }
    for value in [&report["glass_to_glass_ms"]["p99"], &report["first_frame_ms"], &report["redundancy"]] {
        assert!(value.as_f64().unwrap() > 0.0, "{report}");
    }
    assert_eq!(report["uplinks"].as_array().unwrap().len(), 3);
    let shares: f64 =
        report["uplinks"].as_array().unwrap().iter().map(|u| u["share"].as_f64().unwrap()).sum();
    assert!((shares - 1.0).abs() < 1e-6);
    assert_eq!(report["recordings"].as_array().unwrap().len(), 2);
    for recording in report["recordings"].as_array().unwrap() {
        assert_eq!(recording["playable"], true, "{recording}");
        assert_eq!(recording["frames"], frames["encoded"], "{recording}");
    }
    assert!(report["audio"]["underruns"].is_number());
    // The bond lost nothing through the cut; a frame that a busy machine painted late is not the bond's.
    for cause in ["bond", "lost", "undecodable"] {
        assert!(frames["unpainted"].get(cause).is_none(), "{frames}");
    }
    assert_eq!(output.status.success(), report["failures"].as_array().unwrap().is_empty(), "{err}");
}

/// A browser that can play by none of the ways gets a sentence, not a black page.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_can_play_nothing_is_told_what_to_do() {
    let _stage = alone().await;
    let dir = Dir::new("old-browser");
    let edge = Edge::start(&dir, 0, 0).await;
    let viewer = Viewer::start().await.unwrap();
    let old = "delete window.VideoDecoder; delete window.RTCPeerConnection; \
        HTMLMediaElement.prototype.canPlayType = () => '';";
    viewer.run_before_page(old).await.unwrap();
    viewer.open(&edge.page("anything")).await.unwrap();
    until("a sentence", async || {
        let words = viewer.run("return document.body.innerText").await.unwrap();
        let words = words.as_str().unwrap();
        words.contains("it lacks the video decoder of WebCodecs") && words.contains("Chrome")
    })
    .await;
    viewer.close().await;
}

/// A page that is opened before the show waits for it, plays when it begins, and says so when nothing comes any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_who_is_early_sees_the_show_begin() {
    let _stage = alone().await;
    let dir = Dir::new("early");
    let edge = Edge::start(&dir, 0, 0).await;
    let uplinks = uplinks(&edge).await;
    let viewer = Viewer::start().await.unwrap();
    viewer.open(&edge.page("tour/early")).await.unwrap();
    until("the waiting message", async || {
        let words = viewer.run("return document.body.innerText").await.unwrap();
        words.as_str().is_some_and(|words| words.contains("has not started"))
    })
    .await;
    let mut live = live(&edge, &uplinks, "tour/early", &[]);
    let mut trace = Vec::new();
    let took = until("pictures", async || painted(&viewer, &mut trace).await > 10).await;
    let api = edge.api();
    until("the viewer's report at the relay", async || {
        api.quality("tour/early").await["latency_ms"]["p95"].as_f64().is_some_and(|p95| p95 > 0.0)
    })
    .await;
    println!("playing {:.1} s after `roadie live` was typed", took.as_secs_f64());
    // The laptop dies. The relay keeps the show for whoever comes back.
    live.kill().await.unwrap();
    until("a word on the picture that stands", async || {
        let words = viewer.run("return document.body.innerText").await.unwrap();
        words.as_str().is_some_and(|words| words.contains("Nothing comes from the venue at the moment"))
    })
    .await;
    viewer.close().await;
}
