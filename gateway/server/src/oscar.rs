//! OSCAR's surface: services, their jobs, and what its clients ask of a cluster. `/run` is in `rest`,
//! since models answer it as well.

mod buckets;
mod database;
mod deployment;
mod folder;
mod jobs;
mod metrics;
pub(crate) mod random;
mod registry;
pub(crate) mod script;
mod service;
mod services;
mod system;
mod usage;

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use percent_encoding::percent_decode_str;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use workers_protocol::{Code, InferError};

use crate::rest::{ApiError, Front};
use crate::routes::{
    BREAKDOWN, BUCKET, BUCKETS, CONFIG, DEPLOYMENT, INFO, JOB, JOB_LOG, JOBS, NOT_YET, PRESIGN,
    SERVICE, SERVICE_METRICS, SERVICES, STATUS, SUMMARY,
};
pub(crate) use folder::Folder;
pub(crate) use registry::{Services, events_token};
pub(crate) use service::{Backend, ModelService, Service};
pub(crate) use services::keep_places;
pub(crate) use usage::Call;

/// The version of OSCAR that clients find: they choose by it what they ask for.
const COMPATIBLE_VERSION: &str = "v4.1.2";

/// Returns the routes.
pub(crate) fn router() -> Router<Arc<Front>> {
    let mut router = Router::new()
        .route(INFO, get(system::info))
        .route(CONFIG, get(system::config).put(system::configure))
        .route(STATUS, get(system::status))
        .route(
            SERVICES,
            get(services::list)
                .post(services::create)
                .put(services::update),
        )
        .route(SERVICE, get(services::get).delete(services::delete))
        .route(DEPLOYMENT, get(services::deployment))
        .route(JOB, post(jobs::begin))
        .route(JOBS, get(jobs::list).delete(jobs::delete_all))
        .route(JOB_LOG, get(jobs::log).delete(jobs::delete))
        .route(
            BUCKETS,
            get(buckets::list)
                .post(buckets::create)
                .put(buckets::update),
        )
        .route(BUCKET, get(buckets::get).delete(buckets::delete))
        .route(PRESIGN, post(buckets::presign))
        .route(SUMMARY, get(metrics::summary))
        .route(BREAKDOWN, get(metrics::breakdown))
        .route(SERVICE_METRICS, get(metrics::of_service));
    for (route, what) in NOT_YET {
        router = router.route(
            route,
            any(move || async move {
                let message = format!("{what} are not there yet in this version of Hearth");
                Text::from(InferError::new(Code::Unimplemented, message))
            }),
        );
    }
    router
}

/// A failure as OSCAR's clients read it: a status and its sentence, as plain text.
#[derive(Debug)]
pub(crate) struct Text(ApiError);

impl<E: Into<ApiError>> From<E> for Text {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Text {
    fn into_response(self) -> Response {
        self.0.into_text()
    }
}

/// Returns a value of a query, decoded; of several the first.
fn query_value(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = query.unwrap_or_default().split('&');
    let (_, value) = pairs
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)?;
    let value = value.replace('+', " ");
    Some(percent_decode_str(&value).decode_utf8_lossy().into_owned())
}

/// Reads a value of a query that is true or false; false where nothing is said.
fn flag(query: Option<&str>, name: &str) -> Result<bool, InferError> {
    match query_value(query, name).as_deref() {
        None | Some("" | "false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(_) => Err(InferError::invalid(format!(
            "`{name}`: expected `true` or `false`"
        ))),
    }
}

/// Returns a time as RFC 3339 has it.
fn rfc3339(time: OffsetDateTime) -> String {
    // Years beyond 9999 alone can't be written.
    time.format(&Rfc3339).unwrap_or_default()
}
