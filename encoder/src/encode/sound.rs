//! The running audio encoder: Opus, in a pipeline of its own.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use media::{AudioConfig, Track, TrackConfig};

use super::packets::PACKET_MS;
use super::raw_audio_caps;
use crate::elements::{buffer_sink, chain, describe, internal, make};
use crate::output::{Encoded, Place};
use crate::shared::Shared;
use crate::{AUDIO_TRACK, AudioSettings, EncoderError};

/// Raw sound that waits for the encoder; beyond that the oldest is dropped. It is no latency, as the encoder is a
/// hundred times faster than sound is: it is room for what comes at once, half a second of a stream or a second of
/// silence in its place.
const RAW_QUEUE: gst::ClockTime = gst::ClockTime::from_seconds(2);

/// Of a packet, at 48 kHz.
const PACKET_SAMPLES: u64 = PACKET_MS as u64 * 48;

/// Two channels of 16 bits.
const SAMPLE_BYTES: u64 = 4;

/// In-band FEC (RFC 6716, section 2.1.7) for receivers that have nothing better, and a loss to expect that is
/// worth it; it is used where Opus takes the sound for speech.
pub(super) const PROPERTIES: [(&str, &str); 3] =
    [("audio-type", "generic"), ("inband-fec", "true"), ("packet-loss-percentage", "5")];

/// A running encoder of sound.
pub(crate) struct Sound {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    encoder: gst::Element,
    gathered: Mutex<Gathered>,
}

/// Raw sound until a packet is complete: handed over piece by piece it would wake the encoder for nothing.
#[derive(Default)]
struct Gathered {
    buffer: Option<gst::Buffer>,
    /// Samples since the beginning.
    samples: u64,
}

impl Gathered {
    /// Takes a piece; gives all that came since the last time, once a packet ends in it.
    fn push(&mut self, piece: gst::Buffer) -> Option<gst::Buffer> {
        let before = self.samples / PACKET_SAMPLES;
        self.samples += piece.size() as u64 / SAMPLE_BYTES;
        let buffer = match self.buffer.take() {
            None => piece,
            Some(mut buffer) => {
                let lengths = buffer.duration().zip(piece.duration());
                buffer.append(piece);
                buffer.make_mut().set_duration(lengths.map(|(first, second)| first + second));
                buffer
            }
        };
        if self.samples / PACKET_SAMPLES > before {
            return Some(buffer);
        }
        self.buffer = Some(buffer);
        None
    }
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
        let sink = buffer_sink(move |_, buffer, running_time| {
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
        })?;
        chain(&pipeline, &[source.upcast_ref(), &encoder, &sink])?;
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
        let running = Sound { pipeline, source, encoder, gathered: Mutex::default() };
        if running.pipeline.set_state(gst::State::Playing).is_err() {
            return Err(internal(&running.encoder, &"it does not start"));
        }
        Ok(running)
    }

    /// Takes raw sound. Never waits: see [`RAW_QUEUE`].
    pub(crate) fn push(&self, buffer: gst::Buffer) {
        let whole = self.gathered.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        if let Some(buffer) = whole {
            // The only error is that it has been stopped.
            let _ = self.source.push_buffer(buffer);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(samples: usize, first: u8) -> gst::Buffer {
        let mut buffer = gst::Buffer::from_mut_slice(vec![first; samples * SAMPLE_BYTES as usize]);
        let writable = buffer.make_mut();
        writable.set_pts(gst::ClockTime::from_mseconds(first.into()));
        writable.set_duration(gst::ClockTime::from_useconds(samples as u64 * 1_000_000 / 48_000));
        buffer
    }

    #[test]
    fn a_packet_is_handed_over_as_soon_as_it_is_complete() {
        gst::init().expect("GStreamer");
        let mut gathered = Gathered::default();
        let mut sizes = Vec::new();
        for (n, samples) in [480, 480, 480, 400, 80, 2_000, 800, 79, 1].into_iter().enumerate() {
            let whole = gathered.push(piece(samples, n as u8));
            sizes.push(whole.map(|whole| (whole.pts().expect("a time").mseconds(), whole.size() / 4)));
        }
        // 960, 1920, 3920 of 3840, and 4799 of 4800.
        let whole = [None, Some((0, 960)), None, None, Some((2, 960)), Some((5, 2_000)), None, None];
        assert_eq!(sizes, [&whole[..], &[Some((6, 880))]].concat());
    }

    #[test]
    fn the_pieces_are_one_after_the_other() {
        gst::init().expect("GStreamer");
        let mut gathered = Gathered::default();
        assert!(gathered.push(piece(480, 1)).is_none());
        let whole = gathered.push(piece(480, 2)).expect("a packet");
        let map = whole.map_readable().expect("memory");
        assert_eq!(map.as_slice(), [[1; 1_920], [2; 1_920]].concat());
        assert_eq!(whole.duration().map(gst::ClockTime::useconds), Some(20_000));
    }
}
