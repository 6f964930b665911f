//! When the creator must act, and what to do. Pure: statuses and times in, lines out. What mends itself is
//! shown elsewhere and is no alarm.

use std::time::Duration;

use encoder::record::RecordState;
use encoder::{Levels, SourceState};
use media::Time;

use super::lines;
use crate::show::Status;

/// The bond needs a moment at the start, and after a short outage.
const UNREACHED: Duration = Duration::from_secs(3);
/// An input that is opened while it is on air may take so long.
const WAITING: Duration = Duration::from_secs(5);
/// A pause in the sound; longer than between two songs.
const SILENT: Duration = Duration::from_secs(15);
/// What a muted input gives, dBFS.
const SILENCE: f32 = -75.0;
/// Samples at the end of the scale are cut off, dBFS.
const CLIPPING: f32 = -0.1;
/// Too loud is said for so long after it was so.
const CLIPPED: Duration = Duration::from_secs(3);
/// Pictures dropped by an encoder that is too slow are looked at over so long.
const DROPS: Duration = Duration::from_secs(5);
/// Of a hundred pictures, so many may be dropped.
const DROPS_PERCENT: u64 = 5;

/// Looks at each status.
#[derive(Debug, Default)]
pub struct Alarms {
    unreached_since: Option<Time>,
    waiting_since: Option<Time>,
    silent_since: Option<Time>,
    clipped_at: Option<Time>,
    drops: Option<Drops>,
    slow: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Drops {
    at: Time,
    captured: u64,
    dropped: u64,
}

impl Alarms {
    /// What the creator must act on now, most urgent first.
    pub fn update(&mut self, status: &Status, now: Time) -> Vec<String> {
        let mut alarms = recordings(status);
        alarms.extend(self.uplinks(status, now));
        alarms.extend(self.input(status, now));
        alarms.extend(self.sound(status, now));
        alarms.extend(self.speed(status, now));
        alarms
    }

    fn uplinks(&mut self, status: &Status, now: Time) -> Option<String> {
        let uplinks = &status.venue.uplinks;
        if uplinks.iter().any(|uplink| uplink.connected) {
            self.unreached_since = None;
            return None;
        }
        let since = *self.unreached_since.get_or_insert(now);
        if uplinks.iter().any(|uplink| uplink.refused) {
            return Some("the edge refuses this show: see the reason beside the uplink".into());
        }
        let recorded = status.recordings.iter().any(|copy| copy.state == RecordState::Recording);
        let comfort = if recorded { "; the recording goes on" } else { "" };
        (now.saturating_since(since) >= UNREACHED).then(|| {
            format!("nobody sees the show: no uplink reaches the edge; plug one in, or try another network{comfort}")
        })
    }

    fn input(&mut self, status: &Status, now: Time) -> Option<String> {
        let input = status.inputs.iter().find(|input| input.on_air)?;
        let name = &input.name;
        let cut = if status.inputs.len() > 1 { ", cut to another input" } else { "" };
        match &input.state {
            SourceState::Away { reason } => {
                Some(format!("viewers see a still picture{cut}: {}", lines::away(name, reason)))
            }
            SourceState::Waiting => {
                let since = *self.waiting_since.get_or_insert(now);
                (now.saturating_since(since) >= WAITING)
                    .then(|| format!("viewers see a slate{cut}: nothing comes from {name} yet"))
            }
            _ => {
                self.waiting_since = None;
                None
            }
        }
    }

    fn sound(&mut self, status: &Status, now: Time) -> Option<String> {
        let live = status.inputs.iter().any(|input| input.on_air && input.state == SourceState::Live);
        let loudest = |levels: [f32; 2]| levels[0].max(levels[1]);
        let Levels { peak, .. } = status.levels;
        if loudest(peak) >= CLIPPING {
            self.clipped_at = Some(now);
        }
        if !live || loudest(peak) > SILENCE {
            self.silent_since = None;
        } else if now.saturating_since(*self.silent_since.get_or_insert(now)) >= SILENT {
            return Some(
                "there is no sound: is the microphone muted, or the wrong one? See `roadie devices`".into(),
            );
        }
        let clipped = self.clipped_at.is_some_and(|at| now.saturating_since(at) < CLIPPED);
        clipped.then(|| "the sound is too loud and distorts: turn the input down".into())
    }

