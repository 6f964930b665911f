//! What came on one path: the receiver's half of a path's bookkeeping, told in feedback.

use std::time::Duration;

use media::Time;

use crate::wire::{FeedbackEntry, MAX_BITMAP_BYTES, Stamp};
use crate::{PathId, ReceiverPathStats};

/// Feedback tells of at least this long: several of them may be lost in a row without loss of
/// knowledge, and what is older has missed its deadline or been sent again.
const MEMORY: Duration = Duration::from_millis(400);

/// Sequence numbers that are remembered.
const WINDOW: usize = MAX_BITMAP_BYTES * 8;

/// A datagram that took so much longer than the fastest on its path waited in a queue, or on the air.
const SLOW_MICROS: i64 = 20_000;

/// The least delay is forgotten after one to two of these, so that clocks may drift apart.
const DELAY_WINDOW: Duration = Duration::from_secs(30);

/// How a datagram came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// As the first of its path.
    First,
    /// In order and on time.
    Smoothly,
    /// After a gap, out of order, or late.
    Roughly,
    /// It came before, or is too old to tell.
    Again,
}

/// One path.
#[derive(Debug)]
pub(crate) struct Arrivals {
    path: PathId,
    latest: Option<Latest>,
    least: LeastDelay,
    /// Bit `i % 64` of word `i / 64`: whether `highest - 1 - i` came.
    history: [u64; WINDOW / 64],
    packets: u64,
    bytes: u64,
    pub feedback_sent: u64,
    /// The highest sequence at the beginning of the current stretch of [`MEMORY`], and of the one before.
    marked_at: Time,
    marks: [u64; 2],
}

/// The datagram with the highest sequence number.
#[derive(Clone, Copy, Debug)]
struct Latest {
    seq: u64,
    sent: Time,
    arrived: Time,
}

impl Latest {
    /// By the two clocks as they are, in microseconds.
    fn delay(self) -> i64 {
        self.arrived.micros_since(self.sent)
    }
}

impl Arrivals {
    pub fn new(path: PathId) -> Self {
        Self {
            path,
            latest: None,
            least: LeastDelay::default(),
            history: [0; WINDOW / 64],
            packets: 0,
            bytes: 0,
            feedback_sent: 0,
            marked_at: Time::ZERO,
            marks: [0; 2],
        }
    }

    /// Notes a datagram.
    pub fn note(&mut self, stamp: Stamp, len: usize, now: Time) -> Noted {
        let latest = Latest { seq: stamp.seq, sent: stamp.sent, arrived: now };
        let mut noted = Noted::Roughly;
        match self.latest {
            None => {
                self.latest = Some(latest);
                self.marked_at = now;
                self.marks = [stamp.seq; 2];
                noted = Noted::First;
            }
            Some(before) if stamp.seq > before.seq => {
                let on_time = self.least.least().is_some_and(|least| latest.delay() < least + SLOW_MICROS);
                if stamp.seq == before.seq + 1 && on_time {
                    noted = Noted::Smoothly;
                }
                self.shift(stamp.seq - before.seq);
                self.latest = Some(latest);
            }
            Some(before) => {
                let Some(back) = (before.seq - stamp.seq).checked_sub(1) else { return Noted::Again };
                let Some(word) = self.history.get_mut((back / 64) as usize) else { return Noted::Again };
                let bit = 1 << (back % 64);
                if *word & bit != 0 {
                    return Noted::Again;
                }
                *word |= bit;
            }
        }
        if now.saturating_since(self.marked_at) >= MEMORY {
            self.marks = [self.latest.map_or(0, |latest| latest.seq), self.marks[0]];
            self.marked_at = now;
        }
        self.least.sample(latest.delay(), now);
        self.packets += 1;
        self.bytes += len as u64;
        noted
    }

    /// Moves the history on by `by`; what was the highest becomes history.
    fn shift(&mut self, by: u64) {
        let (words, bits) = ((by / 64) as usize, (by % 64) as u32);
        let old = self.history;
        for (index, word) in self.history.iter_mut().enumerate() {
            let at = |back: usize| index.checked_sub(back).map_or(0, |i| old[i]);
            let carried = if bits == 0 { 0 } else { at(words.saturating_add(1)) >> (64 - bits) };
            *word = at(words) << bits | carried;
        }
        let before = (by - 1) as usize;
        if let Some(word) = self.history.get_mut(before / 64) {
            *word |= 1 << (before % 64);
        }
    }

