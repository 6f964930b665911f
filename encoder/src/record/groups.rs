//! The groups that a copy holds, for those who read them back while it is being written.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use media::cmaf::GroupEntry;

/// Groups remembered: a day of five a second, 30 MB. Of a longer show the later groups are found in its files only.
const MAX_GROUPS: usize = 432_000;

/// Grows with every group that ends. Locked for a few instructions at a time.
#[derive(Default)]
pub struct GroupLog(Mutex<Log>);

#[derive(Default)]
struct Log {
    files: Vec<PathBuf>,
    /// The position of the file in `files`, and what it holds.
    groups: Vec<(usize, GroupEntry)>,
}

impl GroupLog {
    /// A new file begins. Returns its number.
    pub fn file(&self, path: &Path) -> usize {
        let mut log = self.lock();
        log.files.push(path.to_owned());
        log.files.len() - 1
    }

    /// A group of this file is whole and written.
    pub fn group(&self, file: usize, entry: GroupEntry) {
        let mut log = self.lock();
        if log.groups.len() < MAX_GROUPS {
            log.groups.push((file, entry));
        }
    }

    /// The groups from a position on, each with its file.
    pub fn from(&self, position: usize) -> Vec<(PathBuf, GroupEntry)> {
        let log = self.lock();
        let groups = log.groups.get(position..).unwrap_or_default().iter();
        groups.filter_map(|(file, entry)| Some((log.files.get(*file)?.clone(), entry.clone()))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
