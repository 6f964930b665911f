//! Where files are made. A trait, so that tests can have a disk that is full, blocked or gone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::space::Space;

/// Files of the same broadcast that began in the same second.
const MAX_NAMESAKES: u32 = 1000;

/// A place for files. Every call may block for as long as the disk likes.
pub trait Disk: Send + Sync + 'static {
    /// Makes a new file named after `stem`.
    fn create(&self, stem: &str) -> io::Result<(PathBuf, Arc<dyn Output>)>;
    /// Makes the file that lies beside a recording and tells what is in it.
    fn create_index(&self, recording: &Path) -> io::Result<Arc<dyn Output>>;
    /// Removes a file of which nothing is worth keeping.
    fn discard(&self, path: &Path);
    /// What room there is.
    fn space(&self) -> io::Result<Space>;
}

/// A file being written. The writer thread appends while the sync thread syncs.
pub trait Output: Send + Sync {
    /// Appends in one write.
    fn append(&self, data: &[u8]) -> io::Result<()>;
    /// Replaces bytes that are there, in one write.
    fn replace(&self, at: u64, data: &[u8]) -> io::Result<()>;
    /// Cuts off what follows.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Returns when the file (and its name) would survive a power cut.
    fn sync(&self) -> io::Result<()>;
    /// Nothing more is appended: readers may take the file as it is.
    fn release(&self) {}
    /// Whether the file has lost its name: what is written now will never be seen.
    fn is_removed(&self) -> io::Result<bool>;
}

/// A directory.
pub struct Directory {
    dir: PathBuf,
    /// A disk of its own is mounted there.
    mounted: bool,
}

impl Directory {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), mounted: is_mount_point(dir) }
    }

    fn open(&self, path: &Path, options: &mut OpenOptions) -> io::Result<RecordFile> {
        let file = options.write(true).open(path)?;
        Ok(RecordFile { file, dir: self.dir.clone(), name_is_safe: AtomicBool::new(false) })
    }
}

fn is_mount_point(dir: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).ok().map(|found| found.dev());
    let parent = fs::canonicalize(dir).ok().and_then(|dir| dir.parent().and_then(device));
    parent.is_some() && device(dir).is_some() && parent != device(dir)
}

impl Disk for Directory {
    fn create(&self, stem: &str) -> io::Result<(PathBuf, Arc<dyn Output>)> {
        if self.mounted && !is_mount_point(&self.dir) {
            // The empty directory below it is on another disk, which this show must not fill.
            return Err(io::Error::new(ErrorKind::NotFound, "the disk is not mounted any more"));
        }
        for number in 1..=MAX_NAMESAKES {
            let name = if number == 1 { format!("{stem}.mp4") } else { format!("{stem}-{number}.mp4") };
            let path = self.dir.join(name);
            match self.open(&path, OpenOptions::new().create_new(true)) {
                Ok(output) => {
                    // Tells readers that the file still grows. Where a disk knows no locks they cannot see it.
                    if let Err(error) = output.file.try_lock() {
                        tracing::debug!(path = %path.display(), %error, "no lock");
                    }
                    return Ok((path, Arc::new(output)));
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(
            ErrorKind::AlreadyExists,
            format!("{MAX_NAMESAKES} files are named {stem} already"),
        ))
    }

    fn create_index(&self, recording: &Path) -> io::Result<Arc<dyn Output>> {
        // The recording was made just now: an index of its name is left over from one that is gone.
        let options = &mut OpenOptions::new();
        Ok(Arc::new(self.open(&super::sidecar_path(recording), options.create(true).truncate(true))?))
    }

    fn space(&self) -> io::Result<Space> {
        let found = rustix::fs::statvfs(&self.dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Space { free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
    }

    fn discard(&self, path: &Path) {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "an empty recording stays behind");
        }
    }
}

struct RecordFile {
    file: File,
    dir: PathBuf,
    /// Whether the directory was synced since the file was made.
    name_is_safe: AtomicBool,
}

impl Output for RecordFile {
    fn append(&self, data: &[u8]) -> io::Result<()> {
        // One write call, unless the disk takes only a part: then the second one says why.
        (&self.file).write_all(data)
    }

    fn replace(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, at)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        if !self.name_is_safe.load(Relaxed) {
            File::open(&self.dir)?.sync_all()?;
            self.name_is_safe.store(true, Relaxed);
        }
        Ok(())
    }

    fn release(&self) {
        if let Err(error) = self.file.unlock() {
            tracing::debug!(%error, "the lock goes with the file");
        }
    }

    fn is_removed(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Directory::new(dir.path());
        let names: Vec<_> = (0..3).map(|_| disk.create("demo-1").unwrap().0).collect();
        assert_eq!(names, ["demo-1.mp4", "demo-1-2.mp4", "demo-1-3.mp4"].map(|name| dir.path().join(name)));
    }

    #[test]
    fn a_removed_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = Directory::new(dir.path()).create("x").unwrap();
        file.append(b"abc").unwrap();
        file.sync().unwrap();
        assert!(!file.is_removed().unwrap());
        fs::remove_file(path).unwrap();
        assert!(file.is_removed().unwrap());
        assert!(file.append(b"abc").is_ok(), "the system does not mind, so we have to look");
    }
}
