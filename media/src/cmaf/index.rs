//! The index of a recording: what groups it holds, where they lie and what they are.
//!
//! Beside `NAME.mp4` lies `NAME.index`, a text file of one line per finished group:
//!
//! ```text
//! roadie-index 1 1795000000123456 "tour/london" 54ac8e2b
//! # track group frames first-capture digest from-to check
//! 0 7180000123 30 1795000000123456 3f786850e387550fdab836ed7e6dc881 1467-331204 0c1d2e3f
//! ```
//!
//! The first line tells the format's version, the zero of the recording (microseconds since the Unix epoch) and the
//! broadcast as a JSON string. Every line but the remark ends with the CRC-32, in hex, of what stands before its last
//! space: a line that a power cut tore or a disk changed is known as such, and costs one group of the index.
//!
//! **Only whole groups are listed**, and the digest is made of the frames as they came from the encoder, before any
//! disk had them: it is the proof of what was encoded and sent. A group of which this copy had to leave something out
//! has no line.

use std::fmt::Write;
use std::ops::Range;

use super::crc32::crc32;
use super::{Digest, Fragment, GroupDigest};
use crate::{Frame, FrameId, Time, Track, TrackConfig, TrackId};

/// What the first line begins with.
const MAGIC: &str = "roadie-index 1";

/// Longer lines are damaged: a broadcast's name has at most some hundred bytes.
const MAX_LINE: usize = 4096;

/// A group that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupEntry {
    /// The rendition.
    pub track: TrackId,
    /// Its number.
    pub group: u64,
    /// How many frames it has, numbered from 0.
    pub frames: u32,
    /// Capture time of its first frame.
    pub first_capture: Time,
    /// What it is.
    pub digest: Digest,
    /// Where it lies in the file: from the `moof` of its first frame to the end of its last one. Fragments of other
    /// tracks lie in between.
    pub range: Range<u64>,
}

impl GroupEntry {
    /// Its line, with the end of line.
    pub fn line(&self) -> String {
        let Self { track, group, frames, first_capture, digest, range } = self;
        let first = first_capture.as_micros();
        checked(format!("{} {group} {frames} {first} {digest} {}-{}", track.0, range.start, range.end))
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = unchecked(line)?.split(' ');
        let track = TrackId(number(words.next()?)?);
        let (group, frames) = (number(words.next()?)?, number(words.next()?)?);
        let first_capture = Time::from_micros(number(words.next()?)?);
        let digest = words.next()?.parse().ok()?;
        let (from, to) = words.next()?.split_once('-')?;
        let range = number(from)?..number(to)?;
        let sound = words.next().is_none() && frames > 0 && range.start < range.end;
        sound.then_some(Self { track, group, frames, first_capture, digest, range })
    }
}

/// The first lines of an index.
pub fn header(broadcast: &str, zero: Time) -> String {
    // A string: serialisation has no way to fail.
    let name = serde_json::to_string(broadcast).unwrap_or_default();
    let mut text = checked(format!("{MAGIC} {} {name}", zero.as_micros()));
    text.push_str("# track group frames first-capture digest from-to check\n");
    text
}

fn checked(mut line: String) -> String {
    let check = crc32(&[line.as_bytes()]);
    // Writing to a string has no way to fail.
    let _ = writeln!(line, " {check:08x}");
    line
}

fn unchecked(line: &str) -> Option<&str> {
    let (text, check) = line.rsplit_once(' ')?;
    let right = check.len() == 8 && u32::from_str_radix(check, 16) == Ok(crc32(&[text.as_bytes()]));
    right.then_some(text)
}

/// Digits only: `parse` would take a sign too.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// An index as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The broadcast's name.
    pub broadcast: String,
    /// Capture time of the start of the recording.
    pub zero: Time,
    /// Its groups, in the order in which they ended.
    pub groups: Vec<GroupEntry>,
    /// Lines that were damaged, and the torn one at the end.
    pub damaged_lines: u32,
}

/// The text is no index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Damaged, or something else.
    #[error("its first line is damaged, or it is no index of a recording")]
    Header,
    /// Made by a later Roadie.
    #[error("it has a format that this Roadie does not know: use the one that made it")]
    Version,
}

impl Index {
    /// Reads the text of a sidecar. Damaged lines are counted and passed over.
    pub fn parse(text: &[u8]) -> Result<Self, IndexError> {
        let mut lines = text.split_inclusive(|&byte| byte == b'\n');
        let first = lines.next().and_then(whole_line).ok_or(IndexError::Header)?;
        let first = unchecked(first).ok_or(IndexError::Header)?;
        let Some(rest) = first.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(' ')) else {
            return Err(if first.starts_with("roadie-index ") {
                IndexError::Version
            } else {
                IndexError::Header
            });
        };
        let (zero, name) = rest.split_once(' ').ok_or(IndexError::Header)?;
        let zero = Time::from_micros(number(zero).ok_or(IndexError::Header)?);
        let broadcast = serde_json::from_str(name).map_err(|_| IndexError::Header)?;
        let (mut groups, mut damaged_lines) = (Vec::new(), 0);
        for line in lines {
            match whole_line(line) {
                Some(line) if line.starts_with('#') => {}
                line => match line.and_then(GroupEntry::parse) {
                    Some(entry) => groups.push(entry),
                    None => damaged_lines += 1,
                },
            }
        }
        Ok(Self { broadcast, zero, groups, damaged_lines })
    }
}

