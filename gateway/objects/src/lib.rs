//! Objects in buckets on this machine's disk, and the S3 wire in front of them.
//!
//! Keys are any text, so they are never paths: an index in SQLite says which object has which bytes,
//! and those are files of random names that are written once. A change is durable when it returns.
//! Whoever is told of an object by a [`Watcher`] is told before the client.

mod blob;
mod checksum;
mod error;
mod index;
mod object;
mod rows;
mod store;
mod upload;
mod wire;

pub use checksum::{Algorithm, Checksum};
pub use error::Error;
pub use object::{
    Bucket, Condition, Counts, ListQuery, Listing, MAX_KEY_BYTES, MAX_LISTED, MAX_METADATA_BYTES,
    NewObject, Object,
};
pub use store::{MAX_PUT_BYTES, Store};
pub use upload::{MAX_OBJECT_BYTES, MAX_PARTS};
pub use wire::{Keys, Service, Watcher, service};
