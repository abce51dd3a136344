//! One model that reads pictures: classification and detection.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model_store::{DataType, Head, Layout, Task, TensorSpec};
use workers_engine::{Engine, gather};
use workers_protocol::{InferError, PictureOptions, Tensor};
use workers_vision::{
    Classifier, Detector, Keep, Limits, OutputRow, Picture, Placement, Preprocessor, Scratch,
    Selection,
};

use super::masks::Classify;
use super::predictions::{Kind, Prediction, Predictions};
use super::{Finish, Part};

/// Decodes pictures into the model's input, and reads its outputs.
pub(crate) struct PictureStager {
    preprocessor: Preprocessor,
    reader: Reader,
    kind: Kind,
    /// The second stage, where there is one.
    second: Option<Arc<Classify>>,
    limits: Limits,
    keep: Keep,
    layout: Layout,
    /// Width and height of the largest input, in pixels.
    most_size: [u32; 2],
    /// The graph's input.
    input: TensorSpec,
}

/// What the outputs mean.
pub(super) enum Reader {
    Detector(Detector),
    Classifier(Classifier),
}

/// A picture that is ready to run.
pub(crate) struct StagedPicture {
    input: Tensor,
    placement: Placement,
    size: [u32; 2],
    pub(super) selection: Selection,
    pub(super) options: PictureOptions,
    /// The decoded picture, where the task needs it.
    pub(super) picture: Option<Picture>,
    /// The encoded picture, where it is to be drawn into, or cut.
    bytes: Option<Bytes>,
    pub(super) decode: Duration,
}

