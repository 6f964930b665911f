//! What the recorder promises, tried with real processes and real disks.

pub mod copies;
pub mod disk;
pub mod kill;
pub mod long;
pub mod mounts;
pub mod power;
pub mod rig;
