//! The machine's network interfaces: what is there, and when it changes.
//!
//! A thread looks a few times a second. That is simpler than netlink's messages, costs less than a
//! thousandth of a core, and cannot miss one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::plan::Bind;

/// How often the interfaces are looked at: what this takes is added to every hot-plug and address change.
const LOOK: Duration = Duration::from_millis(250);

/// The boot clock, which goes on in suspend, got ahead of the other one by this much: the machine slept.
const SLEPT: Duration = Duration::from_secs(1);

/// Or this much passed between two looks: the process was stopped, or the virtual machine paused. The
/// longest that a busy machine kept a thread waiting was under a second.
const STOOD_STILL: Duration = Duration::from_secs(5);

/// The smallest packet that QUIC begins with (RFC 9000, section 14) and its UDP and IPv4 headers.
const LEAST_MTU: u32 = 1200 + 28;

/// Interfaces that are looked at; a machine with more gets the first by name.
const MAX_INTERFACES: usize = 256;

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

/// Whether there is an interface of this name.
pub(super) fn exists(name: &str) -> bool {
    !name.contains('/') && name != "." && name != ".." && Path::new("/sys/class/net").join(name).exists()
}

/// The names of all interfaces.
pub(super) fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")
        .map(|dir| dir.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

/// Watches the machine until the last receiver is gone.
pub(crate) fn watch() -> watch::Receiver<Arc<Network>> {
    let (sender, receiver) = watch::channel(Arc::new(look(0)));
    let watcher = move || {
        let mut wakes = 0;
        let (mut mono, mut boot) = (Instant::now(), uptime());
        loop {
            std::thread::sleep(LOOK);
            if sender.is_closed() {
                return;
            }
            let (mono_now, boot_now) = (Instant::now(), uptime());
            if stood_still(mono_now.duration_since(mono), boot.zip(boot_now)) {
                wakes += 1;
            }
            (mono, boot) = (mono_now, boot_now);
            let seen = look(wakes);
            sender.send_if_modified(|last| {
                let news = **last != seen;
                if news {
                    *last = Arc::new(seen);
                }
                news
            });
        }
    };
    if let Err(error) = std::thread::Builder::new().name("uplink-watch".into()).spawn(watcher) {
        tracing::error!(%error, "the network interfaces cannot be watched: what changes is not seen");
    }
    receiver
}

/// Whether we, or the whole machine, were away between two looks: `mono` passed on the clock that
/// stops in suspend, and from the first to the second of `boot` on the one that does not.
fn stood_still(mono: Duration, boot: Option<(Duration, Duration)>) -> bool {
    let slept = boot.is_some_and(|(before, after)| after.saturating_sub(before) > mono + SLEPT);
    slept || mono > LOOK + STOOD_STILL
}

/// Since boot, suspend included.
fn uptime() -> Option<Duration> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let seconds = text.split(' ').next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn look(wakes: u64) -> Network {
    let mut interfaces: BTreeMap<String, Interface> =
        names().into_iter().take(MAX_INTERFACES).map(|name| (name.clone(), look_at(&name))).collect();
    for found in if_addrs::get_if_addrs().unwrap_or_default() {
        let addr = found.addr.ip();
        if let Some(interface) = interfaces.get_mut(&found.name)
            && !link_local(addr)
        {
            interface.addrs.insert(addr);
        }
    }
    let routes = default_routes_v4(&fs::read_to_string("/proc/net/route").unwrap_or_default());
    let routes_v6 = default_routes_v6(&fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default());
    for (name, metric, via) in routes.into_iter().chain(routes_v6) {
        if let Some(interface) = interfaces.get_mut(&name) {
            interface.gateways.insert((metric, via));
        }
    }
    Network { interfaces, wakes }
}

fn look_at(name: &str) -> Interface {
    let dir = Path::new("/sys/class/net").join(name);
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    let number = |file: &str| read(file).trim().parse().unwrap_or(0);
    let rp_filter = |name: &str| {
        let file = Path::new("/proc/sys/net/ipv4/conf").join(name).join("rp_filter");
        fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u8>().ok()).unwrap_or(0)
    };
    // What has no carrier to speak of (a tunnel, some modems) says "unknown".
    let up = !matches!(read("operstate").trim(), "down" | "lowerlayerdown" | "notpresent");
    Interface {
        index: number("ifindex"),
        up,
        mtu: number("mtu"),
        addrs: BTreeSet::new(),
        gateways: BTreeSet::new(),
        strict_reverse_path: rp_filter("all").max(rp_filter(name)) == 1,
    }
}

