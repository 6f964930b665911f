//! Nobody without a ticket gets a byte of media. Each attempt is counted twice: by what a client reads, and by the bytes
//! that came in over its connection.

mod common;
#[path = "common/tickets.rs"]
mod tickets;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{PATIENCE, until};
use relay::admission::claims::Claims;
use relay::admission::key::Algorithm;
use relay::admission::sign::SigningKey;
use tickets::{House, LATE, claims, now, received};
use web_transport_quinn as web_transport;

/// More than all handshakes and refusals of one connection, and less than three frames of the show.
const HANDSHAKES: u64 = 12_000;

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Tickets that must not let anybody in, by what is wrong with them.
fn bad(house: &House) -> Vec<(&'static str, String)> {
    let good = claims(&["show"], &[], LATE);
    let sign = |claims: &Claims| house.ticket(claims);
    let public = house.key.public();
    let part = |ticket: &str, n: usize| ticket.split('.').nth(n).unwrap().to_owned();
    let ticket = sign(&good);
    let (head, payload, signature) = (part(&ticket, 0), part(&ticket, 1), part(&ticket, 2));
    let unsigned = |head: &str| format!("{}.{payload}.", b64(head));
    let foreign = SigningKey::generate(Algorithm::EdDsa, Some("first".into())).unwrap();
    let other_kid = SigningKey::generate(Algorithm::EdDsa, Some("second".into())).unwrap();
    let hmac = |secret: &[u8], head: &str| {
        let signed = format!("{}.{payload}", b64(head));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        format!("{signed}.{}", b64(ring::hmac::sign(&key, signed.as_bytes())))
    };
    let x = public["x"].as_str().unwrap().to_owned();
    let raw = URL_SAFE_NO_PAD.decode(&x).unwrap();
    let hs256 = r#"{"typ":"JWT","alg":"HS256","kid":"first"}"#;
    let wider = good.to_json().replace("show", "*");
    vec![
        ("no ticket", String::new()),
        ("rubbish", "rubbish".into()),
        ("expired", sign(&claims(&["show"], &[], now() - 1))),
        (
            "not yet",
            sign(&Claims { not_before: Some(media::Time::from_millis((now() + 60) * 1000)), ..good.clone() }),
        ),
        ("another path", sign(&claims(&["shows", "show/below", "a/show"], &[], LATE))),
        ("only to publish", sign(&claims(&[], &["show"], LATE))),
        ("another key of the same name", foreign.sign(&good).unwrap()),
        ("a key that is not known", other_kid.sign(&good).unwrap()),
        ("alg none", unsigned(r#"{"typ":"JWT","alg":"none"}"#)),
        ("alg None with a signature", format!("{}.{payload}.{signature}", b64(r#"{"alg":"None"}"#))),
        ("the public key as a secret", hmac(&raw, hs256)),
        ("the public key's letters as a secret", hmac(x.as_bytes(), hs256)),
        ("the public key's JSON as a secret", hmac(public.to_string().as_bytes(), r#"{"alg":"HS256"}"#)),
        ("an empty secret", hmac(b"", r#"{"alg":"HS256"}"#)),
        ("other words below the signature", format!("{head}.{}.{signature}", b64(wider))),
        ("another head over the signature", format!("{}.{payload}.{signature}", b64(r#"{"alg":"EdDSA"}"#))),
        ("no signature", format!("{head}.{payload}.")),
        ("half a signature", format!("{head}.{payload}.{}", &signature[..40])),
        (
            "critical extensions",
            format!("{}.{payload}.{signature}", b64(r#"{"alg":"EdDSA","crit":["b64"]}"#)),
        ),
        (
            "claims that are not known",
            house.key.sign_raw(r#"{"get":"","exp":4000000000,"aud":"us"}"#).unwrap(),
        ),
        ("no end", house.key.sign_raw(r#"{"get":""}"#).unwrap()),
        ("the word that is not the word", "correct horses".into()),
    ]
}

/// SUBSCRIBE to the show's pictures in moq-lite-04, which asks no announcement whether there is such a show.
fn subscribe(name: &str) -> Vec<u8> {
    let mut body = vec![0, name.len() as u8];
    body.extend_from_slice(name.as_bytes());
    body.push("video/720p".len() as u8);
    body.extend_from_slice(b"video/720p");
    // Priority, order, age (1000 ms), from the newest group on, without an end.
    body.extend_from_slice(&[200, 0, 0x43, 0xe8, 0, 0]);
    [&[2, body.len() as u8][..], &body].concat()
}

/// Asks for the show without asking whether it may; gives the bytes that came on streams, as soon as the relay has said
/// no or `enough` have come.
async fn insist(session: &web_transport::Session, name: &str, enough: usize) -> usize {
    let (mut send, mut recv) = session.open_bi().await.unwrap();
    send.write_all(&subscribe(name)).await.unwrap();
    let bytes = std::cell::Cell::new(0);
    let media = async {
        while bytes.get() < enough {
            let Ok(mut stream) = session.accept_uni().await else { break };
            while let Ok(Some(chunk)) = stream.read_chunk(65_536, true).await {
                bytes.set(bytes.get() + chunk.bytes.len());
            }
        }
    };
    let refused = async { while let Ok(Some(_)) = recv.read_chunk(1024, true).await {} };
    let asked = async {
        tokio::select! { () = media => {}, () = refused => {} }
        bytes.get()
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("neither media nor a refusal")
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_without_a_ticket_gets_a_byte_of_media() {
    let house = House::open("nobody", |_, _| ()).await;
    let venue = house.show("show").await;

    // With one, there is a lot of it; by all three ways, so that what follows proves something.
    let good = house.ticket(&claims(&["show"], &[], LATE));
    let viewer = house.viewer(&format!("/?jwt={good}")).await.unwrap();
    assert!(viewer.watch("show", 10).await > 10 * 4_000);
    assert!(received(&viewer.connection) > 40_000);
    let program = house.program(&format!("/?jwt={good}")).await;
    assert!(program.watch("show", 10).await > 10 * 4_000);
    let (_connection, session) = house.browser(&format!("/?jwt={good}")).await.unwrap();
    assert!(insist(&session, "show", 20_000).await >= 20_000);
    let mut attempts = 0;
    for (what, ticket) in bad(&house) {
        for path in [format!("/?jwt={ticket}"), format!("/show?jwt={ticket}")] {
            // Browsers: the answer is an error.
            match house.browser(&path).await {
                Err(answer) => {
                    let status = if what == "only to publish" { "403" } else { "401" };
                    assert!(answer.contains(status), "{what}: {answer}");
                }
                // A good ticket, but not for watching this show: there is a session, and nothing in it.
                Ok((connection, session)) => {
                    assert!(["another path", "only to publish"].contains(&what), "{what}: {path} was let in");
                    assert_eq!(insist(&session, "show", 1).await, 0, "{what}");
                    assert!(received(&connection) < HANDSHAKES, "{what}: {}", received(&connection));
                }
            }
            // Programs: the session is closed, with a code that says why.
            let program = house.program(&path).await;
            let got = program.connection.clone();
            if what == "another path" {
                assert!(received(&got) < HANDSHAKES, "{what}: {}", received(&got));
            } else {
                program.refused().await;
                assert!(received(&got) < HANDSHAKES, "{what}: {}", received(&got));
            }
            attempts += 1;
        }
    }
    assert!(attempts >= 40, "{attempts}");
    // Versions of MoQ that have no path to name a ticket in.
    for alpn in [&b"moq-lite-03"[..], b"moq-lite-04"] {
        let connection = house.call(&[alpn]).await.unwrap();
        let session = web_transport::Session::raw(connection.clone());
        let _ = tokio::time::timeout(PATIENCE, session.closed()).await.expect("it may stay");
        assert!(received(&connection) < HANDSHAKES);
    }
    // The show went on meanwhile.
    assert!(viewer.watch("show", 10).await > 10 * 4_000);
    drop(venue);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_its_own_shows_and_those_that_are_public() {
    let house =
        House::open("own", |_, settings| settings.admission.public = tickets::patterns(&["open/**"])).await;
    let _shows =
        [house.show("tour/london").await, house.show("tour/paris").await, house.show("open/air").await];
    let london = house.ticket(&claims(&["tour/london"], &[], LATE));
    let viewer = house.viewer(&format!("/?jwt={london}")).await.unwrap();
    assert!(viewer.watch("tour/london", 3).await > 0);
    assert!(viewer.watch("open/air", 3).await > 0);
    let (_connection, session) = house.browser(&format!("/?jwt={london}")).await.unwrap();
    assert_eq!(insist(&session, "tour/paris", 1).await, 0);
    let tour = house.ticket(&claims(&["tour/**"], &[], LATE));
    let viewer = house.viewer(&format!("/?jwt={tour}")).await.unwrap();
    assert!(viewer.watch("tour/paris", 3).await > 0);
    // The URL's path is the root of what is seen, as with other relays; it narrows, and never widens.
    let below = house.viewer(&format!("/tour?jwt={london}")).await.unwrap();
    assert!(below.watch("london", 3).await > 0);
    let (_connection, session) = house.browser(&format!("/tour?jwt={london}")).await.unwrap();
    assert_eq!(insist(&session, "paris", 1).await, 0);
    // Without a ticket.
    let anyone = house.viewer("/").await.unwrap();
    assert!(anyone.watch("open/air", 3).await > 0);
    let (_connection, session) = house.browser("/").await.unwrap();
    assert_eq!(insist(&session, "tour/london", 1).await, 0);
    assert!(house.browser("/tour").await.is_err(), "nothing there is public");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_its_ticket_does() {
    let house = House::open("ends", |_, _| ()).await;
    let _venue = house.show("show").await;
    let ticket = house.ticket(&claims(&["show"], &[], now() + 3));
    let path = format!("/?jwt={ticket}");
    let program = house.program(&path).await;
    let (connection, session) = house.browser(&path).await.unwrap();
    // More than there will be.
    let (read, insisted) =
        tokio::join!(program.watch("show", usize::MAX), insist(&session, "show", usize::MAX));
    assert!(read > 4_000 && insisted > 4_000, "they got {read} and {insisted} bytes before the end");
    let words = "the ticket has expired".to_owned();
    program.refused().await;
    let told = tokio::time::timeout(PATIENCE, session.closed()).await.expect("it is not told");
    use web_transport::{SessionError, WebTransportError};
    let SessionError::WebTransportError(WebTransportError::Closed(code, told)) = told else {
        panic!("{told:?}")
    };
    assert_eq!((code, told), (relay::admission::CLOSE_UNAUTHORIZED, words));
    assert!(now() >= tickets_end(&ticket), "cut off too early");
    // And no more comes, to them and to who tries again.
    let after = [&program.connection, &connection].map(received);
    for _ in 0..3 {
        let answer = house.browser(&path).await.expect_err("let in after its end");
        assert!(answer.contains("401"), "{answer}");
        let again = house.program(&path).await;
        again.refused().await;
        assert!(received(&again.connection) < HANDSHAKES);
    }
    for (now, after) in [&program.connection, &connection].map(received).into_iter().zip(after) {
        // The last packets of the close; a frame has 4,000 bytes.
        assert!(now < after + 2_000, "{after}, {now}");
    }
}

fn tickets_end(ticket: &str) -> u64 {
    let (_, _, payload) = relay::admission::key::peek(ticket).unwrap();
    Claims::read(&payload).unwrap().expires.as_micros() / 1_000_000
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_for_two_sessions_lets_no_third_one_in_before_one_is_over() {
    let house = House::open("two", |_, _| ()).await;
    let _venue = house.show("show").await;
    let ticket = house.ticket(&Claims { sessions: Some(2), ..claims(&["show"], &[], LATE) });
    let path = format!("/?jwt={ticket}");
    let first = house.viewer(&path).await.unwrap();
    let second = house.program(&path).await;
    assert!(first.watch("show", 3).await > 0 && second.watch("show", 3).await > 0);
    for _ in 0..5 {
        let answer = house.browser(&path).await.expect_err("a third session");
        assert!(answer.contains("429"), "{answer}");
        let third = house.program(&path).await;
        third.refused().await;
        assert!(received(&third.connection) < HANDSHAKES);
    }
    // Questions over HTTP take no seat.
    let clock = format!("/api/clock?broadcast=show&jwt={ticket}");
    assert!(house.get(&clock, "").await.starts_with("HTTP/1.0 200"));
    first.session.close(0, b"");
    let mut third = None;
    until("the seat to be free", async || {
        third = house.viewer(&path).await.ok();
        third.is_some()
    })
    .await;
    assert!(third.unwrap().watch("show", 3).await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_opens_the_door() {
    for algorithm in [Algorithm::Es256, Algorithm::Hs256] {
        let key = SigningKey::generate(algorithm, None).unwrap();
        let house = House::with_key(algorithm.name(), key, |_, _| ()).await;
        let _venue = house.show("show").await;
        let ticket = house.ticket(&claims(&["show"], &[], LATE));
        let viewer = house.viewer(&format!("/?jwt={ticket}")).await.unwrap();
        assert!(viewer.watch("show", 3).await > 0, "{algorithm:?}");
        let foreign = SigningKey::generate(algorithm, house.key.id().map(str::to_owned)).unwrap();
        let foreign = foreign.sign(&claims(&["show"], &[], LATE)).unwrap();
        assert!(house.browser(&format!("/?jwt={foreign}")).await.is_err(), "{algorithm:?}");
        let connection = house.call(&[b"h3"]).await.unwrap();
        assert!(received(&connection) < HANDSHAKES);
    }
}
