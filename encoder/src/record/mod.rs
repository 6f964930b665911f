//! One copy of the show on one disk.

use std::path::{Path, PathBuf};

use media::{Frame, Track};

/// How a copy is doing.
#[derive(Clone, Debug, PartialEq)]
pub enum RecordState {
    /// All frames are written.
    Recording,
    /// Some frames are missing in this copy.
    Degraded {
        /// Why.
        reason: String,
    },
    /// This copy has ended.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What is known about a copy.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordStatus {
    /// The file, or the directory where there is no file.
    pub path: PathBuf,
    /// Bytes written.
    pub bytes: u64,
    /// Length of the recorded show.
    pub seconds: f64,
    /// Video frames written.
    pub frames: u64,
    /// How it is doing.
    pub state: RecordState,
}

/// Why a recording cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The directory cannot be used.
    #[error("cannot record to {}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
}

/// Writes one copy.
pub struct Recorder {
    path: PathBuf,
}

impl Recorder {
    /// Starts a copy in `dir`.
    pub fn start(dir: &Path, _broadcast: &str, _tracks: &[Track]) -> Result<Recorder, RecordError> {
        std::fs::create_dir_all(dir).map_err(|source| RecordError::Io { path: dir.into(), source })?;
        Ok(Recorder { path: dir.into() })
    }

    /// Takes a frame; never blocks.
    pub fn write(&self, _frame: &Frame) {}

    /// How it is doing.
    pub fn status(&self) -> RecordStatus {
        RecordStatus {
            path: self.path.clone(),
            bytes: 0,
            seconds: 0.0,
            frames: 0,
            state: RecordState::Recording,
        }
    }

    /// Ends the copy.
    pub fn finish(self) -> RecordStatus {
        self.status()
    }
}
