//! The venue's half: tells what the recording has, and hands out what is asked for.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use media::{Frame, Time};

use super::wire::{self, Kept, MAX_ENTRIES, PIECE, ToEdge, ToVenue};
use super::{Entry, GroupId, MAX_GROUPS};

/// New groups are told of together, at most this often.
const TELL: Duration = Duration::from_secs(1);

/// Groups that wait to be read. An edge asks for a few at a time; what is above this it asks for again.
const MAX_WANTED: usize = 64;

/// What the edge has not been told yet that it cannot have; it asks for a few groups at a time only.
const MAX_GONE: usize = 64;

/// How the backfill stands, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Standing {
    /// The edge keeps a copy of the show.
    pub on: bool,
    /// Groups that the recording has so far.
    pub recorded: u64,
    /// Of them, groups that the edge has on its disk, proven,
    pub kept: u64,
    /// groups that it lacks: what is owed,
    pub owed: u64,
    /// and groups that it lacks and cannot get, for no copy here is intact.
    pub gone: u64,
    /// The show is over, and the edge's copy is whole.
    pub whole: bool,
    /// The show is over, and nothing more will come of it: `whole`, or what is `gone` is all that is missing.
    pub done: bool,
    /// The edge's disk takes nothing now.
    pub stuck: bool,
    /// Groups sent,
    pub sent: u64,
    /// with so many bytes.
    pub sent_bytes: u64,
}

/// See the module. It holds at most two groups beside the names of all.
#[derive(Debug, Default)]
pub struct Supply {
    entries: Vec<Entry>,
    known: BTreeSet<GroupId>,
    /// All groups of the show are in `entries`.
    complete: bool,
    on: bool,
    /// What the edge was told of the manifest: so many entries, and whether that is all.
    told: usize,
    told_complete: bool,
    tell_at: Time,
    wanted: VecDeque<GroupId>,
    reading: Option<GroupId>,
    /// What is being read was wanted by an edge that is no more.
    stale: bool,
    /// Bodies that go out, the first of them from this offset on.
    bodies: VecDeque<(GroupId, Bytes)>,
    offset: usize,
    gone: VecDeque<GroupId>,
    /// The object that is next, until it is taken, and how many bytes of a body are in it.
    next: Option<(Bytes, usize)>,
    edge: Kept,
    sent: u64,
    sent_bytes: u64,
}

/// Bodies that are read ahead of the one that goes out.
const AHEAD: usize = 2;

impl Supply {
    /// There is another edge than before, or the same without its memory: it is told everything anew. `on`: it
    /// keeps a copy at all.
    pub fn begin(&mut self, on: bool) {
        *self = Self {
            entries: std::mem::take(&mut self.entries),
            known: std::mem::take(&mut self.known),
            complete: self.complete,
            on,
            reading: self.reading,
            stale: self.reading.is_some(),
            sent: self.sent,
            sent_bytes: self.sent_bytes,
            ..Self::default()
        };
    }

