//! What a model is, and where its bytes are.
//!
//! A *store* is a directory in Triton's layout, `<name>/<version>/…`, each version with a
//! [`Manifest`] (`model.yaml`, else Triton's `config.pbtxt` there or in the model's folder, else what
//! an ONNX model says of itself).
//! Versions are immutable: taking one in copies its files into a content-addressed cache, and
//! workers map files only from there.
//! This crate owns the nouns [`ModelName`], [`Version`], [`Manifest`], [`ModelSpec`] and
//! [`Digest`]; it never loads a model and never talks to a network.

mod add;
mod cache;
mod content;
mod datatype;
mod digest;
mod error;
#[cfg(test)]
mod fixtures;
mod folder;
mod labels;
mod manifest;
mod measurement;
mod name;
mod settling;
mod spec;
mod store;

pub use add::Staged;
pub use cache::{Cache, CachedVersion, Taken};
pub use datatype::DataType;
pub use digest::{Digest, ParseDigestError};
pub use error::StoreError;
pub use folder::{Fingerprint, version_folders};
pub use manifest::{
    Activation, Anchor, BatchLimits, ColorOrder, ConfigTerms, Crop, Device, EngineKind, Head,
    Instances, Labels, Layout, Manifest, PictureInput, PictureOutput, Resize, Scale, Stage, Task,
    TensorDeclaration,
};
pub use measurement::{Host, Kept, Learned, LearnedCurve, Measurement};
pub use name::{ModelName, ModelReference, ParseNameError, Version};
pub use settling::{Settling, StoreEvent};
pub use spec::{ModelSpec, Preparation, TensorSpec};
pub use store::{Scan, Skipped, Store, StoredVersion};
