//! The encoders: raw pictures and sound in, H.264, VP8 or AV1 and Opus out.
//!
//! ```text
//! picture -> groups: which group, keyframe? -+-> rendition 0 (main)  -> chain -> output
//!                                            +-> rendition 1 ...     -> chain -> output
//!                                            +-> master (recorded only)
//! sound   ---------------------------------------------------------> sound -> output
//! bond's rate -> policy -> bit rates at once; sizes by a new chain, from its first group on
//! ```

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use gstreamer as gst;

use crate::pass::{Choice, Offer, Room};
use crate::settings::Settings;
use crate::shared::Shared;
use crate::{EncoderError, EncoderEvent, MASTER_TRACK, VIDEO_TRACK};
use chain::{Chain, Job};
use codec::Codec;
use groups::Groups;
use passing::Passing;
use policy::{Plan, Policy, VideoPlan};
use rendition::Rendition;
use sound::Sound;

pub use bare::launch_words;
pub(crate) use codec::{Shape, check_choice};
pub use format::VideoCodec;
pub(crate) use packets::Packets;
pub use probe::{VideoEncoder, video_encoders};

mod aom;
mod bare;
mod chain;
mod codec;
mod format;
mod groups;
mod ladder;
mod packets;
mod passing;
mod policy;
mod probe;
mod rendition;
mod sound;
mod vbv;

/// Raw pictures that wait for an encoder. Two let it ride out a hiccup; beyond that the oldest is
/// dropped, because every waiting picture is a frame time of latency.
pub(crate) const RAW_QUEUE_FRAMES: u32 = 2;

/// How often the encoders are looked after when nothing happens.
const TICK: Duration = Duration::from_millis(250);
/// An encoder that takes pictures for so many ticks (2 s) and gives none hangs.
const HANGS_AFTER: u32 = 8;
/// Things to do that wait: a failure, a resize and an old chain for each of a few renditions. More is
/// dropped, and found again at a tick.
const COMMANDS: usize = 32;

/// Raw pictures of this shape as encoders take them.
pub(crate) fn raw_video_caps(shape: Shape) -> gst::Caps {
    gst::Caps::builder("video/x-raw")
        .field("format", "I420")
        .field("width", shape.width as i32)
        .field("height", shape.height as i32)
        .field("pixel-aspect-ratio", gst::Fraction::new(1, 1))
        .field("framerate", gst::Fraction::new(shape.fps as i32, 1))
        .build()
}

/// Raw sound as the encoder takes it.
pub(crate) fn raw_audio_caps() -> gst::Caps {
    gst::Caps::builder("audio/x-raw")
        .field("format", "S16LE")
        .field("layout", "interleaved")
        .field("rate", 48_000)
        .field("channels", 2)
        .build()
}

/// Something for the thread that looks after the encoders.
enum Command {
    /// A chain broke down.
    Failed {
        rendition: usize,
        serial: u64,
        error: EncoderError,
    },
    /// A rendition's picture is to have another size.
    Resize {
        rendition: usize,
    },
    /// A chain that was replaced.
    Retire(Arc<Chain>),
    Stop,
}

/// All encoders of a show.
pub(crate) struct Encoders {
    inner: Arc<Inner>,
    watch: Mutex<Option<JoinHandle<()>>>,
}

struct Inner {
    shared: Arc<Shared>,
    codecs: Vec<Codec>,
    groups: Mutex<Groups>,
    /// The main one, the smaller ones, and the master at the end where there is one.
    renditions: Vec<Rendition>,
    sound: Sound,
    rate: Mutex<Rate>,
    /// Locked before the others.
    passing: Mutex<Passing>,
    commands: SyncSender<Command>,
}

