//! The relay at the edge: one UDP port for bonds, browsers and MoQ programs, one TCP port for HTTP.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use media::catalog::Catalog;
use quinn::crypto::rustls::HandshakeData;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::admission::{self, Admission, Knock, Refusal, Visit};
use crate::broadcasts::Broadcasts;
use crate::clock::Clock;
use crate::control::{self, Close};
use crate::counters::{Counters, Protocol, Turned};
use crate::dial::Address;
use crate::endpoint::{listen, transport};
use crate::fanout::{self, FanoutError, Viewers, websocket};
use crate::http::{self, Player, Site};
use crate::https::Tls;
use crate::ingest::{Ingest, IngestError};
use crate::intake::Intake;
use crate::keep::{Keep, KeepError};
use crate::origin::Origin;
use crate::reload::Reload;
use crate::serve;
use crate::stage::Stage;
use crate::tls::{Current, Identity, TlsError};
use crate::upstream::{self, Health};
use crate::webrtc;
use crate::window::Choice;

/// Connections at once that have not yet said what they want; more are turned away. A few for each of
/// the shows, and a crowd of viewers that comes in one second with 100 ms of handshakes each. No address can take more
/// than half of the places.
const MAX_HALF_OPEN: usize = 1024;

/// With so many of them, new ones are asked to prove their address first, and then count among those of their address.
const BUSY: usize = MAX_HALF_OPEN / 4;

/// The handshake may take so long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// When it is stopped, the files of kept shows may take so long to be ended: a supervisor kills after 90 s or, in
/// containers, 10.
const KEEP_PATIENCE: Duration = Duration::from_secs(5);

/// And the peers so long to be told.
const GOODBYE: Duration = Duration::from_millis(500);

/// What an edge needs to know, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// UDP.
    pub listen: SocketAddr,
    /// TCP.
    pub http: SocketAddr,
    /// TCP, with TLS; `None`: without.
    pub https: Option<SocketAddr>,
    /// PEM chain and key; `None`: self-signed, kept in `state`.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Where the self-signed certificate is kept.
    pub state: PathBuf,
    /// The built player; `None`: no page.
    pub player: Option<PathBuf>,
    /// Shows are kept here; `None`: they are not.
    pub keep: Option<PathBuf>,
    /// Relays that broadcasts are pulled from, the preferred first.
    pub upstream: Vec<Address>,
    /// Who publishes must show this; `None`: anybody may.
    pub token: Option<String>,
    /// Tickets, and how many connections there may be.
    pub admission: admission::Settings,
    /// When the relay is stopped, whoever watches may stay so long.
    pub drain: Duration,
    /// WHIP and WHEP; `None`: without.
    pub webrtc: Option<webrtc::Settings>,
}

/// Why the edge did not start, or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EdgeError {
    /// No certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nothing can be kept.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// No keys to judge tickets by.
    #[error(transparent)]
    Admission(#[from] admission::source::SourceError),
    /// A port cannot be had.
    #[error("cannot listen on {protocol} {addr}: {source}{hint}", hint = hint(source, option))]
    Listen {
        /// UDP or TCP.
        protocol: &'static str,
        /// The address asked for.
        addr: SocketAddr,
        /// The option that sets it.
        option: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The player's files are not there.
    #[error(
        "cannot read the player in {path}: {source}. Build it with `cargo xtask player`, or leave --player away"
    )]
    Player {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A show that this relay cannot put on the air.
#[derive(Debug, thiserror::Error)]
#[error("the show {0:?} cannot be shown in the room: {1}")]
pub struct StageError(String, String);

async fn tcp(addr: SocketAddr, option: &'static str) -> Result<tokio::net::TcpListener, EdgeError> {
    let fail = |source| EdgeError::Listen { protocol: "TCP", addr, option, source };
    tokio::net::TcpListener::bind(addr).await.map_err(fail)
}

fn hint(source: &std::io::Error, option: &str) -> String {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!(
                ". Another program has this port, perhaps another roadie-relay; choose another with {option}"
            )
        }
        std::io::ErrorKind::PermissionDenied => {
            format!(". Ports below 1024 need rights; choose another with {option}")
        }
        _ => String::new(),
    }
}

