//! Checking a version when it is added, so that what can't be served is refused then, with the
//! reason, and never at the first request.

use std::path::Path;

use bytes::Bytes;
use model_store::{DataType, EngineKind, Manifest, ModelSpec, Preparation, TensorSpec};
use workers_ort::{Runtime, rewrite_declared_shapes};
use workers_protocol::wire::PICTURE_INPUT;
use workers_protocol::{Code, InferError, PictureOptions, Tensor};

use crate::instance::caught;
use crate::model::{Finish, Loaded, Runner, Source, Staged, Stager, read_manifest};

/// What free dimensions other than the batch are tried with, in order: most graphs take 1; those
/// with strides or pooling need more.
const SIDES: [i64; 5] = [1, 8, 32, 64, 224];

/// Side of the black picture that a model with a task is tried with.
const PICTURE_SIDE: u32 = 64;

/// Rewrites declared shapes as the manifest says, loads the version, and runs it on zeros.
pub(crate) fn prepare(source: &Source, onnxruntime: Option<&Path>) -> Preparation {
    let checked = caught("the check", || check(source, onnxruntime));
    match checked {
        Ok(spec) => Preparation::Accepted(spec),
        Err(error) if matches!(error.code, Code::Unavailable | Code::Internal) => {
            Preparation::Unavailable(error.message)
        }
        Err(error) => Preparation::Refused(error.message),
    }
}

fn check(source: &Source, onnxruntime: Option<&Path>) -> Result<ModelSpec, InferError> {
    let manifest = read_manifest(&source.model)?;
    let mut notes = rewrite(&source.model, &manifest)?;
    let runtime = Runtime::load(onnxruntime)?;
    let mut loaded = Loaded::load(&runtime, source)?;
    let Some(mut runner) = loaded.runners.pop() else {
        return Err(InferError::internal("no instance"));
    };
    let example = match &loaded.stager {
        Stager::Tensors(_) => run_tensors(&loaded, &manifest, &mut runner)?,
        Stager::Pictures(_) => Example::Picture,
    };
    run_batch(&loaded, &example, &mut runner, 1).map_err(|error| failed_on_zeros(&error))?;

    let mut spec = loaded.spec.clone();
    // A graph may declare a free batch and have it fixed inside.
    if spec.max_batch > 1
        && let Err(error) = run_batch(&loaded, &example, &mut runner, 2)
    {
        if manifest.batch.max.is_some_and(|max| max > 1) {
            return Err(InferError::invalid(format!(
                "`batch.max` is {}, but the model does not run a batch of two: {error}",
                spec.max_batch
            )));
        }
        notes.push(format!(
            "the model does not run a batch of two ({error}): one at a time"
        ));
        spec.max_batch = 1;
    }
    notes.append(&mut spec.notes);
    spec.notes = notes;
    Ok(spec)
}

fn failed_on_zeros(error: &InferError) -> InferError {
    InferError::invalid(format!("the model does not run on zeros: {error}"))
}

/// Rewrites the model's file where the manifest frees what the graph fixes.
fn rewrite(folder: &Path, manifest: &Manifest) -> Result<Vec<String>, InferError> {
    let declares = manifest
        .inputs
        .iter()
        .chain(&manifest.outputs)
        .any(|declared| declared.shape.is_some());
    if manifest.engine != Some(EngineKind::Onnx) || !declares {
        return Ok(Vec::new());
    }
    let file = manifest
        .model_file(folder)
        .map_err(|error| InferError::invalid(error.to_string()))?;
    let io = |error: std::io::Error| InferError::internal(format!("{}: {error}", file.display()));
    let model = std::fs::read(&file).map_err(io)?;
    match rewrite_declared_shapes(&model, &manifest.inputs, &manifest.outputs)? {
        Some(rewritten) => {
            std::fs::write(&file, rewritten.model).map_err(io)?;
            Ok(rewritten.notes)
        }
        None => Ok(Vec::new()),
    }
}

/// What a model is tried with.
enum Example {
    /// Tensors of zeros, or what the manifest gives as example; free dimensions are this long.
    Tensors(Vec<f64>, i64),
    Picture,
}

/// Finds a length of the free dimensions that the model takes.
fn run_tensors(
    loaded: &Loaded,
    manifest: &Manifest,
    runner: &mut Runner,
) -> Result<Example, InferError> {
    let values: Vec<f64> = loaded
        .spec
        .inputs
        .iter()
        .map(|input| {
            let declared = manifest
                .inputs
                .iter()
                .find(|declared| declared.name == input.name);
            declared
                .and_then(|declared| declared.example)
                .unwrap_or(0.0)
        })
        .collect();
    let mut first_error = None;
    for side in SIDES {
        let example = Example::Tensors(values.clone(), side);
        match run_batch(loaded, &example, runner, 1) {
            Ok(()) => return Ok(example),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    let error = first_error.unwrap_or_else(|| InferError::internal("nothing was tried"));
    Err(InferError::invalid(format!(
        "{}; where an input takes certain values or sizes only, say so in model.yaml: \
         `inputs: [{{ name: …, shape: […], example: … }}]`",
        failed_on_zeros(&error)
    )))
}

fn run_batch(
    loaded: &Loaded,
    example: &Example,
    runner: &mut Runner,
    n: usize,
) -> Result<(), InferError> {
    let staged = (0..n)
        .map(|_| stage(loaded, example))
        .collect::<Result<Vec<_>, _>>()?;
    let finishes = runner.run(&staged)?;
    if finishes.len() != n {
        return Err(InferError::internal(format!(
            "{} answers for a batch of {n}",
            finishes.len()
        )));
    }
    for finish in finishes {
        if let Finish::Later(work) = finish {
            work()?;
        }
    }
    if let Runner::Masks(masks) = runner {
        // A black picture has no faces: the second stage is tried by itself.
        masks.try_second_stage()?;
    }
    Ok(())
}

fn stage(loaded: &Loaded, example: &Example) -> Result<Staged, InferError> {
    let inputs = match example {
        Example::Picture => {
            let data = black_picture();
            let name = PICTURE_INPUT.to_owned();
            vec![Tensor {
                name,
                datatype: DataType::Uint8,
                shape: vec![data.len() as i64],
                data,
            }]
        }
        Example::Tensors(values, side) => {
            let inputs = loaded.spec.inputs.iter().zip(values);
            inputs
                .map(|(spec, &value)| filled(spec, value, *side))
                .collect::<Result<_, _>>()?
        }
    };
    loaded.stager.stage(inputs, PictureOptions::default())
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
