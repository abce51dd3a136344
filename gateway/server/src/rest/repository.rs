//! What the store holds, and what of it is loaded: `/v2/repository`, and lists of names.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::HeaderMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use workers_protocol::{Code, InferError};

use super::body::object;
use super::{ApiError, Front};
use crate::describe;
use crate::entry::Deadline;

#[derive(Default, Deserialize)]
struct IndexRequest {
    /// Only what can be run.
    #[serde(default)]
    ready: bool,
}

/// What loading and unloading take; empty bodies say the same as `{}`.
#[derive(Default, Deserialize)]
struct ControlRequest {
    #[serde(default)]
    parameters: Map<String, Value>,
}

#[derive(Serialize)]
struct Index {
    name: String,
    version: String,
    state: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

#[derive(Serialize)]
struct Names {
    models: Vec<String>,
}

/// `GET /v2/models` as KServe has it, and `GET /v1/models`: the names of what can be run.
pub(super) async fn names(State(front): State<Arc<Front>>) -> Response {
    let revisions = front.catalog.revisions().into_iter();
    let mut models: Vec<_> = revisions
        .map(|revision| revision.name.to_string())
        .collect();
    // Versions of one model follow each other.
    models.dedup();
    Json(Names { models }).into_response()
}

pub(super) async fn index(
    State(front): State<Arc<Front>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let request: IndexRequest = front.read_json(&headers, body).await?;
    let models = describe::index(&front.catalog, request.ready).into_iter();
    let models = models.map(|model| Index {
        name: model.name,
        version: model.version,
        state: model.state,
        reason: model.reason,
    });
    Ok(Json(models.collect::<Vec<_>>()).into_response())
}

pub(super) async fn load(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<(), ApiError> {
    let request: ControlRequest = front.read_json(&headers, body).await?;
    let parameters = request.parameters.keys().map(String::as_str);
    Ok(front.load(name, parameters).await?)
}

pub(super) async fn unload(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<(), ApiError> {
    let request: ControlRequest = front.read_json(&headers, body).await?;
    let parameters = request.parameters.iter();
    let parameters = parameters.map(|(name, value)| (name.as_str(), value.as_bool()));
    Ok(front.unload(&name, parameters).await?)
}

impl Front {
    async fn read_json<T: Default + DeserializeOwned>(
        &self,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<T, ApiError> {
        let deadline = Deadline::after(self.limits.timeout);
        let (body, _reservation): (Bytes, _) = self.read(headers, body, deadline).await?;
        if body.is_empty() {
            return Ok(T::default());
        }
        let parsed = serde_json::from_slice(object(&body)?);
        Ok(parsed.map_err(|error| {
            InferError::invalid(format!("the request's JSON can't be read: {error}"))
        })?)
    }

    /// Loads a model. A caller who leaves does not stop it.
    ///
    /// # Errors
    /// `Unimplemented` for a configuration or files to load instead of the store's; as
    /// [`Catalog::load`](crate::catalog::Catalog::load).
    pub(crate) async fn load<'a>(
        &self,
        name: String,
        mut parameters: impl Iterator<Item = &'a str>,
    ) -> Result<(), InferError> {
        if let Some(parameter) = parameters.next() {
            if parameter == "config" || parameter.starts_with("file:") {
                let message = format!(
                    "`{parameter}`: a version is served as the store has it: put another \
                     configuration or other files into a new version there"
                );
                return Err(InferError::new(Code::Unimplemented, message));
            }
            return Err(unknown_parameter(parameter));
        }
        let catalog = Arc::clone(&self.catalog);
        let load = tokio::spawn(async move { catalog.load(&name).await });
        load.await
            .unwrap_or_else(|error| Err(InferError::internal(format!("loading failed: {error}"))))
    }

    /// Unloads a model.
    ///
    /// # Errors
    /// `Unimplemented` where others are to be unloaded with it.
    pub(crate) async fn unload<'a>(
        &self,
        name: &str,
        parameters: impl Iterator<Item = (&'a str, Option<bool>)>,
    ) -> Result<(), InferError> {
        for parameter in parameters {
            match parameter {
                ("unload_dependents", Some(false)) => {}
                ("unload_dependents", Some(true)) => {
                    let message = "`unload_dependents`: a model with stages holds them in a worker \
                                   of its own, so there are no others: unload models by their names";
                    return Err(InferError::new(Code::Unimplemented, message));
                }
                ("unload_dependents", None) => {
                    let message = "`unload_dependents`: expected true or false";
                    return Err(InferError::invalid(message));
                }
                (parameter, _) => return Err(unknown_parameter(parameter)),
            }
        }
        self.catalog.unload(name).await;
        Ok(())
    }
}

fn unknown_parameter(name: &str) -> InferError {
    InferError::invalid(format!("parameter `{name}` is not known here"))
}
