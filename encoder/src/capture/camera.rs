//! A camera, of V4L2 or of PipeWire.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::Capture;
use super::chain::{between, fit_pictures};
use super::pipewire::{self, Node};
use crate::elements::{add, caps_filter, make, opens};
use crate::program::place::Stamps;
use crate::{EncoderError, VideoSettings};

/// Where the kernel lists cameras.
const DEVICES: &str = "/dev";

pub(super) fn open(
    pipeline: &gst::Pipeline,
    device: Option<&str>,
    settings: &VideoSettings,
    exact: bool,
) -> Result<Capture, EncoderError> {
    let (device, source, caps) = find(device, settings)?;
    if exact && let Some((width, height)) = too_small(&caps, settings) {
        let _ = source.set_state(gst::State::Null);
        let wanted = format!("{}x{}", settings.width, settings.height);
        return Err(EncoderError::CameraTooSmall { device, wanted, nearest: format!("{width}x{height}") });
    }
    // At once, so that an error below closes the device with the pipeline.
    add(pipeline, &[&source])?;
    tracing::info!(device, %caps, "camera");
    let pictures = pictures(pipeline, &source, caps, settings)?;

    let name = source.name().to_string();
    let explain = Arc::new(move |element: &str, message: String| match element == name {
        true => EncoderError::CameraFailed { device: device.clone(), message },
        false => EncoderError::Pipeline { element: element.to_owned(), message },
    });
    Ok(Capture { pictures: Some(pictures), sound: None, stamps: Stamps::Ours, explain, feed: None })
}

/// Makes the encoder's raw pictures of what a camera gives in the mode `caps`. Gives back the last
/// element.
fn pictures(
    pipeline: &gst::Pipeline,
    source: &gst::Element,
    caps: gst::Caps,
    settings: &VideoSettings,
) -> Result<gst::Element, EncoderError> {
    let compressed = caps.structure(0).is_some_and(|structure| structure.name() == "image/jpeg");
    let (head, last) = fit_pictures(pipeline, settings)?;
    let mode = caps_filter(&caps)?;
    match compressed {
        true => between(pipeline, source, &[&mode, &make("jpegdec", &[])?], &head)?,
        false => between(pipeline, source, &[&mode], &head)?,
    }
    Ok(last)
}

/// The wanted camera, or the first that works, opened, with the mode to use.
fn find(
    wanted: Option<&str>,
    settings: &VideoSettings,
) -> Result<(String, gst::Element, gst::Caps), EncoderError> {
    match wanted {
        Some(device) if device.starts_with('/') => {
            if !Path::new(device).exists() {
                return Err(not_found(device, &pipewire::nodes()));
            }
            device_works(device, settings)
        }
        Some(name) => {
            // What is not installed is told as that.
            make("pipewiresrc", &[])?;
            let nodes = pipewire::nodes();
            let node = nodes.iter().find(|node| node.is(name)).ok_or_else(|| not_found(name, &nodes))?;
            node_works(node, settings)
        }
        None => {
            let present = devices();
            let of_kernel =
                present.iter().map(|device| device_works(&device.display().to_string(), settings));
            // Those of PipeWire are looked for where no other works: on new laptops they are the ones that do.
            let nodes =
                std::iter::once_with(pipewire::nodes).flatten().filter(|node| !node.is_among(&present));
            let of_pipewire = nodes.map(|node| node_works(&node, settings));
            let mut first_error = None;
            for camera in of_kernel.chain(of_pipewire) {
                match camera {
                    Ok(works) => return Ok(works),
                    Err(error) => drop(first_error.get_or_insert(error)),
                }
            }
            Err(first_error.unwrap_or_else(|| not_found("at all", &[])))
        }
    }
}

/// Opens a camera of V4L2 and chooses its mode.
fn device_works(
    device: &str,
    settings: &VideoSettings,
) -> Result<(String, gst::Element, gst::Caps), EncoderError> {
    let source = make("v4l2src", &[])?;
    source.set_property("device", device);
    open_with(device, source, None, settings)
}

/// The same for one of PipeWire.
fn node_works(
    node: &Node,
    settings: &VideoSettings,
) -> Result<(String, gst::Element, gst::Caps), EncoderError> {
    open_with(&node.name, node.source()?, Some(node.caps.clone()), settings)
}

