//! Bad uplinks for the demo, the tests and the benchmarks: a UDP proxy on loopback whose two directions go
//! through [`sim::Link`]s. What the bond's sockets see is what a modem would do to them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use media::Time;
use relay::clock::Clock;
use sim::{ACK_BYTES, Conditions, Cubic, Link, LinkStats, Outage, PACKET_BYTES};
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Largest UDP payload that passes.
const MAX_PACKET: usize = 2048;

/// IPv4 and UDP headers, which a real link carries too.
const HEADERS: usize = 28;

/// How long nothing may happen before the loop looks at its switches again.
const TICK: Duration = Duration::from_millis(100);

/// Waits are counted by the millisecond up to this one; longer ones count as this.
const LONGEST_WAIT: usize = 2000;

/// One emulated uplink, running.
pub struct Emulator {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// What one emulated uplink carried so far.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Towards the target, a rival's packets too.
    pub up: LinkStats,
    /// Back.
    pub down: LinkStats,
    /// How many packets towards the target waited so many milliseconds for their turn at the bottleneck.
    pub waits: Vec<u64>,
    /// Towards the target, what came to us from outside and what went on.
    pub own: Own,
    /// What the rival brought to its end, bytes, and how many of its packets were lost; where there is one.
    pub rival: Option<(u64, u64)>,
}

/// Packets and bytes, headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Came here,
    pub sent: u64,
    /// with so many bytes,
    pub sent_bytes: u64,
    /// of which so many packets went on to the target,
    pub delivered: u64,
    /// with so many bytes.
    pub delivered_bytes: u64,
}

/// What one uplink's day brings: blackouts, by the system clock.
#[derive(Clone, Debug, Default)]
pub struct Day {
    /// When recorded rates begin.
    pub begin: Time,
    /// Dark towards the target.
    pub up: Vec<Outage>,
    /// Dark on the way back.
    pub down: Vec<Outage>,
    /// From now on somebody else's Cubic flow (RFC 9438) goes towards the target.
    pub rival: bool,
}

/// What passes a link.
enum Packet {
    /// From outside.
    Datagram(Vec<u8>),
    /// The rival's, or its acknowledgement.
    Rival(u64),
}

#[derive(Default)]
struct Shared {
    down: AtomicBool,
    bytes: AtomicU64,
    traffic: Mutex<Traffic>,
    day: Mutex<Option<Day>>,
    wake: Notify,
}

impl Emulator {
    /// Starts a proxy in front of `target`; both directions get the same conditions. Must be called
    /// within a runtime.
    pub async fn start(target: SocketAddr, conditions: Conditions, seed: u64) -> io::Result<Self> {
        let near = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::start_at(near, target, conditions.clone(), conditions, seed).await
    }

    /// The same, reached at `near`, with conditions for each direction.
    pub async fn start_at(
        near: SocketAddr,
        target: SocketAddr,
        up: Conditions,
        down: Conditions,
        seed: u64,
    ) -> io::Result<Self> {
        let near = UdpSocket::bind(near).await?;
        let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = near.local_addr()?;
        let shared = Arc::new(Shared::default());
        let proxy = Proxy {
            near,
            far,
            target,
            client: None,
            clock: Clock::start(),
            up: Link::new(up, seed),
            down: Link::new(down, seed.wrapping_add(1)),
            rival: None,
            shared: shared.clone(),
        };
        let task = tokio::spawn(proxy.run());
        Ok(Self { addr, shared, task })
    }

    /// Send here in place of the target.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Pulls the cable (silently: nobody is told), or plugs it in again.
    pub fn set_up(&self, up: bool) {
        self.shared.down.store(!up, Ordering::Relaxed);
    }

    /// Whether the cable is in.
    pub fn is_up(&self) -> bool {
        !self.shared.down.load(Ordering::Relaxed)
    }

    /// Plans the day, in place of what was planned before.
    pub fn plan(&self, day: Day) {
        *lock(&self.shared.day) = Some(day);
        self.shared.wake.notify_one();
    }

