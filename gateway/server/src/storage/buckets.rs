//! Buckets themselves: which there are, what their tags say, and that they come and go.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_objects::{Error, ListQuery, Store};
use workers_protocol::{Code, InferError};

use super::{Page, Storage};

/// What is said of a bucket.
pub(crate) type Tags = BTreeMap<String, String>;

/// Says in the tags of a bucket, by `true`, that a service made it.
pub(crate) const SERVICE_TAG: &str = "service";
/// Which one, as OSCAR has it.
pub(crate) const FROM_SERVICE_TAG: &str = "from_service";

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) name: String,
    pub(crate) tags: Tags,
}

/// Which objects of a bucket are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// What keys begin with.
    pub(crate) prefix: String,
    /// Begin behind this key.
    pub(crate) after: Option<String>,
    /// At most [`super::PAGE`].
    pub(crate) max: usize,
}

/// Returns the tags of a bucket that a service makes.
pub(super) fn tags_of(service: &str) -> Tags {
    [(SERVICE_TAG, "true"), (FROM_SERVICE_TAG, service)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

impl Storage {
    /// Returns all buckets, by name.
    ///
    /// # Errors
    /// Where they can't be listed.
    pub(crate) async fn buckets(&self) -> Result<Vec<Bucket>, InferError> {
        match self {
            Self::Own(own) => {
                let buckets = own.store.buckets().await.map_err(failure)?;
                Ok(buckets.into_iter().map(Bucket::from).collect())
            }
            Self::S3(s3) => s3.buckets().await,
            Self::Folder(_) => Err(no_buckets()),
        }
    }

    /// Returns a bucket.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) async fn bucket(&self, name: &str) -> Result<Bucket, InferError> {
        match self {
            Self::Own(own) => Ok(own.store.bucket(name).await.map_err(failure)?.into()),
            Self::S3(s3) => s3.bucket(name).await,
            Self::Folder(_) => Err(no_buckets()),
        }
    }

    /// Makes a bucket, and returns whether its tags are kept: not everybody has such.
    ///
    /// # Errors
    /// `InvalidArgument` of a name that can't be one, or is taken.
    pub(crate) async fn create_bucket(&self, name: &str, tags: Tags) -> Result<bool, InferError> {
        match self {
            Self::Own(own) => {
                let created = own.store.create_bucket_with(name, tags).await;
                created.map(|()| true).map_err(failure)
            }
            Self::S3(s3) => s3.create_bucket(name, tags).await,
            Self::Folder(_) => Err(no_buckets()),
        }
    }

    /// Gives a bucket other tags.
    ///
    /// # Errors
    /// `NotFound`; `Unimplemented` where buckets have none.
    pub(crate) async fn set_tags(&self, name: &str, tags: Tags) -> Result<(), InferError> {
        match self {
            Self::Own(own) => own.store.set_tags(name, tags).await.map_err(failure),
            Self::S3(s3) => s3.set_tags(name, tags).await,
            Self::Folder(_) => Err(no_buckets()),
        }
    }

    /// Deletes a bucket with all that is in it.
    ///
    /// # Errors
    /// `NotFound`; where something in it can't be deleted, what was before is gone.
    pub(crate) async fn delete_bucket(&self, name: &str) -> Result<(), InferError> {
        match self {
            Self::Own(own) => empty(&own.store, name).await.map_err(failure),
            Self::S3(s3) => s3.delete_bucket(name).await,
            Self::Folder(_) => Err(no_buckets()),
        }
    }

    /// Lists objects of a bucket, in the order of their keys.
    ///
    /// # Errors
    /// Where they can't be listed.
    pub(crate) async fn select(
        &self,
        bucket: &str,
        selection: Selection,
    ) -> Result<Page, InferError> {
        match self {
            Self::Own(own) => Ok(own.select(bucket, selection).await?),
            Self::S3(s3) => Ok(s3.select(bucket, selection).await?),
            Self::Folder(_) => Err(no_buckets()),
        }
    }
}

async fn empty(store: &Arc<Store>, bucket: &str) -> Result<(), Error> {
    let query = ListQuery {
        max: super::PAGE,
        ..ListQuery::default()
    };
    loop {
        match store.delete_bucket(bucket).await {
            Err(Error::BucketNotEmpty(_)) => {}
            result => return result,
        }
        let listing = store.list(bucket, &query).await?;
        let keys = listing.objects.into_iter().map(|object| object.key);
        store.delete_all(bucket, keys.collect()).await?;
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` has it")]
fn failure(error: Error) -> InferError {
    let code = match &error {
        Error::NoSuchBucket(_) | Error::NoSuchKey { .. } => Code::NotFound,
        Error::InvalidBucketName(_) | Error::AttributesTooLarge { .. } => Code::InvalidArgument,
        // OSCAR's status of it.
        Error::BucketExists(_) => Code::InvalidArgument,
        Error::TooMany { .. } => Code::PermissionDenied,
        _ => Code::Internal,
    };
    InferError::new(code, error.to_string())
}

fn no_buckets() -> InferError {
    InferError::new(Code::Unimplemented, "a folder has no buckets to manage")
}

impl From<gateway_objects::Bucket> for Bucket {
    fn from(bucket: gateway_objects::Bucket) -> Self {
        Self {
            name: bucket.name,
            tags: bucket.tags,
        }
    }
}
