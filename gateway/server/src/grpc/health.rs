//! gRPC's health checks: of the whole, and of a model by its name.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use workers_protocol::health::health_check_response::ServingStatus;
use workers_protocol::health::health_server::Health;
use workers_protocol::health::{HealthCheckRequest, HealthCheckResponse};

use crate::catalog::Catalog;
use crate::server::asked_to_drain;

/// How often a watched status is looked at: the store is, as often.
const POLL: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(super) struct Service {
    catalog: Arc<Catalog>,
    drain: watch::Receiver<bool>,
}

impl Service {
    pub(super) const fn new(catalog: Arc<Catalog>, drain: watch::Receiver<bool>) -> Self {
        Self { catalog, drain }
    }

    /// Returns how a service does: all of it for no name and the protocol's own, else a model.
    fn status(&self, service: &str) -> ServingStatus {
        let is_whole = matches!(service, "" | "inference.GRPCInferenceService");
        if is_whole {
            return match self.catalog.is_ready() && !*self.drain.borrow() {
                true => ServingStatus::Serving,
                false => ServingStatus::NotServing,
            };
        }
        if self.catalog.find(service, None).is_ok() {
            ServingStatus::Serving
        } else if self.catalog.versions(service).is_empty() {
            ServingStatus::ServiceUnknown
        } else {
            ServingStatus::NotServing
        }
    }
}

#[tonic::async_trait]
impl Health for Service {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match self.status(&service) {
            ServingStatus::ServiceUnknown => {
                Err(Status::not_found(format!("no service `{service}`")))
            }
            status => Ok(Response::new(answer(status))),
        }
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let mut drain = self.drain.clone();
        let changes = stream::unfold(
            (self.clone(), service, None),
            |(health, service, said)| async move {
                loop {
                    let status = health.status(&service);
                    if said != Some(status) {
                        let item = Ok(answer(status));
                        return Some((item, (health, service, Some(status))));
                    }
                    tokio::time::sleep(POLL).await;
                }
            },
        );
        let until_the_end = changes.take_until(async move { asked_to_drain(&mut drain).await });
        Ok(Response::new(until_the_end.boxed()))
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}
