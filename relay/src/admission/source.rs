//! Where the keys come from: files, looked at every two seconds, and addresses, asked every five minutes. What was
//! good stays until there is something better.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Notify;
use url::{Host, Url};

use super::key::{KeyError, KeySet, MAX_SET};

/// Sources at most.
pub const MAX_SOURCES: usize = 8;

/// How soon a change of a file is seen.
const LOOK: Duration = Duration::from_secs(2);

/// How old the keys of an address may get.
const REFRESH: Duration = Duration::from_secs(300);

/// After a failure it is asked again, at first soon ...
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// ... and then more and more seldom, up to this.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// A ticket of an unknown key may be of a new one: it is asked at once, but not more often than this.
const EAGER: Duration = Duration::from_secs(3);

/// An answer may take so long.
const ANSWER: Duration = Duration::from_secs(5);

/// One place where keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// On this machine.
    File(PathBuf),
    /// Over TLS; without it on this machine only.
    Url(Url),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

/// Why keys could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Too many of them.
    #[error("--auth is given more than {MAX_SOURCES} times: put the keys into one set")]
    TooMany,
    /// Anybody on the way could put in keys of their own.
    #[error("--auth {0}: keys are fetched over https only (http where the host is this machine)")]
    Insecure(String),
    /// Not an address.
    #[error("--auth {0}: {1}")]
    Url(String, url::ParseError),
    /// Not there.
    #[error("cannot read the keys {path}: {source}. `roadie token key` makes some")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not keys.
    #[error("the keys of {0} cannot be used: {1}")]
    Keys(Source, KeyError),
    /// The address gives none.
    #[error("cannot fetch the keys of {0}: {1}")]
    Fetch(Source, String),
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        if !text.contains("://") {
            return Ok(Self::File(text.into()));
        }
        let url = Url::parse(text).map_err(|error| SourceError::Url(text.into(), error))?;
        let here = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(addr)) => addr.is_loopback(),
            Some(Host::Ipv6(addr)) => addr.is_loopback(),
            None => false,
        };
        match url.scheme() {
            "https" => Ok(Self::Url(url)),
            "http" if here => Ok(Self::Url(url)),
            _ => Err(SourceError::Insecure(text.into())),
        }
    }
}

impl Source {
    async fn get(&self) -> Result<KeySet, SourceError> {
        let keys = |bytes: &[u8], local| {
            KeySet::read(bytes, local).map_err(|error| SourceError::Keys(self.clone(), error))
        };
        match self {
            Self::File(path) => {
                let bytes =
                    read(path).await.map_err(|source| SourceError::Read { path: path.clone(), source })?;
                keys(&bytes, true)
            }
            Self::Url(url) => {
                let bytes = fetch(url).await;
                keys(&bytes.map_err(|words| SourceError::Fetch(self.clone(), words))?, false)
            }
        }
    }
}

/// A file; not more of it than a set may have, and a byte.
async fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use tokio::io::AsyncReadExt;
    let mut bytes = Vec::new();
    tokio::fs::File::open(path).await?.take(MAX_SET as u64 + 1).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// Asks an address, trusting those whom the system trusts. Once in minutes: no connection is kept.
