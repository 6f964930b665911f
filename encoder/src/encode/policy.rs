//! What each encoder may spend, from what the bond carries. Pure: rates and times in, a plan out.
//!
//! Sound comes first and is kept to the last; then the main rendition; smaller renditions share what is
//! there in proportion, and stop, the largest first, before the main one has to step down: by then the main
//! one is as small as they are. At the end of its own steps ([`super::ladder`]) the main rendition stops too,
//! so that the sound gets through.

use std::time::Duration;

use media::Time;

use super::ladder::{Ladder, Step};
use crate::settings::Settings;

/// Opus is still good for speech here (RFC 7587, section 3.1.1 gives 16 to 20 kb/s for wide-band speech).
const LEAST_AUDIO: u32 = 24_000;
/// A rendition that stopped starts again when there has been room for it for so long.
const RESUME_AFTER: Duration = Duration::from_secs(4);
/// One that is about to stop is given so long: see [`super::ladder`].
const STOP_AFTER: Duration = Duration::from_millis(1000);
/// Room to start again, in percent of what it needs.
const RESUME_PERCENT: u64 = 130;

/// What one video encoder may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VideoPlan {
    /// Bits per second; 0: it makes no pictures.
    pub(crate) bitrate: u32,
    /// The picture.
    pub(crate) step: Step,
}

/// What all encoders may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Bits per second of the sound.
    pub(crate) audio: u32,
    /// In the order of the settings: the main rendition first.
    pub(crate) video: Vec<VideoPlan>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Policy {
    audio: u32,
    video: Vec<Rendition>,
}

#[derive(Debug)]
struct Rendition {
    nominal: u32,
    ladder: Ladder,
    running: Switch,
}

/// On or off, with patience in both directions.
#[derive(Debug)]
struct Switch {
    on: bool,
    since: Option<Time>,
}

impl Switch {
    /// Off where it cannot be on for a while, on again where there has been room for a while.
    fn update(&mut self, possible: bool, room: bool, now: Time) -> bool {
        let change = if self.on { !possible } else { room };
        if !change {
            self.since = None;
        } else {
            let patience = if self.on { STOP_AFTER } else { RESUME_AFTER };
            if now.saturating_since(*self.since.get_or_insert(now)) >= patience {
                self.on = !self.on;
                self.since = None;
            }
        }
        self.on
    }
}

impl Policy {
    pub(crate) fn new(settings: &Settings) -> Self {
        let rendition = |video: &crate::VideoSettings| Rendition {
            nominal: video.bitrate,
            ladder: Ladder::new(video.width, video.height, video.fps, video.bitrate),
            running: Switch { on: true, since: None },
        };
        let video = std::iter::once(&settings.video).chain(&settings.renditions).map(rendition).collect();
        Policy { audio: settings.audio.bitrate, video }
    }

