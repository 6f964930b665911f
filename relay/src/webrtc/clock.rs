//! When the frames of a publisher were captured, on the relay's clock: RTP counts from anywhere.
//!
//! A sender report says which instant of the sender's own clock an RTP time is, and by that its tracks are in step with
//! each other. What is between the two clocks is learned from what came the quickest way: the least difference of
//! arrival and capture, which is given up slowly, for clocks drift. Before the first report each track has an origin of
//! its own, learned the same way.

use std::time::Duration;

use media::Time;

/// So much of a clock's difference is given up each second, microseconds: more than crystals drift (100 ppm), and a tenth
/// of a frame in a minute.
const FORGET_PER_SECOND: i64 = 200;

/// The difference of two clocks, never less than any way was.
#[derive(Debug, Default)]
struct Least {
    /// Microseconds, and when it was seen.
    seen: Option<(i64, Time)>,
}

impl Least {
    /// Looks at one more difference; gives the one that holds.
    fn see(&mut self, difference: i64, now: Time) -> i64 {
        let (least, at) = *self.seen.get_or_insert((difference, now));
        let forgotten = now.saturating_since(at).as_micros() as i64 * FORGET_PER_SECOND / 1_000_000;
        let least = difference.min(least.saturating_add(forgotten));
        if difference <= least || forgotten > 0 {
            self.seen = Some((least, now));
        }
        least
    }
}

/// The sender's clock, for all its tracks.
#[derive(Debug, Default)]
pub(super) struct SenderClock(Least);

/// What a sender report says of a track.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    /// The sender's clock, microseconds since the Unix epoch.
    pub wall_us: u64,
    /// RTP time then, as it is in packets.
    pub rtp: u32,
}

/// The clock of one track.
#[derive(Debug)]
pub(super) struct TrackClock {
    /// Hz.
    rate: u64,
    own: Least,
    last: Option<Time>,
}

impl TrackClock {
    /// Of a track whose RTP time counts `rate` times a second.
    pub fn new(rate: u32) -> Self {
        Self { rate: u64::from(rate.max(1)), own: Least::default(), last: None }
    }

    /// The capture time of a frame with this RTP time (carried on beyond 32 bits) that arrived `now`. It grows from frame
    /// to frame.
    pub fn capture(&mut self, rtp: u64, report: Option<Report>, sender: &mut SenderClock, now: Time) -> Time {
        let (theirs, least) = match report {
            Some(report) => {
                let since = i64::from((rtp as u32).wrapping_sub(report.rtp) as i32);
                let since = since.saturating_mul(1_000_000) / self.rate as i64;
                (i64::try_from(report.wall_us).unwrap_or(i64::MAX).saturating_add(since), &mut sender.0)
            }
            None => {
                let theirs = u128::from(rtp) * 1_000_000 / u128::from(self.rate);
                (i64::try_from(theirs).unwrap_or(i64::MAX), &mut self.own)
            }
        };
        let arrived = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
        let offset = least.see(arrived.saturating_sub(theirs), now);
        let captured = Time::from_micros(u64::try_from(theirs.saturating_add(offset)).unwrap_or(0)).min(now);
        // A track's time never goes back, whatever reports say.
        let captured = self.last.map_or(captured, |last| captured.max(last + Duration::from_micros(1)));
        self.last = Some(captured);
        captured
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_800_000_000_000_000;

    fn at(ms: u64) -> Time {
        Time::from_micros(START + ms * 1_000)
    }

    #[test]
    fn the_quickest_way_counts_and_jitter_does_not() {
        let (mut clock, mut sender) = (TrackClock::new(90_000), SenderClock::default());
        let delays = [30, 50, 20, 90, 21, 25, 40];
        let captured: Vec<_> = (0..)
            .zip(delays)
            .map(|(n, delay)| clock.capture(7_000 + n * 3_000, None, &mut sender, at(n * 1000 / 30 + delay)))
            .collect();
        // From the third frame on, the way of 20 ms is what counts as none.
        for (n, captured) in (0..).zip(&captured).skip(2) {
            let wrong = captured.as_micros().abs_diff(at(n * 1000 / 30 + 20).as_micros());
            assert!(wrong < 1_500, "{n}: {wrong} us");
        }
        assert!(captured.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn reports_bring_two_tracks_into_step_whatever_their_origins() {
        let mut sender = SenderClock::default();
        let (mut video, mut audio) = (TrackClock::new(90_000), TrackClock::new(48_000));
        // The sender's clock is an hour wrong; both reports are of the same instant.
        let wall_us = START + 3_600_000_000;
        let pictures = Report { wall_us, rtp: u32::MAX - 10 };
        let sounds = Report { wall_us, rtp: 5 };
        let picture = |rtp: u64| (u64::from(u32::MAX - 10)) + rtp;
        let a = video.capture(picture(9_000), Some(pictures), &mut sender, at(110));
        let b = audio.capture(5 + 4_800, Some(sounds), &mut sender, at(170));
        let c = video.capture(picture(18_000), Some(pictures), &mut sender, at(205));
        assert!(a.as_micros().abs_diff(b.as_micros()) < 20, "the same instant");
        assert!(c.as_micros().abs_diff(a.as_micros() + 95_000) < 100, "5 ms quicker than what came before");
    }

    #[test]
    fn wild_reports_do_no_harm() {
        let (mut clock, mut sender) = (TrackClock::new(90_000), SenderClock::default());
        let mut last = Time::ZERO;
        for (n, wall_us) in [u64::MAX, 0, START, u64::MAX / 2, 1].into_iter().enumerate() {
            let report = Some(Report { wall_us, rtp: u32::MAX });
            let captured = clock.capture(u64::MAX - n as u64, report, &mut sender, at(n as u64));
            assert!(captured > last);
            last = captured;
        }
        assert!(clock.capture(0, None, &mut sender, at(9)) > last);
    }

    #[test]
    fn drift_is_followed() {
        let (mut clock, mut sender) = (TrackClock::new(48_000), SenderClock::default());
        // The sender's crystal is 100 ppm slow: in 200 s it is 20 ms behind.
        let mut worst = 0;
        for n in 0..20_000u64 {
            let now = Time::from_micros(START + n * 10_001);
            let captured = clock.capture(n * 480, None, &mut sender, now);
            worst = worst.max(now.as_micros() - captured.as_micros());
        }
        assert!(worst < 2_000, "{worst} us");
    }
}
