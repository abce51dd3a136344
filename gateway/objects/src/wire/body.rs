//! Bodies as they come in: how long they may be silent, and what they are checked against.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::{Extensions, HeaderMap, Request};
use http_body::{Frame, SizeHint};
use s3s::dto::StreamingBlob;
use s3s::{Body, S3Result, TrailingHeaders, s3_error};
use tokio::time::{Instant, Sleep};

use crate::Error;
use crate::blob::{Digest, Staged};
use crate::checksum::Algorithm;
use crate::store::Store;

/// A client that sends nothing for this long has gone, or wants to hold what it takes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes that are read and not handed on: of a signed chunk none is before all of it is there.
/// Clients send chunks of 64 KiB to 1 MiB.
const MAX_UNDELIVERED: usize = 16 << 20;

/// A body that is being read, within bounds.
pub(super) struct Inflow<B> {
    body: B,
    silence: Pin<Box<Sleep>>,
    undelivered: Undelivered,
}

/// How many bytes were read of a body since some were last handed on.
#[derive(Clone, Debug, Default)]
struct Undelivered(Arc<AtomicUsize>);

/// Why a body is read no further.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stopped {
    #[error("nothing came for {} s", IDLE_TIMEOUT.as_secs())]
    Silent,
    #[error("a chunk of the body has more than {MAX_UNDELIVERED} bytes")]
    Chunk,
    #[error("{0}")]
    Client(Box<dyn std::error::Error + Send + Sync>),
}

/// What the client says of the bytes that it sends.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// Of the object, where they are sent in chunks.
    length: Option<u64>,
    md5: Option<[u8; 16]>,
    /// The checksum that is taken.
    pub(super) algorithm: Option<Algorithm>,
    /// The checksum that it is to be; None where it comes behind the bytes, or not at all.
    checksum: Option<String>,
    /// Whether it comes behind the bytes.
    is_trailing: bool,
}

// === impl Inflow ===

impl<B> Inflow<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Puts a request's body within bounds.
    pub(super) fn watch(request: Request<B>) -> Request<Body> {
        let (mut head, body) = request.into_parts();
        // Of a body that is not there the library wants to know that.
        if body.is_end_stream() {
            return Request::from_parts(head, Body::empty());
        }
        let undelivered = Undelivered::default();
        head.extensions.insert(undelivered.clone());
        let inflow = Self {
            body,
            silence: Box::pin(tokio::time::sleep(IDLE_TIMEOUT)),
            undelivered,
        };
        Request::from_parts(head, Body::http_body_unsync(inflow))
    }
}

