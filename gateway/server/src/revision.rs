//! A model version as configured to run.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use gateway_scheduler::RevisionId;
use model_store::{CachedVersion, Digest, Measurement, ModelName, Version};
use workers_protocol::Target;

use crate::metrics::RevisionMetrics;
use crate::poison::Poison;

/// A model version as configured to run: what a replica is started with.
#[derive(Debug)]
pub(crate) struct Revision {
    pub(crate) id: RevisionId,
    pub(crate) name: ModelName,
    pub(crate) version: Version,
    pub(crate) model: CachedVersion,
    /// The names of its classes, if its manifest has them.
    pub(crate) labels: Vec<String>,
    /// The versions of its stages, in order.
    pub(crate) stages: Vec<(Digest, PathBuf)>,
    pub(crate) metrics: RevisionMetrics,
    pub(crate) poison: Arc<Poison>,
    /// What it can do on this machine, once that is known.
    pub(crate) measured: OnceLock<Measurement>,
}

impl Revision {
    /// Returns what it can do on this machine, or `None` where that was not measured yet.
    pub(crate) fn measurement(&self) -> Option<&Measurement> {
        self.measured.get()
    }

    /// Returns what its requests are read and checked against.
    pub(crate) fn target(&self) -> Target<'_> {
        Target {
            model: self.name.as_str(),
            spec: &self.model.spec,
        }
    }

    /// Returns the digest of all that a replica loads.
    pub(crate) fn digest(&self) -> Digest {
        let stages = self.stages.iter().map(|(digest, _)| *digest);
        self.model.digest.with_stages(stages)
    }
}
