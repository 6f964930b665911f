//! The relay at the venue: takes frames from the encoder and sends them over the bond.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bond::{Class, PathId, Sender, SenderConfig, SenderStats};
use media::catalog::Catalog;
use media::{Frame, Time, TrackId};
use serde::Serialize;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::control::{Hello, ToEdge};
use crate::rate::RateSignal;
use crate::uplink::cost::Ledger;
use crate::uplink::{Cost, EdgeAddress, Plan, Tariff, UplinkEvent, Uplinks, Why};

/// Events of all uplinks on their way to the bond's task: feedback of 16 uplinks for half a second.
const EVENT_QUEUE: usize = 1024;

/// Events handled before frames and deadlines get their turn again.
const BATCH: usize = 64;

/// How often the shown state is refreshed.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);

/// How often the edge is told what its clock looks like from here.
const CLOCK_INTERVAL: Duration = Duration::from_millis(500);

/// At the end of a show the edge is given this long to hear it.
const GOODBYE: Duration = Duration::from_millis(500);

/// Notices that nobody has read; above this the oldest is forgotten.
const MAX_NOTICES: usize = 32;

/// Where the venue's frames come from: the drain of the encoder's tap.
pub struct Frames {
    /// The next frame and when it was encoded; `None` when there is none now.
    pub pop: Box<dyn FnMut() -> Option<(Frame, Time)> + Send>,
    /// Notified after each frame.
    pub wake: Arc<Notify>,
}

/// What the bond asks of the encoder. Both are called from the bond's task and must not block.
#[derive(Clone)]
pub struct Hooks {
    /// A keyframe, please.
    pub keyframe: Arc<dyn Fn() + Send + Sync>,
    /// The media of all tracks together may have so many bits per second from now on; 0 while no uplink
    /// carries anything.
    pub rate: Arc<dyn Fn(u32) + Send + Sync>,
}

/// What the venue needs to know, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whom to call.
    pub edge: EdgeAddress,
    /// The path under which viewers find the show.
    pub broadcast: String,
    /// The right to publish.
    pub token: Option<String>,
    /// Over what.
    pub uplinks: Plan,
    /// A frame is worth nothing this long after its capture.
    pub deadline: Duration,
}

/// How one uplink is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UplinkState {
    /// Its number in the bond, which a later uplink may get when this one is gone for good.
    pub path: u8,
    /// What the creator calls it.
    pub name: String,
    /// Part of the bond.
    pub connected: bool,
    /// Why not, in words.
    pub reason: Option<String>,
    /// The edge said no.
    pub refused: bool,
    /// Bytes that went over it, both ways, headers included, over all its connections.
    pub bytes: u64,
    /// Of so many that may.
    pub cap: Option<u64>,
    /// What it costs; 0 is free.
    pub price: u32,
    /// Its cap is used up, and it is used because nothing else works.
    pub emergency: bool,
    /// How often its address changed while its connection lived on.
    pub moves: u64,
}

/// What the terminal and the report show.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// In the order of their path numbers.
    pub uplinks: Vec<UplinkState>,
    /// The bond's own counts.
    pub bond: SenderStats,
    /// Frames handed to the bond, by track.
    pub sent: BTreeMap<TrackId, u64>,
    /// Bytes of media handed to the bond.
    pub media_bytes: u64,
    /// Keyframes that the edge asked for.
    pub keyframe_requests: u64,
    /// Bits per second of media that the bond can carry; 0 while it carries none.
    pub target_rate: u32,
}

/// The sending side, running.
pub struct Venue {
    shared: Arc<Shared>,
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    status: Mutex<Status>,
    notices: Mutex<VecDeque<String>>,
}

impl Venue {
    /// Calls the edge over all uplinks and sends whatever `frames` gives. Never fails: an edge that is
    /// not there is called again and again, and frames that cannot be sent in time are let go.
    pub fn start(settings: Settings, catalog: Catalog, clock: Clock, frames: Frames, hooks: Hooks) -> Self {
        let (events, queue) = mpsc::channel(EVENT_QUEUE);
        let video: Vec<TrackId> = catalog.tracks().iter().filter(|t| t.is_video()).map(|t| t.id).collect();
        let session = session_id();
        let uplinks = Uplinks {
            plan: settings.uplinks,
            edge: settings.edge.clone(),
            token: settings.token,
            hello: Hello {
                broadcast: settings.broadcast,
                session: session.to_string(),
                path: 0,
                uplink: String::new(),
                proof: None,
                catalog,
                deadline_ms: settings.deadline.as_millis() as u32,
            },
            clock,
            events,
            new_session: session_id,
        };
        tokio::spawn(uplinks.run());
        let shared = Arc::new(Shared::default());
        let stop = Arc::new(Notify::new());
        let config = SenderConfig { deadline: settings.deadline };
        let task = SendTask {
            clock,
            video,
            config,
            sender: Sender::new(config),
            session,
            port: settings.edge.port,
            paths: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            ledger: Ledger::default(),
            rate: RateSignal::default(),
            current: Status::default(),
            shared: shared.clone(),
            hooks,
            next_status: Time::ZERO,
            next_clock: Time::ZERO,
        };
        let task = tokio::spawn(task.run(frames, queue, stop.clone()));
        Self { shared, stop, task }
    }

