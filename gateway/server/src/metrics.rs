//! What is counted, as Prometheus reads it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use gateway_scheduler::{RevisionId, RevisionSnapshot, Snapshot};
use model_store::{ModelName, Version};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use workers_protocol::oip::{InferBatchStatistics, InferStatistics, StatisticDuration};
use workers_protocol::wire::Timing;

use crate::timeline::Timeline;

/// The histograms of one revision, so that a request looks no labels up.
#[derive(Clone, Debug)]
pub(crate) struct RevisionMetrics {
    phases: [Histogram; PHASES.len()],
    batch_size: Histogram,
    totals: Arc<Mutex<Totals>>,
}

/// Sums over the requests of a revision that have ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    /// Requests that were answered.
    pub(crate) answered: u64,
    /// Their items.
    pub(crate) items: u64,
    /// When the last was, in milliseconds since 1970.
    pub(crate) last_answer_ms: u64,
    pub(crate) total_ns: u64,
    pub(crate) queue_ns: u64,
    pub(crate) input_ns: u64,
    pub(crate) infer_ns: u64,
    pub(crate) output_ns: u64,
    /// Requests that failed, by [`Failure`].
    pub(crate) failed: [u64; FAILURES.len()],
    pub(crate) failed_ns: u64,
    /// By the items of the batch that they ran in. No model takes more than 4096 at a time.
    batches: BTreeMap<u32, BatchTotals>,
}

/// Sums over the requests that ran in batches of one size.
#[derive(Clone, Copy, Debug, Default)]
struct BatchTotals {
    items: u64,
    input_ns: u64,
    /// Of the batch, once for each item.
    infer_ns: u128,
    output_ns: u64,
}

/// Why a request failed, in Triton's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Refused at the door, or its deadline passed.
    Rejected,
    /// The model failed.
    Backend,
    /// Something else.
    Other,
}

/// All of them, as Triton's metrics name them.
const FAILURES: [(Failure, &str); 3] = [
    (Failure::Rejected, "REJECTED"),
    (Failure::Backend, "BACKEND"),
    (Failure::Other, "OTHER"),
];

// === impl Totals ===

impl Totals {
    fn add(&mut self, items: u32, timeline: &Timeline, timing: &Timing) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let (input, infer, output) = (
            nanos(timing.decode),
            nanos(timing.infer),
            nanos(timing.post),
        );
        self.answered += 1;
        self.items += u64::from(items);
        self.last_answer_ms = now.map_or(0, |now| now.as_millis() as u64);
        self.total_ns += nanos(timeline.total);
        self.queue_ns += nanos(timeline.queue + timeline.cold);
        self.input_ns += input;
        self.infer_ns += infer;
        self.output_ns += output;
        let batch = self.batches.entry(timing.batch_size.max(1)).or_default();
        batch.items += u64::from(items);
        batch.input_ns += input;
        batch.infer_ns += u128::from(infer) * u128::from(items);
        batch.output_ns += output;
    }

    /// Returns the statistics of the Open Inference Protocol's extension. What failed before it was
    /// queued, because it could not be right, is not in them.
    pub(crate) fn statistics(&self) -> InferStatistics {
        let answered = |ns| duration(self.answered, ns);
        InferStatistics {
            success: answered(self.total_ns),
            fail: duration(self.failed.iter().sum(), self.failed_ns),
            queue: answered(self.queue_ns),
            compute_input: answered(self.input_ns),
            compute_infer: answered(self.infer_ns),
            compute_output: answered(self.output_ns),
            // There is no cache.
            cache_hit: duration(0, 0),
            cache_miss: duration(0, 0),
        }
    }

    /// Returns the same by the size of the batch, counted in batches: of one in which a request
    /// failed, the part that was answered.
    pub(crate) fn batch_statistics(&self) -> Vec<InferBatchStatistics> {
        let batches = self.batches.iter().map(|(&size, batch)| {
            let count = batch.items.div_ceil(u64::from(size));
            let infer_ns = batch.infer_ns / u128::from(size);
            InferBatchStatistics {
                batch_size: u64::from(size),
                compute_input: duration(count, batch.input_ns),
                compute_infer: duration(count, u64::try_from(infer_ns).unwrap_or(u64::MAX)),
                compute_output: duration(count, batch.output_ns),
            }
        });
        batches.collect()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "fields of messages are optional")]
