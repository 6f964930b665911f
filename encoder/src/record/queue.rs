//! The queue between the encoder and the disk: it never blocks, and it is bounded.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use media::{Frame, Track, TrackId};

use super::progress::Shared;

/// 50 s of a 2.5 Mb/s show: longer than a disk may be away (spinning up, flushing, being snapshotted)
/// and come back. When it is full the newest frames are left out.
pub const QUEUE_BYTES: usize = 16 << 20;

/// The same in frames, 30 pictures and 50 packets a second, where frames are small.
pub const QUEUE_FRAMES: usize = 4096;

/// Sound waits for the next picture, and so many packets of it for nothing more, 60 ms: a thread that wakes for
/// every packet costs more than what it writes. It is what a killed process may lose of the sound, beside two pictures.
const HOLD: usize = 3;

/// What waits for the writer.
pub struct Queued {
    pub frame: Frame,
    /// Frames of its track were left out before it.
    pub after_gap: bool,
}

/// The caller's end. Dropping it ends the recording.
pub struct Queue {
    sender: SyncSender<Queued>,
    shared: Arc<Shared>,
    video: Vec<TrackId>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Tracks whose last frame was left out. Those of pictures wait for a keyframe.
    left_out: Vec<TrackId>,
    /// Sound that goes with the next picture; fewer than [`HOLD`].
    held: Vec<Frame>,
}

pub fn new(shared: Arc<Shared>, tracks: &[Track]) -> (Queue, Receiver<Queued>) {
    let (sender, frames) = sync_channel(QUEUE_FRAMES);
    let video = tracks.iter().filter(|track| track.is_video()).map(|track| track.id).collect();
    (Queue { sender, shared, video, waiting: Mutex::default() }, frames)
}

impl Queue {
    /// Takes a frame, or leaves it out and counts it.
    pub fn push(&self, frame: &Frame) {
        // Short, and shared only by the callers.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.video.is_empty() && !self.video.contains(&frame.id.track) && waiting.held.len() + 1 < HOLD {
            waiting.held.push(frame.clone());
            return;
        }
        self.release(&mut waiting);
        self.put(&mut waiting.left_out, frame);
    }

    /// What was held goes on its way.
    fn release(&self, waiting: &mut Waiting) {
        for frame in waiting.held.drain(..) {
            self.put(&mut waiting.left_out, &frame);
        }
    }

    fn put(&self, left_out: &mut Vec<TrackId>, frame: &Frame) {
        let track = frame.id.track;
        let after_gap = left_out.contains(&track);
        let waits = after_gap && !frame.keyframe && self.video.contains(&track);
        if !waits && self.try_send(frame, after_gap) {
            left_out.retain(|id| *id != track);
            if left_out.is_empty() {
                self.shared.overflow.store(false, Relaxed);
            }
            return;
        }
        if !after_gap {
            left_out.push(track);
        }
        let mut progress = self.shared.lock();
        progress.dropped += 1;
        if !self.shared.overflow.swap(true, Relaxed) {
            tracing::warn!(path = %progress.path.display(), "the disk is too slow: frames are left out of this copy");
        }
    }

    fn try_send(&self, frame: &Frame, after_gap: bool) -> bool {
        let size = frame.data.len();
        if self.shared.queued_bytes.fetch_add(size, Relaxed) + size > QUEUE_BYTES {
            self.shared.queued_bytes.fetch_sub(size, Relaxed);
            return false;
        }
        match self.sender.try_send(Queued { frame: frame.clone(), after_gap }) {
            Ok(()) => true,
            Err(error) => {
                self.shared.queued_bytes.fetch_sub(size, Relaxed);
                if let TrySendError::Disconnected(_) = error {
                    let mut progress = self.shared.lock();
                    progress.failed.get_or_insert_with(|| "the recording thread broke down".into());
                }
                false
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let mut waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.release(&mut waiting);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use media::{FrameId, Time, TrackConfig, VideoConfig};

    use super::*;

    fn queue() -> (Queue, Receiver<Queued>, Arc<Shared>) {
        let config =
            VideoConfig { codec: "avc3.42c01f".into(), width: 16, height: 16, framerate: 30, bitrate: 1 };
        let track = Track { id: TrackId(0), name: "v".into(), config: TrackConfig::Video(config) };
        let shared = Arc::new(Shared::new(Path::new("/")));
        let (queue, frames) = new(shared.clone(), &[track]);
        (queue, frames, shared)
    }

    fn frame(track: u8, frame: u32, size: usize) -> Frame {
        Frame {
            id: FrameId { track: TrackId(track), group: 0, frame },
            capture_time: Time::ZERO,
            keyframe: frame == 0 || track == 1,
            data: Bytes::from(vec![0; size]),
        }
    }

    #[test]
    fn full_by_bytes_skips_to_the_next_keyframe() {
        let (queue, frames, shared) = queue();
        queue.push(&frame(0, 0, QUEUE_BYTES - 10));
        queue.push(&frame(0, 1, 20)); // too large for what is left
        queue.push(&frame(0, 2, 1)); // would fit, but does not decode without the last one
        queue.push(&frame(1, 0, 1)); // sound decodes by itself
        assert!(shared.overflow.load(Relaxed));
        queue.push(&frame(0, 0, 5));
        queue.push(&frame(0, 1, 1));
        assert!(!shared.overflow.load(Relaxed));
        assert_eq!(shared.lock().dropped, 2);
        let found: Vec<_> =
            frames.try_iter().map(|queued| (queued.frame.data.len(), queued.after_gap)).collect();
        assert_eq!(found, [(QUEUE_BYTES - 10, false), (1, false), (5, true), (1, false)]);
        assert_eq!(shared.queued_bytes.load(Relaxed), QUEUE_BYTES - 3);
    }

    #[test]
    fn sound_waits_for_the_next_picture_but_not_for_long() {
        let (queue, frames, _) = queue();
        let come = |frames: &Receiver<Queued>| -> Vec<_> {
            frames.try_iter().map(|queued| (queued.frame.id.track.0, queued.frame.id.frame)).collect()
        };
        queue.push(&frame(1, 0, 1));
        queue.push(&frame(1, 1, 1));
        assert_eq!(come(&frames), []);
        queue.push(&frame(0, 0, 1));
        assert_eq!(come(&frames), [(1, 0), (1, 1), (0, 0)]);
        for n in 2..HOLD as u32 + 2 {
            queue.push(&frame(1, n, 1));
        }
        assert_eq!(come(&frames).len(), HOLD);
        queue.push(&frame(1, 9, 1));
        drop(queue);
        assert_eq!(come(&frames), [(1, 9)], "the end of the show");
    }

    #[test]
    fn full_by_frames() {
        let (queue, frames, shared) = queue();
        for _ in 0..QUEUE_FRAMES + 3 {
            queue.push(&frame(0, 0, 1));
        }
        assert_eq!(shared.lock().dropped, 3);
        assert!(shared.overflow.load(Relaxed));
        assert_eq!(frames.try_iter().count(), QUEUE_FRAMES);
        queue.push(&frame(0, 0, 1));
        assert!(!shared.overflow.load(Relaxed));
        drop(frames);
        queue.push(&frame(0, 0, 1));
        assert!(shared.lock().failed.is_some());
    }
}
