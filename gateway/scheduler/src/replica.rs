//! One replica, as the scheduler sees it.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

use crate::entry::Rank;
use crate::slab::Index;
use crate::stage::Stage;
use crate::{Bucket, Class, Cost, Key, RevisionId, Time};

/// What a message takes to the worker and back: a run may be named so long before a slot is predicted
/// to be free. Earlier, and something more urgent could still come.
const ROUND_TRIP: Duration = Duration::from_micros(150);

/// Of runs as short as this several are named ahead, and so long before: nothing more urgent waits
/// longer for them, and what tells of the end of one run comes too late to name the next.
const SHORT_RUN: Duration = Duration::from_millis(4);

/// How long before at most, where messages are measured to take longer still: a gateway of which that
/// is true has another trouble.
const MAX_ROUND_TRIP: Duration = Duration::from_millis(50);

/// Runs named beyond the slots at most. Workers have room for as many (`MAX_NAMED_AHEAD` there).
const MAX_NAMED_AHEAD: usize = 16;

/// Names a replica until it is down or stopped; its replacement has another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ReplicaId(pub(crate) Index);

/// What a replica can take, as it says when it comes up.
///
/// Stage credits bound what it holds and does not run; an entry larger than all of them is staged
/// when nothing else is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReplicaCredits {
    /// Batches that it runs at once; 0 counts as 1. Too few leave the device idle between batches,
    /// too many make batches small.
    pub slots: u32,
    /// Cores of its device that a run takes; 0 counts as 1.
    pub cores: u32,
    /// Most entries staged; 0 counts as 1. Too few make batches small, too many waste preparation
    /// on entries that something more urgent overtakes.
    pub stage_entries: u32,
    /// Most bytes staged, as sent.
    pub stage_bytes: u64,
    /// Most pixels staged, as decoded.
    pub stage_pixels: u64,
}

/// What is known of why a replica is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Nothing: what it was doing may be to blame.
    Unexplained,
    /// Somebody killed it, whatever it was doing.
    FromOutside,
}

/// A replica that was launched and has not gone.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) revision: RevisionId,
    pub(crate) launched: Time,
    /// Bytes reserved for it on its device.
    pub(crate) memory: u64,
    /// `None` until it is up.
    pub(crate) up: Option<Up>,
    /// Everything sent to it that is neither answered nor taken back.
    pub(crate) held: Vec<Key>,
    /// The part of it that does not run.
    pub(crate) stage: Stage,
    /// Interactive entries that it prepares.
    pub(crate) n_awaited: usize,
    /// Runs whose slot is not free again, in order: as many as there are slots are at work, the
    /// rest is named ahead.
    pub(crate) runs: VecDeque<Run>,
    /// What was sent to it last is a suspect. Nothing else is sent before it holds nothing.
    pub(crate) has_suspect: bool,
    /// It is sent nothing more, and ends when it holds nothing.
    pub(crate) is_draining: bool,
    /// It hangs, and has been ended.
    pub(crate) is_killed: bool,
    /// A timer looks after what it holds.
    pub(crate) is_watched: bool,
    /// When it last said something, or came to owe a word.
    pub(crate) heard: Time,
    /// Its place among those that wait for cores of their device.
    pub(crate) blocked: Option<Rank>,
    /// How it stands in its revision's [`Fleet`](crate::fleet::Fleet).
    pub(crate) standing: Standing,
}

/// What is known of a replica since it came up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Up {
    pub(crate) since: Time,
    pub(crate) credits: ReplicaCredits,
    /// When a slot was last taken or freed.
    pub(crate) used: Time,
}

/// A batch in a slot, or named for the next free one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Its first entry.
    pub(crate) name: Key,
    pub(crate) bucket: Bucket,
    pub(crate) class: Class,
    pub(crate) items: u32,
    pub(crate) named: Time,
    /// When it was named, or the run before it ended if that was later.
    pub(crate) began: Time,
    /// How long it is predicted to take; zero while nothing is known.
    pub(crate) predicted: Duration,
    /// Of that, how long the engine works; all of it where that is not known.
    pub(crate) engine: Duration,
    /// What the engine had to do before it when it was named.
    pub(crate) queued: Duration,
    /// How long the engine worked, once that is known.
    pub(crate) worked: Duration,
    /// When it is predicted to end.
    pub(crate) ends: Time,
}

/// By what a replica is found: see [`Fleet`](crate::fleet::Fleet).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Greater where the next entry should rather go; `None` where none can.
    pub(crate) attraction: Option<u128>,
    /// How many entries may be taken back from it, and the least urgent of them.
    pub(crate) movable: Option<(usize, Rank)>,
}

// === impl Replica ===

impl Replica {
    pub(crate) fn new(revision: RevisionId, launched: Time, memory: u64) -> Self {
        Self {
            revision,
            launched,
            memory,
            up: None,
            held: Vec::new(),
            stage: Stage::default(),
            n_awaited: 0,
            runs: VecDeque::new(),
            has_suspect: false,
            is_draining: false,
            is_killed: false,
            is_watched: false,
            heard: launched,
            blocked: None,
            standing: Standing::default(),
        }
    }

    pub(crate) fn n_slots(&self) -> usize {
        self.up.map_or(0, |up| up.credits.slots as usize)
    }

