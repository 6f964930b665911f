//! Which files are parts and copies of one show.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use encoder::record::{Contents, FileError, RecordingFile, recordings_in};
use media::{Time, Track};

use super::{Which, times};

/// Recordings of one name are one show where no pause between them is longer: an encoder that was started again goes
/// on with its show, the next evening is another one.
const PAUSE: Duration = Duration::from_secs(30 * 60);

/// One part in one copy.
pub struct Part {
    pub file: RecordingFile,
    pub contents: Contents,
}

/// The parts in one folder.
pub struct Copy {
    pub place: PathBuf,
    pub parts: Vec<Part>,
}

/// One show.
pub struct Show {
    pub broadcast: String,
    pub zero: Time,
    pub end: Time,
    pub copies: Vec<Copy>,
}

impl Show {
    /// Every track that is in any part, the best picture first, as in the files.
    pub fn tracks(&self) -> Vec<Track> {
        let mut tracks: Vec<Track> = Vec::new();
        for track in self.parts().flat_map(|part| &part.file.start().tracks) {
            if !tracks.iter().any(|known| known.id == track.id) {
                tracks.push(track.clone());
            }
        }
        tracks
    }

    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.copies.iter().flat_map(|copy| &copy.parts)
    }

    /// From its start to its end.
    pub fn length(&self) -> Duration {
        self.end.saturating_since(self.zero)
    }
}

/// What was found.
pub struct Found {
    /// By name and time.
    pub shows: Vec<Show>,
    /// Files in the folders that are no recordings, and why.
    pub others: Vec<FileError>,
}

/// All shows in these files and folders. A file that is named by itself must be a recording; in a folder, others are
/// passed over and told.
pub fn find(places: &[PathBuf]) -> anyhow::Result<Found> {
    let (mut files, mut others) = (Vec::new(), Vec::new());
    for place in places {
        if !place.is_dir() {
            files.push((folder(place), RecordingFile::open(place)?));
            continue;
        }
        for path in recordings_in(place)? {
            match RecordingFile::open(&path) {
                Ok(file) => files.push((place.clone(), file)),
                Err(error) => others.push(error),
            }
        }
    }
    files.sort_by(|(_, a), (_, b)| a.path().cmp(b.path()));
    files.dedup_by(|(_, a), (_, b)| a.path() == b.path());
    files.sort_by(|(_, a), (_, b)| {
        let key = |file: &RecordingFile| (file.start().broadcast.clone(), file.start().zero);
        key(a).cmp(&key(b))
    });
    let mut shows: Vec<Show> = Vec::new();
    for (place, file) in files {
        let contents = file.contents()?;
        let (zero, end) = (file.start().zero, contents.end);
        let goes_on = |show: &&mut Show| show.broadcast == file.start().broadcast && zero <= show.end + PAUSE;
        let show = match shows.last_mut().filter(goes_on) {
            Some(show) => show,
            None => {
                let broadcast = file.start().broadcast.clone();
                shows.push(Show { broadcast, zero, end, copies: Vec::new() });
                let Some(show) = shows.last_mut() else { continue };
                show
            }
        };
        show.end = show.end.max(end);
        let part = Part { file, contents };
        match show.copies.iter_mut().find(|copy| copy.place == place) {
            Some(copy) => copy.parts.push(part),
            None => show.copies.push(Copy { place, parts: vec![part] }),
        }
    }
    Ok(Found { shows, others })
}

/// The one show that is meant.
pub fn one(which: &Which) -> anyhow::Result<Show> {
    let Found { mut shows, others } = find(&which.places)?;
    let count = shows.len();
    let number = match which.show {
        Some(number) if number == 0 || number > count => {
            bail!("--show {number}: there {} here", are(count))
        }
        Some(number) => number,
        None if count == 1 => 1,
        None if count == 0 => {
            let places: Vec<_> = which.places.iter().map(|place| place.display().to_string()).collect();
            let others: Vec<_> = others.iter().map(|error| format!("\n  {error}")).collect();
            bail!("no recordings in {}{}", places.join(", "), others.concat())
        }
        None => {
            let line = |(n, show): (usize, &Show)| {
                format!("\n  --show {}: {} of {}", n + 1, show.broadcast, times::date(show.zero))
            };
            let lines: Vec<_> = shows.iter().enumerate().map(line).collect();
            bail!("there {} here; choose one:{}", are(count), lines.concat())
        }
    };
    Ok(shows.swap_remove(number - 1))
}

fn are(count: usize) -> String {
    if count == 1 { "is 1 show".into() } else { format!("are {count} shows") }
}

fn folder(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
