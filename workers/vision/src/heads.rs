//! From a detector's output tensors to boxes.
//!
//! One file per head, named as in the manifest; each says how its numbers are read. What they
//! share is here: which output of the graph is which, checking, selection, suppression, and the
//! way back to the picture's coordinates.
//!
//! Hot path: scores are compared before any box is computed.

mod centerface;
mod fastestdet;
mod ssd_decoded;
#[cfg(test)]
mod tests;
mod yolov5;
mod yolov8;
mod yolox;

use model_store::{DataType, Head, PictureOutput, TensorSpec};
use workers_protocol::{InferError, PictureOptions};

use crate::nms::suppress;
use crate::preprocess::Placement;
use crate::selection::{Defaults, Selection};

/// Detections of a picture by default at most.
const TOP_K: usize = 300;

/// Reads the outputs of an object detector.
#[derive(Clone, Debug)]
pub struct Detector {
    head: Head,
    /// Which of the graph's outputs the head reads, in the head's order.
    roles: Vec<usize>,
    /// Names and declared shapes of these.
    specs: Vec<TensorSpec>,
    labels: Vec<String>,
    defaults: Defaults,
}

/// One of the graph's outputs, for one picture.
#[derive(Clone, Copy, Debug)]
pub struct OutputRow<'a> {
    /// Dimensions without the batch.
    pub shape: &'a [usize],
    /// Elements, row-major.
    pub data: &'a [f32],
}

/// An object in a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// Index of the label.
    pub class: u32,
    /// How sure the model is, 0 to 1.
    pub score: f32,
    /// x1, y1, x2, y2 in pixels of the upright original, within it.
    pub rect: [f32; 4],
    /// Of a face, likewise in pixels (x, y): left eye, right eye, nose, left and right corner of
    /// the mouth, as seen in the picture.
    pub landmarks: Option<[[f32; 2]; 5]>,
}

/// What a head works with, and what it finds: boxes in pixels of the tensor.
struct Finder {
    /// Width and height of the input tensor.
    size: [usize; 2],
    score: f32,
    n_classes: usize,
    found: Vec<Detection>,
}

impl Detector {
    /// Returns a reader of these outputs of the graph.
    ///
    /// `labels` may be empty; then they are the classes' numbers, or `face` for a head of one
    /// class. The label of a background class is left out. Where neither caller nor manifest says
    /// otherwise, score and overlap are those of the head's own demo:
    ///
    /// | head | score | IoU |
    /// |---|---|---|
    /// | yolox | 0.3 | 0.45 |
    /// | yolov5 | 0.25 | 0.45 |
    /// | yolov8 | 0.25 | 0.7 |
    /// | fastestdet | 0.6 | 0.45 |
    /// | ssd-decoded | 0.5 | 0.3 |
    /// | centerface | 0.5 | 0.3 |
    ///
    /// # Errors
    /// `InvalidArgument` when the graph has no such outputs, or the number of labels is not that
    /// of its classes.
    pub fn new(
        head: Head,
        declared: &PictureOutput,
        labels: Vec<String>,
        outputs: &[TensorSpec],
    ) -> Result<Self, InferError> {
        let rows: Vec<Option<Vec<i64>>> = outputs.iter().map(row_shape).collect();
        let names: Vec<&str> = outputs.iter().map(|spec| spec.name.as_str()).collect();
        let graph = Graph {
            names: &names,
            rows: &rows,
        };
        let (resolved, expected, score, iou) = match head {
            Head::Yolox => (yolox::resolve(&graph), yolox::EXPECTED, 0.3, 0.45),
            Head::Yolov5 => (yolov5::resolve(&graph), yolov5::EXPECTED, 0.25, 0.45),
            Head::Yolov8 => (yolov8::resolve(&graph), yolov8::EXPECTED, 0.25, 0.7),
            Head::Fastestdet => (fastestdet::resolve(&graph), fastestdet::EXPECTED, 0.6, 0.45),
            Head::SsdDecoded => (
                ssd_decoded::resolve(&graph),
                ssd_decoded::EXPECTED,
                0.5,
                0.3,
            ),
            Head::Centerface => (centerface::resolve(&graph), centerface::EXPECTED, 0.5, 0.3),
        };
        let Some((roles, classes)) = resolved else {
            return Err(InferError::invalid(format!(
                "this head reads FP32 {expected}, the graph has {}",
                describe(outputs)
            )));
        };
        let specs: Vec<TensorSpec> = roles.iter().map(|&role| outputs[role].clone()).collect();
        let labels = if head == Head::Centerface && labels.is_empty() {
            vec!["face".to_owned()]
        } else {
            class_labels(labels, classes, &specs[0])?
        };
        let defaults = Defaults {
            score,
            iou,
            top_k: TOP_K,
        };
        Ok(Self {
            head,
            roles,
            specs,
            labels,
            defaults: defaults.declared(declared)?,
        })
    }

