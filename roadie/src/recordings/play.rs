//! Plays a plan: all its frames by capture time, and the files that they go into.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use encoder::record::{Pieces, sidecar_path};
use media::cmaf::{self, CmafError, Fragment, GroupDigest, GroupEntry, Indexer, Plain, Writer};
use media::h264::ParameterSets;
use media::{Time, Track, TrackConfig, TrackId};

use super::output::{OutputFile, Progress};
use super::plan::{Plan, Planned, holes};
use super::times;

/// A plain file cannot tell a longer pause (its steps have 31 bits of microseconds): a new one begins.
const MAX_PAUSE: Duration = Duration::from_secs(30 * 60);

/// Problems told one by one; the rest is counted.
const MAX_TOLD: usize = 20;

/// What is made of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A recording, with its stamps and an index beside it.
    Recording,
    /// A plain MP4 file.
    Plain,
}

/// What part of the show.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Frames captured from here on, which is a keyframe, to be decoded.
    pub decode_from: Time,
    /// Shown from here on.
    pub show_from: Time,
    /// Nothing from here on.
    pub to: Time,
}

impl Cut {
    /// Sound decodes by itself, so only pictures are needed from before what is shown.
    fn takes(&self, video: bool, capture: Time) -> bool {
        let from = if video { self.decode_from } else { self.show_from };
        (from..self.to).contains(&capture)
    }
}

/// What was made.
#[derive(Debug, Default)]
pub struct Made {
    pub files: Vec<PathBuf>,
    pub frames: u64,
    /// Frames known to exist that are intact nowhere, and groups of which nothing is there.
    pub missing: u64,
    pub missing_groups: u64,
    /// Frames that could not go into the file.
    pub left_out: u64,
    /// In words, bounded.
    pub problems: Vec<String>,
}

impl Made {
    fn problem(&mut self, text: String) {
        match self.problems.len() {
            MAX_TOLD => self.problems.push("and more of the kind".into()),
            count if count < MAX_TOLD => self.problems.push(text),
            _ => {}
        }
    }
}

/// One track: its groups to come, and the frames of the present one.
struct Lane<'a> {
    track: TrackId,
    video: bool,
    groups: VecDeque<&'a Planned>,
    frames: VecDeque<Fragment>,
    /// The track as it is in the file that the present group came from.
    shape: Option<Shape>,
}

/// The file being made.
struct Segment {
    output: OutputFile,
    maker: Maker,
    shapes: Vec<Shape>,
    zero: Time,
    last: Time,
}

enum Maker {
    Recording { writer: Box<Writer>, indexer: Indexer, entries: Vec<GroupEntry> },
    Plain(Box<Plain>),
}

/// What a file needs to know of a track at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shape {
    track: Track,
    sets: Option<ParameterSets>,
}

/// Writes all frames of the plan to `path`; after a long pause, and in a recording where the picture changes its shape, into
/// `NAME-2.mp4` and so on.
pub fn write(
    plan: &Plan,
    kind: Kind,
    path: &Path,
    cut: Option<Cut>,
    what: &'static str,
) -> anyhow::Result<Made> {
    let mut made = Made::default();
    if cut.is_none() {
        tell_holes(plan, &mut made);
    }
    let mut lanes = lanes(plan, cut);
    let mut segment: Option<Segment> = None;
    let mut progress = Progress::new(what);
    let (from, to) = cut.map_or((plan.zero, plan.end), |cut| (cut.decode_from, cut.to));
    let length = to.saturating_since(from).as_secs_f64().max(0.001);
    let mut buffer = Vec::new();
    while let Some(at) = next(plan, &mut lanes, &mut made) {
        let Some(lane) = lanes.get_mut(at) else { break };
        let Some(fragment) = lane.frames.pop_front() else { break };
        if cut.is_some_and(|cut| !cut.takes(lane.video, fragment.capture_time)) {
            continue;
        }
        progress.at(fragment.capture_time.saturating_since(from).as_secs_f64() / length);
        let fits = |segment: &mut Segment| segment.takes(lane.shape.as_ref(), fragment.capture_time);
        if !segment.as_mut().is_some_and(fits) {
            if let Some(segment) = segment.take() {
                made.files.push(segment.publish(cut)?);
            }
            let path = numbered(path, made.files.len() + 1);
            segment = Some(Segment::begin(plan, kind, &path, &lanes, at, fragment.capture_time)?);
        }
        let Some(segment) = segment.as_mut() else { break };
        match segment.add(&fragment, &mut buffer) {
            Ok(()) => made.frames += 1,
            Err(error) => match error.downcast_ref::<CmafError>() {
                Some(CmafError::BeforeStart) => made.left_out += 1,
                _ => return Err(error),
            },
        }
    }
    if let Some(segment) = segment {
        made.files.push(segment.publish(cut)?);
    }
    if made.left_out > 0 {
        let count = times::count(made.left_out, "frame");
        made.problem(format!(
            "{count} captured before the start of their file (a clock that stepped back) left out"
        ));
    }
    Ok(made)
}

