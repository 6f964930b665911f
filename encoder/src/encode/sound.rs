//! The running audio encoder: Opus, in a pipeline of its own.

use std::sync::Arc;

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use media::{AudioConfig, Track, TrackConfig};

use super::packets::PACKET_MS;
use super::{app_sink, on_buffer, raw_audio_caps};
use crate::elements::{chain, describe, internal, make};
use crate::output::{Encoded, Place};
use crate::shared::Shared;
use crate::{AUDIO_TRACK, AudioSettings, EncoderError};

/// Raw sound that waits for the encoder; beyond that the oldest is dropped. It is no latency, as the encoder is a
/// hundred times faster than sound is: it is room for what comes at once, half a second of a stream or a second of
/// silence in its place.
const RAW_QUEUE: gst::ClockTime = gst::ClockTime::from_seconds(2);

/// In-band FEC (RFC 6716, section 2.1.7) for receivers that have nothing better, and a loss to expect that is
/// worth it; it is used where Opus takes the sound for speech.
pub(super) const PROPERTIES: [(&str, &str); 3] =
    [("audio-type", "generic"), ("inband-fec", "true"), ("packet-loss-percentage", "5")];

/// A running encoder of sound.
pub(crate) struct Sound {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    encoder: gst::Element,
}

impl Sound {
    pub(crate) fn start(settings: &AudioSettings, shared: &Arc<Shared>) -> Result<Sound, EncoderError> {
        let pipeline = gst::Pipeline::with_name("encode-audio");
        let source = gst_app::AppSrc::builder()
            .caps(&raw_audio_caps())
            .format(gst::Format::Time)
            .is_live(true)
            .build();
        source.set_property_from_str("leaky-type", "downstream");
        source.set_property("max-time", RAW_QUEUE);
        source.set_property("max-bytes", 0_u64);
        let encoder = make("opusenc", &PROPERTIES)?;
        encoder.set_property_from_str("frame-size", &PACKET_MS.to_string());
        encoder.set_property("bitrate", settings.bitrate as i32);
        let sink = app_sink();
        chain(&pipeline, &[source.upcast_ref(), &encoder, sink.upcast_ref()])?;

        let track = Track {
            id: AUDIO_TRACK,
            name: "audio".into(),
            config: TrackConfig::Audio(AudioConfig {
                codec: "opus".into(),
                sample_rate: 48_000,
                channels: 2,
                bitrate: settings.bitrate,
            }),
        };
        let taker = shared.clone();
        on_buffer(&sink, move |_, buffer, running_time| {
            let encoded_at = (taker.now)();
            if buffer.flags().contains(gst::BufferFlags::HEADER) {
                return;
            }
            let Ok(map) = buffer.map_readable() else { return };
            let data = Bytes::copy_from_slice(&map);
            if taker.output().wants_track(AUDIO_TRACK) {
                taker.output().track(track.clone());
            }
            let capture_time = taker.epoch.at(running_time);
            let place = Place::Counted;
            taker.frame(Encoded {
                track: AUDIO_TRACK,
                place,
                capture_time,
                encoded_at,
                keyframe: true,
                data,
            });
        });
        if let Some(bus) = pipeline.bus() {
            let events = shared.events.clone();
            bus.set_sync_handler(move |_, message| {
                if let gst::MessageView::Error(error) = message.view() {
                    let element = error.src().map_or_else(|| "opusenc".into(), |src| src.name().to_string());
                    events.fail(EncoderError::Pipeline { element, message: describe(error) });
                }
                gst::BusSyncReply::Drop
            });
        }
        let running = Sound { pipeline, source, encoder };
        if running.pipeline.set_state(gst::State::Playing).is_err() {
            return Err(internal(&running.encoder, &"it does not start"));
        }
        Ok(running)
    }

    /// Takes raw sound. Never waits: see [`RAW_QUEUE`].
    pub(crate) fn push(&self, buffer: gst::Buffer) {
        // The only error is that it has been stopped.
        let _ = self.source.push_buffer(buffer);
    }

    /// Bits per second from now on.
    pub(crate) fn set_bitrate(&self, bitrate: u32) {
        self.encoder.set_property("bitrate", bitrate as i32);
    }

    pub(crate) fn stop(&self) {
        if self.pipeline.set_state(gst::State::Null).is_err() {
            tracing::warn!("the audio encoder did not stop cleanly");
        }
    }
}

impl Drop for Sound {
    fn drop(&mut self) {
        self.stop();
    }
}