/// An edge that has its ports.
pub struct Edge {
    endpoint: quinn::Endpoint,
    config: quinn::ServerConfig,
    listener: tokio::net::TcpListener,
    tls: Option<Tls>,
    certificate: Option<(PathBuf, PathBuf)>,
    origin: Origin,
    ingest: Ingest,
    admission: Admission,
    intake: Intake,
    viewers: Arc<Viewers>,
    site: Arc<Site>,
    fingerprint: String,
    upstream: Vec<Address>,
    settings: Settings,
    webrtc: Option<(webrtc::Server, webrtc::Handle)>,
}

impl Edge {
    /// Takes the ports. Nothing is served before [`Edge::run`].
    pub async fn new(settings: Settings) -> Result<Self, EdgeError> {
        let identity = match &settings.certificate {
            Some((cert, key)) => Identity::load(cert, key)?,
            None => Identity::self_signed(&settings.state)?,
        };
        let fingerprint = identity.fingerprint.clone();
        let certificate_hash = identity.self_signed.then(|| fingerprint.clone());
        let player = settings
            .player
            .clone()
            .map(|path| Player::load(&path).map_err(|source| EdgeError::Player { path, source }))
            .transpose()?;
        let secret = identity.reset_secret();
        let current = Current::new(identity)?;
        let listener = tcp(settings.http, "--http").await?;
        let counters = Arc::new(Counters::default());
        let (endpoint, config) = listen(settings.listen, current.clone(), secret, &counters)?;
        let tls = match settings.https {
            Some(addr) => Some(Tls::new(tcp(addr, "--https").await?, current.clone(), counters.clone())?),
            None => None,
        };
        let port = endpoint.local_addr().map_or(settings.listen.port(), |addr| addr.port());

        let clock = Clock::start();
        let keep = settings.keep.as_deref().map(|dir| Keep::open(dir, clock)).transpose()?;
        let origin = Origin::start();
        let broadcasts = Broadcasts::default();
        let viewers = Arc::new(Viewers::default());
        viewers.drain.allow(settings.drain);
        let intake = Intake::new(origin.clone(), broadcasts.clone());
        let admission = Admission::open(settings.admission.clone(), settings.token.as_deref()).await?;
        let ingest = Ingest::new(origin.clone(), broadcasts.clone(), clock, keep, admission.clone());
        let webrtc_stats = Arc::<webrtc::Stats>::default();
        let webrtc = settings
            .webrtc
            .clone()
            .map(|settings| webrtc::Server::new(settings, &origin, webrtc_stats.clone()))
            .transpose()?;
        let site = Arc::new(Site {
            player,
            broadcasts,
            viewers: viewers.clone(),
            hls: origin.hls().clone(),
            clock,
            webtransport_port: port,
            certificate_hash,
            certificate: current,
            upstreams: settings.upstream.iter().map(Health::new).collect(),
            counters,
            sent: origin.lives().sent().clone(),
            keep: settings.keep.clone(),
            admission: admission.clone(),
            webrtc: webrtc_stats,
            whep: webrtc.is_some(),
        });
        Ok(Self {
            endpoint,
            config,
            listener,
            tls,
            certificate: settings.certificate.clone(),
            origin,
            ingest,
            intake,
            admission,
            viewers,
            site,
            fingerprint,
            upstream: settings.upstream.clone(),
            settings,
            webrtc,
        })
    }

    /// Changes its settings while it runs.
    pub fn reload(&self) -> Reload {
        Reload::new(self.settings.clone(), self.admission.clone(), self.viewers.drain.clone())
    }

    /// The UDP address in use.
    pub fn quic_addr(&self) -> Option<SocketAddr> {
        self.endpoint.local_addr().ok()
    }

    /// The TCP address in use.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// The address of HTTPS, where it is served.
    pub fn https_addr(&self) -> Option<SocketAddr> {
        self.tls.as_ref().and_then(|tls| tls.local_addr().ok())
    }

    /// The UDP address of WebRTC, where it is spoken.
    pub fn webrtc_addr(&self) -> Option<SocketAddr> {
        self.webrtc.as_ref().and_then(|(server, _)| server.local_addr())
    }

    /// SHA-256 of the certificate at the start, for `roadie live --edge-fingerprint`.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Puts a show that is made on this machine on the air here; `clock` is the one by which its frames have their times.
    pub fn stage(&self, name: &str, catalog: &Catalog, clock: &Clock) -> Result<Stage, StageError> {
        Stage::new(name, catalog, clock, self.site.clock, &self.origin, &self.site.broadcasts)
            .map_err(|error| StageError(name.to_owned(), error.to_string()))
    }

