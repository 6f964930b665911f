//! The edge's UDP port: one endpoint of QUIC for all protocols, and how its connections are carried.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn_proto::HashedConnectionIdGenerator;

use crate::control;
use crate::counters::Counters;
use crate::edge::EdgeError;
use crate::tls::{Current, TlsError};
use crate::window::Choice;

/// A peer that has been silent this long is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps NAT bindings open and notices the dead.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Streams that a peer may have open towards us: a viewer's subscriptions and their updates.
const MAX_STREAMS: u32 = 256;

/// Datagrams that wait to be sent: only feedback goes this way, and stale feedback is worthless (FACTS).
const DATAGRAM_SEND_BUFFER: usize = 32 * 1024;

/// Datagrams that came in and wait for us: 200 ms of 20 Mb/s.
const DATAGRAM_RECEIVE_BUFFER: usize = 512 * 1024;

/// What a peer may have sent on all its streams, and we have not read: nobody sends much to an edge but
/// datagrams.
const RECEIVE_WINDOW: u32 = 1024 * 1024;

/// The same of one stream: more than the longest `hello`.
const STREAM_RECEIVE_WINDOW: u32 = 128 * 1024;

/// One endpoint for all protocols, told apart by ALPN, and what its connections have in common. `secret` is the same after
/// a restart.
pub(crate) fn listen(
    addr: SocketAddr,
    current: Arc<Current>,
    secret: [u8; 32],
    counters: &Counters,
) -> Result<(quinn::Endpoint, quinn::ServerConfig), EdgeError> {
    let mut tls =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Refused)?
            .with_no_client_auth()
            .with_cert_resolver(current);
    let moq = moq_net::ALPNS.iter().map(|alpn| alpn.as_bytes());
    // The first of ours that the client offers is taken, so the word of last resort comes last.
    let alpns = [bond::ALPN, b"h3"].into_iter().chain(moq).chain([control::VERSIONS_ALPN]);
    tls.alpn_protocols = alpns.map(<[u8]>::to_vec).collect();
    let crypto = QuicServerConfig::try_from(tls)
        .map_err(|error| TlsError::Refused(rustls::Error::General(error.to_string())))?;
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));

    let fail = |source| EdgeError::Listen { protocol: "UDP", addr, option: "--listen", source };
    let socket = udp_socket(addr).map_err(fail)?;
    // Both keys outlive the process, so that peers of a relay that was killed are told at once by its
    // successor that their connections are gone.
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret);
    let [a, b, c, d, e, f, g, h, ..] = secret;
    let cid_key = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let mut endpoint = quinn::EndpointConfig::new(Arc::new(reset_key));
    endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_key)));
    let runtime = Arc::new(crate::udp::Runtime(counters.traffic.clone()));
    let endpoint = quinn::Endpoint::new(endpoint, Some(config.clone()), socket, runtime).map_err(fail)?;
    Ok((endpoint, config))
}

/// How one connection is carried.
pub(crate) fn transport(choice: &Choice) -> Arc<quinn::TransportConfig> {
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_idle_timeout(IDLE_TIMEOUT.try_into().ok())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_concurrent_bidi_streams(MAX_STREAMS.into())
        .max_concurrent_uni_streams(MAX_STREAMS.into())
        .receive_window(RECEIVE_WINDOW.into())
        .stream_receive_window(STREAM_RECEIVE_WINDOW.into())
        .datagram_send_buffer_size(DATAGRAM_SEND_BUFFER)
        .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BUFFER))
        .congestion_controller_factory(Arc::new(choice.clone()))
        .ack_frequency_config(Some(crate::tls::rare_acks()));
    Arc::new(transport)
}

/// Socket buffers for bursts: keyframes to many viewers go out at once.
const SOCKET_BUFFER: usize = 2 * 1024 * 1024;

pub(crate) fn udp_socket(addr: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        // `https://localhost` tries ::1 first and does not fall back: one socket for both families.
        socket.set_only_v6(false)?;
    }
    // The kernel grants what its limits allow; less is no error.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&addr.into())?;
    Ok(socket.into())
}
