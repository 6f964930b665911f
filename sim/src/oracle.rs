//! What a scheduler that knows the future could deliver in time: the bound to compare with.

use std::time::Duration;

use media::Time;

use crate::conditions::{Conditions, Rate};
use crate::trace::{OPPORTUNITY_BYTES, Trace};

/// The grain of the oracle's time. It errs in the oracle's favour: an opportunity counts for its whole
/// millisecond.
const STEP_MICROS: u64 = 1000;

/// The longest show that is judged at once: a day, 700 MB of steps.
const MAX_STEPS: u64 = 86_400_000;

/// Smaller differences of bytes are the rounding of sums.
const TOLERANCE: f64 = 0.5;

/// One uplink towards the receiver, and when its trace began.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// What it does to packets.
    pub conditions: &'a Conditions,
    /// The time that was given to [`crate::Link::begin`].
    pub began: Time,
}

impl Way<'_> {
    /// Bits that it could carry from here to there, dark times aside.
    pub fn capacity(&self, from: Time, until: Time) -> f64 {
        let from = from.max(self.began);
        match &self.conditions.rate {
            Rate::Fixed(bits_per_second) => {
                let dark = self.conditions.outages.iter().map(|outage| {
                    outage.until.min(until).saturating_since(outage.from.max(from)).as_secs_f64()
                });
                let light = until.saturating_since(from).as_secs_f64() - dark.sum::<f64>();
                light.max(0.0) * *bits_per_second as f64
            }
            Rate::Trace(trace) => {
                let index_at = |at: Time| trace.first_from(micros(at.saturating_since(self.began)));
                let leaves = |index| self.began + Duration::from_micros(trace.micros_of(index));
                let light = |&index: &u64| !self.conditions.dark(leaves(index));
                let count = (index_at(from)..index_at(until)).filter(light).count();
                (count * OPPORTUNITY_BYTES * 8) as f64
            }
        }
    }
}

/// A bottleneck that several uplinks end in.
#[derive(Clone, Copy, Debug)]
pub struct Share<'a> {
    /// The uplinks' places among the ways.
    pub members: &'a [usize],
    /// It.
    pub way: Way<'a>,
}

/// A frame that is to be delivered whole, or not at all.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Not sent before this.
    pub release: Time,
    /// Worth nothing after this.
    pub deadline: Time,
    /// What it weighs on a link, headers and all.
    pub bytes: u64,
}

/// The bound of what can be delivered over several uplinks by a deadline.
///
/// It is an **upper bound**: no scheduler delivers more frames in time, and a real one delivers fewer. It
/// knows each uplink's rate at each moment (also the trace to come), its delay and its outages, and that a
/// frame is all or nothing. It ignores, always in its own favour:
///
/// - competing traffic: it has every link for itself;
/// - loss by chance: it sends only packets that will not be lost;
/// - jitter, of which it always draws 0, and the bounds of queues, which it never fills;
/// - packets: bytes flow, and a frame may be cut anywhere between uplinks, without headers but those counted
///   in [`Demand::bytes`];
/// - feedback, probes, repeats and the forming of any estimate;
/// - that a slow uplink's part of a frame must leave earlier: it takes what arrives on any uplink, provided
///   the frame was there when the *fastest* uplink could have sent it for that arrival. (For uplinks of 15
///   and 35 ms it looks 20 ms into the future.)
/// - times below a millisecond.
///
/// So all uplinks become one machine whose speed is the sum of what arrives. With frames whose releases and
/// deadlines come in the same order, the most frames on time on one machine are found by going through them in
/// order and, when one would be late, leaving out that frame among those before it whose leaving lets the
/// others end soonest (Moore 1968; Kise, Ibaraki and Mine 1978), which mostly is the largest.
#[derive(Clone, Debug)]
pub struct Oracle {
    start: Time,
    /// Bytes that could arrive before step `i` begins, from the start on.
    arriving: Vec<f64>,
    least_delay: Duration,
}

impl Oracle {
    /// Looks at what could arrive from `start` to `until`; a way is in one share at most.
    pub fn new(ways: &[Way<'_>], shares: &[Share<'_>], start: Time, until: Time) -> Self {
        let steps = (micros(until.saturating_since(start)) / STEP_MICROS + 1).min(MAX_STEPS) as usize;
        let mut each = vec![0.0; steps];
        for (number, way) in ways.iter().enumerate() {
            if !shares.iter().any(|share| share.members.contains(&number)) {
                arrive(&mut each, way, start);
            }
        }
        for share in shares {
            let mut own = vec![0.0; steps];
            share.members.iter().filter_map(|&number| ways.get(number)).for_each(|way| {
                arrive(&mut own, way, start);
            });
            pass(&own, &mut each, share, start);
        }
        let mut sum = 0.0;
        let mut arriving = Vec::with_capacity(steps + 1);
        arriving.push(0.0);
        arriving.extend(each.into_iter().map(|bytes| {
            sum += bytes;
            sum
        }));
        // (What a shared bottleneck adds to it would only bring the release later, in the oracle's disfavour.)
        let least_delay = ways.iter().map(|way| way.conditions.least_delay()).min().unwrap_or_default();
        Self { start, arriving, least_delay }
    }

