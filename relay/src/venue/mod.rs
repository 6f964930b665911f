//! The relay at the venue: takes frames from the encoder and sends them over the bond.

mod backfill;
mod task;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bond::{SenderConfig, SenderStats};
use media::catalog::Catalog;
use media::{Frame, Time, Track, TrackId};
use serde::Serialize;
use tokio::sync::{Notify, mpsc, oneshot};

use self::backfill::Backfill;
use self::task::{Own, SendTask};
use crate::backfill::Archive;
use crate::backfill::archive::Reader;
use crate::backfill::supply::Standing;
use crate::clock::Clock;
use crate::control::{Audience, Hello};
use crate::random::random_name;
use crate::uplink::{EdgeAddress, Plan, Uplinks};

/// Events of all uplinks on their way to the bond's task: feedback of 16 uplinks for half a second.
const EVENT_QUEUE: usize = 1024;

/// Where the venue's frames come from: the drain of the encoder's tap.
pub struct Frames {
    /// The next frame and when it was encoded; `None` when there is none now.
    pub pop: Box<dyn FnMut() -> Option<(Frame, Time)> + Send>,
    /// Notified after each frame.
    pub wake: Arc<Notify>,
}

impl Frames {
    /// None at all.
    fn none() -> Self {
        Self { pop: Box::new(|| None), wake: Arc::default() }
    }
}

/// What the bond asks of the encoder. Both are called from the bond's task and must not block.
#[derive(Clone)]
pub struct Hooks {
    /// A keyframe, please.
    pub keyframe: Arc<dyn Fn() + Send + Sync>,
    /// The media of all tracks together may have so many bits per second from now on; 0 while no uplink
    /// carries anything.
    pub rate: Arc<dyn Fn(u32) + Send + Sync>,
}

impl Hooks {
    /// Nobody listens.
    fn none() -> Self {
        Self { keyframe: Arc::new(|| ()), rate: Arc::new(|_| ()) }
    }
}

/// What the venue needs to know, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whom to call.
    pub edge: EdgeAddress,
    /// The path under which viewers find the show.
    pub broadcast: String,
    /// The right to publish.
    pub token: Option<String>,
    /// Over what.
    pub uplinks: Plan,
    /// A frame is worth nothing this long after its capture.
    pub deadline: Duration,
}

/// How one uplink is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UplinkState {
    /// Its number in the bond, which a later uplink may get when this one is gone for good.
    pub path: u8,
    /// What the creator calls it.
    pub name: String,
    /// Part of the bond.
    pub connected: bool,
    /// What is wrong with it, in words.
    pub reason: Option<String>,
    /// The edge said no.
    pub refused: bool,
    /// Bytes that went over it, both ways, headers included, over all its connections.
    pub bytes: u64,
    /// Of so many that may.
    pub cap: Option<u64>,
    /// What it costs; 0 is free.
    pub price: u32,
    /// Its cap is used up, and it is used because nothing else works.
    pub emergency: bool,
    /// How often its address changed while its connection lived on.
    pub moves: u64,
}

/// What the terminal and the report show.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// In the order of their path numbers.
    pub uplinks: Vec<UplinkState>,
    /// The bond's own counts.
    pub bond: SenderStats,
    /// Frames handed to the bond, by track.
    pub sent: BTreeMap<TrackId, u64>,
    /// Bytes of media handed to the bond.
    pub media_bytes: u64,
    /// Keyframes that the edge asked for.
    pub keyframe_requests: u64,
    /// Bits per second of media that the bond can carry; 0 while it carries none.
    pub target_rate: u32,
    /// How the viewers fare, as the edge said last.
    pub audience: Option<Audience>,
    /// How the edge's copy of the show stands, where there is a recording to heal it from.
    pub backfill: Option<Standing>,
}

/// The sending side, running.
pub struct Venue {
    shared: Arc<Shared>,
    recording_ended: Arc<AtomicBool>,
    stop: Arc<Notify>,
    ended: oneshot::Receiver<()>,
}

#[derive(Default)]
struct Shared {
    status: Mutex<Status>,
    notices: Mutex<VecDeque<String>>,
}

