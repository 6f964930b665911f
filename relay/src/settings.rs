//! The relay's command line and settings file: raw words first, checked settings after.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::Deserialize;

use crate::dial::{Address, DialError};
use crate::{admission, edge, webrtc};

/// The relay at the edge: takes in a show over bonded uplinks and serves it to browsers.
///
/// Without certificate files it makes a self-signed certificate, which browsers accept by its hash on
/// http://localhost, and encoders by --edge-fingerprint.
#[derive(Clone, Debug, Default, Parser, Deserialize)]
#[command(name = "roadie-relay", version, about, next_line_help = false)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Raw {
    /// Read settings from this TOML file; the same names as here, without the dashes in front. The
    /// command line wins.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// How the log is written, on standard error: for people, or a JSON object a line for programs. RUST_LOG says how much
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    #[serde(skip)]
    pub log: LogFormat,

    /// UDP address for encoders (the bond), browsers (WebTransport) and MoQ programs [default: [::]:4443]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,

    /// TCP address for the player's page, the status page at /, HLS at /hls/NAME/index.m3u8, /metrics, /healthz, /api, and
    /// MoQ over WebSocket [default: [::]:8080]
    #[arg(long, value_name = "ADDR:PORT")]
    pub http: Option<SocketAddr>,

    /// TCP address for the same over HTTPS, with the certificate of --cert; browsers play from https:// and from localhost only
    /// [default: none]
    #[arg(long, value_name = "ADDR:PORT")]
    pub https: Option<SocketAddr>,

    /// Certificate chain in PEM form; needs --key. When the files change, new connections get the new one
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,

    /// Private key in PEM form; needs --cert
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// Where the self-signed certificate is kept [default: ~/.local/state/roadie-relay]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,

    /// The built player page, as `cargo xtask player` makes it [default: the folder `player` beside this
    /// program, if it is there]
    #[arg(long, value_name = "DIR")]
    pub player: Option<PathBuf>,

    /// Keep each show in this folder, too, whole: what live lost is fetched from the encoder's recording
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,

    /// Pull broadcasts from this MoQ relay when viewers want them; may be repeated: all are connected, the first that
    /// has the broadcast is taken. https:// for WebTransport, moqt:// for raw QUIC
    #[arg(long, value_name = "URL")]
    pub upstream: Vec<String>,

    /// Trust upstreams by this SHA-256 fingerprint of their certificate instead of by authorities; may be repeated
    #[arg(long, value_name = "HEX")]
    pub upstream_fingerprint: Vec<String>,

    /// Who publishes must show this token, over MoQ as `?jwt=TOKEN` in the URL; without it anybody may publish
    #[arg(long, value_name = "TOKEN", env = "ROADIE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,

    /// Ask everybody for a ticket (a JWT), and judge it by the public keys in this JWK set: a file, read again when it
    /// changes, or an https address. Repeat it for further sets. `roadie token` makes keys and tickets
    #[arg(long, value_name = "FILE|URL")]
    pub auth: Vec<String>,

    /// With --auth: the show of this name, and all below it, may be watched without a ticket; repeat it for further ones
    #[arg(long, value_name = "PATH")]
    pub public: Vec<String>,

    /// UDP address for WebRTC: WHIP in at /whip/NAME, WHEP out at /whep/NAME of --http and --https [default: none]
    #[arg(long, value_name = "ADDR:PORT")]
    pub webrtc: Option<SocketAddr>,

    /// With --webrtc: the address by which clients reach this relay; repeat it for further ones [default: those of the
    /// interfaces]
    #[arg(long, value_name = "IP")]
    pub webrtc_address: Vec<IpAddr>,

    /// With --webrtc: a TURN server that clients may use to get here, such as turn:turn.example.net:3478?transport=udp
    #[arg(long, value_name = "URL")]
    pub turn: Option<String>,

    /// With --turn: the user name there
    #[arg(long, value_name = "NAME")]
    pub turn_username: Option<String>,

    /// With --turn: the password there; clients are told it
    #[arg(long, value_name = "WORD", env = "ROADIE_TURN_CREDENTIAL", hide_env_values = true)]
    pub turn_credential: Option<String>,

    /// Connections that one address may have at once (UDP) [default: 1500]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<u32>,

    /// When it is stopped (SIGTERM, Ctrl-C), whoever watches is asked to go to another relay and may stay so many seconds;
    /// 0: they are sent away at once [default: 5]
    #[arg(long, value_name = "SECONDS")]
    pub drain: Option<u64>,
}

/// How long whoever watches may stay, where the settings say nothing else: a load balancer that looks every two seconds has
/// seen by then that nobody is let in any more.
const DRAIN: Duration = Duration::from_secs(5);

