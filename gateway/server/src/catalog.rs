//! The models that can be run: the store, watched; each version checked once and taken into the cache.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use gateway_scheduler::RevisionLimits;
use model_store::{
    Cache, CachedVersion, Digest, Manifest, Measurement, ModelName, ModelReference, Settling,
    Store, StoreError, StoreEvent, StoredVersion, Taken, Version,
};
use tokio::sync::{Mutex, watch};
use workers_protocol::{Code, InferError};

use crate::config::WorkerOptions;
use crate::dispatcher::Dispatcher;
use crate::launcher;
use crate::measurements::Measurements;
use crate::revision::Revision;

/// How often the store is looked at. A look costs some system calls per version.
const POLL: Duration = Duration::from_secs(1);
/// How often a version that could not be checked is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// How many names an error lists.
const NAMED: usize = 20;

/// The models of a store.
#[derive(Debug)]
pub(crate) struct Catalog {
    store: Store,
    cache: Arc<Cache>,
    options: Arc<WorkerOptions>,
    dispatcher: Arc<Dispatcher>,
    measurements: Arc<Measurements>,
    limits: RevisionLimits,
    models: RwLock<BTreeMap<ModelName, BTreeMap<Version, Listed>>>,
    is_ready: watch::Sender<bool>,
    /// Told whenever what can be run has changed.
    changed: watch::Sender<()>,
    /// Held by whoever takes versions in or out, so that nobody does both with one of them at a time.
    taking: Mutex<()>,
}

/// A version of the store, and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) stored: StoredVersion,
    pub(crate) state: State,
    /// The files in the store are no longer those that are served.
    pub(crate) is_changed: bool,
}

/// What became of a version.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// It can be run.
    Ready(Arc<Revision>),
    /// It can't, and why.
    Refused(String),
    /// It could not be checked just now, and why; it is tried again.
    Failed(String),
    /// Somebody had its model unloaded, and nobody had it loaded since.
    Unloaded,
}

/// A version's files in the cache.
enum Copied {
    /// Checked before.
    Before(Box<CachedVersion>),
    /// To be checked.
    Now(Box<Taken>),
}

// === looking up ===

impl Catalog {
    pub(crate) fn open(
        store: PathBuf,
        data: &std::path::Path,
        options: Arc<WorkerOptions>,
        dispatcher: Arc<Dispatcher>,
        measurements: Arc<Measurements>,
        limits: RevisionLimits,
    ) -> anyhow::Result<Arc<Self>> {
        let cache = Cache::open(data)?;
        cache.sweep()?;
        Ok(Arc::new(Self {
            store: Store::open(store)?,
            cache: Arc::new(cache),
            options,
            dispatcher,
            measurements,
            limits,
            models: RwLock::default(),
            is_ready: watch::Sender::new(false),
            changed: watch::Sender::new(()),
            taking: Mutex::default(),
        }))
    }

    /// Whether every version that was there at the start has been looked at.
    pub(crate) fn is_ready(&self) -> bool {
        *self.is_ready.borrow()
    }

    /// Waits until it has.
    pub(crate) async fn ready(&self) {
        let mut is_ready = self.is_ready.subscribe();
        // The sender lives in `self`: this can't fail.
        let _ = is_ready.wait_for(|&is_ready| is_ready).await;
    }

    /// Returns what hears whenever what can be run has changed.
    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Returns what to run for a reference, as [`Catalog::find`].
    ///
    /// # Errors
    /// As [`Catalog::find`].
    pub(crate) fn find_reference(
        &self,
        reference: &ModelReference,
    ) -> Result<Arc<Revision>, InferError> {
        let version = reference.version.map(|version| version.to_string());
        self.find(reference.name.as_str(), version.as_deref())
    }

