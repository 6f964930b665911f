//! The thread that writes: frames from the queue into a file, and into the next one after a failure.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use media::cmaf::{self, CmafError};
use media::h264::ParameterSets;
use media::{Frame, Time, Track, TrackId};

use super::disk::{Disk, Output};
use super::name;
use super::progress::Shared;
use super::sync::Syncer;

/// After a failure a new file is tried at most so often (in media time), because each attempt on a full
/// disk costs the machine more than it gains.
const RETRY: Duration = Duration::from_secs(2);

/// How often the file's head is told how long the file is, so that the length that players show for the
/// file of a killed process is right to a second. It costs one small write into a page that is in memory.
const TELL_DURATION: Duration = Duration::from_secs(1);

/// Sound that waits for the first picture: 5 s of 20 ms packets. The oldest goes first; what was
/// captured before the picture is not recorded anyway.
const MAX_EARLY: usize = 256;

/// Starts the thread. The receiver gets a message when everything is written and synced.
pub fn spawn(
    disk: impl Disk,
    broadcast: &str,
    tracks: &[Track],
    frames: Receiver<Frame>,
    shared: Arc<Shared>,
) -> io::Result<Receiver<()>> {
    let mut recording = Recording {
        disk,
        broadcast: broadcast.to_owned(),
        tracks: tracks.to_vec(),
        parameter_sets: Vec::new(),
        early: VecDeque::new(),
        part: None,
        last_attempt: None,
        begun: None,
        syncer: Syncer::spawn()?,
        shared,
        buffer: Vec::new(),
    };
    let (done, wait) = sync_channel(1);
    std::thread::Builder::new().name("record-write".into()).spawn(move || {
        for frame in frames {
            recording.frame(&frame);
            recording.shared.queued_bytes.fetch_sub(frame.data.len(), Relaxed);
        }
        recording.end();
        // Nobody may be waiting any more.
        let _ = done.try_send(());
    })?;
    Ok(wait)
}

struct Recording<D> {
    disk: D,
    broadcast: String,
    tracks: Vec<Track>,
    /// The latest of each video track.
    parameter_sets: Vec<(TrackId, ParameterSets)>,
    /// Sound that came before there was a file.
    early: VecDeque<Frame>,
    part: Option<Part>,
    /// Capture time of the frame at which a file was last begun, or tried to.
    last_attempt: Option<Time>,
    /// Capture time of the first frame that had to be recorded: what is missing after it counts.
    begun: Option<Time>,
    syncer: Syncer,
    shared: Arc<Shared>,
    buffer: Vec<u8>,
}

/// One file.
struct Part {
    output: Arc<dyn Output>,
    writer: cmaf::Writer,
    /// Length up to the last whole frame.
    good: u64,
    /// Video tracks in the middle of a group that decodes.
    running: Vec<TrackId>,
    /// The duration that the file's head tells.
    told: Duration,
}

impl<D: Disk> Recording<D> {
    fn frame(&mut self, frame: &Frame) {
        if frame.keyframe && self.is_video(frame.id.track) {
            self.note_parameter_sets(frame);
        }
        if let Some(error) = self.syncer.take_error() {
            self.fail(&error);
        }
        if self.part.is_none() {
            return self.try_begin(frame);
        }
        match self.write(frame) {
            Ok(()) => {}
            Err(WriteError::NewFile) => {
                self.close();
                self.begin(frame);
            }
            Err(WriteError::Disk(error)) => {
                self.drop_frame(frame);
                self.fail(&error);
            }
        }
    }

