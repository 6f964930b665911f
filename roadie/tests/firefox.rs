//! A show in a real headless Firefox, whose WebTransport is not what the player needs: it has to find another way by itself.

mod common;

use common::firefox::Firefox;
use common::{Dir, Edge, Page, alone, live_with, marks, painted, uplinks};

/// Pictures painted with their marks before the test believes it.
const ENOUGH: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn firefox_plays_the_show_and_every_picture_is_the_one_it_is_said_to_be() {
    let _stage = alone().await;
    let dir = Dir::new("firefox");
    let edge = Edge::start(&dir, 0, 0).await;
    let uplinks = uplinks(&edge).await;
    let firefox = Firefox::start(&dir).await.unwrap();
    let _show = live_with(&[], &edge, &uplinks, "fox", &[]);
    edge.wait_live("fox").await;
    firefox.open(&format!("{}?probe=1", edge.page("fox"))).await.unwrap();

    let painted = painted(&firefox, ENOUGH).await;
    let marks = marks(&painted);
    assert_eq!(marks.len(), painted.len(), "each picture can be read");
    assert!(marks.windows(2).all(|pair| (1..1000).contains(&pair[1].wrapping_sub(pair[0]))), "{marks:?}");
    let stats = firefox.run("return await roadie.stats()").await.unwrap();
    println!(
        "Firefox: {} {}, first picture after {} ms",
        stats["transport"], stats["version"], stats["first_frame_ms"]
    );
    assert_eq!(stats["state"], "playing");
}
