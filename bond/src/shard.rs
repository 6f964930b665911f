//! Cutting frames into shards of equal length, and putting them together again. Equal lengths are what
//! the parity of `fec.rs` wants.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::fec;
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
    /// How many parity shards the frame has, once one came, and those that came.
    of: usize,
    parity: Vec<(usize, Bytes)>,
}

impl Assembly {
    /// Nothing yet; takes the frame's whole length of memory.
    pub fn new(cut: Cut) -> Self {
        let data = BytesMut::zeroed(cut.frame_bytes);
        Assembly { cut, data, have: vec![false; cut.count], missing: cut.count, of: 0, parity: Vec::new() }
    }

    /// The frame's shape.
    pub fn cut(&self) -> Cut {
        self.cut
    }

    /// Keeps a parity shard, one of `of`. False where it was there already, or does not fit.
    pub fn insert_parity(&mut self, of: usize, index: usize, payload: &[u8]) -> bool {
        let known = self.of == 0 || self.of == of;
        let fits = index < of && payload.len() == fec::parity_bytes(self.cut);
        if !known || !fits || self.parity.iter().any(|(there, _)| *there == index) {
            return false;
        }
        self.of = of;
        self.parity.push((index, Bytes::copy_from_slice(payload)));
        true
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

    /// Whether the whole frame is there; parity is put to use where that makes it so.
    pub fn complete(&mut self) -> bool {
        if self.missing > 0 && self.parity.len() >= self.missing {
            let found = fec::recover(&mut self.data, self.cut, &self.have, self.of, &self.parity);
            self.missing = if found { 0 } else { self.missing };
        }
        self.missing == 0
    }

    /// Whether parity made it whole.
    pub fn recovered(&self) -> bool {
        self.missing == 0 && self.have.iter().any(|have| !have)
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
