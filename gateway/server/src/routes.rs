//! Every route of HTTP and every method of gRPC, as the metrics name them.
//!
//! The tests read this file as well: none is there without a row in their table of who may call it.

pub(crate) const HEALTH: &str = "/health";
pub(crate) const METRICS: &str = "/metrics";
pub(crate) const RUN: &str = "/run/{name}";
pub(crate) const LIVE: &str = "/v2/health/live";
pub(crate) const READY: &str = "/v2/health/ready";
pub(crate) const MODEL: &str = "/v2/models/{name}";
pub(crate) const MODEL_VERSION: &str = "/v2/models/{name}/versions/{version}";
pub(crate) const INFER: &str = "/v2/models/{name}/infer";
pub(crate) const INFER_VERSION: &str = "/v2/models/{name}/versions/{version}/infer";
pub(crate) const STATS: &str = "/v2/models/{name}/stats";
pub(crate) const STATS_VERSION: &str = "/v2/models/{name}/versions/{version}/stats";
pub(crate) const SCHEDULER: &str = "/system/scheduler";
pub(crate) const MEMORY_STATUS: &str = "/v2/systemsharedmemory/status";
pub(crate) const MEMORY_UNREGISTER: &str = "/v2/systemsharedmemory/unregister";
pub(crate) const REGION_STATUS: &str = "/v2/systemsharedmemory/region/{name}/status";
pub(crate) const REGION_REGISTER: &str = "/v2/systemsharedmemory/region/{name}/register";
pub(crate) const REGION_UNREGISTER: &str = "/v2/systemsharedmemory/region/{name}/unregister";

/// The routes.
pub(crate) const ROUTES: [&str; 17] = [
    HEALTH,
    METRICS,
    RUN,
    LIVE,
    READY,
    MODEL,
    MODEL_VERSION,
    INFER,
    INFER_VERSION,
    STATS,
    STATS_VERSION,
    SCHEDULER,
    MEMORY_STATUS,
    MEMORY_UNREGISTER,
    REGION_STATUS,
    REGION_REGISTER,
    REGION_UNREGISTER,
];

/// The methods.
pub(crate) const METHODS: [&str; 15] = [
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/inference.GRPCInferenceService/ServerMetadata",
    "/inference.GRPCInferenceService/ModelReady",
    "/inference.GRPCInferenceService/ModelMetadata",
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ModelStreamInfer",
    "/inference.GRPCInferenceService/ModelConfig",
    "/inference.GRPCInferenceService/ModelStatistics",
    "/inference.GRPCInferenceService/RepositoryIndex",
    "/inference.GRPCInferenceService/SystemSharedMemoryStatus",
    "/inference.GRPCInferenceService/SystemSharedMemoryRegister",
    "/inference.GRPCInferenceService/SystemSharedMemoryUnregister",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];
