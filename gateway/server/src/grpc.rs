//! The gRPC front: the Open Inference Protocol and gRPC's health checks, on a listener of its own.
//!
//! What is asked of it goes the way of what comes over HTTP, from [`Front::terms`] on.

mod health;
mod infer;
mod room;
mod weight;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::{BoxStream, StreamExt as _};
use http::StatusCode;
use tokio::sync::watch;
use tonic::{Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};
use workers_protocol::health::health_server::HealthServer;
use workers_protocol::oip::grpc_inference_service_server::{
    GrpcInferenceService, GrpcInferenceServiceServer,
};
use workers_protocol::oip::model_repository_parameter::ParameterChoice;
use workers_protocol::oip::{
    ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse,
    ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
    ModelStatisticsRequest, ModelStatisticsResponse, ModelStreamInferResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
    RepositoryModelLoadResponse, RepositoryModelUnloadRequest, RepositoryModelUnloadResponse,
    ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse,
    ServerReadyRequest, ServerReadyResponse, SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryRegisterResponse, SystemSharedMemoryStatusRequest,
    SystemSharedMemoryStatusResponse, SystemSharedMemoryUnregisterRequest,
    SystemSharedMemoryUnregisterResponse,
};
use workers_protocol::{Code, InferError};

use crate::catalog::Catalog;
use crate::describe;
use crate::rest::{ApiError, Front};
use crate::revision::Revision;
use crate::routes::{METHODS, MODEL_INFER, MODEL_STREAM_INFER};
use crate::server::asked_to_drain;
use room::Room;
use weight::Kind;

/// Messages of one stream that are answered at a time; the next are read when the first is answered.
const IN_FLIGHT: usize = 64;
/// A health check is a name; nobody counts its bytes.
const MAX_CHECK_BYTES: usize = 1024;

/// The Open Inference Protocol over gRPC.
#[derive(Clone, Debug)]
struct Service {
    front: Arc<Front>,
    drain: watch::Receiver<bool>,
}

/// Returns the services, with messages of at most so many bytes.
pub(crate) fn router(
    front: Arc<Front>,
    max_message: usize,
    drain: &watch::Receiver<bool>,
) -> Router {
    let service = Service {
        front: Arc::clone(&front),
        drain: drain.clone(),
    };
    let inference = GrpcInferenceServiceServer::new(service)
        .max_decoding_message_size(max_message)
        // What a model answers is bounded by its own.
        .max_encoding_message_size(usize::MAX);
    let health = health::Service::new(Arc::clone(&front.catalog), drain.clone());
    let health = HealthServer::new(health).max_decoding_message_size(MAX_CHECK_BYTES);
    Router::new()
        .route_service("/inference.GRPCInferenceService/{method}", inference)
        .layer(middleware::from_fn_with_state(
            (Arc::clone(&front), max_message),
            count_bytes,
        ))
        .route_service("/grpc.health.v1.Health/{method}", health)
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(middleware::from_fn_with_state(front, observe))
}

/// Takes room for what a call sends and for what that decodes to, before either is kept.
async fn count_bytes(
    State((front, max_message)): State<(Arc<Front>, usize)>,
    mut request: Request,
    next: Next,
) -> Response {
    let room = Room::new(Arc::clone(&front.budget));
    request.extensions_mut().insert(room.clone());
    let kind = match request.uri().path() {
        MODEL_INFER | MODEL_STREAM_INFER => Kind::Inference,
        _ => Kind::Names,
    };
    let count = |body| Body::new(room.counting(body, kind, max_message));
    next.run(request.map(count)).await
}