    /// Cores that one run takes.
    pub(crate) fn cores(&self) -> u32 {
        self.up.map_or(1, |up| up.credits.cores.max(1))
    }

    pub(crate) fn n_free_slots(&self) -> usize {
        self.n_slots().saturating_sub(self.runs.len())
    }

    /// Whether interactive entries that it prepares have a claim to every slot that is free.
    pub(crate) fn owes_its_slots(&self) -> bool {
        self.n_awaited > 0 && self.n_awaited >= self.n_free_slots()
    }

    /// Runs that are at work, as opposed to named ahead.
    pub(crate) fn n_at_work(&self) -> usize {
        self.runs.len().min(self.n_slots())
    }

    /// Whether a run may be named although no slot is free: while the worker is predicted to be
    /// through with all that was named before a message could go to it and back, or soon. Under load
    /// the one is many times what a short run takes, and naming one at a time would leave the worker
    /// idle. Of a run that takes longer than it could nothing is known any more.
    pub(crate) fn may_name_ahead(&self, now: Time, round_trip: Option<Duration>) -> bool {
        let n_slots = self.n_slots();
        if self.runs.len() < n_slots || self.runs.len() >= n_slots + MAX_NAMED_AHEAD {
            return false;
        }
        // Long runs vary by more than a message takes, and what they vary by would pass for it.
        let lead = if self.runs.iter().all(|run| run.engine <= SHORT_RUN) {
            let round_trip = round_trip.unwrap_or_default();
            round_trip.clamp(SHORT_RUN, MAX_ROUND_TRIP)
        } else if self.runs.len() > n_slots {
            return false;
        } else {
            ROUND_TRIP
        };
        let mut queued = Duration::ZERO;
        for (place, run) in self.runs.iter().enumerate() {
            let worked = match place < n_slots {
                true => now.saturating_since(run.began),
                false => Duration::ZERO,
            };
            if run.engine.is_zero() || worked > run.engine + 2 * lead {
                return false;
            }
            queued += run.engine.saturating_sub(worked);
        }
        queued <= lead * n_slots as u32
    }

    /// Returns how many items of a kind are named for slots that are not free yet.
    pub(crate) fn n_ahead(&self, bucket: Bucket, class: Class) -> u32 {
        let ahead = self.runs.iter().skip(self.n_slots());
        let alike = ahead.filter(|run| (run.bucket, run.class) == (bucket, class));
        alike.fold(0, |sum, run| sum.saturating_add(run.items))
    }

    /// Returns what the engine is predicted to take for all that was named, over the slots.
    pub(crate) fn queued(&self) -> Duration {
        let engine: Duration = self.runs.iter().map(|run| run.engine).sum();
        engine / self.n_slots().max(1) as u32
    }

    /// Whether nothing is staged, runs, or is being post-processed.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.runs.is_empty()
    }

    /// Returns what is known of it since it came up, if it may be sent anything now.
    pub(crate) fn open(&self) -> Option<&Up> {
        let is_closed = self.is_draining || self.is_killed;
        self.up
            .as_ref()
            .filter(|_| !is_closed && (!self.has_suspect || self.is_empty()))
    }

    /// Whether an entry may be sent. Bulk takes at most half of the room, so that interactive work
    /// always finds some, and has no more prepared at a time than there are cores, so that interactive
    /// work does not wait for it there.
    pub(crate) fn has_room(&self, cost: Cost, class: Class) -> bool {
        self.open().is_some_and(|up| {
            let credits = match class {
                Class::Interactive => up.credits,
                Class::Bulk => ReplicaCredits {
                    stage_entries: up.credits.stage_entries.div_ceil(2),
                    ..up.credits
                },
            };
            let n_preparing = self.stage.n_entries() - self.stage.n_ready();
            let is_kept_back = class == Class::Bulk
                && n_preparing >= up.credits.slots.max(1) as usize * self.cores() as usize;
            !is_kept_back && self.stage.has_room(cost, credits)
        })
    }

    /// Returns how it stands now. The most attractive are those with a free slot for the next entry,
    /// of these the one used last, whose caches are warm; then those with most room. Entries being
    /// prepared have a claim to a slot.
    pub(crate) fn stand(&self) -> Standing {
        let n_staged = self.stage.n_entries();
        let attraction = self.open().and_then(|up| {
            let has_slot = self.n_free_slots() > n_staged;
            let used = if has_slot {
                up.used.as_nanos().saturating_add(1)
            } else {
                0
            };
            let room = (up.credits.stage_entries as usize).saturating_sub(n_staged);
            (room > 0 || n_staged == 0).then_some(u128::from(used) << 32 | room as u128)
        });
        let movable = self
            .open()
            .and_then(|_| self.stage.last_movable())
            .map(|last| (self.stage.n_movable(), last));
        Standing {
            attraction,
            movable,
        }
    }

    /// Returns whether a slot is free beyond what is staged.
    pub(crate) fn has_spare_slot(&self) -> bool {
        self.n_free_slots() > self.stage.n_entries()
    }

    /// Whether it owes a word: it prepares something, or post-processes with no run under way.
    pub(crate) fn owes_word(&self) -> bool {
        let n_staged = self.stage.n_entries();
        n_staged > self.stage.n_ready() || self.runs.is_empty() && self.held.len() > n_staged
    }
}
