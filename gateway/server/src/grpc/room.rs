//! Room for what calls send: counted as it comes, before it is kept.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tonic::Status;

use super::status;
use crate::budget::{Budget, Reservation};

/// Room for what a call has sent and nobody has taken over.
#[derive(Clone, Debug)]
pub(super) struct Room {
    budget: Arc<Budget>,
    taken: Arc<Mutex<Reservation>>,
}

/// A body that takes room for each of its frames, and fails where there is none.
struct Counting {
    room: Room,
    body: Body,
}

impl Room {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        let taken = Arc::new(Mutex::new(budget.reservation()));
        Self { budget, taken }
    }

    /// Returns the room of the message that was just read. In a stream the beginning of the next may
    /// be counted with it, and so be given back some time early.
    pub(super) fn take(&self) -> Reservation {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *taken, self.budget.reservation())
    }

    pub(super) fn counting(
        self,
        body: Body,
    ) -> impl hyper::body::Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>>
    {
        Counting { room: self, body }
    }
}

impl hyper::body::Body for Counting {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            let frame = frame?;
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            let mut taken = self.room.taken.lock();
            let taken = taken.as_mut().unwrap_or_else(|poisoned| poisoned.get_mut());
            taken
                .grow(bytes)
                .map_err(|error| -> Status { status(&error.into()) })?;
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
