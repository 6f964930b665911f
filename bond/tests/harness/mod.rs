//! A venue, an edge and the links between them, on one virtual clock.

#![allow(dead_code)] // Each test file uses a part.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bond::{Class, Delivery, PathId, Receiver, ReceiverConfig, Sender, SenderConfig, SenderEvent};
use bytes::Bytes;
use media::{Frame, FrameId, Time, TrackId};
use sim::{Conditions, Link, Outage, Rng};

/// What QUIC, UDP and IP add to a datagram.
const OVERHEAD: usize = 66;

/// When every run begins, by the sender's clock.
pub const START: Time = Time::from_millis(1_790_000_000_000);

pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// So many milliseconds into the run.
pub fn at(millis: u64) -> Time {
    START + ms(millis)
}

/// Dark from here to there, in milliseconds into the run.
pub fn dark(from: u64, until: u64) -> Vec<Outage> {
    vec![Outage { from: at(from), until: at(until) }]
}

/// An uplink: data goes up, feedback comes down.
#[derive(Clone, Debug)]
pub struct Uplink {
    pub up: Conditions,
    pub down: Conditions,
}

/// The same conditions both ways.
pub fn both_ways(conditions: Conditions) -> Uplink {
    Uplink { up: conditions.clone(), down: conditions }
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Media {
    /// Bits per second at 30 frames a second; a keyframe each second takes three to four times its
    /// part, 30 KB at 2.5 Mb/s.
    pub video: u64,
    /// Bits per second in packets of 20 ms.
    pub audio: u64,
    pub seconds: u64,
}

/// What happens on the way, at a time.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    Add(u8),
    Remove(u8),
    Cable(u8, bool),
    /// The sender's process stands still until then.
    Stall(Time),
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub uplinks: Vec<Uplink>,
    pub media: Media,
    pub deadline: Duration,
    pub actions: Vec<(Time, Action)>,
    /// Paths there are from the beginning; all where `None`.
    pub first: Option<Vec<u8>>,
    /// Every such part of the datagrams comes twice.
    pub duplicates: f64,
}

impl Plan {
    pub fn new(uplinks: Vec<Uplink>, media: Media) -> Self {
        let (deadline, actions) = (ms(400), Vec::new());
        Self { uplinks, media, deadline, actions, first: None, duplicates: 0.0 }
    }
}

/// One frame's fate.
#[derive(Clone, Copy, Debug)]
pub struct Fate {
    pub frame: FrameId,
    pub captured: Time,
    /// Capture to handing over; `None` where it was lost.
    pub latency: Option<Duration>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub fates: Vec<Fate>,
    pub sender: bond::SenderStats,
    pub receiver: bond::ReceiverStats,
    pub clock_error: Option<i64>,
    pub clock_bound: u64,
    pub target_rate: u64,
    pub events: u64,
    /// Sizes of the receiver's and the sender's memory at their worst.
    pub most_buffered: usize,
    pub most_queued: u64,
}

impl Outcome {
    pub fn lost(&self) -> usize {
        self.fates.iter().filter(|fate| fate.latency.is_none()).count()
    }

    /// Latencies of the video frames, sorted.
    pub fn latencies(&self) -> Vec<Duration> {
        let video = self.fates.iter().filter(|fate| fate.frame.track == VIDEO);
        let mut all: Vec<_> = video.filter_map(|fate| fate.latency).collect();
        all.sort_unstable();
        all
    }

    /// Bytes sent beyond once each frame, as a part of the media.
    pub fn redundancy(&self) -> f64 {
        self.sender.redundant_bytes as f64 / self.sender.media_bytes as f64
    }
}

/// The latency below which this part of all lies.
pub fn percentile(sorted: &[Duration], part: f64) -> Duration {
    let index = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(index).copied().unwrap_or_default()
}

pub const VIDEO: TrackId = TrackId(0);
pub const AUDIO: TrackId = TrackId(1);

/// Runs `test` with twenty seeds, or with the one in `ROADIE_SEED`; a failure tells its seed.
pub fn seeds(test: impl Fn(u64)) {
    struct Tell(u64);
    impl Drop for Tell {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed with ROADIE_SEED={}: set it to replay this run alone", self.0);
            }
        }
    }
    let chosen = std::env::var("ROADIE_SEED").ok();
    let range = match chosen {
        Some(seed) => {
            let seed = seed.parse().expect("ROADIE_SEED must be a number");
            seed..seed + 1
        }
        None => 1..21,
    };
    for seed in range {
        let tell = Tell(seed);
        test(seed);
        drop(tell);
    }
}

struct Source {
    media: Media,
    rng: Rng,
    video: u64,
    audio: u64,
}

impl Source {
    /// When the next frame leaves the encoder, and whether it is video.
    fn next(&self) -> Option<(Time, bool)> {
        let video = START + Duration::from_micros(self.video * 1_000_000 / 30) + ms(8);
        let audio = START + ms(20 * self.audio) + ms(5);
        let end = START + Duration::from_secs(self.media.seconds);
        let next = if video <= audio { (video, true) } else { (audio, false) };
        (next.0 < end).then_some(next)
    }

