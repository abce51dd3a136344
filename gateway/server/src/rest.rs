//! The HTTP front: routes, who may call them, and what becomes of errors.

mod body;
mod coding;
mod error;
mod guard;
mod infer;
mod models;
mod picture;
mod predict;
mod predictions;
mod repository;
mod run;
pub(crate) mod s3;
mod shared_memory;
mod state;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use gateway_scheduler::{Class, Offer, Time};
use gateway_script::Runner;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use percent_encoding::percent_decode_str;
use time::OffsetDateTime;
use tower::ServiceExt as _;
use tracing::field::display;
use workers_protocol::wire::{Answer, PART_BYTES};
use workers_protocol::{Code, InferError, PictureOptions, Tensor};

use crate::auth::Auth;
use crate::budget::{Budget, Reservation};
use crate::catalog::Catalog;
use crate::dispatcher::Dispatcher;
use crate::entry::{Deadline, Entry};
use crate::jobs::{Ledger, events};
use crate::metrics::Failure;
use crate::objects::Objects;
use crate::oscar::{self, Services};
use crate::revision::Revision;
use crate::routes::{
    ALL_STATS, EVENTS, HEALTH, INDEX, INFER, INFER_VERSION, LIVE, LOAD, MEMORY_STATUS,
    MEMORY_UNREGISTER, METRICS, MODEL, MODEL_CONFIG, MODEL_CONFIG_VERSION, MODEL_READY,
    MODEL_READY_VERSION, MODEL_VERSION, MODELS, NOT_YET, OPENAPI, READY, REGION_REGISTER,
    REGION_STATUS, REGION_UNREGISTER, ROUTES, RUN, SCHEDULER, SERVER, STATS, STATS_VERSION, UNLOAD,
    V1_MODEL, V1_MODELS,
};
use crate::shared_memory::SharedMemory;
use crate::storage::Providers;
use crate::timeline::{self, Timeline};
use crate::trace::{Trace, Tracer};
use crate::work::Videos;
pub(crate) use body::refuse;
use coding::Coding;
pub(crate) use error::ApiError;
use guard::Cors;
pub(crate) use guard::{AllowedOrigin, Guard};
pub(crate) use run::{FoundInBulk, bulk};

/// What the routes need.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) tracer: Arc<Tracer>,
    pub(crate) guard: Guard,
    pub(crate) auth: Auth,
    pub(crate) shared_memory: SharedMemory,
    pub(crate) limits: Limits,
    pub(crate) services: Arc<Services>,
    pub(crate) providers: Arc<Providers>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) jobs: Arc<Ledger>,
    pub(crate) runner: Arc<Runner>,
    pub(crate) videos: Videos,
    pub(crate) started: OffsetDateTime,
}

/// Bounds of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_body: u64,
    pub(crate) max_pixels: u64,
    pub(crate) timeout: Duration,
    /// Bytes of bodies in memory at a time.
    pub(crate) max_bytes: u64,
    /// Jobs of a page.
    pub(crate) listing: usize,
    /// Time that a script may take.
    pub(crate) script_timeout: Duration,
}

/// Longest deadline, a day.
const LONGEST_MS: u64 = 24 * 60 * 60 * 1000;

/// What Triton has and Hearth does not, and what does its work here.
const NOT_OFFERED: &[(&str, &str)] = &[
    ("/v2/models/{name}/generate", GENERATE),
    ("/v2/models/{name}/generate_stream", GENERATE),
    ("/v2/models/{name}/versions/{version}/generate", GENERATE),
    (
        "/v2/models/{name}/versions/{version}/generate_stream",
        GENERATE,
    ),
    ("/v2/trace/setting", TRACES),
    ("/v2/models/{name}/trace/setting", TRACES),
    ("/v2/models/{name}/versions/{version}/trace/setting", TRACES),
    ("/v2/logging", LOGGING),
    ("/v2/repository/{repository}/index", REPOSITORIES),
];
const GENERATE: &str = "generate is not offered: POST tensors to /v2/models/{name}/infer";
const TRACES: &str = "traces are set up at the start, and not changed later: see --otlp-endpoint";
const LOGGING: &str =
    "the log is set up at the start, and not changed later: see RUST_LOG, --log-format";