    /// This path's part of a feedback; `None` while nothing came.
    pub fn entry(&self) -> Option<FeedbackEntry> {
        let latest = self.latest?;
        let told = (latest.seq.saturating_sub(self.marks[1]) as usize).clamp(32, WINDOW);
        let bitmap = self.history.iter().flat_map(|word| word.to_le_bytes()).take(told.div_ceil(8)).collect();
        Some(FeedbackEntry {
            path: self.path,
            highest: latest.seq,
            sent: latest.sent,
            arrived: latest.arrived,
            packets: self.packets,
            bytes: self.bytes,
            bitmap,
        })
    }

    /// How long the latest datagram took by the two clocks as they are, in microseconds; `None` when it is
    /// older than `age`.
    pub fn fresh_delay(&self, now: Time, age: Duration) -> Option<i64> {
        let latest = self.latest.filter(|latest| now.saturating_since(latest.arrived) < age)?;
        Some(latest.delay())
    }

    pub fn stats(&self) -> ReceiverPathStats {
        ReceiverPathStats {
            path: self.path,
            packets: self.packets,
            bytes: self.bytes,
            feedback_sent: self.feedback_sent,
        }
    }
}

/// The least of arrival (our clock) minus sending (the sender's clock): the clocks' difference plus the
/// delay of the fastest path. When this much more than a time by the sender's clock has passed on ours,
/// that time has surely passed there.
#[derive(Debug, Default)]
pub(crate) struct LeastDelay {
    began: Time,
    current: Option<i64>,
    previous: Option<i64>,
}

impl LeastDelay {
    pub fn sample(&mut self, micros: i64, now: Time) {
        if now.saturating_since(self.began) >= DELAY_WINDOW {
            self.previous = self.current.take();
            self.began = now;
        }
        self.current = Some(self.current.map_or(micros, |least| least.min(micros)));
    }

    pub fn least(&self) -> Option<i64> {
        self.current.into_iter().chain(self.previous).min()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sim::Rng;

    use super::*;

    fn stamp(seq: u64) -> Stamp {
        Stamp { seq, sent: Time::from_micros(seq) }
    }

    #[test]
    fn tells_what_came_and_refuses_repeats() {
        let mut arrivals = Arrivals::new(PathId(3));
        assert_eq!(arrivals.entry(), None);
        let mut came = BTreeSet::new();
        let mut rng = Rng::new(5);
        let mut next = 1_000;
        for step in 0..3_000 {
            let seq = next - rng.below(40).min(rng.below(40));
            next += rng.below(3) + if step % 500 == 499 { rng.below(700) } else { 0 };
            let highest = came.last().copied().unwrap_or(seq).max(seq);
            let fresh = highest - seq <= WINDOW as u64 && !came.contains(&seq);
            assert_eq!(
                arrivals.note(stamp(seq), 100, Time::from_millis(step)) != Noted::Again,
                fresh,
                "{seq}"
            );
            came.insert(seq);
            let entry = arrivals.entry().unwrap();
            assert_eq!(entry.highest, highest);
            assert!(entry.bitmap.len() >= 4);
            for seq in highest.saturating_sub(600)..=highest {
                if let Some(received) = entry.received(seq) {
                    assert_eq!(received, came.contains(&seq), "{seq}");
                }
            }
        }
        let entry = arrivals.entry().unwrap();
        assert_eq!(entry.bytes, entry.packets * 100);
    }

    #[test]
    fn absurd_jumps_do_no_harm() {
        let mut arrivals = Arrivals::new(PathId(0));
        for seq in [0, u64::MAX >> 2, 5, (u64::MAX >> 2) - 1] {
            arrivals.note(stamp(seq), 1, Time::ZERO);
        }
        let entry = arrivals.entry().unwrap();
        assert_eq!((entry.highest, entry.packets), (u64::MAX >> 2, 3));
        assert_eq!(entry.bitmap.len(), MAX_BITMAP_BYTES);
        assert_eq!(entry.received((u64::MAX >> 2) - 1), Some(true));
        assert_eq!(entry.received((u64::MAX >> 2) - 2), Some(false));
    }
}