    /// Bytes that entered it towards the target, headers included.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// What it carried so far, headers included.
    pub fn traffic(&self) -> Traffic {
        lock(&self.shared.traffic).clone()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Proxy {
    near: UdpSocket,
    far: UdpSocket,
    target: SocketAddr,
    client: Option<SocketAddr>,
    clock: Clock,
    up: Link<Packet>,
    down: Link<Packet>,
    rival: Option<Cubic>,
    shared: Arc<Shared>,
}

impl Proxy {
    async fn run(mut self) {
        let (mut near_buffer, mut far_buffer) = ([0; MAX_PACKET], [0; MAX_PACKET]);
        let mut was_down = false;
        loop {
            let rival = self.rival.as_ref().and_then(Cubic::poll_timeout);
            let timeouts = [self.up.poll_timeout(), self.down.poll_timeout(), rival];
            let idle = self.clock.now() + TICK;
            let wake: Time = timeouts.into_iter().flatten().min().unwrap_or(idle).min(idle);
            // An error on one packet (the target is not there) is the fate of that packet only.
            let (towards, away) = tokio::select! {
                received = self.near.recv_from(&mut near_buffer) => (received.ok(), None),
                received = self.far.recv_from(&mut far_buffer) => (None, received.ok()),
                () = tokio::time::sleep_until(self.clock.instant(wake).into()) => (None, None),
                () = self.shared.wake.notified() => (None, None),
            };
            let now = self.clock.now();
            let down = self.shared.down.load(Ordering::Relaxed);
            if down != was_down {
                was_down = down;
                self.up.set_up(!down, now);
                self.down.set_up(!down, now);
            }
            if let Some(day) = lock(&self.shared.day).take() {
                self.up.begin(day.begin);
                self.up.set_outages(day.up);
                self.down.begin(day.begin);
                self.down.set_outages(day.down);
                self.rival = day.rival.then(Cubic::default);
            }
            if let Some((len, from)) = towards {
                self.client = Some(from);
                let wait = self.up.send(Packet::Datagram(near_buffer[..len].to_vec()), len + HEADERS, now);
                self.shared.bytes.fetch_add((len + HEADERS) as u64, Ordering::Relaxed);
                self.count(len, wait);
            }
            if let Some((len, _)) = away {
                self.down.send(Packet::Datagram(far_buffer[..len].to_vec()), len + HEADERS, now);
            }
            let delivered = self.pass(now);
            let mut traffic = lock(&self.shared.traffic);
            (traffic.up, traffic.down) = (self.up.stats(), self.down.stats());
            traffic.own.delivered += delivered.0;
            traffic.own.delivered_bytes += delivered.1;
            traffic.rival = self.rival.as_ref().map(|rival| (rival.delivered_bytes(), rival.lost()));
        }
    }

    /// Hands on what has come through, and lets the rival send. Packets from outside that reached the target, and
    /// their bytes.
    fn pass(&mut self, now: Time) -> (u64, u64) {
        let mut delivered = (0, 0);
        while let Some(packet) = self.up.poll(now) {
            match packet {
                Packet::Datagram(data) => {
                    delivered = (delivered.0 + 1, delivered.1 + (data.len() + HEADERS) as u64);
                    let _ = self.far.try_send_to(&data, self.target);
                }
                Packet::Rival(number) => drop(self.down.send(Packet::Rival(number), ACK_BYTES, now)),
            }
        }
        while let Some(packet) = self.down.poll(now) {
            match (packet, self.client, &mut self.rival) {
                (Packet::Datagram(data), Some(client), _) => drop(self.near.try_send_to(&data, client)),
                (Packet::Rival(number), _, Some(rival)) => rival.handle_ack(number, now),
                _ => {}
            }
        }
        if let Some(rival) = &mut self.rival {
            rival.handle_timeout(now);
            while let Some(number) = rival.poll_transmit(now) {
                self.up.send(Packet::Rival(number), PACKET_BYTES, now);
            }
        }
        delivered
    }

    fn count(&self, len: usize, wait: Option<Duration>) {
        let mut traffic = lock(&self.shared.traffic);
        traffic.own.sent += 1;
        traffic.own.sent_bytes += (len + HEADERS) as u64;
        let Some(wait) = wait else { return };
        let millis = (wait.as_millis() as usize).min(LONGEST_WAIT);
        let waits = &mut traffic.waits;
        if waits.len() <= millis {
            waits.resize(millis + 1, 0);
        }
        waits[millis] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ends(conditions: Conditions) -> (UdpSocket, UdpSocket, Emulator) {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let emulator = Emulator::start(server.local_addr().unwrap(), conditions, 1).await.unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        client.connect(emulator.addr()).await.unwrap();
        (server, client, emulator)
    }

    #[tokio::test]
    async fn packets_pass_both_ways_and_a_pulled_cable_passes_none() {
        let conditions = Conditions { delay: Duration::from_millis(5), ..Conditions::default() };
        let (server, client, emulator) = ends(conditions).await;
        let mut buffer = [0; 64];

        client.send(b"one").await.unwrap();
        let (len, from) = server.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..len], b"one");
        server.send_to(b"two", from).await.unwrap();
        let len = client.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..len], b"two");

