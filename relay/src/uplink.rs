//! One uplink of the venue: its socket, its QUIC connection to the edge, and coming back.

use std::any::Any;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bond::PathId;
use bytes::Bytes;
use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::sync::mpsc;

use crate::control::{self, Hello, ToEdge, ToVenue};
use crate::tls::fingerprint;

/// The edge must answer within this time; then the next attempt begins with fresh packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause before a new attempt, doubled each time.
const BACKOFF: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_millis(800);

/// Pause after the edge has said no: only a person can change its mind.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// First guess of the round trip (RFC 9002 says 333 ms): it sets how soon a lost first packet is
/// repeated, and a show is waiting.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// A silent uplink is given up after this long. The bond itself stops using it within 100 ms; keeping
/// the connection lets it come back without a handshake.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps NAT bindings open, and finds out when the edge was started anew.
const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// quinn drops its oldest datagrams beyond this; the bond feeds it only what the path takes now, so
/// it never gets there (FACTS: the default of 1 MiB meant 2.7 s of stale video).
const DATAGRAM_SEND_BUFFER: usize = 64 * 1024;

/// Messages waiting for the control stream; more mean that it is stuck.
const CONTROL_QUEUE: usize = 8;

/// How an uplink is told in the command line and the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// What the creator calls it.
    pub name: String,
    /// Where its packets leave the machine.
    pub bind: Bind,
    /// Send to this address in place of the edge's own: an emulator, a tunnel.
    pub via: Option<SocketAddr>,
}

/// Where packets leave the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// Wherever the routing table says.
    Any,
    /// Through this network interface.
    Interface(String),
    /// From this address.
    Source(IpAddr),
}

/// An uplink that cannot be used as told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UplinkError {
    /// No interface has this name.
    #[error("there is no network interface {name:?}{}", known(.interfaces))]
    NoInterface {
        /// As given.
        name: String,
        /// Those that exist.
        interfaces: Vec<String>,
    },
    /// This machine does not have the address.
    #[error("this machine has no address {0}; `ip address` lists those it has")]
    NoAddress(IpAddr),
    /// The part after `via=`.
    #[error("{0:?} is not an address with a port, such as 127.0.0.1:7001")]
    Via(String),
    /// Empty.
    #[error("an uplink needs a name: an interface such as wlan0, or an address of this machine")]
    Empty,
}

fn known(interfaces: &[String]) -> String {
    if interfaces.is_empty() { String::new() } else { format!("; there are: {}", interfaces.join(", ")) }
}

impl Uplink {
    /// The way that the routing table takes.
    pub fn default_route() -> Self {
        Self { name: "default".into(), bind: Bind::Any, via: None }
    }

    /// Whether the interface or address exists now. It may go and come back later; at the start its
    /// absence is more likely a slip of the pen.
    pub fn check(&self) -> Result<(), UplinkError> {
        match &self.bind {
            Bind::Any => Ok(()),
            Bind::Interface(name) if interface_exists(name) => Ok(()),
            Bind::Interface(name) => {
                Err(UplinkError::NoInterface { name: name.clone(), interfaces: interfaces() })
            }
            Bind::Source(addr) => {
                std::net::UdpSocket::bind((*addr, 0)).map(drop).map_err(|_| UplinkError::NoAddress(*addr))
            }
        }
    }

    fn socket(&self, remote: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
        use socket2::{Domain, Protocol, Socket, Type};
        let socket = Socket::new(Domain::for_address(remote), Type::DGRAM, Some(Protocol::UDP))?;
        let unspecified: IpAddr =
            if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let local = match &self.bind {
            Bind::Any => unspecified,
            Bind::Interface(name) => {
                socket.bind_device(Some(name.as_bytes()))?;
                unspecified
            }
            Bind::Source(addr) => *addr,
        };
        socket.bind(&SocketAddr::new(local, 0).into())?;
        Ok(socket.into())
    }
}

impl FromStr for Uplink {
    type Err = UplinkError;

    /// `IFACE`, `ADDRESS` or `NAME:via=HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, UplinkError> {
        let (name, via) = match text.split_once(":via=") {
            Some((name, via)) => (name, Some(via.parse().map_err(|_| UplinkError::Via(via.into()))?)),
            None => (text, None),
        };
        if name.is_empty() {
            return Err(UplinkError::Empty);
        }
        let bind = match name.parse() {
            Ok(addr) => Bind::Source(addr),
            Err(_) if via.is_some() && !interface_exists(name) => Bind::Any,
            Err(_) => Bind::Interface(name.into()),
        };
        Ok(Self { name: name.into(), bind, via })
    }
}

impl fmt::Display for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn interface_exists(name: &str) -> bool {
    !name.contains('/') && name != "." && name != ".." && Path::new("/sys/class/net").join(name).exists()
}

