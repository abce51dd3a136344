//! What several revisions share: cores (or a GPU's streams) and memory.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::ReplicaId;
use crate::entry::Rank;
use crate::slab::Index;

/// Names a device for as long as the scheduler lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DeviceId(pub(crate) Index);

/// What a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Runs that it does at once, counted in cores (or streams). 0 counts as 1. A run that needs
    /// more than there are goes when nothing else runs.
    pub cores: u32,
    /// Bytes that loaded models may take together.
    pub memory_bytes: u64,
}

/// A device and what is on it.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) limits: DeviceLimits,
    /// Cores taken by runs.
    pub(crate) busy: u32,
    /// Bytes taken by replicas, starting or up.
    pub(crate) reserved: u128,
    /// Replicas that have a free slot and something staged, and no core: by their most urgent entry,
    /// so that the cores too go to the earliest deadline.
    pub(crate) blocked: BTreeSet<(Rank, ReplicaId)>,
    /// Core-nanoseconds of all work promised on it.
    pub(crate) work: u128,
}

// === impl Device ===

impl Device {
    pub(crate) fn new(limits: DeviceLimits) -> Self {
        Self {
            limits,
            busy: 0,
            reserved: 0,
            blocked: BTreeSet::new(),
            work: 0,
        }
    }

    pub(crate) fn has_cores(&self, cores: u32) -> bool {
        self.busy == 0 || self.busy.saturating_add(cores) <= self.limits.cores.max(1)
    }

    /// Whether a replica with something of this rank to run, of so many cores, has to wait: for cores,
    /// or because something more urgent waits for more of them, which would starve otherwise.
    pub(crate) fn is_busy_for(&self, id: ReplicaId, rank: Rank, cores: u32) -> bool {
        let is_overtaking = self
            .blocked
            .first()
            .is_some_and(|(first, other)| *first < rank && *other != id);
        is_overtaking || !self.has_cores(cores)
    }

    /// Whether there is room for so many bytes more. What takes nothing always has it, though the
    /// others may have been found to take more than there is.
    pub(crate) fn has_memory(&self, bytes: u64) -> bool {
        bytes == 0 || self.reserved + u128::from(bytes) <= u128::from(self.limits.memory_bytes)
    }
}