        emulator.set_up(false);
        client.send(b"lost").await.unwrap();
        // The packet has been swallowed once the proxy has counted it.
        while emulator.bytes() < (3 + 4 + 2 * HEADERS) as u64 {
            tokio::task::yield_now().await;
        }
        emulator.set_up(true);
        client.send(b"three").await.unwrap();
        let (len, _) = server.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..len], b"three");
    }

    #[tokio::test]
    async fn a_planned_blackout_of_one_direction_and_the_books() {
        let (server, client, emulator) = ends(Conditions::default()).await;
        let now = Clock::start().now();
        let down = vec![Outage { from: now, until: now + Duration::from_secs(60) }];
        emulator.plan(Day { begin: now, down, ..Day::default() });
        let mut buffer = [0; 64];
        for n in 1..=2 {
            client.send(b"up").await.unwrap();
            let (_, from) = server.recv_from(&mut buffer).await.unwrap();
            server.send_to(b"down", from).await.unwrap();
            while emulator.traffic().down.outage_drops < n {
                tokio::task::yield_now().await;
            }
        }
        let traffic = emulator.traffic();
        assert_eq!((traffic.up.delivered, traffic.up.delivered_bytes), (2, 2 * (2 + HEADERS) as u64));
        assert_eq!((traffic.down.sent, traffic.down.delivered), (2, 0));
        assert_eq!(traffic.waits, [2]);
        assert_eq!((traffic.own.sent, traffic.own.delivered, traffic.rival), (2, 2, None));
    }

    #[tokio::test]
    async fn a_rival_takes_the_link_and_is_told_apart() {
        let rate = sim::Rate::Fixed(5_000_000);
        let conditions = Conditions { rate, queue: Duration::from_millis(20), ..Conditions::default() };
        let (server, client, emulator) = ends(conditions).await;
        let begin = Clock::start().now();
        emulator.plan(Day { begin, rival: true, ..Day::default() });
        while emulator.traffic().rival.is_none_or(|(delivered, _)| delivered < 20_000) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The rival keeps the queue full: ours gets through when it finds room.
        let (mut sent, mut buffer) = (0, [0; 64]);
        let came = loop {
            client.send(b"mine").await.unwrap();
            sent += 1;
            let patience = Duration::from_millis(50);
            if let Ok(came) = tokio::time::timeout(patience, server.recv_from(&mut buffer)).await {
                break came.unwrap().0;
            }
        };
        assert_eq!(came, 4, "only ours goes on");
        let own = emulator.traffic().own;
        assert_eq!((own.sent, own.sent_bytes), (sent, sent * (4 + HEADERS) as u64));
    }
}
