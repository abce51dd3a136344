//! What is staged where, and what runs together.
//!
//! - **Work-conserving, no timer**: what is staged where a slot and its cores are free runs at once.
//!   Batches form because slots are busy. (Text Embeddings Inference batches so; a timer that starts
//!   while a worker is idle, as Mosec's, makes every lone caller pay it.)
//! - **Late binding, early preparing**: while stage credits last, entries are sent and prepared,
//!   the most urgent first; which of them make a batch is decided when a slot is free, or at most a
//!   message's round trip before, and of short runs some milliseconds (`replica.rs`). (Triton's instances
//!   pull from a batch that grows until one starts it, for the same reason.)
//! - **The batch** is the largest that its most urgent entry has time for, up to the size that costs
//!   least per item (`curve.rs`). Entries are in the order of their deadlines, so what the first has
//!   time for the others have. (Nexus, SOSP 2019, scans its queue for the same size.)
//! - **Earliest deadline first** within a class, of equal ones the first come: in the queue, in the
//!   choice of the next batch, within it, and between revisions that wait for cores of one device.
//!   An entry that finds no room is not overtaken by smaller ones, or a large one would starve.
//! - **What has become hopeless** leaves before it costs anything: an entry that not even a run of
//!   its own would finish in time.
//! - **No line at one replica while another idles**: see `share`.

use std::time::Duration;

use super::Scheduler;
use super::bulk::Prospect;
use crate::curve::Curve;
use crate::entry::{Place, Rank};
use crate::replica::Run;
use crate::revision::Revision;
use crate::{
    Action, BatchLimit, Bucket, Class, Cost, DeviceId, Key, ReplicaId, RevisionId, Staging,
};

/// What the next batch of a replica is made of.
struct Choice {
    batch: Vec<Key>,
    bucket: Bucket,
    class: Class,
    items: u32,
    why: BatchLimit,
}

/// What a look at a replica's stage comes to.
enum Formed {
    Batch(Choice),
    /// The most urgent entry can't be done in time any more.
    Hopeless(Key),
    /// There is a batch, and this is its claim, but no core of the device is free.
    Blocked(Rank),
    Nothing,
}

impl<E: Clone> Scheduler<E> {
    /// Does all that has become possible in a revision, and in others that wait for its cores.
    /// Afterwards the first entry of each queue can't be staged anywhere, and no replica has a free
    /// slot, free cores, and a staged entry.
    pub(super) fn settle(&mut self, revision: RevisionId) {
        let device = self.revisions.get(revision.0).and_then(|r| r.limits.device);
        self.settle_one(revision);
        while let Some(next) = device.and_then(|device| self.next_unblocked(device)) {
            self.settle_one(next);
        }
    }

    fn settle_one(&mut self, revision: RevisionId) {
        loop {
            while let Some((key, replica)) = self.next_placement(revision) {
                self.stage(key, replica);
            }
            // A run makes room, and what is moved to an idle replica can run.
            if !self.run_ready(revision) && !self.share(revision) {
                break;
            }
        }
        self.pull_bulk(revision);
        self.finish(revision);
    }

