//! The sample tables of a finished file (ISO/IEC 14496-12, 8.6 to 8.7): when each frame is shown, where it
//! lies and how long it is.

use std::time::Duration;

use bytes::BufMut;

use super::boxes::{put_box, put_full_box};

/// Frames of all tracks together: 12 h of 30 pictures and 50 packets a second, 56 MB of memory. A longer
/// file stays fragmented.
pub const MAX_SAMPLES: usize = 3_500_000;

/// The frames of one track.
#[derive(Debug, Default)]
pub struct Table {
    samples: Vec<Sample>,
    /// Decode time of the first and the last frame.
    first: u64,
    last: u64,
    last_duration: Duration,
    /// From which frame on, counted from 1, which sample description holds, where it is not the first from the beginning.
    changes: Vec<(u32, u32)>,
}

/// 16 bytes, because there are millions.
#[derive(Clone, Copy, Debug)]
struct Sample {
    offset: u64,
    size: u32,
    /// Microseconds since the frame before, and the keyframe bit.
    step: u32,
}

/// The highest bit of [`Sample::step`]; a step of 35 minutes does not need it.
const KEYFRAME: u32 = 1 << 31;

impl Table {
    /// Adds a frame, or returns false where the table cannot tell its time.
    pub fn add(
        &mut self,
        decode_time: u64,
        duration: Duration,
        keyframe: bool,
        offset: u64,
        size: u32,
    ) -> bool {
        if self.samples.is_empty() {
            (self.first, self.last) = (decode_time, decode_time);
        }
        let Some(step) = u32::try_from(decode_time - self.last).ok().filter(|step| step & KEYFRAME == 0)
        else {
            return false;
        };
        let step = if keyframe { step | KEYFRAME } else { step };
        self.samples.push(Sample { offset, size, step });
        (self.last, self.last_duration) = (decode_time, duration);
        true
    }

    /// The frames that follow are as this sample description says, counted from 1.
    pub fn describe(&mut self, description: u32) {
        let first = self.samples.len() as u32 + 1;
        self.changes.retain(|(from, _)| *from != first);
        self.changes.push((first, description));
    }

    /// How many frames there are.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Microseconds from the first frame to the end of the last one.
    pub fn media_duration(&self) -> u64 {
        if self.samples.is_empty() {
            return 0;
        }
        self.last - self.first + self.last_duration.as_micros() as u64
    }

    /// Microseconds from the start of the file to the end of the last frame.
    pub fn end(&self) -> u64 {
        self.first + self.media_duration()
    }

    /// `edts`, where the first frame is not what is shown first: so long after the start of the file.
    pub fn put_edit_list(&self, shown_from: u64, out: &mut Vec<u8>) {
        if self.first == shown_from || self.samples.is_empty() {
            return;
        }
        let edits = match self.first.checked_sub(shown_from) {
            Some(pause) => vec![(pause, -1), (self.media_duration(), 0)],
            None => vec![(self.end().saturating_sub(shown_from), (shown_from - self.first) as i64)],
        };
        put_box(out, b"edts", |out| {
            put_full_box(out, b"elst", 1, 0, |out| {
                out.put_u32(edits.len() as u32);
                for (duration, media_time) in edits {
                    out.put_u64(duration);
                    out.put_i64(media_time);
                    out.put_u32(0x1_0000); // rate 1
                }
            });
        });
    }

