//! How many replicas a revision has, and when there are none.
//!
//! - Between `min_scale` and `max_scale`, by predicted work (`demand.rs`), looked at every two
//!   seconds while there is any; the first entry that finds no replica launches one in the same call.
//! - Replicas beyond what is needed get nothing more and end when they hold nothing, the one used
//!   longest ago first.
//! - When nothing has been there for the idle window, all but `min_scale` end.
//! - A start that does not fit the memory of its device makes room: the idle revisions that are
//!   cheapest to load again per byte are ended, never one with work or below its `min_scale`. If that
//!   is not enough none is ended, and the start has failed.

use std::time::Duration;

use super::{Scheduler, Timer};
use crate::demand::Demand;
use crate::replica::Replica;
use crate::{Action, ReplicaId, RevisionId, Time};

impl<E: Clone> Scheduler<E> {
    /// Has the number of replicas looked at.
    pub(super) fn keep_scaled(&mut self, id: RevisionId) {
        let Some(revision) = self.revisions.get_mut(id.0) else {
            return;
        };
        if !revision.has_scale_timer {
            revision.has_scale_timer = true;
            let at = self.now.saturating_add(Demand::INTERVAL);
            self.timers.insert((at, Timer::Scale(id)));
        }
    }

    /// Fits the number of replicas to the demand.
    pub(super) fn scale(&mut self, id: RevisionId) {
        let now = self.now;
        let Some(revision) = self.revisions.get_mut(id.0) else {
            return;
        };
        revision.has_scale_timer = false;
        let limits = revision.limits;
        let most = limits.max_scale.max(limits.min_scale).max(1);
        let n_now = revision.fleet.ids.len() - revision.draining.len();
        // Before the first is up nothing has had a chance to be done.
        let is_used = revision.n_slots == 0 && n_now > 0
            || now.saturating_since(revision.idle_since) < limits.idle_window;
        let needed = match revision.is_idle() {
            // What was evicted, or died, is for the next who asks to start.
            true if n_now == 0 || !is_used => 0,
            _ => {
                let needed = revision.demand.replicas(now, revision.slots_each, n_now);
                // The last one stays through the idle window.
                needed.max(1)
            }
        };
        revision.n_wanted = needed.clamp(limits.min_scale, most);
        let n_surplus = n_now.saturating_sub(revision.n_wanted);
        let is_settled = revision.n_wanted == limits.min_scale && revision.is_idle();
        if n_surplus > 0 {
            self.drain(id, n_surplus);
        } else {
            self.launch_wanted(id);
        }
        if !is_settled {
            self.keep_scaled(id);
        }
    }

    /// Lets the replicas that were used longest ago end when they hold nothing. Those that have not
    /// come up go first.
    fn drain(&mut self, id: RevisionId, n: usize) {
        let Some(revision) = self.revisions.get(id.0) else {
            return;
        };
        let mut by_use: Vec<(Option<Time>, ReplicaId)> = revision
            .fleet
            .ids
            .iter()
            .filter_map(|id| Some((id, self.replicas.get(id.0)?)))
            .filter(|(_, replica)| !replica.is_draining && !replica.is_killed)
            .map(|(id, replica)| (replica.up.map(|up| up.used), *id))
            .collect();
        by_use.sort_unstable();
        for (_, replica) in by_use.into_iter().take(n) {
            if let Some(draining) = self.replicas.get_mut(replica.0) {
                draining.is_draining = true;
            }
            if let Some(revision) = self.revisions.get_mut(id.0) {
                revision.draining.push(replica);
            }
            self.reindex(replica);
        }
        self.finish(id);
    }

    /// Takes back the draining of one replica, if one drains; returns whether one did.
    pub(super) fn undrain(&mut self, id: RevisionId) -> bool {
        let Some(revision) = self.revisions.get_mut(id.0) else {
            return false;
        };
        let replicas = &mut self.replicas;
        let is_alive = |id: &ReplicaId| replicas.get(id.0).is_some_and(|r| !r.is_killed);
        let Some(place) = revision.draining.iter().position(is_alive) else {
            return false;
        };
        let replica = revision.draining.remove(place);
        if let Some(draining) = replicas.get_mut(replica.0) {
            draining.is_draining = false;
        }
        self.reindex(replica);
        true
    }

    /// Ends what is not needed any more and holds nothing: draining replicas, and a retired revision
    /// with all of its replicas.
    pub(super) fn finish(&mut self, id: RevisionId) {
        let Some(revision) = self.revisions.get(id.0) else {
            return;
        };
        let is_over = revision.is_over();
        if !is_over && revision.draining.is_empty() {
            return;
        }
        let is_done = |id: &ReplicaId| {
            let replica = self.replicas.get(id.0);
            replica.is_some_and(Replica::is_empty)
        };
        let done: Vec<ReplicaId> = match is_over {
            true => revision.fleet.ids.clone(),
            false => revision.draining.iter().copied().filter(is_done).collect(),
        };
        for replica in done {
            self.stop(id, replica);
        }
        if is_over {
            self.revisions.remove(id.0);
        }
    }

