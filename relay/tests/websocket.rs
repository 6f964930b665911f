//! MoQ over WebSocket: the same tickets at the same door, and nobody harms the relay through it.

mod common;
#[path = "common/tickets.rs"]
mod tickets;

use std::time::Duration;

use common::PATIENCE;
use qmux::Version;
use qmux::ws::Client;
use relay::admission::claims::Claims;
use tickets::{House, LATE, claims, now};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use web_transport_trait::{RecvStream, SendStream, Session};

const MOQ: &str = "moq-lite-04";

async fn call(house: &House, path: &str) -> Result<qmux::Session, String> {
    let client = Client::new().with_protocol(MOQ, &[Version::QMux01]).require_protocol();
    client.connect(&format!("ws://{}{path}", house.http)).await.map_err(|error| error.to_string())
}

/// SUBSCRIBE to the show's pictures in moq-lite-04; see `tickets.rs`.
fn subscribe(name: &str) -> Vec<u8> {
    let track = b"video/720p";
    let mut body = [&[0, name.len() as u8], name.as_bytes(), &[track.len() as u8], track].concat();
    body.extend_from_slice(&[200, 0, 0x43, 0xe8, 0, 0]);
    [&[2, body.len() as u8][..], &body].concat()
}

/// The bytes of media that come, until the relay says no, ends the session, or `enough` have come.
async fn insist(session: &qmux::Session, name: &str, enough: usize) -> usize {
    let (mut send, mut receive) = session.open_bi().await.unwrap();
    send.write_all(&subscribe(name)).await.unwrap();
    let mut bytes = 0;
    let media = async {
        while bytes < enough {
            let Ok(mut stream) = session.accept_uni().await else { break };
            while let Ok(Some(chunk)) = stream.read_chunk(65_536).await {
                bytes += chunk.len();
            }
        }
    };
    let refused = async { while let Ok(Some(_)) = receive.read_chunk(1024).await {} };
    let asked = async {
        tokio::select! { () = media => {}, () = refused => {} }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("neither media nor a refusal");
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_tickets_are_asked_for_over_websocket() {
    let house = House::open("tcp-tickets", |_, _| ()).await;
    let _show = house.show("show").await;
    let good = house.ticket(&claims(&["show"], &[], LATE));
    let session = call(&house, &format!("/?jwt={good}")).await.unwrap();
    assert!(insist(&session, "show", 20_000).await >= 20_000);
    let (head, rest) = good.split_once('.').unwrap();
    let (payload, _) = rest.split_once('.').unwrap();
    for (bad, status) in [
        (String::new(), "401"),
        ("rubbish".into(), "401"),
        (house.ticket(&claims(&["show"], &[], now() - 1)), "401"),
        (format!("{head}.{payload}."), "401"),
    ] {
        let told = call(&house, &format!("/?jwt={bad}")).await.err().unwrap_or_default();
        assert!(told.contains(status), "{bad}: {told:?}");
    }
    // A good ticket, but not for this show.
    let other = house.ticket(&claims(&["shows"], &[], LATE));
    let session = call(&house, &format!("/?jwt={other}")).await.unwrap();
    assert_eq!(insist(&session, "show", 1).await, 0);
    // One for one session, and one that ends.
    let once = house.ticket(&Claims { sessions: Some(1), ..claims(&["show"], &[], LATE) });
    let first = call(&house, &format!("/?jwt={once}")).await.unwrap();
    assert!(insist(&first, "show", 1).await > 0);
    assert!(call(&house, &format!("/?jwt={once}")).await.err().unwrap_or_default().contains("429"));
    let end = now() + 2;
    let short = house.ticket(&claims(&["show"], &[], end));
    let session = call(&house, &format!("/?jwt={short}")).await.unwrap();
    // Its own record of why may be overwritten in `qmux` by the end of the connection, and its streams go on waiting; so
    // the words are looked for in what comes to somebody who says nothing.
    let key = "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let known = "sec-websocket-protocol: qmux-01.moq-lite-04\r\n";
    let (answer, mut silent) = shake(&house, &format!("/?jwt={short}"), &format!("{key}{known}")).await;
    assert!(answer.contains("101"), "{answer}");
    let mut bytes = Vec::new();
    let words = b"the ticket has expired";
    let media = async {
        tokio::select! {
            _ = session.closed() => {}
            bytes = insist(&session, "show", usize::MAX) => assert!(bytes > 0),
        }
    };
    let both = async { tokio::join!(media, silent.read_to_end(&mut bytes)).1 };
    tokio::time::timeout(PATIENCE, both).await.expect("they may stay").unwrap();
    assert!(bytes.windows(words.len()).any(|window| window == words), "{bytes:?}");
    assert!(now() >= end, "cut off too early");
}

/// The answer to a handshake with these lines, and the connection.
async fn shake(house: &House, path: &str, lines: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(house.http).await.unwrap();
    let head = "host: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n";
    stream.write_all(format!("GET {path} HTTP/1.1\r\n{head}{lines}\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    (String::from_utf8(answer).unwrap().lines().next().unwrap().to_owned(), stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_agree_on_nothing_are_refused_and_rubbish_ends_only_its_own_session() {
    let house = House::open("tcp-rubbish", |_, settings| {
        settings.admission.public = tickets::patterns(&["**"]);
    })
    .await;
    let _show = house.show("show").await;
    let watching = call(&house, "/").await.unwrap();
    let key = "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let known = "sec-websocket-protocol: qmux-01.moq-lite-04\r\n";
    for (lines, status) in [
        (format!("{key}{known}"), "101"),
        (key.to_owned(), "400"),
        // Without flow control.
        (format!("{key}sec-websocket-protocol: webtransport, webtransport.moq-lite-04\r\n"), "400"),
        (format!("{key}sec-websocket-protocol: chat\r\n"), "400"),
        (format!("sec-websocket-version: 12\r\n{known}"), "400"),
        (known.to_owned(), "400"),
    ] {
        let (answer, _) = shake(&house, "/", &lines).await;
        assert!(answer.contains(status), "{lines}: {answer}");
    }
    // Frames that are none, that are not masked, that are too long, and records of QMux that make no sense.
    let long = [&[0x82, 0xff][..], &(1u64 << 40).to_be_bytes(), &[0; 64]].concat();
    let nonsense = [&[0x82, 0x84, 0, 0, 0, 0][..], &[0xff, 0xff, 0xff, 0xff]].concat();
    for rubbish in [&[0xff; 64][..], &[0x82, 2, 1, 2], &long, &nonsense, &[0x82, 0xfe, 1]] {
        let (answer, mut stream) = shake(&house, "/", &format!("{key}{known}")).await;
        assert!(answer.contains("101"), "{answer}");
        stream.write_all(rubbish).await.unwrap();
        stream.shutdown().await.unwrap();
        let ended = async {
            let mut buffer = [0; 1024];
            while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        };
        tokio::time::timeout(PATIENCE, ended)
            .await
            .unwrap_or_else(|_| panic!("{rubbish:?} keeps its session"));
    }
    assert!(insist(&watching, "show", 20_000).await >= 20_000, "who watched watches on");
}

/// A viewer that reads nothing gets nothing more than the windows allow, and others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_viewer_holds_nobody_up() {
    let house = House::open("tcp-stalled", |_, settings| {
        settings.admission.public = tickets::patterns(&["**"]);
    })
    .await;
    let _show = house.show("show").await;
    let stalled = call(&house, "/").await.unwrap();
    let (mut send, _receive) = stalled.open_bi().await.unwrap();
    send.write_all(&subscribe("show")).await.unwrap();
    // One stream that is never read.
    let first = tokio::time::timeout(PATIENCE, stalled.accept_uni()).await.unwrap().unwrap();
    let other = call(&house, "/").await.unwrap();
    assert!(insist(&other, "show", 200_000).await >= 200_000);
    // Live again as soon as it reads.
    drop(first);
    let newer = async {
        loop {
            let mut stream = stalled.accept_uni().await.unwrap();
            if stream.read_chunk(65_536).await.is_ok_and(|chunk| chunk.is_some()) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, newer).await.expect("nothing more comes");
    tokio::time::timeout(Duration::from_secs(60), insist(&other, "show", 1)).await.unwrap();
}