    /// `stts`, `stss` (for `video`), `stsc`, `stsz` and `co64`.
    pub fn put(&self, video: bool, out: &mut Vec<u8>) {
        put_full_box(out, b"stts", 0, 0, |out| {
            let count_at = out.len();
            out.put_u32(0);
            let mut runs = 0u32;
            let (mut run, mut length) = (0u32, None);
            let steps = self.samples.iter().skip(1).map(|sample| sample.step & !KEYFRAME);
            let last = (!self.samples.is_empty()).then_some(self.last_duration.as_micros() as u32);
            for step in steps.chain(last).map(Some).chain([None]) {
                if step == length {
                    run += 1;
                    continue;
                }
                if let Some(length) = length {
                    out.put_u32(run);
                    out.put_u32(length);
                    runs += 1;
                }
                (run, length) = (1, step);
            }
            out[count_at..count_at + 4].copy_from_slice(&runs.to_be_bytes());
        });
        if video {
            let keyframes = || (1u32..).zip(&self.samples).filter(|(_, sample)| sample.step & KEYFRAME != 0);
            put_full_box(out, b"stss", 0, 0, |out| {
                out.put_u32(keyframes().count() as u32);
                keyframes().for_each(|(number, _)| out.put_u32(number));
            });
        }
        put_full_box(out, b"stsc", 0, 0, |out| {
            // Every chunk holds one sample, so that a run of them begins where the description changes.
            let begins = self.changes.first().is_some_and(|(from, _)| *from == 1);
            let first = (!begins).then_some((1, 1));
            let changes = self.changes.iter().filter(|(from, _)| *from <= self.samples.len() as u32);
            let runs: Vec<_> = first.into_iter().chain(changes.copied()).collect();
            out.put_u32(runs.len() as u32);
            for (from, description) in runs {
                [from, 1, description].iter().for_each(|&value| out.put_u32(value));
            }
        });
        put_full_box(out, b"stsz", 0, 0, |out| {
            out.put_u32(0);
            out.put_u32(self.samples.len() as u32);
            self.samples.iter().for_each(|sample| out.put_u32(sample.size));
        });
        put_full_box(out, b"co64", 0, 0, |out| {
            out.put_u32(self.samples.len() as u32);
            self.samples.iter().for_each(|sample| out.put_u64(sample.offset));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::boxes::child;
    use super::*;

    fn numbers(body: &[u8]) -> Vec<u32> {
        body.chunks(4).map(|four| u32::from_be_bytes(four.try_into().unwrap())).collect()
    }

    #[test]
    fn times_are_runs_and_a_gap_stays_a_gap() {
        let mut table = Table::default();
        for (time, keyframe) in [(5, true), (25, false), (45, false), (145, true), (165, false)] {
            assert!(table.add(time, Duration::from_micros(20), keyframe, 1000 + time, 7));
        }
        assert_eq!((table.len(), table.media_duration(), table.end()), (5, 180, 185));
        let mut out = Vec::new();
        table.put(true, &mut out);
        let body = |kind| numbers(&child(&out, kind).unwrap()[4..]);
        assert_eq!(body(b"stts"), [3, 2, 20, 1, 100, 2, 20]);
        assert_eq!(body(b"stss"), [2, 1, 4]);
        assert_eq!(body(b"stsz"), [0, 5, 7, 7, 7, 7, 7]);
        assert_eq!(body(b"co64")[..5], [5, 0, 1005, 0, 1025]);
        let mut edits = Vec::new();
        table.put_edit_list(0, &mut edits);
        let edits = numbers(&child(child(&edits, b"edts").unwrap(), b"elst").unwrap()[4..]);
        assert_eq!(edits, [2, 0, 5, u32::MAX, u32::MAX, 0x1_0000, 0, 180, 0, 0, 0x1_0000]);
        let mut edits = Vec::new();
        table.put_edit_list(45, &mut edits);
        let edits = numbers(&child(child(&edits, b"edts").unwrap(), b"elst").unwrap()[4..]);
        assert_eq!(edits, [1, 0, 140, 0, 40, 0x1_0000], "what comes before 45 is decoded only");
    }

    #[test]
    fn a_description_holds_from_its_first_frame_on() {
        let mut table = Table::default();
        let add = |table: &mut Table, time| assert!(table.add(time, Duration::ZERO, true, 0, 1));
        add(&mut table, 0);
        add(&mut table, 1);
        table.describe(3);
        table.describe(2);
        add(&mut table, 2);
        table.describe(1);
        add(&mut table, 3);
        table.describe(2);
        let mut out = Vec::new();
        table.put(true, &mut out);
        assert_eq!(numbers(&child(&out, b"stsc").unwrap()[4..]), [3, 1, 1, 1, 3, 1, 2, 4, 1, 1]);
    }

    #[test]
    fn empty_and_too_far() {
        let mut table = Table::default();
        let mut out = Vec::new();
        table.put(false, &mut out);
        table.put_edit_list(0, &mut out);
        assert_eq!(numbers(&child(&out, b"stts").unwrap()[4..]), [0]);
        assert_eq!((table.media_duration(), table.end()), (0, 0));
        assert!(table.add(1 << 40, Duration::ZERO, true, 0, 1), "the first one may come late");
        assert!(!table.add((1 << 40) + (1 << 31), Duration::ZERO, true, 0, 1));
    }
}
