//! Calling the edge over one uplink: socket, QUIC, `hello`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::interfaces::{Footing, Stance, Trouble};
use super::plan::{Bind, Uplink};
use super::transport;
use crate::admission::jws;
use crate::control::{self, Close, Hello, ToEdge, ToVenue, Welcome};
use crate::proof::{Claim, Side};

/// The first address of the edge has so long before the next one is tried beside it: longer than a
/// handshake takes on a good link, shorter than anybody wants to wait.
const HEAD_START: Duration = Duration::from_millis(300);

/// Addresses of the edge that are tried in one go.
const MAX_ADDRESSES: usize = 4;

/// The name service must answer within this time. It is asked over whichever uplink the system likes,
/// and that one may be the dead one:
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// so where there is an earlier answer, a fresh one is not waited for longer than this.
const RESOLVE_HURRY: Duration = Duration::from_millis(100);

/// Words from the network are cut to so many characters.
const MAX_WORDS: usize = 300;

/// The edge as all uplinks dial it.
#[derive(Clone, Debug)]
pub struct EdgeAddress {
    /// Name or address, as in the URL.
    pub host: String,
    /// UDP port.
    pub port: u16,
    /// SHA-256 of its certificate in hex, where no authority vouches for it.
    pub fingerprint: Option<String>,
}

/// The edge, and what the uplinks have learnt of it.
pub(crate) struct Edge {
    pub address: EdgeAddress,
    pub token: Option<String>,
    config: OnceLock<quinn::ClientConfig>,
    /// The last answer of the name service.
    known: watch::Sender<Vec<SocketAddr>>,
    /// One question at a time: while the name service is dead, each is a thread that waits.
    asking: AtomicBool,
}

impl Edge {
    pub fn new(address: EdgeAddress, token: Option<String>) -> Self {
        let known = watch::Sender::new(Vec::new());
        Self { address, token, config: OnceLock::new(), known, asking: AtomicBool::new(false) }
    }

    /// Without the brackets that an IPv6 address has in a URL.
    fn host(&self) -> &str {
        self.address.host.trim_matches(['[', ']'])
    }

    fn config(&self) -> Result<quinn::ClientConfig, DialError> {
        if let Some(config) = self.config.get() {
            return Ok(config.clone());
        }
        let config = transport::client_config(self.address.fingerprint.as_ref())?;
        Ok(self.config.get_or_init(|| config).clone())
    }

    async fn resolve(self: &Arc<Self>) -> Result<Vec<SocketAddr>, DialError> {
        let mut answers = self.known.subscribe();
        if !self.asking.swap(true, Ordering::AcqRel) {
            let edge = self.clone();
            tokio::spawn(async move {
                let found = tokio::net::lookup_host((edge.host(), edge.address.port)).await;
                let found: Vec<SocketAddr> = found.map(Iterator::collect).unwrap_or_default();
                edge.asking.store(false, Ordering::Release);
                edge.known.send_modify(|known| {
                    if !found.is_empty() {
                        *known = found;
                    }
                });
            });
        }
        let patience = if self.known.borrow().is_empty() { RESOLVE_TIMEOUT } else { RESOLVE_HURRY };
        let _ = tokio::time::timeout(patience, answers.changed()).await;
        let known = self.known.borrow().clone();
        if known.is_empty() { Err(DialError::Resolve(self.address.host.clone())) } else { Ok(known) }
    }
}

/// Why one life of an uplink's connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("{0}")]
    Trouble(#[from] Trouble),
    #[error("the name {0} cannot be resolved")]
    Resolve(String),
    #[error("it has no {} address, and the edge has no other", if *ipv4 { "IPv4" } else { "IPv6" })]
    Family { ipv4: bool },
    #[error("cannot open a socket: {0}")]
    Socket(std::io::Error),
    #[error("there is no way to {0} over it: {1}")]
    NoWay(IpAddr, std::io::Error),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("the edge does not answer")]
    Silent,
    #[error("the edge speaks {theirs}, and this venue {ours}: update the older one", ours = ours())]
    Version { theirs: String },
    #[error("what answers there does not speak the bond (this venue speaks {})", ours())]
    NoBond,
    #[error("{0}")]
    Connect(#[from] quinn::ConnectError),
    #[error("{0}")]
    Connection(quinn::ConnectionError),
    #[error("{0}")]
    Control(control::ControlError),
    #[error("{0}")]
    Refused(String),
    #[error("the edge closed the connection: {0}")]
    Closed(String),
    #[error(
        "the edge does not show that it knows the token: it was started without --token or with another \
         one, or it is not your edge"
    )]
    Impostor,
    #[error("the edge takes no datagrams of QUIC")]
    NoDatagrams,
    #[error("only datagrams of {0} bytes get through, and {least} are needed", least = bond::MAX_DATAGRAM)]
    Mtu(usize),
    #[error("the edge was started anew")]
    Restarted,
    #[error("its address changed and the connection did not follow")]
    Stuck,
    #[error("the machine was asleep")]
    Slept,
}

