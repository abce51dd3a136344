//! The Open Inference Protocol's requests and answers: over HTTP as JSON with the binary tensor data
//! extension, over gRPC as messages.
//!
//! What both say is read into one [`InferRequest`], and answered from one list of [`Given`] outputs.
//! Sources: Open Inference Protocol v2 ("Inference"), Triton's extensions binary tensor data,
//! classification, parameters and system shared memory; where Triton has a sentence for a mistake,
//! ours begins with it.

mod answer;
mod classes;
mod cut;
mod data;
mod decimal;
mod json;
mod message;
mod parameters;

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use model_store::DataType;

use crate::tensor::shape_text;
use crate::{InferError, Target, Tensor};
pub use answer::{EncodedAnswer, Given, Place};
pub use message::ENABLE_FINAL;

/// A request as parsed; of its inputs nothing is believed yet.
#[derive(Clone, Debug, PartialEq)]
pub struct InferRequest {
    /// Given back with the answer.
    pub id: Option<String>,
    /// Inputs, whose data may be of any length still.
    pub inputs: Vec<Tensor>,
    /// Where the data of inputs lie that the request does not bring itself, by the input's index.
    pub shared_inputs: Vec<(usize, SharedRange)>,
    /// The outputs asked for, in order, which the model has; none: all.
    pub outputs: Option<Vec<RequestedOutput>>,
    /// Whether outputs that do not say otherwise are binary.
    pub is_binary_output: bool,
    /// The request's `timeout` parameter.
    pub timeout: Option<Duration>,
    /// Of its parameters those that [`PictureOptions::set`](crate::PictureOptions::set) knows, as text.
    pub options: Vec<(&'static str, String)>,
}

/// An output asked for by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestedOutput {
    /// The graph's name of it.
    pub name: String,
    /// `binary_data`, where given.
    pub is_binary: Option<bool>,
    /// `classification`: give the greatest so many elements instead, as strings.
    pub classes: Option<u32>,
    /// Where the caller wants its elements; they are not in the answer then.
    pub shared: Option<SharedRange>,
}

/// A part of a region of shared memory that a caller registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedRange {
    /// The region's name.
    pub region: String,
    /// Where the part begins within the region, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub byte_size: u64,
}

/// Longest id or name, in bytes: they are kept until the answer, and no room is reserved for them.
const MAX_NAME_BYTES: usize = 1024;
/// Most inputs, and most outputs asked for.
const MAX_TENSORS: usize = 256;

// === impl InferRequest ===

impl InferRequest {
    /// Returns the bytes of all inputs.
    pub fn input_bytes(&self) -> usize {
        self.inputs.iter().map(|input| input.data.len()).sum()
    }

