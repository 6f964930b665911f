//! `roadie recordings verify`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use anyhow::bail;
use clap::Args;
use encoder::record::RecordingFile;
use media::{Time, Track};
use serde::Serialize;

use super::compare::{Comparison, Has, Key};
use super::output::Progress;
use super::plan::{self, Expected, Hole};
use super::play::name;
use super::scan::{Scan, scan};
use super::shows::{self, Show};
use super::times;

/// Problems of one kind told one by one for each copy; the rest is counted.
const MAX_TOLD: usize = 25;

/// Check recordings from the first byte to the last.
///
/// Every checksum, every gap, what is there against what was encoded and sent, and the copies against each other. Says
/// of each problem what to do. Ends with an error where anything is wrong.
#[derive(Args, Debug)]
pub struct Raw {
    /// Recordings, or folders of recordings; name both copies of a show to compare them
    #[arg(value_name = "FILE|DIR", required = true)]
    places: Vec<std::path::PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file or folder.
    pub place: String,
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

/// What was found out about one show.
#[derive(Debug, Serialize)]
pub struct Verified {
    pub broadcast: String,
    pub seconds: f64,
    /// Groups of all tracks that are known, and those that are whole in one copy or in all together.
    pub groups: u64,
    pub whole_groups: u64,
    /// Those of them of which an index says what was encoded.
    pub proven_groups: u64,
    pub problems: Vec<Problem>,
}

pub fn run(raw: &Raw) -> anyhow::Result<()> {
    let found = shows::find(&raw.places)?;
    if found.shows.is_empty() && found.others.is_empty() {
        bail!("there are no recordings in {}", raw.places[0].display());
    }
    let mut problems = 0;
    let mut all = Vec::new();
    for show in &found.shows {
        let verified = verify(show)?;
        problems += verified.problems.len();
        if !raw.json {
            tell(&verified, show);
        }
        all.push(verified);
    }
    for error in &found.others {
        problems += 1;
        if !raw.json {
            crate::say!("✕ {error}");
        }
    }
    if raw.json {
        let others: Vec<String> = found.others.iter().map(ToString::to_string).collect();
        crate::say!(
            "{}",
            serde_json::to_string_pretty(&serde_json::json!({ "shows": all, "others": others }))?
        );
    }
    match problems {
        0 => Ok(()),
        _ => bail!("{} found", times::count(problems as u64, "problem")),
    }
}

fn tell(verified: &Verified, show: &Show) {
    let Verified { groups, whole_groups, proven_groups, .. } = verified;
    crate::say!(
        "{}, {}, {}: {} of {groups} groups are whole, {proven_groups} of them proven to be what was encoded",
        show.broadcast,
        times::date(show.zero),
        times::exact(show.length()),
        whole_groups
    );
    for Problem { place, what, advice } in &verified.problems {
        crate::say!("✕ {place}: {what}\n    {advice}");
    }
    if verified.problems.is_empty() {
        crate::say!(
            "✓ everything is right, in {}",
            times::count(show.copies.len() as u64, "copy").replace("copys", "copies")
        );
    }
}

/// Reads all files of a show and compares.
pub fn verify(show: &Show) -> anyhow::Result<Verified> {
    let files: Vec<RecordingFile> = show.parts().map(|part| part.file.clone()).collect();
    let total = files.iter().map(RecordingFile::bytes).sum();
    let expected = plan::expected(&files);
    let tracks = show.tracks();
    let (mut problems, mut copies, mut done) = (Vec::new(), Vec::new(), 0);
    let mut progress = Progress::new("verifying");
    for copy in &show.copies {
        let mut scans = Vec::new();
        for part in &copy.parts {
            let scanned = scan(&part.file, &mut progress, done, total)?;
            done += part.file.bytes();
            file_problems(&part.file, &scanned, &expected, &mut problems);
            scans.push(scanned);
        }
        copies.push(scans);
    }
    drop(progress);
    let found = Comparison::new(copies, expected);
    for (copy, groups) in show.copies.iter().zip(&found.copies) {
        let place = copy.place.display().to_string();
        let mut told = Told::new(&place, &mut problems);
        for key in &found.all {
            let elsewhere = match found.copies.len() {
                1 => "it is lost here: `merge` with another copy fills it, if there is one",
                _ if found.is_whole_somewhere(*key) => {
                    "another copy has it whole: `roadie recordings merge` takes it from there"
                }
                _ if found.is_whole_together(*key) => {
                    "no copy has all of it, but together they do: `roadie recordings merge` puts it together"
                }
                _ => "no copy has it whole: `merge` takes the frames that there are",
            };
            match groups.get(key) {
                None => told.say(key, format!("{} is missing", group_name(&tracks, key)), elsewhere),
                Some(has) if found.is_whole(*key, has) => {}
                Some(has) => {
                    let at = times::exact(has.first_capture.saturating_since(show.zero));
                    let what = incomplete(has, found.frames(*key));
                    told.say(key, format!("{} (at {at}): {what}", group_name(&tracks, key)), elsewhere);
                }
            }
        }
        told.finish();
    }
    holes(show, &tracks, &found, &mut problems);
    let whole: Vec<&Key> = found.all.iter().filter(|key| found.is_whole_together(**key)).collect();
    Ok(Verified {
        broadcast: show.broadcast.clone(),
        seconds: show.length().as_secs_f64(),
        groups: found.all.len() as u64,
        whole_groups: whole.len() as u64,
        proven_groups: whole.iter().filter(|key| found.expected.contains_key(**key)).count() as u64,
        problems,
    })
}

fn file_problems(
    file: &RecordingFile,
    scan: &Scan,
    expected: &BTreeMap<Key, Expected>,
    problems: &mut Vec<Problem>,
) {
    let place = file.path().display().to_string();
    let mut say = |what: String, advice: &str| {
        problems.push(Problem { place: place.clone(), what, advice: advice.into() });
    };
    let repair = "`roadie recordings repair` makes a sound file of the rest; `merge` takes the frames from another copy";
    if let Some(error) = &scan.unreadable {
        say(
            format!("the disk cannot read it to its end: {error}"),
            "save what there is with `merge`, and replace the disk",
        );
    }
    if scan.broken_frames > 0 {
        say(format!("{} with a wrong checksum", times::count(scan.broken_frames, "frame")), repair);
    }
    if scan.damaged_bytes > 0 {
        say(format!("{} damaged or torn", times::count(scan.damaged_bytes, "byte")), repair);
    }
    if file.is_growing() {
        say("it is being recorded just now".into(), "verify it again when the show is over");
    } else if !file.is_finished() {
        say(
            "it was cut off: it plays, but long files open slowly in some players".into(),
            "`roadie recordings repair` makes a plain MP4 file of it",
        );
    }
    match file.sidecar() {
        Err(why) => {
            say(why, "`roadie recordings repair` makes a new index, but what was encoded is no longer proven")
        }
        Ok(index) => {
            // The last line of a show that was cut off may be torn.
            let torn = u32::from(!file.is_finished());
            if index.damaged_lines > torn {
                let lines = times::count(index.damaged_lines.into(), "line");
                say(
                    format!("its index has {lines} that cannot be read"),
                    "`roadie recordings repair` makes a new one",
                );
            }
            let differs = |entry: &&media::cmaf::GroupEntry| {
                expected.get(&(entry.track, entry.group)).is_some_and(|first| first.digest != entry.digest)
            };
            if let Some(entry) = index.groups.iter().find(differs) {
                say(
                    format!("its index and that of another copy disagree about group {}", entry.group),
                    "one of them was changed: keep both files and report this",
                );
            }
        }
    }
}

/// Which frames are not there, or that they are not the right ones.
fn incomplete(has: &Has, frames: u32) -> String {
    let range = |hole: Range<u32>| match hole.end.saturating_sub(hole.start) {
        1 => hole.start.to_string(),
        _ => format!("{}–{}", hole.start, hole.end.saturating_sub(1)),
    };
    let ranges: Vec<String> = has.lacks(frames).into_iter().map(range).collect();
    match &ranges[..] {
        [] => "its frames are not those that were encoded".into(),
        [one] if !one.contains('–') => format!("frame {one} of {frames} is missing or damaged"),
        _ => format!("frames {} of {frames} are missing or damaged", ranges.join(", ")),
    }
}

fn group_name(tracks: &[Track], (track, group): &Key) -> String {
    format!("{} group {group}", name(tracks, *track))
}

/// Groups that are in no copy and in no index, told from pauses between two starts of the encoder.
fn holes(show: &Show, tracks: &[Track], found: &Comparison, problems: &mut Vec<Problem>) {
    for track in tracks {
        let keys = found.all.iter().filter(|(id, _)| *id == track.id);
        let groups: Vec<_> = keys.filter_map(|key| Some((key.1, found.first_capture(*key)?))).collect();
        for Hole { groups, from, to } in plan::holes(&groups) {
            let Some(groups) = groups else { continue };
            let at = |time: Time| times::exact(time.saturating_since(show.zero));
            let count = times::count(groups.end.saturating_sub(groups.start), "group");
            problems.push(Problem {
                place: show.broadcast.clone(),
                what: format!(
                    "{}: {count} from {} on (between {} and {}) in no copy",
                    track.name,
                    groups.start,
                    at(from),
                    at(to)
                ),
                advice: "name all copies, that of the edge too; if they are all here, these are lost".into(),
            });
        }
    }
}

/// Tells problems with groups, many in a row as one.
struct Told<'a> {
    place: &'a str,
    problems: &'a mut Vec<Problem>,
    told: usize,
    more: u64,
    last: Option<(Key, u64)>,
}

