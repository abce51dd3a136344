//! Bulk: what nobody waits for.
//!
//! - It is pulled: the scheduler asks for items while there is room for them, at most what the slots
//!   run in two batches, so a backlog of any length costs nothing here and is never refused.
//! - Interactive entries go first, in the queue and on every stage, and bulk takes at most half of a
//!   stage's places. So bulk takes what is left over and yields at the next batch boundary.
//! - It gives way to what is not ready yet as well: a free slot is kept for an interactive entry that is
//!   being prepared, where that takes less than a run, for else the entry would wait for that run.
//! - While there is interactive work, a batch of bulk takes at most [`BATCH`] or is one item: that is
//!   the most that an interactive entry can find before it.
//! - A share of the slots' time is bulk's all the same, so that it moves under any load: what
//!   interactive runs take is credited to it by [`SHARE`], and what it takes is debited. While it has
//!   credit it goes first.

use std::time::Duration;

use super::Scheduler;
use crate::entry::Rank;
use crate::revision::Revision;
use crate::stage::Stage;
use crate::{Action, BatchLimit, Bucket, Class, RevisionId, Time};

/// The longest batch of bulk while there is interactive work.
const BATCH: Duration = Duration::from_millis(50);

/// How long ago the last interactive entry may be for there to be interactive work.
const RECENTLY: Duration = Duration::from_secs(1);

/// The part of the slots' time that is bulk's under any load: 1 / 20.
const SHARE: i64 = 20;

/// The largest claim or debt.
const MOST_CLAIMED: i64 = 100_000_000;

/// What the size of a batch depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prospect {
    pub(crate) bucket: Bucket,
    pub(crate) class: Class,
    /// Entries that could be in it; not counted, and `u32::MAX`, where that makes no difference.
    pub(crate) n_ready: u32,
    /// Items like them that are named for slots not free yet.
    pub(crate) n_ahead: u32,
    /// Slots that are free.
    pub(crate) n_slots: usize,
    /// What the most urgent entry has left.
    pub(crate) time: Duration,
}

impl<E: Clone> Scheduler<E> {
    /// Hears whether there is bulk work to be pulled for a revision. It ends every answer to
    /// [`Action::Pull`]: what was asked for and not taken, because there was less or it was refused, is
    /// not expected any more, and may be asked for again.
    pub fn bulk_waits(&mut self, now: Time, id: RevisionId, waits: bool) {
        self.advance(now);
        let Some(revision) = self.revisions.get_mut(id.0) else {
            if waits {
                self.actions.push(pull_all(id));
            }
            return;
        };
        revision.has_bulk = waits;
        revision.pulled = None;
        if !waits {
            revision.bulk_claim = 0;
            revision.idle_since = self.now;
        } else if !revision.is_retired {
            revision.n_wanted = revision.n_wanted.max(1);
            self.launch_wanted(id);
            self.keep_scaled(id);
        }
        self.settle(id);
    }

    /// Asks for bulk as far as there is room for it.
    pub(super) fn pull_bulk(&mut self, id: RevisionId) {
        let Some(revision) = self.revisions.get_mut(id.0) else {
            return;
        };
        if !revision.has_bulk || revision.pulled.is_some() {
            return;
        }
        if revision.is_retired {
            revision.pulled = Some(0);
            self.actions.push(pull_all(id));
            return;
        }
        if revision.n_slots == 0 {
            return;
        }
        let batch = revision
            .curves
            .latest()
            .map_or(1, |curve| curve.probe().unwrap_or(1).max(curve.best()));
        let wanted = (2 * revision.n_slots).saturating_mul(batch as usize);
        let wanted = wanted.min(revision.limits.queue_entries) as u64;
        let there = revision.bulk.items;
        // Asked for by halves, so that not every run asks for one.
        if there * 2 > wanted {
            return;
        }
        let items = u32::try_from(wanted - there).unwrap_or(u32::MAX);
        if items > 0 {
            revision.pulled = Some(items);
            self.actions.push(Action::Pull {
                revision: id,
                items,
            });
        }
    }
}

