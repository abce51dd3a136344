//! Jobs: calls that nobody waits for. In memory: what has not ended when the gateway stops is lost,
//! and so is what is known of those that have.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use time::OffsetDateTime;
use tokio::task::AbortHandle;
use workers_protocol::{Code, InferError};

use super::random;

/// Jobs that have not ended, of all services.
const MAX_UNFINISHED: usize = 1024;
/// Jobs that have ended and are remembered, of all services.
const MAX_FINISHED: usize = 10_000;
/// Logs that are remembered, in bytes, of all services.
const MAX_LOG_BYTES: usize = 64 << 20;
/// Longest log of a job, in bytes; what is more is cut.
const MAX_LOG: usize = 1 << 20;
/// Jobs of a page, as OSCAR's.
const PAGE: usize = 70;

/// The jobs of a gateway.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    state: Mutex<State>,
}

/// By the order in which they came.
#[derive(Debug, Default)]
struct State {
    jobs: BTreeMap<u64, Job>,
    next: u64,
    n_unfinished: usize,
    log_bytes: usize,
}

/// A job.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) status: Status,
    pub(crate) created: OffsetDateTime,
    pub(crate) started: Option<OffsetDateTime>,
    pub(crate) finished: Option<OffsetDateTime>,
    log: Arc<str>,
    task: Option<AbortHandle>,
}

/// What became of a job, in the words of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) enum Status {
    Pending,
    Running,
    Succeeded,
    Failed,
}

/// Some jobs of a service, the latest first.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) jobs: Vec<Job>,
    /// Where the next page begins.
    pub(crate) next: Option<u64>,
    /// Jobs of the pages that follow.
    pub(crate) n_remaining: usize,
}

// === impl Jobs ===

impl Jobs {
    /// Starts a job: what it does comes to its log, and says whether it succeeded.
    ///
    /// # Errors
    /// `Overloaded` with too many that have not ended.
    pub(crate) fn start<F>(self: &Arc<Self>, service: &str, work: F) -> Result<String, InferError>
    where
        F: Future<Output = Result<String, String>> + Send + 'static,
    {
        // As OSCAR's, which are names of pods.
        let stem = match service.len() {
            25.. => service.get(..16).unwrap_or(service),
            _ => service,
        };
        let name = format!("{stem}-{}", random::uuid()?);
        let mut state = self.lock();
        if state.n_unfinished >= MAX_UNFINISHED {
            return Err(InferError::new(
                Code::Overloaded,
                format!("{MAX_UNFINISHED} jobs have not ended yet, no room for another"),
            ));
        }
        let sequence = state.next;
        state.next += 1;
        state.n_unfinished += 1;
        let this = Arc::clone(self);
        // It can't end before it is listed: that takes the lock.
        let task = tokio::spawn(async move {
            this.began(sequence);
            let result = AssertUnwindSafe(work).catch_unwind().await;
            this.ended(
                sequence,
                result.unwrap_or_else(|_| Err("it panicked".to_owned())),
            );
        });
        let job = Job {
            service: service.to_owned(),
            name: name.clone(),
            status: Status::Pending,
            created: OffsetDateTime::now_utc(),
            started: None,
            finished: None,
            log: Arc::from(""),
            task: Some(task.abort_handle()),
        };
        state.jobs.insert(sequence, job);
        Ok(name)
    }

    fn began(&self, sequence: u64) {
        if let Some(job) = self.lock().jobs.get_mut(&sequence) {
            job.status = Status::Running;
            job.started = Some(OffsetDateTime::now_utc());
        }
    }

    fn ended(&self, sequence: u64, result: Result<String, String>) {
        let (status, mut log) = match result {
            Ok(log) => (Status::Succeeded, log),
            Err(error) => (Status::Failed, error),
        };
        if log.len() > MAX_LOG {
            let end = log.floor_char_boundary(MAX_LOG);
            log.truncate(end);
            log.push_str("\n… (cut)");
        }
        let mut state = self.lock();
        let state = &mut *state;
        let Some(job) = state.jobs.get_mut(&sequence) else {
            return;
        };
        job.status = status;
        job.finished = Some(OffsetDateTime::now_utc());
        job.log = log.into();
        job.task = None;
        state.log_bytes += job.log.len();
        state.n_unfinished -= 1;
        state.forget_old();
    }

