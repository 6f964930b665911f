//! What is live: the newest groups of each track, as they go onto the wire, shared by all viewers.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use media::{Time, varint};
use tokio::sync::Notify;

use super::pump::{self, Join};
use super::lite;

/// Groups of a track that are held: the one under way, for those who come, and the one before it, for those who
/// are a little late.
pub(super) const GROUPS: usize = 2;

/// A frame of a group: its time as the difference to the one before it, its length, and the frame as
/// [`media::container`] has it.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    bytes: Bytes,
    /// Of these the time takes so many.
    time: u8,
}

impl Frame {
    fn new(previous: Time, capture_time: Time, payload: &[u8]) -> Self {
        let (micros, before) = (capture_time.as_micros() as i64, previous.as_micros() as i64);
        let delta = lite::zigzag(micros.wrapping_sub(before));
        let size = varint::len(capture_time.as_micros()) + payload.len();
        let head = varint::len(delta) + varint::len(size as u64);
        let mut bytes = BytesMut::with_capacity(head + size);
        varint::put(delta, &mut bytes);
        varint::put(size as u64, &mut bytes);
        varint::put(capture_time.as_micros(), &mut bytes);
        bytes.put_slice(payload);
        Self { bytes: bytes.freeze(), time: varint::len(delta) as u8 }
    }

    /// As it goes onto a stream, of a version whose frames have times or have none.
    pub fn on_the_wire(&self, timed: bool) -> Bytes {
        if timed { self.bytes.clone() } else { self.bytes.slice(usize::from(self.time)..) }
    }

    /// As [`media::container::encode`] makes it.
    pub fn contained(&self) -> Bytes {
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
}

/// One track.
#[derive(Debug)]
pub(super) struct Track {
    name: String,
    groups: Mutex<VecDeque<Group>>,
}

impl Track {
    pub fn groups(&self) -> MutexGuard<'_, VecDeque<Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Viewers of one broadcast that one task serves.
#[derive(Debug, Default)]
pub(super) struct Shard {
    pub wake: Notify,
    pub joining: Mutex<Vec<Join>>,
    /// Subscriptions.
    pub here: AtomicUsize,
}

/// One broadcast.
#[derive(Debug)]
pub(super) struct Live {
    pub tracks: Vec<Track>,
    shards: Vec<Arc<Shard>>,
    ended: AtomicBool,
}

impl Live {
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The number of a track.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.tracks.iter().position(|track| track.name == name)
    }

    /// Serves a subscription from now on. `viewer`: all of one viewer are served by the same task.
    pub fn join(&self, viewer: usize, join: Join) {
        if let Some(shard) = self.shards.get(viewer % self.shards.len().max(1)) {
            shard.here.fetch_add(1, Ordering::Relaxed);
            shard.joining.lock().unwrap_or_else(PoisonError::into_inner).push(join);
            shard.wake.notify_one();
        }
    }

    /// A viewer has gone, or wants something else.
    pub fn look(&self, viewer: usize) {
        if let Some(shard) = self.shards.get(viewer % self.shards.len().max(1)) {
            shard.wake.notify_one();
        }
    }

    fn wake(&self) {
        for shard in self.shards.iter().filter(|shard| shard.here.load(Ordering::Relaxed) > 0) {
            shard.wake.notify_one();
        }
    }
}

/// Where frames are written. Dropped, it ends the broadcast.
#[derive(Debug)]
pub(crate) struct Writer {
    live: Arc<Live>,
    name: String,
    all: Lives,
    /// Of each track the time of the last frame of the group under way.
    times: Vec<Time>,
}

impl Writer {
    /// A group begins; the one before it ends.
    pub fn begin(&mut self, track: usize, sequence: u64) {
        let (Some(time), Some(track)) = (self.times.get_mut(track), self.live.tracks.get(track)) else { return };
        *time = Time::ZERO;
        let mut groups = track.groups();
        if let Some(last) = groups.back_mut() {
            last.ended = true;
        }
        while groups.len() >= GROUPS {
            groups.pop_front();
        }
        groups.push_back(Group { sequence, frames: Vec::new(), ended: false });
    }

