//! Scheduling without I/O: which entry goes to which replica, when, and in which batch.
//!
//! [`Scheduler`] is a state machine. Events go in as method calls that carry the time; what is to
//! be done comes out as [`Action`]s. It has no clock, socket, thread or randomness, so the same
//! events always give the same actions, and a test or a simulation is a caller like any other.
//!
//! # An entry's life
//! ```text
//! offer ─► waiting ─Stage─► sent ─staged()─► staged ─Run─► running ─answered()─► gone
//!             ▲               │                │             │
//!             └───────────────┴── back, when its replica died, or something more urgent came
//! ```
//! An inline entry is staged the moment it is sent. From anywhere, an entry can leave by
//! [`Scheduler::cancel`], [`Action::Expire`] or [`Action::Fail`]. Every admitted entry leaves
//! exactly once.
//!
//! # Policies, and where they are written
//! - admission and its bounds, `Retry-After`, backoff: `revision.rs`, `timetable.rs`
//! - how long a batch takes, and the best size: `curve.rs`
//! - what is staged where, what runs together, cores: `scheduler/dispatch.rs`
//! - bulk: `scheduler/bulk.rs`
//! - launching, crashes, suspects: `scheduler/launch.rs`
//! - how many replicas, memory: `scheduler/scale.rs`, `demand.rs`
//! - replicas that hang: `scheduler/watch.rs`
//! - stage credits: `stage.rs`
//!
//! # The caller's side
//! All calls are made under one mutex, and the actions are carried out after unlocking. So that
//! this is right:
//! - **Actions that name one replica have to reach it in the order in which they were drained**,
//!   also across calls: drain under the mutex, push to the replica's outbox there too, and write
//!   after unlocking. Otherwise a `Forget` could overtake the `Stage` it means.
//! - An entry is at one replica at a time, and in one run at a time. A `Run` names only keys whose
//!   `Stage` came before it; unless inline, it comes after their [`Scheduler::staged`].
//! - Only entries that are staged are taken back, so no `staged` can be on its way for an entry
//!   that is forgotten and staged again under the same key at the same replica.
//! - Events may come late, twice, or for things long gone, from any worker: an event that does not
//!   fit the state is ignored. A worker can harm nothing but the entries that it holds.
//! - Times may go backwards between calls, as they do when threads read the clock before they take
//!   the mutex: the latest one seen counts.

mod action;
mod curve;
mod demand;
mod device;
mod entry;
mod fleet;
mod offer;
mod replica;
mod revision;
mod scheduler;
mod slab;
mod snapshot;
mod sorted;
mod stage;
mod time;
mod timetable;

pub use action::{Action, Answered, BatchLimit, Course, FailReason};
pub use device::{DeviceId, DeviceLimits};
pub use entry::Key;
pub use offer::{Bucket, Class, Cost, Offer, Refused, RefusedReason, Staging};
pub use replica::{Death, ReplicaCredits, ReplicaId};
pub use revision::{RevisionId, RevisionLimits};
pub use scheduler::Scheduler;
pub use snapshot::{
    Counters, CurvePoint, CurveSnapshot, DeviceSnapshot, RefusedCounters, ReplicaSnapshot,
    RevisionSnapshot, Snapshot,
};
pub use time::Time;