    /// Takes in what a revision can do on this machine; its next worker is started accordingly.
    pub(crate) fn note_measured(&self, revision: &Revision, measurement: Measurement) {
        self.dispatcher
            .seed(revision.id, measurement.bucket, &measurement.curve);
        // Set before only where it was measured twice.
        let _ = revision.measured.set(measurement);
    }

    /// Returns what can be run.
    pub(crate) fn revisions(&self) -> Vec<Arc<Revision>> {
        let listed = self.all().into_iter();
        listed
            .filter_map(|listed| Some(Arc::clone(listed.state.revision()?)))
            .collect()
    }

    /// Returns what to run for a name: this version, or the latest that can be.
    ///
    /// # Errors
    /// `NotFound`, saying what there is; `Unavailable` for what can't be served, saying why.
    pub(crate) fn find(
        &self,
        name: &str,
        version: Option<&str>,
    ) -> Result<Arc<Revision>, InferError> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let found = name
            .parse::<ModelName>()
            .ok()
            .and_then(|name| models.get(&name));
        let Some(versions) = found else {
            let mut names: Vec<_> = models
                .keys()
                .take(NAMED)
                .map(|name| format!("`{name}`"))
                .collect();
            if models.len() > NAMED {
                names.push(format!("{} more", models.len() - NAMED));
            }
            let there = match (names.is_empty(), self.is_ready()) {
                (false, _) => format!("there are {}", names.join(", ")),
                (true, true) => "the store is empty".to_owned(),
                (true, false) => "the store is still being read".to_owned(),
            };
            return Err(InferError::new(
                Code::NotFound,
                // Triton's sentence, which its clients know.
                format!("Request for unknown model: '{name}' is not found: {there}"),
            ));
        };
        if let Some(version) = version {
            let listed = version
                .parse::<Version>()
                .ok()
                .and_then(|version| versions.get(&version));
            return match listed.map(|listed| &listed.state) {
                Some(State::Ready(revision)) => Ok(Arc::clone(revision)),
                Some(State::Refused(reason) | State::Failed(reason)) => Err(refused(name, reason)),
                Some(State::Unloaded) => Err(unloaded(name)),
                None => {
                    let there: Vec<_> = versions.keys().map(ToString::to_string).collect();
                    let message = format!(
                        "Request for unknown model: '{name}' version {version} is not found: there are {}",
                        there.join(", ")
                    );
                    Err(InferError::new(Code::NotFound, message))
                }
            };
        }
        let states = || versions.values().rev().map(|listed| &listed.state);
        match states().find_map(State::revision) {
            Some(latest) => Ok(Arc::clone(latest)),
            None => Err(match states().next() {
                Some(State::Refused(reason) | State::Failed(reason)) => refused(name, reason),
                _ => unloaded(name),
            }),
        }
    }

    /// Returns the versions of a model and what became of each.
    pub(crate) fn versions(&self, name: &str) -> BTreeMap<Version, Listed> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        name.parse::<ModelName>()
            .ok()
            .and_then(|name| models.get(&name).cloned())
            .unwrap_or_default()
    }

    fn listed(&self, name: &ModelName, version: Version) -> Option<Listed> {
        self.models
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)?
            .get(&version)
            .cloned()
    }

    fn list(&self, stored: &StoredVersion, state: State) {
        let listed = Listed {
            stored: stored.clone(),
            state,
            is_changed: false,
        };
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let replaced = models
            .entry(stored.name.clone())
            .or_default()
            .insert(stored.version, listed);
        drop(models);
        self.retire(replaced.map(|replaced| replaced.state));
        self.changed.send_replace(());
    }

    fn unlist(&self, name: &ModelName, version: Version) {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let removed = models
            .get_mut(name)
            .and_then(|versions| versions.remove(&version));
        models.retain(|_, versions| !versions.is_empty());
        drop(models);
        self.retire(removed.map(|removed| removed.state));
        self.changed.send_replace(());
    }

    fn mark_changed(&self, stored: &StoredVersion, is_changed: bool) {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(listed) = models
            .get_mut(&stored.name)
            .and_then(|versions| versions.get_mut(&stored.version))
        {
            listed.is_changed = is_changed;
        }
    }

    /// What was served is served to the end for those who have it; nobody gets it any more.
    fn retire(&self, state: Option<State>) {
        if let Some(State::Ready(revision)) = state {
            self.dispatcher.retire_revision(revision.id);
        }
    }
}

