//! What there is and how it does, as the protocol's messages; over HTTP they are written as JSON.

use std::sync::Arc;

use model_store::{ModelSpec, TensorSpec};
use workers_protocol::InferError;
use workers_protocol::oip::model_instance_group::Kind;
use workers_protocol::oip::model_metadata_response::TensorMetadata;
use workers_protocol::oip::model_version_policy::{All, PolicyChoice};
use workers_protocol::oip::repository_index_response::ModelIndex;
use workers_protocol::oip::system_shared_memory_status_response::RegionStatus;
use workers_protocol::oip::{
    DataType, MemoryUsage, ModelConfig, ModelDynamicBatching, ModelInput, ModelInstanceGroup,
    ModelMetadataResponse, ModelOutput, ModelStatistics, ModelVersionPolicy,
    ServerMetadataResponse, SystemSharedMemoryStatusResponse,
};

use crate::catalog::{Catalog, State};
use crate::dispatcher::Dispatcher;
use crate::revision::Revision;
use crate::shared_memory::Region;

/// The protocol's extensions that work here.
const EXTENSIONS: [&str; 5] = [
    "classification",
    "model_repository",
    "model_configuration",
    "binary_tensor_data",
    "statistics",
];

pub(crate) fn server(offers_memory: bool) -> ServerMetadataResponse {
    let memory = offers_memory.then_some("system_shared_memory");
    ServerMetadataResponse {
        name: "hearth".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: EXTENSIONS
            .into_iter()
            .chain(memory)
            .map(str::to_owned)
            .collect(),
    }
}

pub(crate) fn regions(regions: Vec<(String, Arc<Region>)>) -> SystemSharedMemoryStatusResponse {
    let of = |(name, region): (String, Arc<Region>)| {
        let status = RegionStatus {
            name: name.clone(),
            key: region.key.clone(),
            offset: region.offset,
            byte_size: region.byte_size,
        };
        (name, status)
    };
    SystemSharedMemoryStatusResponse {
        regions: regions.into_iter().map(of).collect(),
    }
}

pub(crate) fn metadata(catalog: &Catalog, revision: &Revision) -> ModelMetadataResponse {
    let spec = &revision.model.spec;
    let ready = catalog
        .versions(revision.name.as_str())
        .into_iter()
        .filter(|(_, listed)| matches!(listed.state, State::Ready(_)));
    let tensor = |tensor: &TensorSpec| TensorMetadata {
        name: tensor.name.clone(),
        datatype: tensor.datatype.as_str().to_owned(),
        shape: tensor.shape.clone(),
    };
    ModelMetadataResponse {
        name: revision.name.to_string(),
        versions: ready.map(|(version, _)| version.to_string()).collect(),
        platform: spec.platform.clone(),
        inputs: spec.inputs.iter().map(tensor).collect(),
        outputs: spec.outputs.iter().map(tensor).collect(),
    }
}

/// Returns a configuration in Triton's terms. There a batch is the first dimension of every tensor
/// and left out of `dims`, or none of Triton's business.
pub(crate) fn config(revision: &Revision) -> ModelConfig {
    let spec = &revision.model.spec;
    let is_batched = has_batches_first(spec);
    let dims = |tensor: &TensorSpec| {
        let skipped = usize::from(is_batched);
        tensor.shape.iter().skip(skipped).copied().collect()
    };
    let input = |tensor: &TensorSpec| ModelInput {
        name: tensor.name.clone(),
        data_type: data_type(tensor.datatype).into(),
        dims: dims(tensor),
    };
    let output = |tensor: &TensorSpec| ModelOutput {
        name: tensor.name.clone(),
        data_type: data_type(tensor.datatype).into(),
        dims: dims(tensor),
    };
    let on_processor = revision.model.manifest.device == model_store::Device::Cpu;
    let max_batch = i32::try_from(spec.max_batch).unwrap_or(i32::MAX);
    ModelConfig {
        name: revision.name.to_string(),
        platform: spec.platform.clone(),
        backend: "onnxruntime".to_owned(),
        version_policy: Some(ModelVersionPolicy {
            policy_choice: Some(PolicyChoice::All(All {})),
        }),
        default_model_filename: model_file(revision),
        max_batch_size: if is_batched { max_batch } else { 0 },
        input: spec.inputs.iter().map(input).collect(),
        output: spec.outputs.iter().map(output).collect(),
        instance_group: vec![ModelInstanceGroup {
            name: revision.name.to_string(),
            count: i32::try_from(spec.instances).unwrap_or(i32::MAX),
            kind: if on_processor {
                Kind::Cpu.into()
            } else {
                Kind::Gpu.into()
            },
        }],
        dynamic_batching: is_batched.then_some(ModelDynamicBatching {}),
    }
}

