//! What most servers do: one queue for each model, first come, first served, batches as large as
//! allowed, and nothing is given up before its deadline.
//!
//! With a wait, a batch goes when it is full or its first request has waited so long, though a slot
//! may be free (Triton's `max_queue_delay`, TorchServe, Mosec, LitServe). Without one, whatever is
//! there goes when a slot is free (Triton's default, Text Embeddings Inference).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::policy::{Order, Policy, Replica, Request};
use super::world::Case;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Reference {
    max_batch: usize,
    max_queue: usize,
    wait: Duration,
    models: Vec<Model>,
    /// Of each replica its model, and what it runs.
    replicas: Vec<(u32, Vec<Request>)>,
    /// The models of requests that are being staged.
    staging: HashMap<Request, (u32, Duration)>,
    wakes: BTreeSet<(Duration, u32)>,
    orders: Vec<Order>,
}

#[derive(Debug, Default)]
struct Model {
    n_staging: usize,
    queue: VecDeque<Waiting>,
    idle: Vec<Replica>,
}

#[derive(Debug)]
struct Waiting {
    request: Request,
    since: Duration,
    deadline: Duration,
}

// === impl Reference ===

impl Reference {
    pub(crate) fn new(case: &Case, wait: Duration) -> Self {
        let mut reference = Self {
            max_batch: case.max_batch as usize,
            max_queue: case.max_queue(),
            wait,
            models: (0..case.n_models).map(|_| Model::default()).collect(),
            replicas: Vec::new(),
            staging: HashMap::new(),
            wakes: BTreeSet::new(),
            orders: Vec::new(),
        };
        for model in 0..case.n_models {
            for _ in 0..case.n_replicas {
                reference.launch(model);
            }
        }
        reference
    }

    fn launch(&mut self, model: u32) {
        let replica = self.replicas.len() as Replica;
        self.replicas.push((model, Vec::new()));
        self.orders.push(Order::Launch { replica });
    }

    fn model_of(&self, replica: Replica) -> u32 {
        self.replicas[replica as usize].0
    }

    fn settle(&mut self, now: Duration, at: u32) {
        let model = &mut self.models[at as usize];
        while let Some(first) = model.queue.front() {
            if first.deadline <= now {
                let request = first.request;
                model.queue.pop_front();
                self.orders.push(Order::GiveUp { request });
                continue;
            }
            let goes_at = first.since.saturating_add(self.wait);
            if model.queue.len() < self.max_batch && goes_at > now {
                self.wakes.insert((goes_at, at));
                return;
            }
            let Some(replica) = model.idle.pop() else {
                return;
            };
            let n = model.queue.len().min(self.max_batch);
            let batch = model.queue.drain(..n).map(|waiting| waiting.request);
            let batch: Vec<Request> = batch.collect();
            self.replicas[replica as usize].1.clone_from(&batch);
            self.orders.push(Order::Run { replica, batch });
        }
    }
}

impl Policy for Reference {
    fn offer(&mut self, _: Duration, at: u32, request: Request, deadline: Duration) -> bool {
        let model = &mut self.models[at as usize];
        if model.n_staging + model.queue.len() >= self.max_queue {
            return false;
        }
        model.n_staging += 1;
        self.staging.insert(request, (at, deadline));
        self.orders.push(Order::Stage {
            replica: None,
            request,
        });
        true
    }

    fn staged(&mut self, now: Duration, _: Option<Replica>, request: Request) {
        let Some((at, deadline)) = self.staging.remove(&request) else {
            return;
        };
        let model = &mut self.models[at as usize];
        model.n_staging -= 1;
        model.queue.push_back(Waiting {
            request,
            since: now,
            deadline,
        });
        self.settle(now, at);
    }

    fn ended(&mut self, now: Duration, replica: Replica, _: &[Request]) {
        self.replicas[replica as usize].1.clear();
        self.up(now, replica);
    }

    fn up(&mut self, now: Duration, replica: Replica) {
        let model = self.model_of(replica);
        self.models[model as usize].idle.push(replica);
        self.settle(now, model);
    }

    fn down(&mut self, _: Duration, replica: Replica) {
        let (model, running) = &mut self.replicas[replica as usize];
        let (model, running) = (*model, std::mem::take(running));
        let lost = running.into_iter().map(|request| Order::GiveUp { request });
        self.orders.extend(lost);
        self.models[model as usize]
            .idle
            .retain(|idle| *idle != replica);
        self.launch(model);
    }

    fn wake(&mut self, now: Duration) {
        while let Some(&(at, model)) = self.wakes.first()
            && at <= now
        {
            self.wakes.pop_first();
            self.settle(now, model);
        }
    }

    fn next_wake(&self) -> Option<Duration> {
        self.wakes.first().map(|(at, _)| *at)
    }

    fn orders(&mut self, into: &mut Vec<Order>) {
        into.append(&mut self.orders);
    }
}
