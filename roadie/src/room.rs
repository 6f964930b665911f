//! The show for the room it is made in: a relay in this program, which viewers reach over the venue's own network. It gets
//! the frames as they come out of the encoder, so it goes on when all uplinks are dead.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use media::catalog::Catalog;
use relay::clock::Clock;
use relay::edge::{self, Edge, EdgeError};
use relay::random::random_name;
use relay::stage::{Stage, Watch};
use relay::{admission, settings, uplink, webrtc};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::demo::built_player;

/// What `--room` without a value stands for.
pub const DEFAULT: &str = "[::]:8443";

/// And `--room-http`.
const DEFAULT_HTTP: &str = "[::]:8080";

/// What `roadie live` was asked for, on its command line or in its settings file.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// TCP for HTTPS and UDP for QUIC; `None`: no room.
    pub room: Option<SocketAddr>,
    /// TCP for HTTP, and UDP for WebRTC.
    pub http: Option<SocketAddr>,
    /// In the link.
    pub name: Option<String>,
    /// PEM chain.
    pub cert: Option<PathBuf>,
    /// PEM key.
    pub key: Option<PathBuf>,
    /// The built page.
    pub player: Option<PathBuf>,
}

/// Settings of a room, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    edge: edge::Settings,
    name: Option<String>,
}

impl Wish {
    /// This one, and for what it does not say, the other.
    pub fn or(self, other: Wish) -> Wish {
        Wish {
            room: self.room.or(other.room),
            http: self.http.or(other.http),
            name: self.name.or(other.name),
            cert: self.cert.or(other.cert),
            key: self.key.or(other.key),
            player: self.player.or(other.player),
        }
    }

    /// `None`: the room is shown nothing.
    ///
    /// # Errors
    /// When a part of it cannot be used.
    pub fn check(self) -> anyhow::Result<Option<Settings>> {
        let Wish { room, http, name, cert, key, player } = self;
        let Some(listen) = room else {
            let others = [
                ("--room-http", http.is_some()),
                ("--room-name", name.is_some()),
                ("--room-cert", cert.is_some()),
                ("--room-key", key.is_some()),
                ("--player", player.is_some()),
            ];
            if let Some((flag, _)) = others.iter().find(|(_, given)| *given) {
                bail!("{flag} is of no use without --room");
            }
            return Ok(None);
        };
        if let Some(bad) = name.as_ref().filter(|name| url::Host::parse(name).is_err()) {
            bail!("--room-name {bad:?} is no name of a machine and no address");
        }
        let certificate = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => bail!("--room-cert and --room-key go together: one of them is missing"),
        };
        let player = player.or_else(page).context(
            "--room has no page to show: there is no folder `player` beside this program. Build it with `cargo xtask \
             player`, and give --player target/player",
        )?;
        let state =
            std::env::home_dir().context("--room has no home directory to keep its certificate in")?;
        let http = http.map_or_else(|| DEFAULT_HTTP.parse(), Ok)?;
        let edge = edge::Settings {
            listen,
            https: Some(listen),
            http,
            certificate,
            state: state.join(".local/state/roadie-room"),
            player: Some(player),
            keep: None,
            upstream: Vec::new(),
            // Nobody but this program publishes here.
            token: Some(random_name().to_string()),
            admission: admission::Settings::check(&[], &[], None)?,
            drain: Duration::ZERO,
            // Browsers without WebCodecs have it from there, and so has any at the plain address.
            webrtc: webrtc::Settings::check(webrtc::RawSettings {
                listen: Some(http),
                ..Default::default()
            })?,
        };
        Ok(Some(Settings { edge, name }))
    }
}

/// The page beside this program, or where `cargo xtask player` puts it.
fn page() -> Option<PathBuf> {
    settings::player_beside().or_else(|| built_player(&std::env::current_exe().ok()?))
}

/// The relay, with its ports.
pub struct Room {
    edge: Edge,
    name: Option<String>,
}

impl Room {
    /// Takes the ports.
    ///
    /// # Errors
    /// When a port is taken, or the certificate or the page cannot be read.
    pub async fn open(settings: Settings) -> anyhow::Result<Self> {
        let Settings { edge, name } = settings;
        let edge = Edge::new(edge).await.map_err(by_our_flags)?;
        Ok(Self { edge, name })
    }

    /// Where the show is to be seen.
    pub fn links(&self, broadcast: &str) -> Links {
        let here = self.edge.http_addr().map(|addr| format!("http://localhost:{}/{broadcast}", addr.port()));
        let port = self.edge.https_addr().map_or(0, |addr| addr.port());
        let hosts = match &self.name {
            Some(name) => vec![name.clone()],
            None => hosts(uplink::addresses()),
        };
        let room = hosts.iter().map(|host| format!("https://{host}:{port}/{broadcast}")).collect();
        let others = |addr: &SocketAddr| !addr.ip().is_loopback();
        let plain = self.edge.http_addr().filter(others).zip(hosts.first());
        let plain = plain.map(|(addr, host)| format!("http://{host}:{}/{broadcast}", addr.port()));
        Links { here, room, plain }
    }

    /// Serves until [`Serving::stop`]. The stage takes the show's frames, which have their times by `clock`.
    ///
    /// # Errors
    /// When the show cannot be put on the air there.
    pub fn serve(
        self,
        broadcast: &str,
        catalog: &Catalog,
        clock: &Clock,
    ) -> anyhow::Result<(Stage, Serving)> {
        let stage = self.edge.stage(broadcast, catalog, clock)?;
        let watch = stage.watch();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            // Dropped or sent, it is the end.
            let stopped = async { drop(stopped.await) };
            if let Err(error) = self.edge.run_until(stopped).await {
                tracing::error!(%error, "the room is not served any more");
            }
        });
        Ok((stage, Serving { watch, stop, task }))
    }
}

