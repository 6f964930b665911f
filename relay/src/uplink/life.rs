//! One uplink of the bond: it calls, carries, follows its interface's changes, and comes back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bond::PathId;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::dial::{self, DialError, Dialled, Edge};
use super::interfaces::{Footing, Network, Trouble};
use super::plan::Uplink;
use super::{UplinkEvent, Why};
use crate::control::{self, Close, Hello, ToEdge, ToVenue};

/// The edge must answer within this time; then the next attempt begins with fresh packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause before a new attempt, doubled each time.
const BACKOFF: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_millis(800);

/// Pause after the edge has said no: only a person can change its mind.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// After a change of address the edge must be heard within this time on the old connection, or a new
/// one is made: two round trips of a bad link.
const FOLLOW: Duration = Duration::from_millis(1500);

/// What comes within this time after a change may have been sent to the old address.
const UNDER_WAY: Duration = Duration::from_millis(400);

/// Nothing was heard for this long: a fresh local port may get through where a router or a provider's
/// NAT has a stale idea of the old one. Longer than the outages that heal by themselves.
const STALE: Duration = Duration::from_secs(4);

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Messages waiting for the control stream; more mean that it is stuck.
const CONTROL_QUEUE: usize = 8;

/// An uplink's task.
pub(super) struct Line {
    pub uplink: Uplink,
    pub edge: Arc<Edge>,
    /// Without its session and proof.
    pub hello: Hello,
    pub network: watch::Receiver<Arc<Network>>,
    pub sessions: watch::Receiver<Arc<str>>,
    pub events: mpsc::Sender<UplinkEvent>,
}

impl Line {
    /// Keeps the uplink alive until the bond's task is gone.
    pub async fn run(mut self) {
        let path = PathId(self.hello.path);
        let mut pause = *BACKOFF.start();
        while !self.events.is_closed() {
            let mut connected = None;
            let Err(error) = self.live(&mut connected).await else { return };
            if connected.is_some() {
                pause = *BACKOFF.start();
            }
            let why = self.explain(&error);
            tracing::info!(uplink = %self.uplink.name, why = %why.words, "uplink");
            let refused = why.refused;
            if self.events.send(UplinkEvent::Down { path, connection: connected, why }).await.is_err() {
                return;
            }
            let Self { network, sessions, events, .. } = &mut self;
            match error {
                // A new try makes sense now.
                DialError::Stuck | DialError::Slept => continue,
                // Nothing to try before the machine has changed.
                DialError::Trouble(_) => tokio::select! {
                    () = changed(network) => {}
                    () = changed(sessions) => {}
                    () = events.closed() => return,
                },
                _ if refused => tokio::select! {
                    () = tokio::time::sleep(REFUSED_PAUSE) => {}
                    () = events.closed() => return,
                },
                _ => tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = changed(network) => {}
                    () = changed(sessions) => {}
                    () = events.closed() => return,
                },
            }
            pause = (pause * 2).min(*BACKOFF.end());
        }
    }

    /// Why, for the creator; what may help is in it.
    fn explain(&self, error: &DialError) -> Why {
        let mut words = error.to_string();
        let silent = matches!(error, DialError::Silent);
        if matches!(error, DialError::Silent | DialError::NoWay(..) | DialError::Family { .. })
            && let Ok(Footing { v4, v6 }) = self.network.borrow().stand(&self.uplink.bind)
            && let Some(hint) = v4.or(v6).and_then(|stance| stance.hint)
        {
            words = format!("{words}; {hint}");
        }
        Why { words, refused: error.hopeless(), silent }
    }

    /// One life: dial, say hello, carry; `Ok` when the bond's task is gone.
    async fn live(&mut self, connected: &mut Option<usize>) -> Result<(), DialError> {
        let path = PathId(self.hello.path);
        let footing = self.network.borrow_and_update().stand(&self.uplink.bind)?;
        let session = self.sessions.borrow_and_update().clone();
        let hello = Hello { session: session.to_string(), ..self.hello.clone() };
        let dialled = tokio::select! {
            dialled = tokio::time::timeout(CONNECT_TIMEOUT, dial::dial(&self.uplink, &self.edge, &footing, hello)) => {
                dialled.unwrap_or(Err(DialError::Silent))?
            }
            // What it was dialling on is gone or has changed.
            shaken = shaken(&mut self.network, &self.uplink, &footing) => {
                shaken?;
                return Err(DialError::Stuck);
            }
            () = changed(&mut self.sessions) => return Err(DialError::Slept),
        };
        let id = dialled.connection.stable_id();
        *connected = Some(id);
        let (control, outbox) = mpsc::channel(CONTROL_QUEUE);
        let Dialled { endpoint, connection, remote, send, recv, welcome } = dialled;
        let up = UplinkEvent::Up { path, session, connection: connection.clone(), control, welcome };
        if self.events.send(up).await.is_err() {
            return Ok(());
        }
        let events = &self.events;
        let follower = Follower {
            endpoint,
            connection: &connection,
            remote,
            uplink: &self.uplink,
            network: &mut self.network,
            footing,
            path,
            events,
        };
        let result = tokio::select! {
            // The connection knows best why it ended.
            biased;
            result = carry(&connection, path, events) => result,
            result = async { tokio::join!(write(send, outbox), events.closed()).0 } => result,
            result = read(recv, events) => match connection.close_reason() {
                Some(reason) => Err(reason.into()),
                None => result,
            },
            () = changed(&mut self.sessions) => Err(DialError::Slept),
            error = follower.run() => Err(error),
        };
        connection.close(Close::Done.into(), b"");
        result
    }
}

