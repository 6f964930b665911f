//! The peer to compare with: RIST bonding, as Debian's rist-tools have it, through identical uplinks.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use media::{FrameId, Time, TrackId};
use relay::clock::Clock;
use sim::Rate;
use tokio::net::UdpSocket;
use tokio::process::{Child, Command};

use super::feed::{feed, judge};
use super::uplinks::Uplinks;
use crate::bond::plan::Plan;
use crate::bond::tally::Outcome;

/// Payload of a UDP packet: seven packets of MPEG-TS, which is what RIST carries as a rule.
const PACKET: usize = 1316;

/// Before each packet's payload: track, group, frame, index, count, and how long the frame is.
const HEADER: usize = 1 + 8 + 4 + 2 + 2 + 4;

/// The two programs shake hands over all uplinks within this time, while packets pass that nobody counts: RIST
/// loses the first ones of a stream.
const CONNECT: Duration = Duration::from_secs(3);

/// Between two of those.
const WARM_UP_GAP: Duration = Duration::from_millis(20);

/// Their track.
const WARM_UP: TrackId = TrackId(u8::MAX);

/// What the receiver's buffer holds back, comes within so much more.
const DRAIN: Duration = Duration::from_secs(1);

/// RIST hands everything over its buffer's length late; a frame that takes so much longer still is late.
const SLACK: Duration = Duration::from_millis(150);

/// The programs' settings.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// How long the receiver waits for repeats.
    pub buffer: Duration,
}

/// What came of a run.
pub struct PeerOutcome {
    /// As the product's, without the bond's own counts.
    pub outcome: Outcome,
    /// Packets sent
    pub packets: u64,
    /// and lost.
    pub packets_lost: u64,
}

/// Whether the programs are there; an error says how to get them.
pub fn check() -> anyhow::Result<()> {
    for program in ["ristsender", "ristreceiver"] {
        let found = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
        if !found {
            bail!("--peer rist needs {program}, which is not there: apt-get install rist-tools");
        }
    }
    Ok(())
}

/// Runs a plan in wall-clock time.
pub async fn run(plan: &Plan, seed: u64, peer: Peer) -> anyhow::Result<PeerOutcome> {
    let clock = Clock::start();
    let out = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let input = free_port()?;
    let targets: Vec<SocketAddr> = (0..plan.uplinks.len()).map(|_| free_port()).collect::<Result<_, _>>()?;
    // RIST tells its paths apart by address.
    let near = |number: usize| SocketAddr::from(([127, 0, number as u8 + 1, 1], 0));
    let mut uplinks = Uplinks::start(plan, &targets, near, seed).await?;
    let present: Vec<(usize, SocketAddr)> = uplinks.addresses().collect();
    let buffer = peer.buffer.as_millis();
    let listen: Vec<String> =
        present.iter().map(|(number, _)| format!("rist://@{}?buffer={buffer}", targets[*number])).collect();
    let send: Vec<String> = present
        .iter()
        .map(|(number, addr)| format!("rist://{addr}?buffer={buffer}&weight={}", weight(plan, *number)))
        .collect();
    let _receiver = start(
        "ristreceiver",
        &["-p", "1", "-i", &listen.join(","), "-o", &format!("udp://{}", out.local_addr()?)],
    )?;
    let _sender = start("ristsender", &["-p", "1", "-i", &format!("udp://{input}"), "-o", &send.join(",")])?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let warm_up = async {
        loop {
            for packet in cut(FrameId { track: WARM_UP, group: 0, frame: 0 }, PACKET - HEADER) {
                let _ = socket.try_send_to(&packet, input);
            }
            tokio::time::sleep(WARM_UP_GAP).await;
        }
    };
    let _ = tokio::time::timeout(CONNECT, warm_up).await;

    let first_frame = uplinks.begin(plan, &clock).await;
    let mut packets = 0;
    let feeding = feed(
        plan,
        seed,
        first_frame,
        &clock,
        || plan.media.video,
        |sent| {
            for packet in cut(sent.coming.id, sent.bytes) {
                packets += 1;
                // A full socket buffer loses the packet, as a network would.
                let _ = socket.try_send_to(&packet, input);
            }
        },
    );
    let length = plan.media.length + peer.buffer + SLACK + DRAIN;
    let collecting = collect(&out, &clock, clock.now() + length);
    let (sent, arrived) = tokio::join!(feeding, collecting);
    let (video, audio) = judge(&sent, &arrived.frames, peer.buffer + SLACK);
    let mut outcome = Outcome { video, audio, uplinks: uplinks.outcome(), ..Outcome::default() };
    outcome.sender.media_bytes = sent.iter().map(|frame| frame.bytes as u64).sum();
    if arrived.packets == 0 {
        bail!("nothing came through RIST: is another ristreceiver running?");
    }
    Ok(PeerOutcome { outcome, packets, packets_lost: packets - arrived.packets.min(packets) })
}

