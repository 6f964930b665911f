//! The edge's half: compares what the recording has with what was kept, and asks for what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use media::cmaf::{Digest, GroupDigest};
use media::{Frame, Time, TrackConfig, TrackId};

use super::wire::{self, Kept, ToEdge, ToVenue, WINDOW};
use super::{Entry, GroupId, MAX_GROUPS};

/// A group that the manifest names may still be on its way live: it is asked for when it has not come after the
/// show's deadline and this.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A group that could not be used or written is asked for again after this.
const AGAIN: Duration = Duration::from_millis(500);

/// What was asked for and does not come is asked for again after this. The lanes lose nothing, but either end may
/// have had to let something go.
const ASK_AGAIN: Duration = Duration::from_secs(20);

/// A group that came and could not be used is asked for again, so often in all.
const TRIES: u8 = 3;

/// The venue is told how the copy stands at most this often.
const TELL: Duration = Duration::from_millis(500);

/// A group that the manifest named.
#[derive(Clone, Copy, Debug)]
struct Offer {
    entry: Entry,
    state: State,
    tries: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its place in the queue of those that are to be asked for.
    Missing { place: u64 },
    /// In a file, but a power cut might still take it.
    Written,
    /// On the disk.
    Kept,
    /// Nobody has it.
    Gone,
}

/// A group that was asked for, on its way.
#[derive(Debug)]
struct Assembly {
    id: GroupId,
    total: u64,
    body: BytesMut,
}

/// What came of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to do.
    Nothing,
    /// These groups are asked for unless [`Demand::written`] says in time that they are there.
    Offered(Vec<GroupId>),
    /// A group has come, and is proven: write it, then say [`Demand::written`].
    Whole(Entry, Vec<Frame>),
}

/// How the copy stands, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// What the venue is told.
    pub kept: Kept,
    /// Groups that came by backfill, and their bytes.
    pub healed: u64,
    /// See `healed`.
    pub healed_bytes: u64,
    /// Objects that were no word, or came unasked, or were not what the manifest said.
    pub refused: u64,
}

/// See the module. Of its memory each offered group takes some 100 bytes, and the one that is coming at most
/// [`super::MAX_GROUP_BYTES`].
#[derive(Debug)]
pub struct Demand {
    configs: BTreeMap<TrackId, TrackConfig>,
    patience: Duration,
    /// On the disk, from this session or earlier ones.
    have: BTreeMap<GroupId, Digest>,
    offered: BTreeMap<GroupId, Offer>,
    /// Those that are missing, by their place, with the time from which they may be asked for.
    queue: BTreeMap<u64, (GroupId, Time)>,
    next_place: u64,
    asked: BTreeSet<u64>,
    ask_again: Time,
    assembly: Option<Assembly>,
    /// The manifest is complete.
    complete: bool,
    /// Nothing is asked for before this, for the disk takes nothing.
    stuck_until: Option<Time>,
    counts: Counts,
    told: Option<Kept>,
    tell_at: Time,
}

impl Demand {
    /// For a show of these tracks, of which the disk has `have` already. What comes live comes within `deadline`;
    /// `None`: nothing does.
    pub fn new(
        configs: BTreeMap<TrackId, TrackConfig>,
        deadline: Option<Duration>,
        have: BTreeMap<GroupId, Digest>,
    ) -> Self {
        Self {
            configs,
            patience: deadline.map_or(Duration::ZERO, |deadline| deadline + PATIENCE),
            have,
            offered: BTreeMap::new(),
            queue: BTreeMap::new(),
            next_place: 0,
            asked: BTreeSet::new(),
            ask_again: Time::ZERO,
            assembly: None,
            complete: false,
            stuck_until: None,
            counts: Counts::default(),
            told: None,
            tell_at: Time::ZERO,
        }
    }

    /// Takes what came on the object lane.
    pub fn handle_object(&mut self, object: Bytes, now: Time) -> Outcome {
        match ToEdge::parse(object) {
            Some(ToEdge::Manifest { entries, complete }) => {
                self.complete |= complete;
                self.tell_at = self.tell_at.min(now + TELL);
                Outcome::Offered(entries.into_iter().filter_map(|entry| self.offer(entry, now)).collect())
            }
            Some(ToEdge::Piece { id, total, offset, data }) => self.piece(id, total, offset, &data, now),
            Some(ToEdge::Gone(id)) => {
                if self.place(id).is_some_and(|place| self.asked.contains(&place)) {
                    self.settle(id, State::Gone);
                }
                Outcome::Nothing
            }
            None => self.refuse(),
        }
    }

