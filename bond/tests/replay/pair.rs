//! A sender and a receiver with a bad network between them that the input makes worse as it likes: what comes
//! out went in, once and in order, and when the weather clears everything flows again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use bond::{
    Class, Delivery, MAX_FRAME_BYTES, PathId, Receiver, ReceiverConfig, Sender, SenderConfig, Transmit,
};
use bytes::Bytes;
use media::{Frame, FrameId, Time, TrackId};

use super::datagram;
use super::input::Input;
use super::sender::{CLASSES, cost};
use super::{LIFE, PATHS, Patience, START, path};

/// Datagrams that are on their way at once; a network would lose the others, too.
const MAX_FLYING: usize = 4_000;

/// Objects in one run, in bytes: at the least rate of one path these take 12 s.
const MAX_OBJECTS_BYTES: usize = 100_000;

/// How long both drivers stand still at most.
const MAX_STALL: Duration = Duration::from_secs(10);

/// How long the weather is fine at the end before all must be well: paths prove themselves again within one
/// second.
const RECOVERY: Duration = Duration::from_millis(2_000);

/// How long the lanes may then take for what waits.
const MAX_RECOVERY: Duration = Duration::from_secs(120);

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut rig = Rig::new(&mut input);
    while !input.is_empty() {
        rig.operate(&mut input);
    }
    rig.clear_up();
}

/// What one path does to datagrams; bit `n % 8` of a pattern is for the `n`th datagram.
#[derive(Clone, Copy, Default)]
struct Weather {
    delay: Duration,
    lost: u8,
    twice: u8,
    late: u8,
}

/// One track as the oracle knows it.
#[derive(Default)]
struct Track {
    group: u64,
    frame: u32,
    /// How many frames were pushed: their orders.
    pushed: u64,
    /// Those that may still come, by name, each with its number.
    waiting: BTreeMap<(u64, u32), (u64, Frame)>,
    delivered: BTreeSet<(u64, u32)>,
    /// The number of the last one that came.
    last: Option<u64>,
    lost: Vec<(u64, Range<u32>)>,
    /// Where the receiver began.
    first: Option<u64>,
}

struct Flying {
    up: bool,
    path: PathId,
    data: Bytes,
}

struct Rig {
    sender: Sender,
    receiver: Receiver,
    life: Duration,
    deadline: Duration,
    now: Time,
    /// The receiver's clock less the sender's.
    offset: i64,
    sender_paths: BTreeSet<PathId>,
    receiver_paths: BTreeSet<PathId>,
    weather: BTreeMap<(bool, PathId), Weather>,
    /// By when they arrive, then in the order in which they were sent.
    flying: BTreeMap<(Time, u64), Flying>,
    flown: u64,
    tracks: BTreeMap<TrackId, Track>,
    /// What must come out next of each lane: messages and objects there, messages back.
    messages: VecDeque<Bytes>,
    objects: VecDeque<Bytes>,
    answers: VecDeque<Bytes>,
    objects_bytes: usize,
    made: u32,
}

