//! What `roadie live` costs in CPU, beside `gst-launch-1.0` with the same source and encoders and nothing else:
//! `roadie-bench live-cpu`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use roadie::edge_process::EdgeProcess;

use crate::bond::real::stalls::Watch;
use crate::median::median;
use crate::process;

/// The show may cost so many times what the bare encoders cost.
const MOST: f64 = 1.10;

/// Starting is not measured.
const WARM: Duration = Duration::from_secs(4);

/// The encoders of a show, behind `VIDEO` and `AUDIO`.
const BARE: &str = "VIDEO ! queue ! X264 \
    ! video/x-h264,profile=constrained-baseline ! h264parse config-interval=-1 \
    ! video/x-h264,stream-format=byte-stream,alignment=au ! fakesink sync=false \
    AUDIO ! queue ! OPUS ! fakesink sync=false";

/// The test picture, as `encoder/src/capture/` makes it.
const TEST: [&str; 2] = [
    "videotestsrc is-live=true pattern=smpte horizontal-speed=4 \
     ! video/x-raw,format=I420,width=1280,height=720,framerate=30/1",
    "audiotestsrc is-live=true wave=ticks samplesperbuffer=480 ! audio/x-raw,rate=48000,channels=2",
];

/// A clip in real time.
const CLIP: [&str; 2] = [
    "filesrc location=CLIP ! decodebin name=clip clip. ! queue ! videorate ! videoscale ! videoconvert \
     ! video/x-raw,format=I420,width=1280,height=720,framerate=30/1,pixel-aspect-ratio=1/1 ! clocksync",
    "clip. ! queue ! audioconvert ! audioresample ! audio/x-raw,format=S16LE,rate=48000,channels=2 ! clocksync",
];

/// Turns a clip into one that has nothing left to decode, of `PICTURES` pictures.
const RAW: &str = "filesrc location=CLIP ! decodebin name=clip matroskamux name=mux ! filesink location=RAW \
    clip. ! queue ! videorate ! videoscale ! videoconvert \
    ! video/x-raw,format=I420,width=1280,height=720,framerate=30/1,pixel-aspect-ratio=1/1 \
    ! identity eos-after=PICTURES ! mux. \
    clip. ! queue ! audioconvert ! audioresample ! audio/x-raw,format=S16LE,rate=48000,channels=2 ! mux.";

/// Longer than a measurement by so much: starting takes some of it.
const SPARE: Duration = Duration::from_secs(4);

/// The clip, decoded: 42 MB a second, which the page cache holds.
fn decoded(clip: &str, length: Duration, base: &Path) -> anyhow::Result<String> {
    let raw = base.join("raw.mkv").to_str().context("the temporary directory has a strange name")?.to_owned();
    std::fs::create_dir_all(base)?;
    let pictures = (length.as_secs() * 30).to_string();
    let pipeline = RAW.replace("CLIP", clip).replace("RAW", &raw).replace("PICTURES", &pictures);
    let made = Command::new("gst-launch-1.0").arg("-q").args(pipeline.split_whitespace()).status()?;
    if !made.success() {
        bail!("cannot decode {clip}: gst-launch-1.0 ended with {made}");
    }
    Ok(raw)
}

fn bare_pipeline(clip: Option<&str>) -> String {
    let [video, audio] = if clip.is_some() { CLIP } else { TEST };
    let [x264, opus] = encoder::launch_words(&encoder::Settings::default());
    let pipeline = BARE.replace("X264", &x264).replace("OPUS", &opus);
    let pipeline = pipeline.replace("VIDEO", video).replace("AUDIO", audio);
    pipeline.replace("CLIP", clip.unwrap_or_default())
}

/// CPU of `roadie live` (two recordings, the bond to a relay on this machine) against
/// `gst-launch-1.0` with the same encoder settings, interleaved in one run.
#[derive(Args)]
pub struct Raw {
    /// A clip to be shown, longer than the measurement, without spaces in its path [default: the test picture]
    #[arg(long, value_name = "FILE")]
    clip: Option<String>,

    /// Decode the clip before, so that neither pays for it: a show from a camera that gives raw pictures
    #[arg(long, requires = "clip")]
    raw: bool,