    /// Reads a body that is the one input of a model and nothing else (Triton's raw binary request):
    /// one item, whose free dimension, if there is one, is as long as the body makes it. All outputs
    /// are binary.
    ///
    /// For an element of `BYTES`, which is the body, `reserve` is asked for room.
    ///
    /// # Errors
    /// `InvalidArgument` for a model of several inputs, or one whose shape the length doesn't tell;
    /// what `reserve` says.
    pub fn raw(
        body: &Bytes,
        target: Target<'_>,
        reserve: impl FnOnce(u64) -> Result<(), InferError>,
    ) -> Result<Self, InferError> {
        let Target { model, spec } = target;
        let [input] = &*spec.inputs else {
            return Err(InferError::invalid(format!(
                "a raw request is one input, model '{model}' takes {}: send them as JSON or with \
                 `binary_data_size`",
                spec.inputs.len()
            )));
        };
        let mut shape = input.shape.clone();
        if let Some(items) = input.batch_axis.and_then(|axis| shape.get_mut(axis))
            && *items < 0
        {
            *items = 1;
        }
        let n_free = shape.iter().filter(|&&length| length < 0).count();
        let fixed: Option<i64> = shape
            .iter()
            .filter(|&&length| length >= 0)
            .try_fold(1_i64, |product, &length| product.checked_mul(length));
        let unknown = || {
            InferError::invalid(format!(
                "input '{}' of model '{model}' is {} {}: of a raw request the length has to tell \
                 its shape",
                input.name,
                input.datatype,
                shape_text(&input.shape)
            ))
        };
        let fixed = fixed.ok_or_else(unknown)?;
        let data = match input.datatype.element_bytes() {
            Some(element_bytes) => {
                let row_bytes = usize::try_from(fixed)
                    .ok()
                    .and_then(|fixed| fixed.checked_mul(element_bytes))
                    .ok_or_else(unknown)?;
                let free = match n_free {
                    0 => 1,
                    1 => body.len().checked_div(row_bytes).ok_or_else(unknown)?,
                    _ => return Err(unknown()),
                };
                for length in shape.iter_mut().filter(|length| **length < 0) {
                    *length = free as i64;
                }
                body.clone()
            }
            None if fixed == 1 => {
                shape.iter_mut().for_each(|length| *length = 1);
                reserve(body.len() as u64 + 4)?;
                let length = u32::try_from(body.len()).map_err(|_| unknown())?;
                [&length.to_le_bytes()[..], body].concat().into()
            }
            None => return Err(unknown()),
        };
        Ok(Self {
            id: None,
            inputs: vec![Tensor {
                name: input.name.clone(),
                datatype: input.datatype,
                shape,
                data,
            }],
            shared_inputs: Vec::new(),
            outputs: None,
            is_binary_output: true,
            timeout: None,
            options: Vec::new(),
        })
    }

    /// Bounds what is kept beside the tensors, and the answer: an output is given once, and the model
    /// has it in the form in which it is asked for.
    fn check(&self, target: Target<'_>) -> Result<(), InferError> {
        let inputs = self.inputs.iter().map(|input| &input.name);
        let requested = self.outputs.iter().flatten();
        let mut names = inputs
            .chain(requested.clone().map(|output| &output.name))
            .chain(&self.id);
        if names.any(|name| name.len() > MAX_NAME_BYTES) {
            return Err(InferError::invalid(format!(
                "`id` and names: expected at most {MAX_NAME_BYTES} bytes"
            )));
        }
        let mut seen = HashSet::new();
        for output in requested {
            if !seen.insert(&output.name) {
                return Err(InferError::invalid(format!(
                    "output `{}` is asked for twice",
                    output.name
                )));
            }
            output.check(target, self.is_binary_output)?;
        }
        if self.outputs.is_none() {
            for output in &target.spec.outputs {
                check_form(output.datatype, &output.name, self.is_binary_output)?;
            }
        }
        Ok(())
    }
}

impl RequestedOutput {
    fn check(&self, target: Target<'_>, is_binary_output: bool) -> Result<(), InferError> {
        let Target { model, spec } = target;
        let name = &self.name;
        let Some(output) = spec.outputs.iter().find(|output| output.name == *name) else {
            let names: Vec<_> = spec.outputs.iter().map(|output| &*output.name).collect();
            return Err(InferError::invalid(format!(
                "unexpected inference output '{name}' for model '{model}': it gives '{}'",
                names.join("', '")
            )));
        };
        if self.classes.is_some() {
            return classes::check(output);
        }
        let is_binary = self.shared.is_some() || self.is_binary.unwrap_or(is_binary_output);
        check_form(output.datatype, name, is_binary)
    }
}

/// Checks that JSON can carry an output that is not binary, before the model runs.
fn check_form(datatype: DataType, name: &str, is_binary: bool) -> Result<(), InferError> {
    match datatype {
        DataType::Fp16 | DataType::Bf16 if !is_binary => Err(InferError::invalid(format!(
            "output `{name}`: {datatype} has no JSON form, ask for it with `binary_data`"
        ))),
        _ => Ok(()),
    }
}

/// Returns a datatype by its name in the protocol.
fn datatype(name: &str, input: &str) -> Result<DataType, InferError> {
    name.parse().map_err(|()| {
        InferError::invalid(format!(
            "invalid datatype for input {input}: `datatype` {:?} is none of the protocol's",
            parameters::clipped(name)
        ))
    })
}

#[cfg(test)]
mod tests;
