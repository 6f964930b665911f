//! How the two ends of the bond meet: proofs, versions, takeovers, and what a NAT does to them. Real
//! sockets on loopback.

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Dir, PATIENCE, catalog, edge_settings, frames, no_hooks, until};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use relay::clock::Clock;
use relay::control::{self, Close, Hello, ToEdge, ToVenue, Welcome};
use relay::edge::Edge;
use relay::proof::{Claim, Side};
use relay::tls::Identity;
use relay::uplink::EdgeAddress;
use relay::venue::{self, UplinkState, Venue};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

const SESSION: &str = "00112233445566778899aabbccddeeff";
const TOKEN: &str = "correct horse";

struct Running {
    addr: EdgeAddress,
    task: JoinHandle<()>,
    _dir: Dir,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn edge(name: &str, token: Option<&str>) -> Running {
    let dir = Dir::new(name);
    let edge = Edge::new(edge_settings(&dir, token)).await.unwrap();
    let addr = EdgeAddress {
        host: "127.0.0.1".into(),
        port: edge.quic_addr().unwrap().port(),
        fingerprint: Some(edge.fingerprint().into()),
    };
    let task = tokio::spawn(async move { edge.run().await.unwrap() });
    Running { addr, task, _dir: dir }
}

fn venue(addr: &EdgeAddress, token: Option<&str>, uplinks: &[&str]) -> Venue {
    let uplinks: Vec<String> = uplinks.iter().map(|text| (*text).to_owned()).collect();
    let settings = venue::Settings {
        edge: addr.clone(),
        broadcast: "show".into(),
        token: token.map(str::to_owned),
        uplinks: relay::uplink::Plan::parse(&uplinks).unwrap(),
        deadline: Duration::from_millis(400),
    };
    let clock = Clock::start();
    Venue::start(settings, catalog(), clock, frames(clock), no_hooks(), None).unwrap()
}

fn uplink(venue: &Venue) -> UplinkState {
    venue.status().uplinks.first().cloned().unwrap_or_default()
}

/// Waits for words about the first uplink.
async fn words(venue: &Venue) -> UplinkState {
    until("words", async || uplink(venue).reason.is_some()).await;
    uplink(venue)
}

async fn connected(venue: &Venue) {
    until("the uplink", async || uplink(venue).connected).await;
    until("media at the edge", async || venue.status().bond.frames_acknowledged > 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_the_token_is_in_and_nobody_else() {
    let guarded = edge("guarded", Some(TOKEN)).await;
    let open = edge("open", None).await;
    let good = venue(&guarded.addr, Some(TOKEN), &["127.0.0.1"]);
    connected(&good).await;
    let anyone = venue(&open.addr, None, &["127.0.0.1"]);
    connected(&anyone).await;

    let none = words(&venue(&guarded.addr, None, &["127.0.0.1"])).await;
    assert!(none.refused && none.reason.unwrap().contains("--token"));
    let wrong = words(&venue(&guarded.addr, Some("wrong horse"), &["127.0.0.1"])).await;
    assert!(wrong.refused && wrong.reason.unwrap().contains("the token is not the one"));
    // An edge that cannot show the token may be anybody's.
    let impostor = words(&venue(&open.addr, Some(TOKEN), &["127.0.0.1"])).await;
    assert!(impostor.refused && impostor.reason.unwrap().contains("does not show that it knows the token"));
    // None of them has disturbed the guarded show.
    assert!(uplink(&good).connected, "{:?}", uplink(&good));
}

/// Trusts any certificate: these clients are the attackers.
fn attacker(alpns: &[&[u8]]) -> quinn::ClientConfig {
    #[derive(Debug)]
    struct Anyone(rustls::crypto::CryptoProvider);
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &[rustls::pki_types::CertificateDer<'_>],
            _: &rustls::pki_types::ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
    let provider = rustls::crypto::ring::default_provider();
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    tls.alpn_protocols = alpns.iter().map(|alpn| alpn.to_vec()).collect();
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

async fn call(addr: &EdgeAddress, alpns: &[&[u8]]) -> quinn::Connection {
    let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    endpoint.set_default_client_config(attacker(alpns));
    endpoint.connect((Ipv4Addr::LOCALHOST, addr.port).into(), "localhost").unwrap().await.unwrap()
}

fn hello(path: u8) -> Hello {
    Hello {
        broadcast: "show".into(),
        session: SESSION.into(),
        path,
        uplink: "usb0".into(),
        proof: None,
        ticket: None,
        catalog: catalog(),
        deadline_ms: 400,
        backfill: false,
        sync: Vec::new(),
        audience: false,
    }
}

type Streams = (quinn::SendStream, quinn::RecvStream);

async fn say(connection: &quinn::Connection, hello: &Hello) -> (ToVenue, Streams) {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    control::send(&mut send, &ToEdge::Hello(hello.clone())).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, control::recv(&mut recv, control::MAX_MESSAGE));
    (answer.await.expect("no answer").unwrap(), (send, recv))
}

fn refusal(answer: ToVenue) -> String {
    match answer {
        ToVenue::Refused { reason } => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captured_hello_is_worth_nothing_on_another_connection() {
    let edge = edge("replay", Some(TOKEN)).await;
    let first = call(&edge.addr, &[bond::ALPN]).await;
    let mut captured = hello(0);
    let claim = Claim::on(&first, SESSION, 0, "show").unwrap();
    captured.proof = Some(claim.prove(Side::Venue, TOKEN));
    let (answer, _streams) = say(&first, &captured).await;
    let ToVenue::Welcome(Welcome { proof: Some(proof), .. }) = answer else { panic!("{answer:?}") };
    assert!(claim.verify(Side::Edge, TOKEN, &proof), "the edge knows the token too");
    assert!(!claim.verify(Side::Venue, TOKEN, &proof), "and did not send ours back");

    let second = call(&edge.addr, &[bond::ALPN]).await;
    let (answer, _second) = say(&second, &captured).await;
    assert!(refusal(answer).contains("the token is not the one"));
    // The right proof, but for another uplink, or with the edge's own words.
    let third = call(&edge.addr, &[bond::ALPN]).await;
    let claim = Claim::on(&third, SESSION, 1, "show").unwrap();
    for proof in [claim.prove(Side::Venue, TOKEN), proof] {
        let third = call(&edge.addr, &[bond::ALPN]).await;
        let (answer, _third) = say(&third, &Hello { proof: Some(proof), ..hello(0) }).await;
        assert!(refusal(answer).contains("the token is not the one"));
    }
    // Nobody of them took the uplink's place.
    assert_eq!(first.close_reason(), None);

    let again = call(&edge.addr, &[bond::ALPN]).await;
    let claim = Claim::on(&again, SESSION, 0, "show").unwrap();
    let proof = Some(claim.prove(Side::Venue, TOKEN));
    let (answer, _again) = say(&again, &Hello { proof, ..hello(0) }).await;
    assert!(matches!(answer, ToVenue::Welcome(_)));
    // With its proof it does, and the edge lets the old connection go.
    let quinn::ConnectionError::ApplicationClosed(close) = first.closed().await else { panic!() };
    assert_eq!(close.error_code, Close::Replaced.into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_needs_the_token_and_is_not_undone_by_the_loser() {
    let edge = edge("takeover", Some(TOKEN)).await;
    let first = venue(&edge.addr, Some(TOKEN), &["127.0.0.1"]);
    connected(&first).await;
    let foreign = words(&venue(&edge.addr, Some("wrong"), &["127.0.0.1"])).await;
    assert!(foreign.refused && uplink(&first).connected);

    let second = venue(&edge.addr, Some(TOKEN), &["127.0.0.1"]);
    connected(&second).await;
    let lost = words(&first).await;
    assert!(lost.refused, "{lost:?}");
    assert!(lost.reason.as_ref().unwrap().contains("another encoder has taken over"), "{lost:?}");
    // The loser asks again after its pause, and stays out.
    let before = second.status().bond.frames_acknowledged;
    until("the show to go on", async || second.status().bond.frames_acknowledged > before + 200).await;
    assert!(uplink(&second).connected && uplink(&first).refused);
    // When the winner has ended, it may come back.
    second.stop().await;
    connected(&first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_tells_its_versions_to_whoever_speaks_others() {
    let edge = edge("versions", None).await;
    let future = call(&edge.addr, &[b"roadie-bond/99", control::VERSIONS_ALPN]).await;
    let closed = tokio::time::timeout(PATIENCE, future.closed()).await.unwrap();
    let quinn::ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
    assert_eq!(close.error_code, Close::Versions.into());
    assert_eq!(close.reason, bond::ALPN);
}

/// Something at the other end that is no edge of ours.
fn stranger(dir: &Dir, alpns: &[&[u8]], datagrams: bool) -> (quinn::Endpoint, EdgeAddress) {
    let identity = Identity::self_signed(&dir.0).unwrap();
    let fingerprint = identity.fingerprint.clone();
    let mut tls =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(identity.chain, identity.key)
            .unwrap();
    tls.alpn_protocols = alpns.iter().map(|alpn| alpn.to_vec()).collect();
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    if !datagrams {
        let mut transport = quinn::TransportConfig::default();
        transport.datagram_receive_buffer_size(None);
        config.transport_config(Arc::new(transport));
    }
    let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let port = endpoint.local_addr().unwrap().port();
    (endpoint, EdgeAddress { host: "127.0.0.1".into(), port, fingerprint: Some(fingerprint) })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_of_another_version_is_told_by_both_versions() {
    let dir = Dir::new("newer");
    let (endpoint, addr) = stranger(&dir, &[b"roadie-bond/98", control::VERSIONS_ALPN], true);
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let connection = incoming.await.unwrap();
            connection.close(Close::Versions.into(), b"roadie-bond/98");
        }
    });
    let state = words(&venue(&addr, None, &["127.0.0.1"])).await;
    let ours = std::str::from_utf8(bond::ALPN).unwrap();
    let reason = state.reason.unwrap();
    assert!(state.refused && reason.contains("roadie-bond/98") && reason.contains(ours), "{reason}");

    let (endpoint, addr) = stranger(&dir, &[b"h3"], true);
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            drop(incoming.await)
        }
    });
    let state = words(&venue(&addr, None, &["127.0.0.1"])).await;
    assert!(state.reason.unwrap().contains("does not speak the bond"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_other_end_is_said() {
    let dir = Dir::new("strange");
    let (endpoint, mut addr) = stranger(&dir, &[bond::ALPN], false);
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(incoming) = endpoint.accept().await {
            kept.push(incoming.await);
        }
    });
    let state = words(&venue(&addr, None, &["127.0.0.1"])).await;
    assert!(state.reason.as_ref().unwrap().contains("no datagrams"), "{state:?}");
    addr.fingerprint = Some("ab".repeat(32));
    let state = words(&venue(&addr, None, &["127.0.0.1"])).await;
    assert!(state.reason.as_ref().unwrap().contains("fingerprint"), "{state:?}");
    addr.port = 9;
    let state = words(&venue(&addr, None, &["127.0.0.1"])).await;
    assert!(state.reason.as_ref().unwrap().contains("UDP port 9"), "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_is_too_long_costs_the_edge_nothing() {
    let edge = edge("long", None).await;
    let connection = call(&edge.addr, &[bond::ALPN]).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&(control::MAX_HELLO as u32 + 1).to_be_bytes()).await.unwrap();
    let end = tokio::time::timeout(PATIENCE, recv.read(&mut [0; 1])).await.expect("it waits for more");
    assert!(end.is_err(), "{end:?}");
}

/// A router between venue and edge that forgets its mapping when told to.
async fn nat(edge: SocketAddr, forget: Arc<AtomicBool>) -> SocketAddr {
    let inside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = inside.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut out, mut back) = ([0; 2048], [0; 2048]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((len, from)) = inside.recv_from(&mut out) => {
                    if forget.swap(false, Ordering::Relaxed) {
                        outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                    }
                    client = Some(from);
                    let _ = outside.send_to(&out[..len], edge).await;
                }
                Ok((len, _)) = outside.recv_from(&mut back) => if let Some(client) = client {
                    let _ = inside.send_to(&back[..len], client).await;
                },
                else => return,
            }
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nat_that_forgets_loses_no_session() {
    let edge = edge("nat", Some(TOKEN)).await;
    let forget = Arc::new(AtomicBool::new(false));
    let nat = nat((Ipv4Addr::LOCALHOST, edge.addr.port).into(), forget.clone()).await;
    let venue = venue(&edge.addr, Some(TOKEN), &[&format!("modem:via={nat}")]);
    connected(&venue).await;
    for round in 0..3 {
        let before = venue.status().bond.clone();
        forget.store(true, Ordering::Relaxed);
        until("media over the new mapping", async || {
            let now = venue.status().bond;
            assert!(uplink(&venue).connected, "{:?}", uplink(&venue));
            now.frames_acknowledged > before.frames_acknowledged + 30
        })
        .await;
        let after = venue.status().bond;
        // The counters of a path begin anew when it is made anew.
        assert!(after.paths[0].packets_sent > before.paths[0].packets_sent, "round {round}: another path");
    }
    let uplink = uplink(&venue);
    assert!(uplink.bytes > 0 && uplink.moves == 0, "{uplink:?}");
}
