//! One revision: its queue, its limits, its replicas, and whom it admits.
//!
//! # Admission
//! By predicted completion, as Clockwork (OSDI 2020) does: an entry is refused at once if what is
//! promised to others before it, the runs under way, the start of a replica and its own run do not
//! end by its deadline, or if it would make another late that was admitted. What is admitted stays.
//!
//! For a second after such a refusal an entry is admitted only if it would begin within half of its
//! time. Without that, under overload every place goes to whoever is content to wait longest, and
//! all answers come at the last moment, where each error of the prediction is a deadline missed.
//!
//! A prediction that refuses everything can't be found wrong by runs. So where nothing is at work,
//! an entry that would be late by itself is admitted as a trial, every ten seconds.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::curve::Curves;
use crate::demand::Demand;
use crate::device::Device;
use crate::entry::Rank;
use crate::fleet::Fleet;
use crate::slab::{Index, Slab};
use crate::stage::Load;
use crate::timetable::Timetable;
use crate::{Class, Counters, DeviceId, Offer, RefusedReason, ReplicaId, Staging, Time};

/// Least time after which a refused caller is told to try again: less is a busy loop.
const MIN_RETRY: Duration = Duration::from_millis(1);

/// The same while no run has been measured: the order of a cold start.
const UNMEASURED_RETRY: Duration = Duration::from_secs(1);

/// How long a refusal makes admission stricter.
const STRICT: Duration = Duration::from_secs(1);

/// How often an entry that would be late by itself is tried.
const TRIAL_GAP: Duration = Duration::from_secs(10);

/// The latest start, staging or post-processing weighs this much in its mean; TCP's round-trip
/// estimate forgets as fast (RFC 6298 § 2).
const MEMORY: f64 = 1.0 / 8.0;

/// Crashes at work, on different entries, and killed workers, with no answer between them, after which
/// starts wait as if they had failed, or where they were killed for as long as after one that failed.
const CRASHES_BEFORE_BACKOFF: u32 = 6;

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
    /// Replicas that are kept whether or not there is work.
    pub min_scale: usize,
    /// Most replicas; 0 counts as 1.
    pub max_scale: usize,
    /// How long nothing has to be there for the replicas beyond `min_scale` to end.
    pub idle_window: Duration,
    /// What its replicas run on; `None` is a device of its own for each.
    pub device: Option<DeviceId>,
    /// Bytes that a replica takes, until one says otherwise.
    pub memory_bytes: u64,
    /// A run may take ten times what is predicted, or this if it is longer (at least 10 ms), before
    /// its replica counts as hung. So may preparing and post-processing, and 200 ns for each pixel more.
    pub run_limit: Duration,
    /// Wait after the first start that failed; doubles with each further one.
    pub start_backoff: Duration,
    /// Longest wait between starts, and how long a replica has to be up to prove that it starts.
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
    /// Interactive entries that wait or are staged, and what they were promised.
    pub(crate) timetable: Timetable,
    /// What waits or is staged, by class.
    pub(crate) interactive: Load,
    pub(crate) bulk: Load,
    /// What has been admitted and has not left.
    pub(crate) n_entries: usize,
    pub(crate) fleet: Fleet,
    /// Replicas that may have a free slot and something staged.
    pub(crate) ready: Vec<ReplicaId>,
    /// How many replicas there should be.
    pub(crate) n_wanted: usize,
    /// Replicas that get nothing more and end when they hold nothing.
    pub(crate) draining: Vec<ReplicaId>,
    /// Run slots of the replicas that are up, and of one of them.
    pub(crate) n_slots: usize,
    pub(crate) slots_each: usize,
    /// Those of the slots that the cores of the device are enough for at once.
    pub(crate) n_at_once: usize,
    /// Cores that a run takes.
    pub(crate) cores_each: u32,
    /// Of all runs not ended: how many, and the sum of their predicted ends in nanoseconds.
    pub(crate) n_runs: usize,
    pub(crate) ends_sum: u128,
    pub(crate) curves: Curves,
    /// The same of the engine's own time, as workers say it.
    pub(crate) engine: Curves,
    /// Mean time of a run that was neither the engine's nor spent behind other runs.
    pub(crate) round_trip: Mean,
    pub(crate) demand: Demand,
    /// Mean time from launch to up, from sent to staged, and from the end of a run to the answer.
    pub(crate) start_time: Mean,
    pub(crate) staging_time: Mean,
    pub(crate) tail_time: Mean,
    /// When an offer was last refused for want of time.
    pub(crate) refused: Option<Time>,
    /// When a run last ended.
    pub(crate) ran: Option<Time>,
    /// When the last interactive entry was offered.
    pub(crate) interactive_seen: Option<Time>,
    /// Somebody has bulk work to be pulled.
    pub(crate) has_bulk: bool,
    /// Items of bulk that were asked for and have not been offered, until it is said whether there is
    /// more.
    pub(crate) pulled: Option<u32>,
    /// Slot time that bulk has a claim to, in nanoseconds; negative where it has had more.
    pub(crate) bulk_claim: i64,
    /// Since when nothing has been there and nobody has asked.
    pub(crate) idle_since: Time,
    pub(crate) has_scale_timer: bool,
    /// Starts that failed since one succeeded.
    pub(crate) n_failed_starts: u32,
    /// Crashes since an answer.
    pub(crate) n_crashes: u32,
    /// No replica is launched before, after a start that failed or a series of crashes.
    pub(crate) start_after: Time,
    /// The bytes that the last start lacked: needed, and free at most.
    pub(crate) no_memory: Option<(u64, u64)>,
    pub(crate) memory_bytes: u64,
    pub(crate) counters: Counters,
}

