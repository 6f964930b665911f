//! Which uplinks there shall be, as the creator writes them:
//! `auto`, `wlan0`, `usb0=5000MB`, `usb1=5GB@2`, `192.0.2.7`, `NAME:via=HOST:PORT`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::watch;

/// The word for "every interface with a default route".
const AUTO: &str = "auto";

/// Prices go from 0 (free, the default) to this.
pub const MAX_PRICE: u32 = 1_000_000;

/// An uplink that was asked for by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// What the creator calls it.
    pub name: String,
    /// Where its packets leave the machine.
    pub bind: Bind,
    /// Send to this address in place of the edge's own: an emulator, a tunnel.
    pub via: Option<SocketAddr>,
    /// What it costs.
    pub tariff: Tariff,
}

/// Where packets leave the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// Wherever the routing table says.
    Any,
    /// Through this network interface.
    Interface(String),
    /// From this address.
    Source(IpAddr),
}

/// What an uplink costs, as the creator says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tariff {
    /// Only the order counts: the cheaper uplinks are filled first. 0 is free.
    pub price: u32,
    /// So many bytes may go over it, both ways, headers included; then it is for emergencies only.
    pub cap: Option<u64>,
}

/// All uplinks of a show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order of their path numbers; at most [`bond::MAX_PATHS`].
    pub named: Vec<Uplink>,
    /// Every interface with a default route beside them, as they come and go.
    pub auto: bool,
}

/// Uplinks that cannot be used as told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UplinkError {
    /// No interface has this name.
    #[error("there is no network interface {name:?}{}", known(.interfaces))]
    NoInterface {
        /// As given.
        name: String,
        /// Those that exist.
        interfaces: Vec<String>,
    },
    /// This machine does not have the address.
    #[error("this machine has no address {0}; `ip address` lists those it has")]
    NoAddress(IpAddr),
    /// The part after `via=`.
    #[error("{0:?} is not an address with a port, such as 127.0.0.1:7001")]
    Via(String),
    /// The part after `=`.
    #[error("{0:?} is no amount of data: write it as 5000MB or 5GB")]
    Cap(String),
    /// The part after `@`.
    #[error(
        "{0:?} is no price: a whole number from 0 (free) to {MAX_PRICE}; cheaper uplinks are filled first"
    )]
    Price(String),
    /// Empty.
    #[error("an uplink needs a name: an interface such as wlan0, an address of this machine, or `auto`")]
    Empty,
    /// `auto` stands for many.
    #[error(
        "`auto` stands for many uplinks: give a price or a cap to one of them by its name beside it, \
         such as --uplink auto --uplink usb0=5000MB"
    )]
    AutoTariff,
    /// The same name twice.
    #[error("it is given twice")]
    Twice,
    /// More than a bond can have.
    #[error("{0} uplinks are more than the {most} that a bond can have", most = bond::MAX_PATHS)]
    TooMany(usize),
}

fn known(interfaces: &[String]) -> String {
    if interfaces.is_empty() { String::new() } else { format!("; there are: {}", interfaces.join(", ")) }
}

impl Plan {
    /// Reads the uplinks of a command line or settings file; none means the default route. Unless they
    /// come and go (`auto`), those that are named must be there now: at the start, absence is more
    /// likely a slip of the pen. The text that is wrong comes with the error.
    pub fn parse(texts: &[String]) -> Result<Self, (String, UplinkError)> {
        let mut plan = Self::default();
        for text in texts {
            let add = || {
                if text == AUTO {
                    return if plan.auto { Err(UplinkError::Twice) } else { Ok(None) };
                }
                let uplink: Uplink = text.parse()?;
                if plan.named.iter().any(|other| other.name == uplink.name) {
                    return Err(UplinkError::Twice);
                }
                Ok(Some(uplink))
            };
            match add().map_err(|error| (text.clone(), error))? {
                None => plan.auto = true,
                Some(uplink) => plan.named.push(uplink),
            }
        }
        if plan.named.len() > bond::MAX_PATHS {
            return Err((texts.join(" "), UplinkError::TooMany(plan.named.len())));
        }
        if !plan.auto {
            for uplink in &plan.named {
                uplink.check().map_err(|error| (uplink.name.clone(), error))?;
            }
            if plan.named.is_empty() {
                plan.named.push(Uplink::default_route());
            }
        }
        Ok(plan)
    }
}

impl From<Vec<Uplink>> for Plan {
    fn from(named: Vec<Uplink>) -> Self {
        Self { named, auto: false }
    }
}

impl Uplink {
    /// The way that the routing table takes.
    pub fn default_route() -> Self {
        Self { name: "default".into(), bind: Bind::Any, via: None, tariff: Tariff::default() }
    }

    /// An interface, free of charge.
    pub fn interface(name: &str) -> Self {
        let bind = Bind::Interface(name.into());
        Self { name: name.into(), bind, via: None, tariff: Tariff::default() }
    }

    /// Whether the interface or address exists now.
    pub fn check(&self) -> Result<(), UplinkError> {
        match &self.bind {
            Bind::Any => Ok(()),
            Bind::Interface(name) if watch::exists(name) => Ok(()),
            Bind::Interface(name) => {
                Err(UplinkError::NoInterface { name: name.clone(), interfaces: watch::names() })
            }
            Bind::Source(addr) => {
                std::net::UdpSocket::bind((*addr, 0)).map(drop).map_err(|_| UplinkError::NoAddress(*addr))
            }
        }
    }
}

impl FromStr for Uplink {
    type Err = UplinkError;

