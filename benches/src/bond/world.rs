//! A venue, an edge and the links between them, on one virtual clock.

use std::collections::VecDeque;
use std::time::Duration;

use bond::{Delivery, PathId, Receiver, ReceiverConfig, Sender, SenderConfig, SenderEvent};
use bytes::Bytes;
use media::{Frame, FrameId, Time, TrackId};
use sim::{Link, Rng};

use super::media::{AUDIO, Coming, OVERHEAD, Source, VIDEO, place};
use super::plan::{Action, Plan, START};
use super::tally::{Fate, Kind, Outcome, Times, UplinkOutcome, record, times};

/// After the last frame the links get this long to empty.
const DRAIN: Duration = Duration::from_secs(1);

/// A machine that asks to be woken at once this often in a row is broken.
const MAX_TURNS: u32 = 1000;

/// The receiver's clock is this far from the sender's at most, microseconds: hours, either way.
const CLOCKS_APART: u64 = 10_000_000_000;

/// What the driver tells the sender of each path.
const PATH_DATAGRAM: usize = 1200;

/// A frame that was sent and whose fate is not known.
struct UnderWay {
    coming: Coming,
    bytes: usize,
    /// Its content, where it is compared.
    frame: Option<Frame>,
    given_up: bool,
}

/// The frames of one track that are under way, in order.
#[derive(Default)]
struct Track {
    frames: VecDeque<UnderWay>,
    /// The first one's place in the track.
    first: u64,
    /// Something was handed over or reported lost: from here on the receiver accounts for every frame.
    begun: bool,
}

struct World<'a> {
    plan: &'a Plan,
    sender: Sender,
    receiver: Receiver,
    links: Vec<(Link<Bytes>, Link<Bytes>)>,
    queueing: Vec<Times>,
    rng: Rng,
    /// The receiver's clock minus the sender's.
    offset: i64,
    stalled_until: Time,
    /// What came for the sender while it stood still.
    mail: Vec<(PathId, Bytes)>,
    source: Source,
    tracks: [Track; 2],
    sender_wakes: Option<Time>,
    /// By the sender's clock.
    receiver_wakes: Option<Time>,
    outcome: Outcome,
    next_watch: Time,
}

