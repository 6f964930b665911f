//! The thread that writes: frames from the queue into a file, and into the next one after a failure or when the
//! picture changes its shape.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use media::cmaf::{self, CmafError};
use media::h264::ParameterSets;
use media::{Frame, Time, Track, TrackId};

use super::GroupLog;
use super::disk::Disk;
use super::early::Early;
use super::part::Part;
use super::progress::Shared;
use super::queue::Queued;
use super::sync::{Files, Syncer};

/// After a failure a new file is tried at most so often (in media time), because each attempt on a full
/// disk costs the machine more than it gains.
const RETRY: Duration = Duration::from_secs(2);

/// When the picture changes its shape, the other tracks end their groups in the old file, at most for so long.
const LEAVE: Duration = Duration::from_secs(3);

/// Starts the thread. The receiver gets a message when everything is written and synced.
pub fn spawn(
    disk: Arc<dyn Disk>,
    broadcast: &str,
    tracks: &[Track],
    frames: Receiver<Queued>,
    shared: Arc<Shared>,
    groups: Arc<GroupLog>,
) -> io::Result<Receiver<()>> {
    let mut recording = Recording {
        syncer: Syncer::spawn(disk.clone(), shared.clone())?,
        disk,
        broadcast: broadcast.to_owned(),
        tracks: tracks.to_vec(),
        parameter_sets: Vec::new(),
        early: Early::new(tracks),
        part: None,
        leaving: None,
        last_attempt: None,
        begun: None,
        shared,
        groups,
        buffer: Vec::new(),
    };
    let (done, wait) = sync_channel(1);
    std::thread::Builder::new().name("record-write".into()).spawn(move || {
        for Queued { frame, after_gap } in frames {
            recording.shared.lock().writing_since = Some(Instant::now());
            if after_gap {
                recording.missing(frame.id.track);
            }
            recording.frame(&frame);
            recording.shared.queued_bytes.fetch_sub(frame.data.len(), Relaxed);
            recording.shared.lock().writing_since = None;
        }
        recording.end();
        // Nobody may be waiting any more.
        let _ = done.try_send(());
    })?;
    Ok(wait)
}

struct Recording {
    disk: Arc<dyn Disk>,
    broadcast: String,
    tracks: Vec<Track>,
    /// The latest of each H.264 track.
    parameter_sets: Vec<(TrackId, ParameterSets)>,
    /// What came before there was a file.
    early: Early,
    part: Option<Part>,
    /// The file before, in which other tracks end their groups.
    leaving: Option<Part>,
    /// Capture time of the frame at which a file was last begun, or tried to.
    last_attempt: Option<Time>,
    /// Capture time of the first frame that had to be recorded: what is missing after it counts.
    begun: Option<Time>,
    syncer: Syncer,
    shared: Arc<Shared>,
    groups: Arc<GroupLog>,
    buffer: Vec<u8>,
}

impl Recording {
    fn frame(&mut self, frame: &Frame) {
        if frame.keyframe && self.is_h264(frame.id.track) {
            self.note_parameter_sets(frame);
        }
        if let Some(error) = self.syncer.take_error() {
            self.fail(&error);
        }
        let full = self.shared.lock().full();
        if let Some(reason) = full {
            return self.stop_in_time(frame, reason);
        }
        if self.part.is_none() {
            return self.try_begin(frame);
        }
        match self.write(frame) {
            Ok(()) => {}
            Err(WriteError::NewFile) => {
                self.end_leaving();
                self.leaving = self.part.take();
                self.shared.lock().end_part();
                self.begin(std::slice::from_ref(frame));
            }
            Err(WriteError::Disk(error)) => {
                self.drop_frame(frame);
                self.fail(&error);
            }
        }
    }

    /// Begins a file if all that it needs is there.
    fn try_begin(&mut self, frame: &Frame) {
        let too_soon = self.last_attempt.is_some_and(|last| frame.capture_time < last + RETRY);
        if too_soon && self.is_video(frame.id.track) {
            return self.drop_frame(frame);
        }
        if let Some(left_out) = self.early.push(frame) {
            self.drop_frame(&left_out);
        }
        if !too_soon && self.early.is_ready() {
            let mut early = self.early.take();
            // The picture that begins the file comes first in it; each track's own order stays.
            early.sort_by_key(|frame| (frame.capture_time, !self.is_video(frame.id.track)));
            self.begin(&early);
        }
    }

