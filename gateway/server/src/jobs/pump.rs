//! Takes jobs from the ledger as there is room for them, and sees to it that each comes to an end.
//!
//! - Jobs of a service that are in work are bounded: of a model by [`AHEAD`], so that the scheduler,
//!   which asks for bulk when it has room, finds enough; of a script by the scripts that run at a time.
//! - Those of all services are bounded together, in number and in bytes. The service that has least in
//!   work is next, so that none waits for another's backlog.
//! - Where there is no room for a job, or no worker, it is put back and its service rests for a while;
//!   that is no attempt.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};

use super::ledger::{Handed, now_ms};
use crate::oscar::{Backend, Service};
use crate::rest::Front;
use crate::work::{self, Verdict};

/// Jobs of a model service in work at a time: the scheduler asks for two batches for each slot, and
/// reading an object takes longer than running it.
const AHEAD: usize = 256;

/// Jobs in work at a time, of all services.
const MOST: usize = 1024;

/// How long a service rests at first after a job was put back; twice as long after each other.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest rest.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long it takes to try again what the ledger could not do.
const RETRY: Duration = Duration::from_secs(1);

/// Gives jobs to work.
#[derive(Debug)]
pub(crate) struct Pump {
    front: Arc<Front>,
    /// Bytes of jobs in work at a time.
    most_bytes: u64,
    lines: HashMap<String, Line>,
    running: JoinSet<Verdict>,
    /// Of each task its service, and the bytes of its job.
    of_task: HashMap<task::Id, (String, u64)>,
    bytes: u64,
}

/// A service that has jobs, or had.
#[derive(Debug)]
struct Line {
    n_running: usize,
    /// There may be jobs that are due.
    has_more: bool,
    /// Nothing is taken before.
    after: Option<Instant>,
    /// When a job will be due.
    due: Option<Instant>,
    /// How long it rests next.
    pause: Duration,
}

// === impl Pump ===

impl Pump {
    pub(crate) fn new(front: Arc<Front>, most_bytes: u64) -> Self {
        Self {
            front,
            most_bytes,
            lines: HashMap::new(),
            running: JoinSet::new(),
            of_task: HashMap::new(),
            bytes: 0,
        }
    }

