//! A caller that believes nothing: it keeps its own account of where every entry is, from the
//! events it sends and the actions it gets, and checks every action and every state against it.

use std::collections::{BTreeMap, BTreeSet};

use gateway_scheduler::{
    Action, Bucket, FailReason, Key, Offer, RefusedReason, ReplicaCredits, ReplicaId, RevisionId,
    RevisionLimits, RevisionSnapshot, Scheduler, Staging, Time,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Waiting,
    Sent(ReplicaId),
    Staged(ReplicaId, Bucket),
    Running(ReplicaId),
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    revision: RevisionId,
    offer: Offer,
    arrival: u64,
    pub(crate) at: At,
    is_suspect: bool,
    n_runs: u32,
    n_taken_back: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Replica {
    revision: RevisionId,
    pub(crate) credits: Option<ReplicaCredits>,
    pub(crate) n_busy: u32,
}

#[derive(Debug)]
struct Revision {
    limits: RevisionLimits,
    is_retired: bool,
}

#[derive(Debug, Default)]
pub(crate) struct World {
    scheduler: Scheduler<u64>,
    pub(crate) now: Time,
    n_arrivals: u64,
    revisions: BTreeMap<RevisionId, Revision>,
    pub(crate) replicas: BTreeMap<ReplicaId, Replica>,
    pub(crate) entries: BTreeMap<Key, Entry>,
    /// Every name ever given out, to be used when stale.
    pub(crate) known_revisions: Vec<RevisionId>,
    pub(crate) known_replicas: Vec<ReplicaId>,
    pub(crate) known_keys: Vec<Key>,
    /// A `Forget` that is due for an entry that has left.
    due_forget: Option<(ReplicaId, Key)>,
    due_poisoned: BTreeSet<Key>,
    actions: Vec<Action<u64>>,
}

impl Entry {
    fn urgency(&self) -> (Time, u64) {
        (self.offer.deadline, self.arrival)
    }

    fn items(&self) -> u32 {
        self.offer.cost.items.max(1)
    }

    fn replica(&self) -> Option<ReplicaId> {
        match self.at {
            At::Waiting => None,
            At::Sent(id) | At::Staged(id, _) | At::Running(id) => Some(id),
        }
    }

    fn is_in_queue(&self) -> bool {
        !matches!(self.at, At::Running(_))
    }
}

// === Events ===

impl World {
    pub(crate) fn add_revision(&mut self, limits: RevisionLimits) -> RevisionId {
        let id = self.scheduler.add_revision(limits);
        let is_retired = false;
        self.revisions.insert(id, Revision { limits, is_retired });
        self.known_revisions.push(id);
        id
    }

    pub(crate) fn add_replica(&mut self, revision: RevisionId) {
        let replica = self.scheduler.add_replica(self.now, revision);
        assert_eq!(replica.is_some(), self.revisions.contains_key(&revision));
        self.check();
    }

    pub(crate) fn retire(&mut self, revision: RevisionId) {
        if let Some(revision) = self.revisions.get_mut(&revision) {
            revision.is_retired = true;
        }
        self.scheduler.retire_revision(self.now, revision);
        self.check();
        let has_entries = self.of_revision(revision).next().is_some();
        if !has_entries {
            self.revisions.remove(&revision);
        }
    }

    pub(crate) fn offer(&mut self, revision: RevisionId, offer: Offer) {
        self.n_arrivals += 1;
        let arrival = self.n_arrivals;
        let queued: Vec<&Entry> = self
            .of_revision(revision)
            .filter(|entry| entry.is_in_queue())
            .collect();
        let n_bytes: u64 = queued.iter().map(|entry| entry.offer.cost.bytes).sum();
        let is_full = |limits: &RevisionLimits| {
            queued.len() >= limits.queue_entries || n_bytes + offer.cost.bytes > limits.queue_bytes
        };
        let expected = match self.revisions.get(&revision) {
            None => Err(RefusedReason::Retired),
            Some(revision) if revision.is_retired => Err(RefusedReason::Retired),
            Some(_) if offer.deadline <= self.now => Err(RefusedReason::DeadlinePassed),
            Some(revision) if is_full(&revision.limits) => Err(RefusedReason::QueueFull),
            Some(_) => Ok(()),
        };
        let key = match self.scheduler.offer(self.now, revision, offer, arrival) {
            Ok(key) => key,
            Err(refused) => {
                assert_eq!(refused.entry, arrival);
                if refused.reason == RefusedReason::Unavailable {
                    let replicas = self.replicas.values();
                    assert!(replicas.filter(|r| r.revision == revision).count() == 0);
                } else {
                    assert_eq!(Err(refused.reason), expected);
                }
                self.check();
                return;
            }
        };
        assert_eq!(expected, Ok(()));
        self.known_keys.push(key);
        let entry = Entry {
            revision,
            offer,
            arrival,
            at: At::Waiting,
            is_suspect: false,
            n_runs: 0,
            n_taken_back: 0,
        };
        assert!(
            self.entries.insert(key, entry).is_none(),
            "a key is given twice"
        );
        self.check();
    }

    pub(crate) fn cancel(&mut self, key: Key) {
        let entry = self.entries.remove(&key);
        if let Some(entry) = &entry
            && let At::Sent(replica) | At::Staged(replica, _) = entry.at
        {
            self.due_forget = Some((replica, key));
        }
        let cancelled = self.scheduler.cancel(self.now, key);
        assert_eq!(cancelled, entry.map(|entry| entry.arrival));
        self.check();
    }

    pub(crate) fn staged(&mut self, replica: ReplicaId, key: Key, bucket: Bucket) {
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.at == At::Sent(replica)
        {
            entry.at = At::Staged(replica, bucket);
        }
        self.scheduler.staged(self.now, replica, key, bucket);
        self.check();
    }

    pub(crate) fn answered(&mut self, replica: ReplicaId, key: Key) {
        let is_there = |entry: &Entry| entry.replica() == Some(replica);
        let expected = self.entries.get(&key).filter(|entry| is_there(entry));
        let expected = expected.map(|entry| entry.arrival);
        let answered = self.scheduler.answered(self.now, replica, key);
        assert_eq!(answered, expected);
        if answered.is_some() {
            self.entries.remove(&key);
        }
        self.check();
    }

    pub(crate) fn slot_freed(&mut self, replica: ReplicaId) {
        if let Some(replica) = self.replicas.get_mut(&replica) {
            replica.n_busy = replica.n_busy.saturating_sub(1);
        }
        self.scheduler.slot_freed(self.now, replica);
        self.check();
    }

    pub(crate) fn replica_up(&mut self, replica: ReplicaId, credits: ReplicaCredits) {
        if let Some(replica) = self.replicas.get_mut(&replica) {
            let credits = ReplicaCredits {
                slots: credits.slots.max(1),
                stage_entries: credits.stage_entries.max(1),
                ..credits
            };
            replica.credits.get_or_insert(credits);
        }
        self.scheduler.replica_up(self.now, replica, credits);
        self.check();
    }

    pub(crate) fn replica_down(&mut self, id: ReplicaId) {
        self.replicas.remove(&id);
        for (key, entry) in &mut self.entries {
            if entry.replica() != Some(id) {
                continue;
            }
            if !matches!(entry.at, At::Staged(..)) {
                if entry.is_suspect {
                    self.due_poisoned.insert(*key);
                }
                entry.is_suspect = true;
            }
            entry.at = At::Waiting;
        }
        self.scheduler.replica_down(self.now, id);
        self.check();
    }

    pub(crate) fn advance(&mut self, to: Time) {
        self.now = self.now.max(to);
        self.scheduler.advance(to);
        self.check();
        assert!(
            self.entries.values().all(|e| e.offer.deadline > self.now),
            "an entry outlives its deadline"
        );
    }

    pub(crate) fn next_wake(&self) -> Option<Time> {
        self.scheduler.next_wake()
    }
}

// === Actions ===

impl World {
    fn of_revision(&self, id: RevisionId) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter(move |e| e.revision == id)
    }

    fn held_by(&self, id: ReplicaId) -> impl Iterator<Item = &Entry> {
        let is_there = move |entry: &&Entry| entry.replica() == Some(id);
        self.entries.values().filter(is_there)
    }

    fn carry_out(&mut self, action: Action<u64>) {
        match action {
            Action::Launch { revision, replica } => {
                assert!(!self.known_replicas.contains(&replica));
                self.known_replicas.push(replica);
                let replica_state = Replica {
                    revision,
                    credits: None,
                    n_busy: 0,
                };
                self.replicas.insert(replica, replica_state);
            }
            Action::Stage {
                replica,
                key,
                entry,
            } => self.stage(replica, key, entry),
            Action::Run { replica, batch } => self.run(replica, &batch),
            Action::Forget { replica, key } => match self.entries.get_mut(&key) {
                Some(entry) => {
                    assert_eq!(entry.replica(), Some(replica));
                    if entry.offer.deadline > self.now {
                        assert!(matches!(entry.at, At::Staged(..)), "taken back unprepared");
                        entry.n_taken_back += 1;
                        assert!(entry.n_taken_back <= 1, "taken back twice");
                    }
                    entry.at = At::Waiting;
                }
                None => assert_eq!(self.due_forget.take(), Some((replica, key))),
            },
            Action::Expire { entry, key } => {
                let expired = self.entries.remove(&key).expect("expires once");
                assert_eq!(expired.arrival, entry);
                assert!(expired.offer.deadline <= self.now, "expires early");
                let is_left = matches!(expired.at, At::Sent(_) | At::Staged(..));
                assert!(!is_left, "its replica still holds it");
            }
            Action::Fail { entry, key, why } => {
                let failed = self.entries.remove(&key).expect("fails once");
                assert_eq!(failed.arrival, entry);
                assert_eq!(failed.at, At::Waiting);
                let is_due = self.due_poisoned.remove(&key);
                assert_eq!(is_due, why == FailReason::Poisoned);
            }
            Action::Stop { replica } => {
                let stopped = self.replicas.remove(&replica).expect("stops once");
                assert!(self.revisions[&stopped.revision].is_retired);
                assert_eq!(self.of_revision(stopped.revision).count(), 0);
            }
        }
    }

    fn stage(&mut self, replica: ReplicaId, key: Key, value: u64) {
        let entry = &self.entries[&key];
        assert_eq!((entry.at, entry.arrival), (At::Waiting, value));
        assert!(entry.offer.deadline > self.now, "an expired entry is sent");
        let Replica {
            revision,
            credits: Some(credits),
            n_busy,
        } = self.replicas[&replica]
        else {
            panic!("sent to a replica that is not up");
        };
        assert_eq!(entry.revision, revision);
        let is_first = self
            .of_revision(revision)
            .filter(|other| other.at == At::Waiting)
            .all(|other| other.urgency() >= entry.urgency());
        assert!(is_first, "a more urgent entry waits");
        if entry.is_suspect {
            let is_alone = n_busy == 0 && self.held_by(replica).count() == 0;
            assert!(is_alone, "a suspect is not alone");
        }
        assert!(
            !self.held_by(replica).any(|held| held.is_suspect),
            "sent beside a suspect"
        );
        assert!(
            self.fits(replica, credits, entry),
            "stage credits are exceeded"
        );
        let at = match entry.offer.staging {
            Staging::Inline(bucket) => At::Staged(replica, bucket),
            Staging::Reported => At::Sent(replica),
        };
        self.entries.get_mut(&key).expect("checked above").at = at;
    }

    fn fits(&self, replica: ReplicaId, credits: ReplicaCredits, entry: &Entry) -> bool {
        let staged: Vec<&Entry> = self
            .held_by(replica)
            .filter(|held| held.is_in_queue())
            .chain([entry])
            .collect();
        let sum = |of: fn(&Entry) -> u64| staged.iter().map(|held| of(held)).sum::<u64>();
        staged.len() == 1
            || staged.len() <= credits.stage_entries as usize
                && sum(|held| held.offer.cost.bytes) <= credits.stage_bytes
                && sum(|held| held.offer.cost.pixels) <= credits.stage_pixels
    }

    fn run(&mut self, id: ReplicaId, batch: &[Key]) {
        let replica = self.replicas.get_mut(&id).expect("runs somewhere");
        replica.n_busy += 1;
        let slots = replica.credits.expect("runs where it is up").slots;
        assert!(replica.n_busy <= slots, "slots are over-committed");
        let max_batch = self.revisions[&replica.revision].limits.max_batch;

        let mut staged: Vec<(Key, Entry)> = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry.at, At::Staged(at, _) if at == id))
            .map(|(key, entry)| (*key, entry.clone()))
            .collect();
        staged.sort_by_key(|(_, entry)| entry.urgency());
        let bucket = staged[0].1.at;
        staged.retain(|(_, entry)| entry.at == bucket);
        let keys: Vec<Key> = staged.iter().map(|(key, _)| *key).collect();
        assert!(
            keys.starts_with(batch),
            "not the most urgent ones of a bucket"
        );

        let items = |n: usize| staged[..n].iter().map(|(_, e)| e.items()).sum::<u32>();
        assert!(
            batch.len() == 1 || items(batch.len()) <= max_batch,
            "a batch is too large"
        );
        assert!(
            batch.len() == staged.len() || items(batch.len() + 1) > max_batch,
            "a batch is too small"
        );
        let is_tainted = self.held_by(id).any(|held| held.is_suspect);
        assert!(!is_tainted || self.held_by(id).count() == 1);
        for key in batch {
            let entry = self.entries.get_mut(key).expect("ran entries are there");
            assert!(entry.offer.deadline > self.now, "an expired entry runs");
            entry.at = At::Running(id);
            entry.n_runs += 1;
            assert!(entry.n_runs <= 2, "an entry runs a third time");
        }
    }
}

