//! One direction of one link.

use std::collections::VecDeque;
use std::time::Duration;

use media::Time;

use crate::codel::Controller;
use crate::conditions::{Conditions, Loss, Outage, Rate};
use crate::rng::Rng;
use crate::trace::{OPPORTUNITY_BYTES, Trace};

/// The most packets in a link at once, so that odd conditions cannot eat the memory; more are dropped.
/// 65,536 packets of 1200 bytes are a second at 600 Mb/s.
const MAX_PACKETS: usize = 1 << 16;

/// A link emulator: packets go in by [`Link::send`] and come out by [`Link::poll`] when
/// [`Link::poll_timeout`] says so. `now` must not run backwards.
#[derive(Debug)]
pub struct Link<T> {
    conditions: Conditions,
    server: Server,
    controller: Controller,
    rng: Rng,
    bad_state: bool,
    up: bool,
    /// By arrival time, then by order of sending.
    packets: VecDeque<Packet<T>>,
    last_arrival: Time,
    stats: LinkStats,
}

#[derive(Debug)]
pub(crate) struct Packet<T> {
    pub payload: T,
    pub size: usize,
    /// For its turn.
    pub waited: Duration,
    /// When its last bit leaves the queue for the air.
    departs: Time,
    arrives: Time,
}

/// What became of the packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Packets sent into the link.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Packets that came out.
    pub delivered: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Packets that found the queue full.
    pub queue_drops: u64,
    /// Packets that CoDel dropped, to keep the queue short.
    pub codel_drops: u64,
    /// Packets lost by chance.
    pub losses: u64,
    /// Packets that vanished in an outage or with the cable.
    pub outage_drops: u64,
    /// Packets that overtook another one.
    pub reordered: u64,
}

impl<T> Link<T> {
    /// An empty link; the same seed gives the same fates.
    pub fn new(conditions: Conditions, seed: u64) -> Self {
        let server = match &conditions.rate {
            Rate::Fixed(bits_per_second) => {
                Server::Fixed { bits_per_second: (*bits_per_second).max(1), free: Time::ZERO }
            }
            Rate::Trace(trace) => {
                Server::Trace { trace: trace.clone(), start: None, next: 0, left: OPPORTUNITY_BYTES }
            }
        };
        Self {
            conditions,
            server,
            controller: Controller::default(),
            rng: Rng::new(seed),
            bad_state: false,
            up: true,
            packets: VecDeque::new(),
            last_arrival: Time::ZERO,
            stats: LinkStats::default(),
        }
    }

    /// Starts a recorded rate at this time, or starts it anew; without this it starts at the first packet.
    pub fn begin(&mut self, at: Time) {
        if let Server::Trace { start, next, left, .. } = &mut self.server {
            (*start, *next, *left) = (Some(at), 0, OPPORTUNITY_BYTES);
        }
    }

    /// Plans other blackouts than before, from now on.
    pub fn set_outages(&mut self, outages: Vec<Outage>) {
        self.conditions.outages = outages;
    }

    /// Puts a packet in. `size` is what it weighs on the link, in bytes, headers and all. Returns how long
    /// it waits for its turn: the standing queue at the bottleneck. `None` where it found no room, or no
    /// light.
    pub fn send(&mut self, payload: T, size: usize, now: Time) -> Option<Duration> {
        self.stats.sent += 1;
        self.stats.sent_bytes += size as u64;
        // The dice fall for every packet, so that one packet's fate does not depend on outages.
        let lost = self.dice();
        let jitter = Duration::from_micros(self.rng.below(self.conditions.jitter.as_micros() as u64 + 1));
        if !self.up || self.conditions.dark(now) {
            self.stats.outage_drops += 1;
            return None;
        }
        let wait = self.server.wait(now);
        if wait > self.conditions.queue || self.packets.len() >= MAX_PACKETS {
            self.stats.queue_drops += 1;
            return None;
        }
        if let Some(codel) = self.conditions.codel
            && self.controller.drops(codel, self.server.mean_rate(), wait, now + wait)
        {
            self.stats.codel_drops += 1;
            return None;
        }
        let departs = self.server.serve(size, now);
        // What is still in the queue when the light goes out is gone too.
        if self.conditions.dark(departs) {
            self.stats.outage_drops += 1;
            return Some(wait);
        }
        if lost {
            self.stats.losses += 1;
            return Some(wait);
        }
        let mut arrives = departs + self.conditions.delay_at(departs) + jitter;
        if arrives < self.last_arrival {
            if self.conditions.reorder {
                self.stats.reordered += 1;
            } else {
                arrives = self.last_arrival;
            }
        }
        self.last_arrival = self.last_arrival.max(arrives);
        // Nearly always at the end: only reordering lets a packet overtake a few.
        let place =
            self.packets.iter().rposition(|earlier| earlier.arrives <= arrives).map_or(0, |at| at + 1);
        self.packets.insert(place, Packet { payload, size, waited: wait, departs, arrives });
        Some(wait)
    }