    /// Returns the entry to stage next and where, after making room for it if need be.
    fn next_placement(&mut self, id: RevisionId) -> Option<(Key, ReplicaId)> {
        let (first, cost, class, is_suspect) = loop {
            let revision = self.revisions.get(id.0)?;
            let first = *revision.queue.first()?;
            let entry = self.entries.get(first.key.0)?;
            let is_served = revision.n_slots > 0;
            if is_served && self.is_hopeless(first.key) {
                self.expire(first.key, true);
                continue;
            }
            break (first, entry.cost, entry.class, entry.is_suspect);
        };
        let revision = self.revisions.get(id.0)?;
        if !is_suspect
            && let Some(claimant) = revision.bulk_claimant()
            && let Some(entry) = self.entries.get(claimant.key.0).filter(|e| !e.is_suspect)
            && let Some(roomy) = self.with_room(revision, entry.cost, Class::Interactive)
        {
            return Some((claimant.key, roomy));
        }
        if is_suspect {
            // It is tried alone. Until a replica has run dry nothing else is sent to any, since
            // nothing that waits is more urgent.
            let is_dry = |id: &&ReplicaId| {
                let replica = self.replicas.get(id.0);
                replica.is_some_and(|replica| replica.open().is_some() && replica.is_empty())
            };
            return Some((first.key, *revision.fleet.ids.iter().find(is_dry)?));
        }

        if let Some(roomy) = self.with_room(revision, cost, class) {
            return Some((first.key, roomy));
        }
        // Only strictly less urgent entries give way, each once, so nothing is staged in turns. A
        // replica with a suspect has nothing else to take back.
        let (victim, replica) = revision.fleet.least_urgent().find(|(victim, id)| {
            let makes_room = || {
                let replica = self.replicas.get(id.0)?;
                let victim_cost = self.entries.get(victim.key.0)?.cost;
                let credits = replica.open()?.credits;
                Some(replica.stage.has_room_without(victim_cost, cost, credits))
            };
            victim.is_less_urgent(&first) && makes_room() == Some(true)
        })?;
        self.take_back(victim.key);
        Some((first.key, replica))
    }

    /// Returns the most attractive replica that has room for an entry.
    fn with_room(&self, revision: &Revision, cost: Cost, class: Class) -> Option<ReplicaId> {
        let has_room = |id: &ReplicaId| {
            let replica = self.replicas.get(id.0);
            replica.is_some_and(|replica| replica.has_room(cost, class))
        };
        revision.fleet.attractive().find(has_room)
    }

    /// Whether not even a run of its own would finish an entry in time.
    fn is_hopeless(&self, key: Key) -> bool {
        let Some(entry) = self.entries.get(key.0) else {
            return false;
        };
        if entry.is_trial || entry.class == Class::Bulk {
            return false;
        }
        let revision = self.revisions.get(entry.revision.0);
        let alone = revision.and_then(|revision| {
            let curves = &revision.curves;
            curves.quickest(entry.bucket(), entry.cost.items)
        });
        alone.is_some_and(|alone| self.now.saturating_add(alone) > entry.deadline)
    }

