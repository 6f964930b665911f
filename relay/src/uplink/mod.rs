//! The uplinks of the venue: which there are ([`plan`], `interfaces`, `watch`, `roster`), how each calls
//! the edge (`dial`, `transport`) and comes back (`life`), and what it costs ([`cost`]).

pub mod cost;
pub mod plan;

mod dial;
mod interfaces;
mod life;
mod roster;
mod transport;
mod watch;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bond::PathId;
use bytes::Bytes;
use tokio::sync::{mpsc, watch as latest};
use tokio::task::AbortHandle;

pub use cost::Cost;
pub use dial::EdgeAddress;
pub use plan::{Bind, Plan, Tariff, Uplink, UplinkError};

use crate::clock::Clock;
use crate::control::{Audience, Hello, ToEdge, Welcome};
use dial::Edge;
use life::Line;
use roster::{Change, Roster};

/// The IPv4 addresses by which others in the neighbourhood may reach this machine now, with the names of their
/// interfaces.
pub fn addresses() -> Vec<(String, Ipv4Addr)> {
    watch::addresses()
}

/// What the uplinks tell the bond's task.
pub(crate) enum UplinkEvent {
    /// There is an uplink of this name under this number now.
    Added { path: PathId, name: String, tariff: Tariff },
    /// There is none any more.
    Removed { path: PathId },
    /// Part of the bond now.
    Up {
        path: PathId,
        session: Arc<str>,
        connection: quinn::Connection,
        control: mpsc::Sender<ToEdge>,
        welcome: Welcome,
    },
    /// Its address changed, and the connection moved along.
    Moved { path: PathId },
    /// Something came from the edge.
    Datagram { path: PathId, connection: usize, data: Bytes },
    /// The edge wants a keyframe.
    Keyframe,
    /// The edge says how the viewers fare.
    Audience(Audience),
    /// Lost, or not to be had.
    Down { path: PathId, connection: Option<usize>, why: Why },
    /// The machine was asleep: its clocks stood still, so the bond begins anew under this session.
    Woke { session: Arc<str> },
}

/// Why an uplink is not part of the bond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Why {
    /// For the creator.
    pub words: String,
    /// The edge said no: only a person can change its mind.
    pub refused: bool,
    /// Nothing came back. Whether the edge or only this way to it is dead shows in the other uplinks.
    pub silent: bool,
}

/// What every uplink needs.
pub(crate) struct Uplinks {
    pub plan: Plan,
    pub edge: EdgeAddress,
    pub token: Option<String>,
    /// Without path, name, session and proof.
    pub hello: Hello,
    pub clock: Clock,
    pub events: mpsc::Sender<UplinkEvent>,
    /// Gives 128 random bits in hex.
    pub new_session: fn() -> Arc<str>,
}

impl Uplinks {
    /// Keeps all uplinks alive until the bond's task is gone.
    pub async fn run(self) {
        let Self { plan, edge, token, hello, clock, events, new_session } = self;
        let edge = Arc::new(Edge::new(edge, token));
        let mut network = watch::watch();
        let (session, sessions) = latest::channel(Arc::from(hello.session.as_str()));
        let mut wakes = network.borrow().wakes;
        let (mut roster, mut changes) = Roster::new(&plan);
        let mut running: BTreeMap<PathId, Running> = BTreeMap::new();
        loop {
            let seen = network.borrow_and_update().clone();
            if seen.wakes != wakes {
                wakes = seen.wakes;
                let fresh = new_session();
                tracing::warn!("the machine was asleep: the bond begins anew");
                // First the bond, then those who dial for it.
                if events.send(UplinkEvent::Woke { session: fresh.clone() }).await.is_err() {
                    return;
                }
                session.send_replace(fresh);
            }
            changes.extend(roster.update(&seen, clock.now()));
            for change in changes.drain(..) {
                let event = match &change {
                    Change::Add { path, uplink } => {
                        UplinkEvent::Added { path: *path, name: uplink.name.clone(), tariff: uplink.tariff }
                    }
                    Change::Remove { path } => {
                        running.remove(path);
                        UplinkEvent::Removed { path: *path }
                    }
                };
                if events.send(event).await.is_err() {
                    return;
                }
                if let Change::Add { path, uplink } = change {
                    let line = Line {
                        hello: Hello { path: path.0, uplink: uplink.name.clone(), ..hello.clone() },
                        uplink,
                        edge: edge.clone(),
                        network: network.clone(),
                        sessions: sessions.clone(),
                        events: events.clone(),
                    };
                    running.insert(path, Running(tokio::spawn(line.run()).abort_handle()));
                }
            }
            let due = roster.poll_timeout().map(|due| clock.instant(due));
            tokio::select! {
                () = life::changed(&mut network) => {}
                () = async { match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                } } => {}
                () = events.closed() => return,
            }
        }
    }
}

/// Ends with the roster's entry.
struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}