const REPOSITORIES: &str = "there is one repository, without a name: POST to /v2/repository/index";

/// Returns the routes. A path with a slash too many at its end is the one without.
pub(crate) fn router(front: Arc<Front>) -> Router {
    let layer = middleware::from_fn_with_state(Arc::clone(&front), observe);
    let mut router = Router::new()
        .merge(oscar::router())
        .route(HEALTH, get(|| async { "Ok" }))
        .route(METRICS, get(models::metrics))
        .route(OPENAPI, get(openapi))
        .route(RUN, post(run::run))
        .route(EVENTS, post(events::announced))
        .route(SERVER, get(models::server))
        .route(LIVE, get(|| async { StatusCode::OK }))
        .route(READY, get(models::ready))
        .route(MODELS, get(repository::names))
        .route(MODEL, get(models::metadata))
        .route(MODEL_VERSION, get(models::version_metadata))
        .route(MODEL_READY, get(models::model_ready))
        .route(MODEL_READY_VERSION, get(models::version_ready))
        .route(MODEL_CONFIG, get(models::config))
        .route(MODEL_CONFIG_VERSION, get(models::version_config))
        .route(INFER, post(infer::infer))
        .route(INFER_VERSION, post(infer::infer_version))
        .route(ALL_STATS, get(state::all_stats))
        .route(STATS, get(state::stats))
        .route(STATS_VERSION, get(state::version_stats))
        .route(MEMORY_STATUS, get(shared_memory::status_of_all))
        .route(MEMORY_UNREGISTER, post(shared_memory::unregister_all))
        .route(REGION_STATUS, get(shared_memory::status))
        .route(REGION_REGISTER, post(shared_memory::register))
        .route(REGION_UNREGISTER, post(shared_memory::unregister))
        .route(INDEX, post(repository::index))
        .route(LOAD, post(repository::load))
        .route(UNLOAD, post(repository::unload))
        .route(V1_MODELS, get(repository::names))
        .route(V1_MODEL, get(models::v1_model).post(predict::predict))
        .route(SCHEDULER, get(state::scheduler));
    for &(route, instead) in NOT_OFFERED {
        let refuse =
            move || async move { ApiError::from(InferError::new(Code::Unimplemented, instead)) };
        router = router.route(route, get(refuse).post(refuse));
    }
    let routes = router
        // This sentence and the next are Triton's.
        .method_not_allowed_fallback(|| async {
            ApiError::with_status(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
        });
    let without_slash = routes
        .clone()
        .fallback(|| async { ApiError::from(InferError::new(Code::NotFound, "Not Found")) })
        .layer(layer.clone())
        .with_state(Arc::clone(&front));
    routes
        .layer(layer)
        .with_state(front)
        // Behind the routes, which so pay nothing for it.
        .fallback(|mut request: Request<Body>| async move {
            if let Some(uri) = without_last_slash(request.uri()) {
                *request.uri_mut() = uri;
            }
            without_slash.oneshot(request).await
        })
}

/// `GET /openapi.json`: what the routes take and answer.
async fn openapi() -> impl IntoResponse {
    let media = HeaderValue::from_static("application/json");
    (
        [(header::CONTENT_TYPE, media)],
        include_str!("rest/openapi.json"),
    )
}

/// Returns the address without the slash at the end of its path, if there is one.
fn without_last_slash(uri: &Uri) -> Option<Uri> {
    let path = uri
        .path()
        .strip_suffix('/')
        .filter(|path| !path.is_empty())?;
    let path_and_query = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path_and_query.ok()?);
    Uri::from_parts(parts).ok()
}

