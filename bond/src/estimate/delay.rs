//! How long a path takes: as it is now, and at its least, when no queue stands in front of it.

use std::time::Duration;

use media::Time;

/// The least delay is forgotten after one to two of these. Long enough that an emptied queue shows in it
/// (see `rate.rs`, which empties it once a second), short enough to follow a new route or a clock that
/// drifts by 100 millionths (0.5 ms).
const LEAST_WINDOW: Duration = Duration::from_millis(2_500);

/// The weight of one sample in the mean jitter.
const JITTER_WEIGHT: f64 = 1.0 / 8.0;

/// Delay beyond the least that still counts as no queue: twice the mean that datagrams have which found
/// the path idle, in these bounds. Microseconds.
const LEAST_NOISE: f64 = 6_000.0;
const MOST_NOISE: f64 = 20_000.0;

/// The timeout before anything was heard.
const FIRST_TIMEOUT: Duration = Duration::from_millis(200);

/// What news may take above the least round trip and the queue: a feedback interval and some jitter.
const ALLOWANCE: Duration = Duration::from_millis(25);

/// One path's delays. All are in microseconds, one-way delays by the two clocks as they are.
#[derive(Debug)]
pub(crate) struct Delay {
    srtt: Option<f64>,
    least_rtt: Least,
    owd: Option<f64>,
    latest: f64,
    least_owd: Least,
    jitter: f64,
}

impl Delay {
    pub fn new(now: Time) -> Self {
        Self {
            srtt: None,
            least_rtt: Least::new(now),
            owd: None,
            latest: 0.0,
            least_owd: Least::new(now),
            jitter: 0.0,
        }
    }

    /// A datagram that took `owd` was heard of `rtt` after it was sent; `alone`: nothing of ours was in its
    /// way.
    pub fn sample(&mut self, rtt: f64, owd: f64, alone: bool, now: Time) {
        self.srtt = Some(self.srtt.map_or(rtt, |srtt| srtt + (rtt - srtt) / 8.0));
        self.owd = Some(self.owd.map_or(owd, |smoothed| smoothed + (owd - smoothed) / 4.0));
        self.latest = owd;
        self.least_rtt.sample(rtt, now);
        self.least_owd.sample(owd, now);
        if alone {
            self.jitter += (self.latest_queueing() - self.jitter) * JITTER_WEIGHT;
        }
    }

    /// Smoothed round trip, feedback interval and all.
    pub fn srtt(&self) -> Option<f64> {
        self.srtt
    }

    /// Smoothed one-way delay.
    pub fn owd(&self) -> Option<f64> {
        self.owd
    }

    /// The least round trip seen lately.
    pub fn least_rtt(&self) -> Option<f64> {
        self.least_rtt.get()
    }

    /// Smoothed delay beyond the least.
    pub fn queueing(&self) -> f64 {
        self.owd.zip(self.least_owd.get()).map_or(0.0, |(owd, least)| (owd - least).max(0.0))
    }

    /// The latest delay beyond the least.
    pub fn latest_queueing(&self) -> f64 {
        self.least_owd.get().map_or(0.0, |least| (self.latest - least).max(0.0))
    }

    /// Delay beyond the least that says nothing.
    pub fn noise(&self) -> f64 {
        (2.0 * self.jitter).clamp(LEAST_NOISE, MOST_NOISE)
    }

    /// News of a datagram is overdue after this. `patience` doubles the allowance so many times.
    ///
    /// Not by the variance of round trips, as TCP has it: after each keyframe that would be large for
    /// many frames, and whoever asks also looks whether other news comes in order.
    pub fn timeout(&self, patience: u32) -> Duration {
        let Some(least) = self.least_rtt.get() else { return FIRST_TIMEOUT };
        Duration::from_micros((least + self.latest_queueing()) as u64) + ALLOWANCE * (1 << patience)
    }
}

/// The least of what was seen in the latest one to two windows.
#[derive(Debug)]
struct Least {
    began: Time,
    now: f64,
    before: f64,
}

impl Least {
    fn new(now: Time) -> Self {
        Self { began: now, now: f64::INFINITY, before: f64::INFINITY }
    }

    fn sample(&mut self, value: f64, now: Time) {
        if now.saturating_since(self.began) >= LEAST_WINDOW {
            self.before = std::mem::replace(&mut self.now, value);
            self.began = now;
        }
        self.now = self.now.min(value);
    }

    fn get(&self) -> Option<f64> {
        let least = self.now.min(self.before);
        least.is_finite().then_some(least)
    }
}
