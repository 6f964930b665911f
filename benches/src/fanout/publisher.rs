//! Who publishes, as a child process: a MoQ program that gives the made-up show to either relay in the same way.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Context;
use relay::clock::Clock;
use relay::dial::{self, Address};
use relay::origin::Origin;
use relay::tls::Identity;

use super::crowd::{Place, uptime};
use crate::bond::plan::Plan;
use crate::bond::real::feed::{Sent, feed};
use crate::bond::real::product::catalog;
use crate::cpu::child::{answer, orders};
use crate::cpu::product::BROADCAST;

/// Says `ready` when the relay has let it in, begins with the first order, and answers each with the frames that it has
/// given away so far.
pub async fn publisher(plan: &Plan, relay: &str) -> anyhow::Result<()> {
    let place = Place::parse(relay)?;
    let Identity { fingerprint, .. } = Identity::self_signed(Path::new(&place.state))?;
    let origin = Origin::start();
    let mut publication = origin.publish(BROADCAST, &catalog(plan))?;
    let address = Address::parse(&format!("moqt://127.0.0.1:{}/", place.quic), &[fingerprint])?;
    let mut session = tokio::spawn(async move { dial::publish(&origin, &address).await });
    answer("ready");
    let mut orders = orders();
    orders.recv().await.context("no order came")?;
    let sent = Arc::new(AtomicU64::new(0));
    answer("0");
    let clock = Clock::start();
    let put = |frame: &Sent| {
        let written = publication.write(&frame.coming.frame_captured(uptime(), frame.bytes));
        if written.is_ok() {
            sent.fetch_add(1, Relaxed);
        }
    };
    let feeding = feed(plan, 1, clock.now(), &clock, || plan.media.video, put);
    let asked = async {
        while orders.recv().await.is_some() {
            answer(&sent.load(Relaxed).to_string());
        }
    };
    tokio::select! {
        _ = feeding => Ok(()),
        () = asked => Ok(()),
        ended = &mut session => Err(anyhow::anyhow!("the relay ended the session: {}", ended??)),
    }
}
