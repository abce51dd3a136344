//! Where the time of a request went, as `Server-Timing` says it.

use std::fmt::Write as _;
use std::time::Duration;

use gateway_scheduler::{BatchLimit, Course};
use http::HeaderValue;
use workers_protocol::wire::Timing;

/// Where the time of one entry went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timeline {
    /// From the offer to the answer.
    pub(crate) total: Duration,
    /// Of that, waiting for room, for a slot, and on the wire.
    pub(crate) queue: Duration,
    /// Of that, waiting for a worker to start.
    pub(crate) cold: Duration,
    /// Of `queue`, waiting for room at a worker.
    pub(crate) room: Duration,
    /// Of `queue`, ready at a worker and waiting for a slot.
    pub(crate) slot: Duration,
    /// Why its batch was no larger, if it ran.
    pub(crate) why: Option<BatchLimit>,
}

impl Timeline {
    /// What the worker did not spend and no start explains was spent waiting.
    pub(crate) fn new(
        total: Duration,
        cold: Duration,
        timing: &Timing,
        course: Option<Course>,
    ) -> Self {
        let cold = cold.min(total);
        let worked = timing.decode + timing.infer + timing.post;
        let course = course.unwrap_or_default();
        let room = course.sent.saturating_since(course.offered);
        Self {
            total,
            queue: total.saturating_sub(cold).saturating_sub(worked),
            cold,
            room: room.saturating_sub(cold),
            slot: course.named.saturating_since(course.staged),
            why: course.why,
        }
    }

    /// Returns the header's value (W3C Server Timing): milliseconds; the batch's size and why it was
    /// no larger.
    pub(crate) fn header(&self, timing: &Timing) -> HeaderValue {
        let mut value = String::with_capacity(224);
        for (name, duration) in [
            ("queue", self.queue),
            ("room", self.room),
            ("slot", self.slot),
            ("cold", self.cold),
            ("decode", timing.decode),
            ("infer", timing.infer),
            ("post", timing.post),
        ] {
            // Writing to a String can't fail.
            let _ = write!(value, "{name};dur={:.3}, ", duration.as_secs_f64() * 1e3);
        }
        let _ = write!(value, "batch;desc=\"{}", timing.batch_size);
        if let Some(why) = self.why {
            let _ = write!(value, ": {}", reason(why));
        }
        value.push('"');
        // Letters, digits and the punctuation above: always a header value.
        HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""))
    }
}

/// Returns why a batch was no larger, in words.
pub(crate) const fn reason(why: BatchLimit) -> &'static str {
    match why {
        BatchLimit::Ready => "all that was ready",
        BatchLimit::Max => "the largest allowed",
        BatchLimit::Cost => "more costs more per item",
        BatchLimit::Deadline => "more would be late",
        BatchLimit::Split => "shared among free slots",
        BatchLimit::Probe => "this size is being tried",
        BatchLimit::Bulk => "bulk is kept short",
    }
}
