//! H.264 that comes in already encoded, and goes out as it came: what is passed through, and when.
//!
//! ```text
//! source -> parser -+-> decoder -> program: on air? ----------+
//!                   |                                         v
//!                   +-> units (checked by Stream) ---> Switch: theirs, or a picture of our encoder
//! ```
//!
//! The decoded pictures decide what is on air, as always; each brings along the access units that it was made
//! of. So the slate, cuts and capture times are the same whoever encoded the picture.

use bytes::Bytes;
use gstreamer::ClockTime;
use media::Time;

mod stream;
mod switch;

pub(crate) use stream::{Stream, Unfit, annex_b};
pub(crate) use switch::{Choice, Maker, Reason, Room, Switch};

/// An access unit of a stream: Annex B, an IDR with its parameter sets.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    /// On the running time of its source, not of the show.
    pub(crate) pts: ClockTime,
    pub(crate) data: Bytes,
    pub(crate) facts: Facts,
}

/// What [`Switch`] has to know of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Counts up by one from unit to unit of a stream.
    pub(crate) number: u64,
    /// An IDR picture.
    pub(crate) idr: bool,
    /// Nothing is missing between the unit before it and this one.
    pub(crate) joined: bool,
    /// The stream's bits per second, or why it cannot be passed through.
    pub(crate) fit: Result<u32, Unfit>,
}

/// What comes with a picture of a stream that might be passed through.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    /// The number of its input.
    pub(crate) input: usize,
    /// Which opening of the source it is of: the numbers of units begin anew with each.
    pub(crate) opening: u64,
    /// The units up to this picture that did not come with an earlier one, with their capture times (running
    /// time). May be empty.
    pub(crate) units: Vec<(ClockTime, Unit)>,
}

/// A unit that goes out, and its group.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) group: u64,
    pub(crate) capture_time: Time,
    pub(crate) keyframe: bool,
    pub(crate) data: Bytes,
}
