//! A venue, an edge and the links between them, on one virtual clock.

use std::time::Duration;

use bond::{Delivery, PathId, Receiver, ReceiverConfig, Sender, SenderConfig, SenderEvent};
use bytes::Bytes;
use media::Time;
use sim::{ACK_BYTES, ClockPair, Cubic, Link, Network, PACKET_BYTES, Rng};

use super::ledger::Ledger;
use super::look::{Look, Watcher};
use super::media::{OVERHEAD, Source};
use super::plan::{Action, Plan, START};
use super::tally::{Carried, Outcome, Rival, Times, UplinkOutcome, record, times};

/// After the last frame the links get this long to empty.
const DRAIN: Duration = Duration::from_secs(1);

/// A machine that asks to be woken at once this often in a row is broken.
const MAX_TURNS: u32 = 1000;

/// The receiver's clock is this far from the sender's at most, microseconds: hours, either way.
const CLOCKS_APART: u64 = 10_000_000_000;

/// What the driver tells the sender of each path.
const PATH_DATAGRAM: usize = 1200;

/// What goes up.
enum Up {
    Ours(Bytes),
    Rival(u64),
}

/// What comes back.
enum Down {
    Ours(Bytes),
    Rival(u64),
}

/// Somebody else's flow on one of the uplinks.
struct Competitor {
    uplink: usize,
    flow: Cubic,
}

struct World<'a> {
    plan: &'a Plan,
    sender: Sender,
    receiver: Receiver,
    up: Network<Up>,
    down: Vec<Link<Down>>,
    rivals: Vec<Competitor>,
    sent: Vec<Carried>,
    arrived: Vec<Carried>,
    queueing: Vec<Times>,
    rng: Rng,
    clocks: ClockPair,
    stalled_until: Time,
    /// What came for the sender while it stood still.
    mail: Vec<(PathId, Bytes)>,
    source: Source,
    ledger: Ledger,
    sender_wakes: Option<Time>,
    /// By the sender's clock.
    receiver_wakes: Option<Time>,
    most: Most,
    drop_events: u64,
}

/// The most that was held at once.
#[derive(Clone, Copy, Debug, Default)]
struct Most {
    buffered: usize,
    queued: u64,
    under_way: usize,
}

/// Which machine was touched, and is to be asked what it wants.
#[derive(Clone, Copy, Default)]
struct Touched {
    sender: bool,
    receiver: bool,
}

/// Runs a plan to its end. The same seed gives the same run.
///
/// # Panics
///
/// Where a machine breaks its contract: it refuses the other's datagrams, makes ones that are too long, asks
/// to be woken without end, or hands over frames that are not as they were, or not in order.
pub fn run(plan: &Plan, seed: u64) -> Outcome {
    run_watched(plan, seed, None)
}

