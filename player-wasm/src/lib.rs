//! The player: a subscriber in Rust, compiled to WASM, that runs in a dedicated worker.
//!
//! ```text
//! WebTransport or WebSocket -> moq (one stream per group) -> reorder -> playout (when is it due?)
//!              -> VideoDecoder -> OffscreenCanvas
//!              -> AudioDecoder -> AudioWorklet (by MessagePort)
//! ```
//!
//! Everything but [`web`](https://docs.rs/web-sys) glue is pure and is tested natively: [`moq`] reads
//! and writes the wire, [`reorder`] brings frames of several streams into order, [`playout`] decides
//! when a frame is shown, [`clock`] estimates the broadcast clock, [`state`] decides when to connect
//! again, [`way`] names the transports, [`stats`] and [`trace`] count. Time is always an argument.
//!
//! What the page needs beside this crate is in `www/`; `www/README.md` tells the layout that serves
//! it and the test hooks (`window.roadie`).

pub mod clock;
pub mod moq;
pub mod playout;
pub mod reorder;
pub mod state;
pub mod stats;
pub mod trace;
pub mod way;

#[cfg(target_arch = "wasm32")]
mod web;
