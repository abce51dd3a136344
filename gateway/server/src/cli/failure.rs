//! What a gateway did not do, as a sentence that says what to do about it.

use std::io::{ErrorKind, Read as _};

use http::response::Parts;
use http::{StatusCode, header};
use serde::Deserialize;
use ureq::Body;

use super::client::Client;
use crate::terminal::plain;

/// Most of an answer that is read for its sentence, in bytes.
const MAX_BODY: u64 = 64 << 10;
/// Most of a sentence that is shown, in characters.
const MAX_SENTENCE: usize = 2000;

/// What was asked for and did not come, or not as was hoped.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    cause: Cause,
    message: String,
}

/// Why it did not come, as scripts tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Nobody answered.
    Unanswered,
    /// The answer was no success.
    Refused(StatusCode),
    /// Somebody asked to end it.
    Interrupted,
    /// It is nothing that was asked for elsewhere.
    Other,
}

/// An error as Hearth's own routes write it.
#[derive(Deserialize)]
struct Sentence {
    error: String,
}

impl Failure {
    pub(super) const fn new(cause: Cause, message: String) -> Self {
        Self { cause, message }
    }

    /// Says a sentence, and ends the command as this error would.
    pub(super) fn after(error: &anyhow::Error, message: String) -> Self {
        let failure: Option<&Self> = error.downcast_ref();
        Self::new(
            failure.map_or(Cause::Other, |failure| failure.cause),
            message,
        )
    }

    /// What is wrong where nothing was answered.
    pub(super) fn unanswered(client: &Client, error: &ureq::Error) -> Self {
        let endpoint = client.endpoint();
        let reason = reason(error);
        let is_tls = endpoint.is_tls();
        let advice = if is_tls && reason.contains("certificate") {
            "name the certificate of its authority with --ca-cert FILE, or trust any with --insecure"
        } else if is_tls && reason.contains("corrupt message") {
            "it speaks no TLS there: call it by http://"
        } else if let ureq::Error::Protocol(_) = error
            && !is_tls
        {
            "it speaks no HTTP there: call it by https:// if it speaks TLS"
        } else {
            "start one with `hearth serve --store DIR --data DIR`, or say where it is with \
             --endpoint URL or HEARTH_ENDPOINT"
        };
        let message = format!("no gateway answers at {endpoint}: {reason}\n  {advice}");
        Self::new(Cause::Unanswered, message)
    }

    /// What is wrong where the answer is no success.
    pub(super) fn refused(client: &Client, url: &str, head: &Parts, body: Body) -> Self {
        let status = head.status;
        let sentence = sentence(head, body);
        let message = match status {
            StatusCode::UNAUTHORIZED => unauthenticated(client, sentence.as_deref()),
            _ if status.is_redirection() => {
                let location = head.headers.get(header::LOCATION);
                let location = location.and_then(|location| location.to_str().ok());
                format!(
                    "{url} answers {status}: it is at {}, say so with --endpoint",
                    plain(location.unwrap_or("another place"))
                )
            }
            _ => sentence.unwrap_or_else(|| {
                format!("{url} answers {status} without a sentence: is it a gateway's address?")
            }),
        };
        let retry_after = head.headers.get(header::RETRY_AFTER);
        let message = match retry_after.and_then(|seconds| seconds.to_str().ok()) {
            Some(seconds) => format!("{message}; try again in {} s", plain(seconds)),
            None => message,
        };
        Self::new(Cause::Refused(status), message)
    }

    /// Several failures as one, which ends the command as the first would.
    pub(super) fn several(failures: &[Self]) -> Option<Self> {
        let messages: Vec<&str> = failures
            .iter()
            .map(|failure| failure.message.as_str())
            .collect();
        Some(Self {
            message: messages.join("\nerror: "),
            cause: failures.first()?.cause,
        })
    }

    /// Whether what was asked for is not there.
    pub(super) fn is_not_found(&self) -> bool {
        self.cause == Cause::Refused(StatusCode::NOT_FOUND)
    }

    /// Whether nobody answered.
    pub(super) fn is_unanswered(&self) -> bool {
        self.cause == Cause::Unanswered
    }

    /// Whether somebody wanted it to end.
    pub(super) fn is_interrupt(&self) -> bool {
        self.cause == Cause::Interrupted
    }

    /// Whether trying again may help.
    pub(super) fn is_passing(&self) -> bool {
        self.is_unanswered() || self.exit_code() == 6
    }

    /// Says more.
    pub(super) fn and(mut self, more: &str) -> Self {
        self.message.push_str(more);
        self
    }

    pub(super) const fn exit_code(&self) -> u8 {
        match self.cause {
            Cause::Unanswered => 3,
            Cause::Refused(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => 4,
            Cause::Refused(StatusCode::NOT_FOUND) => 5,
            Cause::Refused(
                StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT,
            ) => 6,
            Cause::Interrupted => 130,
            Cause::Refused(_) | Cause::Other => 1,
        }
    }
}

/// Returns in words why nothing was answered.
pub(super) fn reason(error: &ureq::Error) -> String {
    let reason = match error {
        ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => {
            "connection refused".to_owned()
        }
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::HostNotFound => "there is no host of this name".to_owned(),
        ureq::Error::Timeout(of) => format!("it took too long ({of})"),
        error => error.to_string(),
    };
    plain(&reason)
}

fn unauthenticated(client: &Client, sentence: Option<&str>) -> String {
    let endpoint = client.endpoint();
    let sentence = sentence.map(|sentence| format!(": {sentence}"));
    let sentence = sentence.unwrap_or_default();
    match client.whose() {
        Some(whose) => format!(
            "the gateway at {endpoint} does not take {whose}{sentence}\n  check OSCAR_USERNAME and \
             OSCAR_PASSWORD (or --password-file), or the token of the service (--token, HEARTH_TOKEN)"
        ),
        None => format!(
            "the gateway at {endpoint} asks for credentials{sentence}\n  set OSCAR_USERNAME and \
             OSCAR_PASSWORD (or --password-file); for `run` and `job` the token of the service does \
             as well (--token, HEARTH_TOKEN)"
        ),
    }
}

/// Returns what an answer says in words, as Hearth and OSCAR say it: `{"error": …}`, or plain text.
fn sentence(head: &Parts, body: Body) -> Option<String> {
    let mut bytes = Vec::new();
    // What was read until it broke off is better than nothing.
    let _ = body.into_reader().take(MAX_BODY).read_to_end(&mut bytes);
    let text = match serde_json::from_slice::<Sentence>(&bytes) {
        Ok(sentence) => sentence.error,
        Err(_) => {
            let media = head.headers.get(header::CONTENT_TYPE);
            let is_text = media.is_none_or(|media| media.as_bytes().starts_with(b"text/plain"));
            if !is_text {
                return None;
            }
            String::from_utf8_lossy(&bytes).into_owned()
        }
    };
    let text: String = plain(text.trim()).chars().take(MAX_SENTENCE).collect();
    (!text.is_empty()).then_some(text)
}