    /// The next packet that has arrived by now.
    pub fn poll(&mut self, now: Time) -> Option<T> {
        self.poll_packet(now).map(|packet| packet.payload)
    }

    /// The same, with what is known of it.
    pub(crate) fn poll_packet(&mut self, now: Time) -> Option<Packet<T>> {
        let packet = self.packets.pop_front_if(|packet| packet.arrives <= now)?;
        self.stats.delivered += 1;
        self.stats.delivered_bytes += packet.size as u64;
        Some(packet)
    }

    /// When the next packet arrives.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.packets.front().map(|packet| packet.arrives)
    }

    /// How long a packet that comes now would wait for its turn.
    pub fn wait(&mut self, now: Time) -> Duration {
        self.server.wait(now)
    }

    /// Pulls the cable (`false`) or puts it back. Nobody is told; what had not left the queue is gone,
    /// what is on its way arrives.
    pub fn set_up(&mut self, up: bool, now: Time) {
        self.up = up;
        if !up {
            let before = self.packets.len();
            self.packets.retain(|packet| packet.departs <= now);
            self.stats.outage_drops += (before - self.packets.len()) as u64;
        }
    }

    /// Whether the link carries anything at this time.
    pub fn is_up(&self, now: Time) -> bool {
        self.up && !self.conditions.dark(now)
    }

    /// What became of the packets so far.
    pub fn stats(&self) -> LinkStats {
        self.stats
    }

    fn dice(&mut self) -> bool {
        match self.conditions.loss {
            Loss::None => false,
            Loss::Random(loss) => self.rng.chance(loss),
            Loss::GilbertElliott { to_bad, to_good, loss_good, loss_bad } => {
                let turn = if self.bad_state { to_good } else { to_bad };
                self.bad_state ^= self.rng.chance(turn);
                self.rng.chance(if self.bad_state { loss_bad } else { loss_good })
            }
        }
    }
}

/// What takes packets from the queue, one after the other.
#[derive(Debug)]
enum Server {
    Fixed {
        bits_per_second: u64,
        free: Time,
    },
    /// `left` bytes remain of opportunity `next`.
    Trace {
        trace: Trace,
        start: Option<Time>,
        next: u64,
        left: usize,
    },
}

impl Server {
    /// Bits per second.
    fn mean_rate(&self) -> u64 {
        match self {
            Server::Fixed { bits_per_second, .. } => *bits_per_second,
            Server::Trace { trace, .. } => trace.mean_rate(),
        }
    }

    /// How long a packet that comes now waits for its turn.
    fn wait(&mut self, now: Time) -> Duration {
        match self {
            Server::Fixed { free, .. } => free.saturating_since(now),
            Server::Trace { trace, start, next, left } => {
                let start = *start.get_or_insert(now);
                let elapsed = now.saturating_since(start).as_micros() as u64;
                let first = trace.first_from(elapsed);
                if first > *next {
                    // Nobody waited: these opportunities passed unused.
                    (*next, *left) = (first, OPPORTUNITY_BYTES);
                }
                // The time until the next opportunity is the link's rhythm; only what lies beyond it
                // is a queue.
                Duration::from_micros(
                    trace.micros_of(*next).saturating_sub(trace.micros_of(first).max(elapsed)),
                )
            }
        }
    }