    /// Ends a replica for good.
    fn stop(&mut self, id: RevisionId, replica: ReplicaId) {
        if self.take_out(replica).is_none() {
            return;
        }
        if let Some(revision) = self.revisions.get_mut(id.0) {
            revision.counters.stops += 1;
        }
        self.actions.push(Action::Stop { replica });
    }

    /// Takes a replica out of everything that knows it but the entries that it holds, and returns it.
    pub(super) fn take_out(&mut self, id: ReplicaId) -> Option<Replica> {
        let replica = self.replicas.remove(id.0)?;
        let revision = self.revisions.get_mut(replica.revision.0)?;
        revision
            .fleet
            .note(id, replica.standing, Default::default());
        revision.fleet.ids.retain(|other| *other != id);
        revision.ready.retain(|other| *other != id);
        revision.draining.retain(|other| *other != id);
        revision.n_slots -= replica.n_slots();
        revision.n_runs -= replica.runs.len();
        for run in &replica.runs {
            revision.ends_sum -= u128::from(run.ends.as_nanos());
        }
        if let Some(device) = revision.device_in(&mut self.devices) {
            device.reserved -= u128::from(replica.memory);
            if let Some(claim) = replica.blocked {
                device.blocked.remove(&(claim, id));
            }
        }
        self.note_slots(replica.revision);
        Some(replica)
    }

    /// Works out how many runs of a revision are at work at once, after its slots have changed.
    pub(super) fn note_slots(&mut self, id: RevisionId) {
        let Some(revision) = self.revisions.get_mut(id.0) else {
            return;
        };
        let device = revision.limits.device.map(|device| device.0);
        let n_most = device
            .and_then(|device| self.devices.get(device))
            .map_or(u32::MAX, |device| device.limits.cores / revision.cores_each);
        revision.n_at_once = revision.n_slots.min(n_most.max(1) as usize);
        revision.timetable.set_slots(revision.n_at_once);
    }

    /// Makes room for one more replica of a revision on its device, and returns the bytes reserved.
    ///
    /// # Errors
    /// The bytes needed and the bytes that could be had.
    pub(super) fn reserve_memory(&mut self, id: RevisionId) -> Result<u64, (u64, u64)> {
        let Some(revision) = self.revisions.get(id.0) else {
            return Ok(0);
        };
        let needed = revision.memory_bytes;
        let Some(device_id) = revision.limits.device else {
            return Ok(needed);
        };
        let Some(device) = self.devices.get(device_id.0) else {
            return Ok(needed);
        };
        if !device.has_memory(needed) {
            let mut idle: Vec<(u128, RevisionId, u128)> = self
                .revisions
                .iter()
                .filter(|(other, _)| RevisionId(*other) != id)
                .filter(|(_, other)| other.limits.device == Some(device_id))
                .filter(|(_, other)| other.limits.min_scale == 0 && other.is_idle())
                .filter(|(_, other)| other.n_slots > 0)
                .map(|(other_id, other)| {
                    let replicas = other.fleet.ids.iter();
                    let bytes: u128 = replicas
                        .filter_map(|id| self.replicas.get(id.0))
                        .map(|replica| u128::from(replica.memory))
                        .sum();
                    let reload = other.start_time.duration().unwrap_or(Duration::MAX);
                    // Picoseconds per byte: whole nanoseconds would be all alike.
                    let cost = reload.as_nanos().saturating_mul(1000) / bytes.max(1);
                    (cost, RevisionId(other_id), bytes)
                })
                .collect();
            idle.sort_unstable();
            let evictable: u128 = idle.iter().map(|(_, _, bytes)| bytes).sum();
            let kept = device.reserved - evictable;
            let free = u128::from(device.limits.memory_bytes).saturating_sub(kept);
            let free = u64::try_from(free).unwrap_or(u64::MAX);
            if free < needed {
                return Err((needed, free));
            }
            for (_, evicted, _) in idle {
                if self
                    .devices
                    .get(device_id.0)
                    .is_some_and(|device| device.has_memory(needed))
                {
                    break;
                }
                self.evict(evicted);
            }
        }
        if let Some(device) = self.devices.get_mut(device_id.0) {
            device.reserved += u128::from(needed);
        }
        Ok(needed)
    }

    fn evict(&mut self, id: RevisionId) {
        let Some(revision) = self.revisions.get_mut(id.0) else {
            return;
        };
        revision.n_wanted = 0;
        for replica in revision.fleet.ids.clone() {
            self.stop(id, replica);
        }
    }

    /// Returns when the first replica of a revision is predicted to be up, where none is: at once if
    /// no start was ever measured, since nothing is known against it.
    pub(super) fn predicted_start(&self, id: RevisionId) -> Option<Time> {
        let revision = self.revisions.get(id.0)?;
        if revision.n_slots > 0 {
            return None;
        }
        let took = revision.start_time.duration().unwrap_or_default();
        let launched = revision
            .fleet
            .ids
            .iter()
            .filter_map(|id| self.replicas.get(id.0))
            .map(|replica| replica.launched)
            .min();
        let from = launched.unwrap_or(self.now).max(revision.start_after);
        Some(from.saturating_add(took).max(self.now))
    }
}
