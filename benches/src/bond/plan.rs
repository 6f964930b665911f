//! One run, laid down to the last packet's fate: links, media, what happens when.

use std::time::Duration;

use media::Time;
use sim::{Conditions, Outage};

use super::media::Media;

/// When every simulated show begins, by the sender's clock.
pub const START: Time = Time::from_millis(1_790_000_000_000);

/// Milliseconds.
pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// So many milliseconds into the show.
pub fn at(millis: u64) -> Time {
    START + ms(millis)
}

/// Dark from here to there, in milliseconds into the show.
pub fn dark(from: u64, until: u64) -> Vec<Outage> {
    vec![Outage { from: at(from), until: at(until) }]
}

/// An uplink: data goes up, feedback comes down.
#[derive(Clone, Debug)]
pub struct Uplink {
    /// Towards the receiver.
    pub up: Conditions,
    /// Back.
    pub down: Conditions,
}

/// The same conditions both ways.
pub fn both_ways(conditions: Conditions) -> Uplink {
    Uplink { up: conditions.clone(), down: conditions }
}

/// What happens on the way, at a time.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// The uplink is there from now on, or anew.
    Add(u8),
    /// Both ends are told that it is gone.
    Remove(u8),
    /// Nobody is told; `false` pulls the cable.
    Cable(u8, bool),
    /// The sender's process stands still until then.
    Stall(Time),
}

/// The encoder follows [`bond::Sender::target_rate`] within these bounds, bits per second of video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follow {
    /// The least that it can encode.
    pub least: u64,
    /// The most that is any use.
    pub most: u64,
}

/// A bottleneck towards the receiver that several uplinks end in.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Which.
    pub uplinks: Vec<usize>,
    /// It.
    pub conditions: Conditions,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// By path number.
    pub uplinks: Vec<Uplink>,
    /// What is sent.
    pub media: Media,
    /// A frame is worth nothing this long after its capture.
    pub deadline: Duration,
    /// The uplinks are there this long before the first frame.
    pub warm_up: Duration,
    /// In any order.
    pub actions: Vec<(Time, Action)>,
    /// Uplinks there are from the beginning; all where `None`.
    pub first: Option<Vec<u8>>,
    /// Every such part of the datagrams comes twice.
    pub duplicates: f64,
    /// Whether the video's rate follows the bond; `None`: [`Media::video`].
    pub follow: Option<Follow>,
    /// Bottlenecks behind the uplinks.
    pub shared: Vec<Shared>,
    /// Uplinks on which somebody else's Cubic flow sends too, all the time; one on each at most.
    pub rivals: Vec<usize>,
    /// The ends' clocks drift apart by up to this, parts per million.
    pub drift_ppm: u64,
    /// Whether parity is sent.
    pub fec: bool,
    /// Compare every byte and the order at the other end (slow).
    pub check: bool,
    /// Keep the fate of every single frame (not for days).
    pub keep_fates: bool,
}

impl Plan {
    /// These uplinks and this stream, 400 ms, and nothing out of the way.
    pub fn new(uplinks: Vec<Uplink>, media: Media) -> Self {
        Self {
            uplinks,
            media,
            deadline: ms(400),
            warm_up: ms(500),
            actions: Vec::new(),
            first: None,
            duplicates: 0.0,
            follow: None,
            shared: Vec::new(),
            rivals: Vec::new(),
            drift_ppm: 0,
            fec: true,
            check: false,
            keep_fates: true,
        }
    }

    /// Whether an uplink is there from the beginning.
    pub fn is_first(&self, uplink: usize) -> bool {
        self.first.as_ref().is_none_or(|first| first.contains(&(uplink as u8)))
    }

    /// When the links' traces begin: as the uplinks are there.
    pub fn began(&self) -> Time {
        START - self.warm_up
    }
}
