//! The command that a creator types. `live` puts a show on the air; `demo` shows the whole product on
//! one machine, and measures it.

pub mod cut;
pub mod demo;
pub mod devices;
pub mod edge_api;
pub mod edge_process;
pub mod emulator;
pub mod heal;
pub mod live;
pub mod on_air;
pub mod recorded;
pub mod recordings;
pub mod report;
pub mod show;
pub mod terminal;
pub mod video_flags;
pub mod viewer;
