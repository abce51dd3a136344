//! Where objects come from and go to: one face for all storage providers.
//!
//! What differs between them ends here. A new kind is a variant of [`Storage`], and a line in
//! [`Providers::of`]. Nothing is reached that neither the operator nor the service's own definition
//! names: redirects are not followed, no proxy is asked, no link leads out of a folder.

pub(crate) mod buckets;
mod folder;
mod own;
mod places;
pub(crate) mod s3;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gateway_oscar::{Service as Definition, StorageReference};
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use workers_protocol::{Code, InferError};

use buckets::Selection;
pub(crate) use folder::{Folder, NamedFolder};
pub(crate) use own::Own;
pub(crate) use s3::{Account, Presign, S3};

/// Objects of a page of a listing.
pub(crate) const PAGE: usize = 1000;

/// Calls to storage providers at a time, each a thread that waits.
const MAX_CALLS: usize = 128;

/// Longest key, in bytes, as of S3.
const MAX_KEY_BYTES: usize = 1024;

/// The storage providers of a gateway.
#[derive(Debug)]
pub(crate) struct Providers {
    /// `minio.default`.
    default: Option<Storage>,
    /// `folder.NAME`, which the operator allows.
    folders: BTreeMap<String, Arc<Folder>>,
    calls: Calls,
}

/// What calls to other machines have in common.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    room: Arc<Semaphore>,
    /// Changing what a bucket announces is reading, changing and writing.
    announcing: Arc<Mutex<()>>,
    verifying: ureq::Agent,
    trusting: ureq::Agent,
}

/// A storage provider, as a service may use it.
#[derive(Clone, Debug)]
pub(crate) enum Storage {
    /// The gateway's own store.
    Own(Own),
    /// MinIO, Amazon S3, and what speaks as they do.
    S3(Arc<S3>),
    /// A folder of this machine.
    Folder(Arc<Folder>),
}

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) key: String,
    /// In bytes.
    pub(crate) size: u64,
    /// Without quotes.
    pub(crate) etag: String,
    pub(crate) modified: OffsetDateTime,
    /// Where the bucket keeps versions.
    pub(crate) version: Option<String>,
    /// The user's own; a listing does not have it.
    pub(crate) metadata: BTreeMap<String, String>,
}

/// An object to read: this version of it, where the bucket keeps them.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) version: Option<String>,
}

/// An object to write.
#[derive(Debug)]
pub(crate) struct NewObject<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) key: &'a str,
    pub(crate) content: Content,
    /// Its media type.
    pub(crate) media: &'a str,
    /// Names in lower case, values in ASCII.
    pub(crate) metadata: &'a [(&'a str, &'a str)],
}

/// What an object is to hold.
#[derive(Debug)]
pub(crate) enum Content {
    Bytes(Bytes),
    /// A file, from its beginning.
    File(File),
}

/// Some objects, in the order of their keys.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Head>,
    /// The key to go on after, where there is more.
    pub(crate) next: Option<String>,
}

/// Whether a bucket tells of new objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Announcing {
    /// It does from now on.
    Yes,
    /// It does not, for this reason; only a listing finds them.
    No(String),
}

/// Why storage could not do it; a sentence without secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct StorageError {
    pub(crate) kind: Trouble,
    pub(crate) message: String,
}

/// What can be expected of trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It will go wrong again.
    Lasting,
    /// It may be possible later.
    Passing,
    /// Nobody answers, or who does is not ready: nothing is possible there until somebody is.
    Away,
}

// === impl Providers ===

impl Providers {
    /// Returns the providers of a gateway whose own is this one.
    pub(crate) fn new(default: Option<Storage>, folders: Vec<NamedFolder>, calls: Calls) -> Self {
        Self {
            default,
            folders: folders
                .into_iter()
                .map(|folder| {
                    (
                        folder.name.clone(),
                        Arc::new(Folder::new(folder, calls.clone())),
                    )
                })
                .collect(),
            calls,
        }
    }

    /// Returns where the gateway's own buckets are.
    ///
    /// # Errors
    /// `Unimplemented` where there are none.
    pub(crate) fn default(&self) -> Result<&Storage, InferError> {
        self.default.as_ref().ok_or_else(|| {
            InferError::new(Code::Unimplemented, "there is no storage of objects here")
        })
    }