/// An hour: a show's last minutes, and no mistyped number.
const MAX_DRAIN: u64 = 3600;

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: an object a line, with `timestamp`, `level`, `target`, `message` and what the event has besides.
    Json,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The settings file cannot be read.
    #[error("cannot read the settings file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The settings file is not what it should be.
    #[error("the settings file {path} is wrong in line {line}: {message}")]
    Toml {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Names the key.
        message: String,
    },
    /// One without the other.
    #[error("--cert and --key go together: one of them is missing")]
    HalfCertificate,
    /// Not an upstream.
    #[error("--upstream: {0}")]
    Upstream(#[from] DialError),
    /// A fingerprint of nothing.
    #[error("--upstream-fingerprint is of no use without --upstream")]
    NoUpstream,
    /// Nowhere to keep the certificate.
    #[error("there is no home directory to keep the self-signed certificate in: give --state DIR")]
    NoState,
    /// Nobody waits so long.
    #[error("--drain {0}: more than {MAX_DRAIN} s, and the relay would seem to hang")]
    Drain(u64),
    /// What is said of tickets.
    #[error(transparent)]
    Admission(#[from] admission::SettingsError),
    /// What is said of WebRTC.
    #[error(transparent)]
    WebRtc(#[from] webrtc::SettingsError),
}

/// Reads a TOML file into raw settings.
pub fn read_toml<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, SettingsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        SettingsError::Toml { path: path.to_owned(), line, message: error.message().trim_end().to_owned() }
    })
}

/// An error and its causes in one line; a cause that the error has quoted already is not told twice.
pub fn explain(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if !line.contains(&text) {
            line = if line.is_empty() { text } else { format!("{line}: {text}") };
        }
    }
    line
}

impl Raw {
    /// Adds the settings file and the defaults, and checks what can be checked without side effects.
    pub fn check(self) -> Result<edge::Settings, SettingsError> {
        let file = match &self.config {
            Some(path) => read_toml::<Raw>(path)?,
            None => Raw::default(),
        };
        let certificate = match (self.cert.or(file.cert), self.key.or(file.key)) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(SettingsError::HalfCertificate),
        };
        let either = |own: Vec<String>, file: Vec<String>| if own.is_empty() { file } else { own };
        let upstream = either(self.upstream, file.upstream);
        let fingerprints = either(self.upstream_fingerprint, file.upstream_fingerprint);
        if upstream.is_empty() && !fingerprints.is_empty() {
            return Err(SettingsError::NoUpstream);
        }
        let upstream: Result<_, _> = upstream.iter().map(|url| Address::parse(url, &fingerprints)).collect();
        let any = |port| SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
        let state = self
            .state
            .or(file.state)
            .or_else(|| std::env::home_dir().map(|home| home.join(".local/state/roadie-relay")));
        let or = |line: Vec<String>, file: Vec<String>| if line.is_empty() { file } else { line };
        let (auth, public) = (or(self.auth, file.auth), or(self.public, file.public));
        let max_connections = self.max_connections.or(file.max_connections);
        let drain = match self.drain.or(file.drain) {
            Some(seconds) if seconds > MAX_DRAIN => return Err(SettingsError::Drain(seconds)),
            Some(seconds) => Duration::from_secs(seconds),
            None => DRAIN,
        };
        let addresses = self.webrtc_address;
        let webrtc = webrtc::Settings::check(webrtc::RawSettings {
            listen: self.webrtc.or(file.webrtc),
            addresses: if addresses.is_empty() { file.webrtc_address } else { addresses },
            turn: self.turn.or(file.turn),
            username: self.turn_username.or(file.turn_username),
            credential: self.turn_credential.or(file.turn_credential),
        })?;
        Ok(edge::Settings {
            drain,
            webrtc,
            admission: admission::Settings::check(&auth, &public, max_connections)?,
            listen: self.listen.or(file.listen).unwrap_or_else(|| any(4443)),
            http: self.http.or(file.http).unwrap_or_else(|| any(8080)),
            https: self.https.or(file.https),
            certificate,
            state: state.ok_or(SettingsError::NoState)?,
            player: self.player.or(file.player).or_else(player_beside),
            keep: self.keep.or(file.keep),
            upstream: upstream?,
            token: self.token.or(file.token),
        })
    }
}

