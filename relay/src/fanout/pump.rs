//! Forwarding: one task serves many viewers of a broadcast. A frame that comes is written to all of them in one go, as it
//! lies in memory, without a task, a timer or a copy for each.
//!
//! Nobody is waited for. What a viewer's connection does not take now is tried again with the next frame; who falls out
//! of what is held ([`super::live::GROUPS`]) goes on with the newest group.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use moq_net::StreamError;
use web_transport_quinn::{SendStream, Session, WriteError};
use web_transport_trait::poll::Session as _;

use super::lite::{self, Version, Wish};
use super::live::{Group, Live, Shard, Track};
use crate::counters::Round;

/// A viewer whose connection took nothing is tried again after this long at the latest; the next frame comes sooner.
const RETRY: Duration = Duration::from_millis(20);

/// After so many viewers the connections get their turn, so that the first need not wait for the last.
const BATCH: usize = 32;

/// Frames written at once: more than that only newcomers have before them.
const CHUNKS: usize = 16;

/// Groups that are written, and may still be on their way to a viewer. The oldest is given up for a further one.
const MAX_SENT: usize = 4;

/// The same are given up this long after a newer group has begun, if the viewer does not ask for more patience.
const LEAST_AGE: Duration = Duration::from_millis(500);

/// When a broadcast has ended, its viewers have this long to take what was left of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What one subscriber wants now.
#[derive(Debug)]
pub(super) struct Wishes {
    gone: AtomicBool,
    priority: AtomicU8,
    max_age_millis: AtomicU64,
    /// Not before this group,
    first: AtomicU64,
    /// and not this one or one after it.
    end: AtomicU64,
}

impl Wishes {
    pub fn new(wish: &Wish) -> Self {
        let wishes = Self {
            gone: AtomicBool::new(false),
            priority: AtomicU8::new(0),
            max_age_millis: AtomicU64::new(0),
            first: AtomicU64::new(0),
            end: AtomicU64::new(0),
        };
        wishes.update(wish);
        wishes
    }

    pub fn update(&self, wish: &Wish) {
        self.priority.store(wish.priority, Relaxed);
        self.max_age_millis.store(wish.max_age.as_millis().try_into().unwrap_or(u64::MAX), Relaxed);
        self.first.store(wish.first.unwrap_or(0), Relaxed);
        self.end.store(wish.last.map_or(u64::MAX, |last| last.saturating_add(1)), Relaxed);
    }

    /// The subscriber has gone.
    pub fn leave(&self) {
        self.gone.store(true, Release);
    }

    fn wants(&self, group: &Group) -> bool {
        (self.first.load(Relaxed)..self.end.load(Relaxed)).contains(&group.sequence)
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.max_age_millis.load(Relaxed)).max(LEAST_AGE)
    }
}

/// A subscription that begins.
pub(super) struct Join {
    /// Of one viewer there may be several.
    pub viewer: usize,
    /// A handle of its own: what it has begun to open is in there.
    pub session: Session,
    pub version: Version,
    /// The number of the track in [`Live`].
    pub track: usize,
    /// As the viewer calls it.
    pub id: u64,
    /// Where the answers go.
    pub answers: SendStream,
    pub wishes: Arc<Wishes>,
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Join").field("viewer", &self.viewer).field("id", &self.id).finish_non_exhaustive()
    }
}

/// Serves the viewers of one shard until the broadcast ends.
pub(super) async fn run(live: Arc<Live>, shard: Arc<Shard>) {
    let mut held = vec![VecDeque::new(); live.tracks.len()];
    let mut viewers: Vec<Viewer> = Vec::new();
    let mut blocked = false;
    let mut ended = None;
    let mut round = Round::default();
    loop {
        tokio::select! {
            () = shard.wake.notified() => {}
            () = tokio::time::sleep(RETRY), if blocked => {}
        }
        let now = Instant::now();
        // Looked at first: what was written before the end is then seen, too.
        if live.has_ended() {
            ended.get_or_insert(now);
        }
        for (held, track) in held.iter_mut().zip(&live.tracks) {
            follow(held, &track.groups());
        }
        for join in shard.take() {
            Viewer::add(&mut viewers, join);
        }
        blocked = false;
        let mut here = 0;
        for (number, viewer) in viewers.iter_mut().enumerate() {
            blocked |= viewer.serve(&held, &live, now, ended.is_some(), &mut round);
            here += viewer.subscriptions.len();
            if number % BATCH == BATCH - 1 {
                tokio::task::yield_now().await;
            }
        }
        live.sent.add(&mut round);
        viewers.retain(|viewer| !viewer.subscriptions.is_empty());
        shard.count(here);
        let over = ended.is_some_and(|ended| viewers.is_empty() || now.duration_since(ended) > PATIENCE);
        if over && shard.close() {
            // Dropped, a stream would end as if its group were whole.
            let left = viewers.iter_mut().flat_map(|viewer| &mut viewer.subscriptions);
            for open in left.filter_map(|subscription| subscription.open.as_mut()) {
                let _ = open.stream.reset(StreamError::Old.to_code());
            }
            return;
        }
    }
}