/// Opens what captures a camera, and chooses one of its modes: those given, or what the element says once it is open.
fn open_with(
    device: &str,
    source: gst::Element,
    modes: Option<gst::Caps>,
    settings: &VideoSettings,
) -> Result<(String, gst::Element, gst::Caps), EncoderError> {
    let failed = |message: String| EncoderError::CameraFailed { device: device.to_owned(), message };
    opens(&source).map_err(failed)?;
    let asked = || source.static_pad("src").map(|pad| pad.query_caps(None));
    let modes = modes.or_else(asked).unwrap_or_else(gst::Caps::new_empty);
    match choose(&modes, settings) {
        Some(caps) => Ok((device.to_owned(), source, caps)),
        None => {
            let _ = source.set_state(gst::State::Null);
            Err(failed("it gives no pictures that can be used".into()))
        }
    }
}

/// The best of a camera's modes, with everything fixed: at least the wanted size and rate if it can,
/// then no more pixels than needed, then raw rather than JPEG.
fn choose(modes: &gst::CapsRef, settings: &VideoSettings) -> Option<gst::Caps> {
    let (width, height, fps) = (settings.width as i32, settings.height as i32, settings.fps as i32);
    let candidates = modes.iter().filter(|mode| {
        // Raw formats that a camera gives and videoconvert takes; Bayer and others are no use.
        matches!(mode.name().as_str(), "video/x-raw" | "image/jpeg")
    });
    let score = |mode: &gst::Structure| {
        let (w, h) = (mode.get::<i32>("width").unwrap_or(0), mode.get::<i32>("height").unwrap_or(0));
        let rate = mode
            .get::<gst::Fraction>("framerate")
            .map_or(0.0, |rate| f64::from(rate.numer()) / f64::from(rate.denom().max(1)));
        let fluid = rate.min(f64::from(fps)) / f64::from(fps);
        let missing = (w.min(width) * h.min(height)) as f64 / (width * height) as f64;
        let excess = f64::from(w) * f64::from(h) / f64::from(width * height);
        let raw = f64::from(u8::from(mode.name() == "video/x-raw"));
        // Below two thirds of the rate or size hurts more than anything above helps.
        fluid * 4.0 + missing * 4.0 - excess * 0.1 + raw * 0.05
    };
    let fixed = candidates.map(|mode| {
        let mut mode = mode.to_owned();
        mode.fixate_field_nearest_int("width", width);
        mode.fixate_field_nearest_int("height", height);
        mode.fixate_field_nearest_fraction("framerate", gst::Fraction::new(fps, 1));
        mode
    });
    let best = fixed.max_by(|a, b| score(a).total_cmp(&score(b)))?;
    let mut caps = gst::Caps::new_empty();
    caps.make_mut().append_structure(best);
    // What is still open (pixel format, colours) is for the elements to settle.
    Some(caps)
}

/// The size of a mode, if it has fewer pixels than wanted either way.
fn too_small(mode: &gst::CapsRef, settings: &VideoSettings) -> Option<(u32, u32)> {
    let mode = mode.structure(0)?;
    let size = |field: &str| mode.get::<i32>(field).ok().and_then(|size| u32::try_from(size).ok());
    let (width, height) = (size("width")?, size("height")?);
    // The encoders take even sizes.
    (width < settings.width || height < settings.height).then_some((width & !1, height & !1))
}

/// The cameras of this machine, lowest number first.
pub(crate) fn devices() -> Vec<PathBuf> {
    devices_in(Path::new(DEVICES))
}

fn devices_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix("video")?.parse::<u32>().ok();
    let mut found: Vec<_> =
        entries.filter_map(|entry| Some((number(&entry.path())?, entry.path()))).collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

fn not_found(wanted: &str, nodes: &[Node]) -> EncoderError {
    EncoderError::CameraNotFound { device: wanted.to_owned(), found: found(&devices(), nodes) }
}

