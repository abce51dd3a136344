//! Buckets of an account: their list, their tags, and that they come and go.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::{Method, Response, StatusCode};
use sha2::{Digest as _, Sha256};
use ureq::Body;
use workers_protocol::{Code, InferError};

use super::xml::{self, Version};
use super::{Call, Payload, S3, Said};
use crate::storage::buckets::{Bucket, Tags};

/// Buckets that are asked for their tags at a time.
const ASKED: usize = 8;

impl S3 {
    pub(in crate::storage) async fn buckets(self: &Arc<Self>) -> Result<Vec<Bucket>, InferError> {
        let buckets = self
            .bucket_call(|this| {
                let call = Call::default();
                let response = this.send(call)?;
                if !response.status().is_success() {
                    return Err(this.refused("listing the buckets", "", response));
                }
                let text = this.text(response)?;
                Ok(xml::buckets(&text).map_err(|reason| this.nonsense(&reason))?)
            })
            .await?;
        let with_tags = |name: String| async move {
            match self.bucket(&name).await {
                // It went meanwhile.
                Err(error) if error.code == Code::NotFound => Ok(None),
                Err(error) if error.code == Code::Unavailable => Err(error),
                // One whose tags are kept from us is there all the same.
                Err(_) => Ok(Some(Bucket {
                    name,
                    tags: Tags::new(),
                })),
                Ok(bucket) => Ok(Some(bucket)),
            }
        };
        let buckets = stream::iter(buckets).map(|bucket| with_tags(bucket.name));
        let mut buckets: Vec<_> = buckets
            .buffered(ASKED)
            .try_filter_map(async |bucket| Ok(bucket))
            .try_collect()
            .await?;
        buckets.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(buckets)
    }

    pub(in crate::storage) async fn bucket(
        self: &Arc<Self>,
        name: &str,
    ) -> Result<Bucket, InferError> {
        let name = name.to_owned();
        self.bucket_call(move |this| {
            let tags = this.tags(&name)?;
            Ok(Bucket { name, tags })
        })
        .await
    }

    pub(in crate::storage) async fn create_bucket(
        self: &Arc<Self>,
        name: &str,
        tags: Tags,
    ) -> Result<bool, InferError> {
        let name = name.to_owned();
        self.bucket_call(move |this| {
            if !this.make_bucket(&name)? {
                return Err(InferError::invalid(format!(
                    "bucket {name:?} is there already"
                )));
            }
            match this.put_tags(&name, &tags) {
                Err(error) if error.code == Code::Unimplemented => Ok(false),
                Err(error) => {
                    // It is made with its tags or not at all.
                    let _ = this.remove_bucket(&name);
                    Err(error)
                }
                Ok(()) => Ok(true),
            }
        })
        .await
    }

    pub(in crate::storage) async fn set_tags(
        self: &Arc<Self>,
        name: &str,
        tags: Tags,
    ) -> Result<(), InferError> {
        let name = name.to_owned();
        self.bucket_call(move |this| this.put_tags(&name, &tags))
            .await
    }

    pub(in crate::storage) async fn delete_bucket(
        self: &Arc<Self>,
        name: &str,
    ) -> Result<(), InferError> {
        loop {
            let bucket = name.to_owned();
            let is_gone = self
                .bucket_call(move |this| {
                    if this.remove_bucket(&bucket)? {
                        return Ok(true);
                    }
                    let versions = this.versions(&bucket)?;
                    if versions.is_empty() {
                        let message = format!(
                            "{}: bucket {bucket:?} is not empty, and nothing is listed in it",
                            this.name
                        );
                        return Err(InferError::invalid(message));
                    }
                    this.delete_versions(&bucket, &versions)?;
                    Ok(false)
                })
                .await?;
            if is_gone {
                return Ok(());
            }
        }
    }