impl State {
    /// Returns what can be run.
    pub(crate) const fn revision(&self) -> Option<&Arc<Revision>> {
        match self {
            Self::Ready(revision) => Some(revision),
            Self::Refused(_) | Self::Failed(_) | Self::Unloaded => None,
        }
    }
}

fn unloaded(name: &str) -> InferError {
    let message = format!(
        "Request for unknown model: '{name}' has no available versions: it was unloaded, \
         POST /v2/repository/models/{name}/load loads it again"
    );
    InferError::new(Code::Unavailable, message)
}

fn refused(name: &str, reason: &str) -> InferError {
    InferError::new(
        Code::Unavailable,
        format!("model `{name}` can't be served: {reason}"),
    )
}

// === loading and unloading ===

impl Catalog {
    /// Takes in the versions of a model that can't be run, because it was unloaded, because it has
    /// just come into the store, or because they could not be checked; and has a worker of the
    /// latest started, which is not waited for. Changes nothing of what can be run already.
    ///
    /// # Errors
    /// `NotFound` for what the store does not hold; `Unavailable` with the reason if no version can
    /// be served.
    pub(crate) async fn load(self: &Arc<Self>, name: &str) -> Result<(), InferError> {
        let _taking = self.taking.lock().await;
        let this = Arc::clone(self);
        let scan = tokio::task::spawn_blocking(move || this.store.scan()).await;
        let scan = scan.map_err(|error| InferError::internal(error.to_string()))?;
        let scan = scan.map_err(|error| InferError::new(Code::Unavailable, error.to_string()))?;
        let versions = scan.versions.into_iter();
        let mut versions = versions
            .filter(|stored| stored.name.as_str() == name)
            .peekable();
        if versions.peek().is_none() {
            let message = format!("failed to load '{name}', failed to poll from model repository");
            return Err(InferError::new(Code::NotFound, message));
        }
        for stored in versions {
            let listed = self.listed(&stored.name, stored.version);
            if listed.is_none_or(|listed| listed.state.revision().is_none()) {
                self.take(stored).await;
            }
        }
        let revision = self.find(name, None)?;
        self.dispatcher.start_revision(revision.id);
        Ok(())
    }

    /// Takes a model out of service until it is loaded, or this process starts again: its requests
    /// are answered, its workers end and with them its memory is free. Of a name that is not there
    /// nothing is left to do.
    pub(crate) async fn unload(&self, name: &str) {
        let _taking = self.taking.lock().await;
        let mut states = Vec::new();
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let name = name.parse::<ModelName>().ok();
        for listed in name
            .and_then(|name| models.get_mut(&name))
            .into_iter()
            .flat_map(BTreeMap::values_mut)
        {
            states.push(std::mem::replace(&mut listed.state, State::Unloaded));
            listed.is_changed = false;
        }
        drop(models);
        for state in states {
            self.retire(Some(state));
        }
        self.changed.send_replace(());
    }

    fn is_unloaded(&self, name: &ModelName) -> bool {
        let versions = self.versions(name.as_str());
        versions
            .values()
            .any(|listed| matches!(listed.state, State::Unloaded))
    }
}

// === watching ===

