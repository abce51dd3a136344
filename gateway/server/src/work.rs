//! What a job does: a service's model or script on what its event is about.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use time::OffsetDateTime;

use crate::oscar::{Backend, Service, script};
use crate::rest::{ApiError, Front, bulk};
use crate::storage::Head;

/// A job, as the ledger hands it out.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Its place in the ledger, which no other job ever has.
    pub(crate) id: i64,
    /// What its service calls it.
    pub(crate) name: String,
    /// What came: the body of a POST, or a storage event in MinIO's form.
    pub(crate) event: Bytes,
    /// The object that it is about, where the event was announced by a storage provider.
    pub(crate) object: Option<ObjectRef>,
    /// How many times it was tried before, and failed.
    pub(crate) attempt: u32,
}

/// One state of an object at a storage provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectRef {
    /// `TYPE.ID` of the provider, as `minio.default`.
    pub(crate) provider: String,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) identity: Identity,
    /// Its bytes, as far as is known; 0 where nobody said.
    pub(crate) size: u64,
}

/// What tells the states of an object of one name apart: one job is made for each, however often it
/// is announced.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Identity(String);

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Succeeded {
        log: String,
    },
    /// Whether another attempt may end better, of which there is a bounded number.
    Failed {
        log: String,
        may_retry: bool,
    },
    /// There was no room or nobody to do it, through no fault of the job: it waits, and this was no
    /// attempt.
    Postponed {
        why: String,
    },
}

/// Does a job. Cancel-safe: where it is dropped, what it has begun is ended.
pub(crate) async fn perform(front: &Arc<Front>, service: &Arc<Service>, job: &Job) -> Verdict {
    tracing::debug!(
        service = service.name(),
        job = job.name,
        attempt = job.attempt,
        "a job begins"
    );
    let body = job.event.clone();
    match &service.backend {
        Backend::Model(model) => match bulk(front, service, model, body).await {
            Ok(log) => Verdict::Succeeded { log },
            // The scheduler has tried it again already, alone.
            Err(error) => Verdict::of_error(&error, false),
        },
        Backend::Script(script) => match script::perform_job(front, service, script, &body).await {
            Ok(Ok(log)) => Verdict::Succeeded { log },
            Ok(Err(log)) => Verdict::Failed {
                log,
                may_retry: false,
            },
            // What it has done already, nobody knows.
            Err(error) => Verdict::of_error(&error, false),
        },
    }
}

// === impl Identity ===

impl Identity {
    /// Of an object in a bucket that keeps versions.
    pub(crate) fn of_version(version: &str) -> Self {
        Self(format!("version {version}"))
    }

    /// Of one that is told by its content, and by when it was written, in whole seconds: more is not in
    /// every answer of S3.
    pub(crate) fn of_content(etag: &str, modified: OffsetDateTime) -> Self {
        let etag = etag.trim_matches('"');
        Self(format!("{etag} {}", modified.unix_timestamp()))
    }

    /// Of what a storage provider says of an object.
    pub(crate) fn of(head: &Head) -> Self {
        match &head.version {
            Some(version) => Self::of_version(version),
            None => Self::of_content(&head.etag, head.modified),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Of what [`Identity::as_str`] was.
impl From<String> for Identity {
    fn from(text: String) -> Self {
        Self(text)
    }
}

// === impl Verdict ===

impl Verdict {
    fn of_error(error: &ApiError, may_retry: bool) -> Self {
        let sentence = error.message().to_owned();
        match error.status() {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Self::Postponed { why: sentence }
            }
            _ => Self::Failed {
                log: sentence,
                may_retry,
            },
        }
    }
}
