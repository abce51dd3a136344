//! `ModelInfer`, once and in streams: messages in, messages out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use model_store::DataType;
use workers_protocol::codec::{InferRequest, RequestedOutput, choose};
use workers_protocol::oip::infer_parameter::ParameterChoice;
use workers_protocol::oip::model_infer_response::InferOutputTensor;
use workers_protocol::oip::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    ModelStreamInferResponse,
};
use workers_protocol::{InferError, Tensor};

use super::find;
use super::room::Room;
use crate::budget::Reservation;
use crate::entry::Deadline;
use crate::rest::{ApiError, Front, for_bytes};
use crate::trace::Trace;

/// Inputs, and requested outputs, of a message.
const MAX_TENSORS: usize = 256;
/// Longest id or name, in bytes, as over HTTP.
const MAX_NAME_BYTES: usize = 1024;

/// What holds for every message of a call.
pub(super) struct Call {
    front: Arc<Front>,
    metadata: HeaderMap,
    /// When the caller stops waiting, as `grpc-timeout` says.
    deadline: Option<Deadline>,
    trace: Option<Trace>,
    room: Room,
}

impl Call {
    pub(super) fn begin<T>(front: &Arc<Front>, request: tonic::Request<T>) -> (Self, T) {
        let (metadata, extensions, message) = request.into_parts();
        let metadata = metadata.into_headers();
        let call = Self {
            front: Arc::clone(front),
            deadline: timeout(&metadata).map(Deadline::after),
            trace: extensions.get::<Trace>().copied(),
            room: extensions
                .get::<Room>()
                .cloned()
                .unwrap_or_else(|| Room::new(Arc::clone(&front.budget))),
            metadata,
        };
        (call, message)
    }

    /// Answers one message. Cancel-safe: dropping the future frees its place at once.
    pub(super) async fn answer(
        &self,
        mut message: ModelInferRequest,
    ) -> Result<ModelInferResponse, ApiError> {
        let mut reservation = self.room.take();
        let front = &self.front;
        let revision = find(&front.catalog, &message.model_name, &message.model_version)?;
        revision.takes_tensors()?;
        let mut terms = front.terms(&self.metadata, &revision, self.trace)?;
        if let Some(deadline) = self.deadline.filter(|own| own.at < terms.deadline.at) {
            terms.deadline = deadline;
        }
        let mut request = parse(&mut message, &mut reservation)?;
        drop(message);
        reservation.shrink_to(request.input_bytes() as u64);
        let answered = front
            .answer_tensors(&revision, &mut request, terms, reservation)
            .await?;

        let mut response = ModelInferResponse {
            model_name: revision.name.to_string(),
            model_version: revision.version.to_string(),
            id: request.id.take().unwrap_or_default(),
            ..ModelInferResponse::default()
        };
        for (tensor, _) in choose(&request, &answered.answer.outputs)? {
            response.outputs.push(InferOutputTensor {
                name: tensor.name.clone(),
                datatype: tensor.datatype.as_str().to_owned(),
                shape: tensor.shape.clone(),
                ..InferOutputTensor::default()
            });
            response.raw_output_contents.push(tensor.data.clone());
        }
        Ok(response)
    }

    /// Answers one message of a stream, with what went wrong where something did.
    pub(super) async fn answer_in_stream(
        &self,
        message: ModelInferRequest,
    ) -> ModelStreamInferResponse {
        let id = message.id.clone();
        let asks_for_final = message.parameters.get("triton_enable_empty_final_response");
        let asks_for_final = matches!(
            choice(asks_for_final),
            Some(ParameterChoice::BoolParam(true))
        );
        let (error_message, mut response) = match self.answer(message).await {
            Ok(response) => (String::new(), response),
            // Whose error it is, is said by the id.
            Err(error) => {
                let response = ModelInferResponse {
                    id,
                    ..ModelInferResponse::default()
                };
                (error.message().to_owned(), response)
            }
        };
        if asks_for_final {
            // Of models that answer each request once, every answer is the last.
            let parameter_choice = Some(ParameterChoice::BoolParam(true));
            let is_final = InferParameter { parameter_choice };
            let name = "triton_final_response".to_owned();
            response.parameters.insert(name, is_final);
        }
        ModelStreamInferResponse {
            error_message,
            infer_response: Some(response),
        }
    }
}

