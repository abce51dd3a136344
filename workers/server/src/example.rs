//! Inputs of zeros, which a version is checked and measured with.

use bytes::Bytes;
use model_store::{DataType, Manifest, TensorSpec};
use workers_protocol::wire::PICTURE_INPUT;
use workers_protocol::{Code, InferError, PictureOptions, Tensor};

use crate::model::{Runner, Staged, Stager};

/// What free dimensions other than the batch are tried with, in order: most graphs take 1; those
/// with strides or pooling need more.
const SIDES: [i64; 5] = [1, 8, 32, 64, 224];

/// Side of the black picture that a model with a task is tried with.
const PICTURE_SIDE: u32 = 64;

/// The inputs of one item that a model runs on: zeros, or what its manifest gives as examples.
#[derive(Clone, Debug)]
pub(crate) struct Example(Vec<Tensor>);

impl Example {
    /// Finds inputs that the model runs on.
    ///
    /// # Errors
    /// When it runs on none, saying what the manifest could say about that.
    pub(crate) fn find(
        stager: &Stager,
        runner: &mut Runner,
        manifest: &Manifest,
    ) -> Result<Self, InferError> {
        let spec = match stager {
            Stager::Pictures(_) => return Ok(Self::picture()),
            Stager::Tensors(spec) => spec,
        };
        let mut first_error = None;
        for side in SIDES {
            let example = Self::tensors(&spec.inputs, manifest, side);
            let ran = example.and_then(|example| {
                runner.run(&example.stage(stager, 1)?)?;
                Ok(example)
            });
            match ran {
                Ok(example) => return Ok(example),
                // Not the model's fault.
                Err(error) if error.code == Code::Unavailable => return Err(error),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        let error = first_error.unwrap_or_else(|| InferError::internal("nothing was tried"));
        Err(InferError::invalid(format!(
            "the model does not run on zeros: {error}; where an input takes certain values or sizes \
             only, say so in model.yaml: `inputs: [{{ name: …, shape: […], example: … }}]`"
        )))
    }

    fn picture() -> Self {
        let data = black_picture();
        Self(vec![Tensor {
            name: PICTURE_INPUT.to_owned(),
            datatype: DataType::Uint8,
            shape: vec![data.len() as i64],
            data,
        }])
    }

    /// Returns tensors whose free dimensions are this long.
    fn tensors(inputs: &[TensorSpec], manifest: &Manifest, side: i64) -> Result<Self, InferError> {
        let filled = inputs.iter().map(|input| {
            let mut declared = manifest.inputs.iter();
            let value = declared
                .find(|declared| declared.name == input.name)
                .and_then(|declared| declared.example);
            filled(input, value.unwrap_or(0.0), side)
        });
        Ok(Self(filled.collect::<Result<_, _>>()?))
    }

    /// Returns so many of it, ready to run.
    ///
    /// # Errors
    /// When the model takes no such input.
    pub(crate) fn stage(&self, stager: &Stager, n: usize) -> Result<Vec<Staged>, InferError> {
        (0..n)
            .map(|_| stager.stage(self.0.clone(), PictureOptions::default()))
            .collect()
    }
}

/// Most bytes of an example: a model that needs more is tried at its first request.
const MAX_EXAMPLE_BYTES: usize = 1 << 30;

/// Returns an input of one item, its elements all the same.
fn filled(spec: &TensorSpec, value: f64, side: i64) -> Result<Tensor, InferError> {
    let shape: Vec<i64> = spec
        .shape
        .iter()
        .enumerate()
        .map(|(axis, &dimension)| match dimension {
            -1 if spec.batch_axis == Some(axis) => 1,
            -1 => side,
            fixed => fixed,
        })
        .collect();
    let element = element(spec.datatype, value);
    let mut tensor = Tensor {
        name: spec.name.clone(),
        datatype: spec.datatype,
        shape,
        data: Bytes::new(),
    };
    let bytes = tensor
        .elements()?
        .checked_mul(element.len())
        .filter(|&bytes| bytes <= MAX_EXAMPLE_BYTES);
    let bytes = bytes.ok_or_else(|| {
        InferError::invalid(format!(
            "input `{}`: shape {:?} is more than can be tried",
            spec.name, tensor.shape
        ))
    })?;
    tensor.data = element
        .iter()
        .copied()
        .cycle()
        .take(bytes)
        .collect::<Vec<u8>>()
        .into();
    Ok(tensor)
}

/// Returns one element, little-endian; an empty string for `BYTES`.
fn element(datatype: DataType, value: f64) -> Vec<u8> {
    match datatype {
        DataType::Bool => vec![u8::from(value != 0.0)],
        DataType::Uint8 => vec![value as u8],
        DataType::Int8 => (value as i8).to_le_bytes().to_vec(),
        DataType::Uint16 => (value as u16).to_le_bytes().to_vec(),
        DataType::Int16 => (value as i16).to_le_bytes().to_vec(),
        DataType::Uint32 => (value as u32).to_le_bytes().to_vec(),
        DataType::Int32 => (value as i32).to_le_bytes().to_vec(),
        DataType::Uint64 => (value as u64).to_le_bytes().to_vec(),
        DataType::Int64 => (value as i64).to_le_bytes().to_vec(),
        DataType::Fp16 => half::f16::from_f64(value).to_le_bytes().to_vec(),
        DataType::Bf16 => half::bf16::from_f64(value).to_le_bytes().to_vec(),
        DataType::Fp32 => (value as f32).to_le_bytes().to_vec(),
        DataType::Fp64 => value.to_le_bytes().to_vec(),
        DataType::Bytes => 0_u32.to_le_bytes().to_vec(),
    }
}

/// Returns a black picture as a BMP: a header of 54 bytes and zeros.
fn black_picture() -> Bytes {
    let pixels_bytes = PICTURE_SIDE * PICTURE_SIDE * 3;
    let mut bmp = b"BM".to_vec();
    // File size, reserved, offset of the pixels; header size, width, height; one plane of 24 bits.
    for word in [
        54 + pixels_bytes,
        0,
        54,
        40,
        PICTURE_SIDE,
        PICTURE_SIDE,
        1 | 24 << 16,
        0,
        pixels_bytes,
        0,
        0,
        0,
        0,
    ] {
        bmp.extend_from_slice(&word.to_le_bytes());
    }
    bmp.resize(54 + pixels_bytes as usize, 0);
    bmp.into()
}