    /// Whether there is more to be known of the group than it has already.
    fn offer(&mut self, entry: Entry, now: Time) -> Option<GroupId> {
        let id = entry.id;
        if !self.configs.contains_key(&id.track) || self.offered.contains_key(&id) {
            return None;
        }
        if self.offered.len() >= MAX_GROUPS {
            return None;
        }
        let had = self.have.get(&id) == Some(&entry.digest);
        self.offered.insert(id, Offer { entry, state: State::Kept, tries: 0 });
        if had {
            self.counts.kept.kept += 1;
            return None;
        }
        self.counts.kept.missing += 1;
        self.enqueue(id, now + self.patience);
        Some(id)
    }

    fn enqueue(&mut self, id: GroupId, from: Time) {
        let place = self.next_place;
        self.next_place += 1;
        self.queue.insert(place, (id, from));
        if let Some(offer) = self.offered.get_mut(&id) {
            offer.state = State::Missing { place };
        }
    }

    fn place(&self, id: GroupId) -> Option<u64> {
        match self.offered.get(&id)?.state {
            State::Missing { place } => Some(place),
            _ => None,
        }
    }

    /// What a group is, if the manifest has named it and it is not kept yet.
    pub fn expects(&self, id: GroupId) -> Option<Entry> {
        self.place(id).and_then(|_| self.offered.get(&id)).map(|offer| offer.entry)
    }

    /// When the first group was captured that is not kept.
    pub fn first_missing(&self) -> Option<Time> {
        let captures = self.queue.values().filter_map(|(id, _)| self.offered.get(id));
        captures.map(|offer| offer.entry.first_capture).min()
    }

    fn piece(&mut self, id: GroupId, total: u64, offset: u64, data: &[u8], now: Time) -> Outcome {
        let wanted = self.place(id).is_some_and(|place| self.asked.contains(&place));
        if !wanted || !wire::fits(total) {
            self.assembly = None;
            return self.refuse();
        }
        if offset == 0 {
            self.assembly = Some(Assembly { id, total, body: BytesMut::new() });
        }
        let follows = |assembly: &&mut Assembly| {
            (assembly.id, assembly.total, assembly.body.len() as u64) == (id, total, offset)
        };
        let Some(assembly) = self.assembly.as_mut().filter(follows) else {
            // Something before it was let go.
            self.assembly = None;
            self.again(id, now);
            return self.refuse();
        };
        assembly.body.extend_from_slice(data);
        self.ask_again = now + ASK_AGAIN;
        if (assembly.body.len() as u64) < total {
            return Outcome::Nothing;
        }
        let body = self.assembly.take().map(|assembly| assembly.body.freeze()).unwrap_or_default();
        let Some(entry) = self.expects(id) else { return self.refuse() };
        match wire::parse_body(id, body).filter(|frames| self.proves(&entry, frames)) {
            Some(frames) => Outcome::Whole(entry, frames),
            None => {
                self.again(id, now);
                self.refuse()
            }
        }
    }

    fn proves(&self, entry: &Entry, frames: &[Frame]) -> bool {
        let Some(config) = self.configs.get(&entry.id.track) else { return false };
        let mut digest = GroupDigest::new();
        frames.iter().for_each(|frame| digest.frame(config, frame));
        digest.frames() == entry.frames && digest.finish() == entry.digest
    }

    fn refuse(&mut self) -> Outcome {
        self.counts.refused += 1;
        Outcome::Nothing
    }

    /// The group is in a file, from live or by backfill.
    pub fn written(&mut self, id: GroupId, healed: Option<u64>) {
        if self.place(id).is_some() {
            self.settle(id, State::Written);
        }
        if let Some(bytes) = healed {
            self.counts.healed += 1;
            self.counts.healed_bytes += bytes;
        }
    }

    /// The group is on the disk, whatever happens.
    pub fn kept(&mut self, id: GroupId, digest: Digest) {
        self.have.insert(id, digest);
        if self.offered.get(&id).is_some_and(|offer| offer.entry.digest == digest) {
            self.settle(id, State::Kept);
        }
    }

    /// The group could not be written, or the disk lost it again.
    pub fn failed(&mut self, id: GroupId, now: Time) {
        match self.offered.get(&id).map(|offer| offer.state) {
            Some(State::Missing { .. }) => self.again(id, now),
            Some(State::Written) => self.enqueue(id, now + AGAIN),
            _ => {}
        }
    }

