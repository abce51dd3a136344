//! `POST /v1/models/{name}:predict`: the V1 protocol, by way of the same tensors.
//!
//! `{"instances": [item, …]}`: an item is the value of the only input, or an object with one for each.
//! Stacked, the items are the tensors of a batch. `{"predictions": [row, …]}` comes back, a row an
//! object where there are several outputs.
//! Source: KServe's "V1 protocol", which is TensorFlow Serving's row format.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use http::HeaderMap;
use model_store::{DataType, ModelSpec, TensorSpec};
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, SerializeMap as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use workers_protocol::codec::InferRequest;
use workers_protocol::{Code, InferError, Tensor};

use super::body::{object, refuse};
use super::{ApiError, Front, for_bytes, with_timing};
use crate::trace::Trace;

#[derive(Deserialize)]
struct PredictRequest<'a> {
    #[serde(borrow)]
    instances: &'a RawValue,
}

#[derive(Serialize)]
struct PredictAnswer<'a> {
    predictions: Predictions<'a>,
}

pub(super) async fn predict(
    State(front): State<Arc<Front>>,
    Path(target): Path<String>,
    trace: Option<Extension<Trace>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let asked = asked(&target).and_then(|name| {
        let revision = front.catalog.find(name, None)?;
        has_rows(name, &revision.model.spec)?;
        let terms = front.terms(&headers, &revision, trace.map(|Extension(trace)| trace))?;
        Ok((revision, terms))
    });
    let (revision, terms) = match asked {
        Ok(asked) => asked,
        Err(error) => return Err(refuse(body, error)),
    };
    let body = front.turn_away(&revision, &terms, body)?;
    let (body, mut reservation) = front.read(&headers, body, terms.deadline).await?;
    let mut request = for_bytes(body.len(), || {
        // The text is written once more, without its brackets.
        reservation.grow(body.len() as u64)?;
        let json = Bytes::from(tensors(&body, &revision.model.spec)?);
        let reserve = |bytes| reservation.grow(bytes);
        InferRequest::parse(&json, None, revision.target(), reserve)
    })?;
    drop(body);
    reservation.shrink_to(request.input_bytes() as u64);
    let answered = front
        .answer_tensors(&revision, &mut request, terms, reservation)
        .await?;
    let outputs = &answered.answer.outputs;
    let bytes = outputs.iter().map(|output| output.data.len()).sum();
    let answer = PredictAnswer {
        predictions: Predictions::new(outputs)?,
    };
    let json = for_bytes(bytes, || Json(answer).into_response());
    Ok(with_timing(&answered, json))
}

/// Returns the model's name of `NAME:predict`.
fn asked(target: &str) -> Result<&str, InferError> {
    match target.rsplit_once(':') {
        Some((name, "predict")) => Ok(name),
        Some((_, "explain")) => {
            let message = "`:explain` is not offered: there are no explainers";
            Err(InferError::new(Code::Unimplemented, message))
        }
        _ => Err(InferError::new(Code::NotFound, "Not Found")),
    }
}

/// Checks that a model takes tensors, and that an item of a batch is a row of each.
fn has_rows(name: &str, spec: &ModelSpec) -> Result<(), InferError> {
    if spec.task.is_some() {
        let message = format!("model `{name}` takes pictures: POST one to /run/{name}");
        return Err(InferError::invalid(message));
    }
    let mut tensors = spec.inputs.iter().chain(&spec.outputs);
    match tensors.find(|tensor| tensor.batch_axis != Some(0)) {
        None => Ok(()),
        Some(TensorSpec { name, shape, .. }) => Err(InferError::invalid(format!(
            "`{name}` {shape:?} is not batched along its first dimension, as V1 has it: POST to /v2"
        ))),
    }
}

// === instances ===

