//! What goes next, and where: probes, copies for safety, and the shards that wait.

use std::time::Duration;

use bytes::Bytes;
use media::Time;

use super::{MAX_COPIES, PARITY_PATIENCE, Sender};
use crate::lanes::OBJECTS;
use crate::path::Path;
use crate::pending::Outgoing;
use crate::scheduler::{Lane, REFILL, Rank, ShardId, Waiting, earliest};
use crate::shard::Cut;
use crate::wire;
use crate::{Class, Cost, MAX_DATAGRAM, PathId, Transmit};

/// While shards wait and no path takes them, the plan is made again after this at the latest: delays
/// and penalties move with time.
const REPLAN: Duration = Duration::from_millis(5);

/// Copies of audio and of the tails of keyframes may be this part of what is sent,
const COPY_PART: f64 = 0.03;

/// and this many bytes may be saved up for them.
const COPY_BYTES: f64 = 4_000.0;

/// A shard that is sent for the third time goes over two paths at once: its deadline is near.
const SENDS_BEFORE_COPY: u16 = 2;

impl Sender {
    pub(super) fn ack(&mut self, now: Time) -> Option<Transmit> {
        while let Some(id) = self.acks.pop() {
            if let Some(path) = self.paths.get(&id) {
                let data = wire::put_ack(path.stamp(now), self.inbox.next()).freeze();
                return Some(self.sent(id, None, data, now));
            }
        }
        None
    }

    pub(super) fn probe(&mut self, now: Time) -> Option<Transmit> {
        let due =
            |(&id, path): (&PathId, &mut Path)| path.take_probe(now).map(|len| (id, path.stamp(now), len));
        let (id, stamp, len) = self.paths.iter_mut().find_map(due)?;
        Some(self.sent(id, None, wire::put_probe(stamp, len).freeze(), now))
    }

    /// The next copy for safety whose second path is free.
    pub(super) fn copy(&mut self, now: Time) -> Option<Transmit> {
        for _ in 0..self.copies.len() {
            let (shard, not) = self.copies.pop_front()?;
            let Some(outgoing) = self.pending.outgoing(shard) else { continue };
            let fits = |lane: &Lane| lane.path != not && lane.cost != Cost::LastResort;
            let lanes: Vec<Lane> = self.lanes(now).into_iter().filter(fits).collect();
            let Some(best) = earliest(&lanes, MAX_DATAGRAM) else { continue };
            if !lanes[best].free {
                self.copies.push_back((shard, not));
                self.replan_at(now + REPLAN);
                continue;
            }
            if self.in_time(&lanes[best], MAX_DATAGRAM, &outgoing, now) {
                let path = lanes[best].path;
                let data = self.pending.send(shard, path, self.paths.get(&path)?.stamp(now))?;
                self.stats.shards_duplicated += 1;
                self.stats.redundant_bytes += data.len() as u64;
                return Some(self.sent(lanes[best].path, Some(shard), data, now));
            }
        }
        None
    }

    pub(super) fn next_shard(&mut self, now: Time) -> Option<Transmit> {
        loop {
            if self.queue.is_empty() {
                return None;
            }
            let mut lanes = self.lanes(now);
            let Some((waiting, lane)) = self.queue.choose(&mut lanes) else {
                self.plan_again(now);
                return None;
            };
            let (mut lane, Waiting { shard, bytes, .. }) = (lanes[lane], waiting);
            let Some(outgoing) = self.pending.outgoing(shard) else {
                self.queue.remove(&waiting);
                continue;
            };
            if waiting.rank == Rank::Bulk {
                // On the cheapest paths only, and of them on the slowest: nobody waits for it.
                let lanes = self.lanes(now);
                let least = lanes.iter().map(|lane| lane.cost).min();
                let fits = |lane: &&Lane| lane.spare && Some(lane.cost) == least;
                let later = |a: &&Lane, b: &&Lane| a.arrival(bytes).total_cmp(&b.arrival(bytes));
                let slowest = lanes.iter().filter(fits).max_by(later);
                let Some(slowest) = slowest.filter(|_| self.budget.bulk(bytes)) else {
                    self.replan_at(now + REPLAN);
                    return None;
                };
                lane = *slowest;
            }
            if waiting.rank == Rank::Parity {
                if now >= waiting.deadline {
                    self.queue.remove(&waiting);
                    let again = self.pending.forget(shard);
                    again.into_iter().for_each(|waiting| self.queue.insert(waiting));
                    continue;
                }
                // Not where most of its frame went, for that path's bad moment would take both; nor where it
                // would come after a repair.
                let main = self.pending.main_path(shard);
                let all = self.lanes(now);
                let soonest = earliest(&all, bytes).map_or(0.0, |best| all[best].arrival(bytes));
                let useful = soonest + PARITY_PATIENCE.as_micros() as f64;
                let fits = |lane: &&Lane| {
                    lane.free
                        && lane.cost != Cost::LastResort
                        && Some(lane.path) != main
                        && lane.arrival(bytes) <= useful
                };
                let sooner = |a: &&Lane, b: &&Lane| a.arrival(bytes).total_cmp(&b.arrival(bytes));
                let Some(&other) = all.iter().filter(fits).min_by(sooner) else {
                    self.replan_at(now + REPLAN);
                    return None;
                };
                lane = other;
            }
            if waiting.rank != Rank::Parity && !self.in_time(&lane, bytes, &outgoing, now) {
                self.drop_frame((shard.track, shard.order));
                continue;
            }
            self.queue.remove(&waiting);
            let data = self.pending.send(shard, lane.path, self.paths.get(&lane.path)?.stamp(now))?;
            if outgoing.parity {
                self.stats.parity_sent += 1;
                self.stats.redundant_bytes += data.len() as u64;
                return Some(self.sent(lane.path, Some(shard), data, now));
            }
            if outgoing.sends > 0 {
                self.stats.shards_retransmitted += 1;
                self.stats.redundant_bytes += data.len() as u64;
            }
            self.want_copy(shard, &outgoing, data.len(), lane.path);
            return Some(self.sent(lane.path, Some(shard), data, now));
        }
    }

