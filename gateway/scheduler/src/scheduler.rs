//! The state machine: events in, actions out.
//!
//! Hot path: every event costs O(log entries + replicas of its revision); the only allocation is
//! the list of keys of a run.

mod dispatch;
mod launch;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::entry::{Entry, Place, Rank};
use crate::replica::{Replica, Up};
use crate::revision::Revision;
use crate::slab::Slab;
use crate::{
    Action, Bucket, Key, Offer, Refused, RefusedReason, ReplicaCredits, ReplicaId, ReplicaSnapshot,
    RevisionId, RevisionLimits, RevisionSnapshot, Snapshot, Time,
};

/// Decides for all revisions which entry goes where and when. See the crate's documentation.
///
/// `E` is whatever the caller needs to send and answer an entry, cheap to clone (an `Arc`).
#[derive(Debug)]
pub struct Scheduler<E> {
    /// The latest time seen.
    now: Time,
    n_arrivals: u64,
    revisions: Slab<Revision>,
    replicas: Slab<Replica>,
    entries: Slab<Entry<E>>,
    /// Every entry, whatever its place.
    deadlines: BTreeSet<Rank>,
    /// When revisions with failed starts may start again.
    starts: BTreeSet<(Time, RevisionId)>,
    actions: Vec<Action<E>>,
}

// === impl Scheduler ===

impl<E: Clone> Scheduler<E> {
    /// Returns a scheduler with nothing in it.
    pub fn new() -> Self {
        Self {
            now: Time::default(),
            n_arrivals: 0,
            revisions: Slab::new(),
            replicas: Slab::new(),
            entries: Slab::new(),
            deadlines: BTreeSet::new(),
            starts: BTreeSet::new(),
            actions: Vec::new(),
        }
    }

    /// Adds a revision, with no replica: the first offer launches one.
    pub fn add_revision(&mut self, limits: RevisionLimits) -> RevisionId {
        RevisionId(self.revisions.insert(Revision::new(limits)))
    }

    /// Admits no more entries to a revision. Those admitted are served; when the last has left, the
    /// replicas are stopped and the revision is gone.
    pub fn retire_revision(&mut self, now: Time, revision: RevisionId) {
        self.advance(now);
        if let Some(retired) = self.revisions.get_mut(revision.0) {
            retired.is_retired = true;
        }
        self.settle(revision);
    }

    /// Launches one more replica of a revision, which from now on is replaced like any other when
    /// it dies. Returns `None` if the revision is gone.
    pub fn add_replica(&mut self, now: Time, revision: RevisionId) -> Option<ReplicaId> {
        self.advance(now);
        self.revisions.get_mut(revision.0)?.n_wanted += 1;
        self.launch(revision)
    }

    /// Offers an entry. Its key names it until it is answered, cancelled, expired or failed.
    ///
    /// # Errors
    /// Hands the entry back if it is not admitted, with the reason and when to try again.
    pub fn offer(
        &mut self,
        now: Time,
        revision: RevisionId,
        offer: Offer,
        entry: E,
    ) -> Result<Key, Refused<E>> {
        self.advance(now);
        let now = self.now;
        let admission = match self.revisions.get_mut(revision.0) {
            Some(offered) => offered.admit(now, &offer).map(|()| offered),
            None => Err((RefusedReason::Retired, Duration::ZERO)),
        };
        let offered = match admission {
            Ok(offered) => offered,
            Err((reason, retry_after)) => {
                return Err(Refused {
                    entry,
                    reason,
                    retry_after,
                });
            }
        };

        self.n_arrivals += 1;
        let entry = Entry::new(revision, offer, self.n_arrivals, entry);
        offered.load.add(entry.cost);
        offered.n_entries += 1;
        offered.n_wanted = offered.n_wanted.max(1);
        let mut rank = entry.rank(Key::from_bits(0));
        rank.key = Key(self.entries.insert(entry));
        self.deadlines.insert(rank);
        offered.queue.insert(rank);
        // Behind a first entry that can't be staged, this one can't be either.
        let is_first = offered.queue.first() == Some(&rank);
        self.launch_wanted(revision);
        if is_first {
            self.settle(revision);
        }
        Ok(rank.key)
    }

