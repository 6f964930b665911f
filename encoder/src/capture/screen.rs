//! A screen of X11.

use std::ffi::{c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::Capture;
use super::chain::{between, fit_pictures};
use crate::elements::{add, caps_filter, make};
use crate::program::place::Stamps;
use crate::{EncoderError, VideoSettings};

/// Where X servers of this machine have their sockets.
const SOCKETS: &str = "/tmp/.X11-unix";

pub(super) fn open(
    pipeline: &gst::Pipeline,
    display: Option<&str>,
    settings: &VideoSettings,
) -> Result<Capture, EncoderError> {
    let display = match display {
        Some(display) => display.to_owned(),
        None => of_session(&set("DISPLAY"), &set("WAYLAND_DISPLAY"))?,
    };
    outlive_the_server();
    let source = make("ximagesrc", &[("use-damage", "false"), ("show-pointer", "true")])?;
    source.set_property("display-name", &display);
    add(pipeline, &[&source])?;
    let (head, last) = fit_pictures(pipeline, settings)?;
    let rate =
        gst::Caps::builder("video/x-raw").field("framerate", gst::Fraction::new(settings.fps as i32, 1));
    between(pipeline, &source, &[&caps_filter(&rate.build())?], &head)?;
    let name = source.name().to_string();
    let explain = Arc::new(move |element: &str, message: String| match element == name {
        true => EncoderError::ScreenFailed { display: display.clone(), message },
        false => EncoderError::Pipeline { element: element.to_owned(), message },
    });
    Ok(Capture { pictures: Some(last), sound: None, stamps: Stamps::Ours, explain, feed: None })
}

/// Xlib ends the whole process when its server dies: the show and its recordings with it. From now on it holds
/// the thread that captures instead, for good, which is what a driver that hangs does. The show goes on with the slate;
/// that screen does not come back before this program is started again.
fn outlive_the_server() {
    type Handler = extern "C" fn(*mut c_void) -> c_int;
    extern "C" fn hold(_display: *mut c_void) -> c_int {
        tracing::error!("the X server is gone: its screen cannot be captured any more");
        loop {
            std::thread::park();
        }
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: both names are C strings; the library is never closed; and the function has had this type
        // since X11R4 (XSetIOErrorHandler(3)). The handler never returns, as Xlib asks of it.
        unsafe {
            let library = libc::dlopen(c"libX11.so.6".as_ptr(), libc::RTLD_NOW);
            if library.is_null() {
                // Without it there is no ximagesrc either, which says so.
                return;
            }
            let set = libc::dlsym(library, c"XSetIOErrorHandler".as_ptr());
            if !set.is_null() {
                let set = std::mem::transmute::<*mut c_void, extern "C" fn(Handler) -> *mut c_void>(set);
                set(hold);
            }
        }
    });
}

fn set(variable: &str) -> String {
    std::env::var(variable).unwrap_or_default()
}

/// The display of a session with these variables. In one of Wayland the X server is there for old programs' windows
/// only, and its screen is black.
fn of_session(display: &str, wayland: &str) -> Result<String, EncoderError> {
    match (display, wayland) {
        ("", "") => Err(EncoderError::ScreenFailed {
            display: "of this session".into(),
            message: "this program runs in no graphical session (DISPLAY is not set)".into(),
        }),
        (display, "") => Ok(display.to_owned()),
        _ => Err(EncoderError::WaylandScreen),
    }
}

/// The displays of this machine, by name.
pub(crate) fn displays() -> Vec<String> {
    displays_in(Path::new(SOCKETS))
}

fn displays_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let number = |path: PathBuf| path.file_name()?.to_str()?.strip_prefix('X')?.parse::<u32>().ok();
    let mut numbers: Vec<_> = entries.filter_map(|entry| number(entry.path())).collect();
    numbers.sort_unstable();
    numbers.into_iter().map(|number| format!(":{number}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_black_screen_of_a_wayland_session_is_refused() {
        assert_eq!(of_session(":0", ""), Ok(":0".into()));
        assert_eq!(of_session("", "wayland-0"), Err(EncoderError::WaylandScreen));
        assert_eq!(of_session(":0", "wayland-0"), Err(EncoderError::WaylandScreen));
        assert!(matches!(of_session("", ""), Err(EncoderError::ScreenFailed { .. })));
    }

    #[test]
    fn displays_are_listed_by_number() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["X10", "X0", "Xorg", "other"] {
            std::fs::write(dir.path().join(name), b"").expect("a file");
        }
        assert_eq!(displays_in(dir.path()), [":0", ":10"]);
    }
}
