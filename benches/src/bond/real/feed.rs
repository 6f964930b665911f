//! The stream of a plan in wall-clock time, and the books of what was sent.

use std::collections::BTreeMap;
use std::time::Duration;

use media::{FrameId, Time};
use relay::clock::Clock;

use crate::bond::media::{Coming, Source, VIDEO};
use crate::bond::plan::Plan;
use crate::bond::tally::Kind;
use crate::bond::world::media_seed;

/// A frame that was handed over to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Which.
    pub coming: Coming,
    /// Its length.
    pub bytes: usize,
    /// When, by the clock of the run.
    pub at: Time,
}

/// Hands over each frame when it is due, until the stream ends. `rate` is asked for the video's bits per second
/// before each.
pub async fn feed(
    plan: &Plan,
    seed: u64,
    first_frame: Time,
    clock: &Clock,
    rate: impl Fn() -> u64,
    mut hand_over: impl FnMut(&Sent),
) -> Vec<Sent> {
    let mut source = Source::new(plan.media, media_seed(seed));
    let mut all = Vec::new();
    while let Some(coming) = source.next() {
        source.advance();
        tokio::time::sleep_until(clock.instant(first_frame + coming.captured).into()).await;
        let sent = Sent { coming, bytes: coming.bytes(&plan.media, rate()), at: clock.now() };
        hand_over(&sent);
        all.push(sent);
    }
    all
}

/// Counts each frame's fate: `came` says when it was there.
pub fn judge(sent: &[Sent], came: &BTreeMap<FrameId, Time>, deadline: Duration) -> (Kind, Kind) {
    let (mut video, mut audio) = (Kind::default(), Kind::default());
    for frame in sent {
        let latency = came.get(&frame.coming.id).map(|at| at.saturating_since(frame.at));
        let kind = if frame.coming.id.track == VIDEO { &mut video } else { &mut audio };
        kind.add(latency, frame.bytes, deadline);
    }
    (video, audio)
}