/// The same, with somebody looking on, which changes nothing.
///
/// # Panics
///
/// As [`run`].
pub fn run_watched(plan: &Plan, seed: u64, mut watcher: Option<Watcher<'_>>) -> Outcome {
    let mut next_look = plan.began();
    let mut world = World::new(plan, seed);
    let mut actions = plan.actions.clone();
    actions.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let end = START + plan.media.length + DRAIN;
    let (mut now, mut turns, mut events) = (plan.began(), 0, 0);
    world.drain(now, Touched { sender: true, receiver: true });
    loop {
        let next = world.next(now, actions.last().map(|(at, _)| *at)).unwrap_or(end);
        turns = if next > now { 0 } else { turns + 1 };
        assert!(turns < MAX_TURNS, "the machines ask to be woken at once again and again (seed {seed})");
        now = now.max(next);
        if now >= end {
            return world.finish(now, events);
        }
        let mut touched = Touched::default();
        while let Some((_, action)) = actions.pop_if(|(at, _)| *at <= now) {
            world.act(action, now);
            touched = Touched { sender: true, receiver: true };
        }
        world.deliver(now, &mut touched);
        world.wake(now, &mut touched);
        world.drain(now, touched);
        world.compete(now);
        events += 1;
        if let Some(watcher) = watcher.as_mut().filter(|_| now >= next_look) {
            next_look = now + watcher.every;
            (watcher.look)(&world.look(now));
        }
    }
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, seed: u64) -> Self {
        let mut dice = Rng::new(seed);
        let offset_micros = dice.below(2 * CLOCKS_APART) as i64 - CLOCKS_APART as i64;
        let drift_ppm = dice.below(2 * plan.drift_ppm + 1) as i64 - plan.drift_ppm as i64;
        let began = plan.began();
        let rng = Rng::new(dice.next_u64());
        let (mut up, mut down) = (Network::default(), Vec::new());
        for uplink in &plan.uplinks {
            up.add(uplink.up.clone(), dice.next_u64(), began);
            let mut back = Link::new(uplink.down.clone(), dice.next_u64());
            back.begin(began);
            down.push(back);
        }
        for shared in &plan.shared {
            up.share(&shared.uplinks, shared.conditions.clone(), dice.next_u64(), began);
        }
        let rival = |&uplink: &usize| Competitor { uplink, flow: Cubic::default() };
        let mut world = Self {
            plan,
            sender: Sender::new(SenderConfig { deadline: plan.deadline, fec: plan.fec, live: true }),
            receiver: Receiver::new(ReceiverConfig { deadline: plan.deadline }),
            up,
            down,
            rivals: plan.rivals.iter().map(rival).collect(),
            sent: vec![Carried::default(); plan.uplinks.len()],
            arrived: vec![Carried::default(); plan.uplinks.len()],
            queueing: plan.uplinks.iter().map(|_| times()).collect(),
            rng,
            clocks: ClockPair { offset_micros, drift_ppm, since: began },
            stalled_until: Time::ZERO,
            mail: Vec::new(),
            source: Source::new(plan.media, media_seed(seed)),
            ledger: Ledger::new(plan),
            sender_wakes: None,
            receiver_wakes: None,
            most: Most::default(),
            drop_events: 0,
        };
        for uplink in (0..plan.uplinks.len()).filter(|&uplink| plan.is_first(uplink)) {
            world.add(PathId(uplink as u8), began);
        }
        world
    }

    /// When something is to be done.
    fn next(&self, now: Time, action: Option<Time>) -> Option<Time> {
        let sender = match now < self.stalled_until {
            true => Some(self.stalled_until),
            false => self.sender_wakes.into_iter().chain(self.captures()).min(),
        };
        let down = self.down.iter().filter_map(Link::poll_timeout);
        let rivals = self.rivals.iter().filter_map(|rival| match rival.flow.poll_timeout() {
            None if now < START => Some(START),
            timer => timer,
        });
        let others = [self.up.poll_timeout(), sender, self.receiver_wakes, action];
        down.chain(rivals).chain(others.into_iter().flatten()).min()
    }

    /// When the next frame leaves the encoder.
    fn captures(&self) -> Option<Time> {
        self.source.next().map(|coming| START + coming.captured + self.plan.media.encoding)
    }

    fn add(&mut self, path: PathId, now: Time) {
        self.sender.add_path(path, PATH_DATAGRAM, now);
        self.receiver.add_path(path, self.clocks.theirs(now));
    }

    fn act(&mut self, action: Action, now: Time) {
        match action {
            Action::Add(path) => self.add(PathId(path), now),
            Action::Remove(path) => {
                self.sender.remove_path(PathId(path), now);
                self.receiver.remove_path(PathId(path), self.clocks.theirs(now));
            }
            Action::Cable(path, is_in) => {
                self.up.set_up(usize::from(path), is_in, now);
                if let Some(down) = self.down.get_mut(usize::from(path)) {
                    down.set_up(is_in, now);
                }
            }
            Action::Stall(until) => self.stalled_until = until,
        }
    }

    /// Delivers what the links hold ready.
    fn deliver(&mut self, now: Time, touched: &mut Touched) {
        let theirs = self.clocks.theirs(now);
        while let Some(arrival) = self.up.poll(now) {
            let data = match arrival.payload {
                Up::Ours(data) => data,
                Up::Rival(number) => {
                    self.down[arrival.link].send(Down::Rival(number), ACK_BYTES, now);
                    continue;
                }
            };
            touched.receiver = true;
            self.arrived[arrival.link].add(arrival.size);
            record(&mut self.queueing[arrival.link], arrival.waited);
            let path = PathId(arrival.link as u8);
            let twice = self.plan.duplicates > 0.0 && self.rng.chance(self.plan.duplicates);
            for _ in 0..1 + u32::from(twice) {
                self.receiver.handle_datagram(path, &data, theirs).expect("the sender speaks the protocol");
            }
        }
        for (uplink, down) in self.down.iter_mut().enumerate() {
            while let Some(packet) = down.poll(now) {
                match packet {
                    Down::Ours(data) => self.mail.push((PathId(uplink as u8), data)),
                    Down::Rival(number) => {
                        let mut rivals = self.rivals.iter_mut().filter(|rival| rival.uplink == uplink);
                        rivals.next().into_iter().for_each(|rival| rival.flow.handle_ack(number, now));
                    }
                }
            }
        }
        if now >= self.stalled_until {
            for (path, data) in self.mail.drain(..) {
                touched.sender = true;
                self.sender.handle_datagram(path, &data, now).expect("the receiver speaks the protocol");
            }
        }
    }

    /// Sends the frames that are due, and runs the timers that are.
    fn wake(&mut self, now: Time, touched: &mut Touched) {
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
            self.ledger.sent(coming, bytes, self.plan.check.then_some(frame));
            touched.sender = true;
            self.most.under_way = self.most.under_way.max(self.ledger.under_way());
            self.most.queued = self.most.queued.max(self.sender.stats().queued_bytes);
            self.most.buffered = self.most.buffered.max(self.receiver.stats().buffered_bytes);
        }
        if now >= self.stalled_until && self.sender_wakes.is_some_and(|at| at <= now) {
            self.sender.handle_timeout(now);
            touched.sender = true;
        }
        if self.receiver_wakes.is_some_and(|at| at <= now) {
            self.receiver.handle_timeout(self.clocks.theirs(now));
            touched.receiver = true;
        }
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
    fn drain(&mut self, now: Time, touched: Touched) {
        if touched.sender && now >= self.stalled_until {
            while let Some(transmit) = self.sender.poll_transmit(now) {
                let (path, size) = (usize::from(transmit.path.0), transmit.data.len());
                assert!(size <= bond::MAX_DATAGRAM, "a datagram of {size} bytes");
                self.sent[path].add(size + OVERHEAD);
                self.up.send(path, Up::Ours(transmit.data), size + OVERHEAD, now);
            }
            while let Some(SenderEvent::Dropped { .. }) = self.sender.poll_event() {
                self.drop_events += 1;
            }
            self.sender_wakes = self.sender.poll_timeout();
        }
        if touched.receiver {
            let theirs = self.clocks.theirs(now);
            while let Some(transmit) = self.receiver.poll_transmit(theirs) {
                let size = transmit.data.len();
                assert!(size <= bond::MAX_DATAGRAM, "a datagram of {size} bytes");
                if let Some(down) = self.down.get_mut(usize::from(transmit.path.0)) {
                    down.send(Down::Ours(transmit.data), size + OVERHEAD, now);
                }
            }
            while let Some(delivery) = self.receiver.poll_delivery() {
                if let Delivery::Frame { frame, arrived } = &delivery {
                    assert!(*arrived <= theirs, "{:?} is said to arrive in the future", frame.id);
                }
                self.ledger.handed_over(&delivery, now);
            }
            self.receiver_wakes = self.receiver.poll_timeout().map(|at| self.clocks.ours(at));
        }
    }

    /// Lets the others send, while frames come.
    fn compete(&mut self, now: Time) {
        if now < START {
            return;
        }
        for rival in &mut self.rivals {
            rival.flow.handle_timeout(now);
            if now >= START + self.plan.media.length {
                continue;
            }
            while let Some(number) = rival.flow.poll_transmit(now) {
                self.up.send(rival.uplink, Up::Rival(number), PACKET_BYTES, now);
            }
        }
    }

    fn finish(mut self, now: Time, events: u64) -> Outcome {
        self.ledger.close();
        let clock = self.sender.clock();
        let rival = |uplink| {
            self.rivals
                .iter()
                .find(|rival| rival.uplink == uplink)
                .map(|rival| Rival { delivered_bytes: rival.flow.delivered_bytes(), lost: rival.flow.lost() })
        };
        let uplinks = self.up.stats().into_iter().enumerate().map(|(uplink, link)| UplinkOutcome {
            sent: self.sent[uplink],
            arrived: self.arrived[uplink],
            link,
            down: self.down[uplink].stats(),
            queueing: self.queueing[uplink].clone(),
            rival: rival(uplink),
        });
        Outcome {
            uplinks: uplinks.collect(),
            sender: self.sender.stats(),
            receiver: self.receiver.stats(),
            clock_error: clock.map(|clock| clock.offset_micros - self.clocks.offset_at(now)),
            clock_bound: clock.map_or(0, |clock| clock.error_micros),
            target_rate: self.sender.target_rate(),
            drop_events: self.drop_events,
            most_buffered: self.most.buffered,
            most_queued: self.most.queued,
            most_under_way: self.most.under_way,
            events,
            video: self.ledger.video,
            audio: self.ledger.audio,
            fates: self.ledger.fates,
        }
    }

    fn look(&mut self, now: Time) -> Look {
        Look {
            now,
            sender: self.sender.stats(),
            target_rate: self.sender.target_rate(),
            receiver: self.receiver.stats(),
            waits: (0..self.plan.uplinks.len()).map(|uplink| self.up.wait(uplink, now)).collect(),
            under_way: self.ledger.under_way(),
        }
    }
}

