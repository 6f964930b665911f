//! `roadie-bench record-kill`: a show is killed at random moments, and the copies on the disks are compared with what
//! the encoder had made by then.
//!
//! The show tells of each encoded frame on its standard error before the recorders get it (`RUST_LOG=frames=trace`),
//! so what is missing from a file is known frame by frame.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Parser};
use media::{FrameId, TrackId};
use roadie::{live, on_air};
use sim::Rng;

use super::copies::{self, Held};

/// What may be missing at the end of a copy.
const MAX_LOST: usize = 2;

/// The first frame comes within so long.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Nobody answers there: the recording goes on without.
const NO_EDGE: &str = "https://127.0.0.1:9/killed";

const VIDEO: TrackId = TrackId(0);

/// Kills `roadie live` at random moments, with two copies. Every file must play in ffprobe and GStreamer, at most two
/// encoded pictures may be missing from a copy, and the copies must agree.
#[derive(Args, Clone, Debug)]
pub struct Raw {
    /// How often
    #[arg(long, value_name = "N", default_value_t = 50)]
    runs: u32,

    /// Repeats the moments of another run
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// What to show
    #[arg(long, default_value = "test")]
    input: String,

    /// The latest moment, seconds after the first frame
    #[arg(long, value_name = "SECONDS", default_value_t = 6.0)]
    longest: f64,

    /// The `roadie` program [default: the same code in this program]
    #[arg(long, value_name = "FILE")]
    roadie: Option<PathBuf>,

    /// Where the copies go; those of a failed run are kept [default: a temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// To be the show that is killed, with these arguments
    #[arg(long, hide = true, num_args = 1.., allow_hyphen_values = true)]
    role: Option<Vec<String>>,
}

#[derive(Parser)]
struct Live {
    #[command(flatten)]
    raw: live::Raw,
}

/// Runs and prints; in a child process, is the show.
pub fn run(raw: Raw) -> anyhow::Result<()> {
    if let Some(arguments) = raw.role {
        return be_the_show(arguments);
    }
    if raw.runs == 0 || !(0.1..=600.0).contains(&raw.longest) {
        bail!("--runs 0 or --longest {}: give at least one run, of 0.1 to 600 s", raw.longest);
    }
    let temporary = std::env::temp_dir().join(format!("roadie-bench-kill-{}", std::process::id()));
    let dir = raw.dir.clone().unwrap_or(temporary);
    println!("seed {}; frames: pictures and packets of sound", raw.seed);
    println!("run  killed at  encoded    missing in A  missing in B  torn A/B    the copies");
    let (mut failures, mut worst) = (0, 0);
    for number in 0..raw.runs {
        let seed = raw.seed.wrapping_add(u64::from(number));
        let after = Duration::from_secs_f64(Rng::new(seed).unit() * raw.longest);
        let folder = dir.join(format!("run-{number}"));
        let result = one(&raw, &folder, after);
        match &result {
            Ok(outcome) => {
                worst = worst.max(outcome.lost());
                println!("{number:3}  {}", outcome.row(after));
            }
            Err(error) => println!("{number:3}  {error:#}"),
        }
        if result.is_ok_and(|outcome| outcome.is_good()) {
            let _ = std::fs::remove_dir_all(&folder);
        } else {
            failures += 1;
            println!("     FAIL  kept in {}; seed {seed}", folder.display());
        }
    }
    let _ = std::fs::remove_dir(&dir);
    let verdict = if failures == 0 { "PASS" } else { "FAIL" };
    println!(
        "{verdict}  {} of {} runs: every file plays in ffprobe and GStreamer, at most {worst} pictures missing \
         (allowed {MAX_LOST}), the copies agree",
        raw.runs - failures,
        raw.runs
    );
    if failures == 0 { Ok(()) } else { bail!("{failures} runs failed") }
}

/// Pictures and packets.
type Counts = (usize, usize);

struct Outcome {
    encoded: Counts,
    missing: [Counts; 2],
    torn: [u64; 2],
    /// Frames that both have and that differ; frames that only one has.
    differ: usize,
    only_one: usize,
    broken: u64,
    /// Pictures that ffprobe did not decode.
    undecoded: u64,
}

impl Outcome {
    fn lost(&self) -> usize {
        self.missing.iter().map(|(video, _)| *video).max().unwrap_or(0)
    }

    fn is_good(&self) -> bool {
        self.lost() <= MAX_LOST
            && self.encoded.0 > 0
            && (self.differ, self.broken, self.undecoded) == (0, 0, 0)
            && self.only_one <= 2 * MAX_LOST
    }

