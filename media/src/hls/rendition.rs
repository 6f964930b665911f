//! One track: its frames become parts, its parts segments, and the oldest segments go.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::reload::Point;
use super::segment::{Media, Segment};
use super::{
    Answer, HOLE, KEPT, LISTED, LONGEST_SEGMENT, MAX_PART, MAX_PARTS, MAX_SEGMENT_BYTES, MAX_SEGMENTS, PART,
    SLOT, TARGET,
};
use crate::cmaf::{Chunker, CmafError};
use crate::h264::{ParameterSets, Sps};
use crate::{Frame, Time, Track, TrackConfig};

/// The part of a [`SLOT`] that the first slot of a show lacks: groups of one or two seconds begin in the middle of a slot
/// and not at its border, where the jitter of a camera would put them into the one or the other.
const FIRST_SLOT_LACKS: u64 = 500_000;

/// `_HLS_part` may be so many parts ahead (the draft's "advance part limit": three seconds of parts).
const MAX_AHEAD: usize = 10;

/// The last discontinuity of the show: from this time on it counts, and every rendition has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    pub number: u64,
    /// Microseconds from the zero of the timeline.
    pub from: u64,
}

/// A track as HLS.
#[derive(Debug)]
pub struct Rendition {
    track: Track,
    chunker: Option<Chunker>,
    /// Finished ones and gaps, oldest first.
    segments: VecDeque<Segment>,
    /// The one under way; it has no part until the first is whole.
    open: Option<Segment>,
    inits: VecDeque<(u64, Bytes)>,
    next_sequence: u64,
    /// Of the show's discontinuities, those that this rendition has come to.
    epoch: u64,
    /// Where the last frame ends.
    end: u64,
    bytes: usize,
}

impl Rendition {
    pub fn new(track: Track) -> Self {
        Self {
            track,
            chunker: None,
            segments: VecDeque::new(),
            open: None,
            inits: VecDeque::new(),
            next_sequence: 0,
            epoch: 0,
            end: 0,
            bytes: 0,
        }
    }

    pub fn track(&self) -> &Track {
        &self.track
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The next segment has this number, or a higher one.
    pub fn number_from(&mut self, sequence: u64) {
        self.next_sequence = self.next_sequence.max(sequence);
    }

    /// Takes a frame. Returns whether the playlist has changed.
    pub fn frame(&mut self, broadcast: &str, frame: &Frame, zero: Time, epoch: &mut Epoch) -> bool {
        let Ok(due) = u64::try_from(frame.capture_time.micros_since(zero)) else { return false };
        let begins = frame.keyframe || !self.track.is_video();
        let shape = begins.then(|| self.shape(frame)).flatten();
        let due = match &self.chunker {
            Some(_) => due.max(self.end_of_last()),
            // Nothing can be decoded before the first keyframe, nor described before its parameter sets.
            None if shape.is_none() => return false,
            None => due,
        };
        if shape.is_some() && self.chunker.is_some() && self.epoch == epoch.number {
            *epoch = Epoch { number: epoch.number + 1, from: due };
        }
        let discontinuity = begins && self.epoch < epoch.number && due >= epoch.from;
        let hole = self.chunker.is_some() && due > self.end + micros(HOLE);
        let after_gap = self.segments.back().is_some_and(|segment| segment.media == Media::Gap);
        let segment_ends = self.open.as_ref().is_some_and(|open| {
            discontinuity
                || hole
                || begins
                    && slot(due) != slot(open.from)
                    && (!after_gap || due - open.from.min(due) >= micros(SLOT))
                || due - open.from.min(due) >= micros(LONGEST_SEGMENT)
                || open.parts.len() >= MAX_PARTS
                || open.bytes() >= MAX_SEGMENT_BYTES
        });
        let mut news = false;
        if segment_ends || self.part_ends(frame, due) {
            news |= self.end_part((!hole).then_some(due));
        }
        if segment_ends {
            self.end_segment();
        }
        if hole {
            self.gap(self.end, due, zero);
        }
        if discontinuity {
            self.epoch = epoch.number;
        }
        if let Some(shape) = shape
            && self.describe(broadcast, shape, zero, due).is_err()
        {
            // A decoder that is set up for something else is worse than none.
            self.chunker = None;
            return news;
        }
        self.push(frame, due, zero);
        news
    }

    /// What is under way ends here, and what follows has nothing to do with it.
    pub fn interrupt(&mut self) {
        self.end_part(None);
        self.end_segment();
        (self.chunker, self.end) = (None, 0);
    }

    /// Drops the oldest segment. Returns whether there was one.
    pub fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.segments.pop_front() else { return false };
        self.bytes -= oldest.bytes();
        let oldest = self.segments.front().or(self.open.as_ref()).map(|segment| segment.init);
        if let Some(needed) = oldest {
            self.inits.retain(|(number, _)| *number >= needed);
        }
        true
    }

