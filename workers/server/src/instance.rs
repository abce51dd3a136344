//! The instance thread: owns one loaded copy of the model and runs batches on it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use workers_protocol::wire::{Answer, Event, Timing};
use workers_protocol::{Code, InferError};

use crate::model::{Finish, Runner, Staged};
use crate::reply::Reply;

/// Entries to run together, and where their slot is given back.
pub(crate) struct Batch {
    pub(crate) entries: Vec<BatchEntry>,
    pub(crate) events: mpsc::Sender<Event>,
}

/// One entry of a batch.
pub(crate) struct BatchEntry {
    pub(crate) staged: Staged,
    pub(crate) reply: Reply,
    pub(crate) deadline: Option<Instant>,
}

/// Batches waiting for an instance. The gateway names no more than there are slots, so one waiting
/// batch per slot is already more than it should send.
pub(crate) type Batches = Arc<Mutex<mpsc::Receiver<Batch>>>;

/// Starts the thread of one instance. It ends when the sender of batches is dropped.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn spawn(
    index: usize,
    runner: Runner,
    batches: Batches,
    pool: tokio::runtime::Handle,
) -> std::io::Result<()> {
    let mut instance = Instance { runner, pool };
    std::thread::Builder::new()
        .name(format!("instance-{index}"))
        .spawn(move || {
            // One instance waits in `blocking_recv`, the others for the lock: whoever has it is next.
            while let Some(batch) = next(&batches) {
                instance.run(batch);
            }
        })?;
    Ok(())
}

fn next(batches: &Batches) -> Option<Batch> {
    batches
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .blocking_recv()
}

/// Runs something of the model's, turning a panic into an error: the one place where that is done.
pub(crate) fn caught<T>(
    what: &str,
    run: impl FnOnce() -> Result<T, InferError>,
) -> Result<T, InferError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let reason = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no reason given");
        tracing::error!(what, reason, "panic");
        Err(InferError::internal(format!(
            "{what} panicked; the worker's log says why"
        )))
    })
}

struct Instance {
    runner: Runner,
    /// Where post-processing is done, so that the next batch need not wait for it.
    pool: tokio::runtime::Handle,
}

impl Instance {
    fn run(&mut self, batch: Batch) {
        let now = Instant::now();
        let (live, late): (Vec<_>, Vec<_>) = batch
            .entries
            .into_iter()
            .partition(|entry| entry.deadline.is_none_or(|deadline| deadline > now));
        for entry in late {
            let error = InferError::new(
                Code::DeadlineExceeded,
                "the deadline passed before the batch ran",
            );
            entry.reply.send_blocking(Err(error));
        }
        let (staged, replies): (Vec<_>, Vec<_>) = live
            .into_iter()
            .map(|entry| (entry.staged, entry.reply))
            .unzip();
        let batch_size = staged.iter().map(Staged::items).sum();
        let (results, infer) = if staged.is_empty() {
            (Vec::new(), Duration::ZERO)
        } else {
            self.infer(&staged)
        };

        // The slot is free before anything is post-processed. A closed channel is a gateway that left.
        let _ = batch.events.blocking_send(Event::Free(1));
        for ((staged, reply), result) in staged.into_iter().zip(replies).zip(results) {
            let timing = Timing {
                decode: staged.decode_time(),
                infer,
                batch_size,
                ..Timing::default()
            };
            self.finish(reply, result, timing);
        }
    }

    /// Runs the batch; where that fails and there are several, each alone, so that one entry that
    /// the model can't take fails alone.
    fn infer(&mut self, staged: &[Staged]) -> (Vec<Result<Finish, InferError>>, Duration) {
        let began = Instant::now();
        let runner = &mut self.runner;
        let results = match caught("the model", || runner.run(staged)) {
            Ok(finishes) => finishes.into_iter().map(Ok).collect(),
            Err(error) if staged.len() == 1 => vec![Err(error)],
            Err(_) => staged
                .iter()
                .map(|one| {
                    let finishes = caught("the model", || runner.run(std::slice::from_ref(one)))?;
                    finishes
                        .into_iter()
                        .next()
                        .ok_or_else(|| InferError::internal("the model gave no answer"))
                })
                .collect(),
        };
        (results, began.elapsed())
    }

    fn finish(&self, reply: Reply, result: Result<Finish, InferError>, mut timing: Timing) {
        match result {
            Err(error) => reply.send_blocking(Err(error)),
            Ok(Finish::Done(outputs)) => {
                reply.send_blocking(Ok(Answer { outputs, timing }));
            }
            Ok(Finish::Later(work)) => {
                self.pool.spawn_blocking(move || {
                    let began = Instant::now();
                    let result = caught("post-processing", work).map(|outputs| {
                        timing.post = began.elapsed();
                        Answer { outputs, timing }
                    });
                    reply.send_blocking(result);
                });
            }
        }
    }
}
