//! Instances: loaded copies of the model, each with a thread that runs batches on it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Semaphore, mpsc};
use tracing::span::EnteredSpan;
use workers_protocol::transport::MAX_MESSAGE_BYTES;
use workers_protocol::wire::{Answer, Event, MAX_LINKS, Timing, Trail};
use workers_protocol::{Code, InferError, Tensor, TraceContext};

use crate::model::{Finish, Runner, Staged, Work};
use crate::priority;
use crate::reply::{Events, Reply};

/// Entries to run together, and where their slot is given back.
pub(crate) struct Batch {
    /// The first id that was named for it.
    pub(crate) name: String,
    pub(crate) entries: Vec<BatchEntry>,
    pub(crate) events: Events,
}

/// One entry of a batch.
pub(crate) struct BatchEntry {
    pub(crate) staged: Staged,
    pub(crate) reply: Reply,
    pub(crate) deadline: Option<Instant>,
    pub(crate) trace: Option<Traced>,
}

/// What the trace of an entry is to tell of it.
#[derive(Clone, Copy)]
pub(crate) struct Traced {
    context: TraceContext,
    decode: SystemTime,
}

/// A run of which traces are to tell.
struct Run {
    began: SystemTime,
    /// Given to the first entry that is answered, whose trace the run becomes part of.
    links: Vec<TraceContext>,
    span: Option<TraceContext>,
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
    instance: Arc<Mutex<Instance>>,
    batches: Batches,
) -> std::io::Result<()> {
    priority::spawn_run(format!("instance-{index}"), move || {
        // One instance waits in `blocking_recv`, the others for the lock: whoever has it is next.
        while let Some(Batch {
            name,
            entries,
            events,
        }) = next(&batches)
        {
            let mut instance = instance.lock().unwrap_or_else(PoisonError::into_inner);
            let answers = instance.run(name, entries);
            drop(instance);
            // A closed channel is a gateway that left.
            let _ = events.blocking_send(answers);
        }
    })
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

/// One loaded copy of the model. Whoever holds its lock runs on it.
pub(crate) struct Instance {
    runner: Runner,
    post: PostProcessing,
    /// How long a run takes, smoothed; very long until there was one.
    run_time: Duration,
}

/// Where post-processing is done, so that the next batch need not wait for it.
#[derive(Clone)]
pub(crate) struct PostProcessing {
    pub(crate) pool: tokio::runtime::Handle,
    /// How many entries may wait for it at a time. Beyond that an instance waits before it frees its
    /// slot, so that drawing slower than the model runs holds the gateway back, not memory.
    pub(crate) room: Arc<Semaphore>,
}

/// Largest outputs of one entry: they travel in one message.
const MAX_ANSWER_BYTES: usize = MAX_MESSAGE_BYTES - (1 << 20);

/// Runs shorter than this are not worth a thread of their own: handing a batch over and its answers
/// back wakes two threads, some 25 µs each.
const SHORT_RUN: Duration = Duration::from_micros(100);

// === impl Traced ===

impl Traced {
    pub(crate) fn begin(context: TraceContext) -> Self {
        Self {
            context,
            decode: SystemTime::now(),
        }
    }

    /// Has what this thread logs name the trace.
    pub(crate) fn enter(&self) -> EnteredSpan {
        let TraceContext {
            trace_id, span_id, ..
        } = self.context;
        tracing::error_span!("entry", %trace_id, %span_id).entered()
    }
}

// === impl Run ===

impl Run {
    /// Begins a run of these, `None` where no trace of theirs is recorded.
    fn new(entries: &[BatchEntry]) -> Option<Self> {
        let traces = entries.iter().filter_map(|entry| entry.trace);
        let sampled = traces.filter(|trace| trace.context.is_sampled);
        let links: Vec<_> = sampled.map(|trace| trace.context).take(MAX_LINKS).collect();
        (!links.is_empty()).then(|| Self {
            began: SystemTime::now(),
            links,
            span: None,
        })
    }

    /// Returns what an entry's trace is told.
    fn trail(&mut self, trace: Traced) -> Option<Box<Trail>> {
        let Traced { context, decode } = trace;
        context.is_sampled.then(|| {
            Box::new(Trail {
                decode,
                infer: self.began,
                post: self.began,
                run: *self.span.get_or_insert_with(|| context.child()),
                links: std::mem::take(&mut self.links),
            })
        })
    }
}

// === impl Instance ===

impl Instance {
    pub(crate) const fn new(runner: Runner, post: PostProcessing) -> Self {
        Self {
            runner,
            post,
            run_time: Duration::MAX,
        }
    }

    /// Whether the thread of the wire can run a batch itself, and neither be missed there nor wait
    /// for room to post-process.
    pub(crate) fn is_short(&self) -> bool {
        matches!(self.runner, Runner::Tensors(_)) && self.run_time < SHORT_RUN
    }

    /// Runs a batch; returns the events that tell of it.
    pub(crate) fn run(&mut self, name: String, entries: Vec<BatchEntry>) -> Vec<Event> {
        // What is not caught inside is a thread that can't be made, or a bug of ours: without its
        // instance the worker is of no use, and the gateway starts another.
        catch_unwind(AssertUnwindSafe(|| self.run_batch(name, entries)))
            .unwrap_or_else(|_| std::process::abort())
    }

    fn run_batch(&mut self, name: String, entries: Vec<BatchEntry>) -> Vec<Event> {
        let now = Instant::now();
        let (live, late): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .partition(|entry| entry.deadline.is_none_or(|deadline| deadline > now));
        let mut events = Vec::with_capacity(live.len() + late.len() + 1);
        for entry in late {
            let error = InferError::new(
                Code::DeadlineExceeded,
                "the deadline passed before the batch ran",
            );
            events.push(entry.reply.into_event(Err(error)));
        }
        let mut run = Run::new(&live);
        let (staged, replies): (Vec<_>, Vec<_>) = live
            .into_iter()
            .map(|entry| (entry.staged, (entry.reply, entry.trace)))
            .unzip();
        let batch_size = staged.iter().map(Staged::items).sum();
        let (results, infer) = if staged.is_empty() {
            (Vec::new(), Duration::ZERO)
        } else {
            self.infer(&staged)
        };

        // The slot is free before anything is post-processed, but for what there is no room.
        events.push(Event::Free { run: name, infer });
        let mut later = Vec::new();
        for ((staged, (reply, trace)), result) in staged.into_iter().zip(replies).zip(results) {
            let timing = Timing {
                decode: staged.decode_time(),
                infer,
                batch_size,
                ..Timing::default()
            };
            match result {
                Err(error) => events.push(reply.into_event(Err(error))),
                Ok(finish) => {
                    let trail = run
                        .as_mut()
                        .zip(trace)
                        .and_then(|(run, trace)| run.trail(trace));
                    match finish {
                        Finish::Done(outputs) => {
                            events.push(reply.into_event(answer(outputs, timing, trail)));
                        }
                        Finish::Later(work) => later.push((work, reply, timing, trace, trail)),
                    }
                }
            }
        }
        for (work, reply, timing, trace, trail) in later {
            let room = Arc::clone(&self.post.room).acquire_owned();
            // The semaphore is never closed.
            let room = self.post.pool.block_on(room);
            self.post.pool.spawn_blocking(move || {
                post_process(work, reply, timing, trace, trail);
                drop(room);
            });
        }
        events
    }

    /// Runs the batch; where that fails and there are several, each alone, so that one entry that
    /// the model can't take fails alone.
    fn infer(&mut self, staged: &[Staged]) -> (Vec<Result<Finish, InferError>>, Duration) {
        let began = Instant::now();
        let runner = &mut self.runner;
        let mut results: Vec<_> = match caught("the model", || runner.run(staged)) {
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
        results.resize_with(staged.len(), || {
            Err(InferError::internal("the model gave no answer"))
        });
        let infer = began.elapsed();
        self.run_time = if self.run_time == Duration::MAX {
            infer
        } else {
            (self.run_time * 7 + infer) / 8
        };
        (results, infer)
    }
}

fn post_process(
    work: Work,
    reply: Reply,
    mut timing: Timing,
    trace: Option<Traced>,
    mut trail: Option<Box<Trail>>,
) {
    let began = Instant::now();
    if let Some(trail) = &mut trail {
        trail.post = SystemTime::now();
    }
    let _logged = trace.as_ref().map(Traced::enter);
    let result = caught("post-processing", work).and_then(|outputs| {
        timing.post = began.elapsed();
        answer(outputs, timing, trail)
    });
    reply.send_blocking(result);
}

fn answer(
    outputs: Vec<Tensor>,
    timing: Timing,
    trail: Option<Box<Trail>>,
) -> Result<Answer, InferError> {
    let bytes: usize = outputs.iter().map(|output| output.data.len()).sum();
    if bytes > MAX_ANSWER_BYTES {
        return Err(InferError::too_large(format!(
            "the outputs have {bytes} bytes, a worker answers at most {MAX_ANSWER_BYTES}"
        )));
    }
    Ok(Answer {
        outputs,
        timing,
        trail,
    })
}