    /// Returns jobs of a service, the latest first, from where a page before ended.
    pub(crate) fn page(&self, service: &str, from: Option<u64>) -> Page {
        let state = self.lock();
        let mut of_service = state
            .jobs
            .range(..from.unwrap_or(u64::MAX))
            .rev()
            .filter(|(_, job)| job.service == service);
        let page: Vec<_> = of_service.by_ref().take(PAGE).collect();
        let n_remaining = of_service.count();
        let last = page.last().map(|(sequence, _)| **sequence);
        Page {
            jobs: page.into_iter().map(|(_, job)| job.clone()).collect(),
            next: last.filter(|_| n_remaining > 0),
            n_remaining,
        }
    }

    /// Returns the log of a job, if there is one of this name.
    pub(crate) fn log(&self, service: &str, name: &str) -> Option<Arc<str>> {
        let state = self.lock();
        let job = state.find(service, name)?;
        Some(Arc::clone(&state.jobs.get(&job)?.log))
    }

    /// Forgets a job, and ends it if it has not ended. Returns whether there was one.
    pub(crate) fn delete(&self, service: &str, name: &str) -> bool {
        let mut state = self.lock();
        let found = state.find(service, name);
        found.is_some_and(|sequence| state.remove(sequence))
    }

    /// Forgets all jobs of a service, or those that succeeded.
    pub(crate) fn delete_all(&self, service: &str, only_succeeded: bool) {
        let mut state = self.lock();
        let is_meant = |job: &Job| {
            job.service == service && (!only_succeeded || job.status == Status::Succeeded)
        };
        let meant: Vec<u64> = state
            .jobs
            .iter()
            .filter(|(_, job)| is_meant(job))
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in meant {
            state.remove(sequence);
        }
    }

    /// Returns how many jobs there are in each state.
    pub(crate) fn counts(&self) -> [(Status, usize); 4] {
        let state = self.lock();
        [
            Status::Pending,
            Status::Running,
            Status::Succeeded,
            Status::Failed,
        ]
        .map(|status| {
            let jobs = state.jobs.values();
            (status, jobs.filter(|job| job.status == status).count())
        })
    }

    /// Ends the jobs that have not ended, and says how many.
    pub(crate) fn close(&self) {
        let state = self.lock();
        for job in state.jobs.values() {
            if let Some(task) = &job.task {
                task.abort();
            }
        }
        if state.n_unfinished > 0 {
            tracing::warn!(
                jobs = state.n_unfinished,
                "jobs that had not ended were given up: they are not kept on the disk yet"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn find(&self, service: &str, name: &str) -> Option<u64> {
        let is_meant = |job: &Job| job.name == name && job.service == service;
        let found = self.jobs.iter().find(|(_, job)| is_meant(job));
        found.map(|(sequence, _)| *sequence)
    }

    fn remove(&mut self, sequence: u64) -> bool {
        let Some(job) = self.jobs.remove(&sequence) else {
            return false;
        };
        self.log_bytes -= job.log.len();
        if let Some(task) = &job.task {
            task.abort();
            self.n_unfinished -= 1;
        }
        true
    }

    /// Forgets the oldest that have ended, where there are too many.
    fn forget_old(&mut self) {
        while self.jobs.len() - self.n_unfinished > MAX_FINISHED || self.log_bytes > MAX_LOG_BYTES {
            let mut finished = self.jobs.iter().filter(|(_, job)| job.finished.is_some());
            let Some((&oldest, _)) = finished.next() else {
                return;
            };
            self.remove(oldest);
        }
    }
}

#[cfg(test)]
mod tests;
