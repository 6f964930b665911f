//! What is live: the newest groups of each track, as they go onto the wire, shared by all viewers.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use media::varint;
use tokio::sync::Notify;

use super::lite;
use super::pump::{self, Join};
use crate::counters::Sent;

/// Groups of a track that are held: the one under way, for those who come, and the one before it, for those who
/// are a little late.
pub(super) const GROUPS: usize = 2;

/// What is held of one group: moq-net takes no more either. Groups are a second or two long; one that goes on and on ends
/// here for viewers, and they wait for the next.
const MAX_GROUP_FRAMES: usize = 8192;
const MAX_GROUP_BYTES: usize = 32 * 1024 * 1024;

/// A frame of a group: its time as the difference to the one before it, its length, and what is in it.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    bytes: Bytes,
    /// Of these the time takes so many.
    time: u8,
}

impl Frame {
    /// The payload comes in two parts, so that nobody has to join them.
    fn new(delta: i64, payload: [&[u8]; 2]) -> Self {
        let delta = lite::zigzag(delta);
        let size: usize = payload.iter().map(|part| part.len()).sum();
        let head = varint::len(delta) + varint::len(size as u64);
        let mut bytes = BytesMut::with_capacity(head + size);
        varint::put(delta, &mut bytes);
        varint::put(size as u64, &mut bytes);
        payload.iter().for_each(|part| bytes.put_slice(part));
        Self { bytes: bytes.freeze(), time: varint::len(delta) as u8 }
    }

    /// As it goes onto a stream, of a version whose frames have times or have none.
    pub fn on_the_wire(&self, timed: bool) -> Bytes {
        if timed { self.bytes.clone() } else { self.bytes.slice(usize::from(self.time)..) }
    }

    /// What is in it.
    pub fn payload(&self) -> Bytes {
        let mut bytes = self.bytes.slice(usize::from(self.time)..);
        // Its length is in front.
        let _ = varint::get(&mut bytes);
        bytes
    }
}

/// A group, as far as it has come.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub sequence: u64,
    pub frames: Vec<Frame>,
    /// Nothing more comes.
    pub ended: bool,
    /// Of the last frame, in the units of the track.
    time: u64,
    bytes: usize,
}

impl Group {
    fn new(sequence: u64) -> Self {
        Self { sequence, frames: Vec::new(), ended: false, time: 0, bytes: 0 }
    }

    fn push(&mut self, frame: Frame) {
        self.bytes += frame.bytes.len();
        self.ended |= self.frames.len() >= MAX_GROUP_FRAMES || self.bytes > MAX_GROUP_BYTES;
        if !self.ended {
            self.frames.push(frame);
        }
    }
}

/// One track.
#[derive(Debug)]
pub(super) struct Track {
    name: String,
    /// Of two tracks that a viewer wants equally, the one with the higher one goes first.
    priority: AtomicU8,
    groups: Mutex<VecDeque<Group>>,
}

impl Track {
    pub fn priority(&self) -> u8 {
        self.priority.load(Ordering::Relaxed)
    }

    pub fn groups(&self) -> MutexGuard<'_, VecDeque<Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who comes, until the task has ended.
#[derive(Debug)]
enum Joining {
    Open(Vec<Join>),
    Closed,
}

/// Viewers of one broadcast that one task serves.
#[derive(Debug)]
pub(super) struct Shard {
    pub wake: Notify,
    joining: Mutex<Joining>,
    /// Subscriptions.
    pub here: AtomicUsize,
}

impl Shard {
    fn new() -> Self {
        let joining = Mutex::new(Joining::Open(Vec::new()));
        Self { wake: Notify::new(), joining, here: AtomicUsize::new(0) }
    }

    fn joining(&self) -> MutexGuard<'_, Joining> {
        self.joining.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who has come since the last time.
    pub fn take(&self) -> Vec<Join> {
        match &mut *self.joining() {
            Joining::Open(joining) => std::mem::take(joining),
            Joining::Closed => Vec::new(),
        }
    }

    /// So many are here, besides those who come now.
    pub fn count(&self, here: usize) {
        if let Joining::Open(joining) = &*self.joining() {
            self.here.store(here + joining.len(), Ordering::Relaxed);
        }
    }

    /// Nobody comes any more. `false`: somebody has come.
    pub fn close(&self) -> bool {
        let mut joining = self.joining();
        if matches!(&*joining, Joining::Open(joining) if joining.is_empty()) {
            *joining = Joining::Closed;
        }
        matches!(&*joining, Joining::Closed)
    }
}

/// One broadcast.
#[derive(Debug)]
pub(super) struct Live {
    pub tracks: Vec<Track>,
    shards: Vec<Arc<Shard>>,
    ended: AtomicBool,
    /// There is no such thing.
    refused: AtomicBool,
    /// What all viewers of this relay were sent.
    pub sent: Arc<Sent>,
    /// Who reads it otherwise than over MoQ ([`super::tap`]).
    pub taps: AtomicUsize,
    /// Who reads so is told here that there is something new.
    pub tapped: Arc<Notify>,
    /// Somebody needs a keyframe before the next group.
    pub keyframe: Notify,
}

impl Live {
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// It could not be got.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }

