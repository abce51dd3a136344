//! Hearth as its users meet it: the real programs, over HTTP and on the command line.

#![expect(
    clippy::unwrap_used,
    reason = "what the helpers of a test do not expect fails the test"
)]

mod access;
mod add_one;
mod batching;
mod bucket;
mod buckets;
mod bulk;
mod clients;
mod coding;
mod command;
mod conformance;
mod events;
mod files;
mod grpc;
mod hearth;
mod hostile;
mod infer;
mod jobs;
mod load;
mod masks;
mod measurements;
mod minio;
mod objects;
mod oscar;
mod picture_tensors;
mod pictures;
mod predict;
mod process;
mod queue;
mod refusals;
mod repository;
mod run;
mod scheduling;
mod scripts;
mod shell;
mod spare;
mod storage;
mod store;
mod tensors;
mod tls;
mod traces;
mod triton;
mod truth;
mod video;
mod watch;
