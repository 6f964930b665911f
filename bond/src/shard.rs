//! Cutting frames into shards of equal length, and putting them together again. Parity over the shards
//! of a frame will find its place beside this: equal lengths are what an erasure code wants.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::wire::MAX_SHARD_PAYLOAD;

/// How a frame is cut: `count` shards of the same length, of which the last may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub frame_bytes: usize,
    pub count: usize,
}

impl Cut {
    /// The fewest shards that carry a frame of this length; an empty frame is one empty shard.
    pub fn of(frame_bytes: usize) -> Self {
        Cut { frame_bytes, count: frame_bytes.div_ceil(MAX_SHARD_PAYLOAD).max(1) }
    }

    /// A cut from the wire, or `None` where shards would be empty or too long.
    pub fn checked(frame_bytes: usize, count: usize) -> Option<Self> {
        let cut = Cut { frame_bytes, count };
        let whole = count == 1 || (count > 1 && cut.shard_bytes() * (count - 1) < frame_bytes);
        (whole && cut.shard_bytes() <= MAX_SHARD_PAYLOAD).then_some(cut)
    }

    fn shard_bytes(&self) -> usize {
        self.frame_bytes.div_ceil(self.count)
    }

    /// Where shard `index` lies in the frame.
    pub fn range(&self, index: usize) -> Range<usize> {
        let len = self.shard_bytes();
        (len * index).min(self.frame_bytes)..(len * (index + 1)).min(self.frame_bytes)
    }
}

/// A frame that is being put together.
#[derive(Debug)]
pub(crate) struct Assembly {
    cut: Cut,
    data: BytesMut,
    have: Vec<bool>,
    missing: usize,
}

impl Assembly {
    /// Nothing yet; takes the frame's whole length of memory.
    pub fn new(cut: Cut) -> Self {
        let data = BytesMut::zeroed(cut.frame_bytes);
        Assembly { cut, data, have: vec![false; cut.count], missing: cut.count }
    }

    /// The frame's shape.
    pub fn cut(&self) -> Cut {
        self.cut
    }

    /// Puts a shard in its place. False where it was there already, or does not fit.
    pub fn insert(&mut self, index: usize, payload: &[u8]) -> bool {
        let range = self.cut.range(index);
        match self.have.get_mut(index) {
            Some(have) if !*have && range.len() == payload.len() => {
                *have = true;
                self.data[range].copy_from_slice(payload);
                self.missing -= 1;
                true
            }
            _ => false,
        }
    }

    /// Whether every shard is there.
    pub fn complete(&self) -> bool {
        self.missing == 0
    }

    /// The frame's bytes.
    pub fn into_data(self) -> Bytes {
        self.data.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MAX_FRAME_BYTES;

    #[test]
    fn what_is_cut_fits_and_comes_together() {
        let max = MAX_SHARD_PAYLOAD;
        for len in [0, 1, 2, max - 1, max, max + 1, 2 * max, 30_000, MAX_FRAME_BYTES - 1, MAX_FRAME_BYTES] {
            let cut = Cut::of(len);
            assert_eq!(Cut::checked(len, cut.count), Some(cut), "{len}");
            let frame: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut assembly = Assembly::new(cut);
            for index in (0..cut.count).rev() {
                assert!(!assembly.complete());
                let shard = &frame[cut.range(index)];
                assert!(shard.len() <= max && (len == 0 || !shard.is_empty()));
                assert!(assembly.insert(index, shard));
                assert!(!assembly.insert(index, shard), "twice");
            }
            assert!(assembly.complete());
            assert_eq!(assembly.into_data(), frame);
        }
    }

    #[test]
    fn odd_cuts_are_refused() {
        assert_eq!(Cut::checked(3, 0), None);
        assert_eq!(Cut::checked(3, 4), None);
        assert_eq!(Cut::checked(5, 4), None, "2 + 2 + 1 + nothing");
        assert_eq!(Cut::checked(MAX_SHARD_PAYLOAD + 1, 1), None);
        let mut assembly = Assembly::new(Cut::of(3));
        assert!(!assembly.insert(1, b"abc"));
        assert!(!assembly.insert(0, b"ab"));
    }
}
