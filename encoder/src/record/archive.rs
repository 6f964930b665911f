//! Groups read back from the copies of a show, while they are being written too.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use media::cmaf::{Digest, GroupDigest, GroupEntry};
use media::{Frame, Track, TrackId};

use super::file::{FileError, Pieces, RecordingFile, recordings_in};
use crate::MASTER_TRACK;
use crate::tap::TapStatus;

/// Why a group cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// A file or directory cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Nothing of this show is here.
    #[error("no recording of {broadcast:?} in {places}: `roadie recordings list` shows what there is")]
    NoRecording {
        /// The show's name.
        broadcast: String,
        /// Where was looked.
        places: String,
    },
    /// It was never finished in any copy.
    #[error("group {group} of track {} is in no copy", track.0)]
    Unknown {
        /// The rendition.
        track: TrackId,
        /// The number.
        group: u64,
    },
    /// It is damaged in every copy, and the copies together do not make it whole either.
    #[error("group {group} of track {} is damaged in every copy ({reason}): `roadie recordings verify` says where", track.0)]
    Damaged {
        /// The rendition.
        track: TrackId,
        /// The number.
        group: u64,
        /// What was wrong with the copy that was tried last.
        reason: String,
    },
}

/// Reads groups back from one or more copies of a show: those of the tracks that are sent. (The master, which is only
/// recorded, is not among them.)
///
/// [`Archive::read`] and [`Archive::open`] wait for disks, which may take long: call them on a thread that may wait.
/// The others return at once. It holds about 200 bytes for each group.
pub struct Archive {
    live: Option<TapStatus>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tracks: Vec<Track>,
    /// Each group once, in the order of finishing.
    entries: Vec<GroupEntry>,
    places: HashMap<(TrackId, u64), Places>,
    /// Of a live archive: how many groups of each copy were seen.
    seen: Vec<usize>,
    paths: Vec<PathBuf>,
    files: HashMap<PathBuf, RecordingFile>,
}

struct Places {
    digest: Digest,
    frames: u32,
    /// File and range. The files of a group that lies in ten copies are few.
    copies: Vec<(usize, Range<u64>)>,
}

impl Archive {
    /// The groups that the running recorders have finished, and those that they will finish.
    pub fn live(status: &TapStatus) -> Self {
        Self { live: Some(status.clone()), state: Mutex::default() }
    }

    /// All recordings of this broadcast in files and directories. Reads their indexes, and the files where these are
    /// missing or end early. Files that are no recordings are passed over, unless named by themselves.
    pub fn open(places: &[PathBuf], broadcast: &str) -> Result<Self, ArchiveError> {
        let mut files = Vec::new();
        for place in places {
            if place.is_dir() {
                for path in recordings_in(place)? {
                    match RecordingFile::open(&path) {
                        Ok(file) => files.push(file),
                        Err(error) => tracing::warn!(%error, "passed over"),
                    }
                }
            } else {
                files.push(RecordingFile::open(place)?);
            }
        }
        files.retain(|file| file.start().broadcast == broadcast);
        if files.is_empty() {
            let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
            return Err(ArchiveError::NoRecording { broadcast: broadcast.into(), places: places.join(", ") });
        }
        Self::of_files(files)
    }

    /// The groups of these files.
    pub fn of_files(mut files: Vec<RecordingFile>) -> Result<Self, ArchiveError> {
        files.sort_by_key(|file| file.start().zero);
        let mut state = State::default();
        for file in files {
            for track in file.start().tracks.iter().filter(|track| track.id != MASTER_TRACK) {
                if !state.tracks.iter().any(|known| known.id == track.id) {
                    state.tracks.push(track.clone());
                }
            }
            for entry in file.contents()?.groups {
                state.add(file.path(), entry);
            }
            state.files.insert(file.path().to_owned(), file);
        }
        Ok(Self { live: None, state: Mutex::new(state) })
    }

    /// The tracks of the show.
    pub fn tracks(&self) -> Vec<Track> {
        match &self.live {
            Some(status) => status.tracks().unwrap_or_default(),
            None => self.lock().tracks.clone(),
        }
    }

