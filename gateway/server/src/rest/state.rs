//! What the scheduler knows and waits for: of one model, and of all.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use gateway_scheduler::{
    Counters, CurveSnapshot, DeviceSnapshot, ReplicaSnapshot, RevisionId, RevisionSnapshot,
};
use serde::Serialize;
use workers_protocol::{Code, InferError};

use super::{ApiError, Front};
use crate::revision::Revision;

/// Statistics of a model version. The first four fields of `inference_stats` and their units are
/// those of the Open Inference Protocol's statistics extension; the rest is Hearth's.
#[derive(Serialize)]
struct ModelStats {
    name: String,
    version: String,
    inference_count: u64,
    execution_count: u64,
    scheduler: RevisionState,
    /// What was measured in the background on this machine, if that is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<model_store::Measurement>,
}

/// A revision, as people read it. Durations are in milliseconds.
#[derive(Serialize)]
struct RevisionState {
    model: String,
    version: String,
    is_retired: bool,
    waiting: usize,
    sent: usize,
    staged: usize,
    running: usize,
    bulk_waiting: usize,
    /// Bulk requests that were not asked for yet.
    bulk_parked: usize,
    queue_bytes: u128,
    /// What it waits for, in words; none where nothing waits.
    waits_for: Option<&'static str>,
    drain_ms: f64,
    start_ms: Option<f64>,
    staging_ms: Option<f64>,
    tail_ms: Option<f64>,
    curves: Vec<Curve>,
    wanted_replicas: usize,
    memory_bytes: u64,
    failed_starts: u32,
    replicas: Vec<ReplicaSnapshot>,
    counters: Counters,
}

/// How long batches of one shape occupy a slot.
#[derive(Serialize)]
struct Curve {
    /// The shape class, as workers name it.
    bucket: String,
    /// Items of the batch that is chosen when there is enough.
    best_batch: u32,
    points: Vec<Point>,
}

#[derive(Serialize)]
struct Point {
    items: u32,
    slot_ms: f64,
    /// The engine's own part of it.
    engine_ms: Option<f64>,
    ms_per_item: f64,
    runs: u32,
}

#[derive(Serialize)]
struct Whole {
    revisions: Vec<RevisionState>,
    devices: Vec<DeviceSnapshot>,
}

pub(super) async fn stats(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let revision = front.catalog.find(&name, None)?;
    front.stats(&revision)
}

pub(super) async fn version_stats(
    State(front): State<Arc<Front>>,
    Path((name, version)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let revision = front.catalog.find(&name, Some(&version))?;
    front.stats(&revision)
}

pub(super) async fn scheduler(State(front): State<Arc<Front>>) -> Response {
    let (snapshot, named) = front.dispatcher.snapshot();
    let state = |revision: RevisionSnapshot| {
        let id: RevisionId = revision.id;
        let (named, n_parked) = named.get(&id)?;
        Some(RevisionState::new(named, revision, *n_parked))
    };
    Json(Whole {
        revisions: snapshot.revisions.into_iter().filter_map(state).collect(),
        devices: snapshot.devices,
    })
    .into_response()
}

impl Front {
    fn stats(&self, revision: &Revision) -> Result<Response, ApiError> {
        let Some((state, n_parked)) = self.dispatcher.revision(revision.id) else {
            let message = format!("this version of model `{}` is going away", revision.name);
            return Err(InferError::new(Code::Unavailable, message).into());
        };
        Ok(Json(ModelStats {
            name: revision.name.to_string(),
            version: revision.version.to_string(),
            inference_count: state.counters.answered,
            execution_count: state.counters.runs,
            scheduler: RevisionState::new(revision, state, n_parked),
            measured: revision.measurement().cloned(),
        })
        .into_response())
    }
}

impl RevisionState {
    fn new(revision: &Revision, state: RevisionSnapshot, bulk_parked: usize) -> Self {
        Self {
            model: revision.name.to_string(),
            version: revision.version.to_string(),
            is_retired: state.is_retired,
            waits_for: waits_for(&state),
            waiting: state.waiting,
            sent: state.sent,
            staged: state.staged,
            running: state.running,
            bulk_waiting: state.bulk_waiting,
            bulk_parked,
            queue_bytes: state.queue_bytes,
            drain_ms: ms(state.drain_time),
            start_ms: state.start_time.map(ms),
            staging_ms: state.staging_time.map(ms),
            tail_ms: state.tail_time.map(ms),
            curves: state.curves.into_iter().map(Curve::new).collect(),
            wanted_replicas: state.wanted_replicas,
            memory_bytes: state.memory_bytes,
            failed_starts: state.failed_starts,
            replicas: state.replicas,
            counters: state.counters,
        }
    }
}

impl Curve {
    fn new(curve: CurveSnapshot) -> Self {
        let points = curve.points.into_iter().map(|point| Point {
            items: point.items,
            slot_ms: ms(point.slot_time),
            engine_ms: point.engine_time.map(ms),
            ms_per_item: ms(point.slot_time) / f64::from(point.items),
            runs: point.runs,
        });
        Self {
            // Of 64 bits: more than a number in JSON holds in every reader.
            bucket: curve.bucket.0.to_string(),
            best_batch: curve.best,
            points: points.collect(),
        }
    }
}

/// Returns what the first that waits waits for.
fn waits_for(state: &RevisionSnapshot) -> Option<&'static str> {
    let is_up = |replica: &ReplicaSnapshot| replica.credits.is_some();
    if state.waits_for_cores {
        return Some("cores of its device");
    }
    if state.waiting > 0 && !state.replicas.iter().any(is_up) {
        return Some(match state.replicas.is_empty() {
            true => "the next start, after starts that failed",
            false => "a worker that starts",
        });
    }
    if state.waiting > 0 {
        return Some("room at a worker");
    }
    if state.staged > 0 {
        return Some("a slot");
    }
    (state.sent > 0).then_some("its preparation")
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
