//! Joining tensors along an axis, and splitting one.
//!
//! Hot path: what is split along axis 0 shares its bytes.

use bytes::Bytes;

use crate::{InferError, Tensor};

/// Bytes that begin where any element type may, for an engine to read as numbers.
#[derive(Debug)]
pub struct AlignedBytes {
    words: Vec<u64>,
    len: usize,
}

/// The rows of a tensor along an axis: `outer` times, `row_bytes` for each item.
#[derive(Clone, Copy)]
struct Rows {
    outer: usize,
    row_bytes: usize,
}

// === impl AlignedBytes ===

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

// === impl Rows ===

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

// === impl Tensor ===

impl Tensor {
    /// Joins tensors along an axis, in order; they are equal in name, datatype and all other
    /// dimensions.
    ///
    /// # Errors
    /// `Internal` when they can't be joined, since they were promised to.
    pub fn join(all: &[&Self], axis: usize) -> Result<Self, InferError> {
        let [first, others @ ..] = all else {
            return Err(InferError::internal("there is nothing to join"));
        };
        let cannot_join = || {
            InferError::internal(format!(
                "`{}`: tensors of different shapes were to be joined",
                first.name
            ))
        };
        let is_same_but_for_axis = |other: &&Self| {
            other.shape.len() == first.shape.len()
                && other.datatype == first.datatype
                && (0..other.shape.len()).all(|at| at == axis || other.shape[at] == first.shape[at])
        };
        let is_whole = |tensor: &&Self| tensor.check_length().is_ok();
        if axis >= first.shape.len()
            || !others.iter().all(is_same_but_for_axis)
            || !all.iter().all(is_whole)
        {
            return Err(cannot_join());
        }
        let mut shape = first.shape.clone();
        shape[axis] = all.iter().map(|tensor| tensor.shape[axis]).sum();
        let data = match first.datatype.element_bytes() {
            // Items follow each other.
            _ if axis == 0 => concatenate(all),
            Some(element_bytes) => {
                let rows = Rows::of(&first.shape, axis, element_bytes).ok_or_else(cannot_join)?;
                interleave(all, rows, axis)
            }
            // The elements of BYTES are self-delimiting only along axis 0.
            None => return Err(cannot_join()),
        };
        Ok(Self {
            name: first.name.clone(),
            datatype: first.datatype,
            shape,
            data,
        })
    }

    /// Splits it along an axis into parts of so many items each.
    ///
    /// # Errors
    /// `Internal` when it has not as many items there as the parts together.
    pub fn split(&self, axis: usize, items: &[u32]) -> Result<Vec<Self>, InferError> {
        let expected: u64 = items.iter().map(|&items| u64::from(items)).sum();
        let mismatch = || {
            InferError::internal(format!(
                "`{}` has shape {:?}: expected {expected} items in dimension {axis}",
                self.name, self.shape
            ))
        };
        let actual = self
            .shape
            .get(axis)
            .and_then(|&length| u64::try_from(length).ok());
        if actual != Some(expected) || self.check_length().is_err() {
            return Err(mismatch());
        }
        let Some(element_bytes) = self.datatype.element_bytes() else {
            return self.split_bytes(axis, items).ok_or_else(mismatch);
        };
        let rows = Rows::of(&self.shape, axis, element_bytes).ok_or_else(mismatch)?;
        let stride = usize::try_from(expected).map_err(|_| mismatch())? * rows.row_bytes;
        let mut begin = 0;
        let parts = items.iter().map(|&items| {
            let bytes = items as usize * rows.row_bytes;
            let data = if rows.outer == 1 {
                self.data.slice(begin..begin + bytes)
            } else {
                let cuts =
                    (0..rows.outer).map(|outer| &self.data[outer * stride + begin..][..bytes]);
                Bytes::from(cuts.collect::<Vec<_>>().concat())
            };
            begin += bytes;
            self.part(axis, items, data)
        });
        Ok(parts.collect())
    }

    /// Splits BYTES along axis 0: its elements have lengths of their own.
    fn split_bytes(&self, axis: usize, items: &[u32]) -> Option<Vec<Self>> {
        let elements_per_item = Rows::of(&self.shape, axis, 1)
            .filter(|rows| rows.outer == 1)?
            .row_bytes;
        let mut elements = self.bytes_elements();
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
                let data = self.data.slice(begin..begin + bytes);
                begin += bytes;
                Some(self.part(axis, items, data))
            })
            .collect()
    }

    fn part(&self, axis: usize, items: u32, data: Bytes) -> Self {
        let mut shape = self.shape.clone();
        shape[axis] = i64::from(items);
        Self {
            name: self.name.clone(),
            datatype: self.datatype,
            shape,
            data,
        }
    }
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
