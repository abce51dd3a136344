//! `/system/services`: creating, reading, changing and deleting services.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use gateway_oscar::{Kind, Service as Definition};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use workers_protocol::InferError;

use super::deployment::Deployment;
use super::registry::Services;
use super::service::Service;
use super::{Text, query_value};
use crate::rest::Front;

/// Largest definition, in bytes: OSCAR's are kept where no more than that fits.
const MAX_DEFINITION: u64 = 1 << 20;

/// A definition as it is answered.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    definition: Definition,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<Deployment>,
}

pub(super) async fn create(
    State(front): State<Arc<Front>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Text> {
    let definition = read(&front, &headers, body).await?;
    let scripts = scripts(&front, &definition).await;
    let unread = front.videos.check(&definition)?;
    let made = to_its_end(create_with_places(Arc::clone(&front), definition, scripts)).await?;
    let (service, mut warnings) = made;
    warnings.extend(unread.map(|missing| missing.to_string()));
    tracing::info!(service = service.name(), "service created");
    Ok(changed(&front, StatusCode::CREATED, &service, warnings))
}

pub(super) async fn update(
    State(front): State<Arc<Front>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Text> {
    let definition = read(&front, &headers, body).await?;
    let scripts = scripts(&front, &definition).await;
    let unread = front.videos.check(&definition)?;
    let made = to_its_end(update_with_places(Arc::clone(&front), definition, scripts)).await?;
    let (service, mut warnings) = made;
    warnings.extend(unread.map(|missing| missing.to_string()));
    tracing::info!(service = service.name(), "service changed");
    Ok(changed(&front, StatusCode::NO_CONTENT, &service, warnings))
}

pub(super) async fn delete(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Text> {
    let service = front.services.find(&name)?;
    to_its_end(delete_with_places(front, service)).await?;
    tracing::info!(service = name, "service deleted");
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn list(
    State(front): State<Arc<Front>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let services = front.services.all();
    let shown = services
        .iter()
        .map(|service| Shown::new(&front, service, query.as_deref(), &headers));
    Json(shown.collect::<Vec<_>>()).into_response()
}

pub(super) async fn get(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Text> {
    let service = front.services.find(&name)?;
    Ok(Json(Shown::new(&front, &service, query.as_deref(), &headers)).into_response())
}

pub(super) async fn deployment(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
) -> Result<Response, Text> {
    let service = front.services.find(&name)?;
    Ok(Json(Deployment::of(&front, &service).named(&name)).into_response())
}

impl Shown {
    fn new(front: &Front, service: &Service, query: Option<&str>, headers: &HeaderMap) -> Self {
        // The command line of before OSCAR 4.1 is written in Go, and nothing else that reads services is.
        let is_go = headers
            .get(header::USER_AGENT)
            .is_some_and(|agent| agent.as_bytes().starts_with(b"Go-http-client/"));
        let wants_deployment =
            query_value(query, "include").is_some_and(|include| include == "deployment");
        Self {
            definition: service.shown(is_go),
            deployment: wants_deployment.then(|| Deployment::of(front, service)),
        }
    }
}

/// Reads a definition, whatever its `Content-Type` says.
async fn read(front: &Front, headers: &HeaderMap, body: Body) -> Result<Definition, Text> {
    let deadline = front.deadline();
    let (body, _reservation) = front
        .read_at_most(MAX_DEFINITION, headers, body, deadline)
        .await?;
    Definition::from_json(&body).map_err(|error| invalid(&error).into())
}

/// Finds out whether scripts can be run here, where it matters.
async fn scripts(front: &Front, definition: &Definition) -> Result<(), InferError> {
    if definition.kind() != Kind::Script {
        return Ok(());
    }
    let check = front.runner.check().await;
    check.map_err(|error| InferError::invalid(error.to_string()))
}

/// Says as OSCAR does that a definition is none.
pub(super) fn invalid(error: &gateway_oscar::Invalid) -> InferError {
    InferError::invalid(format!("The service specification is not valid: {error}"))
}

/// Makes a change, to its end, also where its caller leaves meanwhile.
pub(super) async fn change<T: Send + 'static>(
    front: &Front,
    change: impl FnOnce(&Services) -> Result<T, InferError> + Send + 'static,
) -> Result<T, InferError> {
    let services = Arc::clone(&front.services);
    tokio::task::spawn_blocking(move || change(&services))
        .await
        .unwrap_or_else(|error| Err(InferError::internal(error.to_string())))
}

/// Answers a change as OSCAR does, with nothing, and says in a header what has no effect and what is
/// not as it might be.
fn changed(
    front: &Front,
    status: StatusCode,
    service: &Service,
    mut warnings: Vec<String>,
) -> Response {
    let idle = Service::without_effect(&service.definition, front.runner.has_containers());
    if !idle.is_empty() {
        warnings.push(format!("kept without effect: {}", idle.join(", ")));
    }
    let mut response = status.into_response();
    if !warnings.is_empty() {
        let warning = warnings.join("; ");
        tracing::info!(service = service.name(), "{warning}");
        if let Ok(value) = HeaderValue::from_str(&warning) {
            response.headers_mut().insert("x-hearth-warning", value);
        }
    }
    response
}

// === the places of services ===

/// How long it takes to try again what storage could not do.
const RETRY: Duration = Duration::from_secs(30);

/// Does a change to its end, also where its caller leaves meanwhile.
pub(super) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, InferError>> + Send + 'static,
) -> Result<T, InferError> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|error| Err(InferError::internal(error.to_string())))
}

/// Takes in a service and makes its places; without them it is none.
async fn create_with_places(
    front: Arc<Front>,
    definition: Definition,
    scripts: Result<(), InferError>,
) -> Result<(Arc<Service>, Vec<String>), InferError> {
    let service = {
        let _coming = front.services.comings.lock().await;
        // What one of its name has left, whose end was cut short.
        if front.services.get(&definition.name).is_none() {
            front.jobs.forget(&definition.name).await?;
        }
        change(&front, move |services| services.create(definition, scripts)).await?
    };
    match front.providers.make_places(&service.definition).await {
        Ok(warnings) => Ok((service, warnings)),
        Err(error) => {
            delete_with_places(front, service).await?;
            Err(error.into())
        }
    }
}

/// Makes the places that a changed service has, changes it, and gives up those that it had.
async fn update_with_places(
    front: Arc<Front>,
    definition: Definition,
    scripts: Result<(), InferError>,
) -> Result<(Arc<Service>, Vec<String>), InferError> {
    let before = front.services.find(&definition.name)?;
    let warnings = front.providers.make_places(&definition).await?;
    let service = change(&front, move |services| services.update(definition, scripts)).await?;
    give_up_places(&front, &before.definition).await;
    Ok((service, warnings))
}

async fn delete_with_places(front: Arc<Front>, service: Arc<Service>) -> Result<(), InferError> {
    let name = service.name().to_owned();
    let forgotten = {
        let _going = front.services.comings.lock().await;
        change(&front, move |services| services.delete(&name)).await?;
        front.jobs.forget(service.name()).await
    };
    // Apart, because it may take long: one of the same name may be made meanwhile.
    give_up_places(&front, &service.definition).await;
    forgotten
}

/// Gives up the places of a definition that holds no more. Where storage can't, they stay: what they
/// announce finds no service.
async fn give_up_places(front: &Front, definition: &Definition) {
    let services = front.services.all();
    let others = services.iter().map(|service| &service.definition);
    if let Err(error) = front.providers.give_up_places(definition, others).await {
        tracing::warn!(service = definition.name, %error, "what it has at a storage provider stays");
    }
    // Who came meanwhile may have found there what was then given up.
    for service in front.services.all() {
        if !services.iter().any(|known| Arc::ptr_eq(known, &service)) {
            make_places(front, &service).await;
        }
    }
}

/// Makes the places of a service; whether it has them.
async fn make_places(front: &Front, service: &Service) -> bool {
    let made = front.providers.make_places(&service.definition).await;
    if let Err(error) = &made {
        tracing::warn!(service = service.name(), %error, "it can't have its places at a storage provider");
    }
    made.is_ok()
}

/// Makes the places of all services that there are at the start, and tries until they are made: the
/// storage may be new, or not there yet.
pub(crate) async fn keep_places(front: Arc<Front>) {
    let mut left = front.services.all();
    loop {
        let mut failed = Vec::new();
        for service in left {
            if !make_places(&front, &service).await {
                failed.push(service);
            }
        }
        if failed.is_empty() {
            return;
        }
        tokio::time::sleep(RETRY).await;
        // What was changed or deleted meanwhile has seen to itself.
        failed.retain(|service| {
            let now = front.services.get(service.name());
            now.is_some_and(|now| Arc::ptr_eq(&now, service))
        });
        left = failed;
    }
}
