//! The HTTP side of WHIP (RFC 9725) and WHEP (draft-ietf-wish-whep-03): offers come in, answers go out, and sessions are
//! changed and ended at an address of their own that nobody can guess.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use ring::rand::{SecureRandom, SystemRandom};
use str0m::format::Codec;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::negotiate::{self, Agreed, OfferError, Ours};
use super::session::{Role, Session};
use super::stats::Way;
use super::whep::{Choice, Watch};
use super::whip::{House, Publish};
use super::{Command, Credentials, Handle, Restarted, Turn};
use crate::admission::{Admission, Pass, Refusal, ticket_of};
use crate::broadcasts::Broadcasts;
use crate::clock::Clock;
use crate::control::check_name;
use crate::fanout::Shelf;
use crate::origin::Origin;

/// An offer is some 5 kB; one with many tracks and candidates four times that.
const MAX_BODY: usize = 64 * 1024;

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// What pages of others may read of an answer.
const EXPOSED: &str = "Location, ETag, Link";

/// What the handlers need.
#[derive(Clone)]
pub(crate) struct Door {
    /// `None`: this relay speaks no WebRTC.
    pub handle: Option<Handle>,
    pub origin: Origin,
    pub broadcasts: Broadcasts,
    pub clock: Clock,
    pub admission: Admission,
}

/// All routes.
pub(crate) fn router(door: Door) -> Router {
    Router::new()
        .route("/whip/{*broadcast}", post(publish).options(endpoint_options))
        .route("/whep/{*broadcast}", post(watch).options(endpoint_options))
        .route("/webrtc/{id}", axum::routing::delete(end).patch(patch).options(session_options))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::map_response(any_page))
        .with_state(door)
}

/// A request that is not served, in words.
#[derive(Debug)]
enum No {
    Ticket(Refusal),
    Words(StatusCode, String),
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self::Ticket(refusal)
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        let (status, words) = match self {
            Self::Ticket(refusal) => return refusal.into_response(),
            Self::Words(status, words) => (status, words),
        };
        let mut response = (status, format!("{words}\n")).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

fn no(status: StatusCode, words: impl Into<String>) -> No {
    No::Words(status, words.into())
}

/// Any page may publish and play, if it has a ticket.
async fn any_page(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    response
}

/// What browsers ask before they send an offer.
async fn endpoint_options() -> impl IntoResponse {
    preflight("POST, OPTIONS", [("accept-post", SDP)])
}

/// And before they change a session.
async fn session_options() -> impl IntoResponse {
    preflight("DELETE, PATCH, OPTIONS", [("accept-patch", FRAGMENT)])
}

fn preflight(methods: &'static str, accepts: [(&'static str, &'static str); 1]) -> impl IntoResponse {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, if-match"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    (StatusCode::NO_CONTENT, headers, accepts)
}

/// An offer that may be looked at.
struct Offer<'a> {
    handle: &'a Handle,
    name: String,
    pass: Pass,
    sdp: String,
}

impl Door {
    fn handle(&self) -> Result<&Handle, No> {
        let words = "this relay speaks no WebRTC: start it with --webrtc ADDR:PORT";
        self.handle.as_ref().ok_or_else(|| no(StatusCode::NOT_FOUND, words))
    }

    /// The checks that both ways have in common. The ticket comes first: who has none learns nothing else.
    fn enter(
        &self,
        name: String,
        query: Option<&str>,
        headers: &HeaderMap,
        body: Result<Bytes, BytesRejection>,
        may: impl Fn(&Pass, &str) -> bool,
    ) -> Result<Offer<'_>, No> {
        let handle = self.handle()?;
        let ticket = ticket_of(headers, query);
        let refusal = if ticket.is_some() { Refusal::NotForThis } else { Refusal::Missing };
        if !may(&self.admission.look(ticket.as_deref())?, &name) {
            return Err(refusal.into());
        }
        check_name(&name).map_err(|reason| no(StatusCode::NOT_FOUND, reason))?;
        let sdp = text(headers, SDP, body)?;
        // It takes its seat among the ticket's sessions now.
        let pass = self.admission.admit(ticket.as_deref(), self.admission.own_seat())?;
        Ok(Offer { handle, name, pass, sdp })
    }
}

