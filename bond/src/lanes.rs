//! What must get there whatever it takes, in order: messages both ways, and objects from the sender.
//!
//! From the sender, a message or an object is a frame on a track of its own that has no deadline, so that
//! it is cut, repaired and put in order like any other; messages go before all media, objects only with
//! what media leaves. From the receiver, which has nothing else to send but feedback, a message is one
//! datagram, repeated on all paths until the sender has said that it came.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use media::{Time, TrackId};

use crate::{MAX_DATAGRAM, MAX_FRAME_BYTES};

/// The track of the messages.
pub(crate) const MESSAGES: TrackId = TrackId(255);

/// The track of the objects. Media has the numbers below.
pub(crate) const OBJECTS: TrackId = TrackId(254);

/// The longest message, in bytes, either way: it fits one datagram with its header.
pub const MAX_MESSAGE_BYTES: usize = MAX_DATAGRAM - 10 - 40;

/// Messages that wait for the other end at once; whoever sends more sends media.
const MAX_MESSAGES: usize = 64;

/// The longest object, in bytes; what is longer is cut by whoever sends it.
pub const MAX_OBJECT_BYTES: usize = MAX_FRAME_BYTES;

/// Bytes of objects that wait for the other end at once. Both ends hold them: the receiver's bound for all
/// that it holds is four times this.
const MAX_OBJECTS_BYTES: usize = 4 << 20;

/// Objects that wait at once, against many small ones.
const MAX_OBJECTS: usize = 128;

/// A message from the receiver of whose arrival nothing was heard is sent again after this.
const REPEAT: Duration = Duration::from_millis(100);

/// Something that does not fit its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// Too much waits already.
    #[error("the other end has not taken what was sent before: try again later")]
    Full,
    /// Too long.
    #[error("{len} bytes are more than the {most} that fit: cut it")]
    TooLong {
        /// Its bytes.
        len: usize,
        /// The bound.
        most: usize,
    },
}

/// Whether a track has no deadline.
pub(crate) fn reliable(track: TrackId) -> bool {
    track == MESSAGES || track == OBJECTS
}

/// Whether something of this length may join those that wait on its track.
pub(crate) fn fits(track: TrackId, len: usize, waiting: usize, bytes: usize) -> Result<(), LaneError> {
    let (most, count, total) = if track == MESSAGES {
        (MAX_MESSAGE_BYTES, MAX_MESSAGES, usize::MAX)
    } else {
        (MAX_OBJECT_BYTES, MAX_OBJECTS, MAX_OBJECTS_BYTES)
    };
    if len > most {
        Err(LaneError::TooLong { len, most })
    } else if waiting >= count || bytes + len > total {
        Err(LaneError::Full)
    } else {
        Ok(())
    }
}

/// Messages that the receiver sends.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    first: u64,
    waiting: VecDeque<Bytes>,
    repeat_at: Option<Time>,
}

impl Outbox {
    pub fn push(&mut self, message: Bytes) -> Result<(), LaneError> {
        fits(MESSAGES, message.len(), self.waiting.len(), 0)?;
        self.waiting.push_back(message);
        // At once.
        self.repeat_at = Some(Time::ZERO);
        Ok(())
    }

    /// The sender has all below this number.
    pub fn acknowledged(&mut self, next: u64) {
        while self.first < next && self.waiting.pop_front().is_some() {
            self.first += 1;
        }
        if self.waiting.is_empty() {
            self.repeat_at = None;
        }
    }

    /// What to send now, each on every path.
    pub fn due(&mut self, now: Time) -> Vec<(u64, Bytes)> {
        if self.repeat_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        self.repeat_at = Some(now + REPEAT);
        (self.first..).zip(self.waiting.iter().take(WINDOW).cloned()).collect()
    }

    pub fn poll_timeout(&self) -> Option<Time> {
        self.repeat_at
    }
}

/// Messages that come before an earlier one are kept, this many at most; the others come again.
const WINDOW: usize = 16;

/// Messages that came from the receiver.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    next: u64,
    early: BTreeMap<u64, Bytes>,
    ready: VecDeque<Bytes>,
}

impl Inbox {
    /// Takes a message. False where there is no room for it now.
    pub fn take(&mut self, number: u64, message: &[u8]) -> bool {
        if self.ready.len() >= MAX_MESSAGES {
            return false;
        }
        if number >= self.next && number - self.next < WINDOW as u64 {
            self.early.insert(number, Bytes::copy_from_slice(message));
        }
        while let Some(message) = self.early.remove(&self.next) {
            self.ready.push_back(message);
            self.next += 1;
        }
        true
    }

    /// All below this have come.
    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn poll(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_repeated_until_they_came_and_come_once_in_order() {
        let (mut outbox, mut inbox) = (Outbox::default(), Inbox::default());
        let text = |n: u64| Bytes::from(format!("message {n}"));
        for n in 0..40 {
            outbox.push(text(n)).unwrap();
        }
        let mut now = Time::from_millis(5);
        let mut came = Vec::new();
        for round in 0.. {
            if outbox.poll_timeout().is_none() {
                break;
            }
            for (number, message) in outbox.due(now).into_iter().rev() {
                // Every third is lost.
                if (number + round) % 3 != 0 {
                    assert!(inbox.take(number, &message));
                }
            }
            came.extend(std::iter::from_fn(|| inbox.poll()));
            outbox.acknowledged(inbox.next());
            assert!(outbox.due(now).is_empty(), "not before it is due");
            now += REPEAT;
        }
        assert_eq!(came, (0..40).map(text).collect::<Vec<_>>());
        assert!(inbox.take(3, b"old") && inbox.poll().is_none());
        assert!(inbox.take(9_999, b"far") && inbox.early.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut outbox = Outbox::default();
        let long = Bytes::from(vec![0; MAX_MESSAGE_BYTES + 1]);
        assert!(matches!(outbox.push(long), Err(LaneError::TooLong { .. })));
        (0..MAX_MESSAGES).for_each(|_| outbox.push(Bytes::new()).unwrap());
        assert_eq!(outbox.push(Bytes::new()), Err(LaneError::Full));
        assert_eq!(fits(OBJECTS, 1 << 20, 3, 3 << 20), Ok(()));
        assert_eq!(fits(OBJECTS, 1 << 20, 4, 4 << 20), Err(LaneError::Full));
        let mut inbox = Inbox::default();
        (0..MAX_MESSAGES as u64).for_each(|n| assert!(inbox.take(n, b"")));
        assert!(!inbox.take(MAX_MESSAGES as u64, b""), "until they are taken");
    }
}
