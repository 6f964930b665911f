//! Where pictures and sound come from, and how a person writes that down.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where pictures and sound come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Input {
    /// A moving test picture with a [`media::mark`] on every frame, and a tick every second.
    #[default]
    Test,
    /// A media file, played in a loop in real time.
    File(PathBuf),
    /// A camera (`/dev/video0`), or the first one found, with the default microphone.
    Camera(Option<String>),
}

/// The text names no input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// A prefix without what has to follow.
    #[error("`{0}` needs a path after the colon, such as `file:show.mp4`")]
    MissingPath(String),
    /// Neither a known word nor an existing file.
    #[error(
        "unknown input `{0}`: write `test`, `camera`, `camera:/dev/video0`, `file:PATH`, or the path of an existing file"
    )]
    Unknown(String),
}

impl FromStr for Input {
    type Err = InputError;

    /// `test`, `file:PATH`, `camera`, `camera:/dev/video0`; the path of an existing file needs no
    /// prefix.
    fn from_str(text: &str) -> Result<Self, InputError> {
        match text.split_once(':') {
            Some(("file" | "camera", "")) => Err(InputError::MissingPath(text.to_owned())),
            Some(("file", path)) => Ok(Input::File(path.into())),
            Some(("camera", device)) => Ok(Input::Camera(Some(device.to_owned()))),
            _ if text == "test" => Ok(Input::Test),
            _ if text == "camera" => Ok(Input::Camera(None)),
            _ if Path::new(text).is_file() => Ok(Input::File(text.into())),
            _ => Err(InputError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Input::Test => f.write_str("test"),
            Input::File(path) => write!(f, "file:{}", path.display()),
            Input::Camera(None) => f.write_str("camera"),
            Input::Camera(Some(device)) => write!(f, "camera:{device}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_it() {
        let device = Some("/dev/video2".to_owned());
        assert_eq!("test".parse(), Ok(Input::Test));
        assert_eq!("camera".parse(), Ok(Input::Camera(None)));
        assert_eq!("camera:/dev/video2".parse(), Ok(Input::Camera(device)));
        assert_eq!("file:a:b.mp4".parse(), Ok(Input::File("a:b.mp4".into())));
        let this = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert_eq!(this.parse(), Ok(Input::File(this.into())));
    }

    #[test]
    fn what_it_prints_parses() {
        for text in ["test", "camera", "camera:/dev/video2", "file:show.mp4"] {
            assert_eq!(text.parse::<Input>().map(|input| input.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn nonsense_is_told() {
        assert_eq!("".parse::<Input>(), Err(InputError::Unknown(String::new())));
        assert_eq!("no-such.mp4".parse::<Input>(), Err(InputError::Unknown("no-such.mp4".into())));
        assert_eq!("file:".parse::<Input>(), Err(InputError::MissingPath("file:".into())));
        assert_eq!("camera:".parse::<Input>(), Err(InputError::MissingPath("camera:".into())));
    }
}
