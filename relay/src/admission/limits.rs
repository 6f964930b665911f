//! How many and how often: connections of one address, sessions of one ticket. A pure machine; every map in it is
//! bounded.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};

use media::Time;

/// So often may something happen: `burst` times at once, and then so many times a second.
#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: u64,
    burst: u64,
}

/// New connections of one address. Behind one address there may be a room of 200 viewers who reload at once, and a
/// test's crowd of 1,000.
const CONNECTIONS: Rate = Rate { per_second: 100, burst: 2_000 };

/// New sessions of one ticket, which may be shared by a whole audience.
const SESSIONS: Rate = Rate { per_second: 200, burst: 4_000 };

/// Connections of one address at once, where the settings say nothing else.
pub const MAX_CONNECTIONS: u32 = 1_500;

/// Of them, those in the middle of their handshakes: more than a room of 200 that comes all at once.
const MAX_HALF_OPEN: u32 = 256;

/// Addresses that are remembered: some 6 MB. Those without connections are forgotten first, which loses nothing as
/// soon as their burst is theirs again; a newcomer beyond the rest is turned away.
const MAX_ADDRESSES: usize = 65_536;

/// The same of tickets.
const MAX_TICKETS: usize = 65_536;

/// How much of the burst is used up (the generic cell rate algorithm): all of it is there again at `full_at`.
#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    full_at: Time,
}

impl Meter {
    fn allows(&self, rate: Rate, now: Time) -> bool {
        let used = self.full_at.saturating_since(now).as_micros() as u64;
        used + 1_000_000 / rate.per_second <= rate.burst * 1_000_000 / rate.per_second
    }

    fn take(&mut self, rate: Rate, now: Time) -> bool {
        let allowed = self.allows(rate, now);
        if allowed {
            self.full_at = Time::from_micros(self.full_at.max(now).as_micros() + 1_000_000 / rate.per_second);
        }
        allowed
    }

    fn is_full(&self, now: Time) -> bool {
        self.full_at <= now
    }
}

/// A map that forgets who is idle, but nobody else.
#[derive(Debug)]
struct Bounded<K, V> {
    map: HashMap<K, V>,
    most: usize,
    /// With so many it is swept: twice those that the last sweep left, so that its cost stays in proportion.
    sweep_at: usize,
    /// Newcomers to turn away before a full map is swept again.
    turn_away: u32,
}

/// A sweep of a full map takes a millisecond: every so many newcomers.
const TURN_AWAY: u32 = 4096;

impl<K: Eq + Hash, V: Default> Bounded<K, V> {
    fn new(most: usize) -> Self {
        Self { map: HashMap::new(), most, sweep_at: 1024, turn_away: 0 }
    }

    /// The entry of `key`, made if need be; `None` where there is no room.
    fn entry(&mut self, key: K, idle: impl Fn(&V) -> bool) -> Option<&mut V> {
        if self.map.len() >= self.sweep_at && !self.map.contains_key(&key) {
            if self.turn_away > 0 {
                self.turn_away -= 1;
                return None;
            }
            self.map.retain(|_, value| !idle(value));
            self.sweep_at = (self.map.len() * 2).max(1024).min(self.most);
            if self.map.len() >= self.most {
                self.turn_away = TURN_AWAY;
                return None;
            }
        }
        Some(self.map.entry(key).or_default())
    }
}

/// Who counts as one: an IPv4 address, or the 64 bits of IPv6 that one customer has at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin(IpAddr);

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        // A socket for both families shows IPv4 as ::ffff:1.2.3.4.
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        })
    }
}

#[derive(Debug, Default)]
struct Address {
    open: u32,
    half_open: u32,
    meter: Meter,
}

impl Address {
    fn is_idle(&self, now: Time) -> bool {
        self.open == 0 && self.half_open == 0 && self.meter.is_full(now)
    }
}

/// A session's place among those of its ticket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Seat {
    /// A session of its own: each has another number.
    Session(u64),
    /// The show of this name, over however many uplinks, and by an encoder or by its ghost.
    Show(String),
}

#[derive(Debug, Default)]
struct Ticket {
    /// How many hold each seat.
    seats: HashMap<Seat, u32>,
    meter: Meter,
}

/// Why there is no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSeat {
    /// All are taken.
    Taken,
    /// They are taken too fast.
    TooFast,
}