fn found(present: &[PathBuf], nodes: &[Node]) -> String {
    let devices = present.iter().map(|path| path.display().to_string());
    let only_nodes = nodes.iter().filter(|node| !node.is_among(present)).map(|node| node.name.clone());
    let list: Vec<_> = devices.chain(only_nodes).collect();
    if list.is_empty() {
        return "no camera is connected, and none is offered by a PipeWire of this user (`roadie devices` says if \
            something is missing for that); plug one in, or use `test` or a file"
            .into();
    }
    format!("there is {}", list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elements::{chain, link};

    fn chosen(modes: &str) -> (String, i32, i32, gst::Fraction) {
        gst::init().expect("GStreamer");
        let modes: gst::Caps = modes.parse().expect("caps");
        let caps = choose(&modes, &VideoSettings::default()).expect("a mode");
        let mode = caps.structure(0).expect("a structure");
        let int = |field: &str| mode.get::<i32>(field).expect("fixed");
        (mode.name().to_string(), int("width"), int("height"), mode.get("framerate").expect("fixed"))
    }

    #[test]
    fn a_webcam_that_is_slow_in_raw_gives_jpeg() {
        let modes = "video/x-raw, format=YUY2, width=640, height=480, framerate={30/1,15/1}; \
            video/x-raw, format=YUY2, width=1280, height=720, framerate=10/1; \
            image/jpeg, width=1920, height=1080, framerate=30/1; \
            image/jpeg, width=1280, height=720, framerate={60/1,30/1,15/1}";
        let thirty = gst::Fraction::new(30, 1);
        assert_eq!(chosen(modes), ("image/jpeg".into(), 1280, 720, thirty));
    }

    #[test]
    fn raw_is_taken_where_it_is_as_good() {
        let modes = "image/jpeg, width=1280, height=720, framerate=30/1; \
            video/x-raw, format=NV12, width=[64,4096], height=[64,4096], framerate=[1/1,60/1]";
        assert_eq!(chosen(modes), ("video/x-raw".into(), 1280, 720, gst::Fraction::new(30, 1)));
    }

    #[test]
    fn a_camera_without_pictures_has_no_mode() {
        gst::init().expect("GStreamer");
        let modes: gst::Caps = "video/x-bayer, width=640, height=480".parse().expect("caps");
        assert_eq!(choose(&modes, &VideoSettings::default()), None);
    }

    #[test]
    fn the_nearest_size_is_offered_where_a_camera_has_too_few_pixels() {
        gst::init().expect("GStreamer");
        let nearest = |modes: &str| {
            let modes: gst::Caps = modes.parse().expect("caps");
            let settings = VideoSettings::default();
            too_small(&choose(&modes, &settings).expect("a mode"), &settings)
        };
        let small = "video/x-raw, width=640, height=480, framerate=30/1; \
            image/jpeg, width=1281, height=719, framerate=30/1";
        assert_eq!(nearest(small), Some((1280, 718)));
        assert_eq!(nearest("video/x-raw, width=1920, height=1080, framerate=30/1"), None);
        assert_eq!(nearest("video/x-raw, width=[16,1280], height=[16,720], framerate=30/1"), None);
    }

    /// Runs a stand-in for a camera, and says what the encoder would get.
    fn delivered(source: &str, mode: &str) -> gst::Caps {
        gst::init().expect("GStreamer");
        let pipeline = gst::Pipeline::new();
        let source = gst::parse::bin_from_description(source, true).expect("a source").upcast();
        pipeline.add(&source).expect("added");
        let mode = mode.parse().expect("caps");
        let last = pictures(&pipeline, &source, mode, &VideoSettings::default()).expect("a chain");
        let sink = make("fakesink", &[("num-buffers", "5")]).expect("a sink");
        chain(&pipeline, &[&sink]).expect("added");
        link(&[&last, &sink]).expect("linked");
        pipeline.set_state(gst::State::Playing).expect("it plays");
        let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
        let bus = pipeline.bus().expect("a bus");
        let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(20), &wanted).expect("it ends");
        let caps = last.static_pad("src").and_then(|pad| pad.current_caps());
        pipeline.set_state(gst::State::Null).expect("it stops");
        assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
        caps.expect("negotiated")
    }

    #[test]
    fn slow_raw_and_fast_jpeg_cameras_both_fit_the_encoder() {
        let raw = "video/x-raw,format=YUY2,width=640,height=480,framerate=15/1";
        let jpeg = "image/jpeg,width=1280,height=720,framerate=60/1";
        let slow = delivered("videotestsrc num-buffers=20", raw);
        let fast = delivered("videotestsrc num-buffers=20 ! jpegenc", jpeg);
        for (caps, fps) in [(slow, 15), (fast, 30)] {
            let caps = caps.structure(0).expect("a structure");
            assert_eq!((caps.get("width"), caps.get("height")), (Ok(1280), Ok(720)));
            assert_eq!(caps.get::<&str>("format"), Ok("I420"));
            assert_eq!(caps.get("framerate"), Ok(gst::Fraction::new(fps, 1)));
        }
    }

    #[test]
    fn cameras_are_listed_by_number() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["video10", "video2", "videotape", "null"] {
            std::fs::write(dir.path().join(name), b"").expect("a file");
        }
        let names: Vec<_> =
            devices_in(dir.path()).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["video2", "video10"]);
        assert!(found(&[], &[]).contains("no camera is connected"));
    }
}
