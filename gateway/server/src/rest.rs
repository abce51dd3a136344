//! The HTTP front: routes, who may call them, and what becomes of errors.

mod body;
mod error;
mod guard;
mod infer;
mod models;
mod picture;
mod run;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode};
use workers_protocol::wire::{Answer, PART_BYTES};
use workers_protocol::{Code, InferError, PictureOptions, Tensor};

use crate::budget::{Budget, Reservation};
use crate::catalog::Catalog;
use crate::dispatcher::Dispatcher;
use crate::entry::{Deadline, Entry};
use crate::revision::Revision;
use crate::timeline::Timeline;
pub(crate) use error::ApiError;

/// What the routes need.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) limits: Limits,
}

/// Bounds of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_body: u64,
    pub(crate) max_pixels: u64,
    pub(crate) timeout: Duration,
}

const HEALTH: &str = "/health";
const METRICS: &str = "/metrics";
const RUN: &str = "/run/{name}";
const LIVE: &str = "/v2/health/live";
const READY: &str = "/v2/health/ready";
const MODEL: &str = "/v2/models/{name}";
const MODEL_VERSION: &str = "/v2/models/{name}/versions/{version}";
const INFER: &str = "/v2/models/{name}/infer";
const INFER_VERSION: &str = "/v2/models/{name}/versions/{version}/infer";
const ROUTES: [&str; 9] = [
    HEALTH,
    METRICS,
    RUN,
    LIVE,
    READY,
    MODEL,
    MODEL_VERSION,
    INFER,
    INFER_VERSION,
];

/// Returns the routes.
pub(crate) fn router(front: Arc<Front>) -> Router {
    Router::new()
        .route(HEALTH, get(|| async { "Ok" }))
        .route(METRICS, get(models::metrics))
        .route(RUN, post(run::run))
        .route(LIVE, get(|| async { StatusCode::OK }))
        .route(READY, get(models::ready))
        .route(MODEL, get(models::metadata))
        .route(MODEL_VERSION, get(models::version_metadata))
        .route(INFER, post(infer::infer))
        .route(INFER_VERSION, post(infer::infer_version))
        .fallback(|| async { ApiError::from(InferError::new(Code::NotFound, "no such route")) })
        .method_not_allowed_fallback(|| async {
            ApiError::with_status(
                StatusCode::METHOD_NOT_ALLOWED,
                "this route takes another method",
            )
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&front), observe))
        .with_state(front)
}

/// Refuses callers who are not on this machine, counts every answer, and logs those that are our
/// fault: the one place where errors are logged.
async fn observe(State(front): State<Arc<Front>>, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = route_of(&request);
    // Not in a layer of its own, which would cost every request some allocations.
    let mut response = match guard::check(request.headers(), request.uri()) {
        Ok(()) => next.run(request).await,
        Err(error) => ApiError::from(error).into_response(),
    };
    let status = response.status();
    let error = response.extensions_mut().remove::<Arc<InferError>>();
    // What is refused or late is counted; an error is for people to look at.
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(%method, route, status = status.as_u16(), error = error.map(|error| error.to_string()), "failed");
    } else if let Some(error) = error {
        tracing::debug!(%method, route, status = status.as_u16(), %error, "refused");
    }
    front
        .dispatcher
        .metrics
        .count_request(route, status.as_u16());
    response
}

/// Returns the route that a request matched, as its label.
fn route_of(request: &Request) -> &'static str {
    let matched = request
        .extensions()
        .get::<MatchedPath>()
        .map(MatchedPath::as_str);
    ROUTES
        .into_iter()
        .find(|&route| matched == Some(route))
        .unwrap_or("none")
}

/// An answered entry.
struct Answered {
    answer: Answer,
    timeline: Timeline,
}

impl Front {
    /// Sends one entry through the scheduler, and waits for its answer. Cancel-safe: dropping the
    /// future frees the entry's place at once.
    async fn answer(
        &self,
        revision: &Revision,
        inputs: Vec<Tensor>,
        options: PictureOptions,
        admission: Admission,
    ) -> Result<Answered, ApiError> {
        let Admission {
            deadline,
            cost,
            staging,
            reservation,
        } = admission;
        let (entry, outcome) = Entry::new(inputs, options, deadline, reservation);
        let offered = entry.offered;
        let ticket = self
            .dispatcher
            .offer(revision, entry, outcome, cost, staging)
            .map_err(|(error, retry_after)| ApiError::from(error).retry_after(retry_after))?;
        let outcome = ticket.outcome().await;
        let answer = outcome.result?;
        let timeline = Timeline::new(offered.elapsed(), outcome.cold, &answer.timing);
        revision.metrics.observe(&timeline, &answer.timing);
        Ok(Answered { answer, timeline })
    }

    /// Returns when the caller stops waiting: after `X-Request-Timeout-Ms`, the model's own time, or
    /// the default, from now. Asked for before the body is read, so a body that trickles in uses it up.
    fn deadline(&self, headers: &HeaderMap, revision: &Revision) -> Result<Deadline, InferError> {
        const LONGEST_MS: u64 = 24 * 60 * 60 * 1000;
        let Some(value) = headers.get("x-request-timeout-ms") else {
            let own = revision
                .model
                .manifest
                .timeout_ms
                .map(Duration::from_millis);
            return Ok(Deadline::after(own.unwrap_or(self.limits.timeout)));
        };
        let ms = value
            .to_str()
            .ok()
            .and_then(|text| text.trim().parse().ok());
        ms.filter(|ms| (1..=LONGEST_MS).contains(ms)).map(|ms| Deadline::after(Duration::from_millis(ms))).ok_or_else(|| {
            InferError::invalid(format!(
                "X-Request-Timeout-Ms: expected a whole number from 1 to {LONGEST_MS}, got {value:?}"
            ))
        })
    }
}

/// The terms of one entry.
struct Admission {
    deadline: Deadline,
    cost: gateway_scheduler::Cost,
    staging: gateway_scheduler::Staging,
    reservation: Arc<Reservation>,
}

/// Does work in proportion to so many bytes; where they are many, the other connections of this
/// thread are handed to another one first.
fn for_bytes<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > PART_BYTES {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

/// Returns the answer with where its time went.
fn with_timing(answered: &Answered, response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    let header = answered.timeline.header(&answered.answer.timing);
    response.headers_mut().insert("server-timing", header);
    response
}
