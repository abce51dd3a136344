//! What there is and how it does, as the protocol's messages.

use std::sync::Arc;

use model_store::{ModelSpec, TensorSpec};
use workers_protocol::oip::model_instance_group::Kind;
use workers_protocol::oip::model_metadata_response::TensorMetadata;
use workers_protocol::oip::repository_index_response::ModelIndex;
use workers_protocol::oip::system_shared_memory_status_response::RegionStatus;
use workers_protocol::oip::{
    DataType, ModelConfig, ModelDynamicBatching, ModelInput, ModelInstanceGroup,
    ModelMetadataResponse, ModelOutput, ModelStatistics, ServerMetadataResponse, StatisticDuration,
    SystemSharedMemoryStatusResponse,
};

use crate::catalog::{Catalog, State};
use crate::dispatcher::Dispatcher;
use crate::revision::Revision;
use crate::shared_memory::Region;

/// The protocol's extensions that work here.
const EXTENSIONS: [&str; 4] = [
    "classification",
    "model_configuration",
    "binary_tensor_data",
    "statistics",
];

pub(super) fn server(offers_memory: bool) -> ServerMetadataResponse {
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

pub(super) fn regions(regions: Vec<(String, Arc<Region>)>) -> SystemSharedMemoryStatusResponse {
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

pub(super) fn metadata(catalog: &Catalog, revision: &Revision) -> ModelMetadataResponse {
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
pub(super) fn config(revision: &Revision) -> ModelConfig {
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

pub(super) fn statistics(
    dispatcher: &Dispatcher,
    revisions: &[Arc<Revision>],
) -> Vec<ModelStatistics> {
    let of = |revision: &Arc<Revision>| {
        // One that is going away has none.
        let counters = dispatcher.revision(revision.id)?.0.counters;
        let (mut statistics, last_inference) = revision.metrics.statistics();
        let failed = counters.expired + counters.poisoned + counters.start_failed;
        statistics.fail = Some(StatisticDuration {
            count: failed,
            ns: 0,
        });
        Some(ModelStatistics {
            name: revision.name.to_string(),
            version: revision.version.to_string(),
            last_inference,
            inference_count: counters.answered,
            execution_count: counters.runs,
            inference_stats: Some(statistics),
        })
    };
    revisions.iter().filter_map(of).collect()
}

pub(super) fn index(catalog: &Catalog, is_ready_only: bool) -> Vec<ModelIndex> {
    let listed = catalog.all().into_iter();
    let models = listed.map(|listed| {
        let (state, reason) = match listed.state {
            State::Ready(_) => ("READY", String::new()),
            State::Refused(reason) | State::Failed(reason) => ("UNAVAILABLE", reason),
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
