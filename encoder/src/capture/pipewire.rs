//! The cameras that PipeWire offers: those of libcamera, which have no device of V4L2 that gives pictures, and those
//! that other programs make.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::EncoderError;
use crate::elements::make;

/// How long PipeWire may take to list what it has: milliseconds where it runs.
const LIMIT: Duration = Duration::from_secs(2);

/// A camera of PipeWire.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// Its name, which stays the same from one start of the system to the next.
    pub(crate) name: String,
    /// Its name for people.
    pub(crate) description: String,
    /// Its number, which is never used again while PipeWire runs.
    serial: String,
    /// Its device, where it is one of V4L2.
    device: Option<String>,
    /// Its modes.
    pub(crate) caps: gst::Caps,
}

impl Node {
    /// Whether a person means this one.
    pub(super) fn is(&self, wanted: &str) -> bool {
        [&self.name, &self.serial, &self.description].into_iter().any(|text| text == wanted)
    }

    /// Whether it is one of these devices of V4L2.
    pub(crate) fn is_among(&self, devices: &[PathBuf]) -> bool {
        self.device.as_ref().is_some_and(|device| devices.iter().any(|other| other == Path::new(device)))
    }

    /// The element that captures it.
    pub(super) fn source(&self) -> Result<gst::Element, EncoderError> {
        let properties = [
            // Another camera in the place of one that went away would go on air unasked.
            ("stream-properties", "properties,node.dont-reconnect=true"),
            // Not every node says when a picture was taken, and not by our clock.
            ("do-timestamp", "true"),
            // The slate keeps the last picture, and its memory goes when the node does.
            ("always-copy", "true"),
        ];
        let source = make("pipewiresrc", &properties)?;
        source.set_property("target-object", &self.serial);
        Ok(source)
    }
}

/// The cameras of the PipeWire that this user runs. None where it does not run, or is not installed.
pub(crate) fn nodes() -> Vec<Node> {
    // One that hangs keeps its thread. There is never a second one beside it.
    static LISTING: AtomicBool = AtomicBool::new(false);
    if LISTING.swap(true, SeqCst) {
        tracing::warn!("PipeWire does not answer");
        return Vec::new();
    }
    let (tell, told) = sync_channel(1);
    let list = move || {
        let found = list();
        LISTING.store(false, SeqCst);
        let _ = tell.send(found);
    };
    if std::thread::Builder::new().name("pipewire".into()).spawn(list).is_err() {
        LISTING.store(false, SeqCst);
    }
    told.recv_timeout(LIMIT).unwrap_or_else(|error| {
        tracing::warn!(%error, "PipeWire does not answer");
        Vec::new()
    })
}

fn list() -> Vec<Node> {
    // Not by a monitor, which would start the plug-ins of all other devices too.
    let provider = gst::DeviceProviderFactory::by_name("pipewiredeviceprovider");
    let devices = provider.map(|provider| provider.devices()).unwrap_or_default();
    let mut nodes: Vec<_> = devices.iter().filter_map(node).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

fn node(device: &gst::Device) -> Option<Node> {
    if device.device_class() != "Video/Source" {
        return None;
    }
    let properties = device.properties()?;
    let text = |key: &str| properties.get::<String>(key).ok();
    Some(Node {
        name: text("node.name")?,
        description: device.display_name().into(),
        serial: text("object.serial")?,
        device: text("api.v4l2.path"),
        caps: device.caps()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_v4l2_has_too_is_known_by_its_device_and_all_by_three_names() {
        gst::init().expect("GStreamer");
        let node = |device: Option<&str>| Node {
            name: "v4l2_input.usb".into(),
            description: "Webcam (V4L2)".into(),
            serial: "57".into(),
            device: device.map(str::to_owned),
            caps: gst::Caps::new_any(),
        };
        let present = [PathBuf::from("/dev/video0")];
        assert!(node(Some("/dev/video0")).is_among(&present));
        assert!(!node(Some("/dev/video1")).is_among(&present));
        assert!(!node(None).is_among(&present));
        for wanted in ["v4l2_input.usb", "Webcam (V4L2)", "57"] {
            assert!(node(None).is(wanted), "{wanted}");
        }
        assert!(!node(None).is("5"));
    }
}