impl<B> http_body::Body for Inflow<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Stopped;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Stopped>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
            ready!(this.silence.as_mut().poll(context));
            return Poll::Ready(Some(Err(Stopped::Silent)));
        };
        this.silence.as_mut().reset(Instant::now() + IDLE_TIMEOUT);
        let frame = frame.map(|frame| frame.map_err(|error| Stopped::Client(error.into())));
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
        {
            // One task reads; the order of its own loads and stores is all that matters.
            let before = this.undelivered.0.fetch_add(bytes.len(), Ordering::Relaxed);
            if before > MAX_UNDELIVERED {
                return Poll::Ready(Some(Err(Stopped::Chunk)));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Expected ===

impl Expected {
    /// Reads what the headers say.
    pub(super) fn read(headers: &HeaderMap, length: Option<i64>) -> S3Result<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let mut expected = Self {
            length: length.and_then(|length| u64::try_from(length).ok()),
            ..Self::default()
        };
        if let Some(md5) = headers.get("content-md5") {
            let decoded = STANDARD.decode(md5).ok();
            let md5 = decoded.and_then(|md5| <[u8; 16]>::try_from(md5).ok());
            let invalid = || s3_error!(InvalidDigest, "Content-MD5: expected base64 of 16 bytes");
            expected.md5 = Some(md5.ok_or_else(invalid)?);
        }
        let trailer = text("x-amz-trailer").unwrap_or_default();
        for algorithm in Algorithm::all() {
            let name = header_of(algorithm);
            let is_trailing = trailer
                .split(',')
                .any(|part| part.trim().eq_ignore_ascii_case(&name));
            let value = text(&name);
            if !is_trailing && value.is_none() {
                continue;
            }
            if expected.algorithm.is_some() {
                return Err(s3_error!(
                    InvalidRequest,
                    "expected one checksum, got several"
                ));
            }
            expected.algorithm = Some(algorithm);
            expected.checksum = value.map(str::to_owned);
            expected.is_trailing = is_trailing;
        }
        if let Some(name) = text("x-amz-sdk-checksum-algorithm") {
            let unknown = || s3_error!(InvalidRequest, "{name:?} is no checksum that is known");
            let algorithm = Algorithm::of_name(name).ok_or_else(unknown)?;
            if expected.algorithm.is_some_and(|sent| sent != algorithm) {
                return Err(s3_error!(
                    InvalidRequest,
                    "expected a checksum of {name}, got another"
                ));
            }
            expected.algorithm = Some(algorithm);
        }
        Ok(expected)
    }

    /// Writes the body to the disk, and checks that it is what the client says.
    pub(super) async fn receive(
        &self,
        store: &Store,
        body: Option<StreamingBlob>,
        extensions: &Extensions,
        trailing: Option<&TrailingHeaders>,
    ) -> Result<(Staged, Digest), Error> {
        let undelivered = extensions.get::<Undelivered>().cloned().unwrap_or_default();
        let body = body.unwrap_or_else(|| StreamingBlob::from(Body::empty()));
        let body = body.inspect_ok(|_| undelivered.0.store(0, Ordering::Relaxed));
        let (staged, digest) = store.stage(body, self.algorithm).await?;
        if let Some(expected) = self.length.filter(|&length| length != staged.size) {
            let got = staged.size;
            return Err(Error::Incomplete { expected, got });
        }
        if self.md5.is_some_and(|md5| md5 != digest.md5) {
            return Err(Error::BadDigest { what: "MD5" });
        }
        let name = self.algorithm.map(header_of).unwrap_or_default();
        let expected = match self.is_trailing {
            true => trailing
                .and_then(TrailingHeaders::take)
                .and_then(|trailers| {
                    let value = trailers.get(&name)?.to_str().ok()?;
                    Some(value.to_owned())
                }),
            false => self.checksum.clone(),
        };
        let got = digest.checksum.as_ref().map(|checksum| &checksum.value);
        let is_missing = self.is_trailing && expected.is_none();
        if is_missing || expected.is_some_and(|expected| got != Some(&expected)) {
            let what = "checksum";
            return Err(Error::BadDigest { what });
        }
        Ok((staged, digest))
    }
}

/// Returns the header that an algorithm's checksum comes in.
pub(super) fn header_of(algorithm: Algorithm) -> String {
    format!("x-amz-checksum-{}", algorithm.name().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    use futures_util::{StreamExt as _, stream};
    use http_body_util::StreamBody;
    use s3s::stream::ByteStream as _;

    fn request(
        frames: impl futures_util::Stream<Item = Result<Frame<Bytes>, std::io::Error>>
        + Send
        + Unpin
        + 'static,
    ) -> (Body, Undelivered) {
        let (head, body) = Inflow::watch(Request::new(StreamBody::new(frames))).into_parts();
        let undelivered = head.extensions.get().cloned().unwrap();
        (body, undelivered)
    }

    fn mebibytes(
        n: usize,
    ) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, std::io::Error>> {
        let frame = Bytes::from(vec![0; 1 << 20]);
        stream::iter((0..n).map(move |_| Ok(Frame::data(frame.clone()))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_falls_silent_is_given_up() {
        let (mut body, _) = request(mebibytes(1).chain(stream::pending()));
        body.next().await.unwrap().unwrap();
        let error = body.next().await.unwrap().unwrap_err();
        assert!(
            matches!(error.downcast_ref(), Some(Stopped::Silent)),
            "{error}"
        );
    }

    #[tokio::test]
    async fn what_is_handed_on_may_be_as_long_as_it_likes_and_what_is_held_back_may_not() {
        let (mut body, undelivered) = request(mebibytes(40));
        let mut n = 0;
        while let Some(bytes) = body.next().await {
            n += bytes.unwrap().len();
            undelivered.0.store(0, Ordering::Relaxed);
        }
        assert_eq!(n, 40 << 20);
        let (mut body, _) = request(mebibytes(40));
        let n_read = body
            .by_ref()
            .take_while(|bytes| std::future::ready(bytes.is_ok()));
        assert_eq!(n_read.count().await, MAX_UNDELIVERED / (1 << 20) + 1);
    }

    #[test]
    fn no_body_is_known_to_be_none() {
        let empty = http_body_util::Empty::<Bytes>::new();
        let request = Inflow::watch(Request::new(empty));
        assert_eq!(request.body().remaining_length().exact(), Some(0));
    }
}
