//! What one replica holds and does not run.

use crate::entry::Rank;
use crate::sorted::Sorted;
use crate::{Bucket, Class, Cost, ReplicaCredits};

/// A sum of costs. Wide enough that no number of hostile costs overflows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) entries: usize,
    pub(crate) items: u64,
    pub(crate) bytes: u128,
    pub(crate) pixels: u128,
}

/// The entries sent to a replica and not run, and those of them that are ready, in order.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    /// Of everything sent and not run.
    load: Load,
    /// The ready ones that may be taken back, and those that may not: every ready one is in one of
    /// the two.
    movable: Sorted<Rank>,
    fixed: Sorted<Rank>,
    /// All that are ready.
    by_bucket: Sorted<(Bucket, Rank)>,
}

// === impl Load ===

impl Load {
    pub(crate) fn add(&mut self, cost: Cost) {
        self.entries += 1;
        self.items += u64::from(cost.items.max(1));
        self.bytes += u128::from(cost.bytes);
        self.pixels += u128::from(cost.pixels);
    }

    pub(crate) fn subtract(&mut self, cost: Cost) {
        self.entries -= 1;
        self.items -= u64::from(cost.items.max(1));
        self.bytes -= u128::from(cost.bytes);
        self.pixels -= u128::from(cost.pixels);
    }

    /// Whether one more entry keeps within the credits. The first always does: an entry larger than
    /// all the credits is staged when nothing else is, or it would wait for ever.
    fn has_room(mut self, cost: Cost, credits: ReplicaCredits) -> bool {
        if self.entries == 0 {
            return true;
        }
        self.add(cost);
        self.entries <= credits.stage_entries as usize
            && self.bytes <= u128::from(credits.stage_bytes)
            && self.pixels <= u128::from(credits.stage_pixels)
    }
}

// === impl Stage ===

impl Stage {
    #[cfg(debug_assertions)]
    pub(crate) fn load(&self) -> &Load {
        &self.load
    }

    pub(crate) fn n_entries(&self) -> usize {
        self.load.entries
    }

    pub(crate) fn n_ready(&self) -> usize {
        self.by_bucket.len()
    }

    pub(crate) fn n_movable(&self) -> usize {
        self.movable.len()
    }

    pub(crate) fn has_room(&self, cost: Cost, credits: ReplicaCredits) -> bool {
        self.load.has_room(cost, credits)
    }

    /// Returns whether there is room once an entry of cost `without` has left.
    pub(crate) fn has_room_without(
        &self,
        without: Cost,
        cost: Cost,
        credits: ReplicaCredits,
    ) -> bool {
        let mut load = self.load;
        load.subtract(without);
        load.has_room(cost, credits)
    }

    /// Takes up room for an entry that is sent.
    pub(crate) fn reserve(&mut self, cost: Cost) {
        self.load.add(cost);
    }

    /// Gives back the room of an entry that runs or leaves.
    pub(crate) fn release(&mut self, cost: Cost) {
        self.load.subtract(cost);
    }

    /// Makes an entry that was sent ready.
    pub(crate) fn insert(&mut self, rank: Rank, bucket: Bucket, is_movable: bool) {
        self.order(is_movable).insert(rank);
        self.by_bucket.insert((bucket, rank));
    }

    /// Undoes [`Stage::insert`]; the entry keeps its room.
    pub(crate) fn remove(&mut self, rank: Rank, bucket: Bucket, is_movable: bool) {
        self.order(is_movable).remove(rank);
        self.by_bucket.remove((bucket, rank));
    }

    fn order(&mut self, is_movable: bool) -> &mut Sorted<Rank> {
        if is_movable {
            &mut self.movable
        } else {
            &mut self.fixed
        }
    }

    /// Returns the most urgent of the ready.
    pub(crate) fn first(&self) -> Option<Rank> {
        match (self.movable.first(), self.fixed.first()) {
            (Some(movable), Some(fixed)) => Some(movable.min(fixed)),
            (movable, fixed) => movable.or(fixed),
        }
    }

    /// Returns the most urgent bulk entry of the ready.
    pub(crate) fn first_bulk(&self) -> Option<Rank> {
        let from = Rank::first_of(Class::Bulk);
        let movable = self.movable.from(from).next();
        let fixed = self.fixed.from(from).next();
        movable.into_iter().chain(fixed).min()
    }

    /// Returns the ready ones of a bucket from `first` on, by urgency.
    pub(crate) fn of_bucket(&self, bucket: Bucket, first: Rank) -> impl Iterator<Item = Rank> {
        self.by_bucket
            .from((bucket, first))
            .take_while(move |(of, _)| *of == bucket)
            .map(|(_, rank)| rank)
    }

    /// Returns the most urgent of those that may be taken back.
    pub(crate) fn first_movable(&self) -> Option<Rank> {
        self.movable.first()
    }

    /// Returns the least urgent of those that may be taken back.
    pub(crate) fn last_movable(&self) -> Option<Rank> {
        self.movable.last()
    }
}
