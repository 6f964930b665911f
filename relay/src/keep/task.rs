//! The thread that keeps a show: everything that touches the disk.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use media::cmaf::{CmafError, GroupEntry};
use media::{Frame, Time};

use super::fill::Fill;
use super::live::Live;
use super::part::{Part, PartError};
use super::{Input, MAX_WANTS, Shared, Show, disk};
use crate::backfill::demand::Outcome;
use crate::backfill::wire::ToVenue;
use crate::backfill::{Demand, Entry, GroupId};
use crate::clock::Clock;

/// How often what is written is synced, and counts as kept.
const SYNC: Duration = Duration::from_millis(500);

/// A disk that failed is tried again after this.
const RETRY: Duration = Duration::from_secs(5);

/// With nothing to do, the thread looks up this often.
const IDLE: Duration = Duration::from_secs(1);

/// The last frames of a show may come so long after the news that it is over, beside its deadline.
const LAST_FRAMES: Duration = Duration::from_millis(500);

/// What the thread works on.
pub(super) struct Task {
    show: Show,
    clock: Clock,
    shared: Arc<Shared>,
    demand: Demand,
    live: Live,
    fill: Fill,
    /// Why the disk takes nothing, and when it is tried again.
    failed: Option<(String, Time)>,
    sync_at: Time,
    /// When the last groups of the show have ended.
    flush_at: Option<Time>,
    /// Bytes in files that are finished.
    finished: u64,
}

