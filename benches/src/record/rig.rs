//! A real encoder and two recorders, and who notes what went through them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use encoder::record::RecordStatus;
use encoder::tap::{Tap, TapHandle, TapStatus};
use encoder::{Counters, Encoder, FrameSink};
use media::{Frame, FrameId, Time, Track};
use relay::clock::Clock;

/// What the encoder made.
#[derive(Debug, Default)]
pub struct Seen {
    /// Capture time of every frame.
    frames: Mutex<BTreeMap<FrameId, Time>>,
    /// The longest that the encoder was held up by one frame, in microseconds.
    longest: AtomicU64,
}

impl Seen {
    /// What was encoded so far.
    pub fn frames(&self) -> BTreeMap<FrameId, Time> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The longest that one frame took on its way to recorders and network.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.longest.load(Relaxed))
    }
}

/// Notes a frame before anybody else gets it.
struct Witness {
    tap: Tap,
    seen: Arc<Seen>,
}

impl FrameSink for Witness {
    fn tracks(&mut self, tracks: &[Track]) {
        self.tap.tracks(tracks);
    }

    fn frame(&mut self, frame: Frame, encoded_at: Time) {
        let mut frames = self.seen.frames.lock().unwrap_or_else(PoisonError::into_inner);
        frames.insert(frame.id, frame.capture_time);
        drop(frames);
        let begun = Instant::now();
        self.tap.frame(frame, encoded_at);
        self.seen.longest.fetch_max(begun.elapsed().as_micros() as u64, Relaxed);
    }
}

/// The test picture at 720p30, recorded into some folders; the network's end of the tap is drained.
pub struct Rig {
    encoder: Encoder,
    tap: TapStatus,
    /// What the encoder made.
    pub seen: Arc<Seen>,
    drained: Arc<AtomicBool>,
    drain: JoinHandle<()>,
}

impl Rig {
    /// Starts it.
    pub fn start(dirs: Vec<PathBuf>) -> anyhow::Result<Self> {
        let (tap, handle) = Tap::new(dirs, "disk".into(), Arc::new(|| ()));
        let (tap_status, seen) = (handle.status(), Arc::new(Seen::default()));
        let clock = Clock::start();
        let witness = Witness { tap, seen: seen.clone() };
        let encoder =
            Encoder::start(encoder::Settings::default(), Arc::new(move || clock.now()), Box::new(witness))?;
        let drained = Arc::new(AtomicBool::new(false));
        let stop = drained.clone();
        let drain = std::thread::spawn(move || take_frames(handle, &stop));
        Ok(Self { encoder, tap: tap_status, seen, drained, drain })
    }

    /// How each copy is doing.
    pub fn recordings(&self) -> Vec<RecordStatus> {
        self.tap.recordings()
    }

    /// Ends the show. Returns how each copy ended, what went through the encoder, and pictures and packets that the
    /// network never saw.
    pub fn stop(self) -> (Vec<RecordStatus>, Counters, u64) {
        let counters = self.encoder.counters_reader();
        self.encoder.stop();
        self.drained.store(true, Relaxed);
        let _ = self.drain.join();
        let taken = self.tap.counters();
        (self.tap.recordings(), counters(), taken.dropped_video + taken.dropped_audio)
    }
}

fn take_frames(mut handle: TapHandle, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        while handle.pop().is_some() {}
        std::thread::sleep(Duration::from_millis(5));
    }
}
