//! Requests over gRPC.
//!
//! Elements come typed, in each input's `contents`, or raw, in `raw_input_contents`, in the order of
//! those inputs that do not lie in shared memory; never both.

use bytes::{BufMut as _, Bytes, BytesMut};
use model_store::DataType;

use super::parameters::{OfInput, OfOutput, OfRequest, Parameters};
use super::{InferRequest, MAX_TENSORS, RequestedOutput, SharedRange, datatype};
use crate::oip::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use crate::oip::{InferTensorContents, ModelInferRequest};
use crate::{InferError, Target, Tensor};

/// A parameter of a stream's messages that begins with `triton_` and is a client's to set: whether
/// it wants to hear that an answer was the last.
pub const ENABLE_FINAL: &str = "triton_enable_empty_final_response";

impl InferRequest {
    /// Takes a request out of a message. Raw contents are shared with it; for typed ones `reserve` is
    /// asked for room, in bytes, before it is taken.
    ///
    /// # Errors
    /// `InvalidArgument` naming the field; what `reserve` says.
    pub fn from_message(
        mut message: ModelInferRequest,
        target: Target<'_>,
        mut reserve: impl FnMut(u64) -> Result<(), InferError>,
    ) -> Result<Self, InferError> {
        let (n_inputs, n_outputs) = (message.inputs.len(), message.outputs.len());
        if n_inputs.max(n_outputs) > MAX_TENSORS {
            return Err(InferError::invalid(format!(
                "expected at most {MAX_TENSORS} inputs and as many outputs, got {n_inputs} and {n_outputs}"
            )));
        }
        message.parameters.remove(ENABLE_FINAL);
        let own = OfRequest::read(&Parameters::of_message(&message.parameters))?;

        let is_raw = !message.raw_input_contents.is_empty();
        let n_raw = message.raw_input_contents.len();
        let mut raw = message.raw_input_contents.into_iter();
        let mut inputs = Vec::with_capacity(n_inputs);
        let mut shared_inputs = Vec::new();
        for input in message.inputs {
            let (mut tensor, contents, shared) = head(input)?;
            // What is claimed has to be possible, wherever the elements lie.
            tensor.elements()?;
            let name = &tensor.name;
            if let Some(shared) = shared {
                shared_inputs.push((inputs.len(), shared));
            } else if is_raw {
                if contents.is_some() {
                    return Err(InferError::invalid(format!(
                        "contents field must not be specified when using raw_input_contents for \
                         '{name}' for model '{}'",
                        target.model
                    )));
                }
                tensor.data = raw.next().ok_or_else(|| {
                    InferError::invalid(format!(
                        "input `{name}`: `raw_input_contents` has {n_raw}, expected one for each \
                         input that is not in shared memory"
                    ))
                })?;
            } else {
                tensor.data = typed(&tensor, &contents.unwrap_or_default(), &mut reserve)?;
            }
            inputs.push(tensor);
        }
        if raw.next().is_some() {
            return Err(InferError::invalid(format!(
                "`raw_input_contents`: expected {} for model '{}', one for each input that is not \
                 in shared memory, got {n_raw}",
                n_inputs - shared_inputs.len(),
                target.model
            )));
        }
        let outputs: Vec<_> = message
            .outputs
            .into_iter()
            .map(output)
            .collect::<Result<_, _>>()?;
        let request = Self {
            id: Some(message.id).filter(|id| !id.is_empty()),
            inputs,
            shared_inputs,
            outputs: Some(outputs).filter(|outputs| !outputs.is_empty()),
            is_binary_output: true,
            timeout: own.timeout,
            options: own.options,
        };
        request.check(target)?;
        Ok(request)
    }
}

/// Returns an input's tensor without its data, its typed contents, and where they lie in shared
/// memory.
fn head(
    input: InferInputTensor,
) -> Result<(Tensor, Option<InferTensorContents>, Option<SharedRange>), InferError> {
    let parameters = OfInput::read(&Parameters::of_message(&input.parameters));
    let parameters = parameters.map_err(|error| InferError {
        message: format!("input `{}`: {}", input.name, error.message),
        ..error
    })?;
    let tensor = Tensor {
        datatype: datatype(&input.datatype, &input.name)?,
        name: input.name,
        shape: input.shape,
        data: Bytes::new(),
    };
    Ok((tensor, input.contents, parameters.shared))
}

fn output(output: InferRequestedOutputTensor) -> Result<RequestedOutput, InferError> {
    let parameters = OfOutput::read(&Parameters::of_message(&output.parameters));
    let parameters = parameters.map_err(|error| InferError {
        message: format!("output `{}`: {}", output.name, error.message),
        ..error
    })?;
    Ok(RequestedOutput {
        name: output.name,
        is_binary: None,
        classes: parameters.classes,
        shared: parameters.shared,
    })
}

