//! Joining entries into a batch, and cutting its outputs apart.
//!
//! Hot path: a batch of one shares its bytes, outputs joined along axis 0 are cut without a copy.

use bytes::Bytes;
use model_store::TensorSpec;
use workers_protocol::{InferError, Tensor};

/// Bytes that begin where any element type may, for an engine to read as numbers.
#[derive(Debug)]
pub struct AlignedBytes {
    words: Vec<u64>,
    len: usize,
}

impl AlignedBytes {
    /// Returns this many zeros.
    pub fn zeroed(len: usize) -> Self {
        Self {
            words: vec![0; len.div_ceil(size_of::<u64>())],
            len,
        }
    }

    /// Returns them for writing.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}

/// The rows of a tensor along an axis: `outer` times, `row_bytes` for each item.
#[derive(Clone, Copy)]
struct Rows {
    outer: usize,
    row_bytes: usize,
}

impl Rows {
    fn of(shape: &[i64], axis: usize, element_bytes: usize) -> Option<Self> {
        let product = |dimensions: &[i64]| {
            dimensions.iter().try_fold(1_usize, |product, &dimension| {
                product.checked_mul(usize::try_from(dimension).ok()?)
            })
        };
        Some(Self {
            outer: product(shape.get(..axis)?)?,
            row_bytes: product(shape.get(axis + 1..)?)?.checked_mul(element_bytes)?,
        })
    }
}

/// Joins the inputs of several entries, each in the order of `specs`, into those of one batch.
///
/// Inputs with a batch axis are joined along it in the order of the entries; the others must be
/// equal in all. A single entry shares its bytes.
///
/// # Errors
/// `Internal` when the entries can't be joined, since they were promised to.
pub fn gather(specs: &[TensorSpec], entries: &[&[Tensor]]) -> Result<Vec<Tensor>, InferError> {
    let (first, others) = match entries {
        [] => return Err(InferError::internal("a batch has no entries")),
        [only] => return Ok(only.to_vec()),
        [first, others @ ..] => (*first, others),
    };
    specs
        .iter()
        .enumerate()
        .map(|(index, spec)| {
            let first = input(first, index)?;
            let others: Vec<&Tensor> = others
                .iter()
                .map(|entry| input(entry, index))
                .collect::<Result<_, _>>()?;
            match spec.batch_axis {
                Some(axis) => join(first, &others, axis),
                None if others
                    .iter()
                    .all(|other| other.shape == first.shape && other.data == first.data) =>
                {
                    Ok(first.clone())
                }
                None => Err(cannot_join(&spec.name)),
            }
        })
        .collect()
}

/// Cuts the outputs of a batch into those of its entries, of so many items each.
///
/// An output without a batch axis is every entry's.
///
/// # Errors
/// `Internal` when an output has not as many items along its axis as were put in.
pub fn scatter(
    specs: &[TensorSpec],
    outputs: &[Tensor],
    items: &[u32],
) -> Result<Vec<Vec<Tensor>>, InferError> {
    if let [_] = items {
        return Ok(vec![outputs.to_vec()]);
    }
    let mut entries: Vec<Vec<Tensor>> = items
        .iter()
        .map(|_| Vec::with_capacity(outputs.len()))
        .collect();
    for (index, output) in outputs.iter().enumerate() {
        match specs.get(index).and_then(|spec| spec.batch_axis) {
            Some(axis) => {
                for (entry, part) in entries.iter_mut().zip(split(output, axis, items)?) {
                    entry.push(part);
                }
            }
            None => {
                for entry in &mut entries {
                    entry.push(output.clone());
                }
            }
        }
    }
    Ok(entries)
}

fn input(entry: &[Tensor], index: usize) -> Result<&Tensor, InferError> {
    entry
        .get(index)
        .ok_or_else(|| InferError::internal("an entry lacks an input"))
}

fn cannot_join(name: &str) -> InferError {
    InferError::internal(format!(
        "input `{name}`: entries of different shapes were put in one batch"
    ))
}

fn join(first: &Tensor, others: &[&Tensor], axis: usize) -> Result<Tensor, InferError> {
    let same_but_for_axis = |other: &&&Tensor| {
        other.shape.len() == first.shape.len()
            && other.datatype == first.datatype
            && (0..other.shape.len()).all(|at| at == axis || other.shape[at] == first.shape[at])
    };
    let all: Vec<&Tensor> = std::iter::once(&first)
        .chain(others.iter().filter(same_but_for_axis))
        .copied()
        .collect();
    if all.len() != others.len() + 1 || axis >= first.shape.len() {
        return Err(cannot_join(&first.name));
    }
    let mut shape = first.shape.clone();
    shape[axis] = all.iter().map(|tensor| tensor.shape[axis]).sum();

    let data = if let (Some(element_bytes), true) = (first.datatype.element_bytes(), axis > 0) {
        let rows =
            Rows::of(&first.shape, axis, element_bytes).ok_or_else(|| cannot_join(&first.name))?;
        interleave(&all, rows, axis)
    } else {
        // Along axis 0, and for BYTES (whose elements are self-delimiting only there), items follow each other.
        if axis > 0 {
            return Err(cannot_join(&first.name));
        }
        concatenate(&all)
    };
    Ok(Tensor {
        name: first.name.clone(),
        datatype: first.datatype,
        shape,
        data,
    })
}

fn concatenate(all: &[&Tensor]) -> Bytes {
    let mut joined = AlignedBytes::zeroed(all.iter().map(|tensor| tensor.data.len()).sum());
    let mut rest = joined.as_mut_slice();
    for tensor in all {
        let (here, after) = rest.split_at_mut(tensor.data.len());
        here.copy_from_slice(&tensor.data);
        rest = after;
    }
    Bytes::from_owner(joined)
}

fn interleave(all: &[&Tensor], rows: Rows, axis: usize) -> Bytes {
    let mut joined = AlignedBytes::zeroed(all.iter().map(|tensor| tensor.data.len()).sum());
    let mut rest = joined.as_mut_slice();
    for outer in 0..rows.outer {
        for tensor in all {
            let bytes = usize::try_from(tensor.shape[axis]).unwrap_or(0) * rows.row_bytes;
            let (here, after) = rest.split_at_mut(bytes);
            here.copy_from_slice(&tensor.data[outer * bytes..][..bytes]);
            rest = after;
        }
    }
    Bytes::from_owner(joined)
}

fn split(output: &Tensor, axis: usize, items: &[u32]) -> Result<Vec<Tensor>, InferError> {
    let expected: u64 = items.iter().map(|&items| u64::from(items)).sum();
    let mismatch = || {
        InferError::internal(format!(
            "output `{}` has shape {:?}: expected {expected} items in dimension {axis}",
            output.name, output.shape
        ))
    };
    let actual = output
        .shape
        .get(axis)
        .and_then(|&length| u64::try_from(length).ok());
    if actual != Some(expected) {
        return Err(mismatch());
    }
    let Some(element_bytes) = output.datatype.element_bytes() else {
        return split_bytes(output, axis, items).ok_or_else(mismatch);
    };
    let rows = Rows::of(&output.shape, axis, element_bytes).ok_or_else(mismatch)?;
    let stride = usize::try_from(expected).map_err(|_| mismatch())? * rows.row_bytes;
    let mut begin = 0;
    let parts = items.iter().map(|&items| {
        let bytes = items as usize * rows.row_bytes;
        let data = if rows.outer == 1 {
            output.data.slice(begin..begin + bytes)
        } else {
            let cuts = (0..rows.outer).map(|outer| &output.data[outer * stride + begin..][..bytes]);
            Bytes::from(cuts.collect::<Vec<_>>().concat())
        };
        begin += bytes;
        part(output, axis, items, data)
    });
    Ok(parts.collect())
}

/// Splits BYTES along axis 0: its elements have lengths of their own.
fn split_bytes(output: &Tensor, axis: usize, items: &[u32]) -> Option<Vec<Tensor>> {
    let elements_per_item = Rows::of(&output.shape, axis, 1)
        .filter(|rows| rows.outer == 1)?
        .row_bytes;
    let mut elements = output.bytes_elements();
    let mut begin = 0;
    items
        .iter()
        .map(|&items| {
            let n_elements = elements_per_item * items as usize;
            let bytes: usize = elements
                .by_ref()
                .take(n_elements)
                .map(|element| element.len() + 4)
                .sum();
            let data = output.data.slice(begin..begin + bytes);
            begin += bytes;
            Some(part(output, axis, items, data))
        })
        .collect()
}

fn part(output: &Tensor, axis: usize, items: u32, data: Bytes) -> Tensor {
    let mut shape = output.shape.clone();
    shape[axis] = i64::from(items);
    Tensor {
        name: output.name.clone(),
        datatype: output.datatype,
        shape,
        data,
    }
}

#[cfg(test)]
mod tests;
