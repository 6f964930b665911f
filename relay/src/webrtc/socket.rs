//! The one UDP socket of all sessions: datagrams that go the same way leave in one system call where the kernel can
//! cut them up (GSO).

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::stats::Stats;

/// Looks at once into so many datagrams, or runs of datagrams (GRO).
const BATCH: usize = 8;

/// The longest run that the kernel gives.
const RUN: usize = 64 * 1024;

/// The longest run that we give to the kernel: what fits into a datagram of IP.
const MAX_TRAIN: usize = 60_000;

pub(super) struct Socket {
    io: AsyncFd<std::net::UdpSocket>,
    state: UdpSocketState,
    v6: bool,
    /// Datagrams leave from the address that they name.
    pin: bool,
    train: Train,
    stats: Arc<Stats>,
}

/// Datagrams of one length to one address, the last one of which may be shorter.
#[derive(Default)]
struct Train {
    to: Option<(SocketAddr, Option<IpAddr>)>,
    segment: usize,
    bytes: Vec<u8>,
    closed: bool,
}

/// Where datagrams come in.
pub(super) struct Inbox {
    space: Vec<u8>,
    meta: [RecvMeta; BATCH],
    filled: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { space: vec![0; BATCH * RUN], meta: [RecvMeta::default(); BATCH], filled: 0 }
    }
}

impl Inbox {
    /// What the last look has brought.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.meta.iter().zip(self.space.chunks(RUN)).take(self.filled).flat_map(|(meta, run)| {
            let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
            let to = meta.dst_ip.map(|ip| ip.to_canonical());
            let run = run.get(..meta.len).unwrap_or_default();
            run.chunks(meta.stride.max(1)).map(move |bytes| Datagram { from, to, bytes })
        })
    }
}

/// A datagram that came.
pub(super) struct Datagram<'a> {
    pub from: SocketAddr,
    /// The address of ours that it was sent to.
    pub to: Option<IpAddr>,
    pub bytes: &'a [u8],
}

impl Socket {
    pub fn new(socket: std::net::UdpSocket, pin: bool, stats: Arc<Stats>) -> io::Result<Self> {
        let v6 = socket.local_addr()?.is_ipv6();
        // It makes the socket non-blocking, which [`AsyncFd`] asks for.
        let state = UdpSocketState::new((&socket).into())?;
        // SAFETY: the socket owns its descriptor, gives it out for as long as it lives, and stays in there.
        let io = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self { io, state, v6, pin, train: Train::default(), stats })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    /// Waits for datagrams.
    pub async fn receive(&self, inbox: &mut Inbox) -> io::Result<()> {
        inbox.filled = 0;
        let mut ready = self.io.readable().await?;
        let mut runs = inbox.space.chunks_mut(RUN).map(IoSliceMut::new);
        let mut runs: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| runs.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
        match self.state.recv(self.io.get_ref().into(), &mut runs, &mut inbox.meta) {
            Ok(filled) => inbox.filled = filled,
            Err(error) if error.kind() == ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) => return Err(error),
        }
        for datagram in inbox.datagrams() {
            self.stats.received(datagram.bytes.len());
        }
        Ok(())
    }

    /// Sends a datagram, together with others that go the same way. [`flush`](Self::flush) comes after the last one.
    pub fn send(&mut self, to: SocketAddr, from: Option<IpAddr>, bytes: &[u8]) {
        let from = from.filter(|_| self.pin);
        let train = &self.train;
        let segments = train.bytes.len().div_ceil(train.segment.max(1));
        let fits = train.to == Some((to, from))
            && !train.closed
            && bytes.len() <= train.segment
            && segments < self.state.max_gso_segments()
            && train.bytes.len() + bytes.len() <= MAX_TRAIN;
        if !fits {
            self.flush();
            self.train.to = Some((to, from));
            self.train.segment = bytes.len();
        }
        self.train.closed = bytes.len() < self.train.segment;
        self.train.bytes.extend_from_slice(bytes);
    }

    /// Nobody is waited for: what the kernel has no room for is lost, and asked for again by those whom it was for.
    pub fn flush(&mut self) {
        let Train { to, segment, bytes, .. } = &self.train;
        if let Some((to, from)) = to.filter(|_| !bytes.is_empty()) {
            let datagrams = bytes.len().div_ceil((*segment).max(1));
            let transmit = Transmit {
                destination: SocketAddr::new(self.family(to.ip()), to.port()),
                ecn: None,
                contents: bytes,
                segment_size: (datagrams > 1).then_some(*segment),
                src_ip: from.map(|ip| self.family(ip)),
            };
            match self.state.try_send(self.io.get_ref().into(), &transmit) {
                Ok(()) => self.stats.sent(datagrams, bytes.len()),
                Err(_) => drop(self.stats.unsent.fetch_add(datagrams as u64, Relaxed)),
            }
        }
        self.train.to = None;
        self.train.closed = false;
        self.train.bytes.clear();
    }

    /// As a socket for both families writes it.
    fn family(&self, ip: IpAddr) -> IpAddr {
        match ip {
            IpAddr::V4(v4) if self.v6 => v4.to_ipv6_mapped().into(),
            ip => ip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_datagram_arrives_as_it_was_sent_whatever_trains_it_was_in() {
        let any = || std::net::UdpSocket::bind("[::]:0").unwrap();
        let mut from = Socket::new(any(), false, Arc::default()).unwrap();
        let to = Socket::new(any(), false, Arc::default()).unwrap();
        let port = to.local_addr().unwrap().port();
        let lengths = [1200, 1200, 1200, 300, 1200, 90, 90, 1200, 40, 41];
        let mut sent = Vec::new();
        for (n, length) in lengths.into_iter().enumerate() {
            let address: SocketAddr = if n < 6 {
                ([127, 0, 0, 1], port).into()
            } else {
                SocketAddr::new("::1".parse().unwrap(), port)
            };
            let bytes = vec![n as u8; length];
            from.send(address, None, &bytes);
            sent.push((address.ip(), bytes));
        }
        from.flush();
        let (mut inbox, mut received) = (Inbox::default(), Vec::new());
        while received.len() < lengths.len() {
            to.receive(&mut inbox).await.unwrap();
            received
                .extend(inbox.datagrams().map(|datagram| (datagram.to.unwrap(), datagram.bytes.to_vec())));
        }
        assert_eq!(received, sent);
        let stats = &from.stats;
        assert_eq!((stats.sent_datagrams.load(Relaxed), stats.unsent.load(Relaxed)), (10, 0));
        assert_eq!(stats.sent_bytes.load(Relaxed) as usize, lengths.iter().sum::<usize>());
    }
}
