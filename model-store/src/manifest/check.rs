//! What can be said of a manifest without its folder and its graph.

use std::collections::HashSet;
use std::fmt::Display;
use std::ops::RangeInclusive;

use super::{
    BatchLimits, Labels, Manifest, PictureInput, PictureOutput, Resize, Stage, Task,
    TensorDeclaration,
};
use crate::folder::MAX_DEPTH;
use crate::labels::check_labels;
use crate::{Digest, StoreError};

/// Longest side of an input, in pixels; four bytes times three channels of it squared are 3 GiB.
const MAX_SIDE: u32 = 16_384;

/// Most items of a batch.
pub(super) const MAX_BATCH: u32 = 4096;

/// Most loaded copies, and most threads of each.
const MAX_INSTANCES: u32 = 1024;

/// Most crops of a picture.
const MAX_CROPS: u32 = 4096;

/// Longest default deadline, a day in milliseconds.
const MAX_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;

/// Most workers of a model.
const MAX_SCALE: u32 = 1000;

/// Longest idle window: a month.
const MAX_IDLE_S: u64 = 31 * 24 * 60 * 60;

impl Manifest {
    /// Checks everything that needs neither the folder nor the graph.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] naming the field, what was expected and what came.
    pub fn check(&self) -> Result<(), StoreError> {
        self.check_task()?;
        if let Some(file) = &self.file {
            check_path("file", file)?;
        }
        self.input.check()?;
        self.output.check()?;
        check_tensors("inputs", &self.inputs)?;
        check_tensors("outputs", &self.outputs)?;
        self.batch.check("batch")?;
        let instances = 1..=MAX_INSTANCES;
        check_within("instances.count", self.instances.count, instances.clone())?;
        check_within("instances.threads", self.instances.threads, instances)?;
        check_within("scale.min", self.scale.min, 0..=MAX_SCALE)?;
        check_within("scale.max", self.scale.max, 1..=MAX_SCALE)?;
        check_within("scale.idle_s", self.scale.idle_s, 1..=MAX_IDLE_S)?;
        if let (Some(min), Some(max)) = (self.scale.min, self.scale.max)
            && min > max
        {
            return invalid(format!(
                "`scale.min`: expected at most `scale.max`, {max}, got {min}"
            ));
        }
        for (stage_index, stage) in self.stages.iter().enumerate() {
            stage.check(&format!("stages[{stage_index}]"))?;
        }
        for (name, digest) in &self.digests {
            check_path("digests", name)?;
            digest
                .parse::<Digest>()
                .map_err(|error| StoreError::Invalid(format!("`digests`, `{name}`: {error}")))?;
        }
        check_within("timeout_ms", self.timeout_ms, 1..=MAX_TIMEOUT_MS)
    }

    /// Checks what `task`, `engine`, `stages` and `output.head` ask of each other.
    fn check_task(&self) -> Result<(), StoreError> {
        let n_stages = self.stages.len();
        // Classes have names whatever they are found in.
        let only_labels = PictureOutput {
            labels: self.output.labels.clone(),
            ..PictureOutput::default()
        };
        let is_about_pictures = self.input != PictureInput::default() || self.output != only_labels;
        match (self.task, self.output.head) {
            (Some(Task::FaceMaskDetection), _) if n_stages != 2 => invalid(format!(
                "`stages`: expected two for `task: face-mask-detection`, the detector and the \
                 classifier, got {n_stages}"
            )),
            (Some(Task::FaceMaskDetection), None) => Ok(()),
            _ if n_stages > 0 => invalid(
                "`stages`: expected only with `task: face-mask-detection`, got another task or none",
            ),
            _ if self.engine.is_none() => {
                invalid("`engine`: required where there are no `stages`, `onnx` for example")
            }
            (Some(Task::ObjectDetection), None) => {
                invalid("`output.head`: required for `task: object-detection`, `yolox` for example")
            }
            (Some(Task::ObjectDetection), Some(_)) | (Some(Task::ImageClassification), None) => {
                Ok(())
            }
            (Some(_), Some(_)) => {
                invalid("`output.head`: expected only with `task: object-detection`")
            }
            (None, _) if is_about_pictures => {
                invalid("`task`: required where `input` or `output` say what is done with pictures")
            }
            (None, _) => Ok(()),
        }
    }
}

