//! One stream of requests: entries arrive, are staged, wait to be named, and are answered.
//!
//! The session is the only owner of an entry until it is named; then the entry goes to an instance
//! together with its [`Reply`]. Nothing here blocks for long: decoding is on the blocking pool, and
//! only runs too short to be worth another thread are not on the instances' own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::task::{AbortHandle, JoinHandle};
use tonic::Streaming;
use workers_protocol::oip::ModelInferRequest;
use workers_protocol::wire::{Command, Entry, Event, Part};
use workers_protocol::{Code, InferError};

use crate::instance::{Batch, BatchEntry, Traced, caught};
use crate::model::{Model, Staged};
use crate::reply::{Events, Reply};

/// Events on their way out; when it is full the session waits for the gateway to read.
pub(crate) const EVENTS: usize = 256;

/// The state of one stream.
pub(crate) struct Session {
    model: Arc<Model>,
    events: Events,
    entries: HashMap<String, State>,
    staging: FuturesUnordered<JoinHandle<StagingDone>>,
    tickets: u64,
}

/// ```text
/// Receiving → Staging → Waiting → (named: leaves the session)
/// ```
/// A forgotten entry leaves from anywhere; staging that is under way then ends unheard.
enum State {
    Receiving {
        entry: Entry,
        buffers: Vec<BytesMut>,
        missing_bytes: u64,
        deadline: Option<Instant>,
    },
    Staging {
        ticket: u64,
        runs_at_once: bool,
        deadline: Option<Instant>,
        /// Of work on the blocking pool.
        abort: Option<AbortHandle>,
    },
    Waiting(BatchEntry),
}

struct StagingDone {
    id: String,
    /// Tells this staging from an earlier one of the same id that was forgotten.
    ticket: u64,
    result: Result<Staged, InferError>,
    is_reported: bool,
    trace: Option<Traced>,
}

impl Session {
    pub(crate) fn new(model: Arc<Model>, events: Events) -> Self {
        Self {
            model,
            events,
            entries: HashMap::new(),
            staging: FuturesUnordered::new(),
            tickets: 0,
        }
    }

