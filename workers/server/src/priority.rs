//! How urgent a thread is: who runs batches, and who does what nobody waits for.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use workers_protocol::InferError;

/// What runs batches is this much nicer than what decodes and draws, carries messages and refuses,
/// which need little and are waited for by all: where more want to run than there are cores, each of
/// those gets nearly four times as much. A gateway that gets no processor neither refuses nor feeds its
/// workers in time.
const RUN_NICE: i32 = 6;

/// The lowest priority that there is: such a thread gets what the others leave, some 3 % of a core
/// beside one that always runs batches (`sched(7)`).
const QUIET_NICE: i32 = 19;

/// How long a thread that decodes and draws lives without work: longer than the worker.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Starts a thread that runs batches, or loads what runs them: ONNX Runtime's own threads take the
/// priority of the one that loads.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn spawn_run(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name);
    thread.spawn(|| {
        give_way(RUN_NICE);
        run();
    })?;
    Ok(())
}

/// Lowers the priority of this thread, on Linux, and of those that it starts. Denied, it is as any other.
pub(crate) fn give_way(nice: i32) {
    let _ = rustix::process::nice(nice);
}

/// Returns a runtime of one thread for messages and so many that decode and draw. These are started
/// here: later it would be a thread that runs batches which starts them, and they would be as nice.
///
/// # Errors
/// When the system gives no runtime.
pub(crate) fn runtime(n_threads: usize) -> io::Result<Runtime> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(n_threads)
        .thread_keep_alive(FOREVER)
        .build()?;
    let starting = Arc::new(Mutex::new(()));
    // While none can end, each needs a thread of its own.
    let held = starting.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..n_threads {
        let starting = Arc::clone(&starting);
        runtime.spawn_blocking(move || drop(starting.lock()));
    }
    drop(held);
    Ok(runtime)
}

/// A pool of threads of the lowest priority.
pub(crate) struct Quiet(Option<Runtime>);

impl Quiet {
    /// Returns a pool of so many threads at most, which are started when there is work.
    ///
    /// # Errors
    /// When the system gives no runtime.
    pub(crate) fn new(threads: usize) -> Result<Self, InferError> {
        Builder::new_current_thread()
            .max_blocking_threads(threads)
            .on_thread_start(|| give_way(QUIET_NICE))
            .build()
            .map(|runtime| Self(Some(runtime)))
            .map_err(|error| InferError::internal(format!("no threads for bulk: {error}")))
    }

    /// Runs this on one of the threads, when one is free.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        match &self.0 {
            Some(runtime) => runtime.spawn_blocking(work),
            // It is there until it is dropped.
            None => tokio::task::spawn_blocking(work),
        }
    }
}

impl Drop for Quiet {
    /// Waits for nothing: a runtime that is dropped otherwise may wait for its threads.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
