//! Pulling broadcasts from other relays: `roadie-relay --upstream URL`.
//!
//! All upstreams are connected at the same time, so that one that fails is replaced at once by the next that has the
//! broadcast; the earlier in the list is preferred. What they announce is let in like what programs publish here, and no
//! media flows before a viewer asks: then one subscription flows, however many viewers there are. A broadcast that has
//! come back in a circle is known by the hops in its announcement, so that relays can be each other's upstreams.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use crate::dial::{Address, DialError};
use crate::intake::{From, Intake, everything};

/// After a failure it is tried again so soon, then after twice the time each time,
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// but after this at the latest.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A session that lasted this long was no failure.
const STEADY: Duration = Duration::from_secs(10);

/// What the way to the first upstream costs in moq's routes, and each further one more; an ordinary way costs 1.
const COST: u64 = 1;

/// How one upstream fares, for whoever asks.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<State>);

#[derive(Debug, Default)]
struct State {
    host: String,
    connected: AtomicBool,
    calls: AtomicU64,
}

/// The same at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Host and port.
    pub host: String,
    /// Whether there is a session.
    pub connected: bool,
    /// How often it was called.
    pub calls: u64,
}

impl Health {
    /// Of this upstream, not called yet.
    pub fn new(address: &Address) -> Self {
        Self(Arc::new(State { host: address.host(), ..State::default() }))
    }

    /// Now.
    pub fn status(&self) -> Status {
        let State { host, connected, calls } = &*self.0;
        Status { host: host.clone(), connected: connected.load(Relaxed), calls: calls.load(Relaxed) }
    }
}

/// Pulls from one upstream until the future is dropped. `place`: in the list, from 0.
pub async fn pull(address: Address, place: usize, intake: Intake, health: Health) {
    let cost = COST + place as u64;
    let mut pause = FIRST_PAUSE;
    // The last session that was asked to go: it carries on until the upstream ends it.
    let mut leaving = JoinSet::new();
    loop {
        let begun = Instant::now();
        health.0.calls.fetch_add(1, Relaxed);
        let ended = session(&address, cost, &intake, &health).await;
        health.0.connected.store(false, Relaxed);
        if begun.elapsed() >= STEADY {
            pause = FIRST_PAUSE;
        }
        match ended {
            Ok(End::Over(reason)) => {
                tracing::warn!(upstream = address.host(), reason, ?pause, "upstream lost");
            }
            Ok(End::Asked(rest)) => {
                tracing::info!(upstream = address.host(), "upstream is being stopped: calling its successor");
                // An upstream that asks again and again gets no crowd of sessions.
                leaving.abort_all();
                leaving.spawn(rest);
            }
            Err(error) => tracing::warn!(upstream = address.host(), %error, ?pause, "upstream not reached"),
        }
        tokio::time::sleep(pause).await;
        while leaving.try_join_next().is_some() {}
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What became of a session.
enum End {
    /// It ended, for this reason.
    Over(String),
    /// The upstream wants us to go (GOAWAY). What it has is worth less than all others' now, and comes until it ends this.
    Asked(Pin<Box<dyn Future<Output = String> + Send>>),
}

/// One session, until it ends or is asked to.
async fn session(address: &Address, cost: u64, intake: &Intake, health: &Health) -> Result<End, DialError> {
    let Some(inbox) = intake.inbox(From::Upstream, "", &everything()) else {
        return Ok(End::Over("this relay ends".into()));
    };
    let client = moq_net::Client::new().with_cost(cost).with_subscriber(inbox.entry());
    let (session, driver) = address.call(client).await?;
    health.0.connected.store(true, Relaxed);
    tracing::info!(upstream = address.host(), version = %session.version(), "upstream");
    let draining = session.draining();
    let mut running: Pin<Box<dyn Future<Output = String> + Send>> = Box::pin(async move {
        let _session = session;
        tokio::select! {
            ended = moq_net::time::run(driver) => ended.to_string(),
            too_much = inbox.admit() => too_much.to_string(),
        }
    });
    tokio::select! {
        reason = &mut running => Ok(End::Over(reason)),
        Some(_) = draining.recv() => Ok(End::Asked(running)),
    }
}
