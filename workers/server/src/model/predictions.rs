//! What was found in a picture, as tensors and drawn.
//!
//! The outputs of a model with a task, whose first dimension is the picture and whose second, where
//! it is free, is what was found, best first: `counts` INT32 `[1, 1]`, how many that is; `boxes` FP32
//! `[1, n, 4]` (x1, y1, x2, y2 in pixels of the upright picture; detection only), `landmarks` FP32
//! `[1, n, 5, 2]` (of faces: eyes, nose, corners of the mouth), `scores` FP32 `[1, n]`, `labels` BYTES
//! `[1, n]`, `label_scores` FP32 `[1, n]` (two stages only: how sure the second is), `size` INT64
//! `[1, 2]` (width, height), `truncated` BOOL `[1, 1]` (two stages only: there were more than the
//! second stage takes), `drawing` BYTES `[1, 1]` (an encoded picture, where asked for), `crops` BYTES `[1, m]` (the first of those boxes, each
//! cut out and encoded, where asked for).

use bytes::Bytes;
use model_store::{DataType, TensorSpec};
use workers_protocol::wire::{PICTURE_ERRORS, PICTURE_INPUT};
use workers_protocol::{DrawFormat, InferError, Tensor};
use workers_vision::{Mark, Picture, with_margin};

/// Largest encoded drawing: it travels in one message.
const MAX_DRAWING_BYTES: usize = 128 << 20;

/// Crops of a picture, the best first.
const MAX_CROPS: usize = 100;

/// What they have together: of many pictures they wait in memory until all are kept.
const MAX_CROPS_BYTES: usize = 16 << 20;

/// What is known of all that a task finds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kind {
    pub(super) has_boxes: bool,
    pub(super) has_landmarks: bool,
    /// There is a second stage.
    pub(super) is_judged: bool,
}

/// What was found in a picture, best first.
pub(super) struct Predictions {
    pub(super) found: Vec<Prediction>,
    /// Width and height of the upright picture.
    pub(super) size: [u32; 2],
    /// There were more than the second stage takes.
    pub(super) is_truncated: bool,
}

/// One of them.
pub(super) struct Prediction {
    pub(super) class: u32,
    pub(super) label: String,
    pub(super) score: f32,
    pub(super) rect: Option<[f32; 4]>,
    pub(super) landmarks: Option<[[f32; 2]; 5]>,
    /// How sure the second stage is of the label.
    pub(super) label_score: Option<f32>,
}

impl Kind {
    /// Returns the inputs of a model with a task: as many pictures as there are, each encoded.
    pub(super) fn inputs() -> Vec<TensorSpec> {
        vec![spec(PICTURE_INPUT, DataType::Bytes, &[1])]
    }

    /// Returns its outputs, and what went wrong with each picture, which is empty where nothing did.
    pub(super) fn outputs(self) -> Vec<TensorSpec> {
        let no_boxes = Predictions {
            found: Vec::new(),
            size: [0; 2],
            is_truncated: false,
        };
        let outputs = no_boxes.to_tensors(self).into_iter().map(|tensor| {
            let inner = tensor.shape.iter().skip(1);
            // What was not found is what is free.
            let inner: Vec<_> = inner
                .map(|&side| if side == 0 { -1 } else { side })
                .collect();
            spec(&tensor.name, tensor.datatype, &inner)
        });
        let errors = spec(PICTURE_ERRORS, DataType::Bytes, &[1]);
        outputs.chain([errors]).collect()
    }
}

/// Returns the spec of a tensor whose first dimension is the picture.
fn spec(name: &str, datatype: DataType, inner: &[i64]) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: [&[-1], inner].concat(),
        batch_axis: Some(0),
    }
}