fn link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    }
}

/// From `include/uapi/linux/route.h` and `ipv6_route.h`.
const RTF_UP: u32 = 0x1;
const RTF_REJECT: u32 = 0x200;

/// Interface, metric and gateway of each default route in the form of `/proc/net/route`.
fn default_routes_v4(text: &str) -> Vec<(String, u32, IpAddr)> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, target, gateway, flags, _, _, metric, mask, ..] = fields.as_slice() else { return None };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let usable = flags & RTF_UP != 0 && flags & RTF_REJECT == 0;
        // The kernel prints the address as this machine's word.
        let gateway = u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes();
        let default = usable && *target == "00000000" && *mask == "00000000";
        default.then_some(((*name).to_owned(), metric.parse().ok()?, Ipv4Addr::from(gateway).into()))
    };
    text.lines().skip(1).filter_map(parse).collect()
}

/// The same in the form of `/proc/net/ipv6_route`.
fn default_routes_v6(text: &str) -> Vec<(String, u32, IpAddr)> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [target, length, _, _, gateway, metric, _, _, flags, name] = fields.as_slice() else {
            return None;
        };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let usable = flags & RTF_UP != 0 && flags & RTF_REJECT == 0;
        let default = usable && *length == "00" && target.bytes().all(|digit| digit == b'0');
        let gateway = Ipv6Addr::from(u128::from_str_radix(gateway, 16).ok()?);
        let metric = u32::from_str_radix(metric, 16).ok()?;
        default.then_some(((*name).to_owned(), metric, gateway.into()))
    };
    text.lines().filter_map(parse).collect()
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
    fn default_routes_as_the_kernel_prints_them() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                  wwan0\t00000000\t00000000\t0001\t0\t0\t700\t00000000\t0\t0\t0\n\
                  tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n\
                  eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                  *\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0\nbroken line\n";
        let gateway = if cfg!(target_endian = "little") { "192.0.2.1" } else { "1.2.0.192" };
        assert_eq!(
            default_routes_v4(v4),
            [
                ("eth0".to_owned(), 100, gateway.parse().unwrap()),
                ("wwan0".to_owned(), 700, Ipv4Addr::UNSPECIFIED.into())
            ]
        );
        let zero = "0".repeat(32);
        let v6 = format!(
            "fd000000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth0\n\
             {zero} 00 {zero} 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
        );
        assert_eq!(default_routes_v6(&v6), [("eth0".to_owned(), 1024, "fd00::1".parse().unwrap())]);
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

    #[test]
    fn sleep_shows_in_the_boot_clock_and_a_stop_in_the_other() {
        let at = |seconds| Duration::from_secs(seconds);
        let look = Duration::from_millis(250);
        assert!(!stood_still(look, Some((at(100), at(100)))));
        assert!(!stood_still(Duration::from_secs(2), Some((at(100), at(102)))), "a busy machine");
        assert!(stood_still(look, Some((at(100), at(3700)))), "an hour of sleep");
        assert!(stood_still(at(12), Some((at(100), at(112)))), "stopped");
        assert!(stood_still(at(12), None) && !stood_still(look, None));
    }

    #[test]
    fn this_machine_has_a_loopback() {
        let here = look(0);
        let lo = &here.interfaces["lo"];
        assert!(lo.index > 0 && lo.up && lo.mtu > 1500, "{lo:?}");
        assert!(here.stand(&Bind::Any).is_ok());
        assert!(uptime().unwrap() > Duration::ZERO);
    }
}