    /// The groups that are whole in at least one copy, in the order of finishing, from a position on. The list only
    /// grows. (The range is that in the first copy that had it.)
    pub fn finished(&self, from: usize) -> Vec<GroupEntry> {
        let mut state = self.lock();
        if let Some(status) = &self.live {
            state.refresh(status);
        }
        state.entries.get(from..).unwrap_or_default().to_vec()
    }

    /// The frames of a group, as the encoder made them (video as Annex B with its parameter sets), checked against
    /// the digest: from the first copy that is intact, or put together from several.
    pub fn read(&self, track: TrackId, group: u64) -> Result<Vec<Frame>, ArchiveError> {
        let (digest, frames, copies) = {
            let mut state = self.lock();
            if let Some(status) = &self.live {
                state.refresh(status);
            }
            let places = state.places.get(&(track, group)).ok_or(ArchiveError::Unknown { track, group })?;
            let path = |(number, range): &(usize, Range<u64>)| {
                Some((state.paths.get(*number)?.clone(), range.clone()))
            };
            (places.digest, places.frames, places.copies.iter().filter_map(path).collect::<Vec<_>>())
        };
        let mut together = Pieces::default();
        let mut reason = String::from("no file is left");
        for (path, range) in copies {
            let found =
                self.file(&path).and_then(|file| file.group(range, track, group).map(|found| (file, found)));
            let (file, pieces) = match found {
                Ok(found) => found,
                Err(error) => {
                    reason = error.to_string();
                    continue;
                }
            };
            // This copy alone, then together with those before.
            if let Some(frames) = whole(&pieces, frames, digest, &file) {
                return Ok(frames);
            }
            reason = format!("{}: {} of {frames} frames are intact", path.display(), pieces.len());
            for (number, piece) in pieces {
                together.entry(number).or_insert(piece);
            }
            if let Some(frames) = whole(&together, frames, digest, &file) {
                return Ok(frames);
            }
        }
        Err(ArchiveError::Damaged { track, group, reason })
    }

    /// The file, of which the head is read once.
    fn file(&self, path: &Path) -> Result<RecordingFile, FileError> {
        if let Some(file) = self.lock().files.get(path) {
            return Ok(file.clone());
        }
        // Not with the lock held: the disk may take its time.
        let file = RecordingFile::open(path)?;
        self.lock().files.insert(path.to_owned(), file.clone());
        Ok(file)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves a list that is still true.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refresh(&mut self, status: &TapStatus) {
        for (number, log) in status.group_logs().into_iter().enumerate() {
            if self.seen.len() <= number {
                self.seen.resize(number + 1, 0);
            }
            let Some(log) = log else { continue };
            let Some(seen) = self.seen.get_mut(number) else { continue };
            let new = log.from(*seen);
            *seen += new.len();
            for (path, entry) in new {
                self.add(&path, entry);
            }
        }
    }

    fn add(&mut self, path: &Path, entry: GroupEntry) {
        if entry.track == MASTER_TRACK {
            return;
        }
        // The newest files are the likely ones.
        let number = self.paths.iter().rposition(|known| known == path).unwrap_or_else(|| {
            self.paths.push(path.to_owned());
            self.paths.len() - 1
        });
        let GroupEntry { digest, frames, ref range, .. } = entry;
        let key = (entry.track, entry.group);
        let place = (number, range.clone());
        match self.places.get_mut(&key) {
            None => {
                self.places.insert(key, Places { digest, frames, copies: vec![place] });
                self.entries.push(entry);
            }
            Some(places) if places.digest == digest => places.copies.push(place),
            // The last group of a killed process may have one frame more in one copy.
            Some(places) if places.frames < frames => {
                *places = Places { digest, frames, copies: vec![place] };
                if let Some(known) = self.entries.iter_mut().rfind(|known| (known.track, known.group) == key)
                {
                    *known = entry;
                }
            }
            Some(_) => {}
        }
    }
}

/// The frames, if they are all there and are what they must be.
fn whole(pieces: &Pieces, frames: u32, digest: Digest, file: &RecordingFile) -> Option<Vec<Frame>> {
    if pieces.len() != frames as usize {
        return None;
    }
    let mut found = GroupDigest::new();
    pieces.values().for_each(|fragment| found.fragment(fragment));
    (found.finish() == digest)
        .then(|| pieces.values().map(|fragment| file.start().restore(fragment)).collect())?
}