    fn take(&mut self, video: bool) -> (Frame, Class) {
        let (id, captured, class, bytes) = if video {
            let (group, frame) = (self.video / 30, (self.video % 30) as u32);
            let captured = START + Duration::from_micros(self.video * 1_000_000 / 30);
            self.video += 1;
            let second = self.media.video / 8;
            let keyframe = second / 10;
            let (class, bytes) = if frame == 0 {
                (Class::Keyframe, keyframe)
            } else {
                (Class::Delta, (second - keyframe) / 29)
            };
            (FrameId { track: VIDEO, group, frame }, captured, class, bytes)
        } else {
            let id = FrameId { track: AUDIO, group: self.audio / 25, frame: (self.audio % 25) as u32 };
            let captured = START + ms(20 * self.audio);
            self.audio += 1;
            (id, captured, Class::Audio, self.media.audio / 8 / 50)
        };
        let bytes = bytes * (70 + self.rng.below(61)) / 100;
        let keyframe = class == Class::Keyframe || class == Class::Audio;
        let mut content = Rng::new(id.group << 32 | u64::from(id.frame) << 8 | u64::from(id.track.0));
        let mut data: Vec<u8> =
            (0..bytes.div_ceil(8)).flat_map(|_| content.next_u64().to_le_bytes()).collect();
        data.truncate(bytes as usize);
        (Frame { id, capture_time: captured, keyframe, data: data.into() }, class)
    }
}

/// The machines and the links.
struct World {
    sender: Sender,
    receiver: Receiver,
    links: BTreeMap<PathId, (Link<Bytes>, Link<Bytes>)>,
    rng: Rng,
    duplicates: f64,
    /// The receiver's clock minus the sender's.
    offset: i64,
    stalled_until: Time,
    /// What came for the sender while it stood still.
    mail: Vec<(PathId, Bytes)>,
    frames: BTreeMap<FrameId, (Frame, Option<Time>)>,
    given_up: BTreeSet<FrameId>,
    last: BTreeMap<TrackId, (u64, u32)>,
    events: u64,
    most_buffered: usize,
    most_queued: u64,
}

impl World {
    fn their(&self, now: Time) -> Time {
        now.offset_by(self.offset)
    }

    /// Delivers what the links hold ready.
    fn deliver(&mut self, now: Time) {
        let theirs = self.their(now);
        for (&path, (up, down)) in &mut self.links {
            while let Some(data) = up.poll(now) {
                let twice = self.rng.chance(self.duplicates);
                for _ in 0..1 + u32::from(twice) {
                    self.receiver
                        .handle_datagram(path, &data, theirs)
                        .expect("the sender speaks the protocol");
                }
            }
            while let Some(data) = down.poll(now) {
                self.mail.push((path, data));
            }
        }
        if now >= self.stalled_until {
            for (path, data) in std::mem::take(&mut self.mail) {
                self.sender.handle_datagram(path, &data, now).expect("the receiver speaks the protocol");
            }
        }
    }

    /// Moves what the machines want to send, and takes what they hand over.
    fn drain(&mut self, now: Time) {
        let theirs = self.their(now);
        if now >= self.stalled_until {
            while let Some(transmit) = self.sender.poll_transmit(now) {
                assert!(transmit.data.len() <= bond::MAX_DATAGRAM);
                if let Some((up, _)) = self.links.get_mut(&transmit.path) {
                    up.send(transmit.data.clone(), transmit.data.len() + OVERHEAD, now);
                }
            }
            while let Some(SenderEvent::Dropped { .. }) = self.sender.poll_event() {
                self.events += 1;
            }
        }
        while let Some(transmit) = self.receiver.poll_transmit(theirs) {
            assert!(transmit.data.len() <= bond::MAX_DATAGRAM);
            if let Some((_, down)) = self.links.get_mut(&transmit.path) {
                down.send(transmit.data.clone(), transmit.data.len() + OVERHEAD, now);
            }
        }
        while let Some(delivery) = self.receiver.poll_delivery() {
            match delivery {
                Delivery::Frame { frame, arrived } => {
                    assert!(arrived <= theirs);
                    let before = self.last.insert(frame.id.track, (frame.id.group, frame.id.frame));
                    assert!(
                        before < Some((frame.id.group, frame.id.frame)),
                        "{:?} after {before:?}",
                        frame.id
                    );
                    let (pushed, delivered) = self.frames.get_mut(&frame.id).expect("nobody sent this frame");
                    assert_eq!(*pushed, frame);
                    *delivered = Some(now);
                }
                Delivery::Lost { track, group, frames } => {
                    let before = self.last.get(&track).copied().unwrap_or_default();
                    assert!((group, frames.start) >= before, "{group}.{frames:?} lost after {before:?}");
                    let first = FrameId { track, group, frame: frames.start };
                    let end = FrameId { track, group, frame: frames.end };
                    self.given_up.extend(self.frames.range(first..end).map(|(id, _)| *id));
                }
            }
        }
        self.most_buffered = self.most_buffered.max(self.receiver.stats().buffered_bytes);
    }
}

