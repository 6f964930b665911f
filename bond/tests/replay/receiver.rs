//! A hostile sender before a [`Receiver`]: no panic, no endless loop, bounded memory, and feedback that says
//! exactly what came.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bond::{Delivery, MAX_DATAGRAM, PathId, Receiver, ReceiverConfig, Sender, SenderConfig, Transmit};
use bytes::Bytes;
use media::{Time, TrackId};

use super::datagram::{self, FROM_SENDER, Shard};
use super::input::Input;
use super::{LIFE, Patience, START, path};

/// What the documentation promises, whatever the sender does.
const MAX_BUFFERED_BYTES: usize = 16 << 20;
const MAX_BUFFERED_FRAMES: usize = 32 * 256;

/// Feedback tells of so many sequence numbers below the highest.
const WINDOW: u64 = 512;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut rig = Rig::new(&mut input);
    while !input.is_empty() {
        rig.operate(&mut input);
    }
    rig.live(Duration::from_millis(1_500));
}

/// What came on one path since it was added.
#[derive(Default)]
struct Came {
    seqs: BTreeSet<u64>,
    bytes: u64,
    /// Send time and arrival of the highest.
    highest: (u64, Time),
}

struct Rig {
    machine: Receiver,
    life: Duration,
    /// Reads what the receiver makes.
    judge: Sender,
    now: Time,
    /// The sender's clock at [`Rig::now`].
    theirs: Time,
    came: BTreeMap<PathId, Came>,
    /// Path sequences and orders that a sender would use next.
    next_seq: BTreeMap<PathId, u64>,
    next_order: BTreeMap<u8, u64>,
    /// Messages that the receiver was given to send, and below which the sender has them.
    messages: Vec<Bytes>,
    acknowledged: usize,
}

impl Rig {
    fn new(input: &mut Input<'_>) -> Self {
        let config = ReceiverConfig { deadline: Duration::from_millis(50 + 4 * u64::from(input.byte())) };
        // Any difference of the clocks, but hours before either ends.
        let now = if input.flag() { START } else { Time::from_micros(input.number() >> 2) };
        let mut rig = Rig {
            machine: Receiver::new(config),
            life: LIFE,
            judge: Sender::new(SenderConfig::default()),
            now,
            theirs: START,
            came: BTreeMap::new(),
            next_seq: BTreeMap::new(),
            next_order: BTreeMap::new(),
            messages: Vec::new(),
            acknowledged: 0,
        };
        (0..2).for_each(|path| rig.add_path(PathId(path)));
        rig
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        let operation = input.byte();
        match operation & 0x7f {
            0..10 => self.pass(input.step()),
            10..20 => self.run(Duration::from_millis(8 * u64::from(input.byte()))),
            20..26 => {
                let (path, len) = (path(input), input.byte());
                let data = input.bytes(usize::from(len)).to_vec();
                self.feed(path, &data);
            }
            26..34 => {
                let path = path(input);
                let golden = FROM_SENDER[usize::from(input.below(FROM_SENDER.len() as u8))];
                self.feed_spoiled(path, golden.to_vec(), input);
            }
            34..60 => {
                let path = path(input);
                let shard = self.shard(input);
                let seq = self.seq(path, input);
                self.feed_spoiled(path, datagram::shard(seq, self.theirs, &shard), input);
            }
            60..80 => self.frame(input),
            80..88 => self.flood(input),
            88..94 => {
                let (path, padding) = (path(input), usize::from(input.short() % MAX_DATAGRAM as u16));
                let seq = self.seq(path, input);
                self.feed_spoiled(path, datagram::probe(seq, self.theirs, padding), input);
            }
            94..102 => {
                let path = path(input);
                let next = input.number_near(self.acknowledged as u64 + 1);
                let seq = self.seq(path, input);
                self.feed_spoiled(path, datagram::ack(seq, self.theirs, next), input);
            }
            102..106 => self.add_path(path(input)),
            106..110 => {
                let path = path(input);
                self.machine.remove_path(path, self.now);
                self.came.remove(&path);
            }
            110..118 => {
                let len = usize::from(input.short()) % (bond::MAX_MESSAGE_BYTES + 2);
                let message: Bytes = vec![self.messages.len() as u8; len].into();
                if self.machine.send_message(message.clone()).is_ok() {
                    self.messages.push(message);
                }
            }
            _ => self.machine.handle_timeout(self.now),
        }
        // Now and then the driver is slow to drain: what is bounded must be bounded then, too.
        if operation & 0x80 == 0 {
            self.settle();
        }
        let stats = self.machine.stats();
        assert!(stats.buffered_bytes <= MAX_BUFFERED_BYTES, "{stats:?}");
        assert!(stats.buffered_frames <= MAX_BUFFERED_FRAMES, "{stats:?}");
    }