impl Predictions {
    pub(super) fn to_tensors(&self, kind: Kind) -> Vec<Tensor> {
        let (n, found) = (self.found.len(), &self.found);
        let scores = found.iter().map(|one| one.score);
        let labels = found.iter().map(|one| one.label.as_bytes());
        let count = i32::try_from(n).unwrap_or(i32::MAX);
        let size = self.size.map(|side| i64::from(side).to_le_bytes()).concat();

        let mut tensors = vec![tensor(
            "counts",
            DataType::Int32,
            &[1, 1],
            count.to_le_bytes().to_vec(),
        )];
        if kind.has_boxes {
            let boxes = found.iter().flat_map(|one| one.rect.unwrap_or_default());
            tensors.push(tensor("boxes", DataType::Fp32, &[1, n, 4], floats(boxes)));
        }
        tensors.push(tensor("scores", DataType::Fp32, &[1, n], floats(scores)));
        tensors.push(tensor("labels", DataType::Bytes, &[1, n], strings(labels)));
        if kind.has_landmarks {
            let landmarks = found
                .iter()
                .flat_map(|one| one.landmarks.unwrap_or_default());
            let landmarks = floats(landmarks.flatten());
            tensors.push(tensor(
                "landmarks",
                DataType::Fp32,
                &[1, n, 5, 2],
                landmarks,
            ));
        }
        if kind.is_judged {
            let sure = found.iter().map(|one| one.label_score.unwrap_or_default());
            let truncated = vec![u8::from(self.is_truncated)];
            tensors.push(tensor(
                "label_scores",
                DataType::Fp32,
                &[1, n],
                floats(sure),
            ));
            tensors.push(tensor("truncated", DataType::Bool, &[1, 1], truncated));
        }
        tensors.push(tensor("size", DataType::Int64, &[1, 2], size));
        tensors
    }

    /// Draws into the picture and encodes it.
    pub(super) fn draw(
        &self,
        mut picture: Picture,
        format: DrawFormat,
    ) -> Result<Tensor, InferError> {
        let marks: Vec<Mark> = self
            .found
            .iter()
            .map(|one| Mark {
                rect: one.rect,
                text: format!("{} {:.2}", one.label, one.label_score.unwrap_or(one.score)),
                class: one.class,
            })
            .collect();
        workers_vision::draw(&mut picture, &marks);
        let encoded = workers_vision::encode(&picture, format)?;
        if encoded.len() > MAX_DRAWING_BYTES {
            return Err(InferError::too_large(format!(
                "the drawn picture has {} bytes, expected at most {MAX_DRAWING_BYTES}: ask for image/jpeg, or send a smaller picture",
                encoded.len()
            )));
        }
        Ok(tensor(
            "drawing",
            DataType::Bytes,
            &[1, 1],
            strings(std::iter::once(encoded.as_slice())),
        ))
    }
}

impl Predictions {
    /// Cuts the best out of the picture, with a margin around each that is a part of its box's sides.
    pub(super) fn cut(&self, picture: &Picture, margin: f32) -> Result<Tensor, InferError> {
        let rects = self.found.iter().filter_map(|one| one.rect);
        let mut crops = Vec::new();
        let mut bytes = 0;
        for rect in rects.take(MAX_CROPS) {
            let part = picture.part(with_margin(rect, margin));
            let encoded = workers_vision::encode(&part, DrawFormat::Jpeg)?;
            bytes += encoded.len();
            if bytes > MAX_CROPS_BYTES {
                return Err(InferError::too_large(format!(
                    "what is cut out of the picture has more than {MAX_CROPS_BYTES} bytes: ask for fewer predictions, or send a smaller picture"
                )));
            }
            crops.push(encoded);
        }
        let texts = crops.iter().map(Vec::as_slice);
        let shape = [1, crops.len()];
        Ok(tensor("crops", DataType::Bytes, &shape, strings(texts)))
    }
}

fn tensor(name: &str, datatype: DataType, shape: &[usize], data: Vec<u8>) -> Tensor {
    let shape = shape
        .iter()
        .map(|&side| i64::try_from(side).unwrap_or(i64::MAX))
        .collect();
    Tensor {
        name: name.to_owned(),
        datatype,
        shape,
        data: Bytes::from(data),
    }
}

fn floats(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}

fn strings<'a>(texts: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in texts {
        // Labels and drawings are bounded far below 4 GiB.
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(text);
    }
    bytes
}