impl Rig {
    fn new(input: &mut Input<'_>) -> Self {
        let deadline = Duration::from_millis(100 + 4 * u64::from(input.byte()));
        let theirs = if input.flag() { START } else { Time::from_micros(input.number() >> 2) };
        let mut rig = Rig {
            sender: Sender::new(SenderConfig { deadline, fec: input.flag(), live: true }),
            receiver: Receiver::new(ReceiverConfig { deadline }),
            life: LIFE,
            deadline,
            now: START,
            offset: theirs.micros_since(START),
            sender_paths: BTreeSet::new(),
            receiver_paths: BTreeSet::new(),
            weather: BTreeMap::new(),
            flying: BTreeMap::new(),
            flown: 0,
            tracks: BTreeMap::new(),
            messages: VecDeque::new(),
            objects: VecDeque::new(),
            answers: VecDeque::new(),
            objects_bytes: 0,
            made: 0,
        };
        for path in 0..2 {
            rig.add_path(PathId(path), true, true);
        }
        rig
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        match input.below(64) {
            0..16 => self.run(Duration::from_millis(u64::from(input.byte()))),
            16..18 => self.run(Duration::from_millis(4 * u64::from(input.byte()))),
            // Both drivers stand still; after more than this a venue begins a new session.
            18..20 => self.now += input.step().min(MAX_STALL),
            20..32 => {
                let again = if input.below(16) == 15 { input.byte() % 32 } else { 0 };
                let (track, class) = (input.below(4), CLASSES[usize::from(input.below(6))]);
                let (len, begins) = (self.len(input), input.byte());
                let early = if begins & 1 == 0 { 0 } else { input.offset_micros() };
                (0..=again).for_each(|_| self.push(TrackId(track), class, len, begins >> 1, early));
            }
            32..36 => {
                let message = self.bytes(usize::from(input.short()) % (bond::MAX_MESSAGE_BYTES + 1));
                if self.sender.send_message(message.clone(), self.now).is_ok() {
                    self.messages.push_back(message);
                }
            }
            36..39 => {
                let object = self.bytes(usize::from(input.short()) % 20_000);
                let fits = self.objects_bytes + object.len() <= MAX_OBJECTS_BYTES;
                if fits && self.sender.send_object(object.clone(), self.now).is_ok() {
                    self.objects_bytes += object.len();
                    self.objects.push_back(object);
                }
            }
            39..42 => {
                let message = self.bytes(usize::from(input.short()) % (bond::MAX_MESSAGE_BYTES + 1));
                if self.receiver.send_message(message.clone()).is_ok() {
                    self.answers.push_back(message);
                }
            }
            42..52 => {
                let (way, path) = (input.below(4), path(input));
                let weather = Weather {
                    delay: Duration::from_millis(u64::from(input.byte())),
                    lost: input.byte(),
                    twice: input.byte() & input.byte(),
                    late: input.byte(),
                };
                for up in [true, false] {
                    if way >= 2 || (way == 1) == up {
                        self.weather.insert((up, path), weather);
                    }
                }
            }
            52..56 => {
                let (path, ends) = (path(input), input.below(4));
                self.add_path(path, ends != 1, ends != 2);
            }
            56..60 => {
                let (path, ends) = (path(input), input.below(4));
                self.remove_path(path, ends != 1, ends != 2);
            }
            60..63 => self.sender.set_cost(path(input), cost(input)),
            _ => {
                self.sender.handle_timeout(self.now);
                self.receiver.handle_timeout(self.theirs());
            }
        }
        self.settle();
        let stats = self.receiver.stats();
        assert!(stats.buffered_bytes <= 16 << 20, "{stats:?}");
    }

    fn theirs(&self) -> Time {
        self.now.offset_by(self.offset)
    }

    fn add_path(&mut self, path: PathId, sender: bool, receiver: bool) {
        if sender {
            self.sender.add_path(path, bond::MAX_DATAGRAM, self.now);
            if self.sender_paths.contains(&path) || self.sender_paths.len() < bond::MAX_PATHS {
                self.sender_paths.insert(path);
            }
        }
        if receiver {
            self.receiver.add_path(path, self.theirs());
            if self.receiver_paths.contains(&path) || self.receiver_paths.len() < bond::MAX_PATHS {
                self.receiver_paths.insert(path);
            }
        }
    }

    fn remove_path(&mut self, path: PathId, sender: bool, receiver: bool) {
        if sender {
            self.sender.remove_path(path, self.now);
            self.sender_paths.remove(&path);
        }
        if receiver {
            self.receiver.remove_path(path, self.theirs());
            self.receiver_paths.remove(&path);
        }
    }

    fn len(&self, input: &mut Input<'_>) -> usize {
        match input.below(16) {
            0 => 0,
            1 => MAX_FRAME_BYTES + usize::from(input.flag()),
            2 => 16 * usize::from(input.short()),
            _ => usize::from(input.short()) % 6_000,
        }
    }

    /// Bytes that are unlike any others in this run.
    fn bytes(&mut self, len: usize) -> Bytes {
        self.made += 1;
        let mut bytes = vec![self.made as u8; len];
        // A shard of its own for each place, too.
        for (place, chunk) in bytes.chunks_mut(512).enumerate() {
            let name = self.made.to_be_bytes().into_iter().chain((place as u32).to_be_bytes());
            chunk.iter_mut().zip(name).for_each(|(byte, name)| *byte = name);
        }
        bytes.into()
    }