/// The seed of the stream in a run of this seed; the oracle looks at the same stream.
pub fn media_seed(seed: u64) -> u64 {
    Rng::new(seed ^ 0x006d_6564_6961).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bond::media::Media;
    use crate::bond::plan::{Follow, Shared, both_ways, ms};
    use sim::{Conditions, Rate};

    fn plan() -> Plan {
        let rate = Rate::Fixed(5_000_000);
        let uplink = both_ways(Conditions { rate, delay: ms(20), ..Default::default() });
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
        for uplink in &outcome.uplinks {
            assert_eq!((uplink.sent, uplink.queueing.len()), (uplink.arrived, uplink.sent.packets));
            assert_eq!(uplink.link.sent_bytes, uplink.sent.bytes);
        }
    }

    #[test]
    fn looking_changes_nothing() {
        let fates = |plan: Plan| run(&plan, 9).fates;
        assert_eq!(fates(plan()), fates(Plan { check: true, ..plan() }));
        assert_ne!(fates(plan()), run(&plan(), 10).fates);
        assert!(fates(Plan { keep_fates: false, ..plan() }).is_empty());
        let mut looks = 0;
        let watcher = Watcher { every: ms(100), look: &mut |_| looks += 1 };
        assert_eq!(fates(plan()), run_watched(&plan(), 9, Some(watcher)).fates);
        assert!((40..46).contains(&looks), "{looks}");
    }

    #[test]
    fn clocks_that_drift_are_followed() {
        let outcome = run(&Plan { drift_ppm: 100, ..plan() }, 6);
        assert_eq!(outcome.lost(), 0);
        let error = outcome.clock_error.expect("the clocks were compared");
        assert!(error.unsigned_abs() <= outcome.clock_bound, "{error} us off");
    }

    #[test]
    fn a_rival_takes_its_part_and_no_more_than_there_is() {
        let media = Media { length: Duration::from_secs(10), ..plan().media };
        let follow = Some(Follow { least: 300_000, most: 8_000_000 });
        let outcome = run(&Plan { media, follow, rivals: vec![0], ..plan() }, 7);
        let rival = outcome.uplinks[0].rival.expect("there is one");
        assert!(outcome.uplinks[1].rival.is_none());
        let bits = (rival.delivered_bytes + outcome.uplinks[0].arrived.bytes) as f64 * 8.0;
        assert!((0.8..1.08).contains(&(bits / 50e6)), "{bits}");
        assert!(rival.delivered_bytes > 500_000);
    }

    #[test]
    fn what_two_uplinks_share_is_no_more_than_it_is() {
        let conditions = Conditions { rate: Rate::Fixed(1_500_000), ..Default::default() };
        let shared = Shared { uplinks: vec![0, 1], conditions };
        let outcome = run(&Plan { shared: vec![shared], ..plan() }, 8);
        let arrived: u64 = outcome.uplinks.iter().map(|uplink| uplink.arrived.bytes).sum();
        assert!(arrived as f64 * 8.0 < 1.5e6 * 4.6, "{arrived}");
        assert!(outcome.video.missed() > 10);
    }
}
