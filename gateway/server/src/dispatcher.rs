//! The scheduler in its mutex, the clock, and the hands that carry out its actions.
//!
//! Whoever has an event calls the scheduler directly, under one mutex that is never held across an
//! await: a message to a scheduling task would cost a wake-up of another thread per event. What is
//! for a replica is pushed to its outbox under the mutex, so that a `Forget` never overtakes the
//! `Stage` it means; everything else is done after unlocking.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gateway_scheduler::{
    Action, Bucket, Cost, FailReason, Key, Offer, Refused, RefusedReason, ReplicaCredits,
    ReplicaId, RevisionId, RevisionLimits, Scheduler, Staging, Time,
};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use workers_protocol::wire::{Answer, Credits};
use workers_protocol::{Code, InferError};

use crate::entry::{Entry, Outcome};
use crate::metrics::Metrics;
use crate::revision::Revision;

/// What a replica's outbox holds at most: more than its credits allow to be under way, so a full
/// one belongs to a worker that has stopped reading.
const OUTBOX: usize = 4096;

/// What is to be sent to a replica.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Stage(Key, Arc<Entry>),
    Run(Vec<Key>),
    Forget(Key),
}

/// What a replica is told.
#[derive(Debug)]
pub(crate) struct Orders {
    pub(crate) outgoing: mpsc::Receiver<Outgoing>,
    /// Notified when it is to end. Apart from the outbox, because a worker that hangs reads nothing.
    pub(crate) stop: Arc<Notify>,
}

/// Starts replicas; the dispatcher says which.
pub(crate) trait Launcher: Send + Sync {
    /// Starts a replica, which ends when it is told to stop; whatever becomes of it is reported to
    /// the dispatcher.
    fn launch(
        &self,
        dispatcher: &Arc<Dispatcher>,
        revision: Arc<Revision>,
        replica: ReplicaId,
        orders: Orders,
    );
}

/// See the module's documentation.
pub(crate) struct Dispatcher {
    state: Mutex<State>,
    epoch: Instant,
    timer: Notify,
    launcher: Box<dyn Launcher>,
    pub(crate) metrics: Arc<Metrics>,
    /// How many replicas there are, for a shutdown that waits for the last.
    n_replicas: watch::Sender<usize>,
}

struct State {
    scheduler: Scheduler<Arc<Entry>>,
    revisions: HashMap<RevisionId, Arc<Revision>>,
    replicas: HashMap<ReplicaId, Replica>,
    actions: Vec<Action<Arc<Entry>>>,
    /// When the timer wakes.
    armed: Option<Time>,
    is_closed: bool,
}

struct Replica {
    outbox: mpsc::Sender<Outgoing>,
    stop: Arc<Notify>,
    is_stopping: bool,
    launched: Instant,
    up: Option<Instant>,
}

/// An admitted entry, held by its handler; dropping it cancels.
#[derive(Debug)]
pub(crate) struct Ticket {
    dispatcher: Arc<Dispatcher>,
    key: Key,
    outcome: oneshot::Receiver<Outcome>,
    is_settled: bool,
}

/// Done after unlocking.
enum Effect {
    Launch(Arc<Revision>, ReplicaId, Orders),
    Reply(Arc<Entry>, InferError),
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").finish_non_exhaustive()
    }
}

// === impl Dispatcher ===

impl Dispatcher {
    /// Returns a dispatcher and starts its timer, which ends with it.
    pub(crate) fn start(launcher: Box<dyn Launcher>, metrics: Arc<Metrics>) -> Arc<Self> {
        let dispatcher = Arc::new(Self {
            state: Mutex::new(State {
                scheduler: Scheduler::new(),
                revisions: HashMap::new(),
                replicas: HashMap::new(),
                actions: Vec::new(),
                armed: None,
                is_closed: false,
            }),
            epoch: Instant::now(),
            timer: Notify::new(),
            launcher,
            metrics,
            n_replicas: watch::Sender::new(0),
        });
        let weak = Arc::downgrade(&dispatcher);
        tokio::spawn(async move {
            while let Some(dispatcher) = weak.upgrade() {
                dispatcher.tick().await;
            }
        });
        dispatcher
    }

    /// Sleeps until the scheduler wants to be woken, or the time for that has changed.
    async fn tick(self: &Arc<Self>) {
        /// Ends the timer within this time of the dispatcher's end.
        const LONGEST: Duration = Duration::from_secs(5);
        let armed = self.lock().armed;
        let sleep = armed.map_or(LONGEST, |at| at.saturating_since(self.now()).min(LONGEST));
        if tokio::time::timeout(sleep, self.timer.notified())
            .await
            .is_err()
        {
            self.lock().armed = None;
            self.turn(|scheduler, now| scheduler.advance(now));
        }
    }