    /// The number of a track.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.tracks.iter().position(|track| track.name == name)
    }

    /// Whether all groups from this one on are held, as far as there are any.
    pub fn holds(&self, track: usize, first: u64) -> bool {
        let Some(track) = self.tracks.get(track) else { return false };
        track.groups().front().is_some_and(|oldest| oldest.sequence <= first)
    }

    /// Serves a subscription from now on, all of one viewer by the same task. One that comes when all is over is
    /// given back.
    pub fn join(&self, join: Join) -> Option<Join> {
        let Some(shard) = self.shards.get(join.viewer % self.shards.len().max(1)) else { return Some(join) };
        match &mut *shard.joining() {
            Joining::Open(joining) => joining.push(join),
            Joining::Closed => return Some(join),
        }
        shard.here.fetch_add(1, Ordering::Relaxed);
        shard.wake.notify_one();
        None
    }

    /// A viewer has gone, or wants something else.
    pub fn look(&self, viewer: usize) {
        if let Some(shard) = self.shards.get(viewer % self.shards.len().max(1)) {
            shard.wake.notify_one();
        }
    }

    fn viewers(&self) -> usize {
        let subscribed: usize = self.shards.iter().map(|shard| shard.here.load(Ordering::Relaxed)).sum();
        subscribed + self.taps.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        if self.taps.load(Ordering::Relaxed) > 0 {
            self.tapped.notify_one();
        }
        for shard in self.shards.iter().filter(|shard| shard.here.load(Ordering::Relaxed) > 0) {
            shard.wake.notify_one();
        }
    }
}

/// Where frames are written. Dropped, it ends the broadcast.
#[derive(Debug)]
pub(crate) struct Writer {
    live: Arc<Live>,
    name: Name,
    all: Lives,
}

impl Writer {
    /// A group begins. What is older than the newest [`GROUPS`] is forgotten.
    pub fn begin(&self, track: usize, sequence: u64) {
        let Some(track) = self.live.tracks.get(track) else { return };
        let mut groups = track.groups();
        let at = groups.partition_point(|group| group.sequence < sequence);
        if groups.get(at).is_none_or(|group| group.sequence != sequence) {
            groups.insert(at, Group::new(sequence));
        }
        while groups.len() > GROUPS {
            groups.pop_front();
        }
    }

    /// Appends a frame to a group, with its time in the units of the track. Returns the payload in one piece.
    pub fn write(&self, track: usize, sequence: u64, time: u64, payload: [&[u8]; 2]) -> Bytes {
        let mut written = None;
        self.change(track, sequence, |group| {
            let delta = (time as i64).wrapping_sub(group.time as i64);
            group.time = time;
            let frame = Frame::new(delta, payload);
            written = Some(frame.payload());
            group.push(frame);
        });
        written.unwrap_or_else(|| payload.concat().into())
    }

    /// A group has ended.
    pub fn end(&self, track: usize, sequence: u64) {
        self.change(track, sequence, |group| group.ended = true);
    }

    /// There is no such broadcast or track.
    pub fn refuse(&self) {
        self.live.refused.store(true, Ordering::Release);
    }

    /// The priority of the first track.
    pub fn set_priority(&self, priority: u8) {
        if let Some(track) = self.live.tracks.first() {
            track.priority.store(priority, Ordering::Relaxed);
        }
    }

    /// Subscriptions that are served now.
    pub fn viewers(&self) -> usize {
        self.live.viewers()
    }

    /// Resolves when somebody who watches needs a keyframe.
    pub async fn keyframe_wanted(&self) {
        self.live.keyframe.notified().await;
    }

    /// Whether somebody who watches has needed a keyframe since this was last asked.
    pub fn is_keyframe_wanted(&self) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(self.live.keyframe.notified()).poll(&mut cx).is_ready()
    }

    fn change(&self, track: usize, sequence: u64, change: impl FnOnce(&mut Group)) {
        if let Some(track) = self.live.tracks.get(track) {
            // One that is too old is not there any more.
            track.groups().iter_mut().rfind(|group| group.sequence == sequence).map(change);
        }
        self.live.wake();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        for track in &self.live.tracks {
            track.groups().iter_mut().for_each(|group| group.ended = true);
        }
        self.live.ended.store(true, Ordering::Release);
        // Those without a viewer end, too.
        self.live.shards.iter().for_each(|shard| shard.wake.notify_one());
        self.live.tapped.notify_one();
        let mut all = self.all.lock();
        if all.get(&self.name).is_some_and(|live| Arc::ptr_eq(live, &self.live)) {
            all.remove(&self.name);
        }
    }
}

/// What is live.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Name {
    /// A broadcast of a venue.
    Own(String),
    /// A track of a broadcast that came in over MoQ.
    Copy(String, String),
}

/// All that is live, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lives {
    all: Arc<Mutex<HashMap<Name, Arc<Live>>>>,
    sent: Arc<Sent>,
    tapped: Arc<Notify>,
}

