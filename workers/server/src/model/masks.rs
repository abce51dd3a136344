//! Two stages: faces, and of each whether it wears a mask.
//!
//! The faces of all pictures of a batch form batches of the second model. Both run in the slot of
//! the first, on the thread that owns both.

use std::sync::Arc;

use model_store::{Crop, Stage, TensorSpec};
use workers_engine::{Engine, gather};
use workers_protocol::{InferError, PictureOptions, Tensor};
use workers_vision::{Classifier, Picture, Preprocessor, Scratch, with_margin};

use super::pictures::{PictureStager, Rows, StagedPicture, input_tensor, run_pictures};
use super::predictions::Predictions;
use super::{Finish, Part};

/// Faces of a batch of the second stage where the manifest does not say.
const DEFAULT_CROPS: u32 = 32;

/// The second stage: what it is shown, and what it says.
pub(super) struct Classify {
    preprocessor: Preprocessor,
    classifier: Classifier,
    crop: Crop,
    max_batch: usize,
    input: TensorSpec,
}

/// Owns the models of both stages.
pub(crate) struct MaskRunner {
    faces: Box<dyn Engine>,
    masks: Box<dyn Engine>,
    stager: Arc<PictureStager>,
    classify: Arc<Classify>,
    scratch: Scratch,
}

/// A face that was cut out.
struct Face {
    /// Which picture of the batch, and which of its faces.
    picture: usize,
    prediction: usize,
    input: Tensor,
}

impl Classify {
    pub(super) fn new(part: &Part, stage: &Stage) -> Result<Self, InferError> {
        let [input] = &part.inputs[..] else {
            return Err(InferError::invalid(format!(
                "stage `{}`: expected a graph with one input, got {}",
                stage.model,
                part.inputs.len()
            )));
        };
        let spec = part.spec(None);
        let asked = stage
            .batch
            .max
            .or(part.manifest.batch.max)
            .unwrap_or(DEFAULT_CROPS);
        let max_batch = if spec.max_batch == 1 { 1 } else { asked };
        Ok(Self {
            preprocessor: Preprocessor::new(&part.manifest.input, input)?,
            classifier: Classifier::new(&part.manifest.output, part.labels()?, &part.outputs)?,
            crop: stage.crop.clone(),
            max_batch: usize::try_from(max_batch).unwrap_or(usize::MAX),
            input: input.clone(),
        })
    }

    /// Checks the labels that a caller chose, which are those of this stage.
    pub(super) fn check(&self, options: &PictureOptions) -> Result<(), InferError> {
        let labels = PictureOptions {
            labels: options.labels.clone(),
            ..PictureOptions::default()
        };
        self.classifier.select(&labels).map(|_| ())
    }
}

impl MaskRunner {
    pub(super) fn new(
        faces: Box<dyn Engine>,
        masks: Box<dyn Engine>,
        stager: Arc<PictureStager>,
        classify: Arc<Classify>,
    ) -> Self {
        Self {
            faces,
            masks,
            stager,
            classify,
            scratch: Scratch::default(),
        }
    }

    pub(super) fn run(&mut self, batch: &[Arc<StagedPicture>]) -> Result<Vec<Finish>, InferError> {
        let rows = run_pictures(&mut *self.faces, batch)?;
        let mut predictions = Vec::with_capacity(batch.len());
        let mut faces = Vec::new();
        for (index, staged) in batch.iter().enumerate() {
            let found = self.stager.read(staged, &rows.get(index)?)?;
            let found = self.cut(index, staged, found, &mut faces)?;
            predictions.push(found);
        }
        for faces in faces.chunks(self.classify.max_batch) {
            self.judge(faces, &mut predictions)?;
        }
        let finishes = predictions
            .into_iter()
            .zip(batch)
            .map(|(mut predictions, staged)| {
                if let Some(labels) = &staged.options.labels {
                    predictions.found.retain(|one| labels.contains(&one.label));
                }
                if let Some(top_k) = staged.options.top_k {
                    let top_k = usize::try_from(top_k).unwrap_or(usize::MAX);
                    predictions.found.truncate(top_k);
                }
                let (stager, staged) = (Arc::clone(&self.stager), Arc::clone(staged));
                Finish::Later(Box::new(move || stager.answer(&staged, &predictions)))
            });
        Ok(finishes.collect())
    }