thread_local! {
    /// Buffers of a decoding thread; the threads of the pool live as long as the process works.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

// === impl PictureStager ===

impl PictureStager {
    pub(super) fn new(
        part: &Part,
        task: Task,
        limits: Limits,
        second: Option<Arc<Classify>>,
    ) -> Result<Self, InferError> {
        let [input] = &part.inputs[..] else {
            return Err(InferError::invalid(format!(
                "a task needs a graph with one input, this has {}",
                part.inputs.len()
            )));
        };
        if let Some(output) = part
            .outputs
            .iter()
            .find(|output| output.datatype != DataType::Fp32)
        {
            return Err(InferError::invalid(format!(
                "output `{}`: a task reads FP32, got {}",
                output.name, output.datatype
            )));
        }
        let declared = &part.manifest.output;
        let reader = match (task, declared.head) {
            (Task::ImageClassification, None) => {
                Reader::Classifier(Classifier::new(declared, part.labels()?, &part.outputs)?)
            }
            (Task::ImageClassification, Some(_)) => {
                return Err(InferError::invalid(
                    "`output.head` is for detection, the task is image-classification",
                ));
            }
            (Task::ObjectDetection | Task::FaceMaskDetection, Some(head)) => Reader::Detector(
                Detector::new(head, declared, part.labels()?, &part.outputs)?,
            ),
            (Task::ObjectDetection | Task::FaceMaskDetection, None) => {
                return Err(InferError::invalid(
                    "`output.head` is missing: it says how detections are read",
                ));
            }
        };
        let kind = Kind {
            has_boxes: matches!(reader, Reader::Detector(_)),
            has_landmarks: declared.head == Some(Head::Centerface),
            is_judged: second.is_some(),
        };
        // Crops are cut from the picture at its own size.
        let keep = if second.is_some() {
            Keep::Picture
        } else {
            Keep::Nothing
        };
        let preprocessor = Preprocessor::new(&part.manifest.input, input)?;
        let most_size = preprocessor.most_size();
        Ok(Self {
            preprocessor,
            reader,
            kind,
            second,
            limits,
            keep,
            layout: part.manifest.input.layout,
            most_size,
            input: input.clone(),
        })
    }

    pub(super) fn stage(
        &self,
        picture: Bytes,
        options: PictureOptions,
    ) -> Result<StagedPicture, InferError> {
        if options.crop.is_some() && !self.kind.has_boxes {
            return Err(InferError::invalid(
                "`crop`: the model finds no boxes that could be cut out",
            ));
        }
        let mut own = options.clone();
        if let Some(second) = &self.second {
            second.check(&options)?;
            // Both are about what the second stage says.
            (own.labels, own.top_k) = (None, None);
        }
        let selection = match &self.reader {
            Reader::Detector(detector) => detector.select(&own)?,
            Reader::Classifier(classifier) => classifier.select(&own)?,
        };
        let prepared = SCRATCH.with_borrow_mut(|scratch| {
            self.preprocessor
                .prepare(&picture, &self.limits, self.keep, scratch)
        })?;
        let [a, b, c] = prepared
            .shape
            .map(|side| i64::try_from(side).unwrap_or(i64::MAX));
        Ok(StagedPicture {
            input: input_tensor(&self.input, vec![1, a, b, c], prepared.tensor),
            placement: prepared.placement,
            size: [prepared.width, prepared.height],
            selection,
            bytes: (options.draw.is_some() || options.crop.is_some()).then_some(picture),
            picture: prepared.picture,
            options,
            decode: Duration::ZERO,
        })
    }

    /// Reads what the model found in one picture.
    pub(super) fn read(
        &self,
        staged: &StagedPicture,
        rows: &[OutputRow<'_>],
    ) -> Result<Predictions, InferError> {
        let found = match &self.reader {
            Reader::Detector(detector) => {
                let size = self.input_size(&staged.input);
                let detections =
                    detector.detect(rows, size, &staged.placement, &staged.selection)?;
                let labels = detector.labels();
                detections
                    .into_iter()
                    .map(|detection| Prediction {
                        class: detection.class,
                        label: label(labels, detection.class),
                        score: detection.score,
                        rect: Some(detection.rect),
                        landmarks: detection.landmarks,
                        label_score: None,
                    })
                    .collect()
            }
            Reader::Classifier(classifier) => {
                let labels = classifier.labels();
                classifier
                    .classify(rows, &staged.selection)?
                    .into_iter()
                    .map(|one| Prediction {
                        class: one.class,
                        label: label(labels, one.class),
                        score: one.score,
                        rect: None,
                        landmarks: None,
                        label_score: None,
                    })
                    .collect()
            }
        };
        Ok(Predictions {
            found,
            size: staged.size,
            is_truncated: false,
        })
    }

    /// Returns the answer's tensors, the drawn picture and the crops among them where they were asked for.
    pub(super) fn answer(
        &self,
        staged: &StagedPicture,
        predictions: &Predictions,
    ) -> Result<Vec<Tensor>, InferError> {
        let mut outputs = predictions.to_tensors(self.kind);
        if let Some(bytes) = &staged.bytes {
            let picture = match &staged.picture {
                Some(picture) => picture.clone(),
                None => workers_vision::decode(bytes, &self.limits)?.picture,
            };
            if let Some(margin) = staged.options.crop {
                outputs.push(predictions.cut(&picture, margin)?);
            }
            if let Some(format) = staged.options.draw {
                outputs.push(predictions.draw(picture, format)?);
            }
        }
        Ok(outputs)
    }

    /// Returns what clients send and get.
    pub(super) fn specs(&self) -> (Vec<TensorSpec>, Vec<TensorSpec>) {
        (Kind::inputs(), self.kind.outputs())
    }

    /// Returns the bytes of the largest input tensor.
    pub(super) fn most_input_bytes(&self) -> u64 {
        let [width, height] = self.most_size.map(u64::from);
        3 * size_of::<f32>() as u64 * width * height
    }

    /// Width and height of an input tensor.
    fn input_size(&self, input: &Tensor) -> [usize; 2] {
        let side = |at: usize| {
            input
                .shape
                .get(at)
                .and_then(|&side| usize::try_from(side).ok())
                .unwrap_or(0)
        };
        match self.layout {
            Layout::Nchw => [side(3), side(2)],
            Layout::Nhwc => [side(2), side(1)],
        }
    }
}

// === impl StagedPicture ===

impl StagedPicture {
    /// The shape of the input, since pictures of one shape share a batch.
    pub(super) fn bucket(&self) -> u64 {
        self.input.shape.iter().fold(0, |bucket: u64, &side| {
            bucket
                .wrapping_mul(1 << 20 | 7)
                .wrapping_add(side.cast_unsigned())
        })
    }
}

fn label(labels: &[String], class: u32) -> String {
    labels
        .get(class as usize)
        .cloned()
        .unwrap_or_else(|| class.to_string())
}

/// Makes a tensor of floats, sharing their memory.
pub(super) fn input_tensor(spec: &TensorSpec, shape: Vec<i64>, elements: Vec<f32>) -> Tensor {
    struct Owner(Vec<f32>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            bytemuck::cast_slice(&self.0)
        }
    }
    let data = Bytes::from_owner(Owner(elements));
    Tensor {
        name: spec.name.clone(),
        datatype: DataType::Fp32,
        shape,
        data,
    }
}

/// The rows of a batch's outputs.
pub(super) struct Rows {
    shapes: Vec<Vec<usize>>,
    outputs: Vec<Tensor>,
    n_rows: usize,
}

impl Rows {
    pub(super) fn new(outputs: Vec<Tensor>, n_rows: usize) -> Result<Self, InferError> {
        let shapes = outputs
            .iter()
            .map(|output| match output.shape.split_first() {
                Some((&first, rest))
                    if usize::try_from(first) == Ok(n_rows)
                        && output.datatype == DataType::Fp32 =>
                {
                    rest.iter()
                        .map(|&side| usize::try_from(side).ok())
                        .collect::<Option<Vec<_>>>()
                }
                _ => None,
            })
            .collect::<Option<Vec<_>>>();
        let shapes = shapes.ok_or_else(|| {
            let shapes: Vec<_> = outputs.iter().map(|output| &output.shape).collect();
            InferError::internal(format!(
                "the model returned {shapes:?} for a batch of {n_rows}"
            ))
        })?;
        Ok(Self {
            shapes,
            outputs,
            n_rows,
        })
    }

    /// Returns the outputs of one picture.
    pub(super) fn get(&self, row: usize) -> Result<Vec<OutputRow<'_>>, InferError> {
        self.outputs
            .iter()
            .zip(&self.shapes)
            .map(|(output, shape)| {
                let elements: &[f32] = bytemuck::try_cast_slice(&output.data).map_err(|error| {
                    InferError::internal(format!("output `{}`: {error}", output.name))
                })?;
                let length = elements.len() / self.n_rows.max(1);
                let data = elements
                    .get(row * length..(row + 1) * length)
                    .unwrap_or_default();
                Ok(OutputRow { shape, data })
            })
            .collect()
    }
}