    /// How it stands, at most 100 ms old.
    pub fn status(&self) -> Status {
        self.shared.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the creator should be told once, oldest first.
    pub fn take_notices(&self) -> Vec<String> {
        self.shared.notices.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// Says goodbye to the edge and ends; bounded in time.
    pub async fn stop(self) {
        self.stop.notify_one();
        // The task bounds its own goodbye.
        let _ = self.task.await;
    }
}

/// 128 random bits in hex. Where the system has no random numbers, no TLS would work either; the clock
/// is good enough to tell sessions apart.
fn session_id() -> Arc<str> {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut bytes = [0; 16];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        bytes[..8].copy_from_slice(&Clock::start().now().as_micros().to_be_bytes());
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

/// Tells the bond what sending on a path costs now.
fn tell_cost(_sender: &mut Sender, path: PathId, cost: Cost) {
    // The scheduler learns to prefer the cheap paths in the bond's own rewrite.
    tracing::trace!(path = path.0, ?cost, "cost");
}

/// A path that is part of the bond now.
struct Path {
    connection: quinn::Connection,
    control: mpsc::Sender<ToEdge>,
    /// Bytes of this connection that are in the ledger.
    counted: u64,
}

struct Entry {
    state: UplinkState,
    tariff: Tariff,
    told: Option<Cost>,
}

struct SendTask {
    clock: Clock,
    video: Vec<TrackId>,
    config: SenderConfig,
    sender: Sender,
    session: Arc<str>,
    port: u16,
    paths: BTreeMap<PathId, Path>,
    uplinks: BTreeMap<PathId, Entry>,
    ledger: Ledger,
    rate: RateSignal,
    current: Status,
    shared: Arc<Shared>,
    hooks: Hooks,
    next_status: Time,
    next_clock: Time,
}

impl SendTask {
    async fn run(mut self, mut frames: Frames, mut events: mpsc::Receiver<UplinkEvent>, stop: Arc<Notify>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let wake = self.sender.poll_timeout().map_or(self.next_status, |wake| wake.min(self.next_status));
            tokio::select! {
                () = frames.wake.notified() => {}
                _ = events.recv_many(&mut batch, BATCH) => {}
                () = tokio::time::sleep_until(self.clock.instant(wake).into()) => {}
                () = stop.notified() => break,
            }
            let now = self.clock.now();
            for event in batch.drain(..) {
                self.handle(event, now);
            }
            while let Some((frame, _)) = (frames.pop)() {
                self.push(&frame, now);
            }
            self.sender.handle_timeout(now);
            while let Some(transmit) = self.sender.poll_transmit(now) {
                if let Some(path) = self.paths.get(&transmit.path) {
                    // A dead connection loses the datagram; the bond sees that and repairs it.
                    let _ = path.connection.send_datagram(transmit.data);
                }
            }
            if let Some(rate) = self.rate.update(self.sender.target_rate()) {
                self.current.target_rate = rate;
                (self.hooks.rate)(rate);
            }
            if now >= self.next_clock {
                self.next_clock = now + CLOCK_INTERVAL;
                self.tell_clock();
            }
            if now >= self.next_status {
                self.next_status = now + STATUS_INTERVAL;
                self.publish();
            }
        }
        self.publish();
        let goodbye = async {
            for path in self.paths.values() {
                let _ = path.control.send(ToEdge::End).await;
            }
            for path in self.paths.values() {
                path.connection.closed().await;
            }
        };
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
    }

    fn push(&mut self, frame: &Frame, now: Time) {
        let class = match (self.video.contains(&frame.id.track), frame.keyframe) {
            (false, _) => Class::Audio,
            (true, true) => Class::Keyframe,
            (true, false) => Class::Delta,
        };
        *self.current.sent.entry(frame.id.track).or_default() += 1;
        self.current.media_bytes += frame.data.len() as u64;
        self.sender.push(frame, class, now);
    }

    fn handle(&mut self, event: UplinkEvent, now: Time) {
        match event {
            UplinkEvent::Added { path, name, tariff } => {
                let state = UplinkState {
                    path: path.0,
                    name,
                    cap: tariff.cap,
                    price: tariff.price,
                    ..UplinkState::default()
                };
                self.uplinks.insert(path, Entry { state, tariff, told: None });
            }
            UplinkEvent::Removed { path } => {
                self.leave(path, now);
                self.uplinks.remove(&path);
            }
            UplinkEvent::Up { path, session, connection, control } => {
                // Of a session that sleep has ended: its uplink is about to notice.
                if session != self.session {
                    return;
                }
                self.leave(path, now);
                let max_datagram = connection.max_datagram_size().unwrap_or(bond::MAX_DATAGRAM);
                self.sender.add_path(path, max_datagram, now);
                self.paths.insert(path, Path { connection, control, counted: 0 });
                if let Some(Entry { state, told, .. }) = self.uplinks.get_mut(&path) {
                    state.connected = true;
                    state.refused = false;
                    state.reason = None;
                    *told = None;
                }
                self.tell_costs();
                // A new edge, or one that lost us: it needs a place to start.
                (self.hooks.keyframe)();
            }
            UplinkEvent::Moved { path } => {
                if let Some(entry) = self.uplinks.get_mut(&path) {
                    entry.state.moves += 1;
                }
            }
            UplinkEvent::Datagram { path, connection, data } => {
                if self.paths.get(&path).is_some_and(|p| p.connection.stable_id() == connection)
                    && let Err(error) = self.sender.handle_datagram(path, &data, now)
                {
                    tracing::debug!(path = path.0, %error, "feedback");
                }
            }
            UplinkEvent::Keyframe => {
                self.current.keyframe_requests += 1;
                (self.hooks.keyframe)();
            }
            UplinkEvent::Down { path, connection, why } => {
                if connection.is_some()
                    && self.paths.get(&path).map(|p| p.connection.stable_id()) == connection
                {
                    self.leave(path, now);
                }
                let reason = self.reason(path, &why);
                if let Some(Entry { state, .. }) = self.uplinks.get_mut(&path) {
                    state.connected = false;
                    state.refused = why.refused;
                    state.reason = Some(reason);
                }
            }
            UplinkEvent::Woke { session } => {
                for path in self.paths.keys().copied().collect::<Vec<_>>() {
                    self.leave(path, now);
                }
                for entry in self.uplinks.values_mut() {
                    entry.state.connected = false;
                }
                self.session = session;
                self.sender = Sender::new(self.config);
                self.notice("The machine was asleep: calling the edge anew.".into());
            }
        }
    }

    /// Takes a path out of the bond, if it is in.
    fn leave(&mut self, path: PathId, now: Time) {
        self.count(path);
        if self.paths.remove(&path).is_some() {
            self.sender.remove_path(path, now);
        }
    }

    /// Silence alone does not tell whether the edge is dead or the way to it.
    fn reason(&self, path: PathId, why: &Why) -> String {
        if !why.silent {
            return why.words.clone();
        }
        let name = self.uplinks.get(&path).map_or("it", |entry| &entry.state.name);
        let hint = why.words.split_once(';').map_or("", |(_, hint)| hint);
        let hint = if hint.is_empty() { String::new() } else { format!(";{hint}") };
        if self.paths.keys().any(|other| *other != path) {
            format!("the edge does not answer on {name}: UDP port {} may be blocked there{hint}", self.port)
        } else {
            format!("the edge does not answer: it is down, or UDP port {} is blocked{hint}", self.port)
        }
    }

    /// Brings the ledger up to date for one path.
    fn count(&mut self, path: PathId) {
        let (Some(connected), Some(entry)) = (self.paths.get_mut(&path), self.uplinks.get_mut(&path)) else {
            return;
        };
        let total = on_the_wire(&connected.connection);
        let more = total.saturating_sub(connected.counted);
        connected.counted = total;
        let warning = self.ledger.add(&entry.state.name, more, entry.tariff);
        entry.state.bytes = self.ledger.bytes(&entry.state.name);
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
            self.notice(warning);
        }
    }

    /// Tells the bond what has changed in price and cap.
    fn tell_costs(&mut self) {
        for (path, entry) in &mut self.uplinks {
            let cost = self.ledger.cost(&entry.state.name, entry.tariff);
            if self.paths.contains_key(path) && entry.told != Some(cost) {
                entry.told = Some(cost);
                tell_cost(&mut self.sender, *path, cost);
            }
        }
    }

    fn publish(&mut self) {
        for path in self.paths.keys().copied().collect::<Vec<_>>() {
            self.count(path);
        }
        self.tell_costs();
        let spent = |entry: &Entry| entry.told.is_some_and(|cost| cost.bytes_left == Some(0));
        let others = self.uplinks.values().any(|entry| entry.state.connected && !spent(entry));
        for entry in self.uplinks.values_mut() {
            entry.state.emergency = entry.state.connected && !others && spent(entry);
        }
        self.current.uplinks = self.uplinks.values().map(|entry| entry.state.clone()).collect();
        self.current.bond = self.sender.stats();
        *self.shared.status.lock().unwrap_or_else(PoisonError::into_inner) = self.current.clone();
    }

    fn notice(&self, words: String) {
        let mut notices = self.shared.notices.lock().unwrap_or_else(PoisonError::into_inner);
        if notices.len() >= MAX_NOTICES {
            notices.pop_front();
        }
        notices.push_back(words);
    }

    fn tell_clock(&self) {
        let Some(clock) = self.sender.clock() else { return };
        let message = ToEdge::Clock { offset_micros: clock.offset_micros, error_micros: clock.error_micros };
        for path in self.paths.values() {
            let _ = path.control.try_send(message.clone());
        }
    }
}

/// Both ways, as a provider counts: with the headers of UDP and IP.
fn on_the_wire(connection: &quinn::Connection) -> u64 {
    let headers = if connection.remote_address().is_ipv4() { 28 } else { 48 };
    let stats = connection.stats();
    [stats.udp_tx, stats.udp_rx].iter().map(|udp| udp.bytes + udp.datagrams * headers).sum()
}
