//! What a ticket says: the claims of moq's tokens, and how many sessions it is good for.
//!
//! `put` and `get` are prefixes, as all published readers of moq's tokens know them; `publish` and `subscribe` are
//! patterns, as newer ones do (`tour/london` is one show, `tour/**` all below `tour`, `**` everything). All of them lie
//! below `root`. A claim that is not known refuses the ticket: it may narrow what the others grant.

use media::Time;
use moq_net::{Pattern, Patterns};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::jws;

/// A ticket made on a machine whose clock is a little ahead is good at once.
const LEEWAY_MICROS: u64 = 5_000_000;

/// The last second of the year 9999: a later one (milliseconds given for seconds) is a mistake.
const LAST_SECOND: u64 = 253_402_300_799;

/// Why claims mean nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimsError {
    /// Not the JSON that it should be.
    #[error("{0}")]
    Json(String),
    /// No such path can be.
    #[error("{0:?} is no path: {1}. Write tour/london for one show, tour/** for all below tour, ** for all")]
    Path(String, String),
    /// Both ways to say it.
    #[error("put and get do not go together with publish and subscribe: one of the two pairs has to go")]
    Mixed,
    /// Good for nothing.
    #[error("it grants nothing: neither to publish nor to subscribe")]
    Useless,
    /// Good for ever.
    #[error("it has no end (exp): only one that ends can be taken back")]
    Endless,
    /// Not a time.
    #[error("{0} is {1}, which is no Unix time in seconds")]
    Time(&'static str, String),
    /// A limit that lets nobody in.
    #[error("sessions is 0: it would let nobody in")]
    NoSessions,
}

/// What may be done, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Shows that may be brought.
    pub publish: Patterns,
    /// Shows that may be watched.
    pub subscribe: Patterns,
}

impl Grant {
    /// Everything.
    pub fn all() -> Self {
        let all: Patterns = [Pattern::all()].into_iter().collect();
        Self { publish: all.clone(), subscribe: all }
    }

    /// Nothing at all.
    pub fn is_empty(&self) -> bool {
        self.publish.is_empty() && self.subscribe.is_empty()
    }

    /// Whether `other` grants nothing beyond this.
    pub fn covers(&self, other: &Self) -> bool {
        self.publish.covers(&other.publish) && self.subscribe.covers(&other.subscribe)
    }
}

/// The claims of a ticket, checked, with their paths from the root of the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// What it is good for.
    pub grant: Grant,
    /// Until when; the first moment at which it is worth nothing.
    pub expires: Time,
    /// From when.
    pub not_before: Option<Time>,
    /// When it was made. For people only.
    pub issued: Option<Time>,
    /// Its name (`jti`): tickets of one name are one ticket.
    pub id: Option<String>,
    /// So many sessions may be open with it at once.
    pub sessions: Option<u32>,
}

/// When a ticket is good, seen from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// It is.
    Now,
    /// It will be.
    NotYet,
    /// It was.
    Expired,
}

impl Claims {
    /// Reads the claims' JSON.
    pub fn read(json: &[u8]) -> Result<Self, ClaimsError> {
        let wire: Wire = jws::object(json).map_err(|error| ClaimsError::Json(error.to_string()))?;
        let Wire { root, put, get, publish, subscribe, .. } = wire;
        let grant = WireGrant { root, put, get, publish, subscribe }.read()?;
        if grant.is_empty() {
            return Err(ClaimsError::Useless);
        }
        if wire.sessions == Some(0) {
            return Err(ClaimsError::NoSessions);
        }
        let expires = wire.exp.ok_or(ClaimsError::Endless)?;
        Ok(Self {
            grant,
            expires: time("exp", &expires)?,
            not_before: wire.nbf.as_ref().map(|number| time("nbf", number)).transpose()?,
            issued: wire.iat.as_ref().map(|number| time("iat", number)).transpose()?,
            id: wire.jti,
            sessions: wire.sessions,
        })
    }