impl<'a> Told<'a> {
    fn new(place: &'a str, problems: &'a mut Vec<Problem>) -> Self {
        Self { place, problems, told: 0, more: 0, last: None }
    }

    fn say(&mut self, key: &Key, what: String, advice: &str) {
        // A run of groups of which nothing is there.
        if what.ends_with(" is missing")
            && let Some((last, run)) = &mut self.last
            && last.0 == key.0
            && last.1.checked_add(1) == Some(key.1)
            && let Some(problem) = self.problems.last_mut()
        {
            *last = *key;
            *run += 1;
            let begin = problem
                .what
                .split(" and the ")
                .next()
                .unwrap_or_default()
                .trim_end_matches(" is missing")
                .to_owned();
            problem.what = format!("{begin} and the {run} after it are missing");
            return;
        }
        self.last = None;
        if self.told == MAX_TOLD {
            self.more += 1;
            return;
        }
        self.told += 1;
        if what.ends_with(" is missing") {
            self.last = Some((*key, 0));
        }
        self.problems.push(Problem { place: self.place.into(), what, advice: advice.into() });
    }

    fn finish(self) {
        if self.more > 0 {
            self.problems.push(Problem {
                place: self.place.into(),
                what: format!("{} more groups have problems", self.more),
                advice: "`roadie recordings merge` with another copy tells what is left of them".into(),
            });
        }
    }
}

/// Whether a file is right by itself: for `repair`.
pub fn needs_repair(file: &RecordingFile, scan: &Scan) -> Vec<String> {
    let (mut problems, none) = (Vec::new(), BTreeMap::new());
    file_problems(file, scan, &none, &mut problems);
    problems.into_iter().map(|problem| problem.what).collect()
}

/// Where the original goes when it is repaired in place.
pub fn original(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".orig");
    name.into()
}