    /// How often each is measured
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: u32,

    /// How long each is measured, s
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    seconds: u64,
}

/// Killed when it goes.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self(child))
    }

    /// CPU seconds per second of each of its threads, by name, from now on for so long.
    fn load(&mut self, time: Duration) -> anyhow::Result<BTreeMap<String, f64>> {
        std::thread::sleep(WARM);
        let (pid, before) = (self.0.id(), process::threads(self.0.id())?);
        std::thread::sleep(time);
        let mut load = process::threads(pid)?;
        for (name, seconds) in &mut load {
            *seconds = (*seconds - before.get(name).copied().unwrap_or(0.0)) / time.as_secs_f64();
        }
        match self.0.try_wait()? {
            Some(status) => bail!("it ended: {status}"),
            None => Ok(load),
        }
    }
}

/// Runs and prints.
pub fn run(raw: Raw) -> anyhow::Result<()> {
    if raw.runs == 0 || raw.seconds == 0 {
        bail!("--runs 0 and --seconds 0 measure nothing");
    }
    let here = std::env::current_exe()?;
    let base = std::env::temp_dir().join(format!("roadie-live-cpu-{}", std::process::id()));
    let result = measure(&raw, &here.with_file_name("roadie"), &here.with_file_name("roadie-relay"), &base);
    let _ = std::fs::remove_dir_all(&base);
    result
}

fn measure(raw: &Raw, roadie: &Path, relay: &Path, base: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let edge = runtime.block_on(EdgeProcess::start(relay, &base.join("relay"), 0, None))?;
    let url = format!("https://localhost:{}/cpu", edge.quic_port);
    let time = Duration::from_secs(raw.seconds);
    let clip = match &raw.clip {
        Some(clip) if raw.raw => Some(decoded(clip, WARM + time + SPARE, base)?),
        clip => clip.clone(),
    };
    let input = clip.as_ref().map_or("test".to_owned(), |clip| format!("file:{clip}"));
    println!("720p30 at 2.5 Mb/s, stereo; CPU seconds per second, user and system, over {} s", raw.seconds);
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let mut threads = [(); 2].map(|()| BTreeMap::<String, Vec<f64>>::new());
    for run in 1..=raw.runs {
        let watch = Watch::start();
        let mut pipeline = Command::new("gst-launch-1.0");
        pipeline.arg("-q").args(bare_pipeline(clip.as_deref()).split_whitespace());
        let alone = Process::start(&mut pipeline)?.load(time)?;
        let without: f64 = alone.values().sum();
        let mut live = Command::new(roadie);
        live.args(["live", "--input", &input, "--edge", &url, "--fixed-bitrate"])
            .args(["--edge-fingerprint", &edge.fingerprint, "--record"])
            .arg(base.join(format!("a{run}")))
            .arg("--record")
            .arg(base.join(format!("b{run}")));
        let load = Process::start(&mut live)?.load(time)?;
        let with: f64 = load.values().sum();
        let void = if watch.stalls().count > 0 { "  the machine stalled" } else { "" };
        println!(
            "{run:3}  gst-launch {without:.3}  roadie live {with:.3}  ratio {:.2}{void}",
            with / without
        );
        bare.push(without);
        ours.push(with);
        for (threads, load) in threads.iter_mut().zip([alone, load]) {
            for (name, seconds) in load {
                threads.entry(name).or_default().push(seconds);
            }
        }
    }
    for (program, threads) in ["gst-launch", "roadie live"].into_iter().zip(threads) {
        println!("{program} by threads, medians:");
        for (name, seconds) in threads {
            println!("  {name:16} {:.4}", median(seconds));
        }
    }
    let (ours, bare) = (median(ours), median(bare));
    let ratio = ours / bare;
    let pass = ratio <= MOST;
    println!(
        "{}  medians {ours:.3} and {bare:.3}: the show costs {ratio:.2} times its bare encoders (at most {MOST})",
        if pass { "PASS" } else { "FAIL" },
    );
    if pass { Ok(()) } else { bail!("roadie live costs more than {MOST} times its bare encoders") }
}
