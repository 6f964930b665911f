//! The programs of others.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};

/// What ffprobe says about a file, after decoding all of it.
pub struct Probed(HashMap<String, String>);

impl Probed {
    fn parse(flat: &[u8]) -> Self {
        let pair = |line: &str| {
            let (key, value) = line.split_once('=')?;
            Some((key.to_owned(), value.trim_matches('"').to_owned()))
        };
        Self(String::from_utf8_lossy(flat).lines().filter_map(pair).collect())
    }

    pub fn text(&self, key: &str) -> &str {
        self.0.get(key).unwrap_or_else(|| panic!("ffprobe tells no {key}: {:?}", self.0))
    }

    pub fn number(&self, key: &str) -> f64 {
        self.text(key).parse().unwrap_or_else(|_| panic!("{key} is {}", self.text(key)))
    }
}

/// Decodes all frames; panics where ffprobe has anything to complain about.
pub fn ffprobe(file: &Path) -> Probed {
    let output = run(&mut ffprobe_command(file));
    Probed::parse(&output.stdout)
}

/// Decodes what it can of a file whose last frame is torn, about which ffprobe may complain. Returns how
/// many pictures it found.
pub fn ffprobe_torn(file: &Path) -> usize {
    let output = ffprobe_command(file).output().expect("ffprobe is needed for this test");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {complaints}", output.status);
    Probed::parse(&output.stdout).number("streams.stream.0.nb_read_frames") as usize
}

fn ffprobe_command(file: &Path) -> Command {
    let entries = "stream=codec_name,profile,width,height,duration,nb_read_frames:format=duration";
    let mut command = Command::new("ffprobe");
    command.args(["-v", "warning", "-count_frames", "-of", "flat", "-show_entries", entries]).arg(file);
    command
}

/// Plays a file through GStreamer's demuxer and decoders as fast as it goes.
pub fn gstreamer(file: &Path) {
    let output = run(Command::new("gst-launch-1.0")
        .args(["-q", "filesrc", &format!("location={}", file.display())])
        .args("! qtdemux name=d d.video_0 ! queue ! h264parse ! avdec_h264 ! fakesink sync=false".split(' '))
        .args("d.audio_0 ! queue ! opusdec ! fakesink sync=false".split(' ')));
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// What gst-discoverer-1.0 says about a file.
pub fn discover(file: &Path) -> String {
    String::from_utf8_lossy(&run(Command::new("gst-discoverer-1.0").arg("-v").arg(file)).stdout).into_owned()
}

/// Runs a program that has to succeed without a word on standard error.
pub fn run(command: &mut Command) -> Output {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().unwrap_or_else(|error| panic!("{name} is needed for this test: {error}"));
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && complaints.trim().is_empty(),
        "{name}: {}: {complaints}",
        output.status
    );
    output
}
