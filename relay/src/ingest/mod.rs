//! Bond ingest at the edge: who may bring a show, and which session an uplink belongs to.

mod session;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bond::PathId;
use media::Track;
use media::catalog::{Catalog, MAX_RENDITIONS};
use tokio::sync::mpsc;

use self::session::{Event, SessionTask};
use crate::admission::{Admission, Pass, Seat};
use crate::broadcasts::Broadcasts;
use crate::clock::Clock;
use crate::control::{self, Close, ControlError, Hello, ToEdge, ToVenue, Welcome};
use crate::edge::HalfOpen;
use crate::keep::{Keep, Keeper};
use crate::origin::{Origin, Publication};
use crate::proof::{Claim, Side};

/// Datagrams and events waiting for a session's task: 100 ms of 12 Mb/s. When it is full the newest
/// datagram is dropped, as a router would do; the bond repairs it.
const SESSION_QUEUE: usize = 1024;

/// Messages waiting for the control stream of one uplink; more mean that it is stuck.
const CONTROL_QUEUE: usize = 8;

/// A client that has opened a connection must say hello within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Shows that one edge takes in at once; each may hold some 16 MB of unfinished frames and 5,000 traces.
pub const MAX_SESSIONS: usize = 64;

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
    keep: Option<Keep>,
    admission: Admission,
    sessions: Arc<Mutex<HashMap<String, SessionHandle>>>,
}

struct SessionHandle {
    session: String,
    /// There is no live media.
    sync: bool,
    joined: Joined,
    /// Whom it took the broadcast from, so that two encoders do not take it from each other in turns.
    superseded: VecDeque<String>,
}

/// By what right an uplink is here.
struct Entry {
    /// That the edge knows the token, too.
    proof: Option<String>,
    pass: Pass,
}

/// What an uplink holds of its session.
#[derive(Clone)]
struct Joined {
    events: mpsc::Sender<Event>,
    /// Why it ends, where the show is not over.
    ended: Arc<OnceLock<Close>>,
    /// The session has no uplink now.
    deserted: Arc<AtomicBool>,
    /// A random name of the receiver, see [`Welcome::receiver`].
    receiver: Arc<str>,
    /// A copy is kept, and can be healed.
    backfill: bool,
}

impl Ingest {
    /// Publishes into `origin` whatever comes with the right token or ticket, and keeps it.
    pub fn new(
        origin: Origin,
        broadcasts: Broadcasts,
        clock: Clock,
        keep: Option<Keep>,
        admission: Admission,
    ) -> Self {
        Self { origin, broadcasts, clock, keep, admission, sessions: Arc::default() }
    }

