//! What is live, frame by frame, for those who forward it otherwise than over MoQ ([`crate::webrtc`]).
//!
//! A tap pulls: nothing is queued for it, and when it comes too late for a group that is not held any more, it goes on
//! with the newest. So no reader costs memory, and none is waited for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use media::catalog::{self, Catalog};
use media::{Time, container};
use moq_net::{Patterns, origin, track};

use super::live::{Group, Live, Lives};
use crate::origin::Origin;

/// The catalog of a show that is on the air is there at once; of one that has to be got from another relay, within this
/// time.
const PATIENCE: Duration = Duration::from_secs(3);

/// A group that has not ended although so many frames of the next one are there has lost its end.
const OVERTAKEN: usize = 8;

/// A frame as a tap gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Its group.
    pub group: u64,
    /// The first of its group: it decodes without any earlier one.
    pub first: bool,
    /// When it was captured, on the broadcast clock.
    pub time: Time,
    /// The encoded bytes.
    pub data: Bytes,
}

/// Where a broadcast is to be had, by its name, for as long as somebody wants it: also when its publisher has gone and
/// come again.
#[derive(Clone)]
pub(crate) struct Shelf {
    lives: Lives,
    origin: origin::Consumer,
    name: String,
}

impl Shelf {
    /// The broadcast of this name, with its catalog, of what `shows` allow to see. `None`: there is no such thing now.
    pub async fn find(origin: &Origin, shows: &Patterns, name: &str) -> Option<(Self, Catalog)> {
        let consumer = origin.scoped("", shows)?.consume();
        let catalog = tokio::time::timeout(PATIENCE, catalog(&consumer, name)).await.ok()?.ok()??;
        let shelf = Self { lives: origin.lives().clone(), origin: consumer, name: name.to_owned() };
        Some((shelf, catalog))
    }

    /// Opens a track, from the newest group on. `None`: the broadcast has no such track, or has left.
    pub fn tap(&self, track: &str) -> Option<Tap> {
        let (live, track) = match self.lives.own(&self.name) {
            Some(own) => own.find(track).map(|number| (own, number))?,
            None => (self.lives.copy(&self.name, &self.name, track, &self.origin), 0),
        };
        live.taps.fetch_add(1, Ordering::Relaxed);
        Some(Tap { live, track, at: None })
    }
}

async fn catalog(origin: &origin::Consumer, name: &str) -> Result<Option<Catalog>, moq_net::Error> {
    let broadcast = origin.request_broadcast(name).await?;
    let mut track = broadcast.track(catalog::TRACK_NAME)?.subscribe(track::Subscription::default()).await?;
    let Some(mut group) = track.recv_group().await? else { return Ok(None) };
    let Some(frame) = group.read_frame().await? else { return Ok(None) };
    Ok(Catalog::parse(&frame.payload).ok())
}

