//! What the scheduler asks its caller to do.

use crate::{Class, Key, ReplicaId, RevisionId, Time};

/// One thing to do, in the order it was drained.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the scheduler takes an action for done"]
pub enum Action<E> {
    /// Start a replica, then report `replica_up` or `replica_down`; a start that takes too long is
    /// for the caller to give up, as a `replica_down`.
    Launch {
        /// What it is to serve.
        revision: RevisionId,
        /// Its name in all further events.
        replica: ReplicaId,
    },
    /// Send an entry to a replica. An inline one counts as staged at once.
    Stage {
        /// Where to.
        replica: ReplicaId,
        /// Its name in all further events.
        key: Key,
        /// Preparing bulk must not hold up what is interactive.
        class: Class,
        /// The entry; the scheduler keeps the original in case the replica dies.
        entry: E,
    },
    /// Run a batch in a free slot; report `slot_freed` once and `answered` per entry.
    Run {
        /// Where.
        replica: ReplicaId,
        /// Staged there, of one bucket, the most urgent first; never empty. The first one names the
        /// run in `slot_freed`.
        batch: Vec<Key>,
        /// Why it is no larger.
        why: BatchLimit,
    },
    /// Tell a replica to drop an entry that it holds and does not run.
    Forget {
        /// Where it is.
        replica: ReplicaId,
        /// The entry. It may be staged again, there or elsewhere.
        key: Key,
    },
    /// Answer an entry DeadlineExceeded.
    Expire {
        /// The entry.
        entry: E,
        /// Its key, which from now on names nothing.
        key: Key,
        /// Its deadline is still to come, but even alone it would not be done by then.
        is_hopeless: bool,
    },
    /// Answer an entry with a failure that is not its caller's.
    Fail {
        /// The entry.
        entry: E,
        /// Its key, which from now on names nothing.
        key: Key,
        /// Which failure.
        why: FailReason,
    },
    /// Ask for bulk work: at most so much is to be offered, and then it is to be said by `bulk_waits`
    /// whether there is more. Until then no more is asked for.
    Pull {
        /// What it is for.
        revision: RevisionId,
        /// Items that there is room for.
        items: u32,
    },
    /// End a replica that hangs, at once and whatever it holds; `replica_down` is due as ever.
    Kill {
        /// Which.
        replica: ReplicaId,
    },
    /// End a replica that is not needed any more and holds nothing. Its id names nothing from now
    /// on; no event is due.
    Stop {
        /// Which.
        replica: ReplicaId,
    },
}

/// Why an admitted entry failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailReason {
    /// Two replicas died with it, the second while it was alone there.
    Poisoned,
    /// Two replicas died with it, of which somebody killed one at least: it may well be innocent.
    Killed,
    /// No replica came up, in as many starts as the limits allow.
    StartFailed,
    /// Its model does not fit the device beside what is busy there.
    NoMemory {
        /// Bytes that it takes.
        needed: u64,
        /// Bytes that are or could be made free.
        free: u64,
    },
}

/// Why a batch was no larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BatchLimit {
    /// It is all that was ready.
    Ready,
    /// It is as large as batches of this model may be.
    Max,
    /// More would have cost more per item, as far as was measured.
    Cost,
    /// More would have come too late for the most urgent.
    Deadline,
    /// What was ready was split over slots that were free.
    Split,
    /// The size is being tried.
    Probe,
    /// Bulk keeps its batches short while there is interactive work.
    Bulk,
}

/// An entry that was answered, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered<E> {
    /// The entry.
    pub entry: E,
    /// Where its time went, if it is the answer of a run.
    pub course: Option<Course>,
}

/// When an entry went from place to place, for the last time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Course {
    /// When it was offered.
    pub offered: Time,
    /// When it was sent to the replica that answered it.
    pub sent: Time,
    /// When it was ready there.
    pub staged: Time,
    /// When it was named in a run.
    pub named: Time,
    /// Why its batch was no larger.
    pub why: Option<BatchLimit>,
}
