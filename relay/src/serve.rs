//! HTTP connections. Each has a task of its own, as with axum's own loop; but here a request has to come within a time, and
//! there are so many of them at once, so that those who open connections and say nothing ("slowloris") take neither
//! the descriptors nor the memory of the rest.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;

use crate::counters::{Counters, Turned};

/// Connections at once, HTTP and HTTPS together: some 600 viewers of HLS with six each, as browsers have. Further ones are
/// closed at once.
const MAX_CONNECTIONS: usize = 4096;

/// A request's head must be here so long after the connection or the last answer: longer than players and Prometheus
/// leave a connection alone before they use it again.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Places for connections: no more than half of the descriptors that this process may have, for kept files and for
/// MoQ over WebSocket need some.
pub(crate) fn places() -> Arc<Semaphore> {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let half = descriptors.and_then(|most| usize::try_from(most / 2).ok()).unwrap_or(usize::MAX);
    Arc::new(Semaphore::new(half.clamp(1, MAX_CONNECTIONS)))
}

/// Serves what comes, until the future is dropped.
pub(crate) async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    places: Arc<Semaphore>,
    counters: Arc<Counters>,
) -> Infallible {
    loop {
        let (io, _) = listener.accept().await;
        let Ok(place) = places.clone().try_acquire_owned() else {
            counters.turn(Turned::Crowd);
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(io), service)
                .with_upgrades()
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "HTTP connection");
            }
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::mpsc;

    use super::*;

    /// Connections without sockets, so that the clock of a test is its own.
    struct Pipes(mpsc::Receiver<DuplexStream>);

    impl Listener for Pipes {
        type Io = DuplexStream;
        type Addr = ();

        async fn accept(&mut self) -> (DuplexStream, ()) {
            match self.0.recv().await {
                Some(pipe) => (pipe, ()),
                None => std::future::pending().await,
            }
        }

        fn local_addr(&self) -> io::Result<()> {
            Ok(())
        }
    }

    struct House {
        pipes: mpsc::Sender<DuplexStream>,
        counters: Arc<Counters>,
    }

    impl House {
        fn open(places: usize) -> Self {
            let (pipes, queue) = mpsc::channel(1);
            let counters = Arc::new(Counters::default());
            let router = Router::new().route("/", get(|| async { "hello\n" }));
            tokio::spawn(serve(Pipes(queue), router, Arc::new(Semaphore::new(places)), counters.clone()));
            Self { pipes, counters }
        }

        async fn call(&self) -> DuplexStream {
            let (ours, theirs) = duplex(4096);
            self.pipes.send(theirs).await.unwrap();
            ours
        }
    }

    async fn ask(pipe: &mut DuplexStream) -> bool {
        let asked = pipe.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut answer = [0; 1024];
        let read = pipe.read(&mut answer).await.unwrap_or(0);
        asked.is_ok() && answer[..read].ends_with(b"hello\n")
    }

    /// Reads to the end; gives when that was.
    async fn closed(mut pipe: DuplexStream) -> Duration {
        let begun = tokio::time::Instant::now();
        let _ = pipe.read_to_end(&mut Vec::new()).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_says_it_letter_by_letter_is_sent_away() {
        let house = House::open(100);
        let silent = house.call().await;
        let (slow, mut hand) = tokio::io::split(house.call().await);
        let writing = tokio::spawn(async move {
            let mut letters = 0;
            for letter in b"GET / HTTP/1.1\r\n".iter().chain(std::iter::repeat(&b'a')) {
                if hand.write_all(&[*letter]).await.is_err() {
                    break;
                }
                letters += 1;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            letters
        });
        let mut polite = house.call().await;
        assert!(ask(&mut polite).await && ask(&mut polite).await);
        assert_eq!(closed(silent).await, HEAD_TIMEOUT);
        assert!(writing.await.unwrap() <= HEAD_TIMEOUT.as_secs() + 2);
        drop(slow);
        // Also who has had an answer does not keep the place for ever.
        assert!(closed(polite).await <= HEAD_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_bound_connections_are_closed_at_once_until_there_is_room() {
        let house = House::open(3);
        let held: Vec<_> = [house.call().await, house.call().await, house.call().await].into();
        for _ in 0..10 {
            assert_eq!(closed(house.call().await).await, Duration::ZERO);
        }
        assert_eq!(house.counters.turned(Turned::Crowd), 10);
        drop(held);
        // Their tasks have to see it.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(ask(&mut house.call().await).await);
    }
}
