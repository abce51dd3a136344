//! How urgent a thread is: who runs batches, and who does what nobody waits for.

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use workers_protocol::InferError;

/// The lowest priority that there is: such a thread gets what the others leave, some 1.5 % of a core
/// beside one that is always busy (`sched(7)`).
const NICE: i32 = 19;

/// A little less than the priority of the gateway, of the wire, and of what decodes pictures and draws
/// them, which need little and are waited for by all: where more want to run than there are cores, each
/// of them gets twice as much as a thread of this.
const RUNS: i32 = 3;

/// Makes this thread, and those that it starts, such that runs batches: it is there whenever the others
/// have nothing to do. A gateway that gets no processor neither refuses nor feeds its workers in time.
pub(crate) fn give_way() {
    // On Linux a thread's own. Denied, it is as any other.
    let _ = rustix::process::nice(RUNS);
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
            .on_thread_start(|| {
                // On Linux a thread's own. Denied, it is as any other.
                let _ = rustix::process::nice(NICE);
            })
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
