//! Plain counters and estimates, for the driver to export.

use std::time::Duration;

use crate::PathId;

/// How the receiver's clock stands to the sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockEstimate {
    /// Receiver clock minus sender clock, in microseconds.
    pub offset_micros: i64,
    /// The estimate is surely right to within this: half of the smallest round trip, in microseconds.
    pub error_micros: u64,
}

/// Whether a path may carry media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathState {
    /// Carries media.
    Active,
    /// Fell silent: carries probes only, and everything it held was sent elsewhere.
    Suspect,
    /// New, or heard from again after silence, and not yet trusted with media.
    Probing,
}

/// What a [`crate::Sender`] did so far, and thinks now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SenderStats {
    /// Frames handed to `push`.
    pub frames_pushed: u64,
    /// Their bytes.
    pub media_bytes: u64,
    /// Frames that the receiver has whole, as far as feedback tells.
    pub frames_acknowledged: u64,
    /// Frames given up before they were all there: late, too big, or out of queue space.
    pub frames_dropped: u64,
    /// Datagrams sent: shards and probes.
    pub packets_sent: u64,
    /// Their bytes (without QUIC, UDP and IP).
    pub bytes_sent: u64,
    /// Shards that were sent again because they were lost or their path fell silent.
    pub shards_retransmitted: u64,
    /// Shards that were sent twice for safety.
    pub shards_duplicated: u64,
    /// Parity shards sent.
    pub parity_sent: u64,
    /// Bytes of shards that repeat what was sent before, and of parity.
    pub redundant_bytes: u64,
    /// Bytes of media that wait in the bond's own queue now.
    pub queued_bytes: u64,
    /// Shards that wait in the bond's own queue now.
    pub queued_shards: usize,
    /// One per path, by path number.
    pub paths: Vec<SenderPathStats>,
}

/// One path, as the sender sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct SenderPathStats {
    /// Which.
    pub path: PathId,
    /// Whether it carries media.
    pub state: PathState,
    /// Datagrams sent since it was added.
    pub packets_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// This path's part of the bytes that all present paths sent, 0 to 1.
    pub share: f64,
    /// Part of the latest 100 or so datagrams that was lost, 0 to 1.
    pub loss_ratio: f64,
    /// Datagrams found lost since it was added.
    pub packets_lost: u64,
    /// Smoothed one-way delay by the clock estimate (right to within its error), once both are known.
    pub owd: Option<Duration>,
    /// Delay beyond the least one seen lately: what waits in this path's queues.
    pub queueing: Duration,
    /// Smoothed time from sending to hearing of the arrival, by whatever path the feedback came first.
    pub srtt: Option<Duration>,
    /// Bits per second that the path is thought to carry.
    pub rate: u64,
    /// Bytes sent and not yet accounted for.
    pub outstanding_bytes: u64,
    /// How often it fell silent.
    pub suspected: u64,
}

/// What a [`crate::Receiver`] saw so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReceiverStats {
    /// Frames handed over.
    pub frames_delivered: u64,
    /// Frames given up.
    pub frames_lost: u64,
    /// Frames of which something came after they were given up.
    pub frames_late: u64,
    /// Frames that parity completed before a repair could.
    pub frames_recovered: u64,
    /// Shards and whole datagrams that had come before.
    pub duplicates: u64,
    /// Datagrams that were not understood, contradicted others, or came on an unknown path.
    pub rejected: u64,
    /// Shards that found no room: see the bounds in `receiver.rs`.
    pub refused: u64,
    /// Bytes held for frames that are not handed over yet.
    pub buffered_bytes: usize,
    /// Frames that are not handed over yet.
    pub buffered_frames: usize,
    /// One per path, by path number.
    pub paths: Vec<ReceiverPathStats>,
}

/// One path, as the receiver sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiverPathStats {
    /// Which.
    pub path: PathId,
    /// Distinct datagrams that came.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Feedback datagrams sent on it.
    pub feedback_sent: u64,
}