// === State ===

impl World {
    /// Carries out what there is to do, and checks that nothing more could have been done.
    fn check(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        self.scheduler.drain_actions(&mut actions);
        for action in actions.drain(..) {
            self.carry_out(action);
        }
        self.actions = actions;
        assert_eq!(self.due_forget, None, "a replica keeps what has left");
        assert_eq!(
            self.due_poisoned,
            BTreeSet::new(),
            "a second death goes unpunished"
        );

        let wake = self.scheduler.next_wake();
        let earliest = self.entries.values().map(|e| e.offer.deadline).min();
        assert!(
            earliest.is_none_or(|at| wake.is_some_and(|wake| wake <= at)),
            "wakes late"
        );
        for (id, replica) in &self.replicas {
            let is_staged = |e: &Entry| matches!(e.at, At::Staged(..));
            let has_free_slot = replica.credits.is_some_and(|c| replica.n_busy < c.slots);
            assert!(
                !has_free_slot || !self.held_by(*id).any(is_staged),
                "a slot is left free"
            );
        }
        let snapshot = self.scheduler.snapshot();
        for revision in &snapshot.revisions {
            self.check_counts(revision);
            self.check_queue(revision, wake);
        }
        let known: BTreeSet<RevisionId> = snapshot.revisions.iter().map(|r| r.id).collect();
        self.revisions.retain(|id, revision| {
            assert!(known.contains(id) || revision.is_retired);
            known.contains(id)
        });
    }