    /// Runs the second stage on parts of a black picture, as many as it may be given at once and
    /// two at most: a graph may declare a free batch and have it fixed inside.
    pub(crate) fn try_second_stage(&mut self) -> Result<(), InferError> {
        let black = Picture::new(8, 8, vec![0; 8 * 8 * 3])?;
        let face = |scratch: &mut Scratch| {
            let whole = [0.0, 0.0, 8.0, 8.0];
            let prepared = self
                .classify
                .preprocessor
                .prepare_crop(&black, whole, scratch)?;
            let [a, b, c] = prepared
                .shape
                .map(|side| i64::try_from(side).unwrap_or(i64::MAX));
            let input = input_tensor(&self.classify.input, vec![1, a, b, c], prepared.tensor);
            Ok(Face {
                picture: 0,
                prediction: 0,
                input,
            })
        };
        let faces: Vec<Face> = (0..self.classify.max_batch.min(2))
            .map(|_| face(&mut self.scratch))
            .collect::<Result<_, InferError>>()?;
        self.judge(&faces, &mut []).map_err(|error| {
            InferError::invalid(format!(
                "the second stage does not run {} pictures at once ({error}): set its `batch: {{ max: 1 }}`",
                faces.len()
            ))
        })
    }

    /// Cuts the best faces out of a picture, as many as the second stage takes.
    fn cut(
        &mut self,
        picture: usize,
        staged: &StagedPicture,
        mut predictions: Predictions,
        faces: &mut Vec<Face>,
    ) -> Result<Predictions, InferError> {
        let max = usize::try_from(self.classify.crop.max).unwrap_or(usize::MAX);
        predictions.is_truncated = predictions.found.len() > max;
        predictions.found.truncate(max);
        let whole = staged
            .picture
            .as_ref()
            .ok_or_else(|| InferError::internal("the picture was not kept"))?;
        for (prediction, found) in predictions.found.iter().enumerate() {
            let rect = found
                .rect
                .ok_or_else(|| InferError::internal("a face without a box"))?;
            let rect = with_margin(rect, self.classify.crop.margin);
            let prepared =
                self.classify
                    .preprocessor
                    .prepare_crop(whole, rect, &mut self.scratch)?;
            let [a, b, c] = prepared
                .shape
                .map(|side| i64::try_from(side).unwrap_or(i64::MAX));
            let input = input_tensor(&self.classify.input, vec![1, a, b, c], prepared.tensor);
            faces.push(Face {
                picture,
                prediction,
                input,
            });
        }
        Ok(predictions)
    }

    /// Runs the second stage on some faces, and writes what it says into their predictions.
    fn judge(&mut self, faces: &[Face], predictions: &mut [Predictions]) -> Result<(), InferError> {
        let entries: Vec<&[Tensor]> = faces
            .iter()
            .map(|face| std::slice::from_ref(&face.input))
            .collect();
        let inputs = gather(self.masks.inputs(), &entries)?;
        let rows = Rows::new(self.masks.run(&inputs)?, faces.len())?;
        let best = self.classify.classifier.select(&PictureOptions {
            top_k: Some(1),
            score: Some(0.0),
            ..PictureOptions::default()
        })?;
        for (row, face) in faces.iter().enumerate() {
            let classified = self.classify.classifier.classify(&rows.get(row)?, &best)?;
            let found = predictions
                .get_mut(face.picture)
                .and_then(|one| one.found.get_mut(face.prediction));
            if let (Some(found), Some(best)) = (found, classified.first()) {
                let labels = self.classify.classifier.labels();
                found.label = labels.get(best.class as usize).cloned().unwrap_or_default();
                found.class = best.class;
                found.label_score = Some(best.score);
            }
        }
        Ok(())
    }
}
