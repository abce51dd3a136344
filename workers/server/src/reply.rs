//! The way back of one entry; it travels with it.

use tokio::sync::mpsc;
use workers_protocol::InferError;
use workers_protocol::wire::{Answer, Event};

/// The way out. What is sent together goes in one write, and wakes the gateway once.
pub(crate) type Events = mpsc::Sender<Vec<Event>>;

/// Answers one entry, once. Dropped unused, it answers that the entry was lost, so that no caller waits for ever.
pub(crate) struct Reply {
    id: String,
    /// `None` once used.
    events: Option<Events>,
}

impl Reply {
    pub(crate) fn new(id: String, events: Events) -> Self {
        Self {
            id,
            events: Some(events),
        }
    }

    /// Returns the answer, for somebody who sends it along with others.
    pub(crate) fn into_event(mut self, result: Result<Answer, InferError>) -> Event {
        self.events = None;
        Event::Answer {
            id: std::mem::take(&mut self.id),
            result,
        }
    }

    /// Drops it without an answer: its caller has gone, or has sent the entry again.
    pub(crate) fn discard(mut self) {
        self.events = None;
    }

    /// Answers from a thread of its own, waiting while the caller does not read.
    pub(crate) fn send_blocking(mut self, result: Result<Answer, InferError>) {
        if let Some(events) = self.events.take() {
            // A closed channel is a caller that left.
            let _ = events.blocking_send(vec![self.into_event(result)]);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(events) = self.events.take() {
            let result = Err(InferError::internal("the worker dropped the request"));
            // Best effort: a full channel here means that the caller is not reading either.
            let _ = events.try_send(vec![Event::Answer {
                id: std::mem::take(&mut self.id),
                result,
            }]);
        }
    }
}