    /// Returns a provider that a service names in this way; nothing where it is of a type that can't be
    /// used yet.
    ///
    /// # Errors
    /// Where its definition does not say what is needed, or the operator names no such folder.
    pub(crate) fn of(
        &self,
        definition: &Definition,
        reference: StorageReference<'_>,
    ) -> Result<Option<Storage>, StorageError> {
        let StorageReference { provider, id } = reference;
        let named = &definition.storage_providers;
        let undefined = || {
            StorageError::definite(format!(
                "the StorageProvider \"{provider}.{id}\" is not defined"
            ))
        };
        let account = match provider {
            "minio" if id == "default" => return Ok(self.default.clone()),
            "minio" => {
                let minio = named.minio.get(id).ok_or_else(undefined)?;
                Account::minio(minio)?
            }
            "s3" => Account::amazon(named.s3.get(id).ok_or_else(undefined)?)?,
            "folder" => {
                let folder = self.folders.get(id).ok_or_else(|| {
                    StorageError::definite(format!(
                        "there is no folder `{id}`: an operator names folders by --folder {id}=PATH"
                    ))
                })?;
                return Ok(Some(Storage::Folder(Arc::clone(folder))));
            }
            _ => return Ok(None),
        };
        let name = format!("{provider}.{id}");
        let s3 = S3::new(name, account, self.calls.clone());
        Ok(Some(Storage::S3(Arc::new(s3))))
    }
}

// === impl Storage ===

impl Storage {
    /// Returns what is known of an object, if it is there.
    ///
    /// # Errors
    /// Where it can't be found out.
    pub(crate) async fn head(&self, bucket: &str, key: &str) -> Result<Option<Head>, StorageError> {
        match self {
            Self::Own(own) => own.head(bucket, key).await,
            Self::S3(s3) => s3.head(bucket, key).await,
            Self::Folder(folder) => folder.head(bucket, key).await,
        }
    }

    /// Returns what is known of a version of an object, if it is there; without versions, of the object.
    ///
    /// # Errors
    /// Where it can't be found out.
    pub(crate) async fn head_version(
        &self,
        bucket: &str,
        key: &str,
        version: &str,
    ) -> Result<Option<Head>, StorageError> {
        match self {
            Self::S3(s3) => s3.head_version(bucket, key, Some(version)).await,
            Self::Own(_) | Self::Folder(_) => self.head(bucket, key).await,
        }
    }

    /// Reads an object of at most so many bytes into memory; what is known of it is of what was read.
    ///
    /// # Errors
    /// Where it is not there, too large, or can't be read.
    pub(crate) async fn read(
        &self,
        wanted: Wanted,
        limit: u64,
    ) -> Result<(Head, Bytes), StorageError> {
        match self {
            Self::Own(own) => own.read(wanted, limit).await,
            Self::S3(s3) => s3.read(wanted, limit).await,
            Self::Folder(folder) => folder.read(wanted, limit).await,
        }
    }

    /// Writes an object of at most so many bytes to a file that is made for it.
    ///
    /// # Errors
    /// As [`Storage::read`], and where the file can't be written; then it may be there in part.
    pub(crate) async fn download(
        &self,
        wanted: Wanted,
        limit: u64,
        to: &Path,
    ) -> Result<Head, StorageError> {
        match self {
            Self::Own(own) => own.download(wanted, limit, to).await,
            Self::S3(s3) => s3.download(wanted, limit, to).await,
            Self::Folder(folder) => folder.download(wanted, limit, to).await,
        }
    }

    /// Writes an object, whole at once.
    ///
    /// # Errors
    /// Where it can't; it may be there all the same where the answer was lost.
    pub(crate) async fn write(&self, new: NewObject<'_>) -> Result<(), StorageError> {
        match self {
            Self::Own(own) => own.write(new).await,
            Self::S3(s3) => s3.write(new).await,
            Self::Folder(folder) => folder.write(new).await,
        }
    }

    /// Writes an object, whole at once, unless there is one with the same metadata.
    ///
    /// # Errors
    /// As [`Storage::head`] and [`Storage::write`].
    pub(crate) async fn write_once(&self, new: NewObject<'_>) -> Result<(), StorageError> {
        let before = self.head(new.bucket, new.key).await?;
        let is_there = before.is_some_and(|head| {
            let mut metadata = new.metadata.iter();
            metadata.all(|(name, value)| head.metadata.get(*name).is_some_and(|had| had == value))
        });
        match self {
            _ if !is_there => self.write(new).await,
            // Whoever wrote it may have been ended before it told of it.
            Self::Own(own) => own.tell_again(new.bucket, new.key).await,
            Self::S3(_) | Self::Folder(_) => Ok(()),
        }
    }