/// Weights as one would set them by hand, knowing the rates.
fn weight(plan: &Plan, uplink: usize) -> u64 {
    let rate = match &plan.uplinks[uplink].up.rate {
        Rate::Fixed(rate) => *rate,
        Rate::Trace(trace) => trace.mean_rate(),
    };
    ((rate as f64 / 1e6).round() as u64).max(1)
}

fn start(program: &str, arguments: &[&str]) -> anyhow::Result<Child> {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {program}"))
}

/// An even port, as RTP-minded programs want it, that is free now.
fn free_port() -> anyhow::Result<SocketAddr> {
    for _ in 0..64 {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = socket.local_addr()?;
        if addr.port() % 2 == 0 {
            return Ok(addr);
        }
    }
    bail!("no even UDP port is free")
}

/// A frame in packets, each with a header that says where it belongs.
fn cut(id: FrameId, bytes: usize) -> Vec<Vec<u8>> {
    let payload = PACKET - HEADER;
    let count = bytes.div_ceil(payload).max(1);
    (0..count)
        .map(|index| {
            let mut packet = Vec::with_capacity(PACKET);
            packet.push(id.track.0);
            packet.extend(id.group.to_be_bytes());
            packet.extend(id.frame.to_be_bytes());
            packet.extend((index as u16).to_be_bytes());
            packet.extend((count as u16).to_be_bytes());
            packet.extend((bytes as u32).to_be_bytes());
            packet.resize(HEADER + payload.min(bytes - index * payload), 0);
            packet
        })
        .collect()
}

fn parse(packet: &[u8]) -> Option<(FrameId, u16, u16)> {
    let (header, _) = packet.split_at_checked(HEADER)?;
    let group = u64::from_be_bytes(header[1..9].try_into().ok()?);
    let frame = u32::from_be_bytes(header[9..13].try_into().ok()?);
    let index = u16::from_be_bytes([header[13], header[14]]);
    let count = u16::from_be_bytes([header[15], header[16]]);
    Some((FrameId { track: TrackId(header[0]), group, frame }, index, count))
}

#[derive(Default)]
struct Arrived {
    /// When the last piece of each whole frame came.
    frames: BTreeMap<FrameId, Time>,
    /// Pieces that came, each once.
    packets: u64,
}

async fn collect(socket: &UdpSocket, clock: &Clock, until: Time) -> Arrived {
    let mut arrived = Arrived::default();
    let mut pieces: BTreeMap<FrameId, Vec<bool>> = BTreeMap::new();
    let mut buffer = [0; 2048];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = tokio::time::sleep_until(clock.instant(until).into()) => return arrived,
        };
        let parsed = received.ok().and_then(|(len, _)| parse(&buffer[..len]));
        let Some((id, index, count)) = parsed.filter(|(id, ..)| id.track != WARM_UP) else { continue };
        let have = pieces.entry(id).or_insert_with(|| vec![false; usize::from(count)]);
        let Some(piece) = have.get_mut(usize::from(index)).filter(|have| !**have) else { continue };
        *piece = true;
        arrived.packets += 1;
        if have.iter().all(|have| *have) {
            arrived.frames.insert(id, clock.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_say_where_they_belong() {
        let id = FrameId { track: TrackId(1), group: 7, frame: 3 };
        let packets = cut(id, 3 * (PACKET - HEADER) + 1);
        assert_eq!(packets.iter().map(Vec::len).collect::<Vec<_>>(), [PACKET, PACKET, PACKET, HEADER + 1]);
        assert_eq!(parse(&packets[3]), Some((id, 3, 4)));
        assert_eq!(cut(id, 0).len(), 1);
        assert_eq!(parse(&[0; HEADER - 1]), None);
    }
}