    /// The JSON that [`read`](Self::read) reads: with `put` and `get` where prefixes can say it, so that every reader
    /// of moq's tokens understands it.
    pub fn to_json(&self) -> String {
        let seconds = |time: Time| (time.as_micros() / 1_000_000).into();
        let WireGrant { root, put, get, publish, subscribe } = WireGrant::write(&self.grant);
        let wire = Wire {
            root,
            put,
            get,
            publish,
            subscribe,
            exp: Some(seconds(self.expires)),
            nbf: self.not_before.map(seconds),
            iat: self.issued.map(seconds),
            jti: self.id.clone(),
            sessions: self.sessions,
            _iss: None,
            _sub: None,
        };
        // Strings and numbers only: there is nothing in it that JSON cannot say.
        serde_json::to_string(&wire).unwrap_or_default()
    }

    /// Whether its time is now.
    pub fn validity(&self, now: Time) -> Validity {
        if now >= self.expires {
            Validity::Expired
        } else if self
            .not_before
            .is_some_and(|from| now.as_micros().saturating_add(LEEWAY_MICROS) < from.as_micros())
        {
            Validity::NotYet
        } else {
            Validity::Now
        }
    }
}

fn time(name: &'static str, number: &serde_json::Number) -> Result<Time, ClaimsError> {
    // RFC 7519 allows fractions.
    let seconds = number.as_u64().or_else(|| number.as_f64().filter(|n| *n >= 0.0).map(|n| n as u64));
    match seconds {
        Some(seconds) if seconds <= LAST_SECOND => Ok(Time::from_micros(seconds * 1_000_000)),
        _ => Err(ClaimsError::Time(name, number.to_string())),
    }
}

/// A path pattern as people write it; slashes at the ends do not matter.
pub fn pattern(text: &str) -> Result<Pattern, ClaimsError> {
    let bad = |error: moq_net::InvalidPattern| ClaimsError::Path(text.to_owned(), error.to_string());
    text.trim_matches('/').parse::<Pattern>().map_err(bad)
}

/// What a token or a key's `scope` grants, as it stands in JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireGrant {
    #[serde(default)]
    root: String,
    #[serde(default, deserialize_with = "present")]
    put: Option<OneOrMany>,
    #[serde(default, deserialize_with = "present")]
    get: Option<OneOrMany>,
    #[serde(default, deserialize_with = "present")]
    publish: Option<OneOrMany>,
    #[serde(default, deserialize_with = "present")]
    subscribe: Option<OneOrMany>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    root: String,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    put: Option<OneOrMany>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    get: Option<OneOrMany>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    publish: Option<OneOrMany>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    subscribe: Option<OneOrMany>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<serde_json::Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<serde_json::Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<serde_json::Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    sessions: Option<u32>,
    // An issuer's bookkeeping, which narrows nothing.
    #[serde(default, rename = "iss", skip_serializing)]
    _iss: Option<IgnoredAny>,
    #[serde(default, rename = "sub", skip_serializing)]
    _sub: Option<IgnoredAny>,
}

/// `null` is not the same as nothing: it must not hide a claim.
fn present<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

impl WireGrant {
    /// The paths from the root of the relay.
    pub fn read(&self) -> Result<Grant, ClaimsError> {
        let legacy = self.put.is_some() || self.get.is_some();
        if legacy && (self.publish.is_some() || self.subscribe.is_some()) {
            return Err(ClaimsError::Mixed);
        }
        let bad =
            |text: &str, error: moq_net::InvalidPattern| ClaimsError::Path(text.into(), error.to_string());
        let read = |prefixes: &Option<OneOrMany>, patterns: &Option<OneOrMany>| {
            let prefixes = prefixes.as_ref().map(OneOrMany::texts).unwrap_or_default();
            let patterns = patterns.as_ref().map(OneOrMany::texts).unwrap_or_default();
            let prefixes =
                prefixes.iter().map(|text| Pattern::subtree(text).map_err(|error| bad(text, error)));
            let all = prefixes.chain(patterns.iter().map(|text| pattern(text)));
            let all = all.collect::<Result<Patterns, ClaimsError>>()?;
            let root = self.root.trim_matches('/');
            all.rooted(root).map_err(|error| bad(root, error))
        };
        Ok(Grant { publish: read(&self.put, &self.publish)?, subscribe: read(&self.get, &self.subscribe)? })
    }

