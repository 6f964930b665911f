//! The task of all sessions: it waits for datagrams, orders, news of shows and time, and gives each session its turn.
//!
//! One task and one socket, however many sessions there are: a datagram belongs to the session that knows its sender, or
//! to the one whose words (ICE) are in it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use str0m::Input;
use str0m::net::{Protocol, Receive};
use tokio::sync::{Notify, Semaphore, mpsc};

use super::session::{End, Session};
use super::socket::{Datagram, Inbox, Socket};
use super::stats::Stats;
use super::{COMMANDS, Command, Found, Handle, MAX_SESSIONS, Settings};
use crate::edge::EdgeError;
use crate::endpoint::udp_socket;
use crate::origin::Origin;

/// With no session at all, it looks around so often.
const IDLE: Duration = Duration::from_secs(60);

/// All sessions.
pub(crate) struct Server {
    socket: Socket,
    inbox: Inbox,
    commands: mpsc::Receiver<Command>,
    news: Arc<Notify>,
    /// Where clients send to: one of ours for each datagram.
    candidates: Arc<[SocketAddr]>,
    sessions: HashMap<String, Session>,
    by_address: HashMap<SocketAddr, String>,
    stats: Arc<Stats>,
}

impl Server {
    /// Takes the port.
    pub fn new(settings: Settings, origin: &Origin, stats: Arc<Stats>) -> Result<(Self, Handle), EdgeError> {
        let addr = settings.listen;
        let fail = |source| EdgeError::Listen { protocol: "UDP", addr, option: "--webrtc", source };
        let socket = udp_socket(addr).map_err(fail)?;
        // Addresses that were given need not be this machine's, so nothing can be sent from them.
        let socket = Socket::new(socket, settings.addresses.is_empty(), stats.clone()).map_err(fail)?;
        let port = socket.local_addr().map_err(fail)?.port();
        let candidates: Arc<[SocketAddr]> = settings.candidates(port).into();
        tracing::info!(%addr, ?candidates, "WebRTC");
        let (sender, commands) = mpsc::channel(COMMANDS);
        let handle = Handle {
            commands: sender,
            places: Arc::new(Semaphore::new(MAX_SESSIONS)),
            publishers: Arc::new(Semaphore::new(super::MAX_PUBLISHERS)),
            candidates: candidates.clone(),
            turn: settings.turn,
        };
        let server = Self {
            socket,
            inbox: Inbox::default(),
            commands,
            news: origin.lives().tapped().clone(),
            candidates,
            sessions: HashMap::new(),
            by_address: HashMap::new(),
            stats,
        };
        Ok((server, handle))
    }

    /// The UDP address in use.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }

    /// Serves until the future is dropped.
    pub async fn run(mut self) {
        loop {
            let wake = self.sessions.values().map(|session| session.wake).min();
            let wake = wake.unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                received = self.socket.receive(&mut self.inbox) => match received {
                    Ok(()) => self.take_datagrams(),
                    // A message of ICMP; whose it is, ICE notices.
                    Err(error) => tracing::debug!(%error, "WebRTC socket"),
                },
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                () = self.news.notified() => self.each(|session, socket, stats, now| session.forward(socket, stats, now)),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            self.each(|session, socket, stats, now| session.due(socket, stats, now));
            let worst = self.sessions.values().map(Session::round_trip).max().unwrap_or_default();
            self.stats.worst_round_trip_us.store(worst.as_micros() as u64, Relaxed);
        }
    }

    fn take_datagrams(&mut self) {
        let Self { socket, inbox, candidates, sessions, by_address, stats, .. } = self;
        let now = Instant::now();
        let mut ended = Vec::new();
        for Datagram { from, to, bytes } in inbox.datagrams() {
            let at = local(candidates, to, from).filter(|_| !bytes.is_empty());
            let receive = at.and_then(|at| Receive::new(Protocol::Udp, from, at, bytes).ok());
            let Some(receive) = receive else {
                stats.strays.fetch_add(1, Relaxed);
                continue;
            };
            let input = Input::Receive(now, receive);
            let known = by_address.get(&from).and_then(|id| sessions.get_key_value(id));
            let known = known.filter(|(_, session)| session.accepts(&input)).map(|(id, _)| id.clone());
            let id = known.or_else(|| {
                let (id, _) = sessions.iter().find(|(_, session)| session.accepts(&input))?;
                Some(id.clone())
            });
            let Some((id, session)) = id.and_then(|id| Some((id.clone(), sessions.get_mut(&id)?))) else {
                stats.strays.fetch_add(1, Relaxed);
                continue;
            };
            if by_address.get(&from) != Some(&id) {
                by_address.insert(from, id.clone());
                if let Some(old) = session.comes_from(from) {
                    by_address.remove(&old);
                }
            }
            if let Err(end) = guard(stats, || session.handle(input, socket, stats, now)) {
                ended.push((id, end));
            }
        }
        self.end(ended);
    }