    /// Begins a file with these frames, in the order in which they came; the earliest keyframe is its zero.
    fn begin(&mut self, frames: &[Frame]) {
        let pictures = frames.iter().any(|frame| self.is_video(frame.id.track));
        let firsts =
            frames.iter().filter(|frame| frame.keyframe && (!pictures || self.is_video(frame.id.track)));
        let Some(zero) = firsts.map(|frame| frame.capture_time).min() else { return };
        self.last_attempt = frames.last().map(|frame| frame.capture_time);
        self.begun.get_or_insert(zero);
        // An H.264 track that has not shown a keyframe yet gets a new file when it does.
        let known = |track: &Track| self.parameter_sets.iter().any(|(id, _)| *id == track.id);
        let tracks: Vec<_> =
            self.tracks.iter().filter(|track| !track.config.is_h264() || known(track)).cloned().collect();
        let sets = self.parameter_sets.clone();
        let (writer, head) = match cmaf::Writer::new(&self.broadcast, &tracks, sets, zero) {
            Ok(begun) => begun,
            Err(error) => return self.cannot_begin(frames, error.to_string()),
        };
        let (path, output) = match self.disk.create(&cmaf::file_stem(&self.broadcast, zero)) {
            Ok(created) => created,
            Err(error) => return self.cannot_begin(frames, explain("create a file", &error)),
        };
        if let Err(error) = output.append(&head) {
            drop(output);
            self.disk.discard(&path);
            return self.cannot_begin(frames, explain("write", &error));
        }
        let head_text = cmaf::index::header(&self.broadcast, zero);
        let index = self.disk.create_index(&path).and_then(|index| {
            index.append(head_text.as_bytes())?;
            Ok(index)
        });
        let index = index.inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "no index beside this file; it can be made again from it");
        });
        let files = Files { media: output, index: index.ok() };
        {
            let mut progress = self.shared.lock();
            if progress.failed.is_some() {
                tracing::info!(path = %path.display(), "recording again, in a new file");
            } else {
                tracing::info!(path = %path.display(), "recording");
            }
            progress.begin_part(path.clone());
            progress.bytes += head.len() as u64;
        }
        self.syncer.watch(files.clone());
        let log = (self.groups.clone(), self.groups.file(&path));
        let mut part = Part::new(files, writer, head.len() as u64, &tracks, log);
        if let (Some(_), Some(first)) = (&self.leaving, frames.first()) {
            part.admit(first.id.track);
        }
        self.part = Some(part);
        for frame in frames {
            if let Err(WriteError::Disk(error)) = self.write(frame) {
                self.drop_frame(frame);
                return self.fail(&error);
            }
        }
    }

    fn write(&mut self, frame: &Frame) -> Result<(), WriteError> {
        let (track, video) = (frame.id.track, self.is_video(frame.id.track));
        let stays = self.leaving.is_some() && self.part.as_ref().is_some_and(|part| !part.takes_over(frame));
        let Some(part) = (if stays { &mut self.leaving } else { &mut self.part }) else { return Ok(()) };
        if video && !frame.keyframe && !part.has_begun(track) {
            self.drop_frame(frame);
            return Ok(());
        }
        self.buffer.clear();
        let range = match part.writer.fragment(frame, &mut self.buffer) {
            Ok(range) => range,
            // Sound from before the file's first picture.
            Err(CmafError::BeforeStart) => {
                self.drop_frame(frame);
                return Ok(());
            }
            Err(CmafError::ParametersChanged(_) | CmafError::UnknownTrack(_)) if frame.keyframe && !stays => {
                return Err(WriteError::NewFile);
            }
            Err(error) => {
                tracing::warn!(%error, id = ?frame.id, "a frame cannot be recorded");
                part.interrupted(track);
                self.drop_frame(frame);
                return Ok(());
            }
        };
        part.append(frame, &self.buffer, range).map_err(WriteError::Disk)?;
        let duration = part.writer.duration();
        {
            let mut progress = self.shared.lock();
            progress.bytes += self.buffer.len() as u64;
            progress.frames += u64::from(video);
            if !stays {
                progress.seconds = duration.as_secs_f64();
            }
        }
        if let (Some(leaving), Some(part)) = (&self.leaving, &self.part) {
            let moved = self.tracks.iter().all(|t| part.has_begun(t.id) || !leaving.has_begun(t.id));
            if moved || frame.capture_time > part.writer.zero() + LEAVE {
                self.end_leaving();
            }
        }
        Ok(())
    }

    /// Ends the file before the present one.
    fn end_leaving(&mut self) {
        if let Some(part) = self.leaving.take() {
            self.close(part);
        }
    }

    /// The present files cannot take any more: what they have stays, without a torn frame at its end.
    fn fail(&mut self, error: &io::Error) {
        let mut any = false;
        for part in [self.leaving.take(), self.part.take()].into_iter().flatten() {
            part.cut_torn_end();
            part.files.media.release();
            self.syncer.retire(&part.files.media);
            any = true;
        }
        if !any {
            return;
        }
        let mut progress = self.shared.lock();
        progress.end_part();
        let reason = explain("write", error);
        tracing::error!(path = %progress.path.display(), "recording failed: {reason}");
        progress.failed = Some(reason);
    }

    /// The disk is nearly full: the files end properly while there is room for their tables.
    fn stop_in_time(&mut self, frame: &Frame, reason: String) {
        self.drop_frame(frame);
        let early = self.early.take();
        early.iter().for_each(|frame| self.drop_frame(frame));
        let parts: Vec<_> = [self.leaving.take(), self.part.take()].into_iter().flatten().collect();
        for mut part in parts {
            part.all_missing();
            self.close(part);
        }
        let mut progress = self.shared.lock();
        progress.end_part();
        progress.failed = Some(reason);
    }

    fn cannot_begin(&mut self, frames: &[Frame], reason: String) {
        let attempt = self.last_attempt.unwrap_or_default();
        for frame in frames {
            // Sound from before the next attempt can be of no file; what is later may be.
            let keep = !self.is_video(frame.id.track) && frame.capture_time >= attempt;
            if !keep || self.early.push(frame).is_some() {
                self.drop_frame(frame);
            }
        }
        self.end_leaving();
        let mut progress = self.shared.lock();
        if progress.failed.is_none() {
            tracing::error!(path = %progress.path.display(), "recording failed: {reason}");
        }
        progress.failed = Some(reason);
    }

    /// Ends a file properly. It plays without that, so errors here are only told.
    fn close(&mut self, mut part: Part) {
        part.end_groups();
        match part.finish() {
            Ok(bytes) => self.shared.lock().bytes += bytes,
            Err(error) => {
                tracing::warn!(%error, "the recording stays fragmented; it plays all the same");
                part.cut_torn_end();
            }
        }
        part.files.media.release();
        self.syncer.retire(&part.files.media);
    }

    fn end(&mut self) {
        let part = self.part.take();
        self.shared.lock().whole = true;
        self.end_leaving();
        let Some(mut part) = part else { return };
        if self.shared.overflow.load(Relaxed) {
            part.all_missing();
        }
        let media = part.files.media.clone();
        self.close(part);
        // The sync thread has it in its hands too; whoever waits for the end waits for this one.
        if let Err(error) = media.sync() {
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
    fn drop_frame(&mut self, frame: &Frame) {
        self.missing(frame.id.track);
        if self.begun.is_some_and(|begun| frame.capture_time >= begun) {
            self.shared.lock().dropped += 1;
        }
    }

    fn missing(&mut self, track: TrackId) {
        for part in [&mut self.leaving, &mut self.part].into_iter().flatten() {
            part.missing(track);
        }
    }

    fn is_h264(&self, id: TrackId) -> bool {
        self.tracks.iter().any(|track| track.id == id && track.config.is_h264())
    }

    fn is_video(&self, id: TrackId) -> bool {
        self.tracks.iter().any(|track| track.id == id && track.is_video())
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
        ErrorKind::PermissionDenied => "make the directory writable",
        ErrorKind::ReadOnlyFilesystem => {
            "this disk has become read-only, as failing ones do: check or replace it"
        }
        _ => "check this disk",
    };
    format!("cannot {what}: {error}; {advice}, and recording goes on in a new file")
}
