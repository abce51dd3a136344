//! Room for what calls send: for the bytes of a message as they come, before they are kept, and for
//! what they decode to, before they are decoded.
//!
//! A message is held back until it is whole, so that it can be weighed: of the Protobuf wire format
//! two bytes may become a struct of hundreds. Nothing is copied for that.

use std::collections::{VecDeque, vec_deque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};
use tonic::Status;
use workers_protocol::InferError;

use super::status;
use super::weight::Kind;
use crate::budget::{Budget, Reservation};

/// Of a message before its bytes: whether it is compressed, and its length (gRPC over HTTP/2).
const HEAD_BYTES: usize = 5;

/// Room for the messages of a call that nobody has taken over.
#[derive(Clone, Debug)]
pub(super) struct Room {
    budget: Arc<Budget>,
    messages: Arc<Mutex<VecDeque<Reservation>>>,
}

/// A body that takes room for its messages, and fails where there is none.
struct Counting {
    room: Room,
    kind: Kind,
    max_message: usize,
    body: Body,
    message: Message,
    /// What may be read.
    whole: VecDeque<Bytes>,
}

/// The message that is being read.
struct Message {
    reservation: Reservation,
    head: [u8; HEAD_BYTES],
    n_head: usize,
    frames: VecDeque<Bytes>,
    /// Bytes that are still to come, once the head is there.
    missing: usize,
    /// What is refused without being read is passed on: a message that is too long, or compressed.
    is_refused: bool,
}

