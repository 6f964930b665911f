//! A segment of a rendition, and its parts.

use bytes::{Bytes, BytesMut};

use crate::cmaf::Chunk;

/// Times are microseconds from the zero of the show's timeline.
#[derive(Clone, Debug)]
pub struct Segment {
    pub sequence: u64,
    /// Microseconds since the Unix epoch on the broadcast clock, of its first frame.
    pub date: u64,
    pub from: u64,
    pub to: u64,
    /// The number of the init segment that it needs.
    pub init: u64,
    /// How many discontinuities there were before its first frame since the show began.
    pub epoch: u64,
    pub parts: Vec<Part>,
    pub media: Media,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Media {
    /// More parts may come.
    Open,
    /// All of it; the parts are slices of it.
    Whole(Bytes),
    /// It is lost. Its parts are empty: hls.js, which plays by parts, stood still for 8 s at a gap that had none.
    Gap,
}

#[derive(Clone, Debug)]
pub struct Part {
    pub bytes: Bytes,
    pub micros: u64,
    pub independent: bool,
}

impl Segment {
    /// Parts of a gap, of at most `length` each.
    pub fn lost(from: u64, to: u64, length: u64) -> Vec<Part> {
        let part =
            |from: u64| Part { bytes: Bytes::new(), micros: length.min(to - from), independent: false };
        (from..to).step_by(length as usize).map(part).collect()
    }

    /// Appends a part.
    pub fn push(&mut self, chunk: Chunk) {
        let Chunk { bytes, from, to, independent } = chunk;
        if self.parts.is_empty() {
            self.date += from.saturating_sub(self.from);
            self.from = from;
        }
        self.to = to;
        self.parts.push(Part { bytes, micros: to - from, independent });
    }

    /// No part comes any more: the whole is put together, once, and the parts become slices of it.
    pub fn close(&mut self) {
        let mut whole = BytesMut::with_capacity(self.parts.iter().map(|part| part.bytes.len()).sum());
        self.parts.iter().for_each(|part| whole.extend_from_slice(&part.bytes));
        let whole = whole.freeze();
        let mut at = 0;
        for part in &mut self.parts {
            let end = at + part.bytes.len();
            part.bytes = whole.slice(at..end);
            at = end;
        }
        self.media = Media::Whole(whole);
    }

    /// Of media.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes.len()).sum()
    }

    pub fn micros(&self) -> u64 {
        self.to - self.from
    }
}