    /// Works until it is asked to stop, and then until nothing is in work any more. What is dropped
    /// before is given up, and pending at the next start.
    pub(crate) async fn run(mut self, mut draining: watch::Receiver<bool>) {
        while !*draining.borrow_and_update() {
            let wake = self.fill().await;
            let wake = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                () = self.front.jobs.announced() => {}
                () = wake => {}
                // Of a sender that is gone nothing more is heard.
                changed = draining.changed() => if changed.is_err() { return },
            }
        }
        if let Err(error) = self.front.jobs.give_up().await {
            tracing::error!(%error, "the jobs that are in work can't be given up");
        }
        while self.running.join_next().await.is_some() {}
    }

    /// Takes what there is room for, and returns when there may be more to take.
    async fn fill(&mut self) -> Option<Instant> {
        for service in self.front.jobs.fresh() {
            self.lines.entry(service).or_default().has_more = true;
        }
        let now = Instant::now();
        for line in self.lines.values_mut() {
            line.has_more |= line.due.take_if(|due| *due <= now).is_some();
        }
        let mut hungry: Vec<(usize, String)> = self
            .lines
            .iter()
            .filter(|(_, line)| line.is_hungry(now))
            .map(|(service, line)| (line.n_running, service.clone()))
            .collect();
        hungry.sort_unstable();
        for (index, (_, name)) in hungry.iter().enumerate() {
            let n_hungry = hungry.len() - index;
            self.take(name, n_hungry).await;
        }
        let idle = |line: &Line| line.n_running > 0 || line.has_more || line.due.is_some();
        self.lines
            .retain(|_, line| idle(line) || line.after.is_some_and(|after| after > now));
        let wakes = self.lines.values().flat_map(|line| line.wakes(now));
        wakes.min()
    }

    /// Takes a service's share of the room that is left, of so many that want some.
    async fn take(&mut self, name: &str, n_hungry: usize) {
        let front = Arc::clone(&self.front);
        let Some(line) = self.lines.get_mut(name) else {
            return;
        };
        // What can't be served by this hearth is left alone.
        let Some(service) = front.services.get(name) else {
            line.has_more = false;
            return;
        };
        let most = match &service.backend {
            Backend::Model(_) => AHEAD,
            Backend::Script(_) => front.runner.slots(),
        };
        let free = most.saturating_sub(line.n_running);
        // By quarters, so that not every end asks the ledger.
        if free == 0 || free * 4 < most {
            return;
        }
        let n_left = MOST.saturating_sub(self.running.len());
        let bytes_left = self.most_bytes.saturating_sub(self.bytes);
        let n = free.min(n_left.div_ceil(n_hungry));
        if n == 0 || bytes_left == 0 {
            return;
        }
        let share = bytes_left / n_hungry as u64;
        let taken = match front.jobs.take(name, n, share).await {
            Ok(taken) => taken,
            Err(error) => {
                tracing::error!(service = name, %error, "no jobs can be taken");
                line.after = Some(Instant::now() + RETRY);
                return;
            }
        };
        line.has_more = taken.has_more;
        line.due = taken.next_due.map(|due| {
            let ms = u64::try_from(due - now_ms()).unwrap_or(0);
            Instant::now() + Duration::from_millis(ms)
        });
        line.n_running += taken.jobs.len();
        let pause = line.pause;
        for handed in taken.jobs {
            let bytes = handed.bytes;
            let work = perform(Arc::clone(&front), Arc::clone(&service), handed, pause);
            let task = self.running.spawn(work);
            self.of_task.insert(task.id(), (name.to_owned(), bytes));
            self.bytes += bytes;
        }
    }

    /// Hears what became of a job.
    fn ended(&mut self, ended: Result<(task::Id, Verdict), JoinError>) {
        let (id, verdict) = match ended {
            Ok((id, verdict)) => (id, Some(verdict)),
            Err(error) => (error.id(), None),
        };
        let Some((service, bytes)) = self.of_task.remove(&id) else {
            return;
        };
        self.bytes -= bytes;
        let Some(line) = self.lines.get_mut(&service) else {
            return;
        };
        line.n_running -= 1;
        match verdict {
            Some(Verdict::Postponed { why }) => {
                let now = Instant::now();
                // Those that were taken together are put back together: that is one rest.
                if line.after.is_none_or(|after| after <= now) {
                    tracing::info!(service, why, "jobs wait");
                    line.after = Some(now + line.pause);
                    line.pause = (line.pause * 2).min(LONGEST_PAUSE);
                }
            }
            Some(_) => line.pause = PAUSE,
            None => {}
        }
    }
}

/// Does a job, unless it is deleted meanwhile, and has it written down what became of it.
async fn perform(
    front: Arc<Front>,
    service: Arc<Service>,
    handed: Handed,
    pause: Duration,
) -> Verdict {
    let Handed { job, deleted, .. } = handed;
    let work = AssertUnwindSafe(work::perform(&front, &service, &job)).catch_unwind();
    let verdict = tokio::select! {
        verdict = work => verdict.unwrap_or_else(|_| Verdict::Failed {
            log: "it panicked".to_owned(),
            may_retry: false,
        }),
        _ = deleted => Verdict::Failed { log: String::new(), may_retry: false },
    };
    // It holds its place until that is written: nothing is taken faster than that.
    while let Err(error) = front.jobs.finish(job.id, verdict.clone(), pause).await {
        tracing::error!(service = service.name(), job = job.name, %error, "the end of a job can't be kept yet");
        tokio::time::sleep(RETRY).await;
    }
    verdict
}

// === impl Line ===

impl Default for Line {
    fn default() -> Self {
        Self {
            n_running: 0,
            has_more: true,
            after: None,
            due: None,
            pause: PAUSE,
        }
    }
}

impl Line {
    fn is_hungry(&self, now: Instant) -> bool {
        self.has_more && self.after.is_none_or(|after| after <= now)
    }

    /// Returns when there may be something to take that there is not now.
    fn wakes(&self, now: Instant) -> impl Iterator<Item = Instant> {
        let after = self.after.filter(|after| self.has_more && *after > now);
        after.into_iter().chain(self.due)
    }
}