/// Refuses foreign pages and callers without credentials, counts every answer, and logs those that
/// are our fault: the one place where errors are logged.
async fn observe(State(front): State<Arc<Front>>, mut request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = route_of(&request);
    let followed = front.tracer.follow(&request, route);
    let context = followed.as_ref().map(|followed| {
        let trace = followed.trace();
        request.extensions_mut().insert(trace);
        trace.context
    });
    let trace_id = context.map(|context| display(context.trace_id));
    let span_id = context.map(|context| display(context.span_id));
    // Not in layers of their own, which would cost every request some allocations.
    let cors = front.guard.cors(&request);
    let is_preflight = cors.as_ref().is_some_and(Cors::is_preflight);
    let coding = Coding::wanted(route, request.headers());
    let mut response = match front.admit(route, is_preflight, &request) {
        Ok(()) if is_preflight => Cors::answer(),
        Ok(()) => next.run(request).await,
        Err(error) => refuse(request.into_body(), error).into_response(),
    };
    if let Some(coding) = coding {
        response = coding.wrap(response).await;
    }
    if let Some(cors) = cors {
        cors.add(response.headers_mut());
    }
    let status = response.status();
    let error = response.extensions_mut().remove::<Arc<InferError>>();
    // What is refused or late is counted; an error is for people to look at.
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(trace_id, span_id, %method, route, status = status.as_u16(), error = error.map(|error| error.to_string()), "failed");
    } else if let Some(error) = error {
        tracing::debug!(trace_id, span_id, %method, route, status = status.as_u16(), %error, "refused");
    }
    if let Some(followed) = followed {
        followed.answered(status);
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
    let offered = ROUTES.into_iter().chain(NOT_YET.map(|(route, _)| route));
    let route = offered
        .chain(NOT_OFFERED.iter().map(|&(route, _)| route))
        .find(|&route| matched == Some(route));
    debug_assert_eq!(matched, route, "each route is in one of the lists");
    route.unwrap_or("none")
}

/// An answered entry.
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    timeline: Timeline,
}

impl Front {
    /// Lets a request through that may be answered; of a preflight no credentials are expected.
    ///
    /// # Errors
    /// `PermissionDenied` for pages of others, `Unauthenticated` without the right credentials.
    pub(crate) fn admit(
        &self,
        route: &str,
        is_preflight: bool,
        request: &Request,
    ) -> Result<(), InferError> {
        let (uri, headers) = (request.uri(), request.headers());
        self.guard.check(request.method(), uri, headers)?;
        if !is_preflight {
            self.auth.check(route, uri.path(), headers)?;
        }
        // Here, since axum's own answer is no JSON, which clients expect.
        match percent_decode_str(uri.path()).decode_utf8() {
            Ok(_) => Ok(()),
            Err(_) => Err(InferError::new(
                Code::InvalidArgument,
                format!("the path {:?} is not UTF-8 once it is decoded", uri.path()),
            )),
        }
    }

    /// Sends one entry through the scheduler, and waits for its answer. Cancel-safe: dropping the
    /// future frees the entry's place at once.
    async fn answer(
        &self,
        revision: &Arc<Revision>,
        inputs: Vec<Tensor>,
        options: PictureOptions,
        admission: Admission,
    ) -> Result<Answered, ApiError> {
        let Admission {
            terms,
            cost,
            staging,
            reservation,
        } = admission;
        revision.poison.check(&inputs, &options)?;
        let poison = Arc::clone(&revision.poison);
        let trace = terms.trace.map(Trace::entry);
        let context = trace.map(|trace| trace.context);
        let (entry, outcome) = Entry::new(
            inputs,
            options,
            terms.deadline,
            reservation,
            poison,
            context,
        );
        let offered = entry.offered;
        let offer = Offer {
            // The dispatcher's clock says when that is.
            deadline: Time::MAX,
            cost,
            staging,
            class: terms.class,
        };
        let ticket = self
            .dispatcher
            .offer(revision, entry, outcome, offer)
            .map_err(|(error, retry_after)| {
                revision.metrics.fail(Failure::Rejected, offered.elapsed());
                ApiError::from(error).retry_after(retry_after)
            })?;
        let outcome = ticket.outcome().await;
        if let Some(trace) = trace {
            let instant = |time| self.dispatcher.instant(time);
            self.tracer
                .entry(trace, revision, offered, &outcome, instant);
        }
        let answer = outcome.result.inspect_err(|error| {
            let why = match error.code {
                Code::DeadlineExceeded => Failure::Rejected,
                Code::Internal => Failure::Backend,
                _ => Failure::Other,
            };
            revision.metrics.fail(why, offered.elapsed());
        })?;
        let timeline = Timeline::new(
            offered.elapsed(),
            outcome.cold,
            &answer.timing,
            outcome.course,
        );
        revision
            .metrics
            .observe(cost.items, &timeline, &answer.timing);
        tracing::debug!(
            trace_id = context.map(|context| display(context.trace_id)),
            span_id = context.map(|context| display(context.span_id)),
            model = %revision.name,
            total_us = timeline.total.as_micros() as u64,
            room_us = timeline.room.as_micros() as u64,
            cold_us = timeline.cold.as_micros() as u64,
            slot_us = timeline.slot.as_micros() as u64,
            infer_us = answer.timing.infer.as_micros() as u64,
            batch_size = answer.timing.batch_size,
            why = timeline.why.map(timeline::reason),
            "answered"
        );
        Ok(Answered { answer, timeline })
    }

