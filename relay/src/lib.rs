//! One program with two places to stand. At the edge it receives bonds ([`ingest`]), keeps the
//! broadcasts ([`origin`], and on disk [`keep`]) and serves viewers ([`fanout`], [`hls`], [`webrtc`], [`http`]); at the venue it sends
//! over a bond ([`venue`], [`uplink`]), and serves the room itself ([`stage`]). Who may come in is decided in [`admission`]. What the bond lost on the way is
//! healed afterwards ([`backfill`]). Links no
//! GStreamer.

pub mod admission;
pub mod backfill;
pub mod broadcasts;
pub mod clock;
pub mod control;
pub mod counters;
pub mod dial;
pub mod drain;
pub mod edge;
mod endpoint;
pub mod fanout;
pub mod hls;
pub mod http;
mod https;
pub mod ingest;
pub mod intake;
pub mod keep;
mod metrics;
pub mod origin;
pub mod proof;
pub mod random;
pub mod rate;
pub mod reload;
mod serve;
pub mod settings;
pub mod stage;
pub mod tls;
mod trust;
mod udp;
pub mod uplink;
pub mod upstream;
pub mod venue;
pub mod webrtc;
mod window;
