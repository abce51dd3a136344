//! A caller that believes nothing: it keeps its own account of where every entry is, from the
//! events it sends and the actions it gets, and checks every action and every state against it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use gateway_scheduler::{
    Action, Bucket, Class, Death, DeviceId, DeviceLimits, FailReason, Key, Offer, RefusedReason,
    ReplicaCredits, ReplicaId, RevisionId, RevisionLimits, RevisionSnapshot, Scheduler, Snapshot,
    Staging, Time,
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
    was_near: bool,
    n_runs: u32,
    n_taken_back: u32,
    /// It was offered while there was nothing else, so it may have been let in to be tried.
    may_be_trial: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Replica {
    revision: RevisionId,
    pub(crate) credits: Option<ReplicaCredits>,
    /// By their names, with when they began; what is beyond the slots is named ahead.
    pub(crate) runs: VecDeque<(Key, Time)>,
    memory: u64,
    /// When it last said something that was true.
    heard: Time,
    pub(crate) is_killed: bool,
    is_draining: bool,
}

#[derive(Debug)]
struct Revision {
    limits: RevisionLimits,
    is_retired: bool,
    has_bulk: bool,
    pulled: Option<u32>,
    memory: u64,
}

#[derive(Debug, Default)]
pub(crate) struct World {
    scheduler: Scheduler<u64>,
    pub(crate) now: Time,
    n_arrivals: u64,
    devices: BTreeMap<DeviceId, DeviceLimits>,
    revisions: BTreeMap<RevisionId, Revision>,
    pub(crate) replicas: BTreeMap<ReplicaId, Replica>,
    pub(crate) entries: BTreeMap<Key, Entry>,
    /// Every name ever given out, to be used when stale.
    pub(crate) known_revisions: Vec<RevisionId>,
    pub(crate) known_replicas: Vec<ReplicaId>,
    pub(crate) known_keys: Vec<Key>,
    /// A `Forget` that is due for an entry that has left.
    due_forget: Option<(ReplicaId, Key)>,
    due_poisoned: BTreeMap<Key, FailReason>,
    /// Whom this call sent something.
    sent_to: BTreeSet<ReplicaId>,
    /// What this call ran first in each batch, to be held against what it knew.
    ran: Vec<(Key, Bucket)>,
}

