//! Frames that came before there was a file: it begins when every video track has shown its parameter sets.

use std::collections::VecDeque;
use std::time::Duration;

use media::{Frame, Time, Track, TrackId};

/// A rendition whose first keyframe comes later than so long after that of another one does not hold up the others.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sound that waits for the first picture: 5 s of 20 ms packets. The oldest goes first; what was
/// captured before the picture is not recorded anyway.
const MAX_SOUND: usize = 256;

/// Frames in all: twice the patience for four renditions of 60 pictures a second with their sound. When it is full,
/// what is there begins a file.
const MAX_FRAMES: usize = 1024;

/// What waits.
pub struct Early {
    video: Vec<TrackId>,
    /// Video tracks that have shown a keyframe, and when the first of them did.
    shown: Vec<TrackId>,
    first: Option<Time>,
    frames: VecDeque<Frame>,
    late: bool,
}

impl Early {
    /// Nothing yet, of a show of these tracks.
    pub fn new(tracks: &[Track]) -> Self {
        let video = tracks.iter().filter(|track| track.is_video()).map(|track| track.id).collect();
        Self { video, shown: Vec::new(), first: None, frames: VecDeque::new(), late: false }
    }

    /// Takes a frame. Returns what cannot be used.
    pub fn push(&mut self, frame: &Frame) -> Option<Frame> {
        let track = frame.id.track;
        if self.video.contains(&track) {
            if !self.shown.contains(&track) {
                if !frame.keyframe {
                    return Some(frame.clone());
                }
                self.shown.push(track);
            }
            let first = *self.first.get_or_insert(frame.capture_time);
            self.late |= frame.capture_time >= first + PATIENCE;
        }
        self.frames.push_back(frame.clone());
        self.late |= !self.shown.is_empty() && self.frames.len() >= MAX_FRAMES;
        let only_sound = self.shown.is_empty();
        (only_sound && self.frames.len() > MAX_SOUND).then(|| self.frames.pop_front()).flatten()
    }

    /// Whether a file can begin: with all tracks, or with those that there are after some patience.
    pub fn is_ready(&self) -> bool {
        let complete = self.shown.len() == self.video.len() && !self.frames.is_empty();
        complete || self.late
    }

    /// All that waits, in the order in which it came.
    pub fn take(&mut self) -> Vec<Frame> {
        self.shown.clear();
        (self.first, self.late) = (None, false);
        self.frames.drain(..).collect()
    }
}