/// All counts.
#[derive(Debug)]
pub struct Limits {
    max_connections: u32,
    addresses: Bounded<Origin, Address>,
    tickets: Bounded<[u8; 32], Ticket>,
}

impl Limits {
    /// At most so many connections of one address.
    pub fn new(max_connections: u32) -> Self {
        Self { max_connections, addresses: Bounded::new(MAX_ADDRESSES), tickets: Bounded::new(MAX_TICKETS) }
    }

    /// So many connections of one address from now on; those that there are stay.
    pub fn allow(&mut self, max_connections: u32) {
        self.max_connections = max_connections;
    }

    /// Whether one more connection of this address would be let in. Costs no memory: anybody can write any address
    /// on a packet.
    pub fn would_enter(&self, address: IpAddr, now: Time) -> bool {
        self.addresses.map.get(&address.into()).is_none_or(|entry| {
            entry.open < self.max_connections
                && entry.half_open < MAX_HALF_OPEN
                && entry.meter.allows(CONNECTIONS, now)
        })
    }

    /// A handshake begins, with an address that was proved. To be paired with [`end_handshake`](Self::end_handshake)
    /// where it gives true.
    pub fn begin_handshake(&mut self, address: IpAddr, now: Time) -> bool {
        let Some(entry) = self.addresses.entry(address.into(), |entry| entry.is_idle(now)) else {
            return false;
        };
        let begins = entry.half_open < MAX_HALF_OPEN;
        entry.half_open += u32::from(begins);
        begins
    }

    /// A handshake has ended, well or not.
    pub fn end_handshake(&mut self, address: IpAddr) {
        if let Some(entry) = self.addresses.map.get_mut(&address.into()) {
            entry.half_open = entry.half_open.saturating_sub(1);
        }
    }

    /// A connection stands, so its address is its own. To be paired with [`leave`](Self::leave) where it gives true.
    pub fn enter(&mut self, address: IpAddr, now: Time) -> bool {
        let max = self.max_connections;
        let Some(entry) = self.addresses.entry(address.into(), |entry| entry.is_idle(now)) else {
            return false;
        };
        let enters = entry.open < max && entry.meter.take(CONNECTIONS, now);
        entry.open += u32::from(enters);
        enters
    }

    /// A connection is gone.
    pub fn leave(&mut self, address: IpAddr) {
        if let Some(entry) = self.addresses.map.get_mut(&address.into()) {
            entry.open = entry.open.saturating_sub(1);
        }
    }

    /// A session with a ticket that allows `most` at once (`None`: any number). To be paired with
    /// [`unseat`](Self::unseat) where it succeeds.
    pub fn seat(&mut self, ticket: [u8; 32], seat: Seat, most: Option<u32>, now: Time) -> Result<(), NoSeat> {
        let idle = |ticket: &Ticket| ticket.seats.is_empty() && ticket.meter.is_full(now);
        let entry = self.tickets.entry(ticket, idle).ok_or(NoSeat::TooFast)?;
        if !entry.seats.contains_key(&seat) && most.is_some_and(|most| entry.seats.len() >= most as usize) {
            return Err(NoSeat::Taken);
        }
        if !entry.meter.take(SESSIONS, now) {
            return Err(NoSeat::TooFast);
        }
        *entry.seats.entry(seat).or_default() += 1;
        Ok(())
    }

    /// Whether one more session would find a seat.
    pub fn has_seat(&self, ticket: [u8; 32], most: Option<u32>) -> bool {
        let taken = self.tickets.map.get(&ticket).map_or(0, |entry| entry.seats.len());
        most.is_none_or(|most| taken < most as usize)
    }

    /// A session is over.
    pub fn unseat(&mut self, ticket: [u8; 32], seat: &Seat) {
        let Some(entry) = self.tickets.map.get_mut(&ticket) else { return };
        if let Entry::Occupied(mut held) = entry.seats.entry(seat.clone()) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_millis(1_000_000 + ms)
    }

    fn v4(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(n).into()
    }

    #[test]
    fn a_room_of_200_behind_one_address_is_let_in_at_once_and_again() {
        let mut limits = Limits::new(MAX_CONNECTIONS);
        for reload in 0..5 {
            for _ in 0..200 {
                assert!(limits.would_enter(v4(1), at(reload)) && limits.enter(v4(1), at(reload)));
            }
            (0..200).for_each(|_| limits.leave(v4(1)));
        }
    }

