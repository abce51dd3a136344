//! ONNX Runtime as an engine.
//!
//! [`Runtime`] finds and loads the library at run time, [`OrtEngine`] is one session on one thread,
//! [`rewrite_declared_shapes`] mends graphs that declare a shape they do not have.

mod engine;
mod graph;
mod library;

pub use engine::{LoadOptions, OrtEngine};
pub use graph::{Rewritten, rewrite_declared_shapes};
pub use library::Runtime;