    /// Serves until the future is dropped.
    pub async fn run(self) -> Result<(), EdgeError> {
        self.run_until(std::future::pending()).await
    }

    /// Serves until `stop` resolves. Then nobody new is let in, and MoQ sessions are asked to go (GOAWAY). When they have,
    /// or after [`Settings::drain`], venues are told to call again, and what is kept of their shows is ended properly.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<(), EdgeError> {
        self.run_until_hurried(stop, std::future::pending()).await
    }

    /// The same; when `hurry` resolves, whoever is still here is not waited for any more.
    pub async fn run_until_hurried(
        self,
        stop: impl Future<Output = ()>,
        hurry: impl Future<Output = ()>,
    ) -> Result<(), EdgeError> {
        let Self {
            endpoint,
            config,
            listener,
            tls,
            certificate,
            origin,
            ingest,
            intake,
            admission,
            viewers,
            site,
            upstream,
            webrtc,
            ..
        } = self;
        let (webrtc_server, webrtc_handle) = webrtc.unzip();
        let mut pulling = JoinSet::new();
        for (place, (address, health)) in upstream.into_iter().zip(&site.upstreams).enumerate() {
            pulling.spawn(upstream::pull(address, place, intake.clone(), health.clone()));
        }
        let half_open = Arc::new(Semaphore::new(MAX_HALF_OPEN));
        let counters = &site.counters;
        let quic = async {
            while let Some(incoming) = endpoint.accept().await {
                // An answer, so that who has another address to call does so at once.
                if viewers.drain.is_on() {
                    incoming.refuse();
                    continue;
                }
                // A flood of handshakes must not starve those who watch.
                if half_open.available_permits() < MAX_HALF_OPEN - BUSY
                    && !incoming.remote_address_validated()
                {
                    counters.ask_for_proof();
                    let _ = incoming.retry();
                    continue;
                }
                let knock =
                    admission.knock(incoming.remote_address().ip(), incoming.remote_address_validated());
                let handshake = match knock {
                    Knock::Come(handshake) => handshake,
                    Knock::Prove => {
                        counters.ask_for_proof();
                        let _ = incoming.retry();
                        continue;
                    }
                    Knock::Refuse => {
                        counters.turn(Turned::Address);
                        incoming.refuse();
                        continue;
                    }
                };
                match half_open.clone().try_acquire_owned() {
                    Ok(place) => {
                        let place = HalfOpen::new(place, handshake);
                        let house = House {
                            origin: origin.clone(),
                            ingest: ingest.clone(),
                            intake: intake.clone(),
                            viewers: viewers.clone(),
                            admission: admission.clone(),
                            counters: counters.clone(),
                        };
                        tokio::spawn(serve(incoming, config.clone(), place, house));
                    }
                    Err(_) => {
                        counters.turn(Turned::Crowd);
                        incoming.refuse();
                    }
                }
            }
            if viewers.drain.is_on() {
                std::future::pending().await
            }
        };
        let door = websocket::Door::new(origin.clone(), viewers.clone(), intake.clone(), admission.clone());
        let upgrades = axum::middleware::from_fn_with_state(door, websocket::upgrade);
        let offers = webrtc::Door {
            handle: webrtc_handle.clone(),
            origin: origin.clone(),
            broadcasts: site.broadcasts.clone(),
            clock: site.clock,
            admission: admission.clone(),
        };
        let router = http::router(site.clone()).layer(upgrades).merge(webrtc::router(offers));
        let router = http::counted(router, site.clone());
        let places = serve::places();
        let http = serve::serve(listener, router.clone(), places.clone(), counters.clone());
        let https = async {
            match tls {
                Some(tls) => serve::serve(tls, router.clone(), places, counters.clone()).await,
                None => std::future::pending().await,
            }
        };
        let webrtc = async {
            match webrtc_server {
                Some(server) => server.run().await,
                None => std::future::pending().await,
            }
        };
        let current = site.certificate.clone();
        let stopped = async {
            stop.await;
            let patience = viewers.drain.begin();
            tracing::info!(sessions = viewers.now(), ?patience, "stopping");
            // Shows go on for those who are here: venues are the last to be told.
            tokio::select! {
                () = viewers.none() => {}
                () = tokio::time::sleep(patience) => tracing::info!(sessions = viewers.now(), "closed, as they stayed"),
                () = hurry => tracing::info!(sessions = viewers.now(), "closed, as there is no time left"),
            }
            endpoint.set_server_config(None);
            ingest.stop(KEEP_PATIENCE).await;
            if let Some(webrtc) = webrtc_handle {
                webrtc.stop().await;
            }
            endpoint.close(Close::Stopped.into(), b"the edge is being stopped");
            viewers.drain.end();
            // The last packets are on their way.
            let _ = tokio::time::timeout(GOODBYE, endpoint.wait_idle()).await;
        };
        tokio::select! {
            () = quic => Ok(()),
            never = http => match never {},
            never = https => match never {},
            () = current.follow(certificate) => Ok(()),
            () = webrtc => Ok(()),
            () = stopped => Ok(()),
        }
    }
}