    /// The paths that may carry media, for the scheduler.
    fn lanes(&self, now: Time) -> Vec<Lane> {
        self.paths.values().filter_map(|path| path.lane(now)).collect()
    }

    /// Whether a shard that is sent now on this lane may still be in time, by the clock estimate's better
    /// end; without one, any is.
    fn in_time(&self, lane: &Lane, bytes: usize, outgoing: &Outgoing, now: Time) -> bool {
        let owd = self.paths.get(&lane.path).and_then(Path::owd);
        let delay = owd.zip(self.clock.estimate()).map_or(0.0, |(owd, clock)| {
            (owd - clock.offset_micros as f64 - clock.error_micros as f64).max(0.0)
        });
        let takes = delay + lane.per_byte * bytes as f64;
        now + Duration::from_micros(takes as u64) < outgoing.deadline
    }

    /// Asks for a copy on a second path, where it is worth its bytes.
    fn want_copy(&mut self, shard: ShardId, outgoing: &Outgoing, len: usize, path: PathId) {
        let precious = match outgoing.class {
            Class::Audio => true,
            Class::Keyframe => outgoing.last,
            _ => false,
        };
        let wanted = if outgoing.sends == 0 {
            self.copy_credit = (self.copy_credit + len as f64 * COPY_PART).min(COPY_BYTES);
            let affordable =
                self.config.fec && precious && self.budget.calm(self.now) && self.copy_credit >= len as f64;
            if affordable {
                self.copy_credit -= len as f64;
            }
            affordable || outgoing.class == Class::Control
        } else {
            outgoing.sends >= SENDS_BEFORE_COPY
        };
        if wanted {
            if self.copies.len() >= MAX_COPIES {
                self.copies.pop_front();
            }
            self.copies.push_back((shard, path));
        }
    }

    /// Shards wait and no path takes them: when one may.
    fn plan_again(&mut self, now: Time) {
        let lanes = self.lanes(now);
        let soonest = lanes.iter().filter(|lane| !lane.free).map(|lane| lane.wait).min_by(f64::total_cmp);
        if !lanes.is_empty() {
            let wait =
                soonest.map_or(REPLAN, |wait| Duration::from_micros(wait as u64).saturating_sub(REFILL));
            self.replan_at(now + wait.clamp(Duration::from_micros(100), REPLAN));
        }
    }

    fn replan_at(&mut self, at: Time) {
        self.replan = Some(self.replan.map_or(at, |before| before.min(at)));
    }

    /// How many parity shards a frame gets: what its losses ask for, as far as spare rate pays.
    pub(super) fn parity(&mut self, bytes: usize, class: Class) -> usize {
        // A second path must be there, see `next_shard`.
        let paths = self.paths.values().filter(|path| path.active()).count();
        if !self.config.fec || paths < 2 { 0 } else { self.budget.parity(Cut::of(bytes), class) }
    }

    /// Notes a datagram that goes out now.
    fn sent(&mut self, id: PathId, shard: Option<ShardId>, data: Bytes, now: Time) -> Transmit {
        self.stats.packets_sent += 1;
        self.stats.bytes_sent += data.len() as u64;
        self.budget.spent(data.len(), shard.is_some_and(|shard| shard.track == OBJECTS));
        let forgotten = self.paths.get_mut(&id).and_then(|path| path.sent(shard, data.len(), now));
        self.send_again(forgotten.into_iter().collect());
        Transmit { path: id, data }
    }
}
