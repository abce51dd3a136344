//! The whole state as plain data, for people and tests.

use std::time::Duration;

use serde::Serialize;

use crate::{Bucket, DeviceId, ReplicaCredits, ReplicaId, RevisionId, Time};

/// What the scheduler holds at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The revisions, in no order that means anything.
    pub revisions: Vec<RevisionSnapshot>,
    /// What they share.
    pub devices: Vec<DeviceSnapshot>,
}

/// One device at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceSnapshot {
    /// Its name.
    pub id: DeviceId,
    /// Cores (or streams) that runs may take.
    pub cores: u32,
    /// Cores that runs take.
    pub busy_cores: u32,
    /// Bytes that loaded models may take together.
    pub memory_bytes: u64,
    /// Bytes that replicas take, starting or up.
    pub reserved_bytes: u64,
    /// Revisions that have work staged and a free slot, and wait for cores.
    pub blocked_revisions: usize,
}

/// How long runs of one bucket occupy a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurveSnapshot {
    /// Its shape class.
    pub bucket: Bucket,
    /// Items of the batch that is chosen when there is enough.
    pub best: u32,
    /// What was measured, by rising size.
    pub points: Vec<CurvePoint>,
}

/// One size of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurvePoint {
    /// Items of a batch; from 16 on, up to an eighth more are counted here too.
    pub items: u32,
    /// Mean time in a slot.
    pub slot_time: Duration,
    /// Mean time of the engine in it, as workers say.
    pub engine_time: Option<Duration>,
    /// Runs that it is known by, counted up to 16.
    pub runs: u32,
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
    /// Of those that wait or are staged, bulk.
    pub bulk_waiting: usize,
    /// Somebody has bulk work to be pulled.
    pub has_bulk: bool,
    /// What a caller refused now is told to wait.
    pub drain_time: Duration,
    /// Mean time from a launch to being up, if one ever was.
    pub start_time: Option<Duration>,
    /// Mean time to prepare an entry.
    pub staging_time: Option<Duration>,
    /// Mean time from the end of a run to an answer.
    pub tail_time: Option<Duration>,
    /// What was learned of its runs.
    pub curves: Vec<CurveSnapshot>,
    /// It has work staged and a free slot, and waits for cores of its device.
    pub waits_for_cores: bool,
    /// Replicas that there should be.
    pub wanted_replicas: usize,
    /// Bytes that are reserved for a replica.
    pub memory_bytes: u64,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    /// Batches named for slots that are about to be free.
    pub named_ahead: usize,
    /// It is kept for an entry that a replica died with.
    pub is_alone_with_suspect: bool,
    /// It is sent nothing more and ends when it holds nothing.
    pub is_draining: bool,
    /// It hung and has been ended.
    pub is_killed: bool,
}

/// What has happened to a revision since it was added.
///
/// `offered` is the sum of `refused`, `answered`, `cancelled`, `expired`, `poisoned`,
/// `start_failed` and the entries still there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Entries offered.
    pub offered: u64,
    /// Of those, not admitted.
    pub refused: RefusedCounters,
    /// Entries whose answer came in time.
    pub answered: u64,
    /// Entries whose caller left.
    pub cancelled: u64,
    /// Entries whose deadline passed, or could not be met any more.
    pub expired: u64,
    /// Of those, the latter.
    pub hopeless: u64,
    /// Entries that two replicas died with.
    pub poisoned: u64,
    /// Entries that no replica came up for, or that found no memory for one.
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
    /// Replicas that hung and were ended.
    pub hangs: u64,
    /// Replicas ended for want of work, or to make room for others.
    pub stops: u64,
    /// Batches of bulk, among `runs`.
    pub bulk_runs: u64,
    /// Nanoseconds of slot time of all runs, and of bulk.
    pub slot_nanos: u64,
    /// The same of bulk.
    pub bulk_slot_nanos: u64,
}

/// Entries not admitted, by [`RefusedReason`](crate::RefusedReason).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RefusedCounters {
    /// The queue was full.
    pub queue_full: u64,
    /// It could not be done in time.
    pub late: u64,
    /// It would have made another late, or waited too long just after a refusal.
    pub crowded: u64,
    /// A replica would not have started in time.
    pub starting: u64,
    /// The deadline had passed.
    pub deadline_passed: u64,
    /// Starts kept failing.
    pub unavailable: u64,
    /// The revision was retired.
    pub retired: u64,
}
