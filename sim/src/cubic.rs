//! Somebody else on the same uplink: a long download or upload under CUBIC (RFC 9438), as most of the Internet
//! sends.

use std::collections::VecDeque;
use std::time::Duration;

use media::Time;

/// What a packet weighs on the link, bytes.
pub const PACKET_BYTES: usize = 1500;

/// What its acknowledgement weighs, bytes.
pub const ACK_BYTES: usize = 66;

/// Packets in flight at the start (RFC 6928).
const INITIAL_WINDOW: f64 = 10.0;

/// Packets in flight at the least.
const LEAST_WINDOW: f64 = 2.0;

/// The most packets in flight: 30 MB, far beyond any uplink, so that odd conditions cannot eat the memory.
const MOST_IN_FLIGHT: usize = 20_000;

/// A packet is lost when so many later ones have arrived.
const REORDERING: u64 = 3;

/// RFC 9438's constants: how fast the window grows, and what a loss leaves of it.
const C: f64 = 0.4;
const BETA: f64 = 0.7;

/// Before a round trip was measured, and the least afterwards.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
const LEAST_TIMEOUT: Duration = Duration::from_millis(200);

/// The most that a timeout is doubled.
const MOST_DOUBLINGS: u32 = 6;

/// A flow that always has something to send, with its receiver: packets are numbered, each is acknowledged by
/// its number, and a lost one's content goes out again under a new number. It sends when its window allows
/// (clocked by acknowledgements, not paced), and leaves slow start at the first loss.
///
/// Like the bond's machines it knows no clock and no link: after every call with a `now` drain
/// [`Cubic::poll_transmit`], and put what arrives at the other end back by [`Cubic::handle_ack`].
#[derive(Clone, Debug)]
pub struct Cubic {
    window: f64,
    threshold: f64,
    /// The window before the last loss, and when that was.
    most: f64,
    epoch: Option<Epoch>,
    /// In flight: number, when sent, whether acknowledged.
    flight: VecDeque<Sent>,
    first: u64,
    next: u64,
    in_flight: usize,
    highest_acked: Option<u64>,
    /// Losses of packets before this one belong to the loss that was answered already.
    recovery: u64,
    smoothed: Option<Duration>,
    variation: Duration,
    doublings: u32,
    timer: Option<Time>,
    delivered: u64,
    lost: u64,
}

#[derive(Clone, Copy, Debug)]
struct Epoch {
    since: Time,
    /// When the window is at `most` again, seconds after the loss.
    plateau: f64,
    /// What Reno would have reached.
    reno: f64,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Time,
    done: bool,
}

impl Default for Cubic {
    fn default() -> Self {
        Self {
            window: INITIAL_WINDOW,
            threshold: f64::INFINITY,
            most: 0.0,
            epoch: None,
            flight: VecDeque::new(),
            first: 0,
            next: 0,
            in_flight: 0,
            highest_acked: None,
            recovery: 0,
            smoothed: None,
            variation: Duration::ZERO,
            doublings: 0,
            timer: None,
            delivered: 0,
            lost: 0,
        }
    }
}

impl Cubic {
    /// The next packet's number, if the window allows one now; it weighs [`PACKET_BYTES`].
    pub fn poll_transmit(&mut self, now: Time) -> Option<u64> {
        if self.in_flight as f64 + 1.0 > self.window || self.flight.len() >= MOST_IN_FLIGHT {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.in_flight += 1;
        self.flight.push_back(Sent { at: now, done: false });
        if self.timer.is_none() {
            self.timer = Some(now + self.timeout());
        }
        Some(number)
    }

    /// The other end's word that this packet arrived.
    pub fn handle_ack(&mut self, number: u64, now: Time) {
        let Some(place) = number.checked_sub(self.first).map(|place| place as usize) else { return };
        let Some(sent) = self.flight.get_mut(place).filter(|sent| !sent.done) else { return };
        sent.done = true;
        let round_trip = now.saturating_since(sent.at);
        self.in_flight -= 1;
        self.delivered += 1;
        self.measure(round_trip);
        self.highest_acked = Some(self.highest_acked.map_or(number, |highest| highest.max(number)));
        self.find_lost(now);
        if number >= self.recovery {
            self.grow(now);
        }
        self.doublings = 0;
        self.timer = (self.in_flight > 0).then(|| now + self.timeout());
    }

    /// When [`Cubic::handle_timeout`] wants to run.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timer
    }