impl Venue {
    /// Calls the edge over all uplinks and sends whatever `frames` gives. An edge that is not there is
    /// called again and again, and frames that cannot be sent in time are let go; with an `archive`, the edge's
    /// copy of the show is healed from it. Everything runs on a thread of its own: the tasks of the bond and of
    /// QUIC hand each datagram on several times, which costs little on one thread and a wake-up by the kernel
    /// each between threads.
    ///
    /// # Errors
    ///
    /// When the system gives no thread or no descriptors.
    pub fn start(
        settings: Settings,
        catalog: Catalog,
        clock: Clock,
        frames: Frames,
        hooks: Hooks,
        archive: Option<Arc<dyn Archive>>,
    ) -> std::io::Result<Self> {
        Self::launch(settings, catalog, Vec::new(), clock, frames, hooks, archive)
    }

    /// Calls the edge over all uplinks, and heals its copy of a show that is over. [`Status::backfill`] says when
    /// it is whole.
    ///
    /// # Errors
    ///
    /// When the system gives no thread or no descriptors.
    pub fn sync(settings: Settings, clock: Clock, archive: Arc<dyn Archive>) -> std::io::Result<Self> {
        let (catalog, tracks) = (Catalog::default(), archive.tracks());
        let (frames, hooks) = (Frames::none(), Hooks::none());
        let venue = Self::launch(settings, catalog, tracks, clock, frames, hooks, Some(archive))?;
        venue.recording_ended();
        Ok(venue)
    }

    fn launch(
        settings: Settings,
        catalog: Catalog,
        sync: Vec<Track>,
        clock: Clock,
        frames: Frames,
        hooks: Hooks,
        archive: Option<Arc<dyn Archive>>,
    ) -> std::io::Result<Self> {
        let (events, queue) = mpsc::channel(EVENT_QUEUE);
        let video: Vec<TrackId> = catalog.tracks().iter().filter(|t| t.is_video()).map(|t| t.id).collect();
        let live = sync.is_empty();
        let tracks = if live { catalog.tracks() } else { sync.clone() };
        let session = random_name();
        let uplinks = Uplinks {
            plan: settings.uplinks,
            edge: settings.edge.clone(),
            token: settings.token,
            hello: Hello {
                broadcast: settings.broadcast,
                session: session.to_string(),
                path: 0,
                uplink: String::new(),
                proof: None,
                ticket: None,
                catalog,
                deadline_ms: settings.deadline.as_millis() as u32,
                backfill: archive.is_some(),
                sync,
                audience: true,
            },
            clock,
            events,
            new_session: random_name,
        };
        let shared = Arc::new(Shared::default());
        let stop = Arc::new(Notify::new());
        let config = SenderConfig { deadline: settings.deadline, live, ..SenderConfig::default() };
        let recording_ended = Arc::new(AtomicBool::new(false));
        let reader = archive.map(|archive| Reader::start(archive, recording_ended.clone())).transpose()?;
        let backfill = Backfill::new(reader, tracks.iter().map(|track| track.id).collect());
        let own =
            Own { clock, video, config, session, port: settings.edge.port, hooks, shared: shared.clone() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (alive, ended) = oneshot::channel::<()>();
        let run = {
            let stop = stop.clone();
            async move {
                tokio::spawn(uplinks.run());
                SendTask::new(own, backfill).run(frames, queue, stop).await;
            }
        };
        std::thread::Builder::new().name("bond".into()).spawn(move || {
            runtime.block_on(run);
            drop(alive);
        })?;
        Ok(Self { shared, recording_ended, stop, ended })
    }

    /// Nothing will be added to the archive any more: the edge's copy can become whole.
    pub fn recording_ended(&self) {
        self.recording_ended.store(true, Ordering::Release);
    }

    /// How it stands, at most 200 ms old.
    pub fn status(&self) -> Status {
        self.shared.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the creator should be told once, oldest first.
    pub fn take_notices(&self) -> Vec<String> {
        self.shared.notices.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// Says goodbye to the edge and ends; bounded in time.
    pub async fn stop(self) {
        self.stop.notify_one();
        // The task bounds its own goodbye. The other end of this is only ever dropped.
        let _ = self.ended.await;
    }
}
