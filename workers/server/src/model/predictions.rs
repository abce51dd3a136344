//! What was found in a picture, as tensors and drawn.
//!
//! The outputs of a model with a task: `boxes` FP32 `[n, 4]` (x1, y1, x2, y2 in pixels of the upright
//! picture; detection only), `landmarks` FP32 `[n, 5, 2]` (of faces: eyes, nose, corners of the
//! mouth), `scores` FP32 `[n]`, `labels` BYTES `[n]`, `label_scores` FP32 `[n]`
//! (two stages only: how sure the second is), `size` INT64 `[2]` (width, height), `truncated` BOOL
//! `[1]` (two stages only: there were more than the second stage takes), `drawing` BYTES `[1]` (an
//! encoded picture, where asked for).

use bytes::Bytes;
use model_store::DataType;
use workers_protocol::{DrawFormat, InferError, Tensor};
use workers_vision::{Mark, Picture};

/// Largest encoded drawing: it travels in one message.
const MAX_DRAWING_BYTES: usize = 128 << 20;

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

impl Predictions {
    pub(super) fn to_tensors(&self) -> Vec<Tensor> {
        let n = self.found.len();
        let rects: Vec<f32> = self
            .found
            .iter()
            .filter_map(|one| one.rect)
            .flatten()
            .collect();
        let label_scores: Vec<f32> = self
            .found
            .iter()
            .filter_map(|one| one.label_score)
            .collect();
        let scores = self.found.iter().map(|one| one.score);
        let size = self.size.map(|side| i64::from(side).to_le_bytes()).concat();

        let mut tensors = vec![
            tensor("scores", DataType::Fp32, &[n], floats(scores)),
            tensor(
                "labels",
                DataType::Bytes,
                &[n],
                strings(self.found.iter().map(|one| one.label.as_bytes())),
            ),
            tensor("size", DataType::Int64, &[2], size),
        ];
        if rects.len() == 4 * n {
            tensors.push(tensor(
                "boxes",
                DataType::Fp32,
                &[n, 4],
                floats(rects.into_iter()),
            ));
        }
        let landmarks: Vec<f32> = self
            .found
            .iter()
            .filter_map(|one| one.landmarks)
            .flat_map(<[[f32; 2]; 5]>::into_iter)
            .flatten()
            .collect();
        if landmarks.len() == 10 * n && n > 0 {
            let landmarks = floats(landmarks.into_iter());
            tensors.push(tensor("landmarks", DataType::Fp32, &[n, 5, 2], landmarks));
        }
        if label_scores.len() == n {
            tensors.push(tensor(
                "label_scores",
                DataType::Fp32,
                &[n],
                floats(label_scores.into_iter()),
            ));
            tensors.push(tensor(
                "truncated",
                DataType::Bool,
                &[1],
                vec![u8::from(self.is_truncated)],
            ));
        }
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
            &[1],
            strings(std::iter::once(encoded.as_slice())),
        ))
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
