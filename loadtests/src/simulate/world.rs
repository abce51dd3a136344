//! What happens in virtual time: arrivals, staging, runs, crashes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::policy::{Order, Policy, Replica, Request};
use crate::arrivals::{Arrivals, Pattern};
use crate::random::Random;
use crate::report::Durations;

/// Standard deviation of the logarithm of a run's time.
const NOISE: f64 = 0.05;
/// One run in a hundred takes so many times as long: something else had the processor.
const HICCUP: f64 = 3.0;
const HICCUP_SHARE: f64 = 0.01;

/// How long a batch of b items occupies a slot: `per_call + per_item × b × (1 + growth × (b − 1))`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Curve {
    pub(crate) per_call: Duration,
    pub(crate) per_item: Duration,
    pub(crate) growth: f64,
}

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) pattern: Pattern,
    /// Of the capacity, in the mean.
    pub(crate) load: f64,
    pub(crate) curve: Curve,
    pub(crate) max_batch: u32,
    /// Called equally often.
    pub(crate) n_models: u32,
    /// Of each model.
    pub(crate) n_replicas: u32,
    /// Until a request is prepared; any number at once.
    pub(crate) staging: Duration,
    /// Requests have one of these, at random.
    pub(crate) deadlines: &'static [Duration],
    /// Mean time between failures of a replica, and how long a start takes.
    pub(crate) mean_life: Option<Duration>,
    pub(crate) start: Duration,
    pub(crate) duration: Duration,
}

/// What became of the requests.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) offered: u64,
    pub(crate) refused: u64,
    /// Answered in time.
    pub(crate) good: u64,
    /// Answered after the deadline.
    pub(crate) late: u64,
    /// Answered with an error: the deadline had passed, or the replica had died.
    pub(crate) given_up: u64,
    /// Of answers, late or not.
    pub(crate) latencies: Durations,
    pub(crate) n_runs: u64,
    pub(crate) n_run_entries: u64,
    /// Until the last answer.
    pub(crate) seconds: f64,
    /// Time of slots in use, and of that what went into answers that were late or never came.
    pub(crate) slot_seconds: f64,
    pub(crate) wasted_seconds: f64,
}

/// Events of one moment take place in the order in which they came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    Staged(Option<Replica>, Request),
    Ended(Replica),
    Up(Replica),
    Down(Replica),
}

#[derive(Debug)]
struct RequestState {
    arrived: Duration,
    deadline: Duration,
    is_open: bool,
}

#[derive(Debug, Default)]
struct ReplicaState {
    is_dead: bool,
    began: Duration,
    /// Named runs; the first one is under way.
    runs: VecDeque<Vec<Request>>,
}

struct World<'a> {
    case: &'a Case,
    policy: &'a mut dyn Policy,
    now: Duration,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    n_events: u64,
    random: Random,
    arrivals: Arrivals,
    requests: Vec<RequestState>,
    n_open: usize,
    replicas: Vec<ReplicaState>,
    orders: Vec<Order>,
    outcome: Outcome,
}

// === impl Curve, Case ===

impl Curve {
    pub(crate) fn time(&self, items: u32) -> Duration {
        let items = f64::from(items);
        let grown = items * (1.0 + self.growth * (items - 1.0));
        self.per_call + self.per_item.mul_f64(grown)
    }
}

impl Case {
    /// Returns how many requests a second can be served, in the best batches.
    pub(crate) fn capacity(&self) -> f64 {
        let per_second = |items| f64::from(items) / self.curve.time(items).as_secs_f64();
        let best = (1..=self.max_batch).map(per_second).fold(0.0, f64::max);
        let best = best / (1.0 + HICCUP_SHARE * (HICCUP - 1.0));
        best * self.n_slots()
    }

    pub(crate) fn n_slots(&self) -> f64 {
        f64::from(self.n_models) * f64::from(self.n_replicas)
    }

    /// Returns how many requests may wait for a model; the default of one gateway for a few replicas.
    pub(crate) const fn max_queue(&self) -> usize {
        256 * self.n_replicas as usize
    }

    /// Runs a policy through it; the same seed gives the same arrivals to each.
    pub(crate) fn run(&self, policy: &mut dyn Policy, seed: u64) -> Outcome {
        World::new(self, policy, seed).run()
    }
}

// === impl World ===

impl<'a> World<'a> {
    fn new(case: &'a Case, policy: &'a mut dyn Policy, seed: u64) -> Self {
        let arrivals = Arrivals::new(case.pattern, case.load * case.capacity(), seed);
        let mut world = Self {
            case,
            policy,
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            n_events: 0,
            random: Random::new(!seed),
            arrivals,
            requests: Vec::new(),
            n_open: 0,
            replicas: Vec::new(),
            orders: Vec::new(),
            outcome: Outcome::new(),
        };
        // Those of the beginning are up at once.
        world.carry_out(Duration::ZERO);
        world.await_arrival();
        world
    }

    fn run(mut self) -> Outcome {
        while self.n_open > 0 || self.outcome.offered == 0 || self.is_arriving() {
            let wake = self.policy.next_wake();
            let event = self.events.peek().map(|Reverse((at, ..))| *at);
            match (wake, event) {
                (Some(wake), event) if event.is_none_or(|event| wake < event) => {
                    self.now = self.now.max(wake);
                    self.policy.wake(self.now);
                }
                (_, Some(_)) => {
                    if let Some(Reverse((at, _, event))) = self.events.pop() {
                        self.now = at;
                        self.happen(event);
                    }
                }
                (_, None) => break,
            }
            self.carry_out(self.case.start);
        }
        self.outcome.seconds = self.now.as_secs_f64();
        self.outcome
    }

