//! The store: what there is, and changing it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;

use crate::Error;
use crate::blob::{Blobs, Digest, Staged, blocking};
use crate::checksum::{Algorithm, hex};
use crate::index::Index;
use crate::object::{
    Bucket, Condition, Counts, ListQuery, Listing, NewObject, Object, check_bucket, check_key,
    check_tags,
};
use crate::rows::{self, Found, NewRow};

/// Largest body of one request, in bytes; S3's.
pub const MAX_PUT_BYTES: u64 = 5 << 30;
/// Most buckets; S3's.
const MAX_BUCKETS: usize = 10_000;
/// How often an object is looked up again that was replaced between its lookup and its opening.
const MAX_LOOKUPS: usize = 8;

/// Objects in buckets, in a folder that this process has alone.
///
/// What a change has returned is durable, and what has not been is not there or there whole.
#[derive(Debug)]
pub struct Store {
    pub(crate) index: Index,
    pub(crate) blobs: Blobs,
}

impl Store {
    /// Opens the store of a folder, which is made if it is not there, and removes what was left of
    /// objects that were not put to their end. Blocks.
    ///
    /// # Errors
    /// When it can't be opened, or a newer Hearth wrote it.
    pub fn open(folder: &Path) -> Result<Arc<Self>, Error> {
        std::fs::create_dir_all(folder)?;
        let blobs = Blobs::open(folder.join("blobs"))?;
        let path = folder.join("objects.db");
        let index = Index::open(&path, blobs.clone())?;
        // Objects are nobody's who can't read the gateway's data.
        std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        blobs.sweep(&rows::blobs(&rusqlite::Connection::open(path)?)?)?;
        Ok(Arc::new(Self { index, blobs }))
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// [`Error::BucketExists`], [`Error::InvalidBucketName`], [`Error::TooMany`].
    pub async fn create_bucket(&self, bucket: &str) -> Result<(), Error> {
        self.create_bucket_with(bucket, BTreeMap::new()).await
    }

    /// Makes a bucket that has these tags from its beginning.
    ///
    /// # Errors
    /// As [`Store::create_bucket`].
    pub async fn create_bucket_with(
        &self,
        bucket: &str,
        tags: BTreeMap<String, String>,
    ) -> Result<(), Error> {
        check_bucket(bucket)?;
        check_tags(&tags)?;
        let bucket = bucket.to_owned();
        self.index
            .change(move |index, _| rows::create_bucket(index, &bucket, &tags, MAX_BUCKETS))
            .await
    }

    /// Gives a bucket other tags.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`], [`Error::AttributesTooLarge`].
    pub async fn set_tags(
        &self,
        bucket: &str,
        tags: BTreeMap<String, String>,
    ) -> Result<(), Error> {
        check_tags(&tags)?;
        let bucket = bucket.to_owned();
        self.index
            .change(move |index, _| rows::set_tags(index, &bucket, &tags))
            .await
    }

    /// Removes an empty bucket, and what was uploaded to it in part.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`], [`Error::BucketNotEmpty`].
    pub async fn delete_bucket(&self, bucket: &str) -> Result<(), Error> {
        let bucket = bucket.to_owned();
        self.index
            .change(move |index, garbage| rows::delete_bucket(index, &bucket, garbage))
            .await
    }

    /// Returns all buckets, by name.
    pub async fn buckets(&self) -> Result<Vec<Bucket>, Error> {
        self.index.read(rows::buckets).await
    }

    /// Returns a bucket.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`].
    pub async fn bucket(&self, bucket: &str) -> Result<Bucket, Error> {
        let name = bucket.to_owned();
        self.index
            .read(move |index| rows::bucket(index, &name))
            .await
    }

    /// Returns how much there is; counts all objects.
    pub async fn counts(&self) -> Result<Counts, Error> {
        self.index.read(rows::counts).await
    }

    /// Returns what is known of an object.
    ///
    /// # Errors
    /// [`Error::NoSuchKey`], [`Error::NoSuchBucket`].
    pub async fn head(&self, bucket: &str, key: &str) -> Result<Object, Error> {
        Ok(self.find(bucket, key).await?.object)
    }

    /// Returns an object and its bytes, which stay as they are while somebody reads them.
    ///
    /// # Errors
    /// As [`Store::head`].
    pub async fn get(&self, bucket: &str, key: &str) -> Result<(Object, tokio::fs::File), Error> {
        let mut lookups = 1..MAX_LOOKUPS;
        loop {
            let Found { object, blob } = self.find(bucket, key).await?;
            match self.blobs.read(blob).await {
                Ok(file) => return Ok((object, file)),
                // Replaced between the two.
                Err(error) if is_gone(&error) && lookups.next().is_some() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Puts an object, in the place of one that was there.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`], [`Error::InvalidKey`], [`Error::TooLarge`], [`Error::Body`] where the
    /// body fails, [`Error::PreconditionFailed`].
    pub async fn put<S, E>(
        &self,
        bucket: &str,
        key: &str,
        new: NewObject,
        body: S,
    ) -> Result<Object, Error>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        check_key(key)?;
        self.bucket(bucket).await?;
        let (staged, digest) = self.stage(body, None).await?;
        self.commit(bucket, key, new, staged, digest).await
    }

    /// Copies an object, without its bytes being copied; the new one says what is made of the old
    /// one.
    ///
    /// # Errors
    /// Of the source as [`Store::head`], of the copy as [`Store::put`], and those of `describe`.
    pub async fn copy(
        &self,
        (from_bucket, from_key): (&str, &str),
        (bucket, key): (&str, &str),
        describe: impl Fn(&Object) -> Result<NewObject, Error>,
    ) -> Result<Object, Error> {
        check_key(key)?;
        let mut lookups = 1..MAX_LOOKUPS;
        let (object, new, staged) = loop {
            let Found { object, blob } = self.find(from_bucket, from_key).await?;
            let new = describe(&object)?;
            let blobs = self.blobs.clone();
            match blocking(move || blobs.link(blob)).await {
                Ok(staged) => break (object, new, staged),
                // Replaced between the two.
                Err(Error::Io(error)) if is_gone(&error) && lookups.next().is_some() => {}
                Err(error) => return Err(error),
            }
        };
        let row = NewRow {
            blob: staged.name(),
            size: staged.size,
            etag: object.etag,
            attributes: new.attributes()?,
            checksum: object.checksum,
        };
        self.commit_row(bucket, key, new.condition, row, staged)
            .await
    }

    /// Deletes an object; says whether there was one.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`].
    pub async fn delete(&self, bucket: &str, key: &str) -> Result<bool, Error> {
        self.delete_if(bucket, key, Condition::None).await
    }

    /// Deletes an object as it is expected to be; says whether there was one.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`], [`Error::PreconditionFailed`].
    pub async fn delete_if(
        &self,
        bucket: &str,
        key: &str,
        condition: Condition,
    ) -> Result<bool, Error> {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        self.index
            .change(move |index, garbage| rows::delete(index, &bucket, &key, &condition, garbage))
            .await
    }

    /// Deletes the objects of these keys that are there, all or none of them.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`].
    pub async fn delete_all(&self, bucket: &str, keys: Vec<String>) -> Result<(), Error> {
        let bucket = bucket.to_owned();
        self.index
            .change(move |index, garbage| {
                rows::bucket_id(index, &bucket)?;
                for key in &keys {
                    rows::delete(index, &bucket, key, &Condition::None, garbage)?;
                }
                Ok(())
            })
            .await
    }

    /// Lists objects, by key as bytes.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`].
    pub async fn list(&self, bucket: &str, query: &ListQuery) -> Result<Listing, Error> {
        let (bucket, query) = (bucket.to_owned(), query.clone());
        self.index
            .read(move |index| rows::list(index, &bucket, &query))
            .await
    }

    // === in steps ===

    /// Writes a body to the disk, for an object or a part. Cancel-safe: what is not committed goes.
    pub(crate) async fn stage<S, E>(
        &self,
        body: S,
        algorithm: Option<Algorithm>,
    ) -> Result<(Staged, Digest), Error>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.blobs.write(body, MAX_PUT_BYTES, algorithm).await
    }

    /// Makes an object of what is on the disk.
    pub(crate) async fn commit(
        &self,
        bucket: &str,
        key: &str,
        new: NewObject,
        staged: Staged,
        digest: Digest,
    ) -> Result<Object, Error> {
        let row = NewRow {
            blob: staged.name(),
            size: staged.size,
            etag: hex(&digest.md5),
            attributes: new.attributes()?,
            checksum: digest.checksum,
        };
        self.commit_row(bucket, key, new.condition, row, staged)
            .await
    }

    async fn commit_row(
        &self,
        bucket: &str,
        key: &str,
        condition: Condition,
        row: NewRow,
        staged: Staged,
    ) -> Result<Object, Error> {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        self.index
            .change(move |index, garbage| {
                let object = rows::put(index, &bucket, &key, &condition, row, garbage)?;
                staged.keep();
                Ok(object)
            })
            .await
    }

    async fn find(&self, bucket: &str, key: &str) -> Result<Found, Error> {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        self.index
            .read(move |index| rows::find(index, &bucket, &key))
            .await
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}
