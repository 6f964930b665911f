//! Bad uplinks for the demo and the tests: a UDP proxy on loopback whose two directions go through
//! [`sim::Link`]s. What the bond's sockets see is what a modem would do to them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use media::Time;
use relay::clock::Clock;
use sim::{Conditions, Link};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Largest UDP payload that passes.
const MAX_PACKET: usize = 2048;

/// IPv4 and UDP headers, which a real link carries too.
const HEADERS: usize = 28;

/// How long nothing may happen before the loop looks at its switches again.
const TICK: Duration = Duration::from_millis(100);

/// One emulated uplink, running.
pub struct Emulator {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    down: AtomicBool,
    bytes: AtomicU64,
}

impl Emulator {
    /// Starts a proxy in front of `target`; both directions get the same conditions. Must be called
    /// within a runtime.
    pub async fn start(target: SocketAddr, conditions: Conditions, seed: u64) -> io::Result<Self> {
        let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = near.local_addr()?;
        let shared = Arc::new(Shared::default());
        let proxy = Proxy {
            near,
            far,
            target,
            client: None,
            clock: Clock::start(),
            up: Link::new(conditions.clone(), seed),
            down: Link::new(conditions, seed.wrapping_add(1)),
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

    /// Bytes that entered it towards the target, headers included.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Proxy {
    near: UdpSocket,
    far: UdpSocket,
    target: SocketAddr,
    client: Option<SocketAddr>,
    clock: Clock,
    up: Link<Vec<u8>>,
    down: Link<Vec<u8>>,
    shared: Arc<Shared>,
}

impl Proxy {
    async fn run(mut self) {
        let (mut near_buffer, mut far_buffer) = ([0; MAX_PACKET], [0; MAX_PACKET]);
        let mut was_down = false;
        loop {
            let timeouts = [self.up.poll_timeout(), self.down.poll_timeout()];
            let idle = self.clock.now() + TICK;
            let wake: Time = timeouts.into_iter().flatten().min().unwrap_or(idle).min(idle);
            // An error on one packet (the target is not there) is the fate of that packet only.
            let (towards, away) = tokio::select! {
                received = self.near.recv_from(&mut near_buffer) => (received.ok(), None),
                received = self.far.recv_from(&mut far_buffer) => (None, received.ok()),
                () = tokio::time::sleep_until(self.clock.instant(wake).into()) => (None, None),
            };
            let now = self.clock.now();
            let down = self.shared.down.load(Ordering::Relaxed);
            if down != was_down {
                was_down = down;
                self.up.set_up(!down, now);
                self.down.set_up(!down, now);
            }
            if let Some((len, from)) = towards {
                self.client = Some(from);
                self.up.send(near_buffer[..len].to_vec(), len + HEADERS, now);
                self.shared.bytes.fetch_add((len + HEADERS) as u64, Ordering::Relaxed);
            }
            if let Some((len, _)) = away {
                self.down.send(far_buffer[..len].to_vec(), len + HEADERS, now);
            }
            while let Some(packet) = self.up.poll(now) {
                let _ = self.far.try_send_to(&packet, self.target);
            }
            while let Some(packet) = self.down.poll(now) {
                if let Some(client) = self.client {
                    let _ = self.near.try_send_to(&packet, client);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_pass_both_ways_and_a_pulled_cable_passes_none() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let conditions = Conditions { delay: Duration::from_millis(5), ..Conditions::default() };
        let emulator = Emulator::start(server.local_addr().unwrap(), conditions, 1).await.unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        client.connect(emulator.addr()).await.unwrap();
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
}
