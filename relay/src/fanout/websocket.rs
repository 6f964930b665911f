//! MoQ over WebSocket, at the HTTP port, for networks that let no UDP through: QMux (draft-ietf-quic-qmux) by the crate
//! `qmux`, in whose streams moq-net speaks as in QUIC's.
//!
//! Such sessions are forwarded by moq-net itself, which costs more than our own forwarding (`pump.rs`, which knows QUIC's
//! streams only); TCP has its losses and delays besides. It is the way for those who have no other.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{self, HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper_util::rt::TokioIo;
use qmux::ws::tokio_tungstenite::WebSocketStream;
use qmux::ws::tungstenite::handshake::server::create_response;
use qmux::ws::tungstenite::protocol::{Role, WebSocketConfig};
use qmux::ws::{KeepAlive, Upgraded};
use tokio::sync::Semaphore;
use web_transport_trait::Session as _;

use super::polled::Session;
use super::session::Scope;
use super::{Entered, FanoutError, HANDSHAKE_TIMEOUT, Viewers, enter, in_time, serve};
use crate::admission::{self, Admission, Refusal};
use crate::intake::Intake;
use crate::origin::{self, Origin};

/// Sessions at once. Each may hold some 2 MB: what the kernel and QMux keep of both directions.
const MAX_SESSIONS: usize = 1024;

/// No record of QMux is longer than 16 KB; a message is one record.
const MAX_MESSAGE: usize = 64 * 1024;

/// Without flow control, as the oldest draft (`webtransport`) is, a slow viewer would cost memory without bound.
const VERSIONS: [qmux::Version; 3] = [qmux::Version::QMux02, qmux::Version::QMux01, qmux::Version::QMux00];

/// Where sessions over WebSocket come in.
pub struct Door {
    origin: Origin,
    viewers: Arc<Viewers>,
    intake: Intake,
    admission: Admission,
    places: Arc<Semaphore>,
}

impl Door {
    /// To what the relay forwards.
    pub fn new(origin: Origin, viewers: Arc<Viewers>, intake: Intake, admission: Admission) -> Arc<Self> {
        Arc::new(Self { origin, viewers, intake, admission, places: Arc::new(Semaphore::new(MAX_SESSIONS)) })
    }
}

/// What is no handshake of WebSocket goes on to `next`.
pub async fn upgrade(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    let wants = request.headers().get(header::UPGRADE).is_some_and(|to| to.as_bytes() == b"websocket");
    if !wants {
        return next.run(request).await;
    }
    let Some(protocol) = choose(request.headers()) else {
        let versions = VERSIONS.map(qmux::Version::alpn).join(", ");
        let words = format!(
            "WebSocket is for MoQ here: no Sec-WebSocket-Protocol of {versions} with {}\n",
            moq_net::ALPNS[0]
        );
        return (StatusCode::BAD_REQUEST, words).into_response();
    };
    if door.viewers.drain.is_on() {
        return (StatusCode::SERVICE_UNAVAILABLE, "this relay is being stopped\n").into_response();
    }
    let ticket = admission::ticket_of(request.headers(), request.uri().query());
    let root = request.uri().path();
    let entered = match enter(
        &door.admission,
        &door.origin,
        &door.intake,
        &Scope::default(),
        ticket.as_deref(),
        root,
    ) {
        Ok(entered) => entered,
        Err(refusal) => return refusal.into_response(),
    };
    let Ok(place) = door.places.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many sessions over WebSocket\n").into_response();
    };
    let mut response = match answer(&request, &protocol) {
        Ok(response) => response,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    *response.body_mut() = Body::empty();
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _place = place;
        let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, upgrading).await else { return };
        if let Err(error) = run(stream, &protocol, entered, door.viewers.clone()).await {
            tracing::debug!(%error, "WebSocket session ended");
        }
    });
    response
}

/// The best sub-protocol that both know: a version of QMux with one of MoQ.
fn choose(headers: &HeaderMap) -> Option<String> {
    let lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|line| line.to_str().ok());
    let offered: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    let ours = moq_net::ALPNS.iter().flat_map(|alpn| VERSIONS.map(|qmux| format!("{}{alpn}", qmux.prefix())));
    ours.into_iter().find(|protocol| offered.contains(&protocol.as_str()))
}

/// What a good handshake is answered (RFC 6455, section 4.2.2).
fn answer(request: &Request, protocol: &str) -> Result<Response, FanoutError> {
    let mut head =
        http::Request::builder().method(request.method()).uri(request.uri()).version(request.version());
    if let Some(headers) = head.headers_mut() {
        headers.clone_from(request.headers());
    }
    let head = head.body(()).map_err(|_| FanoutError::WebSocket("a bad request".into()))?;
    let response = create_response(&head).map_err(|error| FanoutError::WebSocket(error.to_string()))?;
    let mut response = response.map(|()| Body::empty());
    let protocol =
        HeaderValue::from_str(protocol).map_err(|_| FanoutError::WebSocket("a bad name".into()))?;
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    Ok(response)
}

async fn run(
    stream: hyper::upgrade::Upgraded,
    protocol: &str,
    entered: Entered,
    viewers: Arc<Viewers>,
) -> Result<(), FanoutError> {
    let limits =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, Some(limits)).await;
    let session = Upgraded::new(socket).with_alpn(protocol).with_keep_alive(KeepAlive::default()).accept();
    let handshake =
        in_time(moq_net::Server::new().accept_request(origin::now(), Session::new(session.clone())))
            .await??;
    serve(handshake, entered, viewers, |refusal| close(session.clone(), refusal)).await
}

/// The word goes out before all that follows, by a task of `qmux`.
async fn close(session: qmux::Session, refusal: Refusal) {
    session.close(admission::CLOSE_UNAUTHORIZED, &refusal.to_string());
}