/// What the bond carries, and what is made of it.
struct Rate {
    policy: Policy,
    told: Option<u32>,
    applied: Option<Plan>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Encoders {
    /// Starts all encoders. They wait for the first raw frames.
    pub(crate) fn start(settings: &Settings, shared: &Arc<Shared>) -> Result<Encoders, EncoderError> {
        let codecs = probe::choose(settings.codec, settings.encoder.as_deref())?;
        let video = &settings.video;
        let input = video.shape();
        let frame = Duration::from_secs(1) / video.fps.max(1);
        let started = shared.epoch.zero();
        let (commands, queue) = sync_channel(COMMANDS);
        let mut renditions = Vec::new();
        for (track, name, video) in settings.video_tracks() {
            let job = Job { track, name, nominal_bitrate: video.bitrate, input, output: video.shape() };
            renditions.push(Rendition::new(job));
        }
        let inner = Arc::new(Inner {
            shared: shared.clone(),
            codecs,
            groups: Mutex::new(Groups::new(video.gop, frame, started)),
            renditions,
            sound: Sound::start(&settings.audio, shared)?,
            passing: Mutex::new(Passing::new(settings)),
            rate: Mutex::new(Rate { policy: Policy::new(settings), told: None, applied: None }),
            commands,
        });
        for number in 0..inner.renditions.len() {
            inner.open(number, 0)?;
        }
        let watcher = inner.clone();
        let watch = std::thread::Builder::new()
            .name("encoders".into())
            .spawn(move || watcher.watch(&queue))
            .map_err(|error| EncoderError::Pipeline {
                element: "encoders".into(),
                message: error.to_string(),
            })?;
        Ok(Encoders { inner, watch: Mutex::new(Some(watch)) })
    }

    /// Takes a raw picture: I420 of the settings' size, with its running time as `pts`; and what it was
    /// decoded from, which goes out in its place if it can. Returns at once.
    pub(crate) fn picture(&self, buffer: gst::Buffer, offer: Option<Offer>) {
        let inner = &self.inner;
        let Some(pts) = buffer.pts() else { return };
        let at = inner.shared.epoch.at(pts);
        let mut passing = lock(&inner.passing);
        let begin = match passing.choose(at, offer.as_ref(), inner.room(), &inner.shared) {
            Choice::Encode { begin, .. } => begin,
            Choice::Pass { skip } => {
                let units = offer.into_iter().flat_map(|offer| offer.units).skip(skip);
                return passing.pass(units, &mut lock(&inner.groups), &inner.shared);
            }
        };
        let place = {
            let mut groups = lock(&inner.groups);
            if begin { groups.begin(at) } else { groups.frame(at) }
        };
        passing.encode(at, place, &inner.shared);
        for rendition in &inner.renditions {
            if let Some(old) = rendition.push(&buffer, place, &inner.shared.counts) {
                // Stopping it takes a moment. Where the queue is full it is paid here.
                let _ = inner.commands.try_send(Command::Retire(old));
            }
        }
    }

    /// Takes raw sound: S16LE, 48 kHz, stereo, with its running time as `pts`. Returns at once.
    pub(crate) fn sound(&self, buffer: gst::Buffer) {
        self.inner.sound.push(buffer);
    }

    /// Asks for a keyframe soon, in all renditions. Requests are coalesced.
    pub(crate) fn request_keyframe(&self) {
        lock(&self.inner.groups).request();
        let epoch = self.inner.shared.epoch;
        lock(&self.inner.passing).request(epoch.at(epoch.running_time()));
    }

    /// The bond carries so many bits per second of all tracks together. Bit rates change at once.
    pub(crate) fn set_rate(&self, rate: u32) {
        lock(&self.inner.rate).told = Some(rate);
        self.inner.follow();
    }

    /// Stops everything. Takes as long as the slowest driver.
    pub(crate) fn stop(&self) {
        let Some(watch) = lock(&self.watch).take() else { return };
        // Behind whatever waits: it is handled within moments.
        let _ = self.inner.commands.send(Command::Stop);
        if watch.join().is_err() {
            tracing::error!("the thread that looks after the encoders panicked");
        }
        self.inner.renditions.iter().for_each(Rendition::stop);
        self.inner.sound.stop();
    }

    /// Makes the main encoder fail, as a driver does.
    #[cfg(test)]
    pub(crate) fn break_down(&self) {
        self.inner.renditions[0].break_down();
    }
}

impl Drop for Encoders {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Inner {
    /// Starts a chain for a rendition with the first encoder from `from` on that starts, to be used from the
    /// next group on.
    fn open(self: &Arc<Self>, number: usize, from: usize) -> Result<(), EncoderError> {
        let Some(rendition) = self.renditions.get(number) else { return Ok(()) };
        let mut first_error = None;
        for (at, codec) in self.codecs.iter().enumerate().skip(from) {
            let serial = rendition.next_serial();
            let (job, bitrate) = rendition.wanted();
            // The chain outlives nobody: a failure after the end finds nobody to tell.
            let inner = Arc::downgrade(self);
            let failed = move |error| {
                if let Some(inner) = inner.upgrade() {
                    let _ = inner.commands.try_send(Command::Failed { rendition: number, serial, error });
                }
            };
            let started =
                probe::probe(*codec).and_then(|()| Chain::start(*codec, &job, bitrate, &self.shared, failed));
            match started {
                Ok(chain) => {
                    rendition.replace(chain, serial, at);
                    lock(&self.groups).request();
                    return Ok(());
                }
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| EncoderError::EncoderUnusable {
            name: self.codecs.last().map_or("none", |codec| codec.name).into(),
            message: "it failed, and there is no other".into(),
        }))
    }