    fn write(grant: &Grant) -> Self {
        let some = |texts: Vec<String>| (!texts.is_empty()).then_some(OneOrMany::Many(texts));
        let prefixes = |patterns: &Patterns| -> Option<Vec<String>> {
            patterns.iter().map(|pattern| pattern.as_prefix().map(str::to_owned)).collect()
        };
        if let (Some(put), Some(get)) = (prefixes(&grant.publish), prefixes(&grant.subscribe)) {
            return Self { put: some(put), get: some(get), ..Self::default() };
        }
        let texts =
            |patterns: &Patterns| patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
        Self {
            publish: some(texts(&grant.publish)),
            subscribe: some(texts(&grant.subscribe)),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Claims, ClaimsError> {
        Claims::read(json.as_bytes())
    }

    #[test]
    fn prefixes_and_patterns_are_read_from_the_root_of_the_relay() {
        let claims = read(r#"{"root":"/tour/","put":"london","get":["","x/y"],"exp":2000000000}"#).unwrap();
        assert!(claims.grant.publish.matches("tour/london") && claims.grant.publish.matches("tour/london/a"));
        assert!(!claims.grant.publish.matches("tour/londonderry") && !claims.grant.publish.matches("tour"));
        assert!(claims.grant.subscribe.matches("tour/paris") && !claims.grant.subscribe.matches("demo"));
        let claims = read(r#"{"subscribe":["tour/london","*/open"],"exp":2e9}"#).unwrap();
        assert!(
            claims.grant.subscribe.matches("tour/london") && !claims.grant.subscribe.matches("tour/london/a")
        );
        assert!(claims.grant.subscribe.matches("any/open") && claims.grant.publish.is_empty());
        assert_eq!(claims.expires, Time::from_millis(2_000_000_000_000));
    }

    #[test]
    fn what_is_not_understood_refuses_the_ticket() {
        for (bad, word) in [
            (r#"{"get":"","exp":1,"aud":"elsewhere"}"#, "aud"),
            (r#"{"get":"","exp":1,"roots":"a"}"#, "roots"),
            (r#"{"get":null,"subscribe":["**"],"exp":1}"#, "data"),
            (r#"{"get":"","subscribe":["a"],"exp":1}"#, "pairs"),
            (r#"{"get":""}"#, "exp"),
            (r#"{"exp":1}"#, "nothing"),
            (r#"{"get":[],"exp":1}"#, "nothing"),
            (r#"{"get":"","exp":-1}"#, "exp is -1"),
            (r#"{"get":"","exp":1795000000000}"#, "no Unix time"),
            (r#"{"get":"","exp":"1"}"#, "number"),
            (r#"{"get":"","exp":1,"exp":9}"#, "duplicate"),
            (r#"{"get":"","exp":1,"sessions":0}"#, "nobody"),
            (r#"{"get":"","exp":1,"sessions":null}"#, "null"),
            (r#"{"get":"","exp":1,"sessions":-1}"#, "-1"),
            (r#"{"subscribe":["a//b"],"exp":1}"#, "no path"),
            (r#"{"subscribe":["a/**/b/**"],"exp":1}"#, "no path"),
            (r#"{"get":"a*","exp":1}"#, "no path"),
            ("[]", "no JSON object"),
            ("", "no JSON object"),
            ("{", "EOF"),
        ] {
            let words = read(bad).unwrap_err().to_string();
            assert!(words.contains(word), "{bad}: {words}");
        }
    }

    #[test]
    fn its_time_begins_a_little_early_and_ends_to_the_second() {
        let claims = read(r#"{"get":"","nbf":1000,"exp":2000}"#).unwrap();
        let at = |millis| claims.validity(Time::from_millis(millis));
        assert_eq!([at(994_999), at(995_000)], [Validity::NotYet, Validity::Now]);
        assert_eq!([at(1_999_999), at(2_000_000)], [Validity::Now, Validity::Expired]);
    }

    #[test]
    fn there_and_back() {
        for json in [
            r#"{"put":["tour"],"get":["","tour/a"],"exp":2000,"nbf":1000,"iat":999,"jti":"7","sessions":2}"#,
            r#"{"publish":["tour/london"],"subscribe":["tour/**"],"exp":2000}"#,
        ] {
            let claims = read(json).unwrap();
            assert_eq!(read(&claims.to_json()).unwrap(), claims, "{json}");
        }
        let claims = read(r#"{"subscribe":["tour/**"],"exp":2000}"#).unwrap();
        assert_eq!(claims.to_json(), r#"{"get":["tour"],"exp":2000}"#, "every reader understands it");
    }
}
