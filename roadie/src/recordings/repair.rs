//! `roadie recordings repair`.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use encoder::record::{RecordingFile, sidecar_path};
use media::cmaf::{self, CmafError, Fragment, Indexer, Writer};

use super::output::{OutputFile, Progress, refuse_existing, sync_folder};
use super::scan::scan;
use super::times;
use super::verify::{needs_repair, original};

/// Mend a recording after a power cut, a crash or a bad disk.
///
/// Every frame whose checksum is right goes into a new file, a plain MP4 with an index beside it. The original is never
/// written to.
#[derive(Args, Debug)]
pub struct Raw {
    /// The recording, NAME.mp4; NAME.repaired.mp4 is made beside it
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The new file gets the name of the original, which is kept as NAME.mp4.orig
    #[arg(long)]
    in_place: bool,
}

pub fn run(raw: &Raw) -> anyhow::Result<()> {
    let file = RecordingFile::open(&raw.file)?;
    if file.is_growing() {
        bail!("{} is being recorded just now: repair it when the show is over", raw.file.display());
    }
    let mut progress = Progress::new("checking");
    let scanned = scan(&file, &mut progress, 0, file.bytes())?;
    drop(progress);
    let problems = needs_repair(&file, &scanned);
    if problems.is_empty() {
        crate::say!("{} is sound: there is nothing to repair.", raw.file.display());
        return Ok(());
    }
    for problem in &problems {
        crate::say!("  {problem}");
    }
    if let Some(error) = scanned.unreadable {
        crate::say!("  what comes after the place that cannot be read is not in the new file ({error})");
    }
    let target = raw.file.with_extension("repaired.mp4");
    let (backup, index_backup) = (original(&raw.file), original(&sidecar_path(&raw.file)));
    if raw.in_place {
        refuse_existing(&backup)?;
        refuse_existing(&index_backup)?;
    }
    let frames = rewrite(&file, &target)?;
    if frames == 0 {
        crate::say!("There is no intact frame in it.");
    }
    if !raw.in_place {
        crate::say!("{}  {}", target.display(), times::count(frames, "frame"));
        return Ok(());
    }
    // A power cut between any two of these leaves both files, under these names.
    let rename = |from: &PathBuf, to: &PathBuf| {
        fs::rename(from, to).with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
    };
    rename(&raw.file, &backup)?;
    let index = sidecar_path(&raw.file);
    if index.exists() {
        rename(&index, &index_backup)?;
    }
    rename(&target, &raw.file)?;
    rename(&sidecar_path(&target), &index)?;
    sync_folder(&raw.file);
    crate::say!(
        "{}  {}; the original is {}",
        raw.file.display(),
        times::count(frames, "frame"),
        backup.display()
    );
    Ok(())
}

/// Copies all intact frames in the order of the file. Returns how many.
pub fn rewrite(file: &RecordingFile, target: &std::path::Path) -> anyhow::Result<u64> {
    let start = file.start();
    let (mut writer, head) =
        Writer::new(&start.broadcast, &start.tracks, start.parameter_sets.clone(), start.zero)?;
    refuse_existing(&sidecar_path(target))?;
    let mut output = OutputFile::create(target)?;
    output.write(&head)?;
    let (mut indexer, mut entries) = (Indexer::new(&start.tracks), Vec::new());
    let mut progress = Progress::new("repairing");
    let mut fragments = file.fragments()?;
    let (mut buffer, mut frames) = (Vec::new(), 0);
    // An error of the disk was told: what came before it is saved.
    while let Some(Ok(fragment)) = fragments.next() {
        progress.at(1.0 - fragments.bytes_left() as f64 / file.bytes().max(1) as f64);
        if !fragment.intact {
            indexer.missing(fragment.id.track);
            continue;
        }
        buffer.clear();
        match writer.copy(&fragment, &mut buffer) {
            Ok(range) => {
                output.write(&buffer)?;
                entries.extend(indexer.fragment(&Fragment { range, ..fragment }));
                frames += 1;
            }
            Err(error @ (CmafError::UnknownTrack(_) | CmafError::BeforeStart)) => {
                // A checksum that is right by chance, or a file of a program that does not exist yet.
                tracing::warn!(%error, "a frame is left out");
                indexer.missing(fragment.id.track);
            }
            Err(error) => return Err(error.into()),
        }
    }
    entries.extend(indexer.finish());
    // What was encoded is known better than what is left of it.
    if let Ok(index) = file.sidecar() {
        let known: HashMap<_, _> =
            index.groups.iter().map(|entry| ((entry.track, entry.group), entry.digest)).collect();
        entries.retain(|entry| {
            known.get(&(entry.track, entry.group)).is_none_or(|digest| *digest == entry.digest)
        });
    }
    output.patch(&writer.duration_patch())?;
    if let Some(ending) = writer.finish() {
        output.write(&ending.moov)?;
        output.patch(&ending.header)?;
    }
    let mut index = OutputFile::create(&sidecar_path(target))?;
    index.write(cmaf::index::header(&start.broadcast, start.zero).as_bytes())?;
    for entry in &entries {
        index.write(entry.line().as_bytes())?;
    }
    output.publish()?;
    index.publish()?;
    Ok(frames)
}
