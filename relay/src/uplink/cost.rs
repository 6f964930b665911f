//! What went over each uplink, against its data cap.

use std::collections::BTreeMap;

use super::plan::Tariff;

/// The creator is warned at these parts of a cap, in percent.
const WARN_AT: [u64; 2] = [80, 100];

/// Uplinks whose bytes are remembered after they went away. One that is forgotten begins at 0 again.
const MAX_NAMES: usize = 256;

/// What sending over an uplink costs now, for the scheduler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Only the order counts; 0 is free.
    pub price: u32,
    /// Of its cap. 0: only where nothing else works.
    pub bytes_left: Option<u64>,
}

/// Counts by the uplink's name, so that unplugging and reconnecting make nothing undone.
#[derive(Debug, Default)]
pub(crate) struct Ledger(BTreeMap<String, Account>);

#[derive(Debug, Default)]
struct Account {
    bytes: u64,
    /// How many of [`WARN_AT`] were said.
    warned: usize,
}

impl Ledger {
    /// Adds what went over the wire, both ways, headers included. Gives words for the creator when a
    /// part of the cap is used up.
    pub fn add(&mut self, name: &str, bytes: u64, tariff: Tariff) -> Option<String> {
        if !self.0.contains_key(name) && self.0.len() >= MAX_NAMES {
            self.0.pop_first();
        }
        let account = self.0.entry(name.to_owned()).or_default();
        account.bytes = account.bytes.saturating_add(bytes);
        let cap = tariff.cap?;
        let percent = (u128::from(account.bytes) * 100 / u128::from(cap.max(1))) as u64;
        let reached = WARN_AT.iter().filter(|part| percent >= **part).count();
        if reached <= account.warned {
            return None;
        }
        account.warned = reached;
        Some(if percent >= 100 {
            format!("{name} has used up its {}: from now on only when nothing else works", amount(cap))
        } else {
            format!("{name} has used {percent} % of its {}", amount(cap))
        })
    }

    /// So far.
    pub fn bytes(&self, name: &str) -> u64 {
        self.0.get(name).map_or(0, |account| account.bytes)
    }

    /// What the uplink costs now.
    pub fn cost(&self, name: &str, tariff: Tariff) -> Cost {
        let bytes_left = tariff.cap.map(|cap| cap.saturating_sub(self.bytes(name)));
        Cost { price: tariff.price, bytes_left }
    }
}

/// `4.2 GB`, `17 MB`.
pub fn amount(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes >= 999.5e6 => format!("{:.1} GB", bytes / 1e9),
        bytes => format!("{:.0} MB", bytes / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_warned_of_once_at_each_part_and_outlives_reconnects() {
        let mut ledger = Ledger::default();
        let capped = Tariff { price: 3, cap: Some(5_000_000) };
        assert_eq!(ledger.add("usb0", 3_999_999, capped), None);
        let words = ledger.add("usb0", 1, capped).unwrap();
        assert_eq!(words, "usb0 has used 80 % of its 5 MB");
        assert_eq!(ledger.add("usb0", 500_000, capped), None);
        assert_eq!(ledger.cost("usb0", capped), Cost { price: 3, bytes_left: Some(500_000) });
        let words = ledger.add("usb0", 700_000, capped).unwrap();
        assert!(words.contains("used up") && words.contains("nothing else works"), "{words}");
        assert_eq!(ledger.add("usb0", 9_000_000, capped), None);
        assert_eq!(ledger.cost("usb0", capped).bytes_left, Some(0));
        assert_eq!(ledger.add("wlan0", u64::MAX, Tariff::default()), None);
        assert_eq!(ledger.cost("wlan0", Tariff::default()), Cost::default());
    }

    #[test]
    fn a_leap_over_both_parts_is_one_warning() {
        let mut ledger = Ledger::default();
        let words = ledger.add("usb0", 10, Tariff { price: 0, cap: Some(10) }).unwrap();
        assert!(words.contains("used up"), "{words}");
        assert_eq!(ledger.add("usb0", 1, Tariff { price: 0, cap: Some(10) }), None);
    }

    #[test]
    fn names_are_bounded() {
        let mut ledger = Ledger::default();
        for n in 0..MAX_NAMES + 10 {
            ledger.add(&format!("usb{n}"), 1, Tariff::default());
        }
        assert_eq!(ledger.0.len(), MAX_NAMES);
    }

    #[test]
    fn amounts() {
        assert_eq!(amount(17_400_000), "17 MB");
        assert_eq!(amount(999_900_000), "1.0 GB");
        assert_eq!(amount(4_210_000_000), "4.2 GB");
    }
}
