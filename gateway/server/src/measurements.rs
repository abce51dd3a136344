//! What models can do on this machine: measured in the background while nobody calls, and learned
//! while they serve; once for the files, the engine and the hardware, and kept in the data directory.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gateway_scheduler::{CurveSnapshot, RevisionId};
use model_store::{Digest, Host, Kept, Learned, LearnedCurve, Measurement};
use tokio::sync::OnceCell;
use tokio::time::MissedTickBehavior;

use crate::budget::Budget;
use crate::catalog::Catalog;
use crate::config::WorkerOptions;
use crate::dispatcher::Dispatcher;
use crate::launcher;
use crate::revision::Revision;

/// How long nobody may have called before a measurement begins. It takes seconds, and who calls
/// meanwhile shares the cores with it.
const QUIET: Duration = Duration::from_secs(1);

/// How often what was learned is kept.
const KEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The measurements of one data directory.
#[derive(Debug)]
pub(crate) struct Measurements {
    kept: Kept<Measurement>,
    learned: Kept<Learned>,
    options: Arc<WorkerOptions>,
    host: OnceCell<Host>,
}

impl Measurements {
    pub(crate) fn open(data: &Path, options: Arc<WorkerOptions>) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            kept: Kept::open(data, "measurements")?,
            learned: Kept::open(data, "curves")?,
            options,
            host: OnceCell::new(),
        }))
    }

    /// Returns what was measured before under this digest, if that holds here and now.
    pub(crate) async fn known(self: &Arc<Self>, digest: Digest) -> Option<Measurement> {
        let this = Arc::clone(self);
        let kept = tokio::task::spawn_blocking(move || this.kept.get(&digest));
        let measurement = kept.await.ok()??;
        let host = self.host().await?;
        (measurement.host == *host).then_some(measurement)
    }

    /// Returns what was learned before under this digest, if that holds here and now.
    pub(crate) async fn learned(self: &Arc<Self>, digest: Digest) -> Vec<LearnedCurve> {
        let this = Arc::clone(self);
        let kept = tokio::task::spawn_blocking(move || this.learned.get(&digest));
        let Ok(Some(learned)) = kept.await else {
            return Vec::new();
        };
        let is_of_here = self.host().await.is_some_and(|host| learned.host == *host);
        if is_of_here {
            learned.curves
        } else {
            Vec::new()
        }
    }

    async fn host(&self) -> Option<&Host> {
        // Where a worker can't say, no model can be run either, and the reason is told there.
        self.host
            .get_or_try_init(|| launcher::host(&self.options))
            .await
            .ok()
    }

    /// Keeps what was learned, every minute, for as long as it is polled.
    pub(crate) async fn keep_learned(
        self: Arc<Self>,
        catalog: Arc<Catalog>,
        dispatcher: Arc<Dispatcher>,
    ) {
        let mut n_runs = HashMap::new();
        loop {
            tokio::time::sleep(KEEP_INTERVAL).await;
            self.keep(&catalog, &dispatcher, &mut n_runs).await;
        }
    }

    /// Keeps what was learned since the last time, which `n_runs` remembers.
    pub(crate) async fn keep(
        self: &Arc<Self>,
        catalog: &Catalog,
        dispatcher: &Dispatcher,
        n_runs: &mut HashMap<RevisionId, u64>,
    ) {
        for revision in catalog.revisions() {
            let Some((state, _)) = dispatcher.revision(revision.id) else {
                continue;
            };
            let before = n_runs.insert(revision.id, state.counters.runs);
            if state.counters.runs == before.unwrap_or(0) {
                continue;
            }
            let Some(host) = self.host().await else {
                return;
            };
            let curve = |curve: CurveSnapshot| LearnedCurve {
                bucket: curve.bucket.0,
                points: curve
                    .points
                    .iter()
                    .map(|point| (point.items, point.slot_time.as_nanos() as u64))
                    .collect(),
            };
            let learned = Learned {
                host: host.clone(),
                curves: state.curves.into_iter().map(curve).collect(),
            };
            let (this, digest) = (Arc::clone(self), revision.digest());
            let kept = tokio::task::spawn_blocking(move || this.learned.put(&digest, &learned));
            if let Ok(Err(error)) = kept.await {
                tracing::warn!(%error, "what was learned of a model is not kept");
            }
        }
    }

    /// Measures what was not measured yet, one model at a time, for as long as it is polled.
    pub(crate) async fn fill(self: Arc<Self>, catalog: Arc<Catalog>, budget: Arc<Budget>) {
        let mut failed = HashSet::new();
        let mut n_calls = budget.n_reservations();
        let mut ticks = tokio::time::interval(QUIET);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        catalog.ready().await;
        loop {
            ticks.tick().await;
            let n_before = std::mem::replace(&mut n_calls, budget.n_reservations());
            if n_calls != n_before || budget.used() > 0 {
                continue;
            }
            let is_open = |revision: &Arc<Revision>| {
                revision.measurement().is_none() && !failed.contains(&revision.digest())
            };
            let Some(revision) = catalog.revisions().into_iter().find(is_open) else {
                continue;
            };
            let model = format!("{}:{}", revision.name, revision.version);
            match self.measure(&revision).await {
                Ok(measurement) => {
                    tracing::info!(
                        model,
                        instances = measurement.instances,
                        threads = measurement.threads,
                        load_ms = measurement.load_ns / 1_000_000,
                        memory_bytes = measurement.memory_bytes,
                        "measured"
                    );
                    catalog.note_measured(&revision, measurement);
                }
                Err(error) => {
                    tracing::warn!(model, error = format!("{error:#}"), "not measured");
                    failed.insert(revision.digest());
                }
            }
        }
    }

    /// Measures a revision, unless another with the same files was measured before.
    async fn measure(self: &Arc<Self>, revision: &Revision) -> anyhow::Result<Measurement> {
        let digest = revision.digest();
        if let Some(known) = self.known(digest).await {
            return Ok(known);
        }
        let stages: Vec<&Path> = revision
            .stages
            .iter()
            .map(|(_, folder)| folder.as_path())
            .collect();
        let found = launcher::measure(&self.options, &revision.model.dir, &stages).await?;
        let (this, measurement) = (Arc::clone(self), found.clone());
        tokio::task::spawn_blocking(move || this.kept.put(&digest, &measurement)).await??;
        Ok(found)
    }
}