    /// What there is room for beside the sound.
    fn room(&self) -> Room {
        let rate = lock(&self.rate);
        let nominal = self.renditions.first().map_or(0, Rendition::nominal_bitrate);
        // Without an uplink the show goes on as it is, for the recording.
        let told = rate.told.filter(|told| *told > 0);
        let sound = rate.applied.as_ref().map_or(0, |plan| plan.audio);
        Room { nominal, bond: told.map(|told| told.saturating_sub(sound)) }
    }

    /// Applies what the policy makes of the bond's rate.
    fn follow(&self) {
        let mut rate = lock(&self.rate);
        // Without an uplink the show goes on as it is, for the recording.
        let Some(told) = rate.told.filter(|told| *told > 0) else { return };
        let plan = rate.policy.update(told, (self.shared.now)());
        if rate.applied.as_ref() == Some(&plan) {
            return;
        }
        if rate.applied.as_ref().is_none_or(|applied| applied.audio != plan.audio) {
            self.sound.set_bitrate(plan.audio);
        }
        let fell = |(before, now): (&VideoPlan, &VideoPlan)| chain::is_step_down(before.bitrate, now.bitrate);
        if rate.applied.as_ref().is_some_and(|applied| applied.video.iter().zip(&plan.video).any(fell)) {
            lock(&self.groups).hold();
        }
        for (number, (rendition, plan)) in self.renditions.iter().zip(&plan.video).enumerate() {
            if rendition.apply(*plan) {
                let _ = self.commands.try_send(Command::Resize { rendition: number });
            }
        }
        rate.applied = Some(plan);
    }

    fn watch(self: Arc<Self>, queue: &Receiver<Command>) {
        loop {
            match queue.recv_timeout(TICK) {
                Ok(Command::Failed { rendition, serial, error }) => self.failed(rendition, serial, error),
                Ok(Command::Resize { rendition }) => self.resize(rendition),
                Ok(Command::Retire(chain)) => chain.stop(),
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => self.tick(),
            }
        }
    }

    fn tick(self: &Arc<Self>) {
        self.follow();
        for (number, rendition) in self.renditions.iter().enumerate() {
            if let Some(serial) = rendition.hangs(HANGS_AFTER) {
                let message = "it takes pictures and gives none".into();
                let error = EncoderError::Pipeline { element: rendition.codec_name().into(), message };
                self.failed(number, serial, error);
            } else if rendition.wants_resize() {
                self.resize(number);
            }
        }
    }

    fn resize(self: &Arc<Self>, number: usize) {
        let Some(rendition) = self.renditions.get(number).filter(|rendition| rendition.wants_resize()) else {
            return;
        };
        if let Err(error) = self.open(number, rendition.codec_at()) {
            // The old one goes on, with too large a picture.
            tracing::warn!(%error, "an encoder for another size does not start");
        }
    }

    /// The next encoder takes over; where there is none, the same one again if it has worked at all.
    fn failed(self: &Arc<Self>, number: usize, serial: u64, error: EncoderError) {
        let Some(rendition) = self.renditions.get(number).filter(|r| r.serial() == serial) else { return };
        let (at, worked) = (rendition.codec_at(), rendition.has_worked());
        let name = rendition.codec_name();
        tracing::error!(codec = name, %error, "an encoder failed while live");
        let next = if at + 1 < self.codecs.len() { at + 1 } else { at };
        if next == at && !worked {
            return self.shared.events.fail(error);
        }
        match self.open(number, next) {
            Ok(()) => {
                let with = rendition.codec_name().to_owned();
                let (failed, reason) = (name.to_owned(), error.to_string());
                self.shared.events.note(EncoderEvent::EncoderReplaced { failed, with, reason });
            }
            Err(_) => self.shared.events.fail(error),
        }
    }
}

impl Settings {
    /// All video tracks to encode, with their names: the main one, the smaller ones, the master.
    pub(crate) fn video_tracks(&self) -> Vec<(media::TrackId, String, crate::VideoSettings)> {
        let mut tracks = vec![(VIDEO_TRACK, self.video.track_name(), self.video.clone())];
        for (number, video) in self.renditions.iter().enumerate() {
            let id = crate::rendition_track(number);
            let video = crate::VideoSettings { fps: self.video.fps, gop: self.video.gop, ..video.clone() };
            tracks.push((id, video.track_name(), video));
        }
        if let Some(bitrate) = self.master_bitrate {
            let master = crate::VideoSettings { bitrate, ..self.video.clone() };
            tracks.push((MASTER_TRACK, format!("master/{}p", master.height), master));
        }
        tracks
    }
}
