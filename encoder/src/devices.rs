//! What this machine can capture from and encode with.

use std::path::Path;

use gstreamer as gst;
use gstreamer::prelude::*;
use serde::Serialize;

use crate::capture;
use crate::elements::{make, opens};
use crate::{EncoderError, VideoCodec};

/// Where the kernel lists the sound cards' streams.
const ALSA_STREAMS: &str = "/proc/asound/pcm";

/// Inputs by their address, and the elements that each needs.
const NETWORK: &[(&str, &str, &[&str])] = &[
    ("SRT, we call the sender", "srt://HOST:PORT", &["srtsrc", "tsdemux"]),
    ("SRT, the sender calls us", "srt://:PORT", &["srtsrc", "tsdemux"]),
    ("RTSP, such as IP cameras", "rtsp://HOST/PATH", &["rtspsrc"]),
    ("RTMP, pulled from a server", "rtmp://HOST/APP/NAME", &["rtmp2src", "flvdemux"]),
    ("MPEG-TS over UDP", "udp://:PORT", &["udpsrc", "tsdemux"]),
];

/// Everything found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Devices {
    /// Those of V4L2, lowest number first, and those that only PipeWire has.
    pub cameras: Vec<Camera>,
    /// What to install for those that only PipeWire has, where it is missing.
    pub pipewire_missing: Option<String>,
    /// Screens of X11.
    pub screens: Vec<Device>,
    /// Microphones and line-ins.
    pub microphones: Vec<Device>,
    /// Which streams can be taken.
    pub network: Vec<Ability>,
    /// Which video encoders work: each was tried on a few pictures.
    pub encoders: Vec<Ability>,
}

/// A camera.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Camera {
    /// What to write after `--input`.
    pub input: String,
    /// Its name.
    pub name: String,
    /// What it can do, largest first; nothing where it cannot be opened.
    pub modes: Vec<Mode>,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

/// What a camera can do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mode {
    /// How it packs its pictures, such as `YUY2` or `JPEG`.
    pub format: String,
    /// Pixels; where the camera takes any size, the largest.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// The most frames per second.
    pub fps: f64,
}

/// A screen or a microphone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Device {
    /// What to write after `--input` or `--audio-input`.
    pub input: String,
    /// Its name.
    pub name: String,
}

/// Something that this machine can do, or could.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ability {
    /// What it is.
    pub name: String,
    /// How it is written after `--input` or `--encoder`.
    pub input: String,
    /// What to install or to plug in, where it does not work.
    pub missing: Option<String>,
}

/// Looks for everything. Takes a second or so, as cameras are opened.
///
/// # Errors
/// [`EncoderError::NoGStreamer`].
pub fn find() -> Result<Devices, EncoderError> {
    gst::init().map_err(|error| EncoderError::NoGStreamer { message: error.to_string() })?;
    let network = NETWORK.iter().map(|(name, input, elements)| {
        let missing = elements.iter().find_map(|element| make(element, &[]).err());
        ability(name, input, missing.map(|error| error.to_string()))
    });
    let encoders = crate::video_encoders()?.into_iter().map(|encoder| {
        let place = match encoder.makes {
            VideoCodec::H264 => encoder.place.to_owned(),
            other => format!("{}, with --codec {other}", encoder.place),
        };
        ability(&place, encoder.name, encoder.works.err())
    });
    Ok(Devices {
        cameras: cameras(),
        pipewire_missing: make("pipewiresrc", &[]).err().map(|error| error.to_string()),
        screens: screens(),
        microphones: microphones(),
        network: network.collect(),
        encoders: encoders.collect(),
    })
}

fn ability(name: &str, input: &str, missing: Option<String>) -> Ability {
    Ability { name: name.to_owned(), input: input.to_owned(), missing }
}

fn cameras() -> Vec<Camera> {
    let present = capture::cameras();
    let mut nodes = capture::nodes();
    nodes.retain(|node| !node.is_among(&present));
    present.iter().map(|path| device(path)).chain(nodes.iter().map(node)).collect()
}

fn node(node: &capture::Node) -> Camera {
    camera(&node.name, node.description.clone(), Ok(modes(&node.caps)))
}

fn device(path: &Path) -> Camera {
    let device = path.display().to_string();
    let node = path.file_name().unwrap_or_default();
    let name = Path::new("/sys/class/video4linux").join(node).join("name");
    let name = std::fs::read_to_string(name).map_or_else(|_| device.clone(), |name| name.trim().to_owned());
    camera(&device, name, open_modes(&device))
}

fn camera(device: &str, name: String, modes: Result<Vec<Mode>, String>) -> Camera {
    let (modes, problem) = match modes {
        Ok(modes) if modes.is_empty() => (modes, Some("it gives no pictures that can be used".to_owned())),
        Ok(modes) => (modes, None),
        Err(problem) => (Vec::new(), Some(problem)),
    };
    Camera { input: format!("camera:{device}"), name, modes, problem }
}

fn open_modes(device: &str) -> Result<Vec<Mode>, String> {
    let source = make("v4l2src", &[]).map_err(|error| error.to_string())?;
    source.set_property("device", device);
    opens(&source)?;
    let caps = source.static_pad("src").map(|pad| pad.query_caps(None));
    let _ = source.set_state(gst::State::Null);
    Ok(caps.map(|caps| modes(&caps)).unwrap_or_default())
}

