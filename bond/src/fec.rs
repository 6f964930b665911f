//! Parity: systematic Reed-Solomon over the shards of one frame, and how much of it is worth sending.
//!
//! Parity saves the round trip of a repair, where a loss is likely; it never saves what a repair cannot
//! save too, so it is sent only with rate that nothing else wants, see `sender.rs`.

use bytes::Bytes;
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use crate::Class;
use crate::shard::Cut;

/// The most parity shards of one frame. A keyframe of 30 KB has 28 shards: this survives bursts of 16.
pub(crate) const MAX_PARITY: usize = 16;

/// Losses below this part are not worth parity: most frames need no repair, and repairs are cheap.
const LEAST_LOSS: f64 = 0.001;

/// How likely a frame may still need a repair, by what it is worth.
const RESIDUAL_AUDIO: f64 = 0.001;
const RESIDUAL_KEYFRAME: f64 = 0.002;
const RESIDUAL_DELTA: f64 = 0.01;

/// How many of the datagrams are lost, and how many in a row. Weights are per datagram: slow enough to
/// know a part of a hundred, quick enough to follow a network within a few seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Losses {
    ratio: f64,
    runs: f64,
}

const WEIGHT: f64 = 1.0 / 1024.0;

impl Losses {
    pub fn new() -> Self {
        Self { ratio: 0.0, runs: 0.0 }
    }

    /// So many datagrams arrived, and so many were lost in so many runs.
    pub fn count(&mut self, arrived: u32, lost: u32, runs: u32) {
        let kept = (1.0 - WEIGHT).powi((arrived + lost).min(i32::MAX as u32) as i32);
        let share = |part: u32| (1.0 - kept) * f64::from(part) / f64::from((arrived + lost).max(1));
        self.ratio = self.ratio * kept + share(lost);
        self.runs = self.runs * kept + share(runs);
    }

    /// Datagrams that are lost in a row, in the mean.
    fn run_length(&self) -> f64 {
        if self.runs > 0.0 { (self.ratio / self.runs).clamp(1.0, MAX_PARITY as f64) } else { 1.0 }
    }

    /// How many parity shards a frame of `count` shards is worth, before asking what they cost: the fewest
    /// that leave no more than the residual of its class, if runs of losses fall anywhere.
    pub fn parity(&self, count: usize, class: Class) -> usize {
        if self.ratio < LEAST_LOSS {
            return 0;
        }
        let residual = match class {
            Class::Control | Class::Audio => RESIDUAL_AUDIO,
            Class::Keyframe => RESIDUAL_KEYFRAME,
            Class::Delta => RESIDUAL_DELTA,
            Class::Droppable | Class::Bulk => return 0,
        };
        let length = self.run_length();
        // Runs begin with every datagram alike; a frame is hit by those that begin in it or just before.
        let begins = (self.ratio / length).min(0.5);
        let places = count as f64 + length - 1.0;
        let mut term = (1.0 - begins).powf(places);
        let mut within = term;
        let mut runs = 0.0;
        while 1.0 - within > residual && runs < places {
            term *= (places - runs) / (runs + 1.0) * begins / (1.0 - begins);
            within += term;
            runs += 1.0;
        }
        // More parity than data says that the path is no path.
        ((runs * length).ceil() as usize).min(count).min(MAX_PARITY)
    }
}

/// Bytes of a shard as the code sees it: an even number, filled up with zeros.
fn even(cut: Cut) -> usize {
    cut.range(0).len().next_multiple_of(2).max(2)
}

fn padded(shard: &[u8], len: usize) -> Vec<u8> {
    let mut padded = Vec::with_capacity(len);
    padded.extend_from_slice(shard);
    padded.resize(len, 0);
    padded
}

/// Length of each parity shard of a frame that is cut like this.
pub(crate) fn parity_bytes(cut: Cut) -> usize {
    even(cut)
}

/// The parity shards of a frame; none where the code cannot do it.
pub(crate) fn encode(frame: &[u8], cut: Cut, parity: usize) -> Vec<Bytes> {
    let len = even(cut);
    let encode = || {
        let mut encoder = ReedSolomonEncoder::new(cut.count, parity, len)?;
        for index in 0..cut.count {
            encoder.add_original_shard(padded(&frame[cut.range(index)], len))?;
        }
        let result = encoder.encode()?;
        Ok::<_, reed_solomon_simd::Error>(result.recovery_iter().map(Bytes::copy_from_slice).collect())
    };
    if parity == 0 { Vec::new() } else { encode().unwrap_or_default() }
}

