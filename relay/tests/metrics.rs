//! What Prometheus gets from a relay that is at work, and what the dashboard asks of it. Real sockets on loopback.

mod common;
#[path = "common/prometheus.rs"]
mod prometheus;
#[path = "common/tickets.rs"]
mod tickets;

use std::collections::BTreeSet;

use common::until;
use prometheus::Scrape;
use tickets::{House, LATE, WORD, claims};

async fn scrape(house: &House, ticket: &str) -> (Scrape, String) {
    let answer = house.get("/metrics", &format!("Authorization: Bearer {ticket}\r\n")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    (Scrape::parse(body).unwrap_or_else(|error| panic!("{error}")), body.to_owned())
}

/// A relay with a show that is kept, a viewer, and some who were not let in.
async fn busy(name: &str) -> (House, relay::venue::Venue, tickets::Viewer, String) {
    let house = House::open(name, |dir, settings| {
        settings.keep = Some(dir.0.join("keep"));
        settings.upstream = vec![relay::dial::Address::parse("moqt://127.0.0.1:1", &[]).unwrap()];
    })
    .await;
    let venue = house.show("tour/london").await;
    let all = house.ticket(&claims(&["**"], &[], LATE));
    let viewer = house.viewer(&format!("/?jwt={all}")).await.unwrap();
    assert!(viewer.watch("tour/london", 40).await > 0);
    (house, venue, viewer, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_scraped_keeps_to_the_format_and_says_what_happened() {
    let (house, venue, viewer, all) = busy("metrics").await;
    let london = house.ticket(&claims(&["tour/london"], &[], LATE));
    assert!(house.viewer("/?jwt=rubbish").await.is_err());
    assert!(house.get("/api/status", "").await.starts_with("HTTP/1.0 401"));
    assert!(house.get("/hls/no/such/index.m3u8?jwt=", "").await.starts_with("HTTP/1.0 401"));
    let status = async || -> serde_json::Value {
        let answer = house.get("/api/status", &format!("Authorization: Bearer {all}\r\n")).await;
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    };

    let (before, text) = scrape(&house, &all).await;
    let known = status().await["broadcasts"]["tour/london"].clone();
    let (after, _) = scrape(&house, &all).await;
    for secret in [WORD, &all, &london, "rubbish"] {
        assert!(!text.contains(secret), "{secret}");
    }
    for (name, family) in &after.0 {
        assert_eq!(family.kind == "counter", name.ends_with("_total"), "{name}");
        assert!(name.starts_with("roadie_") || name.starts_with("process_"), "{name}");
        assert!(!["_ms", "_us", "_kb", "_percent", "_seconds_bytes"].iter().any(|unit| name.contains(unit)));
        for (labels, value) in family.samples.iter().filter(|_| family.kind == "counter") {
            let labels: Vec<_> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert!(before.find(name, &labels).is_none_or(|before| before <= *value), "{name} fell");
        }
    }

    let london = [("broadcast", "tour/london")];
    let within = |name: &str, field: &str| {
        let value = known[field].as_f64().unwrap();
        let (low, high) = (before.get(name, &london), after.get(name, &london));
        assert!((low..=high).contains(&value) && high > 0.0, "{name}: {low} {value} {high}");
    };
    within("roadie_frames_published_total", "published");
    within("roadie_media_bytes_total", "media_bytes");
    within("roadie_groups_published_total", "groups");
    assert_eq!(after.get("roadie_broadcast_live", &london), 1.0);
    assert_eq!(after.get("roadie_uplink_connected", &[london[0], ("uplink", "0")]), 1.0);
    assert!(after.get("roadie_uplink_received_bytes_total", &london) > 100_000.0);
    assert_eq!(after.get("roadie_keep_failed", &london), 0.0);
    assert!(after.find("roadie_keep_groups", &[london[0], ("state", "missing")]).is_some());
    assert!(after.get("roadie_keep_disk_free_bytes", &[]) > 0.0);
    assert_eq!(after.get("roadie_viewers", &[]), 1.0);
    assert_eq!(after.get("roadie_connections", &[("protocol", "bond")]), 1.0);
    assert_eq!(after.get("roadie_connections", &[("protocol", "webtransport")]), 1.0);
    // The viewer and the one with rubbish.
    assert_eq!(after.get("roadie_connections_total", &[("protocol", "webtransport")]), 2.0);
    let refused =
        |protocol, reason| after.get("roadie_refusals_total", &[("protocol", protocol), ("reason", reason)]);
    assert_eq!(refused("webtransport", "ticket-malformed"), 1.0);
    assert_eq!(refused("http", "ticket-missing"), 2.0);
    assert_eq!(after.get("roadie_http_requests_total", &[("handler", "hls"), ("code", "401")]), 1.0);
    assert!(
        after.get("roadie_http_response_bytes_total", &[("handler", "metrics"), ("code", "200")]) > 1000.0
    );
    // It read 40 frames of some 4,000 bytes.
    assert!(after.get("roadie_forwarded_frames_total", &[]) >= 40.0);
    assert!(after.get("roadie_forwarded_bytes_total", &[]) >= 40.0 * 4_000.0);
    assert!(after.get("roadie_udp_sent_bytes_total", &[]) >= after.get("roadie_forwarded_bytes_total", &[]));
    assert!(
        after.get("roadie_udp_received_bytes_total", &[])
            >= after.get("roadie_uplink_received_bytes_total", &london)
    );
    assert_eq!(after.get("roadie_upstream_connected", &[("upstream", "127.0.0.1:1")]), 0.0);
    let resident = after.get("process_resident_memory_bytes", &[]);
    assert!((1e6..1e11).contains(&resident), "{resident}");
    let start = after.get("process_start_time_seconds", &[]);
    assert!((0.0..3600.0).contains(&(tickets::now() as f64 - start)), "{start}");
    assert!(after.get("process_open_fds", &[]) < after.get("process_max_fds", &[]));

    viewer.connection.close(0u32.into(), b"");
    venue.stop().await;
    until("the end of all connections", async || {
        let (now, _) = scrape(&house, &all).await;
        now.0["roadie_connections"].samples.values().sum::<f64>() == 0.0
    })
    .await;
}

/// Words of an expression that may be names of metrics: those that begin as ours do.
fn names(expression: &str) -> Vec<String> {
    let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words
        .filter(|word| word.starts_with("roadie_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

/// All strings under this key, however deep.
fn all(value: &serde_json::Value, key: &str, into: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => map.iter().for_each(|(name, value)| match value.as_str() {
            Some(text) if name == key => into.push(text.to_owned()),
            _ => all(value, key, into),
        }),
        serde_json::Value::Array(list) => list.iter().for_each(|value| all(value, key, into)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_asks_only_for_what_there_is() {
    let (house, _venue, _viewer, ticket) = busy("dashboard").await;
    // The first one is among the requests that the second tells of.
    let _ = scrape(&house, &ticket).await;
    let _ = house.get("/api/status", "").await;
    let (scrape, _) = scrape(&house, &ticket).await;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/grafana/roadie-relay.json");
    let dashboard: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let (mut expressions, mut legends) = (Vec::new(), Vec::new());
    all(&dashboard, "expr", &mut expressions);
    all(&dashboard, "legendFormat", &mut legends);
    let asked: BTreeSet<_> = expressions.iter().flat_map(|expression| names(expression)).collect();
    assert!(asked.len() > 20, "{asked:?}");
    let missing: Vec<_> = asked.iter().filter(|name| !scrape.0.contains_key(*name)).collect();
    assert!(missing.is_empty(), "the relay gives no {missing:?}");
    // A counter as it is says nothing.
    for expression in &expressions {
        let counter = names(expression).iter().any(|name| scrape.0[name].kind == "counter");
        assert!(!counter || expression.contains("rate(") || expression.contains("increase("), "{expression}");
    }
    let mut labels = scrape.labels();
    // Prometheus adds this one, and the reports of viewers the other.
    labels.extend(["instance".to_owned(), "quantile".to_owned()]);
    for legend in &legends {
        for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
            assert!(labels.contains(label.trim()), "no label {label:?} of {legend:?}");
        }
    }
}
