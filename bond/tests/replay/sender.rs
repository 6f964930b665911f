//! A hostile receiver, and a careless driver, before a [`Sender`]: no panic, no endless loop, bounded memory,
//! and datagrams that are well formed and numbered without a hole.

use std::collections::BTreeMap;
use std::time::Duration;

use bond::{Class, Cost, LaneError, MAX_DATAGRAM, PathId, Receiver, ReceiverConfig, Sender, SenderConfig};
use bond::{PathState, Transmit};
use bytes::Bytes;
use media::{Frame, FrameId, Time, TrackId};

use super::datagram::{self, Entry, FROM_RECEIVER};
use super::input::Input;
use super::{LIFE, Patience, START, path};

/// Media may wait with 8 MiB and 4096 frames, objects with 4 MiB, messages with 70 KB; the headers that the
/// queue counts with them take 115 bytes for each shard, and parity as much as 0.3 of what is sent.
const MAX_QUEUED_BYTES: u64 = 20 << 20;

/// A path remembers 2048 datagrams.
const MAX_OUTSTANDING_BYTES: u64 = 2048 * 1250;

/// Bits per second that a path may at most be thought to carry.
const MAX_RATE: u64 = 200_000_000;

pub const CLASSES: [Class; 6] =
    [Class::Audio, Class::Keyframe, Class::Delta, Class::Droppable, Class::Control, Class::Bulk];

/// What frames are made of.
static NOTHING: [u8; bond::MAX_FRAME_BYTES + 1] = [0; bond::MAX_FRAME_BYTES + 1];

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut rig = Rig::new(&mut input);
    while !input.is_empty() {
        rig.operate(&mut input);
    }
    rig.live(Duration::from_millis(1_500));
}

/// A cost that the input wants.
pub fn cost(input: &mut Input<'_>) -> Cost {
    match input.below(4) {
        0 => Cost::Free,
        1 => Cost::LastResort,
        _ => Cost::Priced(input.number() as u32),
    }
}

/// What the receiver that the rig plays knows of one path.
#[derive(Default)]
struct There {
    /// The next path sequence, over all the times that the path was there.
    next_seq: u64,
    packets: u64,
    bytes: u64,
}

struct Rig {
    machine: Sender,
    life: Duration,
    /// Reads what the sender makes.
    judge: Receiver,
    now: Time,
    /// The receiver's clock at [`Rig::now`].
    theirs: Time,
    paths: Vec<PathId>,
    there: BTreeMap<PathId, There>,
    next_frame: [u64; 4],
    next_message: u64,
}