/// The body, if it is of this type.
fn text(headers: &HeaderMap, kind: &str, body: Result<Bytes, BytesRejection>) -> Result<String, No> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = given.split(';').next().unwrap_or_default().trim();
    if !given.eq_ignore_ascii_case(kind) {
        let words = format!("the body is {given:?}, and {kind} is what is understood here");
        return Err(no(StatusCode::UNSUPPORTED_MEDIA_TYPE, words));
    }
    let body = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            no(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than {MAX_BODY} bytes"))
        }
        status => no(status, "the body has not come whole"),
    })?;
    String::from_utf8(body.into()).map_err(|_| no(StatusCode::BAD_REQUEST, "the body is not text in UTF-8"))
}

fn place(places: &Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit, No> {
    let full = |_| no(StatusCode::SERVICE_UNAVAILABLE, format!("this relay has as many {what} as it takes"));
    places.clone().try_acquire_owned().map_err(full)
}

async fn watch(
    State(door): State<Door>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, No> {
    let Offer { handle, name, pass, sdp } =
        door.enter(name, query.as_deref(), &headers, body, Pass::may_subscribe)?;
    let places = vec![place(&handle.places, "WebRTC sessions")?];
    let found = Shelf::find(&door.origin, &pass.grant.subscribe, &name).await;
    let off_air = || no(StatusCode::NOT_FOUND, format!("no broadcast {name:?} is on the air"));
    let (shelf, catalog) = found.ok_or_else(off_air)?;
    let Choice { video, audio, unfit } = Choice::of(&catalog);
    if let Some(codec) = unfit {
        let words = format!(
            "the pictures of this show are {codec}; WebRTC is served H.264 and VP8 only: play it over MoQ or HLS"
        );
        return Err(no(StatusCode::NOT_ACCEPTABLE, words));
    }
    if video.is_none() && audio.is_none() {
        return Err(no(StatusCode::NOT_ACCEPTABLE, "this show has nothing that WebRTC can carry"));
    }
    let codecs: Vec<Codec> = video.iter().map(|picture| picture.codec).collect();
    let ours = Ours {
        way: Way::Out,
        video: &codecs,
        audio: audio.is_some(),
        profile: video.as_ref().and_then(|picture| picture.profile),
        candidates: &handle.candidates,
    };
    let agreed = agree(&sdp, ours)?;
    let video = video.zip(agreed.video.map(|(line, _)| line));
    let role = Role::Watch(Box::new(Watch::new(shelf, video, audio.zip(agreed.audio))));
    let session = Session::new(id()?, agreed.rtc, sdp, role, pass, places);
    open(handle, session, agreed.answer)
}

async fn publish(
    State(door): State<Door>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, No> {
    let Offer { handle, name, pass, sdp } =
        door.enter(name, query.as_deref(), &headers, body, Pass::may_publish)?;
    let places = vec![place(&handle.places, "WebRTC sessions")?, place(&handle.publishers, "publishers")?];
    let codecs = [Codec::H264, Codec::Vp8];
    let ours =
        Ours { way: Way::In, video: &codecs, audio: true, profile: None, candidates: &handle.candidates };
    let Agreed { rtc, answer, video, audio } = agree(&sdp, ours)?;
    let id = id()?;
    let record = door
        .broadcasts
        .begin_whip(&name, &id, door.clock.now())
        .map_err(|taken| no(StatusCode::CONFLICT, taken.to_string()))?;
    let house = House { origin: door.origin.clone(), broadcasts: door.broadcasts.clone(), clock: door.clock };
    let video = video.map(|(line, codec)| (line.mid, codec));
    let now = Instant::now();
    let publish = Publish::new(house, name, id.clone(), record, video, audio.map(|line| line.mid), now);
    let session = Session::new(id, rtc, sdp, Role::Publish(Box::new(publish)), pass, places);
    open(handle, session, answer)
}

fn agree(sdp: &str, ours: Ours<'_>) -> Result<Agreed, No> {
    negotiate::accept(sdp, ours, Instant::now()).map_err(|error| match &error {
        OfferError::Malformed(_) => no(StatusCode::BAD_REQUEST, error.to_string()),
        OfferError::NoCommonCodec(_) => no(StatusCode::NOT_ACCEPTABLE, error.to_string()),
    })
}

/// 128 bits that nobody can guess: who knows them is the session's client.
fn id() -> Result<String, No> {
    let mut bits = [0; 16];
    let random = SystemRandom::new().fill(&mut bits);
    random.map_err(|_| no(StatusCode::INTERNAL_SERVER_ERROR, "this machine gives no random numbers"))?;
    Ok(bits.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Hands the session over, and tells its client where it is.
fn open(handle: &Handle, mut session: Session, answer: String) -> Result<Response, No> {
    let (location, tag) = (format!("/webrtc/{}", session.id), session.etag());
    let busy = |_| no(StatusCode::SERVICE_UNAVAILABLE, "too many sessions begin at once");
    handle.commands.try_send(Command::Open(Box::new(session))).map_err(busy)?;
    let headers = [(header::CONTENT_TYPE, SDP.to_owned()), (header::LOCATION, location), (header::ETAG, tag)];
    let mut response = (StatusCode::CREATED, headers, answer).into_response();
    if let Some(turn) = &handle.turn
        && let Ok(link) = HeaderValue::from_str(&link(turn))
    {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// RFC 9725, section 4.6.
fn link(turn: &Turn) -> String {
    let login = turn.login.as_ref().map(|(username, credential)| {
        let escape = |text: &str| text.replace('\\', "\\\\");
        let (username, credential) = (escape(username), escape(credential));
        format!("; username=\"{username}\"; credential=\"{credential}\"; credential-type=\"password\"")
    });
    format!("<{}>; rel=\"ice-server\"{}", turn.url, login.unwrap_or_default())
}

/// Asks the sessions' task.
async fn ask<T>(handle: &Handle, order: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, No> {
    let gone = || no(StatusCode::SERVICE_UNAVAILABLE, "this relay is being stopped");
    let (reply, answer) = oneshot::channel();
    handle.commands.send(order(reply)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())
}

fn no_session() -> No {
    no(StatusCode::NOT_FOUND, "there is no such session (any more)")
}

async fn end(State(door): State<Door>, Path(id): Path<String>) -> Result<StatusCode, No> {
    let was_there = ask(door.handle()?, |reply| Command::Close { id, reply }).await?;
    if was_there { Ok(StatusCode::OK) } else { Err(no_session()) }
}

/// Trickle ICE, and ICE restart. The client's candidates are of no use to a relay that makes no checks (ICE lite): they are
/// read, and that is all.
async fn patch(
    State(door): State<Door>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, No> {
    let handle = door.handle()?;
    let found = ask(handle, |reply| Command::Find { id: id.clone(), reply }).await?;
    let found = found.ok_or_else(no_session)?;
    let text = text(&headers, FRAGMENT, body)?;
    let wanted = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok());
    // Clients in the field leave it away.
    if wanted.is_some_and(|wanted| wanted != "*" && wanted != found.etag) {
        let words = "the session has been restarted since: If-Match names another ETag";
        return Err(no(StatusCode::PRECONDITION_FAILED, words));
    }
    let Some(words) = credentials(&text)? else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    // A restart is what comes with other words than those of the offer: with `If-Match: *` (RFC 9725, section 4.3.3).
    let is_restart = wanted == Some("*") && found.ufrag.as_ref() != Some(&words.ufrag);
    if !is_restart {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let restarted = ask(handle, |reply| Command::Restart { id, remote: words, reply }).await?;
    let Restarted { etag, local } = restarted.ok_or_else(no_session)?;
    let headers = [(header::CONTENT_TYPE, FRAGMENT.to_owned()), (header::ETAG, etag)];
    let mut body = format!("a=ice-lite\r\na=ice-ufrag:{}\r\na=ice-pwd:{}\r\n", local.ufrag, local.pwd);
    for (n, candidate) in handle.candidates.iter().enumerate() {
        if let Ok(candidate) = str0m::Candidate::host(*candidate, "udp") {
            let end = if n + 1 == handle.candidates.len() { "a=end-of-candidates\r\n" } else { "" };
            body += &format!("a={}\r\n{end}", candidate.to_sdp_string());
        }
    }
    Ok((StatusCode::OK, headers, body).into_response())
}

/// The words of ICE in a fragment (RFC 8840), if it has any.
fn credentials(fragment: &str) -> Result<Option<Credentials>, No> {
    let bad = |words: &str| no(StatusCode::BAD_REQUEST, format!("this is no fragment of SDP: {words}"));
    let (mut ufrag, mut pwd) = (None, None);
    for line in fragment.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        if !line.get(..2).is_some_and(|head| matches!(head, "a=" | "m=" | "c=" | "v=" | "o=" | "s=" | "t=")) {
            return Err(bad(&format!("{:?}", line.chars().take(40).collect::<String>())));
        }
        // RFC 8839, section 5.4: letters, digits, + and /.
        let word = |name: &str, length: std::ops::RangeInclusive<usize>| match line.strip_prefix(name) {
            Some(word) => {
                let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_' | b'=');
                let fits = length.contains(&word.len()) && word.bytes().all(good);
                if fits { Ok(Some(word.to_owned())) } else { Err(bad(name)) }
            }
            None => Ok(None),
        };
        // The first counts: all tracks go one way.
        ufrag = ufrag.or(word("a=ice-ufrag:", 4..=256)?);
        pwd = pwd.or(word("a=ice-pwd:", 22..=256)?);
    }
    match (ufrag, pwd) {
        (Some(ufrag), Some(pwd)) => Ok(Some(Credentials { ufrag, pwd })),
        (None, None) => Ok(None),
        _ => Err(bad("a=ice-ufrag and a=ice-pwd go together")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments() {
        let words = |text: &str| credentials(text).map_err(|no| format!("{no:?}"));
        let whole = "a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\n\
                     a=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host\r\na=end-of-candidates\r\n";
        assert_eq!(words(whole).unwrap().unwrap().ufrag, "EsAw");
        assert_eq!(words("m=audio 9 RTP/AVP 0\r\na=mid:0\r\na=end-of-candidates").unwrap(), None);
        assert_eq!(words("").unwrap(), None);
        for bad in [
            "a=ice-ufrag:EsAw\r\n",
            "a=ice-ufrag:x\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1",
            "a=ice-ufrag:EsAw\r\na=ice-pwd:short",
            "a=ice-ufrag:Es\u{e4}w\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1",
            "{}",
            "\u{e4}",
            "a",
        ] {
            assert!(words(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn links_of_ice_servers() {
        let login = Some(("me\\you".into(), "pass;word".into()));
        let turn = Turn { url: "turn:turn.example.net?transport=udp".into(), login };
        assert_eq!(
            link(&turn),
            "<turn:turn.example.net?transport=udp>; rel=\"ice-server\"; username=\"me\\\\you\"; \
             credential=\"pass;word\"; credential-type=\"password\""
        );
        assert_eq!(
            link(&Turn { login: None, ..turn }),
            "<turn:turn.example.net?transport=udp>; rel=\"ice-server\""
        );
    }
}
