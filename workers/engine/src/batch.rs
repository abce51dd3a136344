//! Joining entries into a batch, and cutting its outputs apart.
//!
//! Hot path: a batch of one shares its bytes, outputs joined along axis 0 are cut without a copy.

use model_store::TensorSpec;
use workers_protocol::{InferError, Tensor};

/// Joins the inputs of several entries, each in the order of `specs`, into those of one batch.
///
/// Inputs with a batch axis are joined along it in the order of the entries; the others must be
/// equal in all. A single entry shares its bytes.
///
/// # Errors
/// `Internal` when the entries can't be joined, since they were promised to.
pub fn gather(specs: &[TensorSpec], entries: &[&[Tensor]]) -> Result<Vec<Tensor>, InferError> {
    let first = match entries {
        [] => return Err(InferError::internal("a batch has no entries")),
        [only] => return Ok(only.to_vec()),
        [first, ..] => *first,
    };
    specs
        .iter()
        .enumerate()
        .map(|(index, spec)| {
            let all: Vec<&Tensor> = entries
                .iter()
                .map(|entry| input(entry, index))
                .collect::<Result<_, _>>()?;
            match spec.batch_axis {
                Some(axis) => Tensor::join(&all, axis),
                None => {
                    let first = input(first, index)?;
                    let is_same =
                        |other: &&Tensor| other.shape == first.shape && other.data == first.data;
                    if all.iter().all(is_same) {
                        Ok(first.clone())
                    } else {
                        Err(InferError::internal(format!(
                            "input `{}`: entries of different values were put in one batch",
                            spec.name
                        )))
                    }
                }
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
                for (entry, part) in entries.iter_mut().zip(output.split(axis, items)?) {
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

#[cfg(test)]
mod tests;
