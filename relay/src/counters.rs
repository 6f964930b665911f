//! What happens at the doors, in plain counters; [`crate::metrics`] shows them.
//!
//! Every label is a word of this code, so that nobody outside can make a new time series.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A venue's uplink.
    Bond,
    /// MoQ from a browser, or from a program that does as browsers do.
    WebTransport,
    /// MoQ directly on QUIC.
    Moq,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bond, Self::WebTransport, Self::Moq];

    /// For labels.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bond => "bond",
            Self::WebTransport => "webtransport",
            Self::Moq => "moq",
        }
    }
}

/// Why a handshake came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// Its address has, or begins, too many connections.
    Address,
    /// Too many are under way in all.
    Crowd,
    /// It took too long.
    Slow,
    /// It broke: TLS, QUIC, or a peer that left.
    Broken,
}

impl Turned {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Address, Self::Crowd, Self::Slow, Self::Broken];

    /// For labels.
    pub fn word(self) -> &'static str {
        match self {
            Self::Address => "address-limit",
            Self::Crowd => "too-many-handshakes",
            Self::Slow => "timeout",
            Self::Broken => "failed",
        }
    }
}

/// Since the start, and now.
#[derive(Debug, Default)]
struct Level {
    now: AtomicU64,
    total: AtomicU64,
}

/// Bytes and datagrams over a UDP socket, QUIC's own share included.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Datagrams handed to the system.
    pub sent_datagrams: AtomicU64,
    /// Their bytes.
    pub sent_bytes: AtomicU64,
    /// Datagrams that came.
    pub received_datagrams: AtomicU64,
    /// Their bytes.
    pub received_bytes: AtomicU64,
}

/// By handler and status: requests, and bytes of their answers.
pub type Answers = BTreeMap<(&'static str, u16), (u64, u64)>;

/// All counters of one edge.
#[derive(Debug, Default)]
pub struct Counters {
    connections: [Level; Protocol::ALL.len()],
    turned: [AtomicU64; Turned::ALL.len()],
    proofs: AtomicU64,
    /// By protocol and reason.
    refused: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    answers: Mutex<Answers>,
    /// Over the edge's UDP socket.
    pub traffic: Arc<Traffic>,
}

/// A connection that counts as long as this lives.
pub struct Connected(Arc<Counters>, Protocol);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.level(self.1).now.fetch_sub(1, Relaxed);
    }
}

impl Counters {
    fn level(&self, protocol: Protocol) -> &Level {
        let [bond, web, moq] = &self.connections;
        match protocol {
            Protocol::Bond => bond,
            Protocol::WebTransport => web,
            Protocol::Moq => moq,
        }
    }

    /// A handshake is done, and the connection speaks this.
    pub fn connected(self: &Arc<Self>, protocol: Protocol) -> Connected {
        self.level(protocol).now.fetch_add(1, Relaxed);
        self.level(protocol).total.fetch_add(1, Relaxed);
        Connected(self.clone(), protocol)
    }

    /// Connections now, and since the start.
    pub fn connections(&self, protocol: Protocol) -> (u64, u64) {
        let level = self.level(protocol);
        (level.now.load(Relaxed), level.total.load(Relaxed))
    }

    /// A handshake came to nothing.
    pub fn turn(&self, why: Turned) {
        if let Some(count) = self.turned.get(why as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Handshakes that came to nothing.
    pub fn turned(&self, why: Turned) -> u64 {
        self.turned.get(why as usize).map_or(0, |count| count.load(Relaxed))
    }

    /// An address was asked for a proof.
    pub fn ask_for_proof(&self) {
        self.proofs.fetch_add(1, Relaxed);
    }

    /// Addresses that were asked for a proof.
    pub fn proofs(&self) -> u64 {
        self.proofs.load(Relaxed)
    }

    /// Somebody who speaks `protocol` was not let in.
    pub fn refuse(&self, protocol: &'static str, reason: &'static str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry((protocol, reason)).or_default() += 1;
    }

    /// Refusals by protocol and reason.
    pub fn refused(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An HTTP request was answered.
    pub fn answered(&self, handler: &'static str, status: u16, bytes: u64) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, sum) = answers.entry((handler, status)).or_default();
        *count += 1;
        *sum += bytes;
    }

    /// Requests and the bytes of their answers, by handler and status.
    pub fn answers(&self) -> Answers {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What forwarding has written to viewers, each of them counted. What moq-net serves itself (old groups, catalogs) is not
/// in it.
#[derive(Debug, Default)]
pub struct Sent {
    /// Groups begun.
    pub groups: AtomicU64,
    /// Frames written whole.
    pub frames: AtomicU64,
    /// Bytes written.
    pub bytes: AtomicU64,
    /// Groups broken off because the viewer was too slow.
    pub skipped: AtomicU64,
}

/// The same, of one round of one task, so that the shared counters are touched once in a round.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub groups: u64,
    pub frames: u64,
    pub bytes: u64,
    pub skipped: u64,
}

impl Sent {
    /// Adds a round, and begins a new one.
    pub(crate) fn add(&self, round: &mut Round) {
        let Round { groups, frames, bytes, skipped } = std::mem::take(round);
        let fields =
            [(&self.groups, groups), (&self.frames, frames), (&self.bytes, bytes), (&self.skipped, skipped)];
        for (counter, count) in fields.into_iter().filter(|(_, count)| *count > 0) {
            counter.fetch_add(count, Relaxed);
        }
    }
}
