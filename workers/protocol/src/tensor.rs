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
            bucket.add_tensor(expected, &tensor);
            inputs.push(tensor);
        }
        let items = items.unwrap_or(1);
        if items == 0 || items > spec.max_batch {
            return Err(InferError::invalid(format!(
                "inference request batch-size must be <= {} for '{model}', and at least 1, got {items}",
                spec.max_batch
            )));
        }
        Ok(Self {
            inputs,
            items,
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
        Some(_) => Ok(()),
        None => tensor.check_length(),
    }
}

fn count_items(
    expected: &TensorSpec,
    tensor: &Tensor,
    items: &mut Option<u32>,
) -> Result<(), InferError> {
    // A fixed batch axis can't be joined: the request is one item whatever its length there.
    let Some(axis) = expected
        .batch_axis
        .filter(|&axis| expected.shape.get(axis) == Some(&-1))
    else {
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

    fn add_tensor(&mut self, spec: &TensorSpec, tensor: &Tensor) {
        for (axis, &dimension) in tensor.shape.iter().enumerate() {
            if spec.batch_axis != Some(axis) {
                self.add(dimension.cast_unsigned());
            }
        }
        if spec.batch_axis.is_none() {
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

    fn check(spec: &ModelSpec, inputs: Vec<Tensor>) -> Result<CheckedInputs, InferError> {
        CheckedInputs::check(Target { model: "m", spec }, inputs)
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
