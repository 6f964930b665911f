//! WebRTC for those who speak nothing else: WHIP in (RFC 9725; OBS, phones), WHEP out
//! (draft-ietf-wish-whep). The codecs pass through untouched.
//!
//! ```text
//! http.rs -> negotiate.rs (offer, answer) -> server.rs (one UDP socket, one task for all sessions) -> session.rs
//!                                                       whep.rs: fanout::Tap -> RTP      RTP -> whip.rs -> origin
//! ```
//!
//! The protocol itself is the crate `str0m`, a machine without IO; its types stay in this folder. See
//! `docs/webrtc.md` and `docs/decisions/0028-webrtc.md`.

mod clock;
mod http;
mod negotiate;
mod server;
mod session;
mod socket;
mod stats;
mod whep;
mod whip;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};

pub(crate) use self::http::{Door, router};
pub(crate) use self::server::Server;
use self::session::Session;
pub use self::stats::{Stats, Way};

/// Sessions at once, in and out: at 3 ms of CPU for each second of a viewer, one core serves some hundreds.
pub const MAX_SESSIONS: usize = 1024;

/// Of these may bring a show; as many as over a bond.
pub const MAX_PUBLISHERS: usize = crate::ingest::MAX_SESSIONS;

/// Orders that wait for the sessions' task; who finds no room is told to come again.
const COMMANDS: usize = 64;

/// What the settings say of WebRTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The UDP address of all sessions.
    pub listen: SocketAddr,
    /// The addresses by which it is reached; none: those of this machine's interfaces.
    pub addresses: Vec<IpAddr>,
    /// A server that players and publishers may use to get here.
    pub turn: Option<Turn>,
}

/// A TURN or STUN server, told to clients in a `Link` header (RFC 9725, section 4.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// `turn:`, `turns:`, `stun:` or `stuns:`.
    pub url: String,
    /// User name and password.
    pub login: Option<(String, String)>,
}

/// Settings of WebRTC that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettingsError {
    /// The others say how; this says that.
    #[error("{0} is of no use without --webrtc ADDR:PORT")]
    Off(&'static str),
    /// An address that clients cannot send to.
    #[error("--webrtc-address {0}: that is no address of a machine")]
    Address(IpAddr),
    /// No URL of an ICE server.
    #[error("--turn {0:?}: it should be like turn:turn.example.net:3478?transport=udp")]
    Turn(String),
    /// One without the other.
    #[error("--turn-username and --turn-credential go together: one of them is missing")]
    HalfLogin,
    /// It would not survive in a header.
    #[error("{0} has characters that do not fit into an HTTP header")]
    Login(&'static str),
}

/// Addresses, the TURN server and its login, as they come from the command line.
#[derive(Debug, Default)]
pub struct RawSettings {
    /// `--webrtc`.
    pub listen: Option<SocketAddr>,
    /// `--webrtc-address`.
    pub addresses: Vec<IpAddr>,
    /// `--turn`.
    pub turn: Option<String>,
    /// `--turn-username`.
    pub username: Option<String>,
    /// `--turn-credential`.
    pub credential: Option<String>,
}

impl Settings {
    /// Checks what was given. `None`: this relay speaks no WebRTC.
    pub fn check(raw: RawSettings) -> Result<Option<Self>, SettingsError> {
        let RawSettings { listen, addresses, turn, username, credential } = raw;
        let Some(listen) = listen else {
            let given = [
                ("--webrtc-address", !addresses.is_empty()),
                ("--turn", turn.is_some()),
                ("--turn-username", username.is_some()),
                ("--turn-credential", credential.is_some()),
            ];
            return match given.iter().find(|(_, given)| *given) {
                Some((name, _)) => Err(SettingsError::Off(name)),
                None => Ok(None),
            };
        };
        if let Some(address) =
            addresses.iter().find(|address| address.is_unspecified() || address.is_multicast())
        {
            return Err(SettingsError::Address(*address));
        }
        let quotable = |text: &str| text.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'"');
        let login = match (username, credential) {
            (Some(username), _) if !quotable(&username) => {
                return Err(SettingsError::Login("--turn-username"));
            }
            (_, Some(credential)) if !quotable(&credential) => {
                return Err(SettingsError::Login("--turn-credential"));
            }
            (Some(username), Some(credential)) => Some((username, credential)),
            (None, None) => None,
            _ => return Err(SettingsError::HalfLogin),
        };
        let turn = match turn {
            Some(url) => {
                let known =
                    ["turn:", "turns:", "stun:", "stuns:"].iter().any(|scheme| url.starts_with(scheme));
                if !known || !url.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"".contains(&byte)) {
                    return Err(SettingsError::Turn(url));
                }
                Some(Turn { url, login })
            }
            None if login.is_some() => return Err(SettingsError::Off("--turn-username without --turn")),
            None => None,
        };
        Ok(Some(Self { listen, addresses, turn }))
    }

    /// Where clients send to, given the port in use.
    fn candidates(&self, port: u16) -> Vec<SocketAddr> {
        let listen = self.listen.ip();
        let addresses = match (self.addresses.is_empty(), listen.is_unspecified()) {
            (false, _) => self.addresses.clone(),
            (true, false) => vec![listen],
            (true, true) => interfaces(listen.is_ipv4()),
        };
        addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect()
    }
}

/// What others can reach this machine by; loopback only where there is nothing else. IPv6 only where asked for, and no
/// link-local addresses, for a candidate has no scope.
fn interfaces(v4_only: bool) -> Vec<IpAddr> {
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    let usable = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_link_local(),
        IpAddr::V6(v6) => !v4_only && !v6.is_unicast_link_local(),
    };
    let all: Vec<_> = all.into_iter().map(|interface| interface.ip()).filter(usable).collect();
    let public: Vec<_> = all.iter().copied().filter(|address| !address.is_loopback()).collect();
    if public.is_empty() { all } else { public }
}

/// The way to the sessions' task, for those who come over HTTP.
#[derive(Clone)]
pub(crate) struct Handle {
    commands: mpsc::Sender<Command>,
    places: Arc<Semaphore>,
    publishers: Arc<Semaphore>,
    candidates: Arc<[SocketAddr]>,
    turn: Option<Turn>,
}

impl Handle {
    /// Ends all sessions; each is told.
    pub async fn stop(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Stop { reply }).await.is_ok() {
            let _ = done.await;
        }
    }
}

/// What the sessions' task is told.
enum Command {
    /// Here is one more.
    Open(Box<Session>),
    /// A client has a new network, and new words for it. Answers with our own, or with nothing: there is no such session.
    Restart { id: String, remote: Credentials, reply: oneshot::Sender<Option<Restarted>> },
    /// Whether there is such a session, and which words its client uses.
    Find { id: String, reply: oneshot::Sender<Option<Found>> },
    /// Ends it. Answers whether it was there.
    Close { id: String, reply: oneshot::Sender<bool> },
    /// Ends all.
    Stop { reply: oneshot::Sender<()> },
}

/// ICE's user fragment and password.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Credentials {
    ufrag: String,
    pwd: String,
}

/// A session, as PATCH has to know it.
struct Found {
    /// The tag of its ICE session.
    etag: String,
    /// The client's.
    ufrag: Option<String>,
}

/// After an ICE restart.
struct Restarted {
    etag: String,
    local: Credentials,
}