    /// Appends a frame to the group under way. Returns it as [`media::container::encode`] makes it.
    pub fn write(&mut self, track: usize, capture_time: Time, payload: &[u8]) -> Bytes {
        let previous = self.times.get_mut(track).map(|time| std::mem::replace(time, capture_time));
        let frame = Frame::new(previous.unwrap_or(Time::ZERO), capture_time, payload);
        let contained = frame.contained();
        if let Some(track) = self.live.tracks.get(track)
            && let Some(group) = track.groups().back_mut()
        {
            group.frames.push(frame);
        }
        self.live.wake();
        contained
    }

    /// The group under way has ended.
    pub fn end(&self, track: usize) {
        if let Some(track) = self.live.tracks.get(track)
            && let Some(group) = track.groups().back_mut()
        {
            group.ended = true;
        }
        self.live.wake();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        for track in 0..self.live.tracks.len() {
            self.end(track);
        }
        self.live.ended.store(true, Ordering::Release);
        // Those without a viewer end, too.
        self.live.shards.iter().for_each(|shard| shard.wake.notify_one());
        let mut all = self.all.lock();
        if all.get(&self.name).is_some_and(|live| Arc::ptr_eq(live, &self.live)) {
            all.remove(&self.name);
        }
    }
}

/// All broadcasts that are live, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lives(Arc<Mutex<HashMap<String, Arc<Live>>>>);

impl Lives {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Live>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Live>> {
        self.lock().get(name).cloned()
    }

    /// Begins a broadcast with these tracks, in place of an older one of the same name; its viewers are served by a
    /// task for each of the runtime's threads.
    pub fn begin(&self, name: &str, tracks: impl IntoIterator<Item = String>) -> Writer {
        let tracks: Vec<_> =
            tracks.into_iter().map(|name| Track { name, groups: Mutex::default() }).collect();
        let threads = tokio::runtime::Handle::current().metrics().num_workers();
        let shards = (0..threads).map(|_| Arc::new(Shard::default())).collect();
        let times = vec![Time::ZERO; tracks.len()];
        let live = Arc::new(Live { tracks, shards, ended: AtomicBool::new(false) });
        for shard in &live.shards {
            tokio::spawn(pump::run(live.clone(), shard.clone()));
        }
        self.lock().insert(name.to_owned(), live.clone());
        Writer { live, name: name.to_owned(), all: self.clone(), times }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_is_the_same_in_all_its_forms() {
        let lives = Lives::default();
        let mut writer = lives.begin("demo", ["video".into()]);
        writer.begin(0, 5);
        let contained = writer.write(0, Time::from_micros(1_000_000), b"abc");
        assert_eq!(contained, media::container::encode(Time::from_micros(1_000_000), b"abc"));
        writer.write(0, Time::from_micros(999_999), b"de");
        let live = lives.get("demo").unwrap();
        let frames = live.tracks[0].groups()[0].frames.clone();
        // The first counts from zero, the next from the first.
        let first = [&[0x80, 0x1e, 0x84, 0x80, 7][..], &contained].concat();
        assert_eq!(frames[0].on_the_wire(true), first);
        assert_eq!(frames[0].on_the_wire(false), first[4..]);
        assert_eq!(frames[1].on_the_wire(true)[..2], [1, 6]);
    }

    #[tokio::test]
    async fn no_more_than_the_newest_groups_are_held() {
        let lives = Lives::default();
        let mut writer = lives.begin("demo", ["video".into()]);
        for sequence in 0..10 {
            writer.begin(0, sequence);
            writer.write(0, Time::from_millis(sequence), b"x");
        }
        let live = lives.get("demo").unwrap();
        let held: Vec<_> =
            live.tracks[0].groups().iter().map(|group| (group.sequence, group.ended)).collect();
        assert_eq!(held, [(8, true), (9, false)]);
    }

    #[tokio::test]
    async fn an_old_broadcast_does_not_end_its_successor() {
        let lives = Lives::default();
        let old = lives.begin("demo", ["video".into()]);
        let new = lives.begin("demo", ["video".into()]);
        drop(old);
        assert!(lives.get("demo").is_some());
        drop(new);
        assert!(lives.get("demo").is_none());
    }
}
