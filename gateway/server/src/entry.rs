//! One request on its way through the scheduler, and the ticket that its handler holds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gateway_scheduler::Course;
use tokio::sync::oneshot;
use workers_protocol::wire::Answer;
use workers_protocol::{Code, InferError, PictureOptions, Tensor, TraceContext};

use crate::budget::Reservation;
use crate::poison::Poison;

/// A request that was admitted: what to send, and where its reply goes.
///
/// Shared between the scheduler, which orders it, and the replica that it is sent to; the bytes are
/// kept until the answer, so that another replica can be asked when one dies.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) options: PictureOptions,
    pub(crate) deadline: Deadline,
    pub(crate) offered: Instant,
    /// Where it is noted if it ends the workers that it is given to.
    pub(crate) poison: Arc<Poison>,
    /// Its span, if it is of a trace.
    pub(crate) trace: Option<TraceContext>,
    reply: Mutex<Option<oneshot::Sender<Outcome>>>,
    /// Room in the budget of bytes in flight, given back with the last reference.
    _reservation: Arc<Reservation>,
}

/// When a caller stops waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    /// How long it was, for the sentence that says that it passed.
    pub(crate) after: Duration,
}

impl Deadline {
    /// Returns the deadline this long from now. An absurdly long one is as good as a year.
    pub(crate) fn after(after: Duration) -> Self {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        Self {
            at: Instant::now() + after.min(YEAR),
            after,
        }
    }

    /// Returns what a caller hears whose deadline passed.
    pub(crate) fn passed(&self) -> InferError {
        let ms = self.after.as_millis();
        InferError::new(
            Code::DeadlineExceeded,
            format!("the deadline of {ms} ms passed"),
        )
    }
}

/// What a handler hears.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) result: Result<Answer, InferError>,
    /// How long the entry waited for a replica that was starting.
    pub(crate) cold: Duration,
    /// When it went from place to place, if it ran.
    pub(crate) course: Option<Course>,
}

impl Outcome {
    pub(crate) fn failed(error: InferError) -> Self {
        Self {
            result: Err(error),
            cold: Duration::ZERO,
            course: None,
        }
    }
}

impl Entry {
    pub(crate) fn new(
        inputs: Vec<Tensor>,
        options: PictureOptions,
        deadline: Deadline,
        reservation: Arc<Reservation>,
        poison: Arc<Poison>,
        trace: Option<TraceContext>,
    ) -> (Arc<Self>, oneshot::Receiver<Outcome>) {
        let (reply, outcome) = oneshot::channel();
        let entry = Self {
            inputs,
            options,
            deadline,
            offered: Instant::now(),
            poison,
            trace,
            reply: Mutex::new(Some(reply)),
            _reservation: reservation,
        };
        (Arc::new(entry), outcome)
    }

    /// Gives the handler its outcome; only the first counts.
    pub(crate) fn reply(
        &self,
        result: Result<Answer, InferError>,
        cold: Duration,
        course: Option<Course>,
    ) {
        let reply = self
            .reply
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(reply) = reply {
            // The handler may have left meanwhile.
            let _ = reply.send(Outcome {
                result,
                cold,
                course,
            });
        }
    }

    /// Bytes of all inputs.
    pub(crate) fn bytes(&self) -> usize {
        self.inputs.iter().map(|input| input.data.len()).sum()
    }
}
