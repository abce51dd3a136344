//! What there is and how it does: metadata, readiness, configuration, metrics.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use model_store::{Task, TensorSpec};
use serde::Serialize;
use serde_json::{Value, json};
use workers_protocol::InferError;
use workers_protocol::oip::model_instance_group::Kind;
use workers_protocol::oip::{DataType, ModelConfig};

use super::{ApiError, Front};
use crate::catalog::State as VersionState;
use crate::describe;
use crate::jobs;
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

/// `GET /v2`.
pub(super) async fn server(State(front): State<Arc<Front>>) -> Response {
    let server = describe::server(front.shared_memory.is_offered());
    Json(json!({
        "name": server.name,
        "version": server.version,
        "extensions": server.extensions,
    }))
    .into_response()
}

pub(super) async fn model_ready(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
) -> Result<(), ApiError> {
    front.model_ready(&name, None)
}

pub(super) async fn version_ready(
    State(front): State<Arc<Front>>,
    Path((name, version)): Path<(String, String)>,
) -> Result<(), ApiError> {
    front.model_ready(&name, Some(&version))
}

pub(super) async fn config(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let revision = front.catalog.find(&name, None)?;
    Ok(Json(config_json(&describe::config(&revision))).into_response())
}

pub(super) async fn version_config(
    State(front): State<Arc<Front>>,
    Path((name, version)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let revision = front.catalog.find(&name, Some(&version))?;
    Ok(Json(config_json(&describe::config(&revision))).into_response())
}

/// `GET /v1/models/{name}`, as KServe has it.
pub(super) async fn v1_model(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let revision = front.catalog.find(&name, None)?;
    let name = revision.name.as_str();
    Ok(Json(json!({"name": name, "ready": true})).into_response())
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
    let text = front
        .dispatcher
        .expose(front.budget.used(), &jobs::exposition(&front.jobs.counts()));
    let media =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, media)], text).into_response()
}

impl Front {
    fn model_ready(&self, name: &str, version: Option<&str>) -> Result<(), ApiError> {
        match self.catalog.find(name, version) {
            Ok(_) => Ok(()),
            // Triton's answer, whatever the reason.
            Err(_) => Err(InferError::invalid("Model version not ready").into()),
        }
    }

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
        Json(Metadata {
            name: revision.name.as_str(),
            versions: listed
                .iter()
                .filter(|(_, listed)| listed.state.revision().is_some())
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

/// Returns a configuration as Triton writes it, with every field that its clients look for; of those
/// that say nothing here, the value that says so.
fn config_json(config: &ModelConfig) -> Value {
    let data_type = |number: i32| DataType::try_from(number).unwrap_or_default().as_str_name();
    let inputs = config.input.iter().map(|input| {
        json!({
            "name": input.name,
            "data_type": data_type(input.data_type),
            "format": "FORMAT_NONE",
            "dims": input.dims,
            "is_shape_tensor": false,
            "allow_ragged_batch": false,
            "optional": false,
            "is_non_linear_format_io": false,
        })
    });
    let outputs = config.output.iter().map(|output| {
        json!({
            "name": output.name,
            "data_type": data_type(output.data_type),
            "dims": output.dims,
            "label_filename": "",
            "is_shape_tensor": false,
            "is_non_linear_format_io": false,
        })
    });
    let groups = config.instance_group.iter().map(|group| {
        json!({
            "name": group.name,
            "kind": Kind::try_from(group.kind).unwrap_or_default().as_str_name(),
            "count": group.count,
            "gpus": [],
            "secondary_devices": [],
            "profile": [],
            "passive": false,
            "host_policy": "",
        })
    });
    let mut json = json!({
        "name": config.name,
        "platform": config.platform,
        "backend": config.backend,
        "runtime": "",
        "version_policy": {"all": {}},
        "max_batch_size": config.max_batch_size,
        "input": inputs.collect::<Vec<_>>(),
        "output": outputs.collect::<Vec<_>>(),
        "batch_input": [],
        "batch_output": [],
        "optimization": {
            "priority": "PRIORITY_DEFAULT",
            "input_pinned_memory": {"enable": false},
            "output_pinned_memory": {"enable": false},
            "gather_kernel_buffer_threshold": 0,
            "eager_batching": false,
        },
        "instance_group": groups.collect::<Vec<_>>(),
        "default_model_filename": config.default_model_filename,
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": {},
        "model_warmup": [],
    });
    // Whether it is there says to clients that batches are made here.
    if config.dynamic_batching.is_some() {
        json["dynamic_batching"] = json!({
            "preferred_batch_size": [],
            "max_queue_delay_microseconds": 0,
            "preserve_ordering": false,
            "priority_levels": 0,
            "default_priority_level": 0,
            "priority_queue_policy": {},
        });
    }
    json
}
