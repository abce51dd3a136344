//! One session of ONNX Runtime, owned by one thread.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use bytemuck::{CheckedBitPattern, NoUninit};
use bytes::Bytes;
use model_store::{DataType, Device, TensorDeclaration, TensorSpec};
use ort::AsPointer as _;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{NoSelectedOutputs, RunOptions, Session, SessionInputValue};
use ort::value::{
    DynValue, Outlet, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType,
    TensorRef, ValueType,
};
use workers_engine::Engine;
use workers_protocol::{AlignedBytes, Code, InferError, Tensor};

use crate::Runtime;

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions<'a> {
    /// Where it runs.
    pub device: Device,
    /// Threads of one run.
    pub threads: usize,
    /// What the manifest says of the inputs.
    pub inputs: &'a [TensorDeclaration],
    /// What the manifest says of the outputs.
    pub outputs: &'a [TensorDeclaration],
}

/// Runs in a row that take less than half of what the largest took, before that is given back.
const SMALLER_RUNS: u32 = 32;

/// One loaded ONNX model.
#[derive(Debug)]
pub struct OrtEngine {
    session: Session,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    arena: Arena,
}

/// The runtime's own memory, which grows to what the largest run takes: as it is a batch that is tried
/// once in thousands would be paid for ever. Without it runs beside each other take up to a sixth
/// longer (measured on two cores).
struct Arena {
    shrinking: RunOptions<NoSelectedOutputs>,
    /// Bytes of the inputs of the largest run since it was shrunk, and how many after it were less than
    /// half of that.
    largest: usize,
    n_smaller: u32,
}

// === loading ===

impl OrtEngine {
    /// Loads a model's file and reconciles what it declares with what its manifest says.
    ///
    /// # Errors
    /// `InvalidArgument` when the file is no model that can be served, `Unavailable` when the device
    /// is not there; a sentence each.
    pub fn load(
        runtime: &Runtime,
        file: &Path,
        options: &LoadOptions<'_>,
    ) -> Result<Self, InferError> {
        let session = builder(runtime, options)
            .map_err(|error| settings_error(&error))
            .and_then(|builder| on_device(builder, options.device))?
            .commit_from_file(file)
            .map_err(|error| {
                if is_of_device(&error) {
                    return device_error(options.device, first_line(&error));
                }
                // Where the file lies is nobody's affair, and it may be a temporary place.
                let folder = file
                    .parent()
                    .map_or_else(String::new, |folder| format!("{}/", folder.display()));
                let message = first_line(&error).replace(&folder, "");
                InferError::invalid(format!("ONNX Runtime can't load the model: {message}"))
            })?;
        let inputs = specs(session.inputs(), options.inputs, "input")?;
        let outputs = specs(session.outputs(), options.outputs, "output")?;
        let arena = Arena::new(options.device).map_err(|error| settings_error(&error))?;
        Ok(Self {
            session,
            inputs,
            outputs,
            arena,
        })
    }
}

impl Arena {
    #[expect(unsafe_code, reason = "`ort` has no name for it")]
    fn new(device: Device) -> Result<Self, ort::Error> {
        let shrinking = RunOptions::new()?;
        let (name, arena) = (c"memory.enable_memory_arena_shrinkage", c"cpu:0");
        if device == Device::Cpu {
            let pointer = shrinking.ptr().cast_mut();
            // SAFETY: the options live, nobody else has them, and what is said ends with a null.
            let status =
                unsafe { (ort::api().AddRunConfigEntry)(pointer, name.as_ptr(), arena.as_ptr()) };
            // SAFETY: the status is the call's own and has not been looked at.
            unsafe { ort::Error::result_from_status(status) }?;
        }
        Ok(Self {
            shrinking,
            largest: 0,
            n_smaller: 0,
        })
    }

    /// Counts a run with so many bytes of inputs; returns whether it is to give back what it does not
    /// take.
    fn is_too_large(&mut self, bytes: usize) -> bool {
        if bytes >= self.largest / 2 {
            self.largest = self.largest.max(bytes);
            self.n_smaller = 0;
            return false;
        }
        self.n_smaller += 1;
        let is_too_large = self.n_smaller >= SMALLER_RUNS;
        if is_too_large {
            (self.largest, self.n_smaller) = (bytes, 0);
        }
        is_too_large
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("largest", &self.largest)
            .finish_non_exhaustive()
    }
}

