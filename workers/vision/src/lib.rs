//! Pictures in, meaning out.
//!
//! Owns everything between the bytes of a picture and an input tensor, and between output tensors
//! and predictions: [`decode()`], [`Preprocessor`], [`Detector`], [`Classifier`], [`draw()`].
//! The worker calls it on whichever thread it likes; it has no thread, clock or socket of its own,
//! and knows no engine.
//! Every input is hostile: sizes are checked before memory is taken, and a model's output is
//! checked before it is indexed.

mod classify;
mod decode;
mod draw;
mod heads;
mod nms;
mod picture;
mod preprocess;
mod selection;
#[cfg(test)]
mod testing;

pub use classify::{Classified, Classifier};
pub use decode::{Decoded, Limits, decode, decode_to_fit};
pub use draw::{Mark, draw, encode};
pub use heads::{Detection, Detector, OutputRow};
pub use picture::Picture;
pub use preprocess::{Keep, Placement, Prepared, Preprocessor, Scratch, with_margin};
pub use selection::Selection;