    /// What the decoder must be set up for from this frame on, where that differs from what it is set up for.
    fn shape(&self, frame: &Frame) -> Option<Option<ParameterSets>> {
        if !self.track.config.is_h264() {
            return self.chunker.is_none().then_some(None);
        }
        let sets = ParameterSets::of(&frame.data)?;
        let known = self.chunker.as_ref().and_then(Chunker::parameter_sets);
        (known != Some(&sets)).then_some(Some(sets))
    }

    fn describe(
        &mut self,
        broadcast: &str,
        sets: Option<ParameterSets>,
        zero: Time,
        due: u64,
    ) -> Result<(), CmafError> {
        let mut track = self.track.clone();
        let sps = sets.as_ref().and_then(|sets| Sps::parse(sets.sps()).ok());
        if let (TrackConfig::Video(config), Some(sps)) = (&mut track.config, sps) {
            (config.width, config.height) = (sps.width, sps.height);
        }
        let (mut chunker, init) = Chunker::new(broadcast, &track, sets, zero)?;
        chunker.not_before(due);
        let number = self.inits.back().map_or(0, |(number, _)| number + 1);
        // A publisher that changes with every frame of its own short segments is held by this as well.
        if self.inits.len() >= MAX_SEGMENTS {
            self.drop_oldest();
        }
        self.inits.push_back((number, init));
        self.chunker = Some(chunker);
        Ok(())
    }

    fn end_of_last(&self) -> u64 {
        self.chunker.as_ref().map_or(0, Chunker::next_decode_time)
    }

    fn part_ends(&self, frame: &Frame, due: u64) -> bool {
        let Some(chunker) = &self.chunker else { return false };
        let Some(from) = chunker.from() else { return false };
        let (frames, bytes) = chunker.collected();
        due + micros(chunker.lasts(frame)) > from + micros(PART)
            || frames >= MAX_PART.0
            || bytes + frame.data.len() > MAX_PART.1
    }

    /// Returns whether there was one.
    fn end_part(&mut self, end: Option<u64>) -> bool {
        let chunk = self.chunker.as_mut().and_then(|chunker| chunker.cut(end));
        let (Some(chunk), Some(open)) = (chunk, &mut self.open) else { return false };
        self.end = chunk.to;
        self.bytes += chunk.bytes.len();
        open.push(chunk);
        true
    }

    fn end_segment(&mut self) {
        let Some(mut segment) = self.open.take().filter(|segment| !segment.parts.is_empty()) else { return };
        segment.close();
        self.next_sequence = segment.sequence + 1;
        self.add(segment);
    }

    fn add(&mut self, segment: Segment) {
        let (number, kept_from) = (self.segments.len(), segment.date.saturating_sub(micros(KEPT)));
        self.segments.push_back(segment);
        let is_old = |segment: &Segment| segment.date + segment.micros() < kept_from;
        if number >= MAX_SEGMENTS {
            self.drop_oldest();
        }
        while self.segments.len() > 1 && self.segments.front().is_some_and(is_old) {
            self.drop_oldest();
        }
    }

    /// Segments in place of what is lost, as many as [`KEPT`] holds; the numbers of the others are left out.
    fn gap(&mut self, from: u64, to: u64, zero: Time) {
        let count = (to - from).div_ceil(micros(TARGET));
        let length = (to - from).div_ceil(count);
        let shown = KEPT.as_secs() / TARGET.as_secs() + 1;
        if count > shown {
            // The list goes on with the last of them: all before is too old.
            while self.drop_oldest() {}
        }
        let init = self.inits.back().map_or(0, |(number, _)| *number);
        for n in count.saturating_sub(shown)..count {
            let from = from + n * length;
            let to = to.min(from + length);
            let segment = Segment {
                sequence: self.next_sequence + n,
                date: zero.as_micros() + from,
                from,
                to,
                init,
                epoch: self.epoch,
                parts: Segment::lost(from, to, micros(PART)),
                media: Media::Gap,
            };
            self.add(segment);
        }
        self.next_sequence += count;
    }

