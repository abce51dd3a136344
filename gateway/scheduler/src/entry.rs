//! One admitted entry and where it is.

use std::cmp::Ordering;

use crate::slab::Index;
use crate::timetable::Due;
use crate::{Bucket, Class, Cost, Course, Offer, ReplicaId, RevisionId, Staging, Time};

/// Names an admitted entry until it leaves; names nothing afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub(crate) Index);

/// An entry's place in the order of urgency: by class, then by deadline, then by arrival, which no
/// two share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rank {
    pub(crate) class: Class,
    pub(crate) deadline: Time,
    pub(crate) arrival: u64,
    pub(crate) key: Key,
}

/// Where an entry is. It is at one replica at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In its revision's queue.
    Waiting,
    /// Sent to a replica that has not reported it staged.
    Sent(ReplicaId),
    /// Ready to run at a replica.
    Staged(ReplicaId, Bucket),
    /// Named in a run and not answered, whether or not the slot is free again.
    Running(ReplicaId),
}

/// What an entry that waits or is staged is counted as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    pub(crate) revision: RevisionId,
    pub(crate) class: Class,
    pub(crate) cost: Cost,
    pub(crate) due: Due,
    pub(crate) work: u64,
}

/// One admitted entry.
#[derive(Debug)]
pub(crate) struct Entry<E> {
    pub(crate) value: E,
    pub(crate) revision: RevisionId,
    pub(crate) class: Class,
    pub(crate) deadline: Time,
    pub(crate) arrival: u64,
    pub(crate) cost: Cost,
    pub(crate) staging: Staging,
    pub(crate) place: Place,
    /// Its position in the list of what its replica holds; meaningless while it waits.
    pub(crate) held_at: usize,
    /// A replica died while running it, or twice while preparing it.
    pub(crate) is_suspect: bool,
    /// A replica died while preparing it.
    pub(crate) was_near: bool,
    /// Runs that it was named in; two at most.
    pub(crate) n_runs: u32,
    /// It was staged, and taken away again for the sake of another entry or an idle replica.
    pub(crate) was_taken_back: bool,
    /// The slot time promised to it, in nanoseconds.
    pub(crate) work: u64,
    /// It is run although it is predicted to be late, to learn whether that still holds.
    pub(crate) is_trial: bool,
    pub(crate) course: Course,
}

// === impl Key ===

impl Key {
    /// Returns the key as a number, to go over a wire.
    pub const fn to_bits(self) -> u64 {
        self.0.to_bits()
    }

    /// Returns the key of [`Key::to_bits`]. Any number will do: the scheduler ignores keys that it
    /// did not give out.
    pub const fn from_bits(bits: u64) -> Self {
        Self(Index::from_bits(bits))
    }
}

// === impl Entry ===

impl<E> Entry<E> {
    pub(crate) fn new(
        now: Time,
        revision: RevisionId,
        offer: Offer,
        arrival: u64,
        value: E,
    ) -> Self {
        Self {
            value,
            revision,
            class: offer.class,
            deadline: offer.deadline,
            arrival,
            cost: Cost {
                items: offer.cost.items.max(1),
                ..offer.cost
            },
            staging: offer.staging,
            place: Place::Waiting,
            held_at: 0,
            is_suspect: false,
            was_near: false,
            n_runs: 0,
            was_taken_back: false,
            work: 0,
            is_trial: false,
            course: Course {
                offered: now,
                ..Course::default()
            },
        }
    }

    pub(crate) fn rank(&self, key: Key) -> Rank {
        Rank {
            class: self.class,
            deadline: self.deadline,
            arrival: self.arrival,
            key,
        }
    }

    pub(crate) fn account(&self) -> Account {
        Account {
            revision: self.revision,
            class: self.class,
            cost: self.cost,
            due: (self.deadline, self.arrival),
            work: self.work,
        }
    }

    /// Returns its bucket, if that is known.
    pub(crate) fn bucket(&self) -> Option<Bucket> {
        match self.place {
            Place::Staged(_, bucket) => Some(bucket),
            _ => self.staging.bucket(),
        }
    }

    /// Whether it may be taken from the replica where it is staged. Once only, so that an entry is
    /// prepared at most twice; a suspect stays where it is alone.
    pub(crate) fn is_movable(&self) -> bool {
        !self.was_taken_back && !self.is_suspect
    }
}

// === impl Rank ===

impl Rank {
    /// Returns what no rank of a class is before.
    pub(crate) fn first_of(class: Class) -> Self {
        Self {
            class,
            deadline: Time::default(),
            arrival: 0,
            key: Key::from_bits(0),
        }
    }

    /// Whether it is less urgent than another, whichever came first.
    pub(crate) fn is_less_urgent(&self, other: &Self) -> bool {
        self.order() >> 64 > other.order() >> 64
    }

    /// One number, compared without a branch: the ordered sets spend their time comparing.
    fn order(&self) -> u128 {
        // No deadline is in the later half of 584 years; the class has the highest bit.
        let deadline = self.deadline.as_nanos().min(u64::MAX / 2);
        (self.class as u128) << 127 | u128::from(deadline) << 64 | u128::from(self.arrival)
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Rank {}

// === impl Place ===

impl Place {
    pub(crate) fn replica(self) -> Option<ReplicaId> {
        match self {
            Self::Waiting => None,
            Self::Sent(replica) | Self::Staged(replica, _) | Self::Running(replica) => {
                Some(replica)
            }
        }
    }
}