const fn duration(count: u64, ns: u64) -> Option<StatisticDuration> {
    Some(StatisticDuration { count, ns })
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

// === impl RevisionMetrics ===

impl RevisionMetrics {
    pub(crate) fn totals(&self) -> Totals {
        self.lock().clone()
    }

    /// Counts an answer to a request of so many items.
    pub(crate) fn observe(&self, items: u32, timeline: &Timeline, timing: &Timing) {
        for ((.., took), histogram) in PHASES.iter().zip(&self.phases) {
            histogram.observe(took(timeline, timing).as_secs_f64());
        }
        self.batch_size.observe(f64::from(timing.batch_size));
        self.lock().add(items, timeline, timing);
    }

    /// Counts a request that failed after so long.
    pub(crate) fn fail(&self, why: Failure, after: Duration) {
        let mut totals = self.lock();
        totals.failed[why as usize] += 1;
        totals.failed_ns += nanos(after);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A revision as metrics name it.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) model: String,
    pub(crate) version: String,
    pub(crate) metrics: RevisionMetrics,
}

impl Named {
    fn name(&self) -> (&str, &str) {
        (&self.model, &self.version)
    }
}

/// Everything that is counted, built once and handed down.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    phases: [Family<ModelLabels, Histogram>; PHASES.len()],
    batch_size: Family<ModelLabels, Histogram>,
    pub(crate) cold_start_seconds: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: String,
    version: String,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// From 100 µs to 52 s, each twice the one before.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-4, 2.0, 20))
}

