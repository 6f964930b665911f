//! The recording as backfill sees it: the encoder knows no network, and the relay knows no recorder.

use encoder::{MASTER_TRACK, record};
use media::{Frame, Track};
use relay::backfill::{Archive, Entry, GroupId};

/// A recording to heal the edge's copy from. Its master picture, which was never sent, is not offered.
pub struct Recorded(pub record::Archive);

impl Archive for Recorded {
    fn tracks(&self) -> Vec<Track> {
        self.0.tracks().into_iter().filter(|track| track.id != MASTER_TRACK).collect()
    }

    fn finished(&self, from: usize) -> Vec<Entry> {
        let entry = |entry: media::cmaf::GroupEntry| Entry {
            id: GroupId { track: entry.track, group: entry.group },
            frames: entry.frames,
            first_capture: entry.first_capture,
            digest: entry.digest,
        };
        self.0.finished(from).into_iter().map(entry).collect()
    }

    fn read(&self, id: GroupId) -> Result<Vec<Frame>, String> {
        self.0.read(id.track, id.group).map_err(|error| error.to_string())
    }
}