impl Rig {
    fn new(input: &mut Input<'_>) -> Self {
        let deadline = Duration::from_millis(50 + 4 * u64::from(input.byte()));
        let theirs = if input.flag() { START } else { Time::from_micros(input.number() >> 2) };
        let mut rig = Rig {
            machine: Sender::new(SenderConfig { deadline, fec: input.flag(), live: true }),
            life: LIFE,
            judge: Receiver::new(ReceiverConfig::default()),
            now: START,
            theirs,
            paths: Vec::new(),
            there: BTreeMap::new(),
            next_frame: [0; 4],
            next_message: 0,
        };
        (0..2).for_each(|path| rig.add_path(PathId(path), MAX_DATAGRAM));
        rig
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        let operation = input.byte();
        match operation & 0x7f {
            0..10 => self.pass(input.step()),
            10..20 => self.run(Duration::from_millis(8 * u64::from(input.byte()))),
            20..24 => {
                let (path, len) = (path(input), input.byte());
                let data = input.bytes(usize::from(len)).to_vec();
                let _ = self.machine.handle_datagram(path, &data, self.now);
            }
            24..32 => {
                let path = path(input);
                let golden = FROM_RECEIVER[usize::from(input.below(FROM_RECEIVER.len() as u8))];
                self.feed_spoiled(path, golden.to_vec(), input);
            }
            32..60 => {
                let path = path(input);
                let data = self.feedback(input);
                self.feed_spoiled(path, data, input);
            }
            60..68 => self.listen(input),
            68..76 => {
                let path = path(input);
                let number = input.number_near(self.next_message);
                self.next_message = number.saturating_add(1);
                let len = usize::from(input.short()) % (bond::MAX_MESSAGE_BYTES + 2);
                self.feed_spoiled(path, datagram::message(number, &vec![7; len]), input);
            }
            76..94 => {
                let again = if input.below(8) == 7 { input.byte() } else { 0 };
                let (track, class) = (input.byte(), CLASSES[usize::from(input.below(6))]);
                let (len, early) = (self.len(input), input.offset_micros());
                (0..=again).for_each(|_| self.push(track, class, len, early));
            }
            94..98 => {
                let len = usize::from(input.short()) % (bond::MAX_MESSAGE_BYTES + 2);
                let refused = self.machine.send_message(Bytes::from_static(&NOTHING[..len]), self.now).err();
                let too_long = matches!(refused, Some(LaneError::TooLong { .. }));
                assert_eq!(too_long, len > bond::MAX_MESSAGE_BYTES);
            }
            98..102 => {
                let len = self.len(input);
                let _ = self.machine.send_object(Bytes::from_static(&NOTHING[..len]), self.now);
            }
            102..106 => {
                let (path, most) = (path(input), MAX_DATAGRAM - 2 + usize::from(input.below(8)));
                self.add_path(path, most);
            }
            106..110 => {
                let path = path(input);
                self.machine.remove_path(path, self.now);
                self.paths.retain(|there| *there != path);
            }
            110..114 => self.machine.set_cost(path(input), cost(input)),
            _ => self.machine.handle_timeout(self.now),
        }
        // Now and then the driver is slow to drain: what is bounded must be bounded then, too.
        if operation & 0x80 == 0 {
            self.settle();
        }
        self.check();
    }

    fn pass(&mut self, time: Duration) {
        (self.now, self.theirs) = (self.now + time, self.theirs + time);
    }

    fn add_path(&mut self, path: PathId, most: usize) {
        self.machine.add_path(path, most, self.now);
        self.paths.retain(|there| *there != path);
        if most >= MAX_DATAGRAM && self.paths.len() < bond::MAX_PATHS {
            self.paths.push(path);
        }
    }

    fn len(&self, input: &mut Input<'_>) -> usize {
        match input.below(8) {
            0 => 0,
            1 => bond::MAX_FRAME_BYTES + usize::from(input.flag()),
            2 => 16 * usize::from(input.short()),
            _ => usize::from(input.short()) % 4_000,
        }
    }

    fn push(&mut self, track: u8, class: Class, len: usize, early: i64) {
        let next = &mut self.next_frame[usize::from(track % 4)];
        let track = if track < 252 { track % 4 } else { track };
        let id = FrameId { track: TrackId(track), group: *next / 8, frame: (*next % 8) as u32 };
        *next += 1;
        let capture_time = Time::from_micros(self.now.as_micros().wrapping_add_signed(early));
        let keyframe = id.frame == 0;
        let data = Bytes::from_static(&NOTHING[..len]);
        self.machine.push(&Frame { id, capture_time, keyframe, data }, class, self.now);
    }

    /// Feedback about the paths there are, honest but for what the input wants otherwise.
    fn feedback(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        let odd = input.byte();
        let count = usize::from(1 + input.below(3));
        let mut entries = Vec::new();
        for _ in 0..count {
            let path = path(input);
            let there = self.there.entry(path).or_default();
            let back = u64::from(input.byte()).saturating_sub(200);
            let highest = there.next_seq.saturating_sub(1 + back);
            let highest = if odd & 1 == 0 { highest } else { input.number_near(highest) };
            let news = u64::from(input.byte() % 32);
            (there.packets, there.bytes) = (there.packets + news, there.bytes + 1_100 * news);
            let (mut packets, mut bytes) = (there.packets, there.bytes);
            if odd & 2 != 0 {
                (packets, bytes) = (input.number_near(packets), input.number_near(bytes));
            }
            let sent = if odd & 4 == 0 { self.now.as_micros() } else { input.number() };
            let age = if odd & 8 == 0 { 500 * u64::from(input.byte()) } else { input.number() };
            let holes = input.byte();
            let len = usize::from(if odd & 16 == 0 { 16 } else { input.below(66) });
            let bitmap = (0..len).map(|i| if i % 4 == 0 { !holes } else { 0xff }).collect();
            entries.push(Entry { path: path.0, highest, sent, age, packets, bytes, bitmap });
        }
        let made = match odd >> 5 {
            0..6 => self.theirs,
            6 => self.theirs.offset_by(input.offset_micros()),
            _ => Time::from_micros(input.number()),
        };
        datagram::feedback(made, &entries)
    }

