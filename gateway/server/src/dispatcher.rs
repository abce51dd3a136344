//! The scheduler in its mutex, the clock, and the hands that carry out its actions.
//!
//! Whoever has an event calls the scheduler directly, under one mutex that is never held across an
//! await: a message to a scheduling task would cost a wake-up of another thread per event. What is
//! for a replica is pushed to its outbox under the mutex, so that a `Forget` never overtakes the
//! `Stage` it means; everything else is done after unlocking.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use gateway_scheduler::{
    Action, Bucket, Class, Death, DeviceId, DeviceLimits, FailReason, Key, Offer, RefusedReason,
    ReplicaCredits, ReplicaId, RevisionId, RevisionLimits, RevisionSnapshot, Scheduler, Snapshot,
    Time,
};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use workers_protocol::wire::{Answer, Credits};
use workers_protocol::{Code, InferError};

use crate::entry::{Deadline, Entry, Outcome};
use crate::metrics::{Metrics, Named};
use crate::revision::Revision;

/// What a replica's outbox holds at most: more than its credits allow to be under way, so a full
/// one belongs to a worker that has stopped reading.
const OUTBOX: usize = 4096;

/// What is to be sent to a replica.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Stage(Key, Class, Arc<Entry>),
    Run(Vec<Key>),
    Forget(Key),
}

/// What a replica is told.
#[derive(Debug)]
pub(crate) struct Orders {
    pub(crate) outgoing: mpsc::Receiver<Outgoing>,
    pub(crate) stop: Arc<Stop>,
}

/// Tells a replica to end. Apart from the outbox, because a worker that hangs reads nothing.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    asked: Notify,
    is_hung: AtomicBool,
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
    /// The processor and the memory of this machine, which all workers share.
    device: DeviceId,
    device_limits: DeviceLimits,
    launcher: Box<dyn Launcher>,
    pub(crate) metrics: Arc<Metrics>,
    /// How many replicas there are, for a shutdown that waits for the last.
    n_replicas: watch::Sender<usize>,
}

struct State {
    scheduler: Scheduler<Arc<Entry>>,
    revisions: HashMap<RevisionId, Arc<Revision>>,
    replicas: HashMap<ReplicaId, Replica>,
    /// Bulk entries that were not asked for yet, the oldest first. Their bytes are bounded with all
    /// others, and nothing else of them grows.
    bulk: HashMap<RevisionId, VecDeque<Arc<Parked>>>,
    actions: Vec<Action<Arc<Entry>>>,
    /// When the timer wakes.
    armed: Option<Time>,
    is_closed: bool,
}

struct Replica {
    outbox: mpsc::Sender<Outgoing>,
    stop: Arc<Stop>,
    is_stopping: bool,
    launched: Instant,
    up: Option<Instant>,
}

/// An admitted entry, held by its handler; dropping it cancels.
#[derive(Debug)]
pub(crate) struct Ticket {
    dispatcher: Arc<Dispatcher>,
    place: Place,
    deadline: Deadline,
    outcome: oneshot::Receiver<Outcome>,
    is_settled: bool,
}

/// Where a ticket's entry is.
#[derive(Debug)]
enum Place {
    Admitted(Key),
    Parked(Arc<Parked>),
}

/// A bulk entry that waits to be asked for.
#[derive(Debug)]
struct Parked {
    revision: Arc<Revision>,
    offer: Offer,
    entry: Arc<Entry>,
    /// Its name once it was asked for.
    key: OnceLock<Key>,
}

/// Done after unlocking.
enum Effect {
    Launch(Arc<Revision>, ReplicaId, Orders),
    Reply(Arc<Entry>, InferError),
    Note(Arc<Entry>),
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").finish_non_exhaustive()
    }
}

// === impl Dispatcher ===