/// The folder `player` beside this program, if the page is there.
pub fn player_beside() -> Option<PathBuf> {
    let dir = std::env::current_exe().ok()?.parent()?.join("player");
    dir.join("index.html").exists().then_some(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> PathBuf {
        let name = text.bytes().fold(0u64, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
        let path = std::env::temp_dir().join(format!("roadie-relay-{}-{name:x}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let config = file("listen = \"127.0.0.1:1\"\nhttp = \"127.0.0.1:2\"\nstate = \"/tmp/x\"\n");
        let raw = Raw::parse_from([
            "roadie-relay",
            "--config",
            config.to_str().unwrap(),
            "--listen",
            "127.0.0.1:3",
        ]);
        let settings = raw.check().unwrap();
        assert_eq!((settings.listen.port(), settings.http.port()), (3, 2));
        assert_eq!(settings.state, PathBuf::from("/tmp/x"));
    }

    #[test]
    fn the_settings_file_in_deploy_can_be_used() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/relay.toml");
        let settings = Raw { config: Some(path.into()), ..Raw::default() }.check().unwrap();
        assert_eq!(settings.https.map(|addr| addr.port()), Some(443));
        // What is behind a # there can be used as well.
        let text = std::fs::read_to_string(path).unwrap();
        let options =
            text.lines().filter_map(|line| line.strip_prefix("# ")).filter(|line| line.contains(" = "));
        let options: Vec<_> = options.collect();
        assert_eq!(options.len(), 2);
        let settings = Raw { config: Some(file(&options.join("\n"))), ..Raw::default() }.check().unwrap();
        assert!(settings.keep.is_some() && settings.admission.auth.len() == 1);
    }

    #[test]
    fn a_wrong_key_is_named() {
        let raw = Raw { config: Some(file("lisen = \"127.0.0.1:1\"\n")), ..Raw::default() };
        let text = raw.check().unwrap_err().to_string();
        assert!(text.contains("lisen") && text.contains("line 1"), "{text}");
    }

    #[test]
    fn a_cause_is_told_once() {
        let inner = std::io::Error::other("no such port");
        let error = anyhow::Error::new(inner).context("cannot listen: no such port. Choose another");
        assert_eq!(explain(&error.context("--http")), "--http: cannot listen: no such port. Choose another");
    }

    #[test]
    fn upstreams_are_checked() {
        let check = |upstream: &[&str], fingerprint: &[&str]| {
            let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect();
            let raw =
                Raw { upstream: words(upstream), upstream_fingerprint: words(fingerprint), ..Raw::default() };
            raw.check().map(|settings| settings.upstream.len()).map_err(|error| error.to_string())
        };
        assert_eq!(check(&["https://a.example", "moqt://b.example:4443/x"], &[&"0".repeat(64)]), Ok(2));
        assert!(check(&["a.example"], &[]).unwrap_err().starts_with("--upstream: \"a.example\""));
        assert!(check(&["https://a.example"], &["12"]).unwrap_err().contains("64 hexadecimal digits"));
        assert!(check(&[], &[&"0".repeat(64)]).unwrap_err().contains("--upstream-fingerprint"));
    }

    #[test]
    fn webrtc_is_checked() {
        let check = |words: &[&str]| {
            let words = ["roadie-relay"].iter().chain(words);
            let checked = Raw::parse_from(words).check().map_err(|error| error.to_string());
            checked
                .map(|settings| settings.webrtc.map(|webrtc| (webrtc.addresses.len(), webrtc.turn.is_some())))
        };
        assert_eq!(check(&[]), Ok(None));
        let on = ["--webrtc", "[::]:8189"];
        let with = |more: &[&'static str]| check(&[&on[..], more].concat());
        assert_eq!(with(&[]), Ok(Some((0, false))));
        assert_eq!(
            with(&["--webrtc-address", "192.0.2.1", "--webrtc-address", "2001:db8::1"]),
            Ok(Some((2, false)))
        );
        let turn = ["--turn", "turns:t.example:5349"];
        assert_eq!(with(&turn), Ok(Some((0, true))));
        let login = ["--turn", "turn:t.example", "--turn-username", "me", "--turn-credential", "secret"];
        assert_eq!(with(&login), Ok(Some((0, true))));
        assert!(check(&["--webrtc-address", "192.0.2.1"]).unwrap_err().contains("without --webrtc"));
        assert!(check(&turn).unwrap_err().contains("without --webrtc"));
        assert!(with(&["--webrtc-address", "0.0.0.0"]).unwrap_err().contains("0.0.0.0"));
        assert!(with(&["--turn", "https://t.example"]).unwrap_err().contains("should be like turn:"));
        assert!(with(&["--turn", "turn:a>b"]).unwrap_err().contains("should be like turn:"));
        assert!(with(&["--turn", "turn:t", "--turn-username", "me"]).unwrap_err().contains("go together"));
        assert!(with(&["--turn", "turn:t", "--turn-username", "m\"e"]).unwrap_err().contains("HTTP header"));
    }

    #[test]
    fn half_a_certificate() {
        let raw = Raw { cert: Some("a".into()), ..Raw::default() };
        assert!(matches!(raw.check(), Err(SettingsError::HalfCertificate)));
    }
}