impl Catalog {
    /// Takes in what the store holds, then watches it for as long as it is polled.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut settling = Settling::default();
        let mut said = HashSet::new();
        let mut last_try = Instant::now();
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(versions) = self.scan(&mut said).await else {
                continue;
            };
            let mut events = settling.observe(&versions);
            if !self.is_ready() {
                // What is there at the start counts as whole.
                events.extend(settling.observe(&versions));
            }
            if !events.is_empty() {
                self.take_events(events).await;
            } else if last_try.elapsed() >= TRY_AGAIN {
                self.take_failed().await;
                last_try = Instant::now();
            }
            self.is_ready.send_replace(true);
        }
    }

    async fn scan(self: &Arc<Self>, said: &mut HashSet<String>) -> Option<Vec<StoredVersion>> {
        let this = Arc::clone(self);
        let scan = tokio::task::spawn_blocking(move || this.store.scan())
            .await
            .ok()?;
        match scan {
            Ok(scan) => {
                for skipped in scan.skipped {
                    let line = format!("{}: {}", skipped.path.display(), skipped.reason);
                    if said.insert(line.clone()) {
                        tracing::warn!("not a model version, skipped: {line}");
                    }
                }
                Some(scan.versions)
            }
            // Nothing follows from a scan that failed.
            Err(error) => {
                if said.insert(error.to_string()) {
                    tracing::error!(%error, "the store can't be read");
                }
                None
            }
        }
    }

    async fn take_events(self: &Arc<Self>, events: Vec<StoreEvent>) {
        let _taking = self.taking.lock().await;
        let mut with_stages = Vec::new();
        for event in events {
            match event {
                StoreEvent::Removed(name, version) => {
                    tracing::info!(model = %name, %version, "version removed from the store");
                    self.unlist(&name, version);
                }
                StoreEvent::Added(stored) | StoreEvent::Changed(stored) => {
                    if let Some(Listed {
                        state: State::Ready(revision),
                        ..
                    }) = self.listed(&stored.name, stored.version)
                    {
                        self.notice_change(&stored, revision).await;
                    } else if self.is_unloaded(&stored.name) {
                        // So is what is added to it.
                        self.list(&stored, State::Unloaded);
                    } else if has_stages(&stored).await {
                        with_stages.push(stored);
                    } else {
                        self.take(stored).await;
                    }
                }
            }
        }
        // After the models that they may be made of; those listed before, because these may have changed.
        with_stages.extend(self.with_outdated_stages().await);
        for stored in with_stages {
            self.take(stored).await;
        }
    }

    /// Tries again what could not be checked, whatever the reason: a missing library may have come.
    async fn take_failed(self: &Arc<Self>) {
        let _taking = self.taking.lock().await;
        let failed = self.all().into_iter();
        for listed in failed.filter(|listed| matches!(listed.state, State::Failed(_))) {
            self.take(listed.stored).await;
        }
    }

    /// Returns every version there is, whatever became of it.
    pub(crate) fn all(&self) -> Vec<Listed> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        models
            .values()
            .flat_map(BTreeMap::values)
            .cloned()
            .collect()
    }

    /// Versions are immutable: what is served stays as it was taken in.
    async fn notice_change(self: &Arc<Self>, stored: &StoredVersion, revision: Arc<Revision>) {
        let (this, version) = (Arc::clone(self), stored.clone());
        let digest = tokio::task::spawn_blocking(move || this.cache.digest_of(&version)).await;
        let is_changed = !matches!(digest, Ok(Ok(digest)) if digest == revision.model.digest);
        self.mark_changed(stored, is_changed);
        if is_changed {
            tracing::warn!(
                model = %stored.name, version = %stored.version,
                "the files changed under a served version; it is served as it was added: put the change into a new version"
            );
        }
    }

    async fn with_outdated_stages(&self) -> Vec<StoredVersion> {
        let mut outdated = Vec::new();
        for listed in self.all() {
            let is_outdated = match &listed.state {
                State::Refused(_) | State::Failed(_) => has_stages(&listed.stored).await,
                State::Unloaded => false,
                State::Ready(revision) => {
                    let manifest = &revision.model.manifest;
                    let now = self
                        .stages(manifest)
                        .map(|stages| stages.iter().map(|stage| stage.digest).collect());
                    let then: Vec<Digest> =
                        revision.stages.iter().map(|(digest, _)| *digest).collect();
                    // Stages that can't be run any more are no reason to do without them.
                    now.is_ok_and(|now: Vec<Digest>| now != then)
                }
            };
            outdated.extend(is_outdated.then_some(listed.stored));
        }
        outdated
    }

    async fn take(self: &Arc<Self>, stored: StoredVersion) {
        let (name, version) = (&stored.name, stored.version);
        tracing::info!(model = %name, %version, "checking");
        match self.take_in(&stored).await {
            Ok((model, stages, labels)) => {
                let ignored = model.manifest.config.as_ref().map(|config| &config.notes);
                for note in &model.spec.notes {
                    if ignored.is_some_and(|ignored| ignored.contains(note)) {
                        tracing::warn!(model = %name, %version, "{note}");
                    } else {
                        tracing::info!(model = %name, %version, "{note}");
                    }
                }
                let stages: Vec<_> = stages
                    .into_iter()
                    .map(|stage| (stage.digest, stage.dir))
                    .collect();
                let digests = stages.iter().map(|(digest, _)| *digest);
                let digest = model.digest.with_stages(digests);
                let measured = self.measurements.known(digest).await;
                let learned = self.measurements.learned(digest).await;
                let metrics = self.dispatcher.metrics.of(name, version);
                let limits = limits(self.limits, &model, measured.as_ref());
                let is_on_processor = model.manifest.device == model_store::Device::Cpu;
                let revision = self.dispatcher.add_revision(limits, is_on_processor, |id| {
                    Arc::new(Revision {
                        id,
                        name: name.clone(),
                        version,
                        model,
                        labels,
                        stages,
                        metrics,
                        poison: Arc::default(),
                        measured: measured.map_or_else(OnceLock::new, OnceLock::from),
                    })
                });
                // What was learned counts before what was measured with nobody calling.
                for curve in learned {
                    self.dispatcher
                        .seed(revision.id, curve.bucket, &curve.points);
                }
                if let Some(measured) = revision.measurement() {
                    self.dispatcher
                        .seed(revision.id, measured.bucket, &measured.curve);
                }
                self.list(&stored, State::Ready(revision));
                tracing::info!(model = %name, %version, "ready to be served");
            }
            Err(error) => {
                let reason = format!("{error:#}");
                tracing::error!(model = %name, %version, reason, "refused");
                // Somebody is still writing: the next scan will say when it has settled.
                let is_changing = matches!(error.downcast_ref(), Some(StoreError::Changed(_)));
                // A change that fails changes nothing: what was served stays.
                let is_served = matches!(
                    self.listed(name, version),
                    Some(Listed {
                        state: State::Ready(_),
                        ..
                    })
                );
                if !is_changing && !is_served {
                    let is_final = error.is::<launcher::Refusal>() || error.is::<StoreError>();
                    let state = if is_final {
                        State::Refused
                    } else {
                        State::Failed
                    };
                    self.list(&stored, state(reason));
                }
            }
        }
    }

    /// Copies a version into the cache and has a worker check it, unless that was done before.
    async fn take_in(
        self: &Arc<Self>,
        stored: &StoredVersion,
    ) -> anyhow::Result<(CachedVersion, Vec<CachedVersion>, Vec<String>)> {
        let (cached, stages) = self.check(stored).await?;
        let (manifest, dir) = (cached.manifest.clone(), cached.dir.clone());
        let labels = tokio::task::spawn_blocking(move || manifest.read_labels(&dir)).await??;
        Ok((cached, stages, labels.unwrap_or_default()))
    }

    /// Copies a version into the cache and has a worker check it, unless that was done before.
    async fn check(
        self: &Arc<Self>,
        stored: &StoredVersion,
    ) -> anyhow::Result<(CachedVersion, Vec<CachedVersion>)> {
        let (this, version) = (Arc::clone(self), stored.clone());
        let copied = tokio::task::spawn_blocking(move || this.copy(&version)).await??;
        let manifest = match &copied {
            Copied::Before(cached) => &cached.manifest,
            Copied::Now(taken) => &taken.manifest,
        };
        manifest.check_place(&stored.name, stored.version)?;
        let taken = match copied {
            Copied::Before(mut cached) => {
                let stages = self.stages(&cached.manifest)?;
                if !stages.is_empty() {
                    // It was checked with whatever stages it had then.
                    cached.spec = launcher::prepare(&self.options, &cached.dir, &stages).await?;
                }
                return Ok((*cached, stages));
            }
            Copied::Now(taken) => *taken,
        };
        let stages = self.stages(&taken.manifest)?;
        let spec = launcher::prepare(&self.options, taken.dir(), &stages).await?;
        let cached = tokio::task::spawn_blocking(move || taken.seal(&spec)).await??;
        Ok((cached, stages))
    }

    /// Copies a version's files into the cache, unless they are there. Blocks.
    fn copy(&self, version: &StoredVersion) -> Result<Copied, StoreError> {
        let get = |digest| self.cache.get(&digest).map(Box::new).map(Copied::Before);
        if let Some(before) = self.cache.known_digest(version).and_then(get) {
            return Ok(before);
        }
        let taken = self.cache.take_in(version, &mut |_, _| {})?;
        // The same files may have been taken in under another name, or before a restart.
        Ok(get(taken.digest).unwrap_or_else(|| Copied::Now(Box::new(taken))))
    }

    /// Finds the models of a manifest's stages.
    fn stages(&self, manifest: &Manifest) -> anyhow::Result<Vec<CachedVersion>> {
        manifest
            .stages
            .iter()
            .map(|stage| {
                let name = &stage.model.name;
                let revision = self
                    .find_reference(&stage.model)
                    .with_context(|| format!("stage `{}` is not there", stage.model))?;
                anyhow::ensure!(
                    revision.stages.is_empty(),
                    "stage `{name}` has stages itself"
                );
                Ok(revision.model.clone())
            })
            .collect()
    }
}

