//! Files that are made: under a temporary name until they are whole, and never over another one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use media::cmaf::Patch;

/// What is written at once.
const BUFFER: usize = 1 << 20;

/// Characters of the progress bar.
const BAR: usize = 30;

/// How often it is drawn.
const REFRESH: Duration = Duration::from_millis(100);

/// A file in the making. Dropped before [`OutputFile::publish`] it is removed.
pub struct OutputFile {
    path: PathBuf,
    temporary: PathBuf,
    writer: BufWriter<File>,
    published: bool,
}

impl OutputFile {
    /// Begins a file that will be called `path`.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        refuse_existing(path)?;
        let mut name =
            path.file_name().with_context(|| format!("{} is no file name", path.display()))?.to_owned();
        name.push(".part");
        let temporary = path.with_file_name(name);
        let open = || {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&temporary)?;
            // What an interrupted run left behind is used again; what another run writes is not.
            match file.try_lock() {
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(io::Error::new(ErrorKind::ResourceBusy, "another run is writing it"));
                }
                Err(fs::TryLockError::Error(_)) | Ok(()) => {}
            }
            file.set_len(0)?;
            Ok(file)
        };
        let file = open().with_context(|| format!("cannot write {}", temporary.display()))?;
        Ok(Self {
            path: path.to_owned(),
            temporary,
            writer: BufWriter::with_capacity(BUFFER, file),
            published: false,
        })
    }

    /// What it will be called.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.writer.write_all(bytes).map_err(|error| self.explain(error))
    }

    /// Replaces bytes that were written before.
    pub fn patch(&mut self, patch: &Patch) -> anyhow::Result<()> {
        let patched =
            self.writer.flush().and_then(|()| self.writer.get_ref().write_all_at(&patch.bytes, patch.at));
        patched.map_err(|error| self.explain(error))
    }

    /// Gives it its name, when it is safe on the disk.
    pub fn publish(mut self) -> anyhow::Result<()> {
        let synced = self.writer.flush().and_then(|()| self.writer.get_ref().sync_all());
        synced.map_err(|error| self.explain(error))?;
        refuse_existing(&self.path)?;
        fs::rename(&self.temporary, &self.path)
            .with_context(|| format!("cannot give {} its name", self.path.display()))?;
        self.published = true;
        sync_folder(&self.path);
        Ok(())
    }

    fn explain(&self, error: io::Error) -> anyhow::Error {
        let path = self.path.display();
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                anyhow::anyhow!(
                    "the disk is full: {path} was not made; free some space, or write to another disk"
                )
            }
            _ => anyhow::Error::new(error).context(format!("cannot write {path}")),
        }
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if !self.published {
            // It is of no use, and the error that led here was told.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Nothing is ever overwritten.
pub fn refuse_existing(path: &Path) -> anyhow::Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        bail!("{} is there already: choose another name, or move it away", path.display());
    }
    Ok(())
}

/// A new name survives a power cut, where the disk can promise it.
pub fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
        tracing::debug!(%error, "the folder is not synced");
    }
}

/// A bar on a terminal, nothing elsewhere.
pub struct Progress {
    what: &'static str,
    terminal: bool,
    drawn: Option<Instant>,
}

impl Progress {
    /// Of this work.
    pub fn new(what: &'static str) -> Self {
        Self { what, terminal: io::stderr().is_terminal(), drawn: None }
    }

    /// So much is done, of 1.
    pub fn at(&mut self, share: f64) {
        if !self.terminal || self.drawn.is_some_and(|drawn| drawn.elapsed() < REFRESH) {
            return;
        }
        self.drawn = Some(Instant::now());
        let share = share.clamp(0.0, 1.0);
        let full = (share * BAR as f64) as usize;
        let bar: String = (0..BAR).map(|n| if n < full { '█' } else { '░' }).collect();
        eprint!("\r{} {bar} {:3.0} %", self.what, share * 100.0);
        let _ = io::stderr().flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}
