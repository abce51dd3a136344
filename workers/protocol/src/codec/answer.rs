//! Answers: which outputs are given, in what form, and as JSON with binary tensors after it.

use std::borrow::Cow;

use bytes::Bytes;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::{InferRequest, SharedRange, check_form, classes, data};
use crate::{InferError, Target, Tensor};

/// An output on its way to the caller.
#[derive(Clone, Debug, PartialEq)]
pub struct Given<'a> {
    /// The model's output, or its classes.
    pub tensor: Cow<'a, Tensor>,
    /// Where its elements go.
    pub place: Place<'a>,
}

/// Where the elements of an output go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// Into the answer's JSON.
    Json,
    /// Into the answer, as they are.
    Binary,
    /// Into the caller's shared memory.
    Shared(&'a SharedRange),
}

/// An answer's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedAnswer {
    /// JSON, and binary tensors after it.
    pub body: Bytes,
    /// Length of the JSON where binary tensors follow: `Inference-Header-Content-Length`.
    pub json_bytes: Option<usize>,
}

impl InferRequest {
    /// Returns the outputs that were asked for, in that order; `labels` are the classes' names.
    ///
    /// # Errors
    /// `Internal` where the model gave other outputs than it declares.
    pub fn choose<'a>(
        &'a self,
        target: Target<'_>,
        outputs: &'a [Tensor],
        labels: &[String],
    ) -> Result<Vec<Given<'a>>, InferError> {
        let place = |is_binary| match is_binary {
            true => Place::Binary,
            false => Place::Json,
        };
        let Some(requested) = &self.outputs else {
            let all = outputs.iter().map(|output| Given {
                tensor: Cow::Borrowed(output),
                place: place(self.is_binary_output),
            });
            return Ok(all.collect());
        };
        let mut given = Vec::with_capacity(requested.len());
        for wanted in requested {
            let is_wanted = |output: &&Tensor| output.name == wanted.name;
            let output = outputs.iter().find(is_wanted).ok_or_else(|| {
                InferError::internal(format!("the model gave no output `{}`", wanted.name))
            })?;
            let tensor = match wanted.classes {
                None => Cow::Borrowed(output),
                Some(classes) => {
                    let mut specs = target.spec.outputs.iter();
                    let spec = specs.find(|spec| spec.name == wanted.name);
                    let is_batched = spec.is_some_and(|spec| spec.batch_axis == Some(0));
                    Cow::Owned(classes::classify(output, is_batched, classes, labels)?)
                }
            };
            given.push(Given {
                tensor,
                place: match &wanted.shared {
                    Some(range) => Place::Shared(range),
                    None => place(wanted.is_binary.unwrap_or(self.is_binary_output)),
                },
            });
        }
        Ok(given)
    }
}

struct AnswerJson<'a> {
    id: Option<&'a str>,
    model: &'a str,
    version: &'a str,
    outputs: &'a [Given<'a>],
}

impl EncodedAnswer {
    /// Encodes outputs; those in shared memory are named only.
    ///
    /// # Errors
    /// `InvalidArgument` for one that JSON can't carry.
    pub fn encode(
        id: Option<&str>,
        model: &str,
        version: &str,
        outputs: &[Given<'_>],
    ) -> Result<Self, InferError> {
        let mut binary_bytes = 0;
        for Given { tensor, place } in outputs {
            match place {
                Place::Binary => binary_bytes += tensor.data.len(),
                Place::Json => check_form(tensor.datatype, &tensor.name, false)?,
                Place::Shared(_) => {}
            }
        }
        let mut body = Vec::with_capacity(256 + binary_bytes);
        let json = AnswerJson {
            id,
            model,
            version,
            outputs,
        };
        serde_json::to_writer(&mut body, &json).map_err(|error| {
            InferError::internal(format!("the answer can't be written as JSON: {error}"))
        })?;
        let json_bytes = body.len();
        for Given { tensor, place } in outputs {
            if *place == Place::Binary {
                body.extend_from_slice(&tensor.data);
            }
        }
        Ok(Self {
            body: body.into(),
            json_bytes: (binary_bytes > 0).then_some(json_bytes),
        })
    }
}

impl Serialize for AnswerJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(id) = self.id {
            map.serialize_entry("id", id)?;
        }
        map.serialize_entry("model_name", self.model)?;
        map.serialize_entry("model_version", self.version)?;
        map.serialize_entry("outputs", self.outputs)?;
        map.end()
    }
}

impl Serialize for Given<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Parameters {
            binary_data_size: usize,
        }
        let tensor = &*self.tensor;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &tensor.name)?;
        map.serialize_entry("datatype", tensor.datatype.as_str())?;
        map.serialize_entry("shape", &tensor.shape)?;
        match self.place {
            // Triton's C++ client requires `binary_data_size` in any output parameters: no others.
            Place::Binary => {
                let binary_data_size = tensor.data.len();
                map.serialize_entry("parameters", &Parameters { binary_data_size })?;
            }
            Place::Json => map.serialize_entry("data", &data::Elements(tensor))?,
            Place::Shared(_) => {}
        }
        map.end()
    }
}
