//! Where pictures and sound come from, and how a person writes that down.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::Stream;

/// Where pictures and sound come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Input {
    /// A moving test picture with a [`media::mark`] on every frame, and a tick every second.
    #[default]
    Test,
    /// A media file, played in a loop in real time.
    File(PathBuf),
    /// A media file, played once in real time; its end is the end of the show.
    FileOnce(PathBuf),
    /// A camera (`/dev/video0`, or the name, the description or the serial number of a node of PipeWire), or the first
    /// one that works, with the show's microphone.
    Camera(Option<String>),
    /// A screen of X11 (`:0`), or the one that the session is on, with the show's microphone.
    Screen(Option<String>),
    /// A stream from the network.
    Network(Stream),
}

/// The microphone or line-in of the show: the sound of its cameras and screens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Microphone {
    /// The system's default; silence where there is none.
    #[default]
    Default,
    /// Silence.
    None,
    /// A device of ALSA, such as `hw:1,0`.
    Alsa(String),
    /// A source of PulseAudio or PipeWire, by the name that `pactl list sources short` prints.
    Pulse(String),
}

/// The text names no input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// A prefix without what has to follow.
    #[error("`{0}` needs a name after the colon, such as `{0}{1}`")]
    MissingName(String, &'static str),
    /// Neither a known word nor an existing file.
    #[error(
        "unknown input `{0}`: write `test`, `camera`, `camera:/dev/video0`, `camera:NAME`, `screen`, `file:PATH`, \
         `file-once:PATH`, the path of an existing file, or a stream (srt://, rtsp://, rtmp://, udp://)"
    )]
    Unknown(String),
    /// A stream whose address does not work.
    #[error("`{text}` is no stream that can be opened: {reason}; write it as {example}")]
    Stream {
        /// As given, without its secrets.
        text: String,
        /// What is wrong with it.
        reason: String,
        /// How it should look.
        example: &'static str,
    },
    /// No microphone is written like that.
    #[error("unknown audio input `{0}`: write `default`, `none`, `alsa:hw:1,0` or `pulse:NAME`")]
    Microphone(String),
}

impl Input {
    /// Whether it is a stream from the network, which may come and go.
    pub(crate) fn is_network(&self) -> bool {
        matches!(self, Input::Network(_))
    }

    /// Whether its sound is the show's microphone.
    pub(crate) fn uses_microphone(&self) -> bool {
        matches!(self, Input::Camera(_) | Input::Screen(_))
    }

    /// What viewers are told while it is away. It names no address: it is for everybody.
    pub(crate) fn away_message(&self) -> &'static str {
        match self {
            Input::Camera(_) => "The camera is away, back soon",
            Input::Screen(_) => "The screen is away, back soon",
            Input::File(_) | Input::FileOnce(_) => "The film is away, back soon",
            Input::Test | Input::Network(_) => "The picture is away, back soon",
        }
    }
}

impl FromStr for Input {
    type Err = InputError;