    /// Begins a file if this frame can be its first one.
    fn try_begin(&mut self, frame: &Frame) {
        let pictures = self.tracks.iter().any(|track| track.is_video());
        let video = self.is_video(frame.id.track);
        if pictures && !video {
            // It may have been captured after the keyframe that is still to come.
            if self.early.len() == MAX_EARLY
                && let Some(oldest) = self.early.pop_front()
            {
                self.drop_frame(&oldest);
            }
            return self.early.push_back(frame.clone());
        }
        let known = |track: &Track| self.parameter_sets.iter().any(|(id, _)| *id == track.id);
        let complete = self.tracks.iter().all(|track| !track.is_video() || known(track));
        let too_soon = self.last_attempt.is_some_and(|last| frame.capture_time < last + RETRY);
        if !complete || too_soon || (video && !frame.keyframe) {
            return self.drop_frame(frame);
        }
        self.begin(frame);
    }

    fn begin(&mut self, first: &Frame) {
        let zero = first.capture_time;
        self.last_attempt = Some(zero);
        self.begun.get_or_insert(zero);
        let sets = self.parameter_sets.clone();
        let (writer, head) = match cmaf::Writer::new(&self.broadcast, &self.tracks, sets, zero) {
            Ok(begun) => begun,
            Err(error) => return self.cannot_begin(first, error.to_string()),
        };
        let (path, output) = match self.disk.create(&name::stem(&self.broadcast, zero)) {
            Ok(created) => created,
            Err(error) => return self.cannot_begin(first, explain("create a file", &error)),
        };
        if let Err(error) = output.append(&head) {
            drop(output);
            self.disk.discard(&path);
            return self.cannot_begin(first, explain("write", &error));
        }
        {
            let mut progress = self.shared.lock();
            if progress.failed.is_some() {
                tracing::info!(path = %path.display(), "recording again, in a new file");
            } else {
                tracing::info!(path = %path.display(), "recording");
            }
            progress.begin_part(path);
            progress.bytes += head.len() as u64;
        }
        self.syncer.switch_to(Some(output.clone()));
        self.part =
            Some(Part { output, writer, good: head.len() as u64, running: Vec::new(), told: Duration::ZERO });
        let early = std::mem::take(&mut self.early);
        for frame in std::iter::once(first).chain(&early) {
            if let Err(WriteError::Disk(error)) = self.write(frame) {
                self.drop_frame(frame);
                return self.fail(&error);
            }
        }
    }

    fn write(&mut self, frame: &Frame) -> Result<(), WriteError> {
        let video = self.is_video(frame.id.track);
        let Some(part) = &mut self.part else { return Ok(()) };
        let track = frame.id.track;
        if video && !frame.keyframe && !part.running.contains(&track) {
            self.drop_frame(frame);
            return Ok(());
        }
        self.buffer.clear();
        match part.writer.fragment(frame, &mut self.buffer) {
            Ok(()) => {}
            // Sound from before the file's first picture.
            Err(CmafError::BeforeStart) => {
                self.drop_frame(frame);
                return Ok(());
            }
            Err(CmafError::ParametersChanged(_)) if frame.keyframe => return Err(WriteError::NewFile),
            Err(error) => {
                tracing::warn!(%error, id = ?frame.id, "a frame cannot be recorded");
                part.running.retain(|id| *id != track);
                self.drop_frame(frame);
                return Ok(());
            }
        }
        part.output.append(&self.buffer).map_err(WriteError::Disk)?;
        part.good += self.buffer.len() as u64;
        if video && !part.running.contains(&track) {
            part.running.push(track);
        }
        let duration = part.writer.duration();
        if duration >= part.told + TELL_DURATION {
            part.told = duration;
            let patch = part.writer.duration_patch();
            if let Err(error) = part.output.replace(patch.at, &patch.bytes) {
                tracing::debug!(%error, "the file does not say how long it is; it plays all the same");
            }
        }
        let mut progress = self.shared.lock();
        progress.bytes += self.buffer.len() as u64;
        progress.frames += u64::from(video);
        progress.seconds = duration.as_secs_f64();
        Ok(())
    }

