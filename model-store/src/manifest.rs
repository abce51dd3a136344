//! The manifest: what the author of a model says of it, in `model.yaml`.
//!
//! Only `engine` is required (a manifest with `stages` needs none, its stages have theirs).
//! Everything else defaults to what the folder holds and the graph declares.
//! Where there is no `model.yaml`, Triton's `config.pbtxt` is read; where there is neither, an ONNX
//! model says enough of itself.

mod check;
mod config;
mod model_file;
mod parse;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{DataType, ModelReference};

pub use config::ConfigTerms;

pub(crate) use check::check_path;
pub(crate) use config::CONFIG;
pub(crate) use parse::MANIFEST;

/// `model.yaml`, as written, or what stands in for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Manifest {
    /// The runtime that holds the model; required unless `stages` are given.
    pub engine: Option<EngineKind>,
    /// The model's file, relative to the folder. Default: `model.onnx`, or the only `*.onnx` there.
    pub file: Option<String>,
    /// Where it runs. Default: `cpu`.
    pub device: Device,
    /// What it does with pictures; none: raw tensors in, raw tensors out.
    pub task: Option<Task>,
    /// How a picture becomes the input tensor; for models with a task.
    pub input: PictureInput,
    /// How output tensors become predictions; for models with a task.
    pub output: PictureOutput,
    /// Declared inputs. A dimension that is free (-1) here and fixed in the graph is rewritten
    /// in the graph when the model is added.
    pub inputs: Vec<TensorDeclaration>,
    /// Declared outputs, likewise.
    pub outputs: Vec<TensorDeclaration>,
    /// Limits of a batch.
    pub batch: BatchLimits,
    /// How many loaded copies, of how many threads each. Default: as measured; until then, one of all
    /// cores.
    pub instances: Instances,
    /// How many workers, and for how long without work.
    pub scale: Scale,
    /// The models of a task that has several, each with a batch of its own, in order.
    pub stages: Vec<Stage>,
    /// SHA-256 (64 hex digits) of files, checked when the model is added.
    pub digests: BTreeMap<String, String>,
    /// Deadline of a request that brings none, in milliseconds. Default: 30000.
    pub timeout_ms: Option<u64>,
    /// What else `config.pbtxt` says, where that was read.
    #[serde(skip)]
    pub config: Option<ConfigTerms>,
}

/// A runtime that executes models in a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// ONNX Runtime.
    Onnx,
}

/// Where a model runs: `cpu` or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The host's processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this index.
    Cuda(u32),
}

/// What a model does with a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// One distribution over classes per picture.
    ImageClassification,
    /// Boxes with classes.
    ObjectDetection,
    /// Faces from a detector (first stage), each classified as masked or not (second stage).
    FaceMaskDetection,
}

/// How a picture becomes the input tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PictureInput {
    /// How the picture is fitted.
    pub resize: Resize,
    /// `[width, height]` in pixels. Default: what the graph declares; required where it is free
    /// and `resize` is not `native`.
    pub size: Option<[u32; 2]>,
    /// `native`: sides are rounded to multiples of this many pixels.
    pub multiple: u32,
    /// `native`: the longer side is at most this many pixels.
    pub max: u32,
    /// Order of dimensions.
    pub layout: Layout,
    /// Order of the colour channels.
    pub color: ColorOrder,
    /// `letterbox`: value of the border's pixels, 0 to 255.
    pub pad: u8,
    /// `letterbox`: where the picture sits.
    pub anchor: Anchor,
    /// Per channel in the order of `color`, in 0..255: `(x - mean) / std`. One number or three.
    #[serde(deserialize_with = "one_or_three")]
    pub mean: [f32; 3],
    /// Likewise.
    #[serde(deserialize_with = "one_or_three")]
    pub std: [f32; 3],
}

/// How a picture is fitted to the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// Keeps the aspect ratio and pads the rest.
    Letterbox,
    /// Ignores the aspect ratio.
    #[default]
    Stretch,
    /// Keeps the picture's own size, rounded to multiples and bounded by `max`.
    Native,
}

/// Order of the input's dimensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Planes: `[batch, channel, height, width]`.
    #[default]
    Nchw,
    /// Interleaved: `[batch, height, width, channel]`.
    Nhwc,
}

/// Order of the colour channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum ColorOrder {
    #[default]
    Rgb,
    Bgr,
}

/// Where a letterboxed picture sits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Anchor {
    /// The border is right and below (YOLOX).
    #[default]
    TopLeft,
    /// The border is on both sides (Ultralytics).
    Center,
}

/// How output tensors become predictions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PictureOutput {
    /// How detections are read; required for object detection.
    pub head: Option<Head>,
    /// Class names: a file with one per line, or a list. As many as there are classes; the
    /// background class of `ssd-decoded` has none. Default: the class's number. The only one of
    /// these fields that a model without a task may have, for the protocol's classification.
    pub labels: Option<Labels>,
    /// Least score of a detection, 0 to 1. Default: the head's.
    pub score: Option<f32>,
    /// Greatest overlap of two boxes of a class before the lesser is dropped. Default: the head's.
    pub iou: Option<f32>,
    /// How many classes a classification returns, or detections a picture at most.
    pub top_k: Option<u32>,
    /// What makes a classifier's outputs probabilities. Default: `softmax`.
    pub activation: Activation,
}

