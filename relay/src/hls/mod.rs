//! LL-HLS out of the edge: shows as [`media::hls`] cuts them, by name, for HTTP clients that know nothing else.
//!
//! Every published show is cut as it comes, whether anybody asks or not: this ring is also what viewers can rewind in. It
//! costs a copy of each byte and at most [`media::hls::KEPT_BYTES`] a show.

mod serve;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use media::hls::{Answer, File, Reload, Show, Unservable};
use media::{Frame, Track, TrackId};
use tokio::sync::{Semaphore, watch};

pub(crate) use serve::router;

/// A show that is over can still be played to its end for so long: the slowest players are three target durations behind.
const LINGER: Duration = Duration::from_secs(60);

/// Shows that are over and still kept; the one that ended first goes first. A publisher that ends and begins shows under
/// ever new names fills no more memory than this.
const MAX_ENDED: usize = 8;

/// Requests that wait for media at once, of all shows: each viewer has one or two. Further ones are told to come again.
const MAX_WAITING: usize = 8192;

/// All shows that can be had as HLS.
#[derive(Clone)]
pub struct Hls {
    stages: Arc<Mutex<Stages>>,
    waiting: Arc<Semaphore>,
    /// So long a request waits.
    patience: Duration,
}

#[derive(Default)]
struct Stages {
    by_name: BTreeMap<String, Arc<Stage>>,
    /// Names of those that are over, the oldest first.
    ended: Vec<(String, u64)>,
    /// Counts all who ever published.
    publishers: u64,
}

/// A show, and who waits for it.
struct Stage {
    show: Mutex<Show>,
    /// One for each track: resolves when there is something new.
    news: BTreeMap<TrackId, watch::Sender<()>>,
    /// Who publishes it, or did so last.
    publisher: AtomicU64,
}

impl Default for Hls {
    fn default() -> Self {
        Self {
            stages: Arc::default(),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            patience: serve::PATIENCE,
        }
    }
}

impl Hls {
    /// Begins a show, or takes it over from another publisher.
    pub fn publish(&self, name: &str, tracks: &[Track]) -> Feed {
        let mut stages = self.lock();
        let stage = match stages.by_name.get(name) {
            Some(stage) if stage.goes_on_as(tracks) => {
                stage.show().restart();
                stage.clone()
            }
            old => {
                if let Some(old) = old {
                    old.end();
                }
                let stage = Arc::new(Stage::new(name, tracks));
                stages.by_name.insert(name.to_owned(), stage.clone());
                stage
            }
        };
        stages.publishers += 1;
        let publisher = stages.publishers;
        stage.publisher.store(publisher, Ordering::Relaxed);
        Feed { hls: self.clone(), name: name.to_owned(), stage, publisher }
    }

    /// Bytes of media that are held.
    pub fn bytes(&self) -> usize {
        let stages: Vec<_> = self.lock().by_name.values().cloned().collect();
        stages.iter().map(|stage| stage.show().bytes()).sum()
    }

    /// Requests that wait for media now.
    pub fn waiting(&self) -> usize {
        MAX_WAITING - self.waiting.available_permits()
    }

    fn get(&self, name: &str) -> Option<Arc<Stage>> {
        self.lock().by_name.get(name).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Stages> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an ended show for a while.
    fn linger(&self, name: &str, stage: &Arc<Stage>, publisher: u64) {
        let mut stages = self.lock();
        if !stages.by_name.get(name).is_some_and(|current| Arc::ptr_eq(current, stage)) {
            return;
        }
        stages.ended.push((name.to_owned(), publisher));
        while stages.ended.len() > MAX_ENDED {
            let (name, publisher) = stages.ended.remove(0);
            stages.forget(&name, publisher);
        }
        drop(stages);
        let (hls, name) = (self.clone(), name.to_owned());
        // A relay that is ending serves nobody any more.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            tokio::time::sleep(LINGER).await;
            let mut stages = hls.lock();
            stages.ended.retain(|(ended, by)| *ended != name || *by != publisher);
            stages.forget(&name, publisher);
        });
    }
}

impl Stages {
    /// Forgets a show that this publisher ended, unless another began it anew.
    fn forget(&mut self, name: &str, publisher: u64) {
        let is_over = |stage: &Arc<Stage>| {
            stage.publisher.load(Ordering::Relaxed) == publisher && stage.show().has_ended()
        };
        if self.by_name.get(name).is_some_and(is_over) {
            self.by_name.remove(name);
        }
    }
}

impl Stage {
    fn new(name: &str, tracks: &[Track]) -> Self {
        Self {
            show: Mutex::new(Show::new(name, tracks)),
            news: tracks.iter().map(|track| (track.id, watch::Sender::new(()))).collect(),
            publisher: AtomicU64::new(0),
        }
    }

    /// Who watches it need not notice more than a cut.
    fn goes_on_as(&self, tracks: &[Track]) -> bool {
        let show = self.show();
        !show.has_ended() && show.tracks() == tracks
    }

    fn show(&self) -> MutexGuard<'_, Show> {
        self.show.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.show().finish();
        for news in self.news.values() {
            news.send_replace(());
        }
    }

    /// What there is now.
    fn answer(&self, file: File, reload: Reload) -> Result<Answer, Unservable> {
        let mut show = self.show();
        match show.unservable() {
            Some(why) => Err(why),
            None => Ok(show.answer(file, reload)),
        }
    }
}

/// Where the frames of a show go in. The show is over when it is dropped.
pub struct Feed {
    hls: Hls,
    name: String,
    stage: Arc<Stage>,
    publisher: u64,
}

impl Feed {
    /// Takes a frame, as [`Show::frame`] does.
    pub fn frame(&self, frame: &Frame) {
        let news = self.is_current() && self.stage.show().frame(frame);
        if let Some(track) = self.stage.news.get(&frame.id.track).filter(|_| news) {
            track.send_replace(());
        }
    }

    /// Another publisher may have taken the show over.
    fn is_current(&self) -> bool {
        self.stage.publisher.load(Ordering::Relaxed) == self.publisher
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if self.is_current() {
            self.stage.end();
            self.hls.linger(&self.name, &self.stage, self.publisher);
        }
    }
}

#[cfg(test)]
mod tests;