/// Groups of which no copy and no index knows anything but their numbers.
fn tell_holes(plan: &Plan, made: &mut Made) {
    for track in &plan.tracks {
        let groups = plan.groups.iter().filter(|group| group.track == track.id);
        let groups: Vec<_> = groups.map(|group| (group.group, group.first_capture)).collect();
        for hole in holes(&groups) {
            let Some(groups) = hole.groups else { continue };
            let count = groups.end.saturating_sub(groups.start);
            made.missing_groups += count;
            let at = times::exact(hole.from.saturating_since(plan.zero));
            let count = times::count(count, "group");
            made.problem(format!("{}: {count} from {} on (after {at}) in no copy", track.name, groups.start));
        }
    }
}

fn lanes(plan: &Plan, cut: Option<Cut>) -> Vec<Lane<'_>> {
    let lane = |track: &Track| {
        let all: Vec<&Planned> = plan.groups.iter().filter(|group| group.track == track.id).collect();
        // Of a cut, the groups that may have frames in it.
        let from = cut.map_or(0, |cut| {
            all.iter().rposition(|group| group.first_capture <= cut.decode_from).unwrap_or(0)
        });
        let groups = all.into_iter().skip(from);
        let groups = groups.filter(|group| cut.is_none_or(|cut| group.first_capture < cut.to)).collect();
        Lane { track: track.id, video: track.is_video(), groups, frames: VecDeque::new(), shape: None }
    };
    plan.tracks.iter().map(lane).collect()
}

/// Loads what is needed and says whose frame is next: the earliest.
fn next(plan: &Plan, lanes: &mut [Lane], made: &mut Made) -> Option<usize> {
    for lane in lanes.iter_mut() {
        while lane.frames.is_empty()
            && let Some(group) = lane.groups.pop_front()
        {
            let (file, frames) = load(plan, group, made);
            lane.frames = frames;
            lane.shape = file.and_then(|file| shape(plan, lane.track, file));
        }
    }
    let first = |lane: &Lane| lane.frames.front().map(|fragment| fragment.capture_time);
    let waiting = lanes.iter().enumerate().filter_map(|(at, lane)| Some((first(lane)?, at)));
    waiting.min().map(|(_, at)| at)
}

