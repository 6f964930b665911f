//! A viewer's session: everything is moq-net's, but for subscriptions to what is live here, which [`super::pump`] serves.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use moq_net::origin;
use web_transport_quinn::{self as web_transport, ReadError, RecvStream, SendStream, SessionError};
use web_transport_trait::{Stats, poll};

use super::lite::{Subscribe, Version, Wish};
use super::live::{Live, Lives};
use super::pump::{Join, Wishes};

/// Read at once from a stream of control messages. A message that is longer is malformed (`lite.rs`).
const READ: usize = 8 * 1024;

/// What a viewer may see, once that is known; nothing before.
pub(super) type Scope = Arc<OnceLock<origin::Consumer>>;

/// A session whose subscriptions to what is live are served by us. Clones are handles of the same session.
pub(super) struct Session {
    inner: web_transport::Session,
    version: Option<Version>,
    lives: Lives,
    scope: Scope,
    /// Tells viewers apart.
    number: usize,
    /// Streams whose beginning is being read.
    begun: Vec<Beginning>,
}

struct Beginning {
    send: SendStream,
    receive: RecvStream,
    read: BytesMut,
}

impl Clone for Session {
    fn clone(&self) -> Self {
        // What one handle has accepted, another has not.
        let (inner, lives, scope) = (self.inner.clone(), self.lives.clone(), self.scope.clone());
        Self { inner, version: self.version, lives, scope, number: self.number, begun: Vec::new() }
    }
}

impl Session {
    pub fn new(inner: web_transport::Session, lives: Lives, scope: Scope) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let version = poll::Session::protocol(&inner).and_then(Version::from_protocol);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { inner, version, lives, scope, number, begun: Vec::new() }
    }

    /// Reads on in the beginning of a stream, until it is known whose it is. Ready with `None`: ours, and it is served.
    fn poll_begun(
        &mut self,
        at: usize,
        version: Version,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(SendStream, Receive)>> {
        let Some(begun) = self.begun.get_mut(at) else { return Poll::Ready(None) };
        // What ends early, is malformed or no SUBSCRIBE at all is moq-net's to judge.
        let subscribe = loop {
            let mut rest = &begun.read[..];
            match Subscribe::take(&mut rest, version) {
                Ok(Some(subscribe)) => break Some((subscribe, begun.read.len() - rest.len())),
                Ok(None) => {}
                Err(_) => break None,
            }
            match ready!(poll::RecvStream::poll_read_chunk(&mut begun.receive, cx, READ)) {
                Ok(Some(chunk)) => begun.read.extend_from_slice(&chunk),
                _ => break None,
            }
        };
        let ours = subscribe.and_then(|(subscribe, length)| {
            let (live, track) = self.find(&subscribe)?;
            Some((subscribe, length, live, track))
        });
        let mut begun = self.begun.swap_remove(at);
        let Some((subscribe, length, live, track)) = ours else {
            let Beginning { send, receive, read } = begun;
            return Poll::Ready(Some((send, Receive { read: read.freeze(), inner: receive })));
        };
        begun.read.advance(length);
        self.serve(begun, &subscribe, version, &live, track);
        Poll::Ready(None)
    }

    /// What we forward for a subscription. moq-net serves all that asks for more than what is live: for groups that are
    /// not held any more, or for parts of groups; and it refuses what the viewer may not see.
    fn find(&self, subscribe: &Subscribe) -> Option<(Arc<Live>, usize)> {
        let Wish { first, last, partial, .. } = subscribe.wish;
        let scope = self.scope.get()?;
        let path = subscribe.broadcast.as_str();
        if last.is_some() || partial || !scope.allowed().matches(path) {
            return None;
        }
        let name = scope.absolute(path);
        let (live, track) = match self.lives.own(name.as_str()) {
            Some(own) => own.find(&subscribe.track).map(|track| (own, track)),
            None => Some((self.lives.copy(name.as_str(), path, &subscribe.track, scope), 0)),
        }?;
        first.is_none_or(|first| live.holds(track, first)).then_some((live, track))
    }

    fn serve(
        &self,
        begun: Beginning,
        subscribe: &Subscribe,
        version: Version,
        live: &Arc<Live>,
        track: usize,
    ) {
        let wishes = Arc::new(Wishes::new(&subscribe.wish));
        let Beginning { send, receive, read } = begun;
        let join = Join {
            viewer: self.number,
            session: self.inner.clone(),
            version,
            track,
            id: subscribe.id,
            answers: send,
            wishes: wishes.clone(),
        };
        match live.join(join) {
            // It has ended just now; the end of the stream says so.
            Some(late) => drop(late),
            None => drop(tokio::spawn(listen(receive, read, version, wishes, live.clone(), self.number))),
        }
    }
}

