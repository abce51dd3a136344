//! Hearth's scheduler, as a policy of the simulation.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use gateway_scheduler::{
    Action, Bucket, Class, Cost, Death, Key, Offer, ReplicaCredits, ReplicaId, RevisionId,
    RevisionLimits, Scheduler, Staging, Time,
};

use super::policy::{Order, Policy, Replica, Request};
use super::world::Case;

const BUCKET: Bucket = Bucket(0);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Ours {
    scheduler: Scheduler<Request>,
    /// By model.
    revisions: Vec<RevisionId>,
    max_batch: u32,
    /// In the order of launches, and back.
    replicas: Vec<ReplicaId>,
    numbers: HashMap<ReplicaId, Replica>,
    /// Of requests that were admitted and are not over, and back.
    keys: HashMap<Request, Key>,
    requests: HashMap<Key, Request>,
    /// The names of runs under way, by their first request, which may be over before they are.
    runs: HashMap<Request, Key>,
    actions: Vec<Action<Request>>,
    /// Calls of the scheduler, and the time that they took.
    n_calls: u32,
    spent: Duration,
}

impl Ours {
    pub(crate) fn new(case: &Case) -> Self {
        let mut scheduler = Scheduler::new();
        let limits = RevisionLimits {
            max_batch: case.max_batch,
            queue_entries: case.max_queue(),
            min_scale: case.n_replicas as usize,
            max_scale: case.n_replicas as usize,
            ..RevisionLimits::default()
        };
        let revisions = (0..case.n_models)
            .map(|_| scheduler.add_revision(Time::default(), limits))
            .collect();
        Self {
            scheduler,
            revisions,
            max_batch: case.max_batch,
            replicas: Vec::new(),
            numbers: HashMap::new(),
            keys: HashMap::new(),
            requests: HashMap::new(),
            runs: HashMap::new(),
            actions: Vec::new(),
            n_calls: 0,
            spent: Duration::ZERO,
        }
    }

    /// Returns the mean time of a call of the scheduler, that of reading the clock included.
    pub(crate) fn nanos_per_call(&self) -> f64 {
        self.spent.as_nanos() as f64 / f64::from(self.n_calls.max(1))
    }

    fn call<T>(&mut self, event: impl FnOnce(&mut Scheduler<Request>) -> T) -> T {
        let began = Instant::now();
        let result = event(&mut self.scheduler);
        self.spent += began.elapsed();
        self.n_calls += 1;
        result
    }

    fn forget(&mut self, key: Key) -> Option<Request> {
        let request = self.requests.remove(&key)?;
        self.keys.remove(&request);
        Some(request)
    }

    fn order(&mut self, action: Action<Request>) -> Option<Order> {
        match action {
            Action::Launch { replica, .. } => {
                let number = self.replicas.len() as Replica;
                self.replicas.push(replica);
                self.numbers.insert(replica, number);
                Some(Order::Launch { replica: number })
            }
            Action::Stage {
                replica,
                key,
                entry,
                ..
            } => {
                self.keys.insert(entry, key);
                self.requests.insert(key, entry);
                Some(Order::Stage {
                    replica: self.numbers.get(&replica).copied(),
                    request: entry,
                })
            }
            Action::Run { replica, batch, .. } => {
                let requests = batch.iter().filter_map(|key| self.requests.get(key));
                let requests: Vec<Request> = requests.copied().collect();
                self.runs.insert(*requests.first()?, *batch.first()?);
                Some(Order::Run {
                    replica: *self.numbers.get(&replica)?,
                    batch: requests,
                })
            }
            Action::Expire { entry, key, .. } | Action::Fail { entry, key, .. } => {
                self.forget(key);
                Some(Order::GiveUp { request: entry })
            }
            Action::Kill { replica } => Some(Order::Kill {
                replica: *self.numbers.get(&replica)?,
            }),
            // Preparing is not undone here, replicas are as many as there are, and there is no bulk.
            Action::Forget { .. } | Action::Stop { .. } | Action::Pull { .. } => None,
        }
    }
}

impl Policy for Ours {
    fn offer(&mut self, now: Duration, model: u32, request: Request, deadline: Duration) -> bool {
        let revision = self.revisions[model as usize];
        let offer = Offer {
            deadline: time(deadline),
            cost: Cost {
                bytes: 1,
                pixels: 1,
                items: 1,
            },
            staging: Staging::Reported,
            class: Class::Interactive,
        };
        self.call(|scheduler| scheduler.offer(time(now), revision, offer, request))
            .is_ok()
    }

    fn staged(&mut self, now: Duration, replica: Option<Replica>, request: Request) {
        let (Some(replica), Some(&key)) = (replica, self.keys.get(&request)) else {
            return;
        };
        let replica = self.replicas[replica as usize];
        self.call(|scheduler| scheduler.staged(time(now), replica, key, BUCKET));
    }

    fn ended(&mut self, now: Duration, replica: Replica, batch: &[Request]) {
        let replica = self.replicas[replica as usize];
        if let Some(run) = batch.first().and_then(|first| self.runs.remove(first)) {
            self.call(|scheduler| scheduler.slot_freed(time(now), replica, run));
        }
        for request in batch {
            if let Some(key) = self.keys.remove(request) {
                self.requests.remove(&key);
                self.call(|scheduler| scheduler.answered(time(now), replica, key));
            }
        }
    }

    fn up(&mut self, now: Duration, replica: Replica) {
        let credits = ReplicaCredits {
            slots: 1,
            cores: 1,
            // As a worker has it.
            stage_entries: 2 * self.max_batch,
            stage_bytes: u64::MAX,
            stage_pixels: u64::MAX,
        };
        let replica = self.replicas[replica as usize];
        self.call(|scheduler| scheduler.replica_up(time(now), replica, credits));
    }

    fn down(&mut self, now: Duration, replica: Replica) {
        let replica = self.replicas[replica as usize];
        self.call(|scheduler| scheduler.replica_down(time(now), replica, Death::Unexplained));
    }

    fn wake(&mut self, now: Duration) {
        self.call(|scheduler| scheduler.advance(time(now)));
    }

    fn next_wake(&self) -> Option<Duration> {
        let wake = self.scheduler.next_wake()?;
        Some(wake.saturating_since(Time::default()))
    }

    fn orders(&mut self, into: &mut Vec<Order>) {
        let mut actions = std::mem::take(&mut self.actions);
        self.scheduler.drain_actions(&mut actions);
        into.extend(actions.drain(..).filter_map(|action| self.order(action)));
        self.actions = actions;
    }
}

fn time(since_start: Duration) -> Time {
    Time::default().saturating_add(since_start)
}