fn ours() -> String {
    String::from_utf8_lossy(bond::ALPN).into_owned()
}

impl DialError {
    /// Only a person can change this.
    pub fn hopeless(&self) -> bool {
        matches!(
            self,
            Self::Refused(_)
                | Self::Version { .. }
                | Self::NoBond
                | Self::Impostor
                | Self::Tls(_)
                | Self::NoDatagrams
        )
    }

    /// How much an error tells, where several addresses were tried: something answered, nothing did,
    /// nothing could be sent.
    fn weight(&self) -> u8 {
        match self {
            Self::Silent => 1,
            Self::NoWay(..) | Self::Socket(_) => 0,
            _ => 2,
        }
    }
}

impl From<control::ControlError> for DialError {
    /// When the connection is gone, that says more than the stream's end.
    fn from(error: control::ControlError) -> Self {
        use quinn::{ReadError, WriteError};
        match error {
            control::ControlError::Read(ReadError::ConnectionLost(error))
            | control::ControlError::Write(WriteError::ConnectionLost(error)) => error.into(),
            other => Self::Control(other),
        }
    }
}

impl From<quinn::ConnectionError> for DialError {
    fn from(error: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError as E;
        match error {
            E::TimedOut => Self::Silent,
            E::Reset => Self::Restarted,
            E::ApplicationClosed(close) => {
                let words = shown(&String::from_utf8_lossy(&close.reason));
                match close.error_code {
                    code if code == Close::Versions.into() => Self::Version { theirs: versions(&words) },
                    code if code == Close::TakenOver.into() || code == Close::Expired.into() => {
                        Self::Refused(words)
                    }
                    _ => Self::Closed(words),
                }
            }
            // TLS alert 120, no_application_protocol (RFC 7301).
            E::ConnectionClosed(close) if close.error_code == quinn::TransportErrorCode::crypto(120) => {
                Self::NoBond
            }
            E::TransportError(error) if error.reason.contains("certificate") => {
                let clock = ["not valid yet", "NotValidYet", "expired", "Expired"];
                let hint = if clock.iter().any(|word| error.reason.contains(word)) {
                    ". Is the clock of this machine right?"
                } else {
                    ""
                };
                Self::Tls(format!("{}{hint}", error.reason))
            }
            other => Self::Connection(other),
        }
    }
}

/// Words from the network on their way to a terminal.
pub(crate) fn shown(words: &str) -> String {
    words.chars().filter(|char| !char.is_control()).take(MAX_WORDS).collect()
}

/// The reason comes from the network: only what can be an ALPN is shown.
fn versions(words: &str) -> String {
    let good = |word: &&str| {
        word.len() <= 32 && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'/' | b'.'))
    };
    let list: Vec<&str> = words.split(' ').filter(|word| !word.is_empty()).filter(good).take(8).collect();
    if list.is_empty() { "another version of the bond".into() } else { list.join(" or ") }
}

/// An uplink that the edge has welcomed.
pub(crate) struct Dialled {
    pub endpoint: quinn::Endpoint,
    pub connection: quinn::Connection,
    pub remote: SocketAddr,
    pub send: quinn::SendStream,
    pub recv: quinn::RecvStream,
    pub welcome: Welcome,
}

/// Calls, and says hello. `hello` is without its proof, which belongs to the connection.
pub(crate) async fn dial(
    uplink: &Uplink,
    edge: &Arc<Edge>,
    footing: &Footing,
    mut hello: Hello,
) -> Result<Dialled, DialError> {
    let remotes = match uplink.via {
        Some(via) => vec![via],
        None => choose(edge.resolve().await?, footing)?,
    };
    let (endpoint, connection, remote) = race(uplink, edge, footing, remotes).await?;
    let datagrams = connection.max_datagram_size().ok_or(DialError::NoDatagrams)?;
    if datagrams < bond::MAX_DATAGRAM {
        return Err(DialError::Mtu(datagrams));
    }
    let (session, broadcast) = (hello.session.clone(), hello.broadcast.clone());
    let claim = Claim::on(&connection, &session, hello.path, &broadcast)
        .ok_or_else(|| DialError::Tls("no exporter".into()))?;
    hello.proof = edge.token.as_ref().map(|token| claim.prove(Side::Venue, token));
    // A ticket has to be told: the edge has only the keys that it was signed with. Whom it is told to is known by the
    // certificate, as in a browser.
    hello.ticket = edge.token.clone().filter(|token| jws::has_form(token));
    let has_ticket = hello.ticket.is_some();
    let (mut send, mut recv) = connection.open_bi().await?;
    control::send(&mut send, &ToEdge::Hello(hello)).await?;
    match control::recv::<ToVenue>(&mut recv, control::MAX_MESSAGE).await? {
        ToVenue::Refused { reason } => Err(DialError::Refused(shown(&reason))),
        ToVenue::Welcome(welcome) => {
            let proof = welcome.proof.as_deref().unwrap_or("");
            let known = |token: &String| claim.verify(Side::Edge, token, proof);
            if has_ticket || edge.token.as_ref().is_none_or(known) {
                Ok(Dialled { endpoint, connection, remote, send, recv, welcome })
            } else {
                Err(DialError::Impostor)
            }
        }
        ToVenue::Keyframe | ToVenue::Audience(_) => {
            Err(DialError::Refused("the edge's first word was no welcome".into()))
        }
    }
}

