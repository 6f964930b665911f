//! What is on its way on one path, and when it counts as lost.

use std::collections::BTreeMap;
use std::time::Duration;

use media::Time;

use crate::scheduler::ShardId;
use crate::wire::FeedbackEntry;

/// A datagram is lost when one that was sent this many later has arrived (RFC 9002, section 6.1.1),
const REORDER_PACKETS: u64 = 3;

/// or one that was sent this much later (section 6.1.2, fixed for want of a path that reorders more).
const REORDER_TIME: Duration = Duration::from_millis(10);

/// News is in order while some comes at least this often: two feedback intervals and some jitter.
const QUIET: Duration = Duration::from_millis(25);

/// Both thresholds double when a datagram that was called lost arrives after all, up to eight times,
/// and come back by one step in so much time without such a mistake.
const MAX_PATIENCE: u32 = 3;
const PATIENCE_DECAY: Duration = Duration::from_secs(2);

/// The most datagrams that are remembered on one path; the in-flight limit keeps honest paths far below.
const MAX_RECORDS: usize = 2048;

/// How long a datagram that was called lost is remembered, to learn of such mistakes.
const REMEMBER_LOST: Duration = Duration::from_secs(1);

const NEVER: Time = Time::from_micros(u64::MAX);

/// A datagram that was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// What it carried; probes carry nothing.
    pub shard: Option<ShardId>,
    /// Bytes on the wire.
    pub bytes: u64,
    /// Bytes that were sent on this path before it.
    pub sent_before: u64,
    pub at: Time,
    /// Datagrams of one train were sent as close together as the rate allows.
    pub train: u64,
    /// The first of its train: nothing of ours was in its way.
    pub alone: bool,
    /// Called lost already; the shard was given back.
    lost: bool,
    /// Counted as lost already: something later came. One that is only overdue may be in a queue.
    counted: bool,
    /// Given for a copy on another path already.
    hedged: bool,
}

/// What an entry of feedback told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Shards that arrived.
    pub arrived: Vec<ShardId>,
    /// Datagrams that arrived though they were called lost.
    pub mistakes: u32,
    /// Datagrams that arrived and were not counted as lost before: what the loss ratio counts.
    pub packets: u32,
    /// The highest datagram, where it is higher than any before.
    pub progress: Option<Sent>,
}

/// Datagrams that were called lost.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    /// What they carried.
    pub shards: Vec<ShardId>,
    /// Datagrams that others have overtaken, whether called lost now or before,
    pub packets: u32,
    /// in so many runs of neighbours.
    pub runs: u32,
}

/// The datagrams in flight on one path.
#[derive(Debug)]
pub(crate) struct Flight {
    next_seq: u64,
    records: BTreeMap<u64, Sent>,
    highest: Option<u64>,
    highest_sent_at: Time,
    /// From when on nothing was heard for [`QUIET`].
    quiet_from: Option<Time>,
    in_flight: u64,
    /// When the first of those that were called lost may be forgotten, or sooner.
    forget_at: Time,
    sent_bytes: u64,
    last_train: Option<u64>,
    patience: u32,
    patience_since: Time,
}

impl Flight {
    pub fn new(first_seq: u64, now: Time) -> Self {
        Self {
            next_seq: first_seq,
            records: BTreeMap::new(),
            highest: None,
            highest_sent_at: Time::ZERO,
            quiet_from: None,
            in_flight: 0,
            forget_at: NEVER,
            sent_bytes: 0,
            last_train: None,
            patience: 0,
            patience_since: now,
        }
    }

    /// The sequence number of the next datagram. A path that comes again must go on from here, so that
    /// old feedback cannot be mistaken.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// How many steps of patience mistakes have taught.
    pub fn patience(&self) -> u32 {
        self.patience
    }

    /// Bytes not accounted for.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Notes a datagram of `bytes` on the wire, numbered [`Flight::next_seq`]. Gives back the shard that
    /// had to be forgotten for it, if any.
    pub fn sent(&mut self, shard: Option<ShardId>, bytes: u64, train: u64, now: Time) -> Option<ShardId> {
        let alone = self.last_train != Some(train);
        self.last_train = Some(train);
        let sent = Sent {
            shard,
            bytes,
            sent_before: self.sent_bytes,
            at: now,
            train,
            alone,
            lost: false,
            counted: false,
            hedged: false,
        };
        self.sent_bytes += bytes;
        self.in_flight += bytes;
        self.records.insert(self.next_seq, sent);
        self.next_seq += 1;
        if self.records.len() <= MAX_RECORDS {
            return None;
        }
        let (_, oldest) = self.records.pop_first()?;
        if oldest.lost {
            return None;
        }
        self.in_flight -= oldest.bytes;
        oldest.shard
    }

