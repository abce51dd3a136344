//! Checking a version when it is added, so that what can't be served is refused then, with the
//! reason, and never at the first request.

use std::path::Path;

use model_store::{EngineKind, Manifest, ModelSpec, Preparation};
use workers_ort::{Runtime, rewrite_declared_shapes};
use workers_protocol::{Assignment, Code, InferError};

use crate::example::Example;
use crate::instance::caught;
use crate::model::{Finish, Loaded, Runner, Staged, read_manifest};

/// Rewrites declared shapes as the manifest says, loads the version, and runs it on zeros.
pub(crate) fn prepare(assignment: &Assignment, onnxruntime: Option<&Path>) -> Preparation {
    let checked = caught("the check", || check(assignment, onnxruntime));
    match checked {
        Ok(spec) => Preparation::Accepted(spec),
        Err(error) if matches!(error.code, Code::Unavailable | Code::Internal) => {
            Preparation::Unavailable(error.message)
        }
        Err(error) => Preparation::Refused(error.message),
    }
}

fn check(assignment: &Assignment, onnxruntime: Option<&Path>) -> Result<ModelSpec, InferError> {
    let manifest = read_manifest(&assignment.model)?;
    let ignored = manifest.config.iter().flat_map(|config| &config.notes);
    let mut notes: Vec<_> = ignored.cloned().collect();
    notes.append(&mut rewrite(&assignment.model, &manifest)?);
    let runtime = Runtime::load(onnxruntime)?;
    let mut loaded = Loaded::load(&runtime, assignment)?;
    let example = Example::find(&loaded.stager, &mut loaded.runner, &manifest)?;
    try_batch(&mut loaded.runner, &example.stage(&loaded.stager, 1)?).map_err(failed_on_zeros)?;

    let mut spec = loaded.spec.clone();
    // A graph may declare a free batch and have it fixed inside.
    if spec.max_batch > 1
        && let Err(error) = example
            .stage(&loaded.stager, 2)
            .and_then(|batch| try_batch(&mut loaded.runner, &batch))
    {
        if error.code == Code::Unavailable {
            return Err(error);
        }
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

/// Runs a batch, and all that follows a run.
fn try_batch(runner: &mut Runner, batch: &[Staged]) -> Result<(), InferError> {
    let finishes = runner.run(batch)?;
    if finishes.len() != batch.len() {
        return Err(InferError::internal(format!(
            "{} answers for a batch of {}",
            finishes.len(),
            batch.len()
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

fn failed_on_zeros(error: InferError) -> InferError {
    if error.code == Code::Unavailable {
        return error;
    }
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