impl Room {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            messages: Arc::default(),
        }
    }

    /// Returns the room of the message that was read next.
    pub(super) fn take(&self) -> Reservation {
        let first = self.lock().pop_front();
        first.unwrap_or_else(|| self.budget.reservation())
    }

    /// Counts a body of messages of at most so many bytes.
    pub(super) fn counting(
        self,
        body: Body,
        kind: Kind,
        max_message: usize,
    ) -> impl hyper::body::Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>>
    {
        Counting {
            message: Message::new(&self.budget),
            room: self,
            kind,
            max_message,
            body,
            whole: VecDeque::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Reservation>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Message ===

impl Message {
    fn new(budget: &Arc<Budget>) -> Self {
        Self {
            reservation: budget.reservation(),
            head: [0; HEAD_BYTES],
            n_head: 0,
            frames: VecDeque::new(),
            missing: 0,
            is_refused: false,
        }
    }

    /// Takes what of the data belongs to it; whether it is whole then.
    fn take(&mut self, data: &mut Bytes, max_message: usize) -> Result<bool, InferError> {
        let n_head = data.len().min(HEAD_BYTES - self.n_head);
        if n_head > 0 {
            let part = data.split_to(n_head);
            if let Some(head) = self.head.get_mut(self.n_head..self.n_head + n_head) {
                head.copy_from_slice(&part);
            }
            self.n_head += n_head;
            self.frames.push_back(part);
            if self.n_head < HEAD_BYTES {
                return Ok(false);
            }
            let [is_compressed, length @ ..] = self.head;
            self.missing = u32::from_be_bytes(length) as usize;
            self.is_refused = is_compressed != 0 || self.missing > max_message;
            if self.is_refused {
                return Ok(false);
            }
        }
        let part = data.split_to(data.len().min(self.missing));
        self.reservation.grow(part.len() as u64)?;
        self.missing -= part.len();
        self.frames.push_back(part);
        Ok(self.n_head == HEAD_BYTES && self.missing == 0)
    }
}

// === impl Counting ===

impl Counting {
    fn receive(&mut self, mut data: Bytes) -> Result<(), InferError> {
        while !data.is_empty() && !self.message.is_refused {
            if !self.message.take(&mut data, self.max_message)? {
                continue;
            }
            let next = Message::new(&self.room.budget);
            let mut message = std::mem::replace(&mut self.message, next);
            let mut frames = Frames::new(&message.frames);
            frames.advance(HEAD_BYTES);
            let weight = self.kind.weigh(&mut frames)?;
            message.reservation.grow(weight)?;
            self.room.lock().push_back(message.reservation);
            self.whole.append(&mut message.frames);
        }
        if self.message.is_refused {
            self.whole.append(&mut self.message.frames);
            self.whole.push_back(data);
        }
        Ok(())
    }
}

impl hyper::body::Body for Counting {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        loop {
            if let Some(data) = self.whole.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(frame) => frame?,
                // A message that broke off: whoever reads it says so.
                None => {
                    let rest = self.message.frames.pop_front();
                    return Poll::Ready(rest.map(|data| Ok(Frame::data(data))));
                }
            };
            match frame.into_data() {
                Ok(data) => self
                    .receive(data)
                    .map_err(|error| -> Status { status(&error.into()) })?,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.whole.is_empty() && self.message.frames.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

// === frames as one buffer ===

/// Frames, read one after another.
struct Frames<'a> {
    first: &'a [u8],
    others: vec_deque::Iter<'a, Bytes>,
    remaining: usize,
}

impl<'a> Frames<'a> {
    fn new(frames: &'a VecDeque<Bytes>) -> Self {
        let mut buf = Self {
            first: &[],
            others: frames.iter(),
            remaining: frames.iter().map(Bytes::len).sum(),
        };
        buf.fill();
        buf
    }

    fn fill(&mut self) {
        while self.first.is_empty()
            && let Some(next) = self.others.next()
        {
            self.first = next;
        }
    }
}

impl Buf for Frames<'_> {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.first
    }

    /// Stops at the end, as if there had been as much.
    fn advance(&mut self, mut n: usize) {
        self.remaining = self.remaining.saturating_sub(n);
        while n > 0 && !self.first.is_empty() {
            let here = n.min(self.first.len());
            self.first = self.first.get(here..).unwrap_or_default();
            n -= here;
            self.fill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_one_buffer() {
        let frames = VecDeque::from(
            ["", "ab", "", "cde", "f"].map(|text| Bytes::from_static(text.as_bytes())),
        );
        let mut buf = Frames::new(&frames);
        assert_eq!((buf.remaining(), buf.get_u8()), (6, b'a'));
        assert_eq!(&*buf.copy_to_bytes(4), b"bcde");
        assert_eq!((buf.remaining(), buf.chunk()), (1, &b"f"[..]));
        buf.advance(1);
        assert!(!buf.has_remaining());
    }

    #[tokio::test]
    async fn each_message_has_its_room_however_it_is_cut() {
        // Two messages of raw contents, of 10 and 20 bytes, in frames of every size.
        let message = |n: u8| {
            let length = n + 2;
            [&[0, 0, 0, 0, length, 0x3a, n][..], &vec![0; n.into()]].concat()
        };
        let bytes = [message(10), message(20)].concat();
        for size in 1..=bytes.len() {
            let budget = Budget::new(1 << 20);
            let room = Room::new(Arc::clone(&budget));
            let frames = bytes.chunks(size).map(Bytes::copy_from_slice);
            let frames: Vec<_> = frames.map(Ok::<_, std::io::Error>).collect();
            let body = Body::from_stream(futures_util::stream::iter(frames));
            let counted = Body::new(room.clone().counting(body, Kind::Inference, 1 << 20));
            let read = axum::body::to_bytes(counted, usize::MAX).await.unwrap();
            assert_eq!(*read, *bytes);
            let weight = 2 * size_of::<Bytes>() as u64;
            let both = 12 + 22 + 2 * weight;
            assert_eq!(budget.used(), both);
            drop(room.take());
            assert_eq!(budget.used(), both - 12 - weight);
        }
    }

    #[tokio::test]
    async fn a_message_that_decodes_to_more_than_there_is_room_for_is_refused() {
        let budget = Budget::new(100_000);
        let room = Room::new(Arc::clone(&budget));
        let empty_inputs = [0x2a, 0].repeat(1000);
        let message = [&[0, 0, 0, 7, 0xd0][..], &empty_inputs].concat();
        let body = Body::from(message);
        let counted = Body::new(room.counting(body, Kind::Inference, 1 << 20));
        let error = axum::body::to_bytes(counted, usize::MAX).await.unwrap_err();
        let error = format!("{error:?}");
        assert!(error.contains("no room for"), "{error}");
        assert_eq!(budget.used(), 0);
    }
}
