//! Mending what a graph declares of itself.
//!
//! Some exported graphs declare fixed shapes that the network does not have (CenterFace as many
//! packages ship it declares `[10, 3, 32, 32]` and runs on any multiple of 32). ONNX Runtime
//! enforces declared input shapes, so they are rewritten when the model is added, as its manifest says.
//!
//! The file is walked as protobuf wire format; everything but the declarations is copied byte for
//! byte, so nothing that this code does not know is lost. Field numbers: ONNX, onnx.proto3.

use model_store::TensorDeclaration;
use workers_protocol::InferError;

const MODEL_GRAPH: u64 = 7;
const GRAPH_INPUT: u64 = 11;
const GRAPH_OUTPUT: u64 = 12;
const GRAPH_VALUE_INFO: u64 = 13;
const VALUE_NAME: u64 = 1;
const VALUE_TYPE: u64 = 2;
const TYPE_TENSOR: u64 = 1;
const TENSOR_SHAPE: u64 = 2;
const SHAPE_DIMENSION: u64 = 1;
const DIMENSION_VALUE: u64 = 1;
const DIMENSION_SYMBOL: u64 = 2;

/// A model whose declarations were mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The new file.
    pub model: Vec<u8>,
    /// A sentence for each change.
    pub notes: Vec<String>,
}

/// Rewrites the declared shapes of inputs and outputs to those of the manifest, where a dimension
/// is free there and fixed in the graph.
///
/// Outputs that the manifest does not name become free in every dimension once an input was
/// rewritten, and shapes declared for values inside the graph are dropped: both followed from the
/// wrong input. Returns the new model and a sentence for each change, or `None` where nothing is
/// to be changed.
///
/// # Errors
/// `InvalidArgument` when the bytes are no ONNX model, or a declaration contradicts the graph.
pub fn rewrite_declared_shapes(
    model: &[u8],
    inputs: &[TensorDeclaration],
    outputs: &[TensorDeclaration],
) -> Result<Option<Rewritten>, InferError> {
    let mut notes = Vec::new();
    let mut rewritten = Vec::with_capacity(model.len() + 64);
    for field in Fields(model) {
        let field = field?;
        match field.payload {
            Payload::Bytes(graph) if field.number == MODEL_GRAPH => {
                let graph = rewrite_graph(graph, inputs, outputs, &mut notes)?;
                put_bytes(&mut rewritten, MODEL_GRAPH, &graph);
            }
            _ => rewritten.extend_from_slice(field.raw),
        }
    }
    Ok((!notes.is_empty()).then_some(Rewritten {
        model: rewritten,
        notes,
    }))
}

fn rewrite_graph(
    graph: &[u8],
    inputs: &[TensorDeclaration],
    outputs: &[TensorDeclaration],
    notes: &mut Vec<String>,
) -> Result<Vec<u8>, InferError> {
    // Inputs first: whether outputs are freed depends on them, and fields come in any order.
    for field in Fields(graph) {
        let field = field?;
        if let (GRAPH_INPUT, Payload::Bytes(value)) = (field.number, field.payload) {
            rewrite_value(value, inputs, Undeclared::Kept, "input", notes)?;
        }
    }
    let undeclared = if notes.is_empty() {
        Undeclared::Kept
    } else {
        Undeclared::Freed
    };
    let mut rewritten = Vec::with_capacity(graph.len() + 64);
    for field in Fields(graph) {
        let field = field?;
        match (field.number, field.payload) {
            (GRAPH_INPUT, Payload::Bytes(value)) => {
                let value =
                    rewrite_value(value, inputs, Undeclared::Kept, "input", &mut Vec::new())?;
                put_bytes(&mut rewritten, GRAPH_INPUT, &value);
            }
            (GRAPH_OUTPUT, Payload::Bytes(value)) => {
                let value = rewrite_value(value, outputs, undeclared, "output", notes)?;
                put_bytes(&mut rewritten, GRAPH_OUTPUT, &value);
            }
            (GRAPH_VALUE_INFO, _) if undeclared == Undeclared::Freed => {}
            _ => rewritten.extend_from_slice(field.raw),
        }
    }
    Ok(rewritten)
}

/// What becomes of a value that the manifest does not declare.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Undeclared {
    Kept,
    Freed,
}

