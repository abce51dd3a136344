//! The way back of one entry; it travels with it.

use tokio::sync::mpsc;
use workers_protocol::InferError;
use workers_protocol::wire::{Answer, Event};

/// Answers one entry, once. Dropped unused, it answers that the entry was lost, so that no caller waits for ever.
pub(crate) struct Reply {
    id: String,
    /// `None` once used.
    events: Option<mpsc::Sender<Event>>,
}

impl Reply {
    pub(crate) fn new(id: String, events: mpsc::Sender<Event>) -> Self {
        Self {
            id,
            events: Some(events),
        }
    }

    /// Answers from a task.
    pub(crate) async fn send(mut self, result: Result<Answer, InferError>) {
        if let Some(events) = self.events.take() {
            // A closed channel is a caller that left.
            let _ = events
                .send(Event::Answer {
                    id: std::mem::take(&mut self.id),
                    result,
                })
                .await;
        }
    }

    /// Answers from a thread of its own, waiting while the caller does not read.
    pub(crate) fn send_blocking(mut self, result: Result<Answer, InferError>) {
        if let Some(events) = self.events.take() {
            let _ = events.blocking_send(Event::Answer {
                id: std::mem::take(&mut self.id),
                result,
            });
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(events) = self.events.take() {
            let result = Err(InferError::internal("the worker dropped the request"));
            // Best effort: a full channel here means that the caller is not reading either.
            let _ = events.try_send(Event::Answer {
                id: std::mem::take(&mut self.id),
                result,
            });
        }
    }
}