    /// Sends a waiting entry to a replica.
    fn stage(&mut self, key: Key, id: ReplicaId) {
        let (Some(entry), Some(replica)) =
            (self.entries.get_mut(key.0), self.replicas.get_mut(id.0))
        else {
            return;
        };
        let rank = entry.rank(key);
        let Some(revision) = self.revisions.get_mut(entry.revision.0) else {
            return;
        };
        revision.queue.remove(&rank);
        if !replica.owes_word() {
            replica.heard = self.now;
        }
        replica.has_suspect = entry.is_suspect;
        replica.stage.reserve(entry.cost);
        entry.held_at = replica.held.len();
        replica.held.push(key);
        entry.course.sent = self.now;
        entry.place = match entry.staging {
            Staging::Inline(bucket) => {
                entry.course.staged = self.now;
                replica.stage.insert(rank, bucket, entry.is_movable());
                revision.ready.push(id);
                Place::Staged(id, bucket)
            }
            Staging::Reported => {
                replica.n_awaited += usize::from(entry.class == Class::Interactive);
                Place::Sent(id)
            }
        };
        self.actions.push(Action::Stage {
            replica: id,
            key,
            class: entry.class,
            entry: entry.value.clone(),
        });
        self.reindex(id);
        self.keep_watch(id);
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

    /// Fills free slots from what is staged beside them; returns whether anything has changed.
    fn run_ready(&mut self, id: RevisionId) -> bool {
        let mut has_changed = false;
        while let Some(replica) = self
            .revisions
            .get_mut(id.0)
            .and_then(|revision| revision.ready.pop())
        {
            loop {
                match self.form_batch(replica) {
                    Formed::Batch(choice) => self.run(replica, choice),
                    Formed::Hopeless(key) => {
                        self.expire(key, true);
                    }
                    Formed::Blocked(first) => {
                        self.wait_for_cores(replica, first);
                        break;
                    }
                    Formed::Nothing => break,
                }
                has_changed = true;
            }
        }
        has_changed
    }

    /// Chooses the next batch of a replica. The most urgent staged entry decides the bucket; others
    /// of that bucket and class join it in order. Other buckets are left to the next slot.
    fn form_batch(&mut self, id: ReplicaId) -> Formed {
        let Some(replica) = self.replicas.get(id.0).filter(|replica| !replica.is_killed) else {
            return Formed::Nothing;
        };
        let Some(revision) = self.revisions.get(replica.revision.0) else {
            return Formed::Nothing;
        };
        let n_free = replica.n_free_slots();
        let device = revision.limits.device;
        let device = device.and_then(|device| self.devices.get(device.0));
        let is_contended = device.is_some_and(|device| !device.blocked.is_empty());
        // What is named ahead takes the cores over, past those who wait for them.
        let round_trip = revision.round_trip.duration();
        let is_ahead = n_free == 0 && !is_contended && replica.may_name_ahead(self.now, round_trip);
        if n_free == 0 && !is_ahead {
            return Formed::Nothing;
        }
        let Some(first) = revision.most_urgent(&replica.stage) else {
            return Formed::Nothing;
        };
        if self.is_hopeless(first.key) {
            return Formed::Hopeless(first.key);
        }
        if first.class == Class::Bulk && replica.owes_its_slots() && revision.gives_way() {
            return Formed::Nothing;
        }
        let cores = replica.cores();
        if n_free > 0
            && let Some(claim) = replica.stage.first()
            && device.is_some_and(|device| device.is_busy_for(id, claim, cores))
        {
            return Formed::Blocked(claim);
        }
        let Some((bucket, deadline)) = self
            .entries
            .get(first.key.0)
            .and_then(|entry| Some((entry.bucket()?, entry.deadline)))
        else {
            return Formed::Nothing;
        };

        let n_cores = device.map_or(u32::MAX, |device| {
            device.limits.cores.saturating_sub(device.busy) / cores
        });
        let n_slots = n_free.min(n_cores as usize).max(1);
        let n_ready = match n_slots {
            // How many there are matters only where they are shared out, or a size is tried.
            1 if !is_ahead
                && revision
                    .curves
                    .of(bucket)
                    .is_some_and(|c| c.probe().is_none()) =>
            {
                u32::MAX
            }
            _ => {
                let ready = replica.stage.of_bucket(bucket, first);
                let ready = ready.take_while(|rank| rank.class == first.class);
                ready.count() as u32
            }
        };
        let time = deadline.saturating_since(self.now);
        let is_trial = self.entries.get(first.key.0).is_some_and(|e| e.is_trial);
        let time = if is_trial { Duration::MAX } else { time };
        let prospect = Prospect {
            bucket,
            class: first.class,
            n_ready,
            n_ahead: replica.n_ahead(bucket, first.class),
            n_slots,
            time,
        };
        let (limit, mut why) = revision.batch_limit(self.now, prospect);
        // Of a batch that could still grow nothing is gained by closing it early, and what a size
        // costs is learned from runs that nothing was named behind.
        let is_full = |curve: &Curve| !curve.is_climbing() && n_ready >= limit.max(curve.best());
        if is_ahead && !revision.curves.of(bucket).is_some_and(is_full) {
            return Formed::Nothing;
        }

        let mut batch = Vec::new();
        let mut items = 0_u32;
        let mut is_all = true;
        for rank in replica.stage.of_bucket(bucket, first) {
            let joined = self
                .entries
                .get(rank.key.0)
                .map_or(u32::MAX, |entry| items.saturating_add(entry.cost.items));
            if rank.class != first.class {
                break;
            }
            if !batch.is_empty() && joined > limit {
                is_all = false;
                break;
            }
            items = joined;
            batch.push(rank.key);
        }
        if is_all && (why != BatchLimit::Probe || items < limit) {
            why = BatchLimit::Ready;
        }
        Formed::Batch(Choice {
            batch,
            bucket,
            class: first.class,
            items,
            why,
        })
    }

    /// Moves a batch into a slot of a replica.
    fn run(&mut self, id: ReplicaId, choice: Choice) {
        let Choice {
            batch,
            bucket,
            class,
            items,
            why,
        } = choice;
        let Some(name) = batch.first().copied() else {
            return;
        };
        let mut most_runs = 0;
        for key in &batch {
            let Some(entry) = self.entries.get_mut(key.0) else {
                continue;
            };
            if let Some(replica) = self.replicas.get_mut(id.0) {
                let rank = entry.rank(*key);
                replica.stage.remove(rank, bucket, entry.is_movable());
                replica.stage.release(entry.cost);
            }
            entry.place = Place::Running(id);
            entry.n_runs += 1;
            entry.course.named = self.now;
            entry.course.why = Some(why);
            most_runs = most_runs.max(entry.n_runs);
            let account = entry.account();
            self.close_account(account);
        }
        let Some(replica) = self.replicas.get_mut(id.0) else {
            return;
        };
        let Some(revision) = self.revisions.get_mut(replica.revision.0) else {
            return;
        };
        let curve = revision.curves.of(bucket);
        let predicted = curve
            .and_then(|curve| curve.duration(items))
            .unwrap_or_default();
        let engine = revision.engine.of(bucket);
        let engine = engine
            .and_then(|curve| curve.duration(items))
            .unwrap_or(predicted);
        let queued = replica.queued();
        let is_ahead = replica.n_free_slots() == 0;
        let before = match is_ahead {
            true => replica.runs.iter().map(|run| run.ends).min(),
            false => None,
        };
        let ends = before
            .unwrap_or(self.now)
            .max(self.now)
            .saturating_add(predicted);
        replica.runs.push_back(Run {
            name,
            bucket,
            class,
            items,
            named: self.now,
            began: self.now,
            predicted,
            engine,
            queued,
            worked: Duration::ZERO,
            ends,
        });
        if let Some(up) = &mut replica.up {
            up.used = self.now;
        }
        revision.n_runs += 1;
        revision.ends_sum += u128::from(ends.as_nanos());
        revision.counters.most_runs = revision.counters.most_runs.max(most_runs);
        revision.counters.runs += 1;
        revision.counters.bulk_runs += u64::from(class == Class::Bulk);
        revision.counters.batch_sizes[items.max(1).ilog2() as usize] += 1;
        if !is_ahead && let Some(device) = revision.device_in(&mut self.devices) {
            device.busy = device.busy.saturating_add(replica.cores());
        }
        self.actions.push(Action::Run {
            replica: id,
            batch,
            why,
        });
        self.reindex(id);
        self.keep_watch(id);
    }

    // === cores ===

    /// Notes that a replica could run if its device had cores to spare.
    fn wait_for_cores(&mut self, id: ReplicaId, claim: Rank) {
        if let Some(replica) = self.replicas.get_mut(id.0) {
            replica.blocked = Some(claim);
            let revision = self.revisions.get(replica.revision.0);
            if let Some(device) = revision.and_then(|r| r.device_in(&mut self.devices)) {
                device.blocked.insert((claim, id));
            }
        }
    }

    /// Keeps the place of a replica that waits for cores where its most urgent entry belongs, and
    /// gives it up when it has none.
    pub(super) fn reblock(&mut self, id: ReplicaId) {
        let Some(replica) = self.replicas.get_mut(id.0) else {
            return;
        };
        let may_run = !replica.is_killed && replica.n_free_slots() > 0;
        let claim = replica.stage.first().filter(|_| may_run);
        if replica.blocked.is_none() || replica.blocked == claim {
            return;
        }
        let before = std::mem::replace(&mut replica.blocked, claim);
        let revision = self.revisions.get(replica.revision.0);
        if let Some(device) = revision.and_then(|r| r.device_in(&mut self.devices)) {
            if let Some(before) = before {
                device.blocked.remove(&(before, id));
            }
            if let Some(claim) = claim {
                device.blocked.insert((claim, id));
            }
        }
    }

    /// Takes the first replica that waits for cores off the list if there are enough for it, makes it
    /// ready to run, and returns its revision.
    fn next_unblocked(&mut self, id: DeviceId) -> Option<RevisionId> {
        let device = self.devices.get_mut(id.0)?;
        let (_, first) = *device.blocked.first()?;
        let replica = self.replicas.get_mut(first.0)?;
        if !device.has_cores(replica.cores()) {
            return None;
        }
        device.blocked.pop_first();
        replica.blocked = None;
        let id = replica.revision;
        self.revisions.get_mut(id.0)?.ready.push(first);
        Some(id)
    }

    /// Gives back the cores of runs that have left their slots. Whoever waits for them is served when
    /// the revision is settled.
    pub(super) fn free_cores(&mut self, id: RevisionId, n_runs: usize, cores: u32) {
        let revision = self.revisions.get(id.0);
        if let Some(device) = revision.and_then(|r| r.device_in(&mut self.devices)) {
            let n_runs = u32::try_from(n_runs).unwrap_or(u32::MAX);
            device.busy = device.busy.saturating_sub(cores.saturating_mul(n_runs));
        }
    }

    /// Returns the time that a revision's device owes to the others on it.
    pub(super) fn owed_to_others(&self, id: RevisionId) -> Duration {
        let owed = self.revisions.get(id.0).and_then(|revision| {
            let device = self.devices.get(revision.limits.device?.0)?;
            let own = revision.timetable.work() * u128::from(revision.cores_each);
            let others = device.work.saturating_sub(own);
            Some(others / u128::from(device.limits.cores.max(1)))
        });
        Duration::from_nanos(u64::try_from(owed.unwrap_or(0)).unwrap_or(u64::MAX))
    }

    // === sharing ===

    /// Gives a replica with a spare slot half of what waits staged at the busy one with most of it,
    /// the most urgent first, as work stealing does; returns whether anything was moved. An entry
    /// moves once, and only when nothing waits in the queue that could go there instead.
    fn share(&mut self, id: RevisionId) -> bool {
        let Some(revision) = self.revisions.get(id.0) else {
            return false;
        };
        if revision.fleet.ids.len() < 2 || !revision.queue.is_empty() {
            return false;
        }
        let Some(idle) = revision.fleet.attractive().next() else {
            return false;
        };
        let has_spare = |id: ReplicaId| self.replicas.get(id.0).is_some_and(|r| r.has_spare_slot());
        let Some(busy) = revision.fleet.richest() else {
            return false;
        };
        if !has_spare(idle) || has_spare(busy) || idle == busy {
            return false;
        }
        let n_movable = self.replicas.get(busy.0).map_or(0, |r| r.stage.n_movable());
        let n_shared = n_movable
            .div_ceil(2)
            .min(revision.limits.max_batch.max(1) as usize);
        let mut has_moved = false;
        for _ in 0..n_shared {
            let Some(key) = self.movable_to(idle, busy) else {
                break;
            };
            self.take_back(key);
            self.stage(key, idle);
            has_moved = true;
        }
        has_moved
    }

    /// Returns the most urgent entry that can go from `busy` to `idle`.
    fn movable_to(&self, idle: ReplicaId, busy: ReplicaId) -> Option<Key> {
        let first = self.replicas.get(busy.0)?.stage.first_movable()?;
        let cost = self.entries.get(first.key.0)?.cost;
        let has_room = self.replicas.get(idle.0)?.has_room(cost, first.class);
        has_room.then_some(first.key)
    }
}