/// Writes the instances as the inputs of a request of the second protocol.
fn tensors(body: &[u8], spec: &ModelSpec) -> Result<String, InferError> {
    let invalid = |error: serde_json::Error| {
        InferError::invalid(format!("the request's JSON can't be read: {error}"))
    };
    let request: PredictRequest<'_> = serde_json::from_slice(object(body)?).map_err(invalid)?;
    let mut columns = vec![Vec::new(); spec.inputs.len()];
    let instances = Instances {
        spec,
        columns: &mut columns,
    };
    let mut deserializer = serde_json::Deserializer::from_str(request.instances.get());
    instances.deserialize(&mut deserializer).map_err(invalid)?;

    let mut json = String::with_capacity(body.len() + 256);
    json.push_str("{\"inputs\":[");
    for (at, (input, items)) in spec.inputs.iter().zip(&columns).enumerate() {
        let name = serde_json::to_string(&input.name).map_err(invalid)?;
        let mut shape = vec![items.len()];
        if let Some(first) = items.first() {
            dimensions(first, &mut shape).map_err(invalid)?;
        }
        let datatype = input.datatype;
        let comma = if at == 0 { "" } else { "," };
        json.push_str(&format!(
            "{comma}{{\"name\":{name},\"datatype\":\"{datatype}\",\"shape\":{shape:?},\"data\":["
        ));
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                json.push(',');
            }
            json.push_str(item.get());
        }
        json.push_str("]}");
    }
    json.push_str("]}");
    Ok(json)
}

/// The values of each input, in the order of the spec.
struct Instances<'a, 'de> {
    spec: &'a ModelSpec,
    columns: &'a mut [Vec<&'de RawValue>],
}

impl<'de> DeserializeSeed<'de> for Instances<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Instances<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of 1 to {MAX_INSTANCES} `instances`")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let mut n = 0;
        while let Some(instance) = seq.next_element::<&'de RawValue>()? {
            n += 1;
            if n > MAX_INSTANCES {
                return Err(A::Error::invalid_length(n, &self));
            }
            if instance.get().starts_with('{') {
                let row = Row(&mut self);
                let mut deserializer = serde_json::Deserializer::from_str(instance.get());
                row.deserialize(&mut deserializer)
                    .map_err(A::Error::custom)?;
            } else {
                match self.columns {
                    [column] => column.push(instance),
                    _ => {
                        return Err(A::Error::custom(format!(
                            "`instances`: expected objects with {}",
                            names(self.spec)
                        )));
                    }
                }
            }
            if self.columns.iter().any(|column| column.len() != n) {
                return Err(A::Error::custom(format!(
                    "`instances`: expected each once of {} in every object",
                    names(self.spec)
                )));
            }
        }
        match n {
            0 => Err(A::Error::invalid_length(0, &self)),
            _ => Ok(()),
        }
    }
}

/// Most items of a request.
const MAX_INSTANCES: usize = 4096;

fn names(spec: &ModelSpec) -> String {
    let names: Vec<_> = spec
        .inputs
        .iter()
        .map(|input| format!("`{}`", input.name))
        .collect();
    names.join(", ")
}

/// An instance that names its values.
struct Row<'r, 'a, 'de>(&'r mut Instances<'a, 'de>);

impl<'de> DeserializeSeed<'de> for Row<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Row<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with {}", names(self.0.spec))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Instances { spec, columns } = self.0;
        let n = columns.iter().map(Vec::len).max().unwrap_or(0) + 1;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let column = spec.inputs.iter().position(|input| input.name == name);
            let column = column.and_then(|at| columns.get_mut(at)).ok_or_else(|| {
                A::Error::custom(format!(
                    "unexpected inference input '{name}' for this model: expected {}",
                    names(spec)
                ))
            })?;
            column.push(map.next_value()?);
            if column.len() > n {
                return Err(A::Error::custom(format!("input `{name}` is given twice")));
            }
        }
        Ok(())
    }
}

/// Appends the lengths of nested lists, each as its first element has them; whether the others agree
/// is seen when the elements are counted.
fn dimensions(value: &RawValue, shape: &mut Vec<usize>) -> Result<(), serde_json::Error> {
    struct Lengths<'a>(&'a mut Vec<usize>);

    impl<'de> DeserializeSeed<'de> for Lengths<'_> {
        type Value = ();

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_any(self)
        }
    }

    impl<'de> Visitor<'de> for Lengths<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("numbers, strings, booleans, or lists of them")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
            let at = self.0.len();
            self.0.push(0);
            let mut n = 0;
            if seq.next_element_seed(Lengths(self.0))?.is_some() {
                n += 1;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    n += 1;
                }
            }
            if let Some(length) = self.0.get_mut(at) {
                *length = n;
            }
            Ok(())
        }

        fn visit_bool<E>(self, _: bool) -> Result<(), E> {
            Ok(())
        }

        fn visit_i64<E>(self, _: i64) -> Result<(), E> {
            Ok(())
        }

        fn visit_u64<E>(self, _: u64) -> Result<(), E> {
            Ok(())
        }

        fn visit_f64<E>(self, _: f64) -> Result<(), E> {
            Ok(())
        }

        fn visit_str<E>(self, _: &str) -> Result<(), E> {
            Ok(())
        }
    }

    let mut deserializer = serde_json::Deserializer::from_str(value.get());
    Lengths(shape).deserialize(&mut deserializer)
}

