//! What the recorder promises, tried with real processes and real disks.

pub mod copies;
pub mod kill;
pub mod long;
