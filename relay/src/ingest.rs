//! Bond ingest at the edge: uplinks of one session come together in one [`bond::Receiver`], and what
//! it delivers is published.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bond::{Delivery, PathId, Receiver, ReceiverConfig};
use bytes::Bytes;
use media::catalog::{Catalog, MAX_RENDITIONS};
use media::{FrameId, Time};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::broadcasts::{Broadcasts, Outcome, Record, UplinkStatus};
use crate::clock::Clock;
use crate::control::{self, Close, ControlError, Hello, ToEdge, ToVenue};
use crate::origin::{Origin, Publication, Written};
use crate::proof::{Claim, Side};

/// Datagrams and events waiting for a session's task: 100 ms of 12 Mb/s. When it is full the newest
/// datagram is dropped, as a router would do; the bond repairs it.
const SESSION_QUEUE: usize = 1024;

/// Messages waiting for the control stream of one uplink; more mean that it is stuck.
const CONTROL_QUEUE: usize = 8;

/// Events handled before feedback and deadlines get their turn again.
const BATCH: usize = 64;

/// A client that has opened a connection must say hello within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// A session without any uplink is kept this long, so that viewers stay through an outage.
const SESSION_LINGER: Duration = Duration::from_secs(30);

/// Keyframes are asked for at most this often: one takes a round trip and an encode to come.
const KEYFRAME_INTERVAL: Duration = Duration::from_millis(300);

/// Shows that one edge takes in at once; each may hold some 16 MB of unfinished frames and 5,000 traces.
const MAX_SESSIONS: usize = 64;

/// Sessions that a broadcast's session has taken it over from, and that may not take it back: the latest
/// so many.
const MAX_SUPERSEDED: usize = 16;

/// A show's deadline lies in these bounds, milliseconds.
const DEADLINE_MS: std::ops::RangeInclusive<u32> = 50..=10_000;

/// Why an uplink was not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// It did not speak in time.
    #[error("no hello within {} s", HELLO_TIMEOUT.as_secs())]
    Silent,
    /// The QUIC connection broke.
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    /// The control stream broke.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// It was told to go away.
    #[error("refused: {0}")]
    Refused(String),
}

/// All bond sessions of this relay.
#[derive(Clone)]
pub struct Ingest {
    origin: Origin,
    broadcasts: Broadcasts,
    clock: Clock,
    token: Option<Arc<str>>,
    sessions: Arc<Mutex<HashMap<String, SessionHandle>>>,
}

struct SessionHandle {
    session: String,
    joined: Joined,
    /// Whom it took the broadcast from, so that two encoders do not take it from each other in turns.
    superseded: VecDeque<String>,
}

/// What an uplink holds of its session.
#[derive(Clone)]
struct Joined {
    events: mpsc::Sender<Event>,
    taken_over: Arc<AtomicBool>,
}

enum Event {
    Up { path: PathId, uplink: String, connection: quinn::Connection, control: mpsc::Sender<ToVenue> },
    Datagram { path: PathId, connection: usize, data: Bytes },
    Clock { offset_micros: i64, error_micros: u64 },
    Down { path: PathId, connection: usize },
    End,
}

impl Ingest {
    /// Publishes into `origin` whatever comes with the right token (`None`: any).
    pub fn new(origin: Origin, broadcasts: Broadcasts, clock: Clock, token: Option<String>) -> Self {
        Self { origin, broadcasts, clock, token: token.map(Arc::from), sessions: Arc::default() }
    }

