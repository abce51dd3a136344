//! Every route of HTTP and every method of gRPC, as the metrics name them.
//!
//! The tests read this file as well: none is there without a row in their table of who may call it.

pub(crate) const HEALTH: &str = "/health";
pub(crate) const METRICS: &str = "/metrics";
pub(crate) const OPENAPI: &str = "/openapi.json";
pub(crate) const RUN: &str = "/run/{name}";
pub(crate) const SERVER: &str = "/v2";
pub(crate) const LIVE: &str = "/v2/health/live";
pub(crate) const READY: &str = "/v2/health/ready";
pub(crate) const MODELS: &str = "/v2/models";
pub(crate) const MODEL: &str = "/v2/models/{name}";
pub(crate) const MODEL_VERSION: &str = "/v2/models/{name}/versions/{version}";
pub(crate) const MODEL_READY: &str = "/v2/models/{name}/ready";
pub(crate) const MODEL_READY_VERSION: &str = "/v2/models/{name}/versions/{version}/ready";
pub(crate) const MODEL_CONFIG: &str = "/v2/models/{name}/config";
pub(crate) const MODEL_CONFIG_VERSION: &str = "/v2/models/{name}/versions/{version}/config";
pub(crate) const INFER: &str = "/v2/models/{name}/infer";
pub(crate) const INFER_VERSION: &str = "/v2/models/{name}/versions/{version}/infer";
pub(crate) const ALL_STATS: &str = "/v2/models/stats";
pub(crate) const STATS: &str = "/v2/models/{name}/stats";
pub(crate) const STATS_VERSION: &str = "/v2/models/{name}/versions/{version}/stats";
pub(crate) const INDEX: &str = "/v2/repository/index";
pub(crate) const LOAD: &str = "/v2/repository/models/{name}/load";
pub(crate) const UNLOAD: &str = "/v2/repository/models/{name}/unload";
pub(crate) const V1_MODELS: &str = "/v1/models";
pub(crate) const V1_MODEL: &str = "/v1/models/{name}";
pub(crate) const EVENTS: &str = "/events/minio";
pub(crate) const SCHEDULER: &str = "/system/scheduler";
pub(crate) const MEMORY_STATUS: &str = "/v2/systemsharedmemory/status";
pub(crate) const MEMORY_UNREGISTER: &str = "/v2/systemsharedmemory/unregister";
pub(crate) const REGION_STATUS: &str = "/v2/systemsharedmemory/region/{name}/status";
pub(crate) const REGION_REGISTER: &str = "/v2/systemsharedmemory/region/{name}/register";
pub(crate) const REGION_UNREGISTER: &str = "/v2/systemsharedmemory/region/{name}/unregister";

// OSCAR's.
pub(crate) const INFO: &str = "/system/info";
pub(crate) const CONFIG: &str = "/system/config";
pub(crate) const STATUS: &str = "/system/status";
pub(crate) const SERVICES: &str = "/system/services";
pub(crate) const SERVICE: &str = "/system/services/{name}";
pub(crate) const DEPLOYMENT: &str = "/system/services/{name}/deployment";
pub(crate) const JOB: &str = "/job/{name}";
pub(crate) const JOBS: &str = "/system/logs/{name}";
pub(crate) const JOB_LOG: &str = "/system/logs/{name}/{job}";
pub(crate) const BUCKETS: &str = "/system/buckets";
pub(crate) const BUCKET: &str = "/system/buckets/{name}";
pub(crate) const PRESIGN: &str = "/system/buckets/{name}/presign";
pub(crate) const SUMMARY: &str = "/system/metrics";
pub(crate) const BREAKDOWN: &str = "/system/metrics/breakdown";
pub(crate) const SERVICE_METRICS: &str = "/system/metrics/{name}";

/// What OSCAR has and Hearth does not yet, and how it is called.
pub(crate) const NOT_YET: [(&str, &str); 12] = [
    ("/system/logs", "logs of executions"),
    ("/system/volumes", "volumes"),
    ("/system/volumes/{name}", "volumes"),
    ("/system/quotas/user", "quotas"),
    ("/system/quotas/user/{name}", "quotas"),
    ("/system/federation/{name}", "federations"),
    ("/system/services/{name}/deployment/logs", "logs of workers"),
    ("/system/services/{name}/stop", "exposed services"),
    ("/system/services/{name}/start", "exposed services"),
    ("/system/services/{name}/restart", "exposed services"),
    ("/system/services/{name}/exposed", "exposed services"),
    (
        "/system/services/{name}/exposed/{*path}",
        "exposed services",
    ),
];

/// The routes that are there.
pub(crate) const ROUTES: [&str; 46] = [
    EVENTS,
    HEALTH,
    METRICS,
    OPENAPI,
    RUN,
    SERVER,
    LIVE,
    READY,
    MODELS,
    MODEL,
    MODEL_VERSION,
    MODEL_READY,
    MODEL_READY_VERSION,
    MODEL_CONFIG,
    MODEL_CONFIG_VERSION,
    INFER,
    INFER_VERSION,
    ALL_STATS,
    STATS,
    STATS_VERSION,
    INDEX,
    LOAD,
    UNLOAD,
    V1_MODELS,
    V1_MODEL,
    SCHEDULER,
    MEMORY_STATUS,
    MEMORY_UNREGISTER,
    REGION_STATUS,
    REGION_REGISTER,
    REGION_UNREGISTER,
    INFO,
    CONFIG,
    STATUS,
    SERVICES,
    SERVICE,
    DEPLOYMENT,
    JOB,
    JOBS,
    JOB_LOG,
    BUCKETS,
    BUCKET,
    PRESIGN,
    SUMMARY,
    BREAKDOWN,
    SERVICE_METRICS,
];

pub(crate) const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
pub(crate) const MODEL_STREAM_INFER: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// The methods.
pub(crate) const METHODS: [&str; 17] = [
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/inference.GRPCInferenceService/ServerMetadata",
    "/inference.GRPCInferenceService/ModelReady",
    "/inference.GRPCInferenceService/ModelMetadata",
    MODEL_INFER,
    MODEL_STREAM_INFER,
    "/inference.GRPCInferenceService/ModelConfig",
    "/inference.GRPCInferenceService/ModelStatistics",
    "/inference.GRPCInferenceService/RepositoryIndex",
    "/inference.GRPCInferenceService/RepositoryModelLoad",
    "/inference.GRPCInferenceService/RepositoryModelUnload",
    "/inference.GRPCInferenceService/SystemSharedMemoryStatus",
    "/inference.GRPCInferenceService/SystemSharedMemoryRegister",
    "/inference.GRPCInferenceService/SystemSharedMemoryUnregister",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];