    /// The present file cannot take any more: what it has stays, without a torn frame at its end.
    fn fail(&mut self, error: &io::Error) {
        let Some(part) = self.part.take() else { return };
        if let Err(error) = part.output.truncate(part.good) {
            tracing::debug!(%error, "a torn frame stays at the end of the file; readers pass over it");
        }
        self.syncer.switch_to(None);
        let mut progress = self.shared.lock();
        progress.end_part();
        let reason = explain("write", error);
        tracing::error!(path = %progress.path.display(), "recording failed: {reason}");
        progress.failed = Some(reason);
    }

    fn cannot_begin(&mut self, first: &Frame, reason: String) {
        self.drop_frame(first);
        // Sound from before the next attempt can be of no file.
        for frame in std::mem::take(&mut self.early) {
            if frame.capture_time >= first.capture_time {
                self.early.push_back(frame);
            } else {
                self.drop_frame(&frame);
            }
        }
        let mut progress = self.shared.lock();
        if progress.failed.is_none() {
            tracing::error!(path = %progress.path.display(), "recording failed: {reason}");
        }
        progress.failed = Some(reason);
    }

    /// Ends the present file properly. It plays without that, so errors here are only told.
    fn close(&mut self) {
        let Some(part) = self.part.take() else { return };
        match part.finish() {
            Ok(bytes) => self.shared.lock().bytes += bytes,
            Err(error) => {
                tracing::warn!(%error, "the recording stays fragmented; it plays all the same");
                if let Err(error) = part.output.truncate(part.good) {
                    tracing::debug!(%error, "torn tables stay at the end of the file");
                }
            }
        }
        self.syncer.switch_to(None);
        self.shared.lock().end_part();
    }

    fn end(&mut self) {
        let output = self.part.as_ref().map(|part| part.output.clone());
        self.shared.lock().whole = true;
        self.close();
        // The sync thread has it in its hands too; whoever waits for the end waits for this one.
        if let Some(Err(error)) = output.map(|output| output.sync()) {
            let reason = explain("sync", &error);
            let mut progress = self.shared.lock();
            tracing::error!(path = %progress.path.display(), "recording failed at its end: {reason}");
            progress.failed = Some(reason);
        }
    }

    fn note_parameter_sets(&mut self, frame: &Frame) {
        let Some(sets) = ParameterSets::of(&frame.data) else { return };
        let track = frame.id.track;
        match self.parameter_sets.iter_mut().find(|(id, _)| *id == track) {
            Some((_, known)) if *known == sets => {}
            Some((_, known)) => *known = sets,
            None => self.parameter_sets.push((track, sets)),
        }
    }

    /// A frame is missing, if there is something that it is missing from.
    fn drop_frame(&self, frame: &Frame) {
        if self.begun.is_some_and(|begun| frame.capture_time >= begun) {
            self.shared.lock().dropped += 1;
        }
    }

    fn is_video(&self, id: TrackId) -> bool {
        self.tracks.iter().any(|track| track.id == id && track.is_video())
    }
}

impl Part {
    /// Makes a plain MP4 file of it. Returns by how many bytes it has become longer.
    fn finish(&self) -> io::Result<u64> {
        let duration = self.writer.duration_patch();
        self.output.replace(duration.at, &duration.bytes)?;
        let Some(ending) = self.writer.finish() else { return Ok(0) };
        self.output.append(&ending.moov)?;
        // A power cut must not leave the new header without the tables.
        self.output.sync()?;
        self.output.replace(ending.header.at, &ending.header.bytes)?;
        Ok(ending.moov.len() as u64)
    }
}

enum WriteError {
    /// The picture changed its shape.
    NewFile,
    Disk(io::Error),
}

/// The system's words, and what helps.
fn explain(what: &str, error: &io::Error) -> String {
    let advice = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space on this disk",
        ErrorKind::FileTooLarge => "this disk allows no larger file",
        ErrorKind::NotFound => "put the directory back",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "make the directory writable",
        _ => "check this disk",
    };
    format!("cannot {what}: {error}; {advice}, and recording goes on in a new file")
}
