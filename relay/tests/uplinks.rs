//! Uplinks that come and go, on real interfaces in network namespaces. Needs root; says so and passes
//! where it is not allowed.

mod common;
#[path = "common/world.rs"]
mod world;

use std::time::Duration;

use common::{catalog, frames, no_hooks, until};
use relay::clock::Clock;
use relay::uplink::{EdgeAddress, Plan};
use relay::venue::{self, Venue};
use tokio::sync::{Mutex, MutexGuard};
use world::{HOST, PORT, VenueProcess, World};

/// One world at a time: there are two cores.
async fn alone() -> MutexGuard<'static, ()> {
    static STAGE: Mutex<()> = Mutex::const_new(());
    STAGE.lock().await
}

/// Not a test: the venue that the others start in its own namespace.
#[test]
#[ignore = "run by the other tests"]
fn the_venue_itself() {
    let Ok(uplinks) = std::env::var("ROADIE_TEST_UPLINKS") else { return };
    if std::env::var("RUST_LOG").is_ok() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .init();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let uplinks: Vec<String> = uplinks.split(' ').map(str::to_owned).collect();
        let clock = Clock::start();
        let settings = venue::Settings {
            edge: EdgeAddress {
                host: HOST.into(),
                port: PORT,
                fingerprint: Some(std::env::var("ROADIE_TEST_FINGERPRINT").unwrap()),
            },
            broadcast: "show".into(),
            token: Some("secret".into()),
            uplinks: Plan::parse(&uplinks).unwrap(),
            deadline: Duration::from_millis(400),
        };
        let venue = Venue::start(settings, catalog(), clock, frames(clock), no_hooks(), None).unwrap();
        let mut last = String::new();
        loop {
            let status = venue.status();
            let state =
                serde_json::json!({ "uplinks": status.uplinks, "rate": status.target_rate }).to_string();
            if state != last {
                println!("state {state}");
                last = state;
            }
            for notice in venue.take_notices() {
                println!("notice {notice}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

/// Waits until `count` more frames are with the viewers; gives how many were lost meanwhile.
async fn goes_on(world: &World, count: u64) -> u64 {
    let before = world.at_edge().await;
    let number = |status: &serde_json::Value, name: &str| status[name].as_u64().unwrap_or(0);
    until("the show to go on", async || world.published().await >= number(&before, "published") + count)
        .await;
    number(&world.at_edge().await, "lost") - number(&before, "lost")
}

async fn two_uplinks(world: &mut World, venue: &[&str]) -> VenueProcess {
    for n in [1, 2] {
        world.plug(n);
        world.dhcp(n);
    }
    world.edge(&[]).await;
    let venue = world.venue(venue, &[]);
    venue.wait("usb1", true).await;
    venue.wait("usb2", true).await;
    goes_on(world, 30).await;
    venue
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_that_is_pulled_is_named_and_used_again_when_it_is_back() {
    let _stage = alone().await;
    let Some(mut world) = World::new("pulled") else { return };
    let venue = two_uplinks(&mut world, &["usb1", "usb2"]).await;

    world.ip("venue", "link set usb1 down");
    venue.wait_reason("usb1", "usb1 is down").await;
    let lost = goes_on(&world, 60).await;
    world.ip("venue", "link set usb1 up");
    world.ip("venue", "route replace default via 10.1.0.1 dev usb1 metric 100");
    venue.wait("usb1", true).await;

    world.ip("venue", "addr flush dev usb1");
    venue.wait_reason("usb1", "usb1 has no address").await;
    world.dhcp(1);
    venue.wait("usb1", true).await;

    world.unplug(2);
    venue.wait_reason("usb2", "no interface usb2").await;
    goes_on(&world, 60).await;
    world.plug(2);
    venue.wait_reason("usb2", "usb2 has no address").await;
    world.dhcp(2);
    venue.wait("usb2", true).await;
    assert_eq!(venue.uplink("usb2")["path"], 1);
    println!("{lost} frames lost while usb1 was down");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_address_moves_the_connection_along() {
    let _stage = alone().await;
    let Some(mut world) = World::new("moves") else { return };
    world.plug(1);
    world.dhcp(1);
    world.ip("provider", "addr add 10.1.5.1/24 dev p1");
    world.edge(&[]).await;
    // The only uplink: nothing else can carry the show over.
    let venue = world.venue(&["usb1"], &[]);
    venue.wait("usb1", true).await;
    goes_on(&world, 30).await;

    world.ip("venue", "addr add 10.1.5.2/24 dev usb1");
    world.ip("venue", "route replace default via 10.1.5.1 dev usb1 metric 100");
    world.ip("venue", "addr del 10.1.0.2/24 dev usb1");
    until("the connection to move", async || venue.uplink("usb1")["moves"].as_u64() > Some(0)).await;
    let lost = goes_on(&world, 90).await;
    let uplink = venue.uplink("usb1");
    assert!(uplink["connected"] == true && uplink["reason"].is_null(), "it did not stay: {uplink}");
    assert_eq!(world.at_edge().await["uplinks"]["0"]["connected"], true);
    println!("{lost} frames lost while the address changed; {uplink}");
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_takes_what_is_plugged_in() {
    let _stage = alone().await;
    let Some(mut world) = World::new("auto") else { return };
    world.plug(1);
    world.dhcp(1);
    world.edge(&[]).await;
    // usb3 is not there yet, and its cap is tiny.
    let venue = world.venue(&["auto", "usb3=1MB@5"], &[]);
    venue.wait("usb1", true).await;
    venue.wait_reason("usb3", "no interface usb3").await;
    // A cable without an address, or without a way out, is no uplink.
    world.plug(2);
    world.ip("venue", "addr add 10.2.0.2/24 dev usb2");
    goes_on(&world, 30).await;
    assert!(venue.uplink("usb2").is_null(), "{}", venue.uplink("usb2"));
    world.ip("venue", "route add default via 10.2.0.1 dev usb2 metric 200");
    venue.wait("usb2", true).await;
    world.plug(3);
    world.dhcp(3);
    venue.wait("usb3", true).await;
    assert_eq!((&venue.uplink("usb3")["path"], &venue.uplink("usb3")["price"]), (&0.into(), &5.into()));

    world.unplug(1);
    venue.wait_reason("usb1", "no interface usb1").await;
    goes_on(&world, 30).await;
    // Only usb3 is left, whatever it costs: its megabyte is soon gone, and the show goes on all the same.
    world.unplug(2);
    until("the warning", async || venue.notices().iter().any(|notice| notice.contains("used up"))).await;
    until("the emergency", async || venue.uplink("usb3")["emergency"] == true).await;
    goes_on(&world, 60).await;
    assert!(
        venue.notices().iter().any(|notice| notice.starts_with("usb3 has used")),
        "{:?}",
        venue.notices()
    );
    world.plug(1);
    world.dhcp(1);
    venue.wait("usb1", true).await;
    until("the end of the emergency", async || venue.uplink("usb3")["emergency"] == false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uplink_whose_udp_is_blocked_is_reported_and_the_others_carry_on() {
    let _stage = alone().await;
    let Some(mut world) = World::new("blocked") else { return };
    for n in [1, 2] {
        world.plug(n);
        world.dhcp(n);
    }
    world.block(2, true);
    world.edge(&[]).await;
    let venue = world.venue(&["usb1", "usb2"], &[]);
    venue.wait("usb1", true).await;
    let words = venue.wait_reason("usb2", "does not answer on usb2").await;
    assert!(words.contains("UDP port 4443 may be blocked there"), "{words}");
    goes_on(&world, 30).await;
    world.block(2, false);
    venue.wait("usb2", true).await;

    // It is closed in the middle of the show, one way only: the edge is still heard.
    until("usb2 to carry", async || venue.uplink("usb2")["reason"].is_null()).await;
    world.block(2, true);
    let words = venue.wait_reason("usb2", "nothing gets through on usb2").await;
    assert!(words.contains("UDP port 4443"), "{words}");
    let lost = goes_on(&world, 60).await;
    assert!(venue.connected("usb1"));
    world.block(2, false);
    until("usb2 to carry again", async || {
        venue.connected("usb2") && venue.uplink("usb2")["reason"].is_null()
    })
    .await;
    // And an MTU that is too small for QUIC.
    world.ip("venue", "link set usb2 mtu 1000");
    let words = venue.wait_reason("usb2", "MTU").await;
    assert!(words.contains("1000") && words.contains("ip link set usb2 mtu 1500"), "{words}");
    world.ip("venue", "link set usb2 mtu 1500");
    venue.wait("usb2", true).await;
    println!("{lost} frames lost while usb2 was blocked");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uplink_takes_the_family_that_works() {
    let _stage = alone().await;
    let Some(mut world) = World::new("families") else { return };
    for n in [1, 2, 3] {
        world.plug(n);
    }
    world.dhcp(1);
    world.slaac(2);
    world.dhcp(3);
    world.slaac(3);
    // usb3 has both, and its IPv6 leads nowhere.
    world.ip("provider", "-6 rule add pref 10 iif p3 blackhole");
    world.edge(&[]).await;
    let venue = world.venue(&["usb1", "usb2", "usb3"], &[]);
    for name in ["usb1", "usb2", "usb3"] {
        venue.wait(name, true).await;
    }
    goes_on(&world, 30).await;
    // Without its IPv4, usb3 has no way that works; with IPv6 mended it has.
    world.ip("venue", "addr del 10.3.0.2/24 dev usb3");
    venue.wait("usb3", false).await;
    world.ip("provider", "-6 rule del pref 10");
    venue.wait("usb3", true).await;
    goes_on(&world, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_venue_that_slept_calls_anew_at_once() {
    let _stage = alone().await;
    let Some(mut world) = World::new("sleep") else { return };
    let venue = two_uplinks(&mut world, &["usb1", "usb2"]).await;
    let before = world.at_edge().await;
    venue.signal("STOP");
    // The nap itself: longer than what the watch takes for one.
    tokio::time::sleep(Duration::from_secs(7)).await;
    venue.signal("CONT");
    let took =
        until("the notice", async || venue.notices().iter().any(|notice| notice.contains("asleep"))).await;
    venue.wait("usb1", true).await;
    venue.wait("usb2", true).await;
    // A new session counts from the beginning.
    until("a new session", async || {
        let now = world.at_edge().await;
        now["live"] == true && now["published"].as_u64() < before["published"].as_u64()
    })
    .await;
    goes_on(&world, 30).await;
    println!("noticed after {took:?}");
}

/// libfaketime turns the wall clock of both ends, as an operator or a bad time server would; the clock
/// that ticks is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_steps_by_hours_changes_nothing() {
    let _stage = alone().await;
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    if !std::path::Path::new(library).exists() {
        println!("skipped: no {library}: `apt install libfaketime`");
        return;
    }
    let Some(mut world) = World::new("clock") else { return };
    let dir = common::Dir::new("clock-files");
    let clock = |end: &str| {
        let file = dir.0.join(end);
        std::fs::write(&file, "+0").unwrap();
        vec![
            ("LD_PRELOAD", library.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    };
    world.plug(1);
    world.dhcp(1);
    world.edge(&clock("edge")).await;
    let venue = world.venue(&["usb1"], &clock("venue"));
    venue.wait("usb1", true).await;
    goes_on(&world, 60).await;
    let offset = async || world.at_edge().await["clock_offset_us"].as_i64().unwrap();
    until("a measured clock", async || world.at_edge().await["clock_offset_us"].is_i64()).await;
    let before = offset().await;
    for (end, step) in [("venue", "+5h"), ("edge", "-7h"), ("venue", "-30h")] {
        std::fs::write(dir.0.join(end), step).unwrap();
        let lost = goes_on(&world, 60).await;
        assert_eq!(lost, 0, "{end} {step}");
        assert!(venue.connected("usb1"), "{}", venue.uplink("usb1"));
        assert!((offset().await - before).abs() < 100_000, "{end} {step}: {} us", offset().await - before);
    }
    // A connection that is made under the wrong clock works too: a pinned certificate has no date.
    world.unplug(1);
    venue.wait("usb1", false).await;
    world.plug(1);
    world.dhcp(1);
    venue.wait("usb1", true).await;
    goes_on(&world, 30).await;
}
