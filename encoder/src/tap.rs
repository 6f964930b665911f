//! The tap: gives every encoded frame to the recorders and to the network task, and lets neither
//! hold up the other or the encoder.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use media::{Frame, FrameId, Time, Track};
use ringbuf::traits::{Consumer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};

use crate::record::{GroupLog, RecordStatus};
use crate::{AUDIO_TRACK, FrameSink, MASTER_TRACK};
use copy::Copy;

mod copy;

/// Frames that wait for the network task: about 6 s of 30 pictures and 50 audio packets a second.
/// A task that is away for longer has lost the live edge anyway. When the ring is full the newest
/// frame is dropped and counted.
pub const RING_FRAMES: usize = 512;

/// What the encoder writes into: a [`FrameSink`]. Dropping it ends the recordings.
pub struct Tap {
    copies: Vec<Arc<Copy>>,
    ring: HeapProd<(Frame, Time)>,
    shared: Arc<Shared>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

/// What the network task reads from. [`TapHandle::status`] is for those who only want to look.
pub struct TapHandle {
    ring: HeapCons<(Frame, Time)>,
    status: TapStatus,
}

/// Looks at a tap from any thread, without taking frames.
#[derive(Clone)]
pub struct TapStatus {
    copies: Vec<Arc<Copy>>,
    shared: Arc<Shared>,
}

/// Frames that went through the tap. All start at zero and only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapCounters {
    /// Video frames that came from the encoder, of all renditions to be sent.
    pub video: u64,
    /// Audio packets that came from the encoder.
    pub audio: u64,
    /// Video frames that the network task never saw, because the ring was full.
    pub dropped_video: u64,
    /// Audio packets that the network task never saw, because the ring was full.
    pub dropped_audio: u64,
}

#[derive(Default)]
struct Shared {
    tracks: OnceLock<Vec<Track>>,
    video: AtomicU64,
    audio: AtomicU64,
    dropped_video: AtomicU64,
    dropped_audio: AtomicU64,
}

impl Tap {
    /// A tap that records into each of `record_dirs` and calls `wake` after everything that it puts
    /// into the ring, from the encoder's threads; `wake` must not block.
    pub fn new(
        record_dirs: Vec<PathBuf>,
        broadcast: String,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> (Tap, TapHandle) {
        let copies: Vec<_> =
            record_dirs.into_iter().map(|dir| Arc::new(Copy::new(dir, &broadcast))).collect();
        let (producer, consumer) = HeapRb::new(RING_FRAMES).split();
        let shared = Arc::new(Shared::default());
        let status = TapStatus { copies: copies.clone(), shared: shared.clone() };
        (Tap { copies, ring: producer, shared, wake }, TapHandle { ring: consumer, status })
    }
}

impl FrameSink for Tap {
    fn tracks(&mut self, tracks: &[Track]) {
        let sent = tracks.iter().filter(|track| track.id != MASTER_TRACK).cloned().collect();
        if self.shared.tracks.set(sent).is_err() {
            return; // Told twice: the first answer stands.
        }
        // The best picture first: a player that knows nothing of us takes that.
        let mut recorded = tracks.to_vec();
        recorded.sort_by_key(|track| track.id != MASTER_TRACK);
        for copy in &self.copies {
            copy.start(&recorded);
        }
        (self.wake)();
    }

    fn frame(&mut self, frame: Frame, encoded_at: Time) {
        // `RUST_LOG=frames=trace` tells what was encoded: `roadie-bench record-kill` compares it with the disks.
        let FrameId { track, group, frame: number } = frame.id;
        tracing::trace!(target: "frames", "{} {group} {number}", track.0);
        for copy in &self.copies {
            copy.write(&frame);
        }
        if frame.id.track == MASTER_TRACK {
            return;
        }
        let shared = &self.shared;
        let is_audio = frame.id.track == AUDIO_TRACK;
        let (seen, dropped) = match is_audio {
            false => (&shared.video, &shared.dropped_video),
            true => (&shared.audio, &shared.dropped_audio),
        };
        seen.fetch_add(1, Relaxed);
        if self.ring.try_push((frame, encoded_at)).is_err() && dropped.fetch_add(1, Relaxed) == 0 {
            tracing::warn!(is_audio, "the network task is too slow: frames are dropped from live");
        }
        (self.wake)();
    }
}

impl Drop for Tap {
    /// Ends the recordings, all at the same time, and waits a bounded time for them.
    fn drop(&mut self) {
        for copy in &self.copies {
            copy.finish();
        }
        let deadline = Instant::now() + copy::FINISH_LIMIT;
        for copy in &self.copies {
            copy.wait(deadline);
        }
    }
}

impl TapHandle {
    /// The tracks to send, once the encoder knows them. (A master is recorded only.)
    pub fn tracks(&self) -> Option<Vec<Track>> {
        self.status.tracks()
    }

    /// The oldest frame not yet taken, and when it was encoded. Never blocks.
    pub fn pop(&mut self) -> Option<(Frame, Time)> {
        self.ring.try_pop()
    }

    /// How each copy of the recording is doing, in the order of the directories.
    pub fn recordings(&self) -> Vec<RecordStatus> {
        self.status.recordings()
    }

    /// Frames that went through the tap.
    pub fn counters(&self) -> TapCounters {
        self.status.counters()
    }

    /// For those who only want to look.
    pub fn status(&self) -> TapStatus {
        self.status.clone()
    }
}

impl TapStatus {
    /// The tracks to send, once the encoder knows them. (A master is recorded only.)
    pub fn tracks(&self) -> Option<Vec<Track>> {
        self.shared.tracks.get().cloned()
    }