/// Resolves at the next change; never, when there will be none.
pub(super) async fn changed<T>(watched: &mut watch::Receiver<T>) {
    if watched.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Resolves when the uplink no longer stands on what it did: with what it stands on now, or why it
/// cannot.
async fn shaken(
    network: &mut watch::Receiver<Arc<Network>>,
    uplink: &Uplink,
    footing: &Footing,
) -> Result<Footing, Trouble> {
    loop {
        changed(network).await;
        let now = network.borrow_and_update().stand(&uplink.bind)?;
        if now != *footing {
            return Ok(now);
        }
    }
}

async fn carry(
    connection: &quinn::Connection,
    path: PathId,
    events: &mpsc::Sender<UplinkEvent>,
) -> Result<(), DialError> {
    let id = connection.stable_id();
    loop {
        let data = connection.read_datagram().await?;
        if events.send(UplinkEvent::Datagram { path, connection: id, data }).await.is_err() {
            return Ok(());
        }
    }
}

async fn write(mut send: quinn::SendStream, mut outbox: mpsc::Receiver<ToEdge>) -> Result<(), DialError> {
    while let Some(message) = outbox.recv().await {
        control::send(&mut send, &message).await?;
        if message == ToEdge::End {
            // Wait until the edge has it, or the process would leave with the word unsaid.
            let _ = send.finish();
            let _ = send.stopped().await;
        }
    }
    Ok(())
}

async fn read(mut recv: quinn::RecvStream, events: &mpsc::Sender<UplinkEvent>) -> Result<(), DialError> {
    loop {
        match control::recv::<ToVenue>(&mut recv, control::MAX_MESSAGE).await? {
            ToVenue::Keyframe => {
                let _ = events.send(UplinkEvent::Keyframe).await;
            }
            ToVenue::Audience(audience) => {
                let _ = events.send(UplinkEvent::Audience(audience)).await;
            }
            ToVenue::Refused { reason } => return Err(DialError::Refused(dial::shown(&reason))),
            ToVenue::Welcome(_) => {}
        }
    }
}

/// Moves the connection along when the uplink's address changes (QUIC's connection migration: the bond
/// notices nothing but a few lost datagrams).
struct Follower<'a> {
    endpoint: quinn::Endpoint,
    connection: &'a quinn::Connection,
    remote: SocketAddr,
    uplink: &'a Uplink,
    network: &'a mut watch::Receiver<Arc<Network>>,
    footing: Footing,
    path: PathId,
    events: &'a mpsc::Sender<UplinkEvent>,
}

