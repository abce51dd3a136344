//! Content codings: bodies that come in gzip or deflate, answers that go out so (RFC 9110 § 8.4).

use std::io::{Read, Write as _};

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use workers_protocol::InferError;

use super::{ApiError, for_bytes};
use crate::budget::Reservation;
use crate::routes::{INFER, INFER_VERSION, V1_MODEL};

/// What a body may be wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    /// The zlib format, which is what HTTP means by it.
    Deflate,
}

/// Answers that may be large, and go out wrapped to who asks for it.
const WRAPPED: [&str; 3] = [INFER, INFER_VERSION, V1_MODEL];

/// No byte of deflate becomes more than this many.
const MAX_RATIO: usize = 1032;
/// Room for what comes out grows by doubling, from this.
const FIRST_ROOM: u64 = 64 << 10;

impl Coding {
    /// Returns what a body is wrapped in, if it is.
    ///
    /// # Errors
    /// 415 for a coding that is not spoken here, or several.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let unsupported = |got: &str| {
            ApiError::with_status(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("Content-Encoding: expected gzip, deflate or identity, got {got}"),
            )
        };
        let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(unsupported("several"));
        }
        match value.to_str().unwrap_or("(not text)").trim() {
            "" | "identity" => Ok(None),
            name => {
                let coding = Self::named(name).map(Some);
                coding.ok_or_else(|| unsupported(&format!("{value:?}")))
            }
        }
    }

    fn named(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            Some(Self::Gzip)
        } else {
            name.eq_ignore_ascii_case("deflate")
                .then_some(Self::Deflate)
        }
    }

    /// Returns what the answer of a route is to be wrapped in, if it is.
    pub(super) fn wanted(route: &str, headers: &HeaderMap) -> Option<Self> {
        WRAPPED.contains(&route).then(|| Self::accepted(headers))?
    }

    /// Returns what an answer may be wrapped in: the most wanted coding of `Accept-Encoding`, of equals
    /// the first. A wildcard asks for none, since it allows that too.
    fn accepted(headers: &HeaderMap) -> Option<Self> {
        let mut best = (0.0, None);
        let values = headers.get_all(header::ACCEPT_ENCODING).into_iter();
        for range in values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
        {
            let mut parts = range.split(';').map(str::trim);
            let coding = Self::named(parts.next().unwrap_or_default());
            let weight = parts
                .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
                .map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            if coding.is_some() && weight > best.0 {
                best = (weight, coding);
            }
        }
        best.1
    }

    const fn name(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        })
    }

    /// Unwraps a body of at most so many bytes. Room is taken for what comes out before it does.
    ///
    /// # Errors
    /// 413 beyond the limit, 429 without room, 400 for what is not wrapped so.
    pub(super) fn decode(
        self,
        body: &[u8],
        max_bytes: u64,
        reservation: &mut Reservation,
    ) -> Result<Bytes, InferError> {
        for_bytes(body.len().saturating_mul(MAX_RATIO), || match self {
            Self::Gzip => self.read(&mut MultiGzDecoder::new(body), max_bytes, reservation),
            Self::Deflate => {
                let mut reader = ZlibDecoder::new(body);
                let decoded = self.read(&mut reader, max_bytes, reservation)?;
                match reader.get_ref() {
                    [] => Ok(decoded),
                    rest => Err(self.broken(&format!("{} bytes follow its end", rest.len()))),
                }
            }
        })
    }

    fn broken(self, reason: &str) -> InferError {
        let name = self.name();
        InferError::invalid(format!(
            "Content-Encoding: the body is not {name:?} throughout: {reason}"
        ))
    }

    fn read(
        self,
        reader: &mut impl Read,
        max_bytes: u64,
        reservation: &mut Reservation,
    ) -> Result<Bytes, InferError> {
        let mut decoded = Vec::new();
        loop {
            let filled = decoded.len();
            // One byte more than is allowed shows that there is more.
            let room = (filled as u64).max(FIRST_ROOM);
            let room = room.min((max_bytes + 1).saturating_sub(filled as u64));
            if room == 0 {
                return Err(InferError::too_large(format!(
                    "the body is more than {max_bytes} bytes once it is decoded, expected at most that"
                )));
            }
            reservation.grow(room)?;
            decoded.resize(filled + room as usize, 0);
            let mut end = filled;
            while let Some(free) = decoded.get_mut(end..).filter(|free| !free.is_empty()) {
                match reader.read(free) {
                    Ok(0) => {
                        decoded.truncate(end);
                        return Ok(decoded.into());
                    }
                    Ok(n) => end += n,
                    Err(error) => return Err(self.broken(&error.to_string())),
                }
            }
        }
    }

    /// Wraps an answer; `Inference-Header-Content-Length` goes on counting what is inside, as Triton's
    /// does. What is no answer stays as it is.
    pub(super) async fn wrap(self, response: Response) -> Response {
        if response.status() != StatusCode::OK {
            return response;
        }
        let (mut head, body) = response.into_parts();
        // It is in memory already: this neither waits nor copies.
        let body = axum::body::to_bytes(body, usize::MAX).await;
        let wrapped = body.map_err(|error| error.to_string()).and_then(|body| {
            let wrapped = for_bytes(body.len(), || self.encode(&body));
            wrapped.map_err(|error| error.to_string())
        });
        let body = match wrapped {
            Ok(body) => body,
            Err(error) => return ApiError::from(InferError::internal(error)).into_response(),
        };
        head.headers.remove(header::CONTENT_LENGTH);
        head.headers.insert(header::CONTENT_ENCODING, self.name());
        let vary = HeaderValue::from_static("accept-encoding");
        head.headers.insert(header::VARY, vary);
        Response::from_parts(head, Body::from(body))
    }

    /// Wraps what is in a body. Writing to memory can't fail.
    fn encode(self, body: &[u8]) -> std::io::Result<Vec<u8>> {
        // Fast: who asks wants to save a wire's time, not to keep what comes.
        let level = Compression::fast();
        let out = Vec::with_capacity(body.len() / 2 + 64);
        match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(out, level);
                encoder.write_all(body)?;
                encoder.finish()
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(out, level);
                encoder.write_all(body)?;
                encoder.finish()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    fn accepted(value: &'static str) -> Option<Coding> {
        let value = HeaderValue::from_static(value);
        Coding::accepted(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, value)]))
    }

    #[test]
    fn the_most_wanted_coding_is_taken() {
        assert_eq!(accepted("gzip, deflate, br"), Some(Coding::Gzip));
        assert_eq!(accepted("gzip;q=0.5, deflate"), Some(Coding::Deflate));
        assert_eq!(accepted("br, GZIP;q=0.1"), Some(Coding::Gzip));
        assert_eq!(accepted("gzip;q=0, identity"), None);
        assert_eq!(accepted("*"), None);
    }

    #[test]
    fn a_body_is_wrapped_once() {
        let of = |values: &[&'static str]| {
            let values = values.iter().copied().map(HeaderValue::from_static);
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, value);
            }
            Coding::of(&headers).map_err(|error| error.status())
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["identity"]), Ok(None));
        assert_eq!(of(&["x-gzip"]), Ok(Some(Coding::Gzip)));
        assert_eq!(
            of(&["gzip", "gzip"]),
            Err(StatusCode::UNSUPPORTED_MEDIA_TYPE)
        );
    }

    #[test]
    fn what_follows_the_end_is_no_part_of_it() {
        for coding in [Coding::Gzip, Coding::Deflate] {
            let wrapped = [&coding.encode(b"body").unwrap()[..], b"more"].concat();
            let mut reservation = Budget::new(1 << 20).reservation();
            let error = coding.decode(&wrapped, 1000, &mut reservation).unwrap_err();
            assert!(error.message.contains("throughout"), "{}", error.message);
        }
    }

    #[test]
    fn a_body_grows_to_its_limit_and_no_further() {
        for coding in [Coding::Gzip, Coding::Deflate] {
            let budget = Budget::new(1 << 20);
            let body = vec![7; 200_000];
            let wrapped = coding.encode(&body).unwrap();
            let decode = |max_bytes| {
                let mut reservation = budget.reservation();
                coding.decode(&wrapped, max_bytes, &mut reservation)
            };
            assert_eq!(decode(200_000).unwrap(), body);
            let large = decode(199_999).unwrap_err();
            assert_eq!(large.code, workers_protocol::Code::TooLarge);
            let mut cut = budget.reservation();
            assert!(coding.decode(&wrapped[..100], 200_000, &mut cut).is_err());
        }
    }

    #[test]
    fn no_more_is_decoded_than_there_is_room_for() {
        let budget = Budget::new(100_000);
        let wrapped = Coding::Gzip.encode(&vec![0; 1 << 20]).unwrap();
        let mut reservation = budget.reservation();
        let error = Coding::Gzip
            .decode(&wrapped, 1 << 30, &mut reservation)
            .unwrap_err();
        assert_eq!(error.code, workers_protocol::Code::Overloaded);
        assert!(budget.used() <= 100_000);
    }
}