fn settings_error(error: &ort::Error) -> InferError {
    InferError::internal(format!("ONNX Runtime refused its settings: {error}"))
}

/// Spinning threads of ONNX Runtime take the cores from decoding and from other workers (a factor
/// of five was measured on shared cores); sequential execution, since most graphs are chains.
fn builder(runtime: &Runtime, options: &LoadOptions<'_>) -> Result<SessionBuilder, ort::Error> {
    Ok(Session::builder(&runtime.environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(options.threads)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_memory_pattern(true)?)
}

#[cfg(not(feature = "cuda"))]
fn on_device(builder: SessionBuilder, device: Device) -> Result<SessionBuilder, InferError> {
    match device {
        Device::Cpu => Ok(builder),
        Device::Cuda(_) => Err(InferError::new(
            Code::Unavailable,
            format!(
                "`device: {device}`: this hearth-worker is built without the cargo feature `cuda`"
            ),
        )),
    }
}

#[cfg(feature = "cuda")]
fn on_device(builder: SessionBuilder, device: Device) -> Result<SessionBuilder, InferError> {
    let Device::Cuda(index) = device else {
        return Ok(builder);
    };
    let index = i32::try_from(index).map_err(|error| device_error(device, &error.to_string()))?;
    // Trying every algorithm instead took twice as long for each new size of a batch, and the runs
    // were no faster after it. Without `error_on_failure` a missing GPU is silently a CPU.
    let cuda = ort::ep::CUDA::default()
        .with_device_id(index)
        .with_conv_algorithm_search(ort::ep::cuda::ConvAlgorithmSearch::Heuristic)
        .build()
        .error_on_failure();
    builder
        .with_execution_providers([cuda])
        .map_err(|error| device_error(device, first_line(&error)))
}

fn device_error(device: Device, what: &str) -> InferError {
    InferError::new(
        Code::Unavailable,
        format!("`device: {device}` can't be used: {what}"),
    )
}

/// What a GPU's failures begin with; before it ONNX Runtime says where in its sources it failed.
const DEVICE_FAILURES: [&str; 6] = [
    "CUDA failure",
    "CUDNN failure",
    "CUBLAS failure",
    "Failed to allocate memory",
    "Failed to load library",
    "Invalid device ID",
];

/// Whether it is not the model that failed but what it runs on, for want of memory for example.
fn is_of_device<R>(error: &ort::Error<R>) -> bool {
    let message = error.message();
    DEVICE_FAILURES
        .iter()
        .any(|failure| message.contains(failure))
}

/// ONNX Runtime's messages may carry a stack trace of its own after the first line, and of a GPU's
/// failures more than who reads it needs.
fn first_line<R>(error: &ort::Error<R>) -> &str {
    let message = error.message();
    let failures = DEVICE_FAILURES.iter();
    let begins = failures.filter_map(|failure| message.find(failure)).min();
    let line = message.get(begins.unwrap_or(0)..).unwrap_or_default();
    let line = line.lines().next().unwrap_or_default();
    line.split(" ; ").next().unwrap_or_default().trim_end()
}

fn specs(
    outlets: &[Outlet],
    declarations: &[TensorDeclaration],
    side: &str,
) -> Result<Vec<TensorSpec>, InferError> {
    let unknown = |declaration: &&TensorDeclaration| {
        outlets
            .iter()
            .all(|outlet| outlet.name() != declaration.name)
    };
    if let Some(unknown) = declarations.iter().find(unknown) {
        let names: Vec<_> = outlets
            .iter()
            .map(|outlet| format!("`{}`", outlet.name()))
            .collect();
        return Err(InferError::invalid(format!(
            "model.yaml declares the {side} `{}`, the graph has {}",
            unknown.name,
            names.join(", ")
        )));
    }
    outlets
        .iter()
        .map(|outlet| {
            let declaration = declarations
                .iter()
                .find(|declaration| declaration.name == outlet.name());
            spec(outlet, declaration, side)
        })
        .collect()
}

fn spec(
    outlet: &Outlet,
    declaration: Option<&TensorDeclaration>,
    side: &str,
) -> Result<TensorSpec, InferError> {
    let name = outlet.name();
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(InferError::invalid(format!(
            "{side} `{name}` is no tensor but {}: only models whose inputs and outputs are tensors can be served",
            outlet.dtype()
        )));
    };
    let datatype = datatype(*ty).ok_or_else(|| {
        InferError::invalid(format!(
            "{side} `{name}` has elements of type {ty}, which the protocol has no name for"
        ))
    })?;
    if let Some(declared) = declaration.and_then(|declaration| declaration.datatype)
        && declared != datatype
    {
        return Err(InferError::invalid(format!(
            "{side} `{name}`: model.yaml says {declared}, the graph declares {datatype}"
        )));
    }
    let mut shape = shape.to_vec();
    if let Some(declared) = declaration.and_then(|declaration| declaration.shape.as_ref()) {
        let fits = declared.len() == shape.len()
            && declared
                .iter()
                .zip(&shape)
                .all(|(&declared, &actual)| actual < 0 || declared == actual);
        if !fits {
            return Err(InferError::invalid(format!(
                "{side} `{name}`: model.yaml says {declared:?}, the graph declares {shape:?}"
            )));
        }
        shape.clone_from(declared);
    }
    let batch_axis = match declaration.and_then(|declaration| declaration.batch_axis) {
        Some(axis) if axis < 0 => None,
        Some(axis) => Some(
            usize::try_from(axis)
                .ok()
                .filter(|&axis| axis < shape.len())
                .ok_or_else(|| {
                    InferError::invalid(format!(
                        "{side} `{name}`: `batch_axis` is {axis}, its shape is {shape:?}"
                    ))
                })?,
        ),
        None => (shape.first() == Some(&-1)).then_some(0),
    };
    Ok(TensorSpec {
        name: name.to_owned(),
        datatype,
        shape,
        batch_axis,
    })
}

