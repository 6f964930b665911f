//! One session: the engine, what it is for, and when it is over.
//!
//! Everything that changes the engine is followed by [`Session::settle`], which lets it say all that it has to say: its
//! one rule.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use str0m::media::{KeyframeRequestKind, MediaTime};
use str0m::{Event, Input, Output, Rtc, RtcError};
use tokio::sync::OwnedSemaphorePermit;

use super::negotiate;
use super::socket::Socket;
use super::stats::{Grown, Stats, Way};
use super::whep::Watch;
use super::whip::Publish;
use super::{Credentials, Restarted};
use crate::admission::{Pass, wall};

/// Who has an answer must be connected within this time.
const CONNECT: Duration = Duration::from_secs(20);

/// A connection that has gone may come back on another network (an ICE restart) within this time.
const RECONNECT: Duration = Duration::from_secs(10);

/// How often a session is looked after, whatever happens.
const LOOK: Duration = Duration::from_millis(250);

/// Addresses that one session may come from: of Wi-Fi and mobile, in both families, and where they roam to. The oldest is
/// forgotten.
const MAX_ADDRESSES: usize = 16;

/// Above this part of its packets lost, a viewer's way is too narrow for the show: what is sent would only be lost, too.
const TOO_MUCH_LOSS: f32 = 0.2;

/// What it is for.
pub(super) enum Role {
    /// WHEP.
    Watch(Box<Watch>),
    /// WHIP.
    Publish(Box<Publish>),
}

