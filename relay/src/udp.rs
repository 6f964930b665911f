//! UDP for QUIC: what [`quinn::TokioRuntime`] does, with fewer wake-ups.
//!
//! A show is some 200 small events a second, and what each costs is the system call that waits for it. Three kinds of
//! them bring nothing: word that a socket may be written to, after every datagram that has left it; a second look into
//! a socket that has just been emptied; and timers that were put off, but go off all the same at their first time, as
//! tokio's do.

use std::future::Future;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Sleep, sleep_until};

use crate::counters::Traffic;

/// A socket whose buffer is full is tried again after this long: in a millisecond a gigabit per second takes 125 kB out
/// of it, less than any buffer holds.
const FULL: Duration = Duration::from_millis(1);

/// Drives an endpoint of quinn in tokio, and counts what goes over its socket.
#[derive(Debug, Default)]
pub(crate) struct Runtime(pub Arc<Traffic>);

impl quinn::Runtime for Runtime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn quinn::AsyncTimer>> {
        Box::pin(Timer(Box::pin(sleep_until(at.into()))))
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(Socket::new(socket, self.0.clone())?))
    }
}

#[derive(Debug)]
struct Timer(Pin<Box<Sleep>>);

impl quinn::AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        let at = at.into();
        if at > self.0.deadline() {
            // Reset, it would keep its place in tokio's wheel until that comes round.
            self.0.set(sleep_until(at));
        } else {
            self.0.as_mut().reset(at);
        }
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Future::poll(self.0.as_mut(), cx)
    }
}

#[derive(Debug)]
struct Socket {
    io: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    /// The last datagram did not fit.
    full: AtomicBool,
    traffic: Arc<Traffic>,
}

impl Socket {
    fn new(socket: UdpSocket, traffic: Arc<Traffic>) -> io::Result<Self> {
        // It makes the socket non-blocking, which [`AsyncFd`] asks for.
        let state = UdpSocketState::new((&socket).into())?;
        // SAFETY: the socket owns its descriptor, gives it out for as long as it lives, and stays in there.
        let io = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self { io, state, full: AtomicBool::new(false), traffic })
    }
}

fn count(datagrams: &AtomicU64, bytes: &AtomicU64, more: usize, length: usize) {
    datagrams.fetch_add(more as u64, Relaxed);
    bytes.fetch_add(length as u64, Relaxed);
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room { socket: self, wait: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let result = self.state.send(self.io.get_ref().into(), transmit);
        match &result {
            Ok(()) => {
                let (bytes, segment) = (transmit.contents.len(), transmit.segment_size);
                let datagrams = segment.map_or(1, |segment| bytes.div_ceil(segment.max(1)));
                count(&self.traffic.sent_datagrams, &self.traffic.sent_bytes, datagrams, bytes);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.full.store(true, Relaxed),
            Err(_) => {}
        }
        result
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.io.poll_read_ready(cx))?;
            let room = buffers.len().min(meta.len());
            match self.state.recv(self.io.get_ref().into(), buffers, meta) {
                Ok(received) => {
                    // There was no more. What comes from now on is told anew.
                    if received < room {
                        ready.clear_ready();
                    }
                    for meta in meta.iter().take(received) {
                        let datagrams = meta.len.div_ceil(meta.stride.max(1));
                        let traffic = &self.traffic;
                        count(&traffic.received_datagrams, &traffic.received_bytes, datagrams, meta.len);
                    }
                    return Poll::Ready(Ok(received));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

/// Room in the socket's buffer, as one connection waits for it.
#[derive(Debug)]
struct Room {
    socket: Arc<Socket>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl UdpPoller for Room {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.wait.is_none() && !self.socket.full.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let wait = self.wait.get_or_insert_with(|| Box::pin(tokio::time::sleep(FULL)));
        ready!(wait.as_mut().poll(cx));
        self.wait = None;
        self.socket.full.store(false, Relaxed);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::Ipv4Addr;

    use super::*;

    fn socket() -> Arc<dyn AsyncUdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        quinn::Runtime::wrap_udp_socket(&Runtime::default(), socket).unwrap()
    }

    fn datagram(to: &dyn AsyncUdpSocket, contents: &'static [u8]) -> Transmit<'static> {
        Transmit {
            destination: to.local_addr().unwrap(),
            ecn: None,
            contents,
            segment_size: None,
            src_ip: None,
        }
    }

    /// Receives this many datagrams; says how many each look gave.
    async fn receive(socket: &dyn AsyncUdpSocket, count: usize) -> Vec<usize> {
        let mut looks = Vec::new();
        while looks.iter().sum::<usize>() < count {
            let mut space = [[0; 2_000]; 4];
            let mut buffers = space.each_mut().map(|space| IoSliceMut::new(space));
            let mut meta = [RecvMeta::default(); 4];
            looks.push(poll_fn(|cx| socket.poll_recv(cx, &mut buffers, &mut meta)).await.unwrap());
        }
        looks
    }

    #[tokio::test]
    async fn every_datagram_comes_whether_one_look_holds_it_or_not() {
        let (from, to) = (socket(), socket());
        for count in [1, 4, 11, 3, 8] {
            for _ in 0..count {
                from.try_send(&datagram(&*to, b"x")).unwrap();
            }
            let looks = receive(&*to, count).await;
            assert_eq!(looks.iter().sum::<usize>(), count, "{looks:?}");
        }
        // And one that comes while it is waited for.
        let waiting = tokio::spawn({
            let to = to.clone();
            async move { receive(&*to, 1).await }
        });
        tokio::task::yield_now().await;
        from.try_send(&datagram(&*to, b"y")).unwrap();
        assert_eq!(waiting.await.unwrap(), [1]);
    }

    #[tokio::test]
    async fn who_sends_into_a_full_buffer_waits_and_then_goes_on() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let socket = Arc::new(Socket::new(socket, Arc::default()).unwrap());
        let mut room = socket.clone().create_io_poller();
        assert!(poll_fn(|cx| Poll::Ready(room.as_mut().poll_writable(cx))).await.is_ready());
        // As the kernel's refusal sets it.
        socket.full.store(true, Relaxed);
        assert!(poll_fn(|cx| Poll::Ready(room.as_mut().poll_writable(cx))).await.is_pending());
        poll_fn(|cx| room.as_mut().poll_writable(cx)).await.unwrap();
        assert!(!socket.full.load(Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_goes_off_at_the_time_it_was_set_to_last() {
        let begin = tokio::time::Instant::now();
        let at = |ms| (begin + Duration::from_millis(ms)).into_std();
        let mut timer = quinn::Runtime::new_timer(&Runtime::default(), at(100));
        for (reset, expected) in [(50, 50), (400, 400), (1_000, 1_000)] {
            timer.as_mut().reset(at(reset));
            poll_fn(|cx| timer.as_mut().poll(cx)).await;
            assert_eq!(begin.elapsed(), Duration::from_millis(expected));
        }
    }
}