/// The edge's addresses that this uplink can reach at all, a known way first, families in turn.
fn choose(all: Vec<SocketAddr>, footing: &Footing) -> Result<Vec<SocketAddr>, DialError> {
    let ipv4 = all.first().is_some_and(SocketAddr::is_ipv4);
    let reachable = all.into_iter().filter(|addr| footing.of(addr.is_ipv4()).is_some());
    let (mut first, mut second): (Vec<_>, Vec<_>) = reachable.partition(|addr| addr.is_ipv4() == ipv4);
    let routed = |ipv4| footing.of(ipv4).is_some_and(|stance: &Stance| stance.hint.is_none());
    if first.is_empty() || (!routed(ipv4) && routed(!ipv4)) {
        std::mem::swap(&mut first, &mut second);
    }
    if first.is_empty() {
        return Err(DialError::Family { ipv4 });
    }
    let mut chosen = Vec::new();
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    while chosen.len() < MAX_ADDRESSES {
        let before = chosen.len();
        chosen.extend(first.next());
        chosen.extend(second.next());
        if chosen.len() == before {
            break;
        }
    }
    chosen.truncate(MAX_ADDRESSES);
    Ok(chosen)
}

type Connected = (quinn::Endpoint, quinn::Connection, SocketAddr);

/// Calls all addresses, each a little after the one before, and takes the first that answers.
async fn race(
    uplink: &Uplink,
    edge: &Edge,
    footing: &Footing,
    remotes: Vec<SocketAddr>,
) -> Result<Connected, DialError> {
    let mut calls = JoinSet::new();
    let mut worst: Option<DialError> = None;
    let mut remotes = remotes.into_iter();
    let mut next = remotes.next();
    loop {
        if let Some(remote) = next.take() {
            let socket = socket(uplink, footing.of(remote.is_ipv4()), remote);
            calls.spawn(connect(socket, edge.config(), remote, edge.host().to_owned()));
            next = remotes.next();
        }
        let failure = tokio::select! {
            done = calls.join_next() => match done {
                Some(Ok(Ok(connected))) => return Ok(connected),
                Some(Ok(Err(error))) => error,
                // A call that panicked: nobody answered.
                Some(Err(_)) => DialError::Silent,
                None => return Err(worst.unwrap_or(DialError::Silent)),
            },
            () = tokio::time::sleep(HEAD_START), if next.is_some() => continue,
        };
        if worst.as_ref().is_none_or(|worst| failure.weight() > worst.weight()) {
            worst = Some(failure);
        }
    }
}

async fn connect(
    socket: Result<std::net::UdpSocket, DialError>,
    config: Result<quinn::ClientConfig, DialError>,
    remote: SocketAddr,
    host: String,
) -> Result<Connected, DialError> {
    let (socket, runtime) = (socket?, Arc::new(crate::udp::Runtime::default()));
    let mut endpoint = quinn::Endpoint::new(quinn::EndpointConfig::default(), None, socket, runtime)
        .map_err(DialError::Socket)?;
    endpoint.set_default_client_config(config?);
    let connection = endpoint.connect(remote, &host)?.await?;
    Ok((endpoint, connection, remote))
}

/// A socket whose packets leave through the uplink.
pub(crate) fn socket(
    uplink: &Uplink,
    stance: Option<&Stance>,
    remote: SocketAddr,
) -> Result<std::net::UdpSocket, DialError> {
    let socket = bound(&uplink.bind, stance, remote).map_err(DialError::Socket)?;
    // The routing table is asked with a second socket: ours must be free to follow it.
    let probe = bound(&uplink.bind, stance, remote).map_err(DialError::Socket)?;
    probe.connect(remote).map_err(|error| DialError::NoWay(remote.ip(), error))?;
    Ok(socket)
}

