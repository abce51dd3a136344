//! A gateway with one model, which adds one, and its one worker, halted at will.
//!
//! A worker that is stopped by a signal holds what it has for as long as a test wants, and its
//! gateway does not notice: so nothing here depends on how fast anything is.

use rustix::process::Signal;

use crate::hearth::{Answer, Hearth, Store, eventually, is_alive, kill};
use crate::infer::tensor_request;

pub(crate) const ADD_ONE: &str = "/v2/models/add_one/infer";

/// Returns a request of one item.
pub(crate) fn add_one(value: i64) -> String {
    tensor_request("x", "FP32", &[1, 4], &[value; 4])
}

/// Sends one item and returns the answer.
pub(crate) fn post(hearth: &Hearth, value: i64) -> Answer {
    hearth.post(ADD_ONE, add_one(value).as_bytes())
}

/// Returns what one was added to, of an answer that has to be a success.
#[track_caller]
pub(crate) fn sum(answer: &Answer) -> f64 {
    answer.ok()["outputs"][0]["data"][0].as_f64().unwrap()
}

/// Starts a gateway and its worker.
pub(crate) fn warm(args: &[&str]) -> Hearth {
    let hearth = Hearth::start(Store::new().with_tiny("add_one"), args);
    assert_eq!(sum(&post(&hearth, 0)), 1.0);
    hearth
}

/// Returns the only worker.
#[track_caller]
pub(crate) fn worker(hearth: &Hearth) -> u32 {
    match hearth.workers()[..] {
        [worker] => worker,
        ref workers => panic!("one worker is expected, there are {workers:?}"),
    }
}

/// Waits until a metric of a model has a value.
pub(crate) fn await_metric(hearth: &Hearth, name: &str, model: &str, value: f64) {
    eventually(&format!("{name} of {model} is {value}"), || {
        (hearth.metric(name, model) == value).then_some(())
    });
}

/// Waits until a request runs.
pub(crate) fn await_running(hearth: &Hearth) {
    await_metric(hearth, "running_entries", "add_one", 1.0);
}

/// A worker that does nothing until this is dropped.
#[derive(Debug)]
pub(crate) struct Halted(u32);

impl Halted {
    pub(crate) fn new(worker: u32) -> Self {
        kill(worker, Signal::STOP);
        Self(worker)
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        // A test may have killed it.
        if is_alive(self.0) {
            kill(self.0, Signal::CONT);
        }
    }
}