    /// The bond carries `rate` bits per second of all tracks together. Call it at each change, and a few
    /// times a second.
    pub(crate) fn update(&mut self, rate: u32, now: Time) -> Plan {
        let Some((main, others)) = self.video.split_first_mut() else {
            return Plan { audio: self.audio, video: Vec::new() };
        };
        let last = main.ladder.last_floor();
        let audio = self.audio.min(rate.saturating_sub(last).max(LEAST_AUDIO));
        let video = rate.saturating_sub(audio);

        // Who runs: the smaller ones while the main one keeps its full picture beside them.
        let mut sum: u64 = u64::from(main.nominal) + others.iter().map(|o| u64::from(o.nominal)).sum::<u64>();
        for other in others.iter_mut() {
            let share = u64::from(video) * u64::from(main.nominal) / sum.max(1);
            let needed = u64::from(main.ladder.top_floor());
            let room = share >= needed * RESUME_PERCENT / 100;
            if !other.running.update(share >= needed, room, now) {
                sum -= u64::from(other.nominal);
            }
        }
        let needed = u64::from(last);
        let room = u64::from(video) >= needed * RESUME_PERCENT / 100;
        // The main one stops when not even its last step fits.
        main.running.update(u64::from(video) >= needed, room, now);

        let plan = |rendition: &mut Rendition| {
            let share = u64::from(video) * u64::from(rendition.nominal) / sum.max(1);
            let bitrate = (share.min(u64::from(rendition.nominal))) as u32;
            let step = rendition.ladder.update(bitrate, now);
            let least = rendition.ladder.last_floor().min(rendition.nominal);
            VideoPlan { bitrate: if rendition.running.on { bitrate.max(least) } else { 0 }, step }
        };
        Plan { audio, video: self.video.iter_mut().map(plan).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VideoSettings;

    fn policy(renditions: &[(u32, u32)]) -> Policy {
        let rendition = |&(height, bitrate): &(u32, u32)| VideoSettings {
            width: height / 9 * 16,
            height,
            bitrate,
            ..VideoSettings::default()
        };
        Policy::new(&Settings {
            renditions: renditions.iter().map(rendition).collect(),
            ..Settings::default()
        })
    }

    fn at(ms: u64) -> Time {
        Time::from_millis(1_000_000 + ms)
    }

    /// The plan after the rate has been the same for ten seconds.
    fn settled(policy: &mut Policy, from: &mut u64, rate: u32) -> Plan {
        let plans = (*from..*from + 10_000).step_by(100).map(|ms| policy.update(rate, at(ms)));
        let plan = plans.last().unwrap();
        *from += 10_000;
        plan
    }

    fn rates(plan: &Plan) -> Vec<u32> {
        plan.video.iter().map(|video| video.bitrate).collect()
    }

    #[test]
    fn the_rate_is_followed_at_once_up_to_what_was_asked_for() {
        let mut policy = policy(&[]);
        let plan = policy.update(9_000_000, at(0));
        assert_eq!((plan.audio, rates(&plan)), (96_000, vec![2_500_000]));
        let plan = policy.update(1_500_000, at(33));
        assert_eq!((plan.audio, rates(&plan)), (96_000, vec![1_404_000]));
    }

    #[test]
    fn renditions_share_and_the_largest_stops_first() {
        let mut policy = policy(&[(360, 600_000), (180, 200_000)]);
        let now = &mut 0;
        assert_eq!(rates(&settled(&mut policy, now, 4_000_000)), [2_500_000, 600_000, 200_000]);
        let half = settled(&mut policy, now, 96_000 + 1_650_000);
        assert_eq!(rates(&half), [1_250_000, 300_000, 100_000]);
        // 540 kb/s is the least for the full main picture.
        assert_eq!(rates(&settled(&mut policy, now, 96_000 + 600_000)), [555_555, 0, 44_444]);
        assert_eq!(rates(&settled(&mut policy, now, 96_000 + 500_000)), [500_000, 0, 0]);
        assert_eq!(rates(&settled(&mut policy, now, 4_000_000)), [2_500_000, 600_000, 200_000]);
    }

    #[test]
    fn the_sound_is_the_last_to_go() {
        let mut policy = policy(&[]);
        let now = &mut 0;
        let plan = settled(&mut policy, now, 150_000);
        assert_eq!(plan.audio, 96_000);
        assert_eq!((plan.video[0].bitrate, plan.video[0].step.every), (54_000, 2));
        let plan = settled(&mut policy, now, 60_000);
        assert_eq!((plan.audio, rates(&plan)), (LEAST_AUDIO, vec![0]));
        let plan = settled(&mut policy, now, 10_000);
        assert_eq!((plan.audio, rates(&plan)), (LEAST_AUDIO, vec![0]));
        let plan = settled(&mut policy, now, 400_000);
        assert_eq!((plan.audio, rates(&plan)), (96_000, vec![304_000]));
    }

    /// What the bond said in half a minute in which its uplinks died and came back: (ms, b/s).
    #[test]
    fn a_recorded_signal_of_a_bad_half_minute() {
        let signal = include_str!("../../tests/signals/three-uplinks-two-cuts.csv");
        let mut policy = policy(&[(360, 600_000)]);
        let (mut steps, mut last) = (0, None);
        let mut rate = 0;
        let mut changes = signal.lines().skip(1).map(|line| {
            let (ms, rate) = line.split_once(',').expect("ms,rate");
            (ms.parse::<u64>().expect("ms"), rate.parse::<u32>().expect("rate"))
        });
        let mut next = changes.next();
        for ms in 0..30_000 {
            while let Some((at, changed)) = next.filter(|(at, _)| *at <= ms) {
                (rate, next) = (changed, changes.next());
                let _ = at;
            }
            if rate == 0 {
                continue; // The owner does not call then.
            }
            let plan = policy.update(rate, at(ms));
            let spent: u64 = rates(&plan).iter().map(|&rate| u64::from(rate)).sum::<u64>();
            assert!(spent + u64::from(plan.audio) <= u64::from(rate.max(200_000)), "{ms} ms: {plan:?}");
            if last.replace(plan.video[0].step) != Some(plan.video[0].step) {
                steps += 1;
            }
        }
        assert!(steps <= 8, "{steps} changes of the picture in half a minute");
    }
}
