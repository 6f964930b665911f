//! The certificate that new connections get, over QUIC and HTTPS alike. Its files are looked at while the relay runs: a
//! renewed one is taken without a restart, and connections that stand go on with the one that they began with.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use media::Time;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use super::{Identity, TlsError};
use crate::admission::wall;

/// How often the files are looked at. What is new there is taken when it is the same at two looks: certificate and key
/// are two files, and between them a renewal is half done.
const LOOK: Duration = Duration::from_secs(1);

/// Longer than any chain.
const MAX_PEM: u64 = 1 << 20;

/// That a certificate ends soon is said so long before, or when a quarter of its life is left if that is later, ...
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// ... and so often.
const SAY_AGAIN: Duration = Duration::from_secs(24 * 3600);

/// From when until when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub begins: Time,
    /// The last one.
    pub ends: Time,
}

impl Validity {
    /// What is wrong with it at this moment, or soon will be.
    pub fn complaint(&self, now: Time) -> Option<String> {
        let life = self.ends.saturating_since(self.begins);
        if now > self.ends {
            let ago = span(now.saturating_since(self.ends));
            return Some(format!(
                "the certificate expired {ago} ago: browsers do not connect to this relay. Renew it, or set this machine's clock"
            ));
        }
        if now < self.begins {
            let left = span(self.begins.saturating_since(now));
            return Some(format!(
                "the certificate is not valid before {left} from now: is this machine's clock right?"
            ));
        }
        let left = self.ends.saturating_since(now);
        (left < SOON.min(life / 4)).then(|| format!("the certificate expires in {}", span(left)))
    }

    fn has_ended(&self) -> bool {
        wall() > self.ends
    }
}

fn span(time: Duration) -> String {
    let hours = time.as_secs() / 3600;
    match (hours / 24, hours) {
        (0, 0) => format!("{} min", time.as_secs() / 60),
        (0, hours) => format!("{hours} h"),
        (days, _) => format!("{days} d"),
    }
}

#[derive(Debug)]
struct Served {
    key: Arc<CertifiedKey>,
    validity: Validity,
}

impl Served {
    fn new(identity: Identity) -> Result<Self, TlsError> {
        let validity = identity.validity()?;
        let key =
            CertifiedKey::from_der(identity.chain, identity.key, &rustls::crypto::ring::default_provider())?;
        Ok(Self { key: Arc::new(key), validity })
    }
}

/// The certificate of now.
#[derive(Debug)]
pub struct Current {
    served: RwLock<Arc<Served>>,
    self_signed: bool,
    reloads: AtomicU64,
    failures: AtomicU64,
}

/// What was found in the files: a hash of both, or why they cannot be read.
type Look = Result<[u8; 32], String>;

impl Current {
    /// Begins with this one. What is wrong with its validity is logged, but it is served all the same: the clock may be
    /// what is wrong.
    ///
    /// # Errors
    ///
    /// When certificate and key do not fit.
    pub fn new(identity: Identity) -> Result<Arc<Self>, TlsError> {
        let self_signed = identity.self_signed;
        let current = Self {
            served: RwLock::new(Arc::new(Served::new(identity)?)),
            self_signed,
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        };
        current.complain();
        Ok(Arc::new(current))
    }

    fn served(&self) -> Arc<Served> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Of the certificate that is served now.
    pub fn validity(&self) -> Validity {
        self.served().validity
    }

    /// How often a renewed certificate was taken.
    pub fn reloads(&self) -> u64 {
        self.reloads.load(Relaxed)
    }

    /// How often new files could not be used.
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// What is wrong with it now, or soon will be, in words.
    pub fn complaint(&self) -> Option<String> {
        self.validity().complaint(wall())
    }

    fn complain(&self) {
        match (self.complaint(), self.self_signed) {
            (None, _) => {}
            (Some(words), true) => {
                tracing::error!(
                    "{words}. It is self-signed: a restart makes a new one, with another fingerprint"
                );
            }
            (Some(words), false) => tracing::error!("{words}"),
        }
    }

    /// Follows the files, certificate and key, for as long as it is polled.
    pub async fn follow(&self, files: Option<(PathBuf, PathBuf)>) {
        let mut said = Instant::now();
        let (mut before, mut judged): (Option<Look>, Option<Look>) = (None, None);
        loop {
            tokio::time::sleep(LOOK).await;
            if said.elapsed() >= SAY_AGAIN {
                said = Instant::now();
                self.complain();
            }
            let Some((cert, key)) = files.clone() else { continue };
            let Ok(found) = tokio::task::spawn_blocking(move || Found::read(&cert, &key)).await else {
                continue;
            };
            let look = found.as_ref().map(Found::hash).map_err(ToString::to_string);
            if before.as_ref() == Some(&look) && judged.as_ref() != Some(&look) {
                match found.and_then(|found| self.take(found)) {
                    Ok(()) => {}
                    Err(error) => {
                        self.failures.fetch_add(1, Relaxed);
                        tracing::error!("{error}. The certificate that there was stays");
                    }
                }
                judged = Some(look.clone());
            }
            before = Some(look);
        }
    }

    /// Serves what was found, if it is new and good.
    fn take(&self, found: Found) -> Result<(), TlsError> {
        let Found { cert, key } = found;
        let identity = Identity::from_pem((&cert.0, &cert.1), (&key.0, &key.1))?;
        let fingerprint = identity.fingerprint.clone();
        let served = Served::new(identity)?;
        let old = self.served();
        if served.key.cert == old.key.cert {
            return Ok(());
        }
        if served.validity.has_ended() && !old.validity.has_ended() {
            return Err(TlsError::Expired(cert.0));
        }
        *self.served.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(served);
        self.reloads.fetch_add(1, Relaxed);
        tracing::info!(path = %cert.0.display(), %fingerprint, "a new certificate, for connections from now on");
        self.complain();
        Ok(())
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.served().key.clone())
    }
}

/// Two files and what is in them.
struct Found {
    cert: (PathBuf, Vec<u8>),
    key: (PathBuf, Vec<u8>),
}

impl Found {
    fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self { cert: (cert.to_owned(), read(cert)?), key: (key.to_owned(), read(key)?) })
    }

    fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        // The length keeps apart what is in the one and in the other.
        hash.update(self.cert.1.len().to_be_bytes());
        hash.update(&self.cert.1);
        hash.update(&self.key.1);
        hash.finalize().into()
    }
}

/// A file, or as much of it as a chain may have.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_PEM).read_to_end(&mut bytes));
    read.map_err(|source| TlsError::File { action: "read", path: path.to_owned(), source })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_certificate_and_when() {
        let day = |n: u64| Time::from_micros(n * 24 * 3_600_000_000);
        let quarter = Validity { begins: day(10), ends: day(100) };
        assert_eq!(quarter.complaint(day(50)), None);
        assert_eq!(quarter.complaint(day(95)).unwrap(), "the certificate expires in 5 d");
        assert!(quarter.complaint(day(103)).unwrap().contains("expired 3 d ago"));
        assert!(quarter.complaint(day(8)).unwrap().contains("not valid before 2 d"));
        // One that lives for six days is renewed after four.
        let short = Validity { begins: day(10), ends: day(16) };
        assert_eq!(short.complaint(day(14)), None);
        assert!(short.complaint(day(15)).is_some());
    }
}
