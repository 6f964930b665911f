//! QMux's sessions as moq-net wants them. The crate `qmux` has asynchronous operations, moq-net polls. (moq's own adapter
//! comes with all of moq-tokio: docs/decisions/0027.)
//!
//! An operation under way owns its stream. Whoever wants the stream meanwhile takes it back: the operations of `qmux`
//! may be dropped at any await, and a flag makes them end there.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use qmux::Error;
use web_transport_trait::{RecvStream as _, SendStream as _, Session as _, Stats, poll};

/// What one write takes of its caller: a record of QMux.
const WRITE: usize = 16 * 1024;

type Operation<T> = Pin<Box<dyn Future<Output = T> + std::marker::Send>>;

/// An operation under way. The lock is never taken: moq-net shares sessions between tasks, and a boxed future is not
/// [`Sync`] by itself.
struct Slot<T>(Option<Mutex<Operation<T>>>);

impl<T> Slot<T> {
    fn poll(&mut self, cx: &mut Context<'_>, start: impl FnOnce() -> Operation<T>) -> Poll<T> {
        let slot = self.0.get_or_insert_with(|| Mutex::new(start()));
        let operation = slot.get_mut().unwrap_or_else(PoisonError::into_inner);
        let output = ready!(operation.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(output)
    }

    /// The same with an operation of a session.
    fn poll_with<F: Future<Output = T> + std::marker::Send + 'static>(
        &mut self,
        cx: &mut Context<'_>,
        session: &qmux::Session,
        start: impl FnOnce(qmux::Session) -> F,
    ) -> Poll<T> {
        self.poll(cx, || Box::pin(start(session.clone())))
    }
}

type Both = (qmux::SendStream, qmux::RecvStream);

/// A session. Each clone has its own operations under way.
pub(super) struct Session {
    inner: qmux::Session,
    accept_uni: Slot<Result<qmux::RecvStream, Error>>,
    accept_bi: Slot<Result<Both, Error>>,
    open_uni: Slot<Result<qmux::SendStream, Error>>,
    open_bi: Slot<Result<Both, Error>>,
    datagram: Slot<Result<Bytes, Error>>,
    closed: Slot<Error>,
}

impl Session {
    pub fn new(inner: qmux::Session) -> Self {
        Self {
            inner,
            accept_uni: Slot(None),
            accept_bi: Slot(None),
            open_uni: Slot(None),
            open_bi: Slot(None),
            datagram: Slot(None),
            closed: Slot(None),
        }
    }
}

impl Clone for Session {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone())
    }
}

fn both(streams: Result<Both, Error>) -> Result<(Send, Receive), Error> {
    streams.map(|(send, receive)| (Send::new(send), Receive::new(receive)))
}

impl poll::Session for Session {
    type SendStream = Send;
    type RecvStream = Receive;
    type Error = Error;

    fn poll_accept_uni(&mut self, cx: &mut Context<'_>) -> Poll<Result<Receive, Error>> {
        self.accept_uni
            .poll_with(cx, &self.inner, |session| async move { session.accept_uni().await })
            .map_ok(Receive::new)
    }

    fn poll_accept_bi(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Send, Receive), Error>> {
        self.accept_bi
            .poll_with(cx, &self.inner, |session| async move { session.accept_bi().await })
            .map(both)
    }

    fn poll_open_uni(&mut self, cx: &mut Context<'_>) -> Poll<Result<Send, Error>> {
        self.open_uni
            .poll_with(cx, &self.inner, |session| async move { session.open_uni().await })
            .map_ok(Send::new)
    }

    fn poll_open_bi(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Send, Receive), Error>> {
        self.open_bi.poll_with(cx, &self.inner, |session| async move { session.open_bi().await }).map(both)
    }

    fn poll_send_datagram(&mut self, _: &mut Context<'_>, payload: &[u8]) -> Poll<Result<(), Error>> {
        Poll::Ready(self.inner.send_datagram(Bytes::copy_from_slice(payload)))
    }