    /// Takes a packet in and says when its last bit leaves.
    fn serve(&mut self, size: usize, now: Time) -> Time {
        self.wait(now);
        match self {
            Server::Fixed { bits_per_second, free } => {
                let micros = (size as u64 * 8 * 1_000_000).div_ceil(*bits_per_second);
                *free = now.max(*free) + Duration::from_micros(micros);
                *free
            }
            Server::Trace { trace, start, next, left } => {
                let mut size = size;
                while size > *left {
                    size -= *left;
                    *next += 1;
                    *left = OPPORTUNITY_BYTES;
                }
                *left -= size;
                let at = start.unwrap_or(now) + Duration::from_micros(trace.micros_of(*next));
                at.max(now)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_millis(1_000_000);

    fn at(millis: u64) -> Time {
        START + Duration::from_millis(millis)
    }

    fn drain(link: &mut Link<u32>) -> Vec<(u64, u32)> {
        let mut out = Vec::new();
        while let Some(when) = link.poll_timeout() {
            while let Some(packet) = link.poll(when) {
                out.push((when.saturating_since(START).as_millis() as u64, packet));
            }
        }
        out
    }

    fn slow() -> Conditions {
        // 1250 bytes take 10 ms.
        Conditions { rate: Rate::Fixed(1_000_000), delay: Duration::from_millis(5), ..Default::default() }
    }

    #[test]
    fn queue_delay_and_drop_tail() {
        let mut link = Link::new(Conditions { queue: Duration::from_millis(25), ..slow() }, 0);
        let waits: Vec<_> = (0..5).map(|n| link.send(n, 1250, START).map(|wait| wait.as_millis())).collect();
        assert_eq!(waits, [Some(0), Some(10), Some(20), None, None]);
        assert_eq!(link.wait(at(1)).as_millis(), 29);
        assert_eq!(drain(&mut link), [(15, 0), (25, 1), (35, 2)]);
        let stats = link.stats();
        assert_eq!((stats.sent, stats.delivered, stats.queue_drops), (5, 3, 2));
        assert_eq!((stats.sent_bytes, stats.delivered_bytes), (6250, 3750));
    }

    #[test]
    fn a_trace_paces_and_shares_opportunities() {
        let trace: Trace = "10\n20\n30\n100\n".parse().unwrap();
        let conditions = Conditions { rate: Rate::Trace(trace), ..Default::default() };
        let mut link = Link::new(conditions, 0);
        link.send(0, 700, at(0));
        link.send(1, 700, at(0));
        link.send(2, 1500, at(0)); // 100 bytes fit the first opportunity, the rest takes the second
        link.send(3, 1500, at(50)); // the third passed unused
        link.send(4, 1500, at(50)); // the next round's first
        assert_eq!(drain(&mut link), [(10, 0), (10, 1), (20, 2), (100, 3), (110, 4)]);
    }

    #[test]
    fn a_swinging_delay_keeps_the_order() {
        let swing = crate::Swing { to: Duration::from_millis(300), period: Duration::from_millis(200) };
        let mut link = Link::new(Conditions { swing: Some(swing), ..slow() }, 0);
        for n in 0..4 {
            link.send(n, 125, at(50 * u64::from(n))); // leaves a millisecond later
        }
        // The first half of a period takes 5 ms, the second one 300, and nobody overtakes.
        link.send(4, 125, at(200));
        assert_eq!(drain(&mut link), [(6, 0), (56, 1), (401, 2), (451, 3), (451, 4)]);
    }

    #[test]
    fn jitter_keeps_order_unless_told_otherwise() {
        for reorder in [false, true] {
            let conditions = Conditions { jitter: Duration::from_millis(8), reorder, ..Default::default() };
            let mut link = Link::new(conditions, 3);
            for n in 0..200 {
                link.send(n, 100, at(u64::from(n)));
            }
            let order: Vec<_> = drain(&mut link).into_iter().map(|(_, n)| n).collect();
            assert_eq!(order.len(), 200);
            assert_eq!(order.is_sorted(), !reorder);
            assert_eq!(link.stats().reordered > 20, reorder);
        }
    }

    #[test]
    fn loss_is_as_asked_and_bursts_are_bursts() {
        let run = |loss| {
            let mut link = Link::new(Conditions { loss, ..Default::default() }, 11);
            for n in 0..20_000 {
                link.send(n, 100, at(u64::from(n)));
            }
            let got: Vec<_> = drain(&mut link).into_iter().map(|(_, n)| n).collect();
            let gaps = got.windows(2).filter(|w| w[1] != w[0] + 1).count();
            (link.stats().losses as f64 / 20_000.0, link.stats().losses as f64 / gaps as f64)
        };
        let (ratio, burst) = run(Loss::Random(0.02));
        assert!((0.017..0.023).contains(&ratio), "{ratio}");
        assert!(burst < 1.1, "{burst}");
        let (ratio, burst) = run(Loss::bursts(0.02, 5.0));
        assert!((0.015..0.025).contains(&ratio), "{ratio}");
        assert!((4.0..6.0).contains(&burst), "{burst}");
    }

    #[test]
    fn outages_are_silent_and_take_the_queue_along() {
        let outages = vec![Outage { from: at(15), until: at(40) }];
        let mut link = Link::new(Conditions { outages, ..slow() }, 0);
        link.send(0, 1250, at(0)); // leaves at 10
        link.send(1, 1250, at(0)); // would leave at 20, in the dark
        link.send(2, 1250, at(30)); // sent into the dark
        link.send(3, 1250, at(40));
        assert!(link.is_up(at(14)) && !link.is_up(at(15)) && link.is_up(at(40)));
        assert_eq!(drain(&mut link), [(15, 0), (55, 3)]);
        assert_eq!(link.stats().outage_drops, 2);
    }

    #[test]
    fn a_day_can_begin_while_packets_pass() {
        let trace: Trace = "10\n20\n".parse().unwrap();
        let mut link = Link::new(Conditions { rate: Rate::Trace(trace), ..Conditions::default() }, 0);
        link.send(0, 1500, at(0));
        link.begin(at(105));
        link.set_outages(vec![Outage { from: at(120), until: at(130) }]);
        link.send(1, 1500, at(106)); // leaves at 115
        link.send(2, 1500, at(106)); // would leave at 125
        link.send(3, 1500, at(130)); // leaves at 135
        assert_eq!(drain(&mut link), [(10, 0), (115, 1), (135, 3)]);
    }

    #[test]
    fn the_cable_can_be_pulled_by_hand() {
        let mut link = Link::new(slow(), 0);
        link.send(0, 1250, at(0)); // in the air from 10 to 15
        link.send(1, 1250, at(0));
        link.set_up(false, at(12));
        link.send(2, 1250, at(13));
        link.set_up(true, at(50));
        link.send(3, 1250, at(50));
        assert_eq!(drain(&mut link), [(15, 0), (65, 3)]);
    }

    #[test]
    fn the_same_seed_is_the_same_day() {
        let conditions =
            Conditions { loss: Loss::Random(0.3), jitter: Duration::from_millis(5), ..Default::default() };
        let day = |seed| {
            let mut link = Link::new(conditions.clone(), seed);
            for n in 0..100 {
                link.send(n, 100, at(u64::from(n)));
            }
            drain(&mut link)
        };
        assert_eq!(day(1), day(1));
        assert_ne!(day(1), day(2));
    }

    #[test]
    fn odd_conditions_do_no_harm() {
        let odd = Conditions { rate: Rate::Fixed(0), loss: Loss::Random(f64::NAN), ..Default::default() };
        let mut link = Link::new(odd, 0);
        for n in 0..10 {
            link.send(n, usize::MAX >> 30, at(0));
        }
        assert_eq!(link.packets.len(), 1);
    }
}
