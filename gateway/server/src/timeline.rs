//! Where the time of a request went, as `Server-Timing` says it.

use std::time::Duration;

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
}

impl Timeline {
    /// What the worker did not spend and no start explains was spent waiting.
    pub(crate) fn new(total: Duration, cold: Duration, timing: &Timing) -> Self {
        let cold = cold.min(total);
        let worked = timing.decode + timing.infer + timing.post;
        Self {
            total,
            queue: total.saturating_sub(cold).saturating_sub(worked),
            cold,
        }
    }

    /// Returns the header's value (W3C Server Timing): milliseconds, and the batch's size.
    pub(crate) fn header(&self, timing: &Timing) -> HeaderValue {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let value = format!(
            "queue;dur={:.3}, cold;dur={:.3}, decode;dur={:.3}, infer;dur={:.3}, post;dur={:.3}, batch;desc=\"{}\"",
            ms(self.queue),
            ms(self.cold),
            ms(timing.decode),
            ms(timing.infer),
            ms(timing.post),
            timing.batch_size
        );
        // Digits and the punctuation above: always a header value.
        HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""))
    }
}