    /// Takes what the receiver says. What was never sent is ignored.
    pub fn told(&mut self, entry: &FeedbackEntry, now: Time) -> Told {
        let mut told = Told::default();
        if entry.highest >= self.next_seq {
            return told;
        }
        if self.highest.is_none_or(|highest| entry.highest > highest) {
            self.highest = Some(entry.highest);
            if let Some(sent) = self.records.get(&entry.highest) {
                self.highest_sent_at = sent.at;
                self.quiet_from = Some(now + QUIET);
                told.progress = Some(*sent);
            }
        }
        let arrived: Vec<u64> = self
            .records
            .range(..=entry.highest)
            .filter(|(seq, _)| entry.received(**seq) == Some(true))
            .map(|(seq, _)| *seq)
            .collect();
        for seq in arrived {
            let Some(sent) = self.records.remove(&seq) else { continue };
            told.arrived.extend(sent.shard);
            told.packets += u32::from(!sent.counted);
            if sent.lost {
                told.mistakes += 1;
                self.patience = (self.patience + 1).min(MAX_PATIENCE);
                self.patience_since = now;
            } else {
                self.in_flight -= sent.bytes;
            }
        }
        told
    }

    /// Calls datagrams lost: those that later ones overtook, and those that were not heard of within
    /// `timeout` while nothing else was heard either; while news comes in order, the others may only be
    /// queued. Gives back what they carried.
    pub fn find_lost(&mut self, timeout: Duration, now: Time) -> Lost {
        if self.patience > 0 && now.saturating_since(self.patience_since) >= PATIENCE_DECAY {
            self.patience -= 1;
            self.patience_since = now;
        }
        let packets = REORDER_PACKETS << self.patience;
        let time = REORDER_TIME * (1 << self.patience);
        let quiet = self.quiet_from.is_none_or(|from| now >= from);
        let mut lost = Lost::default();
        let mut neighbour = None;
        for (&seq, sent) in &mut self.records {
            let overtakable = self.highest.is_some_and(|highest| seq < highest);
            let overdue = quiet && now >= sent.at + timeout;
            if !(overtakable || overdue) {
                // Nor is any that was sent later.
                break;
            }
            let far = self.highest.is_some_and(|highest| highest.saturating_sub(seq) >= packets)
                || self.highest_sent_at.saturating_since(sent.at) >= time;
            let overtaken = overtakable && far;
            if !sent.lost && (overtaken || overdue) {
                sent.lost = true;
                self.in_flight -= sent.bytes;
                lost.shards.extend(sent.shard);
                self.forget_at = self.forget_at.min(sent.at + REMEMBER_LOST);
            }
            if overtaken && !sent.counted {
                sent.counted = true;
                lost.packets += 1;
                lost.runs += u32::from(neighbour.is_none_or(|before| before + 1 != seq));
            }
            if sent.counted {
                neighbour = Some(seq);
            }
        }
        self.forget(now);
        lost
    }

    /// Forgets what was called lost long ago.
    fn forget(&mut self, now: Time) {
        if now < self.forget_at {
            return;
        }
        self.forget_at = NEVER;
        self.records.retain(|_, sent| {
            let until = sent.at + REMEMBER_LOST;
            if sent.lost && until > now {
                self.forget_at = self.forget_at.min(until);
            }
            !sent.lost || until > now
        });
    }

    /// What is overdue by `timeout` but not lost yet: it may sit in a queue that hardly moves. Each shard is
    /// given once.
    pub fn overdue(&mut self, timeout: Duration, now: Time) -> Vec<ShardId> {
        let late = self.records.values_mut().take_while(|sent| sent.at + timeout <= now);
        late.filter_map(|sent| {
            let first = !sent.lost && !std::mem::replace(&mut sent.hedged, true);
            sent.shard.filter(|_| first)
        })
        .collect()
    }

    /// Calls everything lost, because the path fell silent or is gone.
    pub fn give_up(&mut self) -> Vec<ShardId> {
        self.in_flight = 0;
        self.forget_at = Time::ZERO;
        let flying = self.records.values_mut().filter(|sent| !sent.lost);
        flying
            .filter_map(|sent| {
                // Silence is not loss: it says nothing about what else the path drops.
                (sent.lost, sent.counted) = (true, true);
                sent.shard
            })
            .collect()
    }

    /// When the first and the `count`th datagram after the highest known one were sent: what silence is
    /// measured by. Counts those that were called lost by the timeout too.
    pub fn unheard(&self, count: usize) -> Option<(Time, Option<Time>)> {
        let from = self.highest.map_or(0, |highest| highest + 1);
        let mut unheard = self.records.range(from..).map(|(_, sent)| sent.at);
        let first = unheard.next()?;
        Some((first, if count < 2 { Some(first) } else { unheard.nth(count - 2) }))
    }

    /// When news is overdue, if none comes until then.
    pub fn next_overdue(&self, timeout: Duration) -> Option<Time> {
        let (first, _) = self.unheard(1)?;
        Some((first + timeout).max(self.quiet_from.unwrap_or_default()))
    }

