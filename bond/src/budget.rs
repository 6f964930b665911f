//! What is spare, and so may be spent on parity and on bulk.

use std::time::Duration;

use media::Time;

use crate::Class;
use crate::estimate::PACKET_OVERHEAD;
use crate::fec::{self, Losses};
use crate::shard::Cut;

/// Measured rates are right to a few per cent, and media comes in bursts: this part of them is not spare.
const KEEP: f64 = 0.1;

/// This part of the measured spare rate may go to parity; the rest stays free for repairs and for what
/// comes next,
const PART: f64 = 0.5;

/// and at most this part of what is sent anyway.
const MOST_PART: f64 = 0.3;

/// So much may be saved up: parity for a keyframe.
const MOST_CREDIT: f64 = 24_000.0;

/// Bulk may have this part of the measured spare rate, and save up five datagrams: it comes evenly, between
/// the frames.
const BULK_PART: f64 = 0.7;
const MOST_BULK_CREDIT: f64 = 6_000.0;

/// After trouble nothing is spare for this long.
const CALM: Duration = Duration::from_millis(500);

/// Over about this long the rate in use is taken.
const USE_WINDOW: Duration = Duration::from_millis(500);

/// Spare rate, and what the losses ask for.
#[derive(Debug)]
pub(crate) struct Budget {
    pub losses: Losses,
    credit: f64,
    bulk_credit: f64,
    /// Bytes on the wire since the last refill, and the rate that they made, in bits per second.
    sent: f64,
    used: f64,
    refilled: Option<Time>,
    calm_from: Time,
}

impl Budget {
    pub fn new() -> Self {
        Self {
            losses: Losses::new(),
            credit: 0.0,
            bulk_credit: 0.0,
            sent: 0.0,
            used: 0.0,
            refilled: None,
            calm_from: Time::ZERO,
        }
    }

    /// A datagram went out.
    pub fn spent(&mut self, len: usize, bulk: bool) {
        if !bulk {
            self.sent += len as f64 + PACKET_OVERHEAD as f64;
        }
    }

    /// Whether a bulk datagram of so many bytes on the wire may go now; it is paid for.
    pub fn bulk(&mut self, bytes: usize) -> bool {
        let may = self.bulk_credit >= bytes as f64;
        self.bulk_credit -= if may { bytes as f64 } else { 0.0 };
        may
    }

    /// A path is in doubt, or more waits than the paths carry: what seems spare is not for a while.
    pub fn trouble(&mut self, now: Time) {
        self.calm_from = now + CALM;
    }

    /// Whether there was no trouble lately.
    pub fn calm(&self, now: Time) -> bool {
        now >= self.calm_from
    }

    /// Time went on, while the paths together could carry `rate` bits per second.
    pub fn refill(&mut self, rate: f64, now: Time) {
        let Some(before) = self.refilled else {
            (self.refilled, self.used) = (Some(now), rate);
            return;
        };
        let span = now.saturating_since(before).as_secs_f64();
        if span < 0.001 {
            return;
        }
        let part = (span / USE_WINDOW.as_secs_f64()).min(1.0);
        self.used += (self.sent * 8.0 / span - self.used) * part;
        if !self.calm(now) {
            self.credit = 0.0;
        }
        let spare = ((rate * (1.0 - KEEP) - self.used) * PART).min(self.used * MOST_PART);
        self.credit = (self.credit + spare / 8.0 * span).clamp(0.0, MOST_CREDIT);
        let bulk = (rate - self.used) * BULK_PART / 8.0 * span;
        self.bulk_credit = (self.bulk_credit + bulk).clamp(0.0, MOST_BULK_CREDIT);
        self.sent = 0.0;
        self.refilled = Some(now);
    }

    /// How many parity shards a frame gets; they are paid for.
    pub fn parity(&mut self, cut: Cut, class: Class) -> usize {
        let each = (fec::parity_bytes(cut) as u64 + PACKET_OVERHEAD) as f64;
        let parity = self.losses.parity(cut.count, class).min((self.credit / each) as usize);
        self.credit -= each * parity as f64;
        parity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rate: f64, used: f64) -> usize {
        let mut budget = Budget::new();
        (0..400).for_each(|_| budget.losses.count(49, 1, 1));
        let mut now = Time::from_millis(1_000);
        let mut parity = 0;
        for _ in 0..300 {
            budget.refill(rate, now);
            (0..10).for_each(|_| budget.spent((used / 8.0 / 300.0) as usize, false));
            parity += budget.parity(Cut::of(20_000), Class::Delta);
            now += Duration::from_millis(33);
        }
        parity
    }

    #[test]
    fn only_what_is_spare_is_spent() {
        assert!(run(12e6, 5e6) > 500);
        assert_eq!(run(5e6, 5.5e6), 0);
        assert_eq!(run(5.4e6, 5e6), 0, "less than a tenth");
        let some = run(6e6, 5e6);
        assert!(some > 20 && some < 300, "{some}");
    }
}
