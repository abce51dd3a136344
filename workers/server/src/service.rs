//! The worker as a gRPC service: the Open Inference Protocol, its streams for the gateway, its
//! unary calls for whoever debugs.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use workers_protocol::oip::grpc_inference_service_server::{
    GrpcInferenceService, GrpcInferenceServiceServer,
};
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
    SystemSharedMemoryUnregisterResponse, model_metadata_response::TensorMetadata,
};
use workers_protocol::transport::{self, MAX_MESSAGE_BYTES};
use workers_protocol::wire::{Command, Event};
use workers_protocol::{Code, InferError};

use crate::instance::{self, Batch, BatchEntry};
use crate::model::Model;
use crate::reply::Reply;
use crate::session::{EVENTS, Session};

/// The model, once it is loaded, or why it can't be.
#[derive(Clone)]
pub(crate) struct Start(watch::Sender<Option<Result<Arc<Model>, InferError>>>);

/// See the module's documentation.
#[derive(Clone)]
pub(crate) struct Service {
    start: Start,
}

// === impl Start ===

impl Start {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    pub(crate) fn finish(&self, model: Result<Model, InferError>) {
        self.0.send_replace(Some(model.map(Arc::new)));
    }

    /// Waits for the model.
    async fn model(&self) -> Result<Arc<Model>, Status> {
        let mut start = self.0.subscribe();
        let started = start.wait_for(Option::is_some).await;
        let model = started.ok().and_then(|model| model.clone());
        model
            .unwrap_or_else(|| Err(InferError::internal("loading was given up")))
            .map_err(|error| status(&error))
    }

    fn is_ready(&self) -> bool {
        matches!(&*self.0.borrow(), Some(Ok(_)))
    }
}

fn status(error: &InferError) -> Status {
    Status::new(
        tonic::Code::from_i32(error.code.grpc_code()),
        error.message.clone(),
    )
}

// === impl Service ===

impl Service {
    pub(crate) fn new(start: Start) -> Self {
        Self { start }
    }

    /// Returns it as what a connection serves.
    pub(crate) fn into_grpc(self) -> GrpcInferenceServiceServer<Self> {
        GrpcInferenceServiceServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Stages, runs and answers one request that is not of a gateway.
    async fn infer(&self, message: ModelInferRequest) -> Result<ModelInferResponse, InferError> {
        let model = self.start.model().await.map_err(|status| {
            InferError::new(
                Code::from_grpc_code(i64::from(i32::from(status.code()))),
                status.message(),
            )
        })?;
        let id = message.id.clone();
        let Command::Entry(entry) = Command::from_message(message).map_err(|(_, error)| error)?
        else {
            return Err(InferError::invalid(
                "a unary call takes no control messages",
            ));
        };
        let deadline = entry
            .timeout
            .map(|timeout| std::time::Instant::now() + timeout);
        let stager = Arc::clone(&model);
        let staged = tokio::task::spawn_blocking(move || {
            instance::caught("staging", || stager.stage(entry.inputs, entry.options))
        });
        let staged = staged
            .await
            .unwrap_or_else(|error| Err(InferError::internal(error.to_string())))?;

        let (events, mut heard) = mpsc::channel(2);
        let reply = Reply::new(id.clone(), events.clone());
        let batch = Batch {
            name: id.clone(),
            entries: vec![BatchEntry {
                staged,
                reply,
                deadline,
                trace: None,
            }],
            events,
        };
        model
            .submit(batch)
            .map_err(|_| InferError::new(Code::Overloaded, "every instance is busy; try again"))?;
        while let Some(events) = heard.recv().await {
            for event in events {
                if let Event::Answer { result, .. } = event {
                    return Ok(result?.into_response(id));
                }
            }
        }
        Err(InferError::internal("no answer came"))
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    type ModelStreamInferStream = BoxStream<'static, Result<ModelStreamInferResponse, Status>>;

    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse {
            ready: self.start.is_ready(),
        }))
    }

    async fn model_ready(
        &self,
        _: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        Ok(Response::new(ModelReadyResponse {
            ready: self.start.is_ready(),
        }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: "hearth-worker".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: vec![format!("hearth_wire_{}", workers_protocol::wire::VERSION)],
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let model = self.start.model().await?;
        let tensors = |specs: &[model_store::TensorSpec]| {
            let tensor = |spec: &model_store::TensorSpec| TensorMetadata {
                name: spec.name.clone(),
                datatype: spec.datatype.as_str().to_owned(),
                shape: spec.shape.clone(),
            };
            specs.iter().map(tensor).collect()
        };
        let ModelMetadataRequest { name, version } = request.into_inner();
        Ok(Response::new(ModelMetadataResponse {
            name,
            versions: vec![version],
            platform: model.spec().platform.clone(),
            inputs: tensors(&model.spec().inputs),
            outputs: tensors(&model.spec().outputs),
        }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        self.infer(request.into_inner())
            .await
            .map(Response::new)
            .map_err(|error| status(&error))
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let model = self.start.model().await?;
        let (events, outgoing) = mpsc::channel(EVENTS);
        // The channel is new: there is room.
        let _ = events.try_send(vec![Event::Ready(model.credits())]);
        tokio::spawn(Session::new(model, events).serve(request.into_inner()));
        let outgoing = ReceiverStream::new(outgoing)
            .flat_map(stream::iter)
            .map(|event| Ok(event.into_message()));
        Ok(Response::new(outgoing.boxed()))
    }

    async fn model_config(
        &self,
        _: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        Err(asks_the_gateway())
    }

    async fn model_statistics(
        &self,
        _: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        Err(asks_the_gateway())
    }

    async fn repository_index(
        &self,
        _: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        Err(asks_the_gateway())
    }

    async fn repository_model_load(
        &self,
        _: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        Err(asks_the_gateway())
    }

    async fn repository_model_unload(
        &self,
        _: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        Err(asks_the_gateway())
    }

    async fn system_shared_memory_status(
        &self,
        _: Request<SystemSharedMemoryStatusRequest>,
    ) -> Result<Response<SystemSharedMemoryStatusResponse>, Status> {
        Err(asks_the_gateway())
    }

    async fn system_shared_memory_register(
        &self,
        _: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Result<Response<SystemSharedMemoryRegisterResponse>, Status> {
        Err(asks_the_gateway())
    }

    async fn system_shared_memory_unregister(
        &self,
        _: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Result<Response<SystemSharedMemoryUnregisterResponse>, Status> {
        Err(asks_the_gateway())
    }
}

/// A worker knows its model and none of its settings, statistics and neighbours.
fn asks_the_gateway() -> Status {
    Status::unimplemented("a worker does not know this: ask the gateway")
}

/// Serves plain OIP on a Unix socket, for debugging, until the process ends.
///
/// # Errors
/// When the socket can't be made.
pub(crate) async fn listen(path: &Path, service: Service) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let folder = path.parent().context("the socket needs a folder")?;
    // Who may enter the folder may use the socket: nobody but the owner.
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    // Left by a process that was killed; a name in use belongs to nobody else in this folder.
    let _ = std::fs::remove_file(path);
    let listener = tokio::net::UnixListener::bind(path)
        .with_context(|| format!("{} can't be bound", path.display()))?;
    tracing::info!(socket = %path.display(), "debug socket, plain Open Inference Protocol");
    loop {
        let (socket, _) = listener.accept().await?;
        let service = service.clone().into_grpc();
        tokio::spawn(async move {
            // How a debugging client's connection ends is its own affair.
            let _ = transport::serve(socket, service).await;
        });
    }
}
