//! The machines driven by bytes: each input is read as a list of operations, and what must always hold is
//! checked after every one of them.
//!
//! The fuzz targets in `bond/fuzz` feed it with what libFuzzer makes up, `corpus.rs` with the inputs that
//! were worth keeping, so that every `cargo test` goes where a fuzzer has been. The same bytes must always
//! do the same: no clock, no randomness, no state outside a run.

#![allow(dead_code)] // Each fuzz target uses one of the three.

pub mod datagram;
mod input;
pub mod pair;
pub mod receiver;
pub mod sender;

use std::time::Duration;

use bond::PathId;
use media::Time;

/// When every run begins, by the sender's clock.
const START: Time = Time::from_millis(1_790_000_000_000);

/// The path numbers that operations use: two more than fit a bond.
const PATHS: u8 = bond::MAX_PATHS as u8 + 2;

/// How long a run may live as a driver does, beyond its end: longer ones find no more, and take the time of
/// others.
const LIFE: Duration = Duration::from_secs(8);

/// What a driver sees of both machines between two drains: a machine that wants to run again at once, over
/// and over, would hang it.
struct Patience {
    left: u32,
    what: &'static str,
}

impl Patience {
    fn new(turns: u32, what: &'static str) -> Self {
        Self { left: turns, what }
    }

    fn spend(&mut self) {
        self.left = self.left.checked_sub(1).unwrap_or_else(|| panic!("no end: {}", self.what));
    }
}

/// A path number; mostly one of the first few, so that things meet.
fn path(input: &mut input::Input<'_>) -> PathId {
    let byte = input.byte();
    PathId(if byte < 192 { byte % 3 } else { byte % PATHS })
}
