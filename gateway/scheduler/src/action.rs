//! What the scheduler asks its caller to do.

use crate::{Key, ReplicaId, RevisionId};

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
        /// The entry; the scheduler keeps the original in case the replica dies.
        entry: E,
    },
    /// Run a batch in a free slot; report `slot_freed` once and `answered` per entry.
    Run {
        /// Where.
        replica: ReplicaId,
        /// Staged there, of one bucket, the most urgent first; never empty.
        batch: Vec<Key>,
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
    /// End a replica of a retired revision. Its id names nothing from now on; no event is due.
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
    /// No replica came up, in as many starts as the limits allow.
    StartFailed,
}