/// Reads `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2). What is no such thing is
/// ignored, as gRPC's own servers do.
fn timeout(metadata: &HeaderMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = digits.len() <= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let value: u64 = digits.parse().ok().filter(|_| is_number)?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// Takes the request out of a message. Raw contents are shared with it; for typed ones room is taken
/// before they are written.
fn parse(
    message: &mut ModelInferRequest,
    reservation: &mut Reservation,
) -> Result<InferRequest, InferError> {
    check_names(message)?;
    let raw = std::mem::take(&mut message.raw_input_contents);
    let inputs = std::mem::take(&mut message.inputs);
    if !raw.is_empty() && raw.len() != inputs.len() {
        return Err(InferError::invalid(format!(
            "`raw_input_contents`: expected one for each of {} inputs, got {}",
            inputs.len(),
            raw.len()
        )));
    }
    let mut raw = raw.into_iter();
    let mut tensors = Vec::with_capacity(inputs.len());
    for input in inputs {
        let name = &input.name;
        let datatype = input.datatype.parse().map_err(|()| {
            let datatype = &input.datatype;
            InferError::invalid(format!(
                "input `{name}`: `datatype` {datatype:?} is none of the protocol's"
            ))
        })?;
        let data = match (raw.next(), input.contents) {
            (Some(_), Some(_)) => {
                return Err(InferError::invalid(format!(
                    "input `{name}`: has both `contents` and `raw_input_contents`: expected one"
                )));
            }
            (Some(raw), None) => raw,
            (None, contents) => typed(name, datatype, &contents.unwrap_or_default(), reservation)?,
        };
        let tensor = Tensor {
            name: input.name,
            datatype,
            shape: input.shape,
            data,
        };
        tensor.check_length()?;
        tensors.push(tensor);
    }
    let outputs = std::mem::take(&mut message.outputs).into_iter();
    let outputs: Vec<_> = outputs
        .map(|output| RequestedOutput {
            name: output.name,
            is_binary: None,
        })
        .collect();
    Ok(InferRequest {
        id: Some(std::mem::take(&mut message.id)).filter(|id| !id.is_empty()),
        inputs: tensors,
        outputs: Some(outputs).filter(|outputs| !outputs.is_empty()),
        is_binary_output: true,
        timeout: own_timeout(&message.parameters)?,
    })
}

/// Bounds what is kept beside the tensors, and the answer: an output is given once.
fn check_names(message: &ModelInferRequest) -> Result<(), InferError> {
    let (n_inputs, n_outputs) = (message.inputs.len(), message.outputs.len());
    if n_inputs.max(n_outputs) > MAX_TENSORS {
        return Err(InferError::invalid(format!(
            "expected at most {MAX_TENSORS} inputs and as many outputs, got {n_inputs} and {n_outputs}"
        )));
    }
    let outputs = message.outputs.iter().map(|output| &output.name);
    let inputs = message.inputs.iter().map(|input| &input.name);
    let mut names = outputs.clone().chain(inputs).chain([&message.id]);
    if names.any(|name| name.len() > MAX_NAME_BYTES) {
        return Err(InferError::invalid(format!(
            "`id` and names: expected at most {MAX_NAME_BYTES} bytes"
        )));
    }
    let mut seen = std::collections::HashSet::new();
    match outputs.into_iter().find(|name| !seen.insert(*name)) {
        Some(twice) => Err(InferError::invalid(format!(
            "output `{twice}` is asked for twice"
        ))),
        None => Ok(()),
    }
}

/// Reads the parameter `timeout`, in microseconds; 0 is none.
fn own_timeout(
    parameters: &BTreeMap<String, InferParameter>,
) -> Result<Option<Duration>, InferError> {
    let micros = match choice(parameters.get("timeout")) {
        None => None,
        Some(&ParameterChoice::Uint64Param(micros)) => Some(micros),
        Some(&ParameterChoice::Int64Param(micros)) => u64::try_from(micros).ok().or(Some(0)),
        Some(_) => {
            return Err(InferError::invalid(
                "`timeout`: expected a whole number of microseconds",
            ));
        }
    };
    let micros = micros.filter(|&micros| micros > 0);
    Ok(micros.map(Duration::from_micros))
}

fn choice(parameter: Option<&InferParameter>) -> Option<&ParameterChoice> {
    parameter?.parameter_choice.as_ref()
}

/// Returns typed contents as a tensor's bytes.
fn typed(
    name: &str,
    datatype: DataType,
    contents: &InferTensorContents,
    reservation: &mut Reservation,
) -> Result<Bytes, InferError> {
    let mut writer = Writer {
        name,
        datatype,
        reservation,
    };
    match datatype {
        DataType::Bool => writer.write(&contents.bool_contents, |&is| [u8::from(is)]),
        DataType::Int8 => writer.narrow(&contents.int_contents, |&n| {
            i8::try_from(n).map(i8::to_le_bytes)
        }),
        DataType::Int16 => writer.narrow(&contents.int_contents, |&n| {
            i16::try_from(n).map(i16::to_le_bytes)
        }),
        DataType::Int32 => writer.write(&contents.int_contents, |n| n.to_le_bytes()),
        DataType::Int64 => writer.write(&contents.int64_contents, |n| n.to_le_bytes()),
        DataType::Uint8 => writer.narrow(&contents.uint_contents, |&n| {
            u8::try_from(n).map(u8::to_le_bytes)
        }),
        DataType::Uint16 => writer.narrow(&contents.uint_contents, |&n| {
            u16::try_from(n).map(u16::to_le_bytes)
        }),
        DataType::Uint32 => writer.write(&contents.uint_contents, |n| n.to_le_bytes()),
        DataType::Uint64 => writer.write(&contents.uint64_contents, |n| n.to_le_bytes()),
        DataType::Fp32 => writer.write(&contents.fp32_contents, |n| n.to_le_bytes()),
        DataType::Fp64 => writer.write(&contents.fp64_contents, |n| n.to_le_bytes()),
        DataType::Bytes => writer.elements(&contents.bytes_contents),
        DataType::Fp16 | DataType::Bf16 => Err(InferError::invalid(format!(
            "input `{name}`: {datatype} has no typed contents, send `raw_input_contents`"
        ))),
    }
}

/// Writes the elements of one tensor, for which it takes room first.
struct Writer<'a> {
    name: &'a str,
    datatype: DataType,
    reservation: &'a mut Reservation,
}

