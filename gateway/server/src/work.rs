//! What a job does: a service's model or script on what its event is about, and the results to where
//! the service's outputs say.

mod output;
mod stage;
mod video;

use std::sync::Arc;

use bytes::Bytes;
use gateway_script::{Event, Input};
use gateway_video::Container;
use http::StatusCode;
use time::OffsetDateTime;
use workers_protocol::DrawFormat;

use crate::oscar::{Backend, ModelService, Service, script};
use crate::rest::{ApiError, Front, bulk};
use crate::storage::{Head, StorageError, Trouble};
pub(crate) use output::{Kept, Made, NewResult, keep};
pub(crate) use stage::{Fetched, Source, Unfetched};
pub(crate) use video::Videos;

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
    let done = match &service.backend {
        Backend::Model(model) => with_model(front, service, model, job).await,
        Backend::Script(script) => script::perform_job(front, service, script, job).await,
    };
    match done {
        Ok(log) => Verdict::Succeeded { log },
        Err(verdict) => verdict,
    }
}

/// Has a model look at a picture, and keeps what it finds. The log of what was posted is what was
/// found, and that of an object where it is.
async fn with_model(
    front: &Arc<Front>,
    service: &Arc<Service>,
    model: &ModelService,
    job: &Job,
) -> Result<String, Verdict> {
    let definition = &service.definition;
    // What is no JSON is no event.
    let is_json = job.event.trim_ascii_start().starts_with(b"{");
    let event = is_json.then(|| Event::parse(&job.event, &[]));
    let source = match (&job.object, &event) {
        (Some(object), _) => Some(Source::of_job(definition, object)?),
        // As OSCAR's own webhooks announce objects.
        (
            None,
            Some(Event {
                input: Input::Object(object),
                ..
            }),
        ) => Source::posted(definition, object)?,
        (None, _) => None,
    };
    let (name, fetched) = match source {
        Some(source) => {
            let is_likely = video::is_likely(source.name, source.size);
            if is_likely
                && let Some(log) = video::perform(front, service, model, job, source).await?
            {
                return Ok(log);
            }
            let fetched = source.fetch(front, definition).await?;
            // Whatever it is called. What was read is not kept while it waits.
            if !is_likely && Container::sniff(&fetched.bytes).is_some() {
                drop(fetched);
                let log = video::perform(front, service, model, job, source).await?;
                return log.ok_or_else(|| Verdict::Failed {
                    log: format!("`{}` changed while it was read", source.key),
                    may_retry: true,
                });
            }
            (source.name, fetched)
        }
        None => {
            let mut reservation = front.budget.reservation();
            let grown = reservation.grow(job.event.len() as u64);
            grown.map_err(|error| Verdict::of_error(&error.into(), false))?;
            let bytes = job.event.clone();
            (job.name.as_str(), Fetched { bytes, reservation })
        }
    };
    let drawing = model.options.draw.map(|format| match format {
        DrawFormat::Jpeg => (format!("{name}.jpg"), "image/jpeg"),
        DrawFormat::Png => (format!("{name}.png"), "image/png"),
    });
    let drawing = drawing.filter(|(name, _)| output::is_wanted(definition, name));
    let crop = |number: usize| format!("{name}.{number}.jpg");
    let mut model = model.clone();
    model.options.draw = model.options.draw.filter(|_| drawing.is_some());
    let is_cut = output::is_wanted(definition, &crop(0));
    model.options.crop = model.options.crop.filter(|_| is_cut);
    let Fetched { bytes, reservation } = fetched;
    let found = bulk(front, service, &model, (bytes, reservation)).await;
    let found = found.map_err(|error| Verdict::of_model(&error))?;
    let json = found.json.clone();
    let mut results = vec![NewResult {
        name: format!("{name}.json"),
        media: "application/json",
        content: Made::Bytes(found.json),
    }];
    if let (Some((name, media)), Some(content)) = (drawing, found.drawing) {
        results.push(NewResult {
            name,
            media,
            content: Made::Bytes(content),
        });
    }
    let crops = found.crops.into_iter().enumerate();
    results.extend(crops.map(|(number, content)| NewResult {
        name: crop(number),
        media: "image/jpeg",
        content: Made::Bytes(content),
    }));
    let kept = keep(front, definition, &job.name, &results).await?;
    if source.is_none() || kept.is_empty() {
        return Ok(String::from_utf8_lossy(&json).into_owned());
    }
    Ok(kept.iter().map(|kept| format!("{kept}\n")).collect())
}

// === impl ObjectRef ===

impl ObjectRef {
    /// Returns how many bytes of it are in memory while it is worked on: of a video none, since it is
    /// worked on from the disk.
    pub(crate) fn bytes_in_memory(&self) -> u64 {
        match video::is_likely(&self.key, self.size) {
            true => 0,
            false => self.size,
        }
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

    /// Whether this is the state that a storage provider describes. Who lists a bucket that keeps versions
    /// does not hear of them.
    pub(crate) fn is_of(&self, head: &Head) -> bool {
        *self == Self::of(head) || *self == Self::of_content(&head.etag, head.modified)
    }

    /// Returns the version, if it is told by one.
    pub(crate) fn version(&self) -> Option<&str> {
        self.0.strip_prefix("version ")
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
    /// Of what a model was asked. Where its workers died, two for each entry, somebody may have killed
    /// them; a model has no effects, so it is asked again later.
    fn of_model(error: &ApiError) -> Self {
        Self::of_error(error, error.status().is_server_error())
    }

    pub(crate) fn of_error(error: &ApiError, may_retry: bool) -> Self {
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

    /// Says more of why.
    fn because(self, say: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Succeeded { log } => Self::Succeeded { log },
            Self::Failed { log, may_retry } => Self::Failed {
                log: say(log),
                may_retry,
            },
            Self::Postponed { why } => Self::Postponed { why: say(why) },
        }
    }
}

impl From<StorageError> for Verdict {
    fn from(error: StorageError) -> Self {
        match error.kind {
            Trouble::Away => Self::Postponed { why: error.message },
            kind => Self::Failed {
                may_retry: kind == Trouble::Passing,
                log: error.message,
            },
        }
    }
}

impl From<Unfetched> for Verdict {
    fn from(error: Unfetched) -> Self {
        match error {
            Unfetched::NoRoom(error) => Self::Postponed { why: error.message },
            Unfetched::Storage(error) => error.into(),
        }
    }
}
