//! Errors as answers.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use workers_protocol::{Code, InferError};

/// A request's failure, as its caller reads it: a status, `{"error": …}`, and when to try again.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    error: InferError,
    retry_after: Option<Duration>,
}

/// What `Retry-After` says where nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Longest sentence, in bytes: names that are in it may be as long as a body.
const MAX_SENTENCE: usize = 8 << 10;
/// What a 401 asks for, in OSCAR's words.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"Authorization Required\"");

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
}

impl ApiError {
    /// Returns an error with a status that is none of the codes'.
    pub(crate) fn with_status(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            error: clipped(InferError::invalid(message)),
            retry_after: None,
        }
    }

    /// Says when trying again may help, where that is known.
    pub(crate) fn retry_after(self, retry_after: Duration) -> Self {
        let known = Some(retry_after).filter(|known| !known.is_zero());
        Self {
            retry_after: known.or(self.retry_after),
            ..self
        }
    }

    /// Returns when trying again may help, where it may.
    pub(crate) const fn retry_delay(&self) -> Option<Duration> {
        self.retry_after
    }

    pub(crate) const fn code(&self) -> Code {
        self.error.code
    }

    /// Returns the header fields that say when to try again, where that helps: in whole seconds,
    /// rounded up (RFC 9110 § 10.2.3), and precisely.
    pub(crate) fn retry_fields(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let fields = |retry_after: Duration| {
            let ms = retry_after.as_millis().max(1);
            [("retry-after", ms.div_ceil(1000)), ("retry-after-ms", ms)]
        };
        let fields = self.retry_after.map(fields).into_iter().flatten();
        fields.map(|(name, value)| (name, u64::try_from(value).unwrap_or(u64::MAX)))
    }

    pub(crate) fn message(&self) -> &str {
        &self.error.message
    }

    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }
}

impl ApiError {
    /// Returns the failure as an answer whose body is the sentence alone.
    pub(crate) fn into_text(self) -> Response {
        let body = self.error.message.clone();
        self.respond(body)
    }

    fn respond(self, body: impl IntoResponse) -> Response {
        let mut response = (self.status, body).into_response();
        for (name, value) in self.retry_fields() {
            response.headers_mut().insert(name, value.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, CHALLENGE);
        }
        // For the layer that logs.
        response.extensions_mut().insert(Arc::new(self.error));
        response
    }
}

impl From<InferError> for ApiError {
    fn from(error: InferError) -> Self {
        let status = StatusCode::from_u16(error.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let is_passing = matches!(error.code, Code::Overloaded | Code::Unavailable);
        Self {
            status,
            error: clipped(error),
            retry_after: is_passing.then_some(RETRY_AFTER),
        }
    }
}

fn clipped(mut error: InferError) -> InferError {
    let sentence = &mut error.message;
    if sentence.len() > MAX_SENTENCE {
        sentence.truncate(sentence.floor_char_boundary(MAX_SENTENCE));
        sentence.push('…');
        sentence.shrink_to_fit();
    }
    error
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(Body {
            error: &self.error.message,
        })
        .into_response();
        self.respond(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_as_long_as_anybody_reads() {
        let name = "ß".repeat(1 << 20);
        let errors = [
            ApiError::from(InferError::invalid(format!("no input `{name}`"))),
            ApiError::with_status(StatusCode::NOT_FOUND, name.as_str()),
        ];
        for error in errors {
            assert!(error.message().ends_with("ß…"));
            assert!(error.message().len() <= MAX_SENTENCE + '…'.len_utf8());
        }
        let short = ApiError::from(InferError::invalid("no input `x`"));
        assert_eq!(short.message(), "no input `x`");
    }
}
