//! The encoders of a show as words for `gst-launch-1.0`, for those who compare: made of the same tables, so that
//! they stay the same encoders.

use super::codec::CODECS;
use super::packets::PACKET_MS;
use super::sound;
use super::vbv::vbv_millis;
use crate::Settings;

/// x264 for the main picture, with a keyframe a group, and Opus.
pub fn launch_words(settings: &Settings) -> [String; 2] {
    let words = |element: &str, properties: &[(&str, &str)]| {
        let pairs = properties.iter().map(|(name, value)| format!(" {name}={value}"));
        format!("{element}{}", pairs.collect::<String>())
    };
    let video = &settings.video;
    let x264 = CODECS.iter().find(|codec| codec.name == "x264");
    let x264 = x264.map(|codec| words(codec.element, codec.properties)).unwrap_or_default();
    let frames = (video.gop.as_secs_f64() * f64::from(video.fps)).round().max(1.0);
    let buffer = vbv_millis(video.bitrate, video.width, video.height);
    let opus = words("opusenc", &sound::PROPERTIES);
    [
        format!("{x264} key-int-max={frames} bitrate={} vbv-buf-capacity={buffer}", video.bitrate / 1000),
        format!("{opus} frame-size={PACKET_MS} bitrate={}", settings.audio.bitrate),
    ]
}

#[cfg(test)]
mod tests {
    use gstreamer as gst;

    use super::*;

    #[test]
    fn gst_launch_understands_them() {
        gst::init().expect("GStreamer");
        let [video, audio] = launch_words(&Settings::default());
        assert!(
            video.contains("bitrate=2500 vbv-buf-capacity=150") && video.contains("sliced-threads=true"),
            "{video}"
        );
        for words in [video, audio] {
            gst::parse::launch(&format!("fakesrc ! {words} ! fakesink")).expect("it parses");
        }
    }
}
