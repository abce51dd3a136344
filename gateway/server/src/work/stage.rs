//! Objects on their way to a service: only those in its own inputs, and only as they were announced.

use std::path::Path;

use bytes::Bytes;
use gateway_oscar::{Service as Definition, StorageIo, StorageReference};
use gateway_script::{Object, Source as EventSource};
use workers_protocol::InferError;

use super::{Identity, ObjectRef};
use crate::budget::Reservation;
use crate::rest::Front;
use crate::storage::{Head, Storage, StorageError, Wanted};

/// An object that a service is to work on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    /// Of an input of the service.
    pub(crate) reference: StorageReference<'a>,
    pub(crate) bucket: &'a str,
    pub(crate) key: &'a str,
    /// Relative to the folder of that input.
    pub(crate) name: &'a str,
    /// Which state of it was announced, where that is known.
    pub(crate) identity: Option<&'a Identity>,
    /// Its bytes, as far as is known.
    pub(crate) size: u64,
}

/// What was fetched.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    /// Room for them.
    pub(crate) reservation: Reservation,
}

/// Why there is nothing to work on.
#[derive(Debug)]
pub(crate) enum Unfetched {
    /// There is no room for it now.
    NoRoom(InferError),
    Storage(StorageError),
}

impl<'a> Source<'a> {
    /// Returns an object that is in an input of a service, at a provider that is meant: nobody reaches
    /// through a service what it does not read itself.
    ///
    /// # Errors
    /// Where there is no such input.
    pub(crate) fn find(
        definition: &'a Definition,
        is_meant: impl Fn(StorageReference<'_>) -> bool,
        bucket: &'a str,
        key: &'a str,
    ) -> Result<Self, StorageError> {
        let mut inputs = definition.input.iter();
        let found = inputs.find_map(|input| {
            let reference = input.reference();
            let name = relative(definition, input, bucket, key).filter(|_| is_meant(reference))?;
            Some(Self {
                reference,
                bucket,
                key,
                name,
                identity: None,
                size: 0,
            })
        });
        found.ok_or_else(|| {
            StorageError::definite(format!(
                "`{key}` in the bucket `{bucket}` is in no input of the service `{}`",
                definition.name
            ))
        })
    }

    /// Returns the object that a job is about.
    ///
    /// # Errors
    /// Where it is in no input any more.
    pub(crate) fn of_job(
        definition: &'a Definition,
        object: &'a ObjectRef,
    ) -> Result<Self, StorageError> {
        let announced = StorageReference::parse(&object.provider);
        let is_meant = |input: StorageReference<'_>| input == announced;
        let found = Self::find(definition, is_meant, &object.bucket, &object.key)?;
        Ok(Self {
            identity: Some(&object.identity),
            size: object.size,
            ..found
        })
    }

    /// Returns the object that somebody has posted an event about; nothing where its provider is of a
    /// type that can't be used yet.
    ///
    /// # Errors
    /// Where it is in no input of the service.
    pub(crate) fn posted(
        definition: &'a Definition,
        object: &'a Object,
    ) -> Result<Option<Self>, StorageError> {
        let types: &[&str] = match object.source {
            EventSource::Minio => &["minio"],
            // What speaks as Amazon does says that it is Amazon.
            EventSource::S3 => &["s3", "minio"],
            EventSource::Dcache | EventSource::Rucio | EventSource::Onedata => {
                return Ok(None);
            }
        };
        let is_meant = |input: StorageReference<'_>| types.contains(&input.provider);
        Self::find(definition, is_meant, &object.bucket, &object.key).map(Some)
    }

    /// Writes it to a file that is made for it, of at most so many bytes.
    ///
    /// # Errors
    /// As [`Source::fetch`]; then the file may be there in part.
    pub(crate) async fn download(
        self,
        front: &Front,
        definition: &Definition,
        limit: u64,
        to: &Path,
    ) -> Result<(), StorageError> {
        let storage = self.storage(front, definition)?;
        let head = storage.download(self.wanted(), limit, to).await?;
        self.check(&head)
    }

    /// Reads it into memory.
    ///
    /// # Errors
    /// Where it can't be read, is larger than a request may be, or is not what was announced.
    pub(crate) async fn fetch(
        self,
        front: &Front,
        definition: &Definition,
    ) -> Result<Fetched, Unfetched> {
        let storage = self.storage(front, definition)?;
        let limit = front.limits.max_body;
        let mut reservation = front.budget.reservation();
        let expected = self.size.min(limit);
        reservation.grow(expected).map_err(Unfetched::NoRoom)?;
        let (head, bytes) = storage.read(self.wanted(), limit).await?;
        self.check(&head)?;
        // Whoever announced it may not have known how large it is.
        let missing = head.size.saturating_sub(expected);
        reservation.grow(missing).map_err(Unfetched::NoRoom)?;
        Ok(Fetched { bytes, reservation })
    }

    fn storage(self, front: &Front, definition: &Definition) -> Result<Storage, StorageError> {
        let storage = front.providers.of(definition, self.reference)?;
        storage
            .ok_or_else(|| StorageError::definite(format!("{} can't be used yet", self.reference)))
    }

    fn wanted(self) -> Wanted {
        Wanted {
            bucket: self.bucket.to_owned(),
            key: self.key.to_owned(),
            version: self.identity.and_then(Identity::version).map(str::to_owned),
        }
    }

    /// Checks that what was read is what was announced.
    fn check(self, head: &Head) -> Result<(), StorageError> {
        match self.identity {
            Some(announced) if !announced.is_of(head) => Err(StorageError::definite(format!(
                "`{}` changed since it was announced: what is there now is another job's",
                self.key
            ))),
            _ => Ok(()),
        }
    }
}

/// Returns a key relative to the folder of an input, if it is in there.
fn relative<'a>(
    definition: &Definition,
    input: &StorageIo,
    bucket: &str,
    key: &'a str,
) -> Option<&'a str> {
    let path = input.bucket_path(&definition.name).ok()?;
    let rest = match path.folder.as_str() {
        "" => key,
        folder => key.strip_prefix(folder)?.strip_prefix('/')?,
    };
    (path.bucket == bucket && !rest.is_empty()).then_some(rest)
}

impl From<StorageError> for Unfetched {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}
