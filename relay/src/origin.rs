//! The origin: broadcasts as moq-net keeps and fans them out. Everything that knows moq-net's model
//! is in this file, in `fanout/` and in `intake/`.

use std::time::{Duration, Instant};

use media::catalog::{self, Catalog};
use media::{Frame, Track, TrackId, container};
use moq_net::{Pattern, Patterns, Timescale, Timestamp, broadcast, group, origin, track};

use crate::fanout::{Lives, Writer};
use crate::hls::{Feed, Hls};

/// How long groups behind the live edge are kept for viewers who join or lag.
pub(crate) const KEEP: Duration = Duration::from_secs(10);

/// What is kept of all broadcasts together, before the oldest is forgotten: 64 shows of 6 Mb/s for [`KEEP`], twice.
const CACHE: u64 = 1024 * 1024 * 1024;

/// Higher is sent first when a viewer's link is short: the catalog, then sound, then pictures.
const PRIORITY_CATALOG: u8 = 100;
const PRIORITY_AUDIO: u8 = 80;
const PRIORITY_VIDEO: u8 = 60;

/// All broadcasts of this relay.
#[derive(Clone)]
pub struct Origin {
    producer: origin::Producer,
    lives: Lives,
    hls: Hls,
}

impl Origin {
    /// Starts the origin; its housekeeping runs as a task of the current runtime.
    pub fn start() -> Self {
        let mut config = origin::Config::default();
        config.pool.resize(CACHE);
        config.cache_duration = KEEP;
        let (producer, driver) = origin::Producer::new(config);
        tokio::spawn(moq_net::time::run(driver));
        Self { producer, lives: Lives::default(), hls: Hls::default() }
    }

    /// What is live, for those who forward it.
    pub(crate) fn lives(&self) -> &Lives {
        &self.lives
    }

    /// What moq sessions read from.
    pub(crate) fn producer(&self) -> &origin::Producer {
        &self.producer
    }

    /// The same shows for those who speak HTTP only.
    pub(crate) fn hls(&self) -> &Hls {
        &self.hls
    }

    /// The part of it that lies below `root` and is in `shows` (patterns from the relay's own root): the others are
    /// neither announced there nor found by name. `None`: there can be nothing.
    pub(crate) fn scoped(&self, root: &str, shows: &Patterns) -> Option<origin::Producer> {
        let all = [Pattern::all()].into_iter().collect();
        self.producer().scope("", shows).and_then(|part| part.scope(root, &all)).ok()
    }

    /// Publishes a broadcast with its catalog; it ends when the value is dropped.
    pub fn publish(&self, name: &str, catalog: &Catalog) -> Result<Publication, moq_net::Error> {
        let broadcast = self.producer.create_broadcast(name)?;
        let catalog_track = broadcast
            .create_track(catalog::TRACK_NAME, track::Info::default().with_priority(PRIORITY_CATALOG))?;
        let mut catalog_group = catalog_track.append_group()?;
        catalog_group.write_frame(Timestamp::now(), catalog.to_json())?;
        catalog_group.finish()?;
        let tracks = catalog.tracks();
        let live = self.lives.begin(name, tracks.iter().map(|track| (track.name.clone(), priority(track))));
        let tracks = tracks
            .into_iter()
            .enumerate()
            .map(|(number, track)| TrackWriter::new(&broadcast, number, track))
            .collect::<Result<_, _>>()?;
        broadcast.announce(origin::Route::default())?;
        let hls = self.hls.publish(name, &catalog.tracks());
        Ok(Publication { broadcast, catalog: catalog_track, tracks, live, hls })
    }
}

/// One broadcast being published.
pub struct Publication {
    broadcast: broadcast::Producer,
    catalog: track::Producer,
    tracks: Vec<TrackWriter>,
    live: Writer,
    hls: Feed,
}

impl Drop for Publication {
    /// Viewers learn that the show has ended, not that something broke.
    fn drop(&mut self) {
        for writer in &mut self.tracks {
            let _ = writer.close_group(&self.live);
            let _ = writer.producer.finish();
        }
        let _ = self.catalog.finish();
        self.broadcast.close();
    }
}

