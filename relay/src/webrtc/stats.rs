//! What happens in WebRTC sessions, in plain counters; [`crate::metrics`] shows them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Which way media goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// WHIP.
    In,
    /// WHEP.
    Out,
}

/// Since the start, and now.
#[derive(Debug, Default)]
pub struct Level {
    /// Open.
    pub now: AtomicU64,
    /// Opened since the start.
    pub total: AtomicU64,
    /// Of these never got a connection.
    pub failed: AtomicU64,
}

/// RTP of all sessions of one way, as we count it and as the other side reports it by RTCP.
#[derive(Debug, Default)]
pub struct Rtp {
    /// Packets of media, repeated ones included.
    pub packets: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// Packets asked for again.
    pub nacks: AtomicU64,
    /// Keyframes asked for.
    pub plis: AtomicU64,
}

/// All counters of WebRTC.
#[derive(Debug, Default)]
pub struct Stats {
    sessions: [Level; 2],
    rtp: [Rtp; 2],
    /// Packets that viewers report as lost.
    pub lost: AtomicU64,
    /// Groups left out because a viewer lost too much.
    pub skipped: AtomicU64,
    /// Of the session that has the longest, microseconds.
    pub worst_round_trip_us: AtomicU64,
    /// Datagrams that belong to no session, or make no sense.
    pub strays: AtomicU64,
    /// Datagrams that the system had no room for.
    pub unsent: AtomicU64,
    /// Sessions that the engine has failed in.
    pub broken: AtomicU64,
    /// Over the socket.
    pub sent_datagrams: AtomicU64,
    /// Their bytes.
    pub sent_bytes: AtomicU64,
    /// Datagrams that came.
    pub received_datagrams: AtomicU64,
    /// Their bytes.
    pub received_bytes: AtomicU64,
}

impl Stats {
    /// Sessions of one way.
    pub fn sessions(&self, way: Way) -> &Level {
        let [inwards, outwards] = &self.sessions;
        if way == Way::In { inwards } else { outwards }
    }

    /// Media of one way.
    pub fn rtp(&self, way: Way) -> &Rtp {
        let [inwards, outwards] = &self.rtp;
        if way == Way::In { inwards } else { outwards }
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received_datagrams.fetch_add(1, Relaxed);
        self.received_bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn sent(&self, datagrams: usize, bytes: usize) {
        self.sent_datagrams.fetch_add(datagrams as u64, Relaxed);
        self.sent_bytes.fetch_add(bytes as u64, Relaxed);
    }
}

/// What a counter that starts at zero in each session has grown by.
#[derive(Debug, Default)]
pub(super) struct Grown(u64);

impl Grown {
    /// Adds the growth to a sum.
    pub fn add(&mut self, value: u64, to: &AtomicU64) {
        to.fetch_add(value.saturating_sub(self.0), Relaxed);
        self.0 = self.0.max(value);
    }
}