/// Brings our copy of a track's groups up to date.
fn follow(ours: &mut VecDeque<Group>, theirs: &VecDeque<Group>) {
    ours.retain(|own| theirs.iter().any(|group| group.sequence == own.sequence));
    for (at, group) in theirs.iter().enumerate() {
        match ours.get_mut(at) {
            Some(own) if own.sequence == group.sequence => {
                own.frames.extend(group.frames.iter().skip(own.frames.len()).cloned());
                own.ended = group.ended;
            }
            _ => ours.insert(at, group.clone()),
        }
    }
}

/// A subscription is over.
struct Over;

struct Viewer {
    number: usize,
    subscriptions: Vec<Subscription>,
}

impl Viewer {
    fn add(viewers: &mut Vec<Viewer>, join: Join) {
        let number = join.viewer;
        // Who names a group goes on from there.
        let newest = join.wishes.first.load(Relaxed) == 0;
        let subscription = Subscription {
            join,
            priority: 0,
            answers: VecDeque::new(),
            newest,
            next: 0,
            told: false,
            open: None,
            sent: VecDeque::new(),
        };
        match viewers.iter_mut().find(|viewer| viewer.number == number) {
            Some(viewer) => viewer.subscriptions.push(subscription),
            None => viewers.push(Viewer { number, subscriptions: vec![subscription] }),
        }
    }

    /// Writes what there is. Returns whether something is left.
    fn serve(
        &mut self,
        held: &[VecDeque<Group>],
        live: &Live,
        now: Instant,
        ended: bool,
        round: &mut Round,
    ) -> bool {
        let none = VecDeque::new();
        let mut blocked = false;
        let mut at = 0;
        while let Some(subscription) = self.subscriptions.get_mut(at) {
            let track = subscription.join.track;
            let groups = held.get(track).unwrap_or(&none);
            subscription.priority = live.tracks.get(track).map_or(0, Track::priority);
            let served = match live.is_refused() {
                true => subscription.refuse(),
                false => subscription.serve(groups, now, ended, round),
            };
            match served {
                Ok(left) => {
                    blocked |= left;
                    at += 1;
                }
                Err(Over) => drop(self.subscriptions.swap_remove(at)),
            }
        }
        blocked
    }
}

struct Subscription {
    join: Join,
    /// The publisher's, of the track.
    priority: u8,
    /// Answers that are not written yet: three at most.
    answers: VecDeque<Bytes>,
    /// It goes on with the newest group.
    newest: bool,
    /// Groups before this one were begun.
    next: u64,
    /// It was told where it begins.
    told: bool,
    open: Option<Open>,
    /// Groups that are written, until they are too old to matter: [`MAX_SENT`].
    sent: VecDeque<Sent>,
}

/// The stream of a group under way.
struct Open {
    stream: SendStream,
    sequence: u64,
    /// The next frame to be taken.
    frame: usize,
    /// What is taken and not written: [`CHUNKS`].
    chunks: Vec<Bytes>,
}

impl Open {
    /// Frames that are written whole. While the head of the group waits, too, none is.
    fn written(&self) -> usize {
        self.frame.saturating_sub(self.chunks.len())
    }
}

struct Sent {
    stream: SendStream,
    /// A newer group has begun.
    since: Option<Instant>,
}

impl Subscription {
    fn serve(
        &mut self,
        groups: &VecDeque<Group>,
        now: Instant,
        ended: bool,
        round: &mut Round,
    ) -> Result<bool, Over> {
        if self.join.wishes.gone.load(Acquire) {
            if let Some(mut open) = self.open.take() {
                let _ = open.stream.reset(StreamError::Cancel.to_code());
            }
            return Err(Over);
        }
        let mut blocked = !self.answer()?;
        loop {
            let Some(open) = &mut self.open else {
                match self.begin(groups, now)? {
                    Begun::Group => {
                        round.groups += 1;
                        continue;
                    }
                    Begun::Blocked => blocked = true,
                    Begun::Nothing if ended && !blocked => return self.end(),
                    Begun::Nothing => {}
                }
                break;
            };
            let Some(group) = groups.iter().find(|group| group.sequence == open.sequence) else {
                // Too slow by a whole group.
                round.skipped += 1;
                let _ = open.stream.reset(StreamError::Old.to_code());
                self.open = None;
                self.newest = true;
                continue;
            };
            let room = CHUNKS - open.chunks.len().min(CHUNKS);
            let timed = self.join.version.is_timed();
            let fresh = group.frames.iter().skip(open.frame).take(room);
            let before = open.chunks.len();
            open.chunks.extend(fresh.map(|frame| frame.on_the_wire(timed)));
            open.frame += open.chunks.len().saturating_sub(before);
            if !open.chunks.is_empty() {
                let whole = open.written();
                let written = write(&mut open.stream, &mut open.chunks);
                round.frames += (open.written() - whole) as u64;
                round.bytes += *written.as_ref().unwrap_or(&0) as u64;
                match written {
                    Ok(1..) => continue,
                    Ok(0) => {
                        blocked = true;
                        break;
                    }
                    Err(WriteError::SessionError(_)) => return Err(Over),
                    // The viewer does not want this group.
                    Err(_) => {
                        self.open = None;
                        continue;
                    }
                }
            }
            if !group.ended {
                break;
            }
            if let Some(mut open) = self.open.take() {
                let _ = open.stream.finish();
                if self.sent.len() >= MAX_SENT
                    && let Some(mut oldest) = self.sent.pop_front()
                {
                    let _ = oldest.stream.reset(StreamError::Old.to_code());
                }
                self.sent.push_back(Sent { stream: open.stream, since: None });
            }
        }
        Ok(blocked)
    }

