//! A model version as configured to run.

use std::path::PathBuf;

use gateway_scheduler::RevisionId;
use model_store::{CachedVersion, Digest, ModelName, Version};

use crate::metrics::RevisionMetrics;

/// A model version as configured to run: what a replica is started with.
#[derive(Debug)]
pub(crate) struct Revision {
    pub(crate) id: RevisionId,
    pub(crate) name: ModelName,
    pub(crate) version: Version,
    pub(crate) model: CachedVersion,
    /// The versions of its stages, in order.
    pub(crate) stages: Vec<(Digest, PathBuf)>,
    pub(crate) metrics: RevisionMetrics,
}