    /// See [`InputError::Unknown`]; the path of an existing file needs no prefix.
    fn from_str(text: &str) -> Result<Self, InputError> {
        let missing = |example| Err(InputError::MissingName(text.to_owned(), example));
        if text.contains("://") {
            return text.parse().map(Input::Network);
        }
        match text.split_once(':') {
            Some(("file" | "file-once", "")) => missing("show.mp4"),
            Some(("camera", "")) => missing("/dev/video0"),
            Some(("file", path)) => Ok(Input::File(path.into())),
            Some(("file-once", path)) => Ok(Input::FileOnce(path.into())),
            Some(("camera", device)) => Ok(Input::Camera(Some(device.to_owned()))),
            // The names of displays begin with a colon: `screen::1` and `screen:1` are the same.
            Some(("screen", display)) => match display.trim_start_matches(':') {
                "" => missing("0"),
                number if number.starts_with(|first: char| first.is_ascii_digit()) => {
                    Ok(Input::Screen(Some(format!(":{number}"))))
                }
                host => Ok(Input::Screen(Some(host.to_owned()))),
            },
            _ if text == "test" => Ok(Input::Test),
            _ if text == "camera" => Ok(Input::Camera(None)),
            _ if text == "screen" => Ok(Input::Screen(None)),
            _ if Path::new(text).is_file() => Ok(Input::File(text.into())),
            _ => Err(InputError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Input {
    /// As it is written, without the secrets of a stream.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Input::Test => f.write_str("test"),
            Input::File(path) => write!(f, "file:{}", path.display()),
            Input::FileOnce(path) => write!(f, "file-once:{}", path.display()),
            Input::Camera(None) => f.write_str("camera"),
            Input::Camera(Some(device)) => write!(f, "camera:{device}"),
            Input::Screen(None) => f.write_str("screen"),
            Input::Screen(Some(display)) => write!(f, "screen:{}", display.trim_start_matches(':')),
            Input::Network(stream) => stream.fmt(f),
        }
    }
}

impl FromStr for Microphone {
    type Err = InputError;

    /// `default`, `none`, `alsa:DEVICE` or `pulse:NAME`.
    fn from_str(text: &str) -> Result<Self, InputError> {
        match text.split_once(':') {
            _ if text == "default" => Ok(Microphone::Default),
            _ if text == "none" => Ok(Microphone::None),
            Some(("alsa", device)) if !device.is_empty() => Ok(Microphone::Alsa(device.to_owned())),
            Some(("pulse", name)) if !name.is_empty() => Ok(Microphone::Pulse(name.to_owned())),
            _ => Err(InputError::Microphone(text.to_owned())),
        }
    }
}

impl fmt::Display for Microphone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Microphone::Default => f.write_str("default"),
            Microphone::None => f.write_str("none"),
            Microphone::Alsa(device) => write!(f, "alsa:{device}"),
            Microphone::Pulse(name) => write!(f, "pulse:{name}"),
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
        assert_eq!("screen".parse(), Ok(Input::Screen(None)));
        assert_eq!("screen:1".parse(), Ok(Input::Screen(Some(":1".into()))));
        assert_eq!("screen::1.0".parse(), Ok(Input::Screen(Some(":1.0".into()))));
        assert_eq!("file:a:b.mp4".parse(), Ok(Input::File("a:b.mp4".into())));
        assert_eq!("file-once:b.mp4".parse(), Ok(Input::FileOnce("b.mp4".into())));
        let this = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert_eq!(this.parse(), Ok(Input::File(this.into())));
        assert!(matches!("udp://:5000".parse(), Ok(Input::Network(_))));
    }

    #[test]
    fn what_it_prints_parses() {
        let texts = ["test", "camera", "camera:/dev/video2", "screen", "screen:1", "file:show.mp4"];
        for text in texts.into_iter().chain(["file-once:show.mp4", "srt://:9000", "rtsp://camera.local/live"])
        {
            assert_eq!(text.parse::<Input>().map(|input| input.to_string()), Ok(text.to_owned()));
        }
        for text in ["default", "none", "alsa:hw:1,0", "pulse:alsa_input.usb"] {
            assert_eq!(text.parse::<Microphone>().map(|input| input.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn nonsense_is_told() {
        assert_eq!("".parse::<Input>(), Err(InputError::Unknown(String::new())));
        assert_eq!("no-such.mp4".parse::<Input>(), Err(InputError::Unknown("no-such.mp4".into())));
        for text in ["file:", "file-once:", "camera:", "screen:", "screen::"] {
            let error = text.parse::<Input>().expect_err("nothing follows").to_string();
            assert!(error.starts_with(&format!("`{text}` needs a name")), "{error}");
        }
        for text in ["", "alsa", "alsa:", "pulse:", "jack:x"] {
            assert_eq!(text.parse::<Microphone>(), Err(InputError::Microphone(text.into())));
        }
    }
}
