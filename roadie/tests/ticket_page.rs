//! What a viewer sees of tickets: the real page in a real browser, at a real `roadie-relay --auth`, with a real show.

mod common;

use std::process::Stdio;
use std::time::SystemTime;

use common::{Dir, Edge, alone, live_with, roadie, until};
use roadie::viewer::Viewer;
use serde_json::Value;
use tokio::process::Command;

async fn token(dir: &Dir, line: &str) -> String {
    let run = Command::new(roadie()).arg("token").args(line.split(' ')).current_dir(dir.join("")).output();
    let output = run.await.unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The state and the sentence over the picture.
async fn told(viewer: &Viewer) -> (String, String) {
    let script = "const stage = document.getElementById('stage'); \
                  return [stage.dataset.state, document.getElementById('message').textContent];";
    let told = viewer.run(script).await.unwrap();
    let word = |n: usize| told[n].as_str().unwrap_or_default().to_owned();
    (word(0), word(1))
}

async fn painted(viewer: &Viewer) -> u64 {
    let stats: Value =
        viewer.run("return (await window.roadie.stats())?.frames.painted ?? 0;").await.unwrap();
    stats.as_u64().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_what_is_wrong_with_a_ticket_and_plays_with_a_good_one() {
    let _stage = alone().await;
    let dir = Dir::new("ticketpage");
    token(&dir, "key").await;
    let keys = dir.join("roadie-keys.json");
    let edge = Edge::with(&dir, &["--auth", keys.to_str().unwrap()]).await;
    let bring = token(&dir, "sign --publish tour/london --expires 1h").await;
    let flags = ["--token", &bring, "--uplink", "127.0.0.1"];
    let _live = live_with(&flags, &edge, &[], "tour/london", &[]);
    let viewer = Viewer::start().await.unwrap();
    // What the page asks of whom.
    let script = "window.asked = []; const real = window.fetch; \
                  window.fetch = (url, ...rest) => { window.asked.push(String(url)); return real(url, ...rest); };";
    viewer.run_before_page(script).await.unwrap();
    let open = async |ticket: &str| {
        let page = edge.page("tour/london");
        viewer.open(&if ticket.is_empty() { page } else { format!("{page}?jwt={ticket}") }).await.unwrap();
    };
    let refused = async |words: &str| {
        until(words, async || {
            let (state, message) = told(&viewer).await;
            state == "refused" && message.contains(words)
        })
        .await;
        assert_eq!(painted(&viewer).await, 0, "{words}");
    };

    open("").await;
    refused("You need a ticket").await;
    open("rubbish").await;
    refused("not valid").await;
    open(&token(&dir, "sign --subscribe tour/paris --expires 1h").await).await;
    refused("for another show").await;
    open(&token(&dir, "sign --subscribe tour/london --expires 1h --not-before 30m").await).await;
    refused("not valid yet").await;
    let short = token(&dir, "sign --subscribe tour/london --expires 1s").await;
    let end = SystemTime::now() + std::time::Duration::from_secs(1);
    until("the ticket to expire", async || SystemTime::now() > end).await;
    open(&short).await;
    refused("has expired").await;

    // A good one, which ends while it plays.
    open(&token(&dir, "sign --subscribe tour/london --expires 8s").await).await;
    until("pictures", async || painted(&viewer).await > 10).await;
    until("its end", async || told(&viewer).await.1.contains("has expired")).await;
    let before = painted(&viewer).await;

    // One for one session, which another page has.
    let once = token(&dir, "sign --subscribe tour/london --expires 1h --sessions 1").await;
    let other = Viewer::start().await.unwrap();
    other.open(&format!("{}?jwt={once}", edge.page("tour/london"))).await.unwrap();
    until("pictures elsewhere", async || painted(&other).await > 10).await;
    assert_eq!(painted(&viewer).await, before, "not a picture after the end");
    open(&once).await;
    refused("in use on another device").await;
    other.close().await;
    until("pictures here", async || painted(&viewer).await > 10).await;

    // The ticket went to the relay only, and no address with it.
    let asked = viewer.run("return [window.asked.join(' '), document.referrer];").await.unwrap();
    assert!(!asked[0].as_str().unwrap().contains("jwt") && asked[1] == "", "{asked}");
    viewer.close().await;
}

#[tokio::test]
async fn a_relay_whose_keys_are_wrong_does_not_start_and_says_why() {
    let dir = Dir::new("badauth");
    token(&dir, "key").await;
    std::fs::write(dir.join("rubbish"), "rubbish").unwrap();
    for (flags, words) in [
        (&["--auth", "/no/such/keys"][..], &["/no/such/keys", "roadie token key"][..]),
        (&["--auth", "rubbish"], &["rubbish", "JSON Web Key"]),
        (&["--auth", "roadie-key.jwk"], &["roadie-key.jwk", "private"]),
        (&["--auth", "http://keys.example/"], &["keys.example", "https"]),
        (&["--auth", "https://"], &["https://"]),
        (&["--public", "open"], &["--public", "--auth"]),
        (&["--auth", "roadie-keys.json", "--public", "a*"], &["--public", "a*"]),
        (&["--max-connections", "0"], &["--max-connections"]),
    ] {
        let mut relay = Command::new(common::relay_program());
        relay.args(["--listen", "[::]:0", "--http", "[::]:0", "--state", "relay"]).args(flags);
        let run = relay.current_dir(dir.join("")).stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(common::PATIENCE, run).await.expect("it starts").unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{flags:?}");
        for word in words {
            assert!(told.contains(word), "{flags:?}: {word} is not in {told}");
        }
    }
}