/// Returns typed contents as a tensor's bytes.
fn typed(
    tensor: &Tensor,
    contents: &InferTensorContents,
    reserve: &mut impl FnMut(u64) -> Result<(), InferError>,
) -> Result<Bytes, InferError> {
    let Tensor { name, datatype, .. } = tensor;
    let (own, n_elements) = match datatype {
        DataType::Bool => ("bool_contents", contents.bool_contents.len()),
        DataType::Int8 | DataType::Int16 | DataType::Int32 => {
            ("int_contents", contents.int_contents.len())
        }
        DataType::Int64 => ("int64_contents", contents.int64_contents.len()),
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => {
            ("uint_contents", contents.uint_contents.len())
        }
        DataType::Uint64 => ("uint64_contents", contents.uint64_contents.len()),
        DataType::Fp32 => ("fp32_contents", contents.fp32_contents.len()),
        DataType::Fp64 => ("fp64_contents", contents.fp64_contents.len()),
        DataType::Bytes => ("bytes_contents", contents.bytes_contents.len()),
        DataType::Fp16 | DataType::Bf16 => {
            return Err(InferError::invalid(format!(
                "input `{name}`: {datatype} has no typed contents, send `raw_input_contents`"
            )));
        }
    };
    let all = [
        ("bool_contents", contents.bool_contents.is_empty()),
        ("int_contents", contents.int_contents.is_empty()),
        ("int64_contents", contents.int64_contents.is_empty()),
        ("uint_contents", contents.uint_contents.is_empty()),
        ("uint64_contents", contents.uint64_contents.is_empty()),
        ("fp32_contents", contents.fp32_contents.is_empty()),
        ("fp64_contents", contents.fp64_contents.is_empty()),
        ("bytes_contents", contents.bytes_contents.is_empty()),
    ];
    if let Some((other, _)) = all.iter().find(|(field, empty)| !empty && *field != own) {
        return Err(InferError::invalid(format!(
            "input `{name}`: expected `{own}` for {datatype}, got `{other}`"
        )));
    }
    let expected = tensor.elements()?;
    if n_elements != expected {
        return Err(InferError::invalid(format!(
            "input `{name}`: expected {expected} elements in `{own}` for shape {:?}, got {n_elements}",
            tensor.shape
        )));
    }
    let mut writer = Writer { tensor, reserve };
    match datatype {
        DataType::Bool => writer.all(&contents.bool_contents, |&is| Some([u8::from(is)])),
        DataType::Int8 => writer.all(&contents.int_contents, |&n| {
            i8::try_from(n).ok().map(i8::to_le_bytes)
        }),
        DataType::Int16 => writer.all(&contents.int_contents, |&n| {
            i16::try_from(n).ok().map(i16::to_le_bytes)
        }),
        DataType::Int32 => writer.all(&contents.int_contents, |n| Some(n.to_le_bytes())),
        DataType::Int64 => writer.all(&contents.int64_contents, |n| Some(n.to_le_bytes())),
        DataType::Uint8 => writer.all(&contents.uint_contents, |&n| {
            u8::try_from(n).ok().map(u8::to_le_bytes)
        }),
        DataType::Uint16 => writer.all(&contents.uint_contents, |&n| {
            u16::try_from(n).ok().map(u16::to_le_bytes)
        }),
        DataType::Uint32 => writer.all(&contents.uint_contents, |n| Some(n.to_le_bytes())),
        DataType::Uint64 => writer.all(&contents.uint64_contents, |n| Some(n.to_le_bytes())),
        DataType::Fp32 => writer.all(&contents.fp32_contents, |n| Some(n.to_le_bytes())),
        DataType::Fp64 => writer.all(&contents.fp64_contents, |n| Some(n.to_le_bytes())),
        // Those without typed contents are refused above.
        DataType::Bytes | DataType::Fp16 | DataType::Bf16 => {
            writer.strings(&contents.bytes_contents)
        }
    }
}

/// Writes the elements of one tensor, for which it takes room first.
struct Writer<'a, R> {
    tensor: &'a Tensor,
    reserve: &'a mut R,
}

impl<R: FnMut(u64) -> Result<(), InferError>> Writer<'_, R> {
    /// Writes elements, which may not fit their datatype.
    fn all<T: std::fmt::Display, const N: usize>(
        &mut self,
        values: &[T],
        bytes: impl Fn(&T) -> Option<[u8; N]>,
    ) -> Result<Bytes, InferError> {
        (self.reserve)((values.len() * N) as u64)?;
        let mut data = BytesMut::with_capacity(values.len() * N);
        for value in values {
            let bytes = bytes(value).ok_or_else(|| {
                let Tensor { name, datatype, .. } = self.tensor;
                InferError::invalid(format!("input `{name}`: {value} is no {datatype}"))
            })?;
            data.put_slice(&bytes);
        }
        Ok(data.freeze())
    }

    /// Writes elements of any length, each after its length.
    fn strings(&mut self, elements: &[Bytes]) -> Result<Bytes, InferError> {
        let length = elements.iter().map(|element| 4 + element.len()).sum();
        (self.reserve)(length as u64)?;
        let mut data = BytesMut::with_capacity(length);
        for element in elements {
            // A message holds no element of 4 GiB.
            data.put_u32_le(u32::try_from(element.len()).unwrap_or(u32::MAX));
            data.put_slice(element);
        }
        Ok(data.freeze())
    }
}