/// Runs a plan to its end. The same seed gives the same run.
///
/// # Panics
///
/// Where a machine breaks its contract: it refuses the other's datagrams, makes ones that are too long, asks
/// to be woken without end, or (with [`Plan::check`]) hands over frames that are not as they were, or not in
/// order.
pub fn run(plan: &Plan, seed: u64) -> Outcome {
    let mut world = World::new(plan, seed);
    let mut actions = plan.actions.clone();
    actions.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let end = START + plan.media.length + DRAIN;
    let (mut now, mut turns) = (plan.began(), 0);
    world.drain(now, true, true);
    loop {
        let next = world.next(now, actions.last().map(|(at, _)| *at)).unwrap_or(end);
        turns = if next > now { 0 } else { turns + 1 };
        assert!(turns < MAX_TURNS, "the machines ask to be woken at once again and again (seed {seed})");
        now = now.max(next);
        if now >= end {
            return world.finish();
        }
        let mut acted = false;
        while let Some((_, action)) = actions.pop_if(|(at, _)| *at <= now) {
            world.act(action, now);
            acted = true;
        }
        let (mut sender, mut receiver) = world.deliver(now);
        sender |= world.capture(now);
        if now >= world.stalled_until && world.sender_wakes.is_some_and(|at| at <= now) {
            world.sender.handle_timeout(now);
            sender = true;
        }
        if world.receiver_wakes.is_some_and(|at| at <= now) {
            world.receiver.handle_timeout(world.theirs(now));
            receiver = true;
        }
        world.drain(now, sender || acted, receiver || acted);
        world.outcome.events += 1;
        world.watch(now);
    }
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, seed: u64) -> Self {
        let mut dice = Rng::new(seed);
        let offset = dice.below(2 * CLOCKS_APART) as i64 - CLOCKS_APART as i64;
        let began = plan.began();
        let mut world = Self {
            plan,
            sender: Sender::new(sender_config(plan)),
            receiver: Receiver::new(receiver_config(plan)),
            links: Vec::new(),
            queueing: plan.uplinks.iter().map(|_| times()).collect(),
            rng: Rng::new(dice.next_u64()),
            offset,
            stalled_until: Time::ZERO,
            mail: Vec::new(),
            source: Source::new(plan.media, media_seed(seed)),
            tracks: Default::default(),
            sender_wakes: None,
            receiver_wakes: None,
            outcome: Outcome {
                video: Kind::default(),
                audio: Kind::default(),
                fates: Vec::new(),
                uplinks: Vec::new(),
                sender: Default::default(),
                receiver: Default::default(),
                clock_error: None,
                clock_bound: 0,
                target_rate: 0,
                drop_events: 0,
                most_buffered: 0,
                most_queued: 0,
                most_under_way: 0,
                events: 0,
            },
            next_watch: began,
        };
        for (index, uplink) in plan.uplinks.iter().enumerate() {
            let mut up = Link::new(uplink.up.clone(), dice.next_u64());
            let mut down = Link::new(uplink.down.clone(), dice.next_u64());
            up.begin(began);
            down.begin(began);
            world.links.push((up, down));
            if plan.is_first(index) {
                world.add(PathId(index as u8), began);
            }
        }
        world
    }

    fn theirs(&self, now: Time) -> Time {
        now.offset_by(self.offset)
    }

    /// When something is to be done.
    fn next(&self, now: Time, action: Option<Time>) -> Option<Time> {
        let links = self.links.iter().flat_map(|(up, down)| [up.poll_timeout(), down.poll_timeout()]);
        let sender = match now < self.stalled_until {
            true => Some(self.stalled_until),
            false => self.sender_wakes.into_iter().chain(self.captures()).min(),
        };
        links.chain([sender, self.receiver_wakes, action]).flatten().min()
    }

    /// When the next frame leaves the encoder.
    fn captures(&self) -> Option<Time> {
        self.source.next().map(|coming| START + coming.captured + self.plan.media.encoding)
    }

    fn add(&mut self, path: PathId, now: Time) {
        self.sender.add_path(path, PATH_DATAGRAM, now);
        self.receiver.add_path(path, self.theirs(now));
    }

    fn act(&mut self, action: Action, now: Time) {
        match action {
            Action::Add(path) => self.add(PathId(path), now),
            Action::Remove(path) => {
                self.sender.remove_path(PathId(path), now);
                self.receiver.remove_path(PathId(path), self.theirs(now));
            }
            Action::Cable(path, is_in) => {
                if let Some((up, down)) = self.links.get_mut(usize::from(path)) {
                    up.set_up(is_in, now);
                    down.set_up(is_in, now);
                }
            }
            Action::Stall(until) => self.stalled_until = until,
        }
    }

    /// Delivers what the links hold ready; says whether something came for the sender, for the receiver.
    fn deliver(&mut self, now: Time) -> (bool, bool) {
        let theirs = now.offset_by(self.offset);
        let (mut for_sender, mut for_receiver) = (false, false);
        for (path, (up, down)) in (0u8..).zip(&mut self.links) {
            while let Some(data) = up.poll(now) {
                for_receiver = true;
                let twice = self.plan.duplicates > 0.0 && self.rng.chance(self.plan.duplicates);
                for _ in 0..1 + u32::from(twice) {
                    self.receiver
                        .handle_datagram(PathId(path), &data, theirs)
                        .expect("the sender speaks the protocol");
                }
            }
            while let Some(data) = down.poll(now) {
                self.mail.push((PathId(path), data));
            }
        }
        if now >= self.stalled_until {
            for (path, data) in self.mail.drain(..) {
                for_sender = true;
                self.sender.handle_datagram(path, &data, now).expect("the receiver speaks the protocol");
            }
        }
        (for_sender, for_receiver)
    }

    /// Sends the frames that are due; says whether there was one.
    fn capture(&mut self, now: Time) -> bool {
        let mut any = false;
        while now >= self.stalled_until
            && self.captures().is_some_and(|at| at <= now)
            && let Some(coming) = self.source.next()
        {
            self.source.advance();
            let bytes = coming.bytes(&self.plan.media, self.video_rate());
            let frame = match self.plan.check {
                true => coming.frame_with_content(START, bytes),
                false => coming.frame(START, bytes),
            };
            self.sender.push(&frame, coming.class, now);
            let frame = self.plan.check.then_some(frame);
            let track = &mut self.tracks[usize::from(coming.id.track.0)];
            track.frames.push_back(UnderWay { coming, bytes, frame, given_up: false });
            any = true;
        }
        if any {
            let outcome = &mut self.outcome;
            let under_way = self.tracks.iter().map(|track| track.frames.len()).sum();
            outcome.most_under_way = outcome.most_under_way.max(under_way);
            outcome.most_queued = outcome.most_queued.max(self.sender.stats().queued_bytes);
            outcome.most_buffered = outcome.most_buffered.max(self.receiver.stats().buffered_bytes);
        }
        any
    }

    /// What the encoder makes of the bond's word.
    fn video_rate(&self) -> u64 {
        match self.plan.follow {
            None => self.plan.media.video,
            Some(follow) => {
                let video = self.sender.target_rate().saturating_sub(self.plan.media.audio);
                video.clamp(follow.least, follow.most)
            }
        }
    }

    /// Moves what the machines want to send, and takes what they hand over. Only a machine that was touched
    /// is asked.
    fn drain(&mut self, now: Time, sender: bool, receiver: bool) {
        if sender && now >= self.stalled_until {
            while let Some(transmit) = self.sender.poll_transmit(now) {
                let (path, size) = (usize::from(transmit.path.0), transmit.data.len());
                assert!(size <= bond::MAX_DATAGRAM, "a datagram of {size} bytes");
                if let Some((up, _)) = self.links.get_mut(path)
                    && let Some(wait) = up.send(transmit.data, size + OVERHEAD, now)
                {
                    record(&mut self.queueing[path], wait);
                }
            }
            while let Some(SenderEvent::Dropped { .. }) = self.sender.poll_event() {
                self.outcome.drop_events += 1;
            }
            self.sender_wakes = self.sender.poll_timeout();
        }
        if receiver {
            let theirs = self.theirs(now);
            while let Some(transmit) = self.receiver.poll_transmit(theirs) {
                let size = transmit.data.len();
                assert!(size <= bond::MAX_DATAGRAM, "a datagram of {size} bytes");
                if let Some((_, down)) = self.links.get_mut(usize::from(transmit.path.0)) {
                    down.send(transmit.data, size + OVERHEAD, now);
                }
            }
            while let Some(delivery) = self.receiver.poll_delivery() {
                self.handed_over(delivery, now);
            }
            self.receiver_wakes = self.receiver.poll_timeout().map(|at| at.offset_by(-self.offset));
        }
    }

    fn handed_over(&mut self, delivery: Delivery, now: Time) {
        match delivery {
            Delivery::Frame { frame, arrived } => {
                assert!(arrived <= self.theirs(now), "{:?} is said to arrive in the future", frame.id);
                let place = place(&self.plan.media, frame.id);
                let track = frame.id.track;
                assert!(place >= self.track(track).first, "{:?} comes twice or out of order", frame.id);
                self.settle_until(track, place);
                let track = self.track(track);
                let was = track.frames.pop_front();
                track.begun = true;
                track.first += 1;
                let was = was.unwrap_or_else(|| panic!("nobody sent {:?}", frame.id));
                assert!(!was.given_up, "{:?} was reported lost", frame.id);
                assert!(was.frame.as_ref().is_none_or(|pushed| *pushed == frame), "{:?} is spoilt", frame.id);
                self.settle(&was, Some(now.saturating_since(START + was.coming.captured)));
            }
            Delivery::Lost { track, group, frames } => {
                let media = self.plan.media;
                let from = place(&media, FrameId { track, group, frame: frames.start });
                let until = match frames.end {
                    u32::MAX => place(&media, FrameId { track, group: group + 1, frame: 0 }),
                    end => place(&media, FrameId { track, group, frame: end }),
                };
                let track = self.track(track);
                track.begun = true;
                assert!(from >= track.first, "{group}.{frames:?} reported lost after later ones came");
                let from = (from - track.first) as usize;
                let until = (until.saturating_sub(track.first) as usize).min(track.frames.len());
                track.frames.range_mut(from.min(until)..until).for_each(|frame| frame.given_up = true);
            }
            // Nobody sends these here.
            Delivery::Message(_) | Delivery::Object(_) => {}
        }
    }

    fn track(&mut self, track: TrackId) -> &mut Track {
        &mut self.tracks[usize::from(track.0)]
    }

    /// What has not come before the frame of this place is lost, and must have been reported.
    fn settle_until(&mut self, track: TrackId, place: u64) {
        while self.track(track).first < place
            && let Some(lost) = self.track(track).frames.pop_front()
        {
            let track = self.track(track);
            track.first += 1;
            let id = lost.coming.id;
            assert!(lost.given_up || !track.begun, "{id:?} is neither handed over nor reported lost");
            self.settle(&lost, None);
        }
    }

    fn settle(&mut self, frame: &UnderWay, latency: Option<Duration>) {
        let id = frame.coming.id;
        self.outcome.kind(id).add(latency, frame.bytes, self.plan.deadline);
        if self.plan.keep_fates {
            let captured = START + frame.coming.captured;
            self.outcome.fates.push(Fate { frame: id, captured, latency });
        }
    }

    fn finish(mut self) -> Outcome {
        for track in [VIDEO, AUDIO] {
            // The last ones may be lost without the receiver ever knowing of them.
            for frame in std::mem::take(&mut self.track(track).frames) {
                self.settle(&frame, None);
            }
        }
        let clock = self.sender.clock();
        let mut outcome = self.outcome;
        outcome.fates.sort_by_key(|fate| (fate.captured, fate.frame));
        outcome.uplinks = self
            .links
            .iter()
            .zip(self.queueing)
            .map(|((up, down), queueing)| UplinkOutcome { up: up.stats(), down: down.stats(), queueing })
            .collect();
        outcome.sender = self.sender.stats();
        outcome.receiver = self.receiver.stats();
        outcome.clock_error = clock.map(|clock| clock.offset_micros - self.offset);
        outcome.clock_bound = clock.map_or(0, |clock| clock.error_micros);
        outcome.target_rate = self.sender.target_rate();
        outcome
    }

    fn watch(&mut self, now: Time) {
        let Some(interval) = self.plan.watch else { return };
        if now < self.next_watch {
            return;
        }
        self.next_watch = now + interval;
        let stats = self.sender.stats();
        let millis = |duration: Duration| duration.as_micros() as f64 / 1e3;
        let mut line = format!(
            "{:7.3} s  queued {:6}  target {:5.2}",
            now.micros_since(START) as f64 / 1e6,
            stats.queued_bytes,
            self.sender.target_rate() as f64 / 1e6,
        );
        for path in &stats.paths {
            let real = self.links.get_mut(usize::from(path.path.0)).map(|(up, _)| up.wait(now));
            line += &format!(
                "  [{} {:?} {:5.2} Mb/s, queue {:4.0} (real {:4.0}) ms, out {:6}, loss {:.3}]",
                path.path.0 + 1,
                path.state,
                path.rate as f64 / 1e6,
                millis(path.queueing),
                millis(real.unwrap_or_default()),
                path.outstanding_bytes,
                path.loss_ratio,
            );
        }
        println!("{line}");
    }
}