/// 1, 2, 4 … 512.
fn items() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 10))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("hearth");
        let requests = Family::default();
        registry.register("requests", "Requests answered", requests.clone());
        let phases =
            PHASES.map(|_| Family::<ModelLabels, Histogram>::new_with_constructor(seconds));
        let batch_size = Family::<ModelLabels, Histogram>::new_with_constructor(items);
        let cold_start_seconds = seconds();
        for ((name, help, _), histogram) in PHASES.iter().zip(&phases) {
            registry.register_with_unit(*name, *help, Unit::Seconds, histogram.clone());
        }
        registry.register(
            "batch_size",
            "Items of the batch that an inference ran in",
            batch_size.clone(),
        );
        registry.register_with_unit(
            "cold_start",
            "From the start of a worker to its readiness",
            Unit::Seconds,
            cold_start_seconds.clone(),
        );
        Self {
            registry,
            requests,
            phases,
            batch_size,
            cold_start_seconds,
        }
    }

    pub(crate) fn count_request(&self, route: &'static str, status: u16) {
        self.requests
            .get_or_create(&RequestLabels { route, status })
            .inc();
    }

    /// Returns the histograms of one revision.
    pub(crate) fn of(&self, model: &ModelName, version: Version) -> RevisionMetrics {
        let labels = ModelLabels {
            model: model.to_string(),
            version: version.to_string(),
        };
        RevisionMetrics {
            phases: self
                .phases
                .each_ref()
                .map(|phase| phase.get_or_create(&labels).clone()),
            batch_size: self.batch_size.get_or_create(&labels).clone(),
            totals: Arc::default(),
        }
    }

    /// Returns the exposition: what is counted here, what the scheduler counts, and that of the jobs.
    pub(crate) fn expose(
        &self,
        snapshot: &Snapshot,
        named: &HashMap<RevisionId, Named>,
        bytes_in_flight: u64,
        jobs: &str,
    ) -> String {
        // Two of one name are there while the older one drains.
        let is_current = |revision: &&RevisionSnapshot| {
            !revision.is_retired
                || !snapshot.revisions.iter().any(|other| {
                    !other.is_retired
                        && named.get(&other.id).map(Named::name)
                            == named.get(&revision.id).map(Named::name)
                })
        };
        let revisions: Vec<_> = snapshot
            .revisions
            .iter()
            .filter(is_current)
            .filter_map(|revision| Some((named.get(&revision.id)?, revision)))
            .collect();
        let mut text = String::new();
        for (name, help, kind, pick) in SCHEDULER_METRICS {
            // Writing to a String can't fail.
            let _ = writeln!(
                text,
                "# HELP hearth_{name} {help}\n# TYPE hearth_{name} {kind}"
            );
            let total = if *kind == "counter" { "_total" } else { "" };
            for (Named { model, version, .. }, revision) in &revisions {
                let value = pick(revision);
                let _ = writeln!(
                    text,
                    "hearth_{name}{total}{{model=\"{model}\",version=\"{version}\"}} {value}"
                );
            }
        }
        expose_as_triton(&mut text, &revisions);
        let _ = writeln!(
            text,
            "# HELP hearth_curve_seconds Mean slot time of a batch, by its items\n# TYPE hearth_curve_seconds gauge"
        );
        for (Named { model, version, .. }, revision) in &revisions {
            for curve in &revision.curves {
                for point in &curve.points {
                    let _ = writeln!(
                        text,
                        "hearth_curve_seconds{{model=\"{model}\",version=\"{version}\",bucket=\"{}\",items=\"{}\"}} {}",
                        curve.bucket.0,
                        point.items,
                        point.slot_time.as_secs_f64()
                    );
                }
            }
        }
        let _ = writeln!(
            text,
            "# HELP hearth_bytes_in_flight Request bodies in memory\n# TYPE hearth_bytes_in_flight gauge\n\
             hearth_bytes_in_flight {bytes_in_flight}"
        );
        text.push_str(jobs);
        // Ends with the `# EOF` that OpenMetrics requires.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Writes what Triton's dashboards read. OpenMetrics wants the names of counters to end in `_total`,
/// which these do not: so their type is left open.
fn expose_as_triton(text: &mut String, revisions: &[(&Named, &RevisionSnapshot)]) {
    let totals: Vec<_> = revisions
        .iter()
        .map(|(named, revision)| (*named, *revision, named.metrics.totals()))
        .collect();
    for (name, help, pick) in TRITON_METRICS {
        let kind = if name.ends_with("_pending_request_count") {
            "gauge"
        } else {
            "unknown"
        };
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (Named { model, version, .. }, revision, totals) in &totals {
            let value = pick(totals, revision);
            let _ = writeln!(
                text,
                "{name}{{model=\"{model}\",version=\"{version}\"}} {value}"
            );
        }
    }
    const NAME: &str = "nv_inference_request_failure";
    let _ = writeln!(
        text,
        "# HELP {NAME} Requests that failed after they were queued, or were refused\n# TYPE {NAME} unknown"
    );
    for (Named { model, version, .. }, revision, totals) in &totals {
        let failed = FAILURES
            .iter()
            .map(|&(why, reason)| (reason, totals.failed[why as usize]));
        for (reason, n) in failed.chain([("CANCELED", revision.counters.cancelled)]) {
            let _ = writeln!(
                text,
                "{NAME}{{model=\"{model}\",reason=\"{reason}\",version=\"{version}\"}} {n}"
            );
        }
    }
}

type PickTotal = fn(&Totals, &RevisionSnapshot) -> u64;

/// Triton's metrics of a model: name, help, and where it is.
const TRITON_METRICS: [(&str, &str, PickTotal); 9] = [
    (
        "nv_inference_request_success",
        "Requests answered",
        |totals, _| totals.answered,
    ),
    (
        "nv_inference_count",
        "Items of the requests answered",
        |totals, _| totals.items,
    ),
    ("nv_inference_exec_count", "Batches run", |_, revision| {
        revision.counters.runs
    }),
    (
        "nv_inference_request_duration_us",
        "Time from the admission of requests to their answers",
        |totals, _| totals.total_ns / 1000,
    ),
    (
        "nv_inference_queue_duration_us",
        "Of that, waiting",
        |totals, _| totals.queue_ns / 1000,
    ),
    (
        "nv_inference_compute_input_duration_us",
        "Of that, decoding",
        |totals, _| totals.input_ns / 1000,
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Of that, the engine",
        |totals, _| totals.infer_ns / 1000,
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Of that, post-processing",
        |totals, _| totals.output_ns / 1000,
    ),
    (
        "nv_inference_pending_request_count",
        "Requests that do not run yet",
        |_, revision| (revision.waiting + revision.sent + revision.staged) as u64,
    ),
];

type Took = fn(&Timeline, &Timing) -> Duration;

/// The parts of an inference's time: name, help, and how long each took.
const PHASES: [(&str, &str, Took); 7] = [
    (
        "request",
        "From the admission of an inference to its answer",
        |timeline, _| timeline.total,
    ),
    (
        "queue",
        "Of that, waiting for room and for a slot, and on the wire",
        |timeline, _| timeline.queue,
    ),
    (
        "room",
        "Of hearth_queue, waiting for room at a worker",
        |timeline, _| timeline.room,
    ),
    (
        "slot",
        "Of hearth_queue, ready at a worker and waiting for a slot",
        |timeline, _| timeline.slot,
    ),
    (
        "decode",
        "Of hearth_request, decoding and resizing a picture",
        |_, timing| timing.decode,
    ),
    (
        "infer",
        "Of hearth_request, the engine's run of the batch",
        |_, timing| timing.infer,
    ),
    (
        "post",
        "Of hearth_request, post-processing after the slot is freed",
        |_, timing| timing.post,
    ),
];

type Pick = fn(&gateway_scheduler::RevisionSnapshot) -> u64;

/// What the scheduler counts: name, help, kind, and where it is.
const SCHEDULER_METRICS: &[(&str, &str, &str, Pick)] = &[
    (
        "queue_entries",
        "Requests waiting for room at a worker",
        "gauge",
        |revision| revision.waiting as u64,
    ),
    (
        "staged_entries",
        "Requests at a worker, not running",
        "gauge",
        |revision| (revision.sent + revision.staged) as u64,
    ),
    ("running_entries", "Requests running", "gauge", |revision| {
        revision.running as u64
    }),
    (
        "replicas",
        "Workers, starting or ready",
        "gauge",
        |revision| revision.replicas.len() as u64,
    ),
    (
        "entries_offered",
        "Requests offered",
        "counter",
        |revision| revision.counters.offered,
    ),
    (
        "entries_answered",
        "Requests answered by a worker",
        "counter",
        |revision| revision.counters.answered,
    ),
    (
        "entries_refused",
        "Requests refused at the door",
        "counter",
        |revision| {
            let refused = revision.counters.refused;
            refused.queue_full
                + refused.late
                + refused.crowded
                + refused.starting
                + refused.deadline_passed
                + refused.unavailable
                + refused.retired
        },
    ),
    (
        "entries_expired",
        "Requests whose deadline passed",
        "counter",
        |revision| revision.counters.expired,
    ),
    (
        "entries_cancelled",
        "Requests whose caller left",
        "counter",
        |revision| revision.counters.cancelled,
    ),
    (
        "entries_retried",
        "Requests that a worker died with, tried again",
        "counter",
        |revision| revision.counters.retries,
    ),
    (
        "entries_poisoned",
        "Requests that two workers died with, given up",
        "counter",
        |revision| revision.counters.poisoned,
    ),
    (
        "entry_runs_most",
        "Most times that one request was run",
        "gauge",
        |revision| u64::from(revision.counters.most_runs),
    ),
    (
        "entries_hopeless",
        "Requests dropped before their deadline, which they could not meet",
        "counter",
        |revision| revision.counters.hopeless,
    ),
    (
        "worker_hangs",
        "Workers ended because they hung",
        "counter",
        |revision| revision.counters.hangs,
    ),
    (
        "worker_stops",
        "Workers ended for want of work, or to make room",
        "counter",
        |revision| revision.counters.stops,
    ),
    (
        "slot_nanoseconds",
        "Time of slots taken by runs",
        "counter",
        |revision| revision.counters.slot_nanos,
    ),
    (
        "bulk_slot_nanoseconds",
        "Of that, by bulk",
        "counter",
        |revision| revision.counters.bulk_slot_nanos,
    ),
    ("batches", "Batches run", "counter", |revision| {
        revision.counters.runs
    }),
    (
        "worker_launches",
        "Workers started",
        "counter",
        |revision| revision.counters.launches,
    ),
    (
        "worker_crashes",
        "Workers that died after they were ready",
        "counter",
        |revision| revision.counters.crashes,
    ),
    (
        "worker_failed_starts",
        "Workers that died before they were ready",
        "counter",
        |revision| revision.counters.failed_starts,
    ),
];
