//! What happened to each frame, for tests and measurements: a bounded ring that is taken away.

use std::collections::VecDeque;

use media::Time;

use crate::stats::DropCause;

/// Records kept: more than a minute at 60 fps. When nobody takes them, the oldest go.
pub const MAX_RECORDS: usize = 4_096;

/// The life of one video frame. Times are on the broadcast clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Group number.
    pub group: u64,
    /// Position in the group.
    pub frame: u32,
    /// When the camera took it.
    pub capture: Time,
    /// When its last byte came from the network.
    pub arrived: Time,
    /// When the decoder got it.
    pub decode_start: Option<Time>,
    /// When the decoder gave the picture.
    pub decoded: Option<Time>,
    /// When it was painted.
    pub painted: Option<Time>,
    /// Why it was not.
    pub cause: Option<DropCause>,
    /// Counter and time read back from the painted picture (probe mode).
    pub mark: Option<media::mark::Mark>,
}

/// The newest records.
#[derive(Debug, Default)]
pub struct Trace {
    records: VecDeque<Record>,
}

impl Trace {
    /// A frame's life is over.
    pub fn push(&mut self, record: Record) {
        if self.records.len() == MAX_RECORDS {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    /// All records since the last call.
    pub fn take(&mut self) -> impl Iterator<Item = Record> + use<> {
        std::mem::take(&mut self.records).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept() {
        let mut trace = Trace::default();
        let record = Record {
            group: 0,
            frame: 0,
            capture: Time::ZERO,
            arrived: Time::ZERO,
            decode_start: None,
            decoded: None,
            painted: None,
            cause: Some(DropCause::LateGroup),
            mark: None,
        };
        for group in 0..MAX_RECORDS as u64 + 10 {
            trace.push(Record { group, ..record });
        }
        let taken: Vec<_> = trace.take().collect();
        assert_eq!(taken.len(), MAX_RECORDS);
        assert_eq!(taken[0].group, 10);
        assert_eq!(trace.take().count(), 0);
    }
}