/// Why it is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The client said so, or stayed away.
    #[error("{0}")]
    Over(&'static str),
    /// The engine cannot go on.
    #[error("the engine has failed: {0}")]
    Engine(#[from] RtcError),
}

/// One session.
pub(super) struct Session {
    pub id: String,
    rtc: Rtc,
    role: Role,
    pass: Pass,
    _places: Vec<OwnedSemaphorePermit>,
    /// Where its client sends from.
    pub addresses: Vec<SocketAddr>,
    /// When it has to be looked after.
    pub wake: Instant,
    look: Instant,
    opened: Instant,
    was_connected: bool,
    lost: Option<Instant>,
    /// The client's, for when it comes from another network.
    offer: String,
    /// Of the client, as the last PATCH said.
    remote_ufrag: Option<String>,
    counted: Counted,
}

/// What of its own counts is in the sums already: of pictures and of sound.
#[derive(Default)]
struct Counted {
    mids: Vec<(String, [Grown; 5])>,
    round_trip: Duration,
}

impl Session {
    /// `places`: what it takes up as long as it lives.
    pub fn new(
        id: String,
        rtc: Rtc,
        offer: String,
        role: Role,
        pass: Pass,
        places: Vec<OwnedSemaphorePermit>,
    ) -> Self {
        let now = Instant::now();
        Self {
            id,
            rtc,
            role,
            pass,
            _places: places,
            addresses: Vec::new(),
            wake: now,
            look: now,
            opened: now,
            was_connected: false,
            lost: None,
            offer,
            remote_ufrag: None,
            counted: Counted::default(),
        }
    }

    pub fn way(&self) -> Way {
        match self.role {
            Role::Watch(_) => Way::Out,
            Role::Publish(_) => Way::In,
        }
    }

    /// Whether it ever was connected.
    pub fn was_connected(&self) -> bool {
        self.was_connected
    }

    /// Whether a datagram is for this session.
    pub fn accepts(&self, input: &Input<'_>) -> bool {
        self.rtc.accepts(input)
    }

    /// Notes where its client sends from. Gives the address that is forgotten for it.
    pub fn comes_from(&mut self, address: SocketAddr) -> Option<SocketAddr> {
        self.addresses.push(address);
        (self.addresses.len() > MAX_ADDRESSES).then(|| self.addresses.remove(0))
    }

    /// The longest way to the client and back that was measured last.
    pub fn round_trip(&self) -> Duration {
        self.counted.round_trip
    }

    /// Takes a datagram.
    pub fn handle(
        &mut self,
        input: Input<'_>,
        socket: &mut Socket,
        stats: &Stats,
        now: Instant,
    ) -> Result<(), End> {
        self.rtc.handle_input(input)?;
        self.settle(socket, stats, now)
    }

    /// Looks after it, where it is time.
    pub fn due(&mut self, socket: &mut Socket, stats: &Stats, now: Instant) -> Result<(), End> {
        if now < self.wake {
            return Ok(());
        }
        self.rtc.handle_input(Input::Timeout(now))?;
        self.settle(socket, stats, now)?;
        if now >= self.look {
            self.look = now + LOOK;
            self.look_after(now)?;
            self.settle(socket, stats, now)?;
        }
        self.forward(socket, stats, now)
    }

    fn look_after(&mut self, now: Instant) -> Result<(), End> {
        let since = |at: Instant| now.saturating_duration_since(at);
        if !self.rtc.is_alive() {
            return Err(End::Over("the client has left"));
        }
        match self.rtc.is_connected() {
            true => self.lost = None,
            false => drop(self.lost.get_or_insert(now)),
        }
        if !self.was_connected && since(self.opened) > CONNECT {
            return Err(End::Over("no connection: is the UDP port open, and --webrtc-address right?"));
        }
        if self.was_connected && self.lost.is_some_and(|at| since(at) > RECONNECT) {
            return Err(End::Over("the connection is lost"));
        }
        if self.pass.expires.is_some_and(|end| end <= wall()) {
            return Err(End::Over("the ticket has expired"));
        }
        match &mut self.role {
            Role::Watch(watch) => {
                if !watch.look(now) {
                    return Err(End::Over("the show is over"));
                }
            }
            Role::Publish(publish) if !publish.is_current() => {
                return Err(End::Over("it was silent, and another publisher has taken its place"));
            }
            Role::Publish(publish) if self.was_connected => {
                if let Some(mid) = publish.keyframe_due(now)
                    && let Some(mut writer) = self.rtc.writer(mid)
                {
                    // Without a first packet, there is nobody to ask yet.
                    let _ = writer.request_keyframe(None, KeyframeRequestKind::Pli);
                }
            }
            Role::Publish(_) => {}
        }
        Ok(())
    }

    /// Writes what there is of the show to its viewer.
    pub fn forward(&mut self, socket: &mut Socket, stats: &Stats, now: Instant) -> Result<(), End> {
        if !self.rtc.is_connected() {
            return Ok(());
        }
        let Role::Watch(watch) = &mut self.role else { return Ok(()) };
        watch.begin();
        let next = loop {
            let Role::Watch(watch) = &mut self.role else { return Ok(()) };
            let outgoing = match watch.next(now) {
                Ok(outgoing) => outgoing,
                Err(next) => break next,
            };
            if let Some(writer) = self.rtc.writer(outgoing.line.mid) {
                let writer = match outgoing.is_video {
                    // As soon as it can be decoded.
                    true => writer.playout_delay(MediaTime::ZERO, MediaTime::ZERO),
                    false => writer,
                };
                writer.write(outgoing.line.pt, outgoing.wallclock, outgoing.rtp, outgoing.data)?;
            }
            self.settle(socket, stats, now)?;
            // It cuts frames up when time goes on.
            self.rtc.handle_input(Input::Timeout(now))?;
            self.settle(socket, stats, now)?;
        };
        if let Some(next) = next {
            self.wake = self.wake.min(next);
        }
        Ok(())
    }

    /// Lets the engine say all that it has to say.
    fn settle(&mut self, socket: &mut Socket, stats: &Stats, now: Instant) -> Result<(), End> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => {
                    socket.flush();
                    self.wake = at.min(self.look);
                    return Ok(());
                }
                Output::Transmit(transmit) => {
                    socket.send(transmit.destination, Some(transmit.source.ip()), &transmit.contents);
                }
                Output::Event(event) => self.hear(event, stats, now)?,
            }
        }
    }

    fn hear(&mut self, event: Event, stats: &Stats, now: Instant) -> Result<(), End> {
        match event {
            Event::Connected => {
                self.was_connected = true;
                // What there is of the show goes out now.
                self.look = now;
            }
            Event::KeyframeRequest(_) => {
                if let Role::Watch(watch) = &mut self.role {
                    watch.ask_for_keyframe(now);
                }
            }
            Event::MediaData(data) => {
                if let Role::Publish(publish) = &mut self.role {
                    publish.take(&data, now);
                }
            }
            Event::MediaEgressStats(of) if self.way() == Way::Out => {
                let rtp = stats.rtp(Way::Out);
                let lost = of.remote.as_ref().map_or(0, |remote| remote.packets_lost);
                let values = [of.packets, of.bytes, of.nacks, of.plis + of.firs, lost];
                let sums = [&rtp.packets, &rtp.bytes, &rtp.nacks, &rtp.plis, &stats.lost];
                self.counted.note(&of.mid, values, sums, of.rtt);
                if of.loss.is_some_and(|loss| loss > TOO_MUCH_LOSS)
                    && let Role::Watch(watch) = &mut self.role
                {
                    stats.skipped.fetch_add(1, Relaxed);
                    watch.skip();
                }
            }
            Event::MediaIngressStats(of) if self.way() == Way::In => {
                let rtp = stats.rtp(Way::In);
                let values = [of.packets, of.bytes, of.nacks, of.plis + of.firs, 0];
                let sums = [&rtp.packets, &rtp.bytes, &rtp.nacks, &rtp.plis, &stats.lost];
                self.counted.note(&of.mid, values, sums, of.rtt);
            }
            _ => {}
        }
        Ok(())
    }

    /// The tag of the ICE session, for `If-Match`.
    pub fn etag(&mut self) -> String {
        etag(&self.rtc.direct_api().local_ice_credentials().ufrag)
    }

    /// What the client calls itself since the last restart.
    pub fn remote_ufrag(&self) -> Option<String> {
        self.remote_ufrag.clone()
    }

    /// The client has a new network: new words on both sides. Media stands still until its first check.
    pub fn restart(
        &mut self,
        remote: Credentials,
        socket: &mut Socket,
        stats: &Stats,
        now: Instant,
    ) -> Result<Restarted, End> {
        let Credentials { ufrag, pwd } = remote;
        let offer = negotiate::offer_again(&self.offer, &ufrag, &pwd).map_err(|_| End::Over("no offer"))?;
        self.rtc.sdp_api().accept_offer(offer)?;
        self.settle(socket, stats, now)?;
        self.remote_ufrag = Some(ufrag);
        let str0m::IceCreds { ufrag, pass } = self.rtc.direct_api().local_ice_credentials();
        Ok(Restarted { etag: etag(&ufrag), local: Credentials { ufrag, pwd: pass } })
    }

    /// Says goodbye.
    pub fn close(&mut self, socket: &mut Socket, stats: &Stats, now: Instant) {
        if self.rtc.close().is_ok() && self.rtc.handle_input(Input::Timeout(now)).is_ok() {
            let _ = self.settle(socket, stats, now);
        }
        socket.flush();
    }
}

impl Counted {
    /// Adds to the sums what a line of the session has more than the last time.
    fn note(&mut self, mid: &str, values: [u64; 5], sums: [&AtomicU64; 5], round_trip: Option<Duration>) {
        let at = self.mids.iter().position(|(known, _)| known == mid).unwrap_or_else(|| {
            self.mids.push((mid.to_owned(), Default::default()));
            self.mids.len() - 1
        });
        for ((grown, value), sum) in self.mids[at].1.iter_mut().zip(values).zip(sums) {
            grown.add(value, sum);
        }
        self.round_trip = round_trip.unwrap_or(self.round_trip);
    }
}

/// In quotes, as HTTP wants it.
fn etag(ufrag: &str) -> String {
    format!("\"{ufrag}\"")
}
