//! The relay's certificate: given as PEM files, or made here for local work.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use media::Time;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

mod current;

pub use current::{Current, Validity};

/// A browser takes a certificate by its hash only if it lives at most 14 days (WebTransport,
/// `serverCertificateHashes`); a day is left for clocks that differ.
const SELF_SIGNED_LIFE: Duration = Duration::from_secs(13 * 24 * 3600);

/// A self-signed certificate with less than this left is made anew at start.
const SELF_SIGNED_RENEW: Duration = Duration::from_secs(3 * 24 * 3600);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not PEM, or nothing of the right kind in it.
    #[error("{path} holds no {what} in PEM form: {source}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Certificate or key.
        what: &'static str,
        /// What the parser said.
        source: rustls::pki_types::pem::Error,
    },
    /// The certificate could not be made.
    #[error("cannot make a self-signed certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// Not X.509.
    #[error("the certificate cannot be read: {0}")]
    X509(String),
    /// A renewal that is none.
    #[error("the new certificate in {0} has expired already")]
    Expired(PathBuf),
    /// Certificate and key do not fit each other, or TLS refuses them.
    #[error("TLS refuses this certificate and key: {0}")]
    Refused(#[from] rustls::Error),
}

/// A certificate chain, its key, and what clients need to trust it.
pub struct Identity {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's private key.
    pub key: PrivateKeyDer<'static>,
    /// SHA-256 of the leaf's DER, in hex: what a browser pins when nobody vouches for the certificate.
    pub fingerprint: String,
    /// Made here, so clients have to pin the fingerprint.
    pub self_signed: bool,
}

impl Identity {
    /// Reads a PEM chain and key.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::from_pem((cert, &current::read(cert)?), (key, &current::read(key)?))
    }

    /// Of a PEM chain and key, read from these files.
    pub(crate) fn from_pem(
        (cert, cert_bytes): (&Path, &[u8]),
        (key, key_bytes): (&Path, &[u8]),
    ) -> Result<Self, TlsError> {
        let pem = |what, path: &Path| {
            let path = path.to_owned();
            move |source| TlsError::Pem { path, what, source }
        };
        let chain = CertificateDer::pem_slice_iter(cert_bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(pem("certificate", cert))?;
        let key = PrivateKeyDer::from_pem_slice(key_bytes).map_err(pem("private key", key))?;
        let Some(leaf) = chain.first() else {
            return Err(pem("certificate", cert)(rustls::pki_types::pem::Error::NoItemsFound));
        };
        Ok(Self { fingerprint: fingerprint(leaf), chain, key, self_signed: false })
    }

    /// The self-signed certificate kept in `dir`, made anew when there is none or it is about to
    /// expire. It is kept so that a relay that is killed and started again is still trusted by
    /// encoders that pinned it.
    pub fn self_signed(dir: &Path) -> Result<Self, TlsError> {
        let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        if young(&cert)
            && let Ok(identity) = Self::load(&cert, &key)
        {
            return Ok(Self { self_signed: true, ..identity });
        }
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let mut params = rcgen::CertificateParams::new(names)?;
        let now = SystemTime::now();
        // An hour back, for clients whose clock is a little behind.
        params.not_before = (now - Duration::from_secs(3600)).into();
        params.not_after = (now + SELF_SIGNED_LIFE).into();
        params.distinguished_name.push(rcgen::DnType::CommonName, "Roadie relay (self-signed)");
        // ECDSA P-256 is the only kind that browsers pin by hash.
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let made = params.self_signed(&pair)?;
        fs::create_dir_all(dir).map_err(|source| TlsError::File {
            action: "create",
            path: dir.to_owned(),
            source,
        })?;
        write(&key, pair.serialize_pem().as_bytes(), 0o600)?;
        write(&cert, made.pem().as_bytes(), 0o644)?;
        Ok(Self { self_signed: true, ..Self::load(&cert, &key)? })
    }

    /// From when until when the leaf is good.
    pub fn validity(&self) -> Result<Validity, TlsError> {
        let leaf = self.chain.first().ok_or_else(|| TlsError::X509("there is none".into()))?;
        let (_, leaf) =
            x509_parser::parse_x509_certificate(leaf).map_err(|error| TlsError::X509(error.to_string()))?;
        let time = |time: x509_parser::time::ASN1Time| {
            Time::from_micros(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1_000_000))
        };
        let validity = leaf.validity();
        Ok(Validity { begins: time(validity.not_before), ends: time(validity.not_after) })
    }

    /// A secret that is the same after a restart: it keys stateless resets, so that clients of the
    /// process that died learn at once that their connection is gone (RFC 9000, section 10.3).
    pub fn reset_secret(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"roadie stateless reset");
        hash.update(self.key.secret_der());
        hash.finalize().into()
    }
}

/// SHA-256 in lower-case hex.
pub fn fingerprint(cert: &CertificateDer<'_>) -> String {
    Sha256::digest(cert).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn young(cert: &Path) -> bool {
    let age = fs::metadata(cert).and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age < SELF_SIGNED_LIFE - SELF_SIGNED_RENEW)
}

/// Written beside and renamed, so that a crash leaves the old file or the new one.
fn write(path: &Path, data: &[u8], mode: u32) -> Result<(), TlsError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let fail = |source| TlsError::File { action: "write", path: path.to_owned(), source };
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .map_err(fail)?;
    file.write_all(data).map_err(fail)?;
    fs::rename(&temporary, path).map_err(fail)
}

/// After so many packets QUIC acknowledges,
const ACK_EVERY: u32 = 40;

/// and after so long at the latest. By then the bond's feedback or media has gone out on most uplinks, and the
/// acknowledgement with it.
const ACK_DELAY: Duration = Duration::from_millis(100);

/// Asks the other end for few acknowledgements (draft-ietf-quic-ack-frequency); one that does not know the
/// extension goes on as ever. The bond's own feedback tells more, sooner, and QUIC's every second packet
/// cost as many system calls as the media. Loss of stream data is found by gaps, which are told at once.
pub(crate) fn rare_acks() -> quinn::AckFrequencyConfig {
    let mut config = quinn::AckFrequencyConfig::default();
    config.ack_eliciting_threshold(ACK_EVERY.into()).max_ack_delay(Some(ACK_DELAY));
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_certificate_is_used_again() {
        let dir = std::env::temp_dir().join(format!("roadie-tls-{}", std::process::id()));
        let first = Identity::self_signed(&dir).unwrap();
        let second = Identity::self_signed(&dir).unwrap();
        assert_eq!(first.fingerprint, second.fingerprint);
        assert_eq!(first.reset_secret(), second.reset_secret());
        assert_eq!(first.fingerprint.len(), 64);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn errors_name_the_file() {
        let error =
            Identity::load(Path::new("/nowhere/cert.pem"), Path::new("/nowhere/key.pem")).err().unwrap();
        assert!(error.to_string().starts_with("cannot read /nowhere/cert.pem"), "{error}");
        let file = std::env::temp_dir().join(format!("roadie-not-pem-{}", std::process::id()));
        fs::write(&file, "hello").unwrap();
        let error = Identity::load(&file, &file).err().unwrap();
        assert!(error.to_string().contains("in PEM form"), "{error}");
        fs::remove_file(&file).unwrap();
    }
}
