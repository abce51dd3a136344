//! Launching replicas, and what becomes of entries whose replica dies.
//!
//! - The first entry that finds no replica launches one in the same call.
//! - A replica that was up and dies is replaced at once, whether or not anything waits: a
//!   warm model comes back. A start that fails is repeated after a wait that doubles; so is one after
//!   a series of crashes with no answer between them, unless one entry alone is to blame.
//! - When too many starts have failed in a row, what waits fails and offers are refused until the
//!   wait is over; the next offer then launches again.
//! - What a dying replica was running or post-processing is under suspicion, and what it was preparing
//!   if that has happened before. Each such entry is retried once, alone on a replica, so that a
//!   second death is its own. The rest goes back to the queue as it was. So no entry runs more than
//!   twice, and none ends more than three replicas.
//! - What a replica held that was killed from outside is under no suspicion: it is retried beside
//!   others, and runs twice at most as well. A start that ends so counts as a crash, unless no start
//!   was ever seen to succeed, and a series of such deaths has each start wait, but not longer and
//!   longer.

use super::{Scheduler, Timer};
use crate::entry::Place;
use crate::replica::Replica;
use crate::{Action, Death, FailReason, Key, ReplicaId, RevisionId, Time};

/// Runs of an entry at most: it is answered, or whatever ran it has died.
const MAX_RUNS: u32 = 2;

impl<E: Clone> Scheduler<E> {
    /// Hears that a replica is dead, or that its start has failed or is given up.
    pub fn replica_down(&mut self, now: Time, replica: ReplicaId, death: Death) {
        self.advance(now);
        let Some(dead) = self.take_out(replica) else {
            return;
        };
        let id = dead.revision;
        // A second death while alone is the entry's own, and says nothing of the model.
        let is_poison = death == Death::Unexplained && dead.has_suspect && !dead.held.is_empty();
        for key in &dead.held {
            self.return_or_fail(*key, death);
        }
        let Some(revision) = self.revisions.get_mut(id.0) else {
            return;
        };

        // Where none was ever up, it may be the model that has them killed: by what watches over the
        // memory outside of the kernel.
        let death = match revision.start_time.duration() {
            Some(_) => death,
            None => Death::Unexplained,
        };
        // One that was up or was killed is replaced at once; where one after another dies with no answer
        // between, that proves nothing. One that lived long enough did prove it.
        let limits = revision.limits;
        let has_failed = match dead.up.map(|up| self.now.saturating_since(up.since)) {
            Some(lived) => {
                revision.counters.crashes += 1;
                if lived >= limits.max_start_backoff {
                    revision.n_failed_starts = 0;
                    revision.n_crashes = 0;
                }
                !is_poison && revision.crashed()
            }
            None if death == Death::FromOutside => {
                revision.counters.crashes += 1;
                revision.crashed()
            }
            None => true,
        };
        if has_failed && death == Death::Unexplained {
            self.put_off(id);
        } else if has_failed {
            // Whoever kills one after another is no fault that longer and longer waits would outlast,
            // nor a reason to fail what waits.
            self.start_after(id, self.now.saturating_add(limits.start_backoff));
        }
        self.free_cores(id, dead.n_at_work(), dead.cores());
        self.launch_wanted(id);
        self.settle(id);
    }

    /// Has a revision wait before its next start, which has failed.
    fn put_off(&mut self, id: RevisionId) {
        if let Some(revision) = self.revisions.get_mut(id.0) {
            let start_after = revision.back_off(self.now);
            self.start_after(id, start_after);
            self.give_up(id);
        }
    }

    fn start_after(&mut self, id: RevisionId, time: Time) {
        if let Some(revision) = self.revisions.get_mut(id.0) {
            revision.start_after = revision.start_after.max(time);
            self.timers.insert((revision.start_after, Timer::Start(id)));
        }
    }

