//! How much a QUIC connection may have in flight. A viewer's is bound by congestion control; a bond's is not, at
//! either end: there the bond itself is the congestion control.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, CubicConfig};
use quinn_proto::RttEstimator;

/// The bond paces by its own rate estimate per path and its own deadlines; a congestion window below
/// it would only hide what it needs to see (FACTS: application-paced with a wide window beat NewReno,
/// Cubic and BBR at 1 % loss). This window bounds what a bug could put in flight; it must outlast an outage
/// of the way back, in which no acknowledgement comes but the bond goes on, told by the other uplinks: 10 s
/// (the idle timeout) at 12 Mb/s. 1 MiB was full after 3 s.
const WINDOW: u64 = 16 * 1024 * 1024;

/// A window that stays out of the bond's way.
pub(crate) struct Wide;

impl ControllerFactory for Wide {
    fn build(self: Arc<Self>, _: Instant, _: u16) -> Box<dyn Controller> {
        Box::new(Wide)
    }
}

impl Controller for Wide {
    fn on_ack(&mut self, _: Instant, _: Instant, _: u64, _: bool, _: &RttEstimator) {}
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}
    fn on_mtu_update(&mut self, _: u16) {}
    fn window(&self) -> u64 {
        WINDOW
    }
    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Wide)
    }
    fn initial_window(&self) -> u64 {
        WINDOW
    }
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// What the edge's connections have, which are all of one port: Cubic (RFC 9438), until one turns out to be a
/// bond's. Under Cubic, feedback that nobody acknowledged during an outage filled the window, and after it the
/// edge was mute until a timeout that had been doubled for as long as the outage: the uplink was back, and
/// nobody told the venue.
#[derive(Clone, Default)]
pub(crate) struct Choice(Arc<AtomicBool>);

impl Choice {
    /// It is a bond's connection: from now on, and after every change of address.
    pub(crate) fn bond(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl ControllerFactory for Choice {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let cubic = Arc::new(CubicConfig::default()).build(now, mtu);
        Box::new(Chosen { cubic, choice: (*self).clone() })
    }
}

struct Chosen {
    cubic: Box<dyn Controller>,
    choice: Choice,
}

impl Controller for Chosen {
    fn on_sent(&mut self, now: Instant, bytes: u64, last: u64) {
        self.cubic.on_sent(now, bytes, last);
    }
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }
    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
    }
    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.cubic.on_congestion_event(now, sent, persistent, lost);
    }
    fn on_mtu_update(&mut self, mtu: u16) {
        self.cubic.on_mtu_update(mtu);
    }
    fn window(&self) -> u64 {
        if self.choice.0.load(Ordering::Relaxed) { WINDOW } else { self.cubic.window() }
    }
    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { cubic: self.cubic.clone_box(), choice: self.choice.clone() })
    }
    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bonds_window_is_wide_and_it_stays_so() {
        let choice = Choice::default();
        let viewer = Arc::new(Choice::default()).build(Instant::now(), 1200);
        let bond = Arc::new(choice.clone()).build(Instant::now(), 1200);
        assert!(viewer.window() < WINDOW && bond.window() == viewer.window());
        choice.bond();
        assert_eq!((bond.window(), bond.clone_box().window()), (WINDOW, WINDOW));
        assert!(viewer.window() < WINDOW);
        let moved = Arc::new(choice).build(Instant::now(), 1200);
        assert_eq!(moved.window(), WINDOW, "a connection that moved gets a new controller");
    }
}