    /// How each copy of the recording is doing, in the order of the directories.
    pub fn recordings(&self) -> Vec<RecordStatus> {
        self.copies.iter().map(|copy| copy.status()).collect()
    }

    /// What each copy holds, where it has begun.
    pub(crate) fn group_logs(&self) -> Vec<Option<Arc<GroupLog>>> {
        self.copies.iter().map(|copy| copy.groups()).collect()
    }

    /// Frames that went through the tap.
    pub fn counters(&self) -> TapCounters {
        let shared = &self.shared;
        TapCounters {
            video: shared.video.load(Relaxed),
            audio: shared.audio.load(Relaxed),
            dropped_video: shared.dropped_video.load(Relaxed),
            dropped_audio: shared.dropped_audio.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use bytes::Bytes;
    use media::{AudioConfig, TrackConfig, TrackId};

    use super::*;
    use crate::VIDEO_TRACK;
    use crate::record::RecordState;

    fn frame(track: TrackId, frame: u32) -> Frame {
        Frame {
            id: FrameId { track, group: 4, frame },
            capture_time: Time::from_millis(frame.into()),
            keyframe: frame == 0,
            data: Bytes::from_static(&[1, 2, 3]),
        }
    }

    fn audio_track() -> Track {
        let config = AudioConfig { codec: "opus".into(), sample_rate: 48_000, channels: 2, bitrate: 96_000 };
        Track { id: AUDIO_TRACK, name: "audio".into(), config: TrackConfig::Audio(config) }
    }

    fn assert_send<T: Send>() {}
    fn assert_sync<T: Sync>() {}

    #[test]
    fn the_handle_may_move_to_the_network_task() {
        assert_send::<TapHandle>();
        assert_send::<Tap>();
        assert_sync::<TapStatus>();
    }

    #[test]
    fn frames_come_out_in_order_and_wake_the_reader() {
        let woken = Arc::new(AtomicUsize::new(0));
        let wake = {
            let woken = woken.clone();
            Arc::new(move || {
                woken.fetch_add(1, Relaxed);
            })
        };
        let (mut tap, mut handle) = Tap::new(Vec::new(), "demo".into(), wake);
        assert_eq!(handle.tracks(), None);
        tap.tracks(&[audio_track()]);
        tap.frame(frame(VIDEO_TRACK, 0), Time::from_millis(5));
        tap.frame(frame(AUDIO_TRACK, 0), Time::from_millis(6));
        assert_eq!(woken.load(Relaxed), 3);
        assert_eq!(handle.tracks(), Some(vec![audio_track()]));
        assert_eq!(handle.pop(), Some((frame(VIDEO_TRACK, 0), Time::from_millis(5))));
        assert_eq!(handle.pop(), Some((frame(AUDIO_TRACK, 0), Time::from_millis(6))));
        assert_eq!(handle.pop(), None);
    }

    #[test]
    fn a_master_is_recorded_and_not_sent() {
        let disk = tempfile::tempdir().expect("a temporary directory");
        let (mut tap, mut handle) = Tap::new(vec![disk.path().to_owned()], "demo".into(), Arc::new(|| ()));
        let master = Track { id: MASTER_TRACK, name: "master".into(), ..audio_track() };
        tap.tracks(&[audio_track(), master]);
        assert_eq!(handle.tracks(), Some(vec![audio_track()]));
        tap.frame(frame(MASTER_TRACK, 0), Time::ZERO);
        tap.frame(frame(AUDIO_TRACK, 0), Time::ZERO);
        assert_eq!(handle.pop().map(|(frame, _)| frame.id.track), Some(AUDIO_TRACK));
        assert_eq!(handle.pop(), None);
        drop(tap);
        let copy = &handle.recordings()[0];
        assert_eq!(copy.state, RecordState::Recording, "{copy:?}");
        let file = std::fs::read(&copy.path).expect("a file");
        let mut reader = media::cmaf::Reader::new();
        reader.push(&file);
        let fragments = std::iter::from_fn(|| reader.poll())
            .filter(|item| matches!(item, media::cmaf::Item::Fragment(_)))
            .count();
        assert_eq!(fragments, 2);
    }

    #[test]
    fn a_full_ring_drops_the_newest_and_counts_it() {
        let (mut tap, mut handle) = Tap::new(Vec::new(), "demo".into(), Arc::new(|| ()));
        for n in 0..RING_FRAMES as u32 + 3 {
            tap.frame(frame(VIDEO_TRACK, n), Time::ZERO);
        }
        tap.frame(frame(AUDIO_TRACK, 0), Time::ZERO);
        let counters = handle.counters();
        assert_eq!((counters.video, counters.dropped_video), (RING_FRAMES as u64 + 3, 3));
        assert_eq!((counters.audio, counters.dropped_audio), (1, 1));
        assert_eq!(handle.pop().map(|(frame, _)| frame.id.frame), Some(0));
    }

    #[test]
    fn a_recorder_that_cannot_start_stops_neither_live_nor_the_other_copy() {
        let good = tempfile::tempdir().expect("a temporary directory");
        let bad = good.path().join("a-file-is-no-directory");
        std::fs::write(&bad, b"x").expect("a file");
        let dirs = vec![bad.clone(), good.path().join("copy")];
        let (mut tap, mut handle) = Tap::new(dirs, "demo".into(), Arc::new(|| ()));
        assert_eq!(handle.recordings().len(), 2);
        tap.tracks(&[audio_track()]);
        tap.frame(frame(AUDIO_TRACK, 0), Time::ZERO);
        drop(tap);
        assert!(handle.pop().is_some());
        let recordings = handle.recordings();
        assert!(matches!(&recordings[0].state, RecordState::Failed { .. }), "{recordings:?}");
        assert!(matches!(&recordings[1].state, RecordState::Recording), "{recordings:?}");
    }
}
