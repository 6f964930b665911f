//! The machine's network interfaces as they are at one moment, and what an uplink stands on there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::plan::Bind;

/// The smallest packet that QUIC begins with (RFC 9000, section 14) and its UDP and IPv4 headers.
const LEAST_MTU: u32 = 1200 + 28;

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Changes when the interface is unplugged and plugged in again.
    pub index: u32,
    /// Has its carrier, as far as can be known.
    pub up: bool,
    /// Largest packet, bytes; 0 when not known.
    pub mtu: u32,
    /// Without the link-local ones, which lead nowhere.
    pub addrs: BTreeSet<IpAddr>,
    /// Gateways of its default routes, with their metrics.
    pub gateways: BTreeSet<(u32, IpAddr)>,
    /// The kernel drops answers that come in on another interface than it would send by itself.
    pub strict_reverse_path: bool,
}

/// All of them, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Network {
    pub interfaces: BTreeMap<String, Interface>,
    /// How often the machine woke up, since the watch began.
    pub wakes: u64,
}

/// Why an uplink has nothing to stand on. The words are for the creator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("there is no interface {0} now: plug it in")]
    Gone(String),
    #[error("{0} is down: no cable, or not switched on")]
    Down(String),
    #[error("{0} has no address yet")]
    NoAddress(String),
    #[error("this machine does not have the address {0} now")]
    AddressGone(IpAddr),
    #[error(
        "{name} carries packets of at most {mtu} bytes (its MTU), and {LEAST_MTU} are needed: \
         `ip link set {name} mtu 1500`"
    )]
    Mtu { name: String, mtu: u32 },
}

/// What an uplink stands on in one IP family; when it changes, its socket is made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stance {
    /// The interface, where it is known, as it is called and as the kernel counts it.
    pub device: Option<(String, u32)>,
    addrs: BTreeSet<IpAddr>,
    gateways: BTreeSet<(u32, IpAddr)>,
    /// For people, when nothing answers.
    pub hint: Option<String>,
}

/// What an uplink stands on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footing {
    pub v4: Option<Stance>,
    pub v6: Option<Stance>,
}

impl Footing {
    pub fn of(&self, ipv4: bool) -> Option<&Stance> {
        if ipv4 { self.v4.as_ref() } else { self.v6.as_ref() }
    }
}

impl Network {
    /// What an uplink that is bound like this stands on now.
    pub fn stand(&self, bind: &Bind) -> Result<Footing, Trouble> {
        match bind {
            Bind::Any => Ok(self.default_footing()),
            Bind::Interface(name) => {
                let interface = self.interfaces.get(name).ok_or_else(|| Trouble::Gone(name.clone()))?;
                interface.usable(name)?;
                let footing = Footing {
                    v4: interface.stance(name, true, self),
                    v6: interface.stance(name, false, self),
                };
                match footing {
                    Footing { v4: None, v6: None } => Err(Trouble::NoAddress(name.clone())),
                    footing => Ok(footing),
                }
            }
            Bind::Source(addr) => {
                let holder = self.interfaces.iter().find(|(_, interface)| interface.addrs.contains(addr));
                let stance = match holder {
                    // The whole of 127.0.0.0/8 is there without being listed.
                    _ if addr.is_loopback() => Stance {
                        device: None,
                        addrs: BTreeSet::from([*addr]),
                        gateways: BTreeSet::new(),
                        hint: None,
                    },
                    None => return Err(Trouble::AddressGone(*addr)),
                    Some((name, interface)) => {
                        interface.usable(name)?;
                        let all = interface.stance(name, addr.is_ipv4(), self);
                        let mut stance = all.ok_or(Trouble::AddressGone(*addr))?;
                        stance.addrs.retain(|other| other == addr);
                        stance
                    }
                };
                Ok(match addr {
                    IpAddr::V4(_) => Footing { v4: Some(stance), v6: None },
                    IpAddr::V6(_) => Footing { v4: None, v6: Some(stance) },
                })
            }
        }
    }

    /// Interfaces that lead to the Internet: those with a default route.
    pub fn with_default_route(&self) -> impl Iterator<Item = &str> {
        let leads =
            |(name, interface): (&String, &Interface)| *name != "lo" && !interface.gateways.is_empty();
        self.interfaces.iter().filter(move |entry| leads(*entry)).map(|(name, _)| name.as_str())
    }

    /// The interface that the routing table prefers.
    fn preferred(&self, ipv4: bool) -> Option<(&String, &Interface)> {
        let metric = |interface: &Interface| {
            interface
                .gateways
                .iter()
                .filter(|(_, via)| via.is_ipv4() == ipv4)
                .map(|(metric, _)| *metric)
                .min()
        };
        let with_metric = self.interfaces.iter().filter_map(|entry| Some((metric(entry.1)?, entry)));
        with_metric.min_by_key(|(metric, _)| *metric).map(|(_, entry)| entry)
    }

    /// The routing table decides, so any change of what it prefers counts. Loopback needs no route at
    /// all, so that there is always something to stand on.
    fn default_footing(&self) -> Footing {
        let family = |ipv4| {
            let preferred =
                self.preferred(ipv4).and_then(|(name, interface)| interface.stance(name, ipv4, self));
            let nothing = Stance {
                device: None,
                addrs: BTreeSet::new(),
                gateways: BTreeSet::new(),
                hint: Some("this machine has no default route".into()),
            };
            Some(preferred.map_or(nothing, |stance| Stance { hint: None, ..stance }))
        };
        Footing { v4: family(true), v6: family(false) }
    }
}

impl Interface {
    /// Whether it has one of these addresses.
    pub fn holds(&self, addrs: &BTreeSet<String>) -> bool {
        self.addrs.iter().any(|addr| addrs.contains(&addr.to_string()))
    }

