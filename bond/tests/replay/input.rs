//! A fuzzer's bytes, read as small decisions.

use std::time::Duration;

/// What is left of an input. At its end every answer is zero, so that any bytes are a whole run.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// Less than `n`.
    pub fn below(&mut self, n: u8) -> u8 {
        self.byte() % n
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// So many bytes, or as many as there are.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Any number. Small ones, and those next to a power of two, take the fewest bytes, because that is
    /// where arithmetic goes wrong.
    pub fn number(&mut self) -> u64 {
        let first = self.byte();
        let low = u64::from(first & 0x3f);
        match first >> 6 {
            0 => low,
            1 => low << 8 | u64::from(self.byte()),
            2 => (1u64 << low).wrapping_add_signed(i64::from(self.byte() as i8)),
            _ => self.bytes(8).iter().fold(low, |number, &byte| number << 8 | u64::from(byte)),
        }
    }

    /// A number of a few either side of `near`, or any.
    pub fn number_near(&mut self, near: u64) -> u64 {
        match self.byte() as i8 {
            i8::MIN => self.number(),
            by => near.saturating_add_signed(i64::from(by)),
        }
    }

    /// Time that passes: up to 12 ms in steps of 100 us, up to a second, a minute, or hours.
    pub fn step(&mut self) -> Duration {
        let byte = u64::from(self.byte());
        match byte {
            0..128 => Duration::from_micros(100 * byte),
            128..192 => Duration::from_millis(15 * (byte - 127)),
            192..240 => Duration::from_secs(byte - 191),
            _ => Duration::from_secs(3_600 * (byte - 239)),
        }
    }

    /// Milliseconds either side of zero, mostly few.
    pub fn offset_micros(&mut self) -> i64 {
        match self.byte() as i8 {
            i8::MIN => self.number() as i64,
            millis => 5_000 * i64::from(millis),
        }
    }
}
