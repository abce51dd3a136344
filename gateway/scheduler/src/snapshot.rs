//! The whole state as plain data, for people and tests.

use std::time::Duration;

use crate::{ReplicaCredits, ReplicaId, RevisionId, Time};

/// What the scheduler holds at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The revisions, in no order that means anything.
    pub revisions: Vec<RevisionSnapshot>,
}

/// One revision at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionSnapshot {
    /// Its name.
    pub id: RevisionId,
    /// It takes no new entries, and goes when the last has left.
    pub is_retired: bool,
    /// Entries in the queue.
    pub waiting: usize,
    /// Entries sent to replicas that have not reported them staged.
    pub sent: usize,
    /// Entries ready to run.
    pub staged: usize,
    /// Entries named in a run and not answered.
    pub running: usize,
    /// Bytes waiting, sent and staged.
    pub queue_bytes: u128,
    /// Mean time in a slot per entry, once a run has been measured.
    pub slot_time: Option<Duration>,
    /// Starts that failed since one succeeded.
    pub failed_starts: u32,
    /// No replica is launched before; the epoch if no start has failed.
    pub start_after: Time,
    /// Its replicas, the oldest first.
    pub replicas: Vec<ReplicaSnapshot>,
    /// What has happened so far.
    pub counters: Counters,
}

/// One replica at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSnapshot {
    /// Its name.
    pub id: ReplicaId,
    /// What it can take, or `None` while it starts.
    pub credits: Option<ReplicaCredits>,
    /// Entries that it has not reported staged.
    pub sent: usize,
    /// Entries ready to run.
    pub staged: usize,
    /// Entries named in a run and not answered.
    pub running: usize,
    /// Slots that run a batch.
    pub busy_slots: usize,
    /// It is kept for an entry that a replica died with.
    pub is_alone_with_suspect: bool,
}

/// What has happened to a revision since it was added.
///
/// `offered` is the sum of `refused`, `answered`, `cancelled`, `expired`, `poisoned`,
/// `start_failed` and the entries still there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Entries offered.
    pub offered: u64,
    /// Of those, not admitted.
    pub refused: RefusedCounters,
    /// Entries whose answer came in time.
    pub answered: u64,
    /// Entries whose caller left.
    pub cancelled: u64,
    /// Entries whose deadline passed.
    pub expired: u64,
    /// Entries that two replicas died with.
    pub poisoned: u64,
    /// Entries that no replica came up for.
    pub start_failed: u64,
    /// Entries that a replica died with, to be tried alone.
    pub retries: u64,
    /// Most runs that one entry was named in; never more than two.
    pub most_runs: u32,
    /// Entries taken back from a replica for a more urgent one or an idle replica.
    pub taken_back: u64,
    /// Batches run.
    pub runs: u64,
    /// Batches by items: place `i` counts those of 2^i to 2^(i+1) - 1.
    pub batch_sizes: [u64; 32],
    /// Replicas launched.
    pub launches: u64,
    /// Replicas that died before they were up, or soon after and idle.
    pub failed_starts: u64,
    /// Other replicas that died.
    pub crashes: u64,
}

/// Entries not admitted, by [`RefusedReason`](crate::RefusedReason).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusedCounters {
    /// The queue was full.
    pub queue_full: u64,
    /// The deadline had passed.
    pub deadline_passed: u64,
    /// Starts kept failing.
    pub unavailable: u64,
    /// The revision was retired.
    pub retired: u64,
}