/// The text of a line, if it has its end.
fn whole_line(line: &[u8]) -> Option<&str> {
    let line = line.strip_suffix(b"\n").filter(|line| line.len() <= MAX_LINE)?;
    std::str::from_utf8(line).ok()
}

/// Follows the frames of a file, as they are written or read, and tells which groups are whole.
///
/// A group is whole when its frames came from number 0 on without a hole, nothing was said to be missing, and it has
/// ended: with the first frame of another group of its track, or with [`Indexer::finish`].
#[derive(Debug)]
pub struct Indexer {
    tracks: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
    id: TrackId,
    config: TrackConfig,
    /// A frame was left out since the last one.
    missing: bool,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    group: u64,
    first_capture: Time,
    next: u32,
    whole: bool,
    digest: GroupDigest,
    range: Range<u64>,
}

impl Indexer {
    /// For a file of these tracks.
    pub fn new(tracks: &[Track]) -> Self {
        let lane =
            |track: &Track| Lane { id: track.id, config: track.config.clone(), missing: false, open: None };
        Self { tracks: tracks.iter().map(lane).collect() }
    }

    /// A frame lies at `range` (of its `moof` and `mdat`). Returns the group of its track that has ended.
    pub fn frame(&mut self, frame: &Frame, range: Range<u64>) -> Option<GroupEntry> {
        let lane = self.tracks.iter_mut().find(|lane| lane.id == frame.id.track)?;
        let ended = lane.turn(frame.id, frame.capture_time, range);
        let Lane { config, open, .. } = lane;
        open.as_mut()?.digest.frame(config, frame);
        ended
    }

    /// The same for a frame that a [`super::Reader`] found; one that is not intact is missing.
    pub fn fragment(&mut self, fragment: &Fragment) -> Option<GroupEntry> {
        if !fragment.intact {
            self.missing(fragment.id.track);
            return None;
        }
        let lane = self.tracks.iter_mut().find(|lane| lane.id == fragment.id.track)?;
        let ended = lane.turn(fragment.id, fragment.capture_time, fragment.range.clone());
        lane.open.as_mut()?.digest.fragment(fragment);
        ended
    }

    /// Frames of this track were left out since its last one.
    pub fn missing(&mut self, track: TrackId) {
        if let Some(lane) = self.tracks.iter_mut().find(|lane| lane.id == track) {
            lane.missing = true;
        }
    }

    /// The end: returns the groups that have not ended by themselves, as far as they are whole.
    pub fn finish(&mut self) -> Vec<GroupEntry> {
        let ended = self.tracks.iter_mut().filter_map(|lane| {
            let missing = std::mem::take(&mut lane.missing);
            lane.open.take().filter(|_| !missing).and_then(|open| open.entry(lane.id))
        });
        ended.collect()
    }
}

impl Lane {
    /// Moves on to a frame. Returns the group that has ended.
    fn turn(&mut self, id: FrameId, capture: Time, range: Range<u64>) -> Option<GroupEntry> {
        let missing = std::mem::take(&mut self.missing);
        if let Some(open) = self.open.as_mut().filter(|open| open.group == id.group) {
            open.whole &= !missing && id.frame == open.next;
            open.next = id.frame.saturating_add(1);
            open.range.end = range.end;
            return None;
        }
        // What is missing may be the end of the last group. Where it is the start of this one, the number says so.
        let ended = self.open.take().filter(|_| !missing).and_then(|open| open.entry(self.id));
        self.open = Some(Open {
            group: id.group,
            first_capture: capture,
            next: id.frame.saturating_add(1),
            whole: id.frame == 0,
            digest: GroupDigest::new(),
            range,
        });
        ended
    }
}