/// Until the session is over. `turn` is held meanwhile: two threads never keep the same broadcast.
pub(super) fn run(show: Show, clock: Clock, shared: Arc<Shared>, turn: &Mutex<()>, inputs: &Receiver<Input>) {
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let mut task = Task::new(show, clock, shared);
    loop {
        let now = clock.now();
        let wake = task.poll_timeout().saturating_since(now).min(IDLE);
        match inputs.recv_timeout(wake) {
            Ok(input) => {
                let bytes = input.len();
                task.input(input);
                task.shared.queued.fetch_sub(bytes, Relaxed);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        task.timeout();
        task.tell();
    }
    task.finish();
}

impl Task {
    fn new(show: Show, clock: Clock, shared: Arc<Shared>) -> Self {
        let have = disk::kept(&show.dir, &show.broadcast);
        let configs = show.tracks.iter().map(|track| (track.id, track.config.clone())).collect();
        Self {
            demand: Demand::new(configs, show.deadline, have),
            live: Live::new(&show.broadcast, &show.tracks),
            fill: Fill::new(&show.broadcast, &show.tracks),
            failed: None,
            sync_at: clock.now() + SYNC,
            flush_at: None,
            finished: 0,
            show,
            clock,
            shared,
        }
    }

    fn poll_timeout(&self) -> Time {
        let retry = self.failed.as_ref().map(|(_, retry)| *retry);
        let others = [self.demand.poll_timeout(), retry, self.flush_at];
        others.into_iter().flatten().fold(self.sync_at, Time::min)
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Frame(frame) => self.frame(&frame),
            Input::Object(object) => self.object(object),
        }
    }

    fn frame(&mut self, frame: &Frame) {
        if self.failed.is_some() {
            return;
        }
        match self.live.frame(&self.show.dir, frame) {
            Ok(None) => {}
            Ok(Some(ended)) => self.ended(ended),
            Err(error) => self.fail(&error),
        }
        if let Some(part) = self.live.take_retired() {
            self.end(part);
        }
    }

    /// A group of the live file is whole, as far as can be seen from here.
    fn ended(&mut self, group: GroupEntry) {
        let id = GroupId { track: group.track, group: group.group };
        match self.demand.expects(id) {
            Some(entry) => self.compare(&entry, group),
            // Nobody will ever tell.
            None if !self.show.backfill => self.prove(group),
            None => self.live.remember(group),
        }
    }

    fn compare(&mut self, entry: &Entry, group: GroupEntry) {
        if (entry.frames, entry.digest) == (group.frames, group.digest) {
            self.demand.written(entry.id, None);
            self.prove(group);
        }
    }

    fn prove(&mut self, group: GroupEntry) {
        if let Some(part) = self.live.part() {
            part.prove(group);
        }
    }

    fn object(&mut self, object: Bytes) {
        let now = self.clock.now();
        match self.demand.handle_object(object, now) {
            Outcome::Nothing => {}
            Outcome::Offered(ids) => {
                for id in ids {
                    if let (Some(group), Some(entry)) = (self.live.recall(id), self.demand.expects(id)) {
                        self.compare(&entry, group);
                    }
                }
            }
            Outcome::Whole(entry, frames) => self.heal(&entry, &frames, now),
        }
        if self.demand.complete() && self.flush_at.is_none() {
            self.flush_at = Some(now + self.show.deadline.unwrap_or_default() + LAST_FRAMES);
        }
    }

    fn heal(&mut self, entry: &Entry, frames: &[Frame], now: Time) {
        if self.failed.is_some() {
            return self.demand.failed(entry.id, now);
        }
        if !self.fill.takes(entry)
            && let Some(part) = self.fill.take_part()
        {
            self.end(part);
        }
        let mut written = self.fill.group(&self.show.dir, entry, frames, || self.demand.first_missing());
        if let Err(PartError::Frame(CmafError::ParametersChanged(_))) = written {
            if let Some(part) = self.fill.take_part() {
                self.end(part);
            }
            written = self.fill.group(&self.show.dir, entry, frames, || self.demand.first_missing());
        }
        match written {
            Ok(()) => {
                let bytes = frames.iter().map(|frame| frame.data.len() as u64).sum();
                self.demand.written(entry.id, Some(bytes));
            }
            Err(PartError::Disk(error)) => {
                self.fail(&error);
                self.demand.failed(entry.id, now);
            }
            Err(PartError::Frame(error)) => {
                tracing::warn!(broadcast = %self.show.broadcast, id = ?entry.id, %error, "cannot be kept");
                self.demand.refused(entry.id);
                if let Some(part) = self.fill.take_part() {
                    self.end(part);
                }
            }
        }
    }

    fn timeout(&mut self) {
        let now = self.clock.now();
        if self.flush_at.is_some_and(|at| now >= at) {
            self.flush_at = Some(Time::from_micros(u64::MAX));
            for group in self.live.flush() {
                self.ended(group);
            }
        }
        if now >= self.sync_at {
            self.sync_at = now + SYNC;
            self.sync();
        }
        let Some((_, retry)) = &self.failed else { return };
        if now >= *retry {
            match disk::recovered(&self.show.dir) {
                Ok(()) => {
                    tracing::info!(broadcast = %self.show.broadcast, "the disk takes the show again");
                    self.failed = None;
                    self.demand.stuck(None);
                }
                Err(error) => self.set_failed(&error),
            }
        }
    }

    fn sync(&mut self) {
        let parts = [self.live.part(), self.fill.part()];
        let synced: Vec<_> = parts.into_iter().flatten().map(Part::sync).collect();
        for result in synced {
            match result {
                Ok(groups) => self.safe(&groups),
                Err(error) => self.fail(&error),
            }
        }
    }

    fn safe(&mut self, groups: &[GroupEntry]) {
        for group in groups {
            self.demand.kept(GroupId { track: group.track, group: group.group }, group.digest);
        }
    }

    /// Ends a file properly.
    fn end(&mut self, mut part: Part) {
        // In two steps, so that a file that cannot be ended tells what is lost of it.
        match part.sync() {
            Ok(groups) => self.safe(&groups),
            Err(error) => {
                self.lose(part);
                return self.fail(&error);
            }
        }
        self.finished += part.len();
        if let Err(error) = part.finish() {
            tracing::warn!(broadcast = %self.show.broadcast, %error, "a kept file stays without its end; it plays");
        }
    }

    /// The disk takes nothing: what was not safe yet is missing, and it is tried again later.
    fn fail(&mut self, error: &std::io::Error) {
        self.set_failed(error);
        let parts = [self.live.take_part(), self.fill.take_part()];
        parts.into_iter().flatten().for_each(|part| self.lose(part));
    }

    fn lose(&mut self, part: Part) {
        let now = self.clock.now();
        self.finished += part.len();
        part.abandon().into_iter().for_each(|id| self.demand.failed(id, now));
    }

    fn set_failed(&mut self, error: &std::io::Error) {
        if self.failed.is_none() {
            tracing::error!(broadcast = %self.show.broadcast, dir = %self.show.dir.display(), %error, "not kept");
        }
        let retry = self.clock.now() + RETRY;
        self.failed = Some((error.to_string(), retry));
        self.demand.stuck(Some(retry));
    }

    /// Tells the session's task and the status page.
    fn tell(&mut self) {
        let now = self.clock.now();
        while let Some(message) = self.demand.poll_message(now) {
            let mut outbox = self.shared.outbox.lock().unwrap_or_else(PoisonError::into_inner);
            match &message {
                ToVenue::Want(_) => {
                    if outbox.wants.len() >= MAX_WANTS {
                        outbox.wants.pop_front();
                    }
                    outbox.wants.push_back(message.encode());
                }
                ToVenue::Kept(_) => outbox.kept = Some(message.encode()),
            }
            drop(outbox);
            self.shared.wake.notify_one();
        }
        let parts = [self.live.part(), self.fill.part()];
        let open: u64 = parts.into_iter().flatten().map(|part| part.len()).sum();
        let mut status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = self.demand.counts();
        status.kept = counts.kept.kept;
        status.missing = counts.kept.missing;
        status.gone = counts.kept.gone;
        status.whole = counts.kept.whole;
        status.healed = counts.healed;
        status.healed_bytes = counts.healed_bytes;
        status.refused = counts.refused;
        status.bytes = self.finished + open;
        status.failed = self.failed.as_ref().map(|(reason, _)| reason.clone());
    }

    fn finish(mut self) {
        for group in self.live.flush() {
            self.ended(group);
        }
        // Nobody has told yet what these are; the next session's venue will.
        for group in self.live.take_ended() {
            self.prove(group);
        }
        let parts = [self.live.take_part(), self.fill.take_part()];
        parts.into_iter().flatten().for_each(|part| self.end(part));
        self.tell();
        tracing::info!(broadcast = %self.show.broadcast, counts = ?self.demand.counts().kept, "kept");
    }
}

impl Input {
    /// Its bytes of media.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.data.len(),
            Self::Object(object) => object.len(),
        }
    }
}