/// Returns the name of the model's file; a version with stages has none.
fn model_file(revision: &Revision) -> String {
    let model = &revision.model;
    let path = model.manifest.model_file(&model.dir).ok();
    let name = path.as_deref().and_then(std::path::Path::file_name);
    name.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn has_batches_first(spec: &ModelSpec) -> bool {
    let mut tensors = spec.inputs.iter().chain(&spec.outputs);
    tensors.all(|tensor| tensor.batch_axis == Some(0) && tensor.shape.first() == Some(&-1))
}

const fn data_type(datatype: model_store::DataType) -> DataType {
    use model_store::DataType as Ours;
    match datatype {
        Ours::Bool => DataType::TypeBool,
        Ours::Uint8 => DataType::TypeUint8,
        Ours::Uint16 => DataType::TypeUint16,
        Ours::Uint32 => DataType::TypeUint32,
        Ours::Uint64 => DataType::TypeUint64,
        Ours::Int8 => DataType::TypeInt8,
        Ours::Int16 => DataType::TypeInt16,
        Ours::Int32 => DataType::TypeInt32,
        Ours::Int64 => DataType::TypeInt64,
        Ours::Fp16 => DataType::TypeFp16,
        Ours::Bf16 => DataType::TypeBf16,
        Ours::Fp32 => DataType::TypeFp32,
        Ours::Fp64 => DataType::TypeFp64,
        Ours::Bytes => DataType::TypeString,
    }
}

/// Returns the revisions that statistics are asked of: for no name all that can be run, for no
/// version all of a model.
///
/// # Errors
/// `InvalidArgument` for what can't be run, in Triton's words.
pub(crate) fn measured(
    catalog: &Catalog,
    name: &str,
    version: &str,
) -> Result<Vec<Arc<Revision>>, InferError> {
    if name.is_empty() {
        return Ok(catalog.revisions());
    }
    let of_model: Vec<_> = catalog
        .versions(name)
        .values()
        .filter_map(|listed| listed.state.revision().cloned())
        .collect();
    if of_model.is_empty() {
        let message = format!("requested model '{name}' is not available");
        return Err(InferError::invalid(message));
    }
    let is_wanted =
        |revision: &Arc<Revision>| version.is_empty() || revision.version.to_string() == version;
    let wanted: Vec<_> = of_model.into_iter().filter(is_wanted).collect();
    if wanted.is_empty() {
        let message = format!("requested model version is not available for model '{name}'");
        return Err(InferError::invalid(message));
    }
    Ok(wanted)
}

/// Returns the statistics of a version, or `None` of one that is going away.
pub(crate) fn statistics(dispatcher: &Dispatcher, revision: &Revision) -> Option<ModelStatistics> {
    let (state, _) = dispatcher.revision(revision.id)?;
    let totals = revision.metrics.totals();
    let n_replicas = state.replicas.len() as u64;
    let memory = MemoryUsage {
        r#type: "CPU".to_owned(),
        id: 0,
        byte_size: n_replicas.saturating_mul(state.memory_bytes),
    };
    Some(ModelStatistics {
        name: revision.name.to_string(),
        version: revision.version.to_string(),
        last_inference: totals.last_answer_ms,
        inference_count: totals.items,
        execution_count: state.counters.runs,
        inference_stats: Some(totals.statistics()),
        batch_stats: totals.batch_statistics(),
        memory_usage: Some(memory)
            .filter(|_| n_replicas > 0)
            .into_iter()
            .collect(),
    })
}

pub(crate) fn index(catalog: &Catalog, is_ready_only: bool) -> Vec<ModelIndex> {
    let listed = catalog.all().into_iter();
    let models = listed.map(|listed| {
        let (state, reason) = match listed.state {
            State::Ready(_) => ("READY", String::new()),
            State::Refused(reason) | State::Failed(reason) => ("UNAVAILABLE", reason),
            State::Unloaded => ("UNAVAILABLE", "unloaded".to_owned()),
        };
        ModelIndex {
            name: listed.stored.name.to_string(),
            version: listed.stored.version.to_string(),
            state: state.to_owned(),
            reason,
        }
    });
    models
        .filter(|model| !is_ready_only || model.state == "READY")
        .collect()
}