    /// Serves one uplink until it ends. `half_open` is its place among those who have not said yet who
    /// they are.
    pub async fn serve(
        &self,
        connection: quinn::Connection,
        half_open: OwnedSemaphorePermit,
    ) -> Result<(), IngestError> {
        let (mut send, mut recv, hello) = tokio::time::timeout(HELLO_TIMEOUT, async {
            let (send, mut recv) = connection.accept_bi().await?;
            match control::recv::<ToEdge>(&mut recv, control::MAX_HELLO).await? {
                ToEdge::Hello(hello) => Ok((send, recv, hello)),
                _ => Err(IngestError::Refused("the first message was not a hello".into())),
            }
        })
        .await
        .map_err(|_| IngestError::Silent)??;

        let admitted = self.check(&hello, &connection).and_then(|proof| Ok((proof, self.join(&hello)?)));
        let (proof, Joined { events, taken_over }) = match admitted {
            Ok(admitted) => admitted,
            Err(reason) => {
                control::send(&mut send, &ToVenue::Refused { reason: reason.clone() }).await?;
                let _ = send.finish();
                // The venue closes once it has read the reason.
                let _ = tokio::time::timeout(HELLO_TIMEOUT, connection.closed()).await;
                return Err(IngestError::Refused(reason));
            }
        };
        drop(half_open);
        control::send(&mut send, &ToVenue::Welcome { proof }).await?;

        let path = PathId(hello.path);
        let id = connection.stable_id();
        let (control, mut outbox) = mpsc::channel(CONTROL_QUEUE);
        let up = Event::Up { path, uplink: hello.uplink, connection: connection.clone(), control };
        if events.send(up).await.is_err() {
            return Ok(());
        }
        let writer = tokio::spawn(async move {
            while let Some(message) = outbox.recv().await {
                if control::send(&mut send, &message).await.is_err() {
                    break;
                }
            }
        });
        let reader = tokio::spawn({
            let events = events.clone();
            async move {
                loop {
                    let event = match control::recv::<ToEdge>(&mut recv, control::MAX_MESSAGE).await {
                        Ok(ToEdge::Clock { offset_micros, error_micros }) => {
                            Event::Clock { offset_micros, error_micros }
                        }
                        Ok(ToEdge::End) => Event::End,
                        Ok(ToEdge::Hello(_)) => continue,
                        Err(_) => break,
                    };
                    if events.send(event).await.is_err() {
                        break;
                    }
                }
            }
        });
        let ended = loop {
            let data = tokio::select! {
                data = connection.read_datagram() => data,
                () = events.closed() => {
                    match taken_over.load(Ordering::Relaxed) {
                        true => connection.close(Close::TakenOver.into(), TAKEN_OVER.as_bytes()),
                        false => connection.close(Close::Done.into(), b"the show is over"),
                    }
                    break None;
                }
            };
            match data {
                // A full queue drops the datagram, see SESSION_QUEUE.
                Ok(data) => drop(events.try_send(Event::Datagram { path, connection: id, data })),
                Err(error) => break Some(error),
            }
        };
        let _ = events.send(Event::Down { path, connection: id }).await;
        writer.abort();
        // The last words (the end of the show) may still be in the stream's buffer.
        let _ = reader.await;
        match ended {
            None | Some(quinn::ConnectionError::ApplicationClosed(_)) => Ok(()),
            Some(error) => Err(error.into()),
        }
    }

    /// Whether the hello may be heeded; gives the edge's own proof, where it has a token.
    fn check(&self, hello: &Hello, connection: &quinn::Connection) -> Result<Option<String>, String> {
        // The proof comes first: who cannot show it learns nothing else.
        let proof = match &self.token {
            None => None,
            Some(token) => {
                let claim = Claim::on(connection, &hello.session, hello.path, &hello.broadcast)
                    .ok_or("TLS gives no exporter")?;
                match &hello.proof {
                    None => return Err("this edge wants a token: pass --token".into()),
                    Some(proof) if !claim.verify(Side::Venue, token, proof) => {
                        return Err("the token is not the one of this edge".into());
                    }
                    Some(_) => Some(claim.prove(Side::Edge, token)),
                }
            }
        };
        control::check_name(&hello.broadcast)?;
        if hello.session.len() != 32 || !hello.session.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("the session is not 128 bits in hex".into());
        }
        if usize::from(hello.path) >= bond::MAX_PATHS {
            return Err(format!("uplink number {} is over the bound of {}", hello.path, bond::MAX_PATHS));
        }
        if hello.uplink.len() > control::MAX_NAME {
            return Err("the uplink's name is too long".into());
        }
        if hello.catalog.tracks().is_empty() || hello.catalog.tracks().len() > MAX_RENDITIONS {
            return Err("the catalog has no track, or too many".into());
        }
        if !DEADLINE_MS.contains(&hello.deadline_ms) {
            return Err(format!("a deadline of {} ms is not between 50 and 10,000", hello.deadline_ms));
        }
        Ok(proof)
    }

    /// The queue of the hello's session. A new session takes over from an older one of the same
    /// name: an encoder that crashed and came back must not wait for its own ghost.
    fn join(&self, hello: &Hello) -> Result<Joined, String> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = sessions.get(&hello.broadcast).filter(|handle| handle.is_alive()) {
            if handle.session == hello.session {
                return Ok(handle.joined.clone());
            }
            if handle.superseded.contains(&hello.session) {
                return Err(TAKEN_OVER.into());
            }
        } else if sessions.len() >= MAX_SESSIONS {
            return Err(format!("this edge has {MAX_SESSIONS} shows on the air, and takes no more"));
        }
        let publication = self.publish(&hello.broadcast, &hello.catalog)?;
        let record = self.broadcasts.begin(&hello.broadcast, &hello.session);
        let (events, queue) = mpsc::channel(SESSION_QUEUE);
        let deadline = Duration::from_millis(u64::from(hello.deadline_ms));
        let task = SessionTask {
            name: hello.broadcast.clone(),
            clock: self.clock,
            record,
            publication,
            receiver: Receiver::new(ReceiverConfig { deadline }),
            paths: BTreeMap::new(),
            counted: BTreeMap::new(),
            empty_since: Some(self.clock.now()),
            keyframe_asked: Time::ZERO,
        };
        let joined = Joined { events, taken_over: Arc::default() };
        let mut handle = SessionHandle {
            session: hello.session.clone(),
            joined: joined.clone(),
            superseded: VecDeque::new(),
        };
        if let Some(ghost) = sessions.remove(&hello.broadcast).filter(SessionHandle::is_alive) {
            handle.superseded = ghost.superseded;
            handle.superseded.push_back(ghost.session);
            if handle.superseded.len() > MAX_SUPERSEDED {
                handle.superseded.pop_front();
            }
            ghost.joined.taken_over.store(true, Ordering::Relaxed);
            // A full queue is as good: the task ends when its uplinks do.
            let _ = ghost.joined.events.try_send(Event::End);
        }
        sessions.insert(hello.broadcast.clone(), handle);
        tracing::info!(broadcast = %hello.broadcast, "on the air");
        let ingest = self.clone();
        let session = hello.session.clone();
        tokio::spawn(async move {
            let name = task.name.clone();
            task.run(queue).await;
            ingest.broadcasts.end(&name, &session);
            let mut sessions = ingest.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            if sessions.get(&name).is_some_and(|handle| handle.session == session) {
                sessions.remove(&name);
            }
            tracing::info!(broadcast = %name, "off the air");
        });
        Ok(joined)
    }

    fn publish(&self, name: &str, catalog: &Catalog) -> Result<Publication, String> {
        self.origin.publish(name, catalog).map_err(|error| format!("cannot publish {name}: {error}"))
    }
}