impl Follower<'_> {
    /// Resolves when following does not work.
    async fn run(mut self) -> DialError {
        let mut ear = Ear::new(self.received(), Instant::now());
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                now = shaken(self.network, self.uplink, &self.footing) => match now {
                    Err(trouble) => return trouble.into(),
                    Ok(now) => {
                        let before = std::mem::replace(&mut self.footing, now);
                        let ipv4 = self.remote.is_ipv4();
                        if before.of(ipv4) == self.footing.of(ipv4) {
                            continue;
                        }
                        if let Err(error) = self.rebind() {
                            return error;
                        }
                        tracing::info!(uplink = %self.uplink.name, "the address changed, the connection moves");
                        ear.moved(Instant::now());
                        if self.events.send(UplinkEvent::Moved { path: self.path }).await.is_err() {
                            return DialError::Stuck;
                        }
                    }
                },
                _ = ticks.tick() => match ear.listen(self.received(), Instant::now()) {
                    Heard::Enough => {}
                    // A fresh port is worth a try; the idle timeout judges it.
                    Heard::Nothing => drop(self.rebind()),
                    Heard::NotSinceMove => return DialError::Stuck,
                },
            }
        }
    }

    fn received(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    fn rebind(&self) -> Result<(), DialError> {
        let stance = self.footing.of(self.remote.is_ipv4()).ok_or(DialError::Stuck)?;
        let socket = dial::socket(self.uplink, Some(stance), self.remote)?;
        self.endpoint.rebind(socket).map_err(DialError::Socket)
    }
}

/// Whether the edge is still heard.
struct Ear {
    count: u64,
    since: Instant,
    moved: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Enough,
    Nothing,
    NotSinceMove,
}

impl Ear {
    fn new(count: u64, now: Instant) -> Self {
        Self { count, since: now, moved: None }
    }

    fn moved(&mut self, now: Instant) {
        self.moved = Some(now);
    }

    /// `count` datagrams came so far.
    fn listen(&mut self, count: u64, now: Instant) -> Heard {
        let news = count != self.count;
        self.count = count;
        match self.moved {
            // What came this soon was sent to the old address.
            Some(moved) if now < moved + UNDER_WAY => {}
            Some(_) if news => self.moved = None,
            Some(moved) if now >= moved + FOLLOW => return Heard::NotSinceMove,
            _ => {}
        }
        if news {
            self.since = now;
        } else if now >= self.since + STALE {
            self.since = now;
            return Heard::Nothing;
        }
        Heard::Enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_moves_are_told_apart() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut ear = Ear::new(10, start);
        assert_eq!(ear.listen(20, at(500)), Heard::Enough);
        assert_eq!(ear.listen(20, at(4_000)), Heard::Enough);
        assert_eq!(ear.listen(20, at(4_500)), Heard::Nothing);
        assert_eq!(ear.listen(20, at(5_000)), Heard::Enough, "one try at a time");
        assert_eq!(ear.listen(20, at(8_500)), Heard::Nothing);

        ear.moved(at(9_000));
        assert_eq!(ear.listen(25, at(9_200)), Heard::Enough, "was under way to the old address");
        assert_eq!(ear.listen(25, at(10_000)), Heard::Enough);
        assert_eq!(ear.listen(25, at(10_500)), Heard::NotSinceMove);

        let mut ear = Ear::new(10, start);
        ear.moved(at(100));
        assert_eq!(ear.listen(12, at(600)), Heard::Enough);
        assert_eq!(ear.listen(12, at(2_000)), Heard::Enough, "it did follow");
    }
}