/// One reader of one track.
pub(crate) struct Tap {
    live: Arc<Live>,
    track: usize,
    /// Group and frame that come next.
    at: Option<(u64, usize)>,
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.live.taps.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tap {
    /// The next frame, if it is there. The first is that which begins the newest group.
    pub fn next(&mut self) -> Option<Unit> {
        let groups = self.live.tracks.get(self.track)?.groups();
        let newest = || groups.iter().rfind(|group| !group.frames.is_empty());
        let (group, at) = match self.at {
            None => (newest()?, 0),
            Some((sequence, at)) => match groups.iter().find(|group| group.sequence == sequence) {
                // It is not held any more: what is in between is skipped.
                None => (newest().filter(|newest| newest.sequence > sequence)?, 0),
                Some(group) if at < group.frames.len() => (group, at),
                Some(group) => {
                    let next = groups.iter().find(|next| next.sequence > sequence)?;
                    let over = group.ended || next.frames.len() >= OVERTAKEN;
                    (over && !next.frames.is_empty()).then_some((next, 0))?
                }
            },
        };
        let unit = unit(group, at);
        self.at = Some((group.sequence, at + 1));
        unit
    }

    /// Leaves out what is left of the group under way.
    pub fn skip_group(&mut self) {
        if let Some((sequence, _)) = self.at {
            self.at = Some((sequence, usize::MAX));
        }
    }

    /// Frames that could be had at once.
    pub fn waiting(&self) -> usize {
        let Some(track) = self.live.tracks.get(self.track) else { return 0 };
        let (sequence, at) = self.at.unwrap_or_default();
        let left = |group: &Group| match group.sequence == sequence {
            true => group.frames.len().saturating_sub(at),
            false => group.frames.len(),
        };
        track.groups().iter().filter(|group| group.sequence >= sequence).map(left).sum()
    }

    /// Asks the publisher for a keyframe, as far as it can be asked: a venue, or a program over WHIP. Of what came in over
    /// MoQ the next group is the answer.
    pub fn ask_for_keyframe(&self) {
        self.live.keyframe.notify_one();
    }

    /// Nothing more will come; what is held can still be read.
    pub fn has_ended(&self) -> bool {
        self.live.has_ended() || self.live.is_refused()
    }
}

/// `None`: the publisher does not put times into its frames.
fn unit(group: &Group, at: usize) -> Option<Unit> {
    let (time, data) = container::decode(group.frames.get(at)?.payload()).ok()?;
    Some(Unit { group: group.sequence, first: at == 0, time, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(time: u64) -> Vec<u8> {
        container::encode(Time::from_micros(time), b"x").to_vec()
    }

    /// Groups and times of all that is there.
    fn read(tap: &mut Tap) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| tap.next()).map(|unit| (unit.group, unit.time.as_micros())).collect()
    }

    fn tap(lives: &Lives) -> Tap {
        let live = lives.own("demo").unwrap();
        live.taps.fetch_add(1, Ordering::Relaxed);
        Tap { live, track: 0, at: None }
    }

    #[tokio::test]
    async fn a_newcomer_starts_at_the_newest_keyframe_and_who_is_late_skips() {
        let lives = Lives::default();
        let writer = lives.begin("demo", [("video".into(), 1)]);
        let write = |group, time| drop(writer.write(0, group, time, [&payload(time), &[]]));
        writer.begin(0, 5);
        write(5, 1);
        writer.end(0, 5);
        writer.begin(0, 6);
        let mut late = tap(&lives);
        assert_eq!(late.waiting(), 1);
        assert_eq!(read(&mut late), [(5, 1)], "a group without a frame is not the newest yet");
        write(6, 2);
        write(6, 3);
        let mut newcomer = tap(&lives);
        assert_eq!(read(&mut newcomer), [(6, 2), (6, 3)]);
        assert_eq!((newcomer.waiting(), late.waiting()), (0, 2));
        for group in 7..=9 {
            writer.end(0, group - 1);
            writer.begin(0, group);
            write(group, group * 10);
        }
        assert_eq!(read(&mut late), [(9, 90)]);
        assert_eq!(read(&mut newcomer), [(9, 90)]);
        assert_eq!(lives.viewers(), 2);
        drop(late);
        assert_eq!(lives.viewers(), 1);
        assert!(!newcomer.has_ended());
        drop(writer);
        assert!(newcomer.has_ended());
    }

    #[tokio::test]
    async fn a_group_without_its_end_is_left_when_the_next_has_begun_for_long() {
        let lives = Lives::default();
        let writer = lives.begin("demo", [("video".into(), 1)]);
        writer.begin(0, 1);
        writer.write(0, 1, 1, [&payload(1), &[]]);
        writer.begin(0, 2);
        let mut tap = tap(&lives);
        assert_eq!(read(&mut tap), [(1, 1)]);
        for frame in 0..OVERTAKEN as u64 {
            assert_eq!(read(&mut tap), [], "its end may still come");
            writer.write(0, 2, 10 + frame, [&payload(10 + frame), &[]]);
        }
        assert_eq!(read(&mut tap).len(), OVERTAKEN);
        // And one that is not wanted to its end.
        writer.write(0, 2, 30, [&payload(30), &[]]);
        tap.skip_group();
        writer.write(0, 2, 31, [&payload(31), &[]]);
        writer.end(0, 2);
        writer.begin(0, 3);
        writer.write(0, 3, 40, [&payload(40), &[]]);
        assert_eq!(read(&mut tap), [(3, 40)]);
    }
}