/// Runs a plan to its end, and checks what must always hold: frames come out as they went in, in order,
/// once, or are reported lost.
pub fn run(plan: &Plan, seed: u64) -> Outcome {
    let mut dice = Rng::new(seed);
    // Hours, either way.
    let offset = dice.below(20_000_000_000) as i64 - 10_000_000_000;
    let mut world = World {
        sender: Sender::new(SenderConfig { deadline: plan.deadline }),
        receiver: Receiver::new(ReceiverConfig { deadline: plan.deadline }),
        links: BTreeMap::new(),
        rng: Rng::new(dice.next_u64()),
        duplicates: plan.duplicates,
        offset,
        stalled_until: Time::ZERO,
        mail: Vec::new(),
        frames: BTreeMap::new(),
        given_up: BTreeSet::new(),
        last: BTreeMap::new(),
        events: 0,
        most_buffered: 0,
        most_queued: 0,
    };
    for (index, uplink) in plan.uplinks.iter().enumerate() {
        let up = Link::new(uplink.up.clone(), dice.next_u64());
        let down = Link::new(uplink.down.clone(), dice.next_u64());
        world.links.insert(PathId(index as u8), (up, down));
        if plan.first.as_ref().is_none_or(|first| first.contains(&(index as u8))) {
            world.sender.add_path(PathId(index as u8), 1200, START);
            world.receiver.add_path(PathId(index as u8), START.offset_by(offset));
        }
    }
    let mut source = Source { media: plan.media, rng: Rng::new(dice.next_u64()), video: 0, audio: 0 };
    let mut actions = plan.actions.clone();
    actions.sort_by_key(|(at, _)| *at);
    actions.reverse();
    let end = START + Duration::from_secs(plan.media.seconds + 1);
    let (mut now, mut turns) = (START, 0);
    world.drain(now);
    loop {
        let links = world.links.values().flat_map(|(up, down)| [up.poll_timeout(), down.poll_timeout()]);
        let receiver = world.receiver.poll_timeout().map(|at| at.offset_by(-offset));
        let mut next =
            links.flatten().chain(receiver).chain(actions.last().map(|(at, _)| *at)).collect::<Vec<_>>();
        if now < world.stalled_until {
            next.push(world.stalled_until);
        } else {
            next.extend(world.sender.poll_timeout().into_iter().chain(source.next().map(|(at, _)| at)));
        }
        let next = next.into_iter().min().unwrap_or(end);
        turns = if next > now { 0 } else { turns + 1 };
        assert!(turns < 1000, "the machines ask to be woken at once again and again");
        now = now.max(next);
        if now >= end {
            break;
        }
        while let Some((_, action)) = actions.pop_if(|(at, _)| *at <= now) {
            match action {
                Action::Add(path) => {
                    world.sender.add_path(PathId(path), 1200, now);
                    world.receiver.add_path(PathId(path), world.their(now));
                }
                Action::Remove(path) => {
                    world.sender.remove_path(PathId(path), now);
                    world.receiver.remove_path(PathId(path), world.their(now));
                }
                Action::Cable(path, up) => {
                    if let Some((there, back)) = world.links.get_mut(&PathId(path)) {
                        there.set_up(up, now);
                        back.set_up(up, now);
                    }
                }
                Action::Stall(until) => world.stalled_until = until,
            }
        }
        world.deliver(now);
        while let Some((_, video)) = source.next().filter(|(at, _)| *at <= now && now >= world.stalled_until)
        {
            let (frame, class) = source.take(video);
            world.sender.push(&frame, class, now);
            world.frames.insert(frame.id, (frame, None));
        }
        if now >= world.stalled_until && world.sender.poll_timeout().is_some_and(|at| at <= now) {
            world.sender.handle_timeout(now);
        }
        let theirs = world.their(now);
        if world.receiver.poll_timeout().is_some_and(|at| at <= theirs) {
            world.receiver.handle_timeout(theirs);
        }
        world.drain(now);
        world.most_queued = world.most_queued.max(world.sender.stats().queued_bytes);
    }
    finish(world)
}

fn finish(world: World) -> Outcome {
    let delivered = |(frame, delivered): &(Frame, Option<Time>)| Fate {
        frame: frame.id,
        captured: frame.capture_time,
        latency: delivered.map(|at| at.saturating_since(frame.capture_time)),
    };
    let fates: Vec<Fate> = world.frames.values().map(delivered).collect();
    for fate in &fates {
        // Nothing is both; what is neither came after the last frame that was handed over.
        let given_up = world.given_up.contains(&fate.frame);
        let after_all = world.last.get(&fate.frame.track) < Some(&(fate.frame.group, fate.frame.frame));
        assert_ne!(given_up, fate.latency.is_some() || (!given_up && after_all), "{fate:?}");
    }
    let clock = world.sender.clock();
    Outcome {
        fates,
        sender: world.sender.stats(),
        receiver: world.receiver.stats(),
        clock_error: clock.map(|clock| clock.offset_micros - world.offset),
        clock_bound: clock.map_or(0, |clock| clock.error_micros),
        target_rate: world.sender.target_rate(),
        events: world.events,
        most_buffered: world.most_buffered,
        most_queued: world.most_queued,
    }
}