    fn poll_recv_datagram(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Error>> {
        self.datagram.poll_with(cx, &self.inner, |session| async move { session.recv_datagram().await })
    }

    fn max_datagram_size(&self) -> usize {
        self.inner.max_datagram_size()
    }

    fn protocol(&self) -> Option<&str> {
        self.inner.protocol()
    }

    fn close(&mut self, code: u32, reason: &str) {
        self.inner.close(code, reason);
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.closed.poll_with(cx, &self.inner, |session| async move { session.closed().await })
    }

    fn stats(&self) -> impl Stats {
        self.inner.stats()
    }
}

/// What a stream is lent for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Data,
    Closed,
}

/// A stream, here or with its operation.
struct Loan<S, T> {
    here: Option<S>,
    operation: Slot<(S, T)>,
    purpose: Purpose,
    back: Arc<AtomicBool>,
}

impl<S: 'static, T: 'static> Loan<S, T> {
    fn new(stream: S) -> Self {
        Self { here: Some(stream), operation: Slot(None), purpose: Purpose::Data, back: Arc::default() }
    }

    fn is_lent_for(&self, purpose: Purpose) -> bool {
        self.here.is_none() && self.purpose == purpose
    }

    /// Starts an operation, or goes on with the one under way.
    fn poll(
        &mut self,
        purpose: Purpose,
        cx: &mut Context<'_>,
        start: impl FnOnce(S, Back) -> Operation<(S, T)>,
    ) -> Poll<T> {
        if let Some(stream) = self.here.take() {
            self.back.store(false, Ordering::Relaxed);
            self.purpose = purpose;
            self.operation = Slot(Some(Mutex::new(start(stream, Back(self.back.clone())))));
        }
        self.go_on(cx)
    }

    fn go_on(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        let (stream, output) = ready!(self.operation.poll(cx, || Box::pin(std::future::pending::<(S, T)>())));
        self.here = Some(stream);
        Poll::Ready(output)
    }

    /// Ends what is under way, if anything is. Gives what it had come to.
    fn take_back(&mut self) -> Option<T> {
        if self.here.is_some() {
            return None;
        }
        self.back.store(true, Ordering::Relaxed);
        match self.go_on(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }
}

/// Ready when the stream is wanted back. Nobody is woken: who wants it polls.
struct Back(Arc<AtomicBool>);

impl Future for Back {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.0.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// What came of an operation on a stream that is sent.
enum Sent {
    /// So many bytes are on their way; none where it was ended before there was room.
    Written(Result<usize, Error>),
    /// `None`: ended before anything happened.
    Closed(Option<Result<(), Error>>),
}

async fn write(mut stream: qmux::SendStream, back: Back, data: Bytes) -> (qmux::SendStream, Sent) {
    let mut left = data.clone();
    let written = tokio::select! {
        biased;
        () = back => Ok(0),
        written = stream.write_buf(&mut left) => written,
    };
    (stream, Sent::Written(written.map(|_| data.len() - left.len())))
}

async fn send_closed(mut stream: qmux::SendStream, back: Back) -> (qmux::SendStream, Sent) {
    let closed = tokio::select! {
        biased;
        () = back => None,
        closed = stream.closed() => Some(closed),
    };
    (stream, Sent::Closed(closed))
}

/// The sending half of a stream.
pub(super) struct Send {
    loan: Loan<qmux::SendStream, Sent>,
    /// What a write had come to that another operation ended.
    written: Option<Result<usize, Error>>,
}

impl Send {
    fn new(stream: qmux::SendStream) -> Self {
        Self { loan: Loan::new(stream), written: None }
    }

    /// The stream, with nothing under way.
    fn here(&mut self) -> Option<&mut qmux::SendStream> {
        match self.loan.take_back() {
            Some(Sent::Written(Ok(0)) | Sent::Closed(_)) | None => {}
            Some(Sent::Written(written)) => self.written = Some(written),
        }
        self.loan.here.as_mut()
    }
}

impl poll::SendStream for Send {
    type Error = Error;

    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, Error>> {
        if self.loan.is_lent_for(Purpose::Closed) {
            self.here();
        }
        if let Some(written) = self.written.take() {
            return Poll::Ready(written);
        }
        // moq-net writes the same bytes again until they are taken.
        let data = &data[..data.len().min(WRITE)];
        let start =
            |stream, back| -> Operation<_> { Box::pin(write(stream, back, Bytes::copy_from_slice(data))) };
        match ready!(self.loan.poll(Purpose::Data, cx, start)) {
            Sent::Written(written) => Poll::Ready(written),
            Sent::Closed(_) => Poll::Ready(Err(Error::StreamClosed)),
        }
    }