/// The frames of a group, and which file they came from first: from its best source alone where that is whole, else
/// frame by frame from all.
fn load(plan: &Plan, group: &Planned, made: &mut Made) -> (Option<usize>, VecDeque<Fragment>) {
    let (mut pieces, mut from, mut whole) = (Pieces::new(), None, false);
    for (number, range) in &group.sources {
        let Some(file) = plan.files.get(*number) else { continue };
        match file.group(range.clone(), group.track, group.group) {
            Ok(found) => found.into_iter().for_each(|(frame, piece)| {
                pieces.entry(frame).or_insert(piece);
            }),
            // A disk with a bad spot: another copy may be better.
            Err(error) => made.problem(error.to_string()),
        }
        from.get_or_insert(*number);
        whole = is_whole(group, &pieces);
        if whole {
            break;
        }
    }
    let highest = pieces.keys().next_back().map_or(0, |last| last.saturating_add(1));
    let wanted = group.expected.map_or(highest, |expected| expected.frames.max(highest));
    let missing = u64::from(wanted).saturating_sub(pieces.len() as u64);
    if missing > 0 || (group.expected.is_some() && !whole) {
        let at = times::exact(group.first_capture.saturating_since(plan.zero));
        let what = match missing {
            0 => "it is not what was encoded, in no copy".into(),
            _ => format!("{} of {wanted} in no copy", times::count(missing, "frame")),
        };
        made.missing += missing;
        made.problem(format!("{} group {} (at {at}): {what}", name(&plan.tracks, group.track), group.group));
    }
    (from, pieces.into_values().collect())
}

fn is_whole(group: &Planned, pieces: &Pieces) -> bool {
    let Some(expected) = group.expected else { return false };
    let mut digest = GroupDigest::new();
    pieces.values().for_each(|piece| digest.fragment(piece));
    digest.finish() == expected.digest
}

/// What people call a track.
pub fn name(tracks: &[Track], id: TrackId) -> String {
    tracks
        .iter()
        .find(|track| track.id == id)
        .map_or_else(|| format!("track {}", id.0), |track| track.name.clone())
}

fn shape(plan: &Plan, id: TrackId, file: usize) -> Option<Shape> {
    let start = plan.files.get(file)?.start();
    let track = start.tracks.iter().find(|track| track.id == id)?.clone();
    let sets = start.parameter_sets(id).cloned();
    Some(Shape { track, sets })
}

