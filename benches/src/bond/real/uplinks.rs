//! The emulated uplinks of a real run, and what they carried.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use media::Time;
use relay::clock::Clock;
use roadie::emulator::{Day, Emulator, Traffic};
use sim::{Conditions, LinkStats, Outage};

use crate::bond::plan::{Plan, START, Uplink};
use crate::bond::tally::{Carried, Rival, UplinkOutcome, times};

/// From now until the first frame: time for the emulators to hear of their day.
const LEAD: Duration = Duration::from_millis(20);

/// One emulator for each uplink that is there.
pub struct Uplinks {
    all: Vec<Option<Emulator>>,
    before: Vec<Traffic>,
}

impl Uplinks {
    /// Starts them in front of the targets, of which there is one for each uplink or one for all. `near` says
    /// where each is reached. Outages come with [`Uplinks::begin`].
    pub async fn start(
        plan: &Plan,
        targets: &[SocketAddr],
        near: impl Fn(usize) -> SocketAddr,
        seed: u64,
    ) -> io::Result<Self> {
        let mut all = Vec::new();
        for (number, Uplink { up, down }) in plan.uplinks.iter().enumerate() {
            let target = targets.get(number).or(targets.first());
            let Some(target) = target.filter(|_| plan.is_first(number)) else {
                all.push(None);
                continue;
            };
            let light = |way: &Conditions| Conditions { outages: Vec::new(), ..way.clone() };
            let seed = seed.wrapping_mul(64).wrapping_add(2 * number as u64);
            let emulator = Emulator::start_at(near(number), *target, light(up), light(down), seed);
            all.push(Some(emulator.await?));
        }
        Ok(Self { all, before: Vec::new() })
    }

    /// Where each is reached, by its number; those that are not there are left out.
    pub fn addresses(&self) -> impl Iterator<Item = (usize, SocketAddr)> {
        self.all.iter().enumerate().filter_map(|(number, emulator)| Some((number, emulator.as_ref()?.addr())))
    }

    /// Begins the day: traces and books start now, the first frame is captured at the time that comes back.
    pub async fn begin(&mut self, plan: &Plan, clock: &Clock) -> Time {
        let begin = clock.now();
        let first_frame = begin + plan.warm_up.max(LEAD);
        let shift = first_frame.micros_since(START);
        let moved = |outages: &[Outage]| {
            let at = |time: Time| time.offset_by(shift);
            outages.iter().map(|outage| Outage { from: at(outage.from), until: at(outage.until) }).collect()
        };
        for (number, (emulator, uplink)) in self.all.iter().zip(&plan.uplinks).enumerate() {
            let day = Day {
                begin,
                up: moved(&uplink.up.outages),
                down: moved(&uplink.down.outages),
                rival: plan.rivals.contains(&number),
            };
            emulator.iter().for_each(|emulator| emulator.plan(day.clone()));
        }
        tokio::time::sleep_until(clock.instant(first_frame).into()).await;
        self.before = self.traffic();
        first_frame
    }

    fn traffic(&self) -> Vec<Traffic> {
        self.all.iter().map(|emulator| emulator.as_ref().map(Emulator::traffic).unwrap_or_default()).collect()
    }

    /// What they carried since the first frame.
    pub fn outcome(&self) -> Vec<UplinkOutcome> {
        let mut before = self.before.iter();
        let outcome = |now: Traffic| {
            let empty = Traffic::default();
            let before = before.next().unwrap_or(&empty);
            let link = since(&now.up, &before.up);
            let mut queueing = times();
            for (millis, count) in now.waits.iter().enumerate() {
                let count = count - before.waits.get(millis).copied().unwrap_or(0);
                queueing.saturating_record_n((millis as u64 * 1000).max(1), count);
            }
            UplinkOutcome {
                sent: Carried {
                    packets: now.own.sent - before.own.sent,
                    bytes: now.own.sent_bytes - before.own.sent_bytes,
                },
                arrived: Carried {
                    packets: now.own.delivered - before.own.delivered,
                    bytes: now.own.delivered_bytes - before.own.delivered_bytes,
                },
                link,
                down: since(&now.down, &before.down),
                queueing,
                rival: now.rival.map(|(delivered, lost)| {
                    let (delivered_before, lost_before) = before.rival.unwrap_or_default();
                    Rival { delivered_bytes: delivered - delivered_before, lost: lost - lost_before }
                }),
            }
        };
        self.traffic().into_iter().map(outcome).collect()
    }
}

fn since(now: &LinkStats, before: &LinkStats) -> LinkStats {
    LinkStats {
        sent: now.sent - before.sent,
        sent_bytes: now.sent_bytes - before.sent_bytes,
        delivered: now.delivered - before.delivered,
        delivered_bytes: now.delivered_bytes - before.delivered_bytes,
        queue_drops: now.queue_drops - before.queue_drops,
        codel_drops: now.codel_drops - before.codel_drops,
        losses: now.losses - before.losses,
        outage_drops: now.outage_drops - before.outage_drops,
        reordered: now.reordered - before.reordered,
    }
}
