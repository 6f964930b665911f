//! Groups come back from the disks as they were encoded: while they are recorded, afterwards, and from copies that
//! are damaged in different places.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use media::cmaf::GroupEntry;
use media::{Frame, Time, TrackId};
use roadie_encoder::FrameSink;
use roadie_encoder::record::{Archive, ArchiveError, Recorder, RecordingFile, sidecar_path};
use roadie_encoder::tap::Tap;

use crate::fixture::{AUDIO, VIDEO, assert_same, show, tracks};

fn frames_of(frames: &[Frame], track: TrackId, group: u64) -> Vec<Frame> {
    frames.iter().filter(|frame| frame.id.track == track && frame.id.group == group).cloned().collect()
}

fn assert_right(archive: &Archive, entry: &GroupEntry, frames: &[Frame]) {
    let wanted = frames_of(frames, entry.track, entry.group);
    let found = archive.read(entry.track, entry.group).unwrap();
    assert_eq!((found.len(), entry.frames as usize), (wanted.len(), wanted.len()));
    assert_eq!(entry.first_capture, wanted[0].capture_time);
    found.iter().zip(&wanted).for_each(|(found, wanted)| assert_same(found, wanted));
}

/// Two finished copies of the same show.
fn two_copies(base: &Path, frames: &[Frame]) -> [PathBuf; 2] {
    ["a", "b"].map(|name| {
        let recorder = Recorder::start(&base.join(name), "tour/london", &tracks()).unwrap();
        frames.iter().for_each(|frame| recorder.write(frame));
        recorder.finish().path
    })
}

/// One byte of the payload of one frame.
fn damage(path: &Path, track: TrackId, group: u64, frame: u32) {
    let file = RecordingFile::open(path).unwrap();
    let groups = file.contents().unwrap().groups;
    let entry = groups.iter().find(|entry| (entry.track, entry.group) == (track, group)).unwrap();
    let end = file.group(entry.range.clone(), track, group).unwrap()[&frame].range.end as usize;
    let mut data = fs::read(path).unwrap();
    data[end - 3] ^= 0x10;
    fs::write(path, data).unwrap();
}

