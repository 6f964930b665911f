//! The HTTP side: the page, what the player asks before and beside the media, and what operators read.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::HttpBody;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use crate::admission::{Admission, Pass, Refusal, ticket_of};
use crate::broadcasts::{BroadcastStatus, Broadcasts, Quality};
use crate::clock::Clock;
use crate::control::check_name;
use crate::counters::{Counters, Sent};
use crate::fanout::Viewers;
use crate::hls::{self, Hls};
use crate::metrics;
use crate::tls::Current;
use crate::upstream::Health;
use crate::webrtc;

/// The player's files are held in memory; one larger than this is not part of a player.
const MAX_ASSET: u64 = 4 * 1024 * 1024;

/// More files than this are not a player either.
const MAX_ASSETS: usize = 64;

/// A viewer's report is some 200 bytes,
const MAX_QUALITY: usize = 2048;

/// and all of it must have come by then.
const QUALITY_TIMEOUT: Duration = Duration::from_secs(10);

/// The built player (`cargo xtask player` makes it), read once at start.
pub struct Player {
    page: Asset,
    assets: HashMap<String, Asset>,
}

struct Asset {
    kind: &'static str,
    body: Bytes,
    /// The same in brotli's form, where there is a file `NAME.br`.
    brotli: Option<Bytes>,
}

impl Asset {
    fn read(file: &Path) -> io::Result<Self> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let brotli = match std::fs::read(file.with_file_name(format!("{name}.br"))) {
            Ok(bytes) => Some(bytes.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { kind: content_type(&name), body: std::fs::read(file)?.into(), brotli })
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        // Revalidated by reload only: a new player comes with a new relay.
        let common = [
            (header::CONTENT_TYPE, self.kind),
            (header::CACHE_CONTROL, "no-cache"),
            (header::VARY, "accept-encoding"),
        ];
        match self.brotli.as_ref().filter(|_| takes_brotli(headers)) {
            Some(body) => (common, [(header::CONTENT_ENCODING, "br")], body.clone()).into_response(),
            None => (common, self.body.clone()).into_response(),
        }
    }
}

/// Browsers say so at secure addresses, and name no weights.
fn takes_brotli(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("br"))
}

impl Player {
    /// Reads `index.html` and `assets/*`.
    pub fn load(dir: &Path) -> io::Result<Self> {
        let page = Asset::read(&dir.join("index.html"))?;
        let mut assets = HashMap::new();
        for entry in std::fs::read_dir(dir.join("assets"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !entry.file_type()?.is_file()
                || entry.metadata()?.len() > MAX_ASSET
                || name.ends_with(".br")
                || assets.len() == MAX_ASSETS
            {
                continue;
            }
            assets.insert(name, Asset::read(&entry.path())?);
        }
        Ok(Self { page, assets })
    }
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("wasm") => "application/wasm",
        Some("html") => "text/html; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json" | "map") => "application/json",
        _ => "application/octet-stream",
    }
}

/// What the handlers share.
pub struct Site {
    /// `None`: this relay serves no page.
    pub player: Option<Player>,
    /// The broadcasts on the air.
    pub broadcasts: Broadcasts,
    /// Who watches.
    pub viewers: Arc<Viewers>,
    /// The shows as HLS.
    pub hls: Hls,
    /// The edge's clock.
    pub clock: Clock,
    /// The UDP port that browsers connect to.
    pub webtransport_port: u16,
    /// What browsers pin, where nobody vouches for the certificate.
    pub certificate_hash: Option<String>,
    /// The certificate of now.
    pub certificate: Arc<Current>,
    /// Relays that this one pulls from.
    pub upstreams: Vec<Health>,
    /// What happens at the doors.
    pub counters: Arc<Counters>,
    /// What viewers were sent.
    pub sent: Arc<Sent>,
    /// Where shows are kept, if they are.
    pub keep: Option<PathBuf>,
    /// Who may know of which broadcast.
    pub admission: Admission,
    /// What happens in WebRTC sessions.
    pub webrtc: Arc<webrtc::Stats>,
    /// Whether it is spoken.
    pub whep: bool,
}