    fn speed(&mut self, status: &Status, now: Time) -> Option<String> {
        let (captured, dropped) = (status.encoder.captured, status.encoder.dropped);
        let before = *self.drops.get_or_insert(Drops { at: now, captured, dropped });
        if now.saturating_since(before.at) >= DROPS {
            let (all, lost) = (captured - before.captured, dropped - before.dropped);
            self.slow = (lost * 100 > all * DROPS_PERCENT).then(|| lost * 100 / all.max(1));
            self.drops = Some(Drops { at: now, captured, dropped });
        }
        let percent = self.slow?;
        Some(format!(
            "this machine is too slow: {percent} % of the pictures are dropped; close other programs, or start again \
             with a smaller --size or --fps"
        ))
    }
}

fn recordings(status: &Status) -> Vec<String> {
    let copies = &status.recordings;
    let failed = copies.iter().filter(|copy| matches!(copy.state, RecordState::Failed { .. })).count();
    let mut alarms = Vec::new();
    if failed > 0 && failed == copies.len() {
        alarms.push("NOTHING IS RECORDED: free space, or plug in the disk, and it goes on by itself".into());
    }
    for copy in copies {
        let words = match &copy.state {
            RecordState::Failed { reason } | RecordState::Degraded { reason } => Some(reason),
            RecordState::Recording => copy.warning.as_ref(),
        };
        alarms.extend(words.map(|words| format!("{}: {words}", copy.path.display())));
    }
    alarms
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use encoder::InputStatus;
    use encoder::record::RecordStatus;
    use relay::venue::UplinkState;

    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_millis(1_795_000_000_000 + seconds * 1000)
    }

    fn good() -> Status {
        let input = InputStatus {
            name: "camera".into(),
            state: SourceState::Live,
            on_air: true,
            levels: Levels::SILENCE,
        };
        let mut status = Status {
            inputs: vec![input],
            levels: Levels { peak: [-12.0; 2], rms: [-20.0; 2] },
            recordings: vec![RecordStatus::empty(Path::new("/a"), RecordState::Recording); 2],
            ..Status::default()
        };
        status.venue.uplinks = vec![UplinkState { connected: true, ..UplinkState::default() }; 2];
        status
    }

    #[test]
    fn a_good_show_has_no_alarm_and_half_a_bond_is_none() {
        let mut alarms = Alarms::default();
        let mut status = good();
        status.venue.uplinks[0].connected = false;
        assert!((0..100).all(|s| alarms.update(&status, at(s)).is_empty()));
    }

    #[test]
    fn an_outage_is_one_after_three_seconds_and_over_at_once() {
        let (mut alarms, mut status) = (Alarms::default(), good());
        status.venue.uplinks.iter_mut().for_each(|uplink| uplink.connected = false);
        assert!(alarms.update(&status, at(0)).is_empty() && alarms.update(&status, at(2)).is_empty());
        let words = alarms.update(&status, at(3)).remove(0);
        assert!(words.contains("no uplink") && words.contains("the recording goes on"), "{words}");
        status.venue.uplinks[1].connected = true;
        assert!(alarms.update(&status, at(4)).is_empty());
    }

    #[test]
    fn sound_that_is_missing_or_too_loud() {
        let (mut alarms, mut status) = (Alarms::default(), good());
        status.levels.peak = [-90.0, -80.0];
        assert!((0..15).all(|s| alarms.update(&status, at(s)).is_empty()));
        assert!(alarms.update(&status, at(15))[0].contains("no sound"));
        status.levels.peak = [0.0, -20.0];
        assert!(alarms.update(&status, at(16))[0].contains("too loud"));
        status.levels.peak = [-20.0, -20.0];
        assert!(!alarms.update(&status, at(18)).is_empty() && alarms.update(&status, at(19)).is_empty());
    }

    #[test]
    fn an_encoder_that_cannot_keep_up() {
        let (mut alarms, mut status) = (Alarms::default(), good());
        for second in 0..=10 {
            let lines = alarms.update(&status, at(second));
            assert_eq!(lines.is_empty(), second < 5, "{second}: {lines:?}");
            status.encoder.captured += 30;
            status.encoder.dropped += 6;
        }
        assert!(alarms.update(&status, at(11))[0].contains("20 %"));
    }

    #[test]
    fn disks_come_first() {
        let (mut alarms, mut status) = (Alarms::default(), good());
        status.recordings[0].state = RecordState::Failed { reason: "it is full".into() };
        status.inputs[0].state = SourceState::Away { reason: "unplugged".into() };
        let lines = alarms.update(&status, at(0));
        assert_eq!(lines, ["/a: it is full", "viewers see a still picture: camera is away: unplugged"]);
        status.recordings[1].state = status.recordings[0].state.clone();
        assert!(alarms.update(&status, at(0))[0].starts_with("NOTHING IS RECORDED"));
    }
}