/// A mean that forgets, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean(Option<f64>);

/// Why an offer is not admitted, and when to try again.
pub(crate) type Refusal = (RefusedReason, Duration);

/// What is promised to an entry that is admitted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Promise {
    /// Nanoseconds of slot time.
    pub(crate) work: u64,
    pub(crate) is_trial: bool,
}

// === impl RevisionLimits ===

impl Default for RevisionLimits {
    fn default() -> Self {
        Self {
            max_batch: 1,
            queue_entries: 1024,
            queue_bytes: 256 << 20,
            min_scale: 0,
            max_scale: 1,
            idle_window: Duration::from_secs(60),
            device: None,
            memory_bytes: 0,
            run_limit: Duration::from_secs(5),
            start_backoff: Duration::from_millis(100),
            max_start_backoff: Duration::from_secs(30),
            max_starts_before_failing: 3,
        }
    }
}

// === impl Mean ===

impl Mean {
    pub(crate) fn observe(&mut self, latest: Duration) {
        let latest = latest.as_nanos() as f64;
        let mean = self.0.unwrap_or(latest);
        self.0 = Some(mean + (latest - mean) * MEMORY);
    }

    pub(crate) fn duration(self) -> Option<Duration> {
        self.0.map(|nanos| Duration::from_nanos(nanos as u64))
    }
}

// === impl Revision ===

impl Revision {
    pub(crate) fn new(limits: RevisionLimits) -> Self {
        Self {
            limits,
            is_retired: false,
            queue: BTreeSet::new(),
            timetable: Timetable::new(),
            interactive: Load::default(),
            bulk: Load::default(),
            n_entries: 0,
            fleet: Fleet::default(),
            ready: Vec::new(),
            n_wanted: limits.min_scale,
            draining: Vec::new(),
            n_slots: 0,
            slots_each: 1,
            n_at_once: 0,
            cores_each: 1,
            n_runs: 0,
            ends_sum: 0,
            curves: Curves::new(limits.max_batch),
            engine: Curves::new(limits.max_batch),
            round_trip: Mean::default(),
            demand: Demand::new(),
            start_time: Mean::default(),
            staging_time: Mean::default(),
            tail_time: Mean::default(),
            refused: None,
            ran: None,
            interactive_seen: None,
            has_bulk: false,
            pulled: None,
            bulk_claim: 0,
            idle_since: Time::default(),
            has_scale_timer: false,
            n_failed_starts: 0,
            n_crashes: 0,
            start_after: Time::default(),
            no_memory: None,
            memory_bytes: limits.memory_bytes,
            counters: Counters::default(),
        }
    }

