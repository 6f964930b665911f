//! Who may come in: one door for all protocols.
//!
//! A **ticket** is a JWT, signed by whoever runs the show's tickets, and judged here without asking anybody
//! ([`key`], [`claims`]) by keys that are read from files or fetched ([`source`]). What it grants is a [`Pass`], which
//! goes with the session: it says which shows may be brought and watched, and when the session ends. [`limits`] bounds
//! connections by address and sessions by ticket. Without keys, the door is open as the settings say.
//! See `docs/relay.md` and `docs/decisions/0025-admission.md`.

pub mod claims;
pub mod jws;
pub mod key;
pub mod limits;
mod pass;
pub mod refusal;
pub mod sign;
pub mod source;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use axum::http::{HeaderMap, header};
use moq_net::{Pattern, Patterns};
use ring::hmac;

use self::claims::{Claims, ClaimsError, Grant, Validity};
use self::key::Verified;
pub use self::limits::Seat;
use self::limits::{Limits, MAX_CONNECTIONS, NoSeat};
use self::pass::Held;
pub use self::pass::{Pass, Visit, wall};
pub use self::refusal::Refusal;
use self::source::{Keys, Source, SourceError};
use crate::clock::Clock;

/// Public prefixes at most.
const MAX_PUBLIC: usize = 64;

/// QUIC's and WebTransport's code for a session that may not go on: `UNAUTHORIZED` of moq.
pub const CLOSE_UNAUTHORIZED: u32 = 0x2;

/// What the settings say of the door.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the keys are that tickets are judged by; none: no tickets are needed.
    pub auth: Vec<Source>,
    /// Shows that anybody may watch, where there are keys.
    pub public: Patterns,
    /// Connections of one address at once.
    pub max_connections: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { auth: Vec::new(), public: Patterns::new(), max_connections: MAX_CONNECTIONS }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A source that is none.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A path that is none.
    #[error("--public: {0}")]
    Public(ClaimsError),
    /// Too many.
    #[error("--public is given more than {MAX_PUBLIC} times")]
    TooManyPublic,
    /// Without keys everything is public.
    #[error(
        "--public says what may be watched without a ticket, but without --auth no tickets are asked for at all"
    )]
    PublicWithoutAuth,
    /// Nobody could come in.
    #[error("--max-connections is 0: nobody could come in")]
    NoConnections,
}

impl Settings {
    /// From the words of the command line.
    pub fn check(
        auth: &[String],
        public: &[String],
        max_connections: Option<u32>,
    ) -> Result<Self, SettingsError> {
        if auth.len() > source::MAX_SOURCES {
            return Err(SourceError::TooMany.into());
        }
        let auth = auth.iter().map(|text| text.parse()).collect::<Result<Vec<Source>, _>>()?;
        if public.len() > MAX_PUBLIC {
            return Err(SettingsError::TooManyPublic);
        }
        if auth.is_empty() && !public.is_empty() {
            return Err(SettingsError::PublicWithoutAuth);
        }
        // A prefix: the show of this name, and all below it.
        let subtree = |text: &String| {
            let bad = |error: moq_net::InvalidPattern| ClaimsError::Path(text.clone(), error.to_string());
            Pattern::subtree(text).map_err(|error| SettingsError::Public(bad(error)))
        };
        let public = public.iter().map(subtree).collect::<Result<Patterns, _>>()?;
        let max_connections = max_connections.unwrap_or(MAX_CONNECTIONS);
        if max_connections == 0 {
            return Err(SettingsError::NoConnections);
        }
        Ok(Self { auth, public, max_connections })
    }
}

/// What to do with somebody who knocks.
#[derive(Debug)]
pub enum Knock {
    /// Let the handshake begin; it counts as long as the value lives.
    Come(Option<Visit>),
    /// The address has to be proved first.
    Prove,
    /// Away.
    Refuse,
}

/// By what it is judged who may come in.
struct Rules {
    /// `None`: no tickets are asked for.
    keys: Option<Keys>,
    public: Patterns,
    token: Option<Arc<str>>,
}

impl Rules {
    async fn open(auth: Vec<Source>, public: Patterns, token: Option<&str>) -> Result<Self, SourceError> {
        let keys = match auth.is_empty() {
            true => None,
            false => Some(Keys::open(auth).await?),
        };
        Ok(Self { keys, public, token: token.map(Arc::from) })
    }
}

/// The door.
#[derive(Clone)]
pub struct Admission {
    /// Those of now.
    rules: Arc<RwLock<Arc<Rules>>>,
    limits: Arc<Mutex<Limits>>,
    /// Of the limits: when the wall clock is set back by hours, nobody is to wait for hours.
    clock: Clock,
    sessions: Arc<AtomicU64>,
}

impl Admission {
    /// Reads the keys, and follows their changes as tasks of the current runtime. `token` is the shared word of those
    /// who publish, where there is one.
    pub async fn open(settings: Settings, token: Option<&str>) -> Result<Self, SourceError> {
        let Settings { auth, public, max_connections } = settings;
        let rules = Rules::open(auth, public, token).await?;
        Ok(Self {
            rules: Arc::new(RwLock::new(Arc::new(rules))),
            limits: Arc::new(Mutex::new(Limits::new(max_connections))),
            clock: Clock::start(),
            sessions: Arc::default(),
        })
    }

