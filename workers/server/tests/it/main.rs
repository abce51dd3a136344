//! The worker as a process, without a gateway.

#![expect(
    clippy::unwrap_used,
    reason = "what the helpers of a test do not expect fails the test"
)]

mod ending;
mod measure;
mod plain;
mod prepare;
mod spare;
mod worker;