    /// Takes out an entry whose caller has left, and returns it if it was still there. Its place is
    /// free at once; if it runs, only its answer is lost, and its slot is freed when the run ends.
    pub fn cancel(&mut self, now: Time, key: Key) -> Option<E> {
        let entry = self.withdraw(key);
        if let Some(entry) = &entry
            && let Some(revision) = self.revisions.get_mut(entry.revision.0)
        {
            revision.counters.cancelled += 1;
        }
        self.advance(now);
        entry.map(|entry| {
            self.settle(entry.revision);
            entry.value
        })
    }

    /// Hears that a replica has prepared an entry that was sent to it, and of which bucket it is.
    pub fn staged(&mut self, now: Time, replica: ReplicaId, key: Key, bucket: Bucket) {
        self.advance(now);
        let Some(entry) = self.entries.get_mut(key.0) else {
            return;
        };
        if entry.place != Place::Sent(replica) {
            return;
        }
        entry.place = Place::Staged(replica, bucket);
        if let Some(holder) = self.replicas.get_mut(replica.0) {
            holder
                .stage
                .insert(entry.rank(key), bucket, entry.is_movable());
        }
        let revision = entry.revision;
        self.settle(revision);
    }

    /// Hears that a replica has answered an entry with a result or an error, run or not, and returns
    /// the entry to be answered. An answer in hand counts, although its deadline may just have
    /// passed. Returns `None` if the entry is gone or is not at this replica.
    pub fn answered(&mut self, now: Time, replica: ReplicaId, key: Key) -> Option<E> {
        let is_there = self
            .entries
            .get(key.0)
            .is_some_and(|entry| entry.place.replica() == Some(replica));
        let entry = if is_there { self.remove(key) } else { None };
        if let Some(entry) = &entry
            && let Some(revision) = self.revisions.get_mut(entry.revision.0)
        {
            revision.counters.answered += 1;
            revision.n_failed_starts = 0;
        }
        self.advance(now);
        entry.map(|entry| {
            self.settle(entry.revision);
            entry.value
        })
    }

    /// Hears that a run at this replica has left its slot; its entries may yet have to be answered.
    pub fn slot_freed(&mut self, now: Time, replica: ReplicaId) {
        self.advance(now);
        let Some(freed) = self.replicas.get_mut(replica.0) else {
            return;
        };
        // Which of several runs has ended is not said. Taking the oldest leaves the sum of their
        // times, and so the mean, as it is.
        let Some(run) = freed.runs.pop_front() else {
            return;
        };
        if let Some(up) = &mut freed.up {
            up.used = self.now;
        }
        let revision = freed.revision;
        if let Some(revision) = self.revisions.get_mut(revision.0) {
            revision.measure(self.now.saturating_since(run.started), run.n_entries);
        }
        self.settle(revision);
    }

    /// Hears that a replica that was launched is ready, and what it can take.
    pub fn replica_up(&mut self, now: Time, replica: ReplicaId, credits: ReplicaCredits) {
        self.advance(now);
        let Some(ready) = self.replicas.get_mut(replica.0) else {
            return;
        };
        if ready.up.is_some() {
            return;
        }
        let credits = ReplicaCredits {
            slots: credits.slots.max(1),
            ..credits
        };
        ready.up = Some(Up {
            since: self.now,
            credits,
            used: self.now,
            had_work: false,
        });
        let revision = ready.revision;
        if let Some(revision) = self.revisions.get_mut(revision.0) {
            revision.n_slots += credits.slots as usize;
        }
        self.launch_wanted(revision);
        self.settle(revision);
    }