#[test]
fn groups_can_be_read_while_the_show_is_recorded() {
    let base = tempfile::tempdir().unwrap();
    let (mut tap, handle) =
        Tap::new(vec![base.path().join("a"), base.path().join("b")], "tour/london".into(), Arc::new(|| ()));
    let archive = Archive::live(&handle.status());
    assert!(archive.finished(0).is_empty() && archive.tracks().is_empty());
    tap.tracks(&tracks());
    let frames = show(2);
    for (n, frame) in frames.iter().enumerate() {
        tap.frame(frame.clone(), Time::ZERO);
        // A recorder that is still opening its file keeps a few seconds only, and these go faster than that.
        while n == 10 && handle.recordings().iter().any(|copy| copy.frames == 0) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    // Of six seconds, the last group of each track is still open.
    let patience = Instant::now() + Duration::from_secs(20);
    while archive.finished(0).len() < 5 + 11 {
        assert!(Instant::now() < patience, "{}", archive.finished(0).len());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(archive.tracks(), tracks());
    let entries = archive.finished(0);
    entries.iter().for_each(|entry| assert_right(&archive, entry, &frames));
    assert_eq!(archive.finished(3), entries[3..]);
    assert!(matches!(archive.read(VIDEO, 5), Err(ArchiveError::Unknown { .. })));
    // Everything is there when the show is over, and nothing twice.
    drop(tap);
    let entries = archive.finished(0);
    assert_eq!(entries.len(), 6 + 12);
    entries.iter().for_each(|entry| assert_right(&archive, entry, &frames));
    // From the disks the same.
    let from_disk = Archive::open(&[base.path().join("a"), base.path().join("b")], "tour/london").unwrap();
    assert_eq!(from_disk.finished(0), entries);
    assert!(matches!(
        Archive::open(&[base.path().join("a")], "tour/paris"),
        Err(ArchiveError::NoRecording { .. })
    ));
}

#[test]
fn two_damaged_copies_make_one_whole_group() {
    let base = tempfile::tempdir().unwrap();
    let frames = show(1);
    let [a, b] = two_copies(base.path(), &frames);
    damage(&a, VIDEO, 1, 7);
    damage(&b, VIDEO, 1, 20);
    damage(&a, AUDIO, 2, 3);
    let archive = Archive::open(&[a.clone(), b.clone()], "tour/london").unwrap();
    let entries = archive.finished(0);
    assert_eq!(entries.len(), 3 + 6);
    entries.iter().for_each(|entry| assert_right(&archive, entry, &frames));
    damage(&b, AUDIO, 2, 3);
    let error = archive.read(AUDIO, 2).unwrap_err();
    assert!(
        matches!(error, ArchiveError::Damaged { .. }) && error.to_string().contains("24 of 25"),
        "{error}"
    );
}

#[test]
fn a_lost_or_damaged_index_is_made_again_from_the_file() {
    let base = tempfile::tempdir().unwrap();
    let [a, b] = two_copies(base.path(), &show(1));
    let groups = |path: &Path| {
        let mut groups = RecordingFile::open(path).unwrap().contents().unwrap().groups;
        groups.sort_by_key(|entry| (entry.track, entry.group));
        groups
    };
    let right = groups(&a);
    fs::remove_file(sidecar_path(&b)).unwrap();
    assert_eq!(groups(&b), right);
    let text = fs::read(sidecar_path(&a)).unwrap();
    for len in (0..text.len()).step_by(37) {
        fs::write(sidecar_path(&b), &text[..len]).unwrap();
        assert_eq!(groups(&b), right, "cut at {len}");
    }
    for at in (0..text.len()).step_by(41) {
        let mut bad = text.clone();
        bad[at] ^= 0x11;
        fs::write(sidecar_path(&b), bad).unwrap();
        assert_eq!(groups(&b), right, "wrong at {at}");
    }
}

#[test]
fn a_file_that_was_cut_off_lists_what_it_has() {
    let base = tempfile::tempdir().unwrap();
    let frames = show(1);
    let [a, _] = two_copies(base.path(), &frames);
    let whole = RecordingFile::open(&a).unwrap();
    assert!(whole.is_finished() && !whole.is_growing());
    let entries = whole.contents().unwrap();
    assert_eq!(
        (entries.groups.len(), entries.end),
        (9, frames[0].capture_time + Duration::from_millis(3005))
    );
    let last = entries.groups.iter().find(|entry| (entry.track, entry.group) == (VIDEO, 2)).unwrap();
    let pieces = whole.group(last.range.clone(), VIDEO, 2).unwrap();
    // In the middle of the eleventh picture of the last group.
    let data = fs::read(&a).unwrap();
    fs::write(&a, &data[..pieces[&10].range.end as usize - 5]).unwrap();
    let cut = RecordingFile::open(&a).unwrap();
    assert!(!cut.is_finished());
    let contents = cut.contents().unwrap();
    let tail = contents.groups.iter().find(|entry| (entry.track, entry.group) == (VIDEO, 2)).unwrap();
    assert_eq!(tail.frames, 10, "it has ended, as it can get no more");
    assert_eq!(contents.groups.iter().filter(|entry| entry.track == VIDEO).count(), 3);
}

#[test]
fn a_file_that_is_being_recorded_is_known_as_such() {
    let base = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(base.path(), "tour/london", &tracks()).unwrap();
    show(1).iter().for_each(|frame| recorder.write(frame));
    let patience = Instant::now() + Duration::from_secs(20);
    while recorder.status().frames < 90 {
        assert!(Instant::now() < patience, "{:?}", recorder.status());
        std::thread::sleep(Duration::from_millis(5));
    }
    let file = RecordingFile::open(&recorder.status().path).unwrap();
    assert!(file.is_growing() && !file.is_finished());
    assert_eq!(file.contents().unwrap().groups.len(), 2 + 5, "the last ones may go on");
    let path = recorder.finish().path;
    let file = RecordingFile::open(&path).unwrap();
    assert!(!file.is_growing() && file.is_finished());
}

/// Whatever happened to a file, it is read without a panic, and no frame is taken for what it is not.
#[test]
fn damage_of_every_kind_is_survived() {
    let base = tempfile::tempdir().unwrap();
    let frames = show(1);
    let [a, _] = two_copies(base.path(), &frames);
    let (good, index) = (fs::read(&a).unwrap(), fs::read(sidecar_path(&a)).unwrap());
    for seed in 0..300u64 {
        let mut state = seed;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below.max(1)
        };
        let (mut data, mut text) = (good.clone(), index.clone());
        for _ in 0..=random(4) {
            let (at, len) = (random(data.len()), random(5000));
            let end = (at + len).min(data.len());
            match random(4) {
                0 => data.truncate(at),
                1 => data[at..end].fill(0),
                2 => data[at..end].reverse(),
                _ if at < data.len() => data[at] ^= 1 << random(8),
                _ => {}
            }
        }
        if random(2) == 0 {
            let at = random(text.len());
            text[at] = random(256) as u8;
        }
        fs::write(&a, data).unwrap();
        fs::write(sidecar_path(&a), text).unwrap();
        let Ok(file) = RecordingFile::open(&a) else { continue };
        let start = file.start().clone();
        for fragment in file.fragments().unwrap() {
            let fragment = fragment.unwrap();
            if fragment.intact
                && start.tracks == tracks()
                && let Some(found) = start.restore(&fragment)
            {
                let frame = frames.iter().find(|frame| frame.id == found.id);
                let frame = frame.unwrap_or_else(|| panic!("seed {seed}: {:?} was never encoded", found.id));
                assert_eq!(found.capture_time, frame.capture_time, "seed {seed}");
            }
        }
        let Ok(archive) = Archive::of_files(vec![file]) else { continue };
        for entry in archive.finished(0) {
            if let Ok(found) = archive.read(entry.track, entry.group) {
                assert_eq!(found.len(), entry.frames as usize, "seed {seed}");
            }
        }
    }
}