    /// When [`Flight::find_lost`] will call the next one lost for want of news.
    pub fn next_loss(&self, timeout: Duration) -> Option<Time> {
        let oldest = self.records.values().find(|sent| !sent.lost)?;
        Some((oldest.at + timeout).max(self.quiet_from.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PathId;
    use media::TrackId;

    const START: Time = Time::from_millis(9_000);
    const TIMEOUT: Duration = Duration::from_millis(80);

    fn at(millis: u64) -> Time {
        START + Duration::from_millis(millis)
    }

    fn shard(index: usize) -> ShardId {
        ShardId { track: TrackId(0), order: 0, index }
    }

    /// Eight datagrams, two milliseconds apart.
    fn flight() -> Flight {
        let mut flight = Flight::new(100, START);
        for n in 0..8 {
            assert_eq!(flight.sent(Some(shard(n)), 1000, 1, at(2 * n as u64)), None);
        }
        flight
    }

    fn entry(highest: u64, bitmap: u8) -> FeedbackEntry {
        FeedbackEntry {
            path: PathId(0),
            highest,
            sent: START,
            arrived: START,
            packets: 0,
            bytes: 0,
            bitmap: vec![bitmap],
        }
    }

    fn lost(flight: &mut Flight, now: Time) -> Vec<usize> {
        flight.find_lost(TIMEOUT, now).shards.iter().map(|shard| shard.index).collect()
    }

    #[test]
    fn three_later_ones_make_a_loss() {
        let mut flight = flight();
        let told = flight.told(&entry(103, 0b101), at(20)); // 103, 102, 100
        assert_eq!(told.arrived.iter().map(|s| s.index).collect::<Vec<_>>(), [0, 2, 3]);
        assert_eq!(told.progress.unwrap().sent_before, 3000);
        assert_eq!(flight.in_flight(), 5000);
        assert!(lost(&mut flight, at(20)).is_empty());
        assert!(flight.told(&entry(104, 0b1011), at(22)).progress.is_some());
        assert_eq!(lost(&mut flight, at(22)), [1]);
        assert!(lost(&mut flight, at(22)).is_empty(), "once");
        assert_eq!(flight.in_flight(), 3000);
        assert_eq!(flight.unheard(3), Some((at(10), Some(at(14)))));
        assert_eq!(flight.unheard(4), Some((at(10), None)));
        // Told again, it says nothing new.
        let told = flight.told(&entry(104, 0b1011), at(30));
        assert!(told.arrived.is_empty() && told.progress.is_none());
    }

    #[test]
    fn the_tail_is_lost_by_time() {
        let mut flight = flight();
        flight.told(&entry(105, 0b11111), at(40));
        assert_eq!(flight.next_loss(TIMEOUT), Some(at(12 + 80)));
        assert!(lost(&mut flight, at(91)).is_empty());
        let mut busy = self::flight();
        busy.told(&entry(105, 0b11111), at(80));
        assert_eq!(busy.next_loss(TIMEOUT), Some(at(80) + QUIET), "while others come it may be queued");
        assert!(lost(&mut busy, at(100)).is_empty());
        assert_eq!(lost(&mut flight, at(92)), [6]);
        assert_eq!(lost(&mut flight, at(94)), [7]);
        assert_eq!(flight.in_flight(), 0);
        assert_eq!(flight.unheard(1), Some((at(12), Some(at(12)))), "silence goes on");
    }

    #[test]
    fn mistakes_teach_patience() {
        let mut flight = flight();
        flight.told(&entry(103, 0b011), at(20)); // 100 is missing
        assert_eq!(lost(&mut flight, at(20)), [0]);
        let told = flight.told(&entry(104, 0b1111), at(22));
        assert_eq!((told.arrived.len(), told.packets), (2, 1), "it came after all");
        assert_eq!(flight.in_flight(), 3000);
        // Three later ones are not enough now.
        flight.sent(Some(shard(8)), 1000, 1, at(16));
        flight.told(&entry(108, 0b011), at(30)); // 105 is missing
        assert!(lost(&mut flight, at(30)).is_empty());
    }

    #[test]
    fn a_dead_path_gives_back_everything() {
        let mut flight = flight();
        flight.told(&entry(101, 0b1), at(20));
        assert_eq!(flight.give_up().len(), 6);
        assert_eq!(flight.give_up().len(), 0);
        assert_eq!(flight.in_flight(), 0);
        // It was only slow.
        assert_eq!(flight.told(&entry(107, 0x7f), at(300)).arrived.len(), 6);
    }

    #[test]
    fn lies_and_floods_do_no_harm() {
        let mut flight = flight();
        assert!(flight.told(&entry(108, 0xff), at(20)).arrived.is_empty());
        assert!(flight.told(&entry(u64::MAX, 0xff), at(20)).arrived.is_empty());
        let mut given_back = 0;
        for n in 0..MAX_RECORDS {
            given_back += flight.sent(Some(shard(n)), 10, 1, at(20)).iter().count();
        }
        assert_eq!((flight.records.len(), given_back), (MAX_RECORDS, 8));
    }
}
