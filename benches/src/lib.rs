//! What the benchmarks share: Hearth as a process, and a client that costs little.

pub mod hearth;
pub mod http;
