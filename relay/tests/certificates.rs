//! A certificate that is renewed while the relay runs, well and badly. Real handshakes on loopback.

mod common;
#[path = "common/prometheus.rs"]
mod prometheus;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{Dir, catalog, edge_settings, frames, no_hooks, until};
use prometheus::Scrape;
use quinn::crypto::rustls::QuicClientConfig;
use relay::clock::Clock;
use relay::edge::Edge;
use relay::tls::fingerprint;
use relay::uplink::EdgeAddress;
use relay::venue::{self, Venue};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A certificate for localhost, and its key.
struct Pair {
    cert: String,
    key: String,
    der: CertificateDer<'static>,
}

fn pair(begins: SystemTime, ends: SystemTime) -> Pair {
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (begins.into(), ends.into());
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    Pair { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone() }
}

fn good() -> Pair {
    let now = SystemTime::now();
    pair(now - DAY, now + 90 * DAY)
}

fn expired() -> Pair {
    let now = SystemTime::now();
    pair(now - 90 * DAY, now - 3 * DAY)
}

/// A running edge with certificate files, and clients who trust some certificates.
struct House {
    dir: Dir,
    quic: SocketAddr,
    http: SocketAddr,
    https: SocketAddr,
    config: rustls::ClientConfig,
    endpoint: quinn::Endpoint,
    task: JoinHandle<()>,
}

impl Drop for House {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl House {
    async fn open(name: &str, first: &Pair, trusted: &[&Pair]) -> Self {
        let dir = Dir::new(name);
        std::fs::write(dir.0.join("cert.pem"), &first.cert).unwrap();
        std::fs::write(dir.0.join("key.pem"), &first.key).unwrap();
        let mut settings = edge_settings(&dir, None);
        settings.certificate = Some((dir.0.join("cert.pem"), dir.0.join("key.pem")));
        settings.https = Some((Ipv4Addr::LOCALHOST, 0).into());
        let edge = Edge::new(settings).await.unwrap();
        assert_eq!(edge.fingerprint(), fingerprint(&first.der));
        let (quic, http) = (edge.quic_addr().unwrap(), edge.http_addr().unwrap());
        let https = edge.https_addr().unwrap();
        let task = tokio::spawn(async move { edge.run().await.unwrap() });
        let mut roots = rustls::RootCertStore::empty();
        trusted.iter().for_each(|pair| roots.add(pair.der.clone()).unwrap());
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self { dir, quic, http, https, config, endpoint, task }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.0.join(name)
    }

    /// As a program that renews does: the one file, then the other.
    fn replace(&self, cert: &str, key: &str) {
        for (name, text) in [("cert.pem", cert), ("key.pem", key)] {
            std::fs::write(self.path("new"), text).unwrap();
            std::fs::rename(self.path("new"), self.path(name)).unwrap();
        }
    }

    /// The certificate that a new QUIC connection gets.
    async fn over_quic(&self) -> CertificateDer<'static> {
        let mut tls = self.config.clone();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        // A session that is resumed shows no certificate.
        tls.resumption = rustls::client::Resumption::disabled();
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let connection = self.endpoint.connect_with(config, self.quic, "localhost").unwrap().await.unwrap();
        let chain = connection.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap();
        chain[0].clone()
    }

    async fn https(&self) -> TlsStream<TcpStream> {
        let mut tls = self.config.clone();
        tls.resumption = rustls::client::Resumption::disabled();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
        let stream = TcpStream::connect(self.https).await.unwrap();
        connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
    }

    async fn metrics(&self) -> Scrape {
        Scrape::parse(get(self.http, "/metrics").await.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    async fn count(&self, name: &str, count: f64) {
        until(name, async || self.metrics().await.get(name, &[]) == count).await;
    }

    async fn venue(&self, pinned: &Pair) -> Venue {
        let edge = EdgeAddress {
            host: "127.0.0.1".into(),
            port: self.quic.port(),
            fingerprint: Some(fingerprint(&pinned.der)),
        };
        let settings = venue::Settings {
            edge,
            broadcast: "show".into(),
            token: None,
            uplinks: relay::uplink::Plan::parse(&["127.0.0.1".to_owned()]).unwrap(),
            deadline: Duration::from_millis(400),
        };
        let clock = Clock::start();
        let venue = Venue::start(settings, catalog(), clock, frames(clock), no_hooks(), None).unwrap();
        until("media at the edge", async || venue.status().bond.frames_acknowledged > 10).await;
        venue
    }
}

async fn get(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// One request on a connection that stays.
async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let mut space = [0; 1024];
    while !answer.ends_with("ok\n") {
        let length = stream.read(&mut space).await.unwrap();
        assert!(length > 0, "closed after {answer:?}");
        answer.push_str(std::str::from_utf8(&space[..length]).unwrap());
    }
    answer
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_for_new_connections_and_old_ones_live_on() {
    let (old, new) = (good(), good());
    let house = House::open("renewed", &old, &[&old, &new]).await;
    let venue = house.venue(&old).await;
    let mut kept = house.https().await;
    assert!(ask(&mut kept).await.starts_with("HTTP/1.1 200"));
    assert_eq!((house.over_quic().await, shown(&kept)), (old.der.clone(), old.der.clone()));

    house.replace(&new.cert, &new.key);
    house.count("roadie_tls_reloads_total", 1.0).await;
    assert_eq!(house.over_quic().await, new.der);
    let mut fresh = house.https().await;
    assert_eq!(shown(&fresh), new.der);
    assert!(ask(&mut fresh).await.starts_with("HTTP/1.1 200"));
    // Those from before go on.
    assert!(ask(&mut kept).await.starts_with("HTTP/1.1 200"));
    let acknowledged = venue.status().bond.frames_acknowledged;
    until("further media", async || venue.status().bond.frames_acknowledged > acknowledged + 10).await;
    let metrics = house.metrics().await;
    assert_eq!(metrics.get("roadie_uplink_calls_total", &[("broadcast", "show")]), 1.0);
    assert_eq!(metrics.get("roadie_tls_reload_failures_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_leave_the_certificate_that_there_was() {
    let (old, other, late, new) = (good(), good(), expired(), good());
    let house = House::open("broken", &old, &[&old, &new]).await;
    let half = &new.cert[..new.cert.len() / 2];
    let bad = [(half, &old.key[..]), (&other.cert, &old.key), (&late.cert, &late.key)];
    for (number, (cert, key)) in bad.into_iter().enumerate() {
        house.replace(cert, key);
        house.count("roadie_tls_reload_failures_total", number as f64 + 1.0).await;
        assert_eq!(house.over_quic().await, old.der, "{number}");
        assert_eq!(shown(&house.https().await), old.der, "{number}");
    }
    house.replace(&new.cert, &new.key);
    house.count("roadie_tls_reloads_total", 1.0).await;
    assert_eq!(house.over_quic().await, new.der);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_said_and_its_successor_is_taken() {
    let (late, new) = (expired(), good());
    let house = House::open("expired", &late, &[&new]).await;
    let ready = get(house.http, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.0 200") && ready.contains("expired 3 d ago"), "{ready}");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let expiry = house.metrics().await.get("roadie_tls_certificate_expiry_timestamp_seconds", &[]);
    assert!((now - expiry - 3.0 * 24.0 * 3600.0).abs() < 60.0, "{expiry}");
    house.replace(&new.cert, &new.key);
    house.count("roadie_tls_reloads_total", 1.0).await;
    assert_eq!(house.over_quic().await, new.der);
    assert!(get(house.http, "/readyz").await.ends_with("\r\n\r\nok\n"));
}
