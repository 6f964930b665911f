//! An edge that asks for tickets, a show on it, and viewers of all sorts. Real sockets on loopback.

#![allow(dead_code)] // Each test binary uses its own part.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::crypto::rustls::QuicClientConfig;
use relay::admission::claims::{Claims, Grant, pattern};
use relay::admission::key::Algorithm;
use relay::admission::sign::SigningKey;
use relay::admission::source::Source;
use relay::admission::wall;
use relay::clock::Clock;
use relay::edge::{self, Edge};
use relay::tls::Identity;
use relay::uplink::EdgeAddress;
use relay::venue::{self, Venue};
use tokio::task::JoinHandle;
use web_transport_quinn as web_transport;

use crate::common::{Dir, PATIENCE, catalog, edge_settings, frames, no_hooks, until};

/// The shared word, by which the shows of these tests come in.
pub const WORD: &str = "correct horse";

/// A second at the end of the century.
pub const LATE: u64 = 4_000_000_000;

pub fn patterns(texts: &[&str]) -> moq_net::Patterns {
    texts.iter().map(|text| pattern(text).unwrap()).collect()
}

/// Unix time in seconds.
pub fn now() -> u64 {
    wall().as_micros() / 1_000_000
}

/// A ticket to watch and to bring such shows, until such a second.
pub fn claims(subscribe: &[&str], publish: &[&str], expires: u64) -> Claims {
    Claims {
        grant: Grant { publish: patterns(publish), subscribe: patterns(subscribe) },
        expires: media::Time::from_micros(expires * 1_000_000),
        not_before: None,
        issued: None,
        id: None,
        sessions: None,
    }
}

/// A running edge, the keys of its tickets, and its files.
pub struct House {
    pub key: SigningKey,
    pub addr: EdgeAddress,
    pub http: SocketAddr,
    pub dir: Dir,
    task: JoinHandle<()>,
    endpoint: quinn::Endpoint,
    roots: rustls::RootCertStore,
}

impl Drop for House {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl House {
    /// With an Ed25519 key in a file, and the shared word for publishing.
    pub async fn open(name: &str, change: impl FnOnce(&Dir, &mut edge::Settings)) -> Self {
        let key = SigningKey::generate(Algorithm::EdDsa, Some("first".into())).unwrap();
        Self::with_key(name, key, change).await
    }

    pub async fn with_key(
        name: &str,
        key: SigningKey,
        change: impl FnOnce(&Dir, &mut edge::Settings),
    ) -> Self {
        let dir = Dir::new(name);
        let file = dir.0.join("keys.json");
        write_keys(&file, &[&key]);
        let mut settings = edge_settings(&dir, Some(WORD));
        settings.admission.auth = vec![Source::File(file)];
        change(&dir, &mut settings);
        let Identity { chain, .. } = Identity::self_signed(&dir.0).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        chain.into_iter().for_each(|cert| roots.add(cert).unwrap());
        let edge = Edge::new(settings).await.unwrap();
        let addr = EdgeAddress {
            host: "127.0.0.1".into(),
            port: edge.quic_addr().unwrap().port(),
            fingerprint: Some(edge.fingerprint().into()),
        };
        let http = edge.http_addr().unwrap();
        let task = tokio::spawn(async move { edge.run().await.unwrap() });
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self { key, addr, http, dir, task, endpoint, roots }
    }

    pub fn ticket(&self, claims: &Claims) -> String {
        self.key.sign(claims).unwrap()
    }

    /// A venue with this token or ticket.
    pub fn venue(&self, broadcast: &str, token: Option<&str>) -> Venue {
        let settings = venue::Settings {
            edge: self.addr.clone(),
            broadcast: broadcast.into(),
            token: token.map(str::to_owned),
            uplinks: relay::uplink::Plan::parse(&["127.0.0.1".to_owned()]).unwrap(),
            deadline: Duration::from_millis(400),
        };
        let clock = Clock::start();
        Venue::start(settings, catalog(), clock, frames(clock), no_hooks(), None).unwrap()
    }

    /// A show that is on the air, by the shared word.
    pub async fn show(&self, broadcast: &str) -> Venue {
        let venue = self.venue(broadcast, Some(WORD));
        until("media at the edge", async || venue.status().bond.frames_acknowledged > 10).await;
        venue
    }

    /// A QUIC connection of its own.
    pub async fn call(&self, alpns: &[&[u8]]) -> Result<quinn::Connection, quinn::ConnectionError> {
        let mut tls =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_root_certificates(self.roots.clone())
                .with_no_client_auth();
        tls.alpn_protocols = alpns.iter().map(|alpn| alpn.to_vec()).collect();
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let addr = SocketAddr::from((IpAddr::from(Ipv4Addr::LOCALHOST), self.addr.port));
        self.endpoint.connect_with(config, addr, "localhost").unwrap().await
    }

