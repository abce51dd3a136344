//! The Open Inference Protocol over HTTP: JSON, and the binary tensor data extension.
//!
//! A body is JSON, followed by the raw tensors that carry `binary_data_size`, in the order of
//! `inputs`; `Inference-Header-Content-Length` says where the JSON ends.
//! Sources: Open Inference Protocol v2 ("Inference"), Triton's binary tensor data extension.

mod data;

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use model_store::DataType;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{InferError, Tensor};

/// A request as parsed, not yet believed.
#[derive(Clone, Debug, PartialEq)]
pub struct InferRequest {
    /// Given back with the answer.
    pub id: Option<String>,
    /// Inputs; their lengths agree with their shapes.
    pub inputs: Vec<Tensor>,
    /// The outputs asked for, in order; none: all.
    pub outputs: Option<Vec<RequestedOutput>>,
    /// Whether outputs that do not say otherwise are binary.
    pub is_binary_output: bool,
    /// The request's `timeout` parameter.
    pub timeout: Option<Duration>,
}

/// An output asked for by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedOutput {
    /// The graph's name of it.
    pub name: String,
    /// `binary_data`, where given.
    pub is_binary: Option<bool>,
}

/// An answer's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedAnswer {
    /// JSON, and binary tensors after it.
    pub body: Bytes,
    /// Length of the JSON where binary tensors follow: `Inference-Header-Content-Length`.
    pub json_bytes: Option<usize>,
}

#[derive(Deserialize)]
struct RequestJson<'a> {
    id: Option<String>,
    #[serde(default)]
    parameters: RequestParameters,
    #[serde(borrow)]
    inputs: AtMost<InputJson<'a>, 256>,
    outputs: Option<AtMost<OutputJson, 256>>,
}

#[derive(Deserialize, Default)]
struct RequestParameters {
    #[serde(default)]
    binary_data_output: bool,
    timeout: Option<u64>,
}

#[derive(Deserialize)]
struct InputJson<'a> {
    name: String,
    shape: AtMost<i64, 32>,
    #[serde(deserialize_with = "datatype")]
    datatype: DataType,
    #[serde(default)]
    parameters: InputParameters,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct InputParameters {
    binary_data_size: Option<usize>,
}

#[derive(Deserialize)]
struct OutputJson {
    name: String,
    #[serde(default)]
    parameters: OutputParameters,
}

#[derive(Deserialize, Default)]
struct OutputParameters {
    binary_data: Option<bool>,
}

/// A list whose length is bounded while it is read: a body is not to grow into many times its size.
struct AtMost<T, const N: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for AtMost<T, N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const N: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for List<T, N> {
            type Value = AtMost<T, N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {N}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<AtMost<T, N>, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = seq.next_element()? {
                    if list.len() == N {
                        return Err(A::Error::invalid_length(N + 1, &self));
                    }
                    list.push(element);
                }
                Ok(AtMost(list))
            }
        }
        deserializer.deserialize_seq(List(PhantomData))
    }
}

fn datatype<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<DataType, D::Error> {
    let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    name.parse()
        .map_err(|()| D::Error::custom(format!("`datatype`: {name:?} is none of the protocol's")))
}

/// Longest id or name, in bytes: they are kept until the answer, and no room is reserved for them.
const MAX_NAME_BYTES: usize = 1024;

// === impl RequestJson ===

impl RequestJson<'_> {
    /// Bounds what is kept beside the tensors, and the answer: an output is given once.
    fn check_names(&self) -> Result<(), InferError> {
        let inputs = self.inputs.0.iter().map(|input| &input.name);
        let outputs = self
            .outputs
            .iter()
            .flat_map(|outputs| &outputs.0)
            .map(|output| &output.name);
        let is_long = |name: &&String| name.len() > MAX_NAME_BYTES;
        if self
            .id
            .iter()
            .chain(inputs)
            .chain(outputs.clone())
            .any(|name| is_long(&name))
        {
            return Err(InferError::invalid(format!(
                "`id` and names: expected at most {MAX_NAME_BYTES} bytes"
            )));
        }
        let mut seen = HashSet::new();
        match outputs.into_iter().find(|name| !seen.insert(*name)) {
            Some(twice) => Err(InferError::invalid(format!(
                "output `{twice}` is asked for twice"
            ))),
            None => Ok(()),
        }
    }
}

