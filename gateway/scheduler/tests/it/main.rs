//! The scheduler from outside, as its caller sees it.

mod properties;
mod simulation;
mod world;