    /// Returns the name of each class.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Checks what a caller chose.
    ///
    /// # Errors
    /// `InvalidArgument` when a number is out of range or the model has no such label.
    pub fn select(&self, options: &PictureOptions) -> Result<Selection, InferError> {
        Selection::new(options, self.defaults, &self.labels)
    }

    /// Returns what is in one picture, best first. `outputs` are the graph's, in order;
    /// `input_size` is the width and height of the input tensor, in which `placement` put the
    /// picture.
    ///
    /// Scores and boxes that are no numbers are dropped, and boxes outside the picture.
    ///
    /// # Errors
    /// `Internal` when the model returns other shapes than the head reads.
    pub fn detect(
        &self,
        outputs: &[OutputRow<'_>],
        input_size: [usize; 2],
        placement: &Placement,
        selection: &Selection,
    ) -> Result<Vec<Detection>, InferError> {
        let mut finder = Finder {
            size: input_size,
            score: selection.score,
            n_classes: self.labels.len(),
            found: Vec::new(),
        };
        let row = |role: usize| {
            let row = outputs.get(*self.roles.get(role)?)?;
            (row.shape.iter().product::<usize>() == row.data.len()).then_some(row)
        };
        let read = match self.head {
            Head::Yolox => row(0).and_then(|row| yolox::find(row, &mut finder)),
            Head::Yolov5 => row(0).and_then(|row| yolov5::find(row, &mut finder)),
            Head::Yolov8 => row(0).and_then(|row| yolov8::find(row, &mut finder)),
            Head::Fastestdet => row(0).and_then(|row| fastestdet::find(row, &mut finder)),
            Head::SsdDecoded => row(0)
                .zip(row(1))
                .and_then(|(scores, boxes)| ssd_decoded::find(scores, boxes, &mut finder)),
            Head::Centerface => {
                (|| centerface::find([row(0)?, row(1)?, row(2)?, row(3)?], &mut finder))()
            }
        };
        if read.is_none() {
            let came: Vec<String> = outputs
                .iter()
                .map(|row| format!("{:?}", row.shape))
                .collect();
            return Err(InferError::internal(format!(
                "for an input of {} × {} and {} classes the model returned {}, declared are {}",
                input_size[0],
                input_size[1],
                self.labels.len(),
                came.join(", "),
                describe(&self.specs),
            )));
        }
        let mut found = finder.found;
        found.retain(|one| selection.wants(one.class as usize));
        let mut kept = suppress(found, selection.iou, selection.top_k);
        for one in &mut kept {
            one.rect = placement.rect_to_picture(one.rect);
            if let Some(points) = &mut one.landmarks {
                *points = points.map(|point| placement.to_picture(point));
            }
        }
        kept.retain(|one| has_area(&one.rect));
        Ok(kept)
    }
}

// === impl Finder ===

impl Finder {
    /// Takes a box in if its numbers are numbers.
    fn push(&mut self, class: usize, score: f32, rect: [f32; 4]) {
        self.push_face(class, score, rect, None);
    }

