//! Recordings played by the programs of others: ffprobe, ffmpeg and GStreamer. These have to be
//! installed (`cargo xtask setup`); a test fails where they are missing.

mod archive;
mod disk_full;
mod fixture;
mod kill;
mod play;
mod players;