/// Refuses foreign pages, callers without credentials and methods that are not there, counts every
/// answer and logs those that are our fault, as the HTTP front does.
async fn observe(State(front): State<Arc<Front>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let method = METHODS.into_iter().find(|&method| method == path);
    let path = path.to_owned();
    let route = method.unwrap_or("none");
    let followed = front.tracer.follow(&request, route);
    if let Some(followed) = &followed {
        request.extensions_mut().insert(followed.trace());
    }
    let refused = match (front.admit(route, false, &request), method) {
        (Err(error), _) => Some(status(&error.into())),
        (Ok(()), None) => Some(Status::unimplemented(format!(
            "{path} is not offered: there are the inference and health services, without CUDA's \
             shared memory, traces and logs"
        ))),
        (Ok(()), Some(_)) => None,
    };
    let response = match refused {
        Some(status) => status.into_http::<Body>().into_response(),
        None => next.run(request).await,
    };
    // Of a call that succeeds the status comes after its messages.
    let status = Status::from_header_map(response.headers());
    let code = status.as_ref().map(|status| i32::from(status.code()));
    let http_status = match code {
        None | Some(0) => StatusCode::OK,
        Some(code) => StatusCode::from_u16(Code::from_grpc_code(i64::from(code)).http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
    };
    if let Some(status) = status {
        let (code, message) = (status.code(), status.message());
        if http_status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(route, ?code, message, "failed");
        } else {
            tracing::debug!(route, ?code, message, "refused");
        }
    }
    if let Some(followed) = followed {
        followed.answered(http_status);
    }
    front
        .dispatcher
        .metrics
        .count_request(route, http_status.as_u16());
    response
}

/// Returns a failure as gRPC says it; when to try again is in its details (`google.rpc.RetryInfo`),
/// and in its metadata as over HTTP.
fn status(error: &ApiError) -> Status {
    let code = tonic::Code::from_i32(error.code().grpc_code());
    let mut status = match error.retry_delay() {
        Some(delay) => {
            let details = ErrorDetails::with_retry_info(Some(delay));
            Status::with_error_details(code, error.message(), details)
        }
        None => Status::new(code, error.message()),
    };
    for (name, value) in error.retry_fields() {
        status.metadata_mut().insert(name, value.into());
    }
    status
}

/// Returns what to run for a name and a version, which may be empty: the latest.
fn find(catalog: &Catalog, name: &str, version: &str) -> Result<Arc<Revision>, InferError> {
    catalog.find(name, named(version))
}

impl Service {
    fn find(&self, name: &str, version: &str) -> Result<Arc<Revision>, Status> {
        find(&self.front.catalog, name, version).map_err(|error| status(&error.into()))
    }
}