fn interfaces() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir("/sys/class/net")
        .map(|dir| dir.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

/// The edge as all uplinks dial it.
#[derive(Clone, Debug)]
pub struct EdgeAddress {
    /// Name or address, as in the URL.
    pub host: String,
    /// UDP port.
    pub port: u16,
    /// SHA-256 of its certificate in hex, where no authority vouches for it.
    pub fingerprint: Option<String>,
}

/// What an uplink tells the bond's task.
pub(crate) enum UplinkEvent {
    /// Part of the bond now.
    Up { path: PathId, connection: quinn::Connection, control: mpsc::Sender<ToEdge> },
    /// Something came from the edge.
    Datagram { path: PathId, connection: usize, data: Bytes },
    /// The edge wants a keyframe.
    Keyframe,
    /// Lost, or not to be had; the reason is for the creator.
    Down { path: PathId, connection: Option<usize>, reason: String, refused: bool },
}

/// Why one life of an uplink's connection ended.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("the name {0} cannot be resolved")]
    Resolve(String),
    #[error("cannot open a socket: {0}")]
    Socket(std::io::Error),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("the edge does not answer")]
    Timeout,
    #[error(
        "the edge speaks another version of the bond; this one is {}",
        String::from_utf8_lossy(bond::ALPN)
    )]
    Version,
    #[error("{0}")]
    Connect(#[from] quinn::ConnectError),
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("{0}")]
    Control(#[from] control::ControlError),
    #[error("{0}")]
    Refused(String),
}

/// Keeps one uplink of the bond alive until the bond's task is gone.
pub(crate) async fn run(uplink: Uplink, edge: EdgeAddress, hello: Hello, events: mpsc::Sender<UplinkEvent>) {
    let path = PathId(hello.path);
    let mut pause = *BACKOFF.start();
    while !events.is_closed() {
        let mut connected = None;
        let error = match live(&uplink, &edge, &hello, &events, &mut connected).await {
            Ok(()) => return,
            Err(error) => error,
        };
        let refused = matches!(error, DialError::Refused(_) | DialError::Version);
        if connected.is_some() {
            pause = *BACKOFF.start();
        }
        let reason = explain(&error);
        tracing::info!(uplink = %uplink.name, %reason, "uplink");
        let down = UplinkEvent::Down { path, connection: connected, reason, refused };
        if events.send(down).await.is_err() {
            return;
        }
        tokio::time::sleep(if refused { REFUSED_PAUSE } else { pause }).await;
        pause = (pause * 2).min(*BACKOFF.end());
    }
}

fn explain(error: &DialError) -> String {
    use quinn::ConnectionError as E;
    match error {
        DialError::Connection(E::TimedOut) => DialError::Timeout.to_string(),
        DialError::Connection(E::Reset) => "the edge was started anew".into(),
        DialError::Connection(E::ApplicationClosed(close)) => {
            format!("the edge closed the connection: {}", String::from_utf8_lossy(&close.reason))
        }
        // TLS alert 120, no_application_protocol (RFC 7301).
        DialError::Connection(E::ConnectionClosed(close))
            if close.error_code == quinn::TransportErrorCode::crypto(120) =>
        {
            DialError::Version.to_string()
        }
        other => other.to_string(),
    }
}

/// One life: dial, say hello, carry; `Ok` when the bond's task is gone.
async fn live(
    uplink: &Uplink,
    edge: &EdgeAddress,
    hello: &Hello,
    events: &mpsc::Sender<UplinkEvent>,
    connected: &mut Option<usize>,
) -> Result<(), DialError> {
    let path = PathId(hello.path);
    let (connection, mut send, mut recv) = tokio::time::timeout(CONNECT_TIMEOUT, dial(uplink, edge, hello))
        .await
        .map_err(|_| DialError::Timeout)??;
    let id = connection.stable_id();
    *connected = Some(id);
    let (control, mut outbox) = mpsc::channel(CONTROL_QUEUE);
    let up = UplinkEvent::Up { path, connection: connection.clone(), control };
    if events.send(up).await.is_err() {
        return Ok(());
    }
    let writing = async {
        while let Some(message) = outbox.recv().await {
            control::send(&mut send, &message).await?;
            if message == ToEdge::End {
                // Wait until the edge has it, or the process would leave with the word unsaid.
                let _ = send.finish();
                let _ = send.stopped().await;
            }
        }
        Ok::<(), DialError>(())
    };
    let reading = async {
        loop {
            match control::recv::<ToVenue>(&mut recv).await? {
                ToVenue::Keyframe => {
                    let _ = events.send(UplinkEvent::Keyframe).await;
                }
                ToVenue::Refused { reason } => return Err(DialError::Refused(reason)),
                ToVenue::Welcome => {}
            }
        }
    };
    let carrying = async {
        loop {
            let data = connection.read_datagram().await?;
            if events.send(UplinkEvent::Datagram { path, connection: id, data }).await.is_err() {
                return Ok(());
            }
        }
    };
    let result = tokio::select! {
        // The connection knows best why it ended.
        biased;
        result = carrying => result,
        result = async { tokio::join!(writing, events.closed()).0 } => result,
        result = reading => match connection.close_reason() {
            Some(reason) => Err(reason.into()),
            None => result,
        },
    };
    connection.close(0u32.into(), b"");
    result
}