    /// The mean of what could arrive, in bits per second.
    pub fn mean_rate(&self) -> f64 {
        let steps = self.arriving.len() - 1;
        self.arriving[steps] * 8.0 * 1e6 / (steps as u64 * STEP_MICROS) as f64
    }

    /// Which of these frames cannot be delivered in time, by their place; as few as possible. The frames
    /// must be in order of release and of deadline at once.
    pub fn lost(&self, demands: &[Demand]) -> Vec<usize> {
        let mut lost = Vec::new();
        let mut taken: Vec<Taken> = Vec::new();
        for (index, demand) in demands.iter().enumerate() {
            let release = self.before(demand.release + self.least_delay, false);
            let end = taken.last().map_or(0.0, |last| last.end);
            let start = end.max(release);
            let bytes = demand.bytes as f64;
            taken.push(Taken { index, release, bytes, start, end: start + bytes });
            if start + bytes > self.before(demand.deadline, true) + TOLERANCE {
                lost.push(leave_out(&mut taken));
            }
        }
        lost.sort_unstable();
        lost
    }

    /// The highest of `low..=high` with which nothing is lost, to within a thousandth; `None` where even
    /// `low` loses something. `demands` makes the frames for a rate; more for a higher rate.
    pub fn sustains(&self, low: u64, high: u64, mut demands: impl FnMut(u64) -> Vec<Demand>) -> Option<u64> {
        let mut fits = |rate| self.lost(&demands(rate)).is_empty();
        if fits(high) {
            return Some(high);
        }
        if !fits(low) {
            return None;
        }
        let (mut low, mut high) = (low, high);
        while high - low > (low / 1000).max(1) {
            let middle = low + (high - low) / 2;
            if fits(middle) { low = middle } else { high = middle }
        }
        Some(low)
    }

    /// Bytes that could arrive before the step of this time, or up to its end.
    fn before(&self, at: Time, whole_step: bool) -> f64 {
        let step = micros(at.saturating_since(self.start)) / STEP_MICROS + u64::from(whole_step);
        self.arriving[(step as usize).min(self.arriving.len() - 1)]
    }
}

/// A frame that is on time, in bytes of arrival.
struct Taken {
    index: usize,
    release: f64,
    bytes: f64,
    start: f64,
    end: f64,
}

/// Leaves out the frame without which the last one ends soonest; says which.
fn leave_out(taken: &mut Vec<Taken>) -> usize {
    // How far everything behind the one looked at can move forward.
    let mut slack = f64::INFINITY;
    let (mut best, mut most) = (taken.len() - 1, 0.0);
    for place in (0..taken.len()).rev() {
        let before = if place == 0 { 0.0 } else { taken[place - 1].end };
        let gain = slack.min(taken[place].end - before);
        if gain > most {
            (best, most) = (place, gain);
        }
        slack = slack.min(taken[place].start - taken[place].release);
        if slack <= 0.0 {
            break; // What is before this one does not delay it.
        }
    }
    let gone = taken.remove(best);
    for place in best..taken.len() {
        let before = if place == 0 { 0.0 } else { taken[place - 1].end };
        let frame = &mut taken[place];
        frame.start = before.max(frame.release);
        frame.end = frame.start + frame.bytes;
    }
    gone.index
}

/// Adds what a way lets arrive in each step.
fn arrive(each: &mut [f64], way: &Way<'_>, start: Time) {
    match &way.conditions.rate {
        Rate::Fixed(bits_per_second) => flow(each, way, start, *bits_per_second),
        Rate::Trace(trace) => replay(each, way, start, trace),
    }
}

/// Adds what comes out of a shared bottleneck whose members bring `own`, with a queue of any length: whatever a
/// scheduler puts into it, no more than this is through at any time.
fn pass(own: &[f64], each: &mut [f64], share: &Share<'_>, start: Time) {
    let mut takes = vec![0.0; own.len()];
    let here = Conditions { delay: Duration::ZERO, swing: None, ..share.way.conditions.clone() };
    arrive(&mut takes, &Way { conditions: &here, began: share.way.began }, start);
    let later = (micros(share.way.conditions.least_delay()) / STEP_MICROS) as usize;
    let mut queue = 0.0;
    for (step, (comes, takes)) in own.iter().zip(takes).enumerate() {
        queue += comes;
        let out = takes.min(queue);
        queue -= out;
        if let Some(sum) = each.get_mut(step + later) {
            *sum += out;
        }
    }
}