impl Lives {
    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Arc<Live>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What viewers were sent.
    pub fn sent(&self) -> &Arc<Sent> {
        &self.sent
    }

    /// Is notified whenever something that is tapped has changed. One task at a time may wait for it.
    pub fn tapped(&self) -> &Arc<Notify> {
        &self.tapped
    }

    /// Subscriptions that are served now.
    #[cfg(test)]
    pub(super) fn viewers(&self) -> usize {
        self.lock().values().map(|live| live.viewers()).sum()
    }

    /// A broadcast of a venue.
    pub(super) fn own(&self, name: &str) -> Option<Arc<Live>> {
        self.lock().get(&Name::Own(name.to_owned())).cloned()
    }

    /// Begins a broadcast with tracks of these names and priorities, in place of an older one of the same name; its
    /// viewers are served by a task for each of the runtime's threads.
    pub fn begin(&self, name: &str, tracks: impl IntoIterator<Item = (String, u8)>) -> Writer {
        let writer = self.start(Name::Own(name.to_owned()), tracks);
        self.lock().insert(writer.name.clone(), writer.live.clone());
        writer
    }

    /// A track that came in over MoQ; who is the first to want it is given where to write it.
    pub(super) fn copied(&self, name: &str, track: &str) -> (Arc<Live>, Option<Arc<Writer>>) {
        let name = Name::Copy(name.to_owned(), track.to_owned());
        let mut all = self.lock();
        if let Some(live) = all.get(&name) {
            return (live.clone(), None);
        }
        let writer = self.start(name.clone(), [(track.to_owned(), 0)]);
        all.insert(name, writer.live.clone());
        (writer.live.clone(), Some(Arc::new(writer)))
    }

    fn start(&self, name: Name, tracks: impl IntoIterator<Item = (String, u8)>) -> Writer {
        let track =
            |(name, priority)| Track { name, priority: AtomicU8::new(priority), groups: Mutex::default() };
        let threads = tokio::runtime::Handle::current().metrics().num_workers();
        let live = Arc::new(Live {
            tracks: tracks.into_iter().map(track).collect(),
            shards: (0..threads).map(|_| Arc::new(Shard::new())).collect(),
            ended: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            sent: self.sent.clone(),
            taps: AtomicUsize::new(0),
            tapped: self.tapped.clone(),
            keyframe: Notify::new(),
        });
        for shard in &live.shards {
            tokio::spawn(pump::run(live.clone(), shard.clone()));
        }
        Writer { live, name, all: self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_is_the_same_in_all_its_forms() {
        let lives = Lives::default();
        let writer = lives.begin("demo", [("video".into(), 1)]);
        writer.begin(0, 5);
        assert_eq!(writer.write(0, 5, 1_000_000, [b"abc", b"de"]), b"abcde"[..]);
        writer.write(0, 5, 999_999, [b"", b"f"]);
        let live = lives.own("demo").unwrap();
        let frames = live.tracks[0].groups()[0].frames.clone();
        // The first counts from zero, the next from the first.
        assert_eq!(frames[0].on_the_wire(true), b"\x80\x1e\x84\x80\x05abcde"[..]);
        assert_eq!(frames[0].on_the_wire(false), b"\x05abcde"[..]);
        assert_eq!(frames[1].on_the_wire(true), b"\x01\x01f"[..]);
        // What comes too late for a group is no panic.
        assert_eq!(writer.write(0, 4, 1, [b"l", b"ate"]), b"late"[..]);
        assert_eq!(writer.write(9, 4, 1, [b"l", b"ost"]), b"lost"[..]);
    }

    #[tokio::test]
    async fn no_more_than_the_newest_groups_are_held() {
        let lives = Lives::default();
        let writer = lives.begin("demo", [("video".into(), 1)]);
        for sequence in [0, 1, 2, 3, 5, 4, 4, 1] {
            writer.begin(0, sequence);
        }
        writer.end(0, 4);
        let live = lives.own("demo").unwrap();
        let held: Vec<_> =
            live.tracks[0].groups().iter().map(|group| (group.sequence, group.ended)).collect();
        assert_eq!(held, [(4, true), (5, false)]);
    }

    #[test]
    fn a_group_without_end_ends() {
        let mut group = Group::new(1);
        (0..MAX_GROUP_FRAMES + 9).for_each(|_| group.push(Frame::new(1, [b"x", b""])));
        assert_eq!((group.frames.len(), group.ended), (MAX_GROUP_FRAMES, true));
        let mut group = Group::new(2);
        let large = vec![0; MAX_GROUP_BYTES / 3];
        (0..5).for_each(|_| group.push(Frame::new(1, [&large, b""])));
        assert_eq!((group.frames.len(), group.ended), (2, true));
    }

    #[tokio::test]
    async fn an_old_broadcast_does_not_end_its_successor() {
        let lives = Lives::default();
        let old = lives.begin("demo", [("video".into(), 1)]);
        let new = lives.begin("demo", [("video".into(), 1)]);
        drop(old);
        assert!(lives.own("demo").is_some());
        drop(new);
        assert!(lives.own("demo").is_none());
    }
}
