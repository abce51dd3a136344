//! What is staged where, and what runs together.
//!
//! - **Work-conserving, no timer**: what is staged where a slot is free runs at once. Batches form
//!   because slots are busy. (Text Embeddings Inference batches so; a timer that starts while a
//!   worker is idle, as Mosec's, makes every lone caller pay it.)
//! - **Late binding, early preparing**: while stage credits last, entries are sent and prepared,
//!   the most urgent first; which of them make a batch is decided when a slot is free. (Triton's
//!   instances pull from a batch that grows until one starts it, for the same reason.)
//! - **Earliest deadline first**, of equal ones the first come, in the queue, in the choice of the
//!   next batch, and within it. An entry that finds no room is not overtaken by smaller ones, or a
//!   large one would starve.
//! - **No line at one replica while another idles**: see `share`.

use super::Scheduler;
use crate::entry::Place;
use crate::replica::{Replica, Run};
use crate::{Action, Key, ReplicaId, RevisionId, Staging};

impl<E: Clone> Scheduler<E> {
    /// Does all that has become possible in a revision. Afterwards its queue's first entry can't be
    /// staged anywhere, and no replica has both a free slot and a staged entry.
    pub(super) fn settle(&mut self, revision: RevisionId) {
        loop {
            while let Some((key, replica)) = self.next_placement(revision) {
                self.stage(key, replica);
            }
            // A run makes room, and what is moved to an idle replica can run.
            if !self.run_staged(revision) && !self.share(revision) {
                break;
            }
        }
        self.finish(revision);
    }

    /// Stops a retired revision's replicas once its last entry has left.
    fn finish(&mut self, id: RevisionId) {
        let is_done = self
            .revisions
            .get(id.0)
            .is_some_and(|revision| revision.is_retired && revision.n_entries == 0);
        if is_done && let Some(revision) = self.revisions.remove(id.0) {
            for replica in revision.replicas {
                self.replicas.remove(replica.0);
                self.actions.push(Action::Stop { replica });
            }
        }
    }

    /// Returns the entry to stage next and where, after making room for it if need be.
    fn next_placement(&mut self, id: RevisionId) -> Option<(Key, ReplicaId)> {
        let revision = self.revisions.get(id.0)?;
        let first = *revision.queue.first()?;
        let entry = self.entries.get(first.key.0)?;
        let (cost, staging) = (entry.cost, entry.staging);
        if entry.is_suspect {
            // It is tried alone. Until a replica has run dry nothing else is sent to any, since
            // nothing that waits is more urgent.
            let (replica, _) = self
                .replicas_of(id)
                .find(|(_, replica)| replica.up.is_some() && replica.is_empty())?;
            return Some((first.key, replica));
        }

        let roomy = self
            .replicas_of(id)
            .filter(|(_, replica)| replica.has_room(cost))
            .max_by_key(|(_, replica)| replica.attraction(staging));
        if let Some((replica, _)) = roomy {
            return Some((first.key, replica));
        }

        // Only strictly less urgent entries give way, each once, so nothing is staged in turns. A
        // replica with a suspect has nothing else to take back.
        let (victim, replica) = self
            .replicas_of(id)
            .filter_map(|(id, replica)| {
                let credits = replica.open()?.credits;
                let victim = replica.stage.last_movable()?;
                let victim_cost = self.entries.get(victim.key.0)?.cost;
                (victim.deadline > first.deadline
                    && replica.stage.has_room_without(victim_cost, cost, credits))
                .then_some((victim, id))
            })
            .max()?;
        self.take_back(victim.key);
        Some((first.key, replica))
    }

    pub(super) fn replicas_of(
        &self,
        id: RevisionId,
    ) -> impl Iterator<Item = (ReplicaId, &Replica)> {
        self.revisions
            .get(id.0)
            .into_iter()
            .flat_map(|revision| &revision.replicas)
            .filter_map(|id| Some((*id, self.replicas.get(id.0)?)))
    }

    /// Sends a waiting entry to a replica.
    fn stage(&mut self, key: Key, id: ReplicaId) {
        let (Some(entry), Some(replica)) =
            (self.entries.get_mut(key.0), self.replicas.get_mut(id.0))
        else {
            return;
        };
        let rank = entry.rank(key);
        if let Some(revision) = self.revisions.get_mut(entry.revision.0) {
            revision.queue.remove(&rank);
        }
        if let Some(up) = &mut replica.up {
            up.had_work = true;
        }
        replica.has_suspect = entry.is_suspect;
        replica.stage.reserve(entry.cost);
        entry.held_at = replica.held.len();
        replica.held.push(key);
        entry.place = match entry.staging {
            Staging::Inline(bucket) => {
                replica.stage.insert(rank, bucket, entry.is_movable());
                Place::Staged(id, bucket)
            }
            Staging::Reported => Place::Sent(id),
        };
        self.actions.push(Action::Stage {
            replica: id,
            key,
            entry: entry.value.clone(),
        });
    }

