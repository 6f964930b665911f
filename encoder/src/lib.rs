//! Capture, encode, tap, record: from a camera, a file or a test picture to [`media::Frame`]s.
//!
//! The encoder knows no network. It hands every encoded frame to a [`FrameSink`]; the usual sink is
//! a [`tap::Tap`], which feeds the recorders and a ring that the network task drains.
//! GStreamer stays inside this crate: no type of it is in the public interface.
//!
//! ```no_run
//! # use roadie_encoder as encoder;
//! use std::path::PathBuf;
//! use std::sync::Arc;
//! use encoder::{Encoder, Settings, tap::Tap};
//!
//! # fn broadcast_clock() -> media::Time { media::Time::ZERO }
//! let disks = vec![PathBuf::from("/mnt/a"), PathBuf::from("/mnt/b")];
//! let (tap, mut frames) = Tap::new(disks, "tour/london".into(), Arc::new(|| { /* wake the sender */ }));
//! let encoder = Encoder::start(Settings::default(), Arc::new(broadcast_clock), Box::new(tap))?;
//! while let Some((frame, encoded_at)) = frames.pop() {
//!     println!("{:?} captured {} encoded {encoded_at}", frame.id, frame.capture_time);
//! }
//! encoder.stop();
//! # Ok::<(), encoder::EncoderError>(())
//! ```

pub mod devices;
pub mod record;
pub mod tap;

mod capture;
mod clock;
mod elements;
mod encode;
mod encoder;
mod error;
mod events;
mod input;
mod levels;
mod output;
mod pass;
mod program;
mod settings;
mod shared;
mod sink;
mod stream;
mod supervise;

pub use crate::encode::{VideoCodec, VideoEncoder, launch_words, video_encoders};
pub use crate::encoder::{Counters, Encoder, EncoderEvent};
pub use error::EncoderError;
pub use input::{Input, InputError, Microphone};
pub use levels::Levels;
pub use program::{InputStatus, SourceState};
pub use settings::{AudioSettings, Settings, VideoSettings};
pub(crate) use sink::rendition_track;
pub use sink::{AUDIO_TRACK, FrameSink, MASTER_TRACK, Now, VIDEO_TRACK};
pub use stream::{Stream, Transport};
