//! Bad links in a box: a link emulator on a virtual clock.
//!
//! A [`Link`] is one direction of one uplink. What is sent into it comes out later, or never, as its
//! [`Conditions`] say: a rate (fixed, or replayed from a recorded trace), a drop-tail queue, delay,
//! jitter, loss, and blackouts that nobody is told about. It reads no clock and the same seed gives the
//! same fate to the same packets, so a bad day can be replayed.
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

mod conditions;
mod link;
mod mobile;
mod oracle;
mod rng;
mod trace;

pub use conditions::{Conditions, ConditionsError, Loss, Outage, Rate, Swing};
pub use link::{Link, LinkStats};
pub use oracle::{Demand, Oracle, Way};
pub use rng::Rng;
pub use trace::{Trace, TraceError};
