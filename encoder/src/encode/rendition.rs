//! One video track: which encoder makes it now, and which one from the next group on.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use gstreamer as gst;

use super::chain::{Chain, Job};
use super::codec::Shape;
use super::groups::Place;
use super::lock;
use super::policy::VideoPlan;
use crate::VIDEO_TRACK;
use crate::shared::Counts;

pub(crate) struct Rendition {
    job: Job,
    serials: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    active: Option<Running>,
    /// Takes over at the beginning of a group.
    next: Option<Running>,
    plan: Option<VideoPlan>,
    /// It made no picture of the last one: it starts again at the beginning of a group only.
    paused: bool,
    /// Pictures since the last one that was encoded.
    skipped: u32,
    /// Pictures that its encoder was given.
    pushed: u64,
    quiet: Quiet,
}

struct Running {
    chain: Arc<Chain>,
    serial: u64,
    codec_at: usize,
}

/// Whether an encoder gives anything.
#[derive(Default)]
struct Quiet {
    left: u64,
    pushed: u64,
    ticks: u32,
}

impl Rendition {
    pub(crate) fn new(job: Job) -> Self {
        Rendition { job, serials: AtomicU64::new(0), state: Mutex::default() }
    }

    /// Bits per second that the settings allow.
    pub(crate) fn nominal_bitrate(&self) -> u32 {
        self.job.nominal_bitrate
    }

    /// A number for a chain to be started.
    pub(crate) fn next_serial(&self) -> u64 {
        self.serials.fetch_add(1, Relaxed) + 1
    }

    /// What a new chain is to do, and at which bit rate.
    pub(crate) fn wanted(&self) -> (Job, u32) {
        let state = lock(&self.state);
        let mut job = self.job.clone();
        let mut bitrate = job.nominal_bitrate;
        if let Some(plan) = state.plan {
            job.output = Shape { width: plan.step.width, height: plan.step.height, ..job.output };
            bitrate = encoder_rate(plan);
        }
        (job, bitrate)
    }

    /// `chain` takes over: at once where there is none, otherwise at the next beginning of a group.
    pub(crate) fn replace(&self, chain: Chain, serial: u64, codec_at: usize) {
        let running = Running { chain: Arc::new(chain), serial, codec_at };
        let mut state = lock(&self.state);
        let place = if state.active.is_none() { &mut state.active } else { &mut state.next };
        let old = place.replace(running);
        state.quiet = Quiet::default();
        drop(state);
        drop(old);
    }

    /// Takes a raw picture. Gives back the chain that was replaced.
    pub(crate) fn push(&self, buffer: &gst::Buffer, place: Place, counts: &Counts) -> Option<Arc<Chain>> {
        let mut state = lock(&self.state);
        let mut old = None;
        if place.begins
            && let Some(next) = state.next.take()
        {
            if let Some(plan) = state.plan {
                next.chain.set_bitrate(encoder_rate(plan));
            }
            old = state.active.replace(next).map(|running| running.chain);
        }
        let (every, off) = state.plan.map_or((1, false), |plan| (plan.step.every, plan.bitrate == 0));
        state.paused = off || (state.paused && !place.begins);
        state.skipped += 1;
        if state.paused || (state.skipped < every && !place.begins) {
            return old;
        }
        state.skipped = 0;
        if let Some(active) = &state.active {
            let mut buffer = buffer.clone();
            if self.job.track == VIDEO_TRACK {
                buffer.make_mut().set_offset(counts.offer());
            }
            active.chain.push(buffer, place.group);
            state.pushed += 1;
        }
        old
    }

    /// Takes a new plan; the bit rate is in force at once. Whether the size has to change.
    pub(crate) fn apply(&self, plan: VideoPlan) -> bool {
        let mut state = lock(&self.state);
        let before = state.plan.replace(plan);
        if before.is_none_or(|before| encoder_rate(before) != encoder_rate(plan))
            && plan.bitrate > 0
            && let Some(active) = &state.active
        {
            active.chain.set_bitrate(encoder_rate(plan));
        }
        state.wants_resize()
    }

    pub(crate) fn wants_resize(&self) -> bool {
        lock(&self.state).wants_resize()
    }

    /// The chain that is started or about to be: failures of others are old news.
    pub(crate) fn serial(&self) -> u64 {
        lock(&self.state).newest().map_or(0, |running| running.serial)
    }

    /// The place of its encoder among those that work here.
    pub(crate) fn codec_at(&self) -> usize {
        lock(&self.state).newest().map_or(0, |running| running.codec_at)
    }

    pub(crate) fn codec_name(&self) -> &'static str {
        lock(&self.state).newest().map_or("", |running| running.chain.codec.name)
    }

    /// Whether the present chain has made a picture.
    pub(crate) fn has_worked(&self) -> bool {
        lock(&self.state).active.as_ref().is_some_and(|running| running.chain.counts().1 > 0)
    }

    /// Called at each tick: the number of the chain if it has taken pictures for `ticks` and given none.
    pub(crate) fn hangs(&self, ticks: u32) -> Option<u64> {
        let mut state = lock(&self.state);
        let running = state.active.as_ref()?;
        let ((entered, left), serial) = (running.chain.counts(), running.serial);
        let pushed = state.pushed;
        let quiet = &mut state.quiet;
        // It holds pictures, and gives nothing. One that gets nothing, because a stream is passed through, may
        // be quiet, even if it has swallowed a picture.
        let stuck = left == quiet.left && entered > left;
        let more = u32::from(pushed != quiet.pushed);
        *quiet = Quiet { left, pushed, ticks: if stuck { quiet.ticks + more } else { 0 } };
        (quiet.ticks >= ticks && state.next.is_none()).then(|| {
            state.quiet.ticks = 0;
            serial
        })
    }

    pub(crate) fn stop(&self) {
        let (active, next) = {
            let mut state = lock(&self.state);
            (state.active.take(), state.next.take())
        };
        drop((active, next));
    }

    #[cfg(test)]
    pub(crate) fn break_down(&self) {
        if let Some(running) = &lock(&self.state).active {
            running.chain.break_down();
        }
    }
}

impl State {
    fn newest(&self) -> Option<&Running> {
        self.next.as_ref().or(self.active.as_ref())
    }

    fn wants_resize(&self) -> bool {
        let (Some(plan), Some(running)) = (self.plan, self.newest()) else { return false };
        let shape = running.chain.shape;
        (shape.width, shape.height) != (plan.step.width, plan.step.height)
    }
}

/// What the encoder is told: its rate control counts frames, so for half the frames it gets twice the rate.
fn encoder_rate(plan: VideoPlan) -> u32 {
    plan.bitrate.saturating_mul(plan.step.every)
}
