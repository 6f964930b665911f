//! Backfill at the venue: what goes between the archive's thread, the machine and the bond's lanes.

use bond::Sender;
use media::{Time, TrackId};

use crate::backfill::Supply;
use crate::backfill::archive::{Answer, Reader};
use crate::backfill::supply::Standing;
use crate::control::Welcome;

/// One for the whole life of a venue, however often the bond begins anew.
pub(super) struct Backfill {
    supply: Supply,
    /// `None`: there is no recording.
    reader: Option<Reader>,
    /// Those of the show: a recording may have more, which are not sent.
    tracks: Vec<TrackId>,
    answer: Option<Answer>,
    /// The edge's end of the bond.
    receiver: Option<String>,
}

impl Backfill {
    /// Of these tracks of a recording, where there is one.
    pub fn new(reader: Option<Reader>, tracks: Vec<TrackId>) -> Self {
        Self { supply: Supply::default(), reader, tracks, answer: None, receiver: None }
    }

    /// An uplink is up. Returns whether the other end of the bond is another one than before.
    pub fn meet(&mut self, welcome: &Welcome) -> bool {
        if welcome.receiver.is_none() || welcome.receiver == self.receiver {
            return false;
        }
        self.supply.begin(welcome.backfill && self.reader.is_some());
        self.receiver.replace(welcome.receiver.clone().unwrap_or_default()).is_some()
    }

    /// Resolves when the archive's thread has said something.
    pub async fn answered(&mut self) {
        if self.answer.is_some() {
            return;
        }
        if let Some(reader) = &mut self.reader {
            self.answer = reader.answers.recv().await;
        }
        if self.answer.is_none() {
            // No archive, or its thread is gone.
            std::future::pending().await
        }
    }

    /// Moves everything on that can move.
    pub fn run(&mut self, sender: &mut Sender, now: Time) {
        match self.answer.take() {
            Some(Answer::Finished(mut entries)) => {
                entries.retain(|entry| self.tracks.contains(&entry.id.track));
                self.supply.handle_entries(entries);
            }
            Some(Answer::Complete) => self.supply.handle_complete(),
            Some(Answer::Group(id, frames)) => self.supply.handle_group(id, frames.as_deref()),
            None => {}
        }
        while let Some(message) = sender.poll_message() {
            if !self.supply.handle_message(message) {
                tracing::debug!("a message from the edge that is not known here");
            }
        }
        if let Some(reader) = &self.reader
            && let Some(id) = self.supply.poll_read()
            && !reader.ask(id)
        {
            // The thread is gone.
            self.supply.handle_group(id, None);
        }
        while let Some(object) = self.supply.peek_object(now) {
            if sender.send_object(object, now).is_err() {
                // Full: when something has arrived there is room again.
                break;
            }
            self.supply.sent();
        }
    }

    /// When [`Backfill::run`] may have something to do without anything having come.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.supply.poll_timeout()
    }

    /// How the edge's copy stands; `None` where there is no recording.
    pub fn standing(&self) -> Option<Standing> {
        self.reader.as_ref().map(|_| self.supply.standing())
    }
}
