//! Spare workers: started ahead, so that a cold start is no more than the loading of a model.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use workers_protocol::Assignment;

use super::Worker;
use crate::config::WorkerOptions;

/// The pool is filled again as long after a start as that took, at most this long: what a worker was
/// started for, its first run, needs the cores too.
const LONGEST_FILL_DELAY: Duration = Duration::from_secs(1);

/// Wait after a spare has ended by itself or could not be started, doubled up to the longest.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Starts workers, and keeps some spare.
#[derive(Debug)]
pub(crate) struct Pool {
    options: Arc<WorkerOptions>,
    /// How many are kept.
    size: usize,
    state: Mutex<State>,
    /// Notified when the last start that was under way is over.
    refill: Notify,
}

#[derive(Debug, Default)]
struct State {
    spares: Vec<Worker>,
    n_starting: usize,
    /// How long the last start took.
    took: Duration,
}

/// A worker that was assigned a version, on its way to being ready.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) worker: Worker,
    /// It was started ahead.
    pub(crate) is_spare: bool,
    pub(crate) starting: Starting,
}

/// Held while a worker gets ready: meanwhile no spares are started, which would compete with it for
/// the cores.
#[derive(Debug)]
pub(crate) struct Starting {
    pool: Arc<Pool>,
    since: Instant,
}

// === impl Pool ===

impl Pool {
    /// Returns a pool without spares; [`Pool::keep`] starts them.
    pub(crate) fn new(options: Arc<WorkerOptions>, size: usize) -> Arc<Self> {
        Arc::new(Self {
            options,
            size,
            state: Mutex::default(),
            refill: Notify::new(),
        })
    }

    pub(crate) fn options(&self) -> &WorkerOptions {
        &self.options
    }

    /// Gives an assignment to a spare, or to a worker that is started now.
    ///
    /// # Errors
    /// When no process can be started, or the assignment is none that can be sent.
    pub(crate) fn start(self: &Arc<Self>, assignment: &Assignment) -> anyhow::Result<Start> {
        let line = assignment.to_line()?;
        self.lock().n_starting += 1;
        let starting = Starting {
            pool: Arc::clone(self),
            since: Instant::now(),
        };
        loop {
            let spare = self.lock().spares.pop();
            let is_spare = spare.is_some();
            let worker = match spare {
                Some(spare) => spare,
                None => Worker::start(&self.options)?,
            };
            match worker.assign(&line) {
                Ok(()) => {
                    return Ok(Start {
                        worker,
                        is_spare,
                        starting,
                    });
                }
                Err(error) if is_spare => {
                    tracing::warn!(pid = worker.pid(), %error, "a spare worker has ended");
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Keeps the pool filled for as long as it is polled.
    ///
    /// # Errors
    /// When the system does not tell of processes that end.
    pub(crate) async fn keep(self: Arc<Self>) -> std::io::Result<()> {
        let mut ended = signal(SignalKind::child())?;
        let mut wait = SHORTEST_WAIT;
        loop {
            if let Err(error) = self.fill() {
                tracing::warn!(error = format!("{error:#}"), "fewer spare workers");
                tokio::time::sleep(wait).await;
                wait = (2 * wait).min(LONGEST_WAIT);
                continue;
            }
            tokio::select! {
                _ = ended.recv() => {}
                () = self.refill.notified() => {
                    wait = SHORTEST_WAIT;
                    let took = self.lock().took;
                    tokio::time::sleep(took.min(LONGEST_FILL_DELAY)).await;
                }
            }
        }
    }

    /// Starts what is missing, unless a worker is getting ready just now.
    ///
    /// # Errors
    /// When a process can't be started, or some have ended by themselves: those are not replaced at
    /// once.
    fn fill(&self) -> anyhow::Result<()> {
        let mut state = self.lock();
        let n_before = state.spares.len();
        state.spares.retain_mut(Worker::is_running);
        let n_ended = n_before - state.spares.len();
        anyhow::ensure!(n_ended == 0, "{n_ended} ended by themselves");
        while state.n_starting == 0 && state.spares.len() < self.size {
            let spare = Worker::start(&self.options)?;
            tracing::info!(pid = spare.pid(), "spare worker started");
            state.spares.push(spare);
        }
        Ok(())
    }

    /// Ends the spares. [`Pool::keep`] must not be running any more.
    pub(crate) async fn close(&self) {
        let spares = std::mem::take(&mut self.lock().spares);
        join_all(spares.into_iter().map(Worker::end)).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.n_starting -= 1;
        state.took = self.since.elapsed();
        if state.n_starting == 0 {
            self.pool.refill.notify_one();
        }
    }
}