    /// Lets time pass: entries whose deadline has come expire, and starts that were put off are
    /// made. Every event does this first; it has to be called besides when [`Scheduler::next_wake`]
    /// has come and nothing else happens.
    pub fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
        // All are taken out before their room is given to others, which may be due themselves.
        let mut changed = Vec::new();
        while let Some(&first) = self.deadlines.first()
            && first.deadline <= self.now
        {
            let Some(entry) = self.withdraw(first.key) else {
                break;
            };
            if let Some(revision) = self.revisions.get_mut(entry.revision.0) {
                revision.counters.expired += 1;
            }
            if changed.last() != Some(&entry.revision) {
                changed.push(entry.revision);
            }
            self.actions.push(Action::Expire {
                entry: entry.value,
                key: first.key,
            });
        }
        for revision in changed {
            self.settle(revision);
        }
        while let Some(&(at, revision)) = self.starts.first()
            && at <= self.now
        {
            self.starts.pop_first();
            self.launch_wanted(revision);
        }
    }

    /// Returns when [`Scheduler::advance`] has to be called next, if no event comes before.
    pub fn next_wake(&self) -> Option<Time> {
        let deadline = self.deadlines.first().map(|first| first.deadline);
        let start = self.starts.first().map(|(at, _)| *at);
        match (deadline, start) {
            (Some(deadline), Some(start)) => Some(deadline.min(start)),
            (deadline, start) => deadline.or(start),
        }
    }

    /// Appends what is to be done, in this order, and takes it for done.
    pub fn drain_actions(&mut self, into: &mut Vec<Action<E>>) {
        into.append(&mut self.actions);
    }

    /// Returns the whole state as plain data, in time proportional to the number of replicas.
    pub fn snapshot(&self) -> Snapshot {
        let revisions = self.revisions.iter();
        Snapshot {
            revisions: revisions
                .map(|(index, revision)| self.revision_snapshot(RevisionId(index), revision))
                .collect(),
        }
    }

    fn revision_snapshot(&self, id: RevisionId, revision: &Revision) -> RevisionSnapshot {
        let replicas: Vec<ReplicaSnapshot> = revision
            .replicas
            .iter()
            .filter_map(|id| {
                let replica = self.replicas.get(id.0)?;
                let staged = replica.stage.n_ready();
                Some(ReplicaSnapshot {
                    id: *id,
                    credits: replica.up.map(|up| up.credits),
                    sent: replica.stage.n_entries() - staged,
                    staged,
                    running: replica.held.len() - replica.stage.n_entries(),
                    busy_slots: replica.runs.len(),
                    is_alone_with_suspect: replica.has_suspect && !replica.is_empty(),
                })
            })
            .collect();
        RevisionSnapshot {
            id,
            is_retired: revision.is_retired,
            waiting: revision.queue.len(),
            sent: replicas.iter().map(|replica| replica.sent).sum(),
            staged: replicas.iter().map(|replica| replica.staged).sum(),
            running: replicas.iter().map(|replica| replica.running).sum(),
            queue_bytes: revision.load.bytes,
            slot_time: revision.slot_nanos.map(Duration::from_nanos),
            failed_starts: revision.n_failed_starts,
            start_after: revision.start_after,
            replicas,
            counters: revision.counters,
        }
    }

    /// Takes an entry out, and makes the replica where it does not run yet forget it.
    fn withdraw(&mut self, key: Key) -> Option<Entry<E>> {
        let entry = self.remove(key)?;
        if let Place::Sent(replica) | Place::Staged(replica, _) = entry.place {
            self.actions.push(Action::Forget { replica, key });
        }
        Some(entry)
    }

    /// Takes an entry out of everything that knows it. The caller settles the revision afterwards.
    fn remove(&mut self, key: Key) -> Option<Entry<E>> {
        self.detach(key);
        let entry = self.entries.remove(key.0)?;
        let rank = entry.rank(key);
        self.deadlines.remove(&rank);
        let revision = self.revisions.get_mut(entry.revision.0)?;
        revision.n_entries -= 1;
        if entry.place == Place::Waiting {
            revision.queue.remove(&rank);
        }
        if !matches!(entry.place, Place::Running(_)) {
            revision.load.subtract(entry.cost);
        }
        Some(entry)
    }

    /// Takes an entry off the replica that holds it, if one does; its place still says which.
    fn detach(&mut self, key: Key) {
        let Some(entry) = self.entries.get(key.0) else {
            return;
        };
        let Some(replica) = entry
            .place
            .replica()
            .and_then(|id| self.replicas.get_mut(id.0))
        else {
            return;
        };
        match entry.place {
            Place::Sent(_) => replica.stage.release(entry.cost),
            Place::Staged(_, bucket) => {
                replica
                    .stage
                    .remove(entry.rank(key), bucket, entry.is_movable());
                replica.stage.release(entry.cost);
            }
            Place::Waiting | Place::Running(_) => {}
        }
        let held_at = entry.held_at;
        replica.held.swap_remove(held_at);
        if let Some(moved) = replica.held.get(held_at)
            && let Some(moved) = self.entries.get_mut(moved.0)
        {
            moved.held_at = held_at;
        }
    }
}

impl<E: Clone> Default for Scheduler<E> {
    fn default() -> Self {
        Self::new()
    }
}