    /// Returns the terms that a request asks for: when its caller stops waiting, which is after
    /// `X-Request-Timeout-Ms`, the model's own time, or the default, from now; and whether anybody
    /// does. Asked for before the body is read, so a body that trickles in uses the time up.
    pub(crate) fn terms(
        &self,
        headers: &HeaderMap,
        revision: &Revision,
        trace: Option<Trace>,
    ) -> Result<Terms, InferError> {
        self.terms_or(headers, revision, trace, Defaults::default())
    }

    /// Returns the terms that a request asks for, as [`Front::terms`], where a service has a say in
    /// what holds otherwise.
    fn terms_or(
        &self,
        headers: &HeaderMap,
        revision: &Revision,
        trace: Option<Trace>,
        defaults: Defaults,
    ) -> Result<Terms, InferError> {
        let class = match headers.get("x-hearth-class").map(HeaderValue::as_bytes) {
            None => defaults.class.unwrap_or(Class::Interactive),
            Some(b"interactive") => Class::Interactive,
            Some(b"bulk") => Class::Bulk,
            Some(other) => {
                return Err(InferError::invalid(format!(
                    "X-Hearth-Class: expected interactive or bulk, got {:?}",
                    String::from_utf8_lossy(other)
                )));
            }
        };
        let ms = match timeout_ms(headers)? {
            Some(ms) => ms,
            None => match (defaults.timeout, class) {
                (Some(timeout), _) => timeout.as_millis() as u64,
                // Bulk waits for as long as there is something more urgent.
                (None, Class::Bulk) => LONGEST_MS,
                (None, Class::Interactive) => {
                    let own = revision.model.manifest.timeout_ms;
                    own.unwrap_or(self.limits.timeout.as_millis() as u64)
                }
            },
        };
        let deadline = Deadline::after(Duration::from_millis(ms));
        Ok(Terms {
            deadline,
            class,
            trace,
        })
    }
}

impl Front {
    /// Returns by when what asks for no model has to be done.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.limits.timeout)
    }

    /// Returns the terms of what nobody waits for.
    fn bulk(&self) -> Terms {
        Terms {
            deadline: Deadline::after(Duration::from_millis(LONGEST_MS)),
            class: Class::Bulk,
            trace: None,
        }
    }
}

/// Returns the milliseconds of `X-Request-Timeout-Ms`, if there is one.
///
/// # Errors
/// `InvalidArgument` of what is no number from 1 to a day.
pub(crate) fn timeout_ms(headers: &HeaderMap) -> Result<Option<u64>, InferError> {
    let Some(value) = headers.get("x-request-timeout-ms") else {
        return Ok(None);
    };
    let ms = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    match ms.filter(|ms| (1..=LONGEST_MS).contains(ms)) {
        Some(ms) => Ok(Some(ms)),
        None => Err(InferError::invalid(format!(
            "X-Request-Timeout-Ms: expected a whole number from 1 to {LONGEST_MS}, got {value:?}"
        ))),
    }
}

/// What holds where a request says nothing, of a service.
#[derive(Clone, Copy, Debug, Default)]
struct Defaults {
    timeout: Option<Duration>,
    class: Option<Class>,
}

/// On what terms a request is served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) deadline: Deadline,
    class: Class,
    trace: Option<Trace>,
}

/// One entry's part of a request.
struct Admission {
    terms: Terms,
    cost: gateway_scheduler::Cost,
    staging: gateway_scheduler::Staging,
    reservation: Arc<Reservation>,
}

/// Does work in proportion to so many bytes; where they are many, the other connections of this
/// thread are handed to another one first.
pub(crate) fn for_bytes<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
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
