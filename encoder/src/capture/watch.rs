//! What is known of one opened source, from its threads to the one that supervises it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gstreamer as gst;

use crate::EncoderError;

/// Tellings that wait: the first says it all, the others are consequences and may be lost.
const TOLD: usize = 4;
/// Streams without a decoder that are remembered; one is told.
const UNDECODABLE: usize = 4;

/// What a source said.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// It failed.
    Failed(EncoderError),
    /// It came to its end.
    Ended,
    /// Its clock jumped.
    Jumped,
}

/// The life of one opened source.
pub(crate) struct Watch {
    tell: SyncSender<Told>,
    told: Mutex<Receiver<Told>>,
    closed: AtomicBool,
    data: AtomicBool,
    /// Running time of the last picture and sound, in ns; 0: there was none.
    picture: AtomicU64,
    sound: AtomicU64,
    undecodable: Mutex<Vec<String>>,
}

impl Watch {
    pub(crate) fn new() -> Self {
        let (tell, told) = sync_channel(TOLD);
        Watch {
            tell,
            told: Mutex::new(told),
            closed: AtomicBool::new(false),
            data: AtomicBool::new(false),
            picture: AtomicU64::new(0),
            sound: AtomicU64::new(0),
            undecodable: Mutex::default(),
        }
    }

    /// Something happened.
    pub(crate) fn tell(&self, what: Told) {
        let _ = self.tell.try_send(what);
    }

    /// What happened, waiting for it at most so long.
    pub(crate) fn wait(&self, timeout: Duration) -> Option<Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(timeout).ok()
    }

    /// The failure that was told, if one was.
    pub(crate) fn failure(&self) -> Option<EncoderError> {
        match self.wait(Duration::ZERO) {
            Some(Told::Failed(error)) => Some(error),
            _ => None,
        }
    }

    /// From now on nothing of this source counts.
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    /// Whether [`Self::close`] was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Something came from the network.
    pub(crate) fn data(&self) {
        self.data.store(true, Relaxed);
    }

    /// A picture came.
    pub(crate) fn picture(&self, now: gst::ClockTime) {
        self.picture.store(now.nseconds().max(1), Relaxed);
    }

    /// Sound came.
    pub(crate) fn sound(&self, now: gst::ClockTime) {
        self.sound.store(now.nseconds().max(1), Relaxed);
    }

    /// Whether something came from the network.
    pub(crate) fn has_data(&self) -> bool {
        self.data.load(Relaxed)
    }

    /// When the last picture came, if one did.
    pub(crate) fn last_picture(&self) -> Option<gst::ClockTime> {
        time(&self.picture)
    }

    /// When the last sound came, if any did.
    pub(crate) fn last_sound(&self) -> Option<gst::ClockTime> {
        time(&self.sound)
    }

    /// Remembers what no plug-in decodes.
    pub(crate) fn element(&self, structure: Option<&gst::StructureRef>) {
        let missing = structure.filter(|found| found.name() == "missing-plugin");
        let Some(what) = missing.and_then(|found| found.get::<String>("name").ok()) else { return };
        tracing::warn!(%what, "a stream cannot be decoded");
        let mut undecodable = self.undecodable.lock().unwrap_or_else(PoisonError::into_inner);
        if undecodable.len() < UNDECODABLE {
            undecodable.push(what);
        }
    }

    /// The first format that no plug-in decodes.
    pub(crate) fn undecodable(&self) -> Option<String> {
        self.undecodable.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }
}

fn time(nanos: &AtomicU64) -> Option<gst::ClockTime> {
    match nanos.load(Relaxed) {
        0 => None,
        nanos => Some(gst::ClockTime::from_nseconds(nanos)),
    }
}