    fn usable(&self, name: &str) -> Result<(), Trouble> {
        if !self.up {
            return Err(Trouble::Down(name.to_owned()));
        }
        if (1..LEAST_MTU).contains(&self.mtu) {
            return Err(Trouble::Mtu { name: name.to_owned(), mtu: self.mtu });
        }
        Ok(())
    }

    fn stance(&self, name: &str, ipv4: bool, network: &Network) -> Option<Stance> {
        let family = |addr: &IpAddr| addr.is_ipv4() == ipv4;
        let addrs: BTreeSet<IpAddr> = self.addrs.iter().copied().filter(family).collect();
        if addrs.is_empty() {
            return None;
        }
        let gateways: BTreeSet<(u32, IpAddr)> =
            self.gateways.iter().copied().filter(|(_, via)| family(via)).collect();
        let preferred = network.preferred(ipv4).is_none_or(|(preferred, _)| preferred == name);
        let hint = if name != "lo" && gateways.is_empty() {
            Some(format!("{name} has no default route"))
        } else if ipv4 && self.strict_reverse_path && !preferred {
            Some(format!(
                "this machine drops answers on {name}: `sysctl net.ipv4.conf.all.rp_filter=2 \
                 net.ipv4.conf.{name}.rp_filter=2`"
            ))
        } else {
            None
        };
        Some(Stance { device: Some((name.to_owned(), self.index)), addrs, gateways, hint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, addrs: &[&str], gateways: &[(u32, &str)]) -> Interface {
        Interface {
            index,
            up: true,
            mtu: 1500,
            addrs: addrs.iter().map(|addr| addr.parse().unwrap()).collect(),
            gateways: gateways.iter().map(|(metric, via)| (*metric, via.parse().unwrap())).collect(),
            strict_reverse_path: false,
        }
    }

    fn network(interfaces: &[(&str, Interface)]) -> Network {
        let interfaces = interfaces.iter().map(|(name, i)| ((*name).to_owned(), i.clone())).collect();
        Network { interfaces, wakes: 0 }
    }

    #[test]
    fn what_is_wrong_with_an_interface_is_said() {
        let usb = |change: fn(&mut Interface)| {
            let mut usb = interface(7, &["10.0.0.2"], &[(1, "10.0.0.1")]);
            change(&mut usb);
            network(&[("usb0", usb)]).stand(&Bind::Interface("usb0".into())).map_err(|t| t.to_string())
        };
        assert!(usb(|_| ()).unwrap().v6.is_none());
        assert!(usb(|i| i.up = false).unwrap_err().contains("usb0 is down"));
        assert!(usb(|i| i.addrs.clear()).unwrap_err().contains("usb0 has no address"));
        let words = usb(|i| i.mtu = 1000).unwrap_err();
        assert!(words.contains("1000") && words.contains("1228") && words.contains("ip link"), "{words}");
        assert!(usb(|i| i.mtu = 0).is_ok(), "not known is not too small");
        let gone = network(&[]).stand(&Bind::Interface("usb0".into()));
        assert_eq!(gone, Err(Trouble::Gone("usb0".into())));
        let gone = network(&[]).stand(&Bind::Source("10.0.0.2".parse().unwrap()));
        assert_eq!(gone, Err(Trouble::AddressGone("10.0.0.2".parse().unwrap())));
        assert!(network(&[]).stand(&Bind::Source("127.0.0.9".parse().unwrap())).is_ok());
    }

    #[test]
    fn what_an_uplink_stands_on_changes_with_what_matters_to_it() {
        let one = interface(2, &["10.1.0.2", "fd01::2"], &[(100, "10.1.0.1")]);
        let two = interface(3, &["10.2.0.2"], &[(200, "10.2.0.1")]);
        let on = |two: &Interface| network(&[("a", one.clone()), ("b", two.clone())]);
        let bind = Bind::Interface("b".into());
        let before = on(&two).stand(&bind).unwrap();
        assert_eq!(before.of(true).unwrap().hint, None);

        let changes: [fn(&mut Interface); 3] = [
            |i| i.index = 9,
            |i| i.addrs = BTreeSet::from(["10.2.0.3".parse().unwrap()]),
            |i| i.gateways = BTreeSet::from([(200, "10.2.0.9".parse().unwrap())]),
        ];
        for change in changes {
            let mut other = two.clone();
            change(&mut other);
            assert_ne!(on(&other).stand(&bind).unwrap(), before);
            assert_eq!(
                on(&other).stand(&Bind::Interface("a".into())).unwrap(),
                on(&two).stand(&Bind::Interface("a".into())).unwrap()
            );
        }
        let mut strict = two.clone();
        strict.strict_reverse_path = true;
        let hint = on(&strict).stand(&bind).unwrap().v4.unwrap().hint.unwrap();
        assert!(hint.contains("rp_filter"), "{hint}");
        let mut lost = two.clone();
        lost.gateways.clear();
        let hint = on(&lost).stand(&bind).unwrap().v4.unwrap().hint.unwrap();
        assert!(hint.contains("no default route"), "{hint}");

        // The default route is whichever has the least metric.
        let any = on(&two).stand(&Bind::Any).unwrap();
        assert_eq!(any.v4.unwrap().device, Some(("a".into(), 2)));
        let mut cheap = two.clone();
        cheap.gateways = BTreeSet::from([(50, "10.2.0.1".parse().unwrap())]);
        assert_eq!(on(&cheap).stand(&Bind::Any).unwrap().v4.unwrap().device, Some(("b".into(), 3)));
        assert_eq!(on(&two).with_default_route().collect::<Vec<_>>(), ["a", "b"]);
    }
}