/// All routes.
pub fn router(site: Arc<Site>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_page))
        .route("/", get(|| async { own("text/html; charset=utf-8", include_str!("../web/status.html")) }))
        .route(
            "/status/page.css",
            get(|| async { own("text/css; charset=utf-8", include_str!("../web/status.css")) }),
        )
        .route(
            "/status/page.js",
            get(|| async { own("text/javascript; charset=utf-8", include_str!("../web/status.js")) }),
        )
        .route("/api/config", get(config))
        .route("/api/clock", get(clock))
        .route("/api/ticket", get(ticket))
        .route("/api/status", get(status))
        .route("/api/trace", get(trace))
        .route(
            "/api/quality",
            post(quality).layer(DefaultBodyLimit::max(MAX_QUALITY)).layer(middleware::from_fn(in_time)),
        )
        .fallback(get(page))
        .with_state(site.clone())
        .merge(hls::router(site.hls.clone(), site.admission.clone()))
        .layer(middleware::from_fn(security_headers))
}

/// Counts what these routes are asked.
pub fn counted(router: Router, site: Arc<Site>) -> Router {
    router.layer(middleware::from_fn_with_state(site, count))
}

/// Counts requests by what they are about. (A player's files are many, and broadcasts are named by strangers: neither
/// becomes a label.)
async fn count(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let handler = match request.uri().path() {
        "/metrics" => "metrics",
        "/healthz" | "/readyz" => "health",
        path if path.starts_with("/hls/") => "hls",
        path if ["/whip/", "/whep/", "/webrtc/"].iter().any(|start| path.starts_with(start)) => "webrtc",
        path if path.starts_with("/api/") => "api",
        path if path.starts_with("/assets/") || path.starts_with("/status/") => "asset",
        _ => "page",
    };
    let response = next.run(request).await;
    if let Some(refusal) = response.extensions().get::<Refusal>() {
        site.counters.refuse("http", refusal.code());
    }
    let bytes = response.body().size_hint().exact().unwrap_or(0);
    site.counters.answered(handler, response.status().as_u16(), bytes);
    response
}

/// Whether load balancers may send somebody here. What is wrong with the certificate is said and no more: HLS behind a proxy,
/// and venues that pin it, do without, and all relays of a group expire at the same time.
async fn ready(State(site): State<Arc<Site>>) -> (StatusCode, String) {
    match site.viewers.drain.is_on() {
        false => {
            let complaint = site.certificate.complaint().map(|words| words + "\n");
            (StatusCode::OK, format!("ok\n{}", complaint.unwrap_or_default()))
        }
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining\n".into()),
    }
}

/// Of a body that comes byte by byte the rest is not waited for.
async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(QUALITY_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

async fn security_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A page's address may hold a ticket.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The status page: what is on the air, for people. It loads nothing from elsewhere.
fn own(kind: &'static str, body: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'self'; frame-ancestors 'none'; base-uri 'none'"),
    ];
    (headers, body)
}

/// `index.html` for every broadcast name, and the player's files.
async fn page(State(site): State<Arc<Site>>, request: Request) -> Response {
    let path = request.uri().path().trim_start_matches('/');
    let Some(player) = &site.player else {
        return (StatusCode::NOT_FOUND, "this relay serves no page: start it with --player DIR\n")
            .into_response();
    };
    if let Some(name) = path.strip_prefix("assets/") {
        return match player.assets.get(name) {
            Some(asset) => asset.answer(request.headers()),
            None => (StatusCode::NOT_FOUND, "no such file\n").into_response(),
        };
    }
    if let Err(reason) = check_name(path) {
        return (StatusCode::NOT_FOUND, format!("{reason}\n")).into_response();
    }
    player.page.answer(request.headers())
}

/// Where to connect, and what certificate to expect there.
async fn config(State(site): State<Arc<Site>>, request: Request) -> Json<serde_json::Value> {
    // The page's own host name: whatever led the browser here leads it to the UDP port too.
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    Json(json!({
        "webtransport": format!("https://{name}:{}/", site.webtransport_port),
        "certificate_hash": site.certificate_hash,
        "whep": site.whep,
    }))
}

/// What whoever asks may know, by the ticket in the headers or in the query.
pub struct Visitor(pub Pass);

impl FromRequestParts<Arc<Site>> for Visitor {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Refusal> {
        let ticket = ticket_of(&parts.headers, parts.uri.query());
        site.admission.look(ticket.as_deref()).map(Self)
    }
}

