//! OSCAR's nouns, as OSCAR v4.1 and its clients write them: services, storage, FDL documents.
//!
//! Pure data: reading, defaults, checks, and writing in OSCAR's order of keys. Keys are matched
//! whatever their case and `null` means the zero value, as in OSCAR, whose decoder is Go's.

mod check;
mod fdl;
mod folded;
mod secret;
mod service;
mod storage;

pub use check::{MAX_NAME_BYTES, TIMEOUT, is_service_name};
pub use fdl::Fdl;
pub use secret::Secret;
pub use service::{
    Class, Cluster, Crop, Draw, Environment, Expose, Federation, Kind, Kserve, KserveInference,
    KserveLlmInference, Member, Model, Ports, Service, Synchronous, Video, Volume, VolumeStatus,
};
pub use storage::{
    Minio, Onedata, Rucio, S3, StorageIo, StoragePath, StorageProviders, StorageReference, Webdav,
};

/// Why a definition is not one; a sentence for its author, without what may be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub(crate) String);

impl Invalid {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}
