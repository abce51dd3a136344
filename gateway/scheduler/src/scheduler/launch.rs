//! Launching replicas, and what becomes of entries whose replica dies.
//!
//! - The first entry that finds no replica launches one in the same call.
//! - A replica that has had work and dies is replaced at once, whether or not anything waits: a
//!   warm model comes back. A start that fails is repeated after a wait that doubles.
//! - When too many starts have failed in a row, what waits fails and offers are refused until the
//!   wait is over; the next offer then launches again.
//! - What a dying replica was running, post-processing or being sent is under suspicion. Each such
//!   entry is retried once, alone on a replica, so that a second death is its own. What was staged
//!   goes back to the queue as it was. So no entry runs more than twice.

use super::Scheduler;
use crate::entry::Place;
use crate::replica::Replica;
use crate::{Action, FailReason, Key, ReplicaId, RevisionId, Time};

impl<E: Clone> Scheduler<E> {
    /// Hears that a replica is dead, or that its start has failed or is given up.
    pub fn replica_down(&mut self, now: Time, replica: ReplicaId) {
        self.advance(now);
        let Some(dead) = self.replicas.remove(replica.0) else {
            return;
        };
        for key in &dead.held {
            self.return_or_fail(*key);
        }
        let Some(revision) = self.revisions.get_mut(dead.revision.0) else {
            return;
        };
        revision.replicas.retain(|id| *id != replica);
        if let Some(up) = dead.up {
            revision.n_slots -= up.credits.slots as usize;
        }

        // One that dies soon and idle has not started, whatever it said; one that dies at work is
        // replaced at once, which the suspects bound: each can bring down two.
        let lived = dead.up.map(|up| self.now.saturating_since(up.since));
        let has_lasted = lived.is_some_and(|lived| lived >= revision.limits.max_start_backoff);
        if has_lasted {
            revision.n_failed_starts = 0;
        }
        if has_lasted || dead.up.is_some_and(|up| up.had_work) {
            revision.counters.crashes += 1;
        } else {
            let start_after = revision.back_off(self.now);
            self.starts.insert((start_after, dead.revision));
            self.fail_hopeless(dead.revision);
        }
        self.launch_wanted(dead.revision);
        self.settle(dead.revision);
    }

    /// Returns an entry of a dead replica to the queue, or fails it if it was suspect already.
    fn return_or_fail(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(key.0) else {
            return;
        };
        let is_unharmed = matches!(entry.place, Place::Staged(..));
        if entry.is_suspect && !is_unharmed {
            self.fail(key, FailReason::Poisoned);
            return;
        }
        let Some(revision) = self.revisions.get_mut(entry.revision.0) else {
            return;
        };
        if matches!(entry.place, Place::Running(_)) {
            revision.load.add(entry.cost);
        }
        if !is_unharmed {
            entry.is_suspect = true;
            revision.counters.retries += 1;
        }
        entry.place = Place::Waiting;
        revision.queue.insert(entry.rank(key));
    }

    /// Fails everything that waits for a replica when no start is tried any more.
    fn fail_hopeless(&mut self, id: RevisionId) {
        while let Some(revision) = self.revisions.get(id.0)
            && revision.has_given_up()
            && let Some(first) = revision.queue.first()
        {
            self.fail(first.key, FailReason::StartFailed);
        }
    }

    fn fail(&mut self, key: Key, why: FailReason) {
        let Some(entry) = self.remove(key) else {
            return;
        };
        if let Some(revision) = self.revisions.get_mut(entry.revision.0) {
            match why {
                FailReason::Poisoned => revision.counters.poisoned += 1,
                FailReason::StartFailed => revision.counters.start_failed += 1,
            }
        }
        self.actions.push(Action::Fail {
            entry: entry.value,
            key,
            why,
        });
    }

    /// Launches the replicas that a revision lacks, as far as failed starts allow: none before the
    /// wait is over, one at a time until one has succeeded, and only for someone who waits once it
    /// has been given up.
    pub(super) fn launch_wanted(&mut self, id: RevisionId) {
        while let Some(revision) = self.revisions.get(id.0)
            && revision.replicas.len() < revision.n_wanted
            && revision.start_after <= self.now
            && !(revision.has_given_up() && revision.queue.is_empty())
            && !(revision.n_failed_starts > 0 && self.has_starting(id))
        {
            self.launch(id);
        }
    }

    fn has_starting(&self, id: RevisionId) -> bool {
        self.replicas_of(id)
            .any(|(_, replica)| replica.up.is_none())
    }

    pub(super) fn launch(&mut self, id: RevisionId) -> Option<ReplicaId> {
        let revision = self.revisions.get_mut(id.0)?;
        let replica = ReplicaId(self.replicas.insert(Replica::new(id)));
        revision.replicas.push(replica);
        revision.counters.launches += 1;
        self.actions.push(Action::Launch {
            revision: id,
            replica,
        });
        Some(replica)
    }
}