/// Its place among those who have not yet said what they want, and among the handshakes of its address.
#[derive(Debug)]
pub struct HalfOpen {
    _place: OwnedSemaphorePermit,
    _handshake: Option<Visit>,
}

impl HalfOpen {
    /// `handshake` where the address was proved.
    pub fn new(place: OwnedSemaphorePermit, handshake: Option<Visit>) -> Self {
        Self { _place: place, _handshake: handshake }
    }
}

/// What a connection may have to do with.
struct House {
    origin: Origin,
    ingest: Ingest,
    intake: Intake,
    viewers: Arc<Viewers>,
    admission: Admission,
    counters: Arc<Counters>,
}

async fn serve(incoming: quinn::Incoming, config: quinn::ServerConfig, half_open: HalfOpen, house: House) {
    let remote = incoming.remote_address();
    if let Err(error) = route(incoming, config, half_open, house).await {
        tracing::debug!(%remote, %error, "connection");
    }
}

async fn route(
    incoming: quinn::Incoming,
    mut config: quinn::ServerConfig,
    half_open: HalfOpen,
    house: House,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let House { origin, ingest, intake, viewers, admission, counters } = house;
    let remote = incoming.remote_address().ip();
    let choice = Choice::default();
    config.transport_config(transport(&choice));
    let handshake = async {
        let mut connecting = incoming.accept_with(Arc::new(config))?;
        let data = connecting.handshake_data().await?;
        let alpn = data.downcast::<HandshakeData>().ok().and_then(|data| data.protocol).unwrap_or_default();
        Ok::<_, quinn::ConnectionError>((alpn, connecting.await?))
    };
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
    let handshake = handshake.inspect_err(|_| counters.turn(Turned::Slow))?;
    let (alpn, connection) = handshake.inspect_err(|_| counters.turn(Turned::Broken))?;
    let protocol = match alpn.as_slice() {
        bond::ALPN | control::VERSIONS_ALPN => Protocol::Bond,
        b"h3" => Protocol::WebTransport,
        _ => Protocol::Moq,
    };
    let _connected = counters.connected(protocol);
    let refuse = |reason| counters.refuse(protocol.word(), reason);
    let Some(_visit) = admission.enter(remote) else {
        refuse(Refusal::Crowded.code());
        connection.close(Close::Crowded.into(), Refusal::Crowded.to_string().as_bytes());
        return Err(Refusal::Crowded.into());
    };
    match alpn.as_slice() {
        bond::ALPN => {
            choice.bond();
            ingest.serve(connection, half_open).await.inspect_err(|error| match error {
                IngestError::Refused(_) => refuse("hello"),
                IngestError::Silent => refuse("silent"),
                _ => {}
            })?;
        }
        // A venue whose versions we do not speak: it is told ours.
        control::VERSIONS_ALPN => {
            refuse("version");
            connection.close(Close::Versions.into(), bond::ALPN);
        }
        _ => {
            let served = match protocol {
                Protocol::WebTransport => {
                    fanout::serve_webtransport(connection, origin, viewers, intake, admission, half_open)
                        .await
                }
                _ => fanout::serve_quic(connection, origin, viewers, intake, admission, half_open).await,
            };
            served.inspect_err(|error| match error {
                FanoutError::Refused(refusal) => refuse(refusal.code()),
                FanoutError::Silent => refuse("silent"),
                _ => {}
            })?;
        }
    }
    Ok(())
}
