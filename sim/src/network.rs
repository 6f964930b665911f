//! Several links side by side, some of which end in a bottleneck that they share.

use std::time::Duration;

use media::Time;

use crate::{Conditions, Link, LinkStats};

/// Links of one direction. What goes in on a link comes out marked with it, after the bottleneck that this
/// link shares with others, where there is one: two modems in the same cell, two uplinks behind one router.
#[derive(Debug)]
pub struct Network<T> {
    links: Vec<Link<T>>,
    shared: Vec<Shared<T>>,
}

#[derive(Debug)]
struct Shared<T> {
    members: Vec<usize>,
    link: Link<Arrival<T>>,
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival<T> {
    /// The link that it was sent on.
    pub link: usize,
    /// How long it waited for its turn, at its own link and at the shared bottleneck.
    pub waited: Duration,
    /// What it weighs, in bytes.
    pub size: usize,
    /// It.
    pub payload: T,
}

impl<T> Default for Network<T> {
    fn default() -> Self {
        Self { links: Vec::new(), shared: Vec::new() }
    }
}

impl<T> Network<T> {
    /// Adds a link, whose number is the count of those before it. Its trace begins at `begin`.
    pub fn add(&mut self, conditions: Conditions, seed: u64, begin: Time) {
        let mut link = Link::new(conditions, seed);
        link.begin(begin);
        self.links.push(link);
    }

    /// Lets these links end in one bottleneck; a link is in one of them at most, the first.
    pub fn share(&mut self, members: &[usize], conditions: Conditions, seed: u64, begin: Time) {
        let mut link = Link::new(conditions, seed);
        link.begin(begin);
        self.shared.push(Shared { members: members.to_vec(), link });
    }

    /// Puts a packet in; see [`Link::send`]. A link that is not there swallows it.
    pub fn send(&mut self, link: usize, payload: T, size: usize, now: Time) {
        if let Some(link) = self.links.get_mut(link) {
            link.send(payload, size, now);
        }
    }

    /// The next packet that has arrived by now.
    pub fn poll(&mut self, now: Time) -> Option<Arrival<T>> {
        for (number, link) in self.links.iter_mut().enumerate() {
            let mut shared = self.shared.iter_mut().find(|shared| shared.members.contains(&number));
            while let Some(packet) = link.poll_packet(now) {
                let (waited, size) = (packet.waited, packet.size);
                let arrival = Arrival { link: number, waited, size, payload: packet.payload };
                match &mut shared {
                    None => return Some(arrival),
                    Some(shared) => _ = shared.link.send(arrival, size, now),
                }
            }
        }
        self.shared.iter_mut().find_map(|shared| {
            let packet = shared.link.poll_packet(now)?;
            let waited = packet.payload.waited + packet.waited;
            Some(Arrival { waited, ..packet.payload })
        })
    }

    /// When something happens next: a packet arrives, or reaches a shared bottleneck.
    pub fn poll_timeout(&self) -> Option<Time> {
        let own = self.links.iter().filter_map(Link::poll_timeout);
        own.chain(self.shared.iter().filter_map(|shared| shared.link.poll_timeout())).min()
    }

    /// How long a packet that comes now would wait for its turn at its own link.
    pub fn wait(&mut self, link: usize, now: Time) -> Duration {
        self.links.get_mut(link).map_or(Duration::ZERO, |link| link.wait(now))
    }

    /// Pulls a link's cable, or puts it back; see [`Link::set_up`].
    pub fn set_up(&mut self, link: usize, up: bool, now: Time) {
        if let Some(link) = self.links.get_mut(link) {
            link.set_up(up, now);
        }
    }

    /// What became of each link's packets, before they reached what is shared.
    pub fn stats(&self) -> Vec<LinkStats> {
        self.links.iter().map(Link::stats).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rate;

    const START: Time = Time::from_millis(1_000_000);

    fn fixed(bits_per_second: u64, delay: u64) -> Conditions {
        let delay = Duration::from_millis(delay);
        Conditions { rate: Rate::Fixed(bits_per_second), delay, ..Conditions::default() }
    }

    fn drain(network: &mut Network<u32>) -> Vec<(u64, usize, u64, u32)> {
        let mut out = Vec::new();
        while let Some(at) = network.poll_timeout() {
            while let Some(arrival) = network.poll(at) {
                let millis = at.saturating_since(START).as_millis() as u64;
                out.push((millis, arrival.link, arrival.waited.as_millis() as u64, arrival.payload));
            }
        }
        out
    }

    #[test]
    fn links_side_by_side_do_not_meet() {
        let mut network = Network::default();
        network.add(fixed(1_000_000, 5), 1, START);
        network.add(fixed(2_000_000, 20), 2, START);
        for n in 0..2 {
            network.send(0, n, 1250, START); // 10 ms each
            network.send(1, 10 + n, 1250, START); // 5 ms each
        }
        network.send(7, 99, 1250, START);
        assert_eq!(drain(&mut network), [(15, 0, 0, 0), (25, 0, 10, 1), (25, 1, 0, 10), (30, 1, 5, 11)]);
    }

    #[test]
    fn two_uplinks_share_what_is_behind_them() {
        let mut network = Network::default();
        network.add(fixed(10_000_000, 0), 1, START);
        network.add(fixed(10_000_000, 0), 2, START);
        network.add(fixed(10_000_000, 0), 3, START);
        network.share(&[0, 1], fixed(1_000_000, 30), 4, START);
        for link in 0..3 {
            network.send(link, link as u32, 1250, START);
        }
        // A millisecond each; then 10 ms each behind one another, and 30 on the way.
        assert_eq!(drain(&mut network), [(1, 2, 0, 2), (41, 0, 0, 0), (51, 1, 10, 1)]);
        assert_eq!(network.stats().iter().map(|stats| stats.delivered).collect::<Vec<_>>(), [1, 1, 1]);
        network.set_up(0, false, START + Duration::from_secs(1));
        network.send(0, 9, 1250, START + Duration::from_secs(1));
        assert!(drain(&mut network).is_empty());
    }
}
