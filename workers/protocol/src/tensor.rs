//! A tensor on its way between processes, and the check that makes it believable.

use bytes::Bytes;
use model_store::{DataType, ModelSpec, TensorSpec};

use crate::InferError;

/// A named tensor: little-endian elements, row-major, without padding; `BYTES` elements each
/// preceded by their length as a `u32` (Open Inference Protocol v2, binary tensor data).
///
/// Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// The graph's name of it.
    pub name: String,
    /// Element type.
    pub datatype: DataType,
    /// Dimensions.
    pub shape: Vec<i64>,
    /// The elements.
    pub data: Bytes,
}

/// The model that a request is for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its name, for the sentences.
    pub model: &'a str,
    /// What it takes and gives.
    pub spec: &'a ModelSpec,
}

/// Inputs that fit a spec, and what the scheduler needs to know of them.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedInputs {
    /// In the order of the spec.
    pub inputs: Vec<Tensor>,
    /// How many items of a batch they are.
    pub items: u32,
    /// Requests share a batch only where this is equal: everything of their inputs that batching
    /// can't join, hashed.
    pub bucket: u64,
}

/// Most dimensions of a tensor; ONNX Runtime's own limit is of this order.
const MAX_RANK: usize = 16;

/// Most batches that a request is split into: each is an entry in the queue.
const MAX_SPLIT: u32 = 256;

// === impl Tensor ===

impl Tensor {
    /// Returns the number of elements that the shape claims.
    ///
    /// # Errors
    /// `InvalidArgument` for a negative dimension, too many dimensions, or a product beyond `usize`.
    pub fn elements(&self) -> Result<usize, InferError> {
        if self.shape.len() > MAX_RANK {
            return Err(InferError::invalid(format!(
                "input `{}`: expected at most {MAX_RANK} dimensions, got {}",
                self.name,
                self.shape.len()
            )));
        }
        self.shape
            .iter()
            .try_fold(1_usize, |product, &dimension| {
                product.checked_mul(usize::try_from(dimension).ok()?)
            })
            .ok_or_else(|| {
                InferError::invalid(format!(
                    "input `{}`: shape {:?} has a negative dimension or more elements than can be",
                    self.name, self.shape
                ))
            })
    }

    /// Returns how many bytes the elements that the shape claims are; `None` of `BYTES`, whose
    /// elements are of any length.
    ///
    /// # Errors
    /// As of [`Tensor::elements`], and `InvalidArgument` for a product beyond `usize`.
    pub fn expected_bytes(&self) -> Result<Option<usize>, InferError> {
        let elements = self.elements()?;
        let Some(element_bytes) = self.datatype.element_bytes() else {
            return Ok(None);
        };
        let bytes = elements.checked_mul(element_bytes).ok_or_else(|| {
            InferError::invalid(format!(
                "input `{}`: shape {:?} has more bytes than can be",
                self.name, self.shape
            ))
        })?;
        Ok(Some(bytes))
    }

    /// Checks that the data are as long as shape and datatype say.
    ///
    /// # Errors
    /// `InvalidArgument`, saying both lengths.
    pub fn check_length(&self) -> Result<(), InferError> {
        match self.expected_bytes()? {
            None => self.check_bytes_elements(self.elements()?),
            Some(bytes) if bytes == self.data.len() => Ok(()),
            Some(bytes) => Err(InferError::invalid(format!(
                "input `{}`: shape {:?} of {} is {bytes} bytes, got {}",
                self.name,
                self.shape,
                self.datatype,
                self.data.len()
            ))),
        }
    }

    /// Returns the elements of a `BYTES` tensor, stopping where the data end.
    pub fn bytes_elements(&self) -> impl Iterator<Item = Bytes> + '_ {
        let mut at = 0_usize;
        std::iter::from_fn(move || {
            let length: [u8; 4] = self.data.get(at..at.checked_add(4)?)?.try_into().ok()?;
            let begin = at + 4;
            let end = begin.checked_add(usize::try_from(u32::from_le_bytes(length)).ok()?)?;
            (end <= self.data.len()).then(|| {
                at = end;
                self.data.slice(begin..end)
            })
        })
    }

    fn check_bytes_elements(&self, expected: usize) -> Result<(), InferError> {
        let (count, bytes) = self
            .bytes_elements()
            .fold((0_usize, 0_usize), |(count, bytes), element| {
                (count + 1, bytes + 4 + element.len())
            });
        if count == expected && bytes == self.data.len() {
            Ok(())
        } else {
            Err(InferError::invalid(format!(
                "input `{}`: shape {:?} has {expected} elements, the data hold {count} and {} bytes beside them",
                self.name,
                self.shape,
                self.data.len() - bytes
            )))
        }
    }
}

