//! Tensors in, tensors out.

use workers_engine::{Engine, gather, scatter};
use workers_protocol::{CheckedInputs, InferError, Tensor};

use super::Finish;

/// Runs a model without a task.
pub(crate) struct TensorRunner {
    engine: Box<dyn Engine>,
}

impl TensorRunner {
    pub(super) fn new(engine: Box<dyn Engine>) -> Self {
        Self { engine }
    }

    pub(super) fn run(&mut self, batch: &[&CheckedInputs]) -> Result<Vec<Finish>, InferError> {
        let entries: Vec<&[Tensor]> = batch.iter().map(|entry| entry.inputs.as_slice()).collect();
        let inputs = gather(self.engine.inputs(), &entries)?;
        let outputs = self.engine.run(&inputs)?;
        let items: Vec<u32> = batch.iter().map(|entry| entry.items).collect();
        let outputs = scatter(self.engine.outputs(), &outputs, &items)?;
        Ok(outputs.into_iter().map(Finish::Done).collect())
    }
}
