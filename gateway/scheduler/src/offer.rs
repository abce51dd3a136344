//! What is offered to the scheduler, and how it says no.

use std::time::Duration;

use crate::Time;

/// A shape class of inputs: only entries of one bucket share a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(pub u64);

/// What an entry takes up, in the gateway's queue and at a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes on the wire; the gateway keeps them until the answer.
    pub bytes: u64,
    /// Pixels it decodes to, 0 for tensors. A small file can hold a huge picture.
    pub pixels: u64,
    /// Length along the batch axis; 0 counts as 1.
    pub items: u32,
}

/// How an entry comes to be staged at a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staging {
    /// Staged the moment it is sent, because its bucket is known and nothing is prepared: tensors.
    Inline(Bucket),
    /// Staged when the worker reports it, with the bucket it found: pictures.
    Reported,
}

/// Whose work goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Someone waits for the answer.
    #[default]
    Interactive,
    /// Nobody waits: it is pulled, takes what interactive work leaves over, and a small share that
    /// is guaranteed.
    Bulk,
}

/// The terms of an entry that asks to be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// When its caller stops waiting.
    pub deadline: Time,
    /// What it takes up.
    pub cost: Cost,
    /// How it is staged.
    pub staging: Staging,
    /// Whose work it is.
    pub class: Class,
}

/// An entry that was not admitted, handed back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused<E> {
    /// The entry, as it was offered.
    pub entry: E,
    /// Why.
    pub reason: RefusedReason,
    /// When trying again may help; zero where it can't.
    pub retry_after: Duration,
}

/// Why an entry was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusedReason {
    /// The queue is at its bound of entries or of bytes; for bulk, more is offered than was pulled.
    QueueFull,
    /// It can't be done before its deadline.
    Late {
        /// When it would be done, from now.
        predicted: Duration,
    },
    /// It could be done in time, but not without making an admitted entry late; or an offer was
    /// refused within the last second, and it would wait for more than half of its time.
    Crowded {
        /// When it would be done, from now.
        predicted: Duration,
    },
    /// No replica is up, and one will not be before the deadline. It is started all the same.
    Starting {
        /// When it would be done, from now.
        predicted: Duration,
    },
    /// The deadline had passed when it was offered.
    DeadlinePassed,
    /// The revision's replicas keep dying before they are up; it is not tried again just now.
    Unavailable,
    /// The revision is retired, or was never there.
    Retired,
}

// === impl Staging ===

impl Staging {
    /// Returns the bucket, if it is known before the entry is staged.
    pub(crate) fn bucket(self) -> Option<Bucket> {
        match self {
            Self::Inline(bucket) => Some(bucket),
            Self::Reported => None,
        }
    }
}
