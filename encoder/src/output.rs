//! The last step: from encoded buffers to numbered frames in the sink.
//!
//! Frames are held until all tracks are known, because [`FrameSink::tracks`] comes first. Of what
//! was held, only the newest group is handed over: the show starts at the live edge.

use bytes::Bytes;
use media::{Frame, FrameId, Time, Track, TrackId};

use crate::FrameSink;
use crate::encode::Packets;

/// Encoded frames held while one track is still missing: more than all tracks make in the time
/// that the start may take. Beyond it the newest are dropped; the start has failed by then.
const HELD_FRAMES: usize = 2048;

/// An encoded frame without its number.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) track: TrackId,
    pub(crate) place: Place,
    pub(crate) capture_time: Time,
    pub(crate) encoded_at: Time,
    pub(crate) keyframe: bool,
    pub(crate) data: Bytes,
}

/// What is known of a frame's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The raw picture that it was made of belongs to this group.
    Group(u64),
    /// Packets are counted as they come.
    Counted,
}

pub(crate) struct Output {
    sink: Option<Box<dyn FrameSink>>,
    lanes: Vec<Lane>,
    held: Vec<Encoded>,
    flowing: bool,
}

/// One track on its way out.
struct Lane {
    id: TrackId,
    track: Option<Track>,
    packets: Packets,
    /// Group and frame of the last one.
    last: Option<(u64, u32)>,
    last_time: Option<Time>,
}

impl Lane {
    /// The number of the next frame. `None`: nobody could decode it, for its group has no keyframe, or a
    /// newer one has begun: it comes from an encoder that was replaced.
    fn number(&mut self, place: Place, keyframe: bool) -> Option<(u64, u32)> {
        let number = match (place, self.last) {
            (Place::Counted, _) => self.packets.next(),
            (Place::Group(group), None) => keyframe.then_some((group, 0))?,
            (Place::Group(group), Some((last, _))) if group > last && keyframe => (group, 0),
            (Place::Group(group), Some((last, _))) if group < last => return None,
            // An encoder that did not make a keyframe where it had to goes on in the group that it can.
            (Place::Group(_), Some((last, frame))) => (last, frame + 1),
        };
        self.last = Some(number);
        Some(number)
    }
}

impl Output {
    /// For tracks of these numbers, of a show that starts at `start`.
    pub(crate) fn new(sink: Box<dyn FrameSink>, tracks: &[TrackId], start: Time) -> Self {
        let lane = |&id| Lane { id, track: None, packets: Packets::new(start), last: None, last_time: None };
        Output {
            sink: Some(sink),
            lanes: tracks.iter().map(lane).collect(),
            held: Vec::new(),
            flowing: false,
        }
    }

