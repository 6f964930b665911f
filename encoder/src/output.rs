//! The last step: from encoded buffers to numbered frames in the sink.
//!
//! Frames are held until both tracks are known, because [`FrameSink::tracks`] comes first. Of what
//! was held, only the newest group is handed over: the show starts at the live edge.

use bytes::Bytes;
use media::{Frame, FrameId, Time, Track, TrackId};

use crate::numbering::Numbering;
use crate::{AUDIO_TRACK, FrameSink, VIDEO_TRACK};

/// Encoded frames held while one track is still missing: more than both tracks make in the time
/// that the start may take. Beyond it the newest are dropped; the start has failed by then.
const HELD_FRAMES: usize = 2048;

/// An encoded frame without its number.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) track: TrackId,
    pub(crate) capture_time: Time,
    pub(crate) encoded_at: Time,
    pub(crate) keyframe: bool,
    pub(crate) data: Bytes,
}

pub(crate) struct Output {
    sink: Option<Box<dyn FrameSink>>,
    video: Lane,
    audio: Lane,
    held: Vec<Encoded>,
    flowing: bool,
}

/// One track on its way out.
struct Lane {
    track: Option<Track>,
    numbering: Numbering,
    last: Option<Time>,
}

impl Lane {
    fn new(numbering: Numbering) -> Self {
        Lane { track: None, numbering, last: None }
    }
}

impl Output {
    pub(crate) fn new(sink: Box<dyn FrameSink>, video: Numbering, audio: Numbering) -> Self {
        let (video, audio) = (Lane::new(video), Lane::new(audio));
        Output { sink: Some(sink), video, audio, held: Vec::new(), flowing: false }
    }

    /// Whether the track still has to be described by [`Self::track`].
    pub(crate) fn wants_track(&self, id: TrackId) -> bool {
        if id == VIDEO_TRACK { self.video.track.is_none() } else { self.audio.track.is_none() }
    }

    /// A track is known.
    pub(crate) fn track(&mut self, track: Track) {
        let lane = if track.id == VIDEO_TRACK { &mut self.video } else { &mut self.audio };
        lane.track.get_or_insert(track);
    }

    /// Takes the next frame of a track. Whether frames reach the sink since this one.
    pub(crate) fn frame(&mut self, frame: Encoded) -> bool {
        if self.flowing {
            self.deliver(frame);
            return false;
        }
        if self.held.len() < HELD_FRAMES {
            self.held.push(frame);
        }
        let (Some(video), Some(audio), Some(sink)) = (&self.video.track, &self.audio.track, &mut self.sink)
        else {
            return false;
        };
        let newest_group = self.held.iter().rposition(|held| held.track == VIDEO_TRACK && held.keyframe);
        let Some(start) = newest_group.map(|index| self.held[index].capture_time) else {
            return false;
        };
        sink.tracks(&[video.clone(), audio.clone()]);
        self.flowing = true;
        for held in std::mem::take(&mut self.held) {
            if held.capture_time >= start {
                self.deliver(held);
            }
        }
        true
    }

    /// Lets the sink go. Nothing is delivered any more.
    pub(crate) fn close(&mut self) -> Option<Box<dyn FrameSink>> {
        self.sink.take()
    }

    fn deliver(&mut self, encoded: Encoded) {
        let lane = if encoded.track == AUDIO_TRACK { &mut self.audio } else { &mut self.video };
        let Some(sink) = &mut self.sink else { return };
        let Some((group, frame)) = lane.numbering.next(encoded.keyframe) else { return };
        // A source may repeat or shift a time stamp; whoever measures must never see time go back.
        let capture_time = match lane.last {
            Some(last) if encoded.capture_time <= last => last.offset_by(1),
            _ => encoded.capture_time,
        };
        lane.last = Some(capture_time);
        let id = FrameId { track: encoded.track, group, frame };
        let frame = Frame { id, capture_time, keyframe: encoded.keyframe, data: encoded.data };
        sink.frame(frame, encoded.encoded_at);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::{Arc, Mutex};

    use media::{AudioConfig, TrackConfig};

    use super::*;

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl FrameSink for Seen {
        fn tracks(&mut self, tracks: &[Track]) {
            self.0.lock().unwrap().push(format!("{} tracks", tracks.len()));
        }
        fn frame(&mut self, frame: Frame, _: Time) {
            let FrameId { track, group, frame: n } = frame.id;
            let text = format!("{} {group}/{n} at {}", track.0, frame.capture_time.as_micros());
            self.0.lock().unwrap().push(text);
        }
    }

    fn output() -> (Output, Seen) {
        let seen = Seen::default();
        let video = Numbering::by_keyframe(Time::ZERO);
        let audio = Numbering::every(NonZeroU32::new(25).unwrap(), Time::ZERO);
        (Output::new(Box::new(seen.clone()), video, audio), seen)
    }

    fn track(id: TrackId) -> Track {
        let config = AudioConfig { codec: "x".into(), sample_rate: 48_000, channels: 2, bitrate: 1 };
        Track { id, name: "x".into(), config: TrackConfig::Audio(config) }
    }

    fn encoded(track: TrackId, micros: u64, keyframe: bool) -> Encoded {
        let time = Time::from_micros(micros);
        Encoded { track, capture_time: time, encoded_at: time, keyframe, data: Bytes::new() }
    }

    #[test]
    fn the_show_starts_when_both_tracks_are_known_and_at_the_live_edge() {
        let (mut output, seen) = output();
        output.track(track(VIDEO_TRACK));
        for (micros, keyframe) in [(10, true), (20, false), (30, true), (40, false)] {
            assert!(!output.frame(encoded(VIDEO_TRACK, micros, keyframe)));
        }
        assert!(!output.frame(encoded(AUDIO_TRACK, 25, true)));
        assert!(seen.0.lock().unwrap().is_empty());
        assert!(output.wants_track(AUDIO_TRACK));
        output.track(track(AUDIO_TRACK));
        assert!(output.frame(encoded(AUDIO_TRACK, 35, true)));
        assert!(!output.frame(encoded(VIDEO_TRACK, 50, false)));
        let expected = ["2 tracks", "0 0/0 at 30", "0 0/1 at 40", "1 0/0 at 35", "0 0/2 at 50"];
        assert_eq!(*seen.0.lock().unwrap(), expected);
    }

    #[test]
    fn capture_times_only_rise() {
        let (mut output, seen) = output();
        output.track(track(VIDEO_TRACK));
        output.track(track(AUDIO_TRACK));
        for micros in [10, 10, 5, 20] {
            output.frame(encoded(VIDEO_TRACK, micros, micros == 10));
        }
        let expected = ["2 tracks", "0 0/0 at 10", "0 1/0 at 11", "0 1/1 at 12", "0 1/2 at 20"];
        assert_eq!(*seen.0.lock().unwrap(), expected);
        assert!(output.close().is_some());
        output.frame(encoded(VIDEO_TRACK, 30, false));
        assert_eq!(seen.0.lock().unwrap().len(), 5);
    }
}
