//! One session: the uplinks of one bond come together in one [`bond::Receiver`], and what it delivers is published
//! and kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bond::{Delivery, PathId, Receiver, ReceiverConfig};
use bytes::Bytes;
use media::{Frame, FrameId, Time};
use tokio::sync::mpsc;

use crate::broadcasts::{Outcome, Record, UplinkStatus};
use crate::clock::Clock;
use crate::control::{Audience, Close, ToVenue};
use crate::keep::Keeper;
use crate::origin::{Publication, Written};

/// Events handled before feedback and deadlines get their turn again.
const BATCH: usize = 64;

/// A session without any uplink is kept this long, so that viewers stay through an outage.
const SESSION_LINGER: Duration = Duration::from_secs(30);

/// Keyframes are asked for at most this often: one takes a round trip and an encode to come.
const KEYFRAME_INTERVAL: Duration = Duration::from_millis(300);

/// And for viewers who have lost something on their own way at most this often: each of them would ask, and all of them
/// pay for it.
const VIEWERS_KEYFRAME_INTERVAL: Duration = Duration::from_secs(1);

/// How often is looked whether the viewers fare otherwise than the venue was told.
const AUDIENCE_INTERVAL: Duration = Duration::from_secs(2);

/// What the session's task hears.
pub(super) enum Event {
    Up {
        path: PathId,
        uplink: String,
        connection: quinn::Connection,
        control: mpsc::Sender<ToVenue>,
        audience: bool,
    },
    Datagram {
        path: PathId,
        connection: usize,
        data: Bytes,
    },
    Clock {
        offset_micros: i64,
        error_micros: u64,
    },
    Down {
        path: PathId,
        connection: usize,
    },
    End,
}

/// Resolves when the keeper may have a message; never where there is none.
async fn woken(keeper: Option<&Keeper>) {
    match keeper {
        Some(keeper) => keeper.woken().await,
        None => std::future::pending().await,
    }
}

/// Resolves when a viewer needs a keyframe.
async fn wanted(publication: Option<&Publication>) {
    match publication {
        Some(publication) => publication.keyframe_wanted().await,
        None => std::future::pending().await,
    }
}

struct Path {
    connection: quinn::Connection,
    control: mpsc::Sender<ToVenue>,
    /// It wants to know how its viewers fare.
    audience: bool,
}

/// A session's task.
pub(super) struct SessionTask {
    name: String,
    clock: Clock,
    record: Record,
    /// `None`: there is no live media.
    publication: Option<Publication>,
    /// `None`: the show is not kept.
    keeper: Option<Keeper>,
    receiver: Receiver,
    paths: BTreeMap<PathId, Path>,
    /// Datagrams and bytes that came on each path, and are not in the record yet.
    counted: BTreeMap<PathId, (u64, u64)>,
    empty_since: Option<Time>,
    /// Whether `empty_since` is known, for others.
    deserted: Arc<AtomicBool>,
    keyframe_asked: Time,
    /// What the venue was told of its viewers, and when that was looked at.
    audience: (Option<Audience>, Time),
}

impl SessionTask {
    pub fn new(
        name: String,
        clock: Clock,
        record: Record,
        publication: Option<Publication>,
        keeper: Option<Keeper>,
        deadline: Duration,
    ) -> Self {
        Self {
            name,
            clock,
            record,
            publication,
            keeper,
            receiver: Receiver::new(ReceiverConfig { deadline }),
            paths: BTreeMap::new(),
            counted: BTreeMap::new(),
            empty_since: Some(clock.now()),
            deserted: Arc::default(),
            keyframe_asked: Time::ZERO,
            audience: (None, Time::ZERO),
        }
    }

    /// The broadcast's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells whether the session has lost all its uplinks.
    pub fn deserted(&self) -> Arc<AtomicBool> {
        self.deserted.clone()
    }