    fn lane(&mut self, id: TrackId) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|lane| lane.id == id)
    }

    /// Whether the track still has to be described by [`Self::track`].
    pub(crate) fn wants_track(&self, id: TrackId) -> bool {
        self.lanes.iter().any(|lane| lane.id == id && lane.track.is_none())
    }

    /// A track is known.
    pub(crate) fn track(&mut self, track: Track) {
        if let Some(lane) = self.lane(track.id) {
            lane.track.get_or_insert(track);
        }
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
        let known: Vec<_> = self.lanes.iter().filter_map(|lane| lane.track.clone()).collect();
        let Some(sink) = self.sink.as_mut().filter(|_| known.len() == self.lanes.len()) else {
            return false;
        };
        // Of the pictures of every rendition, the newest keyframe.
        let newest = |track: &Track| {
            let keyframe = |held: &&Encoded| held.track == track.id && held.keyframe;
            self.held.iter().rev().find(keyframe).map(|held| held.capture_time)
        };
        let starts: Option<Vec<_>> = known.iter().filter(|track| track.is_video()).map(newest).collect();
        let Some(start) = starts.and_then(|starts| starts.into_iter().min()) else {
            return false;
        };
        sink.tracks(&known);
        self.flowing = true;
        for held in std::mem::take(&mut self.held) {
            if held.capture_time >= start {
                self.deliver(held);
            }
        }
        true
    }

    /// Capture time of the last frame of a track that reached the sink.
    pub(crate) fn last_time(&self, id: TrackId) -> Option<Time> {
        self.lanes.iter().find(|lane| lane.id == id)?.last_time
    }

    /// Lets the sink go. Nothing is delivered any more.
    pub(crate) fn close(&mut self) -> Option<Box<dyn FrameSink>> {
        self.sink.take()
    }

    fn deliver(&mut self, encoded: Encoded) {
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.id == encoded.track) else { return };
        let Some(sink) = &mut self.sink else { return };
        let Some((group, frame)) = lane.number(encoded.place, encoded.keyframe) else { return };
        // A source may repeat or shift a time stamp; whoever measures must never see time go back.
        let capture_time = match lane.last_time {
            Some(last) if encoded.capture_time <= last => last.offset_by(1),
            _ => encoded.capture_time,
        };
        lane.last_time = Some(capture_time);
        let id = FrameId { track: encoded.track, group, frame };
        let frame = Frame { id, capture_time, keyframe: encoded.keyframe, data: encoded.data };
        sink.frame(frame, encoded.encoded_at);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use media::{AudioConfig, TrackConfig, VideoConfig};

    use super::*;
    use crate::{AUDIO_TRACK, VIDEO_TRACK};

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

    const SMALL: TrackId = TrackId(2);

    fn output(tracks: &[TrackId]) -> (Output, Seen) {
        let seen = Seen::default();
        (Output::new(Box::new(seen.clone()), tracks, Time::ZERO), seen)
    }

    fn track(id: TrackId) -> Track {
        let audio = AudioConfig { codec: "x".into(), sample_rate: 48_000, channels: 2, bitrate: 1 };
        let video = VideoConfig { codec: "avc3.x".into(), width: 2, height: 2, framerate: 30, bitrate: 1 };
        let config = if id == AUDIO_TRACK { TrackConfig::Audio(audio) } else { TrackConfig::Video(video) };
        Track { id, name: "x".into(), config }
    }

    fn sound(micros: u64) -> Encoded {
        let time = Time::from_micros(micros);
        let (track, place) = (AUDIO_TRACK, Place::Counted);
        Encoded { track, place, capture_time: time, encoded_at: time, keyframe: true, data: Bytes::new() }
    }

    fn picture(track: TrackId, micros: u64, group: u64, keyframe: bool) -> Encoded {
        Encoded { track, place: Place::Group(group), keyframe, ..sound(micros) }
    }

    #[test]
    fn the_show_starts_when_all_tracks_are_known_and_at_the_live_edge() {
        let (mut output, seen) = output(&[VIDEO_TRACK, AUDIO_TRACK]);
        output.track(track(VIDEO_TRACK));
        for (micros, group, keyframe) in [(10, 7, true), (20, 7, false), (30, 8, true), (40, 8, false)] {
            assert!(!output.frame(picture(VIDEO_TRACK, micros, group, keyframe)));
        }
        assert!(!output.frame(sound(25)));
        assert!(seen.0.lock().unwrap().is_empty());
        assert!(output.wants_track(AUDIO_TRACK) && !output.wants_track(SMALL));
        output.track(track(AUDIO_TRACK));
        assert!(output.frame(sound(35)));
        assert!(!output.frame(picture(VIDEO_TRACK, 50, 8, false)));
        let expected = ["2 tracks", "0 8/0 at 30", "0 8/1 at 40", "1 0/0 at 35", "0 8/2 at 50"];
        assert_eq!(*seen.0.lock().unwrap(), expected);
    }

    #[test]
    fn renditions_start_with_the_same_group() {
        let (mut output, seen) = output(&[VIDEO_TRACK, SMALL]);
        output.track(track(VIDEO_TRACK));
        for (micros, group, keyframe) in [(10, 1, true), (20, 1, false), (30, 2, true)] {
            output.frame(picture(VIDEO_TRACK, micros, group, keyframe));
        }
        output.track(track(SMALL));
        // The small one is slower: it has come to the end of group 1.
        assert!(output.frame(picture(SMALL, 10, 1, true)));
        output.frame(picture(SMALL, 20, 1, false));
        output.frame(picture(SMALL, 30, 2, true));
        let expected = [
            "2 tracks",
            "0 1/0 at 10",
            "0 1/1 at 20",
            "0 2/0 at 30",
            "2 1/0 at 10",
            "2 1/1 at 20",
            "2 2/0 at 30",
        ];
        assert_eq!(*seen.0.lock().unwrap(), expected);
    }

    #[test]
    fn a_group_begins_with_a_keyframe_and_only_where_it_was_asked_for() {
        let (mut output, seen) = output(&[VIDEO_TRACK]);
        output.track(track(VIDEO_TRACK));
        for (micros, group, keyframe) in [
            (10, 1, true),
            (20, 2, false), // the encoder missed it: it goes on
            (30, 2, true),
            (40, 2, true),  // one of the encoder's own
            (50, 1, false), // of an encoder that was replaced
            (60, 2, false),
        ] {
            output.frame(picture(VIDEO_TRACK, micros, group, keyframe));
        }
        let expected =
            ["1 tracks", "0 1/0 at 10", "0 1/1 at 20", "0 2/0 at 30", "0 2/1 at 40", "0 2/2 at 60"];
        assert_eq!(*seen.0.lock().unwrap(), expected);
    }

    #[test]
    fn capture_times_only_rise() {
        let (mut output, seen) = output(&[VIDEO_TRACK]);
        output.track(track(VIDEO_TRACK));
        for (n, micros) in [10, 10, 5, 20].into_iter().enumerate() {
            output.frame(picture(VIDEO_TRACK, micros, 1, n == 0));
        }
        let expected = ["1 tracks", "0 1/0 at 10", "0 1/1 at 11", "0 1/2 at 12", "0 1/3 at 20"];
        assert_eq!(*seen.0.lock().unwrap(), expected);
        assert!(output.close().is_some());
        output.frame(picture(VIDEO_TRACK, 30, 1, false));
        assert_eq!(seen.0.lock().unwrap().len(), 5);
    }
}