fn bound(bind: &Bind, stance: Option<&Stance>, remote: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(remote), Type::DGRAM, Some(Protocol::UDP))?;
    let unspecified: IpAddr =
        if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let local = match bind {
        Bind::Any => unspecified,
        Bind::Interface(name) => {
            socket.bind_device(Some(name.as_bytes()))?;
            unspecified
        }
        Bind::Source(addr) => {
            // By its address alone the kernel would send it over the default route. Where the interface
            // cannot be bound as well, source routing may have been set up.
            if let Some((device, _)) = stance.and_then(|stance| stance.device.as_ref())
                && !addr.is_loopback()
            {
                let _ = socket.bind_device(Some(device.as_bytes()));
            }
            *addr
        }
    };
    socket.bind(&SocketAddr::new(local, 0).into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::interfaces::{Interface, Network};

    fn footing(addrs: &[&str], gateways: &[&str]) -> Footing {
        let usb = Interface {
            index: 3,
            up: true,
            mtu: 1500,
            addrs: addrs.iter().map(|addr| addr.parse().unwrap()).collect(),
            gateways: gateways.iter().map(|via| (1, via.parse().unwrap())).collect(),
            strict_reverse_path: false,
        };
        let network = Network { interfaces: [("usb0".to_owned(), usb)].into(), wakes: 0 };
        network.stand(&Bind::Interface("usb0".into())).unwrap()
    }

    fn chosen(all: &[&str], footing: &Footing) -> Result<Vec<String>, String> {
        let all = all.iter().map(|addr| addr.parse().unwrap()).collect();
        choose(all, footing)
            .map(|found| found.iter().map(ToString::to_string).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_uplink_takes_the_family_that_it_has() {
        let edge = ["[2001:db8::1]:4443", "[2001:db8::2]:4443", "192.0.2.1:4443"];
        let v4 = footing(&["10.0.0.2"], &["10.0.0.1"]);
        assert_eq!(chosen(&edge, &v4).unwrap(), ["192.0.2.1:4443"]);
        let both = footing(&["10.0.0.2", "fd00::2"], &["10.0.0.1", "fd00::1"]);
        assert_eq!(
            chosen(&edge, &both).unwrap(),
            ["[2001:db8::1]:4443", "192.0.2.1:4443", "[2001:db8::2]:4443"]
        );
        let v6_leads_nowhere = footing(&["10.0.0.2", "fd00::2"], &["10.0.0.1"]);
        assert_eq!(chosen(&edge, &v6_leads_nowhere).unwrap()[0], "192.0.2.1:4443");
        let words = chosen(&edge[..2], &v4).unwrap_err();
        assert!(words.contains("no IPv6 address"), "{words}");
        let many: Vec<String> = (1..9).map(|n| format!("192.0.2.{n}:4443")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(chosen(&many, &v4).unwrap().len(), MAX_ADDRESSES);
    }

    #[test]
    fn versions_from_the_network_are_shown_with_care() {
        let told = |words: &str| DialError::Version { theirs: versions(words) }.to_string();
        let words = told("roadie-bond/98 roadie-bond/99");
        assert!(words.contains("roadie-bond/98 or roadie-bond/99") && words.contains(&ours()), "{words}");
        assert!(told("\x1b[31m \u{202e}").contains("another version"));
        assert!(told(&"x ".repeat(1000)).len() < 200);
    }

    #[test]
    fn words_from_the_network_do_not_reach_the_terminal_as_they_are() {
        assert_eq!(shown("no\x1b[2J\r\nway"), "no[2Jway");
        assert_eq!(shown(&"é".repeat(5000)).chars().count(), MAX_WORDS);
    }

    #[tokio::test]
    async fn the_last_answer_of_the_name_service_is_kept() {
        let address = |host: &str| EdgeAddress { host: host.into(), port: 4443, fingerprint: None };
        let literal = Arc::new(Edge::new(address("[2001:db8::1]"), None));
        assert_eq!(literal.resolve().await.unwrap(), ["[2001:db8::1]:4443".parse().unwrap()]);
        let dead = Arc::new(Edge::new(address("no-such-host.invalid"), None));
        assert!(matches!(dead.resolve().await, Err(DialError::Resolve(_))));
        dead.known.send_replace(vec!["192.0.2.1:4443".parse().unwrap()]);
        assert_eq!(dead.resolve().await.unwrap(), ["192.0.2.1:4443".parse().unwrap()]);
    }

    #[test]
    fn no_way_is_known_at_once() {
        let uplink: Uplink = "127.0.0.1".parse().unwrap();
        let remote = "192.0.2.77:4443".parse().unwrap();
        // From loopback no packet leaves the machine.
        assert!(matches!(socket(&uplink, None, remote), Err(DialError::NoWay(..))));
        assert!(socket(&uplink, None, "127.0.0.1:4443".parse().unwrap()).is_ok());
    }
}