    /// It cannot be written at all, so asking again would not help.
    pub fn refused(&mut self, id: GroupId) {
        if self.place(id).is_some() {
            self.settle(id, State::Gone);
        }
    }

    /// Until when the disk takes nothing; `None`: it does.
    pub fn stuck(&mut self, until: Option<Time>) {
        self.stuck_until = until;
        self.counts.kept.stuck = until.is_some();
        self.tell_at = Time::ZERO;
    }

    /// Asks for it once more, after the others, or gives it up.
    fn again(&mut self, id: GroupId, now: Time) {
        let Some(place) = self.place(id) else { return };
        let Some(offer) = self.offered.get_mut(&id) else { return };
        // What the disk does not take is no fault of the group.
        offer.tries += u8::from(self.stuck_until.is_none());
        if offer.tries >= TRIES {
            return self.settle(id, State::Gone);
        }
        self.leave(place);
        self.enqueue(id, now + AGAIN);
    }

    fn leave(&mut self, place: u64) {
        self.queue.remove(&place);
        self.asked.remove(&place);
    }

    /// The group is not missing any more.
    fn settle(&mut self, id: GroupId, state: State) {
        let Some(offer) = self.offered.get_mut(&id) else { return };
        let before = offer.state;
        if matches!(before, State::Kept | State::Gone) {
            return;
        }
        offer.state = state;
        if let State::Missing { place } = before {
            self.leave(place);
        }
        // What is written counts as missing until it is safe.
        let counts = &mut self.counts.kept;
        counts.missing -= u64::from(state != State::Written);
        counts.kept += u64::from(state == State::Kept);
        counts.gone += u64::from(state == State::Gone);
    }

    /// The next message for the venue.
    pub fn poll_message(&mut self, now: Time) -> Option<ToVenue> {
        if let Some(want) = self.want(now) {
            return Some(want);
        }
        let kept = self.counts().kept;
        if now < self.tell_at || self.told == Some(kept) || (self.told.is_none() && kept == Kept::default()) {
            return None;
        }
        self.told = Some(kept);
        self.tell_at = now + TELL;
        Some(ToVenue::Kept(kept))
    }

    fn want(&mut self, now: Time) -> Option<ToVenue> {
        if self.stuck_until.is_some_and(|until| now < until) {
            return None;
        }
        let again = !self.asked.is_empty() && now >= self.ask_again;
        // Half a window is on its way while the other half is asked for.
        if !again && self.asked.len() > WINDOW / 2 {
            return None;
        }
        let due = self.queue.iter().take_while(|(_, (_, from))| *from <= now);
        let due: Vec<u64> = due.map(|(&place, _)| place).take(WINDOW).collect();
        let room = |asked: &BTreeSet<u64>| asked.len() < WINDOW;
        let mut places: Vec<u64> =
            due.into_iter().filter(|place| room(&self.asked) && self.asked.insert(*place)).collect();
        if again {
            places = self.asked.iter().copied().collect();
        }
        if places.is_empty() {
            return None;
        }
        self.ask_again = now + ASK_AGAIN;
        let ids = places.iter().filter_map(|place| self.queue.get(place)).map(|(id, _)| *id);
        Some(ToVenue::Want(ids.collect()))
    }

    /// When [`Demand::poll_message`] may have something new without anything having come.
    pub fn poll_timeout(&self) -> Option<Time> {
        let ask = match self.asked.len() {
            0 => self.queue.values().next().map(|(_, from)| *from),
            more if more <= WINDOW / 2 => {
                let next = self.queue.iter().find(|(place, _)| !self.asked.contains(place));
                next.map(|(_, (_, from))| (*from).min(self.ask_again)).or(Some(self.ask_again))
            }
            _ => Some(self.ask_again),
        };
        let ask = ask.map(|ask| self.stuck_until.map_or(ask, |until| ask.max(until)));
        let tell = (self.told.unwrap_or_default() != self.counts().kept).then_some(self.tell_at);
        ask.into_iter().chain(tell).min()
    }

    /// Whether the manifest is complete.
    pub fn complete(&self) -> bool {
        self.complete
    }

    /// How the copy stands.
    pub fn counts(&self) -> Counts {
        let mut counts = self.counts;
        counts.kept.whole = self.complete && counts.kept.missing == 0 && counts.kept.gone == 0;
        counts
    }
}
