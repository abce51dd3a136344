//! Tests of the contract as a whole.

mod generated;