async fn fetch(url: &Url) -> Result<Vec<u8>, String> {
    let uri = url.as_str().parse().map_err(|_| "it is no address for HTTP".to_owned())?;
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
        .map_err(|error| format!("no roots of trust: {error}"))?
        .https_or_http()
        .enable_http1()
        .build();
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(https);
    let answer = async {
        let response = client.get(uri).await.map_err(|error| reason(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("the answer is {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_SET + 1).collect().await;
        body.map(|body| body.to_bytes().into()).map_err(|error| error.to_string())
    };
    let late = |_| format!("no answer within {} s", ANSWER.as_secs());
    tokio::time::timeout(ANSWER, answer).await.map_err(late)?
}

/// An error of the client says little; what caused it says more.
fn reason(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// All keys that are trusted now.
#[derive(Clone)]
pub struct Keys {
    /// By source; `None` where there never were any.
    sets: Arc<RwLock<Vec<Option<KeySet>>>>,
    joined: Arc<RwLock<Arc<KeySet>>>,
    eager: Arc<Notify>,
}

impl Keys {
    /// Reads all sources, and follows them as tasks of this runtime, until the last clone is gone. A file must be
    /// there and right; an address may be away, since the service there may well be started after us.
    pub async fn open(sources: Vec<Source>) -> Result<Self, SourceError> {
        if sources.len() > MAX_SOURCES {
            return Err(SourceError::TooMany);
        }
        let keys = Self {
            sets: Arc::new(RwLock::new(vec![None; sources.len()])),
            joined: Arc::default(),
            eager: Arc::default(),
        };
        for (at, source) in sources.into_iter().enumerate() {
            let failed = match source.get().await {
                Ok(set) => {
                    tracing::info!(%source, keys = set.len(), "tickets are judged by these keys");
                    keys.put(at, set);
                    None
                }
                Err(error) if matches!(source, Source::File(_)) => return Err(error),
                Err(error) => {
                    tracing::error!("{error}: nobody is let in by a key of it before there are some");
                    Some(error.to_string())
                }
            };
            let watch = Watch { source, at, failed };
            tokio::spawn(watch.run(Arc::downgrade(&keys.sets), keys.joined.clone(), keys.eager.clone()));
        }
        Ok(keys)
    }

    fn put(&self, at: usize, set: KeySet) {
        put(&self.sets, &self.joined, at, set);
    }

    /// As they are now.
    pub fn now(&self) -> Arc<KeySet> {
        self.joined.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Somebody came with a key that is not there: perhaps it is a new one.
    pub fn missed(&self) {
        self.eager.notify_waiters();
    }
}

fn put(sets: &RwLock<Vec<Option<KeySet>>>, joined: &RwLock<Arc<KeySet>>, at: usize, set: KeySet) {
    let mut sets = sets.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(place) = sets.get_mut(at) {
        *place = Some(set);
    }
    let all = Arc::new(KeySet::join(sets.iter().flatten().cloned()));
    *joined.write().unwrap_or_else(PoisonError::into_inner) = all;
}

struct Watch {
    source: Source,
    at: usize,
    /// The last words about it, so that they are said once.
    failed: Option<String>,
}

impl Watch {
    async fn run(
        mut self,
        sets: std::sync::Weak<RwLock<Vec<Option<KeySet>>>>,
        joined: Arc<RwLock<Arc<KeySet>>>,
        eager: Arc<Notify>,
    ) {
        let mut retry = FIRST_RETRY;
        loop {
            match (&self.source, &self.failed) {
                (Source::File(_), _) => tokio::time::sleep(LOOK).await,
                (Source::Url(_), Some(_)) => {
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
                (Source::Url(_), None) => {
                    retry = FIRST_RETRY;
                    tokio::time::sleep(EAGER).await;
                    let _ = tokio::time::timeout(REFRESH - EAGER, eager.notified()).await;
                }
            }
            let got = self.source.get().await;
            let Some(sets) = sets.upgrade() else { return };
            match got {
                Ok(set) => {
                    let before =
                        sets.read().unwrap_or_else(PoisonError::into_inner).get(self.at).cloned().flatten();
                    if before.as_ref() != Some(&set) {
                        tracing::info!(source = %self.source, keys = set.len(), "new keys");
                        put(&sets, &joined, self.at, set);
                    }
                    self.failed = None;
                }
                Err(error) => {
                    let words = error.to_string();
                    if self.failed.as_ref() != Some(&words) {
                        tracing::error!("{words}. The keys that there were stay");
                    }
                    self.failed = Some(words);
                }
            }
        }
    }
}
