//! What VP8 and AV1 have to do alike: the same groups as H.264, and recordings that play.

use std::path::{Path, PathBuf};
use std::process::Command;

use media::cmaf::{Item, Reader};
use media::{Frame, Track};
use roadie_encoder::record::{RecordState, Recorder};
use roadie_encoder::{Input, Settings, VIDEO_TRACK, VideoCodec};

use crate::common::{settings, start};

/// A codec, and what its own reader in `media` says of a frame.
pub struct Codec {
    pub codec: VideoCodec,
    /// FFmpeg's name.
    pub name: &'static str,
    pub is_keyframe: fn(&[u8]) -> bool,
    /// Of a keyframe.
    pub size: fn(&[u8]) -> Option<(u32, u32)>,
}

impl Codec {
    pub fn settings(&self) -> Settings {
        Settings { codec: self.codec, ..settings(Input::Test) }
    }

    /// Groups of the test picture, which has noise: 720p of it do not fit into 400 kb/s however coarse they are.
    /// Pictures are left out, and the others keep their time and group.
    pub fn groups_that_do_not_fit<const N: usize>(&self) -> [Vec<Frame>; N] {
        let mut settings = self.settings();
        (settings.video.width, settings.video.height, settings.video.bitrate) = (1280, 720, 400_000);
        let running = start(settings);
        let groups = [(); N].map(|()| running.video_group());
        running.stop();
        assert!(groups.iter().all(|group| group.len() < 30), "{:?}", groups.each_ref().map(Vec::len));
        for (group, next) in groups.iter().zip(&groups[1..]) {
            // `video_group` passes over the group between.
            assert_eq!(group[0].id.group + 2, next[0].id.group);
        }
        for group in &groups {
            // The keyframe is never what is left out.
            for (number, frame) in group.iter().enumerate() {
                assert_eq!((frame.id.frame, frame.keyframe), (number as u32, number == 0));
                assert_eq!((self.is_keyframe)(&frame.data), number == 0);
            }
        }
        groups
    }

    /// The picture becomes smaller in the middle of a recording: FFmpeg plays the one file, and the frames come back as
    /// they were.
    pub fn record_a_change_of_size(&self) {
        let mut settings = self.settings();
        (settings.video.width, settings.video.height, settings.video.bitrate) = (1280, 720, 2_500_000);
        let running = start(settings);
        let mut frames: Vec<Frame> = running
            .until(|frames| frames.iter().filter(|(frame, _)| frame.id.track == VIDEO_TRACK).count() == 30)
            .into_iter()
            .map(|(frame, _)| frame)
            .collect();
        running.encoder.set_rate(400_000);
        let small = |frame: &Frame| (self.size)(&frame.data).is_some_and(|(_, height)| height < 720);
        let later = running.until(|frames| frames.iter().filter(|(frame, _)| small(frame)).count() == 2);
        frames.extend(later.into_iter().map(|(frame, _)| frame));
        let tracks = running.tracks.clone();
        running.stop();

        let dir = tempfile::tempdir().unwrap();
        let path = record(dir.path(), &tracks, &frames);
        // Debian's FFmpeg has decoders of its own, and dav1d for AV1: nothing of the encoders.
        let shown = ["stream=codec_name,width,height,nb_read_frames", "-of", "csv=p=0"];
        let output = Command::new("ffprobe")
            .args(["-v", "error", "-count_frames", "-select_streams", "v", "-show_entries"])
            .args(shown)
            .arg(&path)
            .output()
            .expect("ffprobe");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let expected = format!("{},1280,720,{}", self.name, pictures(&frames).len());
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected);

        let (mut reader, mut found, mut start) = (Reader::new(), Vec::new(), None);
        reader.push(&std::fs::read(&path).unwrap());
        reader.end();
        while let Some(item) = reader.poll() {
            match item {
                Item::Start(begun) => start = Some(begun),
                Item::Fragment(fragment) => {
                    assert!(fragment.intact);
                    found.extend(start.as_ref().and_then(|start| start.restore(&fragment)));
                }
            }
        }
        assert_eq!(pictures(&found), pictures(&frames), "the frames come back as they were");
    }
}

fn pictures(frames: &[Frame]) -> Vec<&Frame> {
    frames.iter().filter(|frame| frame.id.track == VIDEO_TRACK).collect()
}

fn record(dir: &Path, tracks: &[Track], frames: &[Frame]) -> PathBuf {
    let recorder = Recorder::start(dir, "tour/london", tracks).unwrap();
    frames.iter().for_each(|frame| recorder.write(frame));
    let status = recorder.finish();
    assert_eq!(
        (&status.state, status.parts.len(), status.dropped),
        (&RecordState::Recording, 1, 0),
        "{status:?}"
    );
    status.path
}