/// Where an uplink's bytes arrive: each departure's delay on its own, and nobody overtakes.
struct Arrivals<'a> {
    each: &'a mut [f64],
    way: &'a Way<'a>,
    start: Time,
    last: Time,
}

impl<'a> Arrivals<'a> {
    fn new(each: &'a mut [f64], way: &'a Way<'a>, start: Time) -> Self {
        Self { each, way, start, last: Time::ZERO }
    }

    /// The first departure that may matter.
    fn from(&self) -> Time {
        let conditions = self.way.conditions;
        let longest = conditions.swing.map_or(conditions.delay, |swing| swing.to.max(conditions.delay));
        (self.start - longest).max(self.way.began)
    }

    /// Adds bytes; says whether later ones may still arrive in time.
    fn add(&mut self, leaves: Time, bytes: f64) -> bool {
        let arrives = (leaves + self.way.conditions.delay_at(leaves)).max(self.last);
        if !self.way.conditions.reorder {
            self.last = arrives;
        }
        if arrives >= self.start {
            let step = micros(arrives.saturating_since(self.start)) / STEP_MICROS;
            if let Some(sum) = self.each.get_mut(step as usize) {
                *sum += bytes;
            }
        }
        leaves < self.start + Duration::from_micros(self.each.len() as u64 * STEP_MICROS)
    }
}

/// Adds what a fixed rate lets arrive in each step.
fn flow(each: &mut [f64], way: &Way<'_>, start: Time, bits_per_second: u64) {
    let whole = bits_per_second as f64 * STEP_MICROS as f64 / 8e6;
    let mut arrivals = Arrivals::new(each, way, start);
    let mut leaves = arrivals.from();
    while arrivals.add(leaves, whole * light(way.conditions, leaves)) {
        leaves += Duration::from_micros(STEP_MICROS);
    }
}

/// The part of the step from here on in which it is not dark.
fn light(conditions: &Conditions, from: Time) -> f64 {
    let until = from + Duration::from_micros(STEP_MICROS);
    let dark = conditions.outages.iter().map(|outage| {
        micros(outage.until.min(until).saturating_since(outage.from.max(from))) as f64 / STEP_MICROS as f64
    });
    (1.0 - dark.sum::<f64>()).max(0.0)
}

