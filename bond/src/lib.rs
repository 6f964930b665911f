//! One live stream over several bad links.
//!
//! Two pure machines, [`Sender`] and [`Receiver`], talk in datagrams over any number of **paths**
//! (uplinks). Frames are cut into **shards**; the sender decides for each shard, at the last moment,
//! which path carries it; the receiver puts frames together and hands them over in order per track,
//! giving up what has missed its deadline. There is no IO, clock or randomness in here: time is an
//! argument, and a thin driver (in `relay/`) moves the datagrams.
//!
//! # The loop that a driver runs
//!
//! Methods come in families, as in quinn: `handle_*` feed the machine, `poll_*` drain it, everything
//! else changes or reads it. After **any** call with a `now`, drain: `poll_transmit` until `None`
//! (then `poll_delivery` or `poll_event` until `None`), then sleep until `poll_timeout`, a datagram or
//! a new frame, whichever comes first; when the timeout is due, call `handle_timeout`. `now` must not
//! run backwards. Sender and receiver each use their own clock: the offset may be anything.
//!
//! ```
//! use roadie_bond::{Class, Delivery, PathId, Receiver, ReceiverConfig, Sender, SenderConfig};
//! use bytes::Bytes;
//! use media::{Frame, FrameId, Time, TrackId};
//!
//! let mut now = Time::from_millis(1_000_000);
//! let mut sender = Sender::new(SenderConfig::default());
//! let mut receiver = Receiver::new(ReceiverConfig::default());
//! sender.add_path(PathId(0), 1150, now);
//! receiver.add_path(PathId(0), now);
//! let id = FrameId { track: TrackId(0), group: 7, frame: 0 };
//! let data = Bytes::from_static(b"an access unit");
//! sender.push(&Frame { id, capture_time: now, keyframe: true, data }, Class::Keyframe, now);
//! let frame = loop {
//!     while let Some(transmit) = sender.poll_transmit(now) {
//!         receiver.handle_datagram(transmit.path, &transmit.data, now)?;
//!     }
//!     while let Some(transmit) = receiver.poll_transmit(now) {
//!         sender.handle_datagram(transmit.path, &transmit.data, now)?;
//!     }
//!     if let Some(Delivery::Frame { frame, .. }) = receiver.poll_delivery() {
//!         break frame;
//!     }
//!     now = sender.poll_timeout().into_iter().chain(receiver.poll_timeout()).min().unwrap().max(now);
//!     sender.handle_timeout(now);
//!     receiver.handle_timeout(now);
//! };
//! assert_eq!(frame.id, id);
//! # Ok::<(), roadie_bond::WireError>(())
//! ```

mod arrivals;
mod budget;
mod clock;
mod estimate;
mod fec;
mod lanes;
mod order;
mod path;
mod pending;
mod receiver;
mod retransmit;
mod scheduler;
mod sender;
mod shard;
mod stats;
mod target;
mod wire;

use bytes::Bytes;

pub use lanes::{LaneError, MAX_MESSAGE_BYTES, MAX_OBJECT_BYTES};
pub use receiver::{Delivery, Receiver, ReceiverConfig};
pub use sender::{Sender, SenderConfig, SenderEvent};
pub use stats::{ClockEstimate, PathState, ReceiverPathStats, ReceiverStats, SenderPathStats, SenderStats};
pub use wire::WireError;

/// The ALPN of the bond's QUIC connections; the wire format in `docs/protocol.md` belongs to it.
pub const ALPN: &[u8] = b"roadie-bond/2";

/// The largest datagram that the bond makes, in bytes: fits a QUIC datagram at a path MTU of 1200.
pub const MAX_DATAGRAM: usize = 1150;

/// The largest frame that the bond carries, in bytes. The largest IDR seen from a badly set encoder
/// was 140 KB.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// The most paths in one bond: all of them must fit one feedback datagram.
pub const MAX_PATHS: usize = 8;

/// One uplink's number, the same at both ends (the driver tells the receiver).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u8);

/// How much a frame matters, from high to low: what is higher is sent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Small and precious: messages, see [`Sender::send_message`]. Goes over two paths at once where there are
    /// two.
    Control,
    /// Sound.
    Audio,
    /// A frame that decodes on its own.
    Keyframe,
    /// A frame that others need.
    Delta,
    /// A frame that no other frame needs.
    Droppable,
    /// Not live at all: an object that goes when there is room, see [`Sender::send_object`].
    Bulk,
}

/// What sending on a path costs the creator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cost {
    /// Nothing.
    #[default]
    Free,
    /// Something; from 1 on, and only the order counts. Cheaper paths are preferred while they bring a frame
    /// not much later.
    Priced(u32),
    /// Too much: only where nothing else is in time.
    LastResort,
}

/// A datagram for the driver to send, unreliably, on one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where.
    pub path: PathId,
    /// What; at most [`MAX_DATAGRAM`] bytes.
    pub data: Bytes,
}