    /// Puts a staged entry back into the queue.
    fn take_back(&mut self, key: Key) {
        self.detach(key);
        let Some(entry) = self.entries.get_mut(key.0) else {
            return;
        };
        if let Some(replica) = entry.place.replica() {
            self.actions.push(Action::Forget { replica, key });
        }
        entry.place = Place::Waiting;
        entry.was_taken_back = true;
        if let Some(revision) = self.revisions.get_mut(entry.revision.0) {
            revision.queue.insert(entry.rank(key));
            revision.counters.taken_back += 1;
        }
    }

    /// Fills free slots from what is staged beside them; returns whether anything runs that did not.
    fn run_staged(&mut self, id: RevisionId) -> bool {
        let mut has_run = false;
        let mut at = 0;
        while let Some(&replica) = self
            .revisions
            .get(id.0)
            .and_then(|revision| revision.replicas.get(at))
        {
            while let Some(batch) = self.form_batch(replica) {
                self.actions.push(Action::Run { replica, batch });
                has_run = true;
            }
            at += 1;
        }
        has_run
    }

    /// Moves a batch into a free slot of a replica. The most urgent staged entry decides the bucket;
    /// others of that bucket join it in order as long as the items fit. Other buckets are left to
    /// the next slot.
    fn form_batch(&mut self, id: ReplicaId) -> Option<Vec<Key>> {
        let replica = self.replicas.get_mut(id.0)?;
        if replica.n_free_slots() == 0 {
            return None;
        }
        let first = replica.stage.first()?;
        let Place::Staged(_, bucket) = self.entries.get(first.key.0)?.place else {
            return None;
        };
        let revision = self.revisions.get_mut(replica.revision.0)?;

        let mut batch = Vec::new();
        let mut n_items = 0_u32;
        for rank in replica.stage.of_bucket(bucket, first) {
            let joined = n_items.saturating_add(self.entries.get(rank.key.0)?.cost.items);
            if !batch.is_empty() && joined > revision.limits.max_batch {
                break;
            }
            n_items = joined;
            batch.push(rank.key);
        }
        for key in &batch {
            let entry = self.entries.get_mut(key.0)?;
            replica
                .stage
                .remove(entry.rank(*key), bucket, entry.is_movable());
            replica.stage.release(entry.cost);
            revision.load.subtract(entry.cost);
            entry.place = Place::Running(id);
            entry.n_runs += 1;
            revision.counters.most_runs = revision.counters.most_runs.max(entry.n_runs);
        }

        replica.runs.push_back(Run {
            started: self.now,
            n_entries: batch.len() as u32,
        });
        if let Some(up) = &mut replica.up {
            up.used = self.now;
        }
        revision.counters.runs += 1;
        revision.counters.batch_sizes[n_items.max(1).ilog2() as usize] += 1;
        Some(batch)
    }

    /// Gives an idle replica half of what waits staged at the busy one with most of it, the most
    /// urgent first, as work stealing does; returns whether anything was moved. An entry moves once,
    /// and only when nothing waits in the queue that the idle replica could have instead.
    fn share(&mut self, id: RevisionId) -> bool {
        let Some(revision) = self.revisions.get(id.0) else {
            return false;
        };
        if revision.replicas.len() < 2 || !revision.queue.is_empty() {
            return false;
        }
        let idle = self
            .replicas_of(id)
            .filter(|(_, replica)| replica.open().is_some() && replica.is_idle())
            .max_by_key(|(_, replica)| replica.attraction(Staging::Reported));
        let busy = self
            .replicas_of(id)
            .max_by_key(|(_, replica)| replica.stage.n_movable());
        let (Some((idle, _)), Some((busy, donor))) = (idle, busy) else {
            return false;
        };
        let n_shared = donor
            .stage
            .n_movable()
            .div_ceil(2)
            .min(revision.limits.max_batch.max(1) as usize);
        for _ in 0..n_shared {
            let Some(key) = self.movable_to(idle, busy) else {
                break;
            };
            self.take_back(key);
            self.stage(key, idle);
        }
        n_shared > 0
    }

    /// Returns the most urgent entry that can go from `busy` to `idle`.
    fn movable_to(&self, idle: ReplicaId, busy: ReplicaId) -> Option<Key> {
        let first = self.replicas.get(busy.0)?.stage.first_movable()?;
        let cost = self.entries.get(first.key.0)?.cost;
        let has_room = self.replicas.get(idle.0)?.has_room(cost);
        has_room.then_some(first.key)
    }
}