    fn push(&mut self, frame: &Frame, due: u64, zero: Time) {
        let init = self.inits.back().map_or(0, |(number, _)| *number);
        let Some(chunker) = &mut self.chunker else { return };
        // A frame that cannot be stored (too large) is a frame less.
        if chunker.push(frame).is_err() {
            return;
        }
        self.end = chunker.end().unwrap_or(due);
        self.open.get_or_insert_with(|| Segment {
            sequence: self.next_sequence,
            date: zero.as_micros() + due,
            from: due,
            to: due,
            init,
            epoch: self.epoch,
            parts: Vec::new(),
            media: Media::Open,
        });
    }

    /// What a playlist lists: finished segments, and then the one under way where it has parts.
    pub fn list(&self) -> impl Iterator<Item = &Segment> {
        let end = self.segments.back().map_or(0, |segment| segment.date + segment.micros());
        let old = micros(LISTED);
        let skip = self.segments.partition_point(|segment| segment.date + segment.micros() + old < end);
        self.segments.range(skip..).chain(self.open.as_ref().filter(|open| !open.parts.is_empty()))
    }

    /// The segment and the place in it of the part that comes next.
    pub fn next_part(&self) -> (u64, usize) {
        match &self.open {
            Some(open) => (open.sequence, open.parts.len()),
            None => (self.next_sequence, 0),
        }
    }

    /// The last segment and the last part of it that there are.
    pub fn last_part(&self) -> Option<(u64, Option<usize>)> {
        let last = self.list().last()?;
        Some((last.sequence, last.parts.len().checked_sub(1)))
    }

    /// Whether the playlist has what a client waits for; then the answer is `Ready` with nothing in it.
    pub fn listed(&self, point: Option<Point>, ended: bool) -> Answer {
        let ready = Answer::Ready(Bytes::new());
        let Some(Point { sequence, part }) = point.filter(|_| !ended) else {
            // A list without a whole segment is an error to many players.
            return if self.segments.is_empty() && !ended { Answer::Wait } else { ready };
        };
        if self.segments.is_empty() && self.open.is_none() {
            return Answer::Wait;
        }
        let (next_sequence, next_part) = self.next_part();
        let last = if next_part == 0 { next_sequence.saturating_sub(1) } else { next_sequence };
        if sequence > last.saturating_add(2)
            || part.is_some_and(|part| sequence >= next_sequence && part > next_part + MAX_AHEAD)
        {
            return Answer::TooFarAhead;
        }
        // A part behind the last of a finished segment is the first one of the next.
        let sequence_or_next = |part: usize| {
            let finished = self.segments.iter().rev().find(|segment| segment.sequence == sequence);
            let beyond = finished.is_some_and(|segment| part > 0 && part >= segment.parts.len());
            if beyond { (sequence + 1, 0) } else { (sequence, part) }
        };
        let there = match part {
            None => sequence < next_sequence,
            Some(part) => sequence_or_next(part) < (next_sequence, next_part),
        };
        if there { ready } else { Answer::Wait }
    }

    pub fn init(&self, number: u64) -> Option<Bytes> {
        self.inits.iter().find(|(found, _)| *found == number).map(|(_, init)| init.clone())
    }

    pub fn segment(&self, sequence: u64) -> Option<Bytes> {
        match &self.find(sequence)?.media {
            Media::Whole(bytes) => Some(bytes.clone()),
            Media::Open | Media::Gap => None,
        }
    }

    pub fn part(&self, sequence: u64, part: usize, ended: bool) -> Answer {
        let found = self.find(sequence).filter(|segment| segment.media != Media::Gap);
        let found = found.and_then(|segment| segment.parts.get(part));
        match found {
            Some(part) => Answer::Ready(part.bytes.clone()),
            None if (sequence, part) == self.next_part() && !ended => Answer::Wait,
            None => Answer::Missing,
        }
    }

    fn find(&self, sequence: u64) -> Option<&Segment> {
        let open = self.open.as_ref().filter(|open| open.sequence == sequence);
        open.or_else(|| {
            let at = self.segments.binary_search_by_key(&sequence, |segment| segment.sequence).ok()?;
            self.segments.get(at)
        })
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

fn slot(due: u64) -> u64 {
    (due + FIRST_SLOT_LACKS) / micros(SLOT)
}