    /// What a browser does: WebTransport with a ticket in the URL. An error is the relay's answer.
    pub async fn browser(&self, path: &str) -> Result<(quinn::Connection, web_transport::Session), String> {
        let connection = self.call(&[b"h3"]).await.map_err(|error| error.to_string())?;
        let url = format!("https://localhost:{}{path}", self.addr.port).parse::<url::Url>().unwrap();
        let request = web_transport::proto::ConnectRequest::new(url).with_protocol("moq-lite-04".to_owned());
        let session = web_transport::Session::connect(connection.clone(), request).await;
        session.map(|session| (connection, session)).map_err(|error| error.to_string())
    }

    /// What a program does: MoQ on raw QUIC, whose newest version names the path in its SETUP.
    pub async fn program(&self, path: &str) -> Viewer {
        let alpns: Vec<&[u8]> = moq_net::ALPNS.iter().map(|alpn| alpn.as_bytes()).collect();
        let connection = self.call(&alpns).await.unwrap();
        let session = web_transport::Session::raw(connection.clone());
        Viewer::start(connection, session, path).await
    }

    /// A viewer in a browser.
    pub async fn viewer(&self, path: &str) -> Result<Viewer, String> {
        let (connection, session) = self.browser(path).await?;
        Ok(Viewer::start(connection, session, "").await)
    }

    /// An HTTP request, as written; gives the whole answer.
    pub async fn get(&self, path: &str, headers: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: relay.example\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

pub fn write_keys(file: &std::path::Path, keys: &[&SigningKey]) {
    let keys: Vec<_> = keys.iter().map(|key| key.public()).collect();
    // As a program that cares would: never half a file.
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, serde_json::json!({ "keys": keys }).to_string()).unwrap();
    std::fs::rename(fresh, file).unwrap();
}

/// A stock MoQ client (the crate moq-net), and what came over its connection.
pub struct Viewer {
    pub connection: quinn::Connection,
    pub session: web_transport::Session,
    producer: moq_net::origin::Producer,
    moq: Result<moq_net::Session, moq_net::Error>,
}

impl Viewer {
    async fn start(connection: quinn::Connection, session: web_transport::Session, path: &str) -> Self {
        let (producer, driver) = moq_net::origin::Producer::new(moq_net::origin::Config::default());
        tokio::spawn(moq_net::time::run(driver));
        let mut client = moq_net::Client::new().with_subscriber(producer.clone());
        if !path.is_empty() {
            client = client.with_path(path);
        }
        let moq = client.connect(Instant::now(), session.clone()).await.map(|(moq, driver)| {
            tokio::spawn(moq_net::time::run(driver));
            moq
        });
        Self { connection, session, producer, moq }
    }

    /// The names of the shows that are announced, as soon as this one is among them.
    pub async fn announced(&self, name: &str) -> Vec<String> {
        let wait = async {
            let mut announced = self.producer.consume().announced();
            let mut names = Vec::new();
            while let Some(update) = announced.next().await {
                names.push(update.prefix.to_string());
                if names.iter().any(|one| one == name) {
                    break;
                }
            }
            names
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it is not announced")
    }

    /// Reads this many frames of a show's pictures; gives the bytes of media, or of the part that came before the end.
    pub async fn watch(&self, name: &str, frames: usize) -> u64 {
        let mut bytes = 0;
        let read = async {
            self.announced(name).await;
            let broadcast = self.producer.consume().request_broadcast(name).await?;
            let mut track = broadcast.track("video/720p")?.subscribe(None).await?;
            let mut seen = 0;
            while let Some(mut group) = track.recv_group().await? {
                while let Ok(Some(frame)) = group.read_frame().await {
                    bytes += frame.payload.len() as u64;
                    seen += 1;
                    if seen == frames {
                        return Ok(());
                    }
                }
            }
            Ok::<_, moq_net::Error>(())
        };
        let _ = tokio::time::timeout(PATIENCE, read).await.expect("neither media nor an end");
        bytes
    }

    /// Waits until the relay closes the connection.
    pub async fn refused(&self) {
        if let Ok(moq) = &self.moq {
            tokio::time::timeout(PATIENCE, moq.closed()).await.expect("it is not closed");
        }
        // Not the reason: the client overwrites it when it closes its own end.
        assert_eq!(self.connection.stats().frame_rx.connection_close, 1, "{:?}", self.moq.as_ref().err());
    }
}

/// Bytes of UDP that came over a connection, handshakes and all.
pub fn received(connection: &quinn::Connection) -> u64 {
    connection.stats().udp_rx.bytes
}
