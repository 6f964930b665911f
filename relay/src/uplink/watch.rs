//! Watches the machine's network interfaces, and its sleep.
//!
//! A thread looks when the kernel says that something has changed, and every few seconds all the same. What
//! the kernel says is not read: a look is simpler than keeping state by its messages, and cannot miss one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use super::interfaces::{Interface, Network};

/// How often the clocks are looked at, and the interfaces too, where the kernel tells nothing.
const LOOK: Duration = Duration::from_millis(250);

/// How often the interfaces are looked at though the kernel has told nothing: not all that matters is told
/// (`rp_filter`).
const LOOK_ANYWAY: Duration = Duration::from_secs(3);

/// Changes come in bursts: a link, its addresses, its routes. One look for all that come within this.
const SETTLE: Duration = Duration::from_millis(20);

/// The boot clock, which goes on in suspend, got ahead of the other one by this much: the machine slept.
const SLEPT: Duration = Duration::from_secs(1);

/// Or this much passed between two looks: the process was stopped, or the virtual machine paused. The
/// longest that a busy machine kept a thread waiting was under a second.
const STOOD_STILL: Duration = Duration::from_secs(5);

/// Links, addresses and routes of both families, from `include/uapi/linux/rtnetlink.h`.
const RTMGRP: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// Notices that are taken for one look.
const MAX_TOLD: usize = 256;

/// Interfaces that are looked at; a machine with more gets the first by name.
const MAX_INTERFACES: usize = 256;

/// Whether there is an interface of this name.
pub(super) fn exists(name: &str) -> bool {
    !name.contains('/') && name != "." && name != ".." && Path::new("/sys/class/net").join(name).exists()
}

/// The addresses by which others in the neighbourhood may reach this machine, with their interfaces.
pub(super) fn addresses() -> Vec<(String, Ipv4Addr)> {
    let interfaces = look(0).interfaces.into_iter().filter(|(name, interface)| name != "lo" && interface.up);
    let pairs = interfaces.flat_map(|(name, interface)| {
        interface.addrs.into_iter().filter_map(move |addr| match addr {
            IpAddr::V4(addr) if !addr.is_loopback() => Some((name.clone(), addr)),
            _ => None,
        })
    });
    pairs.collect()
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
        let mut looked = mono;
        // What changed before it was open shows in the first look.
        let notices = Notices::open();
        let mut changed = true;
        loop {
            changed |= notices.wait();
            if sender.is_closed() {
                return;
            }
            let (mono_now, boot_now) = (Instant::now(), uptime());
            if stood_still(mono_now.duration_since(mono), boot_now.saturating_sub(boot)) {
                wakes += 1;
                changed = true;
            }
            (mono, boot) = (mono_now, boot_now);
            if !std::mem::take(&mut changed) && mono_now.duration_since(looked) < LOOK_ANYWAY {
                continue;
            }
            looked = mono_now;
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

/// The kernel's notices of changed links, addresses and routes (rtnetlink(7)).
struct Notices(Option<OwnedFd>);

impl Notices {
    fn open() -> Self {
        let open = || {
            let socket = rustix::net::socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                None,
            )?;
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(LOOK))?;
            rustix::net::bind(&socket, &SocketAddrNetlink::new(0, RTMGRP))?;
            Ok::<_, Errno>(socket)
        };
        let socket = open().inspect_err(|error| tracing::info!(%error, "the kernel tells of no changes"));
        Self(socket.ok())
    }

    /// Waits for at most about [`LOOK`]. Whether something may have changed.
    fn wait(&self) -> bool {
        let mut told = [0; 8192];
        let Some(socket) = &self.0 else {
            std::thread::sleep(LOOK);
            return true;
        };
        match rustix::net::recv(socket, &mut told, RecvFlags::empty()) {
            Ok(_) => std::thread::sleep(SETTLE),
            Err(Errno::AGAIN | Errno::INTR) => return false,
            // Told more than fits.
            Err(Errno::NOBUFS) => {}
            Err(error) => {
                tracing::debug!(%error, "the kernel tells of no changes");
                std::thread::sleep(LOOK);
            }
        }
        for _ in 0..MAX_TOLD {
            if rustix::net::recv(socket, &mut told, RecvFlags::DONTWAIT).is_err() {
                break;
            }
        }
        true
    }
}

/// Whether we, or the whole machine, were away between two looks: `mono` passed on the clock that
/// stops in suspend, and `boot` on the one that does not.
fn stood_still(mono: Duration, boot: Duration) -> bool {
    boot > mono + SLEPT || mono > LOOK + STOOD_STILL
}

/// Since boot, suspend included.
fn uptime() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
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
    use crate::uplink::plan::Bind;

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
    fn sleep_shows_in_the_boot_clock_and_a_stop_in_the_other() {
        let at = |seconds| Duration::from_secs(seconds);
        let look = Duration::from_millis(250);
        assert!(!stood_still(look, look));
        assert!(!stood_still(at(2), at(2)), "a busy machine");
        assert!(stood_still(look, at(3600)), "an hour of sleep");
        assert!(stood_still(at(12), at(12)), "stopped");
    }

    #[test]
    fn this_machine_has_a_loopback() {
        let here = look(0);
        let lo = &here.interfaces["lo"];
        assert!(lo.index > 0 && lo.up && lo.mtu > 1500, "{lo:?}");
        assert!(here.stand(&Bind::Any).is_ok());
        assert!(uptime() > Duration::ZERO);
    }
}