impl PictureInput {
    fn check(&self) -> Result<(), StoreError> {
        let sides = 1..=MAX_SIDE;
        for side in self.size.into_iter().flatten() {
            check_within("input.size", Some(side), sides.clone())?;
        }
        check_within("input.max", Some(self.max), sides.clone())?;
        check_within("input.multiple", Some(self.multiple), sides)?;
        if self.resize == Resize::Native && self.multiple > self.max {
            return invalid(format!(
                "`input.multiple`: expected at most `input.max`, which is {}, got {}",
                self.max, self.multiple
            ));
        }
        if !self.mean.iter().all(|mean| mean.is_finite()) {
            return invalid(format!(
                "`input.mean`: expected finite numbers, got {:?}",
                self.mean
            ));
        }
        // Subnormal numbers are refused with zero: their reciprocals may be infinite.
        if !self.std.iter().all(|std| std.is_normal()) {
            return invalid(format!(
                "`input.std`: expected finite numbers other than zero, got {:?}",
                self.std
            ));
        }
        Ok(())
    }
}

impl PictureOutput {
    fn check(&self) -> Result<(), StoreError> {
        check_within("output.score", self.score, 0.0..=1.0)?;
        check_within("output.iou", self.iou, 0.0..=1.0)?;
        check_within("output.top_k", self.top_k, 1..=u32::MAX)?;
        match &self.labels {
            Some(Labels::File(name)) => check_path("output.labels", name),
            Some(Labels::List(labels)) => check_labels(labels),
            None => Ok(()),
        }
    }
}

impl BatchLimits {
    fn check(&self, field: &str) -> Result<(), StoreError> {
        check_within(format_args!("{field}.max"), self.max, 1..=MAX_BATCH)
    }
}

impl Stage {
    fn check(&self, field: &str) -> Result<(), StoreError> {
        check_within(format_args!("{field}.score"), self.score, 0.0..=1.0)?;
        check_within(format_args!("{field}.iou"), self.iou, 0.0..=1.0)?;
        let (margin, max) = (self.crop.margin, self.crop.max);
        check_within(format_args!("{field}.crop.margin"), Some(margin), 0.0..=2.0)?;
        check_within(format_args!("{field}.crop.max"), Some(max), 1..=MAX_CROPS)?;
        self.batch.check(&format!("{field}.batch"))
    }
}

fn check_tensors(field: &str, tensors: &[TensorDeclaration]) -> Result<(), StoreError> {
    let mut names = HashSet::new();
    for (tensor_index, tensor) in tensors.iter().enumerate() {
        let field = format!("{field}[{tensor_index}]");
        let name = tensor.name.as_str();
        if name.is_empty() || !names.insert(name) {
            return invalid(format!(
                "`{field}.name`: expected a name that is used once, got {name:?}"
            ));
        }
        let mut last_axis = i64::MAX;
        if let Some(shape) = &tensor.shape {
            if shape.iter().any(|&n| n != -1 && n < 1) {
                return invalid(format!(
                    "`{field}.shape`: expected dimensions greater than 0, or -1 for a free one, \
                     got {shape:?}"
                ));
            }
            last_axis = shape.len() as i64 - 1;
        }
        let axes = -1..=last_axis;
        check_within(format_args!("{field}.batch_axis"), tensor.batch_axis, axes)?;
        let finite = f64::MIN..=f64::MAX;
        check_within(format_args!("{field}.example"), tensor.example, finite)?;
    }
    Ok(())
}

/// Checks that a value, where there is one, is within these bounds; NaN never is.
fn check_within<T: PartialOrd + Display>(
    field: impl Display,
    value: Option<T>,
    bounds: RangeInclusive<T>,
) -> Result<(), StoreError> {
    match value {
        Some(value) if !bounds.contains(&value) => invalid(format!(
            "`{field}`: expected {} to {}, got {value}",
            bounds.start(),
            bounds.end()
        )),
        _ => Ok(()),
    }
}

/// Checks that this names a file inside the folder, and nothing that a version leaves out.
pub(crate) fn check_path(field: &str, name: &str) -> Result<(), StoreError> {
    // A leading dot covers `.`, `..` and the hidden files, which are no part of a version.
    let is_plain = |part: &str| !part.is_empty() && !part.starts_with('.');
    let is_safe = name.split('/').all(is_plain)
        && name.split('/').count() <= MAX_DEPTH
        && !name.contains(|letter: char| letter == '\\' || letter.is_control());
    if is_safe {
        Ok(())
    } else {
        invalid(format!(
            "`{field}`: expected a file of the folder, at most {MAX_DEPTH} names joined by `/`, \
             none empty or beginning with a dot, got {name:?}"
        ))
    }
}

fn invalid<T>(message: impl Into<String>) -> Result<T, StoreError> {
    Err(StoreError::Invalid(message.into()))
}