/// The seed of the stream in a run of this seed; the oracle looks at the same stream.
pub fn media_seed(seed: u64) -> u64 {
    Rng::new(seed ^ 0x006d_6564_6961).next_u64()
}

fn sender_config(plan: &Plan) -> SenderConfig {
    SenderConfig { deadline: plan.deadline, fec: plan.fec }
}

fn receiver_config(plan: &Plan) -> ReceiverConfig {
    ReceiverConfig { deadline: plan.deadline }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bond::media::Media;
    use crate::bond::plan::{both_ways, ms};
    use sim::{Conditions, Rate};

    fn plan() -> Plan {
        let uplink =
            both_ways(Conditions { rate: Rate::Fixed(5_000_000), delay: ms(20), ..Default::default() });
        let media = Media { video: 2_000_000, length: Duration::from_secs(3), ..Media::default() };
        Plan::new(vec![uplink.clone(), uplink], media)
    }

    #[test]
    fn a_good_day_and_its_bookkeeping() {
        let outcome = run(&Plan { check: true, ..plan() }, 5);
        assert_eq!((outcome.video.frames, outcome.audio.frames, outcome.lost()), (90, 150, 0));
        assert_eq!(outcome.fates.len(), 240);
        assert_eq!(outcome.video.bytes + outcome.audio.bytes, outcome.sender.media_bytes);
        assert_eq!(outcome.video.bytes, outcome.video.bytes_in_time);
        assert!(outcome.wire_over_media() > 1.05);
        assert!(outcome.uplinks.iter().all(|uplink| uplink.queueing.len() == uplink.up.sent));
    }

    #[test]
    fn looking_changes_nothing() {
        let fates = |plan: Plan| run(&plan, 9).fates;
        assert_eq!(fates(plan()), fates(Plan { check: true, ..plan() }));
        assert_ne!(fates(plan()), run(&plan(), 10).fates);
        assert!(fates(Plan { keep_fates: false, ..plan() }).is_empty());
    }
}