/// How detections are read from output tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// `[B, N, 5 + classes]`, raw grid offsets at strides 8, 16, 32.
    Yolox,
    /// `[B, N, 5 + classes]`, centre, size, objectness × class.
    Yolov5,
    /// `[B, 4 + classes, N]`, centre, size, class.
    Yolov8,
    /// `[B, 5 + classes, H, W]`, one anchor-free scale.
    Fastestdet,
    /// `scores [B, N, 1 + classes]` with background first, `boxes [B, N, 4]` as fractions.
    SsdDecoded,
    /// Heat map, scale, offset and landmarks at stride 4.
    Centerface,
}

/// Class names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Labels {
    /// The names themselves.
    List(Vec<String>),
    /// A file of the folder with one name per line.
    File(String),
}

/// What makes a classifier's outputs probabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// The outputs are logits of exclusive classes.
    #[default]
    Softmax,
    /// The outputs are logits of independent classes.
    Sigmoid,
    /// The outputs are probabilities already.
    None,
}

/// A declared input or output of a graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorDeclaration {
    /// The graph's name of it.
    pub name: String,
    /// Element type. Default: the graph's.
    #[serde(default)]
    pub datatype: Option<DataType>,
    /// Dimensions, the batch axis included; -1 is free. Default: the graph's.
    #[serde(default)]
    pub shape: Option<Vec<i64>>,
    /// The axis along which requests are joined; -1 for none (then requests must be equal in it
    /// to share a batch). Default: 0.
    #[serde(default)]
    pub batch_axis: Option<i64>,
    /// The value that fills this input in the check when the model is added, for inputs that take
    /// none but certain values (a sample rate). Default: 0.
    #[serde(default)]
    pub example: Option<f64>,
}

/// Limits of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchLimits {
    /// Most items of a batch. Default: 16 where the graph leaves the batch free, else 1.
    pub max: Option<u32>,
}

/// How many loaded copies of a model a worker holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Instances {
    /// Loaded copies. Default: 1.
    pub count: Option<u32>,
    /// Threads of each. Default: the cores divided by `count`.
    pub threads: Option<u32>,
}

/// How many workers serve a model, and how long they stay when nobody calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scale {
    /// Workers that are kept whether or not there is work. Default: 0.
    pub min: Option<u32>,
    /// Most workers. Default: 1, since one worker uses all cores of its machine.
    pub max: Option<u32>,
    /// How long nobody has to call for the others to end, in seconds. Default: what the gateway was
    /// told, 60.
    pub idle_s: Option<u64>,
}

/// One model of a task that has several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// A model of the same store.
    pub model: ModelReference,
    /// Least score, overriding the model's own.
    #[serde(default)]
    pub score: Option<f32>,
    /// Greatest overlap, overriding the model's own.
    #[serde(default)]
    pub iou: Option<f32>,
    /// What is cut out of the picture for this stage.
    #[serde(default)]
    pub crop: Crop,
    /// Limits of this stage's batch.
    #[serde(default)]
    pub batch: BatchLimits,
}

/// What is cut out of a picture for a second stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Crop {
    /// Margin on each side, as a fraction of the box's side. Default: 0.1.
    pub margin: f32,
    /// Most crops of one picture, the best first; an answer that was cut says so. Default: 100.
    pub max: u32,
}

// === defaults ===

impl Default for PictureInput {
    fn default() -> Self {
        Self {
            resize: Resize::default(),
            size: None,
            multiple: 32,
            max: 1280,
            layout: Layout::default(),
            color: ColorOrder::default(),
            pad: 114,
            anchor: Anchor::default(),
            mean: [0.0; 3],
            std: [1.0; 3],
        }
    }
}

impl Default for Crop {
    fn default() -> Self {
        Self {
            margin: 0.1,
            max: 100,
        }
    }
}

// === impl Device ===

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let cuda = || text.strip_prefix("cuda:")?.parse().ok();
        if text == "cpu" {
            Ok(Self::Cpu)
        } else {
            cuda().map(Self::Cuda).ok_or_else(|| {
                format!("{text:?} is no device: expected `cpu` or `cuda:N`, `cuda:0` for example")
            })
        }
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

/// Reads `127` as `[127, 127, 127]`.
fn one_or_three<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<[f32; 3], D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected one number or a list of three")]
    enum OneOrThree {
        One(f32),
        Three([f32; 3]),
    }
    Ok(match OneOrThree::deserialize(deserializer)? {
        OneOrThree::One(value) => [value; 3],
        OneOrThree::Three(values) => values,
    })
}

#[cfg(test)]
mod tests;
