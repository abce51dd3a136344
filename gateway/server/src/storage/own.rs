//! The gateway's own store, in the data folder.
//!
//! What is written here is announced here: nobody else does. Where that fails after an object is there,
//! the next attempt finds the object and announces it again; who hears of it knows objects apart.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use gateway_objects::{Error, ListQuery, NewObject as Put, Object, Store, Watcher};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::buckets::{Selection, tags_of};
use super::{Content, Head, NewObject, Page, StorageError, Trouble, Wanted, not_kept};

/// Bytes of a file that are in memory at a time on their way to the store.
const PART: usize = 256 << 10;

/// The store, and who hears of new objects.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) store: Arc<Store>,
    pub(crate) watcher: Arc<dyn Watcher>,
}

impl Own {
    pub(super) async fn head(&self, bucket: &str, key: &str) -> Result<Option<Head>, StorageError> {
        match self.store.head(bucket, key).await {
            Ok(object) => Ok(Some(object.into())),
            Err(Error::NoSuchKey { .. } | Error::NoSuchBucket(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn read(
        &self,
        wanted: Wanted,
        limit: u64,
    ) -> Result<(Head, Bytes), StorageError> {
        let (head, mut file) = self.open(&wanted, limit).await?;
        let mut bytes = Vec::with_capacity(usize::try_from(head.size).unwrap_or(0));
        let read = file.read_to_end(&mut bytes).await;
        read.map_err(|error| StorageError::from(Error::Io(error)))?;
        Ok((head, bytes.into()))
    }

    pub(super) async fn download(
        &self,
        wanted: Wanted,
        limit: u64,
        to: &Path,
    ) -> Result<Head, StorageError> {
        let (head, mut file) = self.open(&wanted, limit).await?;
        let failed = |error| not_kept(to, &error);
        let mut copy = File::create_new(to).await.map_err(failed)?;
        tokio::io::copy(&mut file, &mut copy)
            .await
            .map_err(failed)?;
        copy.sync_data().await.map_err(failed)?;
        Ok(head)
    }

    /// Opens an object of at most so many bytes; what is put over it meanwhile does not change these.
    async fn open(&self, wanted: &Wanted, limit: u64) -> Result<(Head, File), StorageError> {
        let (object, file) = match self.store.get(&wanted.bucket, &wanted.key).await {
            Ok(found) => found,
            Err(Error::NoSuchKey { .. } | Error::NoSuchBucket(_)) => {
                return Err(StorageError::gone(wanted));
            }
            Err(error) => return Err(error.into()),
        };
        match object.size > limit {
            true => Err(StorageError::too_large(wanted, Some(object.size), limit)),
            false => Ok((object.into(), file)),
        }
    }

    pub(super) async fn write(&self, new: NewObject<'_>) -> Result<(), StorageError> {
        let metadata = new.metadata.iter();
        let put = Put {
            content_type: new.media.to_owned(),
            metadata: metadata
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Put::default()
        };
        let object = match new.content {
            Content::Bytes(bytes) => {
                let body = stream::once(std::future::ready(Ok::<_, std::io::Error>(bytes)));
                self.store.put(new.bucket, new.key, put, body).await?
            }
            Content::File(file) => {
                let body = parts(File::from_std(file));
                self.store
                    .put(new.bucket, new.key, put, body.boxed())
                    .await?
            }
        };
        self.tell(&object).await
    }

    /// Tells of an object that is there.
    pub(super) async fn tell_again(&self, bucket: &str, key: &str) -> Result<(), StorageError> {
        let object = self.store.head(bucket, key).await?;
        self.tell(&object).await
    }

    async fn tell(&self, object: &Object) -> Result<(), StorageError> {
        let told = self.watcher.created(object).await;
        told.map_err(|why| StorageError::new(Trouble::Passing, why))
    }

    pub(super) async fn select(
        &self,
        bucket: &str,
        selection: Selection,
    ) -> Result<Page, StorageError> {
        let query = ListQuery {
            prefix: selection.prefix,
            after: selection.after,
            delimiter: None,
            max: selection.max,
        };
        let listing = self.store.list(bucket, &query).await?;
        Ok(Page {
            objects: listing.objects.into_iter().map(Head::from).collect(),
            next: listing.next,
        })
    }

    pub(super) async fn prepare(
        &self,
        bucket: &str,
        folder: &str,
        service: &str,
    ) -> Result<(), StorageError> {
        let tags = tags_of(service);
        match self.store.create_bucket_with(bucket, tags).await {
            Ok(()) | Err(Error::BucketExists(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let marker = format!("{folder}/");
        if folder.is_empty() || self.head(bucket, &marker).await?.is_some() {
            return Ok(());
        }
        // As OSCAR makes folders, which so can be seen in its clients.
        let nothing = stream::empty::<Result<Bytes, std::io::Error>>();
        self.store
            .put(bucket, &marker, Put::default(), nothing)
            .await?;
        Ok(())
    }

    pub(super) async fn release(&self, bucket: &str, folder: &str) -> Result<(), StorageError> {
        if !folder.is_empty() {
            match self.store.delete(bucket, &format!("{folder}/")).await {
                Ok(_) | Err(Error::NoSuchBucket(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match self.store.delete_bucket(bucket).await {
            Ok(()) | Err(Error::NoSuchBucket(_) | Error::BucketNotEmpty(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns a file's bytes, from its beginning.
fn parts(file: File) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold((file, true), |(mut file, is_first)| async move {
        if is_first {
            file.rewind().await?;
        }
        let mut part = Vec::with_capacity(PART);
        (&mut file).take(PART as u64).read_to_end(&mut part).await?;
        Ok((!part.is_empty()).then(|| (Bytes::from(part), (file, false))))
    })
}

impl From<Object> for Head {
    fn from(object: Object) -> Self {
        Self {
            key: object.key,
            size: object.size,
            etag: object.etag,
            modified: object.modified,
            version: None,
            metadata: object.metadata,
        }
    }
}

impl From<Error> for StorageError {
    fn from(error: Error) -> Self {
        let kind = match error {
            // A disk that is full does not empty itself.
            Error::Full => Trouble::Lasting,
            Error::Closed => Trouble::Away,
            ref error if error.is_transient() => Trouble::Passing,
            _ => Trouble::Lasting,
        };
        Self::new(kind, format!("minio.default: {error}"))
    }
}