    fn pass(&mut self, time: Duration) {
        (self.now, self.theirs) = (self.now + time, self.theirs + time);
    }

    fn add_path(&mut self, path: PathId) {
        self.machine.add_path(path, self.now);
        if self.came.contains_key(&path) || self.came.len() < bond::MAX_PATHS {
            self.came.insert(path, Came::default());
        }
    }

    /// A path sequence: mostly the next one, or one near it.
    fn seq(&mut self, path: PathId, input: &mut Input<'_>) -> u64 {
        let next = self.next_seq.entry(path).or_default();
        let seq = match input.byte() {
            0..200 => *next,
            200..250 => input.number_near(*next),
            _ => input.number(),
        };
        if seq < media::varint::MAX {
            *next = seq + 1;
        }
        seq
    }

    /// A shard whose fields are as they should be, but for those that the input wants otherwise.
    fn shard(&mut self, input: &mut Input<'_>) -> Shard {
        let odd = input.byte();
        let track = match input.below(8) {
            track @ 0..4 => track,
            4 => 254,
            5 => 255,
            _ => input.byte(),
        };
        let next = self.next_order.entry(track).or_default();
        let order = if odd & 1 == 0 { *next } else { input.number_near(*next) };
        *next = order.saturating_add(1);
        let back = if odd & 2 == 0 { order.min(4) } else { input.number_near(order) };
        let lane = track >= 254;
        let (mut group, mut frame) = if lane { (order, 0) } else { (order / 4, order % 4) };
        if odd & 4 != 0 {
            (group, frame) = (input.number_near(group), input.number_near(frame));
        }
        let mut capture_time = self.theirs;
        if odd & 8 != 0 {
            capture_time =
                Time::from_micros(self.theirs.as_micros().wrapping_add_signed(input.offset_micros()));
        }
        let frame_bytes = match input.below(8) {
            0 => 0,
            1 => 1 << 20,
            2 => input.number(),
            3 => u64::from(input.short()),
            _ => u64::from(input.byte()),
        };
        let fewest = frame_bytes.div_ceil(datagram::MAX_PAYLOAD as u64).max(1);
        let count = if odd & 16 == 0 { fewest } else { input.number_near(fewest) };
        let parity = (odd & 32 != 0).then(|| 1 + input.below(17));
        let index = if odd & 64 == 0 { u64::from(input.byte()) % count.max(1) } else { input.number() };
        let index =
            if let Some(of) = parity.filter(|_| odd & 64 == 0) { index % u64::from(of) } else { index };
        let keyframe = odd & 128 != 0;
        Shard { track, order, back, group, frame, keyframe, capture_time, frame_bytes, count, index, parity }
    }

    /// A frame, less some of its shards, on a path or two.
    fn frame(&mut self, input: &mut Input<'_>) {
        let (first, second, holes) = (path(input), path(input), input.byte());
        let shard = Shard { parity: None, ..self.shard(input) };
        for index in (0..shard.count.min(8)).filter(|index| holes >> index & 1 == 0) {
            let path = if index % 2 == 0 { first } else { second };
            let next = self.next_seq.entry(path).or_default();
            let data = datagram::shard(*next, self.theirs, &Shard { index, ..shard.clone() });
            *next += 1;
            self.feed(path, &data);
        }
    }

    /// The same shard of many frames, of one track or of many: what fills memory.
    fn flood(&mut self, input: &mut Input<'_>) {
        let (path, times, tracks) = (path(input), input.byte(), input.flag());
        let shard = self.shard(input);
        for by in 0..=u64::from(times) {
            let next = self.next_seq.entry(path).or_default();
            let (track, order) = if tracks { (by as u8, 0) } else { (0, by) };
            let (track, order) = (shard.track.wrapping_add(track), shard.order.saturating_add(order));
            let (group, frame) = (shard.group.saturating_add(by / 4), by % 4);
            let data =
                datagram::shard(*next, self.theirs, &Shard { track, order, group, frame, ..shard.clone() });
            *next += 1;
            self.feed(path, &data);
        }
        self.next_order.insert(shard.track, shard.order.saturating_add(u64::from(times) + 1));
    }

    fn feed_spoiled(&mut self, path: PathId, mut data: Vec<u8>, input: &mut Input<'_>) {
        datagram::spoil(&mut data, input);
        self.feed(path, &data);
    }

