//! Reading a request's body within bounds.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use gateway_scheduler::Class;
use http::{HeaderMap, StatusCode, header};
use workers_protocol::InferError;

use super::coding::Coding;
use super::{ApiError, Front, Terms};
use crate::budget::Reservation;
use crate::entry::Deadline;
use crate::metrics::Failure;
use crate::revision::Revision;

/// Room for a body of unknown length grows by doubling, from this.
const FIRST_ROOM: usize = 64 << 10;
/// A client that sends nothing for this long has gone, or wants to hold what it takes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a refused body is read and thrown away, so that the client gets to read the answer: one
/// that is still writing when the connection closes sees a reset instead.
const LINGER: Duration = Duration::from_secs(10);

impl Front {
    /// Reads a body into memory, with room reserved before: all of it where the length is known, as
    /// it grows where it is not. It is refused, never parked, when there is no room. What comes
    /// compressed is unwrapped, within the same limits.
    ///
    /// # Errors
    /// 413 over the limit of one body, 429 without room, 415 for an unknown coding, 408 for a client
    /// that stalls or takes longer than its own deadline.
    pub(crate) async fn read(
        &self,
        headers: &HeaderMap,
        body: Body,
        deadline: Deadline,
    ) -> Result<(Bytes, Reservation), ApiError> {
        let max_bytes = self.limits.max_body;
        self.read_at_most(max_bytes, headers, body, deadline).await
    }

    /// Reads a body of at most so many bytes, as [`Front::read`].
    ///
    /// # Errors
    /// As [`Front::read`].
    pub(crate) async fn read_at_most(
        &self,
        max_bytes: u64,
        headers: &HeaderMap,
        body: Body,
        deadline: Deadline,
    ) -> Result<(Bytes, Reservation), ApiError> {
        let mut reading = Reading {
            reservation: self.budget.reservation(),
            max_bytes,
        };
        let mut frames = body.into_data_stream();
        let coding = match Coding::of(headers) {
            Ok(coding) => coding,
            Err(error) => {
                linger(frames);
                return Err(error);
            }
        };
        let read = reading.read(content_length(headers), &mut frames);
        let result = match tokio::time::timeout_at(deadline.at.into(), read).await {
            Ok(result) => result,
            Err(_) => Err(ApiError::with_status(
                StatusCode::REQUEST_TIMEOUT,
                "the deadline passed before the body had come",
            )),
        };
        if result.is_err() {
            linger(frames);
        }
        let (body, mut reservation) = (result?, reading.reservation);
        let Some(coding) = coding else {
            return Ok((body, reservation));
        };
        let decoded = coding.decode(&body, max_bytes, &mut reservation)?;
        drop(body);
        reservation.shrink_to(decoded.len() as u64);
        Ok((decoded, reservation))
    }
}

impl Front {
    /// Gives the body back, unless the least of requests would be refused now: then this one is not
    /// read to find that out.
    ///
    /// # Errors
    /// 429 or 503, with when to try again.
    pub(super) fn turn_away(
        &self,
        revision: &Revision,
        terms: &Terms,
        body: Body,
    ) -> Result<Body, ApiError> {
        if terms.class == Class::Bulk {
            return Ok(body);
        }
        match self.dispatcher.turn_away(revision, terms.deadline) {
            Ok(()) => Ok(body),
            Err((error, retry_after)) => {
                revision.metrics.fail(Failure::Rejected, Duration::ZERO);
                Err(refuse(body, error).retry_after(retry_after))
            }
        }
    }
}

/// Returns a text that begins as a JSON object does: structs are read from lists as well.
///
/// # Errors
/// `InvalidArgument` of any other.
pub(super) fn object(json: &[u8]) -> Result<&[u8], InferError> {
    if json.trim_ascii_start().starts_with(b"{") {
        return Ok(json);
    }
    let message = "the request's JSON can't be read: expected an object";
    Err(InferError::invalid(message))
}

/// Refuses a request whose body has not been read.
pub(crate) fn refuse(body: Body, error: InferError) -> ApiError {
    linger(body.into_data_stream());
    error.into()
}

/// Reads what is left of a body and throws it away, for a while.
fn linger(mut frames: axum::body::BodyDataStream) {
    tokio::spawn(tokio::time::timeout(LINGER, async move {
        while let Some(Ok(_)) = frames.next().await {}
    }));
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

struct Reading {
    reservation: Reservation,
    max_bytes: u64,
}

impl Reading {
    async fn read(
        &mut self,
        length: Option<u64>,
        frames: &mut axum::body::BodyDataStream,
    ) -> Result<Bytes, ApiError> {
        if let Some(length) = length {
            self.check(length)?;
            self.reservation.grow(length)?;
        }
        let mut first = match next(frames).await? {
            Some(first) => first,
            None => return Ok(Bytes::new()),
        };
        if length.is_some_and(|length| length == first.len() as u64) {
            // A small body arrives whole, and is used where it lies.
            return Ok(first);
        }
        let mut body = BytesMut::with_capacity(
            length
                .and_then(|length| usize::try_from(length).ok())
                .unwrap_or(0),
        );
        loop {
            self.check(body.len() as u64 + first.len() as u64)?;
            if body.capacity() - body.len() < first.len() {
                let room = (body.capacity() * 2)
                    .max(body.len() + first.len())
                    .max(FIRST_ROOM);
                self.reservation.grow((room - body.capacity()) as u64)?;
                body.reserve(room - body.len());
            }
            body.extend_from_slice(&first);
            match next(frames).await? {
                Some(more) => first = more,
                None => return Ok(body.freeze()),
            }
        }
    }

    fn check(&self, bytes: u64) -> Result<(), InferError> {
        if bytes <= self.max_bytes {
            Ok(())
        } else {
            Err(InferError::too_large(format!(
                "the body has {bytes} bytes or more, expected at most {}",
                self.max_bytes
            )))
        }
    }
}

async fn next(frames: &mut axum::body::BodyDataStream) -> Result<Option<Bytes>, ApiError> {
    match tokio::time::timeout(IDLE_TIMEOUT, frames.next()).await {
        Ok(Some(Ok(frame))) => Ok(Some(frame)),
        Ok(Some(Err(error))) => {
            Err(InferError::invalid(format!("the body broke off: {error}")).into())
        }
        Ok(None) => Ok(None),
        Err(_) => Err(ApiError::with_status(
            StatusCode::REQUEST_TIMEOUT,
            format!("nothing of the body came for {} s", IDLE_TIMEOUT.as_secs()),
        )),
    }
}
