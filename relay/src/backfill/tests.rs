//! Both machines together, on a virtual clock, with a disk and lanes between them that misbehave.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use media::cmaf::Digest;
use media::{Frame, Time};

use super::demand::Outcome;
use super::samples::{START, configs, entry, group};
use super::wire::{Kept, PIECE, ToEdge, ToVenue, WINDOW};
use super::{Demand, Entry, GroupId, Supply};

const DEADLINE: Duration = Duration::from_millis(400);
const STEP: Duration = Duration::from_millis(20);

/// What goes from one end to the other is on its way for so long.
const DELAY: Duration = Duration::from_millis(70);

/// A small random generator whose seed is printed by whoever fails.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// What is on its way, and when it comes.
#[derive(Default)]
struct Way(VecDeque<(Time, Bytes)>);

impl Way {
    fn put(&mut self, bytes: Bytes, now: Time) {
        self.0.push_back((now + DELAY, bytes));
    }

    fn take(&mut self, now: Time) -> Option<Bytes> {
        let due = self.0.front().is_some_and(|(at, _)| *at <= now);
        if due { self.0.pop_front().map(|(_, bytes)| bytes) } else { None }
    }
}

/// A venue and an edge, and what lies on both disks.
struct World {
    now: Time,
    recording: BTreeMap<u64, Vec<Frame>>,
    /// Groups that no copy at the venue can give back.
    damaged: BTreeSet<u64>,
    supply: Supply,
    demand: Demand,
    edge_disk: BTreeMap<GroupId, Digest>,
    /// Written, not yet safe.
    written: Vec<Entry>,
    objects: Way,
    messages: Way,
    /// How often the venue read each group.
    reads: BTreeMap<u64, u32>,
}

impl World {
    fn new() -> Self {
        Self {
            now: START,
            recording: BTreeMap::new(),
            damaged: BTreeSet::new(),
            supply: Supply::default(),
            demand: Demand::new(configs(), Some(DEADLINE), BTreeMap::new()),
            edge_disk: BTreeMap::new(),
            written: Vec::new(),
            objects: Way::default(),
            messages: Way::default(),
            reads: BTreeMap::new(),
        }
    }

    /// The recorder has finished groups.
    fn record(&mut self, numbers: std::ops::Range<u64>, bytes: usize) {
        let frames: Vec<_> = numbers.map(|n| group(n, bytes)).collect();
        self.supply.handle_entries(frames.iter().map(|frames| entry(frames)).collect());
        self.recording.extend(frames.into_iter().map(|frames| (frames[0].id.group, frames)));
    }

    /// The edge starts anew, with what was safe on its disk.
    fn restart_edge(&mut self) {
        self.demand = Demand::new(configs(), Some(DEADLINE), self.edge_disk.clone());
        self.written.clear();
        self.objects = Way::default();
        self.messages = Way::default();
        self.supply.begin(true);
    }

    /// The venue's program starts anew over the same recording, so the edge has a new session.
    fn restart_venue(&mut self) {
        self.supply = Supply::default();
        self.supply.handle_entries(self.recording.values().map(|frames| entry(frames)).collect());
        self.restart_edge();
    }

    fn read(&mut self) {
        while let Some(id) = self.supply.poll_read() {
            *self.reads.entry(id.group).or_default() += 1;
            let good = !self.damaged.contains(&id.group);
            let frames = self.recording.get(&id.group).filter(|_| good);
            self.supply.handle_group(id, frames.map(Vec::as_slice));
        }
    }

    /// One step of time. `spare` bytes may go on the object lane; `disk`: whether a group can be written.
    fn step(&mut self, spare: usize, mut disk: impl FnMut() -> bool) {
        self.now += STEP;
        while let Some(message) = self.messages.take(self.now) {
            assert!(self.supply.handle_message(message));
        }
        self.read();
        let mut room = spare;
        while let Some(object) = self.supply.peek_object(self.now) {
            if object.len() > room {
                break;
            }
            room -= object.len();
            self.supply.sent();
            self.objects.put(object, self.now);
            self.read();
        }
        while let Some(object) = self.objects.take(self.now) {
            if let Outcome::Whole(entry, frames) = self.demand.handle_object(object, self.now) {
                assert_eq!(frames, self.recording[&entry.id.group]);
                if disk() {
                    self.demand.written(entry.id, Some(1));
                    self.written.push(entry);
                } else {
                    self.demand.failed(entry.id, self.now);
                }
            }
        }
        while let Some(message) = self.demand.poll_message(self.now) {
            self.messages.put(message.encode(), self.now);
        }
    }

    fn sync(&mut self) {
        for entry in self.written.drain(..) {
            self.edge_disk.insert(entry.id, entry.digest);
            self.demand.kept(entry.id, entry.digest);
        }
    }

    fn go_on(&mut self, steps: u32) {
        for n in 0..steps {
            self.step(256 * 1024, || true);
            if n % 25 == 24 {
                self.sync();
            }
        }
    }

    fn copies(&self) -> bool {
        let right = |frames: &Vec<Frame>| {
            let entry = entry(frames);
            self.edge_disk.get(&entry.id) == Some(&entry.digest)
        };
        self.recording.values().all(right)
    }
}