    /// Writes the answers. Returns whether none is left.
    fn answer(&mut self) -> Result<bool, Over> {
        if !self.told {
            let priority = self.join.wishes.priority.load(Relaxed);
            if let Some(accepted) = lite::accepted(self.join.version, priority) {
                self.told = true;
                self.answers.push_back(accepted);
            }
        }
        while !self.answers.is_empty() {
            let mut chunks: Vec<_> = self.answers.drain(..).collect();
            let written = write(&mut self.join.answers, &mut chunks);
            self.answers.extend(chunks);
            match written {
                Ok(1..) => {}
                Ok(0) => return Ok(false),
                Err(_) => return Err(Over),
            }
        }
        Ok(true)
    }

    /// Opens the stream of the next group.
    fn begin(&mut self, groups: &VecDeque<Group>, now: Instant) -> Result<Begun, Over> {
        let wishes = self.join.wishes.clone();
        let mut wanted = groups.iter().filter(|group| wishes.wants(group) && group.sequence >= self.next);
        let group = if self.newest { wanted.next_back() } else { wanted.next() };
        let Some(group) = group else { return Ok(Begun::Nothing) };
        let stream = match self.join.session.poll_open_uni(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(stream)) => stream,
            Poll::Ready(Err(_)) => return Err(Over),
            Poll::Pending => return Ok(Begun::Blocked),
        };
        let order = self.order();
        let _ = stream.set_priority(order);
        let patience = wishes.patience();
        self.sent.retain_mut(|sent| {
            let since = *sent.since.get_or_insert(now);
            let _ = sent.stream.set_priority(order - 1);
            let keep = now.duration_since(since) < patience;
            if !keep {
                // Nothing happens where all has arrived.
                let _ = sent.stream.reset(StreamError::Old.to_code());
            }
            keep
        });
        if !self.told {
            self.told = true;
            self.answers.extend(lite::begins(self.join.version, group.sequence));
            self.answer()?;
        }
        let head = lite::group(self.join.version, self.join.id, group.sequence);
        self.newest = false;
        self.next = group.sequence + 1;
        self.open = Some(Open { stream, sequence: group.sequence, frame: 0, chunks: vec![head] });
        Ok(Begun::Group)
    }

    /// How urgent a group is to quinn: as the viewer wants it, and then as the publisher does; behind the control
    /// streams, which have 0. An older group of the same track is one less.
    fn order(&self) -> i32 {
        let wanted = i32::from(self.join.wishes.priority.load(Relaxed));
        2 * ((wanted << 8) + i32::from(self.priority) - (1 << 16)) - 1
    }

    /// There is no such track.
    fn refuse(&mut self) -> Result<bool, Over> {
        let _ = self.join.answers.reset(StreamError::NotFound.to_code());
        Err(Over)
    }

    /// The broadcast is over, and all of it is written.
    fn end(&mut self) -> Result<bool, Over> {
        if let Some(ends) = lite::ends(self.join.version, self.next) {
            self.answers.push_back(ends);
            // Where it cannot be said, the end of the stream says it.
            self.answer()?;
        }
        let _ = self.join.answers.finish();
        Err(Over)
    }
}

enum Begun {
    Group,
    /// The viewer allows no further stream for now.
    Blocked,
    /// There is none.
    Nothing,
}

/// Writes as much as the connection takes now; what it took is removed from `chunks`. Returns how many bytes it took.
fn write(stream: &mut SendStream, chunks: &mut Vec<Bytes>) -> Result<usize, WriteError> {
    let written = {
        let write = pin!(stream.write_chunks(chunks));
        // It is asked again when there is more to write, so nobody need be woken.
        match write.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(written) => written?,
            Poll::Pending => return Ok(0),
        }
    };
    chunks.drain(..written.chunks);
    Ok(written.bytes)
}