    fn feed(&mut self, path: PathId, data: &[u8]) {
        if self.machine.handle_datagram(path, data, self.now).is_err() {
            return;
        }
        let (kind, seq, sent, rest) = datagram::read_stamp(data).expect("what is taken has a stamp");
        let Some(came) = self.came.get_mut(&path) else { return };
        let highest = came.seqs.last().copied();
        if highest.is_some_and(|highest| seq < highest && highest - seq > WINDOW) || !came.seqs.insert(seq) {
            return;
        }
        came.bytes += data.len() as u64;
        if highest.is_none_or(|highest| seq > highest) {
            came.highest = (sent, self.now);
        }
        if kind == datagram::ACK {
            let next = media::varint::get(&mut &rest[..]).expect("an acknowledgement has a number");
            let next = usize::try_from(next).unwrap_or(usize::MAX).min(self.messages.len());
            self.acknowledged = self.acknowledged.max(next);
        }
    }

    /// Lives for so long while there is life left; then the time just passes.
    fn run(&mut self, time: Duration) {
        let lives = time.min(self.life);
        self.life -= lives;
        self.live(lives);
        self.pass(time - lives);
    }

    /// Lives for so long, as a driver does.
    fn live(&mut self, time: Duration) {
        let end = self.now + time;
        let mut patience = Patience::new(20_000, "timeouts of a receiver in two seconds");
        self.settle();
        while let Some(due) = self.machine.poll_timeout().filter(|due| *due <= end) {
            patience.spend();
            self.pass(due.saturating_since(self.now));
            self.machine.handle_timeout(self.now);
            self.settle();
        }
        self.pass(end.saturating_since(self.now));
    }

    /// Drains, and does all that is due now.
    fn settle(&mut self) {
        let mut patience = Patience::new(10_000, "timeouts of a receiver that do not move on");
        loop {
            self.drain();
            if self.machine.poll_timeout().is_none_or(|due| due > self.now) {
                return;
            }
            patience.spend();
            self.machine.handle_timeout(self.now);
        }
    }

    fn drain(&mut self) {
        let mut patience = Patience::new(1_000, "datagrams of a receiver");
        while let Some(transmit) = self.machine.poll_transmit(self.now) {
            patience.spend();
            self.check_transmit(&transmit);
        }
        let mut patience = Patience::new(200_000, "deliveries of a receiver");
        while let Some(delivery) = self.machine.poll_delivery() {
            patience.spend();
            match delivery {
                Delivery::Frame { frame, arrived } => {
                    assert!(frame.id.track < TrackId(254) && frame.data.len() <= bond::MAX_FRAME_BYTES);
                    assert!(arrived <= self.now);
                }
                Delivery::Lost { frames, .. } => assert!(!frames.is_empty()),
                Delivery::Message(data) => assert!(data.len() <= bond::MAX_MESSAGE_BYTES, "{}", data.len()),
                Delivery::Object(data) => assert!(data.len() <= bond::MAX_OBJECT_BYTES, "{}", data.len()),
            }
        }
    }

    fn check_transmit(&mut self, Transmit { path, data }: &Transmit) {
        assert!(data.len() <= MAX_DATAGRAM && self.came.contains_key(path), "{path:?}");
        self.judge.handle_datagram(*path, data, self.theirs).expect("a sender understands it");
        while self.judge.poll_message().is_some() {}
        if let Some((number, message)) = datagram::read_message(data) {
            let waiting = self.acknowledged..self.messages.len().min(self.acknowledged + 16);
            assert!(waiting.contains(&(number as usize)), "message {number} of {waiting:?}");
            assert_eq!(message, self.messages[number as usize]);
            return;
        }
        let (made, entries) = datagram::read_feedback(data).expect("feedback");
        assert!(made <= self.now.as_micros());
        if made < self.now.as_micros() {
            // It waited for a slow driver; what came since is told by the next one.
            return;
        }
        assert!(entries.iter().map(|entry| entry.path).is_sorted());
        assert_eq!(entries.len(), self.came.values().filter(|came| !came.seqs.is_empty()).count());
        for entry in entries {
            let came = &self.came[&PathId(entry.path)];
            let (sent, arrived) = came.highest;
            assert_eq!(Some(&entry.highest), came.seqs.last());
            assert_eq!((entry.packets, entry.bytes), (came.seqs.len() as u64, came.bytes));
            assert_eq!((entry.sent, made - entry.age), (sent, arrived.as_micros()));
            for back in 0..8 * entry.bitmap.len() as u64 {
                let told = entry.bitmap[(back / 8) as usize] >> (back % 8) & 1 == 1;
                let seq = entry.highest.checked_sub(back + 1);
                assert_eq!(told, seq.is_some_and(|seq| came.seqs.contains(&seq)), "{seq:?}");
            }
        }
    }
}