// === impl InferRequest ===

impl InferRequest {
    /// Returns the bytes of all inputs.
    pub fn input_bytes(&self) -> usize {
        self.inputs.iter().map(|input| input.data.len()).sum()
    }

    /// Parses a body; `json_bytes` is the value of `Inference-Header-Content-Length`.
    ///
    /// Binary tensors share the body's memory; for those of JSON `reserve` is asked for room, in
    /// bytes, before it is taken.
    ///
    /// # Errors
    /// `InvalidArgument` naming the field; what `reserve` says.
    pub fn parse(
        body: &Bytes,
        json_bytes: Option<usize>,
        mut reserve: impl FnMut(u64) -> Result<(), InferError>,
    ) -> Result<Self, InferError> {
        let json_bytes = json_bytes.unwrap_or(body.len());
        let json = body.get(..json_bytes).ok_or_else(|| {
            InferError::invalid(format!(
                "inference header size should be in range (0, {}), got: {json_bytes}",
                body.len()
            ))
        })?;
        let request: RequestJson<'_> = serde_json::from_slice(json).map_err(|error| {
            InferError::invalid(format!("the request's JSON can't be read: {error}"))
        })?;

        request.check_names()?;
        let mut binary = body.slice(json_bytes..);
        let inputs = request
            .inputs
            .0
            .into_iter()
            .map(|input| input.into_tensor(&mut binary, &mut reserve))
            .collect::<Result<_, _>>()?;
        if !binary.is_empty() {
            return Err(InferError::invalid(format!(
                "{} bytes follow the last tensor: expected as many as the inputs' `binary_data_size` say",
                binary.len()
            )));
        }
        let outputs = request.outputs.map(|outputs| {
            outputs
                .0
                .into_iter()
                .map(|output| RequestedOutput {
                    name: output.name,
                    is_binary: output.parameters.binary_data,
                })
                .collect()
        });
        Ok(Self {
            id: request.id.filter(|id| !id.is_empty()),
            inputs,
            outputs,
            is_binary_output: request.parameters.binary_data_output,
            timeout: request
                .parameters
                .timeout
                .filter(|&micros| micros > 0)
                .map(Duration::from_micros),
        })
    }
}

impl InputJson<'_> {
    fn into_tensor(
        self,
        binary: &mut Bytes,
        reserve: &mut impl FnMut(u64) -> Result<(), InferError>,
    ) -> Result<Tensor, InferError> {
        let mut tensor = Tensor {
            name: self.name,
            datatype: self.datatype,
            shape: self.shape.0,
            data: Bytes::new(),
        };
        let elements = tensor.elements()?;
        tensor.data = match (self.parameters.binary_data_size, self.data) {
            (Some(_), Some(_)) => {
                return Err(InferError::invalid(format!(
                    "input `{}`: has both `data` and `binary_data_size`: expected one",
                    tensor.name
                )));
            }
            (None, None) => {
                return Err(InferError::invalid(format!(
                    "input `{}`: expected `data` or the parameter `binary_data_size`",
                    tensor.name
                )));
            }
            (Some(size), None) if size > binary.len() => {
                return Err(InferError::invalid(format!(
                    "input `{}`: `binary_data_size` is {size}, {} bytes are left of the body",
                    tensor.name,
                    binary.len()
                )));
            }
            (Some(size), None) => binary.split_to(size),
            (None, Some(json)) => {
                reserve(data::parsed_bytes(json, tensor.datatype, elements) as u64)?;
                data::parse(json, tensor.datatype, elements).map_err(|error| {
                    InferError::invalid(format!("input `{}`: {error}", tensor.name))
                })?
            }
        };
        tensor.check_length()?;
        Ok(tensor)
    }
}