    fn check_counts(&self, revision: &RevisionSnapshot) {
        let count = |is: fn(At) -> bool| self.of_revision(revision.id).filter(|e| is(e.at)).count();
        assert_eq!(revision.waiting, count(|at| at == At::Waiting));
        assert_eq!(revision.sent, count(|at| matches!(at, At::Sent(_))));
        assert_eq!(revision.staged, count(|at| matches!(at, At::Staged(..))));
        assert_eq!(revision.running, count(|at| matches!(at, At::Running(_))));
        let counters = &revision.counters;
        let refused = counters.refused;
        let left = counters.answered
            + counters.cancelled
            + counters.expired
            + counters.poisoned
            + counters.start_failed;
        let refused =
            refused.queue_full + refused.deadline_passed + refused.unavailable + refused.retired;
        let there = self.of_revision(revision.id).count() as u64;
        assert_eq!(counters.offered, refused + left + there);
        assert_eq!(counters.runs, counters.batch_sizes.iter().sum::<u64>());
    }

    /// The first entry waits for a reason: every replica is full, or one is on its way.
    fn check_queue(&self, revision: &RevisionSnapshot, wake: Option<Time>) {
        let waiting = self
            .of_revision(revision.id)
            .filter(|e| e.at == At::Waiting);
        let Some(first) = waiting.min_by_key(|entry| entry.urgency()) else {
            return;
        };
        let is_start_due = wake.is_some_and(|wake| wake <= revision.start_after);
        assert!(
            !revision.replicas.is_empty() || is_start_due,
            "nothing is done for what waits"
        );
        for (id, replica) in &self.replicas {
            let Some(credits) = replica.credits else {
                continue;
            };
            if replica.revision != revision.id {
                continue;
            }
            let is_empty = replica.n_busy == 0 && self.held_by(*id).count() == 0;
            // A replica stays a suspect's until its slot is free, though the suspect may be gone.
            let snapshot = revision.replicas.iter().find(|r| r.id == *id);
            let is_taken = snapshot.is_some_and(|replica| replica.is_alone_with_suspect);
            let could_go = match first.is_suspect {
                true => is_empty,
                false => !is_taken && self.fits(*id, credits, first),
            };
            assert!(!could_go, "an entry waits beside room");
        }
    }
}