// === predictions ===

/// Outputs, cut into rows along their first dimension.
struct Predictions<'a> {
    outputs: Vec<Output<'a>>,
    n_rows: usize,
}

struct Output<'a> {
    tensor: &'a Tensor,
    /// Of a tensor of `BYTES`.
    strings: Vec<Bytes>,
}

impl<'a> Predictions<'a> {
    /// Checks that all outputs have a row for each instance.
    fn new(outputs: &'a [Tensor]) -> Result<Self, InferError> {
        let rows = |tensor: &Tensor| tensor.shape.first().copied();
        let n_rows = outputs.first().and_then(rows);
        for tensor in outputs {
            if rows(tensor) != n_rows || n_rows.is_none() {
                return Err(InferError::invalid(format!(
                    "output `{}` {:?} has no row for each instance, as V1 has it: POST to /v2",
                    tensor.name, tensor.shape
                )));
            }
        }
        let output = |tensor: &'a Tensor| Output {
            tensor,
            strings: match tensor.datatype {
                DataType::Bytes => tensor.bytes_elements().collect(),
                _ => Vec::new(),
            },
        };
        Ok(Self {
            outputs: outputs.iter().map(output).collect(),
            n_rows: n_rows.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
        })
    }
}

impl Serialize for Predictions<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = |at| PredictedRow {
            outputs: &self.outputs,
            at,
        };
        serializer.collect_seq((0..self.n_rows).map(row))
    }
}

struct PredictedRow<'a> {
    outputs: &'a [Output<'a>],
    at: usize,
}

impl Serialize for PredictedRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let [only] = self.outputs {
            return only.nested(self.at).serialize(serializer);
        }
        let mut map = serializer.serialize_map(Some(self.outputs.len()))?;
        for output in self.outputs {
            map.serialize_entry(&output.tensor.name, &output.nested(self.at))?;
        }
        map.end()
    }
}

impl Output<'_> {
    fn nested(&self, at: usize) -> Nested<'_> {
        Nested {
            output: self,
            dimensions: self.tensor.shape.get(1..).unwrap_or_default(),
            at,
        }
    }
}

/// Elements as lists within lists: the `at`-th of those that have these dimensions.
struct Nested<'a> {
    output: &'a Output<'a>,
    dimensions: &'a [i64],
    at: usize,
}

impl Serialize for Nested<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some((first, inner)) = self.dimensions.split_first() else {
            return self.element(serializer);
        };
        let n = usize::try_from(*first).unwrap_or(0);
        let element = |at| Nested {
            output: self.output,
            dimensions: inner,
            at: self.at * n + at,
        };
        serializer.collect_seq((0..n).map(element))
    }
}

impl Nested<'_> {
    /// Writes one element; a number that is not finite becomes `null`.
    fn element<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tensor = self.output.tensor;
        macro_rules! number {
            ($number:ty) => {{
                let (elements, _) = tensor.data.as_chunks();
                let element = elements.get(self.at);
                element
                    .map(|&element| <$number>::from_le_bytes(element))
                    .serialize(serializer)
            }};
        }
        match tensor.datatype {
            DataType::Bool => tensor
                .data
                .get(self.at)
                .map(|&byte| byte != 0)
                .serialize(serializer),
            DataType::Uint8 => number!(u8),
            DataType::Uint16 => number!(u16),
            DataType::Uint32 => number!(u32),
            DataType::Uint64 => number!(u64),
            DataType::Int8 => number!(i8),
            DataType::Int16 => number!(i16),
            DataType::Int32 => number!(i32),
            DataType::Int64 => number!(i64),
            DataType::Fp32 => number!(f32),
            DataType::Fp64 => number!(f64),
            DataType::Bytes => {
                let string = self.output.strings.get(self.at);
                string
                    .map(|string| String::from_utf8_lossy(string))
                    .serialize(serializer)
            }
            DataType::Fp16 | DataType::Bf16 => Err(S::Error::custom(format!(
                "output `{}`: {} has no JSON form, ask /v2 for it",
                tensor.name, tensor.datatype
            ))),
        }
    }
}