    /// Gives each session its turn.
    fn each(&mut self, mut turn: impl FnMut(&mut Session, &mut Socket, &Stats, Instant) -> Result<(), End>) {
        let Self { socket, sessions, stats, .. } = self;
        let now = Instant::now();
        let mut ended = Vec::new();
        for (id, session) in sessions {
            if let Err(end) = guard(stats, || turn(session, socket, stats, now)) {
                ended.push((id.clone(), end));
            }
        }
        self.end(ended);
    }

    fn end(&mut self, ended: Vec<(String, End)>) {
        for (id, end) in ended {
            self.remove(&id, &end);
        }
    }

    /// Ends a session. `false`: there is no such one.
    fn remove(&mut self, id: &str, end: &End) -> bool {
        let Some(mut session) = self.sessions.remove(id) else { return false };
        tracing::debug!(id, way = ?session.way(), %end, "WebRTC session ended");
        let level = self.stats.sessions(session.way());
        level.now.fetch_sub(1, Relaxed);
        level.failed.fetch_add(u64::from(!session.was_connected()), Relaxed);
        for address in &session.addresses {
            if self.by_address.get(address).is_some_and(|owner| owner == id) {
                self.by_address.remove(address);
            }
        }
        let Self { socket, stats, .. } = self;
        let goodbye = || {
            session.close(socket, stats, Instant::now());
            Ok(())
        };
        let _ = guard(stats, goodbye);
        true
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Open(session) => {
                let level = self.stats.sessions(session.way());
                level.now.fetch_add(1, Relaxed);
                level.total.fetch_add(1, Relaxed);
                self.sessions.insert(session.id.clone(), *session);
            }
            Command::Find { id, reply } => {
                let found = self
                    .sessions
                    .get_mut(&id)
                    .map(|session| Found { etag: session.etag(), ufrag: session.remote_ufrag() });
                let _ = reply.send(found);
            }
            Command::Restart { id, remote, reply } => {
                let Self { socket, sessions, stats, .. } = self;
                let mut restarted = None;
                if let Some(session) = sessions.get_mut(&id) {
                    let turn = || session.restart(remote, socket, stats, Instant::now());
                    match guard(stats, || turn().map(|words| restarted = Some(words))) {
                        Ok(()) => {}
                        Err(end) => {
                            self.remove(&id, &end);
                        }
                    }
                }
                let _ = reply.send(restarted);
            }
            Command::Close { id, reply } => {
                let _ = reply.send(self.remove(&id, &End::Over("the client has ended it")));
            }
            Command::Stop { reply } => {
                let all: Vec<_> = self.sessions.keys().cloned().collect();
                for id in &all {
                    self.remove(id, &End::Over("the relay is being stopped"));
                }
                let _ = reply.send(());
            }
        }
    }
}

/// Lets a session do something; if the engine panics in it, that session ends, and no other.
fn guard(stats: &Stats, turn: impl FnOnce() -> Result<(), End>) -> Result<(), End> {
    catch_unwind(AssertUnwindSafe(turn)).unwrap_or_else(|_| {
        stats.broken.fetch_add(1, Relaxed);
        Err(End::Over("the engine has broken"))
    })
}

/// The candidate by which a datagram came: behind a NAT, it was sent to another address than the one it came to.
fn local(candidates: &[SocketAddr], to: Option<IpAddr>, from: SocketAddr) -> Option<SocketAddr> {
    let exact = candidates.iter().find(|candidate| Some(candidate.ip()) == to);
    let family = || candidates.iter().find(|candidate| candidate.is_ipv4() == from.is_ipv4());
    exact.or_else(family).copied()
}
