//! The contract between the gateway and its workers.
//!
//! Owns the nouns of one inference: [`Tensor`], [`PictureOptions`], [`InferError`] with its small
//! closed [`Code`], and the Open Inference Protocol that carries them: over gRPC between the
//! processes ([`oip`], [`wire`]), over HTTP to clients ([`codec`]).
//! Both processes see this crate; it knows no engine, no service, no clock.

mod assignment;
mod axis;
pub mod codec;
mod error;
#[rustfmt::skip]
#[expect(
    missing_docs,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated from proto/health.proto"
)]
pub mod health;
#[rustfmt::skip]
#[expect(
    missing_docs,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated from proto/open_inference.proto"
)]
pub mod oip;
mod options;
mod picture;
mod tensor;
mod trace;
pub mod transport;
pub mod wire;

pub use assignment::Assignment;
pub use axis::AlignedBytes;
pub use error::{Code, InferError};
pub use options::{DrawFormat, PictureOptions};
pub use picture::{PictureFormat, PictureHeader};
pub use tensor::{CheckedInputs, Target, Tensor};
pub use trace::{SpanId, TraceContext, TraceId};
