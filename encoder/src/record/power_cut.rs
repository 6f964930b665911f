//! A power cut at any moment: what was written since the last sync may be on the disk or not, in whole or in part, in
//! any order, torn where a sector ends.
//!
//! A real recorder writes to a disk that notes every write and every sync. Thousands of disks are then made of that
//! note, each as some power cut could have left it, and read like any other file.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use media::cmaf::{Index, Indexer, Item, Reader};
use media::{Frame, FrameId};

use super::disk::{Disk, Output};
use super::space::Space;
use super::tests::{picture, sound, tracks};
use super::{RecordState, Recorder, sidecar_path};

/// What a disk writes at once.
const SECTOR: usize = 512;

/// Pictures of ten a second, recorded in real time, because the syncs are.
const PICTURES: u32 = 26;

const CASES: u64 = 4000;

#[derive(Clone, Debug)]
enum Op {
    /// To the recording (0) or its index (1).
    Write {
        file: usize,
        at: u64,
        data: Vec<u8>,
    },
    SyncBegun {
        file: usize,
        number: usize,
    },
    SyncDone {
        number: usize,
    },
}

#[derive(Clone, Default)]
struct Noting {
    ops: Arc<Mutex<Vec<Op>>>,
}

impl Noting {
    fn note(&self, op: impl FnOnce(&[Op]) -> Op) {
        let mut ops = self.ops.lock().unwrap();
        let op = op(&ops);
        ops.push(op);
    }
}

impl Disk for Noting {
    fn create(&self, _: &str) -> io::Result<(PathBuf, Arc<dyn Output>)> {
        Ok((PathBuf::from("/disk/x.mp4"), Arc::new(NotingFile { disk: self.clone(), file: 0 })))
    }

    fn create_index(&self, recording: &Path) -> io::Result<Arc<dyn Output>> {
        assert_eq!(sidecar_path(recording), Path::new("/disk/x.index"));
        Ok(Arc::new(NotingFile { disk: self.clone(), file: 1 }))
    }

    fn discard(&self, _: &Path) {
        unreachable!("it has room");
    }

    fn space(&self) -> io::Result<Space> {
        Ok(Space { free: 1 << 40, total: 1 << 41 })
    }
}

struct NotingFile {
    disk: Noting,
    file: usize,
}

/// How long a file is after these writes.
fn length(ops: &[Op], wanted: usize) -> u64 {
    let end = |op: &Op| match op {
        Op::Write { file, at, data } if *file == wanted => at + data.len() as u64,
        _ => 0,
    };
    ops.iter().map(end).max().unwrap_or(0)
}

impl Output for NotingFile {
    fn append(&self, data: &[u8]) -> io::Result<()> {
        let file = self.file;
        self.disk.note(|ops| Op::Write { file, at: length(ops, file), data: data.to_vec() });
        Ok(())
    }

    fn replace(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.disk.note(|_| Op::Write { file: self.file, at, data: data.to_vec() });
        Ok(())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        unreachable!("no write fails");
    }

    fn sync(&self) -> io::Result<()> {
        let mut number = 0;
        self.disk.note(|ops| {
            number = ops.len();
            Op::SyncBegun { file: self.file, number }
        });
        // A flash disk needs some time, in which the writer goes on.
        std::thread::sleep(Duration::from_millis(15));
        self.disk.note(|_| Op::SyncDone { number });
        Ok(())
    }

