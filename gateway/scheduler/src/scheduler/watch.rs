//! Replicas that hang.
//!
//! A run may take ten times what is predicted, at least `run_limit`; so long a replica that prepares
//! or post-processes may be silent, and longer by the pixels that it holds. Then it is ended like
//! one that has died: its entries are suspects, and another is started.
//!
//! One timer per replica looks when the earliest limit known to it has come, and every `run_limit`, so
//! that the events in between cost nothing.

use std::time::Duration;

use super::{Scheduler, Timer};
use crate::{Action, ReplicaId, Time};

/// A run may take this many times what is predicted.
const PATIENCE: u32 = 10;

/// The least `run_limit`: less would find what is on its way over the wire to hang.
const MIN_LIMIT: Duration = Duration::from_millis(10);

/// What preparing or drawing a pixel may take: a slow format on a slow machine.
const PIXEL: Duration = Duration::from_nanos(200);

impl<E: Clone> Scheduler<E> {
    /// Has a replica that holds something looked after.
    pub(super) fn keep_watch(&mut self, id: ReplicaId) {
        let Some(replica) = self.replicas.get_mut(id.0) else {
            return;
        };
        if replica.is_watched || replica.is_killed {
            return;
        }
        replica.is_watched = true;
        let limit = self
            .revisions
            .get(replica.revision.0)
            .map_or(Duration::MAX, |revision| revision.limits.run_limit);
        let at = self.now.saturating_add(limit.max(MIN_LIMIT));
        self.timers.insert((at, Timer::Watch(id)));
    }

    /// Looks whether a replica hangs, and ends it if so.
    pub(super) fn watch(&mut self, id: ReplicaId) {
        let due = self.patience_ends(id);
        let Some(replica) = self.replicas.get_mut(id.0) else {
            return;
        };
        match due {
            Some(due) if due <= self.now => {
                replica.is_watched = false;
                replica.is_killed = true;
                if let Some(revision) = self.revisions.get_mut(replica.revision.0) {
                    revision.counters.hangs += 1;
                }
                self.actions.push(Action::Kill { replica: id });
                let revision = replica.revision;
                self.reindex(id);
                self.settle(revision);
            }
            Some(due) => {
                self.timers.insert((due, Timer::Watch(id)));
            }
            None => replica.is_watched = false,
        }
    }

    /// Returns when a replica counts as hung if nothing is heard, at the earliest that is worth
    /// looking at; `None` if it holds nothing.
    fn patience_ends(&self, id: ReplicaId) -> Option<Time> {
        let replica = self.replicas.get(id.0)?;
        if replica.is_empty() {
            return None;
        }
        let revision = self.revisions.get(replica.revision.0)?;
        let limit = revision.limits.run_limit.max(MIN_LIMIT);
        let at_work = replica.runs.iter().take(replica.n_at_work());
        let runs = at_work.map(|run| {
            let patience = run.predicted.saturating_mul(PATIENCE).max(limit);
            run.began.saturating_add(patience)
        });
        let word = replica.owes_word().then(|| {
            let held = replica.held.iter();
            let pixels: u64 = held
                .filter_map(|key| self.entries.get(key.0))
                .map(|entry| entry.cost.pixels)
                .fold(0, u64::saturating_add);
            let pixels = u32::try_from(pixels).unwrap_or(u32::MAX);
            replica
                .heard
                .saturating_add(limit)
                .saturating_add(PIXEL.saturating_mul(pixels))
        });
        // What waits staged for a slot or for cores owes nothing. It is looked at again, because what
        // is sent later may have to be heard of earlier than what was there before.
        let later = self.now.saturating_add(limit);
        runs.chain(word).chain([later]).min()
    }
}
