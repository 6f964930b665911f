//! The HTTP side of LL-HLS: paths, waiting, status codes and cache headers.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use media::TrackId;
use media::hls::{Answer, File, Reload, TARGET};
use tokio::time::Instant;

use super::{Hls, Stage};
use crate::admission::{Admission, Refusal, ticket_in, ticket_of};

/// So long a request waits for media; then it is told to come again. The draft allows three target durations; hls.js gives
/// up on a first byte after 10 s.
pub(super) const PATIENCE: Duration = Duration::from_secs(9);

/// What is in a media file never changes: a year, as long as caches hold anything.
const FOREVER: &str = "public, max-age=31536000, immutable";

/// An answer to a reload that named its part is the same for all who name it: six target durations, says the draft.
const RELOADED: &str = "public, max-age=24";

/// A playlist as it is now is soon another: at most half a target duration.
const NOW: &str = "public, max-age=1";

/// What needs a ticket is held by nobody who does not look at tickets.
const PRIVATE: &str = "private, no-store";

/// Nothing was found; there may be something soon.
const NOTHING: &str = "public, max-age=1";

/// Where a show begins in the relay's addresses: `/hls/BROADCAST/index.m3u8`.
pub(crate) fn router(hls: Hls, admission: Admission) -> Router {
    Router::new().route("/hls/{*path}", get(file).options(preflight)).with_state(Doors { hls, admission })
}

#[derive(Clone)]
struct Doors {
    hls: Hls,
    admission: Admission,
}