    fn set_priority(&mut self, order: u8) {
        if let Some(stream) = self.here() {
            stream.set_priority(order);
        }
    }

    fn finish(&mut self) -> Result<(), Error> {
        self.here().ok_or(Error::StreamClosed)?.finish()
    }

    fn reset(&mut self, code: u32) {
        if let Some(stream) = self.here() {
            stream.reset(code);
        }
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // A write ends, too, when the other side wants no more.
        if self.loan.is_lent_for(Purpose::Data)
            && let Sent::Written(written) = ready!(self.loan.go_on(cx))
        {
            self.written = Some(written);
        }
        match ready!(self.loan.poll(Purpose::Closed, cx, |stream, back| Box::pin(send_closed(stream, back))))
        {
            Sent::Closed(Some(closed)) => Poll::Ready(closed),
            _ => Poll::Ready(Err(Error::StreamClosed)),
        }
    }
}

/// What came of an operation on a stream that is received; `None`: ended before anything happened.
enum Got {
    Data(Option<Result<Option<Bytes>, Error>>),
    Closed(Option<Result<(), Error>>),
}

async fn read(mut stream: qmux::RecvStream, back: Back, most: usize) -> (qmux::RecvStream, Got) {
    let data = tokio::select! {
        biased;
        () = back => None,
        data = stream.read_chunk(most) => Some(data),
    };
    (stream, Got::Data(data))
}

async fn receive_closed(mut stream: qmux::RecvStream, back: Back) -> (qmux::RecvStream, Got) {
    let closed = tokio::select! {
        biased;
        () = back => None,
        closed = stream.closed() => Some(closed),
    };
    (stream, Got::Closed(closed))
}

/// The receiving half of a stream.
pub(super) struct Receive {
    loan: Loan<qmux::RecvStream, Got>,
    /// Read, and not taken yet.
    left: Bytes,
}

impl Receive {
    fn new(stream: qmux::RecvStream) -> Self {
        Self { loan: Loan::new(stream), left: Bytes::new() }
    }
}

impl poll::RecvStream for Receive {
    type Error = Error;

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<Result<Option<usize>, Error>> {
        let Some(data) = ready!(self.poll_read_chunk(cx, into.len()))? else { return Poll::Ready(Ok(None)) };
        into[..data.len()].copy_from_slice(&data);
        Poll::Ready(Ok(Some(data.len())))
    }

    fn poll_read_chunk(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Result<Option<Bytes>, Error>> {
        if self.left.is_empty() && most > 0 {
            if self.loan.is_lent_for(Purpose::Closed) {
                self.loan.take_back();
            }
            let start = |stream, back| -> Operation<_> { Box::pin(read(stream, back, most)) };
            match ready!(self.loan.poll(Purpose::Data, cx, start)) {
                Got::Data(Some(Ok(Some(data)))) => self.left = data,
                Got::Data(Some(end)) => return Poll::Ready(end),
                _ => return Poll::Ready(Err(Error::StreamClosed)),
            }
        }
        Poll::Ready(Ok(Some(self.left.split_to(most.min(self.left.len())))))
    }

    fn stop(&mut self, code: u32) {
        self.loan.take_back();
        if let Some(stream) = &mut self.loan.here {
            stream.stop(code);
        }
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.loan.is_lent_for(Purpose::Data)
            && let Got::Data(Some(Ok(Some(data)))) = ready!(self.loan.go_on(cx))
        {
            self.left = data;
        }
        match ready!(
            self.loan.poll(Purpose::Closed, cx, |stream, back| Box::pin(receive_closed(stream, back)))
        ) {
            Got::Closed(Some(closed)) => Poll::Ready(closed),
            _ => Poll::Ready(Err(Error::StreamClosed)),
        }
    }
}
