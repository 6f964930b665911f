//! Calling another MoQ relay, over WebTransport or raw QUIC, to publish to it or to pull from it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use url::Url;
use web_transport_quinn as web_transport;

use crate::origin::{self, Origin};
use crate::trust::client_crypto;

/// A relay that has been silent this long is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps NAT bindings open and notices the dead.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// What a relay may have sent on all streams, and we have not read: 64 Mb/s over 500 ms.
const RECEIVE_WINDOW: u32 = 4 * 1024 * 1024;

/// The same of one stream, which carries a group.
const STREAM_RECEIVE_WINDOW: u32 = 1024 * 1024;

/// Streams that a relay may have open towards us, one for each group under way.
const MAX_STREAMS: u32 = 1024;

/// An address of the relay has so long before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(300);

/// Addresses that are tried.
const MAX_ADDRESSES: usize = 4;

/// The relay must have answered within this time.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// A MoQ relay to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    url: Url,
    fingerprints: Vec<String>,
}

/// Why a MoQ relay cannot be called.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// Not such an address.
    #[error(
        "{url:?} is not the address of a MoQ relay: {reason}; it looks like https://relay.example:4443/path"
    )]
    Url {
        /// As given.
        url: String,
        /// In words.
        reason: String,
    },
    /// Not a fingerprint.
    #[error("{0:?} is not the SHA-256 fingerprint of a certificate: 64 hexadecimal digits")]
    Fingerprint(String),
    /// The name is not known.
    #[error("cannot find {host}: {reason}")]
    Name {
        /// Of the URL.
        host: String,
        /// What the system said.
        reason: String,
    },
    /// This machine gives no socket.
    #[error("cannot open a UDP socket: {0}")]
    Socket(#[from] std::io::Error),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Nobody answers there, or not as a MoQ relay does.
    #[error("cannot connect to {host}: {reason}")]
    Connect {
        /// Of the URL.
        host: String,
        /// What QUIC said.
        reason: String,
    },
    /// It answers, but does not want us.
    #[error("{host} answers, but: {reason}")]
    Refused {
        /// Of the URL.
        host: String,
        /// What it said.
        reason: String,
    },
}

impl Address {
    /// Checks a URL: `https://` is WebTransport, `moqt://` raw QUIC; its path is the root of the names there, and
    /// `?jwt=` a token. The relay's certificate must have one of the `fingerprints`; without any, an authority must
    /// vouch for it.
    pub fn parse(text: &str, fingerprints: &[String]) -> Result<Self, DialError> {
        let fail = |reason: &str| DialError::Url { url: text.into(), reason: reason.into() };
        let url = Url::parse(text).map_err(|error| fail(&error.to_string()))?;
        if !matches!(url.scheme(), "https" | "moqt") {
            return Err(fail("it begins neither with https:// nor with moqt://"));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(fail("it names no host"));
        }
        let good = |hex: &str| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some(bad) = fingerprints.iter().find(|hex| !good(hex)) {
            return Err(DialError::Fingerprint(bad.clone()));
        }
        Ok(Self { url, fingerprints: fingerprints.to_vec() })
    }

    /// Host and port, for people; without the token.
    pub fn host(&self) -> String {
        format!("{}:{}", self.url.host_str().unwrap_or_default(), self.port())
    }

    fn port(&self) -> u16 {
        self.url.port().unwrap_or(443)
    }

    fn is_raw(&self) -> bool {
        self.url.scheme() == "moqt"
    }

