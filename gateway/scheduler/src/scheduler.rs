//! The state machine: events in, actions out.
//!
//! Hot path: an event costs O(log replicas + √entries) of its revision, and moves some of what is staged
//! at its replica; the only allocation is the list of keys of a run.

#[cfg(debug_assertions)]
mod audit;
mod bulk;
mod dispatch;
mod launch;
mod scale;
#[cfg(test)]
mod tests;
mod view;
mod watch;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::device::Device;
use crate::entry::{Account, Entry, Place};
use crate::replica::{Replica, Up};
use crate::revision::{Promise, Refusal, Revision};
use crate::slab::Slab;
use crate::{
    Action, Answered, Bucket, Class, Cost, DeviceId, DeviceLimits, Key, Offer, Refused,
    RefusedReason, ReplicaCredits, ReplicaId, RevisionId, RevisionLimits, Staging, Time,
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
    devices: Slab<Device>,
    /// Every entry, whatever its place.
    deadlines: BTreeSet<(Time, Key)>,
    timers: BTreeSet<(Time, Timer)>,
    actions: Vec<Action<E>>,
}

/// What is to be looked at when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A revision with failed starts may start again.
    Start(RevisionId),
    /// How many replicas a revision needs.
    Scale(RevisionId),
    /// Whether a replica hangs.
    Watch(ReplicaId),
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
            devices: Slab::new(),
            deadlines: BTreeSet::new(),
            timers: BTreeSet::new(),
            actions: Vec::new(),
        }
    }

    /// Adds a device, which stays.
    pub fn add_device(&mut self, limits: DeviceLimits) -> DeviceId {
        DeviceId(self.devices.insert(Device::new(limits)))
    }

    /// Adds a revision. Replicas up to its `min_scale` are launched; otherwise the first offer
    /// launches one.
    pub fn add_revision(&mut self, now: Time, limits: RevisionLimits) -> RevisionId {
        self.advance(now);
        let id = RevisionId(self.revisions.insert(Revision::new(limits)));
        self.launch_wanted(id);
        id
    }

    /// Tells how long runs take that were measured elsewhere: a batch of so many items, in rising
    /// order. What the scheduler has seen itself counts for more.
    pub fn seed_curve(&mut self, revision: RevisionId, bucket: Bucket, points: &[(u32, Duration)]) {
        if let Some(revision) = self.revisions.get_mut(revision.0) {
            revision.curves.seed(bucket, points);
        }
    }

    /// Bounds the replicas of a revision anew. Those that are to be kept without work are launched;
    /// those that are not any more end as when nothing is to be done.
    pub fn set_scale(
        &mut self,
        now: Time,
        revision: RevisionId,
        min_scale: usize,
        max_scale: usize,
    ) {
        self.advance(now);
        let Some(scaled) = self.revisions.get_mut(revision.0) else {
            return;
        };
        let limits = &mut scaled.limits;
        if (limits.min_scale, limits.max_scale) == (min_scale, max_scale) {
            return;
        }
        limits.min_scale = min_scale;
        limits.max_scale = max_scale;
        scaled.n_wanted = scaled.n_wanted.max(min_scale);
        self.keep_scaled(revision);
        self.launch_wanted(revision);
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

    /// Has a replica of a revision launched ahead of the first entry, unless there is one. It ends
    /// after the idle window, as one that was used does.
    pub fn start_revision(&mut self, now: Time, revision: RevisionId) {
        self.advance(now);
        let now = self.now;
        if let Some(started) = self.revisions.get_mut(revision.0) {
            started.n_wanted = started.n_wanted.max(1);
            started.idle_since = now;
        }
        self.launch_wanted(revision);
    }

    /// Says whether the least of entries would be refused for want of time or room, before anything
    /// is known of it but its deadline: then it need not be read. That counts as an offer that was
    /// refused. Costs next to nothing where nobody was refused a moment ago.
    pub fn turn_away(
        &mut self,
        now: Time,
        revision: RevisionId,
        deadline: Time,
    ) -> Option<(RefusedReason, Duration)> {
        self.advance(now);
        let asked = self.revisions.get(revision.0)?;
        if !asked.is_crowded(self.now) && !asked.is_full() {
            return None;
        }
        let least = Offer {
            deadline,
            cost: Cost {
                items: 1,
                ..Cost::default()
            },
            // Of a bucket that is not known the one that ran last is thought.
            staging: Staging::Inline(Bucket::default()),
            class: Class::Interactive,
        };
        let verdict = self.judge(revision, &least);
        if verdict.is_ok() {
            return None;
        }
        self.n_arrivals += 1;
        self.note(revision, &least, &verdict);
        verdict.err()
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
        self.n_arrivals += 1;
        let verdict = self.judge(revision, &offer);
        self.note(revision, &offer, &verdict);
        let promise = match verdict {
            Ok(promise) => promise,
            Err((reason, retry_after)) => {
                return Err(Refused {
                    entry,
                    reason,
                    retry_after,
                });
            }
        };
        let Some(offered) = self.revisions.get_mut(revision.0) else {
            return Err(Refused {
                entry,
                reason: RefusedReason::Retired,
                retry_after: Duration::ZERO,
            });
        };

        let mut entry = Entry::new(now, revision, offer, self.n_arrivals, entry);
        entry.work = promise.work;
        entry.is_trial = promise.is_trial;
        offered.n_entries += 1;
        if entry.class == Class::Bulk
            && let Some(pulled) = &mut offered.pulled
        {
            *pulled = pulled.saturating_sub(entry.cost.items.max(1));
        }
        let mut rank = entry.rank(Key::from_bits(0));
        let deadline = entry.deadline;
        rank.key = Key(self.entries.insert(entry));
        self.deadlines.insert((deadline, rank.key));
        self.enqueue(rank.key);
        // Behind a first entry that can't be staged, this one can't be either.
        let is_first = self
            .revisions
            .get(revision.0)
            .is_some_and(|offered| offered.queue.first() == Some(&rank));
        self.launch_wanted(revision);
        self.keep_scaled(revision);
        if is_first {
            self.settle(revision);
        }
        Ok(rank.key)
    }

    /// Says what would become of an offer now.
    fn judge(&self, revision: RevisionId, offer: &Offer) -> Result<Promise, Refusal> {
        let (start, others) = (
            self.predicted_start(revision),
            self.owed_to_others(revision),
        );
        match self.revisions.get(revision.0) {
            Some(asked) => asked.judge(self.now, offer, self.n_arrivals, start, others),
            None => Err((RefusedReason::Retired, Duration::ZERO)),
        }
    }

    /// Takes note of an offer and its demand, whatever the verdict: what is refused is wanted.
    fn note(&mut self, revision: RevisionId, offer: &Offer, verdict: &Result<Promise, Refusal>) {
        let now = self.now;
        let Some(offered) = self.revisions.get_mut(revision.0) else {
            return;
        };
        offered.count_offer(now, verdict);
        let is_served = !matches!(
            verdict,
            Err((
                RefusedReason::Retired | RefusedReason::Unavailable | RefusedReason::DeadlinePassed,
                _
            ))
        );
        if is_served {
            if offer.class == Class::Interactive {
                offered.interactive_seen = Some(now);
            }
            if let Some(work) = offered
                .curves
                .work(offer.staging.bucket(), offer.cost.items)
            {
                offered.demand.add(now, work);
            }
            offered.n_wanted = offered.n_wanted.max(1);
            offered.idle_since = now;
        }
        if is_served && verdict.is_err() {
            self.launch_wanted(revision);
            self.keep_scaled(revision);
        }
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
        entry.course.staged = self.now;
        let took = self.now.saturating_since(entry.course.sent);
        let id = entry.revision;
        if let Some(holder) = self.replicas.get_mut(replica.0) {
            holder.heard = self.now;
            holder.n_awaited -= usize::from(entry.class == Class::Interactive);
            holder
                .stage
                .insert(entry.rank(key), bucket, entry.is_movable());
        }
        if let Some(revision) = self.revisions.get_mut(id.0) {
            revision.staging_time.observe(took);
            revision.ready.push(replica);
        }
        self.reindex(replica);
        self.settle(id);
    }

    /// Hears that a replica has answered an entry with a result or an error, run or not, and returns
    /// the entry to be answered. An answer in hand counts, although its deadline may just have
    /// passed. Returns `None` if the entry is gone or is not at this replica.
    pub fn answered(&mut self, now: Time, replica: ReplicaId, key: Key) -> Option<Answered<E>> {
        self.now = self.now.max(now);
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
            revision.n_crashes = 0;
            if let Some(answering) = self.replicas.get_mut(replica.0) {
                answering.heard = self.now;
                let is_over = entry.place == Place::Running(replica)
                    && answering
                        .runs
                        .iter()
                        .all(|run| run.named != entry.course.named);
                if let Some(up) = answering.up.filter(|_| is_over) {
                    // A slot was last taken or freed when this run ended, or after.
                    revision
                        .tail_time
                        .observe(self.now.saturating_since(up.used));
                }
            }
        }
        self.advance(now);
        entry.map(|entry| {
            self.reindex(replica);
            self.settle(entry.revision);
            Answered {
                entry: entry.value,
                course: (entry.place == Place::Running(replica)).then_some(entry.course),
            }
        })
    }

    /// Hears how long the engine took for a run that is about to leave its slot. The rest of its time
    /// is the way to the worker and back, and what keeps the caller from hearing of it.
    pub fn engine_took(&mut self, now: Time, replica: ReplicaId, run: Key, took: Duration) {
        self.now = self.now.max(now);
        let Some(replica) = self.replicas.get_mut(replica.0) else {
            return;
        };
        let Some(run) = replica.runs.iter_mut().find(|other| other.name == run) else {
            return;
        };
        run.worked = took;
        let Some(revision) = self.revisions.get_mut(replica.revision.0) else {
            return;
        };
        let whole = self.now.saturating_since(run.named);
        revision
            .round_trip
            .observe(whole.saturating_sub(run.queued).saturating_sub(took));
        revision.engine.observe(run.bucket, run.items, took, 1);
    }

    /// Hears that a run at this replica has left its slot; its entries may yet have to be answered.
    /// The run's name is its first entry, whatever has become of that.
    pub fn slot_freed(&mut self, now: Time, replica: ReplicaId, run: Key) {
        self.advance(now);
        let Some(freed) = self.replicas.get_mut(replica.0) else {
            return;
        };
        let Some(place) = freed.runs.iter().position(|other| other.name == run) else {
            return;
        };
        let n_at_work = freed.n_at_work();
        let Some(run) = freed.runs.remove(place) else {
            return;
        };
        freed.heard = self.now;
        if let Some(up) = &mut freed.up {
            up.used = self.now;
        }
        let n_slots = freed.n_slots();
        let (n_freed, cores) = (n_at_work - freed.n_at_work(), freed.cores());
        let id = freed.revision;
        let Some(revision) = self.revisions.get_mut(id.0) else {
            return;
        };
        revision.n_runs -= 1;
        revision.ends_sum -= u128::from(run.ends.as_nanos());
        if let Some(next) = freed.runs.get_mut(n_slots.wrapping_sub(1))
            && place < n_slots
            && n_freed == 0
        {
            // What was named ahead begins now.
            revision.ends_sum -= u128::from(next.ends.as_nanos());
            next.began = self.now;
            next.ends = self.now.saturating_add(next.predicted);
            revision.ends_sum += u128::from(next.ends.as_nanos());
        }
        // Ends that are heard of together would leave no time between them.
        let took = self.now.saturating_since(run.began).max(run.worked);
        let is_first = revision.curves.latest().is_none();
        let n_slots = revision.n_at_once;
        revision
            .curves
            .observe(run.bucket, run.items, took, n_slots);
        revision.ran = Some(self.now);
        revision.account(run.class, took);
        revision.ready.push(replica);
        if is_first {
            self.promise_anew(id);
        }
        self.reindex(replica);
        self.free_cores(id, n_freed, cores);
        self.settle(id);
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
        });
        ready.heard = self.now;
        let took = self.now.saturating_since(ready.launched);
        let (id, cores) = (ready.revision, ready.cores());
        if let Some(revision) = self.revisions.get_mut(id.0) {
            revision.start_time.observe(took);
            revision.idle_since = self.now;
            revision.n_slots += credits.slots as usize;
            revision.slots_each = credits.slots as usize;
            if let Some(device) = revision.device_in(&mut self.devices) {
                let work = revision.timetable.work();
                device.work -= work * u128::from(revision.cores_each);
                device.work += work * u128::from(cores);
            }
            revision.cores_each = cores;
        }
        self.note_slots(id);
        self.reindex(replica);
        self.launch_wanted(id);
        self.settle(id);
    }

    /// Hears how many bytes a replica takes, which is what is reserved from now on for it and for
    /// others of its revision.
    pub fn replica_memory(&mut self, now: Time, replica: ReplicaId, bytes: u64) {
        self.advance(now);
        let Some(measured) = self.replicas.get_mut(replica.0) else {
            return;
        };
        let before = std::mem::replace(&mut measured.memory, bytes);
        let Some(revision) = self.revisions.get_mut(measured.revision.0) else {
            return;
        };
        revision.memory_bytes = bytes;
        if let Some(device) = revision.device_in(&mut self.devices) {
            device.reserved = device.reserved - u128::from(before) + u128::from(bytes);
        }
    }

    /// Lets time pass: entries whose deadline has come expire, and what was put off is done. Every
    /// event does this first; it has to be called besides when [`Scheduler::next_wake`] has come and
    /// nothing else happens.
    pub fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
        // All are taken out before their room is given to others, which may be due themselves.
        let mut changed = Vec::new();
        while let Some(&(deadline, key)) = self.deadlines.first()
            && deadline <= self.now
        {
            let Some(revision) = self.expire(key, false) else {
                break;
            };
            if changed.last() != Some(&revision) {
                changed.push(revision);
            }
        }
        for revision in changed {
            self.settle(revision);
        }
        while let Some(&(at, timer)) = self.timers.first()
            && at <= self.now
        {
            self.timers.pop_first();
            match timer {
                Timer::Start(revision) => {
                    self.launch_wanted(revision);
                    // A retired one may have waited for what has now failed alone.
                    self.finish(revision);
                }
                Timer::Scale(revision) => self.scale(revision),
                Timer::Watch(replica) => self.watch(replica),
            }
        }
    }

    /// Returns when [`Scheduler::advance`] has to be called next, if no event comes before.
    pub fn next_wake(&self) -> Option<Time> {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let timer = self.timers.first().map(|(at, _)| *at);
        deadline.into_iter().chain(timer).min()
    }

    /// Appends what is to be done, in this order, and takes it for done.
    pub fn drain_actions(&mut self, into: &mut Vec<Action<E>>) {
        into.append(&mut self.actions);
    }

    /// Answers an entry DeadlineExceeded; returns its revision, to be settled.
    fn expire(&mut self, key: Key, is_hopeless: bool) -> Option<RevisionId> {
        let entry = self.withdraw(key)?;
        if let Some(revision) = self.revisions.get_mut(entry.revision.0) {
            revision.counters.expired += 1;
            revision.counters.hopeless += u64::from(is_hopeless);
        }
        self.actions.push(Action::Expire {
            entry: entry.value,
            key,
            is_hopeless,
        });
        Some(entry.revision)
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
        self.deadlines.remove(&(entry.deadline, key));
        let revision = self.revisions.get_mut(entry.revision.0)?;
        revision.n_entries -= 1;
        if revision.n_entries == 0 {
            revision.idle_since = self.now;
        }
        if entry.place == Place::Waiting {
            revision.queue.remove(&entry.rank(key));
        }
        if !matches!(entry.place, Place::Running(_)) {
            self.close_account(entry.account());
        }
        Some(entry)
    }

    /// Puts an entry that was not waiting or staged before into the queue, and counts it there.
    fn enqueue(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(key.0) else {
            return;
        };
        let Some(revision) = self.revisions.get_mut(entry.revision.0) else {
            return;
        };
        entry.place = Place::Waiting;
        if entry.work == 0 {
            let work = revision
                .curves
                .work(entry.staging.bucket(), entry.cost.items);
            entry.work = work.unwrap_or(0);
        }
        let (rank, account) = (entry.rank(key), entry.account());
        revision.queue.insert(rank);
        revision.load_mut(account.class).add(account.cost);
        if account.class == Class::Interactive {
            revision.timetable.insert(account.due, account.work);
            if let Some(device) = revision.device_in(&mut self.devices) {
                device.work += u128::from(account.work) * u128::from(revision.cores_each);
            }
        }
    }

    /// Counts the work of what was admitted before anything was known of it: the line that a cold
    /// start leaves behind.
    fn promise_anew(&mut self, id: RevisionId) {
        let Some(revision) = self.revisions.get_mut(id.0) else {
            return;
        };
        let mut device = revision.device_in(&mut self.devices);
        for entry in self.entries.values_mut() {
            let is_counted = !matches!(entry.place, Place::Running(_));
            if entry.revision != id || entry.class == Class::Bulk || !is_counted || entry.work > 0 {
                continue;
            }
            let work = revision
                .curves
                .work(entry.staging.bucket(), entry.cost.items);
            entry.work = work.unwrap_or(0);
            let due = (entry.deadline, entry.arrival);
            revision.timetable.remove(due);
            revision.timetable.insert(due, entry.work);
            if let Some(device) = &mut device {
                device.work += u128::from(entry.work) * u128::from(revision.cores_each);
            }
        }
    }

    /// Takes an entry that runs or leaves off what is promised and what bounds the queue.
    fn close_account(&mut self, account: Account) {
        let Some(revision) = self.revisions.get_mut(account.revision.0) else {
            return;
        };
        revision.load_mut(account.class).subtract(account.cost);
        if account.class == Class::Interactive {
            revision.timetable.remove(account.due);
            if let Some(device) = revision.device_in(&mut self.devices) {
                device.work -= u128::from(account.work) * u128::from(revision.cores_each);
            }
        }
    }

    /// Notes how a replica stands, after anything of it has changed.
    fn reindex(&mut self, id: ReplicaId) {
        let Some(replica) = self.replicas.get_mut(id.0) else {
            return;
        };
        let now = replica.stand();
        let before = std::mem::replace(&mut replica.standing, now);
        if before != now
            && let Some(revision) = self.revisions.get_mut(replica.revision.0)
        {
            revision.fleet.note(id, before, now);
        }
        self.reblock(id);
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
            Place::Sent(id) => {
                replica.stage.release(entry.cost);
                replica.n_awaited -= usize::from(entry.class == Class::Interactive);
                // A slot that was kept for it may be another's.
                if let Some(revision) = self.revisions.get_mut(entry.revision.0) {
                    revision.ready.push(id);
                }
            }
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
        let id = self
            .entries
            .get(key.0)
            .and_then(|entry| entry.place.replica());
        if let Some(id) = id {
            self.reindex(id);
        }
    }
}

impl<E: Clone> Default for Scheduler<E> {
    fn default() -> Self {
        Self::new()
    }
}
