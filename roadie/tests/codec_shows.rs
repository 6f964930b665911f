//! Shows in VP8 and AV1, end to end: the real programs, a real headless Chromium, and the recording afterwards.

mod common;

use std::process::Stdio;

use common::{Dir, Edge, alone, ffprobe, live_with, marks, painted, recording, roadie, uplinks};
use media::TrackId;
use roadie::viewer::Viewer;
use tokio::process::Command;

/// Pictures painted with their marks before the test believes it.
const ENOUGH: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_show_in_vp8_is_seen_recorded_verified_and_exported() {
    a_show("vp8", 1.0).await;
}

/// Of 720p a mark may be damaged for one picture (docs/decisions/0019); what is read is right.
#[tokio::test(flavor = "multi_thread")]
async fn a_show_in_av1_is_seen_recorded_verified_and_exported() {
    a_show("av1", 0.5).await;
}

/// `readable`: at least that part of the pictures has a mark that can be read.
async fn a_show(codec: &str, readable: f64) {
    let _stage = alone().await;
    let dir = Dir::new(codec);
    let edge = Edge::start(&dir, 0, 0).await;
    let uplinks = uplinks(&edge).await;
    let copy = dir.join("copy");
    let viewer = Viewer::start().await.unwrap();
    let mut show = live_with(&["--codec", codec], &edge, &uplinks, codec, std::slice::from_ref(&copy));
    edge.wait_live(codec).await;
    viewer.open(&format!("{}?probe=1", edge.page(codec))).await.unwrap();

    let painted = painted(&viewer, ENOUGH).await;
    viewer.close().await;
    let marks = marks(&painted);
    assert!(marks.len() as f64 >= readable * painted.len() as f64, "{} of {}", marks.len(), painted.len());
    assert!(marks.windows(2).all(|pair| (1..1000).contains(&pair[1].wrapping_sub(pair[0]))), "{marks:?}");

    // The end of a show as the creator brings it about.
    let pid = show.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    assert!(show.wait().await.unwrap().success());
    let file = recording(&copy);
    let (pictures, sounds, _) = ffprobe(&file).await;
    assert!(pictures > ENOUGH && sounds > ENOUGH, "{pictures} pictures, {sounds} packets of sound");
    let recorded = common::fragments(&file);
    assert_eq!(recorded.iter().filter(|fragment| fragment.id.track == TrackId(0)).count(), pictures);

    let export = dir.join("export.mp4");
    for arguments in
        [vec!["verify".into(), copy.clone()], vec!["export".into(), copy, "--output".into(), export.clone()]]
    {
        let mut command = Command::new(roadie());
        let run = command.arg("recordings").args(&arguments).stdin(Stdio::null()).output();
        let output = run.await.unwrap();
        let words = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{arguments:?}: {words}{}", String::from_utf8_lossy(&output.stderr));
    }
    let decoded = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-select_streams", "v", "-show_entries"])
        .args(["stream=codec_name,nb_read_frames", "-of", "csv=p=0"])
        .arg(&export)
        .output()
        .await
        .unwrap();
    assert!(decoded.stderr.is_empty(), "{decoded:?}");
    assert_eq!(String::from_utf8_lossy(&decoded.stdout).trim(), format!("{codec},{pictures}"));
}