impl Entry {
    fn urgency(&self) -> (Class, Time, u64) {
        // After 292 years all deadlines are alike.
        let deadline = self.offer.deadline.min(Time::from_nanos(u64::MAX / 2));
        (self.offer.class, deadline, self.arrival)
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

impl Replica {
    fn n_slots(&self) -> usize {
        self.credits.map_or(0, |credits| credits.slots as usize)
    }

    fn n_at_work(&self) -> usize {
        self.runs.len().min(self.n_slots())
    }

    fn cores(&self) -> u64 {
        u64::from(self.credits.map_or(1, |credits| credits.cores))
    }
}

// === Events ===

impl World {
    pub(crate) fn add_device(&mut self, limits: DeviceLimits) -> DeviceId {
        let id = self.scheduler.add_device(limits);
        self.devices.insert(id, limits);
        id
    }

    pub(crate) fn add_revision(&mut self, limits: RevisionLimits) {
        let id = self.scheduler.add_revision(self.now, limits);
        let revision = Revision {
            limits,
            is_retired: false,
            has_bulk: false,
            pulled: None,
            memory: limits.memory_bytes,
        };
        self.revisions.insert(id, revision);
        self.known_revisions.push(id);
        self.check();
    }

    pub(crate) fn seed(&mut self, id: RevisionId, bucket: Bucket, points: &[(u32, Duration)]) {
        self.scheduler.seed_curve(id, bucket, points);
        self.check();
    }

    pub(crate) fn retire(&mut self, revision: RevisionId) {
        if let Some(revision) = self.revisions.get_mut(&revision) {
            revision.is_retired = true;
        }
        self.scheduler.retire_revision(self.now, revision);
        self.check();
    }

    pub(crate) fn bulk_waits(&mut self, id: RevisionId, waits: bool) {
        if let Some(revision) = self.revisions.get_mut(&id) {
            revision.has_bulk = waits;
            revision.pulled = None;
        }
        self.scheduler.bulk_waits(self.now, id, waits);
        self.check();
    }

    pub(crate) fn offer(&mut self, id: RevisionId, offer: Offer) {
        // What is due expires before the offer is looked at, and makes room for it.
        self.advance(self.now);
        self.n_arrivals += 1;
        let arrival = self.n_arrivals;
        let expected = self.expected(id, offer);
        let replicas = || self.replicas.values().filter(|r| r.revision == id);
        let may_be_trial = self.of_revision(id).next().is_none()
            && replicas().all(|replica| replica.runs.is_empty());
        let (n_replicas, n_up) = (
            replicas().count(),
            replicas().filter(|r| r.credits.is_some()).count(),
        );
        match self.scheduler.offer(self.now, id, offer, arrival) {
            Err(refused) => {
                assert_eq!(refused.entry, arrival);
                match refused.reason {
                    RefusedReason::Unavailable => assert_eq!(n_replicas, 0),
                    RefusedReason::Late { .. } | RefusedReason::Crowded { .. } => {
                        assert_eq!(offer.class, Class::Interactive);
                        assert_eq!(expected, Ok(()));
                        let is_late = matches!(refused.reason, RefusedReason::Late { .. });
                        assert!(!is_late || n_up > 0);
                    }
                    RefusedReason::Starting { .. } => {
                        assert_eq!(offer.class, Class::Interactive);
                        assert_eq!(expected, Ok(()));
                        assert_eq!(n_up, 0);
                    }
                    reason => assert_eq!(Err(reason), expected),
                }
            }
            Ok(key) => {
                assert_eq!(expected, Ok(()));
                if offer.class == Class::Bulk
                    && let Some(revision) = self.revisions.get_mut(&id)
                {
                    let items = offer.cost.items.max(1);
                    let pulled = revision.pulled.as_mut().expect("asked for");
                    *pulled = pulled.saturating_sub(items);
                }
                self.known_keys.push(key);
                let entry = Entry {
                    revision: id,
                    offer,
                    arrival,
                    at: At::Waiting,
                    is_suspect: false,
                    was_near: false,
                    n_runs: 0,
                    n_taken_back: 0,
                    may_be_trial,
                };
                let before = self.entries.insert(key, entry);
                assert!(before.is_none(), "a key is given twice");
            }
        }
        self.check();
        // All that was asked for has been offered: more may be.
        let revision = self.revisions.get(&id);
        if revision.is_some_and(|revision| revision.pulled == Some(0)) {
            self.bulk_waits(id, true);
        }
    }

    /// Returns what the bounds say of an offer.
    fn expected(&self, id: RevisionId, offer: Offer) -> Result<(), RefusedReason> {
        let Some(revision) = self.revisions.get(&id).filter(|r| !r.is_retired) else {
            return Err(RefusedReason::Retired);
        };
        if offer.deadline <= self.now {
            return Err(RefusedReason::DeadlinePassed);
        }
        let queued = self
            .of_revision(id)
            .filter(|entry| entry.is_in_queue() && entry.offer.class == offer.class);
        let (mut n_queued, mut n_bytes) = (0, u128::from(offer.cost.bytes));
        for entry in queued {
            n_queued += 1;
            n_bytes += u128::from(entry.offer.cost.bytes);
        }
        let limits = &revision.limits;
        let is_full = n_queued >= limits.queue_entries || n_bytes > u128::from(limits.queue_bytes);
        match is_full || offer.class == Class::Bulk && revision.pulled.unwrap_or(0) == 0 {
            true => Err(RefusedReason::QueueFull),
            false => Ok(()),
        }
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
        // What is due expires before the worker is heard.
        self.advance(self.now);
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.at == At::Sent(replica)
        {
            entry.at = At::Staged(replica, bucket);
            self.hear(replica);
        }
        self.scheduler.staged(self.now, replica, key, bucket);
        self.check();
    }

    pub(crate) fn answered(&mut self, replica: ReplicaId, key: Key) {
        let is_there = |entry: &&Entry| entry.replica() == Some(replica);
        let expected = self.entries.get(&key).filter(is_there).cloned();
        let answered = self.scheduler.answered(self.now, replica, key);
        assert_eq!(
            answered.as_ref().map(|answered| answered.entry),
            expected.as_ref().map(|entry| entry.arrival)
        );
        if let (Some(answered), Some(entry)) = (answered, expected) {
            let has_run = matches!(entry.at, At::Running(_));
            assert_eq!(answered.course.is_some(), has_run);
            if let Some(course) = answered.course {
                assert!(course.offered <= course.sent && course.sent <= course.staged);
                assert!(course.staged <= course.named && course.named <= self.now);
            }
            self.entries.remove(&key);
            self.hear(replica);
        }
        self.check();
    }

    pub(crate) fn slot_freed(&mut self, id: ReplicaId, run: Key) {
        // A hang is found before the word that comes too late.
        self.advance(self.now);
        if let Some(replica) = self.replicas.get_mut(&id)
            && let Some(place) = replica.runs.iter().position(|(name, _)| *name == run)
        {
            replica.runs.remove(place);
            let n_slots = replica.n_slots();
            if place < n_slots
                && let Some((_, began)) = replica.runs.get_mut(n_slots - 1)
            {
                *began = self.now;
            }
            replica.heard = self.now;
        }
        self.scheduler.slot_freed(self.now, id, run);
        self.check();
    }

    fn hear(&mut self, replica: ReplicaId) {
        if let Some(replica) = self.replicas.get_mut(&replica) {
            replica.heard = self.now;
        }
    }

    pub(crate) fn replica_up(&mut self, id: ReplicaId, credits: ReplicaCredits) {
        // What is not needed any more is stopped before it is heard.
        self.advance(self.now);
        if let Some(replica) = self.replicas.get_mut(&id)
            && replica.credits.is_none()
        {
            replica.credits = Some(ReplicaCredits {
                slots: credits.slots.max(1),
                cores: credits.cores.max(1),
                stage_entries: credits.stage_entries.max(1),
                ..credits
            });
            replica.heard = self.now;
        }
        self.scheduler.replica_up(self.now, id, credits);
        self.check();
    }

    pub(crate) fn replica_memory(&mut self, id: ReplicaId, bytes: u64) {
        self.advance(self.now);
        if let Some(replica) = self.replicas.get_mut(&id) {
            replica.memory = bytes;
            if let Some(revision) = self.revisions.get_mut(&replica.revision) {
                revision.memory = bytes;
            }
        }
        self.scheduler.replica_memory(self.now, id, bytes);
        self.check();
    }

    pub(crate) fn replica_down(&mut self, id: ReplicaId, death: Death) {
        self.advance(self.now);
        self.replicas.remove(&id);
        for (key, entry) in &mut self.entries {
            if entry.replica() != Some(id) {
                continue;
            }
            let has_run = matches!(entry.at, At::Running(_));
            if has_run && entry.n_runs == 2 {
                self.due_poisoned.insert(*key, FailReason::Killed);
            }
            if death == Death::Unexplained {
                let is_suspicious = match entry.at {
                    At::Sent(_) => std::mem::replace(&mut entry.was_near, true) || entry.is_suspect,
                    _ => has_run,
                };
                if is_suspicious && entry.is_suspect {
                    self.due_poisoned.insert(*key, FailReason::Poisoned);
                }
                entry.is_suspect |= is_suspicious;
            }
            entry.at = At::Waiting;
        }
        self.scheduler.replica_down(self.now, id, death);
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

    fn on_device(&self, id: DeviceId) -> impl Iterator<Item = (ReplicaId, &Replica)> {
        let is_on = move |(_, replica): &(&ReplicaId, &Replica)| {
            let revision = self.revisions.get(&replica.revision);
            revision.is_some_and(|revision| revision.limits.device == Some(id))
        };
        self.replicas.iter().filter(is_on).map(|(id, r)| (*id, r))
    }

    fn device_of(&self, replica: &Replica) -> Option<DeviceId> {
        self.revisions.get(&replica.revision)?.limits.device
    }

    fn busy_cores(&self, id: DeviceId) -> u64 {
        let replicas = self.on_device(id);
        replicas
            .map(|(_, r)| r.cores() * r.n_at_work() as u64)
            .sum()
    }

    fn reserved_bytes(&self, id: DeviceId) -> u128 {
        let replicas = self.on_device(id);
        replicas.map(|(_, r)| u128::from(r.memory)).sum()
    }

    fn carry_out(&mut self, action: Action<u64>, is_leaving: bool) {
        match action {
            Action::Launch { revision, replica } => self.launch(revision, replica),
            Action::Stage {
                replica,
                key,
                entry,
                ..
            } => self.stage(replica, key, entry),
            Action::Run { replica, batch, .. } => self.run(replica, &batch),
            Action::Forget { replica, key } => match self.entries.get_mut(&key) {
                Some(entry) => {
                    assert_eq!(entry.replica(), Some(replica));
                    if !is_leaving {
                        assert!(matches!(entry.at, At::Staged(..)), "taken back unprepared");
                        entry.n_taken_back += 1;
                        assert!(entry.n_taken_back <= 1, "taken back twice");
                    }
                    entry.at = At::Waiting;
                }
                None => assert_eq!(self.due_forget.take(), Some((replica, key))),
            },
            Action::Expire {
                entry,
                key,
                is_hopeless,
            } => {
                let expired = self.entries.remove(&key).expect("expires once");
                assert_eq!(expired.arrival, entry);
                assert_eq!(expired.offer.deadline > self.now, is_hopeless);
                if is_hopeless {
                    assert_eq!(expired.offer.class, Class::Interactive);
                    assert!(expired.is_in_queue(), "what runs has hope");
                }
                let is_left = matches!(expired.at, At::Sent(_) | At::Staged(..));
                assert!(!is_left, "its replica still holds it");
            }
            Action::Fail { entry, key, why } => {
                let failed = self.entries.remove(&key).expect("fails once");
                assert_eq!(failed.arrival, entry);
                assert_eq!(failed.at, At::Waiting);
                let due = self.due_poisoned.remove(&key);
                let is_its_own = matches!(why, FailReason::Poisoned | FailReason::Killed);
                assert_eq!(due, is_its_own.then_some(why));
                if let FailReason::NoMemory { needed, free } = why {
                    assert!(needed > free, "there is memory");
                }
            }
            Action::Pull { revision, items } => {
                let Some(revision) = self.revisions.get_mut(&revision) else {
                    assert_eq!(items, u32::MAX, "leaves some behind");
                    return;
                };
                assert!(revision.has_bulk && items > 0);
                assert_eq!(revision.pulled, None, "asks again before it is answered");
                match revision.is_retired {
                    true => assert_eq!(items, u32::MAX, "leaves some behind"),
                    false => assert!(items as usize <= revision.limits.queue_entries),
                }
                revision.pulled = Some(items);
            }
            Action::Kill { replica } => self.kill(replica),
            Action::Stop { replica } => {
                let stopped = self.replicas.remove(&replica).expect("stops once");
                assert_eq!(self.held_by(replica).count(), 0, "it holds something");
                assert!(stopped.runs.is_empty(), "it runs something");
            }
        }
    }

    fn launch(&mut self, revision: RevisionId, replica: ReplicaId) {
        assert!(!self.known_replicas.contains(&replica));
        self.known_replicas.push(replica);
        let model = &self.revisions[&revision];
        let memory = model.memory;
        let most = model.limits.max_scale.max(model.limits.min_scale).max(1);
        let live = self.replicas.values().filter(|r| r.revision == revision);
        assert!(live.filter(|r| !r.is_draining).count() < most, "too many");
        if let Some(device) = model.limits.device.filter(|_| memory > 0) {
            assert!(
                self.reserved_bytes(device) + u128::from(memory)
                    <= u128::from(self.devices[&device].memory_bytes),
                "memory is over-committed"
            );
        }
        let replica_state = Replica {
            revision,
            credits: None,
            runs: VecDeque::new(),
            memory,
            heard: self.now,
            is_killed: false,
            is_draining: false,
        };
        self.replicas.insert(replica, replica_state);
    }

    fn stage(&mut self, replica: ReplicaId, key: Key, value: u64) {
        let entry = &self.entries[&key];
        assert_eq!((entry.at, entry.arrival), (At::Waiting, value));
        assert!(entry.offer.deadline > self.now, "an expired entry is sent");
        let state = &self.replicas[&replica];
        let credits = state.credits.expect("sent where it is up");
        assert_eq!(entry.revision, state.revision);
        assert!(!state.is_killed, "sent to a replica that was ended");
        let is_first = self
            .of_revision(entry.revision)
            .filter(|other| other.at == At::Waiting)
            // Bulk has a share, in which it goes first.
            .filter(|other| other.offer.class <= entry.offer.class)
            .filter(|other| {
                entry.offer.class == Class::Interactive || other.offer.class == Class::Bulk
            })
            .all(|other| other.urgency() >= entry.urgency());
        assert!(is_first, "a more urgent entry waits");
        if entry.is_suspect {
            let is_alone = state.runs.is_empty() && self.held_by(replica).count() == 0;
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
        let owed_nothing = !self.owes_word(replica);
        let at = match entry.offer.staging {
            Staging::Inline(bucket) => At::Staged(replica, bucket),
            Staging::Reported => At::Sent(replica),
        };
        self.entries.get_mut(&key).expect("checked above").at = at;
        self.sent_to.insert(replica);
        if owed_nothing {
            self.hear(replica);
        }
    }

    fn fits(&self, replica: ReplicaId, credits: ReplicaCredits, entry: &Entry) -> bool {
        let staged: Vec<&Entry> = self
            .held_by(replica)
            .filter(|held| held.is_in_queue())
            .chain([entry])
            .collect();
        let sum = |of: fn(&Entry) -> u64| {
            let costs = staged.iter().map(|held| u128::from(of(held)));
            costs.sum::<u128>()
        };
        staged.len() == 1
            || staged.len() <= credits.stage_entries as usize
                && sum(|held| held.offer.cost.bytes) <= u128::from(credits.stage_bytes)
                && sum(|held| held.offer.cost.pixels) <= u128::from(credits.stage_pixels)
    }

    fn run(&mut self, id: ReplicaId, batch: &[Key]) {
        let replica = &self.replicas[&id];
        let n_slots = replica.n_slots();
        assert!(!replica.is_killed, "runs where it was ended");
        assert!(
            replica.runs.len() < n_slots + 16,
            "more is named ahead than a worker has room for"
        );
        let is_at_work = replica.runs.len() < n_slots;
        if let Some(device) = self.device_of(replica)
            && is_at_work
        {
            let busy = self.busy_cores(device);
            let n_cores = u64::from(self.devices[&device].cores.max(1));
            assert!(
                busy == 0 || busy + replica.cores() <= n_cores,
                "cores are over-committed"
            );
        }
        let max_batch = self.revisions[&replica.revision].limits.max_batch;
        let mut staged: Vec<(Key, Entry)> = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry.at, At::Staged(at, _) if at == id))
            .map(|(key, entry)| (*key, entry.clone()))
            .collect();
        staged.sort_by_key(|(_, entry)| entry.urgency());
        let first = &self.entries[&batch[0]];
        if first.offer.class == Class::Interactive {
            assert_eq!(staged[0].0, batch[0], "not the most urgent one");
        }
        let (at, class) = (first.at, first.offer.class);
        let At::Staged(_, bucket) = at else {
            panic!("what runs is staged");
        };
        if class == Class::Bulk {
            let first_bulk = staged.iter().find(|(_, e)| e.offer.class == Class::Bulk);
            let first_bulk = first_bulk.map(|(key, _)| *key);
            assert_eq!(first_bulk, Some(batch[0]), "not the most urgent of bulk");
        }
        staged.retain(|(_, entry)| entry.at == at && entry.offer.class == class);
        let keys: Vec<Key> = staged.iter().map(|(key, _)| *key).collect();
        assert!(
            keys.starts_with(batch),
            "not the most urgent ones of a bucket"
        );
        let items = staged
            .iter()
            .take(batch.len())
            .fold(0, |sum: u32, (_, e)| sum.saturating_add(e.items()));
        assert!(
            batch.len() == 1 || items <= max_batch,
            "a batch is too large"
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
        self.ran.push((batch[0], bucket));
        let replica = self.replicas.get_mut(&id).expect("checked above");
        replica.runs.push_back((batch[0], self.now));
    }

    /// Whether a replica prepares something, or post-processes with no run under way.
    fn owes_word(&self, id: ReplicaId) -> bool {
        let has_runs = !self.replicas[&id].runs.is_empty();
        self.held_by(id).any(|held| match held.at {
            At::Sent(_) => true,
            At::Running(_) => !has_runs,
            At::Waiting | At::Staged(..) => false,
        })
    }

    /// A replica is ended only when it has kept something waiting for as long as the limit.
    fn kill(&mut self, id: ReplicaId) {
        let replica = &self.replicas[&id];
        assert!(!replica.is_killed, "ended twice");
        let limit = self.revisions[&replica.revision].limits.run_limit;
        let is_over = |since: Time| since.saturating_add(limit) <= self.now;
        let at_work = replica.runs.iter().take(replica.n_at_work());
        assert!(
            at_work.into_iter().any(|(_, began)| is_over(*began))
                || self.owes_word(id) && is_over(replica.heard),
            "ended although it does not hang"
        );
        self.replicas.get_mut(&id).expect("checked above").is_killed = true;
    }
}

// === State ===

impl World {
    /// Carries out what there is to do, and checks that nothing more could have been done.
    fn check(&mut self) {
        let mut actions = Vec::new();
        self.scheduler.drain_actions(&mut actions);
        self.sent_to.clear();
        self.ran.clear();
        let leaves = |at: usize| match (&actions[at], actions.get(at + 1)) {
            (Action::Forget { key, .. }, Some(Action::Expire { key: expired, .. })) => {
                key == expired
            }
            _ => false,
        };
        let is_leaving: Vec<bool> = (0..actions.len()).map(leaves).collect();
        for (action, is_leaving) in actions.into_iter().zip(is_leaving) {
            self.carry_out(action, is_leaving);
        }
        assert_eq!(self.due_forget, None, "a replica keeps what has left");
        assert_eq!(
            self.due_poisoned,
            BTreeMap::new(),
            "a second death goes unpunished"
        );

        let wake = self.scheduler.next_wake();
        let earliest = self.entries.values().map(|e| e.offer.deadline).min();
        assert!(
            earliest.is_none_or(|at| wake.is_some_and(|wake| wake <= at)),
            "wakes late"
        );
        let snapshot = self.scheduler.snapshot();
        self.check_slots();
        self.check_devices(&snapshot);
        for revision in &snapshot.revisions {
            self.check_counts(revision);
            self.check_replicas(revision);
            self.check_queue(revision, wake);
            self.check_hopes(revision);
        }
        let known: BTreeSet<RevisionId> = snapshot.revisions.iter().map(|r| r.id).collect();
        self.revisions.retain(|id, revision| {
            assert!(known.contains(id) || revision.is_retired);
            known.contains(id)
        });
        for revision in &snapshot.revisions {
            for replica in &revision.replicas {
                let state = self.replicas.get_mut(&replica.id).expect("known by Launch");
                state.is_draining = replica.is_draining;
            }
        }
    }

    /// Returns what a replica could run, if it has a free slot.
    fn runnable(&self, id: ReplicaId, replica: &Replica) -> Option<(Class, Time, u64)> {
        let is_staged = |e: &&Entry| matches!(e.at, At::Staged(..));
        let urgency = self.held_by(id).filter(is_staged).map(Entry::urgency).min();
        let n_free = replica.n_slots().saturating_sub(replica.runs.len());
        // Bulk may leave them to what is being prepared.
        let is_awaited =
            |e: &&Entry| matches!(e.at, At::Sent(_)) && e.offer.class == Class::Interactive;
        let n_awaited = self.held_by(id).filter(is_awaited).count();
        urgency.filter(|(class, ..)| {
            let may_wait = *class == Class::Bulk && n_awaited >= n_free;
            !replica.is_killed && n_free > 0 && !may_wait
        })
    }

    /// A slot is free beside what is staged only for want of cores, and these go to the most urgent.
    fn check_slots(&self) {
        for (id, replica) in &self.replicas {
            let Some(urgency) = self.runnable(*id, replica) else {
                continue;
            };
            let device = self.device_of(replica).expect("a slot is left free");
            let busy = self.busy_cores(device);
            let n_cores = u64::from(self.devices[&device].cores.max(1));
            let lacks_cores = |replica: &Replica| busy > 0 && busy + replica.cores() > n_cores;
            let waits_behind = |(other_id, other): (ReplicaId, &Replica)| {
                let other_urgency = self.runnable(other_id, other);
                other_urgency.is_some_and(|other| other <= urgency) && lacks_cores(other)
            };
            assert!(
                self.on_device(device).any(waits_behind),
                "a slot and cores are left free"
            );
        }
    }

    fn check_devices(&self, snapshot: &Snapshot) {
        for device in &snapshot.devices {
            assert_eq!(u64::from(device.busy_cores), self.busy_cores(device.id));
            let reserved = self.reserved_bytes(device.id).min(u128::from(u64::MAX));
            assert_eq!(u128::from(device.reserved_bytes), reserved);
        }
    }

    fn check_counts(&self, revision: &RevisionSnapshot) {
        let count = |is: fn(At) -> bool| self.of_revision(revision.id).filter(|e| is(e.at)).count();
        assert_eq!(revision.waiting, count(|at| at == At::Waiting));
        assert_eq!(revision.sent, count(|at| matches!(at, At::Sent(_))));
        assert_eq!(revision.staged, count(|at| matches!(at, At::Staged(..))));
        assert_eq!(revision.running, count(|at| matches!(at, At::Running(_))));
        let counters = &revision.counters;
        let refused = counters.refused;
        let refused = refused.queue_full
            + refused.late
            + refused.crowded
            + refused.starting
            + refused.deadline_passed
            + refused.unavailable
            + refused.retired;
        let left = counters.answered
            + counters.cancelled
            + counters.expired
            + counters.poisoned
            + counters.start_failed;
        let there = self.of_revision(revision.id).count() as u64;
        assert_eq!(counters.offered, refused + left + there);
        assert_eq!(counters.runs, counters.batch_sizes.iter().sum::<u64>());
        assert!(counters.hopeless <= counters.expired);
        assert!(counters.bulk_runs <= counters.runs);
        assert!(counters.bulk_slot_nanos <= counters.slot_nanos);
    }

    fn check_replicas(&self, revision: &RevisionSnapshot) {
        let ours = self
            .replicas
            .iter()
            .filter(|(_, r)| r.revision == revision.id);
        assert_eq!(revision.replicas.len(), ours.count());
        for snapshot in &revision.replicas {
            let replica = &self.replicas[&snapshot.id];
            assert_eq!(snapshot.busy_slots, replica.n_at_work());
            assert_eq!(
                snapshot.named_ahead,
                replica.runs.len() - replica.n_at_work()
            );
            assert_eq!(snapshot.is_killed, replica.is_killed);
            let was_closed = replica.is_draining && snapshot.is_draining;
            assert!(
                !was_closed || !self.sent_to.contains(&snapshot.id),
                "sent to a replica that drains"
            );
            let is_empty = replica.runs.is_empty() && self.held_by(snapshot.id).count() == 0;
            assert!(
                !snapshot.is_draining || !is_empty,
                "a drained replica stays"
            );
        }
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
        for snapshot in &revision.replicas {
            let replica = &self.replicas[&snapshot.id];
            let Some(mut credits) = replica.credits else {
                continue;
            };
            if snapshot.is_draining || snapshot.is_killed {
                continue;
            }
            if first.offer.class == Class::Bulk {
                credits.stage_entries = credits.stage_entries.div_ceil(2);
            }
            let n_cores = replica.n_slots() * credits.cores.max(1) as usize;
            let n_preparing = self
                .held_by(snapshot.id)
                .filter(|held| matches!(held.at, At::Sent(_)))
                .count();
            if first.offer.class == Class::Bulk && n_preparing >= n_cores {
                continue;
            }
            let is_empty = replica.runs.is_empty() && self.held_by(snapshot.id).count() == 0;
            let could_go = match first.is_suspect {
                true => is_empty,
                // A replica stays a suspect's until its slot is free, though the suspect may be gone.
                false => !snapshot.is_alone_with_suspect && self.fits(snapshot.id, credits, first),
            };
            assert!(!could_go, "an entry waits beside room");
        }
    }

    /// Nothing is run that is known to come too late.
    fn check_hopes(&self, revision: &RevisionSnapshot) {
        for (key, bucket) in &self.ran {
            let Some(entry) = self.entries.get(key).filter(|e| e.revision == revision.id) else {
                continue;
            };
            let curve = revision.curves.iter().find(|curve| curve.bucket == *bucket);
            let known = curve.and_then(|curve| {
                let mut points = curve.points.iter();
                points.find(|point| point.items == entry.items())
            });
            let is_late = known.is_some_and(|known| {
                self.now.saturating_add(known.slot_time) > entry.offer.deadline
            });
            let is_exempt = entry.may_be_trial || entry.offer.class == Class::Bulk;
            assert!(!is_late || is_exempt, "a hopeless entry runs");
        }
    }

    /// Checks that nothing is left behind when nothing is left to be done.
    pub(crate) fn check_idle(&mut self) {
        self.check();
        let snapshot = self.scheduler.snapshot();
        for device in &snapshot.devices {
            assert_eq!((device.busy_cores, device.blocked_revisions), (0, 0));
        }
        for revision in &snapshot.revisions {
            assert_eq!(revision.queue_bytes, 0);
            let min_scale = self.revisions[&revision.id].limits.min_scale;
            assert!(
                revision.replicas.len() <= min_scale,
                "a replica stays although nothing is to be done: {revision:?}"
            );
        }
    }
}