    /// More groups of the recording are finished.
    pub fn handle_entries(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if self.entries.len() < MAX_GROUPS && self.known.insert(entry.id) {
                self.entries.push(entry);
            }
        }
    }

    /// There will be no more.
    pub fn handle_complete(&mut self) {
        self.complete = true;
    }

    /// Takes a message of the edge's. False: it is none of ours.
    pub fn handle_message(&mut self, message: Bytes) -> bool {
        match ToVenue::parse(message) {
            Some(ToVenue::Want(ids)) => {
                for id in ids {
                    let under_way = self.wanted.contains(&id)
                        || self.reading == Some(id)
                        || self.gone.contains(&id)
                        || self.bodies.iter().any(|(body, _)| *body == id);
                    if !under_way && self.wanted.len() < MAX_WANTED {
                        self.wanted.push_back(id);
                    }
                }
                true
            }
            Some(ToVenue::Kept(kept)) => {
                self.edge = kept;
                true
            }
            None => false,
        }
    }

    /// The next group to read from the disk; say [`Supply::handle_group`] then.
    pub fn poll_read(&mut self) -> Option<GroupId> {
        if !self.on || self.reading.is_some() || self.bodies.len() >= AHEAD {
            return None;
        }
        while let Some(id) = self.wanted.pop_front() {
            // Nothing is read that was not offered.
            if self.known.contains(&id) {
                self.reading = Some(id);
                return Some(id);
            }
            self.cannot(id);
        }
        None
    }

    /// A group that was read; `None`: no copy of it is intact.
    pub fn handle_group(&mut self, id: GroupId, frames: Option<&[Frame]>) {
        if self.reading.take() != Some(id) || std::mem::take(&mut self.stale) {
            return;
        }
        match frames.map(wire::put_body).filter(|body| wire::fits(body.len() as u64)) {
            Some(body) => self.bodies.push_back((id, body)),
            None => self.cannot(id),
        }
    }

    fn cannot(&mut self, id: GroupId) {
        if self.gone.len() < MAX_GONE {
            self.gone.push_back(id);
        }
    }

    /// The next object for the edge. It stays the next one until [`Supply::sent`].
    pub fn peek_object(&mut self, now: Time) -> Option<Bytes> {
        if self.next.is_none() {
            let word = self.manifest(now).or_else(|| self.gone.pop_front().map(ToEdge::Gone));
            let word = word.or_else(|| self.piece())?;
            let media = if let ToEdge::Piece { data, .. } = &word { data.len() } else { 0 };
            self.next = Some((word.encode(), media));
        }
        self.next.as_ref().map(|(bytes, _)| bytes.clone())
    }

    /// The object has been taken.
    pub fn sent(&mut self) {
        let Some((_, media)) = self.next.take() else { return };
        self.sent_bytes += media as u64;
        self.offset += media;
        if self.bodies.front().is_some_and(|(_, body)| media > 0 && self.offset >= body.len()) {
            self.bodies.pop_front();
            self.offset = 0;
            self.sent += 1;
        }
    }

    fn manifest(&mut self, now: Time) -> Option<ToEdge> {
        if !self.on || now < self.tell_at || !self.untold() {
            return None;
        }
        let rest = self.entries.get(self.told..).unwrap_or_default();
        let entries: Vec<Entry> = rest.iter().take(MAX_ENTRIES).copied().collect();
        self.told += entries.len();
        let all = self.told == self.entries.len();
        self.told_complete = self.complete && all;
        if all {
            self.tell_at = now + TELL;
        }
        Some(ToEdge::Manifest { entries, complete: self.told_complete })
    }

    fn untold(&self) -> bool {
        self.told < self.entries.len() || (self.complete && !self.told_complete)
    }

    fn piece(&self) -> Option<ToEdge> {
        let (id, body) = self.bodies.front()?;
        let end = (self.offset + PIECE).min(body.len());
        let data = body.slice(self.offset..end);
        Some(ToEdge::Piece { id: *id, total: body.len() as u64, offset: self.offset as u64, data })
    }

    /// When [`Supply::peek_object`] may have something new without anything having come.
    pub fn poll_timeout(&self) -> Option<Time> {
        (self.on && self.next.is_none() && self.untold()).then_some(self.tell_at)
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        let Kept { kept, missing, gone, whole, stuck } = self.edge;
        let untold = self.entries.len().saturating_sub(self.told) as u64;
        let whole = whole && self.told_complete;
        let settled = missing == 0 && gone > 0 && kept + gone == self.entries.len() as u64;
        Standing {
            on: self.on,
            recorded: self.entries.len() as u64,
            kept,
            owed: missing + untold,
            gone,
            whole,
            done: whole || (self.told_complete && settled),
            stuck,
            sent: self.sent,
            sent_bytes: self.sent_bytes,
        }
    }
}