    /// Returns what its replicas share with those of others, if anything.
    pub(crate) fn device_in<'a>(&self, devices: &'a mut Slab<Device>) -> Option<&'a mut Device> {
        devices.get_mut(self.limits.device?.0)
    }

    pub(crate) fn load_mut(&mut self, class: Class) -> &mut Load {
        match class {
            Class::Interactive => &mut self.interactive,
            Class::Bulk => &mut self.bulk,
        }
    }

    /// Counts an offer that was judged.
    pub(crate) fn count_offer(&mut self, now: Time, verdict: &Result<Promise, Refusal>) {
        self.counters.offered += 1;
        let refused = &mut self.counters.refused;
        if let Err((reason, _)) = verdict {
            match reason {
                RefusedReason::QueueFull => refused.queue_full += 1,
                RefusedReason::Late { .. } => refused.late += 1,
                RefusedReason::Crowded { .. } => refused.crowded += 1,
                RefusedReason::Starting { .. } => refused.starting += 1,
                RefusedReason::DeadlinePassed => refused.deadline_passed += 1,
                RefusedReason::Unavailable => refused.unavailable += 1,
                RefusedReason::Retired => refused.retired += 1,
            }
            let is_for_time = matches!(
                reason,
                RefusedReason::Late { .. } | RefusedReason::Crowded { .. }
            );
            // An entry that would be late on an idle machine says nothing of the load.
            if is_for_time && (self.n_entries > 0 || self.n_runs > 0) {
                self.refused = Some(now);
            }
        }
    }

    /// Says what would become of an offer. `start` is when the first replica is predicted to be up,
    /// where none is; `others` is the time that the device owes to other revisions.
    pub(crate) fn judge(
        &self,
        now: Time,
        offer: &Offer,
        arrival: u64,
        start: Option<Time>,
        others: Duration,
    ) -> Result<Promise, Refusal> {
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
        let mut load = match offer.class {
            Class::Interactive => self.interactive,
            Class::Bulk => self.bulk,
        };
        load.add(offer.cost);
        if load.entries > self.limits.queue_entries
            || load.bytes > u128::from(self.limits.queue_bytes)
            || offer.class == Class::Bulk && self.pulled.is_none_or(|items| items == 0)
        {
            return Err((RefusedReason::QueueFull, self.drain_time(now)));
        }
        match offer.class {
            Class::Interactive => self.promise(now, offer, arrival, start, others),
            Class::Bulk => Ok(Promise::default()),
        }
    }

    /// Predicts when an interactive entry would be answered, and promises it or refuses.
    fn promise(
        &self,
        now: Time,
        offer: &Offer,
        arrival: u64,
        start: Option<Time>,
        others: Duration,
    ) -> Result<Promise, Refusal> {
        let bucket = offer.staging.bucket();
        let items = offer.cost.items.max(1);
        let curve = bucket
            .and_then(|bucket| self.curves.of(bucket))
            .or_else(|| self.curves.latest());
        let work = self.curves.work(bucket, items).unwrap_or(0);
        let ready_at = start.unwrap_or(now).max(now);
        let free_at = self.free_at(now).max(ready_at);
        let outlook = self
            .timetable
            .outlook((offer.deadline, arrival), work, free_at);

        let wait = Duration::from_nanos(outlook.wait);
        let prepared = match offer.staging {
            Staging::Inline(_) => now,
            Staging::Reported => {
                ready_at.saturating_add(self.staging_time.duration().unwrap_or_default())
            }
        };
        let has_free_slot = wait.is_zero() && self.n_runs < self.n_at_once;
        let begins = match has_free_slot {
            true => ready_at,
            false => free_at.saturating_add(wait),
        };
        let begins = begins.saturating_add(others).max(prepared);
        let run_of = |items| curve.and_then(|curve| curve.duration(items));
        // Behind a line, the batch will be a full one.
        let batch = match curve {
            Some(curve) if !wait.is_zero() => curve.best().max(items),
            _ => items,
        };
        let tail = self.tail_time.duration().unwrap_or_default();
        let ends = begins
            .saturating_add(run_of(batch).unwrap_or_default())
            .saturating_add(tail);
        let predicted = ends.saturating_since(now);

        let alone = prepared
            .saturating_add(run_of(items).unwrap_or_default())
            .saturating_add(tail);
        if start.is_none() && alone > offer.deadline {
            let is_idle = self.n_entries == 0 && self.n_runs == 0;
            let is_due = self
                .ran
                .is_none_or(|ran| now.saturating_since(ran) >= TRIAL_GAP);
            return match is_idle && is_due {
                true => Ok(Promise {
                    work,
                    is_trial: true,
                }),
                false => Err((RefusedReason::Late { predicted }, Duration::ZERO)),
            };
        }
        if ends > offer.deadline {
            return Err(match start {
                Some(start) => (
                    RefusedReason::Starting { predicted },
                    start.saturating_since(now).max(MIN_RETRY),
                ),
                None => (RefusedReason::Late { predicted }, self.drain_time(now)),
            });
        }
        let spare = offer.deadline.saturating_since(now) / 2;
        if !outlook.keeps_promises || self.is_crowded(now) && begins.saturating_since(now) > spare {
            return Err((RefusedReason::Crowded { predicted }, self.drain_time(now)));
        }
        Ok(Promise {
            work,
            is_trial: false,
        })
    }

    /// Whether an entry was refused for want of time a moment ago.
    pub(crate) fn is_crowded(&self, now: Time) -> bool {
        self.refused
            .is_some_and(|refused| now.saturating_since(refused) < STRICT)
    }

    /// Whether there is no room for another interactive entry.
    pub(crate) fn is_full(&self) -> bool {
        self.interactive.entries >= self.limits.queue_entries
    }

    /// Predicts when, over all slots, the runs that were named will have ended.
    /// What is named ahead ends after the run before it, which so counts twice: a margin for runs that
    /// take longer than most. Without it one promise in six hundred is broken at twice the capacity.
    pub(crate) fn free_at(&self, now: Time) -> Time {
        let passed = u128::from(now.as_nanos()) * self.n_runs as u128;
        let remaining = self.ends_sum.saturating_sub(passed) / self.n_at_once.max(1) as u128;
        now.saturating_add(Duration::from_nanos(
            u64::try_from(remaining).unwrap_or(u64::MAX),
        ))
    }

    /// Whether it is retired, and nothing of it is left to be done.
    pub(crate) fn is_over(&self) -> bool {
        self.is_retired && self.n_entries == 0 && self.n_runs == 0
    }

    /// Whether so many starts have failed that entries no longer wait for the next.
    pub(crate) fn has_given_up(&self) -> bool {
        self.n_failed_starts >= self.limits.max_starts_before_failing.max(1)
            && self.fleet.ids.is_empty()
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.n_entries == 0 && self.n_runs == 0 && !self.has_bulk
    }

    /// Predicts when half of what waits and is staged now will have run: then trying again helps,
    /// and callers that were refused together do not find an idle machine first.
    pub(crate) fn drain_time(&self, now: Time) -> Duration {
        if self.curves.latest().is_none() {
            return UNMEASURED_RETRY;
        }
        let running = self.free_at(now).saturating_since(now);
        let waiting = self.timetable.work() / self.n_at_once.max(1) as u128;
        let waiting = Duration::from_nanos(u64::try_from(waiting).unwrap_or(u64::MAX));
        (running.saturating_add(waiting) / 2).max(MIN_RETRY)
    }

    /// Counts a crash at work, or a start that somebody killed; returns whether the next start has to
    /// wait.
    pub(crate) fn crashed(&mut self) -> bool {
        self.n_crashes += 1;
        self.n_crashes >= CRASHES_BEFORE_BACKOFF
    }

    /// Counts a start that failed, and returns when the next may be made.
    pub(crate) fn back_off(&mut self, now: Time) -> Time {
        self.counters.failed_starts += 1;
        let doublings = self.n_failed_starts.min(31);
        self.n_failed_starts = self.n_failed_starts.saturating_add(1);
        let wait = self.limits.start_backoff.saturating_mul(1 << doublings);
        now.saturating_add(wait.min(self.limits.max_start_backoff))
    }
}