    /// Nothing was heard for long: begins again from the least window.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.timer.is_none_or(|timer| timer > now) {
            return;
        }
        self.lost += self.in_flight as u64;
        self.in_flight = 0;
        self.flight.clear();
        self.first = self.next;
        self.reduce();
        self.window = LEAST_WINDOW;
        self.recovery = self.next;
        self.doublings = (self.doublings + 1).min(MOST_DOUBLINGS);
        self.timer = None;
    }

    /// Bytes that arrived, with headers.
    pub fn delivered_bytes(&self) -> u64 {
        self.delivered * PACKET_BYTES as u64
    }

    /// Packets found lost.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn find_lost(&mut self, now: Time) {
        let Some(highest) = self.highest_acked else { return };
        let mut any_new = false;
        while let Some(front) = self.flight.front() {
            if !front.done {
                if self.first + REORDERING > highest {
                    break;
                }
                self.in_flight -= 1;
                self.lost += 1;
                any_new |= self.first >= self.recovery;
            }
            self.flight.pop_front();
            self.first += 1;
        }
        if any_new {
            self.reduce();
            self.recovery = self.next;
            self.epoch = Some(self.epoch_from(now));
        }
    }

    /// A loss: RFC 9438, sections 4.6 and 4.7.
    fn reduce(&mut self) {
        let converges = self.window < self.most;
        self.most = if converges { self.window * (1.0 + BETA) / 2.0 } else { self.window };
        self.window = (self.window * BETA).max(LEAST_WINDOW);
        self.threshold = self.window;
        self.epoch = None;
    }

    fn epoch_from(&self, since: Time) -> Epoch {
        let plateau = ((self.most - self.window).max(0.0) / C).cbrt();
        Epoch { since, plateau, reno: self.window }
    }

    /// One acknowledgement's growth: RFC 9438, sections 4.2 to 4.5.
    fn grow(&mut self, now: Time) {
        if self.window < self.threshold {
            self.window += 1.0;
            return;
        }
        let fresh = self.epoch_from(now);
        let round_trip = self.smoothed.unwrap_or(FIRST_TIMEOUT).as_secs_f64();
        let epoch = self.epoch.get_or_insert(fresh);
        // As fast as Reno would be with the same mean window, until it has caught up.
        let alpha = if epoch.reno < self.most { 3.0 * (1.0 - BETA) / (1.0 + BETA) } else { 1.0 };
        epoch.reno += alpha / self.window;
        let curve = |seconds: f64| C * (seconds - epoch.plateau).powi(3) + self.most;
        let elapsed = now.saturating_since(epoch.since).as_secs_f64();
        if curve(elapsed) < epoch.reno {
            self.window = self.window.max(epoch.reno);
            return;
        }
        let target = curve(elapsed + round_trip).clamp(self.window, 1.5 * self.window);
        self.window += (target - self.window) / self.window;
    }

    /// RFC 6298.
    fn measure(&mut self, round_trip: Duration) {
        match self.smoothed {
            None => {
                self.variation = round_trip / 2;
                self.smoothed = Some(round_trip);
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(round_trip)) / 4;
                self.smoothed = Some((smoothed * 7 + round_trip) / 8);
            }
        }
    }

    fn timeout(&self) -> Duration {
        let timeout = self
            .smoothed
            .map_or(FIRST_TIMEOUT, |smoothed| (smoothed + self.variation * 4).max(LEAST_TIMEOUT));
        timeout * (1 << self.doublings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conditions, Link, Loss, Outage, Rate};

    const START: Time = Time::from_millis(1_000_000);

    enum Event {
        Packet(usize, u64),
        Ack(usize, u64),
    }

    /// So many flows through one link, each beginning a second later; the part of the link that each got.
    fn compete(conditions: Conditions, flows: usize, seconds: u64) -> Vec<f64> {
        let Rate::Fixed(rate) = conditions.rate else { panic!("a fixed rate") };
        let back = Conditions { delay: conditions.delay, ..Conditions::default() };
        let (mut up, mut down) = (Link::new(conditions, 1), Link::new(back, 2));
        let mut all = vec![Cubic::default(); flows];
        let begins = |flow: usize| START + Duration::from_secs(flow as u64);
        let end = START + Duration::from_secs(seconds);
        let mut now = START;
        while now < end {
            for (flow, cubic) in all.iter_mut().enumerate().filter(|(flow, _)| begins(*flow) <= now) {
                cubic.handle_timeout(now);
                while let Some(number) = cubic.poll_transmit(now) {
                    up.send(Event::Packet(flow, number), PACKET_BYTES, now);
                }
            }
            let timers = all.iter().filter_map(Cubic::poll_timeout);
            let begin = (0..flows).map(begins).filter(|begin| *begin > now);
            now =
                timers.chain(begin).chain(up.poll_timeout()).chain(down.poll_timeout()).min().unwrap_or(end);
            while let Some(Event::Packet(flow, number)) = up.poll(now) {
                down.send(Event::Ack(flow, number), ACK_BYTES, now);
            }
            while let Some(Event::Ack(flow, number)) = down.poll(now) {
                all[flow].handle_ack(number, now);
            }
        }
        let carried = (rate * seconds) as f64 / 8.0;
        all.iter().map(|cubic| cubic.delivered_bytes() as f64 / carried).collect()
    }

    fn five(queue: u64) -> Conditions {
        Conditions {
            rate: Rate::Fixed(5_000_000),
            delay: Duration::from_millis(25),
            queue: Duration::from_millis(queue),
            ..Conditions::default()
        }
    }

    #[test]
    fn alone_it_takes_all() {
        let got = compete(five(200), 1, 60);
        assert!(got[0] > 0.96, "{got:?}");
    }

    #[test]
    fn two_share() {
        let got = compete(five(100), 2, 120);
        assert!(got[0] + got[1] > 0.95, "{got:?}");
        assert!((0.5..2.0).contains(&(got[0] / got[1])), "{got:?}");
    }

    #[test]
    fn random_loss_costs_it_much() {
        let loss = Loss::Random(0.02);
        let got = compete(Conditions { loss, ..five(200) }, 1, 60);
        // About 1.2 / sqrt(loss) packets per round trip of 50 ms: 2 Mb/s, a little more for CUBIC.
        assert!((0.3..0.75).contains(&got[0]), "{got:?}");
    }

    #[test]
    fn it_comes_back_after_an_outage() {
        let at = |seconds| START + Duration::from_secs(seconds);
        let outages = vec![Outage { from: at(10), until: at(20) }];
        let got = compete(Conditions { outages, ..five(200) }, 1, 60);
        assert!((0.65..0.84).contains(&got[0]), "{got:?}");
    }

    #[test]
    fn a_small_queue_is_no_trap() {
        let got = compete(five(20), 1, 60);
        assert!(got[0] > 0.8, "{got:?}");
    }

    /// The window over time after a single loss, against the RFC's curve.
    #[test]
    fn grows_along_the_curve() {
        let mut cubic = Cubic { window: 100.0, most: 0.0, threshold: 50.0, ..Cubic::default() };
        cubic.smoothed = Some(Duration::from_millis(100));
        cubic.reduce();
        cubic.epoch = Some(cubic.epoch_from(START));
        assert!((cubic.window - 70.0).abs() < 1e-9 && (cubic.most - 100.0).abs() < 1e-9);
        // K = cbrt(30 / 0.4) = 4.217 s.
        let mut now = START;
        for step in 1..=60 {
            for _ in 0..cubic.window as usize {
                cubic.grow(now);
            }
            now = START + Duration::from_millis(100 * step);
            let seconds = step as f64 / 10.0;
            let curve = 0.4 * (seconds - 4.217f64).powi(3) + 100.0;
            assert!((cubic.window / curve - 1.0).abs() < 0.03, "{seconds} s: {} and {curve}", cubic.window);
        }
    }
}