// === impl CheckedInputs ===

impl CheckedInputs {
    /// Checks names, datatypes, shapes and lengths against what a model takes, and puts the inputs in
    /// its order.
    ///
    /// # Errors
    /// `InvalidArgument` naming the input; what was expected and what came.
    pub fn check(target: Target<'_>, given: Vec<Tensor>) -> Result<Self, InferError> {
        let checked = Self::check_tensors(target, given)?;
        let Target { model, spec } = target;
        if checked.items == 0 || checked.items > spec.max_batch {
            return Err(checked.wrong_items(model, spec.max_batch));
        }
        Ok(checked)
    }

    /// Checks the same, and splits what has more items than a batch may have into full batches and
    /// the rest, in order. An input that is joined along no axis is each part's.
    ///
    /// `reserve` is asked for room, in bytes, before inputs are copied: those that are joined along
    /// another axis than the first.
    ///
    /// # Errors
    /// The same; `InvalidArgument` with the numbers for what can't be split, because an output could
    /// not be joined again, or would be more than 256 parts; what `reserve` says.
    pub fn check_split(
        target: Target<'_>,
        given: Vec<Tensor>,
        reserve: impl FnOnce(u64) -> Result<(), InferError>,
    ) -> Result<Vec<Self>, InferError> {
        let checked = Self::check_tensors(target, given)?;
        let Target { model, spec } = target;
        let (n_items, max) = (checked.items, spec.max_batch.max(1));
        if (1..=max).contains(&n_items) {
            return Ok(vec![checked]);
        }
        let most = match spec.outputs.iter().all(is_joined) {
            true => max.saturating_mul(MAX_SPLIT),
            false => max,
        };
        if n_items == 0 || n_items > most {
            return Err(checked.wrong_items(model, most));
        }
        let is_copied = |(tensor, expected): &(&Tensor, &TensorSpec)| {
            is_joined(expected) && expected.batch_axis != Some(0) && !tensor.data.is_empty()
        };
        let pairs = || checked.inputs.iter().zip(&spec.inputs);
        reserve(
            pairs()
                .filter(is_copied)
                .map(|(tensor, _)| tensor.data.len() as u64)
                .sum(),
        )?;

        let full = std::iter::repeat_n(max, (n_items / max) as usize);
        let items: Vec<u32> = full
            .chain(Some(n_items % max).filter(|&rest| rest > 0))
            .collect();
        let part = |&items: &u32| Self {
            inputs: Vec::with_capacity(checked.inputs.len()),
            items,
            bucket: checked.bucket,
        };
        let mut parts: Vec<_> = items.iter().map(part).collect();
        for (tensor, expected) in pairs() {
            let tensors = match expected.batch_axis.filter(|_| is_joined(expected)) {
                Some(axis) => tensor.split(axis, &items)?,
                None => vec![tensor.clone(); items.len()],
            };
            for (part, tensor) in parts.iter_mut().zip(tensors) {
                part.inputs.push(tensor);
            }
        }
        Ok(parts)
    }

    fn wrong_items(&self, model: &str, most: u32) -> InferError {
        InferError::invalid(format!(
            "inference request batch-size must be <= {most} for '{model}', and at least 1, got {}",
            self.items
        ))
    }

    fn check_tensors(target: Target<'_>, given: Vec<Tensor>) -> Result<Self, InferError> {
        let Target { model, spec } = target;
        let has_input =
            |tensor: &&Tensor| spec.inputs.iter().any(|input| input.name == tensor.name);
        if let Some(extra) = given.iter().find(|tensor| !has_input(tensor)) {
            return Err(InferError::invalid(format!(
                "unexpected inference input '{}' for model '{model}': it takes {}",
                extra.name,
                quoted(spec.inputs.iter().map(|input| &*input.name))
            )));
        }
        let mut given: Vec<Option<Tensor>> = given.into_iter().map(Some).collect();
        let mut inputs = Vec::with_capacity(spec.inputs.len());
        let mut items = None;
        let mut bucket = Fnv::new();
        let may_join = spec.inputs.iter().any(is_joined);
        for expected in &spec.inputs {
            let is_named = |slot: &&mut Option<Tensor>| {
                slot.as_ref()
                    .is_some_and(|tensor| tensor.name == expected.name)
            };
            let mut named = given.iter_mut().filter(is_named);
            let Some(tensor) = named.next().and_then(Option::take) else {
                inputs.extend(given.into_iter().flatten());
                return Err(missing(target, &inputs));
            };
            if named.next().is_some() {
                return Err(InferError::invalid(format!(
                    "input `{}` is given twice",
                    expected.name
                )));
            }
            check_tensor(model, expected, &tensor)?;
            count_items(expected, &tensor, &mut items)?;
            bucket.add_tensor(expected, &tensor, may_join);
            inputs.push(tensor);
        }
        Ok(Self {
            inputs,
            items: items.unwrap_or(1),
            bucket: bucket.0,
        })
    }
}