type Answer<T> = Result<tonic::Response<T>, Status>;

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    type ModelStreamInferStream = BoxStream<'static, Result<ModelStreamInferResponse, Status>>;

    async fn server_live(
        &self,
        _: tonic::Request<ServerLiveRequest>,
    ) -> Answer<ServerLiveResponse> {
        Ok(tonic::Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: tonic::Request<ServerReadyRequest>,
    ) -> Answer<ServerReadyResponse> {
        let ready = self.front.catalog.is_ready();
        Ok(tonic::Response::new(ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: tonic::Request<ModelReadyRequest>,
    ) -> Answer<ModelReadyResponse> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = find(&self.front.catalog, &name, &version).is_ok();
        Ok(tonic::Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: tonic::Request<ServerMetadataRequest>,
    ) -> Answer<ServerMetadataResponse> {
        let offers_memory = self.front.shared_memory.is_offered();
        Ok(tonic::Response::new(describe::server(offers_memory)))
    }

    async fn model_metadata(
        &self,
        request: tonic::Request<ModelMetadataRequest>,
    ) -> Answer<ModelMetadataResponse> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let revision = self.find(&name, &version)?;
        let metadata = describe::metadata(&self.front.catalog, &revision);
        Ok(tonic::Response::new(metadata))
    }

    async fn model_infer(
        &self,
        request: tonic::Request<ModelInferRequest>,
    ) -> Answer<ModelInferResponse> {
        let (call, message) = infer::Call::begin(&self.front, request);
        let answer = call.answer(message, call.room()).await;
        answer
            .map(tonic::Response::new)
            .map_err(|error| status(&error))
    }

    /// Answers come in the order of their requests, an error as the answer to its request.
    async fn model_stream_infer(
        &self,
        request: tonic::Request<Streaming<ModelInferRequest>>,
    ) -> Answer<Self::ModelStreamInferStream> {
        let (call, messages) = infer::Call::begin(&self.front, request);
        let call = Arc::new(call);
        let mut drain = self.drain.clone();
        // What was read is answered; a client that keeps its stream open does not hold up the end.
        let messages = messages.take_until(async move { asked_to_drain(&mut drain).await });
        let answers = messages.map(move |message| {
            let call = Arc::clone(&call);
            // Here, in the order of the messages, and not when they are answered.
            let room = call.room();
            async move { Ok(call.answer_in_stream(message?, room).await) }
        });
        Ok(tonic::Response::new(answers.buffered(IN_FLIGHT).boxed()))
    }

    async fn model_config(
        &self,
        request: tonic::Request<ModelConfigRequest>,
    ) -> Answer<ModelConfigResponse> {
        let ModelConfigRequest { name, version } = request.into_inner();
        let config = Some(describe::config(self.find(&name, &version)?.as_ref()));
        Ok(tonic::Response::new(ModelConfigResponse { config }))
    }

    async fn model_statistics(
        &self,
        request: tonic::Request<ModelStatisticsRequest>,
    ) -> Answer<ModelStatisticsResponse> {
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let revisions = describe::measured(&self.front.catalog, &name, &version)
            .map_err(|error| status(&error.into()))?;
        let dispatcher = &self.front.dispatcher;
        let stats = |revision: &Arc<Revision>| describe::statistics(dispatcher, revision);
        let model_stats = revisions.iter().filter_map(stats).collect();
        Ok(tonic::Response::new(ModelStatisticsResponse {
            model_stats,
        }))
    }

    async fn repository_index(
        &self,
        request: tonic::Request<RepositoryIndexRequest>,
    ) -> Answer<RepositoryIndexResponse> {
        let request = request.into_inner();
        check_repository(&request.repository_name)?;
        let is_ready_only = request.ready;
        let models = describe::index(&self.front.catalog, is_ready_only);
        Ok(tonic::Response::new(RepositoryIndexResponse { models }))
    }

    async fn system_shared_memory_status(
        &self,
        request: tonic::Request<SystemSharedMemoryStatusRequest>,
    ) -> Answer<SystemSharedMemoryStatusResponse> {
        let SystemSharedMemoryStatusRequest { name } = request.into_inner();
        let regions = self.front.shared_memory.status(named(&name));
        let regions = regions.map_err(|error| status(&error.into()))?;
        Ok(tonic::Response::new(describe::regions(regions)))
    }

    async fn system_shared_memory_register(
        &self,
        request: tonic::Request<SystemSharedMemoryRegisterRequest>,
    ) -> Answer<SystemSharedMemoryRegisterResponse> {
        let SystemSharedMemoryRegisterRequest {
            name,
            key,
            offset,
            byte_size,
        } = request.into_inner();
        let memory = &self.front.shared_memory;
        memory
            .register(&name, &key, offset, byte_size)
            .map_err(|error| status(&error.into()))?;
        let done = SystemSharedMemoryRegisterResponse {};
        Ok(tonic::Response::new(done))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: tonic::Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Answer<SystemSharedMemoryUnregisterResponse> {
        let SystemSharedMemoryUnregisterRequest { name } = request.into_inner();
        let done = self.front.shared_memory.unregister(named(&name));
        done.map_err(|error| status(&error.into()))?;
        let done = SystemSharedMemoryUnregisterResponse {};
        Ok(tonic::Response::new(done))
    }

    async fn repository_model_load(
        &self,
        request: tonic::Request<RepositoryModelLoadRequest>,
    ) -> Answer<RepositoryModelLoadResponse> {
        let request = request.into_inner();
        check_repository(&request.repository_name)?;
        let parameters = request.parameters.keys().map(String::as_str);
        let loaded = self.front.load(request.model_name, parameters).await;
        loaded.map_err(|error| status(&error.into()))?;
        Ok(tonic::Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: tonic::Request<RepositoryModelUnloadRequest>,
    ) -> Answer<RepositoryModelUnloadResponse> {
        let request = request.into_inner();
        check_repository(&request.repository_name)?;
        let parameters = request.parameters.iter();
        let parameters = parameters.map(|(name, value)| match value.parameter_choice {
            Some(ParameterChoice::BoolParam(is)) => (name.as_str(), Some(is)),
            _ => (name.as_str(), None),
        });
        let unloaded = self.front.unload(&request.model_name, parameters).await;
        unloaded.map_err(|error| status(&error.into()))?;
        Ok(tonic::Response::new(RepositoryModelUnloadResponse {}))
    }
}

/// Returns a name that is given; an empty one is none, and so all of them.
fn named(name: &str) -> Option<&str> {
    Some(name).filter(|name| !name.is_empty())
}

fn check_repository(name: &str) -> Result<(), Status> {
    match name {
        "" => Ok(()),
        _ => Err(Status::unimplemented(
            "`repository_name`: there is one repository, without a name",
        )),
    }
}
