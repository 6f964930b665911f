//! Passing a stream's own H.264 through: drives [`Switch`], and keeps what goes out in order.

use std::collections::VecDeque;

use gstreamer::ClockTime;
use media::Time;

use super::groups::{Groups, Place};
use crate::output::{self, Encoded};
use crate::pass::{Choice, Maker, Offer, Outgoing, Reason, Room, Switch, Unit};
use crate::shared::Shared;
use crate::{EncoderEvent, Settings, VIDEO_TRACK};

/// Pictures for which units wait until our encoder has given its last picture. It has dropped that one if it
/// takes longer.
const HOLD_PICTURES: u32 = 3;
/// Units that wait at most: more than three pictures can bring along, unless most pictures were dropped.
const HELD: usize = 64;

/// See the module.
pub(super) struct Passing {
    switch: Switch,
    /// Other encodings of the same pictures, whose groups have to begin with those of the main one.
    companions: bool,
    /// Capture time of the last picture that our encoder was given.
    encoding: Option<Time>,
    held: VecDeque<Outgoing>,
    holding: u32,
    /// What the owner was told last of the input on air.
    told: Option<(usize, Option<Reason>)>,
}

impl Passing {
    pub(super) fn new(settings: &Settings) -> Self {
        Passing {
            switch: Switch::new(),
            companions: !settings.renditions.is_empty() || settings.master_bitrate.is_some(),
            encoding: None,
            held: VecDeque::new(),
            holding: 0,
            told: None,
        }
    }

    /// Somebody needs a keyframe.
    pub(super) fn request(&mut self, at: Time) {
        if self.switch.maker() == Maker::Theirs {
            self.switch.request(at);
        }
    }

    /// Who makes the picture captured at `at`.
    pub(super) fn choose(&mut self, at: Time, offer: Option<&Offer>, room: Room, shared: &Shared) -> Choice {
        let Some(offer) = offer else {
            self.told = None;
            return self.switch.picture(at, None, room);
        };
        if self.companions {
            self.tell(offer.input, Some(Reason::Companions), shared);
            return Choice::Encode { begin: false, why: None };
        }
        let facts: Vec<_> =
            offer.units.iter().map(|(time, unit)| (shared.epoch.at(*time), unit.facts)).collect();
        let choice = self.switch.picture(at, Some((offer.opening, &facts)), room);
        match choice {
            Choice::Pass { .. } => self.tell(offer.input, None, shared),
            Choice::Encode { why: Some(why), .. } => self.tell(offer.input, Some(why), shared),
            // For a moment only.
            Choice::Encode { why: None, .. } => {}
        }
        choice
    }

    /// These units go out, with their running times.
    pub(super) fn pass(
        &mut self,
        units: impl Iterator<Item = (ClockTime, Unit)>,
        groups: &mut Groups,
        shared: &Shared,
    ) {
        for (time, unit) in units {
            let capture_time = shared.epoch.at(time);
            let Place { group, begins } = groups.follow(capture_time, unit.facts.idr);
            if begins {
                self.switch.began(capture_time);
            }
            if self.held.len() == HELD {
                self.release(shared);
            }
            self.held.push_back(Outgoing { group, capture_time, keyframe: unit.facts.idr, data: unit.data });
        }
        // What our encoder makes of the last picture that it was given belongs before these.
        let done = self
            .encoding
            .is_none_or(|last| shared.output().last_time(VIDEO_TRACK).is_some_and(|time| time >= last));
        self.holding += 1;
        if done || self.holding > HOLD_PICTURES {
            self.encoding = None;
            self.release(shared);
        }
    }

    /// Our encoder makes the picture captured at `at`.
    pub(super) fn encode(&mut self, at: Time, place: Place, shared: &Shared) {
        self.release(shared);
        if place.begins {
            self.switch.began(at);
        }
        self.encoding = Some(at);
        self.holding = 0;
    }

    fn release(&mut self, shared: &Shared) {
        for Outgoing { group, capture_time, keyframe, data } in self.held.drain(..) {
            let place = output::Place::Group(group);
            let encoded_at = (shared.now)();
            shared.frame(Encoded { track: VIDEO_TRACK, place, capture_time, encoded_at, keyframe, data });
        }
    }

    fn tell(&mut self, input: usize, why: Option<Reason>, shared: &Shared) {
        if self.told.replace((input, why)) == Some((input, why)) {
            return;
        }
        shared.events.note(match why {
            None => EncoderEvent::PassedThrough { input },
            Some(why) => EncoderEvent::Transcoded { input, reason: why.to_string() },
        });
    }
}