/// Told to a session that has lost its broadcast.
const TAKEN_OVER: &str = "another encoder has taken over this show";

impl SessionHandle {
    fn is_alive(&self) -> bool {
        !self.joined.events.is_closed()
    }
}

struct Path {
    connection: quinn::Connection,
    control: mpsc::Sender<ToVenue>,
}

struct SessionTask {
    name: String,
    clock: Clock,
    record: Record,
    publication: Publication,
    receiver: Receiver,
    paths: BTreeMap<PathId, Path>,
    /// Datagrams and bytes that came on each path, and are not in the record yet.
    counted: BTreeMap<PathId, (u64, u64)>,
    empty_since: Option<Time>,
    keyframe_asked: Time,
}

impl SessionTask {
    async fn run(mut self, mut queue: mpsc::Receiver<Event>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let linger = self.empty_since.map(|since| since + SESSION_LINGER);
            let wake = [self.receiver.poll_timeout(), linger].into_iter().flatten().min();
            let wake = wake.unwrap_or_else(|| self.clock.now() + SESSION_LINGER);
            tokio::select! {
                count = queue.recv_many(&mut batch, BATCH) => if count == 0 { return },
                () = tokio::time::sleep_until(self.clock.instant(wake).into()) => {}
            }
            let now = self.clock.now();
            for event in batch.drain(..) {
                if matches!(event, Event::End) {
                    return;
                }
                self.handle(event, now);
            }
            if linger.is_some_and(|end| now >= end) && self.paths.is_empty() {
                return;
            }
            self.receiver.handle_timeout(now);
            self.deliver(now);
            while let Some(transmit) = self.receiver.poll_transmit(now) {
                if let Some(path) = self.paths.get(&transmit.path) {
                    // A path that cannot take feedback now gets fresher feedback in 10 ms.
                    let _ = path.connection.send_datagram(transmit.data);
                }
            }
        }
    }

    fn handle(&mut self, event: Event, now: Time) {
        match event {
            Event::Up { path, uplink, connection, control } => {
                // It has shown its proof, so it is the same uplink on a new connection.
                if let Some(old) = self.paths.remove(&path) {
                    self.receiver.remove_path(path, now);
                    old.connection.close(Close::Replaced.into(), b"the uplink came back");
                }
                self.receiver.add_path(path, now);
                self.paths.insert(path, Path { connection, control });
                self.empty_since = None;
                tracing::info!(broadcast = %self.name, %uplink, "uplink up");
                self.record.update(|status| {
                    let entry = status.uplinks.entry(path.0).or_insert_with(UplinkStatus::default);
                    entry.name = uplink;
                    entry.connected = true;
                });
            }
            Event::Datagram { path, connection, data } => {
                if !self.is_current(path, connection) {
                    return;
                }
                if let Err(error) = self.receiver.handle_datagram(path, &data, now) {
                    tracing::debug!(broadcast = %self.name, %error, "datagram");
                }
                let (datagrams, bytes) = self.counted.entry(path).or_default();
                *datagrams += 1;
                *bytes += data.len() as u64;
            }
            Event::Clock { offset_micros, error_micros } => self.record.update(|status| {
                status.clock_offset_us = Some(offset_micros);
                status.clock_error_us = Some(error_micros);
            }),
            Event::Down { path, connection } => {
                // The uplink may have come back on a new connection before the old one timed out.
                if !self.is_current(path, connection) {
                    return;
                }
                self.paths.remove(&path);
                self.receiver.remove_path(path, now);
                if self.paths.is_empty() {
                    self.empty_since = Some(now);
                }
                tracing::info!(broadcast = %self.name, path = path.0, "uplink down");
                self.record.update(|status| {
                    if let Some(uplink) = status.uplinks.get_mut(&path.0) {
                        uplink.connected = false;
                    }
                });
            }
            Event::End => {}
        }
    }

    fn is_current(&self, path: PathId, connection: usize) -> bool {
        self.paths.get(&path).is_some_and(|path| path.connection.stable_id() == connection)
    }

    fn deliver(&mut self, now: Time) {
        while let Some(delivery) = self.receiver.poll_delivery() {
            match delivery {
                Delivery::Frame { frame, arrived } => {
                    let outcome = match self.publication.write(&frame) {
                        Ok(Written::Published) => Outcome::Published,
                        Ok(Written::Undecodable) => {
                            self.ask_for_keyframe(now);
                            Outcome::Undecodable
                        }
                        Ok(Written::Refused) => Outcome::Refused,
                        Err(error) => {
                            tracing::warn!(broadcast = %self.name, %error, "frame not published");
                            Outcome::Refused
                        }
                    };
                    let published = self.clock.now();
                    self.record.trace(
                        frame.id,
                        frame.capture_time,
                        arrived,
                        published,
                        frame.data.len(),
                        outcome,
                    );
                    self.record.update(|status| {
                        status.last_frame = now;
                        match outcome {
                            Outcome::Published => {
                                status.published += 1;
                                status.media_bytes += frame.data.len() as u64;
                            }
                            Outcome::Undecodable => status.undecodable += 1,
                            Outcome::Lost | Outcome::Refused => {}
                        }
                    });
                }
                Delivery::Lost { track, group, frames } => {
                    // An open end means "and whatever followed in this group": at least the one.
                    let count = if frames.end == u32::MAX { 1 } else { frames.len() as u64 };
                    tracing::warn!(broadcast = %self.name, track = track.0, group, ?frames, "lost");
                    let id = FrameId { track, group, frame: frames.start };
                    self.record.trace(id, Time::ZERO, now, now, 0, Outcome::Lost);
                    self.record.update(|status| status.lost += count);
                    if self.publication.lost(track, group) {
                        self.ask_for_keyframe(now);
                    }
                }
                // The lanes are there; what uses them is still to come (rooms, backfill: issue 4).
                Delivery::Message(data) | Delivery::Object(data) => {
                    tracing::debug!(broadcast = %self.name, bytes = data.len(), "on a lane without a reader");
                }
            }
        }
        let (late, counted) = (self.receiver.frames_late(), std::mem::take(&mut self.counted));
        self.record.update(|status| {
            status.late = late;
            for (path, (datagrams, bytes)) in counted {
                let uplink = status.uplinks.entry(path.0).or_default();
                uplink.datagrams += datagrams;
                uplink.bytes += bytes;
            }
        });
    }

    fn ask_for_keyframe(&mut self, now: Time) {
        if now.saturating_since(self.keyframe_asked) < KEYFRAME_INTERVAL {
            return;
        }
        self.keyframe_asked = now;
        self.record.update(|status| status.keyframe_requests += 1);
        // On every uplink, for any of them may be the dead one; the encoder coalesces.
        for path in self.paths.values() {
            let _ = path.control.try_send(ToVenue::Keyframe);
        }
    }
}
