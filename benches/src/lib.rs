//! Benchmarks: what `roadie-bench` measures, and the simulated world in which the bond is tried.

pub mod backfill;
pub mod bond;
pub mod cpu;
pub mod fanout;
pub mod latency;
pub mod live_cpu;
mod median;
mod process;
pub mod record;