/// The modes in a camera's caps, one for each format and size, largest first.
fn modes(caps: &gst::CapsRef) -> Vec<Mode> {
    let mut modes: Vec<Mode> = Vec::new();
    for mode in caps.iter() {
        let format = match mode.name().as_str() {
            "video/x-raw" => formats(mode),
            "image/jpeg" => "JPEG".to_owned(),
            "video/x-h264" => "H.264".to_owned(),
            _ => continue,
        };
        let mut mode = mode.to_owned();
        for size in ["width", "height"] {
            mode.fixate_field_nearest_int(size, i32::MAX);
        }
        mode.fixate_field_nearest_fraction("framerate", gst::Fraction::new(i32::MAX, 1));
        let size = |field: &str| mode.get::<i32>(field).ok().and_then(|value| u32::try_from(value).ok());
        let (Some(width), Some(height)) = (size("width"), size("height")) else { continue };
        let fps = mode
            .get::<gst::Fraction>("framerate")
            .map_or(0.0, |rate| f64::from(rate.numer()) / f64::from(rate.denom().max(1)));
        let same = |known: &&mut Mode| (&known.format, known.width, known.height) == (&format, width, height);
        match modes.iter_mut().find(same) {
            Some(known) => known.fps = known.fps.max(fps),
            None => modes.push(Mode { format, width, height, fps }),
        }
    }
    modes.sort_by_key(|mode| std::cmp::Reverse(u64::from(mode.width) * u64::from(mode.height)));
    modes
}

/// The pixel formats of a raw mode, in words.
fn formats(mode: &gst::StructureRef) -> String {
    if let Ok(format) = mode.get::<&str>("format") {
        return format.to_owned();
    }
    let list = mode.get::<gst::List>("format").ok();
    let names = list.iter().flat_map(|list| list.iter()).filter_map(|name| name.get::<String>().ok());
    let names: Vec<_> = names.collect();
    if names.is_empty() { "raw".to_owned() } else { names.join("/") }
}

fn screens() -> Vec<Device> {
    let works = |display: &String| {
        make("ximagesrc", &[]).is_ok_and(|source| {
            source.set_property("display-name", display);
            // It looks for the display when it starts.
            let works = source.set_state(gst::State::Paused).is_ok();
            let _ = source.set_state(gst::State::Null);
            works
        })
    };
    let found = capture::displays().into_iter().filter(works);
    found
        .map(|display| Device { input: format!("screen{display}"), name: format!("X11 display {display}") })
        .collect()
}

/// What PulseAudio or PipeWire offers, and the sound cards themselves.
fn microphones() -> Vec<Device> {
    // Not by a monitor: in one, other plug-ins may hide what this one finds, as PipeWire's does.
    let pulse = gst::DeviceProviderFactory::by_name("pulsedeviceprovider");
    let sources = pulse.map(|provider| provider.devices()).unwrap_or_default();
    let mut found: Vec<_> = sources.iter().filter_map(pulse_source).collect();
    let cards = std::fs::read_to_string(ALSA_STREAMS).unwrap_or_default();
    found.extend(cards.lines().filter_map(alsa));
    found
}

/// A source of PulseAudio.
fn pulse_source(device: &gst::Device) -> Option<Device> {
    let properties = device.properties();
    let class = properties.and_then(|all| all.get::<String>("device.class").ok());
    // What is played here is no microphone.
    if !device.has_classes("Audio/Source") || class.as_deref() == Some("monitor") {
        return None;
    }
    let id = device.create_element(None).ok()?.property::<Option<String>>("device")?;
    Some(Device { input: format!("pulse:{id}"), name: device.display_name().to_string() })
}

/// A line of the kernel's list, such as `01-00: USB Audio : USB Audio : capture 1`.
fn alsa(line: &str) -> Option<Device> {
    let mut parts = line.split(':').map(str::trim);
    let (card, device) = parts.next()?.split_once('-')?;
    let (card, device) = (card.parse::<u32>().ok()?, device.parse::<u32>().ok()?);
    let name = parts.next()?.to_owned();
    parts
        .any(|part| part.starts_with("capture"))
        .then(|| Device { input: format!("alsa:hw:{card},{device}"), name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_of_sound_cards_is_read() {
        let device = |line: &str| alsa(line).map(|device| (device.input, device.name));
        let card = Some(("alsa:hw:1,0".into(), "USB Audio".into()));
        assert_eq!(device("01-00: USB Audio : USB Audio : playback 1 : capture 1"), card);
        assert_eq!(device("00-03: HDMI 0 : HDMI 0 : playback 1"), None);
        assert_eq!(device(""), None);
        assert_eq!(device("x-y: : capture"), None);
    }

    #[test]
    fn modes_are_told_by_size_with_their_best_rate() {
        gst::init().expect("GStreamer");
        let caps: gst::Caps = "video/x-raw, format=YUY2, width=640, height=480, framerate={15/1,30/1}; \
            video/x-raw, format={NV12,I420}, width=[64,1920], height=[64,1080], framerate=[1/1,60/1]; \
            image/jpeg, width=640, height=480, framerate=5/1; image/jpeg, width=640, height=480, framerate=25/1; \
            video/x-bayer, width=9999, height=9999, framerate=1/1"
            .parse()
            .expect("caps");
        let told: Vec<_> =
            modes(&caps).iter().map(|m| format!("{} {}x{} {}", m.format, m.width, m.height, m.fps)).collect();
        assert_eq!(told, ["NV12/I420 1920x1080 60", "YUY2 640x480 30", "JPEG 640x480 25"]);
    }

    #[test]
    fn what_is_not_there_says_what_to_do() {
        let found = find().expect("GStreamer");
        assert_eq!(found.network.len(), NETWORK.len());
        for ability in &found.network {
            assert!(
                ability.missing.as_ref().is_none_or(|missing| missing.contains("apt install")),
                "{ability:?}"
            );
        }
        assert!(found.encoders.iter().any(|encoder| encoder.input == "x264" && encoder.missing.is_none()));
    }
}