    /// Serves the stream until the other side closes it.
    pub(crate) async fn serve(mut self, mut requests: Streaming<ModelInferRequest>) {
        loop {
            tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.receive(request).await,
                    // Closed, or broken, which is no different to us: what is held is dropped.
                    Ok(None) | Err(_) => return,
                },
                Some(done) = self.staging.next(), if !self.staging.is_empty() => {
                    // Staging catches its own panics; a join error is work that was forgotten.
                    if let Ok(done) = done {
                        self.staged(done).await;
                    }
                }
            }
        }
    }

    async fn receive(&mut self, request: ModelInferRequest) {
        match Command::from_message(request) {
            Ok(Command::Entry(entry)) => self.begin(entry).await,
            Ok(Command::Part(part)) => self.receive_part(part).await,
            Ok(Command::Run(ids)) => self.run(&ids).await,
            Ok(Command::Forget(ids)) => ids.iter().for_each(|id| self.forget(id)),
            Err((id, error)) => self.answer(id, error).await,
        }
    }

    /// Nothing is answered: the same id may have been sent again already.
    fn forget(&mut self, id: &str) {
        match self.entries.remove(id) {
            Some(State::Waiting(entry)) => entry.reply.discard(),
            // Spares the work if no thread has begun it.
            Some(State::Staging {
                abort: Some(abort), ..
            }) => abort.abort(),
            _ => {}
        }
    }

    async fn answer(&self, id: String, error: InferError) {
        self.send(Event::Answer {
            id,
            result: Err(error),
        })
        .await;
    }

    async fn send(&self, event: Event) {
        // A closed channel is a gateway that left; the session ends with its stream.
        let _ = self.events.send(vec![event]).await;
    }

    async fn begin(&mut self, entry: Entry) {
        let deadline = entry.timeout.map(|timeout| Instant::now() + timeout);
        if self.entries.contains_key(&entry.id) {
            let error = InferError::invalid(format!("id `{}` is in flight already", entry.id));
            return self.answer(entry.id, error).await;
        }
        // A gateway keeps to its credits; whoever does not is refused before memory runs out.
        let credits = self.model.credits();
        if self.entries.len().max(self.staging.len()) >= 2 * credits.stage_entries as usize {
            let error = InferError::new(
                Code::Overloaded,
                format!("{} entries are staged already", self.entries.len()),
            );
            return self.answer(entry.id, error).await;
        }
        match entry.parts_bytes {
            Some(bytes) if bytes > credits.stage_bytes => {
                let limit = credits.stage_bytes;
                self.answer(
                    entry.id,
                    InferError::too_large(format!("{bytes} bytes, expected at most {limit}")),
                )
                .await;
            }
            Some(missing_bytes) => {
                let buffers = entry.inputs.iter().map(|_| BytesMut::new()).collect();
                let id = entry.id.clone();
                self.entries.insert(
                    id,
                    State::Receiving {
                        entry,
                        buffers,
                        missing_bytes,
                        deadline,
                    },
                );
            }
            None => self.stage(entry, deadline).await,
        }
    }

    async fn receive_part(&mut self, part: Part) {
        // Parts of an entry that was forgotten or refused may still be on their way.
        let Some(State::Receiving {
            buffers,
            missing_bytes,
            ..
        }) = self.entries.get_mut(&part.id)
        else {
            return;
        };
        let size = part.data.len() as u64;
        let is_only = buffers.len() == 1;
        let buffer = buffers
            .get_mut(part.input_index)
            .filter(|_| size <= *missing_bytes);
        let Some(buffer) = buffer else {
            self.entries.remove(&part.id);
            let error = InferError::invalid("a part goes beyond what its entry announced");
            return self.answer(part.id, error).await;
        };
        if buffer.is_empty() && !part.has_more {
            // The only part of its input: it is the input.
            *buffer = BytesMut::from(part.data);
        } else {
            if buffer.is_empty() && is_only {
                buffer.reserve(usize::try_from(*missing_bytes).unwrap_or(0));
            }
            buffer.extend_from_slice(&part.data);
        }
        *missing_bytes -= size;
        if part.has_more {
            return;
        }
        if let Some(State::Receiving {
            mut entry,
            buffers,
            deadline,
            ..
        }) = self.entries.remove(&part.id)
        {
            for (input, buffer) in entry.inputs.iter_mut().zip(buffers) {
                input.data = buffer.freeze();
            }
            self.stage(entry, deadline).await;
        }
    }

    /// Stages an entry whose bytes are all there: tensors that came in one message at once, the
    /// rest on the blocking pool.
    async fn stage(&mut self, entry: Entry, deadline: Option<Instant>) {
        let model = Arc::clone(&self.model);
        let (id, runs_at_once) = (entry.id.clone(), !entry.stage_only);
        self.tickets += 1;
        let ticket = self.tickets;
        self.entries.insert(
            id.clone(),
            State::Staging {
                ticket,
                runs_at_once,
                deadline,
                abort: None,
            },
        );
        if !model.stages_pictures() && entry.parts_bytes.is_none() {
            let (result, trace) = stage(&model, entry);
            return self
                .staged(StagingDone {
                    id,
                    ticket,
                    result,
                    is_reported: false,
                    trace,
                })
                .await;
        }
        let (key, is_bulk) = (id.clone(), entry.is_bulk);
        let stager = Arc::clone(&model);
        let work = move || {
            let (result, trace) = stage(&stager, entry);
            StagingDone {
                id,
                ticket,
                result,
                is_reported: !runs_at_once,
                trace,
            }
        };
        let work = match is_bulk {
            true => model.quiet().spawn(work),
            false => tokio::task::spawn_blocking(work),
        };
        if let Some(State::Staging { abort, .. }) = self.entries.get_mut(&key) {
            *abort = Some(work.abort_handle());
        }
        self.staging.push(work);
    }

    async fn staged(&mut self, done: StagingDone) {
        let (runs_at_once, deadline) = match self.entries.get(&done.id) {
            Some(State::Staging {
                ticket,
                runs_at_once,
                deadline,
                ..
            }) if *ticket == done.ticket => (*runs_at_once, *deadline),
            // Forgotten meanwhile, and perhaps sent again.
            _ => return,
        };
        self.entries.remove(&done.id);
        let staged = match done.result {
            Ok(staged) => staged,
            Err(error) => return self.answer(done.id, error).await,
        };
        let bucket = staged.bucket();
        let reply = Reply::new(done.id.clone(), self.events.clone());
        let entry = BatchEntry {
            staged,
            reply,
            deadline,
            trace: done.trace,
        };
        if runs_at_once {
            return self.submit(done.id, vec![entry]).await;
        }
        self.entries.insert(done.id.clone(), State::Waiting(entry));
        if done.is_reported {
            self.send(Event::Staged {
                id: done.id,
                bucket,
            })
            .await;
        }
    }

    async fn run(&mut self, ids: &[String]) {
        let mut batch = Vec::with_capacity(ids.len());
        for id in ids {
            match self.entries.remove(id) {
                Some(State::Waiting(entry)) => batch.push(entry),
                // Named before it was reported: a gateway does not do that.
                Some(other) => {
                    self.entries.insert(id.clone(), other);
                }
                // Answered or forgotten meanwhile.
                None => {}
            }
        }
        if let Some(first) = ids.first() {
            self.submit(first.clone(), batch).await;
        }
    }

    /// Hands a batch to the instances. The slot that it was to take is free again at once where
    /// nothing is left of it.
    async fn submit(&self, name: String, entries: Vec<BatchEntry>) {
        if entries.is_empty() {
            return self
                .send(Event::Free {
                    run: name,
                    infer: Duration::ZERO,
                })
                .await;
        }
        let (name, entries) = match self.model.run_short(name, entries) {
            Ok(events) => {
                let _ = self.events.send(events).await;
                return;
            }
            Err(unrun) => unrun,
        };
        let batch = Batch {
            name,
            entries,
            events: self.events.clone(),
        };
        if let Err(batch) = self.model.submit(batch) {
            let refusal = |entry: BatchEntry| {
                let error = InferError::new(
                    Code::Overloaded,
                    "more batches were named than there are slots",
                );
                entry.reply.into_event(Err(error))
            };
            let mut events: Vec<_> = batch.entries.into_iter().map(refusal).collect();
            events.push(Event::Free {
                run: batch.name,
                infer: Duration::ZERO,
            });
            let _ = self.events.send(events).await;
        }
    }
}

/// Prepares an entry's inputs. What is logged meanwhile is of its trace.
fn stage(model: &Model, entry: Entry) -> (Result<Staged, InferError>, Option<Traced>) {
    let trace = entry.trace.map(Traced::begin);
    let _logged = trace.as_ref().map(Traced::enter);
    let result = caught("staging", || model.stage(entry.inputs, entry.options));
    (result, trace)
}