    pub(crate) fn add_revision(
        &self,
        limits: RevisionLimits,
        revision: impl FnOnce(RevisionId) -> Arc<Revision>,
    ) -> Arc<Revision> {
        let mut state = self.lock();
        let present: HashSet<RevisionId> = state
            .scheduler
            .snapshot()
            .revisions
            .iter()
            .map(|revision| revision.id)
            .collect();
        state.revisions.retain(|id, _| present.contains(id));
        let id = state.scheduler.add_revision(limits);
        let revision = revision(id);
        state.revisions.insert(id, Arc::clone(&revision));
        revision
    }

    pub(crate) fn retire_revision(self: &Arc<Self>, revision: RevisionId) {
        self.turn(|scheduler, now| scheduler.retire_revision(now, revision));
    }

    /// Offers an entry.
    ///
    /// # Errors
    /// `Overloaded` or `Unavailable` with the time after which trying again may help.
    pub(crate) fn offer(
        self: &Arc<Self>,
        revision: &Revision,
        entry: Arc<Entry>,
        outcome: oneshot::Receiver<Outcome>,
        cost: Cost,
        staging: Staging,
    ) -> Result<Ticket, (InferError, Duration)> {
        let offer = Offer {
            deadline: self.time(entry.deadline.at),
            cost,
            staging,
        };
        let id = revision.id;
        match self.turn(|scheduler, now| scheduler.offer(now, id, offer, entry)) {
            Ok(key) => Ok(Ticket {
                dispatcher: Arc::clone(self),
                key,
                outcome,
                is_settled: false,
            }),
            Err(refused) => Err((refusal(revision, &refused), refused.retry_after)),
        }
    }

    pub(crate) fn staged(self: &Arc<Self>, replica: ReplicaId, key: Key, bucket: Bucket) {
        self.turn(|scheduler, now| scheduler.staged(now, replica, key, bucket));
    }

    pub(crate) fn slots_freed(self: &Arc<Self>, replica: ReplicaId, slots: u32) {
        self.turn(|scheduler, now| {
            for _ in 0..slots {
                scheduler.slot_freed(now, replica);
            }
        });
    }

    pub(crate) fn answered(
        self: &Arc<Self>,
        replica: ReplicaId,
        key: Key,
        result: Result<Answer, InferError>,
    ) {
        let entry = self.turn(|scheduler, now| scheduler.answered(now, replica, key));
        if let Some(entry) = entry {
            let up = self
                .lock()
                .replicas
                .get(&replica)
                .and_then(|replica| replica.up);
            let cold = up.map_or(Duration::ZERO, |up| {
                up.saturating_duration_since(entry.offered)
            });
            entry.reply(result, cold);
        }
    }

    pub(crate) fn replica_up(self: &Arc<Self>, replica: ReplicaId, credits: Credits) {
        if let Some(replica) = self.lock().replicas.get_mut(&replica) {
            replica.up = Some(Instant::now());
            self.metrics
                .cold_start_seconds
                .observe(replica.launched.elapsed().as_secs_f64());
        }
        let credits = ReplicaCredits {
            slots: credits.slots,
            // No more than the outbox holds beside runs and what is forgotten.
            stage_entries: credits.stage_entries.min(OUTBOX as u32 / 4),
            stage_bytes: credits.stage_bytes,
            stage_pixels: credits.stage_pixels,
        };
        self.turn(|scheduler, now| scheduler.replica_up(now, replica, credits));
    }

    pub(crate) fn replica_down(self: &Arc<Self>, replica: ReplicaId) {
        self.turn(|scheduler, now| scheduler.replica_down(now, replica));
        // Counted under the mutex, so that of two that end at once the last has the last word.
        let mut state = self.lock();
        state.replicas.remove(&replica);
        self.n_replicas.send_replace(state.replicas.len());
    }

    /// Returns all metrics.
    pub(crate) fn expose(&self, bytes_in_flight: u64) -> String {
        let (snapshot, revisions) = {
            let state = self.lock();
            (state.scheduler.snapshot(), state.revisions.clone())
        };
        let name_of = |id| {
            let revision: &Arc<Revision> = revisions.get(&id)?;
            Some((revision.name.to_string(), revision.version.to_string()))
        };
        self.metrics.expose(&snapshot, name_of, bytes_in_flight)
    }

    /// Stops all replicas, and waits until the last has ended. New ones are not started any more.
    pub(crate) async fn close(&self) {
        {
            let mut state = self.lock();
            state.is_closed = true;
            for replica in state.replicas.values_mut() {
                replica.stop.notify_one();
            }
            self.n_replicas.send_replace(state.replicas.len());
        }
        let mut n_replicas = self.n_replicas.subscribe();
        // The sender lives in `self`: this can't fail.
        let _ = n_replicas.wait_for(|&n_replicas| n_replicas == 0).await;
    }

