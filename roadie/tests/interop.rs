//! A MoQ client that we did not write (the crates moq-net and hang) reads a real show from the relay.

mod common;

use std::sync::Arc;
use std::time::Instant;

use common::{Dir, Edge, alone, live, uplinks};
use media::{container, h264};
use quinn::crypto::rustls::QuicClientConfig;

/// Acceptance 7, over raw QUIC with the newest protocol that both sides know.
#[tokio::test(flavor = "multi_thread")]
async fn a_stock_moq_client_reads_catalog_and_media() {
    let _stage = alone().await;
    let dir = Dir::new("interop");
    let edge = Edge::start(&dir, 0, 0).await;
    let uplinks = uplinks(&edge).await;
    let _live = live(&edge, &uplinks, "tour/interop", &[]);
    edge.wait_live("tour/interop").await;

    let (producer, driver) = moq_net::origin::Producer::new(moq_net::origin::Config::default());
    tokio::spawn(moq_net::time::run(driver));
    let session = connect(&edge, &dir).await;
    let client = moq_net::Client::new().with_subscriber(producer.clone());
    let (session, driver) = client.connect(Instant::now(), session).await.unwrap();
    tokio::spawn(moq_net::time::run(driver));
    println!("negotiated {}", session.version());

    let read = async {
        let consumer = producer.consume();
        let announced = consumer.announced().next().await.unwrap();
        assert_eq!(announced.prefix.to_string(), "tour/interop");
        let broadcast = consumer.request_broadcast(&announced.prefix).await.unwrap();
        let mut track = broadcast
            .track("catalog.json")
            .unwrap()
            .subscribe(hang::Catalog::default_subscription())
            .await
            .unwrap();
        let mut group = track.recv_group().await.unwrap().unwrap();
        let frame = group.read_frame().await.unwrap().unwrap();
        let catalog = hang::Catalog::<()>::from_slice(&frame.payload).unwrap();
        let (name, config) = catalog.video.renditions.iter().next().unwrap();
        assert_eq!(
            (name.as_str(), config.coded_width, config.coded_height),
            ("video/720p", Some(1280), Some(720))
        );
        assert_eq!(config.container, hang::catalog::Container::Legacy);
        assert!(config.codec.to_string().starts_with("avc3."), "{}", config.codec);
        assert_eq!(catalog.audio.renditions["audio"].sample_rate, 48_000);

        // By default a group is left as soon as a newer one is there; this reader wants them whole.
        let patient = moq_net::track::Subscription::default().with_max_age(std::time::Duration::from_secs(5));
        let mut video = broadcast.track(name).unwrap().subscribe(patient.clone()).await.unwrap();
        let mut last = None;
        for _ in 0..2 {
            let mut group = video.recv_group().await.unwrap().unwrap();
            let mut first = true;
            while let Some(frame) = group.read_frame().await.unwrap() {
                let (time, data) = container::decode(frame.payload).unwrap();
                assert_eq!(h264::is_idr(&data), first, "a group begins with its only IDR");
                assert!(last.is_none_or(|last| last < time), "time runs backwards at {time}");
                (last, first) = (Some(time), false);
            }
            assert!(!first, "an empty group");
        }
        let mut audio = broadcast.track("audio").unwrap().subscribe(patient).await.unwrap();
        let mut group = audio.recv_group().await.unwrap().unwrap();
        let (_, packet) = container::decode(group.read_frame().await.unwrap().unwrap().payload).unwrap();
        assert!(!packet.is_empty());
    };
    tokio::time::timeout(common::PATIENCE, read).await.expect("the media does not come");
}

async fn connect(edge: &Edge, dir: &Dir) -> web_transport_quinn::Session {
    let relay::tls::Identity { chain, .. } = relay::tls::Identity::self_signed(&dir.join("relay")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    for cert in chain {
        roots.add(cert).unwrap();
    }
    let mut tls =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    tls.alpn_protocols = moq_net::ALPNS.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(config);
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], edge.quic_port));
    web_transport_quinn::Session::raw(endpoint.connect(addr, "localhost").unwrap().await.unwrap())
}