/// What became of a frame that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Viewers have it.
    Published,
    /// It cannot be decoded, because an earlier frame of its group is missing.
    Undecodable,
    /// No such track in the catalog, or an older group than the one under way.
    Refused,
}

impl Publication {
    /// Appends a frame to its group.
    pub fn write(&mut self, frame: &Frame) -> Result<Written, moq_net::Error> {
        let writer = self.tracks.iter_mut().find(|writer| writer.id == frame.id.track);
        let written = writer.map_or(Ok(Written::Refused), |writer| writer.write(frame, &self.live))?;
        if written == Written::Published {
            self.hls.frame(frame);
        }
        Ok(written)
    }

    /// Resolves when a viewer that has lost something needs a keyframe before the next group.
    pub async fn keyframe_wanted(&self) {
        self.live.keyframe_wanted().await;
    }

    /// Whether one has needed it since this was last asked.
    pub fn is_keyframe_wanted(&self) -> bool {
        self.live.is_keyframe_wanted()
    }

    /// Notes that frames of a group are lost for good: what follows them in the group cannot be
    /// decoded. Returns whether a keyframe is needed to go on.
    pub fn lost(&mut self, track: TrackId, group: u64) -> bool {
        let writer = self.tracks.iter_mut().find(|writer| writer.id == track);
        writer.is_some_and(|writer| writer.lost(group, &self.live))
    }
}

fn priority(track: &Track) -> u8 {
    if track.is_video() { PRIORITY_VIDEO } else { PRIORITY_AUDIO }
}

struct TrackWriter {
    id: TrackId,
    /// Among the tracks of the catalog.
    number: usize,
    producer: track::Producer,
    /// In video, a frame needs all frames of its group before it.
    dependent: bool,
    group: Option<group::Producer>,
    /// The newest group that was begun or that lost its beginning.
    newest: Option<u64>,
}

impl TrackWriter {
    fn new(broadcast: &broadcast::Producer, number: usize, track: Track) -> Result<Self, moq_net::Error> {
        let dependent = track.is_video();
        let info = track::Info::default()
            .with_timescale(Timescale::MICRO)
            .with_max_age(KEEP)
            .with_priority(priority(&track));
        let producer = broadcast.create_track(track.name, info)?;
        Ok(Self { id: track.id, number, producer, dependent, group: None, newest: None })
    }

    fn write(&mut self, frame: &Frame, live: &Writer) -> Result<Written, moq_net::Error> {
        match self.newest {
            Some(newest) if frame.id.group < newest => return Ok(Written::Refused),
            Some(newest) if frame.id.group == newest => {}
            _ => {
                self.close_group(live)?;
                self.newest = Some(frame.id.group);
                if !self.dependent || frame.keyframe {
                    live.begin(self.number, frame.id.group);
                    self.group = Some(self.producer.create_group(group::Info { sequence: frame.id.group })?);
                }
            }
        }
        let Some(group) = &mut self.group else {
            return Ok(Written::Undecodable);
        };
        let timestamp = Timestamp::from_micros(frame.capture_time.as_micros())
            .map_err(|_| moq_net::Error::TimestampMismatch)?;
        let (sequence, micros) = (frame.id.group, frame.capture_time.as_micros());
        let payload = [&container::time(frame.capture_time)[..], &frame.data];
        group.write_frame(timestamp, live.write(self.number, sequence, micros, payload))?;
        Ok(Written::Published)
    }

    fn lost(&mut self, group: u64, live: &Writer) -> bool {
        if !self.dependent || self.newest.is_some_and(|newest| group < newest) {
            return false;
        }
        // Viewers are told at once that this group ends here; they wait for the next keyframe.
        let _ = self.close_group(live);
        self.newest = Some(group);
        true
    }

    fn close_group(&mut self, live: &Writer) -> Result<(), moq_net::Error> {
        match self.group.take() {
            Some(group) => {
                live.end(self.number, group.sequence);
                group.finish()
            }
            None => Ok(()),
        }
    }
}

/// The instant that moq-net's drivers are started with.
pub(crate) fn now() -> Instant {
    Instant::now()
}