#[test]
fn what_is_missing_comes_and_what_came_live_does_not_come_twice() {
    let mut world = World::new();
    world.supply.begin(true);
    world.record(0..40, 3_000);
    world.go_on(5);
    // All but three came live.
    for frames in world.recording.values().filter(|frames| ![7, 8, 30].contains(&frames[0].id.group)) {
        let entry = entry(frames);
        assert_eq!(world.demand.expects(entry.id), Some(entry));
        world.demand.written(entry.id, None);
        world.written.push(entry);
    }
    world.sync();
    assert_eq!(world.demand.counts().kept.missing, 3);
    assert!(world.reads.is_empty());
    world.go_on(200);
    assert_eq!(world.reads.keys().copied().collect::<Vec<_>>(), [7, 8, 30]);
    assert!(world.copies() && !world.supply.standing().whole, "the show goes on");
    world.supply.handle_complete();
    // Told, and not confirmed: all is kept, but the edge does not know yet that it is all.
    world.now += Duration::from_secs(1);
    while world.supply.peek_object(world.now).is_some() {
        let object = world.supply.peek_object(world.now).unwrap();
        world.objects.put(object, world.now);
        world.supply.sent();
    }
    assert!(!world.objects.0.is_empty() && !world.supply.standing().done, "{:?}", world.supply.standing());
    world.go_on(100);
    let standing = world.supply.standing();
    assert!(standing.whole && standing.on, "{standing:?}");
    assert_eq!((standing.kept, standing.owed, standing.gone, standing.sent), (40, 0, 0, 3));
    assert_eq!(standing.sent_bytes, 3 * (3 * (3_000 + 12)));
    assert_eq!((world.demand.counts().healed, world.demand.counts().refused), (3, 0));
    // And then there is silence.
    assert_eq!((world.supply.poll_timeout(), world.demand.poll_timeout()), (None, None));
}

#[test]
fn nothing_is_asked_for_that_may_still_come_live() {
    let mut world = World::new();
    world.supply.begin(true);
    world.record(0..3, 100);
    world.go_on(40);
    assert!(world.reads.is_empty(), "800 ms after the news");
    let due = world.demand.poll_timeout().unwrap();
    assert!(due > world.now && due <= START + Duration::from_secs(3), "{due}");
    world.go_on(100);
    assert_eq!(world.reads.len(), 3);
    // Where nothing comes live, at once.
    world = World::new();
    world.demand = Demand::new(configs(), None, BTreeMap::new());
    world.supply.begin(true);
    world.record(0..3, 100);
    world.go_on(15);
    assert_eq!(world.reads.len(), 3);
}

#[test]
fn an_edge_that_keeps_nothing_is_told_nothing() {
    let mut world = World::new();
    world.record(0..3, 100);
    assert_eq!(world.supply.peek_object(START), None);
    world.supply.begin(false);
    world.go_on(300);
    assert_eq!((world.supply.peek_object(world.now), world.supply.poll_timeout()), (None, None));
    assert!(!world.supply.standing().on);
}

#[test]
fn a_window_of_groups_is_on_its_way_and_no_more() {
    let mut world = World::new();
    world.supply.begin(true);
    world.record(0..100, 30_000);
    let mut most = 0;
    for _ in 0..2_000 {
        world.step(70_000, || true);
        for (_, message) in &world.messages.0 {
            if let Some(ToVenue::Want(ids)) = ToVenue::parse(message.clone()) {
                most = most.max(ids.len());
            }
        }
        world.sync();
    }
    assert!(world.copies());
    assert_eq!(most, WINDOW);
    assert!(world.reads.values().all(|&reads| reads == 1), "each once: {:?}", world.reads);
}

#[test]
fn what_no_copy_has_is_given_up_and_told() {
    let mut world = World::new();
    world.supply.begin(true);
    world.record(0..10, 100);
    world.damaged = BTreeSet::from([4, 6]);
    world.supply.handle_complete();
    world.go_on(400);
    let standing = world.supply.standing();
    assert_eq!((standing.kept, standing.owed, standing.gone, standing.whole), (8, 0, 2, false));
    assert_eq!(world.reads[&4], 1);
    // The next session tries again.
    world.damaged.clear();
    world.restart_venue();
    world.supply.handle_complete();
    world.go_on(400);
    assert!(world.copies() && world.supply.standing().whole);
    assert_eq!(world.reads[&3], 1, "the others are there");
}