    /// Judges by other settings from now on, whose keys are read at once; who is in stays, until the time that it was let
    /// in for. What counts already goes on to count.
    ///
    /// # Errors
    /// Where a file of keys cannot be used: then nothing has changed.
    pub async fn reload(&self, settings: Settings, token: Option<&str>) -> Result<(), SourceError> {
        let Settings { auth, public, max_connections } = settings;
        let rules = Arc::new(Rules::open(auth, public, token).await?);
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        self.limits().allow(max_connections);
        Ok(())
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether tickets are asked for.
    pub fn wants_tickets(&self) -> bool {
        self.rules().keys.is_some()
    }

    /// The word that those who publish share, where there is one.
    pub fn token(&self) -> Option<Arc<str>> {
        self.rules().token.clone()
    }

    fn limits(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A first packet came, from an address that was proved or not.
    pub fn knock(&self, address: IpAddr, proved: bool) -> Knock {
        let mut limits = self.limits();
        let now = self.clock.now();
        match (limits.would_enter(address, now), proved) {
            (true, false) => Knock::Come(None),
            // Whose address it says may not know of it.
            (false, false) => Knock::Prove,
            (true, true) if limits.begin_handshake(address, now) => {
                Knock::Come(Some(self.visit(address, true)))
            }
            _ => Knock::Refuse,
        }
    }

    /// A connection stands. It counts as long as the visit lives; `None`: there are too many of its address.
    pub fn enter(&self, address: IpAddr) -> Option<Visit> {
        self.limits().enter(address, self.clock.now()).then(|| self.visit(address, false))
    }

    fn visit(&self, address: IpAddr, handshake: bool) -> Visit {
        Visit { limits: self.limits.clone(), address, handshake }
    }

    /// A seat for a session of its own.
    pub fn own_seat(&self) -> Seat {
        Seat::Session(self.sessions.fetch_add(1, Ordering::Relaxed))
    }

    /// Lets a session in, with the ticket that it shows, if any. The pass is to be kept as long as the session goes
    /// on, and the session is to end when it has [expired](Pass::expired).
    pub fn admit(&self, ticket: Option<&str>, seat: Seat) -> Result<Pass, Refusal> {
        let (mut pass, verified) = self.decide(ticket)?;
        if let Some(Verified { claims, identity }) = verified {
            let seated = self.limits().seat(identity, seat.clone(), claims.sessions, self.clock.now());
            seated.map_err(|error| match error {
                NoSeat::Taken => Refusal::InUse,
                NoSeat::TooFast => Refusal::TooFast,
            })?;
            pass.held = Some(Held { limits: self.limits.clone(), ticket: identity, seat });
        }
        Ok(pass)
    }

    /// What a ticket allows, for a question that is answered at once and takes no seat.
    pub fn look(&self, ticket: Option<&str>) -> Result<Pass, Refusal> {
        self.decide(ticket).map(|(pass, _)| pass)
    }

    /// Whether [`admit`](Self::admit) would let one more session in; takes no seat.
    pub fn would_admit(&self, ticket: Option<&str>) -> Result<Pass, Refusal> {
        let (pass, verified) = self.decide(ticket)?;
        match verified {
            Some(Verified { claims, identity }) if !self.limits().has_seat(identity, claims.sessions) => {
                Err(Refusal::InUse)
            }
            _ => Ok(pass),
        }
    }

    fn decide(&self, ticket: Option<&str>) -> Result<(Pass, Option<Verified>), Refusal> {
        let ticket = ticket.filter(|ticket| !ticket.is_empty());
        let rules = self.rules();
        let has_word = ticket.is_some_and(|ticket| rules.is_word(ticket));
        let pass = |publish: bool, subscribe: Patterns| {
            let publish = if publish { Grant::all().publish } else { Patterns::new() };
            Pass { grant: Grant { publish, subscribe }, expires: None, held: None }
        };
        let Some(keys) = &rules.keys else {
            return Ok((pass(rules.token.is_none() || has_word, Grant::all().subscribe), None));
        };
        let Some(ticket) = ticket.filter(|_| !has_word) else {
            let pass = pass(has_word, rules.public.clone());
            return if pass.grant.is_empty() { Err(Refusal::Missing) } else { Ok((pass, None)) };
        };
        let verified = judge(keys, ticket)?;
        let Claims { mut grant, expires, .. } = verified.claims.clone();
        grant.subscribe.extend(rules.public.iter().cloned());
        Ok((Pass { grant, expires: Some(expires), held: None }, Some(verified)))
    }
}

impl Rules {
    /// Whether it is the shared word; takes the same time whatever is wrong.
    fn is_word(&self, ticket: &str) -> bool {
        let Some(token) = &self.token else { return false };
        let tag =
            |word: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, word.as_bytes()), b"the shared word");
        let key = hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes());
        hmac::verify(&key, b"the shared word", tag(ticket).as_ref()).is_ok()
    }
}

/// A ticket that is good now.
fn judge(keys: &Keys, ticket: &str) -> Result<Verified, Refusal> {
    let set = keys.now();
    if set.is_empty() {
        return Err(Refusal::NoKeys);
    }
    let verified = set.verify(ticket).inspect_err(|refusal| {
        if *refusal == Refusal::Untrusted {
            keys.missed();
        }
    })?;
    match verified.claims.validity(wall()) {
        Validity::Now => Ok(verified),
        Validity::NotYet => Err(Refusal::NotYet),
        Validity::Expired => Err(Refusal::Expired),
    }
}

/// The ticket of an HTTP request: `Authorization: Bearer`, or else `jwt` in the query.
pub fn ticket_of(headers: &HeaderMap, query: Option<&str>) -> Option<String> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, ticket) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| ticket.trim().to_owned())
    });
    bearer.or_else(|| ticket_in(query?))
}

/// `jwt` in a query.
pub fn ticket_in(query: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.find(|(name, value)| name == "jwt" && !value.is_empty()).map(|(_, value)| value.into_owned())
}