/// Fills the holes of a frame from its parity, of which there were `of` shards. `have` says which data
/// shards are there. False where that cannot be done.
pub(crate) fn recover(
    data: &mut [u8],
    cut: Cut,
    have: &[bool],
    of: usize,
    parity: &[(usize, Bytes)],
) -> bool {
    if let ([false], [(_, shard), ..]) = (have, parity) {
        // Parity of a single shard is that shard; to decode that would take 0.26 ms, as any decoding does.
        return shard.get(..data.len()).map(|shard| data.copy_from_slice(shard)).is_some();
    }
    let len = even(cut);
    let mut decode = || {
        let mut decoder = ReedSolomonDecoder::new(cut.count, of, len)?;
        for index in (0..cut.count).filter(|&index| have[index]) {
            decoder.add_original_shard(index, padded(&data[cut.range(index)], len))?;
        }
        for (index, shard) in parity {
            decoder.add_recovery_shard(*index, shard)?;
        }
        let result = decoder.decode()?;
        for (index, shard) in result.restored_original_iter() {
            let range = cut.range(index);
            let bytes = range.len();
            data[range].copy_from_slice(&shard[..bytes]);
        }
        Ok::<_, reed_solomon_simd::Error>(())
    };
    decode().is_ok()
}

#[cfg(test)]
mod tests {
    use sim::Rng;

    use super::*;

    #[test]
    fn any_shards_of_the_right_number_make_the_frame() {
        let mut rng = Rng::new(4);
        for _ in 0..300 {
            let frame: Vec<u8> = (0..1 + rng.below(40_000)).map(|_| rng.next_u64() as u8).collect();
            let cut = Cut::of(frame.len());
            let of = 1 + rng.below(MAX_PARITY as u64) as usize;
            let parity = encode(&frame, cut, of);
            assert!(parity.len() == of && parity.iter().all(|shard| shard.len() == parity_bytes(cut)));
            let mut have = vec![true; cut.count];
            for _ in 0..of {
                have[rng.below(cut.count as u64) as usize] = false;
            }
            let missing = have.iter().filter(|have| !**have).count();
            let mut holed = frame.clone();
            for index in (0..cut.count).filter(|&index| !have[index]) {
                holed[cut.range(index)].fill(0xee);
            }
            let mut kept: Vec<(usize, Bytes)> = parity.into_iter().enumerate().collect();
            while kept.len() > missing {
                kept.swap_remove(rng.below(kept.len() as u64) as usize);
            }
            assert!(recover(&mut holed, cut, &have, of, &kept));
            assert_eq!(holed, frame);
            kept.pop();
            assert!(!recover(&mut holed, cut, &have, of, &kept), "too few");
        }
    }

    /// Found by fuzzing, which spent nine tenths of its time here: with a datagram of 49 bytes, parity of a
    /// frame of one shard, a sender took 0.24 ms of the receiver's time, 1400 times what a shard takes. Such
    /// parity is a copy, and costs no more than one.
    #[test]
    fn parity_of_a_single_shard_is_its_copy() {
        for len in [0, 1, 2, 7, 1080] {
            let frame: Vec<u8> = (0..len).map(|i| i as u8).collect();
            for (index, parity) in encode(&frame, Cut::of(len), MAX_PARITY).into_iter().enumerate() {
                assert_eq!(parity[..len], frame);
                let mut empty = vec![0xee; len];
                assert!(recover(&mut empty, Cut::of(len), &[false], MAX_PARITY, &[(index, parity)]));
                assert_eq!(empty, frame);
            }
        }
    }

    /// The bytes in `docs/protocol.md`: both ends must use the same code.
    #[test]
    fn golden_parity() {
        let frame: Vec<u8> = (0x00..0x0e).chain(0x10..0x1e).collect();
        let parity = encode(&frame, Cut::checked(28, 2).unwrap(), 2);
        let hex =
            |shard: &Bytes| shard.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
        let golden =
            ["d1 d0 d3 d2 d5 d4 d7 2b 24 25 26 27 20 21", "c1 c0 c3 c2 c5 c4 c7 3b 34 35 36 37 30 31"];
        assert_eq!(parity.iter().map(hex).collect::<Vec<_>>(), golden);
    }

    #[test]
    fn as_much_as_the_losses_ask_for() {
        let clean = Losses::new();
        assert_eq!(clean.parity(25, Class::Keyframe), 0);
        let mut random = Losses::new();
        (0..400).for_each(|_| random.count(49, 1, 1));
        assert!((0.015..0.025).contains(&random.ratio), "{random:?}");
        assert_eq!(random.parity(1, Class::Audio), 1);
        assert_eq!(random.parity(6, Class::Delta), 1);
        let delta = random.parity(25, Class::Delta);
        assert!((2..=3).contains(&delta), "{delta}");
        assert!(random.parity(25, Class::Keyframe) >= delta);
        assert_eq!(random.parity(25, Class::Droppable), 0);
        let mut bursts = Losses::new();
        (0..400).for_each(|_| bursts.count(245, 5, 1));
        assert!(bursts.parity(25, Class::Delta) >= 5, "{}", bursts.parity(25, Class::Delta));
        let mut hopeless = Losses::new();
        (0..400).for_each(|_| hopeless.count(5, 5, 2));
        assert!(hopeless.parity(40, Class::Keyframe) <= MAX_PARITY);
        (0..400).for_each(|_| random.count(50, 0, 0));
        assert_eq!(random.parity(25, Class::Keyframe), 0, "forgotten: {random:?}");
    }
}