#[test]
fn a_group_that_is_not_what_the_manifest_says_is_tried_three_times() {
    let mut world = World::new();
    world.supply.begin(true);
    world.record(0..2, 100);
    // The disk gives back something else, which no checksum there has noticed.
    world.recording.insert(1, group(1, 99));
    for _ in 0..1_000 {
        world.now += STEP;
        while let Some(message) = world.messages.take(world.now) {
            world.supply.handle_message(message);
        }
        world.read();
        while let Some(object) = world.supply.peek_object(world.now) {
            world.supply.sent();
            if let Outcome::Whole(entry, _) = world.demand.handle_object(object, world.now) {
                assert_eq!(entry.id.group, 0);
                world.demand.written(entry.id, Some(1));
                world.demand.kept(entry.id, entry.digest);
            }
        }
        while let Some(message) = world.demand.poll_message(world.now) {
            world.messages.put(message.encode(), world.now);
        }
    }
    assert_eq!(world.reads[&1], 3);
    let kept = Kept { kept: 1, missing: 0, gone: 1, whole: false, stuck: false };
    assert_eq!((world.demand.counts().kept, world.demand.counts().refused), (kept, 3));
}

#[test]
fn a_full_disk_stops_the_asking_and_a_free_one_starts_it_again() {
    let mut world = World::new();
    world.supply.begin(true);
    world.record(0..30, 1_000);
    world.step(1 << 20, || true);
    let until = world.now + Duration::from_secs(5);
    world.demand.stuck(Some(until));
    while world.now + STEP < until {
        world.step(1 << 20, || false);
    }
    assert!(world.reads.is_empty());
    assert!(world.supply.standing().stuck);
    world.demand.stuck(None);
    world.go_on(300);
    assert!(world.copies() && !world.supply.standing().stuck);
}

/// What was written but not safe when the disk failed is asked for again, though it was there once.
#[test]
fn what_a_failing_disk_loses_comes_again() {
    let mut world = World::new();
    world.supply.begin(true);
    world.record(0..3, 1_000);
    (0..150).for_each(|_| world.step(1 << 20, || true));
    assert_eq!(world.written.len(), 3);
    assert_eq!(world.demand.counts().kept.missing, 3, "written is not kept");
    for entry in std::mem::take(&mut world.written) {
        world.demand.failed(entry.id, world.now);
    }
    world.go_on(300);
    assert!(world.copies());
    assert!(world.reads.values().all(|&reads| reads == 2));
}

/// Pieces that a full queue let go: the group comes again, the ones after it are not harmed.
#[test]
fn a_piece_that_is_missing_costs_its_group_only() {
    let mut world = World::new();
    world.supply.begin(true);
    world.record(0..4, PIECE);
    let mut dropped = 0;
    for n in 0..1_500 {
        world.now += STEP;
        while let Some(message) = world.messages.take(world.now) {
            world.supply.handle_message(message);
        }
        world.read();
        if let Some(object) = world.supply.peek_object(world.now) {
            world.supply.sent();
            let second = matches!(
                ToEdge::parse(object.clone()),
                Some(ToEdge::Piece { id, offset, .. }) if id.group == 2 && offset == PIECE as u64
            );
            if second && dropped == 0 {
                dropped += 1;
            } else if let Outcome::Whole(entry, _) = world.demand.handle_object(object, world.now) {
                world.demand.written(entry.id, Some(1));
                world.written.push(entry);
            }
        }
        while let Some(message) = world.demand.poll_message(world.now) {
            world.messages.put(message.encode(), world.now);
        }
        if n % 25 == 0 {
            world.sync();
        }
    }
    assert_eq!(dropped, 1);
    assert!(world.copies());
    assert_eq!(world.reads.values().copied().collect::<Vec<_>>(), [1, 1, 2, 1]);
}

/// Thousands of bad days: restarts of either end, a disk that fails, spare rate that comes and goes, objects that
/// are let go; in the end the copy is whole.
#[test]
fn in_the_end_it_is_whole_whatever_happened() {
    let days: u64 = std::env::var("ROADIE_DAYS").ok().and_then(|days| days.parse().ok()).unwrap_or(100);
    for seed in 0..days {
        let mut random = Random(seed);
        let mut world = World::new();
        world.supply.begin(true);
        let mut next = 0;
        for _ in 0..400 {
            match random.below(40) {
                0 => world.restart_edge(),
                1 => world.restart_venue(),
                2 => {
                    // The disk fails: what was not safe is lost.
                    world.demand.stuck(Some(world.now + Duration::from_secs(1)));
                    for entry in std::mem::take(&mut world.written) {
                        world.demand.failed(entry.id, world.now);
                    }
                }
                3 => world.demand.stuck(None),
                4..8 => world.sync(),
                8..14 => {
                    let more = random.below(6);
                    let bytes = if random.one_in(4) { 30_000 } else { 1 + random.below(1_000) };
                    world.record(next..next + more, bytes as usize);
                    next += more;
                }
                14..18 => drop(world.objects.0.pop_back()),
                18..21 => {
                    let noise: Vec<u8> = (0..random.below(40)).map(|_| random.below(256) as u8).collect();
                    world.demand.handle_object(noise.clone().into(), world.now);
                    world.supply.handle_message(noise.into());
                }
                _ => {}
            }
            let spare = random.below(200_000) as usize;
            let bad = random.one_in(5);
            world.step(spare, || !bad);
        }
        world.demand.stuck(None);
        world.restart_venue();
        world.supply.handle_complete();
        world.go_on(3_000);
        assert!(
            world.copies() && world.supply.standing().whole,
            "seed {seed}: {:?}",
            world.supply.standing()
        );
    }
}