/// Says which inputs a request lacks.
fn missing(Target { model, spec }: Target<'_>, given: &[Tensor]) -> InferError {
    let lacks = |input: &&TensorSpec| given.iter().all(|tensor| tensor.name != input.name);
    InferError::invalid(format!(
        "expected {} inputs but got {} inputs for model '{model}'. Got input(s) [{}], but missing \
         required input(s) [{}]. Please provide all required input(s).",
        spec.inputs.len(),
        given.len(),
        quoted(given.iter().map(|tensor| &*tensor.name)),
        quoted(spec.inputs.iter().filter(lacks).map(|input| &*input.name)),
    ))
}

fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.map(|name| format!("'{name}'")).collect();
    names.join(", ")
}

/// Returns a shape as the protocol's sentences write it.
pub(crate) fn shape_text(shape: &[i64]) -> String {
    let dimensions: Vec<_> = shape.iter().map(i64::to_string).collect();
    format!("[{}]", dimensions.join(","))
}

fn check_tensor(model: &str, expected: &TensorSpec, tensor: &Tensor) -> Result<(), InferError> {
    let name = &expected.name;
    if tensor.datatype != expected.datatype {
        return Err(InferError::invalid(format!(
            "inference input '{name}' data-type is '{}', but model '{model}' expects '{}'",
            tensor.datatype, expected.datatype
        )));
    }
    let fits = tensor.shape.len() == expected.shape.len()
        && expected
            .shape
            .iter()
            .zip(&tensor.shape)
            .all(|(&want, &got)| want < 0 || want == got);
    if !fits {
        return Err(InferError::invalid(format!(
            "unexpected shape for input '{name}' for model '{model}'. Expected {}, got {}",
            shape_text(&expected.shape),
            shape_text(&tensor.shape)
        )));
    }
    match tensor.expected_bytes()? {
        Some(bytes) if bytes != tensor.data.len() => Err(InferError::invalid(format!(
            "input byte size mismatch for input '{name}' for model '{model}'. Expected {bytes}, got {}",
            tensor.data.len()
        ))),
        Some(_) if tensor.datatype == DataType::Bool => {
            match tensor.data.iter().find(|&&is| is > 1) {
                Some(other) => Err(InferError::invalid(format!(
                    "input `{name}`: expected 0 or 1 for each BOOL, got {other}"
                ))),
                None => Ok(()),
            }
        }
        Some(_) => Ok(()),
        None => tensor.check_length(),
    }
}

/// Whether requests are joined in this tensor. A fixed batch axis can't be: the request is one item
/// whatever its length there.
fn is_joined(spec: &TensorSpec) -> bool {
    spec.batch_axis
        .is_some_and(|axis| spec.shape.get(axis) == Some(&-1))
}

fn count_items(
    expected: &TensorSpec,
    tensor: &Tensor,
    items: &mut Option<u32>,
) -> Result<(), InferError> {
    let Some(axis) = expected.batch_axis.filter(|_| is_joined(expected)) else {
        return Ok(());
    };
    let length = u32::try_from(tensor.shape[axis]).unwrap_or(u32::MAX);
    match *items {
        Some(others) if others != length => Err(InferError::invalid(format!(
            "input `{}`: expected {others} items in dimension {axis} as in the other inputs, got {length}",
            expected.name
        ))),
        _ => {
            *items = Some(length);
            Ok(())
        }
    }
}

