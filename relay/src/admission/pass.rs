//! What somebody may do who was let in, and until when.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use media::Time;
use moq_net::Pattern;

use super::claims::Grant;
use super::limits::{Limits, Seat};

/// A clock that is set right, and a machine that slept, are noticed within this time.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The wall clock. Tickets are judged by it and not by the broadcast clock, for it is the one that is set right where
/// it was wrong at the start.
pub fn wall() -> Time {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Time::from_micros(unix.as_micros() as u64)
}

/// What somebody may do who was let in. As long as it lives, its session counts among those of its ticket.
#[derive(Debug)]
pub struct Pass {
    /// What may be brought and watched, from the root of the relay.
    pub grant: Grant,
    /// From then on nothing; `None`: no end.
    pub expires: Option<Time>,
    pub(super) held: Option<Held>,
}

impl Pass {
    /// For whom the door is open in another way than by a ticket, and what it has asked for is granted.
    pub fn endless() -> Self {
        Self { grant: Grant::all(), expires: None, held: None }
    }

    /// Whether a show may be brought under this name.
    pub fn may_publish(&self, name: &str) -> bool {
        self.grant.publish.matches(name)
    }

    /// Whether a show of this name may be watched.
    pub fn may_subscribe(&self, name: &str) -> bool {
        self.grant.subscribe.matches(name)
    }

    /// Whether anything of a show may be known: by its viewers, and by those who bring it.
    pub fn may_know(&self, name: &str) -> bool {
        self.may_subscribe(name) || self.may_publish(name)
    }

    /// Whether all shows may be watched: then the relay's own figures tell nothing new.
    pub fn may_know_all(&self) -> bool {
        self.grant.subscribe.contains(&Pattern::all())
    }

    /// Resolves when the time is over; never, where there is no end.
    pub async fn expired(&self) {
        let Some(expires) = self.expires else { return std::future::pending().await };
        loop {
            let left = expires.saturating_since(wall());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK_AGAIN)).await;
        }
    }
}

/// A seat that is taken.
#[derive(Debug)]
pub(super) struct Held {
    pub limits: Arc<Mutex<Limits>>,
    pub ticket: [u8; 32],
    pub seat: Seat,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).unseat(self.ticket, &self.seat);
    }
}

/// A connection that counts among those of its address, or a handshake among its handshakes.
#[derive(Debug)]
pub struct Visit {
    pub(super) limits: Arc<Mutex<Limits>>,
    pub(super) address: IpAddr,
    pub(super) handshake: bool,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        match self.handshake {
            true => limits.end_handshake(self.address),
            false => limits.leave(self.address),
        }
    }
}