    /// Until the show is over, or has been without uplinks for too long.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Event>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let linger = self.empty_since.map(|since| since + SESSION_LINGER);
            let wake = [self.receiver.poll_timeout(), linger].into_iter().flatten().min();
            let wake = wake.unwrap_or_else(|| self.clock.now() + SESSION_LINGER);
            let mut keyframe = false;
            tokio::select! {
                count = queue.recv_many(&mut batch, BATCH) => if count == 0 { return },
                () = woken(self.keeper.as_ref()) => {}
                () = wanted(self.publication.as_ref()) => keyframe = true,
                () = tokio::time::sleep_until(self.clock.instant(wake).into()) => {}
            }
            let now = self.clock.now();
            if keyframe && now.saturating_since(self.keyframe_asked) >= VIEWERS_KEYFRAME_INTERVAL {
                self.ask_for_keyframe(now);
            }
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
            self.tell_audience(now);
            if let Some(keeper) = &self.keeper {
                // A full lane is empty again when the venue has said what came.
                keeper.messages(|message| self.receiver.send_message(message).is_ok());
            }
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
            Event::Up { path, uplink, connection, control, audience } => {
                // It has shown its proof, so it is the same uplink on a new connection.
                if let Some(old) = self.paths.remove(&path) {
                    self.receiver.remove_path(path, now);
                    old.connection.close(Close::Replaced.into(), b"the uplink came back");
                }
                self.receiver.add_path(path, now);
                self.paths.insert(path, Path { connection, control, audience });
                self.audience.0 = None;
                self.empty_since = None;
                self.deserted.store(false, Relaxed);
                tracing::info!(broadcast = %self.name, %uplink, "uplink up");
                self.record.update(|status| {
                    let entry = status.uplinks.entry(path.0).or_insert_with(UplinkStatus::default);
                    entry.name = uplink;
                    entry.connected = true;
                    entry.calls += 1;
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
                    self.deserted.store(true, Relaxed);
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
                    if let Some(keeper) = &self.keeper {
                        keeper.frame(&frame);
                    }
                    let outcome = self.publish(&frame, now);
                    self.record.passed(&frame, arrived, self.clock.now(), outcome);
                }
                Delivery::Lost { track, group, frames } => {
                    // An open end means "and whatever followed in this group": at least the one.
                    let count = if frames.end == u32::MAX { 1 } else { frames.len() as u64 };
                    tracing::warn!(broadcast = %self.name, track = track.0, group, ?frames, "lost");
                    let id = FrameId { track, group, frame: frames.start };
                    self.record.trace(id, Time::ZERO, now, now, 0, Outcome::Lost);
                    self.record.update(|status| status.lost += count);
                    if self.publication.as_mut().is_some_and(|publication| publication.lost(track, group)) {
                        self.ask_for_keyframe(now);
                    }
                }
                Delivery::Object(data) => match &self.keeper {
                    Some(keeper) => keeper.object(data),
                    None => tracing::debug!(broadcast = %self.name, "an object, though nothing is kept"),
                },
                // The lane is there; what uses it is still to come (rooms).
                Delivery::Message(data) => {
                    tracing::debug!(broadcast = %self.name, bytes = data.len(), "on a lane without a reader");
                }
            }
        }
        let (late, repaired) = (self.receiver.frames_late(), self.receiver.frames_recovered());
        let counted = std::mem::take(&mut self.counted);
        self.record.update(|status| {
            status.late = late;
            status.repaired = repaired;
            for (path, (datagrams, bytes)) in counted {
                let uplink = status.uplinks.entry(path.0).or_default();
                uplink.datagrams += datagrams;
                uplink.bytes += bytes;
            }
        });
    }

    /// Hands a frame to the viewers.
    fn publish(&mut self, frame: &Frame, now: Time) -> Outcome {
        let Some(publication) = &mut self.publication else { return Outcome::Refused };
        match publication.write(frame) {
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
        }
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

    /// Tells the venue how its viewers fare, when that has changed. The venue's clock messages wake this task
    /// often enough.
    fn tell_audience(&mut self, now: Time) {
        let (told, at) = &mut self.audience;
        if now.saturating_since(*at) < AUDIENCE_INTERVAL {
            return;
        }
        *at = now;
        let audience = self.record.status(now).audience();
        if told.replace(audience) == Some(audience) {
            return;
        }
        // On every uplink, for any of them may be the dead one.
        for path in self.paths.values().filter(|path| path.audience) {
            let _ = path.control.try_send(ToVenue::Audience(audience));
        }
    }
}
