//! Requests over HTTP.
//!
//! A body is JSON, followed by the raw tensors that carry `binary_data_size`, in the order of
//! `inputs`; `Inference-Header-Content-Length` says where the JSON ends.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::cut::Cut;
use super::data::{self, DataError};
use super::parameters::{OfInput, OfOutput, OfRequest, Parameters};
use super::{InferRequest, MAX_TENSORS, RequestedOutput, SharedRange, datatype};
use crate::{InferError, Target, Tensor};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestJson<'a> {
    id: Option<String>,
    #[serde(borrow, default)]
    parameters: Parameters<'a>,
    #[serde(borrow)]
    inputs: Option<AtMost<Object<InputJson<'a>>, MAX_TENSORS>>,
    #[serde(borrow)]
    outputs: Option<AtMost<Object<OutputJson<'a>>, MAX_TENSORS>>,
    // KServe's client says them again; the path is what counts.
    #[serde(rename = "model_name")]
    _model_name: Option<IgnoredAny>,
    #[serde(rename = "model_version")]
    _model_version: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InputJson<'a> {
    name: String,
    shape: AtMost<i64, 32>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(borrow, default)]
    parameters: Parameters<'a>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputJson<'a> {
    name: String,
    #[serde(borrow, default)]
    parameters: Parameters<'a>,
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

/// An object and nothing else: structs are read from lists of their fields as well.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Map(PhantomData))
    }
}

impl InferRequest {
    /// Parses a body; `json_bytes` is the value of `Inference-Header-Content-Length`. Where there is
    /// no JSON, the body is a raw request ([`InferRequest::raw`]).
    ///
    /// Binary tensors share the body's memory; for those of JSON `reserve` is asked for room, in
    /// bytes, before it is taken.
    ///
    /// # Errors
    /// `InvalidArgument` naming the field; what `reserve` says.
    pub fn parse(
        body: &Bytes,
        json_bytes: Option<usize>,
        target: Target<'_>,
        mut reserve: impl FnMut(u64) -> Result<(), InferError>,
    ) -> Result<Self, InferError> {
        let json_bytes = json_bytes.unwrap_or(body.len());
        let json = body.get(..json_bytes).ok_or_else(|| {
            InferError::invalid(format!(
                "inference header size should be in range (0, {}), got: {json_bytes}",
                body.len()
            ))
        })?;
        if json.is_empty() {
            return Self::raw(body, target, reserve);
        }
        let cut = Cut::of(json);
        let Object::<RequestJson<'_>>(request) =
            serde_json::from_slice(&cut.rest).map_err(|error| unparsed(json, error))?;
        let own = OfRequest::read(&request.parameters)?;
        let inputs = request.inputs.ok_or_else(|| {
            InferError::invalid(
                "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'",
            )
        })?;
        let mut binary = body.slice(json_bytes..);
        let mut tensors = Vec::with_capacity(inputs.0.len());
        let mut shared_inputs = Vec::new();
        for Object(input) in inputs.0 {
            let (tensor, shared) = input.read(&cut, target, &mut binary, &mut reserve)?;
            if let Some(shared) = shared {
                shared_inputs.push((tensors.len(), shared));
            }
            tensors.push(tensor);
        }
        if !binary.is_empty() {
            return Err(InferError::invalid(format!(
                "unexpected additional input data for model '{}': {} bytes follow the last tensor, \
                 expected as many as the inputs' `binary_data_size` say",
                target.model,
                binary.len()
            )));
        }
        let outputs = request
            .outputs
            .map(|outputs| {
                outputs
                    .0
                    .into_iter()
                    .map(|Object(output)| output.read())
                    .collect()
            })
            .transpose()?;
        let request = Self {
            id: request.id.filter(|id| !id.is_empty()),
            inputs: tensors,
            shared_inputs,
            outputs,
            is_binary_output: own.is_binary_output,
            timeout: own.timeout,
            options: own.options,
        };
        request.check(target)?;
        Ok(request)
    }
}

/// Says what is wrong with a request's JSON, and where. Only then it is read as it came, and with a
/// note of where one is.
fn unparsed(json: &[u8], error: serde_json::Error) -> InferError {
    let as_it_came = serde_json::from_slice::<Object<RequestJson<'_>>>(json);
    let error = as_it_came.err().unwrap_or(error);
    if !error.is_data() {
        return InferError::invalid(format!("failed to parse the request JSON buffer: {error}"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let located: Result<Object<RequestJson<'_>>, _> =
        serde_path_to_error::deserialize(&mut deserializer);
    let path = located
        .err()
        .map_or_else(String::new, |error| error.path().to_string());
    InferError::invalid(format!("Unable to parse '{path}': {error}"))
}

impl InputJson<'_> {
    /// Returns the tensor, or one without data and where they lie.
    fn read(
        self,
        cut: &Cut<'_>,
        target: Target<'_>,
        binary: &mut Bytes,
        reserve: &mut impl FnMut(u64) -> Result<(), InferError>,
    ) -> Result<(Tensor, Option<SharedRange>), InferError> {
        let name = &self.name;
        let of_input = |error: InferError| InferError {
            message: format!("input `{name}`: {}", error.message),
            ..error
        };
        let parameters = OfInput::read(&self.parameters).map_err(of_input)?;
        let mut tensor = Tensor {
            name: name.clone(),
            datatype: datatype(&self.datatype, name)?,
            shape: self.shape.0,
            data: Bytes::new(),
        };
        let elements = tensor.elements()?;
        match (parameters.binary_data_size, parameters.shared, self.data) {
            (None, None, Some(json)) => {
                let json = cut.text(json);
                reserve(data::parsed_bytes(json, tensor.datatype, elements) as u64)?;
                let parsed = data::parse(json, tensor.datatype, &tensor.shape, elements);
                tensor.data = parsed.map_err(|error| {
                    InferError::invalid(match error {
                        DataError::Shape(why) => format!(
                            "Unable to parse 'data': Shape does not match true shape of 'data' \
                             field: input `{name}` has shape {:?}: {why}",
                            tensor.shape
                        ),
                        DataError::Element(why) => {
                            format!("Unable to parse 'data': input `{name}`: {why}")
                        }
                    })
                })?;
            }
            (Some(size), None, None) if size > binary.len() => {
                return Err(InferError::invalid(format!(
                    "unexpected size for input '{name}', expecting {} additional bytes for model \
                     '{}': `binary_data_size` is {size}, {} bytes are left of the body",
                    size - binary.len(),
                    target.model,
                    binary.len()
                )));
            }
            (Some(size), None, None) => tensor.data = binary.split_to(size),
            (None, Some(shared), None) => return Ok((tensor, Some(shared))),
            _ => {
                return Err(InferError::invalid(format!(
                    "input `{name}`: expected one of `data` and the parameters `binary_data_size` \
                     and `shared_memory_region`, got none or several"
                )));
            }
        }
        Ok((tensor, None))
    }
}

impl OutputJson<'_> {
    fn read(self) -> Result<RequestedOutput, InferError> {
        let parameters = OfOutput::read(&self.parameters).map_err(|error| InferError {
            message: format!("output `{}`: {}", self.name, error.message),
            ..error
        })?;
        Ok(RequestedOutput {
            name: self.name,
            is_binary: parameters.is_binary,
            classes: parameters.classes,
            shared: parameters.shared,
        })
    }
}
