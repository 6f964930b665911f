//! Which uplink has which path number, while interfaces come and go.

use std::collections::BTreeSet;
use std::time::Duration;

use bond::{MAX_PATHS, PathId};
use media::Time;

use super::interfaces::Network;
use super::plan::{Plan, Uplink};

/// An interface that was found by itself and has lost its default route is kept so long: a modem that
/// starts anew takes half a minute.
const KEEP: Duration = Duration::from_secs(60);

/// A change in who has which path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// This uplink is to be kept alive from now on.
    Add { path: PathId, uplink: Uplink },
    /// No longer.
    Remove { path: PathId },
}

/// The path numbers.
#[derive(Debug)]
pub(crate) struct Roster {
    auto: bool,
    /// Interfaces and addresses.
    named: BTreeSet<String>,
    slots: [Option<Slot>; MAX_PATHS],
}

#[derive(Clone, Debug)]
struct Slot {
    name: String,
    /// Asked for by name: stays, whatever becomes of it.
    named: bool,
    /// It has had no default route since then.
    missing: Option<Time>,
}

impl Roster {
    /// The named uplinks get their numbers in order, now.
    pub fn new(plan: &Plan) -> (Self, Vec<Change>) {
        let mut slots = [const { None }; MAX_PATHS];
        let mut changes = Vec::new();
        for ((path, slot), uplink) in (0..).zip(&mut slots).zip(&plan.named) {
            *slot = Some(Slot { name: uplink.name.clone(), named: true, missing: None });
            changes.push(Change::Add { path: PathId(path), uplink: uplink.clone() });
        }
        let named = plan.named.iter().map(|uplink| uplink.name.clone()).collect();
        (Self { auto: plan.auto, named, slots }, changes)
    }

    /// What the network as it is now asks for.
    pub fn update(&mut self, network: &Network, now: Time) -> Vec<Change> {
        if !self.auto {
            return Vec::new();
        }
        let named = &self.named;
        let held = |name: &str| network.interfaces.get(name).is_some_and(|i| i.holds(named));
        let wanted: BTreeSet<&str> =
            network.with_default_route().filter(|name| !named.contains(*name) && !held(name)).collect();
        let mut changes = Vec::new();
        for (path, slot) in (0..).zip(&mut self.slots) {
            let Some(found) = slot.as_mut().filter(|slot| !slot.named) else { continue };
            if wanted.contains(found.name.as_str()) {
                found.missing = None;
            } else if now.saturating_since(*found.missing.get_or_insert(now)) >= KEEP {
                *slot = None;
                changes.push(Change::Remove { path: PathId(path) });
            }
        }
        for name in wanted {
            if self.slots.iter().flatten().any(|slot| slot.name == name) {
                continue;
            }
            let Some((path, replaced)) = self.room() else { break };
            if replaced {
                changes.push(Change::Remove { path: PathId(path) });
            }
            self.slots[usize::from(path)] = Some(Slot { name: name.to_owned(), named: false, missing: None });
            changes.push(Change::Add { path: PathId(path), uplink: Uplink::interface(name) });
        }
        changes
    }

    /// When [`Roster::update`] has something to do though nothing changed.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.slots.iter().flatten().filter_map(|slot| slot.missing).map(|since| since + KEEP).min()
    }

    /// The first free number, or that of whoever has been missing longest, and whether it was taken.
    fn room(&self) -> Option<(u8, bool)> {
        let numbered = || (0u8..).zip(&self.slots);
        let free = numbered().find(|(_, slot)| slot.is_none()).map(|(path, _)| (path, false));
        let missing = numbered().filter_map(|(path, slot)| Some((slot.as_ref()?.missing?, path)));
        free.or_else(|| missing.min().map(|(_, path)| (path, true)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::interfaces::Interface;

    fn network(names: &[&str]) -> Network {
        let interface = |name: &&str| {
            let gateways = BTreeSet::from([(1, "10.0.0.1".parse().unwrap())]);
            ((*name).to_owned(), Interface { up: true, gateways, ..Interface::default() })
        };
        Network { interfaces: names.iter().map(interface).collect(), wakes: 0 }
    }

    fn at(seconds: u64) -> Time {
        Time::from_millis(1_000_000 + seconds * 1000)
    }

    fn told(changes: Vec<Change>) -> Vec<String> {
        let words = |change| match change {
            Change::Add { path, uplink } => format!("+{} {}", path.0, uplink.name),
            Change::Remove { path } => format!("-{}", path.0),
        };
        changes.into_iter().map(words).collect()
    }

    #[test]
    fn interfaces_come_and_go() {
        let plan = Plan { named: vec!["usb0=5000MB".parse().unwrap()], auto: true };
        let (mut roster, first) = Roster::new(&plan);
        assert_eq!(told(first), ["+0 usb0"]);
        assert_eq!(told(roster.update(&network(&["eth0", "usb0"]), at(0))), ["+1 eth0"]);
        assert_eq!(told(roster.update(&network(&["eth0", "usb0", "wlan0"]), at(1))), ["+2 wlan0"]);
        assert!(roster.update(&network(&["wlan0"]), at(2)).is_empty(), "it may come back");
        assert_eq!(roster.poll_timeout(), Some(at(2) + KEEP));
        assert!(roster.update(&network(&["eth0", "wlan0"]), at(50)).is_empty());
        assert_eq!(roster.poll_timeout(), None);
        assert!(roster.update(&network(&["wlan0"]), at(60)).is_empty());
        assert_eq!(told(roster.update(&network(&["wlan0"]), at(121))), ["-1"]);
        assert_eq!(
            told(roster.update(&network(&["wwan0", "wlan0"]), at(122))),
            ["+1 wwan0"],
            "numbers are used again"
        );
    }

    #[test]
    fn a_full_house_takes_the_place_of_who_left_first() {
        let (mut roster, _) = Roster::new(&Plan { named: Vec::new(), auto: true });
        let all = ["a", "b", "c", "d", "e", "f", "g", "h"];
        assert_eq!(roster.update(&network(&all), at(0)).len(), MAX_PATHS);
        assert!(roster.update(&network(&[&all[..], &["i"]].concat()), at(1)).is_empty());
        roster.update(&network(&["a", "b", "d", "e", "f", "g", "h"]), at(2));
        roster.update(&network(&["a", "d", "e", "f", "g", "h"]), at(3));
        assert_eq!(
            told(roster.update(&network(&["a", "d", "e", "f", "g", "h", "i"]), at(4))),
            ["-2", "+2 i"]
        );
    }

    #[test]
    fn without_auto_nothing_is_added() {
        let (mut roster, first) = Roster::new(&vec![Uplink::default_route()].into());
        assert_eq!(told(first), ["+0 default"]);
        assert!(roster.update(&network(&["eth0"]), at(0)).is_empty());
    }
}
