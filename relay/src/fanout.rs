//! Fan-out: MoQ sessions, over WebTransport for browsers and over raw QUIC for relays and programs; over WebSocket for
//! those whom no UDP reaches.
//!
//! moq-net speaks the protocol; what is live is forwarded by us (`docs/decisions/0023-forwarding.md`):
//!
//! ```text
//! origin.rs -> live.rs (frames as they go onto the wire) -> pump.rs (one task for many viewers) -> quinn
//!                                                             ^ session.rs (subscriptions, lite.rs)
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moq_net::goaway::Goaway;
use moq_net::{Role, origin::Producer};
use tokio::sync::Notify;
use web_transport_quinn as web_transport;

use self::session::{Scope, Session};
use crate::admission::{self, Admission, Pass, Refusal};
use crate::drain::Drain;
use crate::edge::HalfOpen;
use crate::intake::{From, Inbox, Intake};
use crate::origin::{self, Origin};

mod copy;
mod lite;
mod live;
mod polled;
mod pump;
mod session;
mod tap;
#[cfg(test)]
mod tests;
pub mod websocket;

pub(crate) use live::{Lives, Writer};
pub(crate) use tap::{Shelf, Tap, Unit};

/// Whoever is refused has so long to hear of it.
const REFUSED: Duration = Duration::from_secs(2);

/// Each of a viewer's handshakes, HTTP/3's and MoQ's, may take so long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A session that was asked to go is closed by the edge when its time is over, and by moq-net so much later if it is still
/// there: in this order, since a browser's session is closed with its connection.
const LATER: Duration = Duration::from_secs(5);

/// Why a viewer's session could not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FanoutError {
    /// The HTTP/3 handshake failed.
    #[error("WebTransport handshake: {0}")]
    WebTransport(#[from] web_transport::ServerError),
    /// The MoQ handshake failed.
    #[error("MoQ handshake: {0}")]
    Moq(#[from] moq_net::Error),
    /// The handshake of WebSocket failed.
    #[error("WebSocket handshake: {0}")]
    WebSocket(String),
    /// It did not say what it wants.
    #[error("no handshake within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Silent,
    /// It was not let in.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
}

/// How many viewers there are and were, and whether they may stay.
#[derive(Debug, Default)]
pub struct Viewers {
    now: AtomicU64,
    total: AtomicU64,
    last_left: Notify,
    /// Of the relay.
    pub drain: Drain,
}

impl Viewers {
    /// Resolves when there is nobody.
    pub async fn none(&self) {
        loop {
            let mut left = std::pin::pin!(self.last_left.notified());
            left.as_mut().enable();
            if self.now() == 0 {
                return;
            }
            left.await;
        }
    }

    /// Sessions open at this moment.
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Sessions since the start.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

struct Seat(Arc<Viewers>);

impl Seat {
    fn take(viewers: &Arc<Viewers>) -> Self {
        viewers.now.fetch_add(1, Ordering::Relaxed);
        viewers.total.fetch_add(1, Ordering::Relaxed);
        Seat(viewers.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.0.now.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.last_left.notify_waiters();
        }
    }
}

/// A browser: HTTP/3 first, then MoQ in the sub-protocol that both know. Its ticket is in the URL, whose path is
/// the root of what it sees, or in the headers.
pub async fn serve_webtransport(
    connection: quinn::Connection,
    origin: Origin,
    viewers: Arc<Viewers>,
    intake: Intake,
    admission: Admission,
    half_open: HalfOpen,
) -> Result<(), FanoutError> {
    let request = in_time(web_transport::Request::accept(connection)).await??;
    let ticket = admission::ticket_of(&request.headers, request.url.query());
    let root = request.url.path().to_owned();
    let scope = Scope::default();
    let entered = match enter(&admission, &origin, &intake, &scope, ticket.as_deref(), &root) {
        Ok(entered) => entered,
        Err(refusal) => {
            let connection = request.conn().clone();
            request.reject(refusal.status()).await?;
            // The answer is on its way; whoever has it goes, and the idle timeout takes the others.
            let _ = tokio::time::timeout(REFUSED, connection.closed()).await;
            return Err(refusal.into());
        }
    };
    let offered = &request.protocols;
    let chosen = moq_net::ALPNS.iter().find(|alpn| offered.iter().any(|offer| offer == *alpn));
    let mut response = web_transport::proto::ConnectResponse::OK;
    if let Some(protocol) = chosen {
        response = response.with_protocol(*protocol);
    }
    let session = request.respond(response).await?;
    let ours = Session::new(session.clone(), origin.lives().clone(), scope);
    let handshake = in_time(moq_net::Server::new().accept_request(origin::now(), ours)).await??;
    drop(half_open);
    serve(handshake, entered, viewers, |refusal| close(session.clone(), refusal)).await
}

/// A program: MoQ directly on QUIC, its version chosen by ALPN. Its ticket and its root are in the path that its SETUP
/// names, where its version has one.
pub async fn serve_quic(
    connection: quinn::Connection,
    origin: Origin,
    viewers: Arc<Viewers>,
    intake: Intake,
    admission: Admission,
    half_open: HalfOpen,
) -> Result<(), FanoutError> {
    let session = web_transport::Session::raw(connection);
    let scope = Scope::default();
    let ours = Session::new(session.clone(), origin.lives().clone(), scope.clone());
    let handshake = in_time(moq_net::Server::new().accept_request(origin::now(), ours)).await??;
    drop(half_open);
    let (root, query) = match handshake.path().split_once('?') {
        Some((root, query)) => (root, Some(query)),
        None => (handshake.path(), None),
    };
    let in_setup = || std::str::from_utf8(&handshake.token()?.value).ok().map(str::to_owned);
    let ticket = query.and_then(admission::ticket_in).or_else(in_setup);
    match enter(&admission, &origin, &intake, &scope, ticket.as_deref(), root) {
        Ok(entered) => serve(handshake, entered, viewers, |refusal| close(session.clone(), refusal)).await,
        Err(refusal) => {
            session.close(admission::CLOSE_UNAUTHORIZED, refusal.to_string().as_bytes());
            Err(refusal.into())
        }
    }
}

async fn in_time<T>(step: impl Future<Output = T>) -> Result<T, FanoutError> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, step).await.map_err(|_| FanoutError::Silent)
}