const fn datatype(ty: TensorElementType) -> Option<DataType> {
    Some(match ty {
        TensorElementType::Bool => DataType::Bool,
        TensorElementType::Uint8 => DataType::Uint8,
        TensorElementType::Uint16 => DataType::Uint16,
        TensorElementType::Uint32 => DataType::Uint32,
        TensorElementType::Uint64 => DataType::Uint64,
        TensorElementType::Int8 => DataType::Int8,
        TensorElementType::Int16 => DataType::Int16,
        TensorElementType::Int32 => DataType::Int32,
        TensorElementType::Int64 => DataType::Int64,
        TensorElementType::Float16 => DataType::Fp16,
        TensorElementType::Bfloat16 => DataType::Bf16,
        TensorElementType::Float32 => DataType::Fp32,
        TensorElementType::Float64 => DataType::Fp64,
        TensorElementType::String => DataType::Bytes,
        _ => return None,
    })
}

// === running ===

impl Engine for OrtEngine {
    fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }

    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, InferError> {
        let inputs: Vec<_> = inputs.iter().map(aligned).collect();
        let values = inputs
            .iter()
            .map(|tensor| input_value(tensor))
            .collect::<Result<Vec<_>, _>>()?;
        let bytes = inputs.iter().map(|tensor| tensor.data.len()).sum();
        let outputs = match self.arena.is_too_large(bytes) {
            true => self
                .session
                .run_with_options(&values[..], &self.arena.shrinking),
            false => self.session.run(&values[..]),
        };
        let outputs = outputs.map_err(|error| run_error(&error))?;
        outputs
            .into_iter()
            .map(|(name, value)| output_tensor(name, value))
            .collect()
    }
}

/// Maps an element type to the Rust type that has its bits, and calls a generic function with it.
macro_rules! with_element {
    ($datatype:expr, $function:ident($($argument:expr),*), $bytes:expr) => {
        match $datatype {
            DataType::Bool => $function::<bool>($($argument),*),
            DataType::Uint8 => $function::<u8>($($argument),*),
            DataType::Uint16 => $function::<u16>($($argument),*),
            DataType::Uint32 => $function::<u32>($($argument),*),
            DataType::Uint64 => $function::<u64>($($argument),*),
            DataType::Int8 => $function::<i8>($($argument),*),
            DataType::Int16 => $function::<i16>($($argument),*),
            DataType::Int32 => $function::<i32>($($argument),*),
            DataType::Int64 => $function::<i64>($($argument),*),
            DataType::Fp16 => $function::<half::f16>($($argument),*),
            DataType::Bf16 => $function::<half::bf16>($($argument),*),
            DataType::Fp32 => $function::<f32>($($argument),*),
            DataType::Fp64 => $function::<f64>($($argument),*),
            DataType::Bytes => $bytes,
        }
    };
}

fn input_value(tensor: &Tensor) -> Result<SessionInputValue<'_>, InferError> {
    with_element!(tensor.datatype, numbers(tensor), strings(tensor))
}

