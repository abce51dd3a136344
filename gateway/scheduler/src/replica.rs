//! One replica, as the scheduler sees it.

use std::collections::VecDeque;

use crate::slab::Index;
use crate::stage::Stage;
use crate::{Cost, Key, RevisionId, Staging, Time};

/// Names a replica until it is down or stopped; its replacement has another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub(crate) Index);

/// What a replica can take, as it says when it comes up.
///
/// Stage credits bound what it holds and does not run; an entry larger than all of them is staged
/// when nothing else is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaCredits {
    /// Batches that it runs at once; 0 counts as 1. Too few leave the device idle between batches,
    /// too many make batches small.
    pub slots: u32,
    /// Most entries staged; 0 counts as 1. Too few make batches small, too many waste preparation
    /// on entries that something more urgent overtakes.
    pub stage_entries: u32,
    /// Most bytes staged, as sent.
    pub stage_bytes: u64,
    /// Most pixels staged, as decoded.
    pub stage_pixels: u64,
}

/// A replica that was launched and has not gone.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) revision: RevisionId,
    /// `None` until it is up.
    pub(crate) up: Option<Up>,
    /// Everything sent to it that is neither answered nor taken back.
    pub(crate) held: Vec<Key>,
    /// The part of it that does not run.
    pub(crate) stage: Stage,
    /// Runs whose slot is not free again, in order.
    pub(crate) runs: VecDeque<Run>,
    /// What was sent to it last is a suspect. Nothing else is sent before it holds nothing.
    pub(crate) has_suspect: bool,
}

/// What is known of a replica since it came up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Up {
    pub(crate) since: Time,
    pub(crate) credits: ReplicaCredits,
    /// When a slot was last taken or freed.
    pub(crate) used: Time,
    /// It was sent an entry once.
    pub(crate) had_work: bool,
}

/// A batch in a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) started: Time,
    pub(crate) n_entries: u32,
}

// === impl Replica ===

impl Replica {
    pub(crate) fn new(revision: RevisionId) -> Self {
        Self {
            revision,
            up: None,
            held: Vec::new(),
            stage: Stage::default(),
            runs: VecDeque::new(),
            has_suspect: false,
        }
    }

    pub(crate) fn n_free_slots(&self) -> usize {
        self.up.map_or(0, |up| {
            (up.credits.slots as usize).saturating_sub(self.runs.len())
        })
    }

    /// Whether nothing is staged, runs, or is being post-processed.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.runs.is_empty()
    }

    /// Returns what is known of it since it came up, if it may be sent anything now.
    pub(crate) fn open(&self) -> Option<&Up> {
        self.up
            .as_ref()
            .filter(|_| !self.has_suspect || self.is_empty())
    }

    pub(crate) fn has_room(&self, cost: Cost) -> bool {
        self.open()
            .is_some_and(|up| self.stage.has_room(cost, up.credits))
    }

    /// Orders replicas by how much they should be sent the next entry: first those with a free slot
    /// for it, of these the one used last, whose caches are warm; then by room. Entries being
    /// prepared have a claim to a slot only before those that have to be prepared too.
    pub(crate) fn attraction(&self, staging: Staging) -> (Option<Time>, usize) {
        let n_before = match staging {
            Staging::Inline(_) => self.stage.n_ready(),
            Staging::Reported => self.stage.n_entries(),
        };
        let up = self.up.as_ref();
        let has_slot = self.n_free_slots() > n_before;
        let used = up.filter(|_| has_slot).map(|up| up.used);
        let room = up.map_or(0, |up| up.credits.stage_entries as usize);
        (used, room.saturating_sub(self.stage.n_entries()))
    }

    /// Returns whether a slot waits for an entry and none is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.n_free_slots() > 0 && self.stage.n_entries() == 0
    }
}