/// `NAME.mp4`, `NAME-2.mp4`.
fn numbered(path: &Path, number: usize) -> PathBuf {
    if number == 1 {
        return path.to_owned();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{number}.{extension}"))
}

impl Segment {
    /// `at`: the lane whose frame is the first one, captured at `zero`.
    fn begin(
        plan: &Plan,
        kind: Kind,
        path: &Path,
        lanes: &[Lane],
        at: usize,
        zero: Time,
    ) -> anyhow::Result<Self> {
        // Each track as it is in its next group; one that has none any more is not in the file.
        let coming = |lane: &Lane| {
            let (file, _) = lane.groups.iter().find_map(|group| group.sources.first())?;
            shape(plan, lane.track, *file)
        };
        let shape_of = |(number, lane): (usize, &Lane)| match lane.frames.is_empty() && number != at {
            true => coming(lane),
            false => lane.shape.clone(),
        };
        let shapes: Vec<Shape> = lanes.iter().enumerate().filter_map(shape_of).collect();
        let tracks: Vec<Track> = shapes.iter().map(|shape| shape.track.clone()).collect();
        let sets: Vec<_> =
            shapes.iter().filter_map(|shape| Some((shape.track.id, shape.sets.clone()?))).collect();
        let mut output = OutputFile::create(path)?;
        let (maker, head) = match kind {
            Kind::Recording => {
                super::output::refuse_existing(&sidecar_path(path))?;
                let (writer, head) = Writer::new(&plan.broadcast, &tracks, sets, zero)?;
                let (writer, indexer) = (Box::new(writer), Indexer::new(&tracks));
                (Maker::Recording { writer, indexer, entries: Vec::new() }, head)
            }
            Kind::Plain => {
                let (mut plain, head) = Plain::new(&plan.broadcast, &tracks, sets, zero)?;
                for Shape { track, sets } in &shapes {
                    let lane = lanes.iter().find(|lane| lane.track == track.id);
                    let files = lane
                        .into_iter()
                        .flat_map(|lane| &lane.groups)
                        .filter_map(|group| group.sources.first());
                    let mut coming = files.filter_map(|(file, _)| plan.files.get(*file));
                    if coming.any(|file| file.start().parameter_sets(track.id) != sets.as_ref()) {
                        plain.will_change(track.id);
                    }
                }
                (Maker::Plain(Box::new(plain)), head)
            }
        };
        output.write(&head)?;
        Ok(Self { output, maker, shapes, zero, last: zero })
    }

    /// Whether a frame of this shape, captured now, fits.
    fn takes(&mut self, shape: Option<&Shape>, now: Time) -> bool {
        let Some(shape) = shape else { return false };
        // First of all: a file that is at its end is told nothing of what comes after it.
        let follows = now.saturating_since(self.last) < MAX_PAUSE;
        self.last = self.last.max(now);
        if !follows {
            return false;
        }
        let known = self.shapes.iter_mut().find(|known| known.track.id == shape.track.id);
        known.is_some_and(|known| {
            let same = known.sets == shape.sets && same_picture(&known.track.config, &shape.track.config);
            match (&mut self.maker, &shape.sets) {
                // Players of a plain file are told what changes. A recording has one description of each track.
                (Maker::Plain(plain), Some(sets)) if !same && known.sets.is_some() => {
                    *known = shape.clone();
                    plain.describe(&shape.track, sets).is_ok()
                }
                _ => same,
            }
        })
    }

    fn add(&mut self, fragment: &Fragment, buffer: &mut Vec<u8>) -> anyhow::Result<()> {
        match &mut self.maker {
            Maker::Recording { writer, indexer, entries } => {
                buffer.clear();
                let range = writer.copy(fragment, buffer)?;
                let moved = Fragment { range, ..fragment.clone() };
                entries.extend(indexer.fragment(&moved));
                self.output.write(buffer)
            }
            Maker::Plain(plain) => {
                let sample = plain.frame(fragment)?;
                self.output.write(&sample)
            }
        }
    }

    /// The tables, the index, the name.
    fn publish(self, cut: Option<Cut>) -> anyhow::Result<PathBuf> {
        let Self { mut output, maker, zero, .. } = self;
        let path = output.path().to_owned();
        match maker {
            Maker::Recording { writer, mut indexer, mut entries } => {
                output.patch(&writer.duration_patch())?;
                if let Some(ending) = writer.finish() {
                    output.write(&ending.moov)?;
                    output.patch(&ending.header)?;
                }
                entries.extend(indexer.finish());
                let mut index = OutputFile::create(&sidecar_path(&path))?;
                let broadcast = writer.broadcast();
                index.write(cmaf::index::header(broadcast, zero).as_bytes())?;
                for entry in &entries {
                    index.write(entry.line().as_bytes())?;
                }
                output.publish()?;
                index.publish()?;
            }
            Maker::Plain(plain) => {
                let shown_from = cut.map_or(Duration::ZERO, |cut| cut.show_from.saturating_since(zero));
                let ending = plain.finish(shown_from).context("the tables cannot be made")?;
                output.write(&ending.moov)?;
                output.patch(&ending.header)?;
                output.publish()?;
            }
        }
        Ok(path)
    }
}

/// The bit rate and the frame rate are intentions; what has to agree is what the file's head says.
fn same_picture(a: &TrackConfig, b: &TrackConfig) -> bool {
    match (a, b) {
        (TrackConfig::Video(a), TrackConfig::Video(b)) => (a.width, a.height) == (b.width, b.height),
        (TrackConfig::Audio(a), TrackConfig::Audio(b)) => {
            (&a.codec, a.sample_rate, a.channels) == (&b.codec, b.sample_rate, b.channels)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_files_are_numbered() {
        assert_eq!(numbered(Path::new("/a/show.mp4"), 1), Path::new("/a/show.mp4"));
        assert_eq!(numbered(Path::new("/a/show.mp4"), 2), Path::new("/a/show-2.mp4"));
    }
}
