//! What flows through Roadie, named the same way everywhere: a **broadcast** has **tracks**, a
//! track has **groups** that decode on their own, a group has **frames**, and every frame knows its
//! capture time. The recorder, the bond, the relay and the player all use these names.
//!
//! This crate is pure: no IO, no clock, no async. It also compiles for wasm32.

pub mod av1;
pub mod catalog;
pub mod cmaf;
pub mod container;
pub mod frame;
pub mod h264;
pub mod hls;
pub mod mark;
pub mod opus;
pub mod time;
pub mod track;
pub mod varint;
pub mod vp8;

pub use frame::{Frame, FrameId};
pub use time::Time;
pub use track::{AudioConfig, Track, TrackConfig, TrackId, VideoConfig};
