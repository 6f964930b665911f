//! Recorded link rates in mahimahi's text format.

use std::str::FromStr;
use std::sync::Arc;

/// Bytes that one line of a mahimahi trace can carry.
pub const OPPORTUNITY_BYTES: usize = 1500;

/// The most lines that are taken: ten minutes at 120 Mb/s, 48 MB of memory.
const MAX_LINES: usize = 6_000_000;

/// When a recorded link could send: one opportunity of 1500 bytes per line, at that millisecond; after
/// the last line it begins again. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Not falling, not empty, and the last one is above zero: it is the period.
    millis: Arc<[u64]>,
    /// Where in the recording it starts: milliseconds below the period,
    skip: u64,
    /// and the first opportunity from there on.
    first: u64,
}

/// Why a text is no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// A line is no number.
    #[error("line {line} of the trace is not a number of milliseconds: {text:?}")]
    NotANumber {
        /// From 1.
        line: usize,
        /// What it says (its first characters).
        text: String,
    },
    /// Time runs backwards.
    #[error("line {line} of the trace is earlier than the line before it: the times must not fall")]
    Backwards {
        /// From 1.
        line: usize,
    },
    /// There is nothing to repeat.
    #[error("the trace is empty or lasts 0 ms: it needs at least one line with a time above 0")]
    Empty,
    /// Too much.
    #[error("the trace has more than {MAX_LINES} lines: cut it")]
    TooLong,
}

impl Trace {
    /// Milliseconds after which the trace begins again.
    pub fn period_millis(&self) -> u64 {
        self.millis.last().copied().unwrap_or(1)
    }

    /// Mean rate over the whole trace, in bits per second.
    pub fn mean_rate(&self) -> u64 {
        self.millis.len() as u64 * OPPORTUNITY_BYTES as u64 * 8 * 1000 / self.period_millis()
    }

    /// The same recording, started so many milliseconds later (counted from its beginning, over all
    /// repetitions).
    pub fn from_millis(&self, skip: u64) -> Self {
        let skip = skip % self.period_millis();
        Trace { millis: self.millis.clone(), skip, first: self.whole_first_from(skip * 1000) }
    }

    /// From times that do not fall, in milliseconds.
    pub fn from_opportunities(millis: Vec<u64>) -> Result<Self, TraceError> {
        if let Some(index) = millis.windows(2).position(|pair| pair[1] < pair[0]) {
            return Err(TraceError::Backwards { line: index + 2 });
        }
        if millis.len() > MAX_LINES {
            return Err(TraceError::TooLong);
        }
        match millis.last() {
            None | Some(0) => Err(TraceError::Empty),
            Some(_) => Ok(Trace { millis: millis.into(), skip: 0, first: 0 }),
        }
    }

    /// When opportunity number `index` comes, counted over all repetitions, in microseconds after the
    /// start.
    pub(crate) fn micros_of(&self, index: u64) -> u64 {
        self.whole_micros_of(index.saturating_add(self.first)).saturating_sub(self.skip * 1000)
    }

    /// The first opportunity at `micros` after the start, or later.
    pub(crate) fn first_from(&self, micros: u64) -> u64 {
        self.whole_first_from(micros.saturating_add(self.skip * 1000)) - self.first
    }

    fn whole_micros_of(&self, index: u64) -> u64 {
        let len = self.millis.len() as u64;
        let (round, line) = (index / len, index % len);
        (round.saturating_mul(self.period_millis()).saturating_add(self.millis[line as usize]))
            .saturating_mul(1000)
    }

    fn whole_first_from(&self, micros: u64) -> u64 {
        let millis = micros.div_ceil(1000);
        // The last line of one round and the first of the next may be at the same time, so that a
        // whole period belongs to the round before it.
        let round = millis.saturating_sub(1) / self.period_millis();
        let within = millis - round * self.period_millis();
        let line = self.millis.partition_point(|&at| at < within);
        round * self.millis.len() as u64 + line as u64
    }
}

impl FromStr for Trace {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        let mut millis = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let trimmed = line.trim();
            if trimmed.is_empty() {
                continue;
            }
            let number = index + 1;
            let at: u64 = trimmed.parse().map_err(|_| TraceError::NotANumber {
                line: number,
                text: trimmed.chars().take(32).collect(),
            })?;
            if millis.last().is_some_and(|&before| at < before) {
                return Err(TraceError::Backwards { line: number });
            }
            if millis.len() == MAX_LINES {
                return Err(TraceError::TooLong);
            }
            millis.push(at);
        }
        Trace::from_opportunities(millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps() {
        let trace: Trace = "0\n4\n4\r\n\n10\n".parse().unwrap();
        assert_eq!(trace.period_millis(), 10);
        assert_eq!(trace.mean_rate(), 4 * 1500 * 8 * 100);
        let times: Vec<_> = (0..9).map(|i| trace.micros_of(i) / 1000).collect();
        assert_eq!(times, [0, 4, 4, 10, 10, 14, 14, 20, 20]);
        for (micros, index) in [(0, 0), (1, 1), (4_000, 1), (4_001, 3), (10_000, 3), (10_001, 5), (20_000, 7)]
        {
            assert_eq!(trace.first_from(micros), index, "{micros}");
        }
    }

    #[test]
    fn starts_anywhere() {
        let trace: Trace = "0\n4\n4\n10\n".parse().unwrap();
        let later = trace.from_millis(14);
        let times: Vec<_> = (0..5).map(|i| later.micros_of(i) / 1000).collect();
        assert_eq!(times, [0, 0, 6, 6, 10]);
        assert_eq!(later.first_from(1), 2);
        assert_eq!(trace.from_millis(20), trace);
    }

    #[test]
    fn bad_text_says_where() {
        let error = |text: &str| text.parse::<Trace>().unwrap_err();
        assert_eq!(error(""), TraceError::Empty);
        assert_eq!(error("0\n0\n"), TraceError::Empty);
        assert_eq!(error("1\n2x\n"), TraceError::NotANumber { line: 2, text: "2x".into() });
        assert_eq!(error("-1"), TraceError::NotANumber { line: 1, text: "-1".into() });
        assert_eq!(error("5\n\n4\n"), TraceError::Backwards { line: 3 });
    }
}