/// A manifest that can't be read is refused when it is taken in, with the reason.
async fn has_stages(stored: &StoredVersion) -> bool {
    let stored = stored.clone();
    let manifest = tokio::task::spawn_blocking(move || stored.manifest()).await;
    manifest.is_ok_and(|manifest| manifest.is_ok_and(|manifest| !manifest.stages.is_empty()))
}

/// What a loaded model takes beyond its files, before one was measured: the runtime, and tensors.
const RUNTIME_BYTES: u64 = 64 << 20;

/// Returns the bounds of a version: the gateway's, and what its manifest and its measurement say.
fn limits(
    general: RevisionLimits,
    model: &CachedVersion,
    measured: Option<&Measurement>,
) -> RevisionLimits {
    let (min_scale, max_scale) = scale(&model.manifest);
    RevisionLimits {
        max_batch: model.spec.max_batch,
        min_scale,
        max_scale,
        idle_window: model
            .manifest
            .scale
            .idle_s
            .map_or(general.idle_window, Duration::from_secs),
        memory_bytes: measured.map_or_else(
            // Weights are read into memory and, packed for the processor, are there twice.
            || 2 * file_bytes(&model.dir) + RUNTIME_BYTES,
            |measured| measured.memory_bytes,
        ),
        ..general
    }
}

/// Returns how many replicas a model has at least and at most, as its manifest says.
pub(crate) fn scale(manifest: &Manifest) -> (usize, usize) {
    let min = manifest.scale.min.map_or(0, |min| min as usize);
    let max = manifest.scale.max.map_or(1, |max| max as usize);
    (min, max.max(min))
}

fn file_bytes(dir: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    let sizes = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
    sizes.fold(0, u64::saturating_add)
}
