//! `/job` and `/system/logs`: beginning, listing, reading and forgetting jobs.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use workers_protocol::{Code, InferError};

use super::service::Service;
use super::usage::Call;
use super::{Text, flag, query_value, rfc3339};
use crate::jobs::events::{self, Announced};
use crate::jobs::{Count, NewJob, Selection, Status, Which, made_up_name};
use crate::rest::{Front, refuse};

/// Bytes of an event at most, as a part of those that bodies may take: what it is decoded to has to find
/// room beside it.
const EVENT_SHARE: u64 = 4;

/// The header that names a job which another cluster delegates.
const DELEGATED: &str = "x-delegated-job-id";

/// Longest name of a job that a caller chooses, in bytes: Kubernetes has no longer ones.
const MAX_JOB_NAME: usize = 253;

/// `POST /job/{service}`: begins a job. It is on the disk before it is answered.
pub(super) async fn begin(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Text> {
    let begun = front
        .services
        .find(&name)
        .and_then(|service| Ok((job_name(service.name(), &headers)?, service)));
    let (job, service) = match begun {
        Ok(begun) => begun,
        Err(error) => return Err(refuse(body, error).into()),
    };
    let most = front
        .limits
        .max_body
        .min(front.limits.max_bytes / EVENT_SHARE);
    let (event, _reservation) = front
        .read_at_most(most, &headers, body, front.deadline())
        .await?;
    if let Some(announced) = announced(&front, &service, &headers, &event) {
        let mut jobs = Vec::new();
        for object in announced
            .iter()
            .filter(|object| service.is_called_by(events::OWN, &object.bucket, &object.key))
        {
            jobs.extend(
                front
                    .jobs_of(object, std::slice::from_ref(&service))
                    .await?,
            );
        }
        front.announce(jobs).await?;
        return Ok(StatusCode::CREATED.into_response());
    }
    let new = NewJob {
        service: name,
        name: job.clone(),
        event,
        object: None,
        also: None,
    };
    front.announce(vec![new]).await?;
    service.count(Call::Async);
    let mut response = StatusCode::CREATED.into_response();
    if let Ok(job) = HeaderValue::from_str(&job) {
        response.headers_mut().insert("x-job-name", job);
    }
    Ok(response)
}

/// Returns the objects that a MinIO announces by a target that OSCAR made for the service: its body is a
/// storage event of the service's own inputs, and comes with the service's token. Whoever else posts one
/// wants a new job.
fn announced(
    front: &Front,
    service: &Service,
    headers: &HeaderMap,
    event: &Bytes,
) -> Option<Vec<Announced>> {
    if event.len() as u64 > events::MAX_EVENT
        || headers.contains_key(DELEGATED)
        || !front.auth.is_service(service.name(), headers)
    {
        return None;
    }
    let announced = events::read(event).ok()?;
    let is_own = |object: &Announced| service.reads(events::OWN, &object.bucket, &object.key);
    (!announced.is_empty() && announced.iter().all(is_own)).then_some(announced)
}

/// Returns what a new job is called: as the cluster that delegates it says, or else as OSCAR would.
fn job_name(service: &str, headers: &HeaderMap) -> Result<String, InferError> {
    let Some(name) = headers.get(DELEGATED) else {
        return made_up_name(service);
    };
    let is_name = |name: &&str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        (1..=MAX_JOB_NAME).contains(&name.len()) && name.bytes().all(is_part)
    };
    let name = name.to_str().ok().filter(is_name).ok_or_else(|| {
        InferError::invalid(format!(
            "X-Delegated-Job-ID: expected 1 to {MAX_JOB_NAME} letters, digits and `-_.`, got {name:?}"
        ))
    })?;
    Ok(name.to_owned())
}

#[derive(Serialize)]
struct Listed {
    jobs: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining_jobs: Option<u64>,
    /// Hearth's own, for those who ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<Counts>,
}

/// All jobs of a service by their status.
#[derive(Serialize)]
struct Counts {
    pending: u64,
    running: u64,
    succeeded: u64,
    failed: u64,
}

#[derive(Serialize)]
struct JobInfo {
    status: Status,
    creation_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_time: Option<String>,
}

pub(super) async fn list(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Text> {
    front.services.find(&name)?;
    let from = match query_value(query.as_deref(), "page").as_deref() {
        None | Some("") => None,
        Some(page) => Some(page.parse().map_err(|_| {
            InferError::invalid("`page`: expected what `next_page` of an answer said")
        })?),
    };
    let which = match flag(query.as_deref(), "failed")? {
        true => Which::Failed,
        false => Which::All,
    };
    let counts = flag(query.as_deref(), "counts")?.then(|| front.jobs.count(&name).into());
    let page = front
        .jobs
        .page(&name, which, from, front.limits.listing)
        .await?;
    let listed = page.jobs.into_iter().filter_map(|job| {
        let info = JobInfo {
            status: job.status,
            creation_time: rfc3339(job.created),
            start_time: job.started.map(rfc3339),
            finish_time: job.finished.map(rfc3339),
        };
        Some((job.name, serde_json::to_value(info).ok()?))
    });
    Ok(Json(Listed {
        jobs: listed.collect(),
        next_page: page.next.map(|next| next.to_string()),
        remaining_jobs: (page.n_remaining > 0).then_some(page.n_remaining),
        counts,
    })
    .into_response())
}

pub(super) async fn delete_all(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Text> {
    front.services.find(&name)?;
    let all = flag(query.as_deref(), "all")?;
    let selection = match all {
        true => Selection::All,
        false => Selection::Succeeded,
    };
    front.jobs.delete(&name, selection).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn log(
    State(front): State<Arc<Front>>,
    Path((service, job)): Path<(String, String)>,
) -> Result<String, Text> {
    front.services.find(&service)?;
    let log = front.jobs.log(&service, &job).await?;
    Ok(log.ok_or_else(|| no_job(&service))?)
}

pub(super) async fn delete(
    State(front): State<Arc<Front>>,
    Path((service, job)): Path<(String, String)>,
) -> Result<StatusCode, Text> {
    front.services.find(&service)?;
    match front.jobs.delete(&service, Selection::Named(job)).await? {
        0 => Err(no_job(&service).into()),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}

fn no_job(service: &str) -> InferError {
    let message = format!("service `{service}` has no such job");
    InferError::new(Code::NotFound, message)
}

impl From<Count> for Counts {
    fn from(count: Count) -> Self {
        Self {
            pending: count.pending.saturating_sub(count.running),
            running: count.running,
            succeeded: count.succeeded,
            failed: count.failed,
        }
    }
}
