//! HTTPS: the same pages as over HTTP, under the same certificate as QUIC. Browsers give WebTransport and WebCodecs to
//! pages from HTTPS only (and from localhost).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::counters::{Counters, Turned};
use crate::tls::{Current, TlsError};

/// Handshakes at once: a room of viewers that comes at once, on a slow network. Further ones are turned away.
const MAX_HANDSHAKES: usize = 1024;

/// A handshake may take so long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that wait to be served: they are taken at once.
const WAITING: usize = 16;

/// When the system has no more descriptors it is asked again after this time.
const PAUSE: Duration = Duration::from_secs(1);

/// Gives connections whose handshake is done. The handshakes run beside each other: a slow one holds up nobody.
pub(crate) struct Tls {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    addr: SocketAddr,
    /// Stops with the listener.
    _accepting: JoinSet<()>,
}

impl Tls {
    pub fn new(
        listener: TcpListener,
        current: Arc<Current>,
        counters: Arc<Counters>,
    ) -> Result<Self, TlsError> {
        let mut config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_cert_resolver(current);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let addr = listener.local_addr().map_err(|error| rustls::Error::General(error.to_string()))?;
        let (done, ready) = mpsc::channel(WAITING);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), done, counters));
        Ok(Self { ready, addr, _accepting: accepting })
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    done: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
    counters: Arc<Counters>,
) {
    let places = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "HTTPS: no connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            counters.turn(Turned::Crowd);
            continue;
        };
        let (acceptor, done, counters) = (acceptor.clone(), done.clone(), counters.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => drop(done.send((stream, remote)).await),
                Ok(Err(error)) => {
                    counters.turn(Turned::Broken);
                    tracing::debug!(%remote, %error, "HTTPS handshake");
                }
                Err(_) => counters.turn(Turned::Slow),
            }
            drop(place);
        });
    }
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        match self.ready.recv().await {
            Some(ready) => ready,
            // The task that accepts does not end before this value does.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}
