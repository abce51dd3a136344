//! The replicas of one revision, found by what they have: logarithmic in their number.

use std::collections::BTreeSet;

use crate::ReplicaId;
use crate::entry::Rank;
use crate::replica::Standing;

/// How many replicas are tried for an entry that is too large for the most attractive ones.
const TRIES: usize = 8;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    /// The oldest first.
    pub(crate) ids: Vec<ReplicaId>,
    by_attraction: BTreeSet<(u128, ReplicaId)>,
    by_movables: BTreeSet<(usize, ReplicaId)>,
    by_last_movable: BTreeSet<(Rank, ReplicaId)>,
}

// === impl Fleet ===

impl Fleet {
    /// Notes that a replica stands otherwise than before.
    pub(crate) fn note(&mut self, id: ReplicaId, before: Standing, now: Standing) {
        if before.attraction != now.attraction {
            if let Some(attraction) = before.attraction {
                self.by_attraction.remove(&(attraction, id));
            }
            if let Some(attraction) = now.attraction {
                self.by_attraction.insert((attraction, id));
            }
        }
        // With one replica nothing is shared, but room may still have to be made.
        if before.movable != now.movable {
            if let Some((n, last)) = before.movable {
                self.by_movables.remove(&(n, id));
                self.by_last_movable.remove(&(last, id));
            }
            if let Some((n, last)) = now.movable {
                self.by_movables.insert((n, id));
                self.by_last_movable.insert((last, id));
            }
        }
    }

    /// Returns the replicas that the next entry should be tried at, the most attractive first.
    pub(crate) fn attractive(&self) -> impl Iterator<Item = ReplicaId> {
        self.by_attraction
            .iter()
            .rev()
            .map(|(_, id)| *id)
            .take(TRIES)
    }

    /// Returns the replica with most entries that may be taken back.
    pub(crate) fn richest(&self) -> Option<ReplicaId> {
        self.by_movables.last().map(|(_, id)| *id)
    }

    /// Returns the least urgent entries that may be taken back, of the replicas where they are.
    pub(crate) fn least_urgent(&self) -> impl Iterator<Item = (Rank, ReplicaId)> {
        self.by_last_movable.iter().rev().copied().take(TRIES)
    }
}