    /// Serves one uplink until it ends. `half_open` is its place among those who have not said yet who
    /// they are.
    pub async fn serve(&self, connection: quinn::Connection, half_open: HalfOpen) -> Result<(), IngestError> {
        let (mut send, mut recv, hello) = tokio::time::timeout(HELLO_TIMEOUT, async {
            let (send, mut recv) = connection.accept_bi().await?;
            match control::recv::<ToEdge>(&mut recv, control::MAX_HELLO).await? {
                ToEdge::Hello(hello) => Ok((send, recv, hello)),
                _ => Err(IngestError::Refused("the first message was not a hello".into())),
            }
        })
        .await
        .map_err(|_| IngestError::Silent)??;

        let admitted = self.check(&hello, &connection).and_then(|entry| Ok((entry, self.join(&hello)?)));
        let (Entry { proof, pass }, Joined { events, ended, receiver, backfill, .. }) = match admitted {
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
        let welcome = Welcome { proof, receiver: Some(receiver.to_string()), backfill };
        control::send(&mut send, &ToVenue::Welcome(welcome)).await?;

        let path = PathId(hello.path);
        let id = connection.stable_id();
        let (control, mut outbox) = mpsc::channel(CONTROL_QUEUE);
        let Hello { uplink, audience, .. } = hello;
        let up = Event::Up { path, uplink, connection: connection.clone(), control, audience };
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
        let broken = loop {
            let data = tokio::select! {
                data = connection.read_datagram() => data,
                () = events.closed() => {
                    let why = ended.get().copied().unwrap_or(Close::Done);
                    connection.close(why.into(), words(why).as_bytes());
                    break None;
                }
                () = pass.expired() => {
                    connection.close(Close::Expired.into(), words(Close::Expired).as_bytes());
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
        match broken {
            None | Some(quinn::ConnectionError::ApplicationClosed(_)) => Ok(()),
            Some(error) => Err(error.into()),
        }
    }

    /// Ends all sessions: their venues are told to call again, and what is kept of their shows is ended properly,
    /// as far as that goes within `patience`.
    pub async fn stop(&self, patience: Duration) {
        let sessions: Vec<_> = {
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.drain().map(|(_, handle)| handle.joined).collect()
        };
        let all = async {
            for Joined { events, ended, .. } in sessions {
                let _ = ended.set(Close::Stopped);
                let _ = events.send(Event::End).await;
            }
            if let Some(keep) = &self.keep {
                keep.idle().await;
            }
        };
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!(
                "a kept file stays without its end, as the disk is slow; it plays, and can be repaired"
            );
        }
    }

    /// Whether the hello may be heeded; gives the edge's own proof, where it has a token, and until when it holds.
    fn check(&self, hello: &Hello, connection: &quinn::Connection) -> Result<Entry, String> {
        // The right to publish comes first: who cannot show it learns nothing else.
        let entry = self.enter(hello, connection)?;
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
        let tracks = tracks(hello).len();
        if tracks == 0 || tracks > MAX_RENDITIONS {
            return Err("the catalog has no track, or too many".into());
        }
        if !hello.sync.is_empty() && self.keep.is_none() {
            return Err(
                "this edge keeps no copies of shows: it would have to be started with --keep DIR".into()
            );
        }
        if !DEADLINE_MS.contains(&hello.deadline_ms) {
            return Err(format!("a deadline of {} ms is not between 50 and 10,000", hello.deadline_ms));
        }
        Ok(entry)
    }

    /// By the token that both ends know, or by a ticket; where neither is asked for, anybody.
    fn enter(&self, hello: &Hello, connection: &quinn::Connection) -> Result<Entry, String> {
        let mut wanted = None;
        if let Some(token) = &self.admission.token() {
            let claim = Claim::on(connection, &hello.session, hello.path, &hello.broadcast)
                .ok_or("TLS gives no exporter")?;
            match &hello.proof {
                Some(proof) if claim.verify(Side::Venue, token, proof) => {
                    return Ok(Entry { proof: Some(claim.prove(Side::Edge, token)), pass: Pass::endless() });
                }
                Some(_) => wanted = Some("the token is not the one of this edge"),
                None => wanted = Some("this edge wants a token: pass --token"),
            }
        }
        match (&hello.ticket, wanted) {
            (Some(ticket), _) if self.admission.wants_tickets() => {
                let seat = Seat::Show(hello.broadcast.clone());
                let pass = self.admission.admit(Some(ticket), seat).map_err(|refusal| refusal.to_string())?;
                if pass.may_publish(&hello.broadcast) {
                    return Ok(Entry { proof: None, pass });
                }
                Err(format!("the ticket is not for publishing {:?}", hello.broadcast))
            }
            (_, Some(words)) => Err(words.into()),
            (_, None) if self.admission.wants_tickets() => {
                Err("this edge wants a ticket: pass one with --token".into())
            }
            (_, None) => Ok(Entry { proof: None, pass: Pass::endless() }),
        }
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
                return Err(words(Close::TakenOver).into());
            }
            // A killed encoder's session waits for it; its recording may come meanwhile.
            if !handle.sync && !hello.sync.is_empty() && !handle.joined.deserted.load(Ordering::Relaxed) {
                return Err(format!(
                    "{}: its copy heals by itself, or can be synced afterwards",
                    control::ON_AIR
                ));
            }
        } else if sessions.len() >= MAX_SESSIONS {
            return Err(format!("this edge has {MAX_SESSIONS} shows on the air, and takes no more"));
        }
        if self.broadcasts.get(&hello.broadcast).is_some_and(|record| record.is_whip()) {
            return Err("a program brings this show over WHIP: it has to end first".into());
        }
        let sync = !hello.sync.is_empty();
        let publication = (!sync).then(|| self.publish(&hello.broadcast, &hello.catalog)).transpose()?;
        let record = self.broadcasts.begin(&hello.broadcast, &hello.session);
        let (events, queue) = mpsc::channel(SESSION_QUEUE);
        let deadline = Duration::from_millis(u64::from(hello.deadline_ms));
        let keeper = self.keeper(hello, deadline);
        if let Some(keeper) = &keeper {
            record.keep(keeper.watch());
        }
        let backfill = keeper.is_some() && (hello.backfill || sync);
        let task =
            SessionTask::new(hello.broadcast.clone(), self.clock, record, publication, keeper, deadline);
        let deserted = task.deserted();
        let joined = Joined { events, ended: Arc::default(), deserted, receiver: random(), backfill };
        let mut handle = SessionHandle {
            session: hello.session.clone(),
            sync,
            joined: joined.clone(),
            superseded: VecDeque::new(),
        };
        if let Some(ghost) = sessions.remove(&hello.broadcast).filter(SessionHandle::is_alive) {
            handle.superseded = ghost.superseded;
            handle.superseded.push_back(ghost.session);
            if handle.superseded.len() > MAX_SUPERSEDED {
                handle.superseded.pop_front();
            }
            let _ = ghost.joined.ended.set(Close::TakenOver);
            // A full queue is as good: the task ends when its uplinks do.
            let _ = ghost.joined.events.try_send(Event::End);
        }
        sessions.insert(hello.broadcast.clone(), handle);
        tracing::info!(broadcast = %hello.broadcast, sync, "on the air");
        let ingest = self.clone();
        let session = hello.session.clone();
        tokio::spawn(async move {
            let name = task.name().to_owned();
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

    /// Keeps the session's show, where this edge keeps shows and can keep this one.
    fn keeper(&self, hello: &Hello, deadline: Duration) -> Option<Keeper> {
        let keep = self.keep.as_ref()?;
        let live = hello.sync.is_empty();
        keep.begin(&hello.broadcast, tracks(hello), live.then_some(deadline), hello.backfill || !live)
            .inspect_err(|error| tracing::error!(broadcast = %hello.broadcast, %error, "not kept"))
            .ok()
    }

    fn publish(&self, name: &str, catalog: &Catalog) -> Result<Publication, String> {
        self.origin.publish(name, catalog).map_err(|error| format!("cannot publish {name}: {error}"))
    }
}

/// What the session brings.
fn tracks(hello: &Hello) -> Vec<Track> {
    if hello.sync.is_empty() { hello.catalog.tracks() } else { hello.sync.clone() }
}

/// 64 random bits in hex, which nobody has to keep secret.
fn random() -> Arc<str> {
    let bits = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 0);
    format!("{bits:016x}").into()
}

/// Told to the venue with it.
fn words(close: Close) -> &'static str {
    match close {
        Close::TakenOver => "another encoder has taken over this show",
        Close::Stopped => "the edge is being stopped",
        Close::Expired => "the ticket has expired",
        _ => "the show is over",
    }
}

impl SessionHandle {
    fn is_alive(&self) -> bool {
        !self.joined.events.is_closed()
    }
}
