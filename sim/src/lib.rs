//! Bad links in a box: a link emulator on a virtual clock.
//!
//! A [`Link`] is one direction of one uplink. What is sent into it comes out later, or never, as its
//! [`Conditions`] say: a rate (fixed, or replayed from a recorded or made-up [`Trace`]), a queue (drop-tail
//! or [`CoDel`]), a delay that may swing, jitter, loss, and blackouts that nobody is told about. It reads no
//! clock and the same seed gives the same fate to the same packets, so a bad day can be replayed.
//!
//! Around it: a [`Network`] of links some of which share a bottleneck, a [`Cubic`] flow that competes for one,
//! a [`ClockPair`] for ends whose clocks differ and drift, and an [`Oracle`] that says what a scheduler that
//! knows the future could deliver.
//!
//! ```
//! use std::time::Duration;
//! use media::Time;
//! use roadie_sim::{Conditions, Link, Rate};
//!
//! let conditions = Conditions { rate: Rate::Fixed(1_000_000), delay: Duration::from_millis(20), ..Default::default() };
//! let mut link = Link::new(conditions, 1);
//! let start = Time::from_millis(5_000);
//! link.send("hello", 1250, start); // 10 ms at 1 Mb/s
//! assert_eq!(link.poll_timeout(), Some(start + Duration::from_millis(30)));
//! assert_eq!(link.poll(start + Duration::from_millis(29)), None);
//! assert_eq!(link.poll(start + Duration::from_millis(30)), Some("hello"));
//! ```

mod clock;
mod codel;
mod conditions;
mod cubic;
mod link;
mod mobile;
mod network;
mod oracle;
mod rng;
mod trace;

pub use clock::ClockPair;
pub use codel::CoDel;
pub use conditions::{Conditions, ConditionsError, Loss, Outage, Rate, Swing};
pub use cubic::{ACK_BYTES, Cubic, PACKET_BYTES};
pub use link::{Link, LinkStats};
pub use network::{Arrival, Network};
pub use oracle::{Demand, Oracle, Share, Way};
pub use rng::Rng;
pub use trace::{Trace, TraceError};