    /// Pushes the next frame of a track; `step` says whether it begins a group, and how many are left out.
    fn push(&mut self, track: TrackId, class: Class, len: usize, step: u8, early: i64) {
        let data = self.bytes(len);
        let known = self.tracks.entry(track).or_default();
        if step & 3 == 0 {
            (known.group, known.frame) = (known.group + 1 + u64::from(step >> 2).saturating_sub(27), 0);
        }
        let id = FrameId { track, group: known.group, frame: known.frame };
        known.frame += 1;
        let capture_time = Time::from_micros(self.now.as_micros().wrapping_add_signed(early));
        let frame = Frame { id, capture_time, keyframe: id.frame == 0, data };
        // As `Sender::push` says: too long or late already, and it is dropped.
        if len <= MAX_FRAME_BYTES && capture_time.min(self.now) + self.deadline > self.now {
            known.waiting.insert((id.group, id.frame), (known.pushed, frame.clone()));
        }
        known.pushed += 1;
        self.sender.push(&frame, class, self.now);
    }

    /// Lives for so long while there is life left; then the time just passes.
    fn run(&mut self, time: Duration) {
        let lives = time.min(self.life);
        self.life -= lives;
        self.live(lives);
        self.now += time - lives;
    }

    /// Lives for so long.
    fn live(&mut self, time: Duration) {
        let end = self.now + time;
        let mut patience = Patience::new(400_000, "turns in a few seconds");
        loop {
            self.settle();
            let theirs = self.receiver.poll_timeout().map(|due| due.offset_by(-self.offset));
            let due = self.sender.poll_timeout().into_iter().chain(theirs);
            let Some(due) = due.chain(self.flying.keys().next().map(|key| key.0)).min() else { break };
            if due > end {
                break;
            }
            patience.spend();
            self.now = self.now.max(due);
            self.turn();
        }
        self.now = self.now.max(end);
        self.turn();
    }

    /// Does what is due.
    fn turn(&mut self) {
        while let Some(first) = self.flying.first_entry()
            && first.key().0 <= self.now
        {
            let Flying { up, path, data } = first.remove();
            if up {
                self.arrives(path, &data)
            } else {
                self.returns(path, &data)
            }
            self.drain();
        }
        if self.sender.poll_timeout().is_some_and(|due| due <= self.now) {
            self.sender.handle_timeout(self.now);
        }
        if self.receiver.poll_timeout().is_some_and(|due| due <= self.theirs()) {
            self.receiver.handle_timeout(self.theirs());
        }
        self.drain();
    }

    /// Drains, and does all that is due now.
    fn settle(&mut self) {
        let mut patience = Patience::new(20_000, "timeouts that do not move on");
        self.drain();
        loop {
            self.turn();
            let (sender, receiver) = (self.sender.poll_timeout(), self.receiver.poll_timeout());
            let idle = sender.is_none_or(|due| due > self.now);
            if idle && receiver.is_none_or(|due| due > self.theirs()) {
                return;
            }
            patience.spend();
        }
    }

    fn arrives(&mut self, path: PathId, data: &[u8]) {
        let before = self.receiver.stats();
        self.receiver.handle_datagram(path, data, self.theirs()).expect("a receiver understands its sender");
        let (kind, _, _, rest) = datagram::read_stamp(data).expect("a stamp");
        if !matches!(kind, datagram::SHARD | datagram::PARITY) {
            return;
        }
        let (track, _, floor) = datagram::read_shard(rest).expect("a shard");
        let Some(track) = self.tracks.get_mut(&TrackId(track)).filter(|track| track.first.is_none()) else {
            return;
        };
        let after = self.receiver.stats();
        if (after.rejected, after.duplicates) == (before.rejected, before.duplicates) {
            track.first = Some(floor);
        }
    }

    fn returns(&mut self, path: PathId, data: &[u8]) {
        self.sender.handle_datagram(path, data, self.now).expect("a sender understands its receiver");
    }

    fn drain(&mut self) {
        let mut patience = Patience::new(20_000, "datagrams");
        while let Some(transmit) = self.sender.poll_transmit(self.now) {
            patience.spend();
            assert!(self.sender_paths.contains(&transmit.path));
            self.send(true, transmit);
        }
        while let Some(transmit) = self.receiver.poll_transmit(self.theirs()) {
            patience.spend();
            assert!(self.receiver_paths.contains(&transmit.path));
            self.send(false, transmit);
        }
        while self.sender.poll_event().is_some() {
            patience.spend();
        }
        while let Some(delivery) = self.receiver.poll_delivery() {
            patience.spend();
            self.check(delivery);
        }
        while let Some(message) = self.sender.poll_message() {
            assert_eq!(Some(&message), self.answers.pop_front().as_ref(), "messages back: once, in order");
        }
    }