impl Writer<'_> {
    fn write<T: std::fmt::Display, const N: usize>(
        &mut self,
        values: &[T],
        bytes: impl Fn(&T) -> [u8; N],
    ) -> Result<Bytes, InferError> {
        self.narrow(values, |value| Ok::<_, InferError>(bytes(value)))
    }

    /// Writes elements that may not fit their datatype.
    fn narrow<T: std::fmt::Display, E, const N: usize>(
        &mut self,
        values: &[T],
        bytes: impl Fn(&T) -> Result<[u8; N], E>,
    ) -> Result<Bytes, InferError> {
        let length = values.len() * N;
        self.reservation.grow(length as u64)?;
        for_bytes(length, || {
            let mut data = BytesMut::with_capacity(length);
            for value in values {
                let bytes = bytes(value).map_err(|_| {
                    let Self { name, datatype, .. } = self;
                    InferError::invalid(format!("input `{name}`: {value} is no {datatype}"))
                })?;
                data.put_slice(&bytes);
            }
            Ok(data.freeze())
        })
    }

    /// Writes elements of any length, each after its length.
    fn elements(&mut self, elements: &[Bytes]) -> Result<Bytes, InferError> {
        let length = elements.iter().map(|element| 4 + element.len()).sum();
        self.reservation.grow(length as u64)?;
        for_bytes(length, || {
            let mut data = BytesMut::with_capacity(length);
            for element in elements {
                // A message holds no element of 4 GiB.
                data.put_u32_le(u32::try_from(element.len()).unwrap_or(u32::MAX));
                data.put_slice(element);
            }
            Ok(data.freeze())
        })
    }
}