    /// Lists objects whose keys begin so, after a key, in the order of their keys: [`PAGE`] at most.
    ///
    /// # Errors
    /// Where they can't be listed.
    pub(crate) async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Page, StorageError> {
        let selection = || Selection {
            prefix: prefix.to_owned(),
            after: after.map(str::to_owned),
            max: PAGE,
        };
        match self {
            Self::Own(own) => own.select(bucket, selection()).await,
            Self::S3(s3) => s3.select(bucket, selection()).await,
            Self::Folder(folder) => folder.list(bucket, prefix, after).await,
        }
    }

    /// Makes a bucket and a folder in it for a service, where they are not there yet.
    ///
    /// # Errors
    /// Where they can't be made.
    pub(crate) async fn prepare(
        &self,
        bucket: &str,
        folder: &str,
        service: &str,
    ) -> Result<(), StorageError> {
        match self {
            Self::Own(own) => own.prepare(bucket, folder, service).await,
            Self::S3(s3) => s3.prepare(bucket, folder, service).await,
            Self::Folder(root) => root.prepare(bucket, folder).await,
        }
    }

    /// Has a bucket tell the gateway of new objects in a folder of it, from now on.
    ///
    /// # Errors
    /// Where that can't be found out.
    pub(crate) async fn announce(
        &self,
        bucket: &str,
        folder: &str,
    ) -> Result<Announcing, StorageError> {
        match self {
            // It tells of each object itself.
            Self::Own(_) => Ok(Announcing::Yes),
            Self::S3(s3) => s3.announce(bucket, folder).await,
            Self::Folder(_) => Ok(Announcing::No("a folder announces nothing".to_owned())),
        }
    }

    /// Undoes [`Storage::announce`]; what else the bucket announces stays.
    ///
    /// # Errors
    /// Where it can't.
    pub(crate) async fn forget(&self, bucket: &str, folder: &str) -> Result<(), StorageError> {
        match self {
            Self::S3(s3) => s3.forget(bucket, folder).await,
            Self::Own(_) | Self::Folder(_) => Ok(()),
        }
    }

    /// Undoes [`Storage::prepare`], as far as nothing is in there: no object of anybody's is lost.
    ///
    /// # Errors
    /// Where it can't.
    pub(crate) async fn release(&self, bucket: &str, folder: &str) -> Result<(), StorageError> {
        match self {
            Self::Own(own) => own.release(bucket, folder).await,
            Self::S3(s3) => s3.release(bucket, folder).await,
            Self::Folder(root) => root.release(bucket, folder).await,
        }
    }
}

// === impl Calls ===

impl Calls {
    pub(crate) fn new() -> Self {
        Self {
            room: Arc::new(Semaphore::new(MAX_CALLS)),
            announcing: Arc::default(),
            verifying: s3::agent(true),
            trusting: s3::agent(false),
        }
    }

    /// Does what blocks on a thread of its own, when there is room. It goes on to its end where its
    /// caller leaves; how long it takes at most is its own matter.
    async fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let room = Arc::clone(&self.room).acquire_owned().await;
        let room = room.map_err(|_| StorageError::new(Trouble::Away, "the gateway stops"))?;
        let work = tokio::task::spawn_blocking(move || {
            let _room = room;
            work()
        });
        work.await
            .unwrap_or_else(|error| Err(StorageError::definite(error.to_string())))
    }
}

// === impl StorageError ===

impl StorageError {
    pub(crate) fn new(kind: Trouble, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// It will go wrong again.
    pub(crate) fn definite(message: impl Into<String>) -> Self {
        Self::new(Trouble::Lasting, message)
    }

    /// Whether it may be possible later.
    pub(crate) fn is_transient(&self) -> bool {
        self.kind != Trouble::Lasting
    }

    fn gone(wanted: &Wanted) -> Self {
        let (bucket, key) = (excerpt(&wanted.bucket), excerpt(&wanted.key));
        Self::definite(format!("`{key}` is not in the bucket `{bucket}` any more"))
    }

    fn too_large(wanted: &Wanted, size: Option<u64>, limit: u64) -> Self {
        let key = excerpt(&wanted.key);
        let size = size.map_or("more".to_owned(), |size| size.to_string());
        Self::definite(format!(
            "`{key}` has {size} bytes, expected at most {limit}"
        ))
    }
}

impl From<StorageError> for InferError {
    fn from(error: StorageError) -> Self {
        match error.is_transient() {
            true => Self::new(Code::Unavailable, error.message),
            false => Self::invalid(error.message),
        }
    }
}

/// A file that an object was to go into.
fn not_kept(file: &Path, error: &io::Error) -> StorageError {
    StorageError::definite(format!("{} can't be written: {error}", file.display()))
}

/// Returns what an error repeats of a text.
fn excerpt(text: &str) -> &str {
    let end = text.floor_char_boundary(200);
    text.get(..end).unwrap_or_default()
}
