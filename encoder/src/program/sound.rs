//! The sound of a show: one timeline, counted in samples, without a hole and without a click. Pure;
//! times are running times.
//!
//! Sound of the chosen source is appended as it comes. Where its time stamps say that it belongs a
//! little earlier or later than the samples counted so far (its clock drifts), single samples are
//! left out or put in, unheard. Where they say that it belongs elsewhere, silence fills the hole, or
//! what comes too late is left out. Where nothing comes, silence does.

use gstreamer::ClockTime;

use super::pictures::AWAY_AFTER;
use super::splice::{smooth_joint, stretch};

/// Samples per second.
pub(crate) const RATE: u64 = 48_000;
/// Sound that belongs further than this from the end of the timeline is placed anew, 40 ms: less is
/// a clock that drifts, more is a hole.
const REPLACE_AT: i64 = 1_920;
/// How far the sound may stand from its place before samples are left out or put in: 1 ms.
const TOLERANCE: f32 = 48.0;
/// At most one sample in so many is left out or put in: 0.5 %, a twelfth of a semitone.
const STRETCH: usize = 200;
/// The distance from the place is averaged over so many blocks: stamps of sound cards tremble.
const AVERAGE: f32 = 32.0;
/// A piece of silence, 20 ms.
const SILENCE: u64 = 960;
/// Pieces of silence filled in at once at most: a second. A machine that slept does more in several goes.
const MAX_FILL: u64 = RATE;
/// A source of this machine that gives no sound for so long gives silence.
const PATIENCE: ClockTime = AWAY_AFTER;
/// A stream gets longer: senders pack half a second of quiet sound into one piece.
const STREAM_PATIENCE: ClockTime = ClockTime::from_seconds(1);
/// Sound may be so old when it comes, and silence that takes its place keeps to that age.
const MAX_LAG: ClockTime = ClockTime::from_mseconds(500);

/// Sound for the encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Captured then.
    pub(crate) at: ClockTime,
    /// 16 bits, left and right in turn.
    pub(crate) samples: Vec<[i16; 2]>,
}

/// The sound of a show.
#[derive(Debug)]
pub(crate) struct Sound {
    sources: Vec<Heard>,
    /// Whose sound is on air; `None`: nobody's, there is silence.
    chosen: Option<usize>,
    /// Samples from running time zero to the end of what was made.
    position: Option<u64>,
    /// The last sample made.
    tail: [i16; 2],
    /// What comes next does not continue what was last.
    joint: bool,
    /// Silence is made because nothing comes.
    silent: bool,
    /// How many samples later than its place the sound stands, on average.
    error: f32,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    arrived: Option<ClockTime>,
    /// How old the end of its sound is when it comes.
    lag: ClockTime,
    away: bool,
    stream: bool,
    /// Its pictures stopped; its sound is not waited for much longer.
    suspect: bool,
}

impl Heard {
    fn patience(&self) -> ClockTime {
        if self.stream && !self.suspect { STREAM_PATIENCE } else { PATIENCE }
    }
}

impl Sound {
    /// A show with these sources of sound, of which `chosen` is on air. `streams` says of each
    /// whether it comes from the network.
    pub(crate) fn new(streams: &[bool], chosen: Option<usize>) -> Self {
        let heard = |stream: &bool| Heard {
            arrived: None,
            lag: ClockTime::ZERO,
            away: false,
            stream: *stream,
            suspect: false,
        };
        Sound {
            sources: streams.iter().map(heard).collect(),
            chosen,
            position: None,
            tail: [0; 2],
            joint: true,
            silent: false,
            error: 0.0,
        }
    }

    /// The show has begun: from now on there is sound or silence.
    pub(crate) fn begin(&mut self, now: ClockTime) {
        self.position.get_or_insert_with(|| samples_to(now));
    }

    /// Puts the sound of another source on air.
    pub(crate) fn select(&mut self, source: Option<usize>) {
        if self.chosen != source {
            (self.chosen, self.joint) = (source, true);
        }
    }

    /// The pictures of a source have stopped.
    pub(crate) fn suspect(&mut self, source: usize) {
        if let Some(heard) = self.sources.get_mut(source) {
            heard.suspect = true;
        }
    }

    /// A source is known to give nothing more for now.
    pub(crate) fn lost(&mut self, source: usize) {
        if let Some(heard) = self.sources.get_mut(source) {
            heard.away = true;
        }
    }