// === answers ===

struct AnswerJson<'a> {
    request: &'a InferRequest,
    model: &'a str,
    version: &'a str,
    outputs: &'a [(&'a Tensor, bool)],
}

struct AnswerOutput<'a> {
    tensor: &'a Tensor,
    is_binary: bool,
}

impl EncodedAnswer {
    /// Encodes the outputs that a request asked for.
    ///
    /// # Errors
    /// `InvalidArgument` for an output that the model has not, or one that JSON can't carry.
    pub fn encode(
        request: &InferRequest,
        model: &str,
        version: &str,
        outputs: &[Tensor],
    ) -> Result<Self, InferError> {
        let chosen = choose(request, outputs)?;
        for (tensor, is_binary) in &chosen {
            if !is_binary && matches!(tensor.datatype, DataType::Fp16 | DataType::Bf16) {
                return Err(InferError::invalid(format!(
                    "output `{}`: {} has no JSON form, ask for it with `binary_data`",
                    tensor.name, tensor.datatype
                )));
            }
        }
        let binary_bytes: usize = chosen
            .iter()
            .filter(|(_, is_binary)| *is_binary)
            .map(|(tensor, _)| tensor.data.len())
            .sum();
        let mut body = BytesMut::with_capacity(256 + binary_bytes).writer();
        serde_json::to_writer(
            &mut body,
            &AnswerJson {
                request,
                model,
                version,
                outputs: &chosen,
            },
        )
        .map_err(|error| {
            InferError::internal(format!("the answer can't be written as JSON: {error}"))
        })?;
        let mut body = body.into_inner();
        let json_bytes = body.len();
        for (tensor, is_binary) in &chosen {
            if *is_binary {
                body.put_slice(&tensor.data);
            }
        }
        Ok(Self {
            body: body.freeze(),
            json_bytes: (binary_bytes > 0).then_some(json_bytes),
        })
    }
}

/// Returns the outputs that a request asked for, in its order, and whether each is to be binary.
///
/// # Errors
/// `InvalidArgument` for an output that the model has not.
pub fn choose<'a>(
    request: &InferRequest,
    outputs: &'a [Tensor],
) -> Result<Vec<(&'a Tensor, bool)>, InferError> {
    let Some(requested) = &request.outputs else {
        return Ok(outputs
            .iter()
            .map(|output| (output, request.is_binary_output))
            .collect());
    };
    requested
        .iter()
        .map(|wanted| {
            let output = outputs
                .iter()
                .find(|output| output.name == wanted.name)
                .ok_or_else(|| {
                    let names: Vec<_> = outputs
                        .iter()
                        .map(|output| format!("`{}`", output.name))
                        .collect();
                    InferError::invalid(format!(
                        "output `{}` is not the model's: expected {}",
                        wanted.name,
                        names.join(", ")
                    ))
                })?;
            Ok((output, wanted.is_binary.unwrap_or(request.is_binary_output)))
        })
        .collect()
}

impl Serialize for AnswerJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(id) = &self.request.id {
            map.serialize_entry("id", id)?;
        }
        map.serialize_entry("model_name", self.model)?;
        map.serialize_entry("model_version", self.version)?;
        let outputs: Vec<_> = self
            .outputs
            .iter()
            .map(|&(tensor, is_binary)| AnswerOutput { tensor, is_binary })
            .collect();
        map.serialize_entry("outputs", &outputs)?;
        map.end()
    }
}

impl Serialize for AnswerOutput<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Parameters {
            binary_data_size: usize,
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &self.tensor.name)?;
        map.serialize_entry("datatype", self.tensor.datatype.as_str())?;
        map.serialize_entry("shape", &self.tensor.shape)?;
        if self.is_binary {
            // Triton's C++ client requires `binary_data_size` in any output parameters: no others.
            map.serialize_entry(
                "parameters",
                &Parameters {
                    binary_data_size: self.tensor.data.len(),
                },
            )?;
        } else {
            map.serialize_entry("data", &data::Elements(self.tensor))?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests;