    fn is_removed(&self) -> io::Result<bool> {
        Ok(false)
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

/// Records in real time. Returns what was done to the disk, and the frames.
fn record() -> (Vec<Op>, Vec<Frame>) {
    let disk = Noting::default();
    let recorder = Recorder::start_on(disk.clone(), Path::new("/disk"), "x", &tracks()).unwrap();
    let started = Instant::now();
    let mut frames = Vec::new();
    for n in 0..PICTURES {
        for frame in
            [picture(n), Frame { id: FrameId { frame: n, ..sound(0).id }, ..sound(i64::from(n) * 100 + 3) }]
        {
            std::thread::sleep((Duration::from_millis(100) * n).saturating_sub(started.elapsed()));
            recorder.write(&frame);
            frames.push(frame);
        }
    }
    let status = recorder.finish();
    assert_eq!((status.state, status.dropped), (RecordState::Recording, 0));
    (
        Arc::try_unwrap(disk.ops)
            .map_or_else(|ops| ops.lock().unwrap().clone(), |ops| ops.into_inner().unwrap()),
        frames,
    )
}

/// The two files as a power cut after so many operations may leave them, and how many of these were sure by then.
fn cut(ops: &[Op], at: usize, random: &mut Random) -> ([Vec<u8>; 2], [usize; 2]) {
    let ops = &ops[..at];
    let sure = [0, 1].map(|wanted| {
        let done = |number: &usize| {
            ops.iter().any(|op| matches!(op, Op::SyncDone { number: done } if done == number))
        };
        let begun = ops.iter().filter_map(|op| match op {
            Op::SyncBegun { file, number } if *file == wanted && done(number) => Some(*number),
            _ => None,
        });
        begun.max().unwrap_or(0)
    });
    let mut files = [Vec::new(), Vec::new()];
    let mut pending = Vec::new();
    for (number, op) in ops.iter().enumerate() {
        let Op::Write { file, at, data } = op else { continue };
        if number < sure[*file] {
            put(&mut files[*file], *at as usize, data);
        } else {
            pending.push((*file, *at as usize, data.as_slice()));
        }
    }
    // How much of the rest the disk got to, of every write a few sectors.
    let likely = random.below(5);
    while !pending.is_empty() {
        let (file, at, data) = pending.swap_remove(random.below(pending.len()));
        let mut from = 0;
        while from < data.len() {
            let to = (((at + from) / SECTOR + 1) * SECTOR - at).min(data.len());
            if random.below(4) < likely {
                put(&mut files[file], at + from, &data[from..to]);
            }
            from = to;
        }
    }
    (files, sure)
}

/// What lies before it and was never written is zeros.
fn put(file: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[at..end].copy_from_slice(data);
}

/// The intact frames, and what an index made from them lists.
fn read(file: &[u8]) -> (BTreeSet<FrameId>, Vec<(u8, u64, u32)>) {
    let (mut reader, mut indexer) = (Reader::new(), Indexer::new(&tracks()));
    let (mut names, mut groups) = (BTreeSet::new(), Vec::new());
    reader.push(file);
    reader.end();
    while let Some(item) = reader.poll() {
        let Item::Fragment(fragment) = item else { continue };
        groups.extend(indexer.fragment(&fragment));
        if fragment.intact {
            names.insert(fragment.id);
        }
    }
    groups.extend(indexer.finish());
    (names, groups.iter().map(|entry| (entry.track.0, entry.group, entry.frames)).collect())
}

#[test]
fn a_power_cut_costs_what_was_not_synced_and_nothing_before_it() {
    let (ops, frames) = record();
    // The frames in the order in which they were written, each with the number of its operation.
    let mut writes: Vec<usize> = Vec::new();
    for (number, op) in ops.iter().enumerate() {
        if let Op::Write { file: 0, data, .. } = op
            && data.windows(4).any(|kind| kind == b"moof")
        {
            writes.push(number);
        }
    }
    assert_eq!(writes.len(), frames.len(), "one write for each frame");
    let syncs = ops.iter().filter(|op| matches!(op, Op::SyncBegun { file: 0, .. })).count();
    assert!(syncs >= 4, "{syncs} syncs in {PICTURES} tenths of a second");
    let (mut worst, mut plain) = (Duration::ZERO, 0);
    for seed in 0..CASES {
        let mut random = Random(seed);
        let at = random.below(ops.len() + 1);
        let ([file, index], [sure, _]) = cut(&ops, at, &mut random);
        let (found, _) = read(&file);
        // Nothing that was synced is missing, and nothing is there that was never written.
        let written = writes.iter().filter(|number| **number < at).count();
        let safe = writes.iter().filter(|number| **number < sure).count();
        for frame in &frames[..safe] {
            assert!(found.contains(&frame.id), "seed {seed}: {:?} was synced and is lost", frame.id);
        }
        for id in &found {
            assert!(
                frames[..written].iter().any(|frame| frame.id == *id),
                "seed {seed}: {id:?} was never written"
            );
        }
        // Between two syncs lies half a second of the show and what the sync itself takes.
        let time = |count: usize| frames[..count].last().map(|frame| frame.capture_time);
        if let (Some(safe), Some(written)) = (time(safe), time(written)) {
            worst = worst.max(written.saturating_since(safe));
        }
        // What the index lists of what was synced is there: a repair has nothing to guess.
        let listed = Index::parse(&index).map(|index| index.groups).unwrap_or_default();
        for entry in listed.iter().filter(|entry| entry.range.end <= length(&ops[..sure], 0)) {
            let (start, end) = (entry.range.start as usize, entry.range.end as usize);
            let (_, groups) = read(&file[start..end]);
            let wanted = (entry.track.0, entry.group, entry.frames);
            assert!(groups.contains(&wanted), "seed {seed}: {wanted:?} is not where the index says");
        }
        // A header that says that the file was finished comes with all its tables.
        if let Some(header) = file.windows(8).position(|bytes| bytes == b"\0\0\0\x01mdat") {
            plain += 1;
            let size = u64::from_be_bytes(file[header + 8..header + 16].try_into().unwrap());
            let tables = header + size as usize;
            assert_eq!(&file[tables + 4..tables + 8], b"moov", "seed {seed}");
            assert_eq!(found.len(), frames.len(), "seed {seed}");
        }
    }
    assert!(plain > 0, "some power cuts come after the end");
    println!("{CASES} power cuts: at most {} ms of the show were not synced", worst.as_millis());
}
