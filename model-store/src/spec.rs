//! The spec: what a version really is, once a worker has loaded it and run it on zeros.

use serde::{Deserialize, Serialize};

use crate::{DataType, Task};

/// What a worker found when it loaded a version: the manifest and the graph, reconciled.
///
/// Written as `spec.json` beside the files in the cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Triton's word for engine and format, `onnxruntime_onnx` for example.
    pub platform: String,
    /// What it does with pictures; none: raw tensors.
    pub task: Option<Task>,
    /// What clients send: inputs of the graph, or the picture of a task.
    pub inputs: Vec<TensorSpec>,
    /// What they get: outputs of the graph, or what a task finds.
    pub outputs: Vec<TensorSpec>,
    /// Most items of a batch; 1 where the graph fixes it.
    pub max_batch: u32,
    /// Loaded copies in a worker: batches that run at a time.
    pub instances: u32,
    /// What was changed or noticed while the version was taken in, in sentences.
    pub notes: Vec<String>,
}

/// One input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// The graph's name of it.
    pub name: String,
    /// Element type.
    pub datatype: DataType,
    /// Dimensions, the batch axis included; -1 is free.
    pub shape: Vec<i64>,
    /// The axis along which requests are joined, or `None`.
    pub batch_axis: Option<usize>,
}

/// What a worker says of a version that it was to check: one line of JSON on its standard output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preparation {
    /// It can be served.
    Accepted(ModelSpec),
    /// It can't, and why.
    Refused(String),
    /// It could not be checked, for a reason that is not the version's.
    Unavailable(String),
}
