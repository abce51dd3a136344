//! The classification extension: of an output the greatest elements, as `<value>:<index>[:<label>]`.
//!
//! Source: Triton's classification extension; values are written as C's `%f` and `%d` do.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fmt;

use half::{bf16, f16};
use model_store::{DataType, TensorSpec};

use crate::{InferError, Tensor};

/// Most classes of all items: some tens of megabytes of text, for which no room is taken.
const MAX_CLASSES: usize = 1_000_000;

/// Checks that an output has elements that can be compared.
pub(super) fn check(output: &TensorSpec) -> Result<(), InferError> {
    match output.datatype {
        DataType::Bool | DataType::Bytes => Err(InferError::invalid(format!(
            "output `{}`: `classification`: expected an output of numbers, it is {}",
            output.name, output.datatype
        ))),
        _ => Ok(()),
    }
}

/// An element, as it is compared and written.
#[derive(Clone, Copy, Debug)]
enum Number {
    Whole(i128),
    Real(f64),
}

impl Number {
    /// Reads one element; `None` for what is no number of this datatype.
    fn read(datatype: DataType, bytes: &[u8]) -> Option<Self> {
        macro_rules! whole {
            ($integer:ty) => {
                Self::Whole(<$integer>::from_le_bytes(bytes.try_into().ok()?).into())
            };
        }
        Some(match datatype {
            DataType::Uint8 => whole!(u8),
            DataType::Uint16 => whole!(u16),
            DataType::Uint32 => whole!(u32),
            DataType::Uint64 => whole!(u64),
            DataType::Int8 => whole!(i8),
            DataType::Int16 => whole!(i16),
            DataType::Int32 => whole!(i32),
            DataType::Int64 => whole!(i64),
            DataType::Fp16 => Self::Real(f16::from_le_bytes(bytes.try_into().ok()?).into()),
            DataType::Bf16 => Self::Real(bf16::from_le_bytes(bytes.try_into().ok()?).into()),
            DataType::Fp32 => Self::Real(f32::from_le_bytes(bytes.try_into().ok()?).into()),
            DataType::Fp64 => Self::Real(f64::from_le_bytes(bytes.try_into().ok()?)),
            DataType::Bool | DataType::Bytes => return None,
        })
    }

    /// Compares, what is no number being less than everything.
    fn order(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => a.cmp(&b),
            (Self::Real(a), Self::Real(b)) if a.is_nan() || b.is_nan() => {
                b.is_nan().cmp(&a.is_nan())
            }
            (Self::Real(a), Self::Real(b)) => a.total_cmp(&b),
            // Elements of one tensor are of one kind.
            (Self::Whole(_), Self::Real(_)) | (Self::Real(_), Self::Whole(_)) => Ordering::Equal,
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => value.fmt(f),
            Self::Real(value) if value.is_nan() => f.write_str("nan"),
            Self::Real(value) => write!(f, "{value:.6}"),
        }
    }
}

/// An element and where it is.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    index: usize,
    number: Number,
}

impl Ord for Ranked {
    /// Of equals the first is the greater.
    fn cmp(&self, other: &Self) -> Ordering {
        let by_number = self.number.order(other.number);
        by_number.then(other.index.cmp(&self.index))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

/// Returns the greatest elements of each item, the greatest first, as a `BYTES` tensor: of shape
/// `[items, classes]` where the output's first dimension is the batch, `[classes]` otherwise. There
/// are no more classes than elements.
///
/// # Errors
/// `TooLarge` for more classes than there may be; `Internal` for an output that is not the numbers
/// that were declared.
pub(super) fn classify(
    output: &Tensor,
    is_batched: bool,
    classes: u32,
    labels: &[String],
) -> Result<Tensor, InferError> {
    let not_numbers = || {
        InferError::internal(format!(
            "output `{}` is not the numbers that the model declares",
            output.name
        ))
    };
    output.check_length().map_err(|_| not_numbers())?;
    let element_bytes = output.datatype.element_bytes().ok_or_else(not_numbers)?;
    let items = match output.shape.first() {
        Some(&items) if is_batched => usize::try_from(items).unwrap_or(0),
        _ => 1,
    };
    let row = output.elements()?.checked_div(items).unwrap_or(0);
    let classes = row.min(usize::try_from(classes).unwrap_or(usize::MAX));
    if classes.saturating_mul(items) > MAX_CLASSES {
        return Err(InferError::too_large(format!(
            "output `{}`: `classification`: {items} items with {classes} classes each are more than \
             {MAX_CLASSES}: ask for fewer",
            output.name
        )));
    }
    let mut data = Vec::new();
    if classes > 0 {
        // The least of the greatest comes first.
        let mut greatest = BinaryHeap::with_capacity(classes);
        for item in output.data.chunks_exact(row * element_bytes) {
            for (index, bytes) in item.chunks_exact(element_bytes).enumerate() {
                let number = Number::read(output.datatype, bytes).ok_or_else(not_numbers)?;
                let ranked = Reverse(Ranked { index, number });
                if greatest.len() < classes {
                    greatest.push(ranked);
                } else if let Some(mut least) = greatest.peek_mut()
                    && *least > ranked
                {
                    *least = ranked;
                }
            }
            let mut ranked: Vec<_> = greatest.drain().collect();
            ranked.sort_unstable();
            for Reverse(Ranked { index, number }) in ranked {
                let text = match labels.get(index) {
                    Some(label) => format!("{number}:{index}:{label}"),
                    None => format!("{number}:{index}"),
                };
                // Labels are far shorter.
                let length = u32::try_from(text.len()).map_err(|_| not_numbers())?;
                data.extend_from_slice(&length.to_le_bytes());
                data.extend_from_slice(text.as_bytes());
            }
        }
    }
    let n_classes = i64::try_from(classes).unwrap_or(i64::MAX);
    let n_items = i64::try_from(items).unwrap_or(i64::MAX);
    Ok(Tensor {
        name: output.name.clone(),
        datatype: DataType::Bytes,
        shape: match is_batched {
            true => vec![n_items, n_classes],
            false => vec![n_classes],
        },
        data: data.into(),
    })
}