/// A request that is not served, in words.
fn refusal(status: StatusCode, words: impl std::fmt::Display) -> Response {
    let cache = if status == StatusCode::NOT_FOUND { NOTHING } else { "no-store" };
    let mut response = (status, format!("{words}\n")).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Whether this request may see this broadcast: the one place where that is decided for HLS. `Err` is what it is told.
/// Gives the ticket that it came with, if it needed one. (Requests of one viewer are not told from those of another,
/// so a ticket's number of sessions is not counted here.)
fn admit(
    admission: &Admission,
    broadcast: &str,
    headers: &HeaderMap,
    query: &str,
) -> Result<Admitted, Refusal> {
    let ticket = ticket_of(headers, Some(query));
    // One that is not good is refused even where none is needed, as at the other doors.
    let pass = admission.look(ticket.as_deref())?;
    if !pass.may_subscribe(broadcast) {
        return Err(if ticket.is_some() { Refusal::NotForThis } else { Refusal::Missing });
    }
    match admission.look(None).is_ok_and(|pass| pass.may_subscribe(broadcast)) {
        true => Ok(Admitted::Anybody),
        false => Ok(Admitted::Ticket { in_address: ticket_in(query) }),
    }
}

/// By what right.
enum Admitted {
    /// Everybody may see it, and caches may hold it.
    Anybody,
    /// Only this one.
    Ticket {
        /// Where it was in the address, it has to be in those that a playlist names, too.
        in_address: Option<String>,
    },
}

/// Adds a ticket to all addresses of a playlist (RFC 8216, section 4.1: lines without a `#`, and URI attributes).
fn with_ticket(playlist: &str, ticket: &str) -> String {
    let add = |line: &str| match line.split_once("URI=\"") {
        Some((before, rest)) if line.starts_with('#') => match rest.split_once('"') {
            Some((address, after)) => format!("{before}URI=\"{address}?jwt={ticket}\"{after}"),
            None => line.to_owned(),
        },
        _ if line.is_empty() || line.starts_with('#') => line.to_owned(),
        _ => format!("{line}?jwt={ticket}"),
    };
    playlist.lines().map(|line| add(line) + "\n").collect()
}

async fn file(
    State(doors): State<Doors>,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.unwrap_or_default();
    let mut response = match serve(&doors, &path, &query, &headers).await {
        Ok(response) | Err(response) => response,
    };
    // Any page may play a show.
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// What browsers ask before they send more than the plainest request.
async fn preflight() -> impl IntoResponse {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, range"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    (StatusCode::NO_CONTENT, headers)
}

async fn serve(doors: &Doors, path: &str, query: &str, headers: &HeaderMap) -> Result<Response, Response> {
    let Doors { hls, admission } = doors;
    let no_file =
        || refusal(StatusCode::NOT_FOUND, "no such file: a show's playlist is /hls/BROADCAST/index.m3u8");
    let (broadcast, name) = path.rsplit_once('/').ok_or_else(no_file)?;
    let admit = || admit(admission, broadcast, headers, query);
    let admitted = admit().map_err(IntoResponse::into_response)?;
    let file = File::parse(name).ok_or_else(no_file)?;
    let reload = match file {
        File::Playlist { .. } => {
            Reload::parse(query).map_err(|error| refusal(StatusCode::BAD_REQUEST, error))?
        }
        _ => Reload::default(),
    };
    let stage = hls
        .get(broadcast)
        .ok_or_else(|| refusal(StatusCode::NOT_FOUND, format!("no broadcast {broadcast:?} is on the air")))?;
    let answer = match stage.answer(file, reload).map_err(unacceptable)? {
        Answer::Wait => {
            let answer = wait(hls, &stage, file, reload).await?;
            // The ticket may have ended meanwhile.
            admit().map_err(IntoResponse::into_response)?;
            answer
        }
        answer => answer,
    };
    match answer {
        Answer::Ready(body) => {
            let (kind, cache) = match file {
                File::Master => (PLAYLIST, NOW),
                File::Playlist { .. } if reload.point.is_some() => (PLAYLIST, RELOADED),
                File::Playlist { .. } => (PLAYLIST, NOW),
                _ if file.track().is_some_and(|track| stage.is_video(track)) => ("video/mp4", FOREVER),
                _ => ("audio/mp4", FOREVER),
            };
            let (cache, body) = match admitted {
                Admitted::Anybody => (cache, body),
                Admitted::Ticket { in_address: Some(ticket) } if kind == PLAYLIST => {
                    (PRIVATE, with_ticket(&String::from_utf8_lossy(&body), &ticket).into())
                }
                Admitted::Ticket { .. } => (PRIVATE, body),
            };
            Ok(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, cache)], body).into_response())
        }
        Answer::Missing => {
            Err(refusal(StatusCode::NOT_FOUND, format!("{broadcast:?} has no {file} (any more)")))
        }
        Answer::TooFarAhead => {
            Err(refusal(StatusCode::BAD_REQUEST, "_HLS_msn or _HLS_part is too far in the future"))
        }
        Answer::Wait => Err(refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("nothing new has come for {} s", hls.patience.as_secs_f32()),
        )),
    }
}

const PLAYLIST: &str = "application/vnd.apple.mpegurl";

// Six times and half of it: the headers above are written out.
const _: () = assert!(TARGET.as_secs() == 4);

/// The show is of a kind that HLS cannot carry.
fn unacceptable(why: impl std::fmt::Display) -> Response {
    refusal(StatusCode::NOT_ACCEPTABLE, why)
}

/// Until there is an answer, or patience is at its end.
async fn wait(hls: &Hls, stage: &Stage, file: File, reload: Reload) -> Result<Answer, Response> {
    let news = file.track().and_then(|track| stage.news.get(&track));
    let Some(mut news) = news.map(|news| news.subscribe()) else { return Ok(Answer::Missing) };
    let Ok(_place) = hls.waiting.try_acquire() else {
        return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "too many requests wait already"));
    };
    let end = Instant::now() + hls.patience;
    loop {
        // Seen before it is looked, so that nothing comes between.
        news.borrow_and_update();
        match stage.answer(file, reload).map_err(unacceptable)? {
            Answer::Wait => {}
            answer => return Ok(answer),
        }
        if !matches!(tokio::time::timeout_at(end, news.changed()).await, Ok(Ok(()))) {
            return Ok(Answer::Wait);
        }
    }
}

impl Stage {
    fn is_video(&self, track: TrackId) -> bool {
        self.show().tracks().iter().any(|found| found.id == track && found.is_video())
    }
}