    fn is_arriving(&self) -> bool {
        self.now < self.case.duration
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.n_events += 1;
        let at = self.now.saturating_add(after);
        self.events.push(Reverse((at, self.n_events, event)));
    }

    fn await_arrival(&mut self) {
        let next = self.arrivals.next();
        if let Some(at) = next.filter(|at| *at < self.case.duration) {
            self.schedule(at.saturating_sub(self.now), Event::Arrival);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrival => {
                self.await_arrival();
                self.arrive();
            }
            Event::Staged(replica, request) => self.policy.staged(self.now, replica, request),
            Event::Ended(replica) => self.end(replica),
            Event::Up(replica) => {
                if let Some(mean) = self.case.mean_life {
                    let life = mean.mul_f64(self.random.exponential());
                    self.schedule(life, Event::Down(replica));
                }
                self.policy.up(self.now, replica);
            }
            Event::Down(replica) => self.crash(replica),
        }
    }

    fn arrive(&mut self) {
        let request = self.requests.len() as Request;
        let deadlines = self.case.deadlines;
        let timeout = deadlines[self.random.below(deadlines.len())];
        let deadline = self.now.saturating_add(timeout);
        let model = self.random.below(self.case.n_models as usize) as u32;
        let is_open = self.policy.offer(self.now, model, request, deadline);
        self.requests.push(RequestState {
            arrived: self.now,
            deadline,
            is_open,
        });
        self.outcome.offered += 1;
        self.outcome.refused += u64::from(!is_open);
        self.n_open += usize::from(is_open);
    }

    fn end(&mut self, replica: Replica) {
        let state = &mut self.replicas[replica as usize];
        if state.is_dead {
            return;
        }
        let Some(batch) = state.runs.pop_front() else {
            return;
        };
        let took = self.now.saturating_sub(state.began).as_secs_f64();
        let n_good = batch
            .iter()
            .filter(|request| self.answer(**request))
            .count();
        let outcome = &mut self.outcome;
        outcome.slot_seconds += took;
        outcome.wasted_seconds += took * (1.0 - n_good as f64 / batch.len() as f64);
        self.policy.ended(self.now, replica, &batch);
        self.begin(replica);
    }

    /// Returns whether the answer is of use to somebody.
    fn answer(&mut self, request: Request) -> bool {
        let state = &mut self.requests[request as usize];
        if !std::mem::take(&mut state.is_open) {
            return false;
        }
        self.n_open -= 1;
        let latency = self.now.saturating_sub(state.arrived);
        let is_good = self.now <= state.deadline;
        self.outcome.latencies.record(latency);
        self.outcome.good += u64::from(is_good);
        self.outcome.late += u64::from(!is_good);
        is_good
    }

    fn crash(&mut self, replica: Replica) {
        let state = &mut self.replicas[replica as usize];
        if std::mem::replace(&mut state.is_dead, true) {
            return;
        }
        if !state.runs.is_empty() {
            let took = self.now.saturating_sub(state.began).as_secs_f64();
            self.outcome.slot_seconds += took;
            self.outcome.wasted_seconds += took;
        }
        self.policy.down(self.now, replica);
    }

    /// Begins the first of the runs that were named, if none is under way.
    fn begin(&mut self, replica: Replica) {
        let state = &mut self.replicas[replica as usize];
        let Some(batch) = state.runs.front() else {
            return;
        };
        state.began = self.now;
        let mut factor = (NOISE * self.random.normal()).exp();
        if self.random.unit() < HICCUP_SHARE {
            factor *= HICCUP;
        }
        self.outcome.n_runs += 1;
        self.outcome.n_run_entries += batch.len() as u64;
        let took = self.case.curve.time(batch.len() as u32).mul_f64(factor);
        self.schedule(took, Event::Ended(replica));
    }

    fn carry_out(&mut self, start: Duration) {
        let mut orders = std::mem::take(&mut self.orders);
        self.policy.orders(&mut orders);
        for order in orders.drain(..) {
            match order {
                Order::Launch { replica } => {
                    self.replicas.push(ReplicaState::default());
                    self.schedule(start, Event::Up(replica));
                }
                Order::Stage { replica, request } => {
                    self.schedule(self.case.staging, Event::Staged(replica, request));
                }
                Order::Run { replica, batch } => {
                    let runs = &mut self.replicas[replica as usize].runs;
                    runs.push_back(batch);
                    if runs.len() == 1 {
                        self.begin(replica);
                    }
                }
                Order::Kill { replica } => self.schedule(Duration::ZERO, Event::Down(replica)),
                Order::GiveUp { request } => {
                    let state = &mut self.requests[request as usize];
                    if std::mem::take(&mut state.is_open) {
                        self.n_open -= 1;
                        self.outcome.given_up += 1;
                    }
                }
            }
        }
        self.orders = orders;
    }
}

impl Outcome {
    fn new() -> Self {
        Self {
            offered: 0,
            refused: 0,
            good: 0,
            late: 0,
            given_up: 0,
            latencies: Durations::new(),
            n_runs: 0,
            n_run_entries: 0,
            seconds: 0.0,
            slot_seconds: 0.0,
            wasted_seconds: 0.0,
        }
    }
}
