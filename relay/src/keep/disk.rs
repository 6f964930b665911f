//! What is on the edge's disk already, and whether it takes more.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use media::cmaf::{Digest, Index};

use super::KeepError;
use crate::backfill::{GroupId, MAX_GROUPS};

/// A longer index is not one of ours: [`MAX_GROUPS`] lines of 100 bytes.
const MAX_INDEX: u64 = 64 << 20;

/// The first line of an index is not longer than this.
const MAX_HEADER: u64 = 4096;

/// A disk that failed is used again when it takes so much: a few groups.
const PROBE: usize = 4 << 20;

/// Creates the directory where it is missing, and tries it out.
pub(super) fn prepare(dir: &Path) -> Result<(), KeepError> {
    let path = || dir.to_owned();
    fs::create_dir_all(dir).map_err(|source| match source.kind() {
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => KeepError::NotADirectory { path: path() },
        _ => KeepError::Create { path: path(), source },
    })?;
    try_out(dir, 1).map_err(|source| KeepError::NotWritable { path: path(), source })
}

/// Whether the disk takes something again.
pub(super) fn recovered(dir: &Path) -> io::Result<()> {
    try_out(dir, PROBE)
}

/// Writes and removes a file of `len` bytes.
fn try_out(dir: &Path, len: usize) -> io::Result<()> {
    // The process id keeps two relays apart; a file left by a crash is simply used again.
    let probe = dir.join(format!(".roadie-write-test-{}", std::process::id()));
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&probe)?;
    let written = file.write_all(&vec![0; len]).and_then(|()| file.sync_data());
    drop(file);
    match fs::remove_file(&probe) {
        // Another show's task was faster.
        Err(error) if error.kind() != ErrorKind::NotFound => written.and(Err(error)),
        _ => written,
    }
}

/// The groups of a broadcast that are on the disk whole, by the indexes of all its files. A file that is shorter
/// than its index says lacks those groups.
pub(super) fn kept(dir: &Path, broadcast: &str) -> BTreeMap<GroupId, Digest> {
    let mut kept = BTreeMap::new();
    let files = match fs::read_dir(dir) {
        Ok(files) => files,
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "cannot see what was kept before");
            return kept;
        }
    };
    let indexes = files.filter_map(|file| Some(file.ok()?.path()));
    for path in indexes.filter(|path| path.extension() == Some(OsStr::new("index"))) {
        match read(&path, broadcast) {
            Ok(Some((index, len))) => {
                for entry in index.groups.iter().filter(|entry| entry.range.end <= len) {
                    if kept.len() < MAX_GROUPS {
                        kept.insert(GroupId { track: entry.track, group: entry.group }, entry.digest);
                    }
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "an index that cannot be used"),
        }
    }
    kept
}

/// An index of this broadcast, and how long its recording is. `None`: it is another broadcast's.
fn read(path: &PathBuf, broadcast: &str) -> io::Result<Option<(Index, u64)>> {
    let other = |error| io::Error::new(ErrorKind::InvalidData, error);
    let mut file = BufReader::new(File::open(path)?);
    let mut text = Vec::new();
    file.by_ref().take(MAX_HEADER).read_until(b'\n', &mut text)?;
    if Index::parse(&text).map_err(other)?.broadcast != broadcast {
        return Ok(None);
    }
    file.take(MAX_INDEX).read_to_end(&mut text)?;
    let len = fs::metadata(path.with_extension("mp4"))?.len();
    Ok(Some((Index::parse(&text).map_err(other)?, len)))
}
