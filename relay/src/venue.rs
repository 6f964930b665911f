//! The relay at the venue: takes frames from the encoder and sends them over the bond.

use std::collections::BTreeMap;
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
use crate::uplink::{self, EdgeAddress, Uplink, UplinkEvent};

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

/// Where the venue's frames come from: the drain of the encoder's tap.
pub struct Frames {
    /// The next frame and when it was encoded; `None` when there is none now.
    pub pop: Box<dyn FnMut() -> Option<(Frame, Time)> + Send>,
    /// Notified after each frame.
    pub wake: Arc<Notify>,
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
    /// In the order of their path numbers; at most [`bond::MAX_PATHS`].
    pub uplinks: Vec<Uplink>,
    /// A frame is worth nothing this long after its capture.
    pub deadline: Duration,
}

/// How one uplink is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UplinkState {
    /// What the creator calls it.
    pub name: String,
    /// Part of the bond.
    pub connected: bool,
    /// Why not, in words.
    pub reason: Option<String>,
    /// The edge said no.
    pub refused: bool,
}

/// What the terminal and the report show.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// By path number.
    pub uplinks: Vec<UplinkState>,
    /// The bond's own counts.
    pub bond: SenderStats,
    /// Frames handed to the bond, by track.
    pub sent: BTreeMap<TrackId, u64>,
    /// Bytes of media handed to the bond.
    pub media_bytes: u64,
    /// Keyframes that the edge asked for.
    pub keyframe_requests: u64,
}

/// The sending side, running.
pub struct Venue {
    status: Arc<Mutex<Status>>,
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Venue {
    /// Calls the edge over all uplinks and sends whatever `frames` gives. Never fails: an edge that is
    /// not there is called again and again, and frames that cannot be sent in time are let go.
    pub fn start(
        settings: Settings,
        catalog: Catalog,
        session: String,
        clock: Clock,
        frames: Frames,
        on_keyframe_request: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        let (events, queue) = mpsc::channel(EVENT_QUEUE);
        let video: Vec<TrackId> = catalog.tracks().iter().filter(|t| t.is_video()).map(|t| t.id).collect();
        let mut states = Vec::new();
        for (path, uplink) in (0u8..).zip(&settings.uplinks) {
            let hello = Hello {
                broadcast: settings.broadcast.clone(),
                session: session.clone(),
                path,
                uplink: uplink.name.clone(),
                token: settings.token.clone(),
                catalog: catalog.clone(),
                deadline_ms: settings.deadline.as_millis() as u32,
            };
            tokio::spawn(uplink::run(uplink.clone(), settings.edge.clone(), hello, events.clone()));
            states.push(UplinkState { name: uplink.name.clone(), ..UplinkState::default() });
        }
        let status = Arc::new(Mutex::new(Status { uplinks: states.clone(), ..Status::default() }));
        let stop = Arc::new(Notify::new());
        let task = SendTask {
            clock,
            video,
            sender: Sender::new(SenderConfig { deadline: settings.deadline }),
            paths: BTreeMap::new(),
            current: Status { uplinks: states, ..Status::default() },
            shared: status.clone(),
            on_keyframe_request,
            next_status: Time::ZERO,
            next_clock: Time::ZERO,
        };
        let task = tokio::spawn(task.run(frames, queue, stop.clone()));
        Self { status, stop, task }
    }

    /// How it stands, at most 100 ms old.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says goodbye to the edge and ends; bounded in time.
    pub async fn stop(self) {
        self.stop.notify_one();
        // The task bounds its own goodbye.
        let _ = self.task.await;
    }
}

struct Path {
    connection: quinn::Connection,
    control: mpsc::Sender<ToEdge>,
}

struct SendTask {
    clock: Clock,
    video: Vec<TrackId>,
    sender: Sender,
    paths: BTreeMap<PathId, Path>,
    current: Status,
    shared: Arc<Mutex<Status>>,
    on_keyframe_request: Arc<dyn Fn() + Send + Sync>,
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
            if now >= self.next_clock {
                self.next_clock = now + CLOCK_INTERVAL;
                self.tell_clock();
            }
            if now >= self.next_status {
                self.next_status = now + STATUS_INTERVAL;
                self.current.bond = self.sender.stats();
                *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = self.current.clone();
            }
        }
        self.current.bond = self.sender.stats();
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = self.current.clone();
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
            UplinkEvent::Up { path, connection, control } => {
                if self.paths.contains_key(&path) {
                    self.sender.remove_path(path, now);
                }
                let max_datagram = connection.max_datagram_size().unwrap_or(bond::MAX_DATAGRAM);
                self.sender.add_path(path, max_datagram, now);
                self.paths.insert(path, Path { connection, control });
                self.set_state(path, |state| {
                    state.connected = true;
                    state.refused = false;
                    state.reason = None;
                });
                // A new edge, or one that lost us: it needs a place to start.
                (self.on_keyframe_request)();
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
                (self.on_keyframe_request)();
            }
            UplinkEvent::Down { path, connection, reason, refused } => {
                if connection.is_some()
                    && self.paths.get(&path).map(|p| p.connection.stable_id()) == connection
                {
                    self.paths.remove(&path);
                    self.sender.remove_path(path, now);
                }
                self.set_state(path, |state| {
                    state.connected = false;
                    state.refused = refused;
                    state.reason = Some(reason);
                });
            }
        }
    }

    fn set_state(&mut self, path: PathId, change: impl FnOnce(&mut UplinkState)) {
        if let Some(state) = self.current.uplinks.get_mut(usize::from(path.0)) {
            change(state);
        }
    }

    fn tell_clock(&self) {
        let Some(clock) = self.sender.clock() else { return };
        let message = ToEdge::Clock { offset_micros: clock.offset_micros, error_micros: clock.error_micros };
        for path in self.paths.values() {
            let _ = path.control.try_send(message.clone());
        }
    }
}
