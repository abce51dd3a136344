//! `/v2/systemsharedmemory`: which regions there are.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use workers_protocol::InferError;

use super::body::object;
use super::{ApiError, Front};
use crate::entry::Deadline;

/// A part of a shared memory object, in bytes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    key: String,
    #[serde(default)]
    offset: u64,
    byte_size: u64,
}

/// A region, as it was registered.
#[derive(Serialize)]
pub(super) struct Listed {
    name: String,
    key: String,
    offset: u64,
    byte_size: u64,
}

pub(super) async fn register(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let deadline = Deadline::after(front.limits.timeout);
    let (body, _room) = front.read(&headers, body, deadline).await?;
    let Registration {
        key,
        offset,
        byte_size,
    } = serde_json::from_slice(object(&body)?).map_err(|error| {
        InferError::invalid(format!(
            "expected {{\"key\": …, \"offset\": …, \"byte_size\": …}}: {error}"
        ))
    })?;
    let memory = &front.shared_memory;
    memory.register(&name, &key, offset, byte_size)?;
    Ok(StatusCode::OK)
}

pub(super) async fn unregister(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    front.shared_memory.unregister(Some(&name))?;
    Ok(StatusCode::OK)
}

pub(super) async fn unregister_all(
    State(front): State<Arc<Front>>,
) -> Result<StatusCode, ApiError> {
    front.shared_memory.unregister(None)?;
    Ok(StatusCode::OK)
}

pub(super) async fn status(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
) -> Result<Json<Vec<Listed>>, ApiError> {
    front.listed(Some(&name))
}

pub(super) async fn status_of_all(
    State(front): State<Arc<Front>>,
) -> Result<Json<Vec<Listed>>, ApiError> {
    front.listed(None)
}

impl Front {
    fn listed(&self, name: Option<&str>) -> Result<Json<Vec<Listed>>, ApiError> {
        let regions = self.shared_memory.status(name)?.into_iter();
        let listed = regions.map(|(name, region)| Listed {
            name,
            key: region.key.clone(),
            offset: region.offset,
            byte_size: region.byte_size,
        });
        Ok(Json(listed.collect()))
    }
}
