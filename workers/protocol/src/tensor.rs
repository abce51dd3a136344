//! A tensor on its way between processes.

use bytes::Bytes;
use model_store::DataType;

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
    /// Dimensions; none is negative.
    pub shape: Vec<i64>,
    /// The elements.
    pub data: Bytes,
}
