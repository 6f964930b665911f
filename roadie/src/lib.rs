//! The command that a creator types. `live` puts a show on the air; `demo` shows the whole product on
//! one machine, and measures it.

/// As `println!`, but a reader that has gone (`roadie recordings list | head`) is no panic.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => { $crate::terminal::say(&format_args!($($words)*)) };
}

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
pub mod room;
pub mod show;
pub mod terminal;
pub mod token;
pub mod video_flags;
pub mod viewer;