    /// Sound of a source came, its first sample captured at `at`. What goes on air of it.
    pub(crate) fn sound(
        &mut self,
        source: usize,
        at: ClockTime,
        samples: &[[i16; 2]],
        now: ClockTime,
    ) -> Option<Block> {
        let heard = self.sources.get_mut(source)?;
        let place = samples_to(at);
        let end = time_of(place + samples.len() as u64);
        (heard.away, heard.suspect) = (false, false);
        (heard.arrived, heard.lag) = (Some(now), now.saturating_sub(end).min(MAX_LAG));
        if self.chosen != Some(source) || samples.is_empty() {
            return None;
        }
        self.silent = false;
        let position = *self.position.get_or_insert(place);
        let distance = place as i64 - position as i64;
        if self.joint || distance.abs() > REPLACE_AT {
            self.join(position, distance, samples)
        } else {
            self.error += (distance as f32 - self.error) / AVERAGE;
            let most = (samples.len() / STRETCH).max(1) as f32;
            let shift = if self.error.abs() > TOLERANCE { self.error.clamp(-most, most) as i64 } else { 0 };
            self.error -= shift as f32;
            self.make(position, stretch(samples, shift))
        }
    }

    /// Sound that does not continue what was last, `distance` samples after its end.
    fn join(&mut self, position: u64, distance: i64, samples: &[[i16; 2]]) -> Option<Block> {
        let late = usize::try_from(-distance).unwrap_or(0);
        // What should have been heard already is left out; if that is all, the joint is still to come.
        let fresh = samples.get(late..).filter(|fresh| !fresh.is_empty());
        let Some(fresh) = fresh else {
            self.joint = true;
            return None;
        };
        let hole = u64::try_from(distance).unwrap_or(0);
        let filled = hole.min(MAX_FILL);
        let mut block = vec![[0; 2]; filled as usize];
        smooth_joint(self.tail, &mut block);
        let tail = block.last().copied().unwrap_or(self.tail);
        let start = block.len();
        block.extend_from_slice(fresh);
        smooth_joint(tail, block.get_mut(start..).unwrap_or_default());
        (self.joint, self.error) = (false, 0.0);
        self.make(position + hole - filled, block)
    }

    /// Makes silence up to where the sound would be by now, if none comes.
    pub(crate) fn tick(&mut self, now: ClockTime) -> Option<Block> {
        let position = self.position?;
        if self.due()? > now {
            return None;
        }
        let missing = samples_to(now.saturating_sub(self.lag())).saturating_sub(position);
        let whole = (missing / SILENCE * SILENCE).min(MAX_FILL);
        let mut block = vec![[0; 2]; whole as usize];
        smooth_joint(self.tail, &mut block);
        (self.joint, self.silent) = (true, true);
        if block.is_empty() { None } else { self.make(position, block) }
    }

    /// When [`Self::tick`] has something to do next. `None`: not before something else happens.
    pub(crate) fn due(&self) -> Option<ClockTime> {
        let position = self.position?;
        let end = time_of(position + SILENCE) + self.lag();
        Some(match self.heard().filter(|heard| !heard.away && !self.silent) {
            // Nobody sends yet.
            Some(Heard { stream: true, arrived: None, .. }) => end,
            Some(heard) => end.max(heard.arrived.unwrap_or(time_of(position)) + heard.patience()),
            None => end,
        })
    }

    fn heard(&self) -> Option<&Heard> {
        self.sources.get(self.chosen?)
    }

    fn lag(&self) -> ClockTime {
        self.heard().map_or(ClockTime::ZERO, |heard| heard.lag)
    }

    fn make(&mut self, position: u64, samples: Vec<[i16; 2]>) -> Option<Block> {
        self.tail = samples.last().copied().unwrap_or(self.tail);
        self.position = Some(position + samples.len() as u64);
        Some(Block { at: time_of(position), samples })
    }
}

/// Samples from running time zero to `time`, to the nearest.
fn samples_to(time: ClockTime) -> u64 {
    let nanos = u128::from(time.nseconds());
    ((nanos * u128::from(RATE) + 500_000_000) / 1_000_000_000) as u64
}

/// When the sample of this number is due.
pub(crate) fn time_of(sample: u64) -> ClockTime {
    ClockTime::from_nseconds((u128::from(sample) * 1_000_000_000 / u128::from(RATE)) as u64)
}

#[cfg(test)]
mod tests;
