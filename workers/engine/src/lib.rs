//! What an engine is: a loaded model that turns tensors into tensors.
//!
//! One [`Engine`] is one instance, owned by one thread; [`gather`] joins the inputs of a batch into
//! the tensors that it runs on, [`scatter`] cuts its outputs into those of each entry.

mod batch;

use model_store::TensorSpec;
use workers_protocol::{InferError, Tensor};

pub use batch::{gather, scatter};

/// A loaded model, owned by one thread.
pub trait Engine: Send {
    /// Inputs as the graph declares them, in its order.
    fn inputs(&self) -> &[TensorSpec];

    /// Outputs as the graph declares them, in its order.
    fn outputs(&self) -> &[TensorSpec];

    /// Runs once.
    ///
    /// `inputs` are in the order of [`Engine::inputs`], their lengths agree with their shapes;
    /// outputs come in the order of [`Engine::outputs`].
    ///
    /// # Errors
    /// `InvalidArgument` when the runtime blames the inputs, `Internal` for the rest.
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, InferError>;
}
