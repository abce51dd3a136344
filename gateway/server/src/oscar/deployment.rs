//! How a service is doing, in OSCAR's words.

use gateway_scheduler::ReplicaSnapshot;
use serde::Serialize;

use super::service::{Backend, Service};
use crate::rest::Front;

/// Whether a service can be called, and what runs for it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Deployment {
    state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    active_instances: usize,
    affected_instances: usize,
    resource_kind: &'static str,
}

/// The same, of a service that is named.
#[derive(Debug, Serialize)]
pub(super) struct Named<'a> {
    service_name: &'a str,
    #[serde(flatten)]
    deployment: Deployment,
}

impl Deployment {
    pub(super) fn of(front: &Front, service: &Service) -> Self {
        let model = match &service.backend {
            Backend::Model(model) => model,
            // A process for each call, and none without.
            Backend::Script(_) => return Self::new("ready", String::new(), 0, 0),
        };
        let revision = match front.services.revision(service, model) {
            Ok(revision) => revision,
            Err(error) => return Self::new("unavailable", error.message, 0, 0),
        };
        let Some((state, _)) = front.dispatcher.revision(revision.id) else {
            let reason = "this version of its model is going away".to_owned();
            return Self::new("unavailable", reason, 0, 0);
        };
        let is_up = |replica: &&ReplicaSnapshot| replica.credits.is_some();
        let n_up = state.replicas.iter().filter(is_up).count();
        let n_starting = state.replicas.len() - n_up;
        let (word, reason) = match (n_up, n_starting, state.failed_starts) {
            (0, 0, 0) => (
                "ready",
                "no worker runs: the next call starts one".to_owned(),
            ),
            (0, _, 1..) => (
                "failed",
                format!("{} starts failed in a row", state.failed_starts),
            ),
            (0, ..) => ("pending", "a worker starts".to_owned()),
            _ => ("ready", String::new()),
        };
        Self::new(word, reason, n_up, n_starting)
    }

    fn new(state: &'static str, reason: String, n_up: usize, n_starting: usize) -> Self {
        Self {
            state,
            reason,
            active_instances: n_up,
            affected_instances: n_starting,
            resource_kind: match state {
                "unavailable" => "unavailable",
                // What answers `/run` at an OSCAR cluster.
                _ => "knative_service",
            },
        }
    }

    pub(super) fn named(self, service_name: &str) -> Named<'_> {
        Named {
            service_name,
            deployment: self,
        }
    }
}