/// What a session may do with its ticket, and nothing outside of it: at least one of the two.
struct Entered {
    pass: Pass,
    /// What it sees.
    source: Option<Producer>,
    /// What it announces.
    inbox: Option<Inbox>,
    /// What it is told where it wants the one that it has not.
    refusal: Refusal,
}

fn enter(
    admission: &Admission,
    origin: &Origin,
    intake: &Intake,
    scope: &Scope,
    ticket: Option<&str>,
    root: &str,
) -> Result<Entered, Refusal> {
    let pass = admission.admit(ticket, admission.own_seat())?;
    let refusal = if ticket.is_some() { Refusal::NotForThis } else { Refusal::Missing };
    let root = root.trim_matches('/');
    let source = origin.scoped(root, &pass.grant.subscribe);
    let inbox = intake.inbox(From::Guest, root, &pass.grant.publish);
    if source.is_none() && inbox.is_none() {
        return Err(refusal);
    }
    if let Some(source) = &source {
        let _ = scope.set(source.consume());
    }
    Ok(Entered { pass, source, inbox, refusal })
}

/// `close` ends the session with a word, and returns when that has arrived.
async fn serve<S: moq_net::transport::poll::Session, F: Future<Output = ()>>(
    mut handshake: moq_net::server::Handshake<S>,
    entered: Entered,
    viewers: Arc<Viewers>,
    close: impl Fn(Refusal) -> F,
) -> Result<(), FanoutError> {
    let Entered { pass, source, inbox, refusal } = entered;
    let wanted = match handshake.role() {
        Some(Role::Publisher) => inbox.is_some(),
        Some(Role::Subscriber) => source.is_some(),
        _ => true,
    };
    if !wanted {
        close(refusal).await;
        return Err(refusal.into());
    }
    // Who only watches needs no inbox.
    let inbox = inbox.filter(|_| handshake.role() != Some(Role::Subscriber));
    if let Some(source) = &source {
        handshake = handshake.with_publisher(source);
    }
    if let Some(inbox) = &inbox {
        handshake = handshake.with_subscriber(inbox.entry());
    }
    let (moq, driver) = handshake.ok().await?;
    let _seat = Seat::take(&viewers);
    tracing::debug!(version = %moq.version(), publishes = inbox.is_some(), "MoQ session");
    let admitting = async {
        match inbox {
            Some(inbox) => inbox.admit().await,
            None => std::future::pending().await,
        }
    };
    let leaving = async {
        let patience = viewers.drain.begun().await;
        // Versions without the word (moq-lite-03) learn it from the close.
        let _ = moq.drain().send(Goaway::new().with_timeout(patience + LATER));
        viewers.drain.over().await;
    };
    // Where we close, the driver stands still, and ends its streams only when the word has arrived: of streams that are
    // reset right before the session is closed, Chromium 156 crashes its tab.
    let mut driver = std::pin::pin!(moq_net::time::run(driver));
    tokio::select! {
        ended = &mut driver => tracing::debug!(%ended, "MoQ session ended"),
        () = pass.expired() => close(Refusal::Expired).await,
        too_much = admitting => {
            tracing::warn!(%too_much, "a program is sent away");
            close(Refusal::TooMuch).await;
        }
        () = leaving => {}
    }
    Ok(())
}

/// Says why, and nothing else any more, for the session's driver is gone.
async fn close(session: web_transport::Session, refusal: Refusal) {
    session.close(admission::CLOSE_UNAUTHORIZED, refusal.to_string().as_bytes());
    // The word is on its way.
    let _ = tokio::time::timeout(REFUSED, session.closed()).await;
}