/// Views the bytes where they are, which is where an element may begin.
fn numbers<T>(tensor: &Tensor) -> Result<SessionInputValue<'_>, InferError>
where
    T: PrimitiveTensorElementType + CheckedBitPattern + NoUninit + std::fmt::Debug + 'static,
{
    let refused = |error: &dyn std::fmt::Display| {
        InferError::invalid(format!(
            "input `{}`: not {} elements: {error}",
            tensor.name, tensor.datatype
        ))
    };
    let elements = bytemuck::checked::try_cast_slice::<u8, T>(&tensor.data)
        .map_err(|error| refused(&error))?;
    let view = TensorRef::from_array_view((tensor.shape.as_slice(), elements))
        .map_err(|error| refused(&error))?;
    Ok(view.into())
}

/// Returns a tensor whose bytes begin where any element may: itself, or a copy. What came over the
/// wire begins anywhere.
fn aligned(tensor: &Tensor) -> Cow<'_, Tensor> {
    if tensor.data.as_ptr().align_offset(align_of::<u64>()) == 0
        || tensor.datatype == DataType::Bytes
    {
        return Cow::Borrowed(tensor);
    }
    let mut aligned = AlignedBytes::zeroed(tensor.data.len());
    aligned.as_mut_slice().copy_from_slice(&tensor.data);
    Cow::Owned(Tensor {
        data: Bytes::from_owner(aligned),
        ..tensor.clone()
    })
}

fn strings(tensor: &Tensor) -> Result<SessionInputValue<'_>, InferError> {
    let texts = tensor
        .bytes_elements()
        .map(|element| String::from_utf8(element.into()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| {
            InferError::invalid(format!("input `{}`: not UTF-8: {error}", tensor.name))
        })?;
    let value = OrtTensor::from_string_array((tensor.shape.as_slice(), texts.as_slice()))
        .map_err(|error| InferError::invalid(format!("input `{}`: {error}", tensor.name)))?;
    Ok(value.into_dyn().into())
}

fn output_tensor(name: &str, value: DynValue) -> Result<Tensor, InferError> {
    let unexpected = || {
        InferError::internal(format!(
            "output `{name}` is not the tensor that the graph declares"
        ))
    };
    let (datatype, shape) = match value.dtype() {
        ValueType::Tensor { ty, shape, .. } => {
            (datatype(*ty).ok_or_else(unexpected)?, shape.to_vec())
        }
        _ => return Err(unexpected()),
    };
    let data = with_element!(datatype, output_numbers(value), output_strings(&value)).map_err(
        |error: ort::Error| InferError::internal(format!("output `{name}` can't be read: {error}")),
    )?;
    Ok(Tensor {
        name: name.to_owned(),
        datatype,
        shape,
        data,
    })
}

/// The runtime's own buffer, shared without a copy and freed with the last reference.
fn output_numbers<T>(value: DynValue) -> Result<Bytes, ort::Error>
where
    T: PrimitiveTensorElementType + NoUninit + std::fmt::Debug + 'static,
{
    struct Owner<T: PrimitiveTensorElementType + std::fmt::Debug>(OrtTensor<T>);
    impl<T: PrimitiveTensorElementType + NoUninit + std::fmt::Debug> AsRef<[u8]> for Owner<T> {
        fn as_ref(&self) -> &[u8] {
            bytemuck::cast_slice(self.0.extract_tensor().1)
        }
    }
    let tensor = value.downcast::<ort::value::TensorValueType<T>>()?;
    Ok(Bytes::from_owner(Owner(tensor)))
}

fn output_strings(value: &DynValue) -> Result<Bytes, ort::Error> {
    let (_, texts) = value.try_extract_strings()?;
    let mut bytes = Vec::with_capacity(texts.iter().map(|text| text.len() + 4).sum());
    for text in texts {
        let length = u32::try_from(text.len())
            .map_err(|_| ort::Error::new("a string is longer than 4 GiB"))?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    Ok(bytes.into())
}

/// What the runtime blames on its inputs is the caller's; the rest is ours.
fn run_error(error: &ort::Error) -> InferError {
    let code = match error.code() {
        ort::ErrorCode::InvalidArgument => Code::InvalidArgument,
        _ if is_of_device(error) => Code::Unavailable,
        _ => Code::Internal,
    };
    InferError::new(code, format!("the model failed: {}", first_line(error)))
}