/// Adds a trace's opportunities to the steps in which they arrive.
fn replay(each: &mut [f64], way: &Way<'_>, start: Time, trace: &Trace) {
    let mut arrivals = Arrivals::new(each, way, start);
    let first = trace.first_from(micros(arrivals.from().saturating_since(way.began)));
    for index in first.. {
        let leaves = way.began + Duration::from_micros(trace.micros_of(index));
        let bytes = if way.conditions.dark(leaves) { 0.0 } else { OPPORTUNITY_BYTES as f64 };
        if !arrivals.add(leaves, bytes) {
            return;
        }
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Outage, Rng};

    const START: Time = Time::from_millis(1_000_000);

    fn at(millis: u64) -> Time {
        START + Duration::from_millis(millis)
    }

    fn fixed(bits_per_second: u64, delay: u64) -> Conditions {
        Conditions {
            rate: Rate::Fixed(bits_per_second),
            delay: Duration::from_millis(delay),
            ..Conditions::default()
        }
    }

    fn oracle(conditions: &[Conditions], millis: u64) -> Oracle {
        let ways: Vec<Way<'_>> =
            conditions.iter().map(|conditions| Way { conditions, began: START }).collect();
        Oracle::new(&ways, &[], START, at(millis))
    }

    fn demand(release: u64, deadline: u64, bytes: u64) -> Demand {
        Demand { release: at(release), deadline: at(deadline), bytes }
    }

    #[test]
    fn the_sum_of_all_uplinks_is_what_is_there() {
        // 1 Mb/s is 125 bytes per millisecond.
        let two = oracle(&[fixed(1_000_000, 10), fixed(3_000_000, 30)], 1000);
        assert!((two.mean_rate() - 3_900_000.0).abs() < 10_000.0, "{}", two.mean_rate());
        // From 10 ms on one arrives, from 30 ms on both: 20 x 125 + 70 x 500 (and the step at the end).
        assert!(two.lost(&[demand(0, 100, 37_500)]).is_empty());
        assert_eq!(two.lost(&[demand(0, 100, 38_100)]), [0]);
    }

    #[test]
    fn outages_and_traces() {
        let mut dark = fixed(1_000_000, 0);
        dark.outages = vec![Outage { from: at(10), until: at(90) }];
        assert!(oracle(&[dark.clone()], 200).lost(&[demand(0, 99, 20 * 125)]).is_empty());
        assert_eq!(oracle(&[dark], 200).lost(&[demand(0, 99, 21 * 125)]), [0]);
        let trace: Trace = "10\n10\n50\n".parse().unwrap();
        let conditions =
            Conditions { rate: Rate::Trace(trace), delay: Duration::from_millis(5), ..Conditions::default() };
        let oracle = oracle(&[conditions], 200);
        assert!(oracle.lost(&[demand(0, 15, 3000), demand(0, 55, 1500), demand(0, 65, 3000)]).is_empty());
        assert_eq!(oracle.lost(&[demand(0, 14, 1)]), [0]);
        assert_eq!(oracle.lost(&[demand(16, 54, 1)]), [0]);
    }

    #[test]
    fn what_is_shared_counts_once() {
        let (one, two, both) = (fixed(3_000_000, 10), fixed(2_000_000, 20), fixed(1_000_000, 0));
        let way = |conditions| Way { conditions, began: START };
        let ways = [way(&one), way(&two), way(&one)];
        let share = Share { members: &[0, 1], way: way(&both) };
        let oracle = Oracle::new(&ways, &[share], START, at(10_000));
        assert!((oracle.mean_rate() - 4_000_000.0).abs() < 20_000.0, "{}", oracle.mean_rate());
    }

    #[test]
    fn capacity_is_what_the_light_carries() {
        let mut dark = fixed(1_000_000, 10);
        dark.outages = vec![Outage { from: at(500), until: at(700) }];
        let capacity = |conditions: &Conditions| Way { conditions, began: START }.capacity(at(0), at(1_000));
        assert!((capacity(&dark) - 800_000.0).abs() < 1.0);
        dark.rate = Rate::Trace("100\n".parse().unwrap());
        // At 100, 200 ... 900, but not at 500 and 600.
        assert!((capacity(&dark) - 7.0 * 12_000.0).abs() < 1.0);
    }

    #[test]
    fn the_largest_is_left_out() {
        // 100 steps of 125 bytes.
        let oracle = oracle(&[fixed(1_000_000, 0)], 1000);
        let frames = [demand(0, 99, 2_000), demand(0, 99, 7_000), demand(0, 99, 3_000), demand(0, 99, 4_000)];
        assert_eq!(oracle.lost(&frames), [1]);
        // One that does not delay the others is not blamed: it was over before they came.
        let frames = [demand(0, 99, 12_000), demand(200, 299, 8_000), demand(200, 299, 7_000)];
        assert_eq!(oracle.lost(&frames), [1]);
    }

    /// All subsets, for small numbers of frames.
    fn fewest(oracle: &Oracle, demands: &[Demand]) -> u32 {
        (0..1u32 << demands.len())
            .filter(|kept| {
                let mut end = 0.0f64;
                demands.iter().enumerate().filter(|(i, _)| kept >> i & 1 == 1).all(|(_, demand)| {
                    end = end.max(oracle.before(demand.release, false)) + demand.bytes as f64;
                    end <= oracle.before(demand.deadline, true) + TOLERANCE
                })
            })
            .map(|kept| demands.len() as u32 - kept.count_ones())
            .min()
            .unwrap()
    }

    #[test]
    fn nobody_does_better() {
        for seed in 0..300 {
            let mut rng = Rng::new(seed);
            let trace = Trace::mobile(1_000_000, 2, &mut rng).unwrap();
            let conditions = Conditions { rate: Rate::Trace(trace), ..Conditions::default() };
            let oracle = oracle(&[conditions], 2_000);
            let (mut release, mut deadline) = (0, 0);
            let demands: Vec<Demand> = (0..10)
                .map(|_| {
                    release += rng.below(40);
                    deadline = (release + 10 + rng.below(90)).max(deadline);
                    demand(release, deadline, 500 + rng.below(9_000))
                })
                .collect();
            let lost = oracle.lost(&demands);
            assert_eq!(lost.len() as u32, fewest(&oracle, &demands), "seed {seed}: {demands:?}, {lost:?}");
        }
    }

    #[test]
    fn the_rate_that_is_sustained() {
        let oracle = oracle(&[fixed(2_000_000, 20)], 4_000);
        let frames = |rate: u64| (0..100).map(|n| demand(n * 33, n * 33 + 400, rate / 8 / 30)).collect();
        let rate = oracle.sustains(100_000, 10_000_000, frames).unwrap();
        // 2 Mb/s, and what the last deadline leaves beyond the last frame.
        assert!((2_000_000..2_300_000).contains(&rate), "{rate}");
        assert_eq!(oracle.sustains(3_000_000, 10_000_000, frames), None);
        assert_eq!(oracle.sustains(1_000, 2_000, frames), Some(2_000));
    }
}
