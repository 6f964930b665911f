//! The browser's side: the only place that knows web-sys.

mod audio;
mod js;
mod player;
mod report;
mod session;
mod transport;
mod video;