    async fn bucket_call<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, InferError> + Send + 'static,
    ) -> Result<T, InferError> {
        self.block(move |this| Ok(work(this))).await?
    }

    // === blocking ===

    /// Returns the tags of a bucket; of one that can't have any, none.
    fn tags(&self, bucket: &str) -> Result<Tags, InferError> {
        let call = Call {
            bucket,
            query: vec![("tagging", String::new())],
            ..Call::default()
        };
        let response = self.send(call)?;
        if response.status().is_success() {
            let text = self.text(response)?;
            return Ok(xml::tags(&text).map_err(|reason| self.nonsense(&reason))?);
        }
        let said = Said::of(response);
        match said.code.as_str() {
            // MinIO says so of buckets that are not there as well.
            "NoSuchTagSet" | "NotImplemented" => match self.has_bucket(bucket)? {
                true => Ok(Tags::new()),
                false => Err(not_found(bucket)),
            },
            _ => Err(self.failed("asking for the tags of", bucket, &said)),
        }
    }

    /// Gives a bucket other tags.
    pub(super) fn put_tags(&self, bucket: &str, tags: &Tags) -> Result<(), InferError> {
        let call = Call {
            method: Method::PUT,
            bucket,
            query: vec![("tagging", String::new())],
            ..checked(xml::tagging(tags.iter()))
        };
        match self.send(call)? {
            response if response.status().is_success() => Ok(()),
            response => Err(self.refused("changing the tags of", bucket, response)),
        }
    }

    /// Removes an empty bucket, and returns whether it was one.
    fn remove_bucket(&self, bucket: &str) -> Result<bool, InferError> {
        let call = Call {
            method: Method::DELETE,
            bucket,
            ..Call::default()
        };
        match self.send(call)? {
            response if response.status().is_success() => Ok(true),
            response if response.status() == StatusCode::CONFLICT => Ok(false),
            response => Err(self.refused("deleting", bucket, response)),
        }
    }

    /// Returns some of what is in a bucket, with all versions that it keeps.
    fn versions(&self, bucket: &str) -> Result<Vec<Version>, InferError> {
        let list = |query: (&'static str, String)| {
            let call = Call {
                bucket,
                query: vec![("encoding-type", "url".to_owned()), query],
                ..Call::default()
            };
            self.send(call)
        };
        let mut response = list(("versions", String::new()))?;
        if response.status() == StatusCode::NOT_IMPLEMENTED {
            response = list(("list-type", "2".to_owned()))?;
        }
        if !response.status().is_success() {
            return Err(self.refused("listing", bucket, response));
        }
        let text = self.text(response)?;
        Ok(xml::versions(&text).map_err(|reason| self.nonsense(&reason))?)
    }

    fn delete_versions(&self, bucket: &str, versions: &[Version]) -> Result<(), InferError> {
        // What XML has no way to write is named in a path.
        let (written, others): (Vec<_>, Vec<_>) = versions
            .iter()
            .partition(|version| !version.key.contains(is_unwritable));
        for version in others {
            let call = Call {
                method: Method::DELETE,
                bucket,
                key: &version.key,
                query: version
                    .id
                    .iter()
                    .map(|id| ("versionId", id.clone()))
                    .collect(),
                ..Call::default()
            };
            let response = self.send(call)?;
            if !response.status().is_success() {
                return Err(self.refused("deleting what is in", bucket, response));
            }
        }
        if written.is_empty() {
            return Ok(());
        }
        let call = Call {
            method: Method::POST,
            bucket,
            query: vec![("delete", String::new())],
            ..checked(xml::deletion(&written))
        };
        let response = self.send(call)?;
        if !response.status().is_success() {
            return Err(self.refused("deleting what is in", bucket, response));
        }
        let text = self.text(response)?;
        match xml::undeleted(&text).map_err(|reason| self.nonsense(&reason))? {
            None => Ok(()),
            Some(why) => Err(InferError::invalid(format!(
                "{}: not all of `{bucket}` can be deleted: {why}",
                self.name
            ))),
        }
    }

    // === errors ===

    fn refused(&self, doing: &str, bucket: &str, response: Response<Body>) -> InferError {
        self.failed(doing, bucket, &Said::of(response))
    }

    fn failed(&self, doing: &str, bucket: &str, said: &Said) -> InferError {
        let error = self.said(doing, bucket, "", said);
        let code = match (said.code.as_str(), said.status) {
            ("NoSuchBucket", _) => return not_found(bucket),
            ("NotImplemented", _) => Code::Unimplemented,
            (_, StatusCode::FORBIDDEN) => Code::PermissionDenied,
            _ => return error.into(),
        };
        InferError::new(code, error.message)
    }
}

/// Returns a call with a body and the checksum that S3 wants of it.
fn checked(body: String) -> Call<'static> {
    let digest = BASE64_STANDARD.encode(Sha256::digest(&body));
    Call {
        headers: vec![
            ("x-amz-checksum-sha256".to_owned(), digest),
            (
                "x-amz-sdk-checksum-algorithm".to_owned(),
                "SHA256".to_owned(),
            ),
        ],
        payload: Payload::Bytes(Bytes::from(body)),
        ..Call::default()
    }
}

fn not_found(bucket: &str) -> InferError {
    let bucket = super::excerpt(bucket);
    InferError::new(Code::NotFound, format!("there is no bucket {bucket:?}"))
}

/// Whether XML has no way to write a character, or a parser of it makes another of it.
fn is_unwritable(char: char) -> bool {
    char.is_control() || matches!(char, '\u{FFFE}' | '\u{FFFF}')
}