impl Dispatcher {
    /// Returns a dispatcher and starts its timer, which ends with it.
    pub(crate) fn start(
        launcher: Box<dyn Launcher>,
        metrics: Arc<Metrics>,
        device_limits: DeviceLimits,
    ) -> Arc<Self> {
        let mut scheduler = Scheduler::new();
        let device = scheduler.add_device(device_limits);
        let dispatcher = Arc::new(Self {
            device,
            device_limits,
            state: Mutex::new(State {
                scheduler,
                revisions: HashMap::new(),
                replicas: HashMap::new(),
                bulk: HashMap::new(),
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

    /// Adds a revision on this machine's processor, or on a device of its own.
    pub(crate) fn add_revision(
        self: &Arc<Self>,
        limits: RevisionLimits,
        is_on_processor: bool,
        revision: impl FnOnce(RevisionId) -> Arc<Revision>,
    ) -> Arc<Revision> {
        let limits = RevisionLimits {
            device: is_on_processor.then_some(self.device),
            ..limits
        };
        let mut state = self.lock();
        let present: HashSet<RevisionId> = state
            .scheduler
            .snapshot()
            .revisions
            .iter()
            .map(|revision| revision.id)
            .collect();
        state.revisions.retain(|id, _| present.contains(id));
        let now = self.now();
        let id = state.scheduler.add_revision(now, limits);
        let revision = revision(id);
        state.revisions.insert(id, Arc::clone(&revision));
        drop(state);
        // Those that are kept without work are launched.
        self.turn(|scheduler, now| scheduler.advance(now));
        revision
    }

    /// Tells how long runs of a revision take that were seen elsewhere: items and nanoseconds.
    pub(crate) fn seed(&self, revision: RevisionId, bucket: u64, points: &[(u32, u64)]) {
        // Nothing was measured, of no shape.
        if points.is_empty() {
            return;
        }
        let points: Vec<_> = points
            .iter()
            .map(|(items, nanos)| (*items, Duration::from_nanos(*nanos)))
            .collect();
        self.lock()
            .scheduler
            .seed_curve(revision, Bucket(bucket), &points);
    }

    /// Bounds how many replicas a revision has, from now on.
    pub(crate) fn set_scale(self: &Arc<Self>, revision: RevisionId, min: usize, max: usize) {
        self.turn(|scheduler, now| scheduler.set_scale(now, revision, min, max));
    }

    pub(crate) fn retire_revision(self: &Arc<Self>, revision: RevisionId) {
        self.turn(|scheduler, now| scheduler.retire_revision(now, revision));
    }

    /// Has a worker of a revision started ahead of the first request, unless there is one.
    pub(crate) fn start_revision(self: &Arc<Self>, revision: RevisionId) {
        self.turn(|scheduler, now| scheduler.start_revision(now, revision));
    }

    /// Refuses a request that has not been read, if the least of its kind would be refused: under
    /// overload most are, and reading them would take the processor from those that are served.
    ///
    /// # Errors
    /// As [`Dispatcher::offer`].
    pub(crate) fn turn_away(
        self: &Arc<Self>,
        revision: &Revision,
        deadline: Deadline,
    ) -> Result<(), (InferError, Duration)> {
        let due = self.time(deadline.at);
        let refused = self.turn(|scheduler, now| scheduler.turn_away(now, revision.id, due));
        match refused {
            Some((reason, retry_after)) => {
                Err((refusal(revision, deadline.after, reason), retry_after))
            }
            None => Ok(()),
        }
    }

    /// Offers an entry. Bulk is never refused for want of room: it waits to be asked for.
    ///
    /// # Errors
    /// `Overloaded` or `Unavailable` with the time after which trying again may help;
    /// `DeadlineExceeded` where that can't help.
    pub(crate) fn offer(
        self: &Arc<Self>,
        revision: &Arc<Revision>,
        entry: Arc<Entry>,
        outcome: oneshot::Receiver<Outcome>,
        mut offer: Offer,
    ) -> Result<Ticket, (InferError, Duration)> {
        offer.deadline = self.time(entry.deadline.at);
        let deadline = entry.deadline;
        let id = revision.id;
        let place = match offer.class {
            Class::Interactive => {
                match self.turn(|scheduler, now| scheduler.offer(now, id, offer, entry)) {
                    Ok(key) => Place::Admitted(key),
                    Err(refused) => {
                        let error = refusal(revision, deadline.after, refused.reason);
                        return Err((error, refused.retry_after));
                    }
                }
            }
            Class::Bulk => Place::Parked(self.park(Parked {
                revision: Arc::clone(revision),
                offer,
                entry,
                key: OnceLock::new(),
            })),
        };
        Ok(Ticket {
            dispatcher: Arc::clone(self),
            place,
            deadline,
            outcome,
            is_settled: false,
        })
    }

    fn park(self: &Arc<Self>, parked: Parked) -> Arc<Parked> {
        let parked = Arc::new(parked);
        let id = parked.revision.id;
        self.turn_with(|state, now| {
            let line = state.bulk.entry(id).or_default();
            line.push_back(Arc::clone(&parked));
            state.tell_of_bulk(id, now);
        });
        parked
    }

    /// Takes an entry out whose caller has left.
    fn leave(self: &Arc<Self>, place: &Place) {
        self.turn_with(|state, now| {
            let key = match place {
                Place::Admitted(key) => Some(*key),
                Place::Parked(parked) => {
                    state.unpark(parked, now);
                    parked.key.get().copied()
                }
            };
            if let Some(key) = key {
                state.scheduler.cancel(now, key);
            }
        });
    }

    pub(crate) fn staged(self: &Arc<Self>, replica: ReplicaId, key: Key, bucket: Bucket) {
        self.turn(|scheduler, now| scheduler.staged(now, replica, key, bucket));
    }

    pub(crate) fn slot_freed(self: &Arc<Self>, replica: ReplicaId, run: Key, infer: Duration) {
        self.turn(|scheduler, now| {
            scheduler.engine_took(now, replica, run, infer);
            scheduler.slot_freed(now, replica, run);
        });
    }

    /// Hears how many bytes of memory a worker takes.
    pub(crate) fn replica_memory(self: &Arc<Self>, replica: ReplicaId, bytes: u64) {
        self.turn(|scheduler, now| scheduler.replica_memory(now, replica, bytes));
    }

    pub(crate) fn answered(
        self: &Arc<Self>,
        replica: ReplicaId,
        key: Key,
        result: Result<Answer, InferError>,
    ) {
        let answered = self.turn(|scheduler, now| scheduler.answered(now, replica, key));
        if let Some(answered) = answered {
            let entry = answered.entry;
            if result.is_ok() {
                entry.poison.clear(&entry.inputs, &entry.options);
            }
            let up = self
                .lock()
                .replicas
                .get(&replica)
                .and_then(|replica| replica.up);
            let cold = up.map_or(Duration::ZERO, |up| {
                up.saturating_duration_since(entry.offered)
            });
            entry.reply(result, cold, answered.course);
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
            cores: (self.device_limits.cores / credits.slots.max(1)).max(1),
            // No more than the outbox holds beside runs and what is forgotten.
            stage_entries: credits.stage_entries.min(OUTBOX as u32 / 4),
            stage_bytes: credits.stage_bytes,
            stage_pixels: credits.stage_pixels,
        };
        self.turn(|scheduler, now| scheduler.replica_up(now, replica, credits));
    }

    pub(crate) fn replica_down(self: &Arc<Self>, replica: ReplicaId, death: Death) {
        self.turn(|scheduler, now| scheduler.replica_down(now, replica, death));
        // Counted under the mutex, so that of two that end at once the last has the last word.
        let mut state = self.lock();
        state.replicas.remove(&replica);
        self.n_replicas.send_replace(state.replicas.len());
    }

    /// Returns all metrics.
    pub(crate) fn expose(&self, bytes_in_flight: u64, jobs: &str) -> String {
        let (snapshot, revisions) = {
            let state = self.lock();
            (state.scheduler.snapshot(), state.revisions.clone())
        };
        let named = |revision: Arc<Revision>| Named {
            model: revision.name.to_string(),
            version: revision.version.to_string(),
            metrics: revision.metrics.clone(),
        };
        let revisions = revisions.into_iter();
        let named = revisions.map(|(id, revision)| (id, named(revision)));
        self.metrics
            .expose(&snapshot, &named.collect(), bytes_in_flight, jobs)
    }

    /// Returns the scheduler's whole state, the names of what is in it, and how many bulk entries
    /// wait to be asked for.
    pub(crate) fn snapshot(&self) -> (Snapshot, HashMap<RevisionId, (Arc<Revision>, usize)>) {
        let state = self.lock();
        let revisions = state.revisions.iter();
        let named =
            revisions.map(|(id, revision)| (*id, (Arc::clone(revision), state.n_parked(*id))));
        (state.scheduler.snapshot(), named.collect())
    }

    /// Returns the scheduler's state of one revision, and how many bulk entries wait to be asked for.
    pub(crate) fn revision(&self, id: RevisionId) -> Option<(RevisionSnapshot, usize)> {
        let state = self.lock();
        Some((state.scheduler.revision(id)?, state.n_parked(id)))
    }

    /// Stops all replicas, and waits until the last has ended. New ones are not started any more.
    pub(crate) async fn close(&self) {
        {
            let mut state = self.lock();
            state.is_closed = true;
            for replica in state.replicas.values_mut() {
                replica.stop.ask();
            }
            self.n_replicas.send_replace(state.replicas.len());
        }
        let mut n_replicas = self.n_replicas.subscribe();
        // The sender lives in `self`: this can't fail.
        let _ = n_replicas.wait_for(|&n_replicas| n_replicas == 0).await;
    }

    /// Runs one event through the scheduler and carries out what it asks for.
    fn turn<T>(self: &Arc<Self>, event: impl FnOnce(&mut Scheduler<Arc<Entry>>, Time) -> T) -> T {
        self.turn_with(|state, now| event(&mut state.scheduler, now))
    }

    /// The same of an event that changes more than the scheduler.
    fn turn_with<T>(self: &Arc<Self>, event: impl FnOnce(&mut State, Time) -> T) -> T {
        let now = self.now();
        let mut state = self.lock();
        let result = event(&mut state, now);
        let mut effects = Vec::new();
        let mut actions = std::mem::take(&mut state.actions);
        loop {
            state.scheduler.drain_actions(&mut actions);
            if actions.is_empty() {
                break;
            }
            // Asking for bulk makes new ones.
            for action in actions.drain(..) {
                state.carry_out(action, now, &mut effects);
            }
        }
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
                Effect::Reply(entry, error) => entry.reply(Err(error), Duration::ZERO, None),
                Effect::Note(entry) => entry.poison.note(&entry.inputs, &entry.options),
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

    /// Returns when the scheduler's time was.
    pub(crate) fn instant(&self, time: Time) -> Instant {
        self.epoch + Duration::from_nanos(time.as_nanos())
    }

    fn time(&self, instant: Instant) -> Time {
        let nanos = instant.saturating_duration_since(self.epoch).as_nanos();
        Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

// === impl State ===

impl State {
    /// How many bulk entries wait to be asked for.
    fn n_parked(&self, revision: RevisionId) -> usize {
        self.bulk.get(&revision).map_or(0, VecDeque::len)
    }

    fn carry_out(&mut self, action: Action<Arc<Entry>>, now: Time, effects: &mut Vec<Effect>) {
        match action {
            Action::Launch { revision, replica } => {
                effects.extend(self.launch(revision, replica));
            }
            Action::Stage {
                replica,
                key,
                class,
                entry,
            } => self.send(replica, Outgoing::Stage(key, class, entry)),
            Action::Run { replica, batch, .. } => self.send(replica, Outgoing::Run(batch)),
            Action::Forget { replica, key } => self.send(replica, Outgoing::Forget(key)),
            Action::Pull { revision, items } => self.pull(revision, items, now, effects),
            Action::Kill { replica } => {
                if let Some(replica) = self.replicas.get_mut(&replica) {
                    tracing::error!("a worker hangs; ending it");
                    replica.is_stopping = true;
                    replica.stop.ask_hung();
                }
            }
            // The replica still reports its end, which the scheduler ignores.
            Action::Stop { replica } => {
                if let Some(replica) = self.replicas.get(&replica) {
                    replica.stop.ask();
                }
            }
            Action::Expire {
                entry, is_hopeless, ..
            } => {
                let error = match is_hopeless {
                    false => entry.deadline.passed(),
                    true => InferError::new(
                        Code::DeadlineExceeded,
                        format!(
                            "it can't be done any more within its {} ms",
                            entry.deadline.after.as_millis()
                        ),
                    ),
                };
                effects.push(Effect::Reply(entry, error));
            }
            Action::Fail { entry, why, .. } => {
                if why == FailReason::Poisoned {
                    effects.push(Effect::Note(Arc::clone(&entry)));
                }
                effects.push(Effect::Reply(entry, failure(why)));
            }
        }
    }

    /// Offers the bulk that was asked for, and says whether there is more.
    fn pull(&mut self, revision: RevisionId, items: u32, now: Time, effects: &mut Vec<Effect>) {
        let mut n_offered = 0;
        while n_offered < items
            && let Some(parked) = self.bulk.get_mut(&revision).and_then(VecDeque::pop_front)
        {
            n_offered = n_offered.saturating_add(parked.offer.cost.items.max(1));
            let entry = Arc::clone(&parked.entry);
            match self.scheduler.offer(now, revision, parked.offer, entry) {
                // It was not set before: only what waits in line is offered.
                Ok(key) => {
                    let _ = parked.key.set(key);
                }
                Err(refused) => {
                    let error = refusal(
                        &parked.revision,
                        parked.entry.deadline.after,
                        refused.reason,
                    );
                    effects.push(Effect::Reply(refused.entry, error));
                }
            }
        }
        self.tell_of_bulk(revision, now);
    }

    /// Takes an entry out of the line of bulk.
    fn unpark(&mut self, parked: &Arc<Parked>, now: Time) {
        let revision = parked.revision.id;
        if let Some(line) = self.bulk.get_mut(&revision) {
            line.retain(|other| !Arc::ptr_eq(other, parked));
            self.tell_of_bulk(revision, now);
        }
    }

    /// Tells the scheduler whether there is bulk to be asked for. Whatever changes the line ends with
    /// this, in the same turn: what the scheduler waits for in vain it does not ask for again.
    fn tell_of_bulk(&mut self, revision: RevisionId, now: Time) {
        let waits = self.n_parked(revision) > 0;
        if !waits {
            self.bulk.remove(&revision);
        }
        self.scheduler.bulk_waits(now, revision, waits);
    }

    fn launch(&mut self, revision: RevisionId, replica: ReplicaId) -> Option<Effect> {
        let revision = self.revisions.get(&revision).filter(|_| !self.is_closed)?;
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        let stop = Arc::new(Stop::default());
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
            replica.stop.ask_hung();
        }
    }
}

// === impl Stop ===

impl Stop {
    fn ask(&self) {
        self.asked.notify_one();
    }

    fn ask_hung(&self) {
        self.is_hung.store(true, Ordering::Relaxed);
        self.asked.notify_one();
    }

    /// Waits until the replica is told to end.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Whether it was told to because it hangs: then it won't end by itself.
    pub(crate) fn is_hung(&self) -> bool {
        self.is_hung.load(Ordering::Relaxed)
    }
}

fn refusal(revision: &Revision, after: Duration, reason: RefusedReason) -> InferError {
    let ms = after.as_millis();
    let name = &revision.name;
    match reason {
        RefusedReason::QueueFull => InferError::new(
            Code::Overloaded,
            format!("the queue of model `{name}` is full"),
        ),
        RefusedReason::Late { predicted } => InferError::new(
            Code::Overloaded,
            format!(
                "model `{name}` would answer in {} ms, and the deadline is {ms} ms",
                predicted.as_millis()
            ),
        ),
        RefusedReason::Crowded { predicted } => InferError::new(
            Code::Overloaded,
            format!(
                "model `{name}` is overloaded: it would answer in {} ms, in time only if nothing \
                 comes between or another request is made late",
                predicted.as_millis()
            ),
        ),
        RefusedReason::Starting { predicted } => InferError::new(
            Code::Unavailable,
            format!(
                "model `{name}` is being started and would answer in {} ms, and the deadline is \
                 {ms} ms",
                predicted.as_millis()
            ),
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
        FailReason::Poisoned | FailReason::Killed => {
            InferError::internal("the worker died twice with this request; it is not tried again")
        }
        FailReason::StartFailed => InferError::new(
            Code::Unavailable,
            "the model's worker ends before it is ready; the log says why",
        ),
        FailReason::NoMemory { needed, free } => InferError::new(
            Code::Unavailable,
            format!(
                "the model takes {} MiB, and {} MiB are or could be made free beside the models \
                 at work: see --memory",
                needed >> 20,
                free >> 20
            ),
        ),
    }
}

// === impl Ticket ===

impl Ticket {
    /// Waits for the outcome. Cancel-safe: dropping the future or the ticket cancels the entry.
    pub(crate) async fn outcome(mut self) -> Outcome {
        let outcome = match &self.place {
            Place::Admitted(_) => (&mut self.outcome).await,
            // While it waits to be asked for, nobody else looks at its deadline.
            Place::Parked(parked) => {
                let due = self.deadline.at.into();
                match tokio::time::timeout_at(due, &mut self.outcome).await {
                    Ok(outcome) => outcome,
                    Err(_) if parked.key.get().is_some() => (&mut self.outcome).await,
                    Err(_) => return Outcome::failed(self.deadline.passed()),
                }
            }
        };
        self.is_settled = true;
        outcome.unwrap_or_else(|_| Outcome::failed(InferError::internal("the request was lost")))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_settled {
            self.dispatcher.leave(&self.place);
        }
    }
}

#[cfg(test)]
mod tests;
