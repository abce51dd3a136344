//! What OSCAR's clients ask of a cluster: what it is, how it is set up, how it is doing.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use gateway_oscar::Minio;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::json;
use workers_protocol::InferError;

use super::services::change;
use super::{COMPATIBLE_VERSION, Text, rfc3339};
use crate::jobs::Count;
use crate::rest::Front;

/// Largest body that changes the configuration, in bytes.
const MAX_CONFIG: u64 = 64 << 10;

/// Image prefixes that may be allowed.
const MAX_IMAGES: usize = 256;

#[derive(Serialize)]
struct Info {
    version: &'static str,
    git_commit: &'static str,
    architecture: &'static str,
    kubernetes_version: &'static str,
    serverless_backend: Backend,
}

#[derive(Serialize)]
struct Backend {
    name: &'static str,
    version: &'static str,
}

/// What answers synchronous calls.
const BACKEND: Backend = Backend {
    name: "Hearth",
    version: env!("CARGO_PKG_VERSION"),
};

pub(super) async fn info() -> Response {
    Json(Info {
        version: COMPATIBLE_VERSION,
        git_commit: "",
        // As Go calls them.
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        },
        // There is none.
        kubernetes_version: "",
        serverless_backend: BACKEND,
    })
    .into_response()
}

#[derive(Serialize)]
struct Config {
    config: Cluster,
    minio_provider: Minio,
    allowed_image_repositories: Vec<String>,
}

#[derive(Serialize)]
struct Cluster {
    name: &'static str,
    namespace: &'static str,
    services_namespace: &'static str,
    controller_service_account: &'static str,
    gpu_available: bool,
    #[serde(rename = "interLink_available")]
    interlink_available: bool,
    serverless_backend: &'static str,
    yunikorn_enable: bool,
    kueue_enable: bool,
    volume_enable: bool,
    oidc_groups: [&'static str; 0],
    minio_quota_enabled: bool,
}

pub(super) async fn config(State(front): State<Arc<Front>>, headers: HeaderMap) -> Response {
    Json(Config {
        config: Cluster {
            name: "oscar",
            namespace: "oscar",
            services_namespace: "oscar-svc",
            controller_service_account: "",
            gpu_available: false,
            interlink_available: false,
            serverless_backend: "knative",
            yunikorn_enable: false,
            kueue_enable: false,
            volume_enable: false,
            oidc_groups: [],
            minio_quota_enabled: false,
        },
        minio_provider: front.objects.provider(&headers),
        allowed_image_repositories: front.services.images(),
    })
    .into_response()
}

#[derive(Serialize, Deserialize)]
struct Images {
    allowed_image_repositories: Vec<String>,
}

pub(super) async fn configure(
    State(front): State<Arc<Front>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Text> {
    let deadline = front.deadline();
    let (body, _reservation) = front
        .read_at_most(MAX_CONFIG, &headers, body, deadline)
        .await?;
    let images: Images = serde_json::from_slice(&body)
        .map_err(|error| InferError::invalid(format!("the configuration is not valid: {error}")))?;
    let allowed = images.allowed_image_repositories;
    if allowed.len() > MAX_IMAGES {
        return Err(InferError::invalid(format!(
            "`allowed_image_repositories`: expected at most {MAX_IMAGES}, got {}",
            allowed.len()
        ))
        .into());
    }
    let echo = allowed.clone();
    change(&front, move |services| services.set_images(allowed)).await?;
    Ok(Json(Images {
        allowed_image_repositories: echo,
    })
    .into_response())
}

/// `GET /system/status`: one node, which this machine is. "Cores" are thousandths of one, as OSCAR's.
pub(super) async fn status(State(front): State<Arc<Front>>) -> Result<Response, Text> {
    let stored = front.objects.counts().await?;
    let (snapshot, _) = front.dispatcher.snapshot();
    let cores = |cores: u32| u64::from(cores) * 1000;
    let (mut total, mut busy, mut memory, mut reserved) = (0, 0, 0_u64, 0_u64);
    for device in &snapshot.devices {
        total += cores(device.cores);
        busy += cores(device.busy_cores);
        memory = memory.saturating_add(device.memory_bytes);
        reserved = reserved.saturating_add(device.reserved_bytes);
    }
    let (free, free_memory) = (total.saturating_sub(busy), memory.saturating_sub(reserved));
    let is_ready = front.catalog.is_ready();
    let n_up = |is_up: bool| {
        let replicas = snapshot
            .revisions
            .iter()
            .flat_map(|revision| &revision.replicas);
        replicas
            .filter(|replica| replica.credits.is_some() == is_up)
            .count()
    };
    let n_jobs: u64 = front.jobs.counts().values().map(Count::total).sum();
    let (running, pending) = (n_up(true), n_up(false));
    Ok(Json(json!({
        "cluster": {
            "nodes_count": 1,
            "metrics": {
                "cpu": {
                    "total_free_cores": free,
                    "max_free_on_node_cores": free,
                    "total_schedulable_cores": total,
                    "total_schedulable_on_node_cores": total,
                },
                "memory": {
                    "total_free_bytes": free_memory,
                    "max_free_on_node_bytes": free_memory,
                    "total_schedulable_bytes": memory,
                    "max_schedulable_on_node_bytes": memory,
                },
                "gpu": { "total_gpu": 0 },
            },
            "nodes": [{
                "name": "hearth",
                "cpu": { "capacity_cores": total, "usage_cores": busy, "request_cores": busy },
                "memory": { "capacity_bytes": memory, "usage_bytes": reserved, "request_bytes": reserved },
                "gpu": 0,
                "is_interlink": false,
                "status": "Ready",
                "conditions": [{ "type": "Ready", "status": true }],
            }],
        },
        "oscar": {
            "deployment_name": "hearth",
            "ready": is_ready,
            "deployment": {
                "available_replicas": 1,
                "ready_replicas": i32::from(is_ready),
                "replicas": 1,
                "creation_timestamp": rfc3339(front.started),
                "strategy": "",
                "labels": {},
            },
            "jobs_count": n_jobs,
            // Workers, which are what OSCAR's pods are.
            "pods": {
                "total": running + pending,
                "states": { "Pending": pending, "Running": running, "Succeeded": 0, "Failed": 0, "Unknown": 0 },
            },
            "oidc": { "enabled": false, "issuers": [], "groups": [] },
        },
        "minio": { "buckets_count": stored.buckets, "total_objects": stored.objects },
    }))
    .into_response())
}
