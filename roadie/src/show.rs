//! A show: encoder, recordings and bond, wired together. The encoder knows no network and the relay
//! knows no encoder; this file is where they meet.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::Context;
use encoder::record::{self, RecordStatus};
use encoder::tap::{Tap, TapHandle, TapStatus};
use encoder::{Counters, Encoder, EncoderError, EncoderEvent, InputStatus, Levels, VIDEO_TRACK};
use media::catalog::Catalog;
use media::{FrameId, Time};
use relay::backfill::Archive;
use relay::backfill::supply::Standing;
use relay::clock::Clock;
use relay::control::Audience;
use relay::stage::Stage;
use relay::venue::{self, Hooks, Venue};
use tokio::sync::Notify;

use crate::recorded::Recorded;
use crate::room::{self, Links, Room, Serving};

/// Encoded frames remembered for the latency report, until [`Show::take_log`] takes them: more than a
/// minute of 30 fps video with its sound. The oldest is forgotten first.
const LOG_FRAMES: usize = 8192;

/// What a show needs to know, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What to capture, and how to encode it.
    pub encoder: encoder::Settings,
    /// One copy of the recording goes into each.
    pub record: Vec<PathBuf>,
    /// Whom to send it to, and how.
    pub venue: venue::Settings,
    /// Who is shown it on the spot; `None`: nobody.
    pub room: Option<room::Settings>,
    /// Whether the video's bit rate follows what the uplinks carry, up to the one in `encoder`.
    pub follow: bool,
}

/// At the end of a show, the edge's copy is healed until nothing has moved for this long: longer than it waits for
/// what may still come live.
const HEAL_PATIENCE: Duration = Duration::from_secs(5);

/// How often that is looked at.
const HEAL_LOOK: Duration = Duration::from_millis(100);

/// What the bond asks goes to the encoder; with `follow`, what it carries too.
fn hooks(encoder: &Arc<Encoder>, follow: bool) -> Hooks {
    let (for_keyframe, for_rate): (Weak<Encoder>, Weak<Encoder>) =
        (Arc::downgrade(encoder), Arc::downgrade(encoder));
    Hooks {
        keyframe: Arc::new(move || {
            if let Some(encoder) = for_keyframe.upgrade() {
                encoder.request_keyframe();
            }
        }),
        rate: Arc::new(move |rate| {
            if let Some(encoder) = for_rate.upgrade().filter(|_| follow) {
                encoder.set_rate(rate);
            }
        }),
    }
}

/// When a frame was captured and encoded, on the broadcast clock.
#[derive(Clone, Copy, Debug)]
pub struct Encoded {
    /// Its name.
    pub id: FrameId,
    /// Taken by the camera.
    pub captured: Time,
    /// Out of the encoder.
    pub encoded: Time,
}

/// Pictures over which [`EncodeDelay`] looks.
const DELAY_PICTURES: usize = 100;

/// How long the last pictures took from capture to encoded.
#[derive(Debug, Default)]
pub struct EncodeDelay(VecDeque<i64>);

impl EncodeDelay {
    /// Takes what came from [`Show::take_log`]; gives the 95th percentile of the last hundred pictures, in
    /// milliseconds.
    pub fn update(&mut self, log: &[Encoded]) -> Option<f64> {
        for frame in log.iter().filter(|frame| frame.id.track == VIDEO_TRACK) {
            if self.0.len() == DELAY_PICTURES {
                self.0.pop_front();
            }
            self.0.push_back(frame.encoded.micros_since(frame.captured));
        }
        let mut sorted: Vec<_> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() * 95 / 100).map(|micros| *micros as f64 / 1e3)
    }
}

/// How a show stands.
#[derive(Clone, Debug)]
pub struct Status {
    /// What went through the encoder.
    pub encoder: Counters,
    /// 95 of the last hundred pictures were encoded within so many milliseconds of their capture, if whoever
    /// takes the log has looked: [`EncodeDelay`].
    pub encode_ms: Option<f64>,
    /// The inputs, in the order of the settings.
    pub inputs: Vec<InputStatus>,
    /// How loud the show is.
    pub levels: Levels,
    /// Each copy of the recording.
    pub recordings: Vec<RecordStatus>,
    /// Uplinks and bond.
    pub venue: venue::Status,
    /// How the viewers in the room fare, where it is shown there.
    pub room: Option<Audience>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            encoder: Counters::default(),
            encode_ms: None,
            inputs: Vec::new(),
            levels: Levels::SILENCE,
            recordings: Vec::new(),
            venue: venue::Status::default(),
            room: None,
        }
    }
}

/// A show that is on.
pub struct Show {
    encoder: Arc<Encoder>,
    tap: TapStatus,
    venue: Venue,
    room: Option<Serving>,
    links: Option<Links>,
    clock: Clock,
    log: Arc<Mutex<VecDeque<Encoded>>>,
}