/// Listens to what a subscriber wants, until it wants nothing more.
async fn listen(
    mut receive: RecvStream,
    mut read: BytesMut,
    version: Version,
    wishes: Arc<Wishes>,
    live: Arc<Live>,
    viewer: usize,
) {
    loop {
        let input = &mut &read[..];
        match Wish::take_update(input, version) {
            Ok(Some(wish)) => {
                let rest = input.len();
                read.advance(read.len() - rest);
                wishes.update(&wish);
                live.look(viewer);
                continue;
            }
            Ok(None) => {}
            Err(_) => break,
        }
        match poll_fn(|cx| poll::RecvStream::poll_read_chunk(&mut receive, cx, READ)).await {
            Ok(Some(chunk)) => read.extend_from_slice(&chunk),
            _ => break,
        }
    }
    wishes.leave();
    live.look(viewer);
}

impl poll::Session for Session {
    type SendStream = SendStream;
    type RecvStream = Receive;
    type Error = SessionError;

    fn poll_accept_uni(&mut self, cx: &mut Context<'_>) -> Poll<Result<Receive, SessionError>> {
        let inner = ready!(poll::Session::poll_accept_uni(&mut self.inner, cx))?;
        Poll::Ready(Ok(Receive { read: Bytes::new(), inner }))
    }

    fn poll_accept_bi(&mut self, cx: &mut Context<'_>) -> Poll<Result<(SendStream, Receive), SessionError>> {
        let Some(version) = self.version else {
            let (send, inner) = ready!(poll::Session::poll_accept_bi(&mut self.inner, cx))?;
            return Poll::Ready(Ok((send, Receive { read: Bytes::new(), inner })));
        };
        // QUIC bounds how many there can be.
        while let Poll::Ready(accepted) = poll::Session::poll_accept_bi(&mut self.inner, cx) {
            let (send, receive) = accepted?;
            self.begun.push(Beginning { send, receive, read: BytesMut::new() });
        }
        let mut at = 0;
        while at < self.begun.len() {
            match self.poll_begun(at, version, cx) {
                Poll::Ready(Some(theirs)) => return Poll::Ready(Ok(theirs)),
                // Another one is in its place.
                Poll::Ready(None) => {}
                Poll::Pending => at += 1,
            }
        }
        Poll::Pending
    }

    fn poll_open_uni(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream, SessionError>> {
        poll::Session::poll_open_uni(&mut self.inner, cx)
    }

    fn poll_open_bi(&mut self, cx: &mut Context<'_>) -> Poll<Result<(SendStream, Receive), SessionError>> {
        let (send, inner) = ready!(poll::Session::poll_open_bi(&mut self.inner, cx))?;
        Poll::Ready(Ok((send, Receive { read: Bytes::new(), inner })))
    }

    fn poll_send_datagram(&mut self, cx: &mut Context<'_>, payload: &[u8]) -> Poll<Result<(), SessionError>> {
        poll::Session::poll_send_datagram(&mut self.inner, cx, payload)
    }

    fn poll_recv_datagram(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, SessionError>> {
        poll::Session::poll_recv_datagram(&mut self.inner, cx)
    }

    fn max_datagram_size(&self) -> usize {
        poll::Session::max_datagram_size(&self.inner)
    }

    fn protocol(&self) -> Option<&str> {
        poll::Session::protocol(&self.inner)
    }

    fn close(&mut self, code: u32, reason: &str) {
        poll::Session::close(&mut self.inner, code, reason);
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<SessionError> {
        poll::Session::poll_closed(&mut self.inner, cx)
    }

    fn stats(&self) -> impl Stats {
        poll::Session::stats(&self.inner)
    }
}

/// A stream from the viewer, of which the beginning may have been read already.
pub(super) struct Receive {
    read: Bytes,
    inner: RecvStream,
}

impl poll::RecvStream for Receive {
    type Error = ReadError;

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<Result<Option<usize>, ReadError>> {
        if self.read.is_empty() {
            return poll::RecvStream::poll_read(&mut self.inner, cx, into);
        }
        let length = self.read.len().min(into.len());
        self.read.copy_to_slice(&mut into[..length]);
        Poll::Ready(Ok(Some(length)))
    }

    fn stop(&mut self, code: u32) {
        poll::RecvStream::stop(&mut self.inner, code);
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReadError>> {
        poll::RecvStream::poll_closed(&mut self.inner, cx)
    }
}
