//! The door: who brings shows by ticket, what HTTP tells to whom, keys that change, and crowds. Real sockets on loopback.

mod common;
#[path = "common/tickets.rs"]
mod tickets;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use common::{PATIENCE, until};
use relay::admission::claims::Claims;
use relay::admission::key::Algorithm;
use relay::admission::sign::SigningKey;
use relay::admission::source::Source;
use relay::control::Close;
use relay::venue::{UplinkState, Venue};
use tickets::{House, LATE, WORD, claims, now, write_keys};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn uplink(venue: &Venue) -> UplinkState {
    venue.status().uplinks.first().cloned().unwrap_or_default()
}

async fn on_air(venue: &Venue) {
    until("media at the edge", async || venue.status().bond.frames_acknowledged > 10).await;
}

/// Waits until the edge has said no; gives its words.
async fn refused(venue: &Venue) -> String {
    until("a refusal", async || uplink(venue).refused).await;
    uplink(venue).reason.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_venue_brings_its_show_by_ticket_until_it_expires() {
    let house = House::open("bring", |_, settings| settings.token = None).await;
    let ticket = |publish: &[&str], expires| house.ticket(&claims(&[], publish, expires));
    let good = house.venue("tour/london", Some(&ticket(&["tour/*"], LATE)));
    on_air(&good).await;
    let tampered = ticket(&["show"], LATE).replace('.', ".e");
    for (token, words) in [
        (None, "wants a ticket"),
        (Some(WORD.to_owned()), "wants a ticket"),
        (Some(ticket(&["tour"], LATE)), "not for publishing \"show\""),
        (Some(house.ticket(&claims(&["**"], &[], LATE))), "not for publishing \"show\""),
        (Some(ticket(&["show"], now() - 1)), "has expired"),
        (Some(tampered), "trusts"),
        (
            Some(
                SigningKey::generate(Algorithm::EdDsa, None)
                    .unwrap()
                    .sign(&claims(&[], &["**"], LATE))
                    .unwrap(),
            ),
            "trusts",
        ),
    ] {
        let venue = house.venue("show", token.as_deref());
        let told = refused(&venue).await;
        assert!(told.contains(words), "{words}: {told}");
        assert_eq!(venue.status().bond.frames_acknowledged, 0);
    }
    let short = house.venue("show", Some(&ticket(&["show"], now() + 3)));
    on_air(&short).await;
    let told = refused(&short).await;
    assert!(told.contains("the ticket has expired"), "{told}");
    // Nobody of them has disturbed the good one.
    assert!(uplink(&good).connected, "{:?}", uplink(&good));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shared_word_goes_on_to_open_the_door_beside_tickets() {
    let house = House::open("word", |_, _| ()).await;
    let (word, ticket) = (house.venue("a", Some(WORD)), house.ticket(&claims(&[], &["b"], LATE)));
    on_air(&word).await;
    on_air(&house.venue("b", Some(&ticket))).await;
    assert!(refused(&house.venue("c", Some("wrong horse"))).await.contains("the token is not the one"));
    // A ticket for one session brings one show, over any number of uplinks, and again after a crash.
    let once = house.ticket(&Claims { sessions: Some(1), ..claims(&[], &["**"], LATE) });
    let first = house.venue("once", Some(&once));
    on_air(&first).await;
    on_air(&house.venue("once", Some(&once))).await;
    assert!(refused(&house.venue("twice", Some(&once))).await.contains("in use"));
}

#[tokio::test(flavor = "multi_thread")]
async fn http_tells_nothing_of_a_show_to_those_without_its_ticket() {
    let house =
        House::open("http", |_, settings| settings.admission.public = tickets::patterns(&["open/**"])).await;
    let _shows = [house.show("tour/london").await, house.show("open/air").await];
    let london = house.ticket(&claims(&["tour/london"], &[], LATE));
    let all = house.ticket(&claims(&["**"], &[], LATE));
    let bearer = |ticket: &str| format!("Authorization: Bearer {ticket}\r\n");
    for path in ["/api/clock", "/api/trace", "/api/ticket"] {
        let of = |show: &str| format!("{path}?broadcast={show}");
        for show in ["tour/london", "tour/nothing"] {
            let anyone = house.get(&of(show), "").await;
            assert!(anyone.starts_with("HTTP/1.0 40"), "{path} {show}: {anyone}");
            // What is there and what is not looks the same.
            assert!(!anyone.contains("london"), "{anyone}");
        }
        assert!(house.get(&of("open/air"), "").await.starts_with("HTTP/1.0 200"), "{path}");
        assert!(house.get(&of("tour/london"), &bearer(&london)).await.starts_with("HTTP/1.0 200"), "{path}");
        let by_query = format!("{}&jwt={london}", of("tour/london"));
        assert!(house.get(&by_query, "").await.starts_with("HTTP/1.0 200"), "{path}");
        let other = house.get(&of("tour/paris"), &bearer(&london)).await;
        assert!(
            other.starts_with("HTTP/1.0 403") && other.contains("ticket-not-for-this"),
            "{path}: {other}"
        );
        let rubbish = house.get(&of("open/air"), &bearer("rubbish")).await;
        assert!(
            rubbish.starts_with("HTTP/1.0 401") && rubbish.contains("www-authenticate: Bearer"),
            "{rubbish}"
        );
    }
    for path in ["/api/status", "/metrics"] {
        let anyone = house.get(path, "").await;
        assert!(anyone.contains("open/air") && !anyone.contains("london"), "{path}: {anyone}");
        assert!(!anyone.contains("roadie_viewers ") && !anyone.contains("\"viewers\":0"), "{path}: {anyone}");
        let viewer = house.get(path, &bearer(&london)).await;
        assert!(viewer.contains("open/air") && viewer.contains("tour/london"), "{path}: {viewer}");
        let master = house.get(path, &bearer(&all)).await;
        assert!(master.contains("tour/london"), "{path}: {master}");
        assert!(master.contains("roadie_viewers ") || master.contains("\"viewers\":0"), "{path}: {master}");
    }
    let expired = house.ticket(&claims(&["**"], &[], now() - 1));
    assert!(house.get("/api/status", &bearer(&expired)).await.contains("ticket-expired"));
    assert!(house.get("/healthz", "").await.contains("no-referrer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_without_public_shows_answers_401_to_who_has_no_ticket() {
    let house = House::open("closed", |_, _| ()).await;
    for path in ["/api/status", "/metrics", "/api/clock?broadcast=x", "/api/trace?broadcast=x"] {
        let answer = house.get(path, "").await;
        assert!(answer.starts_with("HTTP/1.0 401") && answer.contains("ticket-missing"), "{path}: {answer}");
    }
    for path in ["/healthz", "/readyz", "/api/config", "/"] {
        assert!(house.get(path, "").await.starts_with("HTTP/1.0 200"), "{path}");
    }
}

/// Whether a ticket of this key is taken.
async fn takes(house: &House, key: &SigningKey) -> bool {
    let ticket = key.sign(&claims(&["**"], &[], LATE)).unwrap();
    let answer = house.get(&format!("/api/status?jwt={ticket}"), "").await;
    let taken = answer.starts_with("HTTP/1.0 200");
    assert!(taken || answer.starts_with("HTTP/1.0 401") || answer.starts_with("HTTP/1.0 503"), "{answer}");
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_read_again_when_their_file_changes() {
    let house = House::open("rotate", |_, _| ()).await;
    let file = house.dir.0.join("keys.json");
    let second = SigningKey::generate(Algorithm::Es256, Some("second".into())).unwrap();
    assert!(takes(&house, &house.key).await && !takes(&house, &second).await);
    write_keys(&file, &[&house.key, &second]);
    until("the second key", async || takes(&house, &second).await).await;
    assert!(takes(&house, &house.key).await);
    let third = SigningKey::generate(Algorithm::EdDsa, Some("third".into())).unwrap();
    write_keys(&file, &[&third]);
    until("the third key", async || takes(&house, &third).await).await;
    assert!(
        !takes(&house, &second).await && !takes(&house, &house.key).await,
        "those that were taken out are gone"
    );
}

/// A service that gives out keys, with this status.
async fn key_service(status: Arc<AtomicU16>, asked: Arc<AtomicU32>, body: String) -> Source {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (status, asked, body) = (status.clone(), asked.clone(), body.clone());
            tokio::spawn(async move {
                let mut request = [0; 2048];
                let _ = stream.read(&mut request).await;
                asked.fetch_add(1, Ordering::Relaxed);
                let (status, length) = (status.load(Ordering::Relaxed), body.len());
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    format!("http://127.0.0.1:{port}/keys").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_an_address_come_when_it_is_up_and_stay_when_it_is_not() {
    let far = SigningKey::generate(Algorithm::EdDsa, Some("far".into())).unwrap();
    let (status, asked) = (Arc::new(AtomicU16::new(500)), Arc::new(AtomicU32::new(0)));
    let body = serde_json::json!({ "keys": [far.public()] }).to_string();
    let source = key_service(status.clone(), asked.clone(), body).await;
    let house = House::open("service", |_, settings| settings.admission.auth.push(source)).await;
    // The relay is up without it; its own file works.
    assert!(takes(&house, &house.key).await && !takes(&house, &far).await);
    status.store(200, Ordering::Relaxed);
    until("the far key", async || takes(&house, &far).await).await;
    status.store(500, Ordering::Relaxed);
    // A ticket of an unknown key makes the relay ask again, in vain.
    let unknown = SigningKey::generate(Algorithm::EdDsa, Some("new".into())).unwrap();
    let before = asked.load(Ordering::Relaxed);
    until("the service to be asked again", async || {
        assert!(!takes(&house, &unknown).await);
        asked.load(Ordering::Relaxed) > before
    })
    .await;
    assert!(takes(&house, &far).await, "the last good ones stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_so_many_connections_and_those_who_are_in_stay() {
    let house = House::open("crowd", |_, settings| settings.admission.max_connections = 5).await;
    let venue = house.show("show").await;
    let ticket = house.ticket(&claims(&["show"], &[], LATE));
    let viewer = house.viewer(&format!("/?jwt={ticket}")).await.unwrap();
    let mut inside = Vec::new();
    let mut turned_away = 0;
    for _ in 0..20 {
        match house.call(&[b"h3"]).await {
            // Seen before the handshake, or just after it.
            Err(_) => turned_away += 1,
            Ok(connection) => inside.push(connection),
        }
    }
    until("the rest to be closed", async || {
        let open = inside.iter().filter(|connection| connection.close_reason().is_none()).count();
        open == 3 && turned_away + inside.len() == 20
    })
    .await;
    for closed in inside.iter().filter_map(|connection| connection.close_reason()) {
        let quinn::ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
        assert_eq!(close.error_code, Close::Crowded.into());
    }
    assert!(viewer.watch("show", 10).await > 40_000 && uplink(&venue).connected);
    // When they go, others may come.
    inside.drain(..).for_each(|connection| connection.close(0u32.into(), b""));
    until("room", async || house.viewer(&format!("/?jwt={ticket}")).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bad_handshakes_costs_no_viewer_a_frame() {
    let house = Arc::new(House::open("flood", |_, _| ()).await);
    let _venue = house.show("show").await;
    let ticket = house.ticket(&claims(&["show"], &[], LATE));
    let viewer = house.viewer(&format!("/?jwt={ticket}")).await.unwrap();
    let flood: Vec<_> = (0..8)
        .map(|n| {
            let house = house.clone();
            tokio::spawn(async move {
                let mut refused = 0;
                for round in 0..40 {
                    match (n + round) % 4 {
                        // Bad tickets, no ticket, no words at all, another protocol.
                        0 => refused += u32::from(house.browser("/?jwt=eyJ.e30.AA").await.is_err()),
                        1 => refused += u32::from(house.browser("/").await.is_err()),
                        2 => refused += u32::from(house.call(&[b"h3"]).await.is_ok()),
                        _ => refused += u32::from(house.call(&[b"nothing"]).await.is_err()),
                    }
                }
                refused
            })
        })
        .collect();
    let frames = 90;
    let bytes = viewer.watch("show", frames).await;
    assert!(bytes >= frames as u64 * 4_000, "{bytes}");
    let mut refused = 0;
    for task in flood {
        refused += tokio::time::timeout(PATIENCE, task).await.expect("it hangs").unwrap();
    }
    assert_eq!(refused, 320);
    let trace = house.get(&format!("/api/status?jwt={ticket}"), "").await;
    assert!(trace.contains("\"lost\":0"), "{trace}");
}
