//! Why somebody is not let in, for programs (a code), for people (a sentence) and on the wire.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;

/// Why somebody is not let in, or not any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// None was shown.
    #[error("a ticket is needed here, and none was shown")]
    Missing,
    /// It cannot be read.
    #[error("the ticket cannot be read: {0}")]
    Malformed(&'static str),
    /// Not signed by one of ours, or changed since.
    #[error("the ticket was not signed with a key that this relay trusts")]
    Untrusted,
    /// Its time is over.
    #[error("the ticket has expired")]
    Expired,
    /// Its time has not come.
    #[error("the ticket is not valid yet")]
    NotYet,
    /// Good, but for something else.
    #[error("the ticket is not for this")]
    NotForThis,
    /// As many sessions as it allows are open.
    #[error("the ticket is in use elsewhere as often as it allows")]
    InUse,
    /// It comes too often.
    #[error("too many sessions are opened with this ticket; try again in a moment")]
    TooFast,
    /// It brings more shows than anybody may.
    #[error("too many broadcasts are announced")]
    TooMuch,
    /// The address has too many connections.
    #[error("there are too many connections from this address")]
    Crowded,
    /// No key could be had yet.
    #[error("this relay has no keys yet to judge tickets by; try again in a moment")]
    NoKeys,
}

impl Refusal {
    /// For programs, and for the player's choice of words.
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing => "ticket-missing",
            Self::Malformed(_) => "ticket-malformed",
            Self::Untrusted => "ticket-untrusted",
            Self::Expired => "ticket-expired",
            Self::NotYet => "ticket-not-yet",
            Self::NotForThis => "ticket-not-for-this",
            Self::InUse => "ticket-in-use",
            Self::TooFast => "ticket-too-fast",
            Self::TooMuch => "too-many-broadcasts",
            Self::Crowded => "too-many-connections",
            Self::NoKeys => "no-keys",
        }
    }

    /// Over HTTP: 401 asks for another ticket, 403 says that this one will never do, 429 and 503 that it may later.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Missing | Self::Malformed(_) | Self::Untrusted | Self::Expired | Self::NotYet => {
                StatusCode::UNAUTHORIZED
            }
            Self::NotForThis => StatusCode::FORBIDDEN,
            Self::InUse | Self::TooMuch | Self::TooFast | Self::Crowded => StatusCode::TOO_MANY_REQUESTS,
            Self::NoKeys => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.code(), "message": self.to_string() }));
        let mut response = (self.status(), body).into_response();
        if self.status() == StatusCode::UNAUTHORIZED {
            let challenge = axum::http::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        // For those who count.
        response.extensions_mut().insert(self);
        response
    }
}