    /// Runs one event through the scheduler and carries out what it asks for.
    fn turn<T>(self: &Arc<Self>, event: impl FnOnce(&mut Scheduler<Arc<Entry>>, Time) -> T) -> T {
        let now = self.now();
        let mut state = self.lock();
        let result = event(&mut state.scheduler, now);
        let mut actions = std::mem::take(&mut state.actions);
        state.scheduler.drain_actions(&mut actions);
        let effects: Vec<Effect> = actions
            .drain(..)
            .filter_map(|action| state.carry_out(action))
            .collect();
        state.actions = actions;
        let wake = state.scheduler.next_wake();
        let is_earlier = wake.is_some_and(|wake| state.armed.is_none_or(|armed| wake < armed));
        if is_earlier {
            state.armed = wake;
        }
        drop(state);
        if is_earlier {
            self.timer.notify_one();
        }
        for effect in effects {
            match effect {
                Effect::Launch(revision, replica, orders) => {
                    self.launcher.launch(self, revision, replica, orders);
                }
                Effect::Reply(entry, error) => entry.reply(Err(error), Duration::ZERO),
            }
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Time {
        self.time(Instant::now())
    }

    fn time(&self, instant: Instant) -> Time {
        let nanos = instant.saturating_duration_since(self.epoch).as_nanos();
        Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

// === impl State ===

impl State {
    fn carry_out(&mut self, action: Action<Arc<Entry>>) -> Option<Effect> {
        match action {
            Action::Launch { revision, replica } => return self.launch(revision, replica),
            Action::Stage {
                replica,
                key,
                entry,
            } => self.send(replica, Outgoing::Stage(key, entry)),
            Action::Run { replica, batch } => self.send(replica, Outgoing::Run(batch)),
            Action::Forget { replica, key } => self.send(replica, Outgoing::Forget(key)),
            // The replica still reports its end, which the scheduler ignores.
            Action::Stop { replica } => {
                if let Some(replica) = self.replicas.get(&replica) {
                    replica.stop.notify_one();
                }
            }
            Action::Expire { entry, .. } => {
                let ms = entry.deadline.after.as_millis();
                let message = format!("the deadline of {ms} ms passed");
                return Some(Effect::Reply(
                    entry,
                    InferError::new(Code::DeadlineExceeded, message),
                ));
            }
            Action::Fail { entry, why, .. } => return Some(Effect::Reply(entry, failure(why))),
        }
        None
    }

    fn launch(&mut self, revision: RevisionId, replica: ReplicaId) -> Option<Effect> {
        let revision = self.revisions.get(&revision).filter(|_| !self.is_closed)?;
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        let stop = Arc::new(Notify::new());
        self.replicas.insert(
            replica,
            Replica {
                outbox,
                stop: Arc::clone(&stop),
                is_stopping: false,
                launched: Instant::now(),
                up: None,
            },
        );
        let orders = Orders { outgoing, stop };
        Some(Effect::Launch(Arc::clone(revision), replica, orders))
    }

    fn send(&mut self, replica: ReplicaId, outgoing: Outgoing) {
        let Some(replica) = self.replicas.get_mut(&replica) else {
            return;
        };
        let is_full = matches!(
            replica.outbox.try_send(outgoing),
            Err(mpsc::error::TrySendError::Full(_))
        );
        if is_full && !replica.is_stopping {
            // A worker that does not read what its own credits allow hangs; its entries are retried.
            tracing::error!("a worker does not read its wire; ending it");
            replica.is_stopping = true;
            replica.stop.notify_one();
        }
    }
}

fn refusal(revision: &Revision, refused: &Refused<Arc<Entry>>) -> InferError {
    match refused.reason {
        RefusedReason::QueueFull => InferError::new(
            Code::Overloaded,
            format!("the queue of model `{}` is full", revision.name),
        ),
        RefusedReason::DeadlinePassed => {
            InferError::new(Code::DeadlineExceeded, "the deadline had passed on arrival")
        }
        RefusedReason::Unavailable => InferError::new(
            Code::Unavailable,
            format!(
                "model `{}` can't be started: its worker ends before it is ready; the log says why",
                revision.name
            ),
        ),
        RefusedReason::Retired => InferError::new(
            Code::Unavailable,
            format!("this version of model `{}` is going away", revision.name),
        ),
    }
}

fn failure(why: FailReason) -> InferError {
    match why {
        FailReason::Poisoned => {
            InferError::internal("the worker died twice with this request; it is not tried again")
        }
        FailReason::StartFailed => InferError::new(
            Code::Unavailable,
            "the model's worker ends before it is ready; the log says why",
        ),
    }
}

// === impl Ticket ===

impl Ticket {
    /// Waits for the outcome. Cancel-safe: dropping the future or the ticket cancels the entry.
    pub(crate) async fn outcome(mut self) -> Outcome {
        let outcome = (&mut self.outcome).await;
        self.is_settled = true;
        outcome.unwrap_or_else(|_| Outcome {
            result: Err(InferError::internal("the request was lost")),
            cold: Duration::ZERO,
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_settled {
            let key = self.key;
            self.dispatcher
                .turn(|scheduler, now| scheduler.cancel(now, key));
        }
    }
}
