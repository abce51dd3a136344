//! What a message decodes to, in bytes of memory beside its own, told from its bytes.
//!
//! Raw contents stay where they came; every field of everything else becomes a number, a string or a
//! struct. Sources: the Protocol Buffers encoding guide, and what prost makes of the messages.

use bytes::{Buf, Bytes};
use prost::decode_length_delimiter;
use workers_protocol::InferError;
use workers_protocol::oip::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use workers_protocol::oip::{InferParameter, InferTensorContents};

/// What kind of message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A `ModelInferRequest`.
    Inference,
    /// Any other: names, and a few parameters.
    Names,
}

/// What a message of names decodes to at most, by its bytes: five of them are an entry of a map.
const NAMES_RATIO: u64 = 64;

impl Kind {
    /// Returns how many bytes of memory a message decodes to at most, beside its own.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no message.
    pub(super) fn weigh(self, message: &mut impl Buf) -> Result<u64, InferError> {
        match self {
            Self::Names => Ok((message.remaining() as u64).saturating_mul(NAMES_RATIO)),
            Self::Inference => fields(message, 0, infer_request).ok_or_else(|| {
                InferError::invalid("the message can't be read: its fields do not fill it")
            }),
        }
    }
}

/// An element of a list, which grows by doubling.
const fn listed<T>() -> u64 {
    2 * size_of::<T>() as u64
}

/// An entry of a map, whose nodes may be less than half full.
const PARAMETER: u64 = 3 * size_of::<(String, InferParameter)>() as u64;

/// A field whose value is `length` bytes long, up to where `end` remain, or a number that was read.
#[derive(Clone, Copy)]
struct Field {
    tag: usize,
    value: Option<Value>,
}

#[derive(Clone, Copy)]
struct Value {
    length: u64,
    end: usize,
}

/// Sums the weights of the fields up to where `end` bytes remain; `None` if they do not end there.
fn fields<B: Buf>(
    buf: &mut B,
    end: usize,
    mut weigh: impl FnMut(&mut B, Field) -> Option<u64>,
) -> Option<u64> {
    let mut weight = 0_u64;
    while buf.remaining() > end {
        // Key and length are numbers of the same form.
        let key = decode_length_delimiter(&mut *buf).ok()?;
        let (tag, wire_type) = (key >> 3, key & 7);
        let n_number = match wire_type {
            0 => {
                decode_length_delimiter(&mut *buf).ok()?;
                0
            }
            1 => 8,
            5 => 4,
            2 => {
                let length = decode_length_delimiter(&mut *buf).ok()?;
                let value_end = buf.remaining().checked_sub(length)?;
                let value = Value {
                    length: length as u64,
                    end: value_end,
                };
                let field = Field {
                    tag,
                    value: Some(value),
                };
                weight = weight.saturating_add(weigh(buf, field)?);
                // What was of no interest.
                let rest = buf.remaining().checked_sub(value_end)?;
                buf.advance(rest);
                continue;
            }
            // Groups, which the protocol has none of.
            _ => return None,
        };
        (buf.remaining() >= n_number).then(|| buf.advance(n_number))?;
        weight = weight.saturating_add(weigh(buf, Field { tag, value: None })?);
    }
    (buf.remaining() == end).then_some(weight)
}

fn infer_request<B: Buf>(buf: &mut B, field: Field) -> Option<u64> {
    let Some(value) = field.value else {
        return Some(0);
    };
    match field.tag {
        1..=3 => Some(value.length),
        4 => Some(PARAMETER + value.length),
        5 => Some(listed::<InferInputTensor>() + fields(buf, value.end, input)?),
        6 => Some(listed::<InferRequestedOutputTensor>() + fields(buf, value.end, output)?),
        7 => Some(listed::<Bytes>()),
        _ => Some(0),
    }
}

fn output<B: Buf>(_: &mut B, field: Field) -> Option<u64> {
    let length = field.value.map_or(0, |value| value.length);
    match field.tag {
        1 => Some(length),
        2 => Some(PARAMETER + length),
        _ => Some(0),
    }
}

fn input<B: Buf>(buf: &mut B, field: Field) -> Option<u64> {
    let length = field.value.map_or(0, |value| value.length);
    match (field.tag, field.value) {
        (1 | 2, _) => Some(length),
        (3, Some(value)) => Some(listed::<i64>() * numbers(buf, value.end)),
        (3, None) => Some(listed::<i64>()),
        (4, _) => Some(PARAMETER + length),
        (5, Some(value)) => {
            Some(size_of::<InferTensorContents>() as u64 + fields(buf, value.end, contents)?)
        }
        _ => Some(0),
    }
}

