//! A show that is made on this machine: its frames go to the relay's viewers as they come out of the encoder, without a
//! bond in between. So a room goes on when all uplinks are dead.

use media::Frame;
use media::catalog::Catalog;

use crate::broadcasts::{Broadcasts, Outcome, Record};
use crate::clock::Clock;
use crate::control::Audience;
use crate::origin::{Origin, Publication, Written};

/// What stands for a bond's session in the record.
const SESSION: &str = "stage";

/// The show ends for the viewers when this is dropped.
pub struct Stage {
    name: String,
    clock: Clock,
    broadcasts: Broadcasts,
    record: Record,
    publication: Publication,
}

impl Stage {
    /// `shows` is the clock by which the frames have their times, `clock` the relay's own.
    pub(crate) fn new(
        name: &str,
        catalog: &Catalog,
        shows: &Clock,
        clock: Clock,
        origin: &Origin,
        broadcasts: &Broadcasts,
    ) -> Result<Self, moq_net::Error> {
        let publication = origin.publish(name, catalog)?;
        let record = broadcasts.begin(name, SESSION);
        record.update(|status| {
            status.clock_offset_us = Some(clock.now().micros_since(shows.now()));
            status.clock_error_us = Some(0);
        });
        Ok(Self { name: name.to_owned(), clock, broadcasts: broadcasts.clone(), record, publication })
    }

    /// Hands a frame to the viewers. Never blocks.
    pub fn frame(&mut self, frame: &Frame) {
        let came = self.clock.now();
        let outcome = match self.publication.write(frame) {
            Ok(Written::Published) => Outcome::Published,
            Ok(Written::Undecodable) => Outcome::Undecodable,
            Ok(Written::Refused) => Outcome::Refused,
            Err(error) => {
                tracing::warn!(broadcast = %self.name, %error, "frame not published in the room");
                Outcome::Refused
            }
        };
        self.record.passed(frame, came, self.clock.now(), outcome);
    }

    /// How the show fares, for whoever makes it.
    pub fn watch(&self) -> Watch {
        Watch { record: self.record.clone(), clock: self.clock }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.broadcasts.end(&self.name, SESSION);
    }
}

/// Looks at a [`Stage`] from any thread.
#[derive(Clone)]
pub struct Watch {
    record: Record,
    clock: Clock,
}

impl Watch {
    /// How its viewers fare, of those that report.
    pub fn audience(&self) -> Audience {
        self.record.status(self.clock.now()).audience()
    }
}
