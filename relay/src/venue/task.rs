//! The task that owns the bond: what comes from the uplinks and the encoder goes in, datagrams go out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bond::{Class, PathId, PathState, Sender, SenderConfig};
use media::{Frame, Time, TrackId};
use tokio::sync::{Notify, mpsc};

use super::backfill::Backfill;
use super::{Frames, Hooks, Shared, Status, UplinkState};
use crate::clock::Clock;
use crate::control::{Close, ToEdge};
use crate::rate::RateSignal;
use crate::uplink::cost::Ledger;
use crate::uplink::{Cost, Tariff, UplinkEvent, Why};

/// Events handled before frames and deadlines get their turn again.
const BATCH: usize = 64;

/// How often the shown state is refreshed, while something else wakes the task;
const STATUS_INTERVAL: Duration = Duration::from_millis(100);

/// it is not woken for that alone until so much later.
const STATUS_SLACK: Duration = Duration::from_millis(100);

/// How often the edge is told what its clock looks like from here.
const CLOCK_INTERVAL: Duration = Duration::from_millis(500);

/// An uplink that is connected while nothing gets through is called out after this long; most outages
/// are shorter.
const SILENCE: Duration = Duration::from_secs(3);

/// At the end of a show the edge is given this long to hear it.
const GOODBYE: Duration = Duration::from_millis(500);

/// Notices that nobody has read; above this the oldest is forgotten.
const MAX_NOTICES: usize = 32;

/// Tells the bond what sending on a path costs now.
fn tell_cost(sender: &mut Sender, path: PathId, cost: Cost) {
    let cost = match cost {
        Cost { bytes_left: Some(0), .. } => bond::Cost::LastResort,
        Cost { price: 0, .. } => bond::Cost::Free,
        Cost { price, .. } => bond::Cost::Priced(price),
    };
    sender.set_cost(path, cost);
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
    /// Connected, but nothing has got through since then.
    silent_since: Option<Time>,
}

/// What the task is told at its start.
pub(super) struct Own {
    pub clock: Clock,
    /// Its other tracks are sound.
    pub video: Vec<TrackId>,
    pub config: SenderConfig,
    pub session: Arc<str>,
    /// The edge's, for people.
    pub port: u16,
    pub hooks: Hooks,
    pub shared: Arc<Shared>,
}

/// Owns the bond.
pub(super) struct SendTask {
    own: Own,
    sender: Sender,
    paths: BTreeMap<PathId, Path>,
    uplinks: BTreeMap<PathId, Entry>,
    ledger: Ledger,
    rate: RateSignal,
    backfill: Backfill,
    current: Status,
    next_status: Time,
    next_clock: Time,
}

impl SendTask {
    pub fn new(own: Own, backfill: Backfill) -> Self {
        Self {
            sender: Sender::new(own.config),
            own,
            paths: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            ledger: Ledger::default(),
            rate: RateSignal::default(),
            backfill,
            current: Status::default(),
            next_status: Time::ZERO,
            next_clock: Time::ZERO,
        }
    }

