//! The stream of messages to one worker, made as they are written.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::Stream;
use gateway_scheduler::{Class, Key};
use tokio::sync::mpsc;
use workers_protocol::oip::ModelInferRequest;
use workers_protocol::wire::{self, PART_BYTES};

use crate::dispatcher::Outgoing;
use crate::entry::Entry;

/// Parts of a large entry that are still to be sent.
type Parts = Box<dyn Iterator<Item = ModelInferRequest> + Send>;

/// What goes to a worker: what is ready goes before the next part of a large entry, so a run
/// message waits behind one part at most. Large entries take turns, part by part.
///
/// A part is made when the connection has room for it, so of a large entry only one part at a time
/// exists twice.
pub(crate) struct Outbox {
    outgoing: mpsc::Receiver<Outgoing>,
    large: VecDeque<(Key, Parts)>,
}

impl Outbox {
    pub(crate) fn new(outgoing: mpsc::Receiver<Outgoing>) -> Self {
        Self {
            outgoing,
            large: VecDeque::new(),
        }
    }

    /// Returns the message for this, or queues it where it is large.
    fn message(&mut self, outgoing: Outgoing) -> Option<ModelInferRequest> {
        match outgoing {
            Outgoing::Run(batch) => Some(wire::run_message(batch.into_iter().map(Key::to_bits))),
            Outgoing::Forget(key) => {
                self.large.retain(|(large, _)| *large != key);
                Some(wire::forget_message(std::iter::once(key.to_bits())))
            }
            Outgoing::Stage(key, class, entry) => {
                let is_large = entry.bytes() > PART_BYTES;
                let mut messages = to_wire(key, class, &entry).into_messages();
                if is_large {
                    self.large.push_back((key, Box::new(messages)));
                    None
                } else {
                    messages.next()
                }
            }
        }
    }

    fn next_part(&mut self) -> Option<ModelInferRequest> {
        let (key, mut parts) = self.large.pop_front()?;
        let part = parts.next();
        if part.is_some() {
            self.large.push_back((key, parts));
        }
        part
    }
}

impl Stream for Outbox {
    type Item = ModelInferRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ModelInferRequest>> {
        let this = self.get_mut();
        loop {
            let polled = this.outgoing.poll_recv(cx);
            if let Poll::Ready(Some(outgoing)) = polled {
                match this.message(outgoing) {
                    Some(message) => return Poll::Ready(Some(message)),
                    None => continue,
                }
            }
            if let Poll::Ready(None) = polled {
                return Poll::Ready(None);
            }
            while !this.large.is_empty() {
                if let Some(part) = this.next_part() {
                    return Poll::Ready(Some(part));
                }
            }
            return Poll::Pending;
        }
    }
}

fn to_wire(key: Key, class: Class, entry: &Entry) -> wire::Entry {
    wire::Entry {
        id: key.to_bits().to_string(),
        inputs: entry.inputs.clone(),
        options: entry.options.clone(),
        // On the wire 0 is no deadline.
        timeout: Some(
            entry
                .deadline
                .at
                .saturating_duration_since(Instant::now())
                .max(Duration::from_micros(1)),
        ),
        stage_only: true,
        is_bulk: class == Class::Bulk,
        parts_bytes: None,
        trace: entry.trace,
    }
}
