//! Tests of the contract as a whole.

mod fuzz;
mod generated;