    fn send(&mut self, up: bool, Transmit { path, data }: Transmit) {
        self.flown += 1;
        let weather = self.weather.get(&(up, path)).copied().unwrap_or_default();
        let hits = |pattern: u8| pattern >> (self.flown % 8) & 1 == 1;
        if hits(weather.lost) || self.flying.len() >= MAX_FLYING {
            return;
        }
        let late =
            if hits(weather.late) { weather.delay / 2 + Duration::from_millis(20) } else { Duration::ZERO };
        // Nothing arrives at the moment in which it was sent.
        let due = self.now + weather.delay + late + Duration::from_micros(200);
        if hits(weather.twice) {
            let again = Flying { up, path, data: data.clone() };
            self.flying.insert((due + 2 * weather.delay, self.flown), again);
        }
        self.flying.insert((due, self.flown), Flying { up, path, data });
    }

    fn check(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Message(data) => {
                assert_eq!(Some(&data), self.messages.pop_front().as_ref(), "messages: once, in order");
            }
            Delivery::Object(data) => {
                assert_eq!(Some(&data), self.objects.pop_front().as_ref(), "objects: once, in order");
            }
            Delivery::Frame { frame, .. } => {
                let id = frame.id;
                let track = self.tracks.get_mut(&id.track).expect("a track that was sent");
                let name = (id.group, id.frame);
                let (number, sent) = track.waiting.remove(&name).expect("a frame that was sent, once");
                assert_eq!(frame, sent);
                assert!(track.last.is_none_or(|last| last < number), "in order");
                track.last = Some(number);
                let lost = track
                    .lost
                    .iter()
                    .find(|(group, frames)| *group == id.group && frames.contains(&id.frame));
                assert_eq!(lost, None, "{id:?} was called lost");
                track.delivered.insert(name);
            }
            Delivery::Lost { track: id, group, frames } => {
                let track = self.tracks.get_mut(&id).unwrap_or_else(|| panic!("{id:?} loses nothing"));
                let there = track.delivered.range((group, frames.start)..(group, frames.end)).next();
                assert_eq!(there, None, "what was handed over is called lost: {id:?} {group} {frames:?}");
                track.lost.push((group, frames));
            }
        }
    }

    /// The weather clears: what waits on the lanes arrives, and the next frames, and every frame before
    /// them is accounted for.
    fn clear_up(&mut self) {
        self.weather.clear();
        for path in (0..PATHS).map(PathId) {
            let (sends, receives) = (self.sender_paths.contains(&path), self.receiver_paths.contains(&path));
            if receives && !sends {
                self.remove_path(path, false, true);
            }
        }
        for path in self.sender_paths.clone() {
            if !self.receiver_paths.contains(&path) {
                self.add_path(path, false, true);
            }
        }
        if self.sender_paths.is_empty() {
            self.add_path(PathId(0), true, true);
        }
        let began = self.now;
        self.live(RECOVERY);
        while !(self.messages.is_empty() && self.objects.is_empty() && self.answers.is_empty()) {
            assert!(self.now < began + MAX_RECOVERY, "a lane is stuck: {self}");
            self.live(Duration::from_millis(200));
        }
        let tracks: Vec<TrackId> = self.tracks.keys().copied().collect();
        for &track in &tracks {
            self.push(track, Class::Keyframe, 10, 0, 0);
        }
        self.live(self.deadline + Duration::from_secs(1));
        let mut accounted = 0;
        for id in tracks {
            let track = &self.tracks[&id];
            assert_eq!(track.last, Some(track.pushed - 1), "{id:?} does not flow again: {self}");
            accounted += track.pushed - track.first.unwrap_or(0);
        }
        let stats = self.receiver.stats();
        assert_eq!(stats.frames_delivered + stats.frames_lost, accounted, "{self}");
        assert_eq!((stats.buffered_frames, stats.buffered_bytes), (0, 0), "{self}");
        assert_eq!(self.sender.stats().queued_shards, 0, "{self}");
    }
}

impl std::fmt::Display for Rig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#?}\n{:#?}", self.sender.stats(), self.receiver.stats())
    }
}
