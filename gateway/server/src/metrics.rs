//! What is counted, as Prometheus reads it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use gateway_scheduler::Snapshot;
use model_store::{ModelName, Version};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use workers_protocol::oip::{InferStatistics, StatisticDuration};
use workers_protocol::wire::Timing;

use crate::timeline::Timeline;

/// The histograms of one revision, so that a request looks no labels up.
#[derive(Clone, Debug)]
pub(crate) struct RevisionMetrics {
    phases: [Histogram; PHASES.len()],
    batch_size: Histogram,
    totals: Arc<Totals>,
}

/// Sums over the answered requests of a revision.
#[derive(Debug, Default)]
struct Totals {
    answered: AtomicU64,
    last_answer_ms: AtomicU64,
    total_ns: AtomicU64,
    queue_ns: AtomicU64,
    decode_ns: AtomicU64,
    infer_ns: AtomicU64,
    post_ns: AtomicU64,
}

impl Totals {
    fn add(&self, timeline: &Timeline, timing: &Timing) {
        let add = |sum: &AtomicU64, took: Duration| {
            let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            sum.fetch_add(ns, Ordering::Relaxed);
        };
        // A number, not an event: nothing is read because of it.
        self.answered.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now_ms = now.map_or(0, |now| now.as_millis() as u64);
        self.last_answer_ms.store(now_ms, Ordering::Relaxed);
        add(&self.total_ns, timeline.total);
        add(&self.queue_ns, timeline.queue + timeline.cold);
        add(&self.decode_ns, timing.decode);
        add(&self.infer_ns, timing.infer);
        add(&self.post_ns, timing.post);
    }
}

impl RevisionMetrics {
    /// Returns the statistics of the Open Inference Protocol's extension: of those that succeeded,
    /// and when the last did, in milliseconds since 1970.
    pub(crate) fn statistics(&self) -> (InferStatistics, u64) {
        let totals = &self.totals;
        let count = totals.answered.load(Ordering::Relaxed);
        let of = |sum: &AtomicU64| {
            let ns = sum.load(Ordering::Relaxed);
            Some(StatisticDuration { count, ns })
        };
        let statistics = InferStatistics {
            success: of(&totals.total_ns),
            queue: of(&totals.queue_ns),
            compute_input: of(&totals.decode_ns),
            compute_infer: of(&totals.infer_ns),
            compute_output: of(&totals.post_ns),
            ..InferStatistics::default()
        };
        (statistics, totals.last_answer_ms.load(Ordering::Relaxed))
    }

    pub(crate) fn observe(&self, timeline: &Timeline, timing: &Timing) {
        for ((.., took), histogram) in PHASES.iter().zip(&self.phases) {
            histogram.observe(took(timeline, timing).as_secs_f64());
        }
        self.batch_size.observe(f64::from(timing.batch_size));
        self.totals.add(timeline, timing);
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

    /// Returns the exposition: what is counted here, and what the scheduler counts.
    pub(crate) fn expose(
        &self,
        snapshot: &Snapshot,
        name_of: impl Fn(gateway_scheduler::RevisionId) -> Option<(String, String)>,
        bytes_in_flight: u64,
    ) -> String {
        let mut text = String::new();
        for (name, help, kind, pick) in SCHEDULER_METRICS {
            // Writing to a String can't fail.
            let _ = writeln!(
                text,
                "# HELP hearth_{name} {help}\n# TYPE hearth_{name} {kind}"
            );
            let total = if *kind == "counter" { "_total" } else { "" };
            for revision in &snapshot.revisions {
                if let Some((model, version)) = name_of(revision.id) {
                    let value = pick(revision);
                    let _ = writeln!(
                        text,
                        "hearth_{name}{total}{{model=\"{model}\",version=\"{version}\"}} {value}"
                    );
                }
            }
        }
        let _ = writeln!(
            text,
            "# HELP hearth_curve_seconds Mean slot time of a batch, by its items\n# TYPE hearth_curve_seconds gauge"
        );
        for revision in &snapshot.revisions {
            let Some((model, version)) = name_of(revision.id) else {
                continue;
            };
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
        // Ends with the `# EOF` that OpenMetrics requires.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

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
        "Requests that a worker died with, tried again alone",
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
