//! Broadcasts that come in over MoQ: from a program that publishes into this relay, or from an upstream relay.
//!
//! moq-net takes every announcement of a session into an origin, without asking and without a bound. So each session
//! has an origin of its own, its [`Inbox`], and only what [`Inbox::admit`] lets through is announced in the relay's
//! origin. No media flows before a viewer asks for it: the viewer's request goes through to the session, one
//! subscription however many viewers there are. See `docs/decisions/0024-moq-peers.md`.

mod gate;
mod turns;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use moq_net::{Patterns, cache, origin};
use serde::Serialize;

pub use self::gate::TooMuch;
use crate::broadcasts::Broadcasts;
use crate::origin::Origin;

/// Broadcasts that one program may announce, wanted or not; one that announces more is sent away. A studio with
/// several cameras has a dozen.
const GUEST_NAMES: usize = 64;

/// The same of all programs together; what is announced beyond it is not heard.
const GUESTS_NAMES: usize = 256;

/// The same of an upstream relay, which carries other people's broadcasts.
const UPSTREAM_NAMES: usize = 4096;

/// What is kept of broadcasts that came in over MoQ, all sessions together, before the oldest is forgotten: 10 s of
/// 100 broadcasts at 2 Mb/s. moq-net bounds a single group at 32 MB.
const CACHE: u64 = 256 * 1024 * 1024;

/// Groups nobody has asked for so long are forgotten.
const IDLE: Duration = Duration::from_secs(30);

/// Where broadcasts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// A program that publishes here.
    Guest,
    /// A relay that this one pulls from.
    Upstream,
}

impl From {
    fn names(self) -> usize {
        match self {
            From::Guest => GUEST_NAMES,
            From::Upstream => UPSTREAM_NAMES,
        }
    }
}

/// Makes the inboxes of this relay.
#[derive(Clone)]
pub struct Intake {
    origin: Origin,
    broadcasts: Broadcasts,
    pool: cache::Pool,
    guests: Arc<AtomicUsize>,
    turns: turns::Turns,
}

impl Intake {
    /// What comes in is announced in `origin` and told in `broadcasts`.
    pub fn new(origin: Origin, broadcasts: Broadcasts) -> Self {
        let policy = cache::Config::default().with_capacity(CACHE).with_expiry(IDLE);
        let pool = cache::Pool::new(policy);
        Self { origin, broadcasts, pool, guests: Arc::default(), turns: turns::Turns::default() }
    }

    /// The inbox of one session, whose paths are below `root`. Of what it announces only that is heard which is in
    /// `shows` (patterns from the relay's own root). `None`: that can be nothing.
    pub fn inbox(&self, from: From, root: &str, shows: &Patterns) -> Option<Inbox> {
        let main = self.origin.producer();
        let mut config = origin::Config::default();
        // One identity for all sessions: by it a broadcast is known that has come back in a circle.
        config.hop = main.hop();
        config.pool = self.pool.clone();
        config.cache_duration = crate::origin::KEEP;
        let (producer, driver) = origin::Producer::new(config);
        let entry = producer.scope("", shows).and_then(|part| part.scope(root, &everything())).ok()?;
        Some(Inbox { intake: self.clone(), from, producer, entry, driver })
    }
}

/// All paths below a root.
pub(crate) fn everything() -> Patterns {
    Patterns::from(moq_net::Pattern::all())
}

/// What one session has announced.
pub struct Inbox {
    intake: Intake,
    from: From,
    producer: origin::Producer,
    entry: origin::Producer,
    driver: origin::Driver,
}

impl Inbox {
    /// What the session writes to.
    pub fn entry(&self) -> origin::Producer {
        self.entry.clone()
    }

    /// Lets broadcasts through, until the session is to be sent away. When the future is dropped, its broadcasts
    /// leave.
    pub async fn admit(self) -> TooMuch {
        let Self { intake, from, producer, entry, driver } = self;
        drop(entry);
        let gate = gate::Gate::new(intake, from, producer);
        tokio::select! {
            too_much = gate.run() => too_much,
            // It ends with its last producer, which the gate has.
            _ = moq_net::time::run(driver) => TooMuch { announced: 0 },
        }
    }
}

/// A place among the broadcasts of all guests.
struct Place(Option<Arc<AtomicUsize>>);

impl Place {
    /// `None`: there is none left.
    fn take(intake: &Intake, from: From) -> Option<Self> {
        if from == From::Upstream {
            return Some(Self(None));
        }
        let one_more = |taken: usize| (taken < GUESTS_NAMES).then_some(taken + 1);
        let taken = intake.guests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then(|| Self(Some(intake.guests.clone())))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(taken) = &self.0 {
            taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