/// A relay that serves the room.
pub struct Serving {
    watch: Watch,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Serving {
    /// How the show fares in the room.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Ends it; bounded in time.
    pub async fn stop(self) {
        drop(self.stop);
        let _ = self.task.await;
    }
}

/// The edge speaks of its own flags.
fn by_our_flags(error: EdgeError) -> anyhow::Error {
    match error {
        EdgeError::Listen { protocol, addr, option, source } => {
            let option = if ["--http", "--webrtc"].contains(&option) { "--room-http" } else { "--room" };
            EdgeError::Listen { protocol, addr, option, source }.into()
        }
        other => other.into(),
    }
}

/// Where the show is to be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links {
    /// On this machine.
    pub here: Option<String>,
    /// In the venue's network, the likeliest first.
    pub room: Vec<String>,
    /// There, over HTTP: of our own certificate browsers warn.
    pub plain: Option<String>,
}

impl Links {
    /// The links in words, and the first one as a QR code where that can be seen.
    pub fn words(&self, code: bool) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(link) = self.room.first().filter(|_| code) {
            lines.extend(qr(link));
        }
        match self.room.as_slice() {
            [] => lines.push("In the room: this machine is in no network".into()),
            [first, others @ ..] => {
                let mut line = format!("In the room: {first}");
                for other in others {
                    // A machine with several networks: which of them is the venue's, only the creator knows.
                    let _ = write!(line, "  or {other}");
                }
                lines.push(line);
            }
        }
        lines.extend(
            self.plain.as_ref().map(|plain| format!("Without a browser's warning, by WebRTC: {plain}")),
        );
        lines.extend(self.here.as_ref().map(|here| format!("On this laptop: {here}")));
        lines
    }
}

/// Addresses for the link, the likeliest first: viewers are in a Wi-Fi or on a cable, while `usb0`, `wwan0` and `enx...` are
/// the uplinks' sticks.
fn hosts(addresses: Vec<(String, Ipv4Addr)>) -> Vec<String> {
    let rank = |name: &str| match name {
        _ if name.starts_with("wl") => 0,
        _ if name.starts_with("enx") => 2,
        _ if name.starts_with("en") || name.starts_with("eth") => 1,
        _ => 2,
    };
    let mut sorted = addresses;
    sorted.sort_by_key(|(name, addr)| (rank(name), !addr.is_private()));
    sorted.into_iter().map(|(_, addr)| addr.to_string()).collect()
}

/// Black on white, whatever the terminal's colours are: not every scanner reads a negative.
const PAPER: (&str, &str) = ("\x1b[30;107m", "\x1b[0m");

/// A QR code in half blocks, with the margin that scanners need.
fn qr(text: &str) -> Vec<String> {
    let Ok(code) = qrcode::QrCode::new(text) else { return Vec::new() };
    let image = code.render::<qrcode::render::unicode::Dense1x2>().quiet_zone(true).build();
    image.lines().map(|line| format!("{}{line}{}", PAPER.0, PAPER.1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_leads_to_the_venues_network_and_not_to_a_stick() {
        let found = [
            ("enx001122", [192, 168, 8, 100]),
            ("usb0", [192, 168, 42, 129]),
            ("eth0", [203, 0, 113, 5]),
            ("enp3s0", [10, 0, 0, 7]),
            ("wlp2s0", [192, 168, 1, 20]),
        ];
        let found = found.map(|(name, addr)| (name.to_owned(), Ipv4Addr::from(addr)));
        let hosts = hosts(found.into());
        assert_eq!(hosts, ["192.168.1.20", "10.0.0.7", "203.0.113.5", "192.168.8.100", "192.168.42.129"]);
    }

    #[test]
    fn links_in_words() {
        let mut links = Links {
            here: Some("http://localhost:8080/tour/london".into()),
            room: vec![
                "https://192.168.1.20:8443/tour/london".into(),
                "https://10.0.0.7:8443/tour/london".into(),
            ],
            plain: Some("http://192.168.1.20:8080/tour/london".into()),
        };
        let lines = links.words(false);
        assert_eq!(
            lines,
            [
                "In the room: https://192.168.1.20:8443/tour/london  or https://10.0.0.7:8443/tour/london",
                "Without a browser's warning, by WebRTC: http://192.168.1.20:8080/tour/london",
                "On this laptop: http://localhost:8080/tour/london"
            ]
        );
        let with_code = links.words(true);
        let code = &with_code[..with_code.len() - 3];
        assert!(code.len() > 15 && code.iter().all(|line| line.chars().count() == code[0].chars().count()));
        links.room.clear();
        assert!(links.words(true)[0].contains("no network"));
    }

    #[test]
    fn flags() {
        let room = || Some(DEFAULT.parse().unwrap());
        let player = || Some(PathBuf::from("/player"));
        let check = |wish: Wish| wish.check().map(|settings| settings.is_some());
        let error = |wish| format!("{:#}", check(wish).unwrap_err());
        assert!(!check(Wish::default()).unwrap());
        assert!(check(Wish { room: room(), player: player(), ..Wish::default() }).unwrap());
        let alone = Wish { name: Some("venue.example".into()), ..Wish::default() };
        assert!(error(alone).starts_with("--room-name is of no use without --room"));
        let half = Wish { room: room(), player: player(), cert: Some("a".into()), ..Wish::default() };
        assert!(error(half).contains("go together"));
        let bad = Wish { room: room(), player: player(), name: Some("a b/c".into()), ..Wish::default() };
        assert!(error(bad).contains("no name of a machine"));
    }
}