fn contents<B: Buf>(buf: &mut B, field: Field) -> Option<u64> {
    let each = match field.tag {
        1 => listed::<bool>(),
        2 | 4 | 6 => listed::<u32>(),
        3 | 5 | 7 => listed::<u64>(),
        8 => listed::<Bytes>(),
        _ => 0,
    };
    let n = match (field.tag, field.value) {
        (1..=5, Some(value)) => numbers(buf, value.end),
        (6, Some(value)) => value.length / 4,
        (7, Some(value)) => value.length / 8,
        _ => 1,
    };
    Some(each.saturating_mul(n))
}

/// Counts numbers of variable length up to where `end` bytes remain: the last byte of each has its
/// highest bit clear.
fn numbers<B: Buf>(buf: &mut B, end: usize) -> u64 {
    let mut n = 0;
    while buf.remaining() > end {
        let here = buf.chunk().len().min(buf.remaining() - end);
        let chunk = buf.chunk().get(..here).unwrap_or_default();
        n += chunk.iter().filter(|&&byte| byte < 0x80).count() as u64;
        if here == 0 {
            break;
        }
        buf.advance(here);
    }
    n
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message as _;
    use workers_protocol::oip::ModelInferRequest;
    use workers_protocol::oip::infer_parameter::ParameterChoice;

    use super::*;

    fn weigh(bytes: &[u8]) -> Result<u64, InferError> {
        Kind::Inference.weigh(&mut &*bytes)
    }

    /// What a message holds in memory, whatever its lists have in reserve.
    fn held(request: &ModelInferRequest) -> usize {
        let inputs = request.inputs.iter().map(|input| {
            let contents = input.contents.as_ref().map_or(0, |contents| {
                contents.bool_contents.len()
                    + 4 * contents.int_contents.len()
                    + 8 * contents.int64_contents.len()
                    + 4 * contents.uint_contents.len()
                    + 8 * contents.uint64_contents.len()
                    + 4 * contents.fp32_contents.len()
                    + 8 * contents.fp64_contents.len()
                    + size_of::<Bytes>() * contents.bytes_contents.len()
            });
            size_of::<InferInputTensor>()
                + input.name.len()
                + input.datatype.len()
                + 8 * input.shape.len()
                + size_of::<(String, InferParameter)>() * input.parameters.len()
                + contents
        });
        inputs.sum::<usize>()
            + size_of::<InferRequestedOutputTensor>() * request.outputs.len()
            + size_of::<Bytes>() * request.raw_input_contents.len()
            + size_of::<(String, InferParameter)>() * request.parameters.len()
    }

    fn parameters(n: u8) -> BTreeMap<String, InferParameter> {
        let choice = Some(ParameterChoice::BoolParam(true));
        let parameter = InferParameter {
            parameter_choice: choice,
        };
        (0..n)
            .map(|at| (at.to_string(), parameter.clone()))
            .collect()
    }

    #[test]
    fn a_message_weighs_at_least_what_it_holds() {
        let contents = InferTensorContents {
            bool_contents: vec![true; 100],
            int_contents: vec![1; 100],
            int64_contents: vec![-1; 100],
            uint_contents: vec![1; 100],
            uint64_contents: vec![u64::MAX; 100],
            fp32_contents: vec![1.0; 100],
            fp64_contents: vec![1.0; 100],
            bytes_contents: vec![Bytes::new(); 100],
        };
        let input = InferInputTensor {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1; 100],
            parameters: parameters(5),
            contents: Some(contents),
        };
        let request = ModelInferRequest {
            inputs: vec![input, InferInputTensor::default()],
            outputs: vec![InferRequestedOutputTensor::default(); 3],
            parameters: parameters(20),
            raw_input_contents: vec![Bytes::from_static(&[7; 1000]); 4],
            ..ModelInferRequest::default()
        };
        let bytes = request.encode_to_vec();
        let weight = weigh(&bytes).unwrap() as usize;
        let held = held(&request);
        assert!((held..4 * held).contains(&weight), "{weight} of {held}");
    }

    #[test]
    fn raw_contents_weigh_no_more_than_their_bytes() {
        let request = ModelInferRequest {
            raw_input_contents: vec![vec![0; 1 << 20].into()],
            ..ModelInferRequest::default()
        };
        assert!(weigh(&request.encode_to_vec()).unwrap() < 1000);
    }

    #[test]
    fn many_empty_fields_weigh_what_they_become() {
        // Inputs without a field, of two bytes each.
        let bytes = [0x2a, 0].repeat(1000);
        let request = ModelInferRequest::decode(&*bytes).unwrap();
        assert!(weigh(&bytes).unwrap() >= held(&request) as u64);
        assert!(held(&request) > 100 * bytes.len());
    }

    #[test]
    fn what_does_not_fill_its_message_is_refused() {
        for bytes in [
            &[0x2a][..],
            &[0x2a, 2, 0],
            &[0x2a, 2, 0x0a, 9],
            &[0x2b, 0x2c],
            &[0x09, 1],
            &[0xff; 12],
        ] {
            assert!(weigh(bytes).is_err(), "{bytes:?}");
        }
    }
}