impl Visitor {
    /// Whether there is such a broadcast is told to those only who may know of it.
    pub fn of(&self, broadcast: &str) -> Result<(), Refusal> {
        if self.0.may_know(broadcast) { Ok(()) } else { Err(Refusal::NotForThis) }
    }

    fn statuses(&self, site: &Site) -> BTreeMap<String, BroadcastStatus> {
        let mut statuses = site.broadcasts.statuses(site.clock.now());
        statuses.retain(|name, _| self.0.may_know(name));
        statuses
    }
}

#[derive(Deserialize)]
struct Which {
    broadcast: String,
    #[serde(default)]
    from: u64,
}

/// The broadcast clock now; the player's half of an NTP-style exchange.
async fn clock(
    State(site): State<Arc<Site>>,
    visitor: Visitor,
    Query(which): Query<Which>,
) -> Result<Json<serde_json::Value>, Refusal> {
    visitor.of(&which.broadcast)?;
    let now = site.clock.now();
    let status = site.broadcasts.get(&which.broadcast).map(|record| record.status(now));
    let offset = status.as_ref().and_then(|status| status.clock_offset_us).unwrap_or(0);
    Ok(Json(json!({
        "time_us": now.offset_by(-offset).as_micros(),
        "error_us": status.as_ref().and_then(|status| status.clock_error_us),
        "live": site.broadcasts.is_live(&which.broadcast, now),
    })))
}

/// Whether a session for watching would be let in, and if not, why: a browser does not tell its page.
async fn ticket(
    State(site): State<Arc<Site>>,
    Query(which): Query<Which>,
    request: Request,
) -> Result<Json<serde_json::Value>, Refusal> {
    let ticket = ticket_of(request.headers(), request.uri().query());
    let pass = site.admission.would_admit(ticket.as_deref())?;
    match (pass.may_subscribe(&which.broadcast), ticket) {
        (true, _) => Ok(Json(json!({}))),
        (false, Some(_)) => Err(Refusal::NotForThis),
        (false, None) => Err(Refusal::Missing),
    }
}

/// Everything that the visitor may know, for people and programs that watch over a show.
async fn status(State(site): State<Arc<Site>>, visitor: Visitor) -> Json<serde_json::Value> {
    let all = visitor.0.may_know_all();
    Json(json!({
        "viewers": all.then(|| site.viewers.now()),
        "viewers_total": all.then(|| site.viewers.total()),
        "broadcasts": visitor.statuses(&site),
        "upstreams": all.then(|| site.upstreams.iter().map(Health::status).collect::<Vec<_>>()),
    }))
}

/// When each of the last frames passed, for the latency harness.
async fn trace(State(site): State<Arc<Site>>, visitor: Visitor, Query(which): Query<Which>) -> Response {
    if let Err(refusal) = visitor.of(&which.broadcast) {
        return refusal.into_response();
    }
    match site.broadcasts.get(&which.broadcast) {
        Some(record) => Json(record.trace_from(which.from)).into_response(),
        None => (StatusCode::NOT_FOUND, format!("no broadcast {:?} is on the air\n", which.broadcast))
            .into_response(),
    }
}

#[derive(Deserialize)]
struct QualityReport {
    broadcast: String,
    /// A random number that the page drew, to tell viewers apart while they watch.
    viewer: u64,
    #[serde(flatten)]
    quality: Quality,
}

/// What a viewer's page says of its playing.
async fn quality(
    State(site): State<Arc<Site>>,
    visitor: Visitor,
    Json(report): Json<QualityReport>,
) -> StatusCode {
    if let Err(refusal) = visitor.of(&report.broadcast) {
        return refusal.status();
    }
    match site.broadcasts.get(&report.broadcast) {
        Some(record) if record.report(report.viewer, report.quality, site.clock.now()) => {
            StatusCode::NO_CONTENT
        }
        Some(_) => StatusCode::TOO_MANY_REQUESTS,
        None => StatusCode::NOT_FOUND,
    }
}

/// For Prometheus: of what the visitor may know.
async fn metrics_page(State(site): State<Arc<Site>>, visitor: Visitor) -> impl IntoResponse {
    let text = metrics::collect(&site, &visitor.statuses(&site), visitor.0.may_know_all());
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text)
}