/// Asks for all the bulk of a revision that goes away or has gone, to be refused: else nobody would
/// ever ask for it.
fn pull_all<E>(revision: RevisionId) -> Action<E> {
    Action::Pull {
        revision,
        items: u32::MAX,
    }
}

impl Revision {
    /// Returns the bulk entry that is to be staged before any interactive one, if bulk has a claim: in
    /// an endless line of interactive entries its turn would never come.
    pub(crate) fn bulk_claimant(&self) -> Option<Rank> {
        if !self.has_bulk_claim() {
            return None;
        }
        self.queue
            .range(Rank::first_of(Class::Bulk)..)
            .next()
            .copied()
    }

    /// Whether bulk leaves a slot free for an interactive entry in preparation: without a claim of its
    /// own, and where that is ready sooner than a run would end.
    pub(crate) fn gives_way(&self) -> bool {
        let run = self.curves.latest().and_then(|curve| curve.duration(1));
        let staging = self.staging_time.duration();
        !self.has_bulk_claim() && run.zip(staging).is_some_and(|(run, staging)| staging < run)
    }

    fn has_bulk_claim(&self) -> bool {
        self.bulk_claim > 0 && self.bulk.entries > 0
    }

    /// Returns the entry on a stage that is to run next.
    pub(crate) fn most_urgent(&self, stage: &Stage) -> Option<Rank> {
        let claimant = match self.has_bulk_claim() {
            true => stage.first_bulk(),
            false => None,
        };
        claimant.or_else(|| stage.first())
    }

    /// Counts the slot time of a run.
    pub(crate) fn account(&mut self, class: Class, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX / 4);
        self.counters.slot_nanos = self.counters.slot_nanos.saturating_add(nanos);
        let nanos = i64::try_from(nanos).unwrap_or(i64::MAX / 4);
        match class {
            Class::Interactive if self.has_bulk || self.bulk.entries > 0 => {
                self.bulk_claim += nanos / (SHARE - 1);
            }
            Class::Interactive => {}
            Class::Bulk => {
                self.bulk_claim -= nanos;
                self.counters.bulk_slot_nanos += nanos as u64;
            }
        }
        self.bulk_claim = self.bulk_claim.clamp(-MOST_CLAIMED, MOST_CLAIMED);
    }

    /// Returns how many items a batch may have, and why no more: see `dispatch.rs` and `curve.rs`.
    pub(crate) fn batch_limit(&self, now: Time, prospect: Prospect) -> (u32, BatchLimit) {
        let Prospect {
            bucket,
            class,
            n_ready,
            n_ahead,
            n_slots,
            time,
        } = prospect;
        let max_batch = self.limits.max_batch.max(1);
        if max_batch == 1 {
            return (1, BatchLimit::Max);
        }
        // The first run of a bucket is of one item: a size that was never tried may take long.
        let Some(curve) = self.curves.of(bucket) else {
            return (1, BatchLimit::Probe);
        };
        let slots = u32::try_from(self.slots_each).unwrap_or(u32::MAX);
        let is_crowded = self.is_crowded(now);
        let (mut limit, mut why) = match curve.limit(n_ready, n_ahead, slots, time, is_crowded) {
            (size, true) => (size, BatchLimit::Probe),
            (best, false) if best == max_batch => (best, BatchLimit::Max),
            (best, false) => (best, BatchLimit::Cost),
        };
        let share = n_ready.div_ceil(u32::try_from(n_slots).unwrap_or(1));
        if n_slots > 1 && share < limit {
            (limit, why) = (share.max(1), BatchLimit::Split);
        }

        let has_interactive = || {
            let seen = self.interactive_seen;
            seen.is_some_and(|seen| now.saturating_since(seen) < RECENTLY)
        };
        let (time, why_late) = match class {
            Class::Interactive => (time, BatchLimit::Deadline),
            Class::Bulk if has_interactive() => (BATCH, BatchLimit::Bulk),
            Class::Bulk => (Duration::MAX, BatchLimit::Bulk),
        };
        // A quarter less at a time finds a size within a third of the largest, in a few steps.
        while limit > 1 && curve.duration(limit).is_some_and(|run| run > time) {
            (limit, why) = (limit - limit.div_ceil(4), why_late);
        }
        (limit, why)
    }
}
