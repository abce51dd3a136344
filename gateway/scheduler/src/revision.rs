//! One revision: its queue, its limits and its replicas.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::entry::Rank;
use crate::slab::Index;
use crate::stage::Load;
use crate::{Counters, Offer, RefusedReason, ReplicaId, Time};

/// Least time after which a refused caller is told to try again: less is a busy loop.
const MIN_RETRY: Duration = Duration::from_millis(1);

/// The same while no run has been measured: the order of a cold start.
const UNMEASURED_RETRY: Duration = Duration::from_secs(1);

/// The share of the latest run in the mean slot time is one in this many; TCP's round-trip
/// estimate forgets as fast (RFC 6298 § 2).
const SLOT_TIME_MEMORY: u64 = 8;

/// Names a revision until it is retired and its last entry has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevisionId(pub(crate) Index);

/// The bounds of one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevisionLimits {
    /// Most items in a batch. An entry of more runs alone. 0 counts as 1.
    pub max_batch: u32,
    /// Most entries admitted that do not run: waiting and staged together, because either may be
    /// taken for the other. Too few refuse bursts that could be served, too many keep callers
    /// waiting for an answer that comes too late. What ran at a replica that died waits again
    /// without being admitted again, and may exceed this for a while.
    pub queue_entries: usize,
    /// Most bytes of the same. An entry of more is always refused.
    pub queue_bytes: u64,
    /// Wait after the first start that failed; doubles with each further one.
    pub start_backoff: Duration,
    /// Longest wait between starts, and how long an idle replica has to live to count as started.
    pub max_start_backoff: Duration,
    /// Starts that fail one after another before waiting entries fail and offers are refused.
    /// 0 counts as 1.
    pub max_starts_before_failing: u32,
}

/// One revision.
#[derive(Debug)]
pub(crate) struct Revision {
    pub(crate) limits: RevisionLimits,
    pub(crate) is_retired: bool,
    /// What waits. Its first entry can't be staged anywhere right now (see `settle`).
    pub(crate) queue: BTreeSet<Rank>,
    /// What waits or is staged.
    pub(crate) load: Load,
    /// What has been admitted and has not left.
    pub(crate) n_entries: usize,
    pub(crate) replicas: Vec<ReplicaId>,
    /// How many replicas there should be.
    pub(crate) n_wanted: usize,
    /// Run slots of the replicas that are up.
    pub(crate) n_slots: usize,
    /// Starts that failed since one succeeded.
    pub(crate) n_failed_starts: u32,
    /// No replica is launched before, after a start that failed.
    pub(crate) start_after: Time,
    /// Mean time in a slot per entry, in nanoseconds, once a run has been measured.
    pub(crate) slot_nanos: Option<u64>,
    pub(crate) counters: Counters,
}

// === impl RevisionLimits ===

impl Default for RevisionLimits {
    fn default() -> Self {
        Self {
            max_batch: 1,
            queue_entries: 1024,
            queue_bytes: 256 << 20,
            start_backoff: Duration::from_millis(100),
            max_start_backoff: Duration::from_secs(30),
            max_starts_before_failing: 3,
        }
    }
}

// === impl Revision ===

impl Revision {
    pub(crate) fn new(limits: RevisionLimits) -> Self {
        Self {
            limits,
            is_retired: false,
            queue: BTreeSet::new(),
            load: Load::default(),
            n_entries: 0,
            replicas: Vec::new(),
            n_wanted: 0,
            n_slots: 0,
            n_failed_starts: 0,
            start_after: Time::default(),
            slot_nanos: None,
            counters: Counters::default(),
        }
    }

    /// Judges an offer and counts it; the error is why it is refused and when to try again.
    pub(crate) fn admit(
        &mut self,
        now: Time,
        offer: &Offer,
    ) -> Result<(), (RefusedReason, Duration)> {
        let verdict = self.judge(now, offer);
        self.counters.offered += 1;
        let refused = &mut self.counters.refused;
        match verdict {
            Ok(()) => {}
            Err((RefusedReason::QueueFull, _)) => refused.queue_full += 1,
            Err((RefusedReason::DeadlinePassed, _)) => refused.deadline_passed += 1,
            Err((RefusedReason::Unavailable, _)) => refused.unavailable += 1,
            Err((RefusedReason::Retired, _)) => refused.retired += 1,
        }
        verdict
    }

    fn judge(&self, now: Time, offer: &Offer) -> Result<(), (RefusedReason, Duration)> {
        if self.is_retired {
            return Err((RefusedReason::Retired, Duration::ZERO));
        }
        if offer.deadline <= now {
            return Err((RefusedReason::DeadlinePassed, Duration::ZERO));
        }
        if self.has_given_up() && now < self.start_after {
            let wait = self.start_after.saturating_since(now);
            return Err((RefusedReason::Unavailable, wait.max(MIN_RETRY)));
        }
        let mut load = self.load;
        load.add(offer.cost);
        if load.entries > self.limits.queue_entries
            || load.bytes > u128::from(self.limits.queue_bytes)
        {
            return Err((RefusedReason::QueueFull, self.drain_time()));
        }
        Ok(())
    }

    /// Whether so many starts have failed that entries no longer wait for the next.
    pub(crate) fn has_given_up(&self) -> bool {
        self.n_failed_starts >= self.limits.max_starts_before_failing.max(1)
            && self.replicas.is_empty()
    }

    /// Predicts when what waits and is staged now will have run: slot time per entry × entries /
    /// slots.
    fn drain_time(&self) -> Duration {
        let Some(slot_nanos) = self.slot_nanos else {
            return UNMEASURED_RETRY;
        };
        let nanos =
            u128::from(slot_nanos) * self.load.entries as u128 / self.n_slots.max(1) as u128;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).max(MIN_RETRY)
    }

    /// Takes a run into the mean slot time.
    pub(crate) fn measure(&mut self, slot_time: Duration, n_entries: u32) {
        let nanos = u64::try_from(slot_time.as_nanos()).unwrap_or(u64::MAX);
        let latest = nanos / u64::from(n_entries.max(1));
        let mean = self.slot_nanos.unwrap_or(latest);
        self.slot_nanos = Some(mean - mean / SLOT_TIME_MEMORY + latest / SLOT_TIME_MEMORY);
    }

    /// Counts a start that failed, and returns when the next may be made.
    pub(crate) fn back_off(&mut self, now: Time) -> Time {
        self.counters.failed_starts += 1;
        let doublings = self.n_failed_starts.min(31);
        self.n_failed_starts = self.n_failed_starts.saturating_add(1);
        let wait = self.limits.start_backoff.saturating_mul(1 << doublings);
        self.start_after = now.saturating_add(wait.min(self.limits.max_start_backoff));
        self.start_after
    }
}