    /// What raw QUIC has no place for but MoQ's set-up.
    fn path_and_query(&self) -> String {
        match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        }
    }

    /// Connects and shakes hands as `client`.
    pub(crate) async fn call(
        &self,
        client: moq_net::Client,
    ) -> Result<(moq_net::Session, moq_net::Driver<web_transport::Session>), DialError> {
        let refused = |reason: String| DialError::Refused { host: self.host(), reason };
        let calling = async {
            let connection = self.connect().await?;
            let (session, client) = if self.is_raw() {
                (web_transport::Session::raw(connection), client.with_path(self.path_and_query()))
            } else {
                let mut request = web_transport::proto::ConnectRequest::new(self.url.clone());
                for alpn in moq_net::ALPNS {
                    request = request.with_protocol(*alpn);
                }
                let session = web_transport::Session::connect(connection, request).await;
                (session.map_err(|error| refused(error.to_string()))?, client)
            };
            client.connect(origin::now(), session).await.map_err(|error| refused(error.to_string()))
        };
        let slow = |_| DialError::Connect { host: self.host(), reason: "no answer".into() };
        tokio::time::timeout(DIAL_TIMEOUT, calling).await.map_err(slow)?
    }

    async fn connect(&self) -> Result<quinn::Connection, DialError> {
        let host = self.url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let unknown = |reason: String| DialError::Name { host: host.into(), reason };
        let found = tokio::net::lookup_host((host, self.port())).await;
        let addresses: Vec<_> =
            found.map_err(|error| unknown(error.to_string()))?.take(MAX_ADDRESSES).collect();
        let config = self.config()?;
        // The first that answers is taken; https://localhost has two addresses, and often one of them is dead.
        let mut calls = JoinSet::new();
        for (number, address) in addresses.into_iter().enumerate() {
            let (config, host, endpoint) = (config.clone(), host.to_owned(), endpoint(address)?);
            calls.spawn(async move {
                tokio::time::sleep(HEAD_START * number as u32).await;
                let calling =
                    endpoint.connect_with(config, address, &host).map_err(|error| error.to_string())?;
                calling.await.map_err(|error| error.to_string())
            });
        }
        let mut last = None;
        while let Some(call) = calls.join_next().await {
            match call {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(reason)) => last = Some(reason),
                Err(error) => last = Some(error.to_string()),
            }
        }
        Err(last.map_or_else(|| unknown("it has no address".into()), |reason| self.failed(reason)))
    }

    fn failed(&self, reason: String) -> DialError {
        DialError::Connect { host: self.host(), reason }
    }

    fn config(&self) -> Result<quinn::ClientConfig, DialError> {
        let moq = || moq_net::ALPNS.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
        let alpns = if self.is_raw() { moq() } else { vec![b"h3".to_vec()] };
        let mut transport = quinn::TransportConfig::default();
        transport
            .max_idle_timeout(IDLE_TIMEOUT.try_into().ok())
            .keep_alive_interval(Some(KEEP_ALIVE))
            .receive_window(RECEIVE_WINDOW.into())
            .stream_receive_window(STREAM_RECEIVE_WINDOW.into())
            .max_concurrent_bidi_streams(MAX_STREAMS.into())
            .max_concurrent_uni_streams(MAX_STREAMS.into());
        let mut config = quinn::ClientConfig::new(client_crypto(&self.fingerprints, alpns)?);
        config.transport_config(Arc::new(transport));
        Ok(config)
    }
}

fn endpoint(to: SocketAddr) -> Result<quinn::Endpoint, DialError> {
    let any = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    Ok(quinn::Endpoint::client(SocketAddr::new(any, 0))?)
}

/// Publishes all broadcasts of `origin` to the relay there, until the session ends.
///
/// # Errors
/// When it cannot be called; `Ok` has the reason of the end.
pub async fn publish(origin: &Origin, address: &Address) -> Result<moq_net::Error, DialError> {
    let client = moq_net::Client::new().with_publisher(origin.producer());
    let (_session, driver) = address.call(client).await?;
    Ok(moq_net::time::run(driver).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        let good = Address::parse("https://relay.example/tour?jwt=x", &[]).unwrap();
        assert_eq!(
            (good.host().as_str(), good.path_and_query().as_str()),
            ("relay.example:443", "/tour?jwt=x")
        );
        assert!(Address::parse("moqt://[::1]:4443", &["a".repeat(64)]).unwrap().is_raw());
        for bad in ["", "relay.example", "http://relay.example", "https://", "rtmp://relay.example/live"] {
            let error = Address::parse(bad, &[]).unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("https://relay.example:4443/path"), "{error}");
        }
        assert!(Address::parse("https://relay.example", &["abc".into()]).is_err());
    }
}