/// FNV-1a over 64-bit words: a bucket is compared by hash alone, so the worker checks once more
/// that the shapes of a batch join (`workers-engine`); a collision costs a split batch, no wrong answer.
#[derive(Debug)]
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
    }

    /// What is in it counts where entries may be joined.
    fn add_tensor(&mut self, spec: &TensorSpec, tensor: &Tensor, may_join: bool) {
        for (axis, &dimension) in tensor.shape.iter().enumerate() {
            if spec.batch_axis != Some(axis) {
                self.add(dimension.cast_unsigned());
            }
        }
        if spec.batch_axis.is_none() && may_join {
            for &byte in &tensor.data {
                self.add(u64::from(byte));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use model_store::DataType;

    use super::*;

    fn spec(inputs: Vec<TensorSpec>) -> ModelSpec {
        ModelSpec {
            platform: "onnxruntime_onnx".to_owned(),
            task: None,
            inputs,
            outputs: Vec::new(),
            max_batch: 4,
            instances: 1,
            notes: Vec::new(),
        }
    }

    fn input(name: &str, shape: &[i64], batch_axis: Option<usize>) -> TensorSpec {
        TensorSpec {
            name: name.to_owned(),
            datatype: DataType::Fp32,
            shape: shape.to_vec(),
            batch_axis,
        }
    }

    fn tensor(name: &str, shape: &[i64]) -> Tensor {
        let bytes = shape.iter().product::<i64>().max(0) as usize * 4;
        Tensor {
            name: name.to_owned(),
            datatype: DataType::Fp32,
            shape: shape.to_vec(),
            data: Bytes::from(vec![0; bytes]),
        }
    }

    const fn target(spec: &ModelSpec) -> Target<'_> {
        Target { model: "m", spec }
    }

    fn check(spec: &ModelSpec, inputs: Vec<Tensor>) -> Result<CheckedInputs, InferError> {
        CheckedInputs::check(target(spec), inputs)
    }

    fn refusal(spec: &ModelSpec, inputs: Vec<Tensor>) -> String {
        check(spec, inputs).unwrap_err().message
    }

    #[test]
    fn inputs_are_put_in_the_order_of_the_spec() {
        let spec = spec(vec![input("a", &[-1, 2], Some(0)), input("b", &[3], None)]);
        let checked = check(&spec, vec![tensor("b", &[3]), tensor("a", &[2, 2])]).unwrap();
        assert_eq!(checked.inputs[0].name, "a");
        assert_eq!(checked.items, 2);
    }

    #[test]
    fn every_refusal_names_the_input_and_both_sides() {
        let spec = spec(vec![input("a", &[-1, 2], Some(0))]);
        assert_eq!(
            refusal(&spec, vec![]),
            "expected 1 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing required \
             input(s) ['a']. Please provide all required input(s)."
        );
        assert_eq!(
            refusal(&spec, vec![tensor("a", &[1, 3])]),
            "unexpected shape for input 'a' for model 'm'. Expected [-1,2], got [1,3]"
        );
        assert_eq!(
            refusal(&spec, vec![tensor("a", &[1, 2]), tensor("x", &[1])]),
            "unexpected inference input 'x' for model 'm': it takes 'a'"
        );
        assert_eq!(
            refusal(&spec, vec![tensor("a", &[1, 2]), tensor("a", &[1, 2])]),
            "input `a` is given twice"
        );
        assert_eq!(
            refusal(&spec, vec![tensor("a", &[9, 2])]),
            "inference request batch-size must be <= 4 for 'm', and at least 1, got 9"
        );
        let mut short = tensor("a", &[1, 2]);
        short.data = Bytes::from_static(&[0; 7]);
        assert_eq!(
            refusal(&spec, vec![short]),
            "input byte size mismatch for input 'a' for model 'm'. Expected 8, got 7"
        );
    }

    #[test]
    fn a_boolean_is_0_or_1() {
        let mut flags = input("flags", &[-1], Some(0));
        flags.datatype = DataType::Bool;
        let spec = spec(vec![flags]);
        let flags = |bytes: &'static [u8]| Tensor {
            datatype: DataType::Bool,
            data: Bytes::from_static(bytes),
            ..tensor("flags", &[2])
        };
        assert!(check(&spec, vec![flags(&[0, 1])]).is_ok());
        assert_eq!(
            refusal(&spec, vec![flags(&[1, 2])]),
            "input `flags`: expected 0 or 1 for each BOOL, got 2"
        );
    }

    #[test]
    fn shapes_that_overflow_or_are_negative_are_refused() {
        for shape in [&[i64::MAX, i64::MAX][..], &[-2][..], &[1; 17][..]] {
            let claimed = Tensor {
                shape: shape.to_vec(),
                ..tensor("a", &[1])
            };
            assert!(claimed.check_length().is_err(), "{shape:?}");
        }
    }

    #[test]
    fn an_input_without_a_batch_axis_must_be_equal_to_share_a_bucket() {
        let spec = spec(vec![
            input("a", &[-1, 2], Some(0)),
            input("rate", &[1], None),
        ]);
        let bucket = |byte: u8, items: i64| {
            let rate = Tensor {
                data: Bytes::from(vec![byte; 4]),
                ..tensor("rate", &[1])
            };
            check(&spec, vec![tensor("a", &[items, 2]), rate])
                .unwrap()
                .bucket
        };
        assert_eq!(bucket(1, 1), bucket(1, 3));
        assert_ne!(bucket(1, 1), bucket(2, 1));
    }

    #[test]
    fn what_is_larger_than_a_batch_is_split_in_order() {
        let spec = spec(vec![
            input("a", &[-1, 1], Some(0)),
            input("state", &[2, -1], Some(1)),
            input("rate", &[], None),
        ]);
        let bytes = |name: &str, shape: &[i64]| {
            let mut tensor = tensor(name, shape);
            tensor.data = (0..tensor.data.len()).map(|at| (at / 4) as u8).collect();
            tensor
        };
        let given = || {
            vec![
                bytes("a", &[9, 1]),
                bytes("state", &[2, 9]),
                bytes("rate", &[]),
            ]
        };
        let mut reserved = 0;
        let parts = CheckedInputs::check_split(target(&spec), given(), |bytes| {
            reserved = bytes;
            Ok(())
        });
        let parts = parts.unwrap();
        assert_eq!(reserved, 2 * 9 * 4);
        let items: Vec<_> = parts.iter().map(|part| part.items).collect();
        assert_eq!(items, [4, 4, 1]);
        let elements = |tensor: &Tensor| {
            let elements = tensor.data.chunks(4).map(|element| element[0]);
            elements.collect::<Vec<_>>()
        };
        assert_eq!(elements(&parts[1].inputs[0]), [4, 5, 6, 7]);
        assert_eq!(parts[1].inputs[1].shape, [2, 4]);
        assert_eq!(elements(&parts[1].inputs[1]), [4, 5, 6, 7, 13, 14, 15, 16]);
        assert_eq!(elements(&parts[2].inputs[1]), [8, 17]);
        assert!(parts.iter().all(|part| part.inputs[2].shape.is_empty()));
        assert!(parts.iter().all(|part| part.bucket == parts[0].bucket));

        let no_room = |_| Err(InferError::new(crate::Code::Overloaded, "no room"));
        assert!(CheckedInputs::check_split(target(&spec), given(), no_room).is_err());
    }

    #[test]
    fn what_cannot_be_split_is_refused_with_the_numbers() {
        let mut spec = spec(vec![input("a", &[-1, 0], Some(0))]);
        let refusal = |spec: &ModelSpec, items: i64| {
            let given = vec![tensor("a", &[items, 0])];
            let split = CheckedInputs::check_split(target(spec), given, |_| Ok(()));
            split
                .map(|parts| parts.len())
                .map_err(|error| error.message)
        };
        let refused =
            |numbers: &str| Err(format!("inference request batch-size must be <= {numbers}"));
        assert_eq!(refusal(&spec, 1024), Ok(256));
        assert_eq!(
            refusal(&spec, 1025),
            refused("1024 for 'm', and at least 1, got 1025")
        );
        assert_eq!(
            refusal(&spec, 0),
            refused("1024 for 'm', and at least 1, got 0")
        );
        assert_eq!(
            refusal(&spec, i64::MAX),
            refused("1024 for 'm', and at least 1, got 4294967295")
        );
        // What this output would be of a part, nobody knows.
        spec.outputs = vec![input("mean", &[1], None)];
        assert_eq!(refusal(&spec, 4), Ok(1));
        assert_eq!(
            refusal(&spec, 5),
            refused("4 for 'm', and at least 1, got 5")
        );
    }

    #[test]
    fn bytes_elements_must_fill_the_data_exactly() {
        let data = |bytes: &'static [u8]| Tensor {
            datatype: DataType::Bytes,
            data: Bytes::from_static(bytes),
            ..tensor("a", &[2])
        };
        assert!(data(b"\x01\0\0\0x\0\0\0\0").check_length().is_ok());
        for bad in [
            &b"\x01\0\0\0x"[..],
            b"\xff\xff\xff\xffx\0\0\0\0",
            b"\x01\0\0\0x\0\0\0\0z",
        ] {
            assert!(data(bad).check_length().is_err(), "{bad:?}");
        }
    }
}
