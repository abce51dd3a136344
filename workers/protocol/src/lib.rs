//! The contract between the gateway and its workers.
//!
//! Owns the nouns of one inference: [`Tensor`], [`PictureOptions`], [`InferError`] with its small
//! closed [`Code`], and the Open Inference Protocol that carries them.
//! Both processes see this crate; it knows no engine, no service, no clock.

mod error;
mod options;
mod picture;
mod tensor;

pub use error::{Code, InferError};
pub use options::{DrawFormat, PictureOptions};
pub use picture::{PictureFormat, PictureHeader};
pub use tensor::Tensor;