    /// `IFACE`, `ADDRESS` or `NAME`, then in this order, each if wanted, `=CAP`, `@PRICE`,
    /// `:via=HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, UplinkError> {
        let (rest, via) = match text.split_once(":via=") {
            Some((rest, via)) => (rest, Some(via.parse().map_err(|_| UplinkError::Via(via.into()))?)),
            None => (text, None),
        };
        let (rest, price) = match rest.split_once('@') {
            Some((rest, price)) => (rest, parse_price(price)?),
            None => (rest, 0),
        };
        let (name, cap) = match rest.split_once('=') {
            Some((name, cap)) => (name, Some(parse_amount(cap)?)),
            None => (rest, None),
        };
        if name.is_empty() {
            return Err(UplinkError::Empty);
        }
        if name == AUTO {
            return Err(UplinkError::AutoTariff);
        }
        let bind = match name.parse() {
            Ok(addr) => Bind::Source(addr),
            Err(_) if via.is_some() && !watch::exists(name) => Bind::Any,
            Err(_) => Bind::Interface(name.into()),
        };
        Ok(Self { name: name.into(), bind, via, tariff: Tariff { price, cap } })
    }
}

fn parse_price(text: &str) -> Result<u32, UplinkError> {
    text.parse().ok().filter(|price| *price <= MAX_PRICE).ok_or_else(|| UplinkError::Price(text.into()))
}

/// Providers count in thousands.
fn parse_amount(text: &str) -> Result<u64, UplinkError> {
    let units = [("MB", 1e6), ("GB", 1e9), ("TB", 1e12)];
    let amount = units.iter().find_map(|(unit, bytes)| {
        let split = text.len().checked_sub(unit.len()).filter(|at| text.is_char_boundary(*at))?;
        let (digits, given) = text.split_at(split);
        given.eq_ignore_ascii_case(unit).then(|| digits.parse::<f64>().ok().map(|n| n * bytes))?
    });
    // From one byte to an exabyte.
    let good = amount.filter(|bytes| (1.0..=1e18).contains(bytes));
    good.map(|bytes| bytes as u64).ok_or_else(|| UplinkError::Cap(text.into()))
}

impl fmt::Display for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn plan(texts: &[&str]) -> Result<Plan, (String, UplinkError)> {
        Plan::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn uplinks_as_people_write_them() {
        let uplink: Uplink = "lo".parse().unwrap();
        assert_eq!(uplink.bind, Bind::Interface("lo".into()));
        uplink.check().unwrap();
        let uplink: Uplink = "127.0.0.1".parse().unwrap();
        assert_eq!(uplink.bind, Bind::Source(Ipv4Addr::LOCALHOST.into()));
        uplink.check().unwrap();
        let uplink: Uplink = "5g-one:via=127.0.0.1:7001".parse().unwrap();
        assert_eq!((uplink.bind, uplink.via), (Bind::Any, Some("127.0.0.1:7001".parse().unwrap())));
        assert_eq!("x:via=y".parse::<Uplink>(), Err(UplinkError::Via("y".into())));
        assert_eq!("".parse::<Uplink>(), Err(UplinkError::Empty));
    }

    #[test]
    fn caps_and_prices() {
        let tariff = |text: &str| text.parse::<Uplink>().unwrap().tariff;
        assert_eq!(tariff("usb0=5000MB"), Tariff { price: 0, cap: Some(5_000_000_000) });
        assert_eq!(tariff("usb0=1.5gb@3"), Tariff { price: 3, cap: Some(1_500_000_000) });
        assert_eq!(tariff("wlan0@2"), Tariff { price: 2, cap: None });
        assert_eq!(tariff("sim=1MB@7:via=127.0.0.1:7001"), Tariff { price: 7, cap: Some(1_000_000) });
        assert_eq!(tariff("2001:db8::7@2"), Tariff { price: 2, cap: None });
        for bad in ["usb0=", "usb0=5", "usb0=MB", "usb0=-1MB", "usb0=NaNGB", "usb0=infTB", "usb0=5é"] {
            let Err(UplinkError::Cap(_)) = bad.parse::<Uplink>() else { panic!("{bad}") };
        }
        for bad in ["usb0@", "usb0@-1", "usb0@1.5", "usb0@9999999"] {
            let Err(UplinkError::Price(_)) = bad.parse::<Uplink>() else { panic!("{bad}") };
        }
        assert_eq!("=5MB".parse::<Uplink>(), Err(UplinkError::Empty));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let (text, error) = plan(&["lo", "usb7"]).unwrap_err();
        let words = error.to_string();
        assert!(text == "usb7" && words.contains("\"usb7\"") && words.contains("lo"), "{words}");
        let (_, error) = plan(&["203.0.113.9"]).unwrap_err();
        assert!(error.to_string().contains("203.0.113.9"));
    }

    #[test]
    fn plans() {
        assert_eq!(plan(&[]).unwrap(), Plan::from(vec![Uplink::default_route()]));
        let auto = plan(&["auto", "usb7=5000MB"]).unwrap();
        assert!(auto.auto && auto.named[0].name == "usb7", "what comes and goes need not be there now");
        assert_eq!(plan(&["auto", "auto"]).unwrap_err().1, UplinkError::Twice);
        assert_eq!(plan(&["lo", "lo@2"]).unwrap_err().1, UplinkError::Twice);
        assert_eq!(plan(&["auto@2"]).unwrap_err().1, UplinkError::AutoTariff);
        let nine: Vec<String> = (1..10).map(|n| format!("127.0.0.{n}")).collect();
        assert_eq!(Plan::parse(&nine).unwrap_err().1, UplinkError::TooMany(9));
    }
}
