//! Fan-out: MoQ sessions, over WebTransport for browsers and over raw QUIC for relays and programs.
//!
//! moq-net speaks the protocol; what is live is forwarded by us (`docs/decisions/0023-forwarding.md`):
//!
//! ```text
//! origin.rs -> live.rs (frames as they go onto the wire) -> pump.rs (one task for many viewers) -> quinn
//!                                                             ^ session.rs (subscriptions, lite.rs)
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use web_transport_quinn as web_transport;

use self::session::{Scope, Session};
use crate::origin::{self, Origin};

mod copy;
mod lite;
mod live;
mod pump;
mod session;
#[cfg(test)]
mod tests;

pub(crate) use live::{Lives, Writer};

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
}

/// How many viewers there are and were.
#[derive(Debug, Default)]
pub struct Viewers {
    now: AtomicU64,
    total: AtomicU64,
}

impl Viewers {
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
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A browser: HTTP/3 first, then MoQ in the sub-protocol that both know.
pub async fn serve_webtransport(
    connection: quinn::Connection,
    origin: Origin,
    viewers: Arc<Viewers>,
) -> Result<(), FanoutError> {
    let request = web_transport::Request::accept(connection).await?;
    let offered = &request.protocols;
    let chosen = moq_net::ALPNS.iter().find(|alpn| offered.iter().any(|offer| offer == *alpn));
    let mut response = web_transport::proto::ConnectResponse::OK;
    if let Some(protocol) = chosen {
        response = response.with_protocol(*protocol);
    }
    let session = request.respond(response).await?;
    serve(session, origin, viewers).await
}

/// A program: MoQ directly on QUIC, its version chosen by ALPN.
pub async fn serve_quic(
    connection: quinn::Connection,
    origin: Origin,
    viewers: Arc<Viewers>,
) -> Result<(), FanoutError> {
    serve(web_transport::Session::raw(connection), origin, viewers).await
}

async fn serve(
    session: web_transport::Session,
    origin: Origin,
    viewers: Arc<Viewers>,
) -> Result<(), FanoutError> {
    let server = moq_net::Server::new().with_publisher(origin.producer());
    let scope = Scope::default();
    let _ = scope.set(origin.producer().consume());
    let session = Session::new(session, origin.lives().clone(), scope);
    let (session, driver) = server.accept(origin::now(), session).await?;
    let _seat = Seat::take(&viewers);
    tracing::debug!(version = %session.version(), "viewer");
    let ended = moq_net::time::run(driver).await;
    tracing::debug!(%ended, "viewer left");
    Ok(())
}