    /// For a while an honest receiver hears everything on the paths there are, at some delay, in whose
    /// clock the input may see to jumps.
    fn listen(&mut self, input: &mut Input<'_>) {
        let (turns, gap, delay) = (input.byte() % 64, input.byte(), u64::from(input.byte()));
        let drift = input.offset_micros() / 1_000;
        for turn in 0..i64::from(turns) {
            self.run(Duration::from_micros(1 + 100 * u64::from(gap)));
            let arrived = self.theirs.offset_by(drift * turn);
            let entries: Vec<Entry> = self
                .paths
                .iter()
                .filter_map(|path| {
                    let there = self.there.get(path).filter(|there| there.next_seq > 0)?;
                    Some(Entry {
                        path: path.0,
                        highest: there.next_seq - 1,
                        sent: self.now.as_micros(),
                        age: 100 * delay,
                        packets: there.next_seq,
                        bytes: 1_000 * there.next_seq,
                        bitmap: vec![0xff; 64],
                    })
                })
                .collect();
            let data = datagram::feedback(arrived, &entries);
            let path = self.paths.first().copied().unwrap_or(PathId(0));
            let _ = self.machine.handle_datagram(path, &data, self.now);
        }
    }

    fn feed_spoiled(&mut self, path: PathId, mut data: Vec<u8>, input: &mut Input<'_>) {
        datagram::spoil(&mut data, input);
        let _ = self.machine.handle_datagram(path, &data, self.now);
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
        let mut patience = Patience::new(60_000, "timeouts of a sender in two seconds");
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
        let mut patience = Patience::new(1_000, "timeouts of a sender that do not move on");
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
        // 4 ms at the highest rate in datagrams of one byte of media, on every path.
        let mut patience = Patience::new(20_000, "datagrams of a sender");
        while let Some(Transmit { path, data }) = self.machine.poll_transmit(self.now) {
            patience.spend();
            assert!(data.len() <= MAX_DATAGRAM && self.paths.contains(&path), "{path:?}");
            self.judge.handle_datagram(path, &data, self.theirs).expect("a receiver understands it");
            let (_, seq, sent, _) = datagram::read_stamp(&data).expect("it has a stamp");
            let there = self.there.entry(path).or_default();
            assert_eq!((seq, sent), (there.next_seq, self.now.as_micros()));
            there.next_seq += 1;
        }
        let mut patience = Patience::new(257, "events of a sender");
        while self.machine.poll_event().is_some() {
            patience.spend();
        }
        let mut patience = Patience::new(100, "messages at a sender");
        while let Some(message) = self.machine.poll_message() {
            patience.spend();
            assert!(message.len() <= bond::MAX_MESSAGE_BYTES);
        }
    }

    fn check(&self) {
        let stats = self.machine.stats();
        assert!(stats.queued_bytes <= MAX_QUEUED_BYTES, "{stats:?}");
        assert_eq!(stats.paths.len(), self.paths.len());
        for path in &stats.paths {
            assert!(path.outstanding_bytes <= MAX_OUTSTANDING_BYTES, "{path:?}");
            assert!((100_000..=MAX_RATE).contains(&path.rate), "{path:?}");
            assert!((0.0..=1.0).contains(&path.loss_ratio) && (0.0..=1.0).contains(&path.share), "{path:?}");
        }
        let carrying = stats.paths.iter().filter(|path| path.state == PathState::Active).count();
        let most = MAX_RATE * carrying as u64;
        assert!(self.machine.target_rate() <= most, "{} {stats:?}", self.machine.target_rate());
        let _ = self.machine.clock();
    }
}