    /// Returns an entry of a dead replica to the queue, or fails it if it was suspect already or has
    /// run twice.
    fn return_or_fail(&mut self, key: Key, death: Death) {
        let Some(entry) = self.entries.get_mut(key.0) else {
            return;
        };
        let place = entry.place;
        let has_run = matches!(place, Place::Running(_));
        // Of the many that may be in preparation hardly any is to blame, and each that is tried alone
        // keeps the others waiting: so to have been there once is no suspicion yet.
        let is_suspicious = death == Death::Unexplained
            && match place {
                Place::Sent(_) => std::mem::replace(&mut entry.was_near, true) || entry.is_suspect,
                Place::Staged(..) | Place::Waiting => false,
                Place::Running(_) => true,
            };
        if is_suspicious && entry.is_suspect {
            self.fail(key, FailReason::Poisoned);
            return;
        }
        if has_run && entry.n_runs >= MAX_RUNS {
            self.fail(key, FailReason::Killed);
            return;
        }
        entry.place = Place::Waiting;
        entry.is_suspect |= is_suspicious;
        let (rank, id) = (entry.rank(key), entry.revision);
        if let Some(revision) = self.revisions.get_mut(id.0) {
            revision.counters.retries += u64::from(is_suspicious || has_run);
            if !has_run {
                revision.queue.insert(rank);
            }
        }
        if has_run {
            self.enqueue(key);
        }
    }

    /// Fails everything that waits for a replica when too many starts have failed. The next is made
    /// for whoever asks next, or for what is kept in any case.
    fn give_up(&mut self, id: RevisionId) {
        if let Some(revision) = self.revisions.get_mut(id.0)
            && revision.has_given_up()
        {
            revision.n_wanted = revision.limits.min_scale;
        }
        while let Some(revision) = self.revisions.get(id.0)
            && revision.has_given_up()
            && let Some(first) = revision.queue.first()
        {
            let why = match revision.no_memory {
                Some((needed, free)) => FailReason::NoMemory { needed, free },
                None => FailReason::StartFailed,
            };
            self.fail(first.key, why);
        }
    }

    fn fail(&mut self, key: Key, why: FailReason) {
        let Some(entry) = self.remove(key) else {
            return;
        };
        if let Some(revision) = self.revisions.get_mut(entry.revision.0) {
            match why {
                FailReason::Poisoned | FailReason::Killed => revision.counters.poisoned += 1,
                FailReason::StartFailed | FailReason::NoMemory { .. } => {
                    revision.counters.start_failed += 1;
                }
            }
        }
        self.actions.push(Action::Fail {
            entry: entry.value,
            key,
            why,
        });
    }

    /// Launches the replicas that a revision lacks, as far as failed starts allow: none before the
    /// wait is over, and one at a time until one has succeeded.
    pub(super) fn launch_wanted(&mut self, id: RevisionId) {
        while let Some(revision) = self.revisions.get(id.0)
            && revision.fleet.ids.len() - revision.draining.len() < revision.n_wanted
            && !revision.is_over()
        {
            let is_allowed = revision.start_after <= self.now
                && !(revision.n_failed_starts > 0 && self.has_starting(id));
            if self.undrain(id) {
                continue;
            }
            if !is_allowed || !self.launch(id) {
                break;
            }
        }
    }

    fn has_starting(&self, id: RevisionId) -> bool {
        let revision = self.revisions.get(id.0);
        revision.is_some_and(|revision| {
            let replicas = revision.fleet.ids.iter();
            replicas
                .filter_map(|id| self.replicas.get(id.0))
                .any(|replica| replica.up.is_none())
        })
    }

    /// Launches a replica, if there is memory for it.
    fn launch(&mut self, id: RevisionId) -> bool {
        let memory = self.reserve_memory(id);
        let Some(revision) = self.revisions.get_mut(id.0) else {
            return false;
        };
        revision.no_memory = memory.err();
        let Ok(memory) = memory else {
            self.put_off(id);
            return false;
        };
        let replica = ReplicaId(self.replicas.insert(Replica::new(id, self.now, memory)));
        revision.fleet.ids.push(replica);
        revision.counters.launches += 1;
        self.actions.push(Action::Launch {
            revision: id,
            replica,
        });
        self.keep_scaled(id);
        true
    }
}
