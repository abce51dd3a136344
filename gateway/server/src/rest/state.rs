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
use serde_json::{Map, Value};
use workers_protocol::oip::{
    InferBatchStatistics, InferStatistics, MemoryUsage, StatisticDuration,
};

use super::{ApiError, Front};
use crate::describe;
use crate::revision::Revision;

/// `{"model_stats": […]}`, as the statistics extension has it.
#[derive(Serialize)]
struct Statistics {
    model_stats: Vec<ModelStats>,
}

/// Statistics of a model version: the fields and units of the statistics extension; the last two
/// fields are Hearth's.
#[derive(Serialize)]
struct ModelStats {
    name: String,
    version: String,
    /// In milliseconds since 1970.
    last_inference: u64,
    inference_count: u64,
    execution_count: u64,
    inference_stats: InferStats,
    /// Of models that answer a request several times; there are none.
    response_stats: Map<String, Value>,
    batch_stats: Vec<BatchStats>,
    memory_usage: Vec<Usage>,
    scheduler: RevisionState,
    /// What was measured in the background on this machine, if that is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<model_store::Measurement>,
}

#[derive(Serialize)]
struct InferStats {
    success: Spent,
    fail: Spent,
    queue: Spent,
    compute_input: Spent,
    compute_infer: Spent,
    compute_output: Spent,
    cache_hit: Spent,
    cache_miss: Spent,
}

#[derive(Serialize)]
struct BatchStats {
    batch_size: u64,
    compute_input: Spent,
    compute_infer: Spent,
    compute_output: Spent,
}

#[derive(Serialize)]
struct Spent {
    count: u64,
    ns: u64,
}

#[derive(Serialize)]
struct Usage {
    r#type: String,
    id: i64,
    byte_size: u64,
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

pub(super) async fn all_stats(State(front): State<Arc<Front>>) -> Result<Response, ApiError> {
    front.model_stats("", "")
}

pub(super) async fn stats(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    front.model_stats(&name, "")
}

pub(super) async fn version_stats(
    State(front): State<Arc<Front>>,
    Path((name, version)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    front.model_stats(&name, &version)
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
    fn model_stats(&self, name: &str, version: &str) -> Result<Response, ApiError> {
        let revisions = describe::measured(&self.catalog, name, version)?;
        let model_stats = revisions.iter().filter_map(|revision| self.stats(revision));
        let model_stats = model_stats.collect();
        Ok(Json(Statistics { model_stats }).into_response())
    }

    /// Returns the statistics of a version, or `None` of one that is going away.
    fn stats(&self, revision: &Revision) -> Option<ModelStats> {
        let stats = describe::statistics(&self.dispatcher, revision)?;
        let (state, n_parked) = self.dispatcher.revision(revision.id)?;
        Some(ModelStats {
            name: stats.name,
            version: stats.version,
            last_inference: stats.last_inference,
            inference_count: stats.inference_count,
            execution_count: stats.execution_count,
            inference_stats: stats.inference_stats.unwrap_or_default().into(),
            response_stats: Map::new(),
            batch_stats: stats.batch_stats.into_iter().map(Into::into).collect(),
            memory_usage: stats.memory_usage.into_iter().map(Into::into).collect(),
            scheduler: RevisionState::new(revision, state, n_parked),
            measured: revision.measurement().cloned(),
        })
    }
}

impl From<InferStatistics> for InferStats {
    fn from(stats: InferStatistics) -> Self {
        Self {
            success: stats.success.into(),
            fail: stats.fail.into(),
            queue: stats.queue.into(),
            compute_input: stats.compute_input.into(),
            compute_infer: stats.compute_infer.into(),
            compute_output: stats.compute_output.into(),
            cache_hit: stats.cache_hit.into(),
            cache_miss: stats.cache_miss.into(),
        }
    }
}

impl From<InferBatchStatistics> for BatchStats {
    fn from(stats: InferBatchStatistics) -> Self {
        Self {
            batch_size: stats.batch_size,
            compute_input: stats.compute_input.into(),
            compute_infer: stats.compute_infer.into(),
            compute_output: stats.compute_output.into(),
        }
    }
}

impl From<Option<StatisticDuration>> for Spent {
    fn from(spent: Option<StatisticDuration>) -> Self {
        let StatisticDuration { count, ns } = spent.unwrap_or_default();
        Self { count, ns }
    }
}

impl From<MemoryUsage> for Usage {
    fn from(usage: MemoryUsage) -> Self {
        Self {
            r#type: usage.r#type,
            id: usage.id,
            byte_size: usage.byte_size,
        }
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