    /// Until `stop` is notified.
    pub async fn run(
        mut self,
        mut frames: Frames,
        mut events: mpsc::Receiver<UplinkEvent>,
        stop: Arc<Notify>,
    ) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let wakes = [self.sender.poll_timeout(), self.backfill.poll_timeout()];
            let wake = wakes.into_iter().flatten().fold(self.next_status + STATUS_SLACK, Time::min);
            tokio::select! {
                () = frames.wake.notified() => {}
                _ = events.recv_many(&mut batch, BATCH) => {}
                () = self.backfill.answered() => {}
                () = tokio::time::sleep_until(self.own.clock.instant(wake).into()) => {}
                () = stop.notified() => break,
            }
            let now = self.own.clock.now();
            for event in batch.drain(..) {
                self.handle(event, now);
            }
            while let Some((frame, _)) = (frames.pop)() {
                self.push(&frame, now);
            }
            self.backfill.run(&mut self.sender, now);
            self.sender.handle_timeout(now);
            while let Some(transmit) = self.sender.poll_transmit(now) {
                if let Some(path) = self.paths.get(&transmit.path) {
                    // A dead connection loses the datagram; the bond sees that and repairs it.
                    let _ = path.connection.send_datagram(transmit.data);
                }
            }
            let target = self.sender.target_rate();
            if let Some(rate) = self.rate.update(target) {
                tracing::debug!(rate, "the encoder may send");
                self.current.target_rate = rate;
                (self.own.hooks.rate)(rate);
            }
            if now >= self.next_clock {
                self.next_clock = now + CLOCK_INTERVAL;
                self.tell_clock();
            }
            if now >= self.next_status {
                self.next_status = now + STATUS_INTERVAL;
                self.publish(now);
            }
        }
        self.publish(self.own.clock.now());
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
        let class = match (self.own.video.contains(&frame.id.track), frame.keyframe) {
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
                self.uplinks.insert(path, Entry { state, tariff, told: None, silent_since: None });
            }
            UplinkEvent::Removed { path } => {
                self.leave(path, now);
                self.uplinks.remove(&path);
            }
            UplinkEvent::Up { path, session, connection, control, welcome } => {
                // Of a session that sleep has ended: its uplink is about to notice.
                if session != self.own.session {
                    return;
                }
                if self.backfill.meet(&welcome) {
                    tracing::info!("the edge has no memory of this bond: it begins anew");
                    self.begin_anew(now);
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
                (self.own.hooks.keyframe)();
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
                (self.own.hooks.keyframe)();
            }
            UplinkEvent::Audience(audience) => self.current.audience = Some(audience),
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
                self.own.session = session;
                self.begin_anew(now);
                self.notice("The machine was asleep: calling the edge anew.".into());
            }
        }
    }

    /// A new bond, without paths; those that there were come back by calling the edge again.
    fn begin_anew(&mut self, now: Time) {
        for path in self.paths.keys().copied().collect::<Vec<_>>() {
            if let Some(path) = self.paths.get(&path) {
                path.connection.close(Close::Replaced.into(), b"a new bond begins");
            }
            self.leave(path, now);
        }
        for entry in self.uplinks.values_mut() {
            entry.state.connected = false;
        }
        self.sender = Sender::new(self.own.config);
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
        let port = self.own.port;
        if self.paths.keys().any(|other| *other != path) {
            format!(
                "the edge does not answer on {name}: UDP port {port} may be blocked there, or packets of 1228 \
                 bytes do not pass{hint}"
            )
        } else {
            format!("the edge does not answer: it is down, or UDP port {port} is blocked{hint}")
        }
    }

    /// Says it of uplinks whose connection stands, while nothing that is sent on them arrives.
    fn note_silence(&mut self, active: &BTreeSet<PathId>, now: Time) {
        for (path, entry) in &mut self.uplinks {
            if !self.paths.contains_key(path) {
                entry.silent_since = None;
            } else if active.contains(path) {
                entry.silent_since = None;
                entry.state.reason = None;
            } else if now.saturating_since(*entry.silent_since.get_or_insert(now)) >= SILENCE {
                let (name, port) = (&entry.state.name, self.own.port);
                let words =
                    format!("nothing gets through on {name} now: UDP port {port} may be blocked there");
                entry.state.reason = Some(words);
            }
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

    fn publish(&mut self, now: Time) {
        for path in self.paths.keys().copied().collect::<Vec<_>>() {
            self.count(path);
        }
        self.tell_costs();
        self.current.bond = self.sender.stats();
        self.current.backfill = self.backfill.standing();
        let carrying = self.current.bond.paths.iter().filter(|stats| stats.state == PathState::Active);
        let active: BTreeSet<PathId> = carrying.map(|stats| stats.path).collect();
        self.note_silence(&active, now);
        let spent = |entry: &Entry| entry.told.is_some_and(|cost| cost.bytes_left == Some(0));
        let others = self.uplinks.iter().any(|(path, entry)| active.contains(path) && !spent(entry));
        for (path, entry) in &mut self.uplinks {
            entry.state.emergency = active.contains(path) && !others && spent(entry);
        }
        self.current.uplinks = self.uplinks.values().map(|entry| entry.state.clone()).collect();
        *self.own.shared.status.lock().unwrap_or_else(PoisonError::into_inner) = self.current.clone();
    }

    fn notice(&self, words: String) {
        let mut notices = self.own.shared.notices.lock().unwrap_or_else(PoisonError::into_inner);
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
