//! What the scenarios put load on: models of `examples/models`, with one request each.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;
use model_store::DataType;
use workers_protocol::Tensor;
use workers_protocol::wire::PICTURE_INPUT;

/// A model and a request to it.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) manifest: String,
    /// The other files of its folder.
    pub(crate) files: Vec<PathBuf>,
    /// The one input of the request.
    input: Tensor,
}

impl Subject {
    /// Returns the detector YOLOX-Nano and a photo.
    pub(crate) fn yolox_nano(shared: &Path) -> anyhow::Result<Self> {
        let photo = photo(shared)?;
        Self::new("yolox-nano", shared, "yolox_nano_416_dyn.onnx", photo)
    }

    /// Returns the detector FastestDet and a photo.
    pub(crate) fn fastestdet(shared: &Path) -> anyhow::Result<Self> {
        let photo = photo(shared)?;
        Self::new("fastestdet", shared, "fastestdet_352_dyn.onnx", photo)
    }

    /// Returns the classifier of PP-OCR and a picture of its input's size, which costs next to
    /// nothing to decode.
    pub(crate) fn ppocr_cls(shared: &Path) -> anyhow::Result<Self> {
        let graph = "ch_ppocr_mobile_v2.0_cls_infer.onnx";
        Self::new("ppocr-cls", shared, graph, picture(bitmap(192, 48)))
    }

    /// Returns the classifier of digits and a blank one.
    pub(crate) fn mnist(shared: &Path) -> anyhow::Result<Self> {
        let blank = Tensor {
            name: "Input3".to_owned(),
            datatype: DataType::Fp32,
            shape: vec![1, 1, 28, 28],
            data: vec![0; 4 * 28 * 28].into(),
        };
        Self::new("mnist", shared, "mnist_cntk_dyn.onnx", blank)
    }

    fn new(name: &'static str, shared: &Path, graph: &str, input: Tensor) -> anyhow::Result<Self> {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models");
        let example = example.join(name);
        let mut files = vec![shared.join("models").join(graph)];
        for file in fs::read_dir(&example)? {
            let file = file?.path();
            if !file.ends_with("model.yaml") {
                files.push(file);
            }
        }
        Ok(Self {
            name,
            manifest: fs::read_to_string(example.join("model.yaml"))?,
            files,
            input,
        })
    }

    /// Returns the same with another line in its manifest.
    pub(crate) fn with(&self, line: &str) -> Self {
        Self {
            manifest: format!("{}\n{line}\n", self.manifest),
            ..self.clone()
        }
    }

    /// Whether the request is a picture, which is prepared before it can run.
    pub(crate) fn is_picture(&self) -> bool {
        self.input.name == PICTURE_INPUT
    }

    /// Returns the request's one input, as it goes to a worker.
    pub(crate) const fn input(&self) -> &Tensor {
        &self.input
    }

    /// Returns the route that the request goes to.
    pub(crate) fn path(&self) -> String {
        if self.is_picture() {
            format!("/run/{}", self.name)
        } else {
            format!("/v2/models/{}/infer", self.name)
        }
    }

    /// Returns the request's headers and body: a picture as it is, a tensor in the protocol's binary
    /// extension.
    pub(crate) fn request(&self) -> (Vec<(String, String)>, Bytes) {
        let input = &self.input;
        let content_type = (
            "content-type".to_owned(),
            "application/octet-stream".to_owned(),
        );
        if self.is_picture() {
            return (vec![content_type], input.data.clone());
        }
        let json = serde_json::json!({
            "inputs": [{
                "name": input.name,
                "datatype": input.datatype.as_str(),
                "shape": input.shape,
                "parameters": { "binary_data_size": input.data.len() },
            }],
            "parameters": { "binary_data_output": true },
        })
        .to_string();
        let json_length = (
            "inference-header-content-length".to_owned(),
            json.len().to_string(),
        );
        let body = [json.as_bytes(), &input.data].concat();
        (vec![content_type, json_length], body.into())
    }
}

fn photo(shared: &Path) -> anyhow::Result<Tensor> {
    let file = shared.join("media/bus.jpg");
    let bytes = fs::read(&file).with_context(|| format!("{} can't be read", file.display()))?;
    Ok(picture(bytes))
}

fn picture(bytes: Vec<u8>) -> Tensor {
    Tensor {
        name: PICTURE_INPUT.to_owned(),
        datatype: DataType::Uint8,
        shape: vec![bytes.len() as i64],
        data: bytes.into(),
    }
}

/// Returns a grey gradient as a BMP of 24 bits a pixel; `width` is a multiple of four, so rows need
/// no padding.
fn bitmap(width: u16, height: u16) -> Vec<u8> {
    const HEAD_BYTES: u32 = 54;
    let (width, height) = (u32::from(width), u32::from(height));
    let n_bytes = 3 * width * height;
    let mut bytes = b"BM".to_vec();
    for word in [HEAD_BYTES + n_bytes, 0, HEAD_BYTES, 40, width, height] {
        bytes.extend(word.to_le_bytes());
    }
    // One plane of 24 bits, not compressed.
    bytes.extend([1, 0, 24, 0]);
    for word in [0, n_bytes, 0, 0, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend((0..n_bytes).map(|at| (at / 3 % width) as u8));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bitmap_is_a_picture_of_its_size() {
        let header = workers_protocol::PictureHeader::read(&bitmap(192, 48)).unwrap();
        assert_eq!((header.width, header.height), (192, 48));
    }
}
