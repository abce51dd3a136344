//! What there is and how it does: model metadata, readiness, metrics.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use model_store::{Task, TensorSpec};
use serde::Serialize;

use super::{ApiError, Front};
use crate::catalog::State as VersionState;
use crate::revision::Revision;

/// Model metadata as the Open Inference Protocol has it, and what Hearth adds.
#[derive(Serialize)]
struct Metadata<'a> {
    name: &'a str,
    versions: Vec<String>,
    platform: &'a str,
    inputs: Vec<Tensor<'a>>,
    outputs: Vec<Tensor<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<Task>,
    max_batch: u32,
    digest: String,
    /// What was changed or noticed when the version was added.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: &'a [i64],
}

pub(super) async fn ready(State(front): State<Arc<Front>>) -> StatusCode {
    // What the protocol's reference server answers while it is not ready.
    if front.catalog.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::BAD_REQUEST
    }
}

pub(super) async fn metadata(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let revision = front.catalog.find(&name, None)?;
    Ok(front.metadata(&revision))
}

pub(super) async fn version_metadata(
    State(front): State<Arc<Front>>,
    Path((name, version)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let revision = front.catalog.find(&name, Some(&version))?;
    Ok(front.metadata(&revision))
}

pub(super) async fn metrics(State(front): State<Arc<Front>>) -> Response {
    let text = front.dispatcher.expose(front.budget.used());
    let media =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, media)], text).into_response()
}

impl Front {
    fn metadata(&self, revision: &Revision) -> Response {
        let spec = &revision.model.spec;
        let listed = self.catalog.versions(revision.name.as_str());
        let mut notes = spec.notes.clone();
        for (version, listed) in &listed {
            if let VersionState::Refused(reason) | VersionState::Failed(reason) = &listed.state {
                notes.push(format!("version {version} can't be served: {reason}"));
            }
            if listed.is_changed {
                notes.push(format!("the files of version {version} changed in the store; it is served as it was added"));
            }
        }
        let is_ready = |state: &VersionState| matches!(state, VersionState::Ready(_));
        Json(Metadata {
            name: revision.name.as_str(),
            versions: listed
                .iter()
                .filter(|(_, listed)| is_ready(&listed.state))
                .map(|(version, _)| version.to_string())
                .collect(),
            platform: &spec.platform,
            inputs: tensors(&spec.inputs),
            outputs: tensors(&spec.outputs),
            task: spec.task,
            max_batch: spec.max_batch,
            digest: revision.model.digest.to_string(),
            notes,
        })
        .into_response()
    }
}

fn tensors(specs: &[TensorSpec]) -> Vec<Tensor<'_>> {
    specs
        .iter()
        .map(|spec| Tensor {
            name: &spec.name,
            datatype: spec.datatype.as_str(),
            shape: &spec.shape,
        })
        .collect()
}
