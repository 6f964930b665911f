//! A screen of X11.

use std::path::{Path, PathBuf};
use std::sync::Arc;

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
        None => std::env::var("DISPLAY").ok().filter(|name| !name.is_empty()).ok_or_else(no_session)?,
    };
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

fn no_session() -> EncoderError {
    let message = match std::env::var_os("WAYLAND_DISPLAY") {
        Some(_) => "this is a Wayland session without X11, whose screens cannot be captured yet",
        None => "this program runs in no graphical session (DISPLAY is not set)",
    };
    EncoderError::ScreenFailed { display: "of this session".into(), message: message.into() }
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
    fn displays_are_listed_by_number() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["X10", "X0", "Xorg", "other"] {
            std::fs::write(dir.path().join(name), b"").expect("a file");
        }
        assert_eq!(displays_in(dir.path()), [":0", ":10"]);
    }
}
