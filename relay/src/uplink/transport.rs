//! How the bond uses QUIC at the venue: buffers and timers.

use std::sync::Arc;
use std::time::Duration;

use super::dial::DialError;
use crate::control;
use crate::window::Wide;

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

/// Feedback that waits for us: one of 1150 bytes every 10 ms, for two seconds.
const DATAGRAM_RECEIVE_BUFFER: usize = 256 * 1024;

/// Bytes of the control stream that wait for us: a few messages.
const RECEIVE_WINDOW: u32 = 64 * 1024;

/// How an uplink's connections are made. Reads the system's certificates, so it is made once.
pub(super) fn client_config(fingerprint: Option<&String>) -> Result<quinn::ClientConfig, DialError> {
    let tls_error = |error: rustls::Error| DialError::Tls(error.to_string());
    let alpns = vec![bond::ALPN.to_vec(), control::VERSIONS_ALPN.to_vec()];
    let crypto =
        crate::trust::client_crypto(fingerprint.map(std::slice::from_ref).unwrap_or_default(), alpns)
            .map_err(tls_error)?;
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_idle_timeout(IDLE_TIMEOUT.try_into().ok())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .datagram_send_buffer_size(DATAGRAM_SEND_BUFFER)
        .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BUFFER))
        .receive_window(RECEIVE_WINDOW.into())
        .max_concurrent_bidi_streams(0u32.into())
        .max_concurrent_uni_streams(0u32.into())
        .ack_frequency_config(Some(crate::tls::rare_acks()))
        .congestion_controller_factory(Arc::new(Wide));
    let mut config = quinn::ClientConfig::new(crypto);
    config.transport_config(Arc::new(transport));
    Ok(config)
}
