//! When the encoder is asked for an IDR.

use std::time::Duration;

use media::Time;

/// Least time between two forced IDRs. An IDR costs about ten times a delta frame, so a crowd that
/// joins at once must not turn the stream into IDRs; and group numbers have room for four a second.
pub(crate) const MIN_INTERVAL: Duration = Duration::from_millis(250);

/// Coalesces requests. Pure: fed with the broadcast clock by the encoder.
#[derive(Debug)]
pub(crate) struct Keyframes {
    /// Longest group, and how long past it the encoder is left to start the next one by itself.
    overdue: Duration,
    wanted: bool,
    last_forced: Option<Time>,
    last_idr: Option<Time>,
}

impl Keyframes {
    pub(crate) fn new(gop: Duration) -> Self {
        Keyframes { overdue: gop + gop / 2, wanted: false, last_forced: None, last_idr: None }
    }

    /// Somebody needs an IDR. Whether to force one now; if not, a later [`Self::frame`] says so.
    pub(crate) fn request(&mut self, now: Time) -> bool {
        self.wanted = true;
        self.force(now)
    }

    /// The encoder made a frame. Whether to force an IDR now: because a request has waited, or
    /// because the source is slower than it promised (a camera in the dark), so that a group of so
    /// many frames takes too long.
    pub(crate) fn frame(&mut self, idr: bool, now: Time) -> bool {
        if idr {
            self.last_idr = Some(now);
            self.wanted = false;
            return false;
        }
        if self.last_idr.is_some_and(|last| now.saturating_since(last) > self.overdue) {
            self.wanted = true;
        }
        self.force(now)
    }

    fn force(&mut self, now: Time) -> bool {
        let recent = |time: Option<Time>| time.is_some_and(|time| now.saturating_since(time) < MIN_INTERVAL);
        if !self.wanted || recent(self.last_forced) || recent(self.last_idr) {
            return false;
        }
        self.wanted = false;
        self.last_forced = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_millis(100_000 + millis)
    }

    #[test]
    fn a_crowd_gets_one_keyframe() {
        let mut keyframes = Keyframes::new(Duration::from_secs(1));
        assert!(keyframes.request(at(0)));
        assert!((1..200).all(|ms| !keyframes.request(at(ms))));
        // The IDR serves all who asked before it.
        assert!(!keyframes.frame(true, at(200)));
        assert!(!keyframes.frame(false, at(460)));
    }

    #[test]
    fn a_request_too_early_is_served_later() {
        let mut keyframes = Keyframes::new(Duration::from_secs(1));
        assert!(!keyframes.frame(true, at(0)));
        assert!(!keyframes.request(at(10)));
        assert!(!keyframes.frame(false, at(240)));
        assert!(keyframes.frame(false, at(260)));
        assert!(!keyframes.frame(false, at(280)));
    }

    #[test]
    fn a_slow_camera_still_gets_groups() {
        let mut keyframes = Keyframes::new(Duration::from_secs(1));
        assert!(!keyframes.frame(true, at(0)));
        assert!(!keyframes.frame(false, at(1400)));
        assert!(keyframes.frame(false, at(1600)));
        assert!(!keyframes.frame(false, at(1700)));
    }
}