type Dialled = (quinn::Connection, quinn::SendStream, quinn::RecvStream);

async fn dial(uplink: &Uplink, edge: &EdgeAddress, hello: &Hello) -> Result<Dialled, DialError> {
    let remote = match uplink.via {
        Some(via) => via,
        None => resolve(uplink, edge).await?,
    };
    let socket = uplink.socket(remote).map_err(DialError::Socket)?;
    let mut endpoint =
        quinn::Endpoint::new(quinn::EndpointConfig::default(), None, socket, Arc::new(quinn::TokioRuntime))
            .map_err(DialError::Socket)?;
    endpoint.set_default_client_config(client_config(edge)?);
    let connection = endpoint.connect(remote, &edge.host)?.await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    control::send(&mut send, &ToEdge::Hello(hello.clone())).await?;
    match control::recv::<ToVenue>(&mut recv).await? {
        ToVenue::Refused { reason } => Err(DialError::Refused(reason)),
        _ => Ok((connection, send, recv)),
    }
}

async fn resolve(uplink: &Uplink, edge: &EdgeAddress) -> Result<SocketAddr, DialError> {
    let fail = || DialError::Resolve(edge.host.clone());
    let host = edge.host.trim_matches(['[', ']']);
    let all: Vec<SocketAddr> =
        tokio::net::lookup_host((host, edge.port)).await.map_err(|_| fail())?.collect();
    let fits = |addr: &&SocketAddr| match &uplink.bind {
        Bind::Source(source) => source.is_ipv4() == addr.is_ipv4(),
        _ => true,
    };
    all.iter().find(fits).copied().ok_or_else(fail)
}

fn client_config(edge: &EdgeAddress) -> Result<quinn::ClientConfig, DialError> {
    let tls_error = |error: &dyn fmt::Display| DialError::Tls(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| tls_error(&error))?;
    let mut tls = match &edge.fingerprint {
        Some(fingerprint) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { fingerprint: fingerprint.clone(), provider }))
            .with_no_client_auth(),
        None => {
            let mut roots = rustls::RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    tls.alpn_protocols = vec![bond::ALPN.to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).map_err(|error| tls_error(&error))?;
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_idle_timeout(IDLE_TIMEOUT.try_into().ok())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .datagram_send_buffer_size(DATAGRAM_SEND_BUFFER)
        .congestion_controller_factory(Arc::new(WideWindow));
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Trusts exactly one certificate.
#[derive(Debug)]
struct Pinned {
    fingerprint: String,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if fingerprint(end_entity).eq_ignore_ascii_case(&self.fingerprint) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("the edge's certificate does not have the given fingerprint".into()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The bond paces by its own rate estimate per path and its own deadlines; a congestion window below
/// it would only hide what it needs to see (FACTS: application-paced with a wide window beat NewReno,
/// Cubic and BBR at 1 % loss). This window bounds what a bug could put in flight.
const WINDOW: u64 = 1024 * 1024;

struct WideWindow;

impl ControllerFactory for WideWindow {
    fn build(self: Arc<Self>, _: Instant, _: u16) -> Box<dyn Controller> {
        Box::new(WideWindow)
    }
}

impl Controller for WideWindow {
    fn on_ack(&mut self, _: Instant, _: Instant, _: u64, _: bool, _: &RttEstimator) {}
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}
    fn on_mtu_update(&mut self, _: u16) {}
    fn window(&self) -> u64 {
        WINDOW
    }
    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(WideWindow)
    }
    fn initial_window(&self) -> u64 {
        WINDOW
    }
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uplinks_as_people_write_them() {
        let uplink: Uplink = "lo".parse().unwrap();
        assert_eq!(uplink.bind, Bind::Interface("lo".into()));
        uplink.check().unwrap();
        let uplink: Uplink = "127.0.0.1".parse().unwrap();
        assert_eq!(uplink.bind, Bind::Source(Ipv4Addr::LOCALHOST.into()));
        uplink.check().unwrap();
        let uplink: Uplink = "5g-one:via=127.0.0.1:7001".parse().unwrap();
        assert_eq!((uplink.bind, uplink.via), (Bind::Any, Some("127.0.0.1:7001".parse().unwrap())));
        assert_eq!("x:via=y".parse::<Uplink>(), Err(UplinkError::Via("y".into())));
        assert_eq!("".parse::<Uplink>(), Err(UplinkError::Empty));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = "usb7".parse::<Uplink>().unwrap().check().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("\"usb7\"") && text.contains("lo"), "{text}");
        let error = "203.0.113.9".parse::<Uplink>().unwrap().check().unwrap_err();
        assert!(error.to_string().contains("203.0.113.9"));
    }
}