    fn push_face(
        &mut self,
        class: usize,
        score: f32,
        rect: [f32; 4],
        landmarks: Option<[[f32; 2]; 5]>,
    ) {
        let is_finite = rect.iter().all(|side| side.is_finite()) && score.is_finite();
        if is_finite && score >= self.score && has_area(&rect) {
            self.found.push(Detection {
                class: class as u32,
                score,
                rect,
                landmarks,
            });
        }
    }
}

fn has_area(&[x1, y1, x2, y2]: &[f32; 4]) -> bool {
    x1 < x2 && y1 < y2
}

/// Returns x1, y1, x2, y2 of a box given by its centre and size.
fn centred(x: f32, y: f32, width: f32, height: f32) -> [f32; 4] {
    let (half_width, half_height) = (width / 2.0, height / 2.0);
    [
        x - half_width,
        y - half_height,
        x + half_width,
        y + half_height,
    ]
}

/// Returns the greatest score and its index; of no numbers, the first and -∞.
fn best(scores: impl Iterator<Item = f32>) -> (usize, f32) {
    scores
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (class, score)| {
            if score > best.1 { (class, score) } else { best }
        })
}

// === the graph's outputs ===

/// The outputs of a graph, as a head looks for its own among them.
struct Graph<'a> {
    names: &'a [&'a str],
    /// Dimensions without the batch, -1 for free ones; `None` for what is not FP32.
    rows: &'a [Option<Vec<i64>>],
}

/// Indices of the outputs that a head reads, and the number of classes, -1 where it is free.
type Resolved = Option<(Vec<usize>, i64)>;

impl Graph<'_> {
    /// Returns the first output whose row `read` accepts, and what it says.
    fn find<T>(&self, read: impl Fn(&[i64]) -> Option<T>) -> Option<(usize, T)> {
        let rows = self.rows.iter().enumerate();
        rows.filter_map(|(index, row)| Some((index, read(row.as_ref()?)?)))
            .next()
    }

    /// Returns the first output whose name contains `word`.
    fn named(&self, word: &str) -> Option<usize> {
        let position = |name: &&str| name.to_ascii_lowercase().contains(word);
        self.names.iter().position(position)
    }
}

/// Returns the number of classes of an axis that has `others` entries before them; `None` where
/// there is no room for any, -1 where it is free.
fn classes_of(axis: i64, others: i64) -> Option<i64> {
    match axis {
        -1 => Some(-1),
        axis if axis > others => Some(axis - others),
        _ => None,
    }
}

/// Returns an output's dimensions without the batch, if it is FP32 with the batch in front.
pub(crate) fn row_shape(spec: &TensorSpec) -> Option<Vec<i64>> {
    let (_, row) = spec.shape.split_first()?;
    let is_batched = matches!(spec.batch_axis, None | Some(0));
    (spec.datatype == DataType::Fp32 && is_batched).then(|| row.to_vec())
}

/// Returns the classes' labels: those given, which must be as many as there are classes, or else
/// their numbers. `classes` is -1 where the graph leaves it free.
pub(crate) fn class_labels(
    labels: Vec<String>,
    classes: i64,
    spec: &TensorSpec,
) -> Result<Vec<String>, InferError> {
    let n_labels = i64::try_from(labels.len()).unwrap_or(i64::MAX);
    match (classes, n_labels) {
        (-1, 0) => Err(InferError::invalid(format!(
            "`labels`: output `{}` {:?} does not say how many classes there are: expected names",
            spec.name, spec.shape
        ))),
        (_, 0) => Ok((0..classes).map(|class| class.to_string()).collect()),
        (classes, n_labels) if classes == -1 || classes == n_labels => Ok(labels),
        _ => Err(InferError::invalid(format!(
            "`labels`: output `{}` {:?} has {classes} classes, got {n_labels} names",
            spec.name, spec.shape
        ))),
    }
}

pub(crate) fn describe(outputs: &[TensorSpec]) -> String {
    let one = |spec: &TensorSpec| format!("`{}` {} {:?}", spec.name, spec.datatype, spec.shape);
    outputs.iter().map(one).collect::<Vec<_>>().join(", ")
}