    fn row(&self, after: Duration) -> String {
        let counts = |(video, audio): Counts| format!("{video} + {audio}");
        let [a, b] = self.missing;
        let agree = match (self.differ, self.only_one) {
            (0, 0) => "agree".to_owned(),
            (0, more) => format!("agree, one has {more} more"),
            (differ, _) => format!("DIFFER in {differ} frames"),
        };
        format!(
            "{:7.3} s  {:9}  {:12}  {:12}  {:9}  {agree}",
            after.as_secs_f64(),
            counts(self.encoded),
            counts(a),
            counts(b),
            format!("{}/{}", self.torn[0], self.torn[1]),
        )
    }
}

fn one(raw: &Raw, folder: &Path, after: Duration) -> anyhow::Result<Outcome> {
    let dirs = [folder.join("a"), folder.join("b")];
    let encoded = record_and_kill(raw, &dirs, after)?;
    let held = [copies::read(&dirs[0])?, copies::read(&dirs[1])?];
    let count = |frames: &mut dyn Iterator<Item = &FrameId>| {
        frames.fold(
            (0, 0),
            |(video, audio), id| if id.track == VIDEO { (video + 1, audio) } else { (video, audio + 1) },
        )
    };
    let missing =
        held.each_ref().map(|held| count(&mut encoded.iter().filter(|id| !held.frames.contains_key(id))));
    let [a, b] = &held;
    let differ =
        a.frames.iter().filter(|(id, frame)| b.frames.get(id).is_some_and(|other| other != *frame)).count();
    let only = |a: &Held, b: &Held| a.frames.keys().filter(|id| !b.frames.contains_key(id)).count();
    let mut undecoded = 0;
    for held in &held {
        let pictures = held.frames.keys().filter(|id| id.track == VIDEO).count() as u64;
        let mut decoded = 0;
        for file in &held.files {
            decoded += copies::ffprobe(file)?;
            copies::gstreamer(file)?;
        }
        undecoded += pictures.saturating_sub(decoded);
    }
    Ok(Outcome {
        encoded: count(&mut encoded.iter()),
        missing,
        torn: [a.torn, b.torn],
        differ,
        only_one: only(a, b) + only(b, a),
        broken: a.broken + b.broken,
        undecoded,
    })
}

/// Returns what was encoded.
fn record_and_kill(raw: &Raw, dirs: &[PathBuf; 2], after: Duration) -> anyhow::Result<BTreeSet<FrameId>> {
    let live = ["--input", &raw.input, "--edge", NO_EDGE].map(str::to_owned);
    let records = dirs.iter().flat_map(|dir| ["--record".to_owned(), dir.display().to_string()]);
    let mut command = match &raw.roadie {
        Some(roadie) => {
            let mut command = Command::new(roadie);
            command.arg("live");
            command
        }
        None => {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["record-kill", "--role"]);
            command
        }
    };
    command.args(live).args(records).env("RUST_LOG", "frames=trace");
    let mut child =
        Killed(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?);
    let output = child.0.stderr.take().context("the show has no standard error")?;
    let (first, begun) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let (mut frames, mut last) = (BTreeSet::new(), String::new());
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            match parse(&line) {
                Some(id) => {
                    frames.insert(id);
                    let _ = first.send(());
                }
                None => last = line,
            }
        }
        (frames, last)
    });
    let started = begun.recv_timeout(START_LIMIT).is_ok();
    std::thread::sleep(if started { after } else { Duration::ZERO });
    let ended = child.0.try_wait()?;
    child.0.kill()?;
    child.0.wait()?;
    let Ok((frames, last)) = reader.join() else { bail!("the reader broke down") };
    if let Some(status) = ended {
        bail!("the show ended by itself ({status}): {last}");
    }
    if !started {
        bail!("the show did not begin within {} s: {last}", START_LIMIT.as_secs());
    }
    Ok(frames)
}

/// `... TRACE frames: TRACK GROUP FRAME`.
fn parse(line: &str) -> Option<FrameId> {
    let mut numbers = line.split_once(" frames: ")?.1.split(' ');
    let track = TrackId(numbers.next()?.parse().ok()?);
    let (group, frame) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    Some(FrameId { track, group, frame })
}

/// Is killed when it goes.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As `roadie live` does it.
fn be_the_show(arguments: Vec<String>) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let live = Live::try_parse_from(std::iter::once("roadie live".to_owned()).chain(arguments))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async { on_air::run(live.raw.check()?).await })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_frame() {
        let line = "2026-11-25T21:00:10.123456Z TRACE frames: 1 7182561663 24";
        assert_eq!(parse(line), Some(FrameId { track: TrackId(1), group: 7_182_561_663, frame: 24 }));
        assert_eq!(parse("2026-11-25T21:00:10Z ERROR roadie: no"), None);
    }
}
