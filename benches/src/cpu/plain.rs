//! The measure of all things: the same frames as plain QUIC datagrams over one connection, at quinn's defaults.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use bytes::Bytes;
use relay::clock::Clock;
use relay::tls::Identity;

use super::child::{answer, orders};
use crate::bond::plan::Plan;
use crate::bond::real::feed::{Sent, feed};
use crate::bond::real::scratch;

/// What it is called in the handshake.
const ALPN: &[u8] = b"roadie-bench/1";

/// The receiver: says its port and where its certificate lies, and when asked, how many bytes came.
pub async fn receiver() -> anyhow::Result<()> {
    let state = scratch("plain");
    let identity = Identity::self_signed(&state)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls)?;
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let endpoint = quinn::Endpoint::server(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let bytes = Arc::new(AtomicU64::new(0));
    let counter = bytes.clone();
    let port = endpoint.local_addr()?.port();
    let certificate = state.join("cert.pem");
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let Ok(connection) = incoming.await else { continue };
            // The one sender has read it. A folder that stays is litter, no more.
            let _ = std::fs::remove_dir_all(&state);
            while let Ok(datagram) = connection.read_datagram().await {
                counter.fetch_add(datagram.len() as u64, Ordering::Relaxed);
            }
        }
    });
    answer(&format!("{port},{}", certificate.display()));
    let mut orders = orders();
    while orders.recv().await.is_some() {
        answer(&bytes.load(Ordering::Relaxed).to_string());
    }
    Ok(())
}

/// The sender: says when it is connected, sends when told to, and says when it has.
pub async fn sender(plan: &Plan, receiver: &str) -> anyhow::Result<()> {
    let (port, certificate) = receiver.split_once(',').context("no receiver was told")?;
    let port: u16 = port.parse().context("no port was told")?;
    let mut endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    endpoint.set_default_client_config(client_config(Path::new(certificate))?);
    let connection = endpoint.connect((Ipv4Addr::LOCALHOST, port).into(), "localhost")?.await?;
    answer("ready");
    let mut orders = orders();
    if orders.recv().await.is_some() {
        let clock = Clock::start();
        let send = |sent: &Sent| {
            let data = sent.coming.frame_captured(sent.at, sent.bytes).data;
            let mut rest: Bytes = data;
            while !rest.is_empty() {
                let piece = rest.split_to(rest.len().min(bond::MAX_DATAGRAM));
                // A connection that broke shows in what is delivered.
                let _ = connection.send_datagram(piece);
            }
        };
        feed(plan, 1, clock.now(), &clock, || plan.media.video, send).await;
        answer("done");
        orders.recv().await;
    }
    Ok(())
}

fn client_config(certificate: &Path) -> anyhow::Result<quinn::ClientConfig> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls)?;
    Ok(quinn::ClientConfig::new(Arc::new(crypto)))
}