    #[test]
    fn an_address_has_so_many_connections_and_so_many_new_ones() {
        let mut limits = Limits::new(3);
        assert_eq!((0..5).filter(|_| limits.enter(v4(1), at(0))).count(), 3);
        assert!(!limits.would_enter(v4(1), at(0)) && limits.would_enter(v4(2), at(0)));
        limits.leave(v4(1));
        assert!(limits.enter(v4(1), at(0)));
        // Coming and going uses up the burst; time gives it back.
        let mut limits = Limits::new(10);
        let mut come_and_go = |ms| {
            let came = limits.enter(v4(1), at(ms));
            if came {
                limits.leave(v4(1));
            }
            came
        };
        assert_eq!((0..5_000).filter(|_| come_and_go(0)).count(), 2_000);
        assert_eq!((0..5_000).filter(|_| come_and_go(1_000)).count(), 100);
    }

    #[test]
    fn who_counts_as_one() {
        let origin = |text: &str| Origin::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff:0:0:1"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
    }

    #[test]
    fn handshakes_of_one_address_do_not_take_all_places() {
        let mut limits = Limits::new(MAX_CONNECTIONS);
        assert_eq!((0..1_000).filter(|_| limits.begin_handshake(v4(1), at(0))).count(), 256);
        assert!(limits.begin_handshake(v4(2), at(0)) && !limits.would_enter(v4(1), at(0)));
        (0..256).for_each(|_| limits.end_handshake(v4(1)));
        assert!(limits.would_enter(v4(1), at(0)));
    }

    #[test]
    fn the_memory_of_addresses_is_bounded_and_forgets_nobody_who_is_there() {
        let mut limits = Limits::new(MAX_CONNECTIONS);
        assert!(limits.enter(v4(0), at(0)));
        for n in 1..300_000 {
            // A thousand addresses a millisecond come and go.
            if limits.enter(v4(n), at(u64::from(n) / 1000)) {
                limits.leave(v4(n));
            }
            assert!(limits.addresses.map.len() <= MAX_ADDRESSES);
        }
        assert!(limits.addresses.map.contains_key(&v4(0).into()));
        // A while later those are idle, and there is room again.
        assert!(limits.enter(v4(300_000), at(60_000)));
        // Where all are busy, newcomers stay outside.
        let mut limits = Limits::new(MAX_CONNECTIONS);
        let came = (0..100_000).filter(|n| limits.enter(v4(*n), at(0))).count();
        assert_eq!((came, limits.addresses.map.len()), (MAX_ADDRESSES, MAX_ADDRESSES));
    }

    #[test]
    fn a_ticket_for_two_seats_two() {
        let mut limits = Limits::new(MAX_CONNECTIONS);
        let mut sit = |n| limits.seat([1; 32], Seat::Session(n), Some(2), at(0));
        assert_eq!([sit(1), sit(2), sit(3)], [Ok(()), Ok(()), Err(NoSeat::Taken)]);
        limits.seat([2; 32], Seat::Session(4), Some(1), at(0)).unwrap();
        limits.unseat([1; 32], &Seat::Session(1));
        limits.seat([1; 32], Seat::Session(5), Some(2), at(0)).unwrap();
        // All uplinks of a show share one, and it is free when the last is gone.
        for _ in 0..3 {
            limits.seat([3; 32], Seat::Show("demo".into()), Some(1), at(0)).unwrap();
        }
        let other = Seat::Show("other".into());
        for _ in 0..3 {
            assert_eq!(limits.seat([3; 32], other.clone(), Some(1), at(0)), Err(NoSeat::Taken));
            limits.unseat([3; 32], &Seat::Show("demo".into()));
        }
        assert_eq!(limits.seat([3; 32], other, Some(1), at(0)), Ok(()));
    }

    #[test]
    fn a_ticket_that_an_audience_shares_is_bounded_in_its_rate_only() {
        let mut limits = Limits::new(MAX_CONNECTIONS);
        let sat =
            (0..10_000).filter(|n| limits.seat([1; 32], Seat::Session(*n), None, at(0)).is_ok()).count();
        assert_eq!(sat, 4_000);
        assert_eq!(limits.seat([1; 32], Seat::Session(10_000), None, at(0)), Err(NoSeat::TooFast));
        assert_eq!(limits.seat([1; 32], Seat::Session(10_000), None, at(10)), Ok(()));
    }
}