// === running ===

/// Runs a model with one stage.
pub(crate) struct PictureRunner {
    engine: Box<dyn Engine>,
    stager: Arc<PictureStager>,
}

impl PictureRunner {
    pub(super) fn new(engine: Box<dyn Engine>, stager: Arc<PictureStager>) -> Self {
        Self { engine, stager }
    }

    pub(super) fn run(&mut self, batch: &[Arc<StagedPicture>]) -> Result<Vec<Finish>, InferError> {
        let rows = Arc::new(run_pictures(&mut *self.engine, batch)?);
        let finishes = batch.iter().enumerate().map(|(row, staged)| {
            let (rows, stager, staged) = (
                Arc::clone(&rows),
                Arc::clone(&self.stager),
                Arc::clone(staged),
            );
            Finish::Later(Box::new(move || {
                let predictions = stager.read(&staged, &rows.get(row)?)?;
                stager.answer(&staged, &predictions)
            }))
        });
        Ok(finishes.collect())
    }
}

/// Runs the engine on a batch of pictures of one shape.
pub(super) fn run_pictures(
    engine: &mut dyn Engine,
    batch: &[Arc<StagedPicture>],
) -> Result<Rows, InferError> {
    let entries: Vec<&[Tensor]> = batch
        .iter()
        .map(|staged| std::slice::from_ref(&staged.input))
        .collect();
    let inputs = gather(engine.inputs(), &entries)?;
    Rows::new(engine.run(&inputs)?, batch.len())
}
