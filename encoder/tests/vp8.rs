//! A show in VP8: the same groups and marks as in H.264, and a recording that plays.

#[path = "common/codec.rs"]
mod codec;
mod common;

use codec::Codec;
use common::{clock, decode_vp8, start};
use media::{Frame, TrackConfig, mark, vp8};
use roadie_encoder::VideoCodec;

const VP8: Codec =
    Codec { codec: VideoCodec::Vp8, name: "vp8", is_keyframe: vp8::is_keyframe, size: vp8::size };

#[test]
fn every_group_begins_with_its_only_keyframe_and_every_mark_is_read() {
    let before = clock()();
    let running = start(VP8.settings());
    let TrackConfig::Video(config) = &running.tracks[0].config else { panic!("{:?}", running.tracks) };
    assert_eq!((config.codec.as_str(), config.width, config.height), ("vp8", 640, 360));
    let groups = [running.video_group(), running.video_group()];
    running.encoder.request_keyframe();
    let asked = running.video_group();
    running.stop();
    assert!(groups[1].len() > 15, "the test picture of this size fits: {}", groups[1].len());
    for group in groups.iter().chain([&asked]) {
        for frame in group {
            assert_eq!(frame.keyframe, frame.id.frame == 0);
            assert_eq!(vp8::is_keyframe(&frame.data), frame.keyframe);
        }
        assert_eq!(vp8::size(&group[0].data), Some((640, 360)));
        assert!(group.windows(2).all(|pair| pair[0].capture_time < pair[1].capture_time));
    }
    check_marks(&groups[1], 640);
    assert!(groups[0][0].capture_time > before);
}

/// Capture times are those of the raw pictures, though the encoder was told even ones.
fn check_marks(group: &[Frame], width: usize) {
    let pictures = decode_vp8(group, width);
    assert_eq!(pictures.len(), group.len());
    for (frame, luma) in group.iter().zip(&pictures) {
        let mark = mark::read(|x, y| luma.bytes[y * luma.stride + x]).expect("a mark in every picture");
        let captured = frame.capture_time.as_micros() / 1000 * 1000;
        assert_eq!(mark.capture_time(frame.capture_time).as_micros(), captured);
    }
}

#[test]
fn pictures_that_do_not_fit_are_left_out_and_the_others_keep_their_time_and_group() {
    let groups: [Vec<Frame>; 3] = VP8.groups_that_do_not_fit();
    check_marks(&groups[2], 1280);
}

#[test]
fn a_recording_goes_on_in_one_file_when_the_picture_changes_its_size_and_plays() {
    VP8.record_a_change_of_size();
}
