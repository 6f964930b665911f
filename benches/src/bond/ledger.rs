//! The books of a run: which frames are under way, and what became of each.

use std::collections::VecDeque;
use std::time::Duration;

use bond::Delivery;
use media::{Frame, FrameId, Time, TrackId};

use super::media::{AUDIO, Coming, Media, VIDEO, place};
use super::plan::{Plan, START};
use super::tally::{Fate, Kind};

/// A frame that was sent and whose fate is not known.
struct UnderWay {
    coming: Coming,
    bytes: usize,
    /// Its content, where it is compared.
    frame: Option<Frame>,
    given_up: bool,
}

/// The frames of one track that are under way, in order.
#[derive(Default)]
struct Track {
    frames: VecDeque<UnderWay>,
    /// The first one's place in the track.
    first: u64,
    /// Something was handed over or reported lost: from here on the receiver accounts for every frame.
    begun: bool,
}

/// What came of the frames so far. It remembers only those under way, and whatever the plan asks for.
pub struct Ledger {
    media: Media,
    deadline: Duration,
    keep_fates: bool,
    tracks: [Track; 2],
    /// Video frames.
    pub video: Kind,
    /// Audio packets.
    pub audio: Kind,
    /// Each frame, where the plan keeps them.
    pub fates: Vec<Fate>,
}

impl Ledger {
    /// Of no frame yet.
    pub fn new(plan: &Plan) -> Self {
        Self {
            media: plan.media,
            deadline: plan.deadline,
            keep_fates: plan.keep_fates,
            tracks: Default::default(),
            video: Kind::default(),
            audio: Kind::default(),
            fates: Vec::new(),
        }
    }

    /// A frame was handed to the sender; its content is given where it is to be compared.
    pub fn sent(&mut self, coming: Coming, bytes: usize, frame: Option<Frame>) {
        let frame = UnderWay { coming, bytes, frame, given_up: false };
        self.track(coming.id.track).frames.push_back(frame);
    }

    /// Frames whose fate is not known.
    pub fn under_way(&self) -> usize {
        self.tracks.iter().map(|track| track.frames.len()).sum()
    }

    /// The receiver handed something over, at `now` by the sender's clock.
    ///
    /// # Panics
    ///
    /// Where frames come twice, out of order, spoilt, after they were reported lost, or are passed over
    /// without a word.
    pub fn handed_over(&mut self, delivery: &Delivery, now: Time) {
        match delivery {
            Delivery::Frame { frame, .. } => self.came(frame, now),
            Delivery::Lost { track, group, frames } => {
                let id = |group, frame| FrameId { track: *track, group, frame };
                let from = place(&self.media, id(*group, frames.start));
                let until = match frames.end {
                    u32::MAX => place(&self.media, id(group + 1, 0)),
                    end => place(&self.media, id(*group, end)),
                };
                let track = self.track(*track);
                track.begun = true;
                assert!(from >= track.first, "{group}.{frames:?} reported lost after later ones came");
                let from = (from - track.first) as usize;
                let until = (until.saturating_sub(track.first) as usize).min(track.frames.len());
                track.frames.range_mut(from.min(until)..until).for_each(|frame| frame.given_up = true);
            }
            // Nobody sends these here.
            Delivery::Message(_) | Delivery::Object(_) => {}
        }
    }

    /// The run is over: what has not come is lost, perhaps without the receiver ever knowing of it.
    pub fn close(&mut self) {
        for track in [VIDEO, AUDIO] {
            for frame in std::mem::take(&mut self.track(track).frames) {
                self.settle(&frame, None);
            }
        }
        self.fates.sort_by_key(|fate| (fate.captured, fate.frame));
    }

    fn came(&mut self, frame: &Frame, now: Time) {
        let place = place(&self.media, frame.id);
        assert!(place >= self.track(frame.id.track).first, "{:?} comes twice or out of order", frame.id);
        self.settle_until(frame.id.track, place);
        let track = self.track(frame.id.track);
        track.begun = true;
        track.first += 1;
        let was = track.frames.pop_front().unwrap_or_else(|| panic!("nobody sent {:?}", frame.id));
        assert!(!was.given_up, "{:?} was reported lost", frame.id);
        assert!(was.frame.as_ref().is_none_or(|pushed| pushed == frame), "{:?} is spoilt", frame.id);
        self.settle(&was, Some(now.saturating_since(START + was.coming.captured)));
    }

    /// What has not come before the frame of this place is lost, and must have been reported.
    fn settle_until(&mut self, track: TrackId, place: u64) {
        while self.track(track).first < place
            && let Some(lost) = self.track(track).frames.pop_front()
        {
            let track = self.track(track);
            track.first += 1;
            let id = lost.coming.id;
            assert!(lost.given_up || !track.begun, "{id:?} is neither handed over nor reported lost");
            self.settle(&lost, None);
        }
    }

    fn settle(&mut self, frame: &UnderWay, latency: Option<Duration>) {
        let id = frame.coming.id;
        let kind = if id.track == VIDEO { &mut self.video } else { &mut self.audio };
        kind.add(latency, frame.bytes, self.deadline);
        if self.keep_fates {
            self.fates.push(Fate { frame: id, captured: START + frame.coming.captured, latency });
        }
    }

    fn track(&mut self, track: TrackId) -> &mut Track {
        &mut self.tracks[usize::from(track.0)]
    }
}
