//! The product's two ends, as child processes.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use relay::clock::Clock;
use relay::uplink::{Bind, EdgeAddress, Tariff, Uplink};
use relay::venue::{Settings, Venue};
use roadie::edge_api::EdgeApi;

use super::child::{answer, orders};
use crate::bond::plan::Plan;
use crate::bond::real::feed::{Sent, feed};
use crate::bond::real::product::{Tap, catalog, start_edge, wait_for};

/// The show's name.
pub const BROADCAST: &str = "bench";

/// The edge: says its ports and certificate, and when asked, what it has handed to viewers.
pub async fn edge() -> anyhow::Result<()> {
    let edge = start_edge().await?;
    let quic = edge.quic_addr().context("the edge has no UDP port")?;
    let http = edge.http_addr().context("the edge has no TCP port")?;
    let words = format!("{},{}", quic.port(), edge.fingerprint());
    let running = tokio::spawn(edge.run());
    answer(&words);
    let mut orders = orders();
    while orders.recv().await.is_some() {
        let status = EdgeApi::new(http.port()).get("/api/status").await;
        let bytes = status["broadcasts"][BROADCAST]["media_bytes"].as_u64().unwrap_or(0);
        answer(&bytes.to_string());
    }
    running.abort();
    Ok(())
}

/// The venue: says when all uplinks are there, sends when told to, and says when it has.
pub async fn venue(plan: &Plan, uplinks: u8, edge: &str) -> anyhow::Result<()> {
    let (port, fingerprint) = edge.split_once(',').context("no edge was told")?;
    let port: u16 = port.parse().context("no port was told")?;
    let via = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let uplink = |number| Uplink {
        name: format!("uplink-{number}"),
        bind: Bind::Any,
        via: Some(via),
        tariff: Tariff::default(),
    };
    let settings = Settings {
        edge: EdgeAddress { host: "localhost".into(), port, fingerprint: Some(fingerprint.into()) },
        broadcast: BROADCAST.into(),
        token: None,
        uplinks: (1..=uplinks).map(uplink).collect::<Vec<_>>().into(),
        deadline: plan.deadline,
    };
    let clock = Clock::start();
    let tap = Tap::default();
    let venue = Venue::start(settings, catalog(plan), clock, tap.frames(), tap.hooks(), None)?;
    wait_for(&venue, usize::from(uplinks)).await?;
    tokio::time::sleep(plan.warm_up).await;
    answer("ready");
    let mut orders = orders();
    if orders.recv().await.is_some() {
        let put = |sent: &Sent| {
            tap.put(sent.coming.frame_captured(sent.at, sent.bytes), sent.at);
        };
        feed(plan, 1, clock.now(), &clock, || plan.media.video, put).await;
        answer("done");
        orders.recv().await;
    }
    Ok(())
}