impl Open {
    fn entry(self, track: TrackId) -> Option<GroupEntry> {
        let Self { group, first_capture, whole, digest, range, .. } = self;
        let entry = GroupEntry {
            track,
            group,
            frames: digest.frames(),
            first_capture,
            digest: digest.finish(),
            range,
        };
        whole.then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{AUDIO, SETS, VIDEO, ZERO, picture, show, sound, tracks};
    use super::super::{Item, Reader, Writer};
    use super::*;
    use crate::h264::ParameterSets;

    /// The file of these frames, and its entries as the writer makes them.
    fn written(frames: &[Frame]) -> (Vec<u8>, Vec<GroupEntry>) {
        let sets = vec![(VIDEO, ParameterSets::of(SETS).unwrap())];
        let (mut writer, mut file) = Writer::new("x", &tracks(), sets, ZERO).unwrap();
        let (mut indexer, mut entries) = (Indexer::new(&tracks()), Vec::new());
        for frame in frames {
            let range = writer.fragment(frame, &mut file).unwrap();
            assert_eq!(&file[range.start as usize + 4..][..4], b"moof");
            assert_eq!(range.end, file.len() as u64);
            entries.extend(indexer.frame(frame, range));
        }
        entries.extend(indexer.finish());
        (file, entries)
    }

    fn read(file: &[u8]) -> Vec<GroupEntry> {
        let (mut reader, mut indexer, mut entries) = (Reader::new(), Indexer::new(&tracks()), Vec::new());
        reader.push(file);
        reader.end();
        while let Some(item) = reader.poll() {
            if let Item::Fragment(fragment) = item {
                entries.extend(indexer.fragment(&fragment));
            }
        }
        entries.extend(indexer.finish());
        entries
    }

    #[test]
    fn the_groups_that_were_written_are_the_groups_that_are_read() {
        let (file, entries) = written(&show(12, 15));
        let numbers: Vec<_> =
            entries.iter().map(|entry| (entry.track.0, entry.group, entry.frames)).collect();
        assert_eq!(numbers, [(1, 200, 5), (0, 100, 5), (1, 201, 5), (0, 101, 5), (0, 102, 2), (1, 202, 5)]);
        assert_eq!(entries[1].first_capture, picture(0).capture_time);
        assert_eq!(read(&file), entries);
        // Each range is enough to find the whole group again.
        for entry in &entries {
            let found = read(&file[entry.range.start as usize..entry.range.end as usize]);
            let found =
                found.iter().find(|found| (found.track, found.group) == (entry.track, entry.group)).unwrap();
            assert_eq!((found.digest, found.frames), (entry.digest, entry.frames));
        }
    }

    #[test]
    fn a_group_with_something_missing_is_not_listed() {
        let names = |entries: Vec<GroupEntry>| entries.iter().map(|entry| entry.group).collect::<Vec<_>>();
        // A hole in the middle of a group, and a group that begins late.
        let frames: Vec<_> = (0..20).filter(|n| ![7, 10].contains(n)).map(picture).collect();
        assert_eq!(names(written(&frames).1), [100, 103]);
        // The ends of two groups were left out: only who left them out knows.
        let mut indexer = Indexer::new(&tracks());
        let mut entries = Vec::new();
        for n in (0..3).chain(5..15) {
            if n == 5 {
                indexer.missing(VIDEO);
            }
            entries.extend(indexer.frame(&picture(n), 0..1));
            entries.extend(indexer.frame(&sound(n), 0..1));
        }
        indexer.missing(VIDEO);
        entries.extend(indexer.finish());
        let names: Vec<_> = entries.iter().map(|entry| (entry.track, entry.group)).collect();
        assert_eq!(names, [(AUDIO, 200), (VIDEO, 101), (AUDIO, 201), (AUDIO, 202)]);
    }

    #[test]
    fn text_there_and_back() {
        let (_, groups) = written(&show(12, 15));
        let text: String = std::iter::once(header("tour/\"lön\ndon\"", ZERO))
            .chain(groups.iter().map(GroupEntry::line))
            .collect();
        let index = Index::parse(text.as_bytes()).unwrap();
        let wanted = Index { broadcast: "tour/\"lön\ndon\"".into(), zero: ZERO, groups, damaged_lines: 0 };
        assert_eq!(index, wanted);
    }

    #[test]
    fn damage_costs_the_line_that_it_is_in() {
        let (_, groups) = written(&show(12, 15));
        let head = header("x", ZERO);
        let text: String = std::iter::once(head.clone()).chain(groups.iter().map(GroupEntry::line)).collect();
        for at in 0..text.len() {
            let mut bad = text.clone().into_bytes();
            bad[at] ^= 0x15;
            match Index::parse(&bad) {
                Err(error) => assert!(at < head.len() && error == IndexError::Header),
                Ok(index) => {
                    // A line's end that is gone joins two.
                    assert!(index.groups.len() + 2 >= groups.len() && index.damaged_lines <= 2, "at {at}");
                    assert!(index.groups.iter().all(|entry| groups.contains(entry)));
                }
            }
        }
        for len in 0..text.len() {
            match Index::parse(&text.as_bytes()[..len]) {
                Err(error) => assert!(len < head.len() && error == IndexError::Header),
                Ok(index) => assert_eq!(index.groups, groups[..index.groups.len()]),
            }
        }
        for line in [
            "0 1 0 5 3f786850e387550fdab836ed7e6dc881 1-2",
            "0 1 +1 5 3f786850e387550fdab836ed7e6dc881 1-2",
            "0 1 1 5 3f786850e387550fdab836ed7e6dc881 2-2",
            "0 1 1 5 3f786850e387550fdab836ed7e6dc881 1-2 9",
            "256 1 1 5 3f786850e387550fdab836ed7e6dc881 1-2",
            "",
        ] {
            assert_eq!(GroupEntry::parse(checked(line.into()).trim_end()), None, "{line}");
        }
        assert_eq!(Index::parse(b"ftypmp42"), Err(IndexError::Header));
        assert_eq!(
            Index::parse(checked("roadie-index 2 0 \"x\"".into()).as_bytes()),
            Err(IndexError::Version)
        );
    }
}