/// Rewrites a `ValueInfoProto`.
fn rewrite_value(
    value: &[u8],
    declarations: &[TensorDeclaration],
    undeclared: Undeclared,
    side: &str,
    notes: &mut Vec<String>,
) -> Result<Vec<u8>, InferError> {
    let name = match bytes_field(value, VALUE_NAME)? {
        Some(name) => String::from_utf8_lossy(name).into_owned(),
        None => return Ok(value.to_vec()),
    };
    let declared_type = bytes_field(value, VALUE_TYPE)?;
    let tensor = declared_type
        .map(|declared| bytes_field(declared, TYPE_TENSOR))
        .transpose()?
        .flatten();
    let shape = tensor
        .map(|tensor| bytes_field(tensor, TENSOR_SHAPE))
        .transpose()?
        .flatten();
    let Some(old) = shape.map(dimensions).transpose()? else {
        return Ok(value.to_vec());
    };
    let declaration = declarations
        .iter()
        .find(|declaration| declaration.name == name);
    let new = match (
        declaration.and_then(|declaration| declaration.shape.as_ref()),
        undeclared,
    ) {
        (Some(new), _) => check_declaration(&name, side, &old, new)?.clone(),
        (None, Undeclared::Freed) => vec![-1; old.len()],
        (None, Undeclared::Kept) => return Ok(value.to_vec()),
    };
    // A declaration may only free what the graph fixes; what it fixes itself is checked elsewhere.
    let frees = old.iter().zip(&new).any(|(&old, &new)| old >= 0 && new < 0);
    if !frees {
        return Ok(value.to_vec());
    }
    notes.push(format!(
        "{side} `{name}`: the graph declared {old:?}, rewritten to {new:?}"
    ));
    replace(
        value,
        &[VALUE_TYPE, TYPE_TENSOR, TENSOR_SHAPE],
        &encode_dimensions(&old, &new),
    )
}

fn check_declaration<'a>(
    name: &str,
    side: &str,
    old: &[i64],
    new: &'a Vec<i64>,
) -> Result<&'a Vec<i64>, InferError> {
    let agrees = |(&old, &new): (&i64, &i64)| old < 0 || new < 0 || old == new;
    if old.len() == new.len() && old.iter().zip(new).all(agrees) {
        Ok(new)
    } else {
        Err(InferError::invalid(format!(
            "{side} `{name}`: model.yaml says {new:?}, the graph declares {old:?}: a declaration can free a dimension, \
             not change it"
        )))
    }
}

/// Replaces the bytes field at the end of a path of nested messages.
fn replace(message: &[u8], path: &[u64], new: &[u8]) -> Result<Vec<u8>, InferError> {
    let Some((&number, rest)) = path.split_first() else {
        return Ok(new.to_vec());
    };
    let mut replaced = Vec::with_capacity(message.len() + new.len());
    for field in Fields(message) {
        let field = field?;
        match field.payload {
            Payload::Bytes(inner) if field.number == number => {
                put_bytes(&mut replaced, number, &replace(inner, rest, new)?);
            }
            _ => replaced.extend_from_slice(field.raw),
        }
    }
    Ok(replaced)
}

/// Reads a `TensorShapeProto`: its dimensions, -1 where they are symbols or unknown.
fn dimensions(shape: &[u8]) -> Result<Vec<i64>, InferError> {
    let mut dimensions = Vec::new();
    for field in Fields(shape) {
        let field = field?;
        if let (SHAPE_DIMENSION, Payload::Bytes(dimension)) = (field.number, field.payload) {
            let mut value = -1;
            for field in Fields(dimension) {
                match field? {
                    Field {
                        number: DIMENSION_VALUE,
                        payload: Payload::Varint(number),
                        ..
                    } => {
                        value = number.cast_signed();
                    }
                    Field {
                        number: DIMENSION_SYMBOL,
                        ..
                    } => value = -1,
                    _ => {}
                }
            }
            dimensions.push(value);
        }
    }
    Ok(dimensions)
}

/// Writes a `TensorShapeProto`: a free dimension is an empty message.
fn encode_dimensions(old: &[i64], new: &[i64]) -> Vec<u8> {
    let mut shape = Vec::new();
    for (&old, &new) in old.iter().zip(new) {
        let mut dimension = Vec::new();
        if new >= 0 && old >= 0 {
            put_varint(&mut dimension, DIMENSION_VALUE << 3);
            put_varint(&mut dimension, old.cast_unsigned());
        }
        put_bytes(&mut shape, SHAPE_DIMENSION, &dimension);
    }
    shape
}

fn bytes_field(message: &[u8], number: u64) -> Result<Option<&[u8]>, InferError> {
    for field in Fields(message) {
        let field = field?;
        if let (true, Payload::Bytes(bytes)) = (field.number == number, field.payload) {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

// === protobuf wire format (protobuf.dev, "Encoding") ===

struct Field<'a> {
    number: u64,
    payload: Payload<'a>,
    /// The whole field, tag included.
    raw: &'a [u8],
}

#[derive(Clone, Copy)]
enum Payload<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, InferError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = next_field(self.0);
        match &field {
            Some(field) => self.0 = &self.0[field.raw.len()..],
            None => self.0 = &[],
        }
        Some(field.ok_or_else(|| {
            InferError::invalid("not an ONNX model, or cut short: its protobuf can't be read")
        }))
    }
}

fn next_field(bytes: &[u8]) -> Option<Field<'_>> {
    let (tag, after_tag) = take_varint(bytes)?;
    let (payload, rest) = match tag & 7 {
        0 => take_varint(after_tag).map(|(value, rest)| (Payload::Varint(value), rest))?,
        1 => (Payload::Fixed, after_tag.get(8..)?),
        2 => {
            let (length, after) = take_varint(after_tag)?;
            let (inner, rest) = after.split_at_checked(usize::try_from(length).ok()?)?;
            (Payload::Bytes(inner), rest)
        }
        5 => (Payload::Fixed, after_tag.get(4..)?),
        _ => return None,
    };
    Some(Field {
        number: tag >> 3,
        payload,
        raw: &bytes[..bytes.len() - rest.len()],
    })
}

fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(u32::try_from(index * 7).ok()?)?;
        if byte < 0x80 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn put_bytes(bytes: &mut Vec<u8>, number: u64, payload: &[u8]) {
    put_varint(bytes, number << 3 | 2);
    put_varint(bytes, payload.len() as u64);
    bytes.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn declaration(name: &str, shape: &[i64]) -> TensorDeclaration {
        TensorDeclaration {
            name: name.to_owned(),
            datatype: None,
            shape: Some(shape.to_vec()),
            batch_axis: None,
            example: None,
        }
    }

    /// A model with one input `x [2, 3]`, one output `y [2, 7]`, one inner value, and an unknown field.
    fn model() -> Vec<u8> {
        let value = |name: &str, shape: &[i64]| {
            let (mut tensor, mut kind, mut value) = (Vec::new(), Vec::new(), Vec::new());
            put_varint(&mut tensor, 8);
            put_varint(&mut tensor, 1);
            put_bytes(&mut tensor, TENSOR_SHAPE, &encode_dimensions(shape, shape));
            put_bytes(&mut kind, TYPE_TENSOR, &tensor);
            put_bytes(&mut value, VALUE_NAME, name.as_bytes());
            put_bytes(&mut value, VALUE_TYPE, &kind);
            value
        };
        let mut graph = Vec::new();
        put_bytes(&mut graph, GRAPH_OUTPUT, &value("y", &[2, 7]));
        put_bytes(&mut graph, GRAPH_INPUT, &value("x", &[2, 3]));
        put_bytes(&mut graph, GRAPH_VALUE_INFO, &value("inner", &[2, 5]));
        put_bytes(&mut graph, 2, b"graph's name");
        let mut model = Vec::new();
        put_varint(&mut model, 8);
        put_varint(&mut model, 9);
        put_bytes(&mut model, MODEL_GRAPH, &graph);
        put_bytes(&mut model, 999, b"kept");
        model
    }

    fn shape_of(model: &[u8], field: u64) -> Option<Vec<i64>> {
        let graph = bytes_field(model, MODEL_GRAPH).unwrap()?;
        let value = bytes_field(graph, field).unwrap()?;
        let kind = bytes_field(value, VALUE_TYPE).unwrap()?;
        let tensor = bytes_field(kind, TYPE_TENSOR).unwrap()?;
        Some(dimensions(bytes_field(tensor, TENSOR_SHAPE).unwrap()?).unwrap())
    }

    #[test]
    fn a_freed_input_frees_what_followed_from_it_and_keeps_the_rest() {
        let Rewritten {
            model: rewritten,
            notes,
        } = rewrite_declared_shapes(&model(), &[declaration("x", &[-1, 3])], &[])
            .unwrap()
            .unwrap();
        assert_eq!(shape_of(&rewritten, GRAPH_INPUT), Some(vec![-1, 3]));
        assert_eq!(shape_of(&rewritten, GRAPH_OUTPUT), Some(vec![-1, -1]));
        assert_eq!(shape_of(&rewritten, GRAPH_VALUE_INFO), None);
        assert_eq!(bytes_field(&rewritten, 999).unwrap(), Some(&b"kept"[..]));
        assert_eq!(
            notes[0],
            "input `x`: the graph declared [2, 3], rewritten to [-1, 3]"
        );
    }

    #[test]
    fn declarations_that_agree_change_nothing() {
        assert_eq!(
            rewrite_declared_shapes(&model(), &[declaration("x", &[2, 3])], &[]).unwrap(),
            None
        );
        assert_eq!(rewrite_declared_shapes(&model(), &[], &[]).unwrap(), None);
    }

    #[test]
    fn a_declaration_cannot_change_a_fixed_dimension() {
        let error =
            rewrite_declared_shapes(&model(), &[declaration("x", &[2, 4])], &[]).unwrap_err();
        assert!(
            error
                .message
                .contains("says [2, 4], the graph declares [2, 3]"),
            "{error}"
        );
        assert!(rewrite_declared_shapes(&model(), &[declaration("x", &[-1])], &[]).is_err());
    }

    #[test]
    fn a_truncated_model_is_refused() {
        let model = model();
        assert!(rewrite_declared_shapes(&model[..model.len() - 3], &[], &[]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = rewrite_declared_shapes(&bytes, &[declaration("x", &[-1, 3])], &[]);
        }

        #[test]
        fn any_mutation_of_a_model_is_walked_without_panic(at in 0_usize..100, byte: u8) {
            let mut model = model();
            let at = at % model.len();
            model[at] = byte;
            let _ = rewrite_declared_shapes(&model, &[declaration("x", &[-1, 3])], &[]);
        }
    }
}