impl Show {
    /// Starts capture, recordings and bond. An edge that cannot be reached is no error: the recording
    /// goes on and the edge is called again and again.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        let clock = Clock::start();
        let follow = settings.follow;
        let room = match settings.room {
            Some(room) => Some(Room::open(room).await?),
            None => None,
        };
        let wake = Arc::new(Notify::new());
        let waker = wake.clone();
        let broadcast = settings.venue.broadcast.clone();
        let recorded = !settings.record.is_empty();
        let (tap, frames) = Tap::new(settings.record, broadcast, Arc::new(move || waker.notify_one()));
        let now = Arc::new(move || clock.now());
        let encoder =
            tokio::task::spawn_blocking(move || Encoder::start(settings.encoder, now, Box::new(tap)))
                .await??;
        let encoder = Arc::new(encoder);
        let tracks = frames.tracks().context("the encoder named no tracks")?;
        let status = frames.status();
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let (broadcast, catalog) = (&settings.venue.broadcast, Catalog::from_tracks(&tracks));
        let links = room.as_ref().map(|room| room.links(broadcast));
        let room = room.map(|room| room.serve(broadcast, &catalog, &clock)).transpose()?;
        let (stage, room) = room.unzip();
        let venue = Venue::start(
            settings.venue,
            catalog,
            clock,
            drain(frames, wake, log.clone(), stage),
            hooks(&encoder, follow),
            recorded.then(|| -> Arc<dyn Archive> { Arc::new(Recorded(record::Archive::live(&status))) }),
        )?;
        Ok(Self { encoder, tap: status, venue, room, links, clock, log })
    }

    /// The broadcast clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        Status {
            encoder: self.encoder.counters(),
            encode_ms: None,
            inputs: self.encoder.inputs(),
            levels: self.encoder.levels(),
            recordings: self.tap.recordings(),
            venue: self.venue.status(),
            room: self.room.as_ref().map(|room| room.watch().audience()),
        }
    }

    /// Where the show is to be seen in the room; `None`: nowhere.
    pub fn links(&self) -> Option<&Links> {
        self.links.as_ref()
    }

    /// Puts another input on air, counted from 0.
    ///
    /// # Errors
    /// Where there is no such input.
    pub fn select(&self, input: usize) -> Result<(), EncoderError> {
        self.encoder.select(input)
    }

    /// Frames encoded since the last call, oldest first.
    pub fn take_log(&self) -> Vec<Encoded> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// What the creator should be told once.
    pub fn take_notices(&self) -> Vec<String> {
        self.venue.take_notices()
    }

    /// Something happened to the encoder.
    pub fn poll_event(&self) -> Option<EncoderEvent> {
        self.encoder.poll_event()
    }

    /// Ends capture and recordings, but keeps the bond until [`Ending::hang_up`], so that the last
    /// frames get through.
    pub async fn end(self) -> Ending {
        let Self { encoder, tap, venue, room, log, .. } = self;
        let counters = encoder.counters_reader();
        // Stopping waits for the disks, a bounded time.
        let _ = tokio::task::spawn_blocking(move || drop(encoder)).await;
        venue.recording_ended();
        Ending { counters: counters(), tap, venue, room, log }
    }
}

/// A show whose last frame was captured.
pub struct Ending {
    counters: Counters,
    tap: TapStatus,
    venue: Venue,
    room: Option<Serving>,
    log: Arc<Mutex<VecDeque<Encoded>>>,
}

impl Ending {
    /// What went through the encoder, to the last frame.
    pub fn encoder(&self) -> Counters {
        self.counters
    }

    /// Frames encoded since the last call of this or of [`Show::take_log`], oldest first.
    pub fn take_log(&self) -> Vec<Encoded> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// The finished recordings.
    pub fn recordings(&self) -> Vec<RecordStatus> {
        self.tap.recordings()
    }

    /// Uplinks and bond.
    pub fn venue(&self) -> venue::Status {
        self.venue.status()
    }

    /// Waits until the edge's copy of the show is whole, as long as it comes closer to that: what is owed then is for
    /// `roadie recordings sync`. Returns at once where the edge keeps no copy.
    pub async fn heal(&self) -> Option<Standing> {
        let mut standing = self.venue.status().backfill?;
        let mut moved = Instant::now();
        while standing.on && !standing.done && moved.elapsed() < HEAL_PATIENCE {
            tokio::time::sleep(HEAL_LOOK).await;
            let now = self.venue.status().backfill?;
            if now != standing {
                (standing, moved) = (now, Instant::now());
            }
        }
        Some(standing)
    }

    /// Tells the edge and the room that the show is over.
    pub async fn hang_up(self) {
        self.venue.stop().await;
        if let Some(room) = self.room {
            room.stop().await;
        }
    }
}

/// What the bond takes, the room and the log have seen before.
fn drain(
    mut tap: TapHandle,
    wake: Arc<Notify>,
    log: Arc<Mutex<VecDeque<Encoded>>>,
    mut stage: Option<Stage>,
) -> venue::Frames {
    let pop = move || {
        let (frame, encoded) = tap.pop()?;
        if let Some(stage) = &mut stage {
            stage.frame(&frame);
        }
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == LOG_FRAMES {
            log.pop_front();
        }
        log.push_back(Encoded { id: frame.id, captured: frame.capture_time, encoded });
        Some((frame, encoded))
    };
    venue::Frames { pop: Box::new(pop), wake }
}
